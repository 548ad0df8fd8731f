//! Tests of proposals: whole, canonical, and nothing to choose for who makes one.

use super::*;
use crate::testing::{Cast, Council, Descriptors, NETWORK, Node, held, middle_of, parameters, published};
use proptest::prelude::*;
use shoal_protocol::Role;

fn begun() -> (Council, Cast, Vec<ListMessage>) {
    let cast = Cast::new(1, 6, 3);
    let mut council = Council::new(4, 0, parameters(500));
    council.calm(5, &cast.all());
    let messages = council.messages(6, &published(&cast.all(), 5));
    (council, cast, messages)
}

fn open(bytes: &[u8], council: &Council) -> Result<VerifiedProposal, ProposalError> {
    UnverifiedProposal::parse(bytes)?.verify(&council.place(), &mut DescriptorCache::new(NETWORK))
}

fn compose(council: &Council, epoch: u64, messages: &[&ListMessage]) -> Result<VerifiedProposal, ProposalError> {
    VerifiedProposal::compose(&council.place(), Epoch(epoch), messages)
}

/// The bytes of a proposal with these parts, whatever they are worth.
fn bytes_of(council: &Council, epoch: u64, lists: &[&ListMessage], descriptors: &[Vec<u8>]) -> Vec<u8> {
    let place = council.place();
    let lists: Vec<SignedList> = lists.iter().map(|message| message.list().clone()).collect();
    encode(place.height, Epoch(epoch), &place.previous, &lists, descriptors.iter().map(Vec::as_slice))
}

fn carried(proposal: &VerifiedProposal) -> Vec<Vec<u8>> {
    proposal.descriptors.values().map(|signed| signed.bytes.clone()).collect()
}

#[test]
fn a_proposal_is_the_same_whoever_makes_it_from_the_same_lists() {
    let (council, _, messages) = begun();
    let [a, b, c, d] = [&messages[0], &messages[1], &messages[2], &messages[3]];
    let one = compose(&council, 6, &[a, b, c]).expect("enough");
    assert_eq!(compose(&council, 6, &[c, b, a, b]).expect("enough"), one);
    assert_eq!((one.lists().len(), one.descriptors.len(), one.witnesses()), (3, 10, 2));
    assert_eq!(open(one.bytes(), &council), Ok(one.clone()));
    let all = compose(&council, 6, &[d, c, b, a]).expect("enough");
    assert_eq!(all.lists().len(), 4);
    assert_ne!(all.hash(), one.hash());
}

#[test]
fn fewer_lists_than_honest_authorities_are_not_enough() {
    let (council, _, messages) = begun();
    let too_few = Err(ProposalError::TooFewLists { found: 2, needed: 3 });
    assert_eq!(compose(&council, 6, &[&messages[0], &messages[1]]), too_few);
    assert_eq!(compose(&council, 7, &messages.iter().collect::<Vec<_>>()), {
        Err(ProposalError::TooFewLists { found: 0, needed: 3 })
    });
    let full = compose(&council, 6, &messages.iter().collect::<Vec<_>>()).expect("enough");
    let two = bytes_of(&council, 6, &[&messages[0], &messages[1]], &carried(&full));
    assert_eq!(open(&two, &council), too_few);
    let twice = bytes_of(&council, 6, &[&messages[0], &messages[0], &messages[1]], &carried(&full));
    assert!(matches!(open(&twice, &council), Err(ProposalError::Malformed(_))));
    let unsorted = bytes_of(&council, 6, &[&messages[1], &messages[0], &messages[2]], &carried(&full));
    assert!(matches!(open(&unsorted, &council), Err(ProposalError::Malformed(_))));
}

#[test]
fn every_descriptor_that_is_needed_must_be_there_and_no_other() {
    let (council, _, messages) = begun();
    let three: Vec<_> = messages.iter().take(3).collect();
    let good = carried(&compose(&council, 6, &three).expect("enough"));
    assert!(open(&bytes_of(&council, 6, &three, &good), &council).is_ok());
    for left_out in 0..good.len() {
        let mut fewer = good.clone();
        fewer.remove(left_out);
        let refused = open(&bytes_of(&council, 6, &three, &fewer), &council);
        assert!(matches!(refused, Err(ProposalError::OtherDescriptors(_))), "without {left_out}");
    }
    let stranger = Node::new(Role::Mix, 77).descriptor(middle_of(5));
    let more = [good.clone(), vec![stranger.clone()]].concat();
    assert!(matches!(open(&bytes_of(&council, 6, &three, &more), &council), Err(ProposalError::OtherDescriptors(_))));
    let mut other = good.clone();
    other[3] = stranger;
    assert!(matches!(open(&bytes_of(&council, 6, &three, &other), &council), Err(ProposalError::OtherDescriptors(_))));
    let mut reversed = good;
    reversed.reverse();
    assert!(open(&bytes_of(&council, 6, &three, &reversed), &council).is_err());
}

#[test]
fn what_f_lists_name_travels_by_hash_only() {
    let (council, cast, mut messages) = begun();
    let stranger = Node::new(Role::Mix, 77);
    let mut lists: Descriptors = published(&cast.all(), 5);
    lists.insert(stranger.identity(), held(&stranger.descriptor(middle_of(5))));
    messages[3] = council.message(3, 6, &lists);
    let refs: Vec<_> = messages.iter().collect();
    assert_eq!(compose(&council, 6, &refs).expect("enough").descriptors.len(), 10);
    messages[2] = council.message(2, 6, &lists);
    let refs: Vec<_> = messages.iter().collect();
    assert_eq!(compose(&council, 6, &refs).expect("enough").descriptors.len(), 11);
}

#[test]
fn a_descriptor_that_does_not_exist_spoils_the_proposal() {
    // a liar names a descriptor that hashes to junk; an honest proposer never takes its list
    let (council, cast, messages) = begun();
    let message = council.message(3, 6, &published(&cast.all(), 5));
    let mut list = crate::signed_list::List::clone(message.list());
    let junk = b"junk".to_vec();
    list.entries[0].descriptor = descriptor_hash(&junk);
    let lying = list.sign(council.secret(3));
    let lists = vec![messages[0].list().clone(), messages[1].list().clone(), lying];
    let all: BTreeMap<_, _> = message
        .descriptors()
        .iter()
        .map(|signed| ((signed.descriptor.identity, descriptor_hash(&signed.bytes)), signed.bytes.clone()))
        .chain([((message.list().entries[0].identity, descriptor_hash(&junk)), junk)])
        .collect();
    let place = council.place();
    let bytes = encode(place.height, Epoch(6), &place.previous, &lists, all.values().map(Vec::as_slice));
    assert!(matches!(open(&bytes, &council), Err(ProposalError::Descriptor { .. })));
}

#[test]
fn a_proposal_stands_at_one_place_only() {
    let (mut council, cast, messages) = begun();
    let refs: Vec<_> = messages.iter().collect();
    let bytes = compose(&council, 6, &refs).expect("enough").bytes().to_vec();
    let other_epoch = council.messages(7, &published(&cast.all(), 5));
    let mixed = [&messages[0], &messages[1], &other_epoch[2]];
    assert_eq!(open(&bytes_of(&council, 6, &mixed, &[]), &council), Err(ProposalError::OtherEpoch(2)));
    assert_eq!(open(&bytes_of(&council, 5, &refs, &[]), &council), Err(ProposalError::OldEpoch(Epoch(5))));
    council.calm(6, &cast.all());
    assert!(matches!(open(&bytes, &council), Err(ProposalError::Elsewhere { height: 2, .. })));
    let long = vec![0; MAX_PROPOSAL_SIZE + 1];
    assert_eq!(open(&long, &council), Err(ProposalError::TooLarge(long.len())));
}

#[test]
fn whose_list_names_most_of_its_own_is_left_out_first() {
    let (council, cast, mut messages) = begun();
    // older descriptors of everybody, all true
    messages[1] = council.message(1, 6, &published(&cast.all(), 4));
    let chosen: BTreeMap<u16, &ListMessage> =
        messages.iter().map(|message| (message.list().authority, message)).collect();
    assert_eq!(costliest(&chosen), Some(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn anything_bent_is_refused(at: prop::sample::Index, bit in 0u8..8) {
        let (council, _, messages) = begun();
        let mut bytes = compose(&council, 6, &messages.iter().collect::<Vec<_>>()).expect("enough").bytes().to_vec();
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
