// Files in a conversation: pictures are shown, everything is saved only when it is asked for.

import { blob, call } from "./api.js";
import { button, complain, el, icon } from "./dom.js";
import { size } from "./words.js";

/** Largest picture that is shown, as the daemon has it. */
const PICTURE_MAX = 24 * 1024 * 1024;
const PICTURE = /\.(png|jpe?g|gif|webp)$/i;

/** Pictures that this tab sent, by message: the daemon does not keep them. */
const sent = new Map();
/** Pictures that were fetched, by cursor; the oldest are let go. */
const fetched = new Map();
const FETCHED_MAX = 40;

export function remember(id, content) {
  if (content.type.startsWith("image/")) sent.set(id, URL.createObjectURL(content));
}

function keep(cursor, content) {
  if (fetched.size >= FETCHED_MAX) {
    const [oldest, url] = fetched.entries().next().value;
    URL.revokeObjectURL(url);
    fetched.delete(oldest);
  }
  const url = URL.createObjectURL(content);
  fetched.set(cursor, url);
  return url;
}

function image(url, name) {
  return el("img", { class: "picture", src: url, alt: `Picture: ${name}` });
}

/** A place that becomes the picture once it is there; nothing when it is none. */
function picture(entry) {
  const { cursor, file } = entry;
  if (entry.own) return sent.has(entry.id) ? image(sent.get(entry.id), file.name) : null;
  if (!PICTURE.test(file.name) || file.size > PICTURE_MAX) return null;
  if (fetched.has(cursor)) return image(fetched.get(cursor), file.name);
  const place = el("div", { class: "picture-place" });
  const show = async () => {
    place.replaceChildren(el("p", { class: "quiet" }, "Loading the picture…"));
    try {
      place.replaceChildren(image(keep(cursor, await blob(`/api/pictures/${cursor}`)), file.name));
    } catch (error) {
      place.replaceChildren(el("p", { class: "quiet" }, error.status === 415 ? "Not a picture that can be shown here" : error.message));
    }
  };
  // a stranger's picture is decoded only when it is asked for
  if (entry.request) place.append(button("Show the picture", show, { class: "second" }));
  else show();
  return place;
}

async function save(entry) {
  try {
    const url = URL.createObjectURL(await blob(`/api/files/${entry.cursor}`));
    const link = el("a", { href: url, download: entry.file.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  } catch (error) {
    complain(error);
  }
}

/** How far an own file has come, in boxes, as long as it has not arrived at the stores. */
export function progress(entry) {
  const { parts, state } = entry;
  if (!parts || (state !== "queued" && state !== "sent")) return null;
  const share = Math.floor((100 * parts.written) / Math.max(1, parts.all));
  return el(
    "div",
    { class: "progress" },
    el("progress", { max: parts.all, value: parts.written, "aria-label": "Written to the stores" }),
    el("span", {}, `${share} % of ${parts.all} boxes`),
    button("Cancel", () => call("cancel", { id: entry.id }).catch(complain), { class: "second", "aria-label": "Take this file back" }),
  );
}

/** Looks at how far own files have come, until they are there; `changed` is told of each. */
export async function follow(entries, changed) {
  for (const entry of entries) {
    if (!entry.own || !entry.parts || (entry.state !== "queued" && entry.state !== "sent")) continue;
    try {
      const { state, parts, waits_for } = await call("state", { id: entry.id });
      if (parts && (parts.written !== entry.parts.written || state !== entry.state)) changed({ ...entry, state, parts, waits_for });
    } catch {
      // the next look may succeed
    }
  }
}

export function draw(entry) {
  const { file } = entry;
  const line = el(
    "div",
    { class: "file" },
    icon("file"),
    el("span", { class: "file-name" }, file.name),
    el("span", { class: "quiet" }, size(file.size)),
    entry.own ? null : button("Save", () => save(entry), { class: "second", "aria-label": `Save ${file.name}` }, "save"),
  );
  return [picture(entry), line];
}
