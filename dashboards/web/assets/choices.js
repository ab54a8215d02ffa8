/* What a viewer chose, kept in this browser; and Plotly, read while nobody waits for it. */
(function () {
  "use strict";
  const mfer = (window.mfer = window.mfer || {});
  const KEY = "mfer-choices";

  mfer.choices = function () {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY)) || {};
      return { video: {}, colours: {}, blurClips: false, ...kept };
    } catch { return { video: {}, colours: {}, blurClips: false }; } // nothing was kept, or it may not be
  };

  mfer.choose = function (changed) {
    try { localStorage.setItem(KEY, JSON.stringify({ ...mfer.choices(), ...changed })); } catch { /* for this page only */ }
    paint();
  };

  /* Colours of chips and strips are CSS variables with the palette behind them. */
  function paint() {
    const style = document.documentElement.style;
    [...style].filter((name) => name.startsWith("--colour-")).forEach((name) => style.removeProperty(name));
    Object.entries(mfer.choices().colours).forEach(([name, colour]) => style.setProperty(`--colour-${name}`, colour));
  }
  paint();

  function readPlotly() {
    if (window.Plotly || !window._dashPlotlyJSURL) return;
    const script = document.createElement("script");
    script.src = window._dashPlotlyJSURL;
    document.head.append(script);
  }
  const later = window.requestIdleCallback || ((work) => setTimeout(work, 200));
  window.addEventListener("load", () => setTimeout(() => later(readPlotly, { timeout: 3000 }), 400));
})();
