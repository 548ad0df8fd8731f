
"use strict";
// Takes the new content of the page in place of the old one, so that nothing flickers and nothing scrolls.
(() => {
  const period = {{ refresh_s }} * 1000;
  async function look() {
    try {
      const answer = await fetch("/live", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = document.createElement("template");
      fresh.innerHTML = await answer.text();
      const live = document.getElementById("live");
      if (live.contains(document.activeElement)) return;
      const left = [...live.querySelectorAll(".wide")].map((box) => box.scrollLeft);
      live.replaceChildren(fresh.content);
      live.querySelectorAll(".wide").forEach((box, n) => { box.scrollLeft = left[n] || 0; });
      live.classList.remove("stale");
      const verdict = document.getElementById("verdict");
      document.title = verdict.dataset.title;
      const spoken = document.getElementById("spoken");
      if (spoken.textContent !== verdict.textContent) spoken.textContent = verdict.textContent;
    } catch {
      document.getElementById("live").classList.add("stale");
    }
  }
  setInterval(() => { if (!document.hidden) look(); }, period);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
})();
