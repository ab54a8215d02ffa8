/* The label page: a queue of faces, a key for each judgement, undo. Every judgement is posted before the next face. */
(function () {
  "use strict";
  const mfer = (window.mfer = window.mfer || {});
  const byId = (id) => document.getElementById(id);
  let page = null;

  class LabelPage {
    constructor(facts) {
      this.facts = facts;
      this.queue = [];
      this.at = 0;
      this.done = [];
      this.nDone = 0;
    }

    get alive() { return document.body.contains(byId("label-picture")); }
    get face() { return this.queue[this.at]?.found ? this.queue[this.at] : undefined; }

    async load(rater, order) {
      this.rater = (rater || "").trim();
      this.order = order;
      this.done = [];
      this.queue = []; // nobody judges a face of the queue before
      if (!this.rater) { this.show("Say who you are first."); return; }
      const request = (this.request = (this.request || 0) + 1);
      this.show("Looking for faces...");
      try {
        const payload = await mfer.fetchJSON(`/api/labels/queue?${new URLSearchParams({ rater: this.rater, order })}`);
        if (request !== this.request) return; // another rater or order was asked for meanwhile
        this.queue = payload.faces;
        this.nDone = payload.n_done;
        this.at = 0;
        await this.next();
      } catch (error) { this.show(error.message); }
    }

    /* Shows the face that is due, and gets the one after it ready. */
    async next(message) {
      const { queue, at } = this;
      try { await this.find(at); } catch (error) { // its video was erased, or analysed anew
        if (queue !== this.queue) return;
        this.at += 1;
        return this.next(error.message);
      }
      if (queue !== this.queue || at !== this.at) return;
      this.show(message);
      this.find(at + 1).catch(() => {}); // said when it is due
    }

    /* The queue says where faces are; which one of a second it is, and what the model thinks, is asked for when it is due. */
    async find(at) {
      const place = this.queue[at];
      if (!place || place.found) return place;
      const { video_id, faces_id, track_id, second } = place;
      const request = new URLSearchParams({ video_id, faces_id, track_id, second, order: this.order });
      Object.assign(place, await mfer.fetchJSON(`/api/labels/face?${request}`), { found: true });
      new Image().src = this.url(place);
      return place;
    }

    url(face) { return `/picture/face/${face.video_id}/${face.frame_index}/${face.face_index}.jpg`; }

    show(message) {
      if (!this.alive) return;
      const face = this.face, holder = byId("label-picture");
      byId("label-message").textContent = message || "";
      holder.dataset.face = face ? `${face.video_id}/${face.frame_index}/${face.face_index}` : "";
      byId("label-where").textContent = face
        ? `${face.title} at ${face.time_s.toFixed(2)} s, face ${face.track_id} (frame ${face.frame_index})` : "";
      const total = this.nDone + this.queue.length - this.at;
      byId("label-progress").max = Math.max(total, 1);
      byId("label-progress").value = this.nDone;
      byId("label-count").textContent = `${this.nDone} judged by you, ${this.queue.length - this.at} waiting in this queue`;
      this.showOpinion();
      if (!face) {
        holder.replaceChildren(document.createTextNode(this.queue.length ? "The queue is done." : message || "No face waits for you."));
        return;
      }
      const picture = new Image();
      picture.alt = "the face to judge";
      picture.onerror = () => holder.replaceChildren(document.createTextNode("The video is gone or has changed: skip it (s)."));
      picture.src = this.url(face);
      holder.replaceChildren(picture);
    }

    showOpinion() {
      const place = byId("label-opinion"), face = this.face;
      place.replaceChildren();
      if (!this.opinion || !face) return;
      this.facts.classes.forEach((name) => {
        const p = face[`p_${name}`];
        if (p === null) return;
        const row = document.createElement("div"), ground = document.createElement("span"), bar = document.createElement("i");
        row.className = "bar";
        ground.className = "ground";
        bar.style.width = `${100 * p}%`;
        bar.style.background = this.facts.colours[name];
        ground.append(bar);
        const title = document.createElement("span"), value = document.createElement("span");
        title.textContent = name;
        value.textContent = `${(100 * p).toFixed(0)} %`;
        value.className = "value";
        row.append(title, ground, value);
        place.append(row);
      });
    }

    async post(face, verdict, expression) {
      const names = ["video_id", "faces_id", "frame_index", "face_index"];
      const payload = { face: Object.fromEntries(names.map((name) => [name, face[name]])), verdict, rater: this.rater };
      if (expression) payload.expression = expression;
      if (this.opinion) payload.shown_model_id = face.model_id;
      await mfer.fetchJSON("/api/labels", payload);
    }

    async judge(name) {
      if (this.busy) return;
      this.busy = true;
      try {
        if (name === "undo") await this.undo();
        else if (name === "skip") { if (this.face) this.at += 1; await this.next(); }
        else if (this.face) {
          const face = this.face;
          const verdict = this.facts.classes.includes(name) ? "expression" : name;
          await this.post(face, verdict, verdict === "expression" ? name : null);
          this.done.push(this.at);
          this.nDone += 1;
          this.at += 1;
          await this.next(`Written: ${name.replaceAll("_", " ")}.`);
          if (!this.face) await this.load(this.rater, this.order);
        }
      } catch (error) { this.show(`Not written: ${error.message}`); }
      this.busy = false;
    }

    async undo() {
      const last = this.done.pop();
      if (last === undefined) { this.show("There is nothing to take back."); return; }
      await this.post(this.queue[last], "withdrawn");
      this.nDone -= 1;
      this.at = last;
      this.show("Taken back.");
    }
  }

  document.addEventListener("keydown", (event) => {
    if (!page || !page.alive || event.target.closest("input[type=text], select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = { 9: "not_a_face", 0: "undecided", u: "undo", s: "skip" }[event.key] || page.facts.classes[parseInt(event.key, 10) - 1];
    if (name) { event.preventDefault(); page.judge(name); }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-label]");
    if (button && page && page.alive) page.judge(button.dataset.label);
  });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.label = {
    show(facts, rater, order, options) {
      if (!facts) return window.dash_clientside.no_update;
      const opinion = (options || []).includes("opinion");
      const fresh = !page || !page.holder || !document.body.contains(page.holder);
      if (fresh) { page = mfer.label = new LabelPage(facts); page.holder = byId("label-picture"); }
      page.opinion = opinion;
      if (fresh || page.rater !== (rater || "").trim() || page.order !== order) page.load(rater, order);
      else page.showOpinion();
      return "";
    },
  };
})();
