//! Routes: which hops a packet takes. Sampled anew for every packet, uniformly within each layer, one operator (family)
//! at most once; delays are exponential, the last hop's is zero.

use crate::consensus::{Consensus, NodeEntry};
use crate::link::SessionAddress;
use crate::poisson::exponential;
use crate::sphinx::Hop;
use crate::topology::Place;
use crate::types::{Epoch, Identity, Layer, Role, StoreIndex};
use crate::{X25519Public, geometry};
use rand::{CryptoRng, RngExt as _};
use std::time::Duration;

/// Why no route exists. The cause is the network's state, not the caller's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The gateway is not in the consensus.
    #[error("the gateway is not in the consensus of this epoch")]
    UnknownGateway,
    /// No usable mix in a layer.
    #[error("layer {0} has no mix of another operator with a key for epoch {1}")]
    EmptyLayer(Layer, Epoch),
    /// No store may serve as courier.
    #[error("no store of another operator can serve as courier")]
    NoCourier,
    /// A node has no key for the epoch.
    #[error("a {0} on the route has no key for epoch {1}")]
    NoKey(Role, Epoch),
    /// The node itself has no place in the topology.
    #[error("this node has no place in the topology of this epoch")]
    NotPlaced,
}

/// A route under construction: hops so far and the operators they belong to.
struct Walk<'c> {
    consensus: &'c Consensus,
    epoch: Epoch,
    hops: Vec<Hop>,
    families: Vec<[u8; 32]>,
    /// The only node that may be the first hop, when the walker has chosen.
    first: Option<Identity>,
}

impl<'c> Walk<'c> {
    fn new(consensus: &'c Consensus, epoch: Epoch, avoid: &[&NodeEntry]) -> Self {
        let families = avoid.iter().map(|node| node.family).collect();
        Self { consensus, epoch, hops: Vec::with_capacity(geometry::HOPS), families, first: None }
    }

    /// Whether the next hop may be this node.
    fn takes(&self, node: &NodeEntry) -> bool {
        !self.hops.is_empty() || self.first.is_none_or(|first| first == node.identity)
    }

    fn mean(&self) -> Duration {
        Duration::from_millis(self.consensus.parameters.mean_delay_ms)
    }

    fn step(&mut self, node: &NodeEntry, rng: &mut impl CryptoRng) -> Result<(), RouteError> {
        let key = *node.mix_key(self.epoch).ok_or(RouteError::NoKey(node.role, self.epoch))?;
        self.hops.push(Hop { address: *node.identity.as_bytes(), key, delay: exponential(self.mean(), rng) });
        self.families.push(node.family);
        Ok(())
    }

    fn through(&mut self, layer: Layer, rng: &mut impl CryptoRng) -> Result<(), RouteError> {
        let mixes: Vec<&NodeEntry> = self
            .consensus
            .layer(layer)
            .filter(|node| node.mix_key(self.epoch).is_some() && !self.families.contains(&node.family))
            .filter(|node| self.takes(node))
            .collect();
        let node = pick(&mixes, rng).ok_or(RouteError::EmptyLayer(layer, self.epoch))?;
        self.step(node, rng)
    }

    /// The hops, the last one without delay.
    fn finish(mut self) -> Vec<Hop> {
        if let Some(last) = self.hops.last_mut() {
            last.delay = Duration::ZERO;
        }
        self.hops
    }
}

fn pick<'n>(nodes: &[&'n NodeEntry], rng: &mut impl CryptoRng) -> Option<&'n NodeEntry> {
    if nodes.is_empty() { None } else { nodes.get(rng.random_range(0..nodes.len())).copied() }
}

fn gateway_entry<'c>(consensus: &'c Consensus, gateway: &Identity) -> Result<&'c NodeEntry, RouteError> {
    consensus.node(gateway).filter(|node| node.role == Role::Gateway).ok_or(RouteError::UnknownGateway)
}

/// The route of a request: gateway, L1, L2, L3, courier.
pub fn request_route(
    consensus: &Consensus,
    epoch: Epoch,
    gateway: &Identity,
    courier: StoreIndex,
    rng: &mut impl CryptoRng,
) -> Result<Vec<Hop>, RouteError> {
    let courier = consensus.store(courier).ok_or(RouteError::NoCourier)?;
    let mut walk = Walk::new(consensus, epoch, &[courier]);
    walk.step(gateway_entry(consensus, gateway)?, rng)?;
    for layer in Layer::ALL {
        walk.through(layer, rng)?;
    }
    walk.step(courier, rng)?;
    Ok(walk.finish())
}

/// The route of a reply: L1, L2, L3, gateway, client.
pub fn reply_route(
    consensus: &Consensus,
    epoch: Epoch,
    gateway: &Identity,
    session: &SessionAddress,
    session_key: &X25519Public,
    rng: &mut impl CryptoRng,
) -> Result<Vec<Hop>, RouteError> {
    let gateway = gateway_entry(consensus, gateway)?;
    let mut walk = Walk::new(consensus, epoch, &[gateway]);
    for layer in Layer::ALL {
        walk.through(layer, rng)?;
    }
    walk.step(gateway, rng)?;
    walk.hops.push(Hop { address: *session.as_bytes(), key: *session_key, delay: Duration::ZERO });
    Ok(walk.finish())
}

/// Draws the courier: a store with a key for the epoch that is neither one of the replicas nor of their operators.
pub fn pick_courier(
    consensus: &Consensus,
    epoch: Epoch,
    replicas: [StoreIndex; 2],
    rng: &mut impl CryptoRng,
) -> Result<StoreIndex, RouteError> {
    let taken: Vec<[u8; 32]> =
        replicas.iter().filter_map(|index| consensus.store(*index)).map(|node| node.family).collect();
    let free: Vec<&NodeEntry> = consensus
        .stores()
        .filter(|node| node.mix_key(epoch).is_some() && !taken.contains(&node.family))
        .filter(|node| node.store_index.is_some_and(|index| !replicas.contains(&index)))
        .collect();
    pick(&free, rng).and_then(|node| node.store_index).ok_or(RouteError::NoCourier)
}

/// The route of a node's own loop over its link to `first` and back to itself, turning round at a gateway or a store.
/// Every step is one that other packets take too, and every hop behind the first is drawn as theirs are.
pub fn loop_route(
    consensus: &Consensus,
    epoch: Epoch,
    me: &Identity,
    first: &Identity,
    rng: &mut impl CryptoRng,
) -> Result<Vec<Hop>, RouteError> {
    let mine = consensus.node(me).ok_or(RouteError::NotPlaced)?;
    let place = Place::of(mine).ok_or(RouteError::NotPlaced)?;
    let mut walk = Walk { first: Some(*first), ..Walk::new(consensus, epoch, &[mine]) };
    let after: &[Layer] = match place {
        Place::Mix(Layer::L1) => &[Layer::L2, Layer::L3],
        Place::Mix(Layer::L2) => &[Layer::L3],
        Place::Mix(Layer::L3) => &[],
        Place::Gateway | Place::Store | Place::Client => &Layer::ALL,
    };
    for layer in after {
        walk.through(*layer, rng)?;
    }
    if let Place::Mix(layer) = place {
        let turns: Vec<&NodeEntry> = consensus
            .gateways()
            .chain(consensus.stores())
            .filter(|node| node.mix_key(epoch).is_some() && !walk.families.contains(&node.family))
            .filter(|node| walk.takes(node))
            .collect();
        let turn = pick(&turns, rng).ok_or(RouteError::UnknownGateway)?;
        walk.step(turn, rng)?;
        for before in Layer::ALL.into_iter().take_while(|l| *l < layer) {
            walk.through(before, rng)?;
        }
    }
    walk.step(mine, rng)?;
    Ok(walk.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::consensus;
    use crate::topology::allowed_step;
    use rand::{SeedableRng as _, rngs::StdRng};
    use std::collections::BTreeMap;

    fn place(consensus: &Consensus, hop: &Hop) -> Place {
        consensus.node(&Identity::from_bytes(hop.address)).map_or(Place::Client, |node| Place::of(node).unwrap())
    }

    fn check(consensus: &Consensus, from: Place, hops: &[Hop]) {
        let mut at = from;
        for hop in hops {
            let to = place(consensus, hop);
            assert!(allowed_step(at, to), "{at:?} → {to:?}");
            at = to;
        }
        assert_eq!(hops.last().unwrap().delay, Duration::ZERO);
    }

    #[test]
    fn every_route_takes_allowed_steps_and_each_operator_once() {
        let consensus = consensus(2, 3, 4);
        let mut rng = StdRng::seed_from_u64(1);
        let epoch = consensus.epoch;
        let gateway = consensus.gateways().next().unwrap().identity;
        let session = SessionAddress::from_bytes([9; 32]);
        let key = crate::X25519Secret::generate(&mut rng).public();
        for _ in 0..500 {
            let replicas = [StoreIndex(0), StoreIndex(1)];
            let courier = pick_courier(&consensus, epoch, replicas, &mut rng).unwrap();
            assert!(!replicas.contains(&courier));
            let request = request_route(&consensus, epoch, &gateway, courier, &mut rng).unwrap();
            check(&consensus, Place::Client, &request);
            let reply = reply_route(&consensus, epoch, &gateway, &session, &key, &mut rng).unwrap();
            check(&consensus, Place::Store, &reply);
            assert_eq!((request.len(), reply.len()), (5, 5));
            assert_eq!(reply[4].address, [9; 32]);
        }
        for node in &consensus.nodes {
            let from = Place::of(node).unwrap();
            for first in &consensus.nodes {
                let route = loop_route(&consensus, epoch, &node.identity, &first.identity, &mut rng);
                assert_eq!(route.is_ok(), allowed_step(from, Place::of(first).unwrap()));
                let Ok(hops) = route else { continue };
                assert_eq!(hops.first().unwrap().address, *first.identity.as_bytes());
                assert_eq!(hops.last().unwrap().address, *node.identity.as_bytes());
                check(&consensus, from, &hops);
            }
        }
    }

    #[test]
    fn mixes_of_a_layer_are_drawn_uniformly() {
        let consensus = consensus(1, 4, 3);
        let mut rng = StdRng::seed_from_u64(2);
        let gateway = consensus.gateways().next().unwrap().identity;
        let mut counts: BTreeMap<[u8; 32], u32> = BTreeMap::new();
        for _ in 0..8_000 {
            let hops = request_route(&consensus, consensus.epoch, &gateway, StoreIndex(0), &mut rng).unwrap();
            for hop in &hops[1..4] {
                *counts.entry(hop.address).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 12);
        assert!(counts.values().all(|n| (1_800..2_200).contains(n)), "{counts:?}"); // expected 2,000, σ 39
    }

    #[test]
    fn an_operator_with_mixes_in_every_layer_is_used_once_a_route() {
        let mut consensus = consensus(1, 2, 3);
        for layer in Layer::ALL {
            let first = consensus.nodes.iter_mut().find(|node| node.layer == Some(layer)).unwrap();
            first.family = [0xee; 32];
        }
        let mut rng = StdRng::seed_from_u64(3);
        let gateway = consensus.gateways().next().unwrap().identity;
        for _ in 0..500 {
            let hops = request_route(&consensus, consensus.epoch, &gateway, StoreIndex(0), &mut rng).unwrap();
            let mine = hops
                .iter()
                .filter(|hop| consensus.node(&Identity::from_bytes(hop.address)).unwrap().family == [0xee; 32])
                .count();
            assert!(mine <= 1);
        }
    }

    #[test]
    fn a_network_without_courier_or_key_says_so() {
        let consensus = consensus(1, 1, 3);
        let mut rng = StdRng::seed_from_u64(4);
        let gateway = consensus.gateways().next().unwrap().identity;
        let late = consensus.epoch.plus(9);
        assert!(request_route(&consensus, late, &gateway, StoreIndex(0), &mut rng).is_err());
        assert_eq!(
            pick_courier(&consensus, late, [StoreIndex(0), StoreIndex(1)], &mut rng),
            Err(RouteError::NoCourier)
        );
        let unknown = Identity::from_bytes([0; 32]);
        assert_eq!(
            request_route(&consensus, consensus.epoch, &unknown, StoreIndex(0), &mut rng),
            Err(RouteError::UnknownGateway)
        );
    }
}
