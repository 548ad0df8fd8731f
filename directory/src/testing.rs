//! Nodes on paper, for the tests of the pure rooms.

use std::net::SocketAddr;

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::{Epoch, Hash, Identity, IdentityKey, Role, UnixMillis, X25519Secret};

/// Genesis hash of the test network.
pub(crate) const NETWORK: Hash = Hash::from_bytes([42; 32]);
/// Length of an epoch.
pub(crate) const EPOCH_MS: u64 = 20_000;
/// Start of epoch 0.
pub(crate) const GENESIS: UnixMillis = UnixMillis(1_750_000_000_000);
/// Some instant in epoch 5.
pub(crate) const NOW: UnixMillis = UnixMillis(GENESIS.0 + 5 * EPOCH_MS + 10_000);

/// The test network's epochs.
pub(crate) fn schedule() -> Schedule {
    Schedule { genesis: GENESIS, epoch_ms: EPOCH_MS }
}

/// A node that can only publish.
pub(crate) struct Node {
    key: IdentityKey,
    role: Role,
    number: u16,
    pub(crate) family: Option<[u8; 32]>,
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
        Self { key: IdentityKey::from_seed(&seed), role, number, family: None }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.key.identity()
    }

    /// A descriptor made at `now`, with keys for that epoch and three more.
    pub(crate) fn descriptor(&self, now: UnixMillis) -> Vec<u8> {
        self.descriptor_with(now, |_| ())
    }

    pub(crate) fn descriptor_with(&self, now: UnixMillis, change: impl FnOnce(&mut Descriptor)) -> Vec<u8> {
        let epoch = schedule().epoch_at(now);
        let keys = |purpose: u64| {
            (0..4)
                .map(|n| {
                    let of: Epoch = epoch.plus(n);
                    let mut rng = StdRng::seed_from_u64(of.0 * 1_000_000 + u64::from(self.number) * 10 + purpose);
                    (of, X25519Secret::generate(&mut rng).public())
                })
                .collect::<Vec<_>>()
        };
        let mut descriptor = Descriptor {
            network: NETWORK,
            identity: self.identity(),
            role: self.role,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 4000 + self.number))],
            family: self.family,
            published: now,
            version: "0.1.0".into(),
            mix_keys: keys(1),
            envelope_keys: if self.role == Role::Store { keys(2) } else { Vec::new() },
            loops: Vec::new(),
        };
        change(&mut descriptor);
        descriptor.sign(&self.key)
    }
}
