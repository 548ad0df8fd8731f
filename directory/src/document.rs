//! The next document: a function of the rules, the previous document and a proposal, and of nothing else, so that
//! everybody who has these computes the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::consensus::{
    AbsentNode, CONSENSUS_FORMAT, Consensus, EPOCHS_COVERED, ListHash, MAX_CONSENSUS_SIZE, NodeEntry, VerifiedConsensus,
};
use shoal_protocol::descriptor::SignedDescriptor;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity, Layer, Role, StoreIndex, UnixMillis};
use thiserror::Error;

use crate::proposal::{ProposalError, VerifiedProposal};
use crate::randomness;
use crate::signed_list::{ListError, Place};
use crate::wishes;

mod addresses;
mod candidates;
pub mod demotion;
mod draw;
mod memory;
mod seats;

#[cfg(test)]
pub(crate) mod tests;

pub use candidates::Dropped;

/// Fewest stores of a generation: a courier is never a replica of its request.
pub const STORES_MIN: usize = 3;

/// What the network file fixes.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Genesis hash.
    pub network: Hash,
    /// The network's epochs.
    pub schedule: Schedule,
    /// Genesis parameters.
    pub parameters: Parameters,
    /// Genesis authorities.
    pub authorities: &'a [AuthorityKey],
    /// Stores the first document waits for, at least [`STORES_MIN`].
    pub genesis_stores: usize,
    /// Gateways the first document waits for, at least one.
    pub genesis_gateways: usize,
}

/// A document, and who did not make it into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The document.
    pub document: Consensus,
    /// Nodes that lists name and the document leaves out, and why.
    pub dropped: BTreeMap<Identity, Dropped>,
}

/// Why there is no document now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotYet {
    /// Not enough nodes to carry a message.
    #[error(
        "waiting for nodes: {gateways} of {gateways_needed} gateways, {mixes} of {mixes_needed} mixes in layers, \
         {stores} of {stores_needed} stores"
    )]
    Shortage {
        /// Gateways there.
        gateways: usize,
        /// Gateways needed.
        gateways_needed: usize,
        /// Mixes there; at genesis those that three full layers could seat.
        mixes: usize,
        /// Mixes needed.
        mixes_needed: usize,
        /// Stores there.
        stores: usize,
        /// Stores needed.
        stores_needed: usize,
    },
    /// The directory was away for longer than descriptors last.
    #[error("waiting for nodes to publish again after an outage of the directory")]
    Returning,
    /// The first document draws at once, and too few authorities reveal.
    #[error("waiting for authorities: too few give their part of the first randomness")]
    NoRandomness,
    /// The epoch is not after that of the document before.
    #[error("the document of epoch {0} exists")]
    Made(Epoch),
    /// The proposal is not for the next document.
    #[error("the proposal is for another height or predecessor than the next document's")]
    Elsewhere,
    /// The document would not fit.
    #[error("the document would be {0} bytes long, more than anybody accepts")]
    TooLarge(usize),
    /// This authority's list cannot be made.
    #[error("the list of this authority: {0}")]
    List(#[from] ListError),
    /// The proposal cannot be made.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
}

/// Computes the next document.
///
/// # Errors
/// Why there can be none of this proposal.
pub fn next_document(
    rules: &Rules<'_>,
    previous: Option<&VerifiedConsensus>,
    proposal: &VerifiedProposal,
) -> Result<Draft, NotYet> {
    let place = Place::after(rules, previous);
    let (epoch, lists) = (proposal.epoch(), proposal.lists());
    if proposal.height() != place.height || proposal.previous() != place.previous {
        return Err(NotYet::Elsewhere);
    }
    if let Some(previous) = previous.filter(|previous| previous.epoch >= epoch) {
        return Err(NotYet::Made(previous.epoch));
    }
    let before = previous.map(|previous| &**previous);
    let (mut nodes, dropped) = candidates::entries(rules, before, proposal);
    let mut next_store_index = memory::give_indices(before, &mut nodes);
    next_store_index = next_store_index.max(before.map_or(0, |before| before.next_store_index));

    let agreed =
        |drawing| before.map_or((rules.parameters, epoch), |before| wishes::parameters(before, epoch, lists, drawing));
    let width = usize::from(before.map_or(rules.parameters, |before| before.parameters).mixes_per_layer);
    let suspects = demotion::suspects(&rules.schedule, before, epoch, proposal.descriptors(), &nodes, width);
    let demoted = demotion::demoted(&suspects);
    let leaving = proposal.descriptors().iter().filter(|(_, signed)| signed.descriptor.leaving);
    let leaving: BTreeSet<Identity> = leaving.map(|(identity, _)| *identity).collect();
    let seed = randomness::due_seed(&rules.network, before, epoch, lists, place.authorities);
    let drawn = seed.and_then(|seed| draw::draw(seed, before, epoch, &agreed(true).0, &nodes, (&leaving, &demoted)));
    let (parameters, mean_delay_since) = agreed(drawn.is_some());
    let mut generations = memory::living_generations(before, epoch, &parameters);
    match &drawn {
        Some(drawn) => {
            seats::by_draw(&mut nodes, &drawn.seats);
            memory::retire(&mut generations, epoch);
            generations.push(drawn.generation.clone());
        }
        None => seats::between_draws(&mut nodes, before, &parameters, &demoted),
    }
    memory::mark_standby_stores(&mut nodes, &generations);
    check_enough(rules, before, &parameters, &nodes, drawn.is_some(), seed.is_some())?;

    let authorities = wishes::authorities(place.authorities, lists);
    let randomness::Progress { draw, commitments, reveals } =
        randomness::progress(&rules.network, before, (epoch, &parameters), lists, place.authorities, drawn.is_some())
            .renumbered(place.authorities, &authorities);
    let document = Consensus {
        version: CONSENSUS_FORMAT,
        network: rules.network,
        height: place.height,
        epoch,
        previous: place.previous,
        valid_from: rules.schedule.start(epoch),
        valid_until: rules.schedule.start(epoch.plus(EPOCHS_COVERED)),
        parameters,
        previous_mean_delay_ms: before.map_or(parameters.mean_delay_ms, |before| before.parameters.mean_delay_ms),
        mean_delay_since,
        addresses: addresses::addresses(before, lists, place.authorities, &authorities),
        authorities,
        absent: memory::absent(before, &nodes, &generations, drawn.is_some()),
        nodes,
        suspects,
        next_store_index,
        generations,
        randomness: drawn.map_or_else(|| before.map_or([0; 32], |before| before.randomness), |drawn| drawn.seed),
        draw,
        commitments,
        reveals,
        lists: lists.iter().map(|list| ListHash { authority: list.authority, hash: list.hash() }).collect(),
    };
    let size = document.encode().len();
    if size > MAX_CONSENSUS_SIZE * 3 / 4 {
        // the rest is for the certificate: 64 signatures are 160 kB
        return Err(NotYet::TooLarge(size));
    }
    Ok(Draft { document, dropped })
}

/// Whether enough nodes are there. At genesis these are what the operators asked for; later, what can carry a message at
/// all: with fewer, the document before serves better until it ends. Two stores are that minimum: one keeps a box, the
/// other carries to it.
fn check_enough(
    rules: &Rules<'_>,
    before: Option<&Consensus>,
    parameters: &Parameters,
    nodes: &[NodeEntry],
    drawn: bool,
    randomness: bool,
) -> Result<(), NotYet> {
    let count = |role| nodes.iter().filter(|node| node.role == role).count();
    let active = Layer::ALL.map(|layer| nodes.iter().filter(|node| node.layer == Some(layer)).count());
    let (gateways, stores) = (count(Role::Gateway), count(Role::Store));
    let genesis = before.is_none();
    let gateways_needed = if genesis { rules.genesis_gateways.max(1) } else { 1 };
    let stores_needed = if genesis { rules.genesis_stores.max(STORES_MIN) } else { 2 };
    let width = if genesis { usize::from(parameters.mixes_per_layer) } else { 1 };
    let mixes = if genesis {
        // no seats yet: how many could be taken, whatever the seed
        let mixes: Vec<_> = nodes.iter().filter(|node| node.role == Role::Mix).map(seats::candidate).collect();
        crate::topology::draw(&[0; 32], width, &mixes).len()
    } else {
        active.into_iter().map(|count| count.min(1)).sum()
    };
    let mixes_needed = 3 * width;
    let enough = gateways >= gateways_needed && stores >= stores_needed && mixes >= mixes_needed;
    if enough && genesis && !randomness {
        Err(NotYet::NoRandomness)
    } else if enough && (drawn || !genesis) {
        Ok(())
    } else {
        Err(NotYet::Shortage { gateways, gateways_needed, mixes, mixes_needed, stores, stores_needed })
    }
}

/// Whether at least two thirds of the nodes of the document before, in every role and every layer, can be listed in the
/// document of `epoch` by `descriptors`. After an outage of the directory longer than two epochs all must renew first, and
/// an authority that froze its list at once would name only whoever was fastest.
#[must_use]
pub fn most_are_back(
    rules: &Rules<'_>,
    before: Option<&Consensus>,
    epoch: Epoch,
    descriptors: &BTreeMap<Identity, Arc<SignedDescriptor>>,
) -> bool {
    let Some(before) = before else { return true };
    let back: BTreeSet<Identity> = descriptors
        .iter()
        .filter(|(_, signed)| candidates::entry(rules, Some(before), epoch, &signed.descriptor).is_ok())
        .map(|(identity, _)| *identity)
        .collect();
    let mut counts: BTreeMap<(Role, Option<Layer>), (usize, usize)> = BTreeMap::new();
    for node in &before.nodes {
        let (there, all) = counts.entry((node.role, node.layer)).or_default();
        *all += 1;
        *there += usize::from(back.contains(&node.identity));
    }
    counts.values().all(|(there, all)| 3 * there >= 2 * all)
}

/// Descriptors renewed each epoch are at most one epoch old; after two missed renewals the node is taken for dead.
pub(crate) fn renewed(schedule: &Schedule, epoch: Epoch, published: UnixMillis) -> bool {
    published.0.saturating_add(2 * schedule.epoch_ms) >= schedule.start(epoch).0
}

/// How a document knows a node: when there is no room for all, who comes first here goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It is listed.
    Listed,
    /// It was, and its place is kept.
    Absent,
    /// Not at all.
    New,
}

/// How the document before knows a node.
pub(crate) fn standing(before: Option<&Consensus>, identity: &Identity) -> Standing {
    match before.and_then(|before| known(before, identity)) {
        Some(Known { absent: None, .. }) => Standing::Listed,
        Some(Known { absent: Some(_), .. }) => Standing::Absent,
        None => Standing::New,
    }
}

/// The place that an absent or listed node had before.
struct Known<'a> {
    role: Role,
    layer: Option<Layer>,
    store_index: Option<StoreIndex>,
    since: Epoch,
    absent: Option<&'a AbsentNode>,
}

/// What the document before knows of a node.
fn known<'a>(before: &'a Consensus, identity: &Identity) -> Option<Known<'a>> {
    if let Some(node) = before.node(identity) {
        let NodeEntry { role, layer, store_index, since, .. } = *node;
        return Some(Known { role, layer, store_index, since, absent: None });
    }
    let at = before.absent.binary_search_by_key(identity, |node| node.identity).ok()?;
    let node = before.absent.get(at)?;
    let AbsentNode { role, layer, store_index, since, .. } = *node;
    Some(Known { role, layer, store_index, since, absent: Some(node) })
}

/// The role a node is known in.
#[must_use]
pub fn known_role(before: &Consensus, identity: &Identity) -> Option<Role> {
    known(before, identity).map(|known| known.role)
}
