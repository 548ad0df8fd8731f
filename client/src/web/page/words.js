// Words for what programs say.

export const STATES = {
  queued: ["Queued", "on this machine; it leaves by itself"],
  sent: ["Sent", "on its way through the mixes"],
  stored: ["Stored", "two stores have it on disk"],
  delivered: ["Delivered", "the other side's client has it"],
  cancelled: ["Taken back", "nothing more of it is sent"],
};

export const WAITS = {
  card: "waits until they have run Shoal once on this network",
  turn: "waits for its turn in the schedule",
  stores: "waits until two stores confirm",
  reader: "waits until their client fetches it",
  member: "waits until a member adds you again: you were away for too long",
};

export const CONDITIONS = {
  good: "Connected",
  starting: "Starting",
  warn: "Warning",
  pause: "Paused",
  offline: "Offline",
  stopped: "Stopped",
};

/** What a condition means for what is about to be sent; `null`: nothing to say. */
export function caution(status) {
  switch (status?.state) {
    case "warn":
      return status.cause === "loss"
        ? "Many packets are lost. Somebody may be attacking the network, and your anonymity may be lower than shown."
        : "Something is wrong with the network or this profile. Your anonymity may be lower than shown.";
    case "pause":
      return "Most packets are lost, so messages wait on this machine. They leave by themselves when it is over.";
    case "stopped":
      return "The network's authorities contradicted themselves. No message leaves this machine.";
    case "offline":
      return "There is no connection. Messages wait on this machine and leave by themselves.";
    default:
      if (status && !status.test_network && status.anonymity_bits !== null && status.anonymity_bits < LOW_BITS) {
        return `You hide among few: about ${status.hiding_among}. Wait for more traffic if it matters.`;
      }
      return null;
  }
}

/** Below so many bits, among fewer than 16, one is nearly alone. */
const LOW_BITS = 4;

/** Conditions that are asked about before something is sent. */
export function asksFirst(status) {
  return status?.state === "warn" || status?.state === "pause" || (status?.connected && caution(status) !== null);
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** About so long, in one unit. */
export function span(milliseconds) {
  const seconds = Math.max(1, Math.round(milliseconds / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const SHORT_DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export const clock = (at) => CLOCK.format(at);
export const full = (at) => FULL.format(at);

function sameDay(one, other) {
  return new Date(one).toDateString() === new Date(other).toDateString();
}

export function day(at) {
  if (sameDay(at, Date.now())) return "Today";
  if (sameDay(at, Date.now() - 86400000)) return "Yesterday";
  return DAY.format(at);
}

/** For lists: the time of today, else the day. */
export const when = (at) => (sameDay(at, Date.now()) ? clock(at) : SHORT_DAY.format(at));

/** The beginning and the end of an address: enough to tell it from others at a glance, not enough to trust it. */
export function short(address) {
  return address.length > 24 ? `${address.slice(0, 12)}…${address.slice(-6)}` : address;
}
