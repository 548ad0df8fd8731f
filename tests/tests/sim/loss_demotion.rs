//! Demotion from evidence: how long a black hole lasts, how many liars it takes to throw an honest mix out, and what honest
//! loss does in a month. Every node of the network is simulated with its loops, the authorities' rule is the real one.
//!
//! Full size: `SHOAL_LOSS_EPOCHS=2160 SHOAL_LOSS_WIDTH=20 cargo test -p shoal-tests --test sim loss_demotion -- --nocapture`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_directory::document::demotion::suspects;
use shoal_node::tally::evidence;
use shoal_protocol::consensus::{Consensus, DEMOTION_STRIKES, NodeEntry};
use shoal_protocol::descriptor::{Descriptor, LoopEvidence, SignedDescriptor};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Role, StoreIndex, UnixMillis};

use crate::loss_world::{Fate, Net, Sender, by_chance};
use crate::size;

/// λ_M × epoch in a public network.
const LOOPS: usize = 600;
const NETWORK: Hash = Hash::from_bytes([1; 32]);
const GENESIS: UnixMillis = UnixMillis(1_750_000_000_000);

/// A network, its nodes' loops, and the newest document as far as losses go.
struct Town<'n> {
    net: &'n Net,
    schedule: Schedule,
    document: Consensus,
    senders: Vec<Sender<'n>>,
    rng: StdRng,
}

impl<'n> Town<'n> {
    fn new(net: &'n Net, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let parameters =
            Parameters { mixes_per_layer: u16::try_from(net.width).expect("small"), ..Parameters::production() };
        let schedule = Schedule::new(GENESIS, &parameters);
        let mut document = Consensus::blank(NETWORK, Epoch(5), schedule.start(Epoch(5)), parameters);
        document.nodes = (0..net.nodes())
            .map(|node| {
                let (identity, (role, layer)) = (Net::identity(node), net.role(node));
                NodeEntry {
                    identity,
                    role,
                    layer,
                    family: *identity.as_bytes(),
                    addresses: Vec::new(),
                    store_index: (role == Role::Store).then_some(StoreIndex(0)),
                    mix_keys: Vec::new(),
                    envelope_keys: Vec::new(),
                    since: Epoch(0),
                    standby: false,
                }
            })
            .collect();
        let senders = (0..net.nodes()).map(|me| Sender::new(net, me, &mut rng)).collect();
        Self { net, schedule, document, senders, rng }
    }

    /// An epoch of loops, and the document made of what is said about them. `lie` may change what a node says.
    fn epoch(&mut self, fate: Fate<'_>, lie: &dyn Fn(usize, &mut Vec<LoopEvidence>)) {
        let published = self.schedule.start(self.document.epoch).plus(self.document.parameters.epoch() / 2);
        let mut descriptors = BTreeMap::new();
        for (me, sender) in self.senders.iter_mut().enumerate() {
            for _ in 0..LOOPS {
                sender.at_once(fate, &mut self.rng);
            }
            let mut loops = evidence(sender.loops.take_settled());
            sender.loops.settled_accepted();
            lie(me, &mut loops);
            let (identity, (role, _)) = (Net::identity(me), self.net.role(me));
            let descriptor = Descriptor {
                network: NETWORK,
                identity,
                role,
                addresses: Vec::new(),
                family: None,
                published,
                version: "1".into(),
                mix_keys: Vec::new(),
                envelope_keys: Vec::new(),
                loops,
                leaving: false,
            };
            descriptors.insert(identity, Arc::new(SignedDescriptor { descriptor, bytes: Vec::new() }));
        }
        let (epoch, nodes) = (self.document.epoch.plus(1), &self.document.nodes);
        let next = suspects(&self.schedule, Some(&self.document), epoch, &descriptors, nodes, self.net.width);
        (self.document.epoch, self.document.suspects) = (epoch, next);
    }

    fn is_demoted(&self, node: usize) -> bool {
        self.document.suspect(&Net::identity(node)).is_some_and(|suspect| suspect.demoted_until.is_some())
    }

    /// Epochs until `target` is demoted; whether anybody else was ever a suspect.
    fn until_demoted(
        &mut self,
        target: usize,
        epochs: u64,
        fate: Fate<'_>,
        lie: &dyn Fn(usize, &mut Vec<LoopEvidence>),
    ) -> (Option<u64>, bool) {
        let mut others = false;
        for epoch in 1..=epochs {
            self.epoch(fate, lie);
            others |= self.document.suspects.iter().any(|suspect| suspect.identity != Net::identity(target));
            if self.is_demoted(target) {
                return (Some(epoch), others);
            }
        }
        (None, others)
    }
}

fn widths() -> Vec<usize> {
    let wide = size("SHOAL_LOSS_WIDTH", 8);
    [2, 4, 8, 20].into_iter().filter(|width| *width as u64 <= wide && (*width != 4 || wide > 8)).collect()
}

fn net(width: usize) -> Net {
    Net::new(width, if width < 4 { 4 } else { width })
}

fn truth(_: usize, _: &mut Vec<LoopEvidence>) {}

#[test]
fn a_black_hole_is_demoted_within_three_epochs_and_nobody_else() {
    for width in widths() {
        let net = net(width);
        for (layer, share) in [(0, 1.0), (1, 1.0), (2, 1.0), (1, 0.5), (1, 0.3), (1, 0.2)] {
            let culprit = net.step(layer).start;
            let mut town = Town::new(&net, 1);
            let drops: Fate<'_> =
                &|way, rng| by_chance(0.005, rng) || way[1..4].contains(&culprit) && by_chance(share, rng);
            let (took, others) = town.until_demoted(culprit, 8, drops, &truth);
            println!("width {width}, a mix of L{} loses {share}: demoted after {took:?} epochs", layer + 1);
            assert!(!others, "{:?}", town.document.suspects);
            assert!(share < 1.0 || took == Some(u64::from(DEMOTION_STRIKES)));
        }
    }
}

/// Hostile mixes on both sides of an honest one drop all that goes between it and them, and lie about it.
#[test]
fn it_takes_more_than_half_of_a_neighbouring_layer_to_throw_an_honest_mix_out() {
    for width in widths() {
        let net = net(width);
        let victim = net.step(1).start;
        let (first, third) = (net.step(0), net.step(2));
        for (before, behind) in [
            (1, 1),
            (width / 2, width / 2),
            (width / 2 + 1, 0),
            (width / 2 + 1, width / 2),
            (width / 2 + 1, width / 2 + 1),
        ] {
            let hostile = |node: usize| {
                first.contains(&node) && node - first.start < before
                    || third.contains(&node) && node - third.start < behind
            };
            let fate: Fate<'_> = &|way, rng| {
                by_chance(0.005, rng)
                    || way
                        .windows(2)
                        .any(|link| link[0] == victim && hostile(link[1]) || link[1] == victim && hostile(link[0]))
            };
            let lie = |who: usize, loops: &mut Vec<LoopEvidence>| {
                if hostile(who) {
                    loops.clear();
                    loops.push(LoopEvidence { peer: Net::identity(victim), sent: 30, returned: 0 });
                }
            };
            let mut town = Town::new(&net, 2);
            let (took, others) = town.until_demoted(victim, 5, fate, &lie);
            println!(
                "width {width}: {before} hostile mixes before an honest one and {behind} behind it: demoted after {took:?} \
                 epochs{}",
                if others { "; others were suspects" } else { "" }
            );
            let has_majority = before > width / 2 || behind > width / 2;
            assert!(has_majority || took.is_none());
        }
    }
}

/// Those on one side who say nothing of a black hole protect it when they are half of that side.
#[test]
fn half_of_one_side_protects_a_black_hole_and_less_does_not() {
    for width in widths() {
        let net = net(width);
        let (culprit, first) = (net.step(1).start, net.step(0));
        for silent in [width / 2 - 1, width / 2] {
            let fate: Fate<'_> = &|way, rng| by_chance(0.005, rng) || way[1..4].contains(&culprit);
            let quiet = |who: usize, loops: &mut Vec<LoopEvidence>| {
                if first.contains(&who) && who < silent {
                    loops.clear();
                }
            };
            let (took, _) = Town::new(&net, 3).until_demoted(culprit, 5, fate, &quiet);
            println!(
                "width {width}: {silent} of {width} before a black hole are silent: demoted after {took:?} epochs"
            );
            assert_eq!(took.is_some(), 2 * silent < width);
        }
    }
}

#[test]
fn honest_loss_demotes_nobody() {
    let epochs = size("SHOAL_LOSS_EPOCHS", 18);
    for width in widths() {
        let net = net(width);
        let mut town = Town::new(&net, 4);
        let mut strikes = 0;
        for _ in 0..epochs {
            town.epoch(&|_, rng| by_chance(0.01, rng), &truth);
            strikes += town.document.suspects.len();
            assert!(town.document.suspects.iter().all(|suspect| suspect.demoted_until.is_none()));
        }
        println!("width {width}: {epochs} epochs at an honest loss of 1 %: {strikes} suspects, nobody demoted");
        assert_eq!(strikes, 0);
    }
}
