//! A slow or hostile neighbour costs only itself.

use crate::beside;
use crate::replay::{made, send};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::poisson::exponential;
use shoal_protocol::types::{Layer, Role};
use shoal_tests::paper::{Node, Paper, Plan, Record};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// What one link may hold: the send window of 4 MiB, the other side's receive window of as much, and 1,024 packets of the
/// queue, with the memory an allocator needs beside.
const LINK_BYTES: u64 = 2 * (2 * (4 << 20) + 1_024 * PACKET_SIZE as u64);

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_stops_reading_costs_only_its_own_packets() {
    let _beside = beside().await;
    let mut plan = Plan { width: 2, ..Plan::small(Some(Layer::L1)) };
    plan.parameters.epoch_ms = 60_000;
    let paper = Paper::start_as(plan);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let [slow, fast] = [0, 1].map(|n: usize| Arc::clone(&paper.layers[1][n]));
    let record = Record::of(&fast);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let mut rng = StdRng::seed_from_u64(1);
    let mean = Duration::from_millis(20);

    slow.stalled.store(true, Ordering::Relaxed);
    let before = node.resident();
    let (mut numbers, mut sent, mut dropped) = (0..1u64 << 32, 0, 0);
    let mut for_fast = Vec::new();
    // until the slow one's link has been full for a while
    while dropped < 500 {
        let mut packets = Vec::new();
        for _ in 0..200 {
            for (neighbour, mine) in [(&slow, false), (&fast, true)] {
                let number = numbers.next().expect("many");
                packets.push(paper.numbered(number, exponential(mean, &mut rng), neighbour.last_hop(), &mut rng));
                if mine {
                    for_fast.push(number);
                }
            }
        }
        send(&mut frames, &packets).await;
        sent += packets.len() as u64;
        assert!(sent < 40_000, "its queue is bounded");
        let accounts = node.settled(sent).await;
        dropped = accounts.of_reason("link_queue_full");
        assert_eq!(accounts.drops(), dropped, "nothing else is dropped: {:?}", accounts.dropped);
    }
    record.reaches(for_fast.len() as u64).await;
    let grown = node.resident().saturating_sub(before);
    println!(
        "slow neighbour: {sent} packets, {dropped} of its own dropped; of {} for the other {} lost; the node grew by {} kB",
        for_fast.len(),
        record.missing(for_fast.iter().copied()).len(),
        grown / 1_000,
    );
    assert_eq!(record.missing(for_fast.iter().copied()), Vec::<u64>::new());
    assert_eq!(record.twice(), Vec::<u64>::new());
    assert!(grown < LINK_BYTES, "{grown}");

    // it reads again: what its link still holds arrives, and what is sent from now on
    slow.stalled.store(false, Ordering::Relaxed);
    let late = Record::of(&slow);
    late.reaches(sent / 2 - dropped).await;
    let next = numbers.next().expect("many");
    frames.write(paper.numbered(next, mean, slow.last_hop(), &mut rng).as_bytes()).await.expect("sent");
    let arrives = async {
        while !late.missing([next]).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), arrives).await.expect("what is sent from now on arrives");
    println!(
        "slow neighbour: {} of its {} packets came once it read again, and what was sent then {}",
        late.total(),
        sent / 2,
        late.missing([next]).is_empty(),
    );
    assert_eq!(late.missing([next]), Vec::<u64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_12_a_neighbour_that_fills_the_replay_set_leaves_the_others_their_portion() {
    let _beside = beside().await;
    const CAPACITY: usize = 2_000;
    let mut plan = Plan { gateways: 2, ..Plan::small(Some(Layer::L1)) };
    // one key for all of it
    plan.parameters.epoch_ms = 120_000;
    let paper = Paper::start_as(plan);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start_with(&paper, Role::Mix, dir.path(), &[], &[("replay_capacity_packets", CAPACITY)]);
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let (_flooding, mut flood) = node.dial(&paper.gateways[0]).await;
    let (_link, mut frames) = node.dial(&paper.gateways[1]).await;

    // good packets, each fresh, until the node takes no more of them
    let (mut sent, mut refused) = (0, 0);
    while refused == 0 {
        let packets = made(&paper, sent, sent + 500, Duration::from_millis(5)).await;
        send(&mut flood, &packets).await;
        sent += packets.len() as u64;
        assert!(sent < 20_000, "a neighbour may not bring as much as it likes");
        let accounts = node.settled(sent).await;
        assert_eq!(accounts.of_reason("replay_set_full"), 0, "the set is not full");
        refused = accounts.of_reason("portion_taken");
    }
    // a link made anew is no new neighbour
    let (_again, mut again) = node.dial(&paper.gateways[0]).await;
    let packets = made(&paper, sent, sent + 50, Duration::from_millis(5)).await;
    send(&mut again, &packets).await;
    sent += 50;
    let before = node.settled(sent).await;

    // two gateways and three stores come before the first layer: a fifth of the other half is 200
    let honest = made(&paper, 1 << 32, (1 << 32) + 150, Duration::from_millis(5)).await;
    send(&mut frames, &honest).await;
    record.reaches(before.forwarded.min(sent) + 150).await;
    let missing = record.missing((1 << 32)..(1 << 32) + 150);
    println!(
        "row 12: of {sent} packets of a neighbour that floods a replay set of {CAPACITY} {} were refused; of 150 of another none \
         but {missing:?}",
        before.of_reason("portion_taken"),
    );
    assert_eq!(missing, Vec::<u64>::new(), "an honest neighbour's packets pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_has_one_link_and_one_stream_however_many_it_opens() {
    let _beside = beside().await;
    let mut plan = Plan { gateways: 2, ..Plan::small(Some(Layer::L1)) };
    plan.parameters.epoch_ms = 60_000;
    let paper = Paper::start_as(plan);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let mut rng = StdRng::seed_from_u64(1);
    let (_honest, mut frames) = node.dial(&paper.gateways[0]).await;
    let before = node.resident();

    // two hundred links, five at a time, each with a packet of its own; the newest takes the older one's place
    let mut links = Vec::new();
    for round in 0..40u64 {
        let dialled = (0..5).map(|_| {
            let (paper, identity, address) = (Arc::clone(&paper), node.identity, node.address);
            tokio::spawn(async move {
                let peer = &paper.gateways[1];
                peer.endpoint.connect(address, &identity, shoal_protocol::quic::Protocol::Mix).await
            })
        });
        for dialling in dialled.collect::<Vec<_>>() {
            links.extend(dialling.await.expect("ended"));
        }
        let packet = paper.numbered(round, Duration::from_millis(5), paper.mixes[1].last_hop(), &mut rng);
        frames.write(packet.as_bytes()).await.expect("the honest one's link stays");
    }
    record.reaches(40).await;
    assert_eq!(record.missing(0..40), Vec::<u64>::new(), "the honest one's packets pass");
    let status = node.wait("one link each", |status| status["links"]["incoming"].as_u64() == Some(2)).await;
    let open = links.iter().filter(|link| link.is_open()).count();
    println!(
        "hostile neighbour: {} links opened, {} held by the node, {open} still open; it grew by {} kB",
        links.len(),
        status["links"]["incoming"],
        node.resident().saturating_sub(before) / 1_000,
    );
    assert!(open <= 1, "{open} of its links are open");
    assert!(node.resident().saturating_sub(before) < 64 << 20);

    // one stream on a link: a second one is not granted while the first is there
    let (link, mut first) = node.dial(&paper.gateways[1]).await;
    first
        .write(paper.numbered(100, Duration::ZERO, paper.mixes[1].last_hop(), &mut rng).as_bytes())
        .await
        .expect("sent");
    record.reaches(41).await;
    let mut granted = BTreeSet::new();
    let mut streams = Vec::new();
    for n in 0..300 {
        // the first refusal is waited for, the others follow from it
        let patience = if n == 0 { Duration::from_millis(500) } else { Duration::from_millis(1) };
        if let Ok(Ok(stream)) = timeout(patience, link.open_uni()).await {
            granted.insert(n);
            streams.push(stream);
        }
    }
    assert_eq!(granted, BTreeSet::new(), "streams beside the first");
    assert!(link.is_open());
}
