//! Which mixes lose their seat because their neighbours lose loops at them.
//!
//! Evidence is what nodes say of their neighbours in their descriptors, and anybody may lie. The rule therefore asks for a
//! majority of operators on *both* sides of a mix, those that send to it and those it sends to, in several documents. As
//! long as neither side has a hostile majority no honest mix is demoted: an honest neighbour counts a loss only when it
//! shows on the better half of the ways behind the mix, so hostile nodes on the other side do not mislead it either, and the
//! liars on one side alone are not enough. The price: who has half of the operators on one side on his side is not demoted.
//! The decision record has the figures (`protocol/spec/decisions/0005-demotion.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_protocol::consensus::{
    Consensus, DEMOTION_EPOCHS, DEMOTION_STRIKES, MAX_SUSPECTS, NodeEntry, Share, Suspect,
};
use shoal_protocol::descriptor::{Descriptor, LoopEvidence, SignedDescriptor};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::topology::{Place, allowed_step};
use shoal_protocol::{Epoch, Identity, Layer, Role, UnixMillis};

use crate::schedule::lead;

/// Loops that must be lost for a word against a mix. Fewer are chance when few were sent: at an honest loss of 1 % three of
/// fifteen, what one neighbour sends in a layer of 20, come once in 2,500 times, and a majority on both sides never.
const LOST_MIN: u32 = 3;
/// And a tenth of those that count.
const LOST_OF: u64 = 10;
/// Of the mixes listed, at most this part is demoted at a time, but one may always be.
const DEMOTED_OF: usize = 4;

/// Who says what of whom: a node that has a place, and the mixes at which it loses loops.
struct Witness<'a> {
    entry: &'a NodeEntry,
    place: Place,
    accuses: BTreeSet<Identity>,
}

/// What the next document remembers of losses. `nodes` are its entries, `width` the seats of a layer.
pub fn suspects(
    schedule: &Schedule,
    before: Option<&Consensus>,
    epoch: Epoch,
    descriptors: &BTreeMap<Identity, Arc<SignedDescriptor>>,
    nodes: &[NodeEntry],
    width: usize,
) -> Vec<Suspect> {
    let Some(before) = before else { return Vec::new() };
    let witnesses = witnesses(schedule, before, epoch, descriptors);
    let mut suspects = remembered(before, epoch, nodes);
    let mut struck = Vec::new();
    for mix in before.nodes.iter().filter(|node| node.layer.is_some()) {
        let sides = sides(mix, &witnesses);
        if sides.iter().all(|side| side.is_majority()) {
            struck.push((mix.identity, sides));
        }
    }
    for suspect in suspects.values_mut().filter(|suspect| suspect.demoted_until.is_none()) {
        if !struck.iter().any(|(identity, _)| *identity == suspect.identity) {
            suspect.strikes -= 1;
        }
    }
    suspects.retain(|_, suspect| suspect.strikes > 0);
    for (identity, [before_it, behind_it]) in struck {
        if suspects.len() >= MAX_SUSPECTS && !suspects.contains_key(&identity) {
            continue;
        }
        let suspect = suspects.entry(identity).or_insert(Suspect {
            identity,
            strikes: 0,
            before: before_it,
            behind: behind_it,
            demoted_until: None,
        });
        suspect.strikes = (suspect.strikes + 1).min(DEMOTION_STRIKES);
        (suspect.before, suspect.behind) = (before_it, behind_it);
    }
    demote(&mut suspects, before, epoch, nodes, width);
    suspects.into_values().collect()
}

/// Who may have no seat in a document.
pub(super) fn demoted(suspects: &[Suspect]) -> BTreeSet<Identity> {
    suspects.iter().filter(|suspect| suspect.demoted_until.is_some()).map(|suspect| suspect.identity).collect()
}

/// What the document before remembers, without demotions that are over and mixes that are forgotten. A demotion goes on while
/// its mix is away, and strikes stay: going and coming back ends neither.
fn remembered(before: &Consensus, epoch: Epoch, nodes: &[NodeEntry]) -> BTreeMap<Identity, Suspect> {
    let is_known = |identity: &Identity| {
        nodes.iter().any(|node| node.identity == *identity) || super::known(before, identity).is_some()
    };
    let kept = before.suspects.iter().filter(|suspect| match suspect.demoted_until {
        Some(until) => epoch < until,
        None => is_known(&suspect.identity),
    });
    kept.map(|suspect| (suspect.identity, suspect.clone())).collect()
}

/// The nodes with a place in the document before, and whom their evidence accuses. What counts was published in the epoch
/// that ends when the lists of this document are frozen, so that nothing counts twice; who did not publish then accuses
/// nobody.
fn witnesses<'a>(
    schedule: &Schedule,
    before: &'a Consensus,
    epoch: Epoch,
    descriptors: &BTreeMap<Identity, Arc<SignedDescriptor>>,
) -> Vec<Witness<'a>> {
    let until = schedule.start(epoch).minus(lead(schedule));
    let from = UnixMillis(until.0.saturating_sub(schedule.epoch_ms));
    let counts = |descriptor: &&Descriptor| from <= descriptor.published && descriptor.published < until;
    let witness = |entry: &'a NodeEntry| {
        let descriptor = descriptors.get(&entry.identity).map(|signed| &signed.descriptor).filter(counts);
        let accuses = descriptor.map(|descriptor| accusations(before, &descriptor.loops)).unwrap_or_default();
        Some(Witness { entry, place: Place::of(entry)?, accuses })
    };
    before.nodes.iter().filter_map(witness).collect()
}

/// The mixes that one node's evidence accuses. Of who loses loops at more than half of a layer nothing is believed of that
/// layer: the loss is more likely its own.
fn accusations(before: &Consensus, loops: &[LoopEvidence]) -> BTreeSet<Identity> {
    let is_loss = |evidence: &&LoopEvidence| {
        let lost = evidence.sent.saturating_sub(evidence.returned);
        lost >= LOST_MIN && u64::from(lost) * LOST_OF >= u64::from(evidence.sent)
    };
    let mut by_layer: BTreeMap<Layer, BTreeSet<Identity>> = BTreeMap::new();
    for evidence in loops.iter().filter(is_loss) {
        if let Some(layer) = before.node(&evidence.peer).and_then(|node| node.layer) {
            by_layer.entry(layer).or_default().insert(evidence.peer);
        }
    }
    by_layer.retain(|layer, accused| 2 * accused.len() <= before.layer(*layer).count());
    by_layer.into_values().flatten().collect()
}

/// How many operators accuse the mix: of those that send to it, and of those it sends to. Its own is not asked.
fn sides(mix: &NodeEntry, witnesses: &[Witness<'_>]) -> [Share; 2] {
    let place = mix.layer.map(Place::Mix);
    let share = |is_side: &dyn Fn(Place) -> bool| {
        let side = witnesses.iter().filter(|witness| witness.entry.family != mix.family && is_side(witness.place));
        let (mut all, mut losing) = (BTreeSet::new(), BTreeSet::new());
        for witness in side {
            all.insert(witness.entry.family);
            if witness.accuses.contains(&mix.identity) {
                losing.insert(witness.entry.family);
            }
        }
        // a document has at most 2,048 nodes
        let count = |families: BTreeSet<[u8; 32]>| u16::try_from(families.len()).unwrap_or(u16::MAX);
        Share { losing: count(losing), of: count(all) }
    };
    [
        share(&|other| place.is_some_and(|place| allowed_step(other, place))),
        share(&|other| place.is_some_and(|place| allowed_step(place, other))),
    ]
}

/// Takes the seats of those with enough strikes, as far as the network can spare them: one a layer in a document; never so
/// many that less than half of a layer's seats (rounded up) would be left to others; never more than a quarter of all mixes
/// at a time. Who has to wait keeps its strikes. The ones that most operators accuse go first.
fn demote(
    suspects: &mut BTreeMap<Identity, Suspect>,
    before: &Consensus,
    epoch: Epoch,
    nodes: &[NodeEntry],
    width: usize,
) {
    let layer_of = |identity: &Identity| before.node(identity).and_then(|node| node.layer);
    let mixes = nodes.iter().filter(|node| node.role == Role::Mix).count();
    let mut room = (mixes / DEMOTED_OF)
        .max(1)
        .saturating_sub(suspects.values().filter(|suspect| suspect.demoted_until.is_some()).count());
    let mut due: Vec<Suspect> = suspects
        .values()
        .filter(|suspect| suspect.demoted_until.is_none() && suspect.strikes >= DEMOTION_STRIKES)
        .cloned()
        .collect();
    due.sort_by_key(|suspect| (std::cmp::Reverse(suspect.before.losing + suspect.behind.losing), suspect.identity));
    let mut taken = BTreeSet::new();
    for Suspect { identity, .. } in due {
        let Some(layer) = layer_of(&identity) else { continue };
        let others = nodes.iter().filter(|node| node.identity != identity && layer_of(&node.identity) == Some(layer));
        if room == 0 || others.count() < width.div_ceil(2) || !taken.insert(layer) {
            continue;
        }
        if let Some(suspect) = suspects.get_mut(&identity) {
            suspect.demoted_until = Some(epoch.plus(DEMOTION_EPOCHS));
            room -= 1;
        }
    }
}
