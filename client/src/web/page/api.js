// How the page asks its daemon. The session's secret is kept for this tab, in the storage of this origin with its port, and
// shown in a header: nothing else on this machine is sent it.

const KEPT = "shoal-session";

/** The daemon refused, or cannot be reached (`code` is then `unreachable`). */
export class Refused extends Error {
  constructor({ code, message, next }, status = 0) {
    super(message);
    this.code = code;
    this.next = next;
    this.status = status;
  }
}

let session = sessionStorage.getItem(KEPT);
let onLost = () => {};

/** Says what to do when the session is over. */
export function whenLost(what) {
  onLost = what;
}

export const hasSession = () => session !== null;

function lost() {
  session = null;
  sessionStorage.removeItem(KEPT);
  onLost();
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (session) headers.Authorization = `Bearer ${session}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ code: "unreachable", message: "Shoal does not answer on this machine", next: "Start it: shoal up --web" });
  }
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response) {
  let error = { code: "unknown", message: `answer ${response.status}`, next: "" };
  try {
    error = (await response.json()).error ?? error;
  } catch {
    // it was no JSON: the status has to do
  }
  if (response.status === 401 && error.code === "no_session") lost();
  return new Refused(error, response.status);
}

function post(path, value) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) }).then((response) => response.json());
}

/** Takes the token out of the address, where it could be seen and kept, and exchanges it. */
export async function enter() {
  const token = location.hash.slice(1);
  if (!/^[0-9a-f]{64}$/.test(token)) return;
  history.replaceState(null, "", location.pathname);
  const { session: secret } = await post("/api/session", { token });
  session = secret;
  sessionStorage.setItem(KEPT, secret);
}

export async function leave() {
  try {
    await post("/api/session/end", {});
  } finally {
    lost();
  }
}

/** One of the daemon's calls. */
export const call = (method, parameters = {}) => post(`/api/call/${method}`, parameters);

export const setup = {
  needed: () => ask("/api/setup").then((response) => response.json()),
  look: (file) => post("/api/setup/look", { file }),
  make: (file, class_) => post("/api/setup", { file, class: class_ }),
};

/** Which calls this daemon knows. */
export async function methods() {
  const description = await ask("/openapi.json").then((response) => response.json());
  return new Set(Object.keys(description.paths).map((path) => path.replace("/api/call/", "")));
}

/** Something that is not JSON, as a blob. */
export const blob = (path) => ask(path).then((response) => response.blob());

/** Hands over a file; `progress` is told the share that has left the browser. Only XMLHttpRequest says that. */
export function upload(to, name, content, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/files?${new URLSearchParams({ to, name })}`);
    request.responseType = "json";
    request.setRequestHeader("Authorization", `Bearer ${session}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => event.lengthComputable && progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status === 200) return resolve(request.response);
      const error = request.response?.error ?? { code: "unknown", message: `answer ${request.status}` };
      if (request.status === 401) lost();
      reject(new Refused(error, request.status));
    });
    request.addEventListener("error", () => reject(new Refused({ code: "unreachable", message: "The file could not be handed over", next: "Try again" })));
    request.send(content);
  });
}

let stream = null;
let wanted = Promise.resolve();
let want = () => {};

/** Ends the stream until it is wanted again: a browser has six connections for all tabs, and each stream holds one. */
export function hush(quiet) {
  want();
  if (!quiet) return;
  wanted = new Promise((again) => (want = again));
  stream?.abort();
}

/**
 * Events, for as long as the page is open: `onEvent` is told each, `onState` whether the stream stands. After a break it is
 * tried again, less and less often; `onState(true)` then means that something may have been missed.
 */
export async function listen(onEvent, onState) {
  let pause = 500;
  while (hasSession()) {
    await wanted;
    try {
      stream = new AbortController();
      const response = await ask("/api/events", { signal: stream.signal });
      onState(true);
      pause = 500;
      await read(response.body, onEvent);
    } catch (error) {
      if (!(error instanceof Refused) && !["AbortError", "TypeError"].includes(error.name)) console.error(error);
    }
    onState(false);
    await new Promise((wake) => setTimeout(wake, pause));
    pause = Math.min(2 * pause, 10000);
  }
}

async function read(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) onEvent(JSON.parse(data));
    }
  }
}
