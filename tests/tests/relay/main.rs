//! One real node process between paper neighbours: what it passes on, what it refuses, and what survives kill -9.

mod handing;
mod health;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::X25519Secret;
use shoal_protocol::consensus::UnverifiedConsensus;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{Attach, STREAM_CONSENSUS, STREAM_PACKETS};
use shoal_protocol::quic::{CloseReason, Endpoint, FrameReader, Protocol};
use shoal_protocol::sphinx::{Hop, Packet, Unwrapped, open_header};
use shoal_protocol::types::{Epoch, IdentityKey, Layer, Role};
use shoal_tests::paper::{Node, PATIENCE, Paper};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

const DELAY: Duration = Duration::from_millis(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_passes_packets_on_once_and_refuses_the_rest() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let [_, l2, l3] = &paper.mixes;

    // a packet leaves after its delay, to the next layer
    let (link, mut frames) = node.dial(&paper.gateway).await;
    let first = paper.packet(DELAY, l2.last_hop(), 1);
    let sent = paper.clock.monotonic();
    frames.write(first.as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [1; 16]);
    assert!(paper.clock.monotonic() - sent >= DELAY, "it waited for its mixing delay");

    // once: a replay, a damaged one, one for a forbidden step and one above the delay cap do not arrive
    frames.write(first.as_bytes()).await.expect("sent");
    let mut damaged = *paper.packet(DELAY, l2.last_hop(), 2).as_bytes();
    damaged[40] ^= 1;
    frames.write(&damaged).await.expect("sent");
    frames.write(paper.packet(DELAY, l3.last_hop(), 3).as_bytes()).await.expect("sent");
    frames.write(paper.packet(Duration::from_secs(60), l2.last_hop(), 4).as_bytes()).await.expect("sent");
    frames.write(paper.packet(2 * DELAY, l2.last_hop(), 5).as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [5; 16]);
    for reason in ["replayed", "bad_mac", "forbidden_next_hop", "delay_over_cap"] {
        node.dropped(reason, 1).await;
    }

    // kill -9: the same keys, and the memory of what was seen
    node.kill_and_restart();
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(None), "nobody said goodbye");
    node.ready().await;
    let (link, mut frames) = node.dial(&paper.gateway).await;
    frames.write(first.as_bytes()).await.expect("sent");
    frames.write(paper.packet(DELAY, l2.last_hop(), 6).as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [6; 16]);
    node.dropped("replayed", 1).await;

    // a stream that ends inside a packet closes the link
    drop(frames);
    link.close(CloseReason::Done);
    let link = paper.gateway.endpoint.connect(node.address, &node.identity, Protocol::Mix).await.expect("a link");
    let mut stream = link.open_uni().await.expect("a stream");
    stream.write_all(&[0; PACKET_SIZE / 2]).await.expect("sent");
    stream.finish().expect("finished");
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::Malformed)));
    node.dropped("wrong_length", 1).await;

    assert_eq!(node.end("-INT").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_the_topology_or_the_consensus_forbids_are_closed() {
    let paper = Paper::start(Some(Layer::L2));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let stranger = IdentityKey::generate(&mut StdRng::seed_from_u64(99));
    let stranger = Endpoint::dialler(Some(&stranger), "127.0.0.1:0".parse().expect("an address")).expect("a port");
    // unlisted; a gateway (allowed before L1 only)
    for endpoint in [&stranger, &paper.gateway.endpoint] {
        let link = endpoint.connect(node.address, &node.identity, Protocol::Mix).await.expect("a handshake");
        assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::NotAdmitted)));
    }
    // a mix speaks no other protocol
    for protocol in [Protocol::Client, Protocol::Store, Protocol::Directory] {
        assert!(stranger.connect(node.address, &node.identity, protocol).await.is_err(), "{protocol}");
    }
    // L1 may
    let (link, _frames) = node.dial(&paper.mixes[0]).await;
    node.wait("the link is counted", |status| status["links"]["incoming"].as_u64() == Some(1)).await;
    assert!(link.is_open());

    // SIGTERM drains, a second one stops now and keeps the keys: the node may be back soon. Without a next document the
    // drain cannot be over before the second signal comes, however slow this machine is
    paper.frozen.store(true, Ordering::Relaxed);
    node.signal("-TERM");
    node.wait("draining", |status| status["phase"] == "draining").await;
    let had = node.key_files();
    assert!(had.len() >= 2 * 3, "{had:?}");
    node.kill();
    node.restart();
    node.wait("a crash does not bring it back", |status| status["phase"] == "draining").await;
    assert_eq!(node.end("-TERM").await, Some(0));
    // keys of epochs that are over may have gone, on a machine that stood still meanwhile; those to come have not
    let over = paper.network.schedule().epoch_at(paper.clock.wall());
    let kept = node.key_files();
    for name in &had {
        let of = name.strip_prefix("mix-").and_then(|rest| rest.split('.').next()?.parse().ok()).map(Epoch);
        assert!(kept.contains(name) || of.is_some_and(|of| of <= over), "{name} of {had:?} is gone: {kept:?}");
    }
    node.restart();
    node.wait("whoever starts it wants it to serve", |status| status["phase"] == "running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_a_client_both_ways() {
    let paper = Paper::start(None);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let [l1, _, l3] = &paper.mixes;
    let mut rng = StdRng::seed_from_u64(5);

    let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("an address")).expect("a port");
    let link = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let attach = Attach::generate(&mut rng);
    let mut frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    frames.write(attach.to_frame(&mut rng).as_bytes()).await.expect("sent");

    // the consensus comes by itself, and the client need not trust the gateway for it
    let mut packets = None;
    let mut document = None;
    while document.is_none() || packets.is_none() {
        let mut stream = timeout(PATIENCE, link.accept_uni()).await.expect("in time").expect("a stream");
        let mut kind = [0];
        stream.read_exact(&mut kind).await.expect("a first byte");
        match kind[0] {
            STREAM_CONSENSUS => document = Some(stream.read_to_end(1 << 20).await.expect("a document")),
            STREAM_PACKETS => packets = Some(FrameReader::<PACKET_SIZE>::new(stream)),
            other => panic!("stream of kind {other}"),
        }
    }
    UnverifiedConsensus::parse(&document.unwrap_or_default())
        .and_then(|parsed| parsed.verify(&paper.network.trust_anchor(), paper.clock.wall(), None))
        .expect("a certified document");

    // out: to L1 and nowhere else, not even to a session of the same gateway
    let session = *attach.address().as_bytes();
    let key = X25519Secret::generate(&mut rng);
    let to_session = Hop { address: session, key: key.public(), delay: Duration::ZERO };
    frames.write(paper.packet(DELAY, to_session, 1).as_bytes()).await.expect("sent");
    frames.write(paper.packet(2 * DELAY, l1.last_hop(), 2).as_bytes()).await.expect("sent");
    assert_eq!(l1.receive().await, [2; 16]);

    // back: from L3 to the session
    let (_l3_link, mut from_l3) = node.dial(l3).await;
    from_l3.write(paper.packet(DELAY, to_session, 3).as_bytes()).await.expect("sent");
    let mut packets = packets.expect("opened above");
    let reply = timeout(PATIENCE, packets.next()).await.expect("in time").expect("a frame").expect("a packet");
    let opened = open_header(&Packet::from_array(reply), &key).expect("for this session").finish().expect("good");
    assert!(matches!(opened, Unwrapped::Final { identifier, .. } if identifier == [3; 16]), "and not packet 1");

    // the same session on a newer link: the older one is closed, replies follow
    let newer = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let mut again = newer.open_frames::<PACKET_SIZE>().await.expect("a stream");
    again.write(attach.to_frame(&mut rng).as_bytes()).await.expect("sent");
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::Done)));

    // an operator sees nothing finer than an epoch
    assert_eq!(node.status().await["by_epoch"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_replay_log_destroys_its_key() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let l2 = &paper.mixes[1];
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let seen = paper.packet(Duration::ZERO, l2.last_hop(), 1);
    frames.write(seen.as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [1; 16]);

    node.kill();
    for entry in std::fs::read_dir(node.runtime_dir()).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "replay") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    node.restart();
    // out, and says until when; then the newest document has the new keys
    node.wait("out", |status| status["out_until_epoch"].is_u64() && status["ready"] == false).await;
    node.ready().await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    frames.write(seen.as_bytes()).await.expect("sent");
    node.dropped("bad_mac", 1).await;
    frames.write(paper.packet(Duration::ZERO, l2.last_hop(), 2).as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [2; 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_leaves_the_next_document_serves_until_it_is_out_and_erases_its_keys() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let l2 = &paper.mixes[1];
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    node.signal("-TERM");
    node.wait("draining", |status| status["phase"] == "draining" && status["ready"] == false).await;
    // the last descriptor has a key for this epoch and no other
    node.wait("the farewell", |_| paper.descriptor().mix_keys.len() == 1).await;
    let descriptor = paper.descriptor();
    let last = descriptor.mix_keys[0].0.0;
    node.wait("said so", |status| status["descriptor"]["covers_epoch"].as_u64() == Some(last)).await;
    frames.write(paper.packet(DELAY, l2.last_hop(), 1).as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [1; 16], "served as before");
    let under_way = paper.packet(DELAY, l2.last_hop(), 2);
    // the next document is without the node; what was built under the one before it still passes
    node.wait("out", |status| status["in_consensus"] == false).await;
    frames.write(under_way.as_bytes()).await.expect("sent");
    assert_eq!(l2.receive().await, [2; 16], "served until nobody can need it");
    assert_eq!(node.ended().await, Some(0));
    assert_eq!(node.key_files(), Vec::<String>::new());
    assert_eq!(paper.descriptor(), descriptor, "no descriptor after the last one");
}
