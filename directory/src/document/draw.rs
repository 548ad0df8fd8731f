//! The draw of layers and generation.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::consensus::{Consensus, Generation, NodeEntry};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Identity, Layer, Role, StoreIndex};

use super::{STORES_MIN, memory, seats};
use crate::randomness::next_draw;

/// A draw that a document makes.
pub(super) struct Drawn {
    /// The randomness.
    pub(super) seed: [u8; 32],
    /// Who sits where.
    pub(super) seats: BTreeMap<Identity, Layer>,
    /// The new generation.
    pub(super) generation: Generation,
}

/// Draws with `seed` if the nodes suffice; else the draw waits. Only who was known before the randomness was revealed takes
/// part, except at genesis. A store that is `leaving` gets no new boxes, a mix that is `demoted` no seat.
pub(super) fn draw(
    seed: [u8; 32],
    before: Option<&Consensus>,
    epoch: Epoch,
    parameters: &Parameters,
    nodes: &[NodeEntry],
    (leaving, demoted): (&BTreeSet<Identity>, &BTreeSet<Identity>),
) -> Option<Drawn> {
    let takes_part = |node: &&NodeEntry| before.is_none_or(|before| node.since < before.draw.reveal_from);
    let width = usize::from(parameters.mixes_per_layer);
    let may_sit = |node: &&NodeEntry| node.role == Role::Mix && !demoted.contains(&node.identity);
    let mixes: Vec<_> = nodes.iter().filter(takes_part).filter(may_sit).map(seats::candidate).collect();
    let seats = crate::topology::draw(&seed, width, &mixes);
    let stays = |node: &&NodeEntry| !leaving.contains(&node.identity);
    let stores = nodes.iter().filter(takes_part).filter(stays).filter_map(|node| node.store_index);
    let stores: BTreeSet<StoreIndex> = stores.collect();
    let filled = crate::topology::filled(&seats);
    let enough_mixes = filled.into_iter().all(|count| if before.is_none() { count == width } else { count > 0 });
    if !enough_mixes || stores.len() < STORES_MIN {
        return None;
    }
    let stores = memory::cap_generation(&seed, stores);
    let generation = Generation { number: next_draw(before), since: epoch, retired: None, seed, stores };
    Some(Drawn { seed, seats, generation })
}
