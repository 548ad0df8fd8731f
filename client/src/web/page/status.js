// The bar that is always there: connection, gateway, epoch, loops, anonymity now; and what to do when it is not well.

import { call } from "./api.js";
import { button, complain, dialog, el, icon } from "./dom.js";
import { CONDITIONS, caution } from "./words.js";

function fact(name, value, title) {
  return el("div", { class: "fact", title }, el("dt", {}, name), el("dd", {}, value));
}

function hiding(status) {
  if (status.hiding_among === null) return ["Anonymity", "unknown", "No document of the network is held yet."];
  if (status.test_network) return ["Anonymity", "none (test network)", "This is a network for tests: there is nobody to hide among."];
  const among = new Intl.NumberFormat().format(status.hiding_among);
  return ["You hide", `among about ${among}, at most ${status.anonymity_bits} bits`, `At most ${status.anonymity_bits} bits: an upper bound, made of the traffic that every client can count on.`];
}

/** Draws the bar. `reachable`: the daemon answers. */
export function draw(bar, status, reachable, leave) {
  const state = reachable ? (status?.state ?? "starting") : "offline";
  const word = reachable ? CONDITIONS[state] : "Shoal has stopped";
  const chip = el("p", { class: `chip ${state}`, id: "condition" }, icon(state), el("strong", {}, word));
  const parts = [el("p", { class: "brand" }, "Shoal"), chip];
  if (status && reachable) {
    const [name, value, title] = hiding(status);
    const loops = status.loop_survival === null ? "—" : `${Math.round(100 * status.loop_survival)} %`;
    parts.push(
      el(
        "dl",
        { class: "facts" },
        fact(name, value, title),
        fact("Loops back", loops, "Share of the recent test packets that came back"),
        fact("Epoch", status.epoch ?? "—", "Epoch of the newest document of the network"),
        fact("Gateway", status.gateway ? status.gateway.slice(0, 8) : "none", status.gateway ?? "No link stands"),
        fact("Network", status.network, `Fingerprint: ${status.fingerprint}`),
      ),
    );
  }
  const told = reachable ? (status?.notices ?? []) : [];
  if (told.length) parts.push(button(told.length === 1 ? "1 notice" : `${told.length} notices`, () => read(told), { class: "plain", id: "told", "data-last": told[told.length - 1].number }));
  parts.push(button("Close session", leave, { class: "plain leave", title: "This tab can do nothing more until it is opened by a fresh link" }));
  const said = reachable ? advice(status) : "The daemon does not answer. Start it with: shoal up --web";
  if (said) parts.push(el("p", { class: `advice ${state}`, role: "status" }, said));
  replace(bar, parts);
}

/** What happened while nobody looked; it is forgotten when it was read. */
async function read(told) {
  const line = (one) => el("li", {}, el("time", { datetime: new Date(one.at).toISOString() }, new Date(one.at).toLocaleString()), ` ${one.message}.`);
  const done = await dialog("What happened", (close) => [
    el("ul", {}, told.map(line)),
    el("div", { class: "buttons" }, button("Seen", () => close(true), { class: "first", autofocus: true }), button("Later", () => close(false), { class: "second" })),
  ]);
  if (done) await call("notices_seen", { number: told[told.length - 1].number }).catch(complain);
}

function advice(status) {
  if (!status || status.state === "good" || status.state === "starting") return null;
  return [caution(status), sentence(status.next)].filter(Boolean).join(" ");
}

function sentence(text) {
  if (!text) return "";
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

/** Only when something changed: who reads with the ears is not told the same again. */
function replace(bar, parts) {
  const fresh = el("div", { class: "bar" }, ...parts);
  const focused = bar.contains(document.activeElement);
  if (bar.firstElementChild?.isEqualNode(fresh)) return;
  bar.replaceChildren(fresh);
  if (focused) bar.querySelector("button")?.focus();
}
