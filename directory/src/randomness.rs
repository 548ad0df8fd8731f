//! Shared randomness by commit and reveal.
//!
//! A draw is numbered. Every document carries each authority's commitment to its value for the next draw; the document
//! that draws carries the values, and counts only those that an earlier commitment covers. Nobody, the authority of a
//! private network included, can choose a value after it has seen who was admitted.

use shoal_protocol::Hash;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Commitment, Reveal};
use zeroize::Zeroizing;

/// The value that the holder of `secret` reveals for draw `number`: a pseudorandom function of the secret, so a restart
/// neither loses nor changes it.
#[must_use]
pub fn reveal(secret: &AuthoritySecret, network: &Hash, number: u32) -> [u8; 32] {
    let mut message = Vec::with_capacity(36);
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&number.to_be_bytes());
    let key = Zeroizing::new(blake3::derive_key("shoal/1 directory reveal key", &*secret.to_bytes()));
    *blake3::keyed_hash(&key, &message).as_bytes()
}

/// Hash that commits authority `authority` to revealing `value` for draw `number`.
#[must_use]
pub fn commitment(network: &Hash, number: u32, authority: u16, value: &[u8; 32]) -> Hash {
    let mut message = Vec::with_capacity(70);
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&number.to_be_bytes());
    message.extend_from_slice(&authority.to_be_bytes());
    message.extend_from_slice(value);
    Hash::of("shoal/1 directory commitment", &message)
}

/// The reveals that count for draw `number`: those whose commitment the document before carries. Before genesis nothing
/// was committed, and all count.
#[must_use]
pub fn counted(network: &Hash, number: u32, committed: Option<&[Commitment]>, reveals: &[Reveal]) -> Vec<Reveal> {
    let counts = |reveal: &&Reveal| {
        committed.is_none_or(|committed| {
            let hash = commitment(network, number, reveal.authority, &reveal.value);
            committed.iter().any(|entry| entry.authority == reveal.authority && entry.hash == hash)
        })
    };
    reveals.iter().filter(counts).cloned().collect()
}

/// Seed of draw `number`: hash of genesis hash, number, randomness of the draw before (zeros for the first) and every
/// reveal that counts, in the order of the authorities.
#[must_use]
pub fn seed(network: &Hash, number: u32, previous: &[u8; 32], reveals: &[Reveal]) -> [u8; 32] {
    let mut message = Vec::with_capacity(68 + 34 * reveals.len());
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&number.to_be_bytes());
    message.extend_from_slice(previous);
    for reveal in reveals {
        message.extend_from_slice(&reveal.authority.to_be_bytes());
        message.extend_from_slice(&reveal.value);
    }
    *Hash::of("shoal/1 directory draw", &message).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    const NETWORK: Hash = Hash::from_bytes([3; 32]);

    #[test]
    fn reveals_depend_on_secret_network_and_number_only() {
        let secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
        let again = AuthoritySecret::from_bytes(&secret.to_bytes());
        let value = reveal(&secret, &NETWORK, 1);
        assert_eq!(reveal(&again, &NETWORK, 1), value);
        assert_ne!(reveal(&secret, &NETWORK, 2), value);
        assert_ne!(reveal(&secret, &Hash::from_bytes([4; 32]), 1), value);
        let other = AuthoritySecret::generate(&mut StdRng::seed_from_u64(2));
        assert_ne!(reveal(&other, &NETWORK, 1), value);
    }

    #[test]
    fn only_committed_values_count() {
        let good = Reveal { authority: 0, value: [1; 32] };
        let changed = Reveal { authority: 1, value: [9; 32] };
        let committed: Vec<_> = [(0, [1; 32]), (1, [2; 32])]
            .map(|(authority, value)| Commitment { authority, hash: commitment(&NETWORK, 7, authority, &value) })
            .into();
        let reveals = [good.clone(), changed];
        assert_eq!(counted(&NETWORK, 7, Some(&committed), &reveals), vec![good]);
        assert!(counted(&NETWORK, 8, Some(&committed), &reveals).is_empty(), "committed for another draw");
        assert_eq!(counted(&NETWORK, 7, None, &reveals).len(), 2);
    }

    #[test]
    fn every_input_changes_the_seed() {
        let reveals = [Reveal { authority: 0, value: [1; 32] }];
        let base = seed(&NETWORK, 1, &[0; 32], &reveals);
        assert_ne!(seed(&NETWORK, 2, &[0; 32], &reveals), base);
        assert_ne!(seed(&NETWORK, 1, &[1; 32], &reveals), base);
        assert_ne!(seed(&NETWORK, 1, &[0; 32], &[]), base);
        assert_ne!(seed(&NETWORK, 1, &[0; 32], &[Reveal { authority: 0, value: [2; 32] }]), base);
    }
}
