/* Curves of the faces over time. Fetches what the zoom needs and hands Plotly a figure; knows nothing of the player. */
(function () {
  "use strict";
  const mfer = (window.mfer = window.mfer || {});
  const INK = "#e6e9ee", FAINT = "#8b95a5", GRID = "#2a313c", GROUND = "#14181f";
  const ROW_PX = 150, TOP_PX = 22, BOTTOM_PX = 34, GAP = 0.06;

  mfer.fetchJSON = async function (url, payload) {
    const options = payload === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(payload),
    };
    const answer = await fetch(url, options);
    if (!answer.ok) throw new Error((await mfer.reason(answer)) || `the server answered ${answer.status}`);
    return answer.json();
  };

  mfer.reason = async function (answer) {
    const text = new DOMParser().parseFromString(await answer.text(), "text/html").body.textContent;
    return text.trim().split("\n").pop();
  };

  /* Plotly reads a few tags in its texts: what people and files are called must stay text. */
  mfer.plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  mfer.clock = function (seconds) {
    const s = Math.max(0, seconds), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    const rest = (s % 60).toFixed(2).padStart(5, "0");
    return h ? `${h}:${String(m).padStart(2, "0")}:${rest}` : `${m}:${rest}`;
  };

  class Timeline {
    constructor(facts, onSeek, onZoom) {
      Object.assign(this, { facts, onSeek, onZoom });
      this.from = 0;
      this.to = Math.max(facts.duration_s, 0.1);
      this.options = null;
      this.edits = { edits: [], people: [] };
      this.request = 0;
      this.cursor = document.getElementById("timeline-cursor");
    }

    get holder() { return document.getElementById("timeline"); } // replaced when Dash has loaded its plots

    get plot() { return this.holder && this.holder.querySelector(".js-plotly-plot"); }

    name(track) {
      const person = this.edits.people.find((p) => p.track_id === track);
      if (!person) return `face ${track}`;
      const same = person.person === track ? "" : ` = face ${person.person}`;
      return person.name ? `${person.name} (face ${track}${same})` : `face ${track}${same}`;
    }

    url(analysis) {
      const query = new URLSearchParams({
        from: this.from, to: this.to, tracks: this.options.tracks.join(","), window: this.options.window,
        buckets: Math.round(Math.min(1000, Math.max(200, this.holder.clientWidth / 2))),
      });
      if (analysis) query.set("analysis", analysis);
      return `/api/video/${this.facts.video_id}/curves?${query}`;
    }

    async load() {
      if (!this.options) return;
      const request = ++this.request;
      const wanted = [mfer.fetchJSON(this.url(this.facts.analysis_id))];
      if (this.options.other) wanted.push(mfer.fetchJSON(this.url(this.options.other)));
      const [own, other] = await Promise.all(wanted);
      if (request !== this.request) return; // a later zoom was faster
      this.own = own;
      this.other = other;
      this.draw();
    }

    draw() {
      if (!this.own) return;
      const shown = this.own.tracks, n = Math.max(shown.length, 1);
      const height = (1 - GAP * (n - 1)) / n;
      const layout = {
        paper_bgcolor: GROUND, plot_bgcolor: GROUND, font: { color: INK, size: 12, family: "system-ui, sans-serif" },
        height: TOP_PX + BOTTOM_PX + ROW_PX * n, margin: { l: 44, r: 12, t: TOP_PX, b: BOTTOM_PX }, showlegend: false,
        hovermode: "closest", dragmode: "zoom", meta: { video_id: this.facts.video_id },
        xaxis: { range: [this.from, this.to], gridcolor: GRID, zeroline: false, ticksuffix: " s", anchor: "y" + (n > 1 ? n : "") },
        shapes: [], annotations: [],
      };
      const traces = [];
      shown.forEach((track, row) => {
        const axis = row ? `y${row + 1}` : "y", top = 1 - row * (height + GAP);
        const domain = [Math.max(0, top - height), top];
        layout["yaxis" + (row ? row + 1 : "")] = {
          domain, range: this.options.baseline ? [-1, 1] : [-0.02, 1.02], fixedrange: true, gridcolor: GRID, zeroline: this.options.baseline,
          zerolinecolor: FAINT, tickformat: ".0%", nticks: 5, anchor: "x",
        };
        layout.annotations.push({
          text: mfer.plain(this.name(track.track_id)), x: 0.002, y: top, xref: "paper", yref: "paper", xanchor: "left",
          yanchor: "bottom", showarrow: false, font: { size: 12, color: INK },
        });
        const smooth = this.options.show.includes("smooth"), text = this.allValues(smooth ? track.smooth : track.raw);
        const quiet = this.options.show.includes("quiet");
        const hidden = (s) => quiet && track.speaking.some(([a, b]) => s >= a && s < b);
        this.facts.classes.forEach((name, k) => {
          if (!this.options.curves.includes(name) || track.smooth[name].every((p) => p === null)) return;
          const usual = this.options.baseline ? this.own.baseline[track.track_id][k] : 0;
          const less = (values, at) => values.map((p, i) => (p === null || hidden(at[i]) ? null : p - usual));
          const line = { color: this.facts.colours[name], width: 1 };
          const common = { type: "scatter", mode: "lines", yaxis: axis, connectgaps: false, name };
          const hover = { text, hovertemplate: `<b>${name} %{y:.1%}</b> at %{x:.2f} s<br>%{text}<extra></extra>` };
          if (this.options.show.includes("raw")) {
            const own = smooth ? { hoverinfo: "skip" } : hover;
            traces.push({ ...common, x: track.raw_s, y: less(track.raw[name], track.raw_s), line, opacity: smooth ? 0.4 : 1, ...own });
          }
          if (smooth) {
            traces.push({ ...common, x: track.smooth_s, y: less(track.smooth[name], track.smooth_s), line: { ...line, width: 2.2 }, ...hover });
          }
          const twin = this.other && this.other.tracks.find((t) => t.track_id === track.track_id);
          if (twin) {
            traces.push({
              ...common, x: twin.smooth_s, y: less(twin.smooth[name], twin.smooth_s), line: { ...line, width: 1.8, dash: "dot" },
              hovertemplate: `${name} %{y:.1%} at %{x:.2f} s, other model<extra></extra>`,
            });
          }
        });
        track.speaking.forEach(([a, b]) => layout.shapes.push(this.band(a, b, domain, "rgba(255,196,87,0.14)", 0)));
        track.uncertain.forEach(([a, b]) => layout.shapes.push(this.band(a, b, domain, "rgba(255,255,255,0.13)", 0)));
      });
      if (!traces.length) traces.push(...this.drawNothing(layout));
      this.addEdits(layout, shown, height);
      window.dash_clientside.set_props("timeline", { figure: { data: traces, layout } });
      this.listen();
    }

    /* The eight values of each point, the highest first. */
    allValues(values) {
      const n = values[this.facts.classes[0]].length;
      return Array.from({ length: n }, (_, i) => this.facts.classes.map((name) => [name, values[name][i]])
        .filter(([, p]) => p !== null).sort((a, b) => b[1] - a[1]).map(([name, p]) => `${name} ${(100 * p).toFixed(1)} %`).join("<br>"));
    }

    /* Without a curve there is nothing to measure: no axes, and why there is no curve. */
    drawNothing(layout) {
      layout.xaxis.visible = false;
      layout.yaxis = { visible: false, range: [0, 1], fixedrange: true };
      const why = this.facts.tracks.length ? "no face or no expression is chosen" : "no face was found in this video";
      layout.annotations.push({ text: why, x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false, font: { size: 14, color: FAINT } });
      return [{ type: "scatter", x: [this.from, this.to], y: [null, null], hoverinfo: "skip" }];
    }

    band(a, b, domain, colour, width) {
      return {
        type: "rect", xref: "x", yref: "paper", x0: a, x1: b, y0: domain[0], y1: domain[1], fillcolor: colour, layer: "below",
        line: { width, color: FAINT, dash: "dot" },
      };
    }

    addEdits(layout, shown, height) {
      this.edits.edits.forEach((edit) => {
        if (edit.kind !== "exclude" && edit.kind !== "event") return;
        edit.shown.forEach((span) => {
          const row = shown.findIndex((t) => t.track_id === span.track_id);
          if (span.track_id !== null && row < 0) return;
          const top = 1 - row * (height + GAP);
          const domain = span.track_id === null ? [0, 1] : [Math.max(0, top - height), top];
          const from = span.start_s === null ? 0 : span.start_s;
          const to = span.end_s === null ? this.facts.duration_s : span.end_s;
          if (edit.kind === "exclude") {
            layout.shapes.push({ ...this.band(from, to, domain, "rgba(0,0,0,0.62)", 1), layer: "above" });
            layout.annotations.push(this.note("excluded", (Math.max(from, this.from) + Math.min(to, this.to)) / 2, domain[0], from, to));
          } else {
            layout.shapes.push({
              type: "line", xref: "x", yref: "paper", x0: from, x1: from, y0: 0, y1: 1, line: { color: INK, width: 1, dash: "dot" },
            });
            layout.annotations.push(this.note(edit.value, from, 0, from, from));
          }
        });
      });
      layout.annotations = layout.annotations.filter(Boolean);
    }

    note(text, x, y, from, to) {
      if (to < this.from || from > this.to) return null;
      return {
        text: mfer.plain(text), x, y, xref: "x", yref: "paper", xanchor: "center", yanchor: "bottom", showarrow: false,
        bgcolor: "rgba(20,24,31,0.8)", font: { size: 11, color: INK },
      };
    }

    /* Once per plot: a click seeks (a drag zooms), a zoom fetches. */
    listen() {
      const plot = this.plot;
      if (!plot || !plot.on) { setTimeout(() => this.listen(), 30); return; }
      this.place(this.at);
      if (plot.dataset.listens) return;
      plot.dataset.listens = "yes";
      plot.on("plotly_afterplot", () => this.place(this.at));
      plot.on("plotly_relayout", (change) => {
        const range = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
        if (change["xaxis.autorange"]) this.zoom(0, this.facts.duration_s);
        else if (range[0] !== undefined && range[1] !== undefined) this.zoom(range[0], range[1]);
      });
      let pressed = null;
      plot.addEventListener("mousedown", (event) => { pressed = [event.clientX, event.clientY]; }, true);
      document.addEventListener("mouseup", (event) => {
        const still = pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 4;
        pressed = null;
        if (!still || !this.plot) return;
        const seconds = this.secondsAt(event.clientX, event.clientY);
        if (seconds !== null) this.onSeek(seconds);
      }, true);
    }

    secondsAt(clientX, clientY) {
      const full = this.plot._fullLayout, box = this.plot.getBoundingClientRect(), size = full._size;
      const x = clientX - box.left - size.l, y = clientY - box.top - size.t;
      if (x < 0 || y < 0 || x > size.w || y > size.h) return null;
      return Math.min(Math.max(full.xaxis.p2l(x), 0), this.facts.duration_s);
    }

    /* Put the cursor at a moment, in the plot's pixels: no figure is made anew. */
    place(seconds) {
      this.at = seconds || 0;
      const plot = this.plot;
      if (!plot || !plot._fullLayout || !plot._fullLayout._size) return;
      const full = plot._fullLayout, x = full.xaxis.l2p(this.at), inside = x >= -1 && x <= full._size.w + 1;
      this.cursor.style.display = inside ? "block" : "none";
      this.cursor.style.transform = `translateX(${full._size.l + x}px)`;
      this.cursor.style.top = `${full._size.t}px`;
      this.cursor.style.height = `${full._size.h}px`;
      this.cursor.dataset.seconds = this.at.toFixed(4);
    }

    zoom(from, to) {
      const least = 0.2, whole = Math.max(this.facts.duration_s, 0.1);
      this.from = Math.max(0, Math.min(from, whole - least));
      this.to = Math.min(whole, Math.max(to, this.from + least));
      this.onZoom(this.from, this.to);
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.load(), 80);
    }

    /* Keep a playing moment in sight. */
    follow(seconds) {
      const width = this.to - this.from;
      if (width < this.facts.duration_s && (seconds > this.to || seconds < this.from)) this.zoom(seconds, seconds + width);
    }
  }

  mfer.Timeline = Timeline;
})();
