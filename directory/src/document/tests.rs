//! Tests of the document over a network on paper: many epochs, nodes that come and go.

use super::*;
use crate::lists::{Judge, Listing};
use crate::testing::{self, EPOCH_MS, NETWORK, Node};
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{TrustAnchor, UnverifiedConsensus, certify};
use std::time::Duration;

/// An authority without files or links.
struct Paper {
    secret: AuthoritySecret,
    authorities: Vec<AuthorityKey>,
    parameters: Parameters,
    listing: Listing,
    chain: Vec<VerifiedConsensus>,
}

impl Paper {
    fn new(parameters: Parameters) -> Self {
        let secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
        let authorities = vec![secret.public().clone()];
        Self { secret, authorities, parameters, listing: Listing::default(), chain: Vec::new() }
    }

    fn publish(&mut self, nodes: &[&Node], epoch: u64) {
        let now = UnixMillis(testing::GENESIS.0 + epoch * EPOCH_MS + EPOCH_MS / 2);
        let judge =
            Judge { network: NETWORK, schedule: testing::schedule(), skew: Duration::from_secs(2), admitted: None };
        for node in nodes {
            self.listing.offer(&node.descriptor(now), now, &judge, |_| None).expect("is listed");
        }
    }

    fn draft(&self, epoch: u64) -> Result<Draft, NotYet> {
        self.with_ingredients(epoch, next_document)
    }

    fn with_ingredients<T>(&self, epoch: u64, ask: impl FnOnce(&Ingredients<'_>) -> T) -> T {
        let previous = self.chain.last();
        let number = next_draw(previous.map(|previous| &**previous));
        let value = |number| randomness::reveal(&self.secret, &NETWORK, number);
        let commitment = |number| randomness::commitment(&NETWORK, number, 0, &value(number));
        ask(&Ingredients {
            rules: Rules {
                network: NETWORK,
                schedule: testing::schedule(),
                parameters: self.parameters,
                authorities: &self.authorities,
                genesis_stores: 3,
                genesis_gateways: 1,
            },
            previous,
            epoch: Epoch(epoch),
            descriptors: self.listing.descriptors(),
            lists: &[ListHash { authority: 0, hash: self.listing.hash() }],
            contributions: &[Contribution {
                authority: 0,
                reveal: value(number),
                commitment: commitment(number),
                commitment_after: commitment(number + 1),
            }],
        })
    }

    /// Makes, certifies, parses and verifies the document of `epoch`, as everybody else would.
    fn advance(&mut self, epoch: u64) -> &VerifiedConsensus {
        let draft = self.draft(epoch).expect("a document is possible");
        let bytes = certify(&draft.document, 0, &[(0, &self.secret)]);
        let anchor = TrustAnchor { network: NETWORK, authorities: self.authorities.clone() };
        let verified = UnverifiedConsensus::parse(&bytes)
            .expect("the document keeps every rule")
            .verify(&anchor, draft.document.valid_from, self.chain.last().map(VerifiedConsensus::mark))
            .expect("verifies");
        self.chain.push(verified);
        self.chain.last().expect("just pushed")
    }
}

fn parameters(draw_epochs: u32) -> Parameters {
    Parameters {
        epoch_ms: EPOCH_MS,
        draw_epochs,
        retention_ms: 4 * EPOCH_MS,
        mixes_per_layer: 2,
        ..Parameters::test_network()
    }
}

struct Cast {
    gateways: Vec<Node>,
    mixes: Vec<Node>,
    stores: Vec<Node>,
}

impl Cast {
    fn new(gateways: u16, mixes: u16, stores: u16) -> Self {
        let make = |role, count: u16| (1..=count).map(|number| Node::new(role, number)).collect();
        Self {
            gateways: make(Role::Gateway, gateways),
            mixes: make(Role::Mix, mixes),
            stores: make(Role::Store, stores),
        }
    }

    fn all(&self) -> Vec<&Node> {
        self.gateways.iter().chain(&self.mixes).chain(&self.stores).collect()
    }

    fn all_but(&self, gone: &[Identity]) -> Vec<&Node> {
        self.all().into_iter().filter(|node| !gone.contains(&node.identity())).collect()
    }
}

fn layers(document: &Consensus) -> BTreeMap<Identity, Layer> {
    document.nodes.iter().filter_map(|node| node.layer.map(|layer| (node.identity, layer))).collect()
}

#[test]
fn genesis_waits_for_enough_nodes_and_then_draws_at_once() {
    let cast = Cast::new(1, 6, 3);
    let mut paper = Paper::new(parameters(500));
    assert_eq!(
        paper.draft(5),
        Err(NotYet::Shortage {
            gateways: 0,
            gateways_needed: 1,
            mixes: 0,
            mixes_needed: 6,
            stores: 0,
            stores_needed: 3
        })
    );
    let last = cast.mixes[5].identity();
    paper.publish(&cast.all_but(&[last]), 5);
    let shortage = paper.draft(5).expect_err("one mix is missing");
    assert!(shortage.to_string().contains("5 of 6 mixes"), "{shortage}");
    paper.publish(&[&cast.mixes[5]], 5);
    let first = paper.advance(5);
    assert_eq!((first.height, first.epoch, first.previous), (1, Epoch(5), NETWORK));
    assert_eq!(Layer::ALL.map(|layer| first.layer(layer).count()), [2, 2, 2]);
    let generation = first.current_generation().expect("drawn");
    assert_eq!((generation.number, generation.since), (1, Epoch(5)));
    assert_eq!(generation.stores, [0, 1, 2].map(StoreIndex));
    assert_eq!(first.randomness, generation.seed);
    assert_eq!((first.reveals.len(), first.commitments.len()), (1, 1));
    assert_eq!(first.next_store_index, 3);
}

#[test]
fn the_document_is_a_function_of_its_ingredients() {
    let cast = Cast::new(2, 8, 4);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    assert_eq!(paper.draft(5), paper.draft(5));
    paper.advance(5);
    paper.publish(&cast.all(), 5);
    assert_eq!(paper.draft(6), paper.draft(6));
}

#[test]
fn places_and_indices_are_kept_and_documents_are_chained() {
    let cast = Cast::new(1, 6, 3);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5).clone();
    for epoch in 6..12 {
        paper.publish(&cast.all(), epoch - 1);
        let document = paper.advance(epoch).clone();
        assert_eq!(layers(&document), layers(&first));
        assert_eq!(document.generations, first.generations);
        assert_eq!(document.randomness, first.randomness);
        assert!(document.reveals.is_empty() && document.absent.is_empty());
        let before = &paper.chain[paper.chain.len() - 2];
        assert_eq!((document.previous, document.height), (before.hash(), before.height + 1));
        for node in &document.nodes {
            assert_eq!(node.mix_keys.len(), 3, "keys for e, e+1, e+2");
        }
    }
    assert_eq!(paper.draft(11), Err(NotYet::Made(Epoch(11))));
}

#[test]
fn newcomers_stand_by_until_the_next_draw() {
    let cast = Cast::new(1, 6, 3);
    let (mix, store) = (Node::new(Role::Mix, 50), Node::new(Role::Store, 50));
    let mut paper = Paper::new(parameters(4));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5).clone();
    let seed = first.randomness;
    for epoch in 6..9 {
        paper.publish(&cast.all(), epoch - 1);
        paper.publish(&[&mix, &store], epoch - 1);
        let document = paper.advance(epoch);
        let newcomer = document.node(&mix.identity()).expect("listed");
        assert!(newcomer.standby && newcomer.layer.is_none());
        assert!(document.node(&store.identity()).is_some_and(|node| node.standby));
        assert_eq!(document.stores().count(), 3);
    }
    paper.publish(&cast.all(), 8);
    paper.publish(&[&mix, &store], 8);
    let drawn = paper.advance(9);
    let generation = drawn.current_generation().expect("drawn");
    assert_eq!((generation.number, generation.since, generation.stores.len()), (2, Epoch(9), 4));
    assert_ne!(drawn.randomness, seed);
    assert_eq!(drawn.generations[0].retired, Some(Epoch(9)));
    assert_eq!(layers(drawn).len(), 6, "seven mixes for six seats");
    assert!(drawn.node(&store.identity()).is_some_and(|node| !node.standby));
}

#[test]
fn who_is_first_listed_in_the_drawing_document_is_not_drawn() {
    let cast = Cast::new(1, 6, 3);
    let late = Node::new(Role::Store, 60);
    let mut paper = Paper::new(parameters(2));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    paper.publish(&cast.all(), 6);
    paper.publish(&[&late], 6);
    let drawn = paper.advance(7);
    assert_eq!(drawn.current_generation().map(|generation| (generation.number, generation.stores.len())), Some((2, 3)));
    assert!(drawn.node(&late.identity()).is_some_and(|node| node.standby));
}

#[test]
fn a_silent_node_is_dropped_and_its_seat_filled_from_genesis_standbys() {
    let cast = Cast::new(1, 7, 3);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5).clone();
    let seats = layers(&first);
    let standby = first.nodes.iter().find(|node| node.standby).expect("seven for six seats").identity;
    let (gone, seat) = seats.iter().next().map(|(identity, layer)| (*identity, *layer)).expect("six seated");
    for epoch in 6..=8 {
        paper.publish(&cast.all_but(&[gone]), epoch - 1);
        paper.advance(epoch);
    }
    let now = paper.chain.last().expect("made");
    assert!(now.node(&gone).is_none());
    assert_eq!(layers(now).get(&standby), Some(&seat), "the standby took the empty seat");
    assert_eq!(now.absent.iter().map(|node| node.identity).collect::<Vec<_>>(), [gone]);
    // It returns: its seat is taken, so it stands by.
    paper.publish(&cast.all(), 8);
    let back = paper.advance(9);
    assert!(back.node(&gone).is_some_and(|node| node.standby && node.since == Epoch(5)));
    assert!(back.absent.is_empty());
}

#[test]
fn an_empty_seat_waits_for_its_mix_when_nobody_may_take_it() {
    let cast = Cast::new(1, 6, 3);
    let newcomer = Node::new(Role::Mix, 70);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    let seats = layers(paper.advance(5));
    let (gone, seat) = seats.iter().next().map(|(identity, layer)| (*identity, *layer)).expect("six seated");
    for epoch in 6..=9 {
        paper.publish(&cast.all_but(&[gone]), epoch - 1);
        paper.publish(&[&newcomer], epoch - 1);
        paper.advance(epoch);
    }
    let without = paper.chain.last().expect("made");
    assert_eq!(without.layer(seat).count(), 1);
    assert!(without.node(&newcomer.identity()).is_some_and(|node| node.standby), "too new for a vacancy");
    paper.publish(&cast.all(), 9);
    let with = paper.advance(10);
    assert_eq!(with.node(&gone).and_then(|node| node.layer), Some(seat));
}

#[test]
fn a_store_keeps_its_index_while_it_is_away_and_no_index_is_given_twice() {
    let cast = Cast::new(1, 6, 4);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5).clone();
    let gone = cast.stores[0].identity();
    let index = first.node(&gone).and_then(|node| node.store_index);
    for epoch in 6..=9 {
        paper.publish(&cast.all_but(&[gone]), epoch - 1);
        paper.advance(epoch);
    }
    let fresh = Node::new(Role::Store, 80);
    paper.publish(&cast.all_but(&[gone]), 9);
    paper.publish(&[&fresh], 9);
    let without = paper.advance(10);
    assert!(without.node(&gone).is_none());
    assert_eq!(without.node(&fresh.identity()).and_then(|node| node.store_index), Some(StoreIndex(4)));
    paper.publish(&cast.all(), 10);
    let with = paper.advance(11);
    assert_eq!(with.node(&gone).and_then(|node| node.store_index), index);
    assert_eq!(with.next_store_index, 5);
}

#[test]
fn a_forgotten_store_gets_a_new_index() {
    let cast = Cast::new(1, 6, 4);
    let mut paper = Paper::new(parameters(2));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    let gone = cast.stores[0].identity();
    // A draw without it every two epochs; its last generation dies four epochs after it retired.
    for epoch in 6..=18 {
        paper.publish(&cast.all_but(&[gone]), epoch - 1);
        paper.advance(epoch);
    }
    let without = paper.chain.last().expect("made");
    assert!(without.absent.is_empty());
    assert!(without.generations.len() <= 4, "{} generations live", without.generations.len());
    paper.publish(&cast.all(), 18);
    let with = paper.advance(19);
    assert_eq!(with.node(&gone).and_then(|node| node.store_index), Some(StoreIndex(4)));
}

#[test]
fn dropped_nodes_are_named_with_the_reason() {
    let cast = Cast::new(1, 6, 3);
    let gone = cast.mixes[0].identity();
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    paper.publish(&cast.all_but(&[gone]), 7);
    let draft = paper.draft(8).expect("possible");
    assert_eq!(draft.dropped.get(&gone), Some(&Dropped::NotRenewed));
    paper.publish(&cast.all_but(&[gone]), 8);
    let draft = paper.draft(9).expect("possible");
    assert_eq!(draft.dropped.get(&gone), Some(&Dropped::NoKey(Epoch(9))));
}

#[test]
fn a_network_without_a_layer_gets_no_document() {
    let cast = Cast::new(1, 6, 3);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5);
    let layer: Vec<_> = first.layer(Layer::L2).map(|node| node.identity).collect();
    paper.publish(&cast.all_but(&layer), 8);
    assert!(matches!(paper.draft(9), Err(NotYet::Shortage { mixes: 2, mixes_needed: 3, .. })));
}

#[test]
fn after_an_outage_two_thirds_of_every_layer_and_role_are_waited_for() {
    let cast = Cast::new(3, 9, 3);
    let mut paper = Paper::new(Parameters { mixes_per_layer: 3, ..parameters(500) });
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5);
    let layer: Vec<_> = first.layer(Layer::L2).map(|node| node.identity).collect();
    // ten epochs later nobody has renewed; then all but a whole layer; then two of its three
    assert!(!paper.with_ingredients(16, most_are_back));
    paper.publish(&cast.all_but(&layer[1..]), 15);
    assert!(!paper.with_ingredients(16, most_are_back));
    paper.publish(&cast.all_but(&layer[2..]), 15);
    assert!(paper.with_ingredients(16, most_are_back));
    assert_eq!(paper.advance(16).nodes.len(), 14);
}

#[test]
fn one_store_is_not_enough_and_two_are() {
    let cast = Cast::new(1, 6, 3);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    let gone = [cast.stores[0].identity(), cast.stores[1].identity()];
    paper.publish(&cast.all_but(&gone), 8);
    assert!(matches!(paper.draft(9), Err(NotYet::Shortage { stores: 1, stores_needed: 2, .. })));
    paper.publish(&cast.all_but(&gone[1..]), 8);
    assert!(paper.draft(9).is_ok());
}

#[test]
fn families_share_a_layer_through_draws_and_vacancies() {
    let mut cast = Cast::new(1, 10, 3);
    for mix in &mut cast.mixes[..3] {
        mix.family = Some([7; 32]);
    }
    let mut paper = Paper::new(parameters(2));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    for epoch in 6..=16 {
        let gone = cast.mixes[usize::try_from(epoch).expect("small") % 10].identity();
        paper.publish(&cast.all_but(&[gone]), epoch - 1);
        let document = paper.advance(epoch);
        let family: BTreeSet<_> =
            document.nodes.iter().filter(|node| node.family == [7; 32]).filter_map(|node| node.layer).collect();
        assert!(family.len() <= 1, "epoch {epoch}: {family:?}");
    }
}

#[test]
fn an_uncommitted_reveal_draws_nothing() {
    let cast = Cast::new(1, 6, 3);
    let mut paper = Paper::new(parameters(2));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    // Another secret reveals what was never committed to.
    paper.secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(99));
    paper.publish(&cast.all(), 6);
    let draft = paper.draft(7).expect("possible");
    assert!(draft.document.reveals.is_empty());
    assert_eq!(draft.document.generations.len(), 1);
}

/// Certified documents of `heights` epochs in a row, and what verifies them; a `fork` has one gateway more.
pub(crate) fn certified_chain(heights: u64, fork: bool) -> (Vec<Vec<u8>>, TrustAnchor) {
    let cast = if fork { Cast::new(2, 6, 3) } else { Cast::new(1, 6, 3) };
    let mut paper = Paper::new(parameters(500));
    for epoch in 5..5 + heights {
        paper.publish(&cast.all(), epoch);
        paper.advance(epoch);
    }
    let documents = paper.chain.iter().map(|document| document.bytes().to_vec()).collect();
    (documents, TrustAnchor { network: NETWORK, authorities: paper.authorities })
}

#[test]
fn a_node_whose_last_descriptor_ends_with_the_epoch_is_not_in_the_next_document() {
    let cast = Cast::new(1, 7, 3);
    let leaver = &cast.mixes[6];
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 5);
    paper.advance(5);
    paper.publish(&cast.all(), 6);
    assert!(paper.advance(6).node(&leaver.identity()).is_some());
    // later in epoch 6 the node leaves: an authority takes its last descriptor, because it has a key that is good now
    let now = UnixMillis(testing::GENESIS.0 + 6 * EPOCH_MS + EPOCH_MS * 3 / 4);
    let judge = Judge { network: NETWORK, schedule: testing::schedule(), skew: Duration::from_secs(2), admitted: None };
    let last = leaver.descriptor_with(now, |descriptor| descriptor.mix_keys.truncate(1));
    paper.listing.offer(&last, now, &judge, |_| None).expect("a key for now is enough");
    let draft = paper.draft(7).expect("a document is possible");
    assert_eq!(draft.dropped.get(&leaver.identity()), Some(&Dropped::NoKey(Epoch(7))));
    assert!(paper.advance(7).node(&leaver.identity()).is_none());
}
