//! Row 13: seats of a gateway, and what who sits there may send.

use crate::alone;
use crate::floods::{ANY, read_all};
use crate::flow::{Passed, Taker, drawn, write_at};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::Attach;
use shoal_protocol::parameters::Rate;
use shoal_protocol::quic::{CloseReason, Endpoint, FrameWriter, Link, Protocol};
use shoal_protocol::types::Role;
use shoal_tests::paper::{Node, PATIENCE, Paper, Plan, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A client that has attached.
async fn client(node: &Node, number: u64) -> (Link, FrameWriter<PACKET_SIZE>) {
    let dialler = Endpoint::dialler(None, ANY).expect("a port");
    let link = dialler.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let mut frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    let mut rng = StdRng::seed_from_u64(number);
    frames.write(Attach::generate(&mut rng).to_frame(&mut rng).as_bytes()).await.expect("sent");
    tokio::spawn(read_all(link.clone()));
    (link, frames)
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_who_only_holds_a_seat_loses_it_and_who_sends_keeps_his() {
    let _alone = alone().await;
    let mut plan = Plan::small(None);
    plan.parameters.epoch_ms = 120_000;
    // a gap of 100 ms: 3.2 s of silence
    plan.parameters.lambda_low = Rate(10_000);
    let paper = Paper::start_as(plan);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start_with(&paper, Role::Gateway, dir.path(), &[], &[("sessions", 4)]);
    node.ready().await;
    let (honest, mut frames) = client(&node, 1).await;
    let mut idle = Vec::new();
    for number in 2..5 {
        idle.push(client(&node, number).await);
    }
    // no seat for another: it is turned away, in the handshake or right after it
    let dialler = Endpoint::dialler(None, ANY).expect("a port");
    if let Ok(link) = dialler.connect(node.address, &node.identity, Protocol::Client).await {
        assert_eq!(timeout(PATIENCE, link.closed()).await.expect("closed"), Some(CloseReason::Busy));
    }

    let to = &paper.mixes[0];
    let packets = drawn(&paper, to, 0, 60, Duration::from_millis(5)).await;
    let taker = Taker::of(to);
    let silence = async {
        let began = Instant::now();
        for (link, _frames) in &idle {
            let reason = timeout(PATIENCE, link.closed()).await.expect("who sends nothing is closed");
            assert_eq!(reason, Some(CloseReason::Done));
        }
        began.elapsed()
    };
    let (written, silence) = tokio::join!(write_at(&paper, &mut frames, packets, 10.0), silence);
    assert!(honest.is_open(), "who sends by its schedule stays");
    let passed = Passed::of(taker.taken(written.len() as u64).await, to, &written);
    eprintln!(
        "row 13: three seats came free after {silence:.1?}; of 60 packets of a client that sends {} passed",
        passed.took.len()
    );
    assert_eq!(passed.took.len(), 60);

    // and somebody else has a seat now
    let (link, mut frames) = client(&node, 9).await;
    let packets = drawn(&paper, to, 1 << 32, 5, Duration::from_millis(5)).await;
    let taker = Taker::of(to);
    let written = write_at(&paper, &mut frames, packets, 10.0).await;
    assert_eq!(Passed::of(taker.taken(5).await, to, &written).took.len(), 5);
    assert!(link.is_open());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_a_client_that_sends_too_fast_is_held_back_and_nothing_is_dropped() {
    let _alone = alone().await;
    let mut plan = Plan::small(None);
    plan.parameters.epoch_ms = 120_000;
    let paper = Paper::start_as(plan);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let to = &paper.mixes[0];
    // what the node and its client may hold between them is about 220 packets
    let many = drawn(&paper, to, 1 << 32, 600, Duration::ZERO).await;
    let few = drawn(&paper, to, 0, 30, Duration::from_millis(5)).await;
    let (_honest, mut frames) = client(&node, 1).await;
    let taker = Taker::of(to);

    let began = Instant::now();
    let (hasty, mut flood) = client(&node, 2).await;
    let written_by_hasty = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written_by_hasty);
    let flooding = tokio::spawn(async move {
        for (_, _, packet) in many {
            if flood.write(packet.as_bytes()).await.is_err() {
                return;
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let written = write_at(&paper, &mut frames, few, 10.0).await;
    let writes = written_by_hasty.load(Ordering::Relaxed);
    assert!(hasty.is_open(), "who is held back keeps its link");
    hasty.close(CloseReason::Done);
    let elapsed = began.elapsed();
    let arrived = taker.taken(u64::MAX).await;
    let record = |number: u64| number >= 1 << 32;
    let of_hasty = arrived.iter().filter(|(packet, _)| numbered(packet, to).is_some_and(record)).count();
    let honest = Passed::of(arrived, to, &written);
    // sixteen at once, then fifteen a second
    let allowed = 16.0 + 15.0 * elapsed.as_secs_f64();
    eprintln!(
        "row 13: a client that sends without pause wrote {writes} of 600 packets, {of_hasty} passed in {elapsed:.1?} ({allowed:.0} \
         allowed); of 30 of another {} passed",
        honest.took.len(),
    );
    assert!((of_hasty as f64) <= allowed + 2.0, "{of_hasty} of {allowed}");
    assert!(writes < 600, "the sender is held back, not read and dropped");
    assert_eq!(honest.took.len(), 30, "another client is served");
    flooding.abort();
}

/// The number of a packet for this neighbour.
fn numbered(packet: &shoal_protocol::sphinx::Packet, to: &shoal_tests::paper::Neighbour) -> Option<u64> {
    let opened = shoal_protocol::sphinx::open_header(packet, &to.mix).ok()?.finish().ok()?;
    match opened {
        shoal_protocol::sphinx::Unwrapped::Final { identifier, .. } => Some(Record::number(&identifier)),
        shoal_protocol::sphinx::Unwrapped::Forward { .. } => None,
    }
}
