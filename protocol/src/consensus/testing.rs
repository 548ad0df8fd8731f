//! A network on paper, for tests of everything that reads a consensus.

use super::*;
use crate::authority::AuthoritySecret;
use crate::types::IdentityKey;
use crate::x25519::X25519Secret;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::sync::Arc;

/// Epoch of the sample document.
pub(crate) const EPOCH: Epoch = Epoch(40);
/// Start of epoch 0.
pub(crate) const GENESIS: UnixMillis = UnixMillis(1_750_000_000_000);
/// Genesis hash.
pub(crate) const NETWORK: Hash = Hash::from_bytes([1; 32]);

/// The only authority.
pub(crate) fn authority() -> AuthoritySecret {
    AuthoritySecret::generate(&mut StdRng::seed_from_u64(77))
}

fn keys(rng: &mut StdRng) -> Vec<(Epoch, X25519Public)> {
    (0..EPOCHS_COVERED).map(|n| (EPOCH.plus(n), X25519Secret::generate(rng).public())).collect()
}

/// A node with keys for all three epochs, without a place.
pub(crate) fn entry(role: Role, number: u16, rng: &mut StdRng) -> NodeEntry {
    let identity = IdentityKey::generate(rng).identity();
    NodeEntry {
        identity,
        role,
        layer: None,
        family: *identity.as_bytes(),
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 4000 + number))],
        store_index: None,
        mix_keys: keys(rng),
        envelope_keys: if role == Role::Store { keys(rng) } else { Vec::new() },
        since: Epoch(3),
        standby: false,
    }
}

/// A document with `gateways` gateways, three layers of `width` mixes, and `stores` stores, numbered from 0, that are all
/// in generation 2.
pub(crate) fn consensus(gateways: u16, width: u16, stores: u16) -> Consensus {
    consensus_of(gateways, width, stores, 1)
}

/// As [`consensus`], with other keys for every seed.
pub(crate) fn consensus_of(gateways: u16, width: u16, stores: u16, seed: u64) -> Consensus {
    let mut rng = StdRng::seed_from_u64(seed);
    let parameters = Parameters::test_network();
    let schedule = Schedule::new(GENESIS, &parameters);
    let mut nodes = Vec::new();
    for n in 0..gateways {
        nodes.push(entry(Role::Gateway, n, &mut rng));
    }
    for layer in Layer::ALL {
        for n in 0..width {
            let number = 100 + 100 * u16::from(layer.number()) + n;
            nodes.push(NodeEntry { layer: Some(layer), ..entry(Role::Mix, number, &mut rng) });
        }
    }
    for n in 0..stores {
        nodes.push(NodeEntry { store_index: Some(StoreIndex(n)), ..entry(Role::Store, 500 + n, &mut rng) });
    }
    nodes.sort_by_key(|node| node.identity);
    Consensus {
        version: CONSENSUS_FORMAT,
        network: NETWORK,
        height: 12,
        epoch: EPOCH,
        previous: Hash::from_bytes([2; 32]),
        valid_from: schedule.start(EPOCH),
        valid_until: schedule.start(EPOCH.plus(EPOCHS_COVERED)),
        parameters,
        previous_mean_delay_ms: parameters.mean_delay_ms,
        mean_delay_since: Epoch(3),
        authorities: vec![authority().public().clone()],
        addresses: vec![AuthorityAddress { authority: 0, address: SocketAddr::from(([127, 0, 0, 1], 3999)) }],
        nodes,
        absent: Vec::new(),
        suspects: Vec::new(),
        next_store_index: stores,
        generations: vec![Generation {
            number: 2,
            since: Epoch(33),
            retired: None,
            seed: [6; 32],
            stores: (0..stores).map(StoreIndex).collect(),
        }],
        randomness: [6; 32],
        draw: DrawState { number: 3, ..DrawState::default() },
        commitments: vec![Commitment { authority: 0, hash: Hash::from_bytes([7; 32]) }],
        reveals: Vec::new(),
        lists: vec![ListHash { authority: 0, hash: Hash::from_bytes([9; 32]) }],
    }
}

/// The document as a reader holds it that has verified it.
pub(crate) fn held(document: &Consensus) -> Arc<VerifiedConsensus> {
    let bytes = certify(document, 0, &[(0, &authority())]);
    let parsed = UnverifiedConsensus::parse(&bytes).expect("a good document");
    let anchor = TrustAnchor { network: NETWORK, authorities: vec![authority().public().clone()] };
    Arc::new(parsed.verify_any_time(&anchor).expect("certified"))
}

/// The document one epoch after: every node has one new key, everything else is as before.
pub(crate) fn after(old: &VerifiedConsensus, rng: &mut StdRng) -> Consensus {
    let mut next = Consensus::clone(old);
    next.height += 1;
    next.epoch = old.epoch.plus(1);
    next.previous = old.hash();
    next.valid_from.0 += old.parameters.epoch_ms;
    next.valid_until.0 += old.parameters.epoch_ms;
    for node in &mut next.nodes {
        let last = next.epoch.plus(EPOCHS_COVERED - 1);
        for keys in [&mut node.mix_keys, &mut node.envelope_keys] {
            if !keys.is_empty() {
                keys.retain(|(epoch, _)| *epoch >= next.epoch);
                keys.push((last, X25519Secret::generate(rng).public()));
            }
        }
    }
    next.lists = vec![ListHash { authority: 0, hash: Hash::from_bytes(rng.random()) }];
    next
}

/// Documents of consecutive epochs.
pub(crate) fn chain(count: usize) -> Vec<Arc<VerifiedConsensus>> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut documents = vec![held(&consensus(2, 2, 3))];
    while documents.len() < count {
        let last = documents.last().expect("not empty");
        documents.push(held(&after(last, &mut rng)));
    }
    documents
}
