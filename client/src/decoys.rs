//! What decoys ask for: the next box of chains that do not exist (design §3).
//!
//! A replica sees box ids. A real reader asks for one id again and again, until the writer fills it, and then for the
//! next one, which nobody can link to it. Decoys do the same: a few imaginary chains, asked in random order, each id
//! several times and then never again. An id is made exactly as a real one is (a blinded Ed25519 key), because half of
//! all random 32-byte strings are no curve point and would give a decoy away.

use rand::{CryptoRng, RngExt as _};
use shoal_protocol::boxes::{self, BoxId, ChainSecret, WriteKey, WritePublic};
use shoal_protocol::parameters::Parameters;

/// Most imaginary chains: λ_P × hot poll mean is 4 in production and 2 in test networks; 16 leaves room for other
/// parameter sets.
const CHAINS_MAX: usize = 16;
/// An id is given up after this many polls on average (geometric): a peer in a lively conversation fills its next box
/// within about half a minute, 16 polls at the hot mean of 2 s.
const POLLS_PER_ID_MEAN: u32 = 16;
/// A chain is given up after this many ids on average (geometric): one epoch of a group.
const IDS_PER_CHAIN_MEAN: u32 = 32;

struct DecoyChain {
    writer: WritePublic,
    secret: ChainSecret,
    next: u64,
}

impl DecoyChain {
    fn new(rng: &mut impl CryptoRng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self { writer: WriteKey::generate(rng).public(), secret: ChainSecret::from_bytes(secret), next: 0 }
    }
}

/// The imaginary chains of one client.
#[derive(Default)]
pub struct DecoyChains {
    chains: Vec<DecoyChain>,
}

impl std::fmt::Debug for DecoyChains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecoyChains(redacted)")
    }
}

impl DecoyChains {
    /// The id that the next decoy asks for.
    pub fn next_id(&mut self, parameters: &Parameters, rng: &mut impl CryptoRng) -> BoxId {
        let wanted = chains_wanted(parameters);
        self.chains.truncate(wanted);
        while self.chains.len() < wanted {
            self.chains.push(DecoyChain::new(rng));
        }
        let index = rng.random_range(0..self.chains.len());
        let Some(chain) = self.chains.get_mut(index) else {
            // wanted ≥ 1, so there is a chain; an id of a chain used once is as good
            let chain = DecoyChain::new(rng);
            return boxes::id(&chain.writer, &chain.secret, 0);
        };
        let id = boxes::id(&chain.writer, &chain.secret, chain.next);
        if rng.random_ratio(1, POLLS_PER_ID_MEAN) {
            chain.next += 1;
            if rng.random_ratio(1, IDS_PER_CHAIN_MEAN) {
                *chain = DecoyChain::new(rng);
            }
        }
        id
    }
}

/// So many chains that each is polled about as often as a hot one while nothing real is sent.
fn chains_wanted(parameters: &Parameters) -> usize {
    let per_hot_gap = u64::from(parameters.lambda_p.0).saturating_mul(parameters.poll_hot_ms) / 1_000_000;
    usize::try_from(per_hot_gap).unwrap_or(CHAINS_MAX).clamp(1, CHAINS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use std::collections::BTreeMap;

    #[test]
    fn ids_are_asked_again_and_then_never_more() {
        let parameters = Parameters::production();
        assert_eq!(chains_wanted(&parameters), 4);
        let mut rng = StdRng::seed_from_u64(1);
        let mut chains = DecoyChains::default();
        let mut asked: BTreeMap<[u8; 32], (usize, usize, usize)> = BTreeMap::new();
        for n in 0..4_000 {
            let id = chains.next_id(&parameters, &mut rng);
            let seen = asked.entry(*id.as_bytes()).or_insert((0, n, n));
            seen.0 += 1;
            seen.2 = n;
        }
        let mean = 4_000.0 / asked.len() as f64;
        assert!((10.0..25.0).contains(&mean), "{mean}");
        // nothing is asked for hours: an id lives for about 16 polls of 4 chains
        assert!(asked.values().all(|(_, first, last)| last - first < 1_500));
    }
}
