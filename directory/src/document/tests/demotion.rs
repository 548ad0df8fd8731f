//! Documents of evidence: who loses a seat, who cannot be made to lose it, and when it may be had back.

use super::*;
use crate::document::demotion::demoted;
use proptest::prelude::*;
use shoal_protocol::consensus::{DEMOTION_EPOCHS, DEMOTION_STRIKES, Share};
use shoal_protocol::descriptor::LoopEvidence;

/// What a node says of one that loses half of its packets, and of one that does not.
fn said(peer: Identity, loses: bool) -> LoopEvidence {
    LoopEvidence { peer, sent: 40, returned: if loses { 20 } else { 39 } }
}

impl Paper {
    /// All of these publish; `accuses` says who loses loops at whom.
    fn publish_evidence(&mut self, nodes: &[&Node], epoch: u64, accuses: impl Fn(Identity, Identity) -> bool) {
        let now = middle_of(epoch);
        let judge =
            Judge { network: NETWORK, schedule: testing::schedule(), skew: Duration::from_secs(2), admitted: None };
        let seated: Vec<Identity> =
            self.council.chain.last().map(|document| layers(document).into_keys().collect()).unwrap_or_default();
        for node in nodes {
            let bytes = node.descriptor_with(now, |descriptor| {
                descriptor.loops = seated.iter().map(|peer| said(*peer, accuses(node.identity(), *peer))).collect();
            });
            self.listing.offer(&bytes, now, &judge, |_| None).expect("is listed");
        }
    }

    fn in_layer(&self, layer: Layer) -> Vec<Identity> {
        self.newest().layer(layer).map(|node| node.identity).collect()
    }
}

/// A first document of two gateways, `mixes` mixes, two a layer, and three stores.
fn begun(mixes: u16) -> (Paper, Cast) {
    let cast = Cast::new(2, mixes, 3);
    let mut paper = Paper::new(parameters(500));
    paper.publish(&cast.all(), 4);
    paper.advance(5);
    (paper, cast)
}

#[test]
fn a_black_hole_loses_its_seat_in_the_third_document_and_may_come_back_after_a_day() {
    let (mut paper, cast) = begun(7);
    let culprit = paper.in_layer(Layer::L2)[0];
    for (epoch, strikes) in (6..).zip(1..=DEMOTION_STRIKES) {
        paper.publish_evidence(&cast.all(), epoch - 1, |_, peer| peer == culprit);
        let document = paper.advance(epoch);
        let suspect = document.suspect(&culprit).expect("remembered");
        assert_eq!(suspect.strikes, strikes);
        let half = Share { losing: 2, of: 2 };
        assert_eq!((suspect.before, suspect.behind), (half, half));
        assert_eq!(suspect.demoted_until.is_some(), strikes == DEMOTION_STRIKES);
    }
    let until = 8 + DEMOTION_EPOCHS;
    let document = paper.newest();
    assert_eq!(document.suspect(&culprit).and_then(|suspect| suspect.demoted_until), Some(Epoch(until)));
    assert!(document.node(&culprit).is_some_and(|node| node.standby && node.layer.is_none()));
    assert_eq!(document.layer(Layer::L2).count(), 2, "the standby has its seat");
    // meanwhile it goes away and comes back: that changes nothing
    for epoch in 9..12 {
        paper.publish(&cast.all_but(&[culprit]), epoch - 1);
        paper.advance(epoch);
    }
    let other = paper.in_layer(Layer::L1)[0];
    for epoch in 12..until {
        paper.publish(&cast.all_but(&[other]), epoch - 1);
        let document = paper.advance(epoch);
        assert!(document.node(&culprit).is_some_and(|node| node.standby), "a vacancy is not for it in epoch {epoch}");
    }
    paper.publish(&cast.all_but(&[other]), until - 1);
    let document = paper.advance(until);
    assert!(document.suspects.is_empty());
    assert_eq!(document.node(&culprit).and_then(|node| node.layer), Some(Layer::L1), "it takes the vacancy");
}

#[test]
fn a_demoted_mix_has_no_part_in_a_draw() {
    let cast = Cast::new(2, 9, 3);
    let mut paper = Paper::new(parameters(4));
    paper.publish(&cast.all(), 4);
    paper.advance(5);
    let culprit = paper.in_layer(Layer::L3)[1];
    let mut drew = 0;
    for epoch in 6..30 {
        paper.publish_evidence(&cast.all(), epoch - 1, |_, peer| peer == culprit);
        let document = paper.advance(epoch);
        let demoted = document.suspect(&culprit).is_some_and(|suspect| suspect.demoted_until.is_some());
        if demoted {
            drew += usize::from(document.current_generation().is_some_and(|drawn| drawn.since == Epoch(epoch)));
            assert!(document.node(&culprit).is_some_and(|node| node.standby));
        }
        assert_eq!(Layer::ALL.map(|layer| document.layer(layer).count()), [2, 2, 2]);
    }
    assert!(drew >= 3, "{drew} draws since");
}

#[test]
fn strikes_go_as_they_came_and_old_evidence_counts_once() {
    let (mut paper, cast) = begun(6);
    let culprit = paper.in_layer(Layer::L2)[0];
    let strikes = |paper: &Paper| paper.newest().suspect(&culprit).map_or(0, |suspect| suspect.strikes);
    paper.publish_evidence(&cast.all(), 5, |_, peer| peer == culprit);
    paper.advance(6);
    assert_eq!(strikes(&paper), 1);
    // the same descriptors once more: nothing new is said
    paper.advance(7);
    assert_eq!(strikes(&paper), 0);
    for (epoch, loses, expected) in [(8, true, 1), (9, true, 2), (10, false, 1), (11, true, 2), (12, false, 1)] {
        paper.publish_evidence(&cast.all(), epoch - 1, |_, peer| loses && peer == culprit);
        paper.advance(epoch);
        assert_eq!(strikes(&paper), expected, "epoch {epoch}");
    }
}

#[test]
fn one_side_alone_or_half_of_each_side_demotes_nobody() {
    let (mut paper, cast) = begun(6);
    let victim = paper.in_layer(Layer::L2)[0];
    let (first, third) = (paper.in_layer(Layer::L1), paper.in_layer(Layer::L3));
    let liars: [Vec<Identity>; 4] = [
        first.clone(),
        third.clone(),
        vec![first[0], third[0]],
        // whoever is not its neighbour is not asked
        cast.gateways.iter().chain(&cast.stores).map(Node::identity).collect(),
    ];
    let mut epoch = 6;
    for liars in liars {
        for _ in 0..5 {
            paper.publish_evidence(&cast.all(), epoch - 1, |who, peer| peer == victim && liars.contains(&who));
            let document = paper.advance(epoch);
            assert!(document.suspects.is_empty(), "{:?}", document.suspects);
            epoch += 1;
        }
    }
}

#[test]
fn who_loses_loops_everywhere_accuses_nobody() {
    let (mut paper, cast) = begun(6);
    for epoch in 6..12 {
        paper.publish_evidence(&cast.all(), epoch - 1, |_, _| true);
        assert!(paper.advance(epoch).suspects.is_empty());
    }
}

#[test]
fn a_layer_is_never_emptied_and_not_many_go_at_once() {
    let cast = Cast::new(3, 12, 3);
    let mut paper = Paper::new(Parameters { mixes_per_layer: 4, ..parameters(500) });
    paper.publish(&cast.all(), 4);
    paper.advance(5);
    // half of every layer is bad: the most that a witness may accuse
    let culprits: Vec<Identity> =
        Layer::ALL.iter().flat_map(|layer| paper.in_layer(*layer).into_iter().take(2)).collect();
    let mut counts = Vec::new();
    for epoch in 6..20 {
        paper.publish_evidence(&cast.all(), epoch - 1, |_, peer| culprits.contains(&peer));
        let document = paper.advance(epoch);
        let demoted = demoted(&document.suspects);
        assert!(demoted.iter().all(|identity| culprits.contains(identity)));
        counts.push(demoted.len());
        assert!(Layer::ALL.iter().all(|layer| document.layer(*layer).count() >= 2));
    }
    assert!(counts.iter().all(|count| *count <= 3), "a quarter of twelve: {counts:?}");
    assert_eq!(counts.last(), Some(&3), "{counts:?}");
}

#[test]
fn the_last_mix_of_a_layer_stays() {
    let cast = Cast::new(2, 3, 3);
    let mut paper = Paper::new(Parameters { mixes_per_layer: 1, ..parameters(500) });
    paper.publish(&cast.all(), 4);
    paper.advance(5);
    let culprit = paper.in_layer(Layer::L2)[0];
    for epoch in 6..12 {
        paper.publish_evidence(&cast.all(), epoch - 1, |_, peer| peer == culprit);
        assert!(paper.advance(epoch).node(&culprit).is_some_and(|node| !node.standby));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever half of the operators on one side stay silent about, nobody is demoted; whoever else says what.
    #[test]
    fn nobody_is_demoted_while_half_of_one_side_says_nothing(lies: Vec<bool>, side in 0usize..2) {
        let (mut paper, cast) = begun(6);
        let victim = paper.in_layer(Layer::L2)[0];
        let honest = if side == 0 { paper.in_layer(Layer::L1)[0] } else { paper.in_layer(Layer::L3)[0] };
        for epoch in 6..11 {
            let liars: BTreeMap<Identity, bool> = cast.all().iter().enumerate()
                .map(|(at, node)| (node.identity(), lies.get(at).copied().unwrap_or(true))).collect();
            paper.publish_evidence(&cast.all(), epoch - 1, |who, peer| peer == victim && who != honest && liars[&who]);
            prop_assert!(paper.advance(epoch).suspects.is_empty());
        }
    }
}
