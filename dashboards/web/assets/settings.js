/* The settings page: a form over what choices.js keeps. */
(function () {
  "use strict";
  const mfer = window.mfer;
  const element = (tag, text) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function labelled(text, input) {
    const label = element("label");
    label.className = "inline";
    label.append(input, text);
    return label;
  }

  function group(title, parts) {
    const set = element("fieldset");
    set.append(element("legend", title), ...parts);
    return set;
  }

  function checks(titles, chosen, name) {
    return Object.entries(titles).map(([value, text]) => {
      const box = element("input");
      Object.assign(box, { type: "checkbox", value, name, checked: chosen.includes(value) });
      return labelled(text, box);
    });
  }

  function draw(form, facts) {
    const kept = mfer.choices();
    const video = { curves: facts.classes, show: ["raw", "smooth"], overlay: Object.keys(facts.overlay), window: 0.5, ...kept.video };
    const windows = element("select");
    windows.setAttribute("aria-label", "smoothing");
    windows.name = "window";
    facts.windows.forEach(([value, text]) => windows.append(new Option(text, value, false, value === video.window)));
    const colours = facts.classes.map((name) => {
      const input = element("input");
      Object.assign(input, { type: "color", name: "colour", value: (kept.colours[name] || facts.colours[name]).toLowerCase() });
      input.dataset.expression = name;
      return labelled(name, input);
    });
    const blur = element("input");
    Object.assign(blur, { type: "checkbox", name: "blur", checked: kept.blurClips });
    const reset = element("button", "as it was delivered");
    Object.assign(reset, { type: "button", id: "settings-reset" });
    form.replaceChildren(
      group("Curves", checks(Object.fromEntries(facts.classes.map((name) => [name, name])), video.curves, "curves")),
      group("Values", checks(facts.show, video.show, "show")),
      group("Smoothing", [windows]),
      group("Over the picture", checks(facts.overlay, video.overlay, "overlay")),
      group("Colours", colours),
      group("Clips", [labelled("hide every face", blur)]),
      reset,
    );
    const of = (name) => [...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value);
    form.onchange = () => {
      const changed = [...form.querySelectorAll("[name=colour]")]
        .filter((input) => input.value !== facts.colours[input.dataset.expression].toLowerCase())
        .map((input) => [input.dataset.expression, input.value]);
      mfer.choose({
        video: { curves: of("curves"), show: of("show"), overlay: of("overlay"), window: parseFloat(windows.value) },
        colours: Object.fromEntries(changed), blurClips: blur.checked,
      });
      document.getElementById("settings-message").textContent = "Kept.";
    };
    form.onsubmit = (event) => event.preventDefault();
    reset.onclick = () => {
      mfer.choose({ video: {}, colours: {}, blurClips: false });
      draw(form, facts);
      document.getElementById("settings-message").textContent = "Everything is as it was delivered.";
    };
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.settings = {
    show(facts) {
      if (facts) draw(document.getElementById("settings-form"), facts);
      return "";
    },
  };
})();
