//! What a node knows about the network while it handles packets: where it stands itself, where every other node
//! stands, and the delay cap. Made once per consensus, so that a packet costs one look-up.

use shoal_protocol::consensus::Consensus;
use shoal_protocol::topology::{Place, allowed_step};
use shoal_protocol::types::Identity;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The network as one node sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// Where this node stands.
    pub place: Place,
    /// Longest mixing delay accepted: the 1−10⁻¹² quantile of the larger of the current and the previous mean. Above it
    /// a packet is dropped, never clamped.
    pub delay_cap: Duration,
    places: HashMap<Identity, Place>,
}

impl View {
    /// The view of node `me`; `None` if the consensus does not list it or lets it stand by.
    pub fn of(consensus: &Consensus, me: &Identity) -> Option<Self> {
        let place = Place::of(consensus.node(me)?)?;
        let places = consensus.nodes.iter().filter_map(|node| Some((node.identity, Place::of(node)?))).collect();
        Some(Self { place, delay_cap: consensus.parameters.delay_cap(consensus.previous_mean_delay_ms), places })
    }

    /// A view from its parts, for tests and simulations.
    pub fn from_parts(place: Place, delay_cap: Duration, nodes: &[(Identity, Place)]) -> Self {
        Self { place, delay_cap, places: nodes.iter().copied().collect() }
    }

    /// Where a node stands.
    pub fn place_of(&self, node: &Identity) -> Option<Place> {
        self.places.get(node).copied()
    }
}

/// The nodes that `me` sends packets to and keeps links to: a gateway and a store to all of L1, a mix to all of the next
/// layer, L3 to all stores and gateways.
pub fn next_hops(consensus: &Consensus, me: &Identity) -> BTreeSet<Identity> {
    let Some(place) = consensus.node(me).and_then(Place::of) else { return BTreeSet::new() };
    consensus
        .nodes
        .iter()
        .filter(|node| node.identity != *me && Place::of(node).is_some_and(|to| allowed_step(place, to)))
        .map(|node| node.identity)
        .collect()
}
