//! Row 3: every bit of a packet flipped. `SHOAL_BITS=22528` is the full size: all of them.

use crate::{beside, size};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use shoal_protocol::boxes::BoxId;
use shoal_protocol::geometry::{HEADER_SIZE, PACKET_SIZE, PLAINTEXT_SIZE};
use shoal_protocol::link::{Attach, STREAM_PACKETS};
use shoal_protocol::parameters::Rate;
use shoal_protocol::quic::{Endpoint, FrameReader, Protocol};
use shoal_protocol::request::{Operation, pack_request, seal_envelope};
use shoal_protocol::sphinx::{Hop, Packet, Unwrapped, build, open_header};
use shoal_protocol::surb;
use shoal_protocol::types::{Layer, Role, StoreIndex};
use shoal_protocol::{X25519Public, X25519Secret};
use shoal_tests::paper::{Node, PATIENCE, Paper, Plan};
use shoal_tests::statistics::uniformity_z;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

const HEADER_BITS: usize = HEADER_SIZE * 8;
const ALL_BITS: usize = PACKET_SIZE * 8;
/// Packets on their way at a time.
const CHUNK: usize = 500;

fn flipped(packet: &Packet, bit: usize) -> Packet {
    let mut bytes: Box<[u8; PACKET_SIZE]> = packet.clone().into_array();
    bytes[bit / 8] ^= 1 << (bit % 8);
    Packet::from_array(bytes)
}

/// A random choice of bits of the range, all of them at full size.
fn chosen(range: std::ops::Range<usize>, rng: &mut StdRng) -> Vec<usize> {
    let share = size("SHOAL_BITS", 1_500) as usize;
    let mut bits: Vec<usize> = range.collect();
    let wanted = (bits.len() * share).div_ceil(ALL_BITS).max(200);
    bits.shuffle(rng);
    bits.truncate(wanted);
    bits
}

/// A network whose epochs are long beside the building of packets.
fn plan(place: Option<Layer>) -> Plan {
    let mut plan = Plan::small(place);
    plan.parameters.epoch_ms = 20_000;
    // its client only listens, for less than the 640 s after which it would be none
    plan.parameters.lambda_low = Rate(50);
    plan
}

/// How often each byte occurs.
struct Bytes([u64; 256]);

impl Bytes {
    fn count(&mut self, packet: &Packet) {
        packet.as_bytes().iter().for_each(|byte| self.0[usize::from(*byte)] += 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_03_a_flipped_header_is_dropped_and_a_flipped_payload_travels_on_as_garbage() {
    let _beside = beside().await;
    let paper = Paper::start_as(plan(Some(Layer::L1)));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(3);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let [_, l2, l3] = &paper.mixes;
    let store = &paper.stores[0];
    let route = |rng: &mut StdRng| {
        let way = [l2.last_hop(), l3.last_hop(), store.last_hop()];
        let hops: Vec<Hop> = [paper.hop(Duration::ZERO)].into_iter().chain(way).collect();
        build(b"to be refused", &hops, [3; 16], rng).expect("a good route")
    };

    let header = chosen(0..HEADER_BITS, &mut rng);
    let mut sent = 0;
    for bits in header.chunks(CHUNK) {
        for bit in bits {
            frames.write(flipped(&route(&mut rng), *bit).as_bytes()).await.expect("sent");
        }
        sent += bits.len() as u64;
        node.settled(sent).await;
    }
    let accounts = node.settled(sent).await;
    println!("row 3: {} header bits: dropped {:?}, forwarded {}", header.len(), accounts.dropped, accounts.forwarded);
    assert_eq!(accounts.of_reason("bad_mac") + accounts.of_reason("bad_alpha"), header.len() as u64);
    assert_eq!((accounts.drops(), accounts.forwarded), (header.len() as u64, 0));

    let payload = chosen(HEADER_BITS..ALL_BITS, &mut rng);
    let (mut arrived, mut refused, mut whole) = (0, 0, 0);
    // what each of three neighbours sees, of packets that were flipped and of packets that were not
    let mut seen = [const { Bytes([0; 256]) }; 3];
    for bits in payload.chunks(CHUNK) {
        for bit in bits {
            frames.write(flipped(&route(&mut rng), *bit).as_bytes()).await.expect("sent");
        }
        // one in a chunk is left as it is
        frames.write(route(&mut rng).as_bytes()).await.expect("sent");
        let mut left = bits.len() + 1;
        while left > 0 {
            let (at_l2, _) = timeout(PATIENCE, l2.packet()).await.expect("in time");
            let Ok(Unwrapped::Forward { next, packet: at_l3, .. }) =
                open_header(&at_l2, &l2.mix).map_err(|_| ()).and_then(|header| header.finish().map_err(|_| ()))
            else {
                panic!("a whole header")
            };
            if next != *l3.identity().as_bytes() || open_header(&at_l3, &l3.mix).is_err() {
                continue;
            }
            let Unwrapped::Forward { next, packet: at_store, .. } =
                open_header(&at_l3, &l3.mix).expect("checked").finish().expect("good")
            else {
                panic!("a loop ends at the node that sent it")
            };
            // the node's own loops turn round at another node or at a key that is not the test's
            let Some(opened) = (next == *store.identity().as_bytes())
                .then(|| open_header(&at_store, &store.mix).ok())
                .flatten()
                .and_then(|header| header.finish().ok())
            else {
                continue;
            };
            let Unwrapped::Final { payload, .. } = opened else { continue };
            left -= 1;
            arrived += 1;
            for (bytes, packet) in seen.iter_mut().zip([&at_l2, &at_l3, &at_store]) {
                bytes.count(packet);
            }
            match payload.open() {
                Ok(_) => whole += 1,
                Err(_) => refused += 1,
            }
        }
    }
    let chunks = payload.chunks(CHUNK).len();
    let z: Vec<f64> = seen.iter().map(|bytes| uniformity_z(&bytes.0)).collect();
    println!(
        "row 3: {} payload bits: {arrived} arrived with {chunks} that were left alone, all of {PACKET_SIZE} bytes; {refused} \
         refused, {whole} taken; bytes at three hops against uniform: {z:.2?} standard deviations",
        payload.len()
    );
    assert_eq!((arrived, refused, whole), (payload.len() + chunks, payload.len(), chunks));
    assert!(z.iter().all(|z| z.abs() < 4.5), "{z:?}");
}

/// A request to the store under test, by way of L3, and what it takes to read the reply: keys of the reply's hops.
struct Client {
    key: X25519Secret,
    replicas: [(StoreIndex, X25519Public); 2],
}

impl Client {
    fn request(&self, paper: &Paper, number: u8, rng: &mut StdRng) -> Packet {
        let [l1, l2, l3] = &paper.mixes;
        let mut way: Vec<Hop> = [l1, l2, l3, &paper.gateway].map(|hop| hop.last_hop()).to_vec();
        way.push(Hop { address: [0xc1; 32], key: self.key.public(), delay: Duration::ZERO });
        let mut identifier = [0xff; 16];
        identifier[0] = number;
        let (surb, _) = surb::build(&way, identifier, rng).expect("a good route");
        let mut id = [0; 32];
        rng.fill_bytes(&mut id);
        let (envelope, _) = seal_envelope(&Operation::Get { id: BoxId::from_bytes(id) }, self.replicas, rng);
        let mut plaintext = pack_request(&surb, &envelope);
        plaintext.resize(PLAINTEXT_SIZE, 0);
        build(&plaintext, &[paper.hop(Duration::ZERO)], [9; 16], rng).expect("a good route")
    }

    /// The number of a reply that came to L1; `None` for anything else.
    fn reply(&self, paper: &Paper, at_l1: &Packet) -> Option<u8> {
        let mut packet = at_l1.clone();
        let [l1, l2, l3] = &paper.mixes;
        for key in [&l1.mix, &l2.mix, &l3.mix, &paper.gateway.mix] {
            match open_header(&packet, key).ok()?.finish().ok()? {
                Unwrapped::Forward { packet: on, .. } => packet = on,
                Unwrapped::Final { .. } => return None,
            }
        }
        match open_header(&packet, &self.key).ok()?.finish().ok()? {
            Unwrapped::Final { identifier, .. } => Some(identifier[0]),
            Unwrapped::Forward { .. } => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_03_a_store_is_silent_to_a_flipped_request() {
    let _beside = beside().await;
    let paper = Paper::start_as(plan(None));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Store, dir.path());
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(4);
    let (_link, mut frames) = node.dial(&paper.mixes[2]).await;
    let replicas = [0, 1].map(|index: u16| (StoreIndex(index), paper.stores[usize::from(index)].mix.public()));
    let client = Client { key: X25519Secret::generate(&mut rng), replicas };
    let bits = chosen(HEADER_BITS..ALL_BITS, &mut rng);
    let mut sent = 0;
    for bits in bits.chunks(CHUNK) {
        for bit in bits {
            frames.write(flipped(&client.request(&paper, 1, &mut rng), *bit).as_bytes()).await.expect("sent");
        }
        sent += bits.len() as u64;
        node.wait("all are judged", |status| status["dropped"]["tampered_payload"].as_u64() == Some(sent)).await;
    }
    // one that is whole is answered a fixed time after it came: behind all answers that the others could have had
    frames.write(client.request(&paper, 2, &mut rng).as_bytes()).await.expect("sent");
    let mut replies = BTreeSet::new();
    while !replies.contains(&2) {
        let (packet, _) = timeout(PATIENCE, paper.mixes[0].packet()).await.expect("a reply to the whole one");
        replies.extend(client.reply(&paper, &packet));
    }
    println!(
        "row 3: {} requests with a payload bit flipped: 0 answered by a store, a whole one after them is",
        bits.len()
    );
    assert_eq!(replies, BTreeSet::from([2]));
    let status = node.status().await;
    assert_eq!(status["dropped"]["malformed_request"], 0, "none was taken for a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_03_a_client_refuses_a_flipped_reply_that_its_gateway_passes_on() {
    let _beside = beside().await;
    let paper = Paper::start_as(plan(None));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(5);
    let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("an address")).expect("a port");
    let link = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let attach = Attach::generate(&mut rng);
    let mut upward = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    upward.write(attach.to_frame(&mut rng).as_bytes()).await.expect("sent");
    let mut downward = loop {
        let mut stream = timeout(PATIENCE, link.accept_uni()).await.expect("in time").expect("a stream");
        let mut kind = [0];
        stream.read_exact(&mut kind).await.expect("a first byte");
        if kind[0] == STREAM_PACKETS {
            break FrameReader::<PACKET_SIZE>::new(stream);
        }
    };
    let key = X25519Secret::generate(&mut rng);
    let session = Hop { address: *attach.address().as_bytes(), key: key.public(), delay: Duration::ZERO };
    let (_link, mut frames) = node.dial(&paper.mixes[2]).await;
    // a client's queue holds 64
    let bits = chosen(HEADER_BITS..ALL_BITS, &mut rng);
    let (mut refused, mut whole) = (0, 0);
    for bits in bits.chunks(30) {
        for bit in bits.iter().map(Some).chain([None]) {
            let (surb, recovery) =
                surb::build(&[paper.hop(Duration::ZERO), session], [7; 16], &mut rng).expect("a good route");
            let (_, reply) = surb.reply(b"an answer").expect("fits");
            let reply = bit.map_or(reply.clone(), |bit| flipped(&reply, *bit));
            frames.write(reply.as_bytes()).await.expect("sent");
            let frame = timeout(PATIENCE, downward.next()).await.expect("in time").expect("a frame").expect("a packet");
            let opened = open_header(&Packet::from_array(frame), &key).expect("whole").finish().expect("good");
            let Unwrapped::Final { payload, .. } = opened else { panic!("the client is the last hop") };
            match recovery.open(payload) {
                Ok(_) => whole += 1,
                Err(_) => refused += 1,
            }
        }
    }
    println!(
        "row 3: {} replies with a payload bit flipped: {refused} refused by the client, {whole} whole ones taken",
        bits.len()
    );
    assert_eq!((refused, whole), (bits.len(), bits.chunks(30).len()));
}
