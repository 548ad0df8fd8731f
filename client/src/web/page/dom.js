// Elements. Text from anybody is only ever set as text: there is no way from here to markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties (`class`, `on`, attributes) and children: elements or text. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "class") {
      element.className = value;
    } else if (value === true) {
      element.setAttribute(name, "");
    } else {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

// Drawn on a grid of 16 by 16, as lines.
const PATHS = {
  queued: "M8 4v4l3 2 M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13",
  sent: "M8 13V3 M3.5 7.5L8 3l4.5 4.5",
  stored: "M3 8.5l3.5 3.5L13 4.5",
  delivered: "M1 8.5l3.5 3.5L11 4.5 M8 12l0 0L15 4.5",
  cancelled: "M4 4l8 8 M12 4l-8 8",
  back: "M10 3L5 8l5 5",
  clip: "M12.5 7L7.5 12a3 3 0 0 1-4.3-4.3l5.4-5.4a2 2 0 0 1 2.9 2.9L6.200 10.400a.9.9 0 0 1-1.300-1.300L9.500 4.600",
  send: "M2 8h11 M8.500 3.500L13 8l-4.500 4.500",
  good: "M3 8.500l3.500 3.500L13 4.500",
  warn: "M8 2L1.500 13.500h13z M8 6v4 M8 11.800v.4",
  pause: "M5.500 3v10 M10.500 3v10",
  offline: "M2 2l12 12 M4 8a6 6 0 0 1 8 0 M6.500 10.500a2.500 2.500 0 0 1 3 0",
  starting: "M8 1.500a6.500 6.500 0 1 1-6.500 6.500",
  stopped: "M4 4l8 8 M12 4l-8 8",
  person: "M8 8a3 3 0 1 0 0-6a3 3 0 1 0 0 6 M2.500 14a5.500 5.500 0 0 1 11 0",
  group: "M5.500 8a2.500 2.500 0 1 0 0-5a2.500 2.500 0 1 0 0 5 M1 13.500a4.500 4.500 0 0 1 9 0 M11 3.200a2.500 2.500 0 0 1 0 4.600 M12 9.500a4.500 4.500 0 0 1 3 4",
  plus: "M8 3v10 M3 8h10",
  file: "M4 1.500h5l3 3v10H4z M9 1.500v3h3",
  save: "M8 2v8 M4.500 7L8 10.500L11.500 7 M2.500 13.500h11",
  close: "M4 4l8 8 M12 4l-8 8",
};

/** A drawing beside words; readers of screens hear the words only. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("focusable", "false");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name] ?? "");
  svg.append(path);
  return svg;
}

/** A button with words. */
export function button(words, press, properties = {}, drawing) {
  return el("button", { type: "button", ...properties, on: { click: press } }, drawing ? icon(drawing) : null, el("span", {}, words));
}

/** A word in passing; it stays for as long as it takes to read. */
export function notice(words, kind = "info") {
  const box = document.getElementById("notices");
  // the same again is said once
  if ([...box.children].some((line) => line.textContent === words)) return;
  const line = el("p", { class: `notice ${kind}` }, words);
  box.append(line);
  while (box.childElementCount > 3) box.firstElementChild.remove();
  setTimeout(() => line.remove(), 4000 + 60 * words.length);
}

/** What went wrong, and what to do. */
export function complain(error) {
  notice(error.next ? `${error.message}. ${error.next}` : String(error.message ?? error), "bad");
}

/**
 * A dialog. `content` is given a function that closes it with a value; the promise has that value, or `null` when the
 * dialog was left. Focus goes back to where it was, as the browser does it.
 */
export function dialog(title, content) {
  return new Promise((resolve) => {
    const box = el("dialog", { "aria-labelledby": "dialog-title" });
    let value = null;
    const close = (with_) => {
      value = with_ ?? null;
      box.close();
    };
    const leave = el("button", { type: "button", class: "plain", "aria-label": "Close", on: { click: () => close(null) } }, icon("close"));
    box.append(el("div", { class: "dialog-head" }, el("h2", { id: "dialog-title" }, title), leave));
    box.append(...[content(close)].flat());
    box.addEventListener("close", () => {
      box.remove();
      resolve(value);
    });
    // a press beside it leaves it
    box.addEventListener("click", (event) => {
      if (event.target === box) close(null);
    });
    document.body.append(box);
    box.showModal();
  });
}

/** A field with its name above it. */
export function field(name, input, hint) {
  const id = `field-${name.replaceAll(/\W+/g, "-").toLowerCase()}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return el("div", { class: "field" }, el("label", { for: id }, name), input, hint ? el("p", { id: `${id}-hint`, class: "hint" }, hint) : null);
}
