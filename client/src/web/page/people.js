// Addresses, contacts, requests, groups.

import { blob, call } from "./api.js";
import { title } from "./chats.js";
import { button, complain, dialog, el, field, icon, notice } from "./dom.js";
import { short } from "./words.js";

/** The own address, to be given to others; or given up for another one. */
export async function showAddress({ address, moving }) {
  const code = el("img", { class: "code", alt: "Your address as a QR code", width: 240, height: 240 });
  const url = await blob("/api/address.svg").then((content) => URL.createObjectURL(content)).catch(() => null);
  if (url) code.src = url;
  const wanted = await dialog("My address", (close) => [
    el("p", {}, "Give it to people who shall write to you. Who has it can send you a request; you decide."),
    url ? code : null,
    el("p", { class: "address", id: "own-address" }, address),
    moving ? el("p", { class: "hint" }, `${moving === 1 ? "One conversation has" : `${moving} conversations have`} not heard of it yet. That takes up to an hour while this client runs.`) : null,
    el(
      "div",
      { class: "buttons" },
      button("New address…", () => close("new"), { class: "second", id: "new-address" }),
      button("Copy", () => navigator.clipboard.writeText(address).then(() => notice("Copied"), () => notice("It cannot be copied here: mark it and copy it by hand", "bad")), { class: "first", autofocus: true }),
      button("Done", () => close(), { class: "second" }),
    ),
  ].filter(Boolean));
  if (url) URL.revokeObjectURL(url);
  if (wanted === "new" && (await changeAddress())) await showAddress(await call("address"));
}

/** Whether the user gave the address up. */
function changeAddress() {
  return dialog("New address", (close) => [
    el("p", {}, "For an address that has come into wrong hands. People with whom you have a conversation follow by themselves, in groups too."),
    el("p", {}, "Whoever only has the old address does not reach you any more. It cannot be taken back."),
    el(
      "div",
      { class: "buttons" },
      button("Take a new address", () => call("new_address").then(() => close(true), complain), { class: "first", id: "take-address" }),
      button("Keep it", () => close(false), { class: "second", autofocus: true }),
    ),
  ]);
}

/** A form in a dialog: `submit` is given the values; what it refuses is shown there. */
function ask(title, fields, words, submit) {
  return dialog(title, (close) => {
    const error = el("p", { class: "error", role: "alert", hidden: true });
    const send = el("button", { type: "submit", class: "first" }, words);
    const form = el("form", { novalidate: true }, ...fields, error, el("div", { class: "buttons" }, button("Cancel", () => close(), { class: "second" }), send));
    form.querySelector("input, select").setAttribute("autofocus", "");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      send.disabled = true;
      try {
        close(await submit());
      } catch (problem) {
        error.hidden = false;
        error.textContent = problem.next ? `${problem.message}. ${problem.next}.` : problem.message;
        send.disabled = false;
      }
    });
    return [form];
  });
}

/** Adds a contact, or names one; the promise has it, or `null`. */
export function addContact({ address = "", name = "" } = {}) {
  const named = el("input", { autocomplete: "off", required: true, maxlength: 64, value: name });
  const whose = el("input", { autocomplete: "off", required: true, spellcheck: "false", value: address, readonly: address !== "" });
  const fields = [field("Name", named, "Your name for them. They do not learn it."), field("Address", whose, "shoal1…, or an invite, as they gave it to you")];
  return ask(address ? "Give a name" : "Add contact", fields, address ? "Save" : "Add", () => call("add", { name: named.value.trim(), address: whose.value.trim() }));
}

/** Makes an invite and shows it, with those that nobody has used yet. */
export async function invite() {
  const name = el("input", { autocomplete: "off", maxlength: 64 });
  const made = await ask("Invite somebody", [field("Name", name, "Your name for whoever uses it. They do not learn it.")], "Make an invite", () => {
    const wanted = name.value.trim();
    return call("invite", wanted ? { name: wanted } : {});
  });
  if (!made) return;
  const others = (await call("invites").catch(() => [])).filter((open) => open.number !== made.number);
  await dialog(made.name ? `Invite for ${made.name}` : "Invite", (close) => [
    el("p", {}, `It works once, until ${new Date(made.ends_at).toLocaleString()}, for whoever uses it first: give it over a channel that you trust. They add a contact with it.`),
    el("p", { class: "address", id: "invite-text" }, made.invite),
    others.length ? el("h3", {}, "Not used yet") : null,
    others.length ? el("ul", { class: "invites" }, others.map(openInvite)) : null,
    el(
      "div",
      { class: "buttons" },
      button("Copy", () => navigator.clipboard.writeText(made.invite).then(() => notice("Copied"), () => notice("It cannot be copied here: mark it and copy it by hand", "bad")), { class: "first", autofocus: true }),
      button("Done", () => close(), { class: "second" }),
    ),
  ].filter(Boolean));
}

/** An open invite, which can be taken back. */
function openInvite(open) {
  const line = el("li", {}, `${open.name ?? "no name"}, until ${new Date(open.ends_at).toLocaleDateString()} `);
  line.append(button("Withdraw", () => call("withdraw", { number: open.number }).then(() => line.remove(), complain), { class: "second" }));
  return line;
}

export function newGroup() {
  const name = el("input", { autocomplete: "off", required: true, maxlength: 64 });
  return ask("New group", [field("Name", name, "All members see it.")], "Create", () => call("group_create", { name: name.value.trim() }));
}

export function addMember(conversation, contacts) {
  const options = contacts.filter((contact) => !contact.blocked).map((contact) => el("option", { value: contact.name }));
  const list = el("datalist", { id: "contact-names" }, options);
  const who = el("input", { autocomplete: "off", required: true, list: "contact-names" });
  return ask("Add to the group", [field("Contact or address", who), list], "Add", () => call("group_add", { conversation, who: who.value.trim() }));
}

/** Takes somebody out of a group. */
function removeMember(chat) {
  const others = chat.members.filter((member) => !member.self);
  const who = el("select", {}, others.map((member) => el("option", { value: member.address }, short(member.name))));
  return ask("Remove from the group", [field("Member", who, "They read nothing that is written after it.")], "Remove", () => call("group_remove", { conversation: chat.key, who: who.value }));
}

export function renameGroup(conversation, old) {
  const name = el("input", { autocomplete: "off", required: true, maxlength: 64, value: old });
  return ask("Rename the group", [field("Name", name, "All members see it.")], "Rename", () => call("group_rename", { conversation, name: name.value.trim() }));
}

/** Asks once more before a group is left. */
function leaveGroup(chat) {
  return dialog(`Leave ${chat.name}?`, (close) => [
    el("p", {}, "You get none of its messages any more. What you have stays here."),
    el("div", { class: "buttons" }, button("Stay", () => close(null), { class: "second", autofocus: true }), button("Leave", () => call("group_leave", { conversation: chat.key }).then(() => close(true), complain), { class: "first" })),
  ]);
}

/** What a stranger's conversation begins with. */
export function request(chat, app) {
  const who = (name) => (name === null ? "A stranger" : name.startsWith("shoal1") ? short(name) : name);
  const answer = async (method) => {
    try {
      await call(method, { who: chat.key });
      notice(method === "accept" ? "Accepted" : "Blocked");
      await app.refresh();
      app.show(chat.key);
    } catch (error) {
      complain(error);
    }
  };
  return el(
    "section",
    { class: "request", "aria-label": "Request of a stranger" },
    el("h2", {}, chat.group ? `${who(chat.addedBy)} added you to a group` : "A stranger wrote to you"),
    chat.address ? el("p", { class: "address" }, chat.address) : null,
    el("p", {}, "Until you accept, they cannot learn that you read this. Writing back accepts too. When you block, they do not learn of it."),
    el("div", { class: "buttons" }, button("Accept", () => answer("accept"), { class: "first", id: "accept" }), button("Block", () => answer("block"), { class: "second", id: "block" })),
  );
}

const STANDINGS = {
  left: "you left it",
  removed: "you are not in it any more",
  away: "you were away for too long: a member adds you again by itself, and what you write waits",
};

/** The safety number, to be compared on another way than Shoal. */
async function verify(chat, app) {
  try {
    const number = await call("verify", { who: chat.address });
    const compared = await dialog(`Verify ${title(chat)}`, (close) => [
      el("p", {}, "Compare this with what the other side sees, in person or on a call. The same on both sides: nobody stands between you."),
      el("p", { class: "address", id: "digits" }, number.digits),
      el("p", { class: "address" }, number.words),
      number.verified ? el("p", { class: "hint" }, "You compared it before.") : null,
      el("div", { class: "buttons" }, button("Close", () => close(null), { class: "second", autofocus: true }), number.verified ? null : button("It is the same", () => close(true), { class: "first", id: "same" })),
    ].filter(Boolean));
    if (!compared) return;
    await call("verify", { who: chat.address, confirm: true });
    notice(`${title(chat)} is verified`);
    await app.refresh();
  } catch (error) {
    complain(error);
  }
}

/** The head of a conversation, and what can be done with it. */
export function head(chat, app) {
  const facts = [];
  if (chat.group) facts.push(members(chat));
  else if (chat.name !== chat.address) facts.push(short(chat.address));
  if (chat.verified) facts.push("verified");
  if (chat.waiting) facts.push("not found yet: they must have run Shoal once on this network");
  if (chat.broken) {
    const next = chat.group ? "leave it, and ask a member who can write to add you again" : "agree on a new beginning";
    facts.push(`broken: its members went on from different states; ${next}`);
  }
  if (chat.standing !== "member") facts.push(STANDINGS[chat.standing]);
  const rename = async () => {
    if (await addContact({ address: chat.address, name: chat.name === chat.address ? "" : chat.name })) await app.refresh();
  };
  const block = async () => {
    try {
      await call(chat.blocked ? "accept" : "block", { who: chat.key });
      await app.refresh();
      app.show(chat.key);
    } catch (error) {
      complain(error);
    }
  };
  const invite = async () => {
    if (await addMember(chat.key, app.contacts)) await app.refresh();
  };
  const removed = async () => {
    if (await removeMember(chat)) await app.refresh();
  };
  const named = async () => {
    if (await renameGroup(chat.key, chat.name)) await app.refresh();
  };
  const part = async () => {
    if (await leaveGroup(chat)) await app.refresh();
  };
  return el(
    "header",
    { class: "head" },
    el("button", { type: "button", class: "plain back", "aria-label": "Back to the conversations", on: { click: () => app.show(null) } }, icon("back")),
    el("div", { class: "titles" }, el("h1", { id: "chat-title" }, chat.name === chat.address ? short(chat.name) : chat.name), el("p", { class: "quiet" }, facts.join(" — "))),
    el(
      "div",
      { class: "tools" },
      chat.group && app.knows("group_add") ? button("Add member", invite, { class: "second", id: "add-member" }, "plus") : null,
      chat.group && app.knows("group_remove") && (chat.members ?? []).length > 1 ? button("Remove member", removed, { class: "second", id: "remove-member" }) : null,
      chat.group && app.knows("group_rename") ? button("Rename", named, { class: "second" }) : null,
      chat.group && app.knows("group_leave") ? button("Leave", part, { class: "second" }) : null,
      !chat.group && !chat.request && app.knows("verify") ? button("Verify", () => verify(chat, app), { class: "second", id: "verify" }) : null,
      chat.group ? null : button(chat.name === chat.address ? "Name" : "Rename", rename, { class: "second", id: "rename" }),
      chat.group || chat.request ? null : button(chat.blocked ? "Unblock" : "Block", block, { class: "second" }),
    ),
  );
}

/** What is said of a member that is not simply in it. */
const MEMBERS = { wanted: " (being added)", invited: " (added)", leaving: " (leaving)", away: " (away)", apart: " (apart)" };

function members(chat) {
  if (!chat.members) return "group";
  const named = ({ self, name, state }) => `${self ? "you" : short(name)}${MEMBERS[state] ?? ""}`;
  return `${chat.members.length} members: ${chat.members.map(named).join(", ")}`;
}
