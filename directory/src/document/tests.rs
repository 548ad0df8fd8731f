//! Tests of the document over a network on paper: many epochs, nodes that come and go.

use super::*;
use crate::lists::{Judge, Listing};
use crate::testing::{self, Cast, Council, EPOCH_MS, NETWORK, Node, middle_of, parameters};
use std::time::Duration;

mod council;
mod demotion;

/// One authority that remembers what was published.
struct Paper {
    council: Council,
    listing: Listing,
}

impl Paper {
    fn new(parameters: Parameters) -> Self {
        Self { council: Council::new(1, 0, parameters), listing: Listing::default() }
    }

    fn publish(&mut self, nodes: &[&Node], epoch: u64) {
        let now = middle_of(epoch);
        let judge =
            Judge { network: NETWORK, schedule: testing::schedule(), skew: Duration::from_secs(2), admitted: None };
        for node in nodes {
            self.listing.offer(&node.descriptor(now), now, &judge, |_| None).expect("is listed");
        }
    }

    fn draft(&self, epoch: u64) -> Result<Draft, NotYet> {
        self.council.draft(epoch, &self.council.messages(epoch, self.listing.descriptors()))
    }

    fn most_are_back(&self, epoch: u64) -> bool {
        let before = self.council.chain.last().map(|before| &**before);
        most_are_back(&self.council.rules(), before, Epoch(epoch), self.listing.descriptors())
    }

    /// Makes, certifies, parses and verifies the document of `epoch`, as everybody else would.
    fn advance(&mut self, epoch: u64) -> &VerifiedConsensus {
        let draft = self.draft(epoch).expect("a document is possible");
        self.council.take(&draft)
    }

    fn newest(&self) -> &VerifiedConsensus {
        self.council.chain.last().expect("made")
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
    assert_eq!((first.reveals.len(), first.commitments.len(), first.draw.number), (0, 1, 2));
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
        let before = &paper.council.chain[paper.council.chain.len() - 2];
        assert_eq!((document.previous, document.height), (before.hash(), before.height + 1));
        for node in &document.nodes {
            assert_eq!(node.mix_keys.len(), 3, "keys for e, e+1, e+2");
        }
    }
}

#[test]
fn newcomers_stand_by_until_randomness_revealed_after_them() {
    let cast = Cast::new(1, 6, 3);
    let (mix, store) = (Node::new(Role::Mix, 50), Node::new(Role::Store, 50));
    let mut paper = Paper::new(parameters(8));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5).clone();
    let seed = first.randomness;
    assert_eq!((first.draw.reveal_from, first.draw.due), (Epoch(10), Epoch(13)));
    for epoch in 6..13 {
        paper.publish(&cast.all(), epoch - 1);
        paper.publish(&[&mix, &store], epoch - 1);
        let document = paper.advance(epoch);
        let newcomer = document.node(&mix.identity()).expect("listed");
        assert!(newcomer.standby && newcomer.layer.is_none());
        assert!(document.node(&store.identity()).is_some_and(|node| node.standby));
        assert_eq!(document.stores().count(), 3);
    }
    paper.publish(&cast.all(), 12);
    paper.publish(&[&mix, &store], 12);
    let drawn = paper.advance(13);
    let generation = drawn.current_generation().expect("drawn");
    assert_eq!((generation.number, generation.since, generation.stores.len()), (2, Epoch(13), 4));
    assert_ne!(drawn.randomness, seed);
    assert_eq!(layers(drawn).len(), 6, "seven mixes for six seats");
    assert!(drawn.node(&store.identity()).is_some_and(|node| !node.standby));
}

#[test]
fn who_is_first_listed_while_values_are_revealed_is_not_drawn() {
    let cast = Cast::new(1, 6, 3);
    let late = Node::new(Role::Store, 60);
    let mut paper = Paper::new(parameters(2));
    paper.publish(&cast.all(), 5);
    let first = paper.advance(5);
    assert_eq!((first.draw.commit_before, first.draw.reveal_from, first.draw.due), (Epoch(6), Epoch(6), Epoch(7)));
    let everybody = |paper: &mut Paper, epoch| {
        paper.publish(&cast.all(), epoch);
        paper.publish(&[&late], epoch);
    };
    everybody(&mut paper, 5);
    assert_eq!(paper.advance(6).reveals.len(), 1);
    everybody(&mut paper, 6);
    let drawn = paper.advance(7);
    assert_eq!(drawn.generations[0].retired, Some(Epoch(7)));
    assert_eq!(drawn.current_generation().map(|generation| (generation.number, generation.stores.len())), Some((2, 3)));
    assert!(drawn.node(&late.identity()).is_some_and(|node| node.standby));
    everybody(&mut paper, 7);
    paper.advance(8);
    everybody(&mut paper, 8);
    let drawn = paper.advance(9);
    assert_eq!(drawn.current_generation().map(|generation| (generation.number, generation.stores.len())), Some((3, 4)));
}

/// What a leaving store holds can be read until it is over; meanwhile nothing new comes to it.
#[test]
fn a_leaving_store_gets_no_new_generation_and_stays_for_the_old_ones() {
    for (stores, stays) in [(4, 3), (3, 2)] {
        let cast = Cast::new(1, 6, stores);
        let leaving = cast.stores[0].identity();
        let mut paper = Paper::new(parameters(2));
        paper.publish(&cast.all(), 5);
        paper.advance(5);
        for epoch in 6..=14 {
            paper.publish(&cast.all_but(&[leaving]), epoch - 1);
            let judge =
                Judge { network: NETWORK, schedule: testing::schedule(), skew: Duration::from_secs(2), admitted: None };
            let now = middle_of(epoch - 1).plus(Duration::from_millis(1));
            let says = cast.stores[0].descriptor_with(now, |descriptor| descriptor.leaving = true);
            paper.listing.offer(&says, now, &judge, |_| None).expect("is listed");
            paper.advance(epoch);
        }
        let now = paper.newest();
        let entry = now.node(&leaving).expect("it serves on");
        let index = entry.store_index.expect("a store's");
        let naming = now.generations.iter().filter(|generation| generation.stores.contains(&index)).count();
        let current = now.current_generation().expect("drawn");
        if stays >= STORES_MIN {
            assert_eq!((current.stores.len(), naming), (stays, 0), "the first generation is over");
            assert!(entry.standby, "nothing names it any more");
        } else {
            assert_eq!((current.number, naming), (1, 1), "without it there are too few: it is not let go");
        }
    }
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
    let now = paper.newest();
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
    let without = paper.newest();
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
    let without = paper.newest();
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
    assert_eq!(draft.dropped.get(&gone), Some(&Dropped::NotRenewed));
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
    assert!(!paper.most_are_back(16));
    paper.publish(&cast.all_but(&layer[1..]), 15);
    assert!(!paper.most_are_back(16));
    paper.publish(&cast.all_but(&layer[2..]), 15);
    assert!(paper.most_are_back(16));
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

/// Certified documents of `heights` epochs in a row, and what verifies them; a `fork` has one gateway more.
pub(crate) fn certified_chain(heights: u64, fork: bool) -> Vec<Arc<VerifiedConsensus>> {
    let cast = if fork { Cast::new(2, 6, 3) } else { Cast::new(1, 6, 3) };
    let mut paper = Paper::new(parameters(500));
    for epoch in 5..5 + heights {
        paper.publish(&cast.all(), epoch);
        paper.advance(epoch);
    }
    paper.council.chain.iter().cloned().map(Arc::new).collect()
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
