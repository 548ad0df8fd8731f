//! Packets and links that no honest party makes: each refused, and counted under its reason.

use crate::beside;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::quic::{Endpoint, Protocol};
use shoal_protocol::sphinx::{Hop, build, hostile};
use shoal_protocol::types::{Layer, Role};
use shoal_tests::paper::{Node, Paper};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn other_versions_and_next_hops_that_nobody_knows_are_refused_under_their_reason() {
    let _beside = beside().await;
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(1);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let [l1, l2, l3] = &paper.mixes;
    let mine = || paper.hop(Duration::from_millis(1));

    let versions = [1, 257, 258, 259, 261, 0xffff];
    for version in versions {
        let packet = hostile::build_other_version(version, b"", &[mine(), l2.last_hop()], &mut rng).expect("a packet");
        frames.write(packet.as_bytes()).await.expect("sent");
    }
    node.dropped("wrong_version", versions.len() as u64).await;

    let nobody = Hop { address: [0xab; 32], ..l2.last_hop() };
    frames.write(build(b"", &[mine(), nobody], [1; 16], &mut rng).expect("a packet").as_bytes()).await.expect("sent");
    node.dropped("unknown_next_hop", 1).await;
    // a layer skipped, the same layer, back to where it came from, a store before its time
    let forbidden = [l3.last_hop(), l1.last_hop(), paper.gateway.last_hop(), paper.stores[0].last_hop()];
    for hop in forbidden {
        frames.write(build(b"", &[mine(), hop], [1; 16], &mut rng).expect("a packet").as_bytes()).await.expect("sent");
    }
    node.dropped("forbidden_next_hop", forbidden.len() as u64).await;
    // a mix is nobody's last hop
    frames.write(build(b"", &[mine()], [1; 16], &mut rng).expect("a packet").as_bytes()).await.expect("sent");
    node.dropped("unexpected_final", 1).await;
    let accounts = node.settled((versions.len() + forbidden.len()) as u64 + 2).await;
    assert_eq!((accounts.forwarded, accounts.drops()), (0, accounts.received), "{:?}", accounts.dropped);

    // who shows no identity is no neighbour, and a mix has no clients
    let anonymous = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("an address")).expect("a port");
    for protocol in [Protocol::Mix, Protocol::Client, Protocol::Directory] {
        assert!(anonymous.connect(node.address, &node.identity, protocol).await.is_err(), "{protocol}");
    }
}
