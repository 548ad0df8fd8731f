//! Each refusal with its reason, in the order of the checks.

use super::*;
use crate::keys::in_order;
use crate::onion::OneByOne;
use crate::replay::{Insertion, ReplaySet};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::geometry::{HEADER_SIZE, PACKET_SIZE, PLAINTEXT_SIZE};
use shoal_protocol::sphinx::{Hop, build, hostile};
use shoal_protocol::types::Epoch;
use std::cell::RefCell;
use zeroize::Zeroizing;

const CAP: Duration = Duration::from_millis(552);
const L1: Identity = Identity::from_bytes([0x11; 32]);
const L2: Identity = Identity::from_bytes([0x12; 32]);
const L3: Identity = Identity::from_bytes([0x13; 32]);
const GATEWAY: Identity = Identity::from_bytes([0x14; 32]);
const STORE: Identity = Identity::from_bytes([0x15; 32]);
const SESSION: [u8; 32] = [0x99; 32];

struct Key {
    epoch: Epoch,
    secret: X25519Secret,
    replay: RefCell<ReplaySet>,
}

impl OfEpoch for Key {
    fn epoch(&self) -> Epoch {
        self.epoch
    }
}
impl MixKey for Key {
    fn secret(&self) -> &X25519Secret {
        &self.secret
    }
}

fn key(epoch: u64) -> Key {
    let secret = X25519Secret::generate(&mut StdRng::seed_from_u64(epoch));
    Key { epoch: Epoch(epoch), secret, replay: RefCell::new(ReplaySet::new(Zeroizing::new([epoch as u8; 32]), 1_000)) }
}

fn insert(key: &Key, tag: &[u8; 32]) -> Result<(), DropReason> {
    let set = key.replay.borrow();
    let tag = set.tag(tag);
    match set.insert(tag) {
        Insertion::Fresh => Ok(()),
        Insertion::Repeated => Err(DropReason::Replayed),
        Insertion::Full => Err(DropReason::ReplaySetFull),
        Insertion::PortionTaken => Err(DropReason::PortionTaken),
    }
}

fn view(place: Place) -> View {
    let nodes = [
        (L1, Place::Mix(Layer::L1)),
        (L2, Place::Mix(Layer::L2)),
        (L3, Place::Mix(Layer::L3)),
        (GATEWAY, Place::Gateway),
        (STORE, Place::Store),
    ];
    View::from_parts(CAP, &[(place, &nodes)])
}

/// A packet that `key` unwraps and that goes on to `next` after `delay`.
fn packet(key: &Key, next: [u8; 32], delay: Duration) -> Packet {
    packet_of(77, key, next, delay)
}

/// As [`packet`]; another seed is another packet.
fn packet_of(seed: u64, key: &Key, next: [u8; 32], delay: Duration) -> Packet {
    let mut rng = StdRng::seed_from_u64(seed);
    let last = X25519Secret::generate(&mut rng);
    let hops = [
        Hop { address: [1; 32], key: key.secret.public(), delay },
        Hop { address: next, key: last.public(), delay: Duration::ZERO },
    ];
    build(&[7; PLAINTEXT_SIZE], &hops, [3; 16], &mut rng).expect("a good route")
}

fn run(bytes: &[u8], origin: Origin, keys: &[&Key], place: Place) -> Result<Outcome, DropReason> {
    // as a link does it
    let packet = Packet::from_slice(bytes).map_err(|_| DropReason::WrongLength)?;
    one(&packet, origin, keys, &view(place))
}

fn one(packet: &Packet, origin: Origin, keys: &[&Key], view: &View) -> Result<Outcome, DropReason> {
    let mut results = unwrap(&OneByOne, &[(packet, origin)], keys, view, |_, key, tag| insert(keys[key], tag));
    assert_eq!(results.len(), 1);
    results.remove(0).map(|(outcome, _)| outcome)
}

fn reason(result: Result<Outcome, DropReason>) -> Option<DropReason> {
    result.err()
}

const DELAY: Duration = Duration::from_millis(20);
const AT_L1: Place = Place::Mix(Layer::L1);

#[test]
fn a_good_packet_goes_on_after_its_delay() {
    let key = key(5);
    let sent = packet(&key, *L2.as_bytes(), DELAY);
    match run(sent.as_bytes(), Origin::Node, &[&key], AT_L1) {
        Ok(Outcome::Forward { to, delay, packet }) => {
            assert_eq!((to, delay), (Next::Node(L2), DELAY));
            assert_ne!(packet.as_bytes(), sent.as_bytes());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn packets_under_way_go_the_steps_of_the_document_before_and_no_mixture() {
    let [l1, l2, l3] = Layer::ALL.map(Place::Mix);
    let [me, other, new] = [0x21, 0x22, 0x23].map(|byte| Identity::from_bytes([byte; 32]));
    // a draw: this node went from L1 to L2, one from L2 to L1, one from L2 to L3, one left, and one came
    let now = [(me, l2), (L1, l1), (L2, l1), (new, l2), (L3, l3), (other, l3), (GATEWAY, Place::Gateway)];
    let before = [(me, l1), (L1, l1), (L2, l2), (L3, l3), (other, l2), (STORE, l2), (GATEWAY, Place::Gateway)];
    let during = View::from_parts(CAP, &[(l2, &now), (l1, &before)]);
    let after = View::from_parts(CAP, &[(l2, &now)]);
    let next = |to: Identity, view: &View| {
        let key = key(5);
        match one(&packet(&key, *to.as_bytes(), DELAY), Origin::Node, &[&key], view) {
            Ok(Outcome::Forward { to, .. }) => Ok(to),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => Err(reason),
        }
    };
    for to in [L3, other] {
        assert_eq!(next(to, &after), Ok(Next::Node(to)));
        assert_eq!(next(to, &during), Ok(Next::Node(to)));
    }
    // of the document before only: to one that is in L1 now, and to one that has left
    for (to, reason) in [(L2, DropReason::ForbiddenNextHop), (STORE, DropReason::UnknownNextHop)] {
        assert_eq!(next(to, &during), Ok(Next::Node(to)));
        assert_eq!(next(to, &after), Err(reason), "its time is over");
    }
    // of neither; from L1, as this node was, to L2, as the new one is, would be half of each
    for to in [new, L1, GATEWAY] {
        assert_eq!(next(to, &during), Err(DropReason::ForbiddenNextHop));
    }
    // a gateway: who was a node a moment ago is no session
    let gateway_now = [(me, Place::Gateway), (L1, l1)];
    let gateway_before = [(me, Place::Gateway), (L1, l1), (L2, l1), (L3, l3)];
    let during = View::from_parts(CAP, &[(Place::Gateway, &gateway_now), (Place::Gateway, &gateway_before)]);
    assert_eq!(next(L2, &during), Ok(Next::Node(L2)));
    assert_eq!(next(L3, &during), Err(DropReason::ForbiddenNextHop));
    assert_eq!(next(Identity::from_bytes(SESSION), &during), Ok(Next::Session(SESSION)));
    // one that no document lists any more serves what comes under the last one
    let gone = View::from_parts(CAP, &[(l1, &before)]);
    assert_eq!(next(L2, &gone), Ok(Next::Node(L2)));
}

#[test]
fn other_lengths_are_refused_before_anything_else() {
    let key = key(5);
    let sent = packet(&key, *L2.as_bytes(), DELAY);
    let mut longer = sent.as_bytes().to_vec();
    longer.push(0);
    for bytes in [&sent.as_bytes()[1..], &longer, &[]] {
        assert_eq!(reason(run(bytes, Origin::Node, &[&key], AT_L1)), Some(DropReason::WrongLength));
    }
    assert_eq!(key.replay.borrow().len(), 0);
}

#[test]
fn every_region_of_the_header_is_protected() {
    let key = key(5);
    let sent = packet(&key, *L2.as_bytes(), DELAY);
    for at in 0..HEADER_SIZE {
        for bit in [0, 7] {
            let mut bytes = *sent.as_bytes();
            bytes[at] ^= 1 << bit;
            let found = reason(run(&bytes, Origin::Node, &[&key], AT_L1));
            let refused = matches!(found, Some(DropReason::BadMac | DropReason::BadAlpha));
            assert!(refused, "byte {at} bit {bit}: {found:?}");
        }
    }
    assert_eq!(key.replay.borrow().len(), 0, "only authentic headers may fill the replay set");
    run(sent.as_bytes(), Origin::Node, &[&key], AT_L1).expect("the packet itself still passes");
}

#[test]
fn low_order_and_non_canonical_alphas_are_refused() {
    let key = key(5);
    let sent = packet(&key, *L2.as_bytes(), DELAY);
    let mut high_bit: [u8; 32] = sent.as_bytes()[..32].try_into().expect("32 bytes");
    high_bit[31] |= 0x80;
    let mut one = [0; 32];
    one[0] = 1;
    let mut prime = [0xff; 32];
    prime[0] = 0xed;
    prime[31] = 0x7f;
    for alpha in [[0; 32], one, prime, high_bit, [0xff; 32]] {
        let mut bytes = *sent.as_bytes();
        bytes[..32].copy_from_slice(&alpha);
        assert_eq!(reason(run(&bytes, Origin::Node, &[&key], AT_L1)), Some(DropReason::BadAlpha));
    }
}

#[test]
fn a_replay_is_dropped_whatever_its_payload() {
    let key = key(5);
    let sent = packet(&key, *L2.as_bytes(), DELAY);
    run(sent.as_bytes(), Origin::Node, &[&key], AT_L1).expect("fresh");
    assert_eq!(reason(run(sent.as_bytes(), Origin::Node, &[&key], AT_L1)), Some(DropReason::Replayed));
    let mut changed = *sent.as_bytes();
    changed[PACKET_SIZE - 1] ^= 1;
    assert_eq!(reason(run(&changed, Origin::Node, &[&key], AT_L1)), Some(DropReason::Replayed));
}

#[test]
fn a_full_replay_set_lets_nothing_through() {
    let key = key(5);
    *key.replay.borrow_mut() = ReplaySet::new(Zeroizing::new([0; 32]), 0);
    let sent = packet(&key, *L2.as_bytes(), DELAY);
    assert_eq!(reason(run(sent.as_bytes(), Origin::Node, &[&key], AT_L1)), Some(DropReason::ReplaySetFull));
}

#[test]
fn a_changed_payload_goes_on_at_the_same_size_and_only_the_last_hop_can_tell() {
    let key = key(5);
    let mut rng = StdRng::seed_from_u64(8);
    let store = X25519Secret::generate(&mut rng);
    let hops = [
        Hop { address: [1; 32], key: key.secret.public(), delay: DELAY },
        Hop { address: *STORE.as_bytes(), key: store.public(), delay: Duration::ZERO },
    ];
    let sent = build(&[7; PLAINTEXT_SIZE], &hops, [3; 16], &mut rng).expect("a good route");
    let mut bytes = *sent.as_bytes();
    bytes[HEADER_SIZE + 100] ^= 1;
    let Ok(Outcome::Forward { packet, .. }) = run(&bytes, Origin::Node, &[&key], Place::Mix(Layer::L3)) else {
        panic!("a mix cannot tell")
    };
    let last = Key { epoch: Epoch(5), secret: store, replay: RefCell::new(ReplaySet::new(Zeroizing::new([0; 32]), 9)) };
    let Ok(Outcome::Final { identifier, payload }) = run(packet.as_bytes(), Origin::Node, &[&last], Place::Store)
    else {
        panic!("the header is intact")
    };
    assert_eq!(identifier, [3; 16]);
    assert!(payload.open().is_err());
}

#[test]
fn only_version_260_is_processed() {
    let key = key(5);
    let mut rng = StdRng::seed_from_u64(9);
    let last = X25519Secret::generate(&mut rng).public();
    let hops = [
        Hop { address: [1; 32], key: key.secret.public(), delay: DELAY },
        Hop { address: *L2.as_bytes(), key: last, delay: Duration::ZERO },
    ];
    for version in [258, 259] {
        let sent = hostile::build_other_version(version, &[0; PLAINTEXT_SIZE], &hops, &mut rng).expect("builds");
        let found = reason(run(sent.as_bytes(), Origin::Node, &[&key], AT_L1));
        assert!(matches!(found, Some(DropReason::WrongVersion | DropReason::BadPayload)), "{version}: {found:?}");
    }
}

#[test]
fn delays_above_the_cap_are_dropped_not_clamped() {
    let key = key(5);
    for (delay, expected) in [
        (CAP, None),
        (Duration::ZERO, None),
        (CAP + Duration::from_nanos(1), Some(DropReason::DelayOverCap)),
        (Duration::from_nanos(u64::MAX), Some(DropReason::DelayOverCap)),
    ] {
        let sent = packet(&key, *L2.as_bytes(), delay);
        key.replay.replace(ReplaySet::new(Zeroizing::new([0; 32]), 10));
        assert_eq!(reason(run(sent.as_bytes(), Origin::Node, &[&key], AT_L1)), expected, "{delay:?}");
    }
}

#[test]
fn steps_that_the_topology_forbids_are_refused() {
    let key = key(5);
    let [l1, l2, l3] = Layer::ALL.map(Place::Mix);
    let (to_l1, to_l2, to_l3) = (*L1.as_bytes(), *L2.as_bytes(), *L3.as_bytes());
    let (to_gateway, to_store) = (*GATEWAY.as_bytes(), *STORE.as_bytes());
    let forbidden = Some(DropReason::ForbiddenNextHop);
    let unknown = Some(DropReason::UnknownNextHop);
    for (place, origin, next, expected) in [
        (l1, Origin::Node, to_l2, None),
        (l1, Origin::Node, to_l1, forbidden),
        (l1, Origin::Node, to_l3, forbidden),
        (l1, Origin::Node, to_store, forbidden),
        (l2, Origin::Node, to_l3, None),
        (l2, Origin::Node, to_gateway, forbidden),
        (l3, Origin::Node, to_store, None),
        (l3, Origin::Node, to_gateway, None),
        (l3, Origin::Node, SESSION, unknown),
        (Place::Store, Origin::Node, to_l1, None),
        (Place::Store, Origin::Node, to_store, forbidden),
        (Place::Store, Origin::Node, SESSION, unknown),
        (Place::Gateway, Origin::Node, SESSION, None),
        (Place::Gateway, Origin::Node, to_l1, None),
        (Place::Gateway, Origin::Node, to_gateway, forbidden),
        (Place::Gateway, Origin::Client, to_l1, None),
        (Place::Gateway, Origin::Client, to_store, forbidden),
        (Place::Gateway, Origin::Client, SESSION, forbidden),
        (l1, Origin::Client, to_l2, forbidden),
    ] {
        let sent = packet(&key, next, DELAY);
        key.replay.replace(ReplaySet::new(Zeroizing::new([0; 32]), 10));
        let found = reason(run(sent.as_bytes(), origin, &[&key], place));
        assert_eq!(found, expected, "{place:?} {origin:?}");
    }
}

#[test]
fn the_grace_key_and_the_next_key_are_tried_and_no_other() {
    let (old, current, next, far) = (key(4), key(5), key(6), key(7));
    let mut keys = in_order(Epoch(5), [&next, &old, &current].into_iter());
    for from in [&old, &current, &next] {
        let sent = packet(from, *L2.as_bytes(), DELAY);
        assert!(run(sent.as_bytes(), Origin::Node, &keys, AT_L1).is_ok());
        assert_eq!(from.replay.borrow().len(), 1, "the tag belongs to the key that fitted");
    }
    let sent = packet(&far, *L2.as_bytes(), DELAY);
    assert_eq!(reason(run(sent.as_bytes(), Origin::Node, &keys, AT_L1)), Some(DropReason::BadMac));
    keys.clear();
    assert_eq!(reason(run(sent.as_bytes(), Origin::Node, &keys, AT_L1)), Some(DropReason::NoMixKey));
}

#[test]
fn packets_of_a_batch_are_judged_as_if_each_came_alone() {
    let fresh_keys = || [key(5), key(4), key(6)];
    let keys = fresh_keys();
    let sent: Vec<Packet> = keys.iter().map(|key| packet(key, *L2.as_bytes(), DELAY)).collect();
    let [current, old, next] = sent.as_slice() else { panic!("three") };
    let mut changed = *current.as_bytes();
    changed[40] ^= 1;
    let damaged = Packet::from_slice(&changed).expect("a packet's length");
    changed[31] |= 0x80;
    let bad_alpha = Packet::from_slice(&changed).expect("a packet's length");
    let forbidden = packet_of(78, &keys[0], *L3.as_bytes(), DELAY);
    // a replay beside what it replays, everything bad between everything good
    let batch = [next, &damaged, current, &bad_alpha, current, old, &forbidden, next];
    let batch: Vec<(&Packet, Origin)> = batch.map(|packet| (packet, Origin::Node)).to_vec();
    let judged = |width: usize, keys: &[Key]| {
        let keys: Vec<&Key> = keys.iter().collect();
        let judge = |part: &[(&Packet, Origin)]| {
            unwrap(&OneByOne, part, &keys, &view(AT_L1), |_, key, tag| insert(keys[key], tag))
        };
        let results = batch.chunks(width).flat_map(judge);
        results.map(|result| result.map(|(_, key)| key)).collect::<Vec<_>>()
    };
    let alone = judged(1, &fresh_keys());
    let (mac, alpha, again) = (DropReason::BadMac, DropReason::BadAlpha, DropReason::Replayed);
    let step = DropReason::ForbiddenNextHop;
    let expected = [Ok(2), Err(mac), Ok(0), Err(alpha), Err(again), Ok(1), Err(step), Err(again)];
    assert_eq!(alone, expected);
    for width in [2, 3, 8] {
        assert_eq!(judged(width, &fresh_keys()), alone);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_never_pass(bytes in proptest::collection::vec(any::<u8>(), PACKET_SIZE)) {
        let key = key(5);
        let found = reason(run(&bytes, Origin::Node, &[&key], AT_L1));
        prop_assert!(matches!(found, Some(DropReason::BadMac | DropReason::BadAlpha)));
    }
}
