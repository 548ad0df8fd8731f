// Puts the page together: asks, listens, draws.

import { Refused, call, enter, hasSession, hush, leave, listen, methods, setup, whenLost } from "./api.js";
import { draw as drawChats, gather, title } from "./chats.js";
import { composer, moveDraft } from "./composer.js";
import { complain, el, notice } from "./dom.js";
import { addContact, head, invite, newGroup, request, showAddress } from "./people.js";
import { first, outside } from "./setup.js";
import { draw as drawStatus } from "./status.js";
import { timeline } from "./timeline.js";

/** How often the bar is brought up to date, in ms. */
const STATUS = 2000;
/** A tab that nobody sees for so long hears no events any more, and looks from time to time instead; both in ms. */
const UNSEEN = 30000;
const GLANCE = 20000;

const bar = document.getElementById("status");
const nav = document.getElementById("chats");
const main = document.getElementById("main");

let known = new Set();
let chats = [];
let shown = null;
let reachable = true;
let refreshing = null;

const app = {
  status: null,
  contacts: [],
  open: null,
  knows: (method) => known.has(method),
  /** What a conversation is called now. */
  titleOf(key) {
    const chat = chats.find((chat) => chat.key === key);
    return chat ? title(chat) : "nobody";
  },
  show,
  refresh,
  refreshSoon,
  /** After something was written. */
  async written() {
    await Promise.all([shown?.timeline.catchUp(), refresh()]);
    shown?.composer?.renew();
  },
  async showAddress() {
    try {
      await showAddress(await call("address"));
    } catch (error) {
      complain(error);
    }
  },
  async addContact() {
    const contact = await addContact();
    if (!contact) return;
    await refresh();
    show(contact.conversation ?? contact.address);
  },
  invite,
  async newGroup() {
    const group = await newGroup();
    if (!group) return;
    await refresh();
    show(group.conversation);
  },
};

/** Several changes in a row are one look. */
function refreshSoon() {
  refreshing ??= setTimeout(() => {
    refreshing = null;
    refresh().catch(complain);
  }, 150);
}

async function refresh() {
  const [contacts, conversations, overview] = await Promise.all([call("contacts"), call("conversations"), call("overview")]);
  app.contacts = contacts;
  chats = gather({ contacts, conversations, overview });
  // a conversation that began has another key than the address that was waited for
  const before = shown?.chat;
  if (before && !chats.some((chat) => chat.key === before.key)) {
    const now = chats.find((chat) => chat.address && chat.address === before.address);
    if (now) {
      moveDraft(before.key, now.key);
      show(now.key);
    }
  }
  redrawHead();
  drawList();
}

function drawList() {
  drawChats(nav, chats, app);
  const unseen = chats.filter((chat) => !chat.blocked).reduce((sum, chat) => sum + chat.unseen, 0);
  document.title = unseen > 0 ? `(${unseen}) Shoal` : "Shoal";
}

/** The head of what is open follows what is known of it. */
function redrawHead() {
  const now = chats.find((chat) => chat.key === app.open);
  if (!shown || !now) return;
  const place = main.querySelector(".head");
  const fresh = head(now, app);
  if (place && !place.isEqualNode(fresh)) {
    const focused = [...place.querySelectorAll("button")].indexOf(document.activeElement);
    place.replaceWith(fresh);
    fresh.querySelectorAll("button")[focused]?.focus();
  }
  // the messages say who wrote them
  if (now.name !== shown.chat.name) shown.timeline.renew().catch(complain);
  shown.chat.name = now.name;
  const other = ["request", "blocked", "broken", "standing"].some((what) => shown.chat[what] !== now[what]);
  if (other) show(now.key);
}

function show(key) {
  shown?.timeline.end();
  shown = null;
  app.open = key;
  document.body.classList.toggle("reading", key !== null);
  const chat = chats.find((chat) => chat.key === key);
  if (!chat) {
    app.open = null;
    main.replaceChildren(el("p", { class: "quiet centred" }, chats.length ? "Choose a conversation." : "Add a contact to begin."));
    drawList();
    nav.querySelector("button.chat")?.focus();
    return;
  }
  const messages = timeline(chat, app);
  const writes = !chat.blocked && !chat.broken && ["member", "away"].includes(chat.standing) ? composer(chat, app) : null;
  shown = { chat, timeline: messages, composer: writes };
  main.replaceChildren(...[head(chat, app), chat.request ? request(chat, app) : null, messages.box, writes?.form].filter(Boolean));
  messages.load();
  writes?.renew();
  writes?.warn(app.status);
  writes?.grow();
  drawList();
  if (chat.request) main.querySelector("#accept")?.focus();
  else writes?.focus();
}

function happened(event) {
  if (event.state) {
    if (!shown?.timeline.raise(event.state.id, event.state.state)) shown?.timeline.catchUp();
    refreshSoon();
  } else if (event.message) {
    if (event.message.conversation === app.open) shown.timeline.catchUp();
    else notice(`${event.message.from.length > 30 ? "A stranger" : event.message.from} wrote`);
    refreshSoon();
  } else if (event.warning) {
    notice(event.warning.message, "bad");
  } else if (event.missed !== undefined) {
    again();
  } else {
    refreshSoon();
  }
}

/** After something may have been missed. */
async function again() {
  try {
    await refresh();
    await shown?.timeline.catchUp();
    await shown?.timeline.renew();
  } catch (error) {
    complain(error);
  }
}

async function lookAtStatus() {
  if (!hasSession()) return;
  try {
    app.status = await call("status");
    reachable = true;
  } catch (error) {
    if (error instanceof Refused && error.code === "unreachable") reachable = false;
  }
  if (!hasSession()) return;
  drawStatus(bar, app.status, reachable, () => leave().catch(() => {}));
  shown?.composer?.warn(app.status);
}

function stop(why) {
  shown?.timeline.end();
  shown = null;
  bar.replaceChildren();
  nav.replaceChildren();
  document.body.classList.remove("reading");
  document.body.classList.add("outside");
  outside(main, why);
}

/** Files that are dropped anywhere are for the conversation that is open. */
function takeDrops() {
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer?.files.length) shown?.composer?.offer(event.dataTransfer.files);
  });
}

async function begin() {
  // a fresh link in the same tab changes only the fragment, which loads nothing by itself
  window.addEventListener("hashchange", () => location.hash.length > 1 && location.reload());
  whenLost(() => stop("The session is over."));
  try {
    await enter();
  } catch (error) {
    return stop(error.next ? `${error.message}: ${error.next}.` : error.message);
  }
  if (!hasSession()) return stop(null);
  try {
    const { needed, profile } = await setup.needed();
    if (needed) {
      document.body.classList.add("outside");
      await first(main, profile);
      document.body.classList.remove("outside");
    }
    await started();
  } catch (error) {
    if (hasSession()) stop(error.message);
    return;
  }
  takeDrops();
  setInterval(() => document.hidden || lookAtStatus(), STATUS);
  setInterval(() => document.hidden && hasSession() && Promise.all([lookAtStatus(), refresh()]).catch(() => {}), GLANCE);
  let hushing = null;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hushing);
    if (document.hidden) hushing = setTimeout(() => hush(true), UNSEEN);
    else hush(false);
  });
  listen(happened, (stands) => {
    if (stands) again();
    lookAtStatus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && app.open !== null && !document.querySelector("dialog")) show(null);
  });
}

/** The daemon begins a moment after its profile is there. */
async function started() {
  known = await methods();
  for (let tries = 0; ; tries += 1) {
    try {
      await lookAtStatus();
      await refresh();
      show(null);
      return;
    } catch (error) {
      if (tries > 50 || !["starting", "no_profile"].includes(error.code)) throw error;
      await new Promise((wake) => setTimeout(wake, 200));
    }
  }
}

begin();
