// The first start, and the page without a session.

import { setup } from "./api.js";
import { button, el, field } from "./dom.js";
import { size } from "./words.js";

const logo = () => el("img", { class: "logo", src: "/page/icon.svg", alt: "" });

/** What there is without a session. */
export function outside(main, why) {
  main.replaceChildren(
    el(
      "section",
      { class: "card" },
      logo(),
      el("h1", {}, "This page is for the owner of a Shoal profile"),
      why ? el("p", { class: "error", role: "alert" }, why) : null,
      el("p", {}, "It is opened by a link that is good once. Get one in a terminal:"),
      el("p", {}, el("code", {}, "shoal web")),
      el("p", { class: "hint" }, "A session lasts as long as this tab, and ends an hour after the tab was closed."),
    ),
  );
}

/** Makes a profile; the promise ends when there is one. */
export function first(main, profile) {
  return new Promise((done) => {
    const file = el("input", { type: "file", accept: ".toml,text/plain", required: true });
    const error = el("p", { class: "error", role: "alert", hidden: true });
    const next = el("div", { "aria-live": "polite" });
    let text = "";
    const fail = (problem) => {
      error.hidden = false;
      error.textContent = problem.next ? `${problem.message}. ${problem.next}.` : problem.message;
      next.replaceChildren();
    };
    file.addEventListener("change", async () => {
      error.hidden = true;
      try {
        text = await file.files[0].text();
        next.replaceChildren(...choice(await setup.look(text)));
        next.querySelector("button")?.focus();
      } catch (problem) {
        fail(problem);
      }
    });
    function choice({ network, fingerprint, monthly_bytes: monthly }) {
      const rate = (value, words, checked) => [
        el("input", { type: "radio", name: "class", value, id: `class-${value}`, checked }),
        el("label", { for: `class-${value}` }, words),
      ];
      const make = async () => {
        const chosen = next.querySelector("input:checked").value;
        try {
          await setup.make(text, chosen);
          done();
        } catch (problem) {
          fail(problem);
        }
      };
      return [
        el("h2", {}, `Network ${network}`),
        el("p", {}, "Compare these words with whoever gave you the file. They name the network and the keys of its authorities:"),
        el("p", { class: "address" }, fingerprint),
        el(
          "fieldset",
          {},
          el("legend", {}, "How much traffic"),
          el("p", { class: "tick" }, ...rate("normal", `Normal: about ${size(monthly.normal)} a month each way`, true)),
          el("p", { class: "tick" }, ...rate("low", `Low, for a phone: about ${size(monthly.low)} a month each way, and slower`, false)),
          el("p", { class: "hint" }, "Traffic flows as long as Shoal runs, whether you write or not: that hides when you do. Your provider and your gateway can see which of the two you use."),
        ),
        el("div", { class: "buttons" }, button("Make my profile", make, { class: "first", id: "make-profile" })),
      ];
    }
    main.replaceChildren(
      el(
        "section",
        { class: "card" },
        logo(),
        el("h1", {}, "Welcome to Shoal"),
        el("p", {}, "Messages travel so that nobody learns who writes to whom. Not hidden: that you use Shoal, and when you are online."),
        el("p", {}, "You need the network file, which the people who run a network give to its users."),
        field("Network file", file, `Your profile will be kept in ${profile}.`),
        error,
        next,
      ),
    );
    file.focus();
  });
}
