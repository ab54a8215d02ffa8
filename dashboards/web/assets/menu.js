/* The head of each page. On narrow screens a button opens and folds the navigation, and choosing a page folds it. The
   model that is chosen is kept in a cookie, which every request brings. */
(function () {
  "use strict";
  document.addEventListener("click", (event) => {
    const menu = document.getElementById("menu");
    if (!menu || !event.target.closest("#menu, header nav a")) return;
    const opens = event.target.closest("#menu") && menu.getAttribute("aria-expanded") !== "true";
    menu.setAttribute("aria-expanded", String(Boolean(opens)));
  });
  document.addEventListener("change", (event) => {
    if (event.target.id !== "model-choice") return;
    document.cookie = `mfer_model=${encodeURIComponent(event.target.value)}; path=/; SameSite=Strict; max-age=31536000`;
    window.location.reload();
  });
})();
