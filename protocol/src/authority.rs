//! Signatures of directory authorities: Ed25519 ‖ ML-DSA-44 as one signature.
//!
//! Both halves must verify. Today's forger fails at either; one with a quantum computer still fails at ML-DSA, so
//! recorded certificates stay proofs.

use std::fmt;

use ml_dsa::signature::Keypair as _;
use ml_dsa::{MlDsa44, Signature as MlSignature, SigningKey as MlSigningKey, VerifyingKey as MlVerifyingKey};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::types::{Hash, Identity, IdentityKey};

/// Size of an encoded ML-DSA-44 verification key (FIPS 204, table 2).
pub const ML_DSA_PUBLIC_SIZE: usize = 1312;
/// Size of an ML-DSA-44 signature (FIPS 204, table 2).
pub const ML_DSA_SIGNATURE_SIZE: usize = 2420;
/// Size of the one signature: Ed25519 (64) ‖ ML-DSA-44.
pub const HYBRID_SIGNATURE_SIZE: usize = 64 + ML_DSA_SIGNATURE_SIZE;
/// Size of an authority's secret: Ed25519 seed (32) ‖ ML-DSA seed (32).
pub const AUTHORITY_SECRET_SIZE: usize = 64;

/// The public keys of one authority. The identity is also its TLS raw public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityKey {
    /// Ed25519 half.
    pub identity: Identity,
    /// ML-DSA-44 half, encoded.
    #[serde(with = "hex_public")]
    pub ml_dsa: [u8; ML_DSA_PUBLIC_SIZE],
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityKey").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl AuthorityKey {
    /// Whether `signature` over `message` was made under `context` by the holder of both secrets.
    #[must_use]
    pub fn verify(&self, context: &'static str, message: &[u8], signature: &HybridSignature) -> bool {
        let bound = self.bind(message);
        let (classical, post_quantum) = signature.halves();
        // Any 1,312 bytes decode to some key; a wrong one only ever fails to verify.
        let key = MlVerifyingKey::<MlDsa44>::decode(&self.ml_dsa.into());
        self.identity.verify(context, &bound, classical)
            && MlSignature::<MlDsa44>::try_from(post_quantum)
                .is_ok_and(|parsed| key.verify_with_context(&bound, context.as_bytes(), &parsed))
    }

    /// Both halves sign the pair of keys beside the message, so that a half is worthless in any other pair.
    fn bind(&self, message: &[u8]) -> Vec<u8> {
        let mut keys = self.identity.as_bytes().to_vec();
        keys.extend_from_slice(&self.ml_dsa);
        let mut bound = Hash::of("shoal/1 authority key", &keys).as_bytes().to_vec();
        bound.extend_from_slice(message);
        bound
    }
}

/// Ed25519 signature ‖ ML-DSA-44 signature.
#[derive(Clone, PartialEq, Eq)]
pub struct HybridSignature(Box<[u8; HYBRID_SIGNATURE_SIZE]>);

/// Bytes that are not exactly one hybrid signature long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a signature of an authority is {HYBRID_SIGNATURE_SIZE} bytes")]
pub struct WrongSignatureLength;

impl HybridSignature {
    /// Takes exactly [`HYBRID_SIGNATURE_SIZE`] bytes; whether they verify is [`AuthorityKey::verify`]'s business.
    ///
    /// # Errors
    /// Any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, WrongSignatureLength> {
        let exact: Box<[u8]> = bytes.into();
        exact.try_into().map(Self).map_err(|_| WrongSignatureLength)
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; HYBRID_SIGNATURE_SIZE] {
        &self.0
    }

    fn halves(&self) -> (&[u8; 64], &[u8]) {
        let (classical, post_quantum) =
            self.0.split_first_chunk::<64>().expect("a hybrid signature is longer than 64 bytes by its type");
        (classical, post_quantum)
    }
}

impl fmt::Debug for HybridSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HybridSignature(..)")
    }
}

/// The secrets of one authority.
pub struct AuthoritySecret {
    identity: IdentityKey,
    ml_dsa: MlSigningKey<MlDsa44>,
    public: AuthorityKey,
}

impl fmt::Debug for AuthoritySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthoritySecret(of {}, secret redacted)", self.public.identity)
    }
}

impl AuthoritySecret {
    /// Fresh keys.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seeds = Zeroizing::new([0; AUTHORITY_SECRET_SIZE]);
        rng.fill_bytes(&mut *seeds);
        Self::from_bytes(&seeds)
    }

    /// The keys of stored seeds: Ed25519 (32) ‖ ML-DSA-44 (32).
    #[must_use]
    pub fn from_bytes(seeds: &[u8; AUTHORITY_SECRET_SIZE]) -> Self {
        let mut classical = [0; 32];
        let mut post_quantum = [0; 32];
        classical.copy_from_slice(&seeds[..32]);
        post_quantum.copy_from_slice(&seeds[32..]);
        let identity = IdentityKey::from_seed(&classical);
        let ml_dsa = MlSigningKey::<MlDsa44>::from_seed(&post_quantum.into());
        classical.zeroize();
        post_quantum.zeroize();
        let public = AuthorityKey { identity: identity.identity(), ml_dsa: ml_dsa.verifying_key().encode().into() };
        Self { identity, ml_dsa, public }
    }

    /// The seeds that [`Self::from_bytes`] takes.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; AUTHORITY_SECRET_SIZE]> {
        let mut seeds = Zeroizing::new([0; AUTHORITY_SECRET_SIZE]);
        seeds[..32].copy_from_slice(&*self.identity.seed());
        seeds[32..].copy_from_slice(self.ml_dsa.as_seed());
        seeds
    }

    /// The public keys.
    #[must_use]
    pub fn public(&self) -> &AuthorityKey {
        &self.public
    }

    /// The Ed25519 half, which is also the key of the authority's links.
    #[must_use]
    pub fn identity_key(&self) -> &IdentityKey {
        &self.identity
    }

    /// Signs `message` for one purpose; `context` keeps purposes apart and is at most 255 bytes.
    #[must_use]
    pub fn sign(&self, context: &'static str, message: &[u8]) -> HybridSignature {
        let bound = self.public.bind(message);
        let classical = self.identity.sign(context, &bound);
        let post_quantum = self
            .ml_dsa
            .expanded_key()
            .sign_deterministic(&bound, context.as_bytes())
            .expect("contexts are short literals, and rejection sampling ends (FIPS 204, section 6.2)")
            .encode();
        let mut bytes = Box::new([0; HYBRID_SIGNATURE_SIZE]);
        bytes[..64].copy_from_slice(&classical);
        bytes[64..].copy_from_slice(&post_quantum);
        HybridSignature(bytes)
    }
}

/// How many of `n` authorities must sign: 2f+1 of n = 3f+1.
#[must_use]
pub fn quorum(n: usize) -> usize {
    n - n.saturating_sub(1) / 3
}

/// An ML-DSA key as hexadecimal digits in TOML and JSON, for `#[serde(with)]`.
pub mod hex_public {
    use super::ML_DSA_PUBLIC_SIZE;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(key: &[u8; ML_DSA_PUBLIC_SIZE], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(key))
    }

    /// Reads them.
    ///
    /// # Errors
    /// Not as many hexadecimal digits as a key has.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; ML_DSA_PUBLIC_SIZE], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut key = [0; ML_DSA_PUBLIC_SIZE];
        hex::decode_to_slice(text, &mut key)
            .map_err(|_| D::Error::custom(format!("expected {} hexadecimal digits", 2 * ML_DSA_PUBLIC_SIZE)))?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    const CONTEXT: &str = "shoal/1 test";

    #[test]
    fn both_halves_must_verify() {
        let secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
        let signature = secret.sign(CONTEXT, b"document");
        assert!(secret.public().verify(CONTEXT, b"document", &signature));
        assert!(!secret.public().verify(CONTEXT, b"documenu", &signature));
        assert!(!secret.public().verify("shoal test 2", b"document", &signature));
        for position in [0, 63, 64, HYBRID_SIGNATURE_SIZE - 1] {
            let mut bytes = *signature.as_bytes();
            bytes[position] ^= 1;
            let bent = HybridSignature::from_slice(&bytes).expect("length");
            assert!(!secret.public().verify(CONTEXT, b"document", &bent), "byte {position}");
        }
    }

    #[test]
    fn a_half_is_worthless_in_another_pair() {
        let mut rng = StdRng::seed_from_u64(2);
        let (one, two) = (AuthoritySecret::generate(&mut rng), AuthoritySecret::generate(&mut rng));
        let mut bytes = *one.sign(CONTEXT, b"m").as_bytes();
        bytes[64..].copy_from_slice(&two.sign(CONTEXT, b"m").as_bytes()[64..]);
        let spliced = AuthorityKey { identity: one.public().identity, ml_dsa: two.public().ml_dsa };
        assert!(!spliced.verify(CONTEXT, b"m", &HybridSignature::from_slice(&bytes).expect("length")));
    }

    #[test]
    fn stored_seeds_give_the_same_keys() {
        let secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(3));
        assert_eq!(AuthoritySecret::from_bytes(&secret.to_bytes()).public(), secret.public());
        assert!(!format!("{secret:?}").contains(&hex::encode(&secret.to_bytes()[..32])));
    }

    #[test]
    fn quorums() {
        assert_eq!([1, 2, 3, 4, 7, 10].map(quorum), [1, 2, 3, 3, 5, 7]);
    }
}
