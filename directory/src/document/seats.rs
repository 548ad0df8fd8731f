//! Seats of mixes: given by a draw, kept and refilled between two draws.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::consensus::{Consensus, NodeEntry};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Identity, Layer, Role};

use super::known;
use crate::topology::{Candidate, fill_vacancies, standby_rank};

/// A mix as the draw sees it.
pub(super) fn candidate(node: &NodeEntry) -> Candidate {
    Candidate { identity: node.identity, family: node.family }
}

/// Seats every mix as drawn; the others stand by.
pub(super) fn by_draw(nodes: &mut [NodeEntry], seats: &BTreeMap<Identity, Layer>) {
    for node in nodes.iter_mut().filter(|node| node.role == Role::Mix) {
        node.layer = seats.get(&node.identity).copied();
        node.standby = node.layer.is_none();
    }
}

/// Between draws a mix keeps its seat; one that was away takes it again if nobody has; what is still empty is filled from
/// standbys that were known before the last draw's randomness came out. Who is `demoted` has none.
pub(super) fn between_draws(
    nodes: &mut [NodeEntry],
    before: Option<&Consensus>,
    parameters: &Parameters,
    demoted: &BTreeSet<Identity>,
) {
    let Some(before) = before else {
        by_draw(nodes, &BTreeMap::new());
        return;
    };
    let width = usize::from(parameters.mixes_per_layer);
    let seed = before.randomness;
    let mut seats: BTreeMap<Identity, Layer> = BTreeMap::new();
    let mut returning = Vec::new();
    let may_sit = |node: &&NodeEntry| node.role == Role::Mix && !demoted.contains(&node.identity);
    for node in nodes.iter().filter(may_sit) {
        let Some(known) = known(before, &node.identity) else { continue };
        match known.layer {
            Some(layer) if known.absent.is_none() => {
                seats.insert(node.identity, layer);
            }
            Some(layer) => returning.push((node.identity, layer)),
            None => {}
        }
    }
    returning.sort_by_cached_key(|(identity, _)| standby_rank(&seed, identity));
    for (identity, layer) in returning {
        if seats.values().filter(|taken| **taken == layer).count() < width {
            seats.insert(identity, layer);
        }
    }
    let seated: Vec<_> =
        nodes.iter().filter_map(|node| seats.get(&node.identity).map(|layer| (candidate(node), *layer))).collect();
    let eligible: Vec<_> = nodes
        .iter()
        .filter(may_sit)
        .filter(|node| !seats.contains_key(&node.identity) && may_be_seated(before, node))
        .map(candidate)
        .collect();
    seats.extend(fill_vacancies(&seed, width, &seated, &eligible));
    by_draw(nodes, &seats);
}

/// Whether the node was known before the randomness in force was revealed. At genesis everybody was.
fn may_be_seated(before: &Consensus, node: &NodeEntry) -> bool {
    node.since < before.draw.revealed_from
}
