// The messages of one conversation.

import { call } from "./api.js";
import { button, complain, el, icon } from "./dom.js";
import { draw as drawFile, follow, progress } from "./files.js";
import { STATES, WAITS, clock, day, full, short } from "./words.js";

const PAGE = 50;
/** Entries that are kept on the screen; older ones can be had again. */
const KEPT = 1000;
/** How often the progress of own files is looked at, in ms. */
const LOOK = 1000;

function state(entry) {
  const [word, meaning] = STATES[entry.state];
  const waits = entry.waits_for ? WAITS[entry.waits_for] : meaning;
  return el("span", { class: `state ${entry.state}`, title: waits }, icon(entry.state), word);
}

function bubble(entry, group) {
  const at = entry.received_at ?? entry.sent_at;
  const from = entry.own ? "You" : short(entry.from);
  const head = el("span", { class: group && !entry.own ? "from" : "from unseen-words" }, `${from}: `);
  const body = entry.file ? drawFile(entry) : [el("p", { class: entry.text ? "text" : "text quiet", dir: "auto" }, entry.text || "(an empty message)")];
  const foot = el("div", { class: "foot" }, el("time", { datetime: new Date(at).toISOString(), title: full(entry.sent_at) }, clock(at)), entry.own ? state(entry) : null);
  return el("li", { class: entry.own ? "own" : "theirs", "data-cursor": entry.cursor }, el("div", { class: "bubble" }, head, ...body, entry.own ? progress(entry) : null, foot));
}

/** A conversation on the screen. `news` is called when something new is in it. */
export function timeline(chat, app) {
  let entries = [];
  let more = false;
  let ended = false;
  let seen = 0;
  // the log says what is new by itself; what was there before is not read out
  const list = el("ol", { class: "messages", role: "log", "aria-label": "Messages", "aria-live": "off" });
  const earlier = button("Earlier messages", () => load(), { class: "second earlier", hidden: true });
  const box = el("div", { class: "timeline", tabindex: "0", "aria-label": "Messages, scrolls" }, earlier, list);
  const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  // who is at the end stays there when a keyboard takes the room, or a picture comes later than its place
  let end = true;
  let measure = "";
  const size = () => `${box.clientHeight} ${box.scrollHeight}`;
  const stay = new ResizeObserver(() => {
    if (end) box.scrollTop = box.scrollHeight;
    measure = size();
  });
  stay.observe(box);
  stay.observe(list);

  function draw() {
    const nodes = [];
    let last = "";
    for (const entry of entries) {
      const date = day(entry.received_at ?? entry.sent_at);
      if (date !== last) nodes.push(el("li", { class: "day" }, el("span", {}, date)));
      last = date;
      const old = list.querySelector(`[data-cursor="${entry.cursor}"]`);
      const kept = old && old.entry === entry ? old : Object.assign(bubble(entry, chat.group), { entry });
      nodes.push(kept);
    }
    if (nodes.length === 0) nodes.push(el("li", { class: "day" }, el("span", {}, "No message yet")));
    list.replaceChildren(...nodes);
    earlier.hidden = !more;
  }

  function put(fresh) {
    const all = new Map(entries.map((entry) => [entry.cursor, entry]));
    for (const entry of fresh) all.set(entry.cursor, entry);
    entries = [...all.values()].sort((one, other) => one.cursor - other.cursor);
  }

  /** The newest page, or the one before what is there. */
  async function load() {
    try {
      const before = entries[0]?.cursor;
      const page = await call("timeline", { conversation: chat.key, limit: PAGE, ...(before ? { before } : {}) });
      if (ended) return;
      const height = box.scrollHeight - box.scrollTop;
      put(page.entries);
      more = page.more;
      seen = Math.max(seen, page.seen);
      draw();
      end = !before;
      box.scrollTop = before ? box.scrollHeight - height : box.scrollHeight;
      if (!before) setTimeout(() => list.setAttribute("aria-live", "polite"), 500);
      await look();
    } catch (error) {
      complain(error);
    }
  }

  /** What came after what is there. */
  async function catchUp() {
    try {
      for (;;) {
        const after = entries.at(-1)?.cursor ?? 0;
        const page = await call("timeline", { conversation: chat.key, after, limit: 200 });
        if (ended) return;
        put(page.entries);
        if (entries.length > KEPT) {
          entries = entries.slice(-KEPT);
          more = true;
        }
        draw();
        if (page.entries.some((entry) => entry.own)) end = true;
        if (end) box.scrollTop = box.scrollHeight;
        if (!page.more) break;
      }
      await look();
    } catch (error) {
      complain(error);
    }
  }

  /** The newest page anew, for states that may have been missed. */
  async function renew() {
    const page = await call("timeline", { conversation: chat.key, limit: PAGE });
    if (ended) return;
    put(page.entries);
    draw();
  }

  function change(entry) {
    const at = entries.findIndex((one) => one.cursor === entry.cursor);
    if (at < 0) return;
    entries[at] = entry;
    draw();
    if (end) box.scrollTop = box.scrollHeight;
  }

  /** An own message came further; `false` when it is not among those here. */
  function raise(id, state) {
    const entry = entries.find((one) => one.own && one.id === id);
    if (entry && entry.state !== state) change({ ...entry, state, waits_for: null });
    return entry !== undefined;
  }

  /** Says that what is on the screen was seen, when somebody can see it. */
  async function look() {
    const newest = entries.at(-1)?.cursor ?? 0;
    if (newest <= seen || document.hidden || !atEnd()) return;
    seen = newest;
    await call("seen", { conversation: chat.key, cursor: newest }).catch(() => {});
    app.refreshSoon();
  }

  const looking = setInterval(() => follow(entries, change), LOOK);
  const onVisible = () => look();
  document.addEventListener("visibilitychange", onVisible);
  box.addEventListener("scroll", () => {
    // a scroll that comes of another size was nobody's wish
    if (measure === size()) end = atEnd();
    look();
    if (box.scrollTop === 0 && more) load();
  }, { passive: true });

  return {
    box,
    load,
    catchUp,
    renew,
    raise,
    end() {
      ended = true;
      stay.disconnect();
      clearInterval(looking);
      document.removeEventListener("visibilitychange", onVisible);
    },
  };
}
