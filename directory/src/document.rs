//! The next document: a function of the previous one, the listed descriptors and the shared randomness, and of nothing
//! else, so that everybody who has these can compute it again.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::consensus::{
    AbsentNode, CONSENSUS_FORMAT, Commitment, Consensus, EPOCHS_COVERED, Generation, ListHash, MAX_CONSENSUS_SIZE,
    NodeEntry, Reveal, VerifiedConsensus,
};
use shoal_protocol::descriptor::SignedDescriptor;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity, Layer, Role, StoreIndex, UnixMillis};
use thiserror::Error;

use crate::randomness;

mod candidates;
mod memory;
mod seats;

#[cfg(test)]
pub(crate) mod tests;

pub use candidates::Dropped;

/// Fewest stores of a generation: a courier is never a replica of its request.
pub const STORES_MIN: usize = 3;

/// What is fixed at genesis, and the authority's conditions for the first document.
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

/// What one authority adds to the shared randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// Its index.
    pub authority: u16,
    /// Its value for the next draw.
    pub reveal: [u8; 32],
    /// Its commitment to that value.
    pub commitment: Hash,
    /// Its commitment for the draw after, in case this document draws.
    pub commitment_after: Hash,
}

/// All that a document is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// Genesis.
    pub rules: Rules<'a>,
    /// The document before; `None` for the first.
    pub previous: Option<&'a VerifiedConsensus>,
    /// The epoch to make it for.
    pub epoch: Epoch,
    /// Listed descriptors.
    pub descriptors: &'a BTreeMap<Identity, SignedDescriptor>,
    /// Hashes of the lists they come from.
    pub lists: &'a [ListHash],
    /// Shared randomness, in the order of the authorities.
    pub contributions: &'a [Contribution],
}

/// A document, and who did not make it into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The document.
    pub document: Consensus,
    /// Listed descriptors that it leaves out, and why.
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
    /// The epoch is not after that of the document before.
    #[error("the document of epoch {0} exists")]
    Made(Epoch),
    /// The document would not fit.
    #[error("the document would be {0} bytes long, more than anybody accepts")]
    TooLarge(usize),
}

/// Number of the next draw after `previous`.
#[must_use]
pub fn next_draw(previous: Option<&Consensus>) -> u32 {
    previous.and_then(Consensus::current_generation).map_or(1, |generation| generation.number.saturating_add(1))
}

/// Computes the next document.
///
/// # Errors
/// Why there can be none now; ask again when more descriptors are listed.
pub fn next_document(ingredients: &Ingredients<'_>) -> Result<Draft, NotYet> {
    let Ingredients { rules, previous, epoch, .. } = *ingredients;
    if let Some(previous) = previous.filter(|previous| previous.epoch >= epoch) {
        return Err(NotYet::Made(previous.epoch));
    }
    let before = previous.map(|previous| &**previous);
    let parameters = before.map_or(rules.parameters, |before| before.parameters);
    let (mut nodes, dropped) = candidates::entries(ingredients);
    let mut generations = memory::living_generations(before, epoch, &parameters);
    let mut next_store_index = memory::give_indices(before, &mut nodes);
    next_store_index = next_store_index.max(before.map_or(0, |before| before.next_store_index));

    let drawn = draw(ingredients, &parameters, &nodes);
    let randomness = match &drawn {
        Some(drawn) => drawn.seed,
        None => before.map_or([0; 32], |before| before.randomness),
    };
    match &drawn {
        Some(drawn) => {
            seats::by_draw(&mut nodes, &drawn.seats);
            memory::retire(&mut generations, epoch);
            generations.push(drawn.generation.clone());
        }
        None => seats::between_draws(&mut nodes, before, &parameters),
    }
    memory::mark_standby_stores(&mut nodes, &generations);
    check_enough(&rules, before, &parameters, &nodes, drawn.is_some())?;

    let document = Consensus {
        version: CONSENSUS_FORMAT,
        network: rules.network,
        height: before.map_or(1, |before| before.height + 1),
        epoch,
        previous: previous.map_or(rules.network, VerifiedConsensus::hash),
        valid_from: rules.schedule.start(epoch),
        valid_until: rules.schedule.start(epoch.plus(EPOCHS_COVERED)),
        parameters,
        previous_mean_delay_ms: before.map_or(parameters.mean_delay_ms, |before| before.parameters.mean_delay_ms),
        authorities: before.map_or_else(|| rules.authorities.to_vec(), |before| before.authorities.clone()),
        absent: memory::absent(before, &nodes, &generations, drawn.is_some()),
        nodes,
        next_store_index,
        generations,
        randomness,
        commitments: ingredients
            .contributions
            .iter()
            .map(|from| Commitment {
                authority: from.authority,
                hash: if drawn.is_some() { from.commitment_after } else { from.commitment },
            })
            .collect(),
        reveals: drawn.map_or_else(Vec::new, |drawn| drawn.reveals),
        lists: ingredients.lists.to_vec(),
    };
    let size = document.encode().len();
    if size > MAX_CONSENSUS_SIZE * 3 / 4 {
        // the rest is for the certificate: 64 signatures are 160 kB
        return Err(NotYet::TooLarge(size));
    }
    Ok(Draft { document, dropped })
}

/// A draw that this document makes.
struct Drawn {
    seed: [u8; 32],
    reveals: Vec<Reveal>,
    seats: BTreeMap<Identity, Layer>,
    generation: Generation,
}

/// Draws layers and generation when that is due and the nodes suffice; else the document keeps what is.
fn draw(ingredients: &Ingredients<'_>, parameters: &Parameters, nodes: &[NodeEntry]) -> Option<Drawn> {
    let Ingredients { rules, previous, epoch, contributions, .. } = *ingredients;
    let before = previous.map(|previous| &**previous);
    let current = before.and_then(Consensus::current_generation);
    if current.is_some_and(|current| epoch.0 < current.since.0.saturating_add(parameters.draw_epochs.into())) {
        return None;
    }
    // Only who was known before the randomness came out takes part, except at genesis.
    let takes_part = |node: &&NodeEntry| before.is_none() || node.since < epoch;
    let number = next_draw(before);
    let reveals: Vec<Reveal> =
        contributions.iter().map(|from| Reveal { authority: from.authority, value: from.reveal }).collect();
    let committed = before.map(|before| before.commitments.as_slice());
    let reveals = randomness::counted(&rules.network, number, committed, &reveals);
    if reveals.is_empty() {
        return None;
    }
    let seed = randomness::seed(&rules.network, number, &before.map_or([0; 32], |before| before.randomness), &reveals);
    let width = usize::from(parameters.mixes_per_layer);
    let mixes: Vec<_> =
        nodes.iter().filter(takes_part).filter(|node| node.role == Role::Mix).map(seats::candidate).collect();
    let seats = crate::topology::draw(&seed, width, &mixes);
    let stores: BTreeSet<StoreIndex> = nodes.iter().filter(takes_part).filter_map(|node| node.store_index).collect();
    let filled = crate::topology::filled(&seats);
    let enough_mixes = filled.into_iter().all(|count| if current.is_none() { count == width } else { count > 0 });
    if !enough_mixes || stores.len() < STORES_MIN {
        return None;
    }
    let stores = memory::cap_generation(&seed, stores);
    let generation = Generation { number, since: epoch, retired: None, seed, stores };
    Some(Drawn { seed, reveals, seats, generation })
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
    if enough && (drawn || !genesis) {
        Ok(())
    } else {
        Err(NotYet::Shortage { gateways, gateways_needed, mixes, mixes_needed, stores, stores_needed })
    }
}

/// Whether at least two thirds of the nodes of the document before, in every role and every layer, can be listed in the
/// document of `epoch`. After an outage of the directory longer than two epochs all must renew first, and a document made
/// at once would hold only whoever was fastest.
#[must_use]
pub fn most_are_back(ingredients: &Ingredients<'_>) -> bool {
    let Some(before) = ingredients.previous else { return true };
    let (nodes, _) = candidates::entries(ingredients);
    let back: BTreeSet<Identity> = nodes.iter().map(|node| node.identity).collect();
    let mut counts: BTreeMap<(Role, Option<Layer>), (usize, usize)> = BTreeMap::new();
    for node in &before.nodes {
        let (there, all) = counts.entry((node.role, node.layer)).or_default();
        *all += 1;
        *there += usize::from(back.contains(&node.identity));
    }
    counts.values().all(|(there, all)| 3 * there >= 2 * all)
}

/// Descriptors renewed each epoch are at most one epoch old; after two missed renewals the node is taken for dead.
fn renewed(rules: &Rules<'_>, epoch: Epoch, published: UnixMillis) -> bool {
    published.0.saturating_add(2 * rules.schedule.epoch_ms) >= rules.schedule.start(epoch).0
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
