/* The video page: player, boxes over the picture, this moment's panel, keys and edits; in step without the server. */
(function () {
  "use strict";
  const mfer = window.mfer;
  const CONTROLS = { curves: "curve-options", show: "show-options", overlay: "overlay-options" };
  const CHUNK_S = 10, FRAME_SLACK_S = 0.004, OFFSET_SLACK_S = 0.25, MAX_PANELS = 6, TAG_PX = 20, ADDRESS_MS = 300;
  let page = null;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const byId = (id) => document.getElementById(id);

  class VideoPage {
    constructor(facts) {
      this.facts = { ...facts, colours: { ...facts.colours, ...mfer.choices().colours } };
      this.drawnFacts = facts;
      this.chunks = new Map();
      this.overlay = [];
      this.excludeFrom = null;
      this.video = byId("player");
      this.offset = 0; // currentTime of the page's time 0
      this.canvas = byId("overlay");
      this.timeline = new mfer.Timeline(this.facts, (s) => this.seek(s), (a, b) => this.zoomed(a, b));
      if (facts.may_play) this.wirePlayer();
      else if (facts.is_picture) this.showStills("");
      else this.showStills(`This is video stream ${facts.stream} of ${facts.n_streams} in the file, and browsers may play another one: single frames are shown.`);
      this.zoomed(0, facts.duration_s);
      this.refreshEdits();
      listVideos(facts.video_id).catch((error) => this.say(error.message));
      const start = parseFloat(new URLSearchParams(window.location.search).get("t"));
      if (start) this.seek(start);
      this.update();
    }

    get stem() { return this.facts.title.replace(/\.[^.]*$/, ""); } // what downloads are called after

    get alive() { return document.body.contains(this.canvas); }

    /* -- player ------------------------------------------------------------------------------------------------ */

    wirePlayer() {
      const video = this.video, again = () => this.update();
      video.addEventListener("loadeddata", () => this.opened());
      if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) this.opened();
      ["seeked", "loadeddata", "pause", "timeupdate"].forEach((name) => video.addEventListener(name, again));
      video.addEventListener("play", () => this.loop());
      video.addEventListener("error", () => this.cannotPlay());
      if (video.error) this.cannotPlay();
      new ResizeObserver(again).observe(video);
      if (video.requestVideoFrameCallback) {
        const shown = (_, metadata) => {
          this.mediaTime = metadata.mediaTime - this.offset;
          this.update();
          if (this.alive) video.requestVideoFrameCallback(shown);
        };
        video.requestVideoFrameCallback(shown);
      }
    }

    /* Where only the sound is played (HEVC from a phone), the browser names no error: the picture has no size. */
    opened() {
      if (this.video.videoWidth) this.learnOffset();
      else this.cannotPlay();
    }

    /* Chromium counts from the file's own clock where that starts after 0, others from its first picture or sound. */
    learnOffset() {
      if (this.learned) return;
      this.learned = true;
      this.offset = Math.abs(this.video.currentTime - this.facts.start_s) < OFFSET_SLACK_S ? this.facts.start_s : 0;
      if (this.wanted !== undefined) this.seek(this.wanted);
    }

    get now() {
      if (this.still) return this.stillAt;
      return this.wanted !== undefined ? this.wanted : this.video.currentTime - this.offset;
    }

    loop() {
      this.update();
      if (this.alive && !this.video.paused) requestAnimationFrame(() => this.loop());
    }

    seek(seconds) {
      const at = Math.min(Math.max(seconds, 0), Math.max(this.facts.duration_s - 0.001, 0));
      this.mediaTime = undefined; // of the frame before the jump
      if (this.still) {
        this.stillAt = at;
        this.still.src = `/picture/still/${this.facts.video_id}.jpg?t=${at.toFixed(3)}`;
      } else {
        this.wanted = this.learned ? undefined : at; // before the file is open, its clock is unknown
        if (this.learned) this.video.currentTime = at + this.offset;
      }
      this.timeline.place(at);
      this.update();
    }

    /* A codec that the browser lacks, or a file that is gone. */
    cannotPlay() {
      if (this.still) return;
      this.showStills(`This browser cannot play the file (${this.facts.codec}): single frames are shown. To play it, convert it: ffmpeg -i IN -c:v libx264 OUT.mp4`);
    }

    /* Single pictures, decoded by the server, where it can. */
    showStills(why) {
      const at = this.now;
      this.still = element("img", "still");
      this.still.alt = "frame at the cursor";
      this.still.onerror = () => this.say("The file is gone or has changed since it was analysed; curves and boxes are from the lake.");
      this.video.pause(); // its sound
      this.video.replaceWith(this.still);
      this.still.onload = () => this.update();
      this.say(why);
      this.seek(at);
    }

    say(text) { byId("video-message").textContent = text; }

    /* -- this moment ------------------------------------------------------------------------------------------- */

    chunk(seconds) {
      const k = Math.floor(Math.max(seconds, 0) / CHUNK_S);
      if (!this.chunks.has(k)) {
        this.chunks.set(k, null);
        const url = `/api/video/${this.facts.video_id}/faces?from=${k * CHUNK_S}&to=${(k + 1) * CHUNK_S}`;
        mfer.fetchJSON(url).then((payload) => {
          payload.faces = new Map();
          payload.tracks.forEach((track) => track.frame.forEach((frame, i) => {
            if (!payload.faces.has(frame)) payload.faces.set(frame, []);
            payload.faces.get(frame).push({
              track: track.track_id, face: track.face[i], ok: track.ok[i], box: track.box[i], prob: track.prob[i],
            });
          }));
          this.chunks.set(k, payload);
          this.update();
        }).catch((error) => { this.chunks.delete(k); this.say(error.message); });
        if (this.chunks.size > 40) this.chunks.delete(this.chunks.keys().next().value);
      }
      return this.chunks.get(k);
    }

    /* The sampled frame on the screen, with its faces; null while it is fetched or where there is none. */
    frameAt(seconds) {
      const payload = this.chunk(seconds);
      if (seconds % CHUNK_S > CHUNK_S / 2 && seconds + CHUNK_S < this.facts.duration_s + CHUNK_S) this.chunk(seconds + CHUNK_S);
      if (!payload) return null;
      let low = 0, high = payload.time_s.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (payload.time_s[middle] <= seconds + FRAME_SLACK_S) low = middle + 1; else high = middle;
      }
      const i = low - 1;
      if (i < 0 || seconds > payload.time_s[i] + payload.duration_s[i] + 0.05) return null;
      return {
        index: payload.frame[i], time_s: payload.time_s[i], duration_s: payload.duration_s[i], status: payload.status[i],
        faces: (payload.faces.get(payload.frame[i]) || []).sort((a, b) => a.track - b.track),
      };
    }

    update() {
      if (!this.alive) return;
      const now = this.now;
      const shown = this.mediaTime !== undefined && Math.abs(this.mediaTime - now) < 0.5 ? this.mediaTime : now;
      this.frame = this.frameAt(shown);
      this.drawBoxes();
      this.showMoment(now);
      if (this.still || this.video.paused) this.followInAddress(now);
      this.timeline.place(now);
      if (!this.video.paused && !this.still) this.timeline.follow(now);
    }

    /* The address names the moment, so that it can be sent to somebody; not at every frame of a playing video. */
    followInAddress(now) {
      clearTimeout(this.soon);
      this.soon = setTimeout(() => {
        if (!this.alive) return;
        const address = new URL(window.location);
        if (now > 0) address.searchParams.set("t", now.toFixed(2)); else address.searchParams.delete("t");
        if (address.href !== window.location.href) window.history.replaceState(window.history.state, "", address);
      }, ADDRESS_MS);
    }

    top(prob) {
      let best = 0;
      prob.forEach((p, k) => { if (p !== null && p > (prob[best] ?? -1)) best = k; });
      return [this.facts.classes[best], prob[best]];
    }

    drawBoxes() {
      const canvas = this.canvas, picture = this.still || this.video;
      const width = picture.clientWidth, height = picture.clientHeight, dense = window.devicePixelRatio || 1;
      if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
        canvas.width = Math.round(width * dense);
        canvas.height = Math.round(height * dense);
        canvas.style.width = `${width}px`;
        canvas.style.height = `${height}px`;
      }
      const pen = canvas.getContext("2d");
      pen.setTransform(dense, 0, 0, dense, 0, 0);
      pen.clearRect(0, 0, width, height);
      const drawn = [], tags = [];
      // The player fits the picture of this moment into its box; the lake fits it into width_px x height_px in the
      // same way. The two differ where a file changes its picture's size in the middle.
      const wide_px = picture.videoWidth || this.facts.width_px, high_px = picture.videoHeight || this.facts.height_px;
      const shown = Math.min(width / wide_px, height / high_px);
      const stored = Math.min(this.facts.width_px / wide_px, this.facts.height_px / high_px);
      const scale = shown / stored;
      const left = (width - scale * this.facts.width_px) / 2, top = (height - scale * this.facts.height_px) / 2;
      (this.frame ? this.frame.faces : []).forEach((face) => {
        const [x1, y1, x2, y2] = [0, 1, 2, 3].map((k) => face.box[k] * scale + (k % 2 ? top : left));
        const [name, p] = this.top(face.prob);
        if (this.overlay.includes("boxes")) {
          pen.lineWidth = 2.5;
          pen.strokeStyle = this.facts.colours[name];
          pen.setLineDash(face.ok ? [] : [6, 4]);
          pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
          drawn.push([x1, y1, x2, y2]);
        }
        const words = [];
        if (this.overlay.includes("names")) words.push(this.timeline.name(face.track));
        if (this.overlay.includes("expression")) words.push(`${name} ${Math.round(100 * p)} %${face.ok ? "" : " ?"}`);
        if (!words.length) return;
        pen.font = "600 13px system-ui, sans-serif";
        const text = words.join(" · "), wide = pen.measureText(text).width + 10;
        const x = Math.max(0, Math.min(x1, width - wide));
        const y = this.freeHeight(tags, x, wide, [y1 - TAG_PX - 2, y2 + 2, y1 + 2, y2 - TAG_PX - 2], height);
        if (y === null) return; // a crowd: the panel beside the picture has it
        tags.push([x, y, x + wide, y + TAG_PX]);
        pen.fillStyle = "rgba(10,12,16,0.78)";
        pen.fillRect(x, y, wide, TAG_PX);
        pen.fillStyle = "#ffffff";
        pen.fillText(text, x + 5, y + 14.5);
      });
      canvas.dataset.tags = JSON.stringify(tags);
      canvas.dataset.frame = this.frame ? this.frame.index : "";
      canvas.dataset.boxes = JSON.stringify(drawn);
    }

    /* Where a tag hides no other: at the first of the heights that is free, else the nearest one above or below. */
    freeHeight(tags, x, wide, wanted, height) {
      const free = (y) => y >= 0 && y + TAG_PX <= height && tags.every(([a, b, c, d]) => x + wide <= a || x >= c || y + TAG_PX <= b || y >= d);
      const steps = Array.from({ length: 8 }, (_, k) => (k % 2 ? -1 : 1) * Math.ceil((k + 1) / 2) * (TAG_PX + 2));
      return [...wanted, ...steps.map((step) => wanted[0] + step)].find(free) ?? null;
    }

    showMoment(now) {
      const frame = this.frame;
      const state = `${frame && frame.index}/${this.timeline.edits.people.length}`;
      byId("moment-time").textContent = `${mfer.clock(now)} of ${mfer.clock(this.facts.duration_s)}`;
      if (state === this.momentState) return;
      this.momentState = state;
      const where = { no_face: "no face found in this frame", decode_error: "this frame could not be read" };
      byId("moment-frame").textContent = this.facts.is_still ? (frame && where[frame.status]) || "" : frame
        ? `frame ${frame.index} (${frame.time_s.toFixed(3)} s)${where[frame.status] ? ": " + where[frame.status] : ""}`
        : "no analysed frame here";
      const bars = byId("moment-bars");
      bars.replaceChildren();
      (frame ? frame.faces.slice(0, MAX_PANELS) : []).forEach((face) => {
        const box = element("section", "face");
        box.append(element("h3", "", this.timeline.name(face.track) + (face.ok ? "" : " · uncertain")));
        this.facts.classes.forEach((name, k) => {
          if (face.prob[k] === null) return;
          const row = element("div", "bar");
          const ground = element("span", "ground"), bar = element("i");
          bar.style.width = `${100 * face.prob[k]}%`;
          bar.style.background = this.facts.colours[name];
          ground.append(bar);
          row.append(element("span", "name", name), ground, element("span", "value", `${(100 * face.prob[k]).toFixed(0)} %`));
          box.append(row);
        });
        bars.append(box);
      });
    }

    listEpisodes() {
      byId("episode-list").replaceChildren(...this.facts.episodes.map(([track, start, end, name, confidence]) => {
        const row = element("li"), button = element("button");
        button.dataset.seek = start.toFixed(4);
        button.append(element("span", "when", `${start.toFixed(1)} to ${end.toFixed(1)} s`),
          this.chip(name, `${name} ${Math.round(100 * confidence)}%`), element("span", "faint", this.timeline.name(track)));
        row.append(button);
        return row;
      }));
    }

    /* The faces to choose from, under the names that people gave them. */
    listFaces() {
      const option = (value, text) => { const made = element("option", "", text); made.value = value; return made; };
      const faces = this.facts.tracks.map(([track]) => option(track, this.timeline.name(track)));
      [["edit-face", option("", "whole picture")], ["edit-other", option("", "choose a face")]].forEach(([id, none]) => {
        const list = byId(id), chosen = list.value;
        list.replaceChildren(none, ...faces.map((face) => face.cloneNode(true)));
        list.value = chosen;
      });
      const options = this.facts.tracks.map(([track, lasts]) => ({ label: `${this.timeline.name(track)} (${lasts})`, value: track }));
      window.dash_clientside.set_props("track-options", { options });
    }

    chip(name, text) {
      const chip = element("span", "chip"), swatch = element("i", "swatch");
      swatch.style.background = this.facts.colours[name];
      chip.append(swatch, text);
      return chip;
    }

    /* -- curves and edits -------------------------------------------------------------------------------------- */

    zoomed(from, to) {
      const link = byId("download-csv");
      if (link) link.href = `/api/video/${this.facts.video_id}/scores.csv?from=${from.toFixed(4)}&to=${to.toFixed(4)}`;
    }

    configure(options) {
      this.configured = JSON.stringify(options);
      this.overlay = options.overlay;
      this.timeline.options = options;
      this.timeline.load().catch((error) => this.say(error.message));
      this.update();
    }

    async refreshEdits() { this.took(await mfer.fetchJSON(`/api/video/${this.facts.video_id}/edits`)); }

    /* One after the other: what is taken back next depends on the answer before. */
    edit(payload, done) {
      this.writing = (this.writing || Promise.resolve()).then(async () => {
        const wanted = typeof payload === "function" ? payload() : payload;
        if (!wanted) return;
        try {
          this.took(await mfer.fetchJSON(`/api/video/${this.facts.video_id}/edits`, wanted));
          this.say(done);
        } catch (error) { this.say(error.message); }
      });
    }

    took(edits) {
      const splits = edits.edits.filter((edit) => edit.kind === "split").length;
      if (this.splits !== undefined && this.splits !== splits) { window.location.reload(); return; } // other faces now
      this.splits = splits;
      const same = JSON.stringify(edits) === JSON.stringify(this.timeline.edits);
      this.timeline.edits = edits;
      this.momentState = null;
      if (!same) this.timeline.draw();
      this.update();
      this.listEpisodes();
      this.listFaces();
      const list = byId("edit-list");
      list.replaceChildren();
      edits.edits.forEach((edit) => {
        if (edit.kind === "found") { list.append(this.found(edit)); return; }
        const faces = edit.shown.filter((span) => span.track_id !== null).map((span) => ` face ${span.track_id}`).join(",");
        const other = edit.shown.length ? "" : " (of faces found with other settings)";
        const when = edit.start_s === null ? "" : ` ${mfer.clock(edit.start_s)}` + (edit.end_s === null ? "" : ` to ${mfer.clock(edit.end_s)}`);
        const row = element("li");
        const undo = element("button", "small", "undo");
        undo.onclick = () => this.edit({ undo: edit.edit_id }, "Taken back.");
        const value = edit.kind === "person" ? (edit.value ? ": accepted" : ": nobody who was found") : { split: ` (face ${edit.value} from there on)`, merge: ` with face ${edit.value}` }[edit.kind] || (edit.value ? `: ${edit.value}` : "");
        row.append(element("span", "", `${edit.kind}${faces}${when}${value}${other}`), undo);
        list.append(row);
      });
      if (!edits.edits.length) list.append(element("li", "faint", "nothing yet"));
    }

    /* Whom `mfer people find` found: to accept; single faces are taken out with "nobody who was found". */
    found(edit) {
      const row = element("li", "found"), accept = element("button", "small", "accept");
      const faces = edit.shown.map((span) => span.track_id).join(", ");
      const videos = edit.n_videos > 1 ? `, also in ${edit.n_videos - 1} other ${edit.n_videos === 2 ? "video" : "videos"}` : "";
      accept.onclick = () => this.edit({ accept: edit.value }, "Accepted.");
      row.append(element("span", "", `found: face ${faces} is one person (${Math.round(100 * edit.confidence)} % sure${videos})`), accept);
      return row;
    }

    face() { // of a name, a merge or a span; null: the whole picture
      const chosen = byId("edit-face").value;
      return chosen === "" ? null : parseInt(chosen, 10);
    }

    ofFace(payload) {
      const track = this.face();
      return track === null ? payload : { ...payload, track_id: track, faces_id: this.facts.faces_id };
    }

    nameFace() {
      if (this.face() === null) { this.say("Choose a face first."); return; }
      this.edit(this.ofFace({ kind: "name", value: byId("edit-name").value }), "Named.");
    }

    mergeFace() {
      const other = byId("edit-other").value;
      if (this.face() === null || other === "") { this.say("Choose two faces first: of whom, and the same person as whom."); return; }
      this.edit(this.ofFace({ kind: "merge", value: other }), "The two faces are one person now.");
    }

    notFound() {
      if (this.face() === null) { this.say("Choose a face first."); return; }
      this.edit(this.ofFace({ kind: "person" }), "This face is nobody who was found.");
    }

    splitFace() {
      if (this.face() === null) { this.say("Choose a face first."); return; }
      this.edit(this.ofFace({ kind: "split", start_s: this.now }), "From here on it is somebody else.");
    }

    markEvent() {
      const value = byId("edit-event").value.trim() || "event";
      this.edit(this.ofFace({ kind: "event", value, start_s: this.now }), `Marked: ${value}.`);
    }

    exclude() {
      const done = "Excluded: the views scores, episodes and seconds leave it out.";
      if (this.facts.is_still) { this.edit(this.ofFace({ kind: "exclude" }), done); return; }
      if (this.excludeFrom === null) {
        this.excludeFrom = this.now;
        this.say(`Excluding from ${mfer.clock(this.now)}: go to the end of the span and press x again (Escape: cancel).`);
        return;
      }
      const [start_s, end_s] = [this.excludeFrom, this.now].sort((a, b) => a - b);
      this.excludeFrom = null;
      this.edit(this.ofFace({ kind: "exclude", start_s, end_s }), done);
    }

    async clip() {
      const { from, to } = this.timeline, seconds = to - from;
      this.say(`Making a clip of ${seconds.toFixed(1)} s, which takes about as long...`);
      const query = new URLSearchParams({ from: from.toFixed(4), to: to.toFixed(4), blur: mfer.choices().blurClips ? 1 : 0 });
      try {
        const answer = await fetch(`/api/video/${this.facts.video_id}/clip.mp4?${query}`);
        if (!answer.ok) throw new Error((await mfer.reason(answer)) || "it failed");
        const link = element("a");
        link.href = URL.createObjectURL(await answer.blob());
        link.download = `${this.stem}_clip_${from.toFixed(1)}_${to.toFixed(1)}.mp4`;
        link.click();
        this.say(`The clip is in your downloads: ${link.download}`);
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      } catch (error) { this.say(`No clip: ${error.message}`); }
    }

    undoLast() {
      this.edit(() => {
        const last = this.timeline.edits.edits.filter((edit) => edit.edit_id).at(-1);
        if (!last) this.say("There is nothing to take back.");
        return last && { undo: last.edit_id };
      }, "Taken back.");
    }

    explain() {
      const dialog = byId("explain-dialog"), picture = element("img");
      picture.alt = "where in the faces the model looked (Grad-CAM)";
      const note = element("p", "", "Working: the faces of this frame are found and explained anew, which takes some seconds.");
      picture.onload = () => note.remove();
      picture.onerror = () => { note.textContent = "It could not be explained: no face, or the file is gone."; };
      picture.src = `/picture/explain/${this.facts.video_id}.png?t=${this.now.toFixed(3)}`;
      const close = element("button", "", "close");
      close.onclick = () => dialog.close();
      dialog.replaceChildren(note, picture, close);
      dialog.showModal();
    }

    /* -- keys -------------------------------------------------------------------------------------------------- */

    step(frames) {
      const length = this.frame ? this.frame.duration_s : 0.04;
      const from = this.frame ? this.frame.time_s : this.now;
      if (!this.still) this.video.pause();
      this.seek(from + frames * length + 0.2 * length);
    }

    jump(direction) {
      const starts = this.facts.episode_starts;
      const next = direction > 0 ? starts.find((s) => s > this.now + 0.05) : starts.findLast((s) => s < this.now - 0.3);
      if (next !== undefined) this.seek(next + 0.001);
    }

    toggle(group, value) {
      const box = [...document.querySelectorAll(`#${group} input`)].find((input) => input.value === value || input.dataset.value === value);
      if (box) box.click();
    }

    key(event) {
      const far = event.shiftKey;
      const always = {
        x: () => this.exclude(), u: () => this.undoLast(), b: () => this.toggleBoxes(), "?": () => byId("key-help").showModal(),
        Escape: () => { this.excludeFrom = null; this.say(""); },
      };
      const overTime = this.facts.is_still ? {} : {
        " ": () => (this.still ? null : this.video.paused ? this.video.play() : this.video.pause()),
        ArrowLeft: () => (far ? this.seek(this.now - 5) : this.step(-1)),
        ArrowRight: () => (far ? this.seek(this.now + 5) : this.step(1)),
        Home: () => this.seek(0), End: () => this.seek(this.facts.duration_s),
        n: () => this.jump(1), p: () => this.jump(-1), e: () => this.markEvent(),
        z: () => this.timeline.zoom(0, this.facts.duration_s),
      };
      const doing = { ...always, ...overTime }[event.key];
      if (doing) { event.preventDefault(); doing(); }
    }

    toggleBoxes() {
      this.overlay = this.overlay.length ? [] : ["boxes", "names", "expression"];
      window.dash_clientside.set_props("overlay-options", { value: this.overlay });
      this.update();
    }
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable], dialog");
    if (!page || !page.alive || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const control = event.target.closest("button, a, input, summary, [role=button], [role=combobox], [tabindex]:not([tabindex='-1'])");
    if (control && event.key === " ") return; // it is for the control that has the focus
    page.key(event);
  });

  document.addEventListener("click", (event) => {
    if (!page || !page.alive) return;
    const at = event.target.closest("[data-seek]"), does = event.target.closest("[data-does]");
    if (at) page.seek(parseFloat(at.dataset.seek) + 0.001);
    if (!does) return;
    const name = does.dataset.does;
    if (name === "png") {
      window.Plotly.downloadImage(page.timeline.plot, { format: "png", filename: `${page.stem}_curves`, width: 1400, height: page.timeline.plot.clientHeight });
    } else if (name === "keys") byId("key-help").showModal();
    else if (name === "whole") page.timeline.zoom(0, page.facts.duration_s);
    else page[name]();
  });

  /* -- the list beside the player -------------------------------------------------------------------------------- */

  let request = 0, soon = null;
  async function listVideos(near, text = "") {
    const mine = ++request;
    const payload = await mfer.fetchJSON(`/api/videos?${new URLSearchParams({ near, text })}`);
    const list = byId("side-list");
    if (mine !== request || !list) return;
    list.replaceChildren(...payload.videos.map((video) => {
      const row = element("li"), link = element("a", video.video_id === near ? "active" : "");
      link.href = `/video?id=${video.video_id}`;
      link.title = video.path;
      link.append(element("span", "faint", `${video.folder}/`), video.title);
      row.append(link);
      return row;
    }));
    const active = list.querySelector(".active");
    if (active) list.scrollTop = active.offsetTop - list.offsetTop - list.clientHeight / 2;
    const more = payload.n_videos - payload.videos.length;
    byId("side-count").textContent = more > 0 ? `${payload.videos.length} of ${payload.n_videos}` : "";
  }

  document.addEventListener("input", (event) => {
    if (event.target.id !== "side-search" || !page) return;
    clearTimeout(soon);
    soon = setTimeout(() => listVideos(page.facts.video_id, event.target.value).catch((error) => page.say(error.message)), 150);
  });

  document.addEventListener("click", (event) => { // as dcc.Link does it: the page changes without loading anew
    const link = event.target.closest("#side-list a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    window.history.pushState({}, "", link.getAttribute("href"));
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.video = {
    show(facts, curves, tracks, show, overlay, windowS, other) {
      if (!facts) return window.dash_clientside.no_update;
      const chosen = { curves: curves || [], show: show || [], overlay: overlay || [], window: windowS || 0 };
      if (!page || page.drawnFacts !== facts || !page.alive) {
        page = mfer.page = new VideoPage(facts);
        Object.assign(chosen, mfer.choices().video); // of the last time; the page's own controls follow
        ["curves", "show", "overlay"].forEach((name) => window.dash_clientside.set_props(`${CONTROLS[name]}`, { value: chosen[name] }));
        window.dash_clientside.set_props("window", { value: chosen.window });
      } else {
        mfer.choose({ video: chosen });
      }
      const options = { ...chosen, tracks: tracks || [], baseline: chosen.show.includes("baseline"), other: other || null };
      if (page.configured !== JSON.stringify(options)) page.configure(options); // drawing takes a while: not twice
      return "";
    },
  };
})();
