//! Hostile packets and links against real nodes (rows of the table in `tests/README.md`). A gateway that turned bad is
//! played with its own identity key from the test network's folder: what a mix refuses is counted under its reason.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, FrameWriter, Link, Protocol, QuicError, ask};
use shoal_protocol::sphinx::{Hop, build, hostile};
use shoal_protocol::{Identity, IdentityKey, Layer, UnixMillis};
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{metrics, until};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Expected some milliseconds.
const SOON: Duration = Duration::from_secs(30);

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UnixMillis(u64::try_from(since.as_millis()).expect("before the year 584 million"))
}

fn key_of(party: &Party) -> IdentityKey {
    let text = std::fs::read_to_string(party.dir.join("identity.key")).expect("identity.key");
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).expect("hex seed");
    IdentityKey::from_seed(&seed)
}

async fn consensus(net: &Testnet) -> VerifiedConsensus {
    let text = std::fs::read_to_string(&net.ready.network).expect("network file");
    let network = NetworkFile::parse(&text).expect("network file");
    let hint = network.hints.authorities.first().expect("an authority");
    let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("address")).expect("endpoint");
    let link = endpoint.connect(hint.address, &hint.identity, Protocol::Directory).await.expect("authority answers");
    let question = DirectoryQuestion::Newest { have: None }.to_bytes();
    let answer = ask(&link, &question, ANSWER_SIZE_MAX).await.expect("an answer");
    let DirectoryAnswer::Document(bytes) = DirectoryAnswer::from_bytes(&answer).expect("CBOR") else {
        panic!("a document exists");
    };
    UnverifiedConsensus::parse(&bytes)
        .expect("well-formed")
        .verify(&network.trust_anchor(), now(), None)
        .expect("certified and current")
}

struct Mix {
    party: Party,
    identity: Identity,
}

impl Mix {
    fn drops(&self, reason: &str) -> u64 {
        let (_, text) = metrics::get(&self.party.metrics, "/metrics").expect("metrics");
        let name = format!("shoal_packets_dropped_total{{reason=\"{reason}\"}}");
        metrics::sample(&text, &name).unwrap_or_else(|| panic!("{name} exists from the start")) as u64
    }
    fn forwarded(&self) -> u64 {
        let (_, text) = metrics::get(&self.party.metrics, "/metrics").expect("metrics");
        metrics::sample(&text, "shoal_packets_forwarded_total").expect("counter") as u64
    }
    fn counts(&self, reason: &str, before: u64, n: u64) {
        until(&format!("{n} more {reason}"), SOON, || (self.drops(reason) >= before + n).then_some(()));
        assert_eq!(self.drops(reason), before + n, "{reason}");
    }
}

async fn writer(link: &Link) -> FrameWriter<PACKET_SIZE> {
    link.open_frames().await.expect("a stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_refuses_every_hostile_packet_under_its_reason() {
    let net = Testnet::start(&["--epoch", "60s"]);
    let consensus = consensus(&net).await;
    let gateway = net.nodes("gateway", None).remove(0);
    let party = net.nodes("mix", Some("L1")).remove(0);
    let identity: Identity = party.identity.as_deref().expect("identity").parse().expect("hex");
    let mix = Mix { party, identity };
    let entry = consensus.node(&mix.identity).expect("listed");
    let address = *entry.addresses.first().expect("address");
    let mut rng = StdRng::seed_from_u64(1);
    let epoch = consensus.epoch;
    let hop = |node: &shoal_protocol::consensus::NodeEntry, delay| Hop {
        address: *node.identity.as_bytes(),
        key: *node.mix_key(epoch).expect("key"),
        delay,
    };
    let layer = |layer| consensus.layer(layer).next().expect("a mix");
    let way = |second: Layer, delay| vec![hop(entry, delay), hop(layer(second), Duration::ZERO)];
    let short = Duration::from_millis(1);

    // the gateway itself goes, so that the only link of its identity is ours (a mix keeps the newest link of a peer)
    net.kill(gateway.pid);
    let endpoint =
        Endpoint::bind("127.0.0.1:0".parse().expect("address"), &key_of(&gateway), &[Protocol::Mix]).expect("endpoint");
    let link = endpoint.connect(address, &mix.identity, Protocol::Mix).await.expect("a gateway may dial L1");
    let mut frames = writer(&link).await;

    eprintln!("replay");
    let good = build(b"", &way(Layer::L2, short), [1; 16], &mut rng).expect("packet");
    let (before, forwarded) = (mix.drops("replayed"), mix.forwarded());
    for _ in 0..100 {
        frames.write(good.as_bytes()).await.expect("sent");
    }
    mix.counts("replayed", before, 99);
    until("the first one is forwarded", SOON, || (mix.forwarded() > forwarded).then_some(()));

    eprintln!("replay with another encoding of alpha");
    let (bad_alpha, replayed) = (mix.drops("bad_alpha"), mix.drops("replayed"));
    let mut bytes = *good.as_bytes();
    bytes[31] |= 0x80;
    frames.write(&bytes).await.expect("sent");
    for low_order in [0u8, 1] {
        let mut bytes = *good.as_bytes();
        bytes[..32].fill(0);
        bytes[0] = low_order;
        frames.write(&bytes).await.expect("sent");
    }
    mix.counts("bad_alpha", bad_alpha, 3);
    assert_eq!(mix.drops("replayed"), replayed);

    eprintln!("a flipped bit");
    let before = mix.drops("bad_mac");
    for position in [32, 48, 200, 347] {
        let fresh = build(b"", &way(Layer::L2, short), [1; 16], &mut rng).expect("packet");
        let mut bytes = *fresh.as_bytes();
        bytes[position] ^= 0x10;
        frames.write(&bytes).await.expect("sent");
    }
    mix.counts("bad_mac", before, 4);

    eprintln!("a next hop that the topology forbids, or that nobody knows");
    let before = (mix.drops("forbidden_next_hop"), mix.drops("unknown_next_hop"));
    let skipping = build(b"", &way(Layer::L3, short), [1; 16], &mut rng).expect("packet");
    frames.write(skipping.as_bytes()).await.expect("sent");
    let mut nowhere = way(Layer::L2, short);
    nowhere[1].address = [0xab; 32];
    let nowhere = build(b"", &nowhere, [1; 16], &mut rng).expect("packet");
    frames.write(nowhere.as_bytes()).await.expect("sent");
    mix.counts("forbidden_next_hop", before.0, 1);
    mix.counts("unknown_next_hop", before.1, 1);

    eprintln!("extreme delays and another version");
    let before = (mix.drops("delay_over_cap"), mix.drops("wrong_version"));
    for delay in [Duration::from_nanos(u64::MAX), Duration::from_secs(3_600)] {
        let packet = build(b"", &way(Layer::L2, delay), [1; 16], &mut rng).expect("packet");
        frames.write(packet.as_bytes()).await.expect("sent");
    }
    let old = hostile::build_other_version(259, b"", &way(Layer::L2, short), &mut rng).expect("packet");
    frames.write(old.as_bytes()).await.expect("sent");
    mix.counts("delay_over_cap", before.0, 2);
    mix.counts("wrong_version", before.1, 1);

    eprintln!("a frame of the wrong length closes the link");
    let before = mix.drops("wrong_length");
    let other = endpoint.connect(address, &mix.identity, Protocol::Mix).await.expect("link");
    let mut stream = other.open_uni().await.expect("stream");
    stream.write_all(&good.as_bytes()[..PACKET_SIZE - 1]).await.expect("sent");
    stream.finish().expect("finished");
    mix.counts("wrong_length", before, 1);
    tokio::time::timeout(SOON, other.closed()).await.expect("the mix closes the link");

    eprintln!("links that the topology forbids");
    let third = net.nodes("mix", Some("L3")).remove(0);
    for (what, key) in [("a mix of L3", key_of(&third)), ("a stranger", IdentityKey::generate(&mut rng))] {
        let endpoint =
            Endpoint::bind("127.0.0.1:0".parse().expect("address"), &key, &[Protocol::Mix]).expect("endpoint");
        match endpoint.connect(address, &mix.identity, Protocol::Mix).await {
            Ok(link) => {
                tokio::time::timeout(SOON, link.closed()).await.unwrap_or_else(|_| panic!("{what} stays linked"));
            }
            Err(QuicError::Closed | QuicError::Busy) => {}
            Err(other) => panic!("{what}: {other}"),
        }
    }
    let anonymous = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("address")).expect("endpoint");
    assert!(anonymous.connect(address, &mix.identity, Protocol::Mix).await.is_err(), "a mix link needs an identity");
    assert!(anonymous.connect(address, &mix.identity, Protocol::Client).await.is_err(), "a mix has no clients");
}
