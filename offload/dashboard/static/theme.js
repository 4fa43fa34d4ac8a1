// The theme that was chosen in this browser, before anything is painted; no module, as those wait.

(() => {
  const read = () => {
    // A browser may keep nothing for this page, and says so by an error.
    try { return localStorage.getItem("offload-theme") ?? "auto"; } catch { return "auto"; }
  };
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  apply(read());
  document.addEventListener("DOMContentLoaded", () => {
    const select = document.getElementById("theme");
    if (!select) return;
    select.value = read();
    select.addEventListener("change", () => {
      apply(select.value);
      // Pictures are drawn in the colours of their time.
      dispatchEvent(new Event("offload-theme"));
      try { localStorage.setItem("offload-theme", select.value); } catch { /* for this page, then */ }
    });
  });
  addEventListener("storage", (event) => {
    if (event.key !== "offload-theme") return;
    apply(read());
    const select = document.getElementById("theme");
    if (select) select.value = read();
    dispatchEvent(new Event("offload-theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("offload-theme")));
})();
