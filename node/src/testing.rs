//! A document on paper, for unit tests.

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{
    CONSENSUS_FORMAT, Consensus, DrawState, EPOCHS_COVERED, TrustAnchor, UnverifiedConsensus, VerifiedConsensus,
    certify,
};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::types::{Epoch, Hash, UnixMillis};

/// The document of a height without a node, in an epoch of this number that begins at `start`.
pub(crate) fn content(height: u64, start: UnixMillis) -> Consensus {
    let parameters = Parameters::test_network();
    Consensus {
        version: CONSENSUS_FORMAT,
        network: Hash::from_bytes([1; 32]),
        height,
        epoch: Epoch(height),
        previous: Hash::from_bytes([1; 32]),
        valid_from: start,
        valid_until: UnixMillis(start.0 + EPOCHS_COVERED * parameters.epoch_ms),
        parameters,
        previous_mean_delay_ms: parameters.mean_delay_ms,
        mean_delay_since: Epoch(0),
        authorities: vec![AuthoritySecret::generate(&mut StdRng::seed_from_u64(1)).public().clone()],
        nodes: Vec::new(),
        absent: Vec::new(),
        next_store_index: 0,
        generations: Vec::new(),
        randomness: [0; 32],
        draw: DrawState::default(),
        commitments: Vec::new(),
        reveals: Vec::new(),
        lists: Vec::new(),
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
