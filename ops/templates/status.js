
"use strict";
// Takes the new content of the page in place of the old one, so that nothing flickers and nothing scrolls.
(() => {
  const period = {{ refresh_s }} * 1000;
  async function look() {
    try {
      const answer = await fetch("/", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      const live = document.getElementById("live");
      if (live.contains(document.activeElement)) return;
      const left = [...live.querySelectorAll(".wide")].map((box) => box.scrollLeft);
      live.replaceChildren(...fresh.childNodes);
      live.querySelectorAll(".wide").forEach((box, n) => { box.scrollLeft = left[n] || 0; });
      live.classList.remove("stale");
      document.title = page.title;
      const spoken = document.getElementById("spoken");
      const verdict = document.getElementById("verdict").textContent;
      if (spoken.textContent !== verdict) spoken.textContent = verdict;
    } catch {
      document.getElementById("live").classList.add("stale");
    }
  }
  setInterval(() => { if (!document.hidden) look(); }, period);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
})();
