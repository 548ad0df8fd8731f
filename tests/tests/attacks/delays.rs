//! Row 11: extreme delays. (That parameters are whole numbers in ranges, so that none is "not a number", and that no
//! value makes them panic: unit tests of `protocol/src/parameters.rs`; a sampler with a zero mean: `poisson.rs`.)

use crate::beside;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::types::{Layer, Role};
use shoal_tests::paper::{Node, Paper, Record};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn row_11_up_to_the_cap_a_delay_is_kept_and_above_it_the_packet_is_dropped() {
    let _beside = beside().await;
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let cap = paper.network.parameters.delay_cap(0);
    let tick = Duration::from_nanos(1);
    let far = Duration::from_nanos(u64::MAX);
    let mut rng = StdRng::seed_from_u64(11);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let last = paper.mixes[1].last_hop();
    let record = Record::of(&paper.mixes[1]);

    let kept = [Duration::ZERO, tick, cap - tick, cap];
    let dropped = [cap + tick, cap * 2, far - tick, far, Duration::from_secs(3_600)];
    let sent = paper.clock.monotonic();
    for (number, delay) in (0..).zip(kept.into_iter().chain(dropped)) {
        frames.write(paper.numbered(number, delay, last, &mut rng).as_bytes()).await.expect("sent");
    }
    node.dropped("delay_over_cap", dropped.len() as u64).await;
    record.reaches(kept.len() as u64).await;
    let waited = paper.clock.monotonic() - sent;
    assert_eq!(record.missing(0..kept.len() as u64), Vec::<u64>::new());
    assert_eq!(record.total(), kept.len() as u64);
    assert!(waited >= cap, "the one at the cap waited {waited:?} of {cap:?}");
    let accounts = node.settled((kept.len() + dropped.len()) as u64).await;
    println!(
        "row 11: of delays 0, 1 ns, the cap of {cap:?} and 1 ns less all kept; of those above it: {:?}",
        accounts.dropped
    );
    assert_eq!(accounts.drops(), dropped.len() as u64);
    // nothing panicked, and it works on
    let (_, metrics) = node.get("/metrics").await;
    assert_eq!(shoal_tests::metrics::sample(&metrics, "shoal_panics_total"), Some(0.0));
    frames.write(paper.numbered(99, Duration::ZERO, last, &mut rng).as_bytes()).await.expect("sent");
    record.reaches(kept.len() as u64 + 1).await;
    assert_eq!(record.missing([99]), Vec::<u64>::new());
}
