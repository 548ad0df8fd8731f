//! Tests of what is listed, and what is refused.

use super::*;
use crate::admission::Admitted;
use crate::testing::{self, EPOCH_MS, NETWORK, NOW, Node};

fn judge(admitted: Option<&AdmittedList>) -> Judge<'_> {
    Judge { network: NETWORK, schedule: testing::schedule(), skew: Duration::from_secs(2), admitted }
}

fn offer(listing: &mut Listing, bytes: &[u8], now: UnixMillis) -> Result<Offered, Refusal> {
    listing.offer(bytes, now, &judge(None), |_| None)
}

#[test]
fn the_newest_descriptor_of_a_node_wins() {
    let node = Node::new(Role::Mix, 1);
    let mut listing = Listing::default();
    let first = node.descriptor(NOW);
    let later = NOW.plus(Duration::from_secs(1));
    let second = node.descriptor(later);
    assert_eq!(offer(&mut listing, &first, NOW), Ok(Offered::Listed(node.identity())));
    assert_eq!(offer(&mut listing, &first, NOW), Ok(Offered::Known(node.identity())));
    assert_eq!(offer(&mut listing, &second, later), Ok(Offered::Listed(node.identity())));
    assert_eq!(offer(&mut listing, &first, later), Err(Refusal::Older { newer_by_ms: 1000 }));
    assert_eq!((listing.len(), listing.count(Role::Mix), listing.count(Role::Store)), (1, 1, 0));
    assert_eq!(listing.bytes_of(&node.identity()), Some(second.as_slice()));
}

#[test]
fn twins_end_the_same_way_in_either_order() {
    let node = Node::new(Role::Mix, 1);
    let one = node.descriptor(NOW);
    let two = node.descriptor_with(NOW, |descriptor| descriptor.version = "9".into());
    let kept = |first: &[u8], second: &[u8]| {
        let mut listing = Listing::default();
        offer(&mut listing, first, NOW).expect("listed");
        let _ = offer(&mut listing, second, NOW);
        listing.bytes_of(&node.identity()).map(<[u8]>::to_vec)
    };
    assert_eq!(kept(&one, &two), kept(&two, &one));
}

#[test]
fn admission_and_role_are_checked() {
    let node = Node::new(Role::Mix, 1);
    let bytes = node.descriptor(NOW);
    let mut list = AdmittedList::default();
    let mut listing = Listing::default();
    let refused = listing.offer(&bytes, NOW, &judge(Some(&list)), |_| None);
    assert_eq!(refused, Err(Refusal::NotAdmitted { identity: node.identity() }));
    list.admit(Admitted { identity: node.identity(), role: Role::Store, family: None, address: None }).expect("room");
    let refused = listing.offer(&bytes, NOW, &judge(Some(&list)), |_| None);
    assert_eq!(refused, Err(Refusal::OtherRole { was: Role::Store, wants: Role::Mix }));
    let refused = listing.offer(&bytes, NOW, &judge(None), |_| Some(Role::Gateway));
    assert_eq!(refused, Err(Refusal::OtherRole { was: Role::Gateway, wants: Role::Mix }));
    assert!(listing.is_empty());
}

#[test]
fn a_family_counts_only_as_it_was_admitted() {
    let mut node = Node::new(Role::Mix, 1);
    let alone = Admitted { identity: node.identity(), role: Role::Mix, family: None, address: None };
    let mut strangers = AdmittedList::default();
    strangers.admit(alone.clone()).expect("room");
    let mut relatives = AdmittedList::default();
    relatives.admit(Admitted { family: Some([7; 32]), ..alone }).expect("room");
    let mut listing = Listing::default();
    let mut refused = |bytes: &[u8], list: &AdmittedList| listing.offer(bytes, NOW, &judge(Some(list)), |_| None);
    let without = node.descriptor(NOW);
    assert_eq!(refused(&without, &relatives), Err(Refusal::OtherFamily), "it left the family it was admitted with");
    node.family = Some([7; 32]);
    let with = node.descriptor(NOW);
    assert_eq!(refused(&with, &strangers), Err(Refusal::OtherFamily), "a stranger claims a family");
    assert!(refused(&with, &relatives).is_ok());
    // in open mode it is taken as claimed
    assert!(offer(&mut Listing::default(), &with, NOW).is_ok());
    // and who is dismissed from the family goes
    assert_eq!(listing.prune(Epoch(0), Some(&strangers)), vec![node.identity()]);
}

#[test]
fn keys_must_be_usable_now() {
    let node = Node::new(Role::Mix, 1);
    let bytes = node.descriptor(NOW);
    let mut listing = Listing::default();
    let much_later = NOW.plus(Duration::from_millis(10 * EPOCH_MS));
    assert!(matches!(offer(&mut listing, &bytes, much_later), Err(Refusal::WrongEpochs { .. })));
    let broken = offer(&mut listing, &bytes[1..], NOW);
    assert!(matches!(broken, Err(Refusal::Descriptor(DescriptorError::Malformed(_)))));
}

#[test]
fn the_list_is_bounded() {
    let mut listing = Listing::default();
    let filler = UnverifiedDescriptor::parse(&Node::new(Role::Mix, 1).descriptor(NOW))
        .expect("parses")
        .verify(&NETWORK, NOW, Duration::ZERO)
        .expect("verifies");
    for number in 0..MAX_DESCRIPTORS as u64 {
        let mut identity = [0; 32];
        identity[..8].copy_from_slice(&number.to_be_bytes());
        listing.0.insert(Identity::from_bytes(identity), Arc::new(filler.clone()));
    }
    assert_eq!(offer(&mut listing, &Node::new(Role::Mix, 2).descriptor(NOW), NOW), Err(Refusal::Full));
}

#[test]
fn pruning_forgets_the_dead_and_the_dismissed() {
    let (one, two) = (Node::new(Role::Mix, 1), Node::new(Role::Store, 2));
    let mut listing = Listing::default();
    offer(&mut listing, &one.descriptor(NOW), NOW).expect("listed");
    offer(&mut listing, &two.descriptor(NOW), NOW).expect("listed");
    let epoch = testing::schedule().epoch_at(NOW);
    assert!(listing.prune(epoch.plus(3), None).is_empty());
    let mut list = AdmittedList::default();
    list.admit(Admitted { identity: one.identity(), role: Role::Mix, family: None, address: None }).expect("room");
    assert_eq!(listing.prune(epoch, Some(&list)), vec![two.identity()]);
    assert_eq!(listing.prune(epoch.plus(4), Some(&list)), vec![one.identity()]);
}
