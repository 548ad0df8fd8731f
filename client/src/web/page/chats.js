// The list of conversations, requests of strangers first.

import { button, el, icon } from "./dom.js";
import { STATES, short, when } from "./words.js";

/** All there is to open, each with a key that every call takes. */
export function gather({ conversations, contacts, overview }) {
  const glance = new Map(overview.map((line) => [line.conversation, line]));
  const chats = conversations.map((line) => {
    const contact = contacts.find((contact) => contact.address === line.address);
    return {
      key: line.conversation,
      group: line.kind === "group",
      name: line.name ?? line.with,
      address: line.address ?? null,
      request: line.request,
      blocked: contact?.blocked ?? false,
      verified: contact?.verified ?? false,
      broken: line.broken,
      standing: line.quit && line.standing === "removed" ? "left" : (line.standing ?? "member"),
      addedBy: line.added_by ?? null,
      members: line.members ?? null,
      waiting: null,
      ...seen(glance.get(line.conversation)),
    };
  });
  for (const contact of contacts) {
    if (contact.conversation !== null || chats.some((chat) => chat.address === contact.address)) continue;
    chats.push({
      key: contact.address,
      group: false,
      name: contact.name,
      address: contact.address,
      request: contact.request,
      blocked: contact.blocked,
      verified: contact.verified ?? false,
      broken: false,
      standing: "member",
      members: null,
      waiting: contact.waiting_since,
      ...seen(glance.get(contact.address)),
    });
  }
  return chats.sort((one, other) => (other.newest?.cursor ?? 0) - (one.newest?.cursor ?? 0) || one.name.localeCompare(other.name));
}

const seen = (line) => ({ unseen: line?.unseen ?? 0, newest: line?.newest ?? null });

/** A name as it is shown: strangers have none but their address. */
export const title = (chat) => (chat.name === chat.address ? short(chat.name) : chat.name);

function preview(entry) {
  if (!entry) return "No message yet";
  const what = entry.file ? entry.file.name : entry.text.slice(0, 120) || "(empty)";
  return entry.own ? `You: ${what}` : what;
}

function row(chat, isOpen, open) {
  const { newest, unseen } = chat;
  const count = unseen >= 1000 ? "999+" : String(unseen);
  const state = newest?.own ? newest.state : null;
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: unseen > 0 ? "chat counted" : "chat", "aria-current": isOpen ? "true" : null, on: { click: () => open(chat.key) } },
      el("span", { class: `face ${chat.group ? "group" : ""}` }, icon(chat.group ? "group" : "person")),
      el("span", { class: "chat-name" }, title(chat)),
      el("span", { class: "chat-when" }, newest ? when(newest.received_at ?? newest.sent_at) : ""),
      el("span", { class: "chat-text" }, state ? icon(state) : null, state ? el("span", { class: "unseen-words" }, `${STATES[state][0]}: `) : null, preview(newest)),
      unseen > 0 ? el("span", { class: "count" }, count, el("span", { class: "unseen-words" }, unseen === 1 ? " new message" : " new messages")) : null,
    ),
  );
}

function section(name, chats, app) {
  if (chats.length === 0) return null;
  const list = el("ul", { class: "chat-list" }, chats.map((chat) => row(chat, chat.key === app.open, app.show)));
  return el("section", { "aria-label": name }, el("h2", {}, name), list);
}

/** Draws the list; the focus stays where it was. */
export function draw(nav, chats, app) {
  const focused = nav.contains(document.activeElement) ? [...nav.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  const requests = chats.filter((chat) => chat.request && !chat.blocked);
  const blocked = chats.filter((chat) => chat.blocked);
  const others = chats.filter((chat) => !chat.request && !chat.blocked);
  const actions = el(
    "div",
    { class: "actions" },
    button("My address", app.showAddress, { class: "second", id: "my-address" }, "person"),
    button("Add contact", app.addContact, { class: "second", id: "add-contact" }, "plus"),
    app.knows("invite") ? button("Invite", app.invite, { class: "second", id: "invite" }, "plus") : null,
    app.knows("group_create") ? button("New group", app.newGroup, { class: "second", id: "new-group" }, "group") : null,
  );
  const empty = el("p", { class: "quiet centred" }, "Nobody here yet. Give your address to somebody, or add theirs.");
  nav.replaceChildren(
    ...[actions, section("Requests", requests, app), section("Conversations", others, app), others.length + requests.length === 0 ? empty : null, section("Blocked", blocked, app)].filter(Boolean),
  );
  if (focused >= 0) nav.querySelectorAll("button")[focused]?.focus();
}
