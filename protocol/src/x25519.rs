//! X25519 keys: mix keys, envelope keys, a client's session keys.

use crate::types::{NotHex32, hex32};
use minicbor::{Decode, Encode};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq as _;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Public half of an [`X25519Secret`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct X25519Public(#[cbor(with = "minicbor::bytes")] [u8; 32]);
hex32!(X25519Public);

fn parse_hex32(text: &str) -> Result<[u8; 32], NotHex32> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| NotHex32)?;
    Ok(bytes)
}

/// The prime 2^255 − 19, little endian: the first value that is not canonical.
const PRIME: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

/// The canonical u-coordinates of points of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748 §6.1 warns of
/// them): every secret key gives the all-zero shared secret with them.
const LOW_ORDER: [[u8; 32]; 5] = {
    let mut minus_one = PRIME;
    minus_one[0] = 0xec;
    let mut one = [0; 32];
    one[0] = 1;
    [
        [0; 32],
        one,
        minus_one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ]
};

/// A u-coordinate that is not canonical or of low order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical X25519 point of large order")]
pub struct BadPoint;

impl X25519Public {
    /// Takes 32 bytes only if they are the canonical encoding (bit 255 clear, value below the prime) of a point that is
    /// not of low order. Several alphas of one secret, and secrets that anyone can compute, are refused here.
    pub fn parse(bytes: [u8; 32]) -> Result<Self, BadPoint> {
        let below_prime = bytes.iter().rev().cmp(PRIME.iter().rev()).is_lt();
        if !below_prime || LOW_ORDER.contains(&bytes) { Err(BadPoint) } else { Ok(Self(bytes)) }
    }
}

/// An X25519 secret key. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct X25519Secret(StaticSecret);

impl fmt::Debug for X25519Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("X25519Secret(redacted)")
    }
}

impl X25519Secret {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self(StaticSecret::from(*bytes))
    }
    /// The key of stored bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(StaticSecret::from(*bytes))
    }
    /// The bytes that [`X25519Secret::from_bytes`] takes.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
    /// The public half.
    pub fn public(&self) -> X25519Public {
        X25519Public(PublicKey::from(&self.0).to_bytes())
    }
    /// The shared secret, or `None` if the other key is of low order (the secret would not depend on ours).
    pub fn diffie_hellman(&self, other: &X25519Public) -> Option<Zeroizing<[u8; 32]>> {
        let shared = Zeroizing::new(self.0.diffie_hellman(&PublicKey::from(other.0)).to_bytes());
        if bool::from(shared.ct_eq(&[0; 32])) { None } else { Some(shared) }
    }
    /// The key as the Sphinx crate takes it.
    pub(crate) fn inner(&self) -> &StaticSecret {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn every_listed_point_is_of_low_order_and_refused() {
        let secret = X25519Secret::generate(&mut StdRng::seed_from_u64(1));
        for bytes in LOW_ORDER {
            assert!(secret.diffie_hellman(&X25519Public(bytes)).is_none());
            assert_eq!(X25519Public::parse(bytes), Err(BadPoint));
        }
    }

    #[test]
    fn the_whole_torsion_subgroup_is_listed() {
        for point in curve25519_dalek::constants::EIGHT_TORSION {
            assert!(LOW_ORDER.contains(&point.to_montgomery().0), "{point:?}");
        }
    }

    #[test]
    fn other_encodings_are_refused() {
        let public = X25519Secret::generate(&mut StdRng::seed_from_u64(2)).public();
        assert_eq!(X25519Public::parse(public.0), Ok(public));
        let mut high_bit = public.0;
        high_bit[31] |= 0x80;
        assert_eq!(X25519Public::parse(high_bit), Err(BadPoint));
        // p + 2 … p + 18 encode 2 … 18 a second time
        for extra in 0..19u8 {
            let mut other = PRIME;
            other[0] = other[0].wrapping_add(extra);
            assert_eq!(X25519Public::parse(other), Err(BadPoint));
        }
    }
}
