//! Tests of proposals: whole, canonical, and nothing to choose for who makes one.

use super::*;
use crate::testing::{Cast, Council, Descriptors, NETWORK, Node, held, middle_of, parameters, published};
use proptest::prelude::*;
use shoal_protocol::{Role, UnixMillis};

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
    assert_eq!((one.lists().len(), one.descriptors.len()), (3, 10));
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
fn what_a_liar_alone_says_of_a_descriptor_changes_nothing() {
    let (council, _, messages) = begun();
    let good = carried(&compose(&council, 6, &messages.iter().take(3).collect::<Vec<_>>()).expect("enough"));
    let lists = |change: &dyn Fn(&mut Entry)| {
        let mut list = crate::signed_list::List::clone(messages[3].list());
        change(&mut list.entries[0]);
        vec![messages[0].list().clone(), messages[1].list().clone(), list.sign(council.secret(3))]
    };
    let junk = b"junk".to_vec();
    let place = council.place();
    let open_with = |lists: &[SignedList], descriptors: &[Vec<u8>]| {
        open(&encode(place.height, Epoch(6), &place.previous, lists, descriptors.iter().map(Vec::as_slice)), &council)
    };
    // one that does not exist, newer than all
    let junk_hash = descriptor_hash(&junk);
    let lying = lists(&|entry| (entry.descriptor, entry.published.0) = (junk_hash, entry.published.0 + 1));
    assert!(open_with(&lying, &good).is_ok());
    let mut swapped = good.clone();
    swapped[0] = junk;
    assert!(matches!(open_with(&lying, &swapped), Err(ProposalError::OtherDescriptors(_))));
    // the true one, said to be newer, or another role's
    let newer = lists(&|entry| entry.published.0 += 1);
    assert!(open_with(&newer, &good).is_ok());
    let other = lists(&|entry| entry.role = Role::Gateway);
    assert!(open_with(&other, &good).is_ok());
    // and no honest authority takes such a list with its descriptors
    let of_the_liar = newer[2].clone();
    let message = codec::encode(|writer| {
        writer.put_array(2);
        writer.put_bytes(of_the_liar.bytes());
        writer.put_array(good.len());
        good.iter().for_each(|bytes| writer.put_bytes(bytes));
    });
    let refused = ListMessage::open(&message, &place, &mut DescriptorCache::new(NETWORK));
    assert_eq!(refused, Err(ListError::OtherDescriptor(of_the_liar.entries[0].identity)));
}

#[test]
fn a_claim_that_two_lists_share_must_be_true() {
    let (council, _, messages) = begun();
    let good = carried(&compose(&council, 6, &messages.iter().take(3).collect::<Vec<_>>()).expect("enough"));
    let lie = |at: usize| {
        let mut list = crate::signed_list::List::clone(messages[at].list());
        list.entries[0].published.0 += 1;
        list.sign(council.secret(at))
    };
    let lists = [messages[0].list().clone(), lie(2), lie(3)];
    let place = council.place();
    let bytes = encode(place.height, Epoch(6), &place.previous, &lists, good.iter().map(Vec::as_slice));
    let first = lists[0].entries[0].identity;
    assert_eq!(open(&bytes, &council), Err(ProposalError::OtherDescriptors(first)));
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
fn many_versions_of_a_node_are_one_in_a_proposal() {
    let (council, cast, _) = begun();
    let node = &cast.mixes[0];
    let messages: Vec<_> = (0..4)
        .map(|at| {
            let made = UnixMillis(middle_of(5).0 + at as u64);
            let version = held(&node.descriptor_with(made, |descriptor| descriptor.version = format!("v{at}")));
            let mut nodes = published(&cast.all(), 5);
            nodes.insert(node.identity(), version);
            council.message(at, 6, &nodes)
        })
        .collect();
    let proposal = compose(&council, 6, &messages.iter().collect::<Vec<_>>()).expect("enough");
    assert_eq!(proposal.descriptors.len(), 10);
    // one of four may lie: the newest may be its invention, the second is not
    assert_eq!(proposal.descriptors[&node.identity()].descriptor.version, "v2");
    assert_eq!(open(proposal.bytes(), &council), Ok(proposal));
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
