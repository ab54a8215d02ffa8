/* Ctrl + Enter in the editor runs the query. */
(function () {
  "use strict";
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.target.id !== "query-text") return;
    event.preventDefault();
    event.target.dispatchEvent(new Event("blur", { bubbles: true }));
    setTimeout(() => document.getElementById("query-run").click(), 50);
  });
})();
