//! Tests of lists with their descriptors.

use super::*;
use crate::testing::{Cast, Council, NETWORK, Node, middle_of, parameters, published};
use proptest::prelude::*;
use shoal_protocol::Role;

fn council() -> (Council, Cast) {
    (Council::new(4, 0, parameters(500)), Cast::new(1, 3, 3))
}

fn open(bytes: &[u8], council: &Council) -> Result<ListMessage, ListError> {
    ListMessage::open(bytes, &council.place(), &mut DescriptorCache::new(NETWORK))
}

/// `[list, [descriptors]]` with other descriptors.
fn carrying(message: &ListMessage, descriptors: &[Vec<u8>]) -> Vec<u8> {
    codec::encode(|writer| {
        writer.put_array(2);
        writer.put_bytes(message.list().bytes());
        writer.put_array(descriptors.len());
        for bytes in descriptors {
            writer.put_bytes(bytes);
        }
    })
}

#[test]
fn a_message_round_trips_and_checks_each_descriptor_once() {
    let (council, cast) = council();
    let nodes = published(&cast.all(), 5);
    let mut cache = DescriptorCache::new(NETWORK);
    for authority in 0..4 {
        let message = council.message(authority, 5, &nodes);
        let read = ListMessage::open(&message.to_bytes(), &council.place(), &mut cache).expect("verifies");
        assert_eq!(read, message);
    }
    assert_eq!((cache.young.len(), cache.old.len()), (7, 0));
}

#[test]
fn one_wrong_descriptor_spoils_the_message() {
    let (council, cast) = council();
    let message = council.message(0, 5, &published(&cast.all(), 5));
    let good: Vec<Vec<u8>> = message.descriptors().iter().map(|signed| signed.bytes.clone()).collect();
    assert_eq!(open(&carrying(&message, &good), &council), Ok(message.clone()));
    let first = message.list().entries[0].identity;
    let swapped = [vec![good[1].clone(), good[0].clone()], good[2..].to_vec()].concat();
    assert_eq!(open(&carrying(&message, &swapped), &council), Err(ListError::OtherDescriptor(first)));
    let fewer = ListError::Malformed("descriptors (one for each entry)");
    assert_eq!(open(&carrying(&message, &good[1..]), &council), Err(fewer.clone()));
    assert_eq!(open(&carrying(&message, &[good.clone(), vec![vec![0]]].concat()), &council), Err(fewer));
}

#[test]
fn a_descriptor_nobody_signed_spoils_the_message() {
    let (council, _) = council();
    let node = Node::new(Role::Mix, 1);
    let mut forged = node.descriptor(middle_of(5));
    *forged.last_mut().expect("bytes") ^= 1;
    // named by the list as it is, so that only its own signature is wrong
    let mut list = List::clone(council.message(0, 5, &published(&[&node], 5)).list());
    list.entries[0].descriptor = descriptor_hash(&forged);
    let message = ListMessage { list: list.clone().sign(council.secret(0)), descriptors: Vec::new() };
    let error = DescriptorError::BadSignature;
    let refused = Err(ListError::Descriptor { identity: node.identity(), error });
    assert_eq!(open(&carrying(&message, &[forged]), &council), refused);
    // another node's true descriptor under this node's name
    let other = Node::new(Role::Mix, 2).descriptor(middle_of(5));
    list.entries[0].descriptor = descriptor_hash(&other);
    let message = ListMessage { list: list.sign(council.secret(0)), descriptors: Vec::new() };
    assert_eq!(open(&carrying(&message, &[other]), &council), Err(ListError::OtherDescriptor(node.identity())));
}

#[test]
fn the_largest_descriptor_fits() {
    use shoal_protocol::descriptor::{LoopEvidence, MAX_LOOPS};
    let bytes = Node::new(Role::Store, 1).descriptor_with(middle_of(5), |descriptor| {
        descriptor.addresses = (0..4).map(|n| format!("[2001:db8::{n}]:65535").parse().expect("an address")).collect();
        descriptor.family = Some([0xff; 32]);
        descriptor.version = "v".repeat(32);
        let (mix, envelope) = (descriptor.mix_keys[0].1, descriptor.envelope_keys[0].1);
        descriptor.mix_keys = (0..4).map(|n| (shoal_protocol::Epoch(u64::MAX - n), mix)).rev().collect();
        descriptor.envelope_keys = (0..4).map(|n| (shoal_protocol::Epoch(u64::MAX - n), envelope)).rev().collect();
        descriptor.loops = (0..MAX_LOOPS)
            .map(|n| LoopEvidence {
                peer: Identity::from_bytes([u8::try_from(n).expect("few"); 32]),
                sent: u32::MAX,
                returned: u32::MAX,
            })
            .collect();
    });
    assert!(bytes.len() <= MAX_DESCRIPTOR_SIZE, "{} bytes", bytes.len());
    assert!(DescriptorCache::new(NETWORK).verify(&bytes).is_ok());
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_used() {
    let mut cache = DescriptorCache::new(NETWORK);
    let used = Node::new(Role::Mix, 1).descriptor(middle_of(5));
    let filler = cache.verify(&used).expect("verifies");
    for round in 0..3 {
        for number in 0..MAX_NODES as u64 {
            let mut hash = [round; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            cache.insert(Hash::from_bytes(hash), Arc::clone(&filler));
        }
        assert!(cache.young.len() <= MAX_NODES && cache.old.len() <= MAX_NODES);
        cache.verify(&used).expect("verifies");
        assert!(cache.young.contains_key(&descriptor_hash(&used)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn anything_bent_is_refused(at: prop::sample::Index, bit in 0u8..8) {
        let (council, cast) = council();
        let mut bytes = council.message(1, 5, &published(&cast.all(), 5)).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(open(&bytes, &council).is_err());
        prop_assert!(open(&bytes[..at], &council).is_err());
    }

    #[test]
    fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..600)) {
        let council = Council::new(1, 0, parameters(500));
        prop_assert!(open(&junk, &council).is_err());
    }
}
