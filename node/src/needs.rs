//! What a node may take of its machine at most, by its limits, and whether that is there. Told what there is; says what to
//! do.

use crate::config::Limits;
use crate::config_store::StoreConfig;
use crate::gateway::{self, BUCKET_DEPTH, FIRST_TOKENS};
use crate::replica::SEEN_MAX;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::types::Role;

/// What was found, and what to do. In this order: whether it is as it should be, what was found, what to do.
pub type Verdict = (bool, String, String);

/// A packet in memory, with what is kept beside it.
const PACKET_BYTES: u64 = PACKET_SIZE as u64 + 100;
/// A tag in a replay set that has just grown (see `replay`): 36.6 bytes.
const TAG_MEMORY_BYTES: u64 = 37;
/// A tag in a replay log.
const TAG_LOG_BYTES: u64 = crate::replay::TAG_SIZE as u64;
/// Epochs of which tags are kept at a time: the one before in its grace time, the current one, and the beginning of the
/// next one, of which only the skew tolerance is filled.
const EPOCHS: u64 = 2;
/// Packets that wait for one session at most.
const SESSION_PACKETS: u64 = 64;
/// A link in QUIC and TLS, its windows half filled.
const LINK_BYTES: u64 = 100_000;
/// Program, threads, documents.
const BASE_BYTES: u64 = 150 << 20;
/// A record of a store on its disk (see [`StoreConfig::records`]).
const RECORD_BYTES: u64 = 5_300;
/// Below this a disk is full in the next hour.
const DISK_MIN: u64 = 256 << 20;
/// What a socket asks for; see `protocol` `quic`.
const SOCKET_BUFFER: u64 = 4 << 20;

/// One part of what a node needs, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What takes it.
    pub what: &'static str,
    /// How much at most.
    pub bytes: u64,
}

fn part(what: &'static str, count: u64, each: u64) -> Part {
    Part { what, bytes: count.saturating_mul(each) }
}

/// Memory that a node of this role takes on a machine of so many cores when everything that has a limit is full.
pub fn memory(role: Role, limits: &Limits, cores: usize) -> Vec<Part> {
    let count = |n: usize| n as u64;
    let mut parts = vec![
        Part { what: "program and documents", bytes: BASE_BYTES },
        part("worker queues", count(limits.workers_on(cores)) * count(limits.worker_queue_packets), PACKET_BYTES),
        part("delay queue", count(limits.delay_queue_packets), PACKET_BYTES),
        part("replay sets", count(limits.replay_capacity_packets) * EPOCHS, TAG_MEMORY_BYTES),
    ];
    match role {
        Role::Gateway => {
            parts.push(part("sessions", count(limits.sessions), SESSION_PACKETS * PACKET_BYTES));
            parts.push(part("links", count(limits.links), LINK_BYTES));
        }
        Role::Store => parts.push(part("envelopes seen", count(SEEN_MAX) * EPOCHS, TAG_MEMORY_BYTES)),
        Role::Mix => {}
    }
    parts
}

/// Packets that one seat of a gateway brings under one mix key at most, whoever sits there and however often it changes
/// hands, and as many that answer them. A key is accepted from the skew tolerance before its epoch to the grace time after
/// it: 120 + 1,200 + 320 s with the parameters of a public network. In this time the seat's tokens flow at 1.25 × 2.5/s, a
/// sixteenth more goes to sessions that are new, and three buckets are there at its beginning: of whoever has the seat, of
/// whoever left it, and what is kept for the next. 5,589 packets, 11,179 with their answers; an honest client of the normal
/// class brings 2.5/s × 1,200 s = 3,000, 6,000 with their answers.
pub fn packets_of_seat(parameters: &Parameters) -> u64 {
    let window = parameters.skew() + parameters.epoch() + parameters.grace();
    let flow = gateway::fill_rate(parameters) * (1.0 + gateway::NEW_SHARE) * window.as_secs_f64();
    (2.0 * (flow + 2.0 * BUCKET_DEPTH + FIRST_TOKENS)).ceil() as u64
}

/// Whether the replay set of a mix key holds what a gateway's sessions may bring. `None`: not a gateway; what a mix or store
/// is brought does not follow from its configuration.
pub fn of_replay_set(role: Role, limits: &Limits, parameters: &Parameters) -> Option<Verdict> {
    if role != Role::Gateway {
        return None;
    }
    let (each, capacity) = (packets_of_seat(parameters).max(1), limits.replay_capacity_packets as u64);
    let (needed, held) = ((limits.sessions as u64).saturating_mul(each), capacity / each);
    let found = format!(
        "{} sessions may bring {needed} packets under one mix key ({each} each, answers included); its replay set takes {capacity}",
        limits.sessions
    );
    Some(if needed <= capacity {
        (true, found, String::new())
    } else {
        let next = format!(
            "set limits.replay_capacity_packets to {needed} in node.toml ({} for each of two keys), or limits.sessions to {held}: \
             else packets are refused towards the end of an epoch when all sessions are taken",
            bytes(needed.saturating_mul(TAG_MEMORY_BYTES)),
        );
        (false, found, next)
    })
}

/// What the runtime directory takes when the replay logs are full.
pub fn logs(role: Role, limits: &Limits) -> u64 {
    let seen = if role == Role::Store { SEEN_MAX as u64 } else { 0 };
    (limits.replay_capacity_packets as u64 + seen).saturating_mul(EPOCHS * TAG_LOG_BYTES)
}

/// What the boxes of a full store take on its disk.
pub fn boxes(store: &StoreConfig) -> u64 {
    (store.records as u64).saturating_mul(RECORD_BYTES)
}

/// `1.5 GB`; two digits.
pub fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1_000.0 {
            break;
        }
        (value, unit) = (value / 1_000.0, larger);
    }
    if value < 10.0 && unit != "B" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Whether the memory of the machine (or of the service, if that is limited) is enough: `total` and `available` bytes.
pub fn of_memory(parts: &[Part], total: Option<u64>, available: Option<u64>) -> Verdict {
    let needed: u64 = parts.iter().map(|part| part.bytes).sum();
    let mut largest: Vec<&Part> = parts.iter().collect();
    largest.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let shown: Vec<String> = largest.iter().map(|part| format!("{} {}", part.what, bytes(part.bytes))).collect();
    let sum = format!("at most {} by node.toml ({})", bytes(needed), shown.join(", "));
    const LOWER: &str = "lower limits.replay_capacity_packets, limits.delay_queue_packets or limits.sessions in node.toml, or \
                         give the machine more memory: else the system ends the node when traffic peaks";
    match (total, available) {
        (Some(total), _) if needed > total => {
            (false, format!("{sum}, and there are {} in all", bytes(total)), LOWER.to_owned())
        }
        (_, Some(available)) if needed > available => (
            true,
            format!("{sum}, and {} are available now, besides what the running node has already", bytes(available)),
            "if other programs take memory here, make sure that they leave enough when traffic peaks".to_owned(),
        ),
        (Some(total), _) => (true, format!("{sum}; there are {}", bytes(total)), String::new()),
        (None, _) => (true, format!("{sum}; the system does not tell how much there is"), String::new()),
    }
}

/// Whether a disk has room. `place`: what lies there; `held`: what lies there now.
pub fn of_disk(place: &str, free: Option<u64>, needed: u64, held: u64) -> Verdict {
    let Some(free) = free else {
        return (
            false,
            format!("{place}: the system does not tell how much room there is"),
            "check that it exists".to_owned(),
        );
    };
    let more = needed.saturating_sub(held);
    let found = format!("{place}: {} free; it may grow by {}", bytes(free), bytes(more));
    if free < DISK_MIN.min(more.max(1 << 20)) {
        let next = "free some room now: a node that cannot write its replay log forwards nothing, and a store refuses what comes";
        (false, found, next.to_owned())
    } else if free < more {
        let next = "watch it: there is not room for all that the limits in node.toml allow";
        (true, found, next.to_owned())
    } else {
        (true, found, String::new())
    }
}

/// Whether the system gives the socket the buffers it asks for: `net.core.rmem_max` and `wmem_max`.
pub fn of_socket_buffers(receive: Option<u64>, send: Option<u64>) -> Verdict {
    match (receive, send) {
        (Some(receive), Some(send)) if receive.min(send) < SOCKET_BUFFER => (
            true,
            format!("{} to receive, {} to send, of {}: packets are lost in bursts", bytes(receive), bytes(send), bytes(SOCKET_BUFFER)),
            "sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304 (and in /etc/sysctl.d), then restart the node"
                .to_owned(),
        ),
        (Some(receive), Some(_)) => (true, format!("up to {}", bytes(receive)), String::new()),
        (None, _) | (_, None) => (true, "the system does not tell".to_owned(), String::new()),
    }
}

/// File descriptors a node needs: one UDP socket, files, and room for the metrics port. Links take none; a store opens one
/// for each span of arrival time.
const FILES_MIN: u64 = 256;

/// Whether it may open enough files.
pub fn of_open_files(limit: Option<u64>) -> Verdict {
    match limit {
        Some(limit) if limit < FILES_MIN => {
            (false, format!("at most {limit}"), format!("raise the limit to {FILES_MIN} at least (LimitNOFILE=)"))
        }
        Some(limit) => (true, format!("at most {limit}"), String::new()),
        None => (true, "no limit".to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_beside_the_limits() {
        let limits = Limits::default();
        let of = |role, what| memory(role, &limits, 1).iter().find(|part| part.what == what).map(|part| part.bytes);
        let near = |found: Option<u64>, said: u64| found.is_some_and(|found| found.abs_diff(said) < said / 20);
        // the figures of `config::Limits`
        assert!(near(of(Role::Mix, "delay queue"), 190_000_000));
        assert!(near(of(Role::Mix, "replay sets"), 2 * 440_000_000));
        assert!(near(of(Role::Gateway, "sessions"), 190_000_000));
        let whole: u64 = memory(Role::Gateway, &limits, 2).iter().map(|part| part.bytes).sum();
        assert!(whole < 2_000_000_000, "{whole}");
        assert_eq!(of(Role::Mix, "sessions"), None);
        assert!(near(Some(boxes(&StoreConfig::default())), 44_000_000_000));
        assert!(near(Some(logs(Role::Mix, &limits)), 384_000_000));
    }

    #[test]
    fn the_replay_set_of_a_gateway_holds_what_its_sessions_may_bring() {
        let (limits, parameters) = (Limits::default(), Parameters::production());
        assert_eq!(packets_of_seat(&parameters), 11_179);
        for parameters in [parameters, Parameters::test_network()] {
            let (ok, found, next) = of_replay_set(Role::Gateway, &limits, &parameters).expect("a gateway");
            assert!(ok && next.is_empty(), "the defaults fit together: {found}");
        }
        // what they were before
        let before = Limits { sessions: 4_096, replay_capacity_packets: 8_000_000, ..limits };
        let (ok, found, next) = of_replay_set(Role::Gateway, &before, &parameters).expect("a gateway");
        assert!(!ok && found.contains("4096 sessions") && next.contains("limits.sessions to 715"), "{found} {next}");
        let packets: usize = next.split(' ').find_map(|word| word.parse().ok()).expect("a number");
        let mended = Limits { replay_capacity_packets: packets, ..before };
        assert!(of_replay_set(Role::Gateway, &mended, &parameters).is_some_and(|(ok, ..)| ok), "{packets}");
        assert_eq!(of_replay_set(Role::Mix, &before, &parameters), None);
    }

    #[test]
    fn what_is_too_small_is_said_with_what_to_do() {
        let parts = memory(Role::Mix, &Limits::default(), 1);
        let gb = |n: u64| Some(n * 1_000_000_000);
        let (ok, found, next) = of_memory(&parts, Some(500_000_000), Some(400_000_000));
        assert!(!ok && found.contains("500 MB in all") && next.contains("limits."), "{found} {next}");
        let (ok, found, next) = of_memory(&parts, gb(2), Some(400_000_000));
        assert!(ok && found.contains("400 MB are available") && !next.is_empty(), "{found}");
        assert!(of_memory(&parts, gb(8), gb(6)).2.is_empty());
        assert!(of_memory(&parts, None, None).0);

        assert!(!of_disk("here", Some(10 << 20), 1 << 30, 0).0);
        assert!(of_disk("here", Some(300 << 20), 1 << 30, 0).2.contains("watch"));
        assert!(of_disk("here", Some(300 << 20), 1 << 30, 800 << 20).2.is_empty(), "most of it is there");
        assert!(!of_disk("here", None, 0, 0).0);

        assert!(of_socket_buffers(Some(212_992), Some(212_992)).2.contains("rmem_max=4194304"));
        assert!(of_socket_buffers(Some(SOCKET_BUFFER), Some(SOCKET_BUFFER)).2.is_empty());
        assert!(!of_open_files(Some(64)).0 && of_open_files(Some(1_024)).0 && of_open_files(None).0);
    }

    #[test]
    fn bytes_for_people() {
        for (n, text) in [(999, "999 B"), (1_500, "1.5 kB"), (44_000_000_000, "44 GB"), (293_000_000, "293 MB")] {
            assert_eq!(bytes(n), text);
        }
    }
}
