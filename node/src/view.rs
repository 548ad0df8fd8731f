//! What a node knows about the network while it handles packets: where it stands itself, where every other node
//! stands, and the delay cap. Made once per consensus, so that a packet costs one look-up.

use crate::portions::Parties;
use shoal_protocol::consensus::{Consensus, NodeEntry};
use shoal_protocol::topology::{Place, allowed_step};
use shoal_protocol::types::{Epoch, Identity};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Where this node and all others stand in one document.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Where this node stands.
    pub place: Place,
    places: HashMap<Identity, Place>,
    /// Who may send packets here.
    before: BTreeSet<Identity>,
}

impl Layout {
    /// `None` if the document does not list `me` or lets it stand by.
    fn of(consensus: &Consensus, me: &Identity) -> Option<Self> {
        let place = Place::of(consensus.node(me)?)?;
        let nodes: Vec<_> = consensus.nodes.iter().filter_map(|node| Some((node.identity, Place::of(node)?))).collect();
        Some(Self::from_parts(place, &nodes))
    }

    fn from_parts(place: Place, nodes: &[(Identity, Place)]) -> Self {
        let before = nodes.iter().filter(|(_, from)| allowed_step(*from, place)).map(|(node, _)| *node).collect();
        Self { place, places: nodes.iter().copied().collect(), before }
    }

    /// Where a node stands.
    pub fn place_of(&self, node: &Identity) -> Option<Place> {
        self.places.get(node).copied()
    }
}

/// The network as one node sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// Longest mixing delay accepted: the 1−10⁻¹² quantile of the larger of the current and the previous mean. Above it
    /// a packet is dropped, never clamped.
    pub delay_cap: Duration,
    /// By the newest document and, while packets built under it are under way, by the one before. At least one.
    layouts: Vec<Layout>,
    parties: Parties,
}

impl View {
    /// The view of node `me`, with the document before as long as it counts; `None` if neither lists it and gives it a
    /// place.
    pub fn of(consensus: &Consensus, before: Option<&Consensus>, me: &Identity) -> Option<Self> {
        let documents = std::iter::once(consensus).chain(before);
        let layouts: Vec<_> = documents.filter_map(|document| Layout::of(document, me)).collect();
        let delay_cap = consensus.parameters.delay_cap(consensus.previous_mean_delay_ms);
        (!layouts.is_empty()).then(|| Self { delay_cap, parties: parties(&layouts), layouts })
    }

    /// A view from its parts, for tests and simulations: where this node and others stand, by one document or two.
    pub fn from_parts(delay_cap: Duration, layouts: &[(Place, &[(Identity, Place)])]) -> Self {
        let layouts: Vec<_> = layouts.iter().map(|(place, nodes)| Layout::from_parts(*place, nodes)).collect();
        Self { delay_cap, parties: parties(&layouts), layouts }
    }

    /// Who may bring packets here.
    pub const fn parties(&self) -> Parties {
        self.parties
    }

    /// The newest document's first.
    pub fn layouts(&self) -> &[Layout] {
        &self.layouts
    }

    /// Whether this node is a store.
    pub fn is_store(&self) -> bool {
        self.layouts.iter().any(|layout| layout.place == Place::Store)
    }
}

/// Who may send packets to this node, by any of these.
fn parties(layouts: &[Layout]) -> Parties {
    let nodes: BTreeSet<&Identity> = layouts.iter().flat_map(|layout| &layout.before).collect();
    Parties { nodes: nodes.len(), clients: layouts.iter().any(|layout| layout.place == Place::Gateway) }
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

/// Of these, those that loops of `me` may begin with in `epoch`: of another operator, and with a key.
pub fn first_hops(consensus: &Consensus, epoch: Epoch, me: &Identity) -> BTreeSet<Identity> {
    let family = consensus.node(me).map(|me| me.family);
    let usable = |node: &&NodeEntry| Some(node.family) != family && node.mix_key(epoch).is_some();
    let hops = next_hops(consensus, me);
    let nodes = hops.iter().filter_map(|hop| consensus.node(hop));
    nodes.filter(usable).map(|node| node.identity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::types::Layer;

    #[test]
    fn who_may_send_here_is_counted_once_over_both_documents() {
        let id = |n| Identity::from_bytes([n; 32]);
        let l1 = Place::Mix(Layer::L1);
        let newest = [(id(1), Place::Gateway), (id(2), Place::Store), (id(3), Place::Mix(Layer::L2))];
        let before = [(id(1), Place::Gateway), (id(4), Place::Gateway)];
        let view = View::from_parts(Duration::ZERO, &[(l1, &newest), (l1, &before)]);
        assert_eq!(view.parties(), Parties { nodes: 3, clients: false });
        let behind = [(id(1), Place::Mix(Layer::L3)), (id(2), Place::Store), (id(3), l1)];
        let view = View::from_parts(Duration::ZERO, &[(Place::Gateway, &behind)]);
        assert_eq!(view.parties(), Parties { nodes: 1, clients: true });
    }
}
