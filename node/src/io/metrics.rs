//! `/metrics`: names and labels as the whole network uses them.
//!
//! No label says anything about a client, a peer, an address or a box. What traffic moves (packets, lateness, handshakes,
//! memory, CPU time, open files, the fill of the replay set) a gateway shows as it was at the end of the last epoch (see
//! `counters`); live are only the state of the consensus, of keys and of links to other nodes.

use crate::admission::Refusal;
use crate::drops::DropReason;
use crate::io::counters::{TURNED_AWAY_LABELS, Traffic};
use crate::io::links::FAILURE_LABELS;
use anyhow::Result;
use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use shoal_protocol::types::Role;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Upper bounds of the lateness histogram, in seconds; 1 ms is what is promised at half load.
const LATENESS_BUCKETS: [f64; 8] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25];

/// Everything that is exported.
pub struct Metrics {
    registry: Registry,
    received: IntCounter,
    forwarded: IntCounter,
    dropped: IntCounterVec,
    delay_queue: IntGauge,
    /// Lateness of packets against their mixing delay.
    pub lateness: Histogram,
    links: IntGaugeVec,
    handshake_failures: IntCounterVec,
    loops_sent: IntCounter,
    loops_returned: IntCounter,
    links_losing: IntGauge,
    consensus_epoch: IntGauge,
    consensus_valid_until: Gauge,
    consensus_signatures: IntGauge,
    in_consensus: IntGauge,
    consensus_stale: IntGauge,
    consensus_contradiction: IntGauge,
    mix_key_expiry: Gauge,
    replay_fill: Gauge,
    store: Option<(IntGauge, IntGauge)>,
    panics: IntCounter,
    process: Process,
    shown: Mutex<Shown>,
}

/// What the counters were set to last: they only go up by differences.
#[derive(Debug, Default)]
struct Shown {
    received: u64,
    forwarded: u64,
    dropped: BTreeMap<DropReason, u64>,
    loops_sent: u64,
    loops_returned: u64,
    panics: u64,
    handshake_failures: BTreeMap<&'static str, u64>,
    cpu_centiseconds: u64,
}

/// Process metrics, with the names every exporter uses.
struct Process {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    start: Gauge,
}

/// What is shown besides traffic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Epoch of the newest consensus.
    pub consensus_epoch: Option<u64>,
    /// Its end, in ms since 1970.
    pub valid_until_ms: u64,
    /// Its signatures.
    pub signatures: usize,
    /// Whether it lists this node.
    pub in_consensus: bool,
    /// Whether the next one is overdue.
    pub stale: bool,
    /// Whether the authorities contradict themselves.
    pub contradiction: bool,
    /// Outgoing links: up, down.
    pub outgoing: (usize, usize),
    /// Accepted links of nodes.
    pub incoming: usize,
    /// When the current mix key is erased, in ms since 1970.
    pub key_expiry_ms: u64,
    /// Boxes and bytes of a store.
    pub store: (u64, u64),
}

impl Metrics {
    /// Registers everything, so that every series exists from the start.
    pub fn new(role: Role) -> Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter> {
            let metric = IntCounter::new(format!("shoal_{name}"), help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counters = |name: &str, help: &str, label: &str| -> Result<IntCounterVec> {
            let metric = IntCounterVec::new(Opts::new(format!("shoal_{name}"), help), &[label])?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let integer = |name: &str, help: &str| -> Result<IntGauge> {
            let metric = IntGauge::new(format!("shoal_{name}"), help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: String, help: &str| -> Result<Gauge> {
            let metric = Gauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let info = Opts::new("shoal_build_info", "Version and role of this node; always 1.");
        let info = IntGaugeVec::new(info, &["version", "role"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), &role.to_string()]).set(1);
        registry.register(Box::new(info))?;
        let links = IntGaugeVec::new(
            Opts::new("shoal_links", "Links to and from other nodes; links of clients are not counted."),
            &["direction", "state"],
        )?;
        registry.register(Box::new(links.clone()))?;
        let lateness = Histogram::with_opts(
            HistogramOpts::new("shoal_forward_lateness_seconds", "How late packets left, against their mixing delay.")
                .buckets(LATENESS_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(lateness.clone()))?;
        let cpu = Counter::new("process_cpu_seconds_total", "CPU time of the process.")?;
        registry.register(Box::new(cpu.clone()))?;
        let dropped = counters("packets_dropped_total", "Packets and frames dropped, by reason.", "reason")?;
        for reason in DropReason::ALL {
            dropped.with_label_values(&[reason.label()]);
        }
        let handshake_failures =
            counters("handshake_failures_total", "Links that did not come about, by reason.", "reason")?;
        for reason in FAILURE_LABELS.into_iter().chain(Refusal::ALL.map(Refusal::label)).chain(TURNED_AWAY_LABELS) {
            handshake_failures.with_label_values(&[reason]);
        }
        let store = match role {
            Role::Store => Some((
                integer("store_boxes", "Boxes kept, rounded to two digits.")?,
                integer("store_bytes", "Bytes on disk, rounded to two digits.")?,
            )),
            Role::Gateway | Role::Mix => None,
        };
        let seconds = |name: &str, help: &str| gauge(format!("shoal_{name}_timestamp_seconds"), help);
        let process = Process {
            cpu,
            resident: gauge("process_resident_memory_bytes".into(), "Resident memory.")?,
            virtual_memory: gauge("process_virtual_memory_bytes".into(), "Virtual memory.")?,
            open_fds: gauge("process_open_fds".into(), "Open file descriptors.")?,
            start: gauge("process_start_time_seconds".into(), "Start of the process, in seconds since 1970.")?,
        };
        Ok(Self {
            received: counter("packets_received_total", "Packets that arrived on links.")?,
            forwarded: counter(
                "packets_forwarded_total",
                "Packets of others handed to the link to another node; own loops and replies are not counted.",
            )?,
            dropped,
            delay_queue: integer("delay_queue_packets", "Packets waiting for their mixing delay.")?,
            lateness,
            links,
            handshake_failures,
            loops_sent: counter("loops_sent_total", "Loops this node sent to itself.")?,
            loops_returned: counter("loops_returned_total", "Loops that came back in time.")?,
            links_losing: integer("links_losing", "Links and nodes at which this node's own loops are lost now.")?,
            consensus_epoch: integer("consensus_epoch", "Epoch of the newest consensus held; -1 without one.")?,
            consensus_valid_until: seconds("consensus_valid_until", "End of the newest consensus held.")?,
            consensus_signatures: integer("consensus_signatures", "Signatures of the newest consensus held.")?,
            in_consensus: integer("in_consensus", "1 if the newest consensus lists this node.")?,
            consensus_stale: integer("consensus_stale", "1 if the document after the newest one is overdue.")?,
            consensus_contradiction: integer(
                "consensus_contradiction",
                "1 if the authorities certified two documents for one epoch; the node has stopped.",
            )?,
            mix_key_expiry: seconds("mix_key_expiry", "When the current mix key is erased.")?,
            replay_fill: gauge("shoal_replay_set_fill_ratio".into(), "Fill of the fullest replay set, 0 to 1.")?,
            store,
            panics: counter("panics_total", "Panics that were contained.")?,
            process,
            shown: Mutex::default(),
            registry,
        })
    }

    /// Brings everything up to date and writes the text format.
    pub fn render(&self, traffic: &Traffic, gauges: &Gauges) -> Result<String> {
        self.show_traffic(traffic);
        self.show(gauges);
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }

    fn show_traffic(&self, traffic: &Traffic) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let raise = |counter: &IntCounter, shown: &mut u64, now: u64| {
            counter.inc_by(now.saturating_sub(*shown));
            *shown = now.max(*shown);
        };
        raise(&self.received, &mut shown.received, traffic.received);
        raise(&self.forwarded, &mut shown.forwarded, traffic.forwarded);
        raise(&self.loops_sent, &mut shown.loops_sent, traffic.loops.sent);
        raise(&self.loops_returned, &mut shown.loops_returned, traffic.loops.returned);
        self.links_losing.set(signed(traffic.losing.len() as u64));
        for (reason, count) in &traffic.drops {
            let counter = self.dropped.with_label_values(&[reason.label()]);
            raise(&counter, shown.dropped.entry(*reason).or_default(), *count);
        }
        for (reason, count) in &traffic.handshake_failures {
            let counter = self.handshake_failures.with_label_values(&[reason]);
            raise(&counter, shown.handshake_failures.entry(reason).or_default(), *count);
        }
        raise(&self.panics, &mut shown.panics, traffic.panics);
        let process = traffic.machine.process;
        let spent = process.cpu_centiseconds.saturating_sub(shown.cpu_centiseconds);
        self.process.cpu.inc_by(spent as f64 / 100.0);
        shown.cpu_centiseconds = process.cpu_centiseconds.max(shown.cpu_centiseconds);
        self.process.resident.set(process.resident as f64);
        self.process.virtual_memory.set(process.virtual_memory as f64);
        self.process.open_fds.set(process.open_fds as f64);
        self.process.start.set(process.start_seconds);
        self.replay_fill.set(traffic.machine.replay_fill);
        self.delay_queue.set(signed(traffic.delay_queue));
    }

    fn show(&self, gauges: &Gauges) {
        self.consensus_epoch.set(gauges.consensus_epoch.map_or(-1, signed));
        self.consensus_valid_until.set(gauges.valid_until_ms as f64 / 1_000.0);
        self.consensus_signatures.set(signed(gauges.signatures as u64));
        self.in_consensus.set(i64::from(gauges.in_consensus));
        let (up, down) = gauges.outgoing;
        for (direction, state, count) in [("out", "up", up), ("out", "down", down), ("in", "up", gauges.incoming)] {
            self.links.with_label_values(&[direction, state]).set(signed(count as u64));
        }
        self.mix_key_expiry.set(gauges.key_expiry_ms as f64 / 1_000.0);
        self.consensus_stale.set(i64::from(gauges.stale));
        self.consensus_contradiction.set(i64::from(gauges.contradiction));
        if let Some((boxes, bytes)) = &self.store {
            boxes.set(signed(two_digits(gauges.store.0)));
            bytes.set(signed(two_digits(gauges.store.1)));
        }
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Rounds to two significant digits, so that a single write cannot be seen.
pub fn two_digits(n: u64) -> u64 {
    let mut scale = 1;
    while n / scale >= 100 {
        scale *= 10;
    }
    n / scale * scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::Drops;
    use crate::io::counters::Machine;
    use crate::io::process::ProcessState;

    #[test]
    fn every_series_exists_from_the_start_and_counters_follow() {
        let metrics = Metrics::new(Role::Store).expect("registers");
        let drops = Drops::default();
        let mut traffic = Traffic { drops: drops.snapshot(), ..Traffic::default() };
        let text = metrics.render(&traffic, &Gauges::default()).expect("renders");
        for reason in DropReason::ALL {
            let series = format!("shoal_packets_dropped_total{{reason=\"{}\"}} 0", reason.label());
            assert!(text.contains(&series), "{series}");
        }
        assert!(text.contains("shoal_build_info{role=\"store\",version="));
        assert!(text.contains("shoal_store_boxes 0"));
        assert!(text.contains("shoal_links_losing 0"));
        drops.count(DropReason::Replayed);
        let process = ProcessState { cpu_centiseconds: 150, ..ProcessState::default() };
        let machine = Machine { process, replay_fill: 0.25 };
        let handshake_failures = [("tls", 3)].into();
        let losing = vec![crate::alarm::Spot::Own];
        traffic =
            Traffic { losing, drops: drops.snapshot(), received: 7, machine, handshake_failures, panics: 1, ..traffic };
        for _ in 0..2 {
            let text = metrics.render(&traffic, &Gauges::default()).expect("renders");
            assert!(text.contains("shoal_packets_received_total 7"));
            assert!(text.contains("shoal_packets_dropped_total{reason=\"replayed\"} 1"));
            assert!(text.contains("process_cpu_seconds_total 1.5"));
            assert!(text.contains("shoal_handshake_failures_total{reason=\"tls\"} 3"));
            assert!(text.contains("shoal_panics_total 1"));
            assert!(text.contains("shoal_links_losing 1"));
            assert!(text.contains("shoal_replay_set_fill_ratio 0.25"));
        }
    }

    #[test]
    fn sizes_are_rounded_down_to_two_digits() {
        for (n, rounded) in
            [(0, 0), (7, 7), (99, 99), (100, 100), (12_345, 12_000), (u64::MAX, 18_000_000_000_000_000_000)]
        {
            assert_eq!(two_digits(n), rounded);
        }
    }
}
