//! Row 1, across time: a packet leaves once also when the node is killed or stopped between two of its comings, when its
//! mix key is over, when the clock steps. `SHOAL_KILLS=50` is the full size.

use crate::replay::{Open, made, plan, quiet, send};
use crate::{beside, size};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::quic::FrameWriter;
use shoal_protocol::sphinx::Packet;
use shoal_protocol::types::{Layer, Role, UnixMillis};
use shoal_tests::faketime;
use shoal_tests::paper::{Accounts, Node, PATIENCE, Paper, Plan, Record};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Packets around one restart.
const ROUND: u64 = 1_500;
const MEAN: Duration = Duration::from_millis(20);

/// Sends packets until they are all gone or the link is.
async fn send_while_open(frames: &mut FrameWriter<PACKET_SIZE>, packets: &[Packet]) {
    for batch in packets.chunks(16) {
        let batch = batch.iter().cloned().map(Packet::into_array).collect();
        if frames.write_batch(batch).await.is_err() {
            return;
        }
    }
}

/// Sends packets in parts that a worker's queue holds, each when the one before is accounted for.
async fn replay(node: &Node, frames: &mut FrameWriter<PACKET_SIZE>, packets: &[Packet]) -> Accounts {
    for part in packets.chunks(2_000) {
        let before = node.accounts().await.received;
        send(frames, part).await;
        node.settled(before + part.len() as u64).await;
    }
    quiet(node).await
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_killed_at_any_moment_nothing_that_left_leaves_again() {
    let _beside = beside().await;
    let kills = size("SHOAL_KILLS", 5);
    let paper = Paper::start_as(plan());
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let mut rng = StdRng::seed_from_u64(kills);
    // what the key of the epoch may still accept: five rounds
    let mut history: Vec<Packet> = Vec::new();
    let (mut refused, mut between) = (0, 0);
    for round in 0..kills {
        let packets = made(&paper, round * ROUND, (round + 1) * ROUND, MEAN).await;
        let (link, mut frames) = node.dial(&paper.gateway).await;
        let sending = packets.clone();
        let sender = tokio::spawn(async move {
            send_while_open(&mut frames, &sending).await;
            // the stream's end would close the link; that the other side is dead it learns in twelve seconds
            link.closed().await;
        });
        let before = record.total();
        let moment = paper.clock.monotonic() + Duration::from_micros(rng.random_range(0..300_000));
        until_async(|| paper.clock.monotonic() >= moment).await;
        node.kill();
        sender.abort();
        let left = record.total() - before;
        between += u64::from(left > 0 && left < ROUND);
        history.extend(packets);
        history.drain(..history.len().saturating_sub(5 * ROUND as usize));
        node.restart();
        node.ready().await;
        let (_link, mut frames) = node.dial(&paper.gateway).await;
        let accounts = replay(&node, &mut frames, &history).await;
        refused += accounts.of_reason("replayed");
        // and the node is as good as before
        let fresh = made(&paper, (kills + round) * ROUND, (kills + round) * ROUND + 100, MEAN).await;
        replay(&node, &mut frames, &fresh).await;
        record.reaches(u64::MAX).await;
        assert_eq!(record.twice(), Vec::<u64>::new(), "after kill {round}: {:?}", accounts.dropped);
    }
    let lost = record.missing(0..kills * ROUND).len();
    let fresh: Vec<u64> = (0..kills).flat_map(|round| (kills + round) * ROUND..(kills + round) * ROUND + 100).collect();
    println!(
        "row 1: {kills} kills, {between} of them with some packets gone and some not: of {} packets 0 forwarded twice, {lost} \
         lost in the queue of a killed node, {refused} refused as replayed; {} of those after a restart lost",
        kills * (ROUND + 100),
        record.missing(fresh.clone()).len(),
    );
    assert!(between > 0, "at least one kill came between a first and a last packet");
    assert_eq!(record.missing(fresh), Vec::<u64>::new());
    assert!(refused > 0 && record.unreadable() == 0);
}

/// Asks every millisecond.
async fn until_async(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_stopped_by_sigterm_twice_the_node_remembers() {
    let _beside = beside().await;
    let paper = Paper::start_as(plan());
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let packets = made(&paper, 0, ROUND, MEAN).await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    replay(&node, &mut frames, &packets).await;
    record.reaches(ROUND).await;
    assert_eq!(record.total(), ROUND);
    // without a next document the drain cannot be over before the second signal comes
    paper.frozen.store(true, Ordering::Relaxed);
    node.signal("-TERM");
    node.wait("draining", |status| status["phase"] == "draining").await;
    assert_eq!(node.end("-TERM").await, Some(0));
    paper.frozen.store(false, Ordering::Relaxed);
    node.restart();
    node.wait("back", |status| status["in_consensus"] == true).await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let accounts = replay(&node, &mut frames, &packets).await;
    println!("row 1: {ROUND} packets after SIGTERM twice and a restart: {:?}", accounts.dropped);
    assert_eq!(accounts.of_reason("replayed"), ROUND);
    assert_eq!((record.total(), record.twice()), (ROUND, Vec::new()));
}

/// Waits for a moment of the wall clock.
async fn reaches(paper: &Paper, moment: UnixMillis) {
    let waiting = until_async(|| paper.clock.wall() >= moment);
    tokio::time::timeout(PATIENCE, waiting).await.expect("time passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_in_its_grace_time_a_key_remembers_and_then_it_is_gone() {
    let _beside = beside().await;
    let paper = Paper::start_as(Plan::hasty(Some(Layer::L1)));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let schedule = paper.network.schedule();
    let record = Record::of(&paper.mixes[1]);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    // early in an epoch, so that packets are made and sent in it
    let next = schedule.epoch_at(paper.clock.wall()).plus(1);
    reaches(&paper, schedule.start(next)).await;
    node.wait("the key of the epoch is in the document", |status| status["epoch"].as_u64() == Some(next.0)).await;
    let packets = made(&paper, 0, 500, MEAN).await;
    replay(&node, &mut frames, &packets).await;
    record.reaches(500).await;
    assert_eq!(record.total(), 500);
    let first = replay(&node, &mut frames, &packets).await;
    assert_eq!(first.of_reason("replayed"), 500);

    reaches(&paper, schedule.start(next.plus(1))).await;
    let grace = replay(&node, &mut frames, &packets).await;
    assert_eq!(grace.of_reason("replayed"), 1_000, "{:?}", grace.dropped);

    // the grace time, and a second for the task that erases
    let grace_over = schedule.start(next.plus(1)).plus(paper.network.parameters.grace());
    reaches(&paper, grace_over.plus(Duration::from_secs(1))).await;
    let gone = replay(&node, &mut frames, &packets).await;
    println!("row 1: 500 packets, again in the epoch, in the grace time and after it: {:?}", gone.dropped);
    assert_eq!((gone.of_reason("replayed"), gone.of_reason("bad_mac")), (1_000, 500), "{:?}", gone.dropped);
    assert_eq!((record.total(), record.twice()), (500, Vec::new()));
    // drained to its end, the node has no key that would open them
    let names = node.key_files();
    assert!(!names.iter().any(|name| name.starts_with(&format!("mix-{}.", next.0))), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_drained_by_sigterm_the_node_comes_back_with_other_keys() {
    let _beside = beside().await;
    let paper = Paper::start_as(Plan::hasty(Some(Layer::L1)));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let packets = made(&paper, 0, 500, MEAN).await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    replay(&node, &mut frames, &packets).await;
    record.reaches(500).await;
    assert_eq!(node.end("-TERM").await, Some(0));
    assert_eq!(node.key_files(), Vec::<String>::new());
    node.restart();
    node.ready().await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let accounts = replay(&node, &mut frames, &packets).await;
    assert_eq!(accounts.of_reason("bad_mac"), 500, "{:?}", accounts.dropped);
    assert_eq!((record.total(), record.twice()), (500, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_a_clock_that_steps_back_and_forth_opens_nothing_again() {
    let _beside = beside().await;
    let paper = Paper::start_as(Plan::hasty(Some(Layer::L1)));
    let dir = tempfile::tempdir().expect("a directory");
    let step = dir.path().join("step");
    let set = |by: &str| std::fs::write(&step, by).expect("written");
    set("+0");
    let environment = faketime::environment(&step);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let node = Node::start_with(&paper, Role::Mix, dir.path(), &environment, &[]);
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let packets = made(&paper, 0, 300, MEAN).await;
    let (mut link, mut frames) = node.dial(&paper.gateway).await;
    replay(&node, &mut frames, &packets).await;
    record.reaches(300).await;
    assert_eq!(record.total(), 300);
    let mut refused = 300;
    // an epoch back, three ahead (its keys are over by then), and the truth again
    for by in ["-5", "+0", "+15", "+0"] {
        set(by);
        // the library looks at the file once a second, and the node at its keys as often
        reaches(&paper, paper.clock.wall().plus(Duration::from_millis(2_500))).await;
        if !link.is_open() {
            (link, frames) = redial(&paper, &node).await;
        }
        let accounts = replay(&node, &mut frames, &packets).await;
        println!("row 1: clock {by}: {:?}", accounts.dropped);
        assert!(accounts.drops() >= refused, "{by}: {:?}", accounts.dropped);
        refused += 300;
        assert_eq!((record.total(), record.twice()), (300, Vec::new()), "{by}");
    }
    // and it finds back into the network
    node.ready().await;
    if !link.is_open() {
        (link, frames) = redial(&paper, &node).await;
    }
    let fresh = made(&paper, 1_000, 1_010, MEAN).await;
    send(&mut frames, &fresh).await;
    record.reaches(310).await;
    assert_eq!(record.missing(1_000..1_010), Vec::<u64>::new());
    drop(link);
}

async fn redial(paper: &Arc<Paper>, node: &Node) -> Open {
    node.dial(&paper.gateway).await
}
