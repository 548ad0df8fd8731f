//! What a document remembers: store indices, living generations, places of nodes that are away.

use std::collections::BTreeSet;

use shoal_protocol::consensus::{
    AbsentNode, Consensus, Generation, MAX_ABSENT, MAX_GENERATIONS, MAX_STORES, NodeEntry,
};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity, Role, StoreIndex};

/// Gives every store without an index the next one, in the order of identities; returns the next free index.
pub(super) fn give_indices(before: Option<&Consensus>, nodes: &mut [NodeEntry]) -> u16 {
    let mut next = before.map_or(0, |before| before.next_store_index);
    for node in nodes.iter_mut().filter(|node| node.role == Role::Store && node.store_index.is_none()) {
        node.store_index = Some(StoreIndex(next));
        // the candidates were counted against what is left
        next = next.saturating_add(1);
    }
    next
}

/// The generations before, without those retired for longer than the retention time.
pub(super) fn living_generations(before: Option<&Consensus>, epoch: Epoch, parameters: &Parameters) -> Vec<Generation> {
    let alive = |generation: &&Generation| {
        generation.retired.is_none_or(|retired| epoch <= retired.plus(parameters.retention_epochs()))
    };
    let mut living: Vec<_> =
        before.map_or_else(Vec::new, |before| before.generations.iter().filter(alive).cloned().collect());
    // parameters in force cannot make more; a change of them can, and then the oldest goes early
    let room_for_one = living.len().saturating_sub(MAX_GENERATIONS - 1);
    living.drain(..room_for_one);
    living
}

/// Ends the current generation.
pub(super) fn retire(generations: &mut [Generation], epoch: Epoch) {
    if let Some(current) = generations.last_mut() {
        current.retired = Some(epoch);
    }
}

/// A generation names at most [`MAX_STORES`] stores: those that come first in hash order under its seed.
pub(super) fn cap_generation(seed: &[u8; 32], stores: BTreeSet<StoreIndex>) -> Vec<StoreIndex> {
    let mut stores: Vec<_> = stores.into_iter().collect();
    if stores.len() > MAX_STORES {
        stores.sort_by_cached_key(|index| {
            Hash::of("shoal/1 generation order", &[seed.as_slice(), &index.0.to_be_bytes()].concat())
        });
        stores.truncate(MAX_STORES);
        stores.sort_unstable();
    }
    stores
}

/// A store that no living generation names stands by.
pub(super) fn mark_standby_stores(nodes: &mut [NodeEntry], generations: &[Generation]) {
    let named = named(generations);
    for node in nodes.iter_mut().filter(|node| node.role == Role::Store) {
        node.standby = !node.store_index.is_some_and(|index| named.contains(&index));
    }
}

/// Who is not listed but remembered: mixes until the next draw, stores while a living generation names them.
pub(super) fn absent(
    before: Option<&Consensus>,
    nodes: &[NodeEntry],
    generations: &[Generation],
    drawn: bool,
) -> Vec<AbsentNode> {
    let Some(before) = before else { return Vec::new() };
    let listed: BTreeSet<Identity> = nodes.iter().map(|node| node.identity).collect();
    let named = named(generations);
    let was_listed = before.nodes.iter().map(|node| AbsentNode {
        identity: node.identity,
        role: node.role,
        layer: node.layer,
        store_index: node.store_index,
        since: node.since,
    });
    let mut absent: Vec<AbsentNode> = was_listed
        .chain(before.absent.iter().cloned())
        .filter(|node| !listed.contains(&node.identity))
        .filter(|node| match node.role {
            Role::Gateway => false,
            Role::Mix => !drawn,
            Role::Store => node.store_index.is_some_and(|index| named.contains(&index)),
        })
        .collect();
    // Stores first: their index must not be lost while boxes live.
    absent.sort_by_key(|node| (node.role != Role::Store, node.identity));
    absent.truncate(MAX_ABSENT);
    absent.sort_by_key(|node| node.identity);
    absent
}

fn named(generations: &[Generation]) -> BTreeSet<StoreIndex> {
    generations.iter().flat_map(|generation| generation.stores.iter().copied()).collect()
}
