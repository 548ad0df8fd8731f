//! Nodes that do nothing but publish, as real ones do: once an epoch, and again every few seconds to who has not taken it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_directory::admission::{Admitted, AdmittedList};
use shoal_directory::document::known_role;
use shoal_directory::lists::Judge;
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::{Epoch, Identity, IdentityKey, Role, UnixMillis, X25519Secret};

use crate::world::{Event, NETWORK, World};

/// Pause before a node offers itself again to who has not taken its descriptor.
const RETRY_MS: u64 = 5_000;

/// A node that can only publish.
pub(crate) struct Node {
    key: IdentityKey,
    pub(crate) role: Role,
    number: u16,
    bytes: Arc<[u8]>,
    pending: BTreeSet<usize>,
    next_round: u64,
}

impl Node {
    pub(crate) fn new(role: Role, number: u16) -> Self {
        let kind = match role {
            Role::Gateway => 1,
            Role::Mix => 2,
            Role::Store => 3,
        };
        let mut seed = [kind; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let key = IdentityKey::from_seed(&seed);
        Self { key, role, number, bytes: Arc::default(), pending: BTreeSet::new(), next_round: 0 }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.key.identity()
    }

    /// A descriptor made at `now`, with keys for that epoch and three more.
    pub(crate) fn descriptor(&self, schedule: &Schedule, now: UnixMillis, version: &str) -> Vec<u8> {
        let epoch = schedule.epoch_at(now);
        let keys = |purpose: u64| {
            (0..4)
                .map(|n| {
                    let of: Epoch = epoch.plus(n);
                    let mut rng = StdRng::seed_from_u64(of.0 * 1_000_000 + u64::from(self.number) * 10 + purpose);
                    (of, X25519Secret::generate(&mut rng).public())
                })
                .collect::<Vec<_>>()
        };
        let descriptor = Descriptor {
            network: NETWORK,
            identity: self.identity(),
            role: self.role,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 4000 + self.number))],
            family: None,
            published: now,
            version: version.to_owned(),
            mix_keys: keys(1),
            envelope_keys: if self.role == Role::Store { keys(2) } else { Vec::new() },
            loops: Vec::new(),
            leaving: false,
        };
        descriptor.sign(&self.key)
    }

    pub(crate) fn admitted(&self) -> Admitted {
        Admitted { identity: self.identity(), role: self.role, family: None, address: None }
    }
}

/// A small network: gateways, mixes, stores.
pub(crate) fn cast() -> Vec<Node> {
    let counts = [(Role::Gateway, 2), (Role::Mix, 6), (Role::Store, 4)];
    counts.iter().flat_map(|(role, count)| (1..=*count).map(|number| Node::new(*role, number))).collect()
}

/// Everybody of the cast.
pub(crate) fn admit(nodes: &[Node]) -> AdmittedList {
    let mut list = AdmittedList::default();
    for node in nodes {
        list.admit(node.admitted()).unwrap();
    }
    list
}

impl World {
    /// Lets a node publish or try again.
    pub(crate) fn publish(&mut self, index: usize) {
        let schedule = self.genesis.schedule;
        let epoch_ms = schedule.epoch_ms;
        if self.now >= self.nodes[index].next_round {
            let bytes = self.nodes[index].descriptor(&schedule, UnixMillis(self.now), "0.1.0");
            let jitter = self.rng.random_range(0..=epoch_ms / 8);
            let everybody = (0..self.members.len()).collect();
            let node = &mut self.nodes[index];
            node.bytes = bytes.into();
            node.pending = everybody;
            let half = schedule.start(schedule.epoch_at(UnixMillis(self.now))).0 + epoch_ms / 2;
            node.next_round = if self.now < half { half } else { half + epoch_ms } + jitter;
        }
        let (node, bytes) = (self.nodes[index].identity(), Arc::clone(&self.nodes[index].bytes));
        for who in self.nodes[index].pending.clone() {
            if self.offer(who, node, &bytes) {
                self.nodes[index].pending.remove(&who);
            }
        }
        let node = &self.nodes[index];
        let wait = node.next_round - self.now;
        self.after(if node.pending.is_empty() { wait } else { wait.min(RETRY_MS) }.max(1), Event::Publish(index));
    }

    /// Offers a descriptor to a member; whether it has it now.
    pub(crate) fn offer(&mut self, who: usize, node: Identity, bytes: &[u8]) -> bool {
        if self.cut_off.contains(&who) {
            return false;
        }
        let now = self.clock(who);
        let Self { members, genesis, admitted, .. } = self;
        let member = &mut members[who];
        let judge = Judge {
            network: genesis.network,
            schedule: genesis.schedule,
            skew: genesis.parameters.skew(),
            admitted: (!member.lies()).then_some(admitted),
        };
        let mut taken = member.forger.is_some();
        for face in member.faces.iter_mut().filter(|face| face.core.is_some()) {
            if face.censors.contains(&node) {
                taken = true;
                continue;
            }
            let newest = face.chain.last().cloned();
            let known = |identity: &Identity| newest.as_ref().and_then(|newest| known_role(newest, identity));
            // one with a wrong clock refuses it: its own loss
            taken |= face.listing.offer(bytes, now, &judge, known).is_ok();
        }
        taken
    }
}
