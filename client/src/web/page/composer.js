// Where one writes: text, files, how long it takes, and a word of caution before it leaves.

import { call, upload } from "./api.js";
import { button, complain, dialog, el, notice } from "./dom.js";
import { remember } from "./files.js";
import { asksFirst, caution, size, span } from "./words.js";

/** As many bytes of UTF-8 a text may have, and a file. */
const TEXT_MAX = 1 << 20;
const FILE_MAX = 64 * 1024 * 1024;
/** Kinds that the browser can save anew without what cameras hide in them. */
const CLEANABLE = ["image/jpeg", "image/png", "image/webp"];

/** Texts that were begun, by conversation: they stay while one looks elsewhere. */
const drafts = new Map();
/** A conversation that began has another key than the address that was written to. */
export function moveDraft(from, to) {
  if (drafts.has(from)) drafts.set(to, drafts.get(from));
  drafts.delete(from);
}

/** The caution that was last waved through. */
let waved = null;

/** Asks once per reason; the reason is what the bar says too. */
async function allowed(status) {
  const why = caution(status);
  if (!asksFirst(status) || waved === `${status.state} ${status.cause}`) return true;
  const answer = await dialog("Send now?", (close) => [
    el("p", {}, why),
    el("div", { class: "buttons" }, button("Wait", () => close(false), { class: "second", autofocus: true }), button("Send all the same", () => close(true), { class: "first" })),
  ]);
  if (answer) waved = `${status.state} ${status.cause}`;
  return answer === true;
}

/** The picture drawn anew: what a camera wrote beside it (place, time, serial number) is gone. */
async function cleaned(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const content = await new Promise((resolve) => canvas.toBlob(resolve, file.type, 0.92));
  if (!content) throw new Error("The picture cannot be saved anew");
  return content;
}

export function composer(chat, app) {
  const input = el("textarea", { rows: 1, id: "text", placeholder: "Write a message", "aria-label": `Message to ${app.titleOf(chat.key)}`, "aria-describedby": "estimate" });
  const chooser = el("input", { type: "file", id: "file", class: "unseen-words", tabindex: "-1", "aria-label": "Choose a file", multiple: true });
  const estimate = el("p", { id: "estimate", class: "hint" });
  const warning = el("p", { class: "caution", role: "status", hidden: true });
  const tray = el("div", { class: "tray" });
  const send = button("Send", () => sendText(), { class: "first", id: "send" }, "send");
  const attach = button("File", () => chooser.click(), { class: "second", id: "attach" }, "clip");
  input.value = drafts.get(chat.key) ?? "";
  const form = el("div", { class: "composer" }, warning, tray, el("div", { class: "row" }, attach, chooser, input, send), estimate);

  function grow() {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 200)}px`;
  }

  async function sendText() {
    const text = input.value;
    if (text === "" || send.disabled) return;
    if (new TextEncoder().encode(text).length > TEXT_MAX) return notice("This text is too long: send it as a file", "bad");
    if (!(await allowed(app.status))) return;
    send.disabled = true;
    try {
      await call("send", { to: chat.key, text });
      input.value = "";
      drafts.delete(chat.key);
      grow();
      await app.written();
    } catch (error) {
      complain(error);
    } finally {
      send.disabled = false;
      input.focus();
    }
  }

  async function sendFile(file, clean) {
    if (!(await allowed(app.status))) return;
    const bar = el("progress", { max: 1, value: 0, "aria-label": `Taking in ${file.name}` });
    const line = el("div", { class: "taken" }, el("span", {}, `Taking in ${file.name}`), bar);
    tray.append(line);
    try {
      const content = clean ? await cleaned(file) : file;
      const { id } = await upload(chat.key, file.name, content, (share) => (bar.value = share));
      remember(id, content);
      await app.written();
    } catch (error) {
      complain(error);
    } finally {
      line.remove();
    }
  }

  /** A file that was chosen is looked at once more before it goes. */
  async function offer(file) {
    if (file.size > FILE_MAX) return notice(`${file.name} is too large: at most ${size(FILE_MAX)} can be sent`, "bad");
    const cleanable = CLEANABLE.includes(file.type);
    const { arrives_ms: takes } = await call("estimate", { conversation: chat.key, bytes: file.size }).catch(() => ({ arrives_ms: null }));
    const url = cleanable || file.type === "image/gif" ? URL.createObjectURL(file) : null;
    const tick = el("input", { type: "checkbox", id: "clean", checked: true });
    const chosen = await dialog(`Send to ${app.titleOf(chat.key)}`, (close) => [
      url ? el("img", { class: "picture", src: url, alt: `Picture: ${file.name}` }) : null,
      el("p", {}, el("strong", {}, file.name), ` — ${size(file.size)}`),
      takes ? el("p", { class: "hint" }, `It takes about ${span(takes)} to arrive, if they are online. This is an estimate.`) : null,
      cleanable ? el("p", { class: "tick" }, tick, el("label", { for: "clean" }, "Remove what cameras hide in pictures, such as the place (saves the picture anew)")) : null,
      el("div", { class: "buttons" }, button("Cancel", () => close(null), { class: "second" }), button("Send", () => close({ clean: cleanable && tick.checked }), { class: "first", autofocus: true, id: "send-file" })),
    ].filter(Boolean));
    if (url) setTimeout(() => URL.revokeObjectURL(url), 1000);
    if (chosen) await sendFile(file, chosen.clean);
  }

  async function offerAll(files) {
    for (const file of [...files].slice(0, 20)) await offer(file);
  }

  input.addEventListener("input", () => {
    drafts.set(chat.key, input.value);
    grow();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      sendText();
    }
  });
  input.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length > 0) {
      event.preventDefault();
      offerAll(event.clipboardData.files);
    }
  });
  chooser.addEventListener("change", () => {
    const files = [...chooser.files];
    chooser.value = "";
    offerAll(files);
  });

  /** Says how long a text takes, as long as there is any sense in it. */
  async function renew() {
    const goes = !["offline", "pause", "stopped"].includes(app.status?.state);
    const { arrives_ms: takes } = goes ? await call("estimate", { conversation: chat.key }).catch(() => ({})) : {};
    const keys = el("span", { class: "keys" }, " Enter sends, Shift+Enter begins a line.");
    estimate.replaceChildren(takes ? `A text takes about ${span(takes)} to arrive, if they are online (an estimate).` : "", keys);
  }

  let state = app.status?.state;
  return {
    form,
    renew,
    focus: () => input.focus(),
    offer: offerAll,
    grow,
    /** What the bar says, where it is written. */
    warn(status) {
      const why = caution(status);
      warning.hidden = !why;
      if (why !== warning.textContent) warning.textContent = why ?? "";
      if (state !== status?.state) renew();
      state = status?.state;
    },
  };
}
