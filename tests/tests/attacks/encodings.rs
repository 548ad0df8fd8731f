//! Row 2: a packet whose alpha is written in another way. `SHOAL_ENCODED_PACKETS=10000` is the full size.
//!
//! X25519 ignores bit 255, reduces what is not canonical, and multiplies by eight, so that the seven other points that
//! differ by one of small order give the same secret; and points of small order give the secret zero, whatever the key.

use crate::{beside, size};
use curve25519_dalek::MontgomeryPoint;
use curve25519_dalek::constants::EIGHT_TORSION;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use shoal_protocol::X25519Public;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::sphinx::{Hop, Packet, build};
use shoal_protocol::types::{Layer, Role};
use shoal_tests::paper::{Node, Paper, Plan, Record};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Packets at a time, with all their encodings fewer than wait for a worker at most.
const CHUNK: u64 = 100;
/// Numbers of packets that any node could process.
const KEYLESS: u64 = 1 << 40;

/// The prime 2^255 − 19 plus a small number, little endian.
fn prime_plus(small: i8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed_u8.wrapping_add_signed(small);
    bytes[31] = 0x7f;
    bytes
}

fn with_bit_255(mut alpha: [u8; 32]) -> [u8; 32] {
    alpha[31] |= 0x80;
    alpha
}

/// Every point of small order on the curve, canonical or not, and both with bit 255.
fn small_order() -> Vec<[u8; 32]> {
    let on_curve = EIGHT_TORSION.iter().map(|point| point.to_montgomery().to_bytes());
    // −1 is of order 4 on the twist
    let others = [prime_plus(-1), prime_plus(0), prime_plus(1)];
    let plain: BTreeSet<[u8; 32]> = on_curve.chain(others).collect();
    plain.iter().copied().chain(plain.iter().copied().map(with_bit_255)).collect()
}

/// The alphas that give the same secret: those of the seven other points that differ by one of small order.
fn translates(alpha: &[u8; 32]) -> Vec<[u8; 32]> {
    let point = MontgomeryPoint(*alpha).to_edwards(0).expect("on the curve");
    let all: BTreeSet<[u8; 32]> =
        EIGHT_TORSION.iter().map(|small| (point + small).to_montgomery().to_bytes()).collect();
    all.into_iter().filter(|other| other != alpha).collect()
}

/// Values that are not below the prime and not of small order.
fn not_canonical() -> Vec<[u8; 32]> {
    (2..=18).map(prime_plus).collect()
}

fn on_twist(rng: &mut StdRng) -> [u8; 32] {
    loop {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        bytes[31] &= 0x7f;
        if MontgomeryPoint(bytes).to_edwards(0).is_none() {
            return bytes;
        }
    }
}

fn rewritten(packet: &Packet, alpha: &[u8; 32]) -> Packet {
    let mut bytes: Box<[u8; PACKET_SIZE]> = packet.clone().into_array();
    bytes[..32].copy_from_slice(alpha);
    Packet::from_array(bytes)
}

/// One packet in every way, what is expected of it kept beside.
struct Ways {
    packets: Vec<Packet>,
    /// Those of the same secret beside the packet itself.
    same: u64,
    /// Those that are refused for their alpha.
    refused: u64,
    /// Those with a secret that nobody knows.
    unknown: u64,
}

fn ways(paper: &Paper, number: u64, rng: &mut StdRng) -> Ways {
    let last = paper.mixes[1].last_hop();
    let packet = paper.numbered(number, Duration::ZERO, last, rng);
    let mut alpha = [0; 32];
    alpha.copy_from_slice(&packet.as_bytes()[..32]);
    let same = translates(&alpha);
    assert_eq!(same.len(), 7, "alpha is of large order");
    let small = small_order();
    // built for the secret zero: whatever key a node has, the packet is good, but for its alpha
    let keyless: Vec<Packet> = (0..2)
        .map(|_| {
            let chosen = &small[(rng.next_u32() as usize) % small.len()];
            let hop = Hop { key: X25519Public::from_bytes([0; 32]), ..paper.hop(Duration::ZERO) };
            let mut identifier = [0xff; 16];
            identifier[..8].copy_from_slice(&(KEYLESS + number).to_be_bytes());
            rewritten(&build(&[], &[hop, last], identifier, rng).expect("a good route"), chosen)
        })
        .collect();
    let strange = not_canonical();
    let strange = strange[(rng.next_u32() as usize) % strange.len()];
    let refused: Vec<[u8; 32]> =
        same.iter().chain([&alpha]).copied().map(with_bit_255).chain([strange, with_bit_255(strange)]).collect();
    let mut packets = vec![packet.clone(), rewritten(&packet, &on_twist(rng))];
    packets.extend(same.iter().chain(&refused).map(|alpha| rewritten(&packet, alpha)));
    let (same, refused) = (same.len() as u64, (refused.len() + keyless.len()) as u64);
    packets.extend(keyless);
    // of every second packet another encoding is tried first
    if number.is_multiple_of(2) {
        packets.shuffle(rng);
    }
    Ways { packets, same, refused, unknown: 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_02_whatever_encoding_of_alpha_comes_first_a_packet_leaves_once() {
    let _beside = beside().await;
    let total = size("SHOAL_ENCODED_PACKETS", 300).next_multiple_of(CHUNK);
    let mut plan = Plan::small(Some(Layer::L1));
    plan.parameters.epoch_ms = 20_000;
    let paper = Paper::start_as(plan);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    let began = Instant::now();
    let (mut same, mut refused, mut unknown, mut sent) = (0, 0, 0, 0);
    for chunk in 0..total / CHUNK {
        let builder = Arc::clone(&paper);
        let making = tokio::task::spawn_blocking(move || {
            let mut rng = StdRng::seed_from_u64(chunk);
            (chunk * CHUNK..(chunk + 1) * CHUNK).map(|number| ways(&builder, number, &mut rng)).collect::<Vec<_>>()
        });
        for ways in making.await.expect("made") {
            same += ways.same;
            refused += ways.refused;
            unknown += ways.unknown;
            sent += ways.packets.len() as u64;
            crate::replay::send(&mut frames, &ways.packets).await;
        }
        record.reaches((chunk + 1) * CHUNK).await;
        node.settled(sent).await;
    }
    let accounts = node.settled(sent).await;
    println!(
        "row 2: {total} packets in {} ways each: forwarded {}, twice {}, with a key-independent secret {}; dropped {:?}; {:.0} s",
        sent / total,
        record.total(),
        record.twice().len(),
        total - record.missing(KEYLESS..KEYLESS + total).len() as u64,
        accounts.dropped,
        began.elapsed().as_secs_f64(),
    );
    assert_eq!(record.twice(), Vec::<u64>::new(), "forwarded twice");
    assert_eq!(record.missing(0..total), Vec::<u64>::new(), "each leaves, by its own encoding or another");
    assert_eq!((record.total(), record.unreadable()), (total, 0), "nothing else leaves");
    assert_eq!(
        (accounts.of_reason("replayed"), accounts.of_reason("bad_alpha"), accounts.of_reason("bad_mac")),
        (same, refused, unknown),
    );
}

#[test]
fn the_encodings_are_those_of_the_same_and_of_no_secret() {
    // checked against the ladder itself: with any clamped key, the translates agree and the small ones give zero
    let mut rng = StdRng::seed_from_u64(2);
    let mut scalar = [0; 32];
    rng.fill_bytes(&mut scalar);
    let alpha = MontgomeryPoint::mul_base_clamped(scalar).to_bytes();
    rng.fill_bytes(&mut scalar);
    let shared = |alpha: [u8; 32]| MontgomeryPoint(alpha).mul_clamped(scalar).to_bytes();
    for other in translates(&alpha).into_iter().chain([with_bit_255(alpha)]) {
        assert!(other != alpha && shared(other) == shared(alpha));
    }
    for small in small_order() {
        assert_eq!(shared(small), [0; 32]);
    }
    for strange in not_canonical() {
        let mut reduced = [0; 32];
        reduced[0] = strange[0].wrapping_sub(0xed);
        assert_eq!(shared(strange), shared(reduced), "an encoding of a number below 19");
    }
    assert!((0..10).all(|_| shared(on_twist(&mut rng)) != shared(alpha)));
}
