/* The navigation of narrow screens: the button opens and folds it, and choosing a page folds it. */
(function () {
  "use strict";
  document.addEventListener("click", (event) => {
    const menu = document.getElementById("menu");
    if (!menu || !event.target.closest("#menu, header nav a")) return;
    const opens = event.target.closest("#menu") && menu.getAttribute("aria-expanded") !== "true";
    menu.setAttribute("aria-expanded", String(Boolean(opens)));
  });
})();
