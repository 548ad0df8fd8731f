//! Row 6: what the node does to delays that senders drew, measured on the wire. `SHOAL_TIMED_PACKETS=1000000 SHOAL_MEAN_MS=500
//! SHOAL_LATENESS_US=1000 SHOAL_LOAD_PERCENT=100 SHOAL_TIMING_ATTEMPTS=1` is the full size, on a machine with a core each for the node and the test.
//!
//! The time a packet took is held against the exponential as it is: with two ways over loopback and the test's own
//! scheduling in it, which makes the test harder and never easier.

use crate::flow::{Passed, Taker, drawn, write_at};
use crate::{alone, mean, size};
use shoal_protocol::types::{Layer, Role};
use shoal_tests::metrics::sample;
use shoal_tests::paper::{Node, PATIENCE, Paper, Plan};
use shoal_tests::statistics::{distance_from_exponential, kolmogorov_p, quantile};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Parts of the measured capacity; of two fifths of it in every run, because the capacity of a machine that does other things
/// is not the same a moment later: `SHOAL_LOAD_PERCENT=100` at full size.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];

/// The smallest network, with production delays and an epoch that holds the whole measurement.
pub(crate) fn plan() -> Plan {
    let mut plan = Plan { gateways: 6, ..Plan::small(Some(Layer::L1)) };
    plan.parameters.epoch_ms = 6 * 3_600_000;
    (plan.parameters.mean_delay_ms, plan.parameters.mean_delay_max_ms) = (500, 500);
    plan.parameters.retention_ms = 24 * 3_600_000;
    plan
}

/// Packets a second that the node passes on when it gets as many as it takes.
pub(crate) async fn capacity(paper: &Arc<Paper>, node: &Node) -> f64 {
    const PACKETS: u64 = 2_000;
    let l2 = &paper.mixes[1];
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let packets = drawn(paper, l2, 1 << 50, PACKETS, Duration::ZERO).await;
    let packets: Vec<_> = packets.into_iter().map(|(_, _, packet)| packet).collect();
    let before = node.accounts().await.forwarded;
    let began = paper.clock.monotonic();
    crate::replay::send(&mut frames, &packets).await;
    let mut last = began;
    // up to the last of them, and not to the moment when this is seen
    node.wait("all are through", |status| status["forwarded"].as_u64() >= Some(before + PACKETS)).await;
    for (_, at) in l2.packets() {
        last = last.max(at);
    }
    PACKETS as f64 / (last - began).as_secs_f64()
}

/// Bounds of the node's own histogram of lateness, in seconds.
const BUCKETS: [&str; 7] = ["0.0005", "0.001", "0.002", "0.005", "0.01", "0.05", "+Inf"];

/// Packets up to each bound since its start. They are shown half a second after they left: waits for the last of them.
async fn lateness(node: &Node) -> Vec<f64> {
    let forwarded = node.accounts().await.forwarded as f64;
    let reading = async {
        loop {
            let (_, metrics) = node.get("/metrics").await;
            let of = |bound| sample(&metrics, &format!("shoal_forward_lateness_seconds_bucket{{le=\"{bound}\"}}"));
            let counts: Vec<f64> = BUCKETS.iter().map(|bound| of(bound).expect("exists from the start")).collect();
            if counts.last().is_some_and(|all| *all >= forwarded) {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("shown in time")
}

/// What one load came to.
struct Timed {
    /// Probability of the distance from the exponential.
    p: f64,
    /// How much later than drawn, p99 in ms.
    most: f64,
    /// The same of a thread that only sleeps.
    stall: f64,
}

/// A thread that sleeps and wakes: how late it wakes is how late anybody is on this machine now.
struct Witness {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<f64>>,
}

impl Witness {
    fn start() -> Self {
        const NAP: Duration = Duration::from_millis(2);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut late = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(NAP);
                late.push((began.elapsed() - NAP).as_secs_f64() * 1e3);
            }
            late
        });
        Self { stop, thread }
    }

    /// How late it woke, p99 in ms.
    fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        quantile(&mut self.thread.join().expect("it only sleeps"), 0.99)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_06_delays_on_the_wire_are_exponential_and_on_time_at_any_load() {
    let _alone = alone().await;
    let total = size("SHOAL_TIMED_PACKETS", 3_000) as f64;
    // at full size everything is judged
    let stall_max = if size("SHOAL_TIMING_ATTEMPTS", 4) > 1 { 3.0 } else { f64::MAX };
    let bound = Duration::from_micros(size("SHOAL_LATENESS_US", 50_000));
    let paper = Paper::start_as(plan());
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let capacity = capacity(&paper, &node).await * size("SHOAL_LOAD_PERCENT", 40) as f64 / 100.0;
    eprintln!("row 6: full load is {capacity:.0} packets/s, node and test together on this machine");
    let mut numbers = 0;
    for load in LOADS {
        // as much time for each load
        let count = (total * load / LOADS.iter().sum::<f64>()) as u64;
        // a machine that stands still for a moment bends every distribution: then once more, and a node that bends it fails
        // every time that the machine does not
        let mut attempts = size("SHOAL_TIMING_ATTEMPTS", 4);
        loop {
            let Timed { p, most, stall } = timed(&paper, &node, numbers, count, capacity, load).await;
            numbers += count;
            attempts -= 1;
            let on_time = load > 0.5 || most <= bound.as_secs_f64() * 1e3;
            if p > 0.01 && on_time {
                break;
            }
            if attempts == 0 && stall > stall_max {
                eprintln!("row 6: load {:.0} %: not judged, this machine is too busy to measure", load * 100.0);
                break;
            }
            assert!(attempts > 0, "load {load}: p {p}, p99 {most} ms, a sleeping thread's {stall} ms");
        }
    }
}

/// Sends `count` packets at `load` and holds what comes out against what was drawn.
async fn timed(paper: &Arc<Paper>, node: &Node, from: u64, count: u64, capacity: f64, load: f64) -> Timed {
    let l2 = &paper.mixes[1];
    let packets = drawn(paper, l2, from, count, mean()).await;
    let (drops, counted) = (node.accounts().await.drops(), lateness(node).await);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let taker = Taker::of(l2);
    let witness = Witness::start();
    let written = write_at(paper, &mut frames, packets, capacity * load).await;
    node.wait("all have left", |status| status["queue"].as_u64() == Some(0)).await;
    let stall = witness.end();
    let accounts = crate::replay::quiet(node).await;
    let passed = Passed::of(taker.taken(u64::MAX).await, l2, &written);
    let carried = distance_from_exponential(&passed.carried, mean().as_secs_f64());
    let distance = distance_from_exponential(&passed.took, mean().as_secs_f64());
    let (p_carried, p) = (kolmogorov_p(carried, passed.took.len()), kolmogorov_p(distance, passed.took.len()));
    let mut late = passed.late();
    let [half, most, all] = [0.5, 0.99, 1.0].map(|share| quantile(&mut late, share) * 1e3);
    eprintln!(
        "row 6: load {:.0} %, {} of {count} packets at {:.0}/s: KS p {p:.3} (as drawn {p_carried:.3}), later than drawn by \
         p50 {half:.3} ms, p99 {most:.3} ms, at most {all:.3} ms (a thread that only sleeps: p99 {stall:.3} ms); drops {}",
        load * 100.0,
        passed.took.len(),
        capacity * load,
        accounts.drops() - drops,
    );
    let now = lateness(node).await;
    let left = now[BUCKETS.len() - 1] - counted[BUCKETS.len() - 1];
    let shares: Vec<f64> = now.iter().zip(&counted).map(|(now, before)| (now - before) / left).collect();
    eprintln!("row 6: load {:.0} %, by the node's own histogram within {BUCKETS:?} s: {shares:.4?}", load * 100.0);
    assert!(passed.took.len() as f64 >= count as f64 * 0.99, "load {load}: {:?}", accounts.dropped);
    assert!(late.first().is_some_and(|earliest| *earliest >= 0.0), "none leaves before its time");
    Timed { p, most, stall }
}
