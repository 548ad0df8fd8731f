//! Row 6: what the node does to delays that senders drew, measured on the wire. `SHOAL_TIMED_PACKETS=1000000
//! SHOAL_LATENESS_US=1000` is the full size, on a machine with a core each for the node and the test.
//!
//! The time a packet took is held against the exponential as it is: with two ways over loopback and the test's own
//! scheduling in it, which makes the test harder and never easier.

use crate::flow::{Passed, Taker, drawn, write_at};
use crate::{alone, size};
use shoal_protocol::types::{Layer, Role};
use shoal_tests::metrics::sample;
use shoal_tests::paper::{Node, Paper, Plan};
use shoal_tests::statistics::{distance_from_exponential, kolmogorov_p, quantile};
use std::sync::Arc;
use std::time::Duration;

/// Of a public network.
const MEAN: Duration = Duration::from_millis(500);
/// Parts of the measured capacity.
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

/// Packets up to each bound since its start. They are shown half a second after they left.
async fn lateness(node: &Node) -> Vec<f64> {
    let (_, metrics) = node.get("/metrics").await;
    let of = |bound| sample(&metrics, &format!("shoal_forward_lateness_seconds_bucket{{le=\"{bound}\"}}"));
    BUCKETS.iter().map(|bound| of(bound).expect("exists from the start")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_06_delays_on_the_wire_are_exponential_and_on_time_at_any_load() {
    let _alone = alone().await;
    let total = size("SHOAL_TIMED_PACKETS", 6_000) as f64;
    let bound = Duration::from_micros(size("SHOAL_LATENESS_US", 100_000));
    let paper = Paper::start_as(plan());
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let capacity = capacity(&paper, &node).await;
    println!("row 6: capacity {capacity:.0} packets/s, node and test together on this machine");
    let l2 = Arc::clone(&paper.mixes[1]);
    let mut from = 0;
    let mut counted = lateness(&node).await;
    for load in LOADS {
        // as much time for each load
        let count = (total * load / LOADS.iter().sum::<f64>()) as u64;
        let packets = drawn(&paper, &l2, from, count, MEAN).await;
        from += count;
        let drops = node.accounts().await.drops();
        let (_link, mut frames) = node.dial(&paper.gateway).await;
        let taker = Taker::of(&l2);
        let written = write_at(&paper, &mut frames, packets, capacity * load).await;
        node.wait("all have left", |status| status["queue"].as_u64() == Some(0)).await;
        let accounts = crate::replay::quiet(&node).await;
        let passed = Passed::of(taker.taken(u64::MAX).await, &l2, &written);
        let carried = distance_from_exponential(&passed.carried, MEAN.as_secs_f64());
        let distance = distance_from_exponential(&passed.took, MEAN.as_secs_f64());
        let (p_carried, p) = (kolmogorov_p(carried, passed.took.len()), kolmogorov_p(distance, passed.took.len()));
        let mut late = passed.late();
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| quantile(&mut late, share) * 1e3);
        println!(
            "row 6: load {:.0} %, {} of {count} packets at {:.0}/s: KS p {p:.3} (as drawn {p_carried:.3}), later than drawn by \
             p50 {half:.3} ms, p99 {most:.3} ms, at most {all:.3} ms; drops {}",
            load * 100.0,
            passed.took.len(),
            capacity * load,
            accounts.drops() - drops,
        );
        assert!(passed.took.len() as f64 >= count as f64 * 0.99, "load {load}: {:?}", accounts.dropped);
        assert!(p > 0.01, "load {load}: distance {distance}, p {p}");
        assert!(late.first().is_some_and(|earliest| *earliest >= 0.0), "none leaves before its time");
        let now = lateness(&node).await;
        let left = now[BUCKETS.len() - 1] - counted[BUCKETS.len() - 1];
        let shares: Vec<f64> = now.iter().zip(&counted).map(|(now, before)| (now - before) / left).collect();
        println!("row 6: load {:.0} %, by the node's own histogram within {BUCKETS:?} s: {shares:.4?}", load * 100.0);
        counted = now;
        if load <= 0.5 {
            assert!(most <= bound.as_secs_f64() * 1e3, "load {load}: p99 {most} ms");
        }
    }
}
