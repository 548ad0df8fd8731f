//! Log flood and log leak (row 22 of the table in `tests/README.md`): everything bad that a neighbour, a client, a stranger
//! and a gateway can send, in large numbers, at real daemons that log as much as they ever do (`SHOAL_LOG=debug`). What
//! then lies in their logs is read as an adversary would: no more than a line a second, no address, and nothing that is
//! known of a packet, a session, a route or a person.
//!
//! `SHOAL_PACKETS=1000000` for the full size.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use shoal_protocol::consensus::{NodeEntry, VerifiedConsensus};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::geometry::{PACKET_SIZE, STORE_FRAME_SIZE};
use shoal_protocol::link::{ANSWER_SIZE_MAX, Attach, DirectoryQuestion};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::sphinx::{Hop, Packet, build, hostile, open_header};
use shoal_protocol::types::Role;
use shoal_protocol::{Identity, IdentityKey, Layer, X25519Secret};
use shoal_tests::impostor::{consensus, identity_of, key_of, link_as, network_of, now};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{metrics, until};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Expected milliseconds.
const SOON: Duration = Duration::from_secs(60);

fn any() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// What must be in no log.
#[derive(Default)]
struct Known(Vec<(&'static str, String)>);

impl Known {
    fn bytes(&mut self, what: &'static str, bytes: &[u8]) {
        // as far as a log would shorten it
        self.0.push((what, hex::encode(&bytes[..bytes.len().min(8)])));
    }
    fn text(&mut self, what: &'static str, text: &str) {
        self.0.push((what, text.to_owned()));
    }
}

/// A handful of packets of every kind that is refused, each under its own reason.
fn bad_packets(document: &VerifiedConsensus, to: &NodeEntry, known: &mut Known, rng: &mut StdRng) -> Vec<Packet> {
    let epoch = document.epoch;
    let hop = |node: &NodeEntry, delay| Hop {
        address: *node.identity.as_bytes(),
        key: *node.mix_key(epoch).expect("a key"),
        delay,
    };
    let layer = |layer| document.layer(layer).next().expect("a mix");
    let short = Duration::from_millis(1);
    let mut packets = Vec::new();
    for _ in 0..20 {
        let way = |second: Layer, delay| vec![hop(to, delay), hop(layer(second), Duration::ZERO)];
        let make = |hops: &[Hop], rng: &mut StdRng| build(b"", hops, [1; 16], rng).expect("a packet");
        // what is good once is a replay from then on
        let good = make(&way(Layer::L2, short), rng);
        known.bytes("alpha", &good.as_bytes()[..32]);
        packets.push(good.clone());
        packets.push(make(&way(Layer::L3, short), rng));
        packets.push(make(&way(Layer::L2, Duration::from_secs(100_000)), rng));
        let mut nowhere = way(Layer::L2, short);
        rng.fill_bytes(&mut nowhere[1].address);
        known.bytes("next hop", &nowhere[1].address);
        packets.push(make(&nowhere, rng));
        packets.push(make(&way(Layer::L2, short)[..1], rng));
        packets.push(hostile::build_other_version(259, b"", &way(Layer::L2, short), rng).expect("a packet"));
        for position in [0, 31, 40, 200, 340, 360] {
            let mut bytes = *good.as_bytes();
            bytes[position] ^= 0x80;
            packets.push(Packet::from_array(Box::new(bytes)));
        }
        let mut noise = Box::new([0; PACKET_SIZE]);
        rng.fill_bytes(noise.as_mut_slice());
        packets.push(Packet::from_array(noise));
    }
    packets
}

/// Sends `count` packets, each of them changed at its end or not at all.
async fn flood(link: &Link, packets: &[Packet], count: usize, rng: &mut StdRng) {
    let mut frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    let mut sent = 0;
    while sent < count {
        let batch: Vec<_> = (0..16).map(|_| packets[rng.random_range(0..packets.len())].clone().into_array()).collect();
        sent += batch.len();
        frames.write_batch(batch).await.expect("the link stays");
    }
    frames.finish().await.expect("finished");
    // until all of it is read
    let _ = tokio::time::timeout(SOON, link.closed()).await;
}

/// Frames that are none, each on a link of its own: it is closed.
async fn broken_frames(as_party: &Party, to: &Party, count: usize) {
    for _ in 0..count {
        let (_port, link) = link_as(as_party, to).await;
        let mut stream = link.open_uni().await.expect("a stream");
        stream.write_all(&[7; PACKET_SIZE - 1]).await.expect("sent");
        stream.finish().expect("finished");
        tokio::time::timeout(SOON, link.closed()).await.expect("the link is closed");
    }
}

/// A client that sends far more than it may, and what is no packet.
async fn bad_client(gateway: &Party, packets: &[Packet], count: usize, known: &mut Known, rng: &mut StdRng) {
    let endpoint = Endpoint::dialler(None, any()).expect("a port");
    let address = gateway.addr.parse().expect("an address");
    known.text("a client's port", &endpoint.local_addr().expect("bound").to_string());
    let identity = identity_of(gateway);
    let dial = || endpoint.connect(address, &identity, Protocol::Client);
    for _ in 0..count.div_ceil(200).min(200) {
        // the first frame is too short
        let link = dial().await.expect("a client");
        let mut stream = link.open_uni().await.expect("a stream");
        stream.write_all(&[7; 100]).await.expect("sent");
        stream.finish().expect("finished");
        tokio::time::timeout(SOON, link.closed()).await.expect("the link is closed");
    }
    let link = dial().await.expect("a client");
    let attach = Attach::generate(rng);
    known.bytes("attach secret", attach.as_bytes());
    known.bytes("session address", attach.address().as_bytes());
    let mut frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    frames.write(attach.to_frame(rng).as_bytes()).await.expect("attached");
    let mut sent = 0;
    while sent < count {
        let batch: Vec<_> = (0..16).map(|_| packets[rng.random_range(0..packets.len())].clone().into_array()).collect();
        sent += batch.len();
        // until the gateway holds it back: it takes fifteen a second, and sixteen are not taken within half a second
        match tokio::time::timeout(Duration::from_millis(500), frames.write_batch(batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    drop(frames);
    link.close(shoal_protocol::quic::CloseReason::Done);
}

/// Handshakes of those who may not, at every port; then datagrams that mean nothing.
async fn strangers(parties: &[(SocketAddr, Identity)], count: usize, known: &mut Known, rng: &mut StdRng) {
    let key = IdentityKey::generate(rng);
    known.text("a stranger", &key.identity().to_string());
    let named = Endpoint::dialler(Some(&key), any()).expect("a port");
    let unnamed = Endpoint::dialler(None, any()).expect("a port");
    let other = Identity::from_bytes([9; 32]);
    for (address, identity) in parties {
        for number in 0..count {
            let (endpoint, expect, protocol) = match number % 5 {
                0 => (&named, identity, Protocol::Mix),
                1 => (&named, identity, Protocol::Store),
                2 => (&unnamed, identity, Protocol::Client),
                3 => (&named, identity, Protocol::Directory),
                _ => (&named, &other, Protocol::Mix),
            };
            // refused in one way or another; who is taken asks nothing and goes
            drop(tokio::time::timeout(SOON, endpoint.connect(*address, expect, protocol)).await.expect("an end"));
        }
        let socket = UdpSocket::bind(any()).expect("a port");
        known.text("a stranger's port", &socket.local_addr().expect("bound").to_string());
        for length in (0..count * 20).map(|number| number % 1_400) {
            let mut noise = vec![0; length];
            rng.fill_bytes(&mut noise);
            let _ = socket.send_to(&noise, *address);
        }
    }
}

/// Questions that are none, and descriptors of nodes that nobody admitted, each another one.
async fn bad_questions(
    to: (SocketAddr, Identity),
    network: &NetworkFile,
    elsewhere: SocketAddr,
    count: usize,
    rng: &mut StdRng,
) {
    let endpoint = Endpoint::dialler(None, any()).expect("a port");
    let mut link = None;
    for number in 0..count {
        let open = link.take().filter(Link::is_open);
        let held = match open {
            Some(link) => link,
            None => match endpoint.connect(to.0, &to.1, Protocol::Directory).await {
                Ok(link) => link,
                Err(_) => continue,
            },
        };
        let question = match number % 3 {
            0 => (0..rng.random_range(1..300)).map(|_| rng.random()).collect(),
            1 => DirectoryQuestion::Publish((0..300).map(|_| rng.random()).collect()).to_bytes(),
            _ => DirectoryQuestion::Publish(descriptor(network, elsewhere, rng)).to_bytes(),
        };
        // whatever comes back
        let _ = tokio::time::timeout(Duration::from_secs(20), ask(&held, &question, ANSWER_SIZE_MAX)).await;
        link = Some(held);
    }
}

/// Of a node that is not there: who listens at `elsewhere` is somebody else.
fn descriptor(network: &NetworkFile, elsewhere: SocketAddr, rng: &mut StdRng) -> Vec<u8> {
    let key = IdentityKey::generate(rng);
    let epoch = network.schedule().epoch_at(now());
    let keys = (0..4).map(|ahead| (epoch.plus(ahead), X25519Secret::generate(rng).public())).collect();
    Descriptor {
        network: network.genesis_hash(),
        identity: key.identity(),
        role: Role::Mix,
        addresses: vec![elsewhere],
        family: None,
        published: now(),
        version: "0.1.0".to_owned(),
        mix_keys: keys,
        envelope_keys: Vec::new(),
        loops: Vec::new(),
        leaving: false,
    }
    .sign(&key)
}

/// Frames between stores that mean nothing.
async fn bad_store_frames(as_party: &Party, to: &Party, count: usize, rng: &mut StdRng) {
    let endpoint = Endpoint::bind(any(), &key_of(as_party), &[Protocol::Store]).expect("a port");
    let address = to.addr.parse().expect("an address");
    let link = endpoint.connect(address, &identity_of(to), Protocol::Store).await.expect("a store");
    let mut frames = link.open_frames::<STORE_FRAME_SIZE>().await.expect("a stream");
    for _ in 0..count {
        let mut frame = Box::new([0; STORE_FRAME_SIZE]);
        rng.fill_bytes(frame.as_mut_slice());
        frame[0] %= 4;
        if frames.write(&frame).await.is_err() {
            return;
        }
    }
    let _ = frames.finish().await;
    let _ = tokio::time::timeout(Duration::from_secs(5), link.closed()).await;
}

/// A gateway that hands its clients nonsense, until it is dropped.
struct BadGateway(tokio::task::JoinHandle<()>);

impl BadGateway {
    fn start(party: &Party, seen: Arc<std::sync::atomic::AtomicUsize>) -> Self {
        let address = party.addr.parse().expect("an address");
        let endpoint = Endpoint::bind(address, &key_of(party), &[Protocol::Client]).expect("its port is free");
        Self(tokio::spawn(async move {
            let mut number = 0_u8;
            while let Some(arrival) = endpoint.accept().await {
                let Ok(link) = arrival.admit().await else { continue };
                seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                number = number.wrapping_add(1);
                tokio::spawn(nonsense(link, number));
            }
        }))
    }
}

impl Drop for BadGateway {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn nonsense(link: Link, number: u8) {
    for kind in 0..6_u8 {
        let Ok(mut stream) = link.open_uni().await else { return };
        let piece = [kind ^ number; 3_000];
        if stream.write_all(&[kind]).await.is_err() || stream.write_all(&piece).await.is_err() {
            continue;
        }
        let _ = stream.finish();
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.stopped()).await;
    }
}

/// An address in a line; not the time at its beginning.
fn address_in(line: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_hexdigit() || ".:[]".contains(c);
    line.split(|c: char| !is_part(c)).map(|word| word.trim_matches(['.', ':'])).find_map(|word| {
        let bare = word.trim_matches(['[', ']']);
        let is_one = word.parse::<SocketAddr>().is_ok()
            || bare
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_ipv4() || bare.matches(':').count() > 2 || bare == "::1");
        is_one.then(|| word.to_owned())
    })
}

/// Long hexadecimal digits in a line that are nobody's public identity.
fn digits_in(line: &str, public: &BTreeSet<String>) -> Option<String> {
    line.split(|c: char| !c.is_ascii_hexdigit())
        .find(|word| word.len() >= 16 && !public.contains(*word))
        .map(str::to_owned)
}

struct Log {
    name: String,
    path: PathBuf,
    before: usize,
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read(&self.path).expect("a log");
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_scan_finds_what_it_looks_for() {
    let line = "2026-11-29T14:29:26.123456Z DEBUG shoal_node::io: ";
    for address in ["192.0.2.1:4433", "192.0.2.1", "[2001:db8::1]:4433", "2001:db8::1", "127.0.0.1:9"] {
        assert_eq!(address_in(&format!("{line}from {address}, refused")).as_deref(), Some(address));
    }
    assert_eq!(address_in(&format!("{line}epoch=12 nodes=9 took 1.5 s; a::b of shoal_node::io::run")), None);
    assert!(digits_in(&format!("{line}tag 0123456789abcdef"), &BTreeSet::new()).is_some());
    assert_eq!(digits_in(&format!("{line}epoch 12345678"), &BTreeSet::new()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_packets_writes_no_flood_of_lines_and_nothing_about_anybody() {
    let size: usize = std::env::var("SHOAL_PACKETS").ok().map_or(30_000, |text| text.parse().expect("a number"));
    // those whose keys are taken have gone, and are listed for another two epochs: all of it fits into one
    let net = Testnet::start_with(&["--epoch", "300s"], &[("SHOAL_LOG", "debug")]);
    let network = network_of(&net);
    let mut alice = Person::logging("debug", "alice", net.folder.path(), &net.ready.network);
    let mut known = Known::default();
    known.text("a person's address", &alice.address);
    let mut rng = StdRng::seed_from_u64(22);

    let entered = until("alice has a gateway", SOON, || alice.status()["gateway"].as_str().map(str::to_owned));
    let (mine, others): (Vec<Party>, Vec<Party>) =
        net.nodes("gateway", None).into_iter().partition(|party| party.identity.as_deref() == Some(&entered));
    let (taken, gateway) = (mine.into_iter().next().expect("hers"), others.into_iter().next().expect("another"));
    let (bad_mix, bad_store) = (net.nodes("mix", Some("L3")).remove(1), net.nodes("store", None).remove(2));
    let (mix, store) = (net.nodes("mix", Some("L1")).remove(0), net.nodes("store", None).remove(0));
    let document = consensus(&net).await;
    let entry = |party: &Party| document.node(&identity_of(party)).expect("listed").clone();
    let to_mix = bad_packets(&document, &entry(&mix), &mut known, &mut rng);
    let to_gateway = bad_packets(&document, &entry(&gateway), &mut known, &mut rng);
    let to_store = bad_packets(&document, &entry(&store), &mut known, &mut rng);
    // the tags of packets, if this test had the keys: what opens one is in no log either
    let file = std::fs::read(mix.dir.join(format!("run/mix-{}.key", document.epoch))).expect("a key file");
    let key = X25519Secret::from_bytes(file[64..96].try_into().expect("32 bytes"));
    let tags: Vec<_> = to_mix.iter().filter_map(|packet| Some(open_header(packet, &key).ok()?.replay_tag())).collect();
    assert!(tags.len() > 20, "they are the mix's");
    tags.iter().for_each(|tag| known.bytes("replay tag", tag));

    let parties: Vec<&Party> = net.ready.authorities.iter().chain(&net.ready.nodes).collect();
    let mut logs: Vec<Log> = parties
        .iter()
        .map(|party| {
            let name = party.dir.file_name().expect("a name").to_string_lossy().into_owned();
            Log { name, path: party.dir.join("log"), before: 0 }
        })
        .collect();
    logs.push(Log { name: "alice".to_owned(), path: alice.profile.with_extension("log"), before: 0 });

    [&taken, &bad_mix, &bad_store].iter().for_each(|party| net.kill(party.pid));
    for log in &mut logs {
        log.before = log.lines().len();
    }
    let began = Instant::now();
    let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let bad_gateway = BadGateway::start(&taken, Arc::clone(&seen));
    let dropped = |party: &Party| {
        let (_, text) = metrics::get(&party.metrics, "/metrics").expect("metrics");
        let drops = text.lines().filter(|line| line.starts_with("shoal_packets_dropped_total"));
        drops.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as usize
    };
    let before = dropped(&mix);
    // a neighbour
    broken_frames(&taken, &mix, (size / 1_000).min(200)).await;
    let (_port, link) = link_as(&taken, &mix).await;
    flood(&link, &to_mix, size * 7 / 10, &mut rng).await;
    until("the mix has judged them", SOON, || (dropped(&mix) >= before + size / 2).then_some(()));
    for (to, packets) in [(&gateway, &to_gateway), (&store, &to_store)] {
        broken_frames(&bad_mix, to, (size / 1_000).min(200)).await;
        let (_port, link) = link_as(&bad_mix, to).await;
        flood(&link, packets, size / 10, &mut rng).await;
    }
    bad_store_frames(&bad_store, &store, size / 100, &mut rng).await;
    // a client
    bad_client(&gateway, &to_gateway, size / 10, &mut known, &mut rng).await;
    // strangers
    let ports: Vec<(SocketAddr, Identity)> = network
        .hints
        .authorities
        .iter()
        .map(|hint| (hint.address, hint.identity))
        .chain([&gateway, &mix, &store].map(|party| (party.addr.parse().expect("an address"), identity_of(party))))
        .collect();
    strangers(&ports, (size / 1_000).clamp(10, 500), &mut known, &mut rng).await;
    for port in ports.iter().take(2).chain(ports.get(network.hints.authorities.len())) {
        bad_questions(*port, &network, mix.addr.parse().expect("an address"), (size / 100).clamp(30, 10_000), &mut rng)
            .await;
    }
    // her gateway
    until("alice has met the bad gateway", SOON, || {
        (seen.load(std::sync::atomic::Ordering::Relaxed) >= 2).then_some(())
    });
    let took = began.elapsed();
    let seconds = usize::try_from(took.as_secs()).expect("few") + 1;
    drop(bad_gateway);

    let public: BTreeSet<String> = net
        .ready
        .nodes
        .iter()
        .filter_map(|party| party.identity.clone())
        .chain(network.hints.authorities.iter().map(|hint| hint.identity.to_string()))
        .chain([network.genesis_hash().to_string()])
        .collect();
    let mut failures = Vec::new();
    for log in &logs {
        let lines = log.lines();
        let written = lines.len() - log.before;
        eprintln!("{:>12}: {written} lines in {seconds} s", log.name);
        if written > seconds {
            let samples: Vec<&String> = lines[log.before..].iter().take(40).collect();
            failures.push(format!("{}: {written} lines in {seconds} s: {samples:#?}", log.name));
        }
        for line in &lines {
            if let Some(address) = address_in(line) {
                failures.push(format!("{}: an address, {address}: {line}", log.name));
            }
            if let Some(digits) = digits_in(line, &public) {
                failures.push(format!("{}: what is {digits}? {line}", log.name));
            }
            let known = known.0.iter().filter(|(_, known)| line.contains(known.as_str()));
            failures.extend(known.map(|(what, _)| format!("{}: {what}: {line}", log.name)));
        }
    }
    eprintln!("{size} bad packets and what went with them in {took:?}");
    alice.kill();
    failures.sort();
    failures.dedup();
    failures.truncate(60);
    assert!(failures.is_empty(), "{failures:#?}");
}
