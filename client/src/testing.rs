//! A network on paper, with the secrets of its nodes, for unit tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Consensus, Generation, NodeEntry};
use shoal_protocol::network::{Founding, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, IdentityKey, Layer, Role, StoreIndex, UnixMillis, X25519Secret};

/// Epoch of the sample document.
pub(crate) const EPOCH: Epoch = Epoch(40);
/// First millisecond of that epoch.
pub(crate) const START: UnixMillis = UnixMillis(1_750_000_800_000);

/// Mix key and envelope key of every node for [`EPOCH`], by address.
pub(crate) type Secrets = BTreeMap<[u8; 32], (X25519Secret, X25519Secret)>;

/// A document with so many gateways, mixes in each layer, and stores, which are all in generation 2.
pub(crate) fn consensus(gateways: u16, width: u16, stores: u16) -> (Consensus, Secrets) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut secrets = Secrets::new();
    let mut nodes = Vec::new();
    let mut add = |role: Role, layer: Option<Layer>, store_index: Option<StoreIndex>| {
        let identity = IdentityKey::generate(&mut rng).identity();
        let (mix, envelope) = (X25519Secret::generate(&mut rng), X25519Secret::generate(&mut rng));
        let envelope_keys = if role == Role::Store { vec![(EPOCH, envelope.public())] } else { Vec::new() };
        let port = 4_000 + u16::try_from(secrets.len()).unwrap();
        nodes.push(NodeEntry {
            identity,
            role,
            layer,
            family: *identity.as_bytes(),
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], port))],
            store_index,
            mix_keys: vec![(EPOCH, mix.public())],
            envelope_keys,
            since: Epoch(3),
            standby: false,
        });
        secrets.insert(*identity.as_bytes(), (mix, envelope));
    };
    (0..gateways).for_each(|_| add(Role::Gateway, None, None));
    for layer in Layer::ALL {
        (0..width).for_each(|_| add(Role::Mix, Some(layer), None));
    }
    (0..stores).for_each(|n| add(Role::Store, None, Some(StoreIndex(n))));
    nodes.sort_by_key(|node| node.identity);
    let parameters = Parameters::test_network();
    let consensus = Consensus {
        height: 12,
        previous: Hash::from_bytes([2; 32]),
        nodes,
        next_store_index: stores,
        generations: vec![Generation {
            number: 2,
            since: Epoch(33),
            retired: None,
            seed: [6; 32],
            stores: (0..stores).map(StoreIndex).collect(),
        }],
        randomness: [6; 32],
        ..Consensus::blank(Hash::from_bytes([1; 32]), EPOCH, START, parameters)
    };
    (consensus, secrets)
}

/// A network file that leads to nobody.
pub(crate) fn network() -> NetworkFile {
    let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
    NetworkFile {
        name: "paper".to_owned(),
        genesis_time: START,
        authorities: vec![authority.public().clone()],
        parameters: Parameters::test_network(),
        founding: Founding::default(),
        hints: Hints::default(),
    }
}
