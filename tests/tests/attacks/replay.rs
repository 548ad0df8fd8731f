//! Row 1: a packet leaves once, however often and on how many links it comes. `SHOAL_PACKETS=1000000` is the full size.

use crate::{beside, size};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::poisson::exponential;
use shoal_protocol::quic::{FrameWriter, Link};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::types::{Layer, Role};
use shoal_tests::paper::{Node, Paper, Plan, Record};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Links on which the same packets come at the same time.
const LINKS: usize = 8;
/// Fresh packets at a time: on eight links at once 3,200, fewer than wait for a worker at most.
const CHUNK: u64 = 400;
const MEAN: Duration = Duration::from_millis(5);

/// A link and its stream.
pub(crate) type Open = (Link, FrameWriter<PACKET_SIZE>);

/// Packets `from..to` for the next layer, made on a thread of their own.
pub(crate) async fn made(paper: &Arc<Paper>, from: u64, to: u64, mean: Duration) -> Vec<Packet> {
    let paper = Arc::clone(paper);
    let making = tokio::task::spawn_blocking(move || {
        let mut rng = StdRng::seed_from_u64(from);
        let hop = paper.mixes[1].last_hop();
        (from..to)
            .map(|number| {
                let delay = exponential(mean, &mut rng);
                paper.numbered(number, delay, hop, &mut rng)
            })
            .collect()
    });
    making.await.expect("made")
}

/// Writes packets, sixteen at a time.
pub(crate) async fn send(frames: &mut FrameWriter<PACKET_SIZE>, packets: &[Packet]) {
    for batch in packets.chunks(16) {
        let batch = batch.iter().cloned().map(Packet::into_array).collect();
        frames.write_batch(batch).await.expect("the link is open");
    }
}

/// A network whose epochs are long beside the making of a chunk.
pub(crate) fn plan() -> Plan {
    let mut plan = Plan { gateways: LINKS, ..Plan::small(Some(Layer::L1)) };
    plan.parameters.epoch_ms = 20_000;
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_replayed_on_the_same_link_another_and_eight_at_once_a_packet_leaves_once() {
    let _beside = beside().await;
    let total = size("SHOAL_PACKETS", 4_000).next_multiple_of(2 * CHUNK);
    let paper = Paper::start_as(plan());
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let began = Instant::now();
    let mut links: Vec<Open> = Vec::new();
    for gateway in &paper.gateways {
        links.push(node.dial(gateway).await);
    }
    let (mut sent, mut made_so_far, mut lost) = (0, 0, Vec::new());
    let mut next = tokio::spawn({
        let paper = Arc::clone(&paper);
        async move { made(&paper, 0, CHUNK, MEAN).await }
    });
    while made_so_far < total {
        let (from, to) = (made_so_far, made_so_far + CHUNK);
        let packets = next.await.expect("made");
        let ahead = Arc::clone(&paper);
        next = tokio::spawn(async move { made(&ahead, to, (to + CHUNK).min(total), MEAN).await });
        made_so_far = to;
        if (from / CHUNK).is_multiple_of(2) {
            // first once, then on the same link, then on a newer link of the same peer
            send(&mut links[0].1, &packets).await;
            sent += CHUNK;
            node.settled(sent).await;
            record.reaches(to - lost.len() as u64).await;
            send(&mut links[0].1, &packets).await;
            node.settled(sent + CHUNK).await;
            links[0] = node.dial(&paper.gateways[0]).await;
            send(&mut links[0].1, &packets).await;
        } else {
            // on eight links at once, nobody first
            let mut racing = Vec::new();
            for (link, mut frames) in links.drain(..) {
                let packets = packets.clone();
                racing.push(tokio::spawn(async move {
                    send(&mut frames, &packets).await;
                    (link, frames)
                }));
            }
            for racer in racing {
                links.push(racer.await.expect("sent"));
            }
            record.reaches(to - lost.len() as u64).await;
        }
        // nothing on its way when the next chunk comes
        let accounts = quiet(&node).await;
        sent = accounts.received;
        lost.extend(record.missing(from..to));
    }
    let accounts = node.accounts().await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "row 1: {total} packets, received {} times: forwarded {}, twice {}, fresh ones lost {}; dropped {:?}; {seconds:.0} s",
        accounts.received,
        record.total(),
        record.twice().len(),
        lost.len(),
        accounts.dropped,
    );
    assert_eq!((record.twice(), record.unreadable()), (Vec::new(), 0), "forwarded twice");
    assert!(lost.len() as f64 <= total as f64 * 1e-6, "{} fresh packets lost: {:?}", lost.len(), accounts.dropped);
    assert_eq!(accounts.received, accounts.forwarded + accounts.drops());
    // every second chunk came two times more, the others seven
    assert_eq!(accounts.of_reason("replayed"), total / 2 * (2 + LINKS as u64 - 1), "{:?}", accounts.dropped);
}

/// Waits until the node has accounted for all it received and receives no more.
pub(crate) async fn quiet(node: &Node) -> shoal_tests::paper::Accounts {
    let mut last = node.accounts().await;
    loop {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let now = node.settled(last.received).await;
        if now.received == last.received {
            return now;
        }
        last = now;
    }
}
