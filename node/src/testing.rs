//! A document on paper, for unit tests.

use crate::io::setup::{self, InitRequest};
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Consensus, TrustAnchor, UnverifiedConsensus, VerifiedConsensus, certify};
use shoal_protocol::network::{Founding, Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::types::{Epoch, Hash, Role, UnixMillis};
use std::path::{Path, PathBuf};

/// The document of a height without a node, in an epoch of this number that begins at `start`.
pub(crate) fn content(height: u64, start: UnixMillis) -> Consensus {
    let parameters = Parameters::test_network();
    Consensus {
        height,
        previous: Hash::from_bytes([1; 32]),
        authorities: vec![AuthoritySecret::generate(&mut StdRng::seed_from_u64(1)).public().clone()],
        ..Consensus::blank(Hash::from_bytes([1; 32]), Epoch(height), start, parameters)
    }
}

/// A document that `by` certified.
pub(crate) fn certified(content: &Consensus, by: &AuthoritySecret) -> VerifiedConsensus {
    let anchor = TrustAnchor { network: content.network, authorities: vec![by.public().clone()] };
    let parsed = UnverifiedConsensus::parse(&certify(content, 0, &[(0, by)])).expect("well-formed");
    parsed.verify_any_time(&anchor).expect("certified")
}

/// The same, certified by its own authority.
pub(crate) fn document(height: u64, start: UnixMillis) -> VerifiedConsensus {
    certified(&content(height, start), &AuthoritySecret::generate(&mut StdRng::seed_from_u64(1)))
}

/// The network of that authority, with hints of where authorities are.
pub(crate) fn network(authorities: Vec<Hint>) -> NetworkFile {
    NetworkFile {
        name: "paper".into(),
        genesis_time: UnixMillis(1_750_000_000_000),
        authorities: vec![AuthoritySecret::generate(&mut StdRng::seed_from_u64(1)).public().clone()],
        parameters: Parameters::test_network(),
        founding: Founding::default(),
        hints: Hints { authorities, gateways: Vec::new() },
    }
}

/// The directory of a store that was just made, inside of `folder`.
pub(crate) fn store_node(folder: &Path) -> PathBuf {
    let given = folder.join("given.toml");
    std::fs::write(&given, network(Vec::new()).to_toml()).expect("written");
    let dir = folder.join("node");
    let request = InitRequest {
        network: given,
        role: Role::Store,
        address: "127.0.0.1:4433".to_owned(),
        listen: None,
        metrics: None,
        family: None,
        dir: dir.clone(),
    };
    setup::init(&request).expect("made");
    dir
}
