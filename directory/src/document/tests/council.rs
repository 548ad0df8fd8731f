//! Documents of several authorities, some of whom lie: nobody is invented, nobody is left out, nothing depends on who asks.

use super::*;
use crate::list_message::ListMessage;
use crate::testing::{Descriptors, held, published};
use proptest::prelude::*;

fn cast() -> Cast {
    Cast::new(2, 6, 3)
}

/// Four authorities whose first document, of epoch 5, all agree on.
fn begun(draw_epochs: u32) -> (Council, Cast) {
    let cast = cast();
    let mut council = Council::new(4, 3, parameters(draw_epochs));
    council.calm(5, &cast.all());
    (council, cast)
}

fn with(descriptors: &Descriptors, more: &Descriptors) -> Descriptors {
    descriptors.clone().into_iter().chain(more.clone()).collect()
}

fn draft_of(council: &Council, epoch: u64, messages: &[&ListMessage]) -> Draft {
    next_document(&council.rules(), council.chain.last(), &council.propose(epoch, messages)).expect("possible")
}

#[test]
fn the_order_in_which_lists_arrive_changes_nothing() {
    let (council, cast) = begun(500);
    let messages = council.messages(6, &published(&cast.all(), 5));
    let (a, b, c) = (&messages[0], &messages[1], &messages[2]);
    let one = draft_of(&council, 6, &[a, b, c]);
    let other = draft_of(&council, 6, &[c, a, b]);
    assert_eq!(one, other);
    assert_eq!(one.document.hash(), other.document.hash());
    assert_eq!(one.document.lists.iter().map(|list| list.authority).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(one.document.lists[1].hash, messages[1].list().hash());
}

#[test]
fn a_node_that_at_most_f_lists_name_never_enters() {
    let (council, cast) = begun(500);
    let invented = Node::new(Role::Mix, 90);
    let honest = published(&cast.all(), 5);
    let lying = with(&honest, &published(&[&invented], 5));
    let mut messages = council.messages(6, &honest);
    messages[3] = council.message(3, 6, &lying);
    for chosen in [vec![0, 1, 3], vec![1, 2, 3], vec![0, 1, 2, 3]] {
        let refs: Vec<_> = chosen.iter().map(|at| &messages[*at]).collect();
        let draft = draft_of(&council, 6, &refs);
        assert!(draft.document.node(&invented.identity()).is_none());
        assert_eq!(draft.dropped.get(&invented.identity()), Some(&Dropped::TooFewLists { listed: 1, needed: 2 }));
        assert_eq!(draft.document.nodes.len(), 11);
    }
    // one honest authority more, and it is there
    messages[2] = council.message(2, 6, &lying);
    let refs: Vec<_> = messages.iter().collect();
    assert!(draft_of(&council, 6, &refs).document.node(&invented.identity()).is_some());
}

#[test]
fn f_lists_that_omit_a_node_do_not_keep_it_out() {
    let (council, cast) = begun(500);
    let honest = published(&cast.all(), 5);
    let gone = cast.mixes[0].identity();
    let silent = council.message(3, 6, &published(&cast.all_but(&[gone]), 5));
    let empty = council.message(3, 6, &Descriptors::new());
    let messages = council.messages(6, &honest);
    for liar in [&silent, &empty] {
        let draft = draft_of(&council, 6, &[&messages[0], &messages[1], liar]);
        assert!(draft.document.node(&gone).is_some());
        assert_eq!(draft.document.nodes.len(), 11);
    }
}

#[test]
fn of_several_descriptors_the_newest_that_f_lists_cannot_bring_in_wins() {
    let (council, cast) = begun(500);
    let node = &cast.mixes[0];
    let saying = |at: usize, made: u64, port: u16| {
        let bytes = node.descriptor_with(UnixMillis(made), |descriptor| {
            descriptor.addresses[0].set_port(port);
            // the epochs the others have
            descriptor.mix_keys.iter_mut().enumerate().for_each(|(n, key)| key.0 = Epoch(5 + n as u64));
        });
        council.message(at, 6, &with(&published(&cast.all(), 5), &[(node.identity(), held(&bytes))].into()))
    };
    let now = middle_of(5).0;
    let port = |made: [(u64, u16); 4]| {
        let messages: Vec<_> = (0..4).map(|at| saying(at, made[at].0, made[at].1)).collect();
        let draft = draft_of(&council, 6, &messages.iter().collect::<Vec<_>>());
        draft.document.node(&node.identity()).expect("listed").addresses[0].port()
    };
    assert_eq!(port([(now, 1), (now, 1), (now, 1), (now + 1, 9)]), 1, "one newer may be a liar's");
    assert_eq!(port([(now, 1), (now, 1), (now + 1, 9), (now + 1, 9)]), 9, "two are not");
    assert_eq!(port([(now - 9, 1), (now - 8, 2), (now - 7, 3), (now - 6, 4)]), 3);
    assert_eq!(port([(now - 1, 9), (now, 1), (now, 1), (now, 1)]), 1, "an older one wins nothing");
    let (late, old) = (middle_of(7).0, middle_of(3).0 - 1);
    assert_eq!(port([(late, 9), (late, 9), (now, 1), (now, 1)]), 1, "what is made after the epoch is none");
    assert_eq!(port([(old, 9), (old, 9), (old, 9), (now, 1)]), 1, "nor what was not renewed, if there is another");
    // of one instant the lower hash goes first, whoever lists which
    assert_eq!(port([(now, 1), (now, 1), (now, 9), (now, 9)]), port([(now, 9), (now, 1), (now, 9), (now, 1)]));
}

#[test]
fn a_family_or_role_that_f_authorities_make_up_with_the_node_does_not_count() {
    let (council, cast) = begun(500);
    let node = &cast.mixes[0];
    let messages = council.messages(6, &published(&cast.all(), 5));
    for bytes in [
        node.descriptor_with(UnixMillis(middle_of(5).0 + 1), |descriptor| descriptor.family = Some([7; 32])),
        node.descriptor_with(UnixMillis(middle_of(5).0 + 1), |descriptor| descriptor.role = Role::Gateway),
    ] {
        let lying = with(&published(&cast.all(), 5), &[(node.identity(), held(&bytes))].into());
        let liar = council.message(3, 6, &lying);
        let draft = draft_of(&council, 6, &[&messages[0], &messages[1], &liar]);
        let entry = draft.document.node(&node.identity()).expect("stays");
        assert_eq!((entry.role, entry.family), (Role::Mix, *node.identity().as_bytes()));
        // with one honest list only, nobody knows whom to believe
        let absent = council.message(1, 6, &published(&cast.all_but(&[node.identity()]), 5));
        let draft = draft_of(&council, 6, &[&messages[0], &absent, &liar]);
        assert_eq!(draft.dropped.get(&node.identity()), Some(&Dropped::Disputed));
    }
}

#[test]
fn a_minority_changes_no_parameter_and_a_quorum_does() {
    let (mut council, cast) = begun(500);
    let nodes = published(&cast.all(), 5);
    let wish = Parameters { append_bits: 9, ..council.parameters };
    let wanting = |council: &Council, who: &[usize]| -> Vec<ListMessage> {
        (0..4)
            .map(|at| {
                council.message_with(at, 6, &nodes, |list| {
                    if who.contains(&at) {
                        list.parameters = wish;
                    }
                })
            })
            .collect()
    };
    // also when it is the first in the proposal that wants it
    for minority in [vec![], vec![0], vec![2], vec![0, 1], vec![1, 2]] {
        let messages = wanting(&council, &minority);
        assert_eq!(council.draft(6, &messages).expect("possible").document.parameters, council.parameters);
    }
    let messages = wanting(&council, &[0, 1, 2]);
    let lists: Vec<_> = messages.iter().map(|message| message.list().clone()).collect();
    let dissent = wishes::dissent(council.current(), &council.parameters, &lists);
    assert_eq!((dissent.parameters, dissent.authorities), (vec![3], vec![]));
    assert_eq!(council.advance(6, &messages).parameters, wish);
}

#[test]
fn the_set_changes_by_quorum_and_the_new_one_goes_on() {
    let (mut council, cast) = begun(2);
    let genesis = council.genesis.clone();
    // the last of the four is replaced by one of the spare, and the indices shift
    let mut wanted: Vec<AuthorityKey> = genesis[..3].to_vec();
    let spare = council.secrets.iter().map(|secret| secret.public().clone()).find(|key| !genesis.contains(key));
    wanted.push(spare.expect("three are spare"));
    wanted.sort_by_key(|key| key.identity);
    let nodes = published(&cast.all(), 5);
    let wanting = |council: &Council, who: &[usize]| -> Vec<ListMessage> {
        let set = |at: &usize| who.contains(at).then(|| wanted.clone());
        (0..4).map(|at| council.message_with(at, 6, &nodes, |list| list.authorities = set(&at))).collect()
    };
    let few = wanting(&council, &[0, 1]);
    assert_eq!(council.draft(6, &few).expect("possible").document.authorities, genesis);
    let many = wanting(&council, &[0, 1, 2]);
    let changed = council.advance(6, &many).clone();
    assert_eq!(changed.authorities, wanted);
    // who stays keeps commitment and reveal under its new index; who left has none
    assert_eq!(changed.reveals.len(), 3);
    for entry in &changed.commitments {
        let key = &wanted[usize::from(entry.authority)];
        let secret = council.secrets.iter().find(|secret| secret.public() == key).expect("ours");
        let value = randomness::reveal(secret, &NETWORK, changed.draw.number);
        assert_eq!(entry.hash, randomness::commitment(&NETWORK, changed.draw.number, &key.identity, &value));
    }
    let first_draw = changed.randomness;
    for epoch in 7..14 {
        council.calm(epoch, &cast.all());
    }
    assert_ne!(council.chain.last().expect("made").randomness, first_draw, "draws go on");
    assert_eq!(council.chain.len(), 9);
}

#[test]
fn fifty_epochs_with_a_draw_every_second_one() {
    let (mut council, cast) = begun(2);
    let mut seeds = BTreeSet::from([council.chain[0].randomness]);
    for epoch in 6..=55 {
        let document = council.calm(epoch, &cast.all());
        let drew = document.current_generation().is_some_and(|generation| generation.since == Epoch(epoch));
        assert_eq!(drew, epoch % 2 == 1, "epoch {epoch}");
        assert_eq!(seeds.insert(document.randomness), drew);
        assert_eq!(layers(document).len(), 6);
    }
    assert_eq!(seeds.len(), 26);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever one of four says, and whichever three lists the proposal holds, who is listed by the others is there, and
    /// who is not is not.
    #[test]
    fn one_liar_of_four_neither_invents_nor_censors(omitted: Vec<bool>, older: Vec<bool>, strangers in 0u16..4,
        without in 0usize..4) {
        let (council, cast) = begun(500);
        let honest = published(&cast.all(), 5);
        let mut lies = Descriptors::new();
        for (at, node) in cast.all().into_iter().enumerate() {
            if omitted.get(at) == Some(&true) {
                continue;
            }
            let made = if older.get(at) == Some(&true) { middle_of(4) } else { middle_of(5) };
            lies.insert(node.identity(), held(&node.descriptor(made)));
        }
        let strange: Vec<Node> = (0..strangers).map(|number| Node::new(Role::Store, 900 + number)).collect();
        lies = with(&lies, &published(&strange.iter().collect::<Vec<_>>(), 5));
        let mut messages = council.messages(6, &honest);
        messages[3] = council.message(3, 6, &lies);
        let refs: Vec<_> = (0..4).filter(|at| *at != without).map(|at| &messages[at]).collect();
        let document = draft_of(&council, 6, &refs).document;
        let calm = council.messages(6, &honest);
        let undisturbed = draft_of(&council, 6, &calm.iter().take(3).collect::<Vec<_>>()).document;
        prop_assert_eq!(document.nodes, undisturbed.nodes);
    }
}

#[test]
fn the_largest_document_fits() {
    use shoal_protocol::consensus::{
        AbsentNode, Commitment, Generation, MAX_ABSENT, MAX_CONSENSUS_SIZE, MAX_GENERATIONS, MAX_STORES, MAX_SUSPECTS,
        Reveal, Share, Suspect,
    };
    let (council, _) = begun(500);
    let mut document = Consensus::clone(&council.chain[0]);
    document.nodes.clear();
    let empty = document.encode().len();
    // a node with all that it may have
    let far = Epoch(u64::MAX / 1_000_000_000);
    let mut store = council.chain[0].nodes.iter().find(|node| node.role == Role::Store).expect("three").clone();
    store.family = [0xff; 32];
    store.addresses = (0..4).map(|n| format!("[2001:db8::{n}]:65535").parse().expect("an address")).collect();
    store.store_index = Some(StoreIndex(u16::MAX));
    store.since = far;
    let keys: Vec<_> = store.mix_keys.iter().map(|(_, key)| *key).chain([store.mix_keys[0].1]).collect();
    store.mix_keys = (0..3).map(|n| (far.plus(n), keys[0])).collect();
    store.envelope_keys = store.mix_keys.clone();
    let mix = NodeEntry {
        role: Role::Mix,
        layer: Some(Layer::L3),
        store_index: None,
        envelope_keys: Vec::new(),
        ..store.clone()
    };
    for node in [&store, &mix] {
        document.nodes = vec![node.clone()];
        let size = document.encode().len() - empty;
        assert!(size <= candidates::weight(node), "{size} bytes");
    }
    // as many as there may be, and everything else at its largest
    document.nodes = vec![store.clone(); candidates::WEIGHT_MAX / candidates::weight(&store)];
    document.authorities = vec![council.genesis[0].clone(); 64];
    let absent = AbsentNode {
        identity: store.identity,
        role: Role::Store,
        layer: None,
        store_index: store.store_index,
        since: far,
    };
    document.absent = vec![absent; MAX_ABSENT];
    let share = Share { losing: u16::MAX, of: u16::MAX };
    let suspect =
        Suspect { identity: mix.identity, strikes: u8::MAX, before: share, behind: share, demoted_until: Some(far) };
    document.suspects = vec![suspect; MAX_SUSPECTS];
    let generation = Generation {
        number: u32::MAX,
        since: far,
        retired: Some(far),
        seed: [0xff; 32],
        stores: vec![StoreIndex(u16::MAX); MAX_STORES],
    };
    document.generations = vec![generation; MAX_GENERATIONS];
    document.commitments = vec![Commitment { authority: 64, hash: NETWORK }; 64];
    document.reveals = vec![Reveal { authority: 64, value: [0xff; 32] }; 64];
    document.lists = vec![ListHash { authority: 64, hash: NETWORK }; 64];
    document.draw.excluded = vec![64; 64];
    let size = document.encode().len();
    assert!(size <= MAX_CONSENSUS_SIZE * 3 / 4, "{size} bytes");
    // and its certificate
    let signatures = 64 * (shoal_protocol::authority::HYBRID_SIGNATURE_SIZE + 16);
    assert!(MAX_CONSENSUS_SIZE * 3 / 4 + signatures + 1024 <= MAX_CONSENSUS_SIZE);
}
