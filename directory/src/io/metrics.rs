//! What `/metrics` says. Nothing here could tell one node's or client's behaviour from another's.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{Counter, Encoder as _, Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use shoal_protocol::quic::QuicError;

use super::snapshot::Numbers;

/// Kernel ticks per second in `/proc`: 100 on every Linux that Rust runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// Page size used by `/proc/self/statm` on the supported machines.
const PAGE_BYTES: f64 = 4096.0;

/// All metrics of an authority.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    epoch: IntGauge,
    valid_until: Gauge,
    signatures: IntGauge,
    in_consensus: IntGaugeVec,
    listed: IntGaugeVec,
    links: IntGaugeVec,
    handshake_failures: IntCounterVec,
    votes: IntCounterVec,
    questions: IntCounterVec,
    started: Gauge,
    cpu: Counter,
    memory: Gauge,
    files: Gauge,
    cpu_ticks_seen: AtomicU64,
}

/// Why a metric could not be made: two of one name, a malformed name. A mistake in this file.
pub type MetricError = prometheus::Error;

impl Metrics {
    /// Registers everything, with all known label values at zero.
    ///
    /// # Errors
    /// A mistake in this file.
    pub fn new() -> Result<Self, MetricError> {
        let registry = Registry::new();
        let build =
            IntGaugeVec::new(Opts::new("shoal_build_info", "Version and role of this program."), &["version", "role"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), "authority"]).set(1);
        registry.register(Box::new(build))?;
        let metrics = Self {
            epoch: IntGauge::new("shoal_consensus_epoch", "Epoch of the newest certified document.")?,
            valid_until: Gauge::new(
                "shoal_consensus_valid_until_timestamp_seconds",
                "Until when the newest certified document may be used.",
            )?,
            signatures: IntGauge::new("shoal_consensus_signatures", "Signatures under the newest document.")?,
            in_consensus: IntGaugeVec::new(
                Opts::new("shoal_consensus_nodes", "Nodes in the newest document."),
                &["role", "state"],
            )?,
            listed: IntGaugeVec::new(Opts::new("shoal_listed_nodes", "Nodes with a listed descriptor."), &["role"])?,
            links: IntGaugeVec::new(Opts::new("shoal_links", "Open links."), &["direction", "state"])?,
            handshake_failures: IntCounterVec::new(
                Opts::new("shoal_handshake_failures_total", "Links that did not come about."),
                &["reason"],
            )?,
            votes: IntCounterVec::new(
                Opts::new("shoal_votes_total", "Documents this authority voted on."),
                &["phase", "result"],
            )?,
            questions: IntCounterVec::new(
                Opts::new("shoal_directory_questions_total", "Questions answered, by kind and answer."),
                &["question", "answer"],
            )?,
            started: Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970.")?,
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time spent in seconds.")?,
            memory: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            files: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            cpu_ticks_seen: AtomicU64::new(0),
            registry,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), MetricError> {
        let collectors: [Box<dyn prometheus::core::Collector>; 13] = [
            Box::new(self.epoch.clone()),
            Box::new(self.valid_until.clone()),
            Box::new(self.signatures.clone()),
            Box::new(self.in_consensus.clone()),
            Box::new(self.listed.clone()),
            Box::new(self.links.clone()),
            Box::new(self.handshake_failures.clone()),
            Box::new(self.votes.clone()),
            Box::new(self.questions.clone()),
            Box::new(self.started.clone()),
            Box::new(self.cpu.clone()),
            Box::new(self.memory.clone()),
            Box::new(self.files.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector)?;
        }
        self.links.with_label_values(&["in", "open"]).set(0);
        for reason in REASONS {
            self.handshake_failures.with_label_values(&[reason]).inc_by(0);
        }
        for result in ["certified", "failed"] {
            self.votes.with_label_values(&["commit", result]).inc_by(0);
        }
        for (question, answer) in QUESTIONS {
            self.questions.with_label_values(&[question, answer]).inc_by(0);
        }
        self.started.set(super::now().0 as f64 / 1000.0);
        Ok(())
    }

    /// A link was admitted; it counts as open until the guard is dropped.
    #[must_use]
    pub fn link_opened(&self) -> OpenLink {
        let gauge = self.links.with_label_values(&["in", "open"]);
        gauge.inc();
        OpenLink(gauge)
    }

    /// A handshake failed.
    pub fn handshake_failed(&self, error: &QuicError) {
        self.handshake_failures.with_label_values(&[reason(error)]).inc();
    }

    /// A document was certified, or could not be.
    pub fn voted(&self, certified: bool) {
        self.votes.with_label_values(&["commit", if certified { "certified" } else { "failed" }]).inc();
    }

    /// A question was answered.
    pub fn answered(&self, question: &'static str, answer: &'static str) {
        self.questions.with_label_values(&[question, answer]).inc();
    }

    /// The text that `/metrics` answers.
    ///
    /// # Errors
    /// Encoding failed.
    pub fn render(&self, numbers: &Numbers) -> Result<Vec<u8>, MetricError> {
        self.epoch.set(i64::try_from(numbers.epoch).unwrap_or(i64::MAX));
        self.valid_until.set(numbers.valid_until.0 as f64 / 1000.0);
        self.signatures.set(i64::try_from(numbers.signatures).unwrap_or(i64::MAX));
        for (role, count) in &numbers.listed {
            self.listed.with_label_values(&[role]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        for ((role, state), count) in &numbers.in_consensus {
            self.in_consensus.with_label_values(&[role, state]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        self.read_process();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Reads what the kernel says of this process; what it does not say keeps its last value.
    fn read_process(&self) {
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
            && let Some((_, after_name)) = stat.rsplit_once(')')
        {
            // proc(5): utime and stime are fields 14 and 15, the 12th and 13th after the name
            let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
            let seen = self.cpu_ticks_seen.swap(ticks, Ordering::Relaxed);
            self.cpu.inc_by(ticks.saturating_sub(seen) as f64 / TICKS_PER_SECOND);
        }
        if let Ok(statm) = std::fs::read_to_string("/proc/self/statm")
            && let Some(pages) = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok())
        {
            self.memory.set(pages * PAGE_BYTES);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(open.count() as f64);
        }
    }
}

/// Counts a link as open while it lives.
#[derive(Debug)]
pub struct OpenLink(IntGauge);

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const QUESTIONS: [(&str, &str); 9] = [
    ("publish", "accepted"),
    ("publish", "refused"),
    ("newest", "document"),
    ("newest", "difference"),
    ("newest", "up_to_date"),
    ("changes", "changes"),
    ("newest", "not_yet"),
    ("unreadable", "bad_question"),
    ("any", "unanswered"),
];

const REASONS: [&str; 10] = [
    "bind",
    "setup",
    "unreachable",
    "timed_out",
    "wrong_identity",
    "no_common_key_exchange",
    "protocol_refused",
    "identity",
    "busy",
    "other",
];

fn reason(error: &QuicError) -> &'static str {
    match error {
        QuicError::Bind(_) => "bind",
        QuicError::Setup(_) => "setup",
        QuicError::Unreachable => "unreachable",
        QuicError::TimedOut => "timed_out",
        QuicError::WrongIdentity => "wrong_identity",
        QuicError::NoCommonKeyExchange => "no_common_key_exchange",
        QuicError::ProtocolRefused => "protocol_refused",
        QuicError::IdentityNeeded(_) | QuicError::IdentityForbidden(_) => "identity",
        QuicError::Busy => "busy",
        QuicError::Tls(_) | QuicError::Closed => "other",
    }
}
