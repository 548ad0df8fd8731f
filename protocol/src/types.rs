//! The small types everybody shares: identities, epochs, times, roles, layers, hashes.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use minicbor::{Decode, Encode};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use zeroize::Zeroizing;

/// Long-term Ed25519 public key of a node or an authority: also its TLS raw public key and its 32-byte Sphinx address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Identity(#[cbor(with = "minicbor::bytes")] [u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits (32 bytes)")]
pub struct NotHex32;

fn parse_hex32(text: &str) -> Result<[u8; 32], NotHex32> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| NotHex32)?;
    Ok(bytes)
}

macro_rules! hex32 {
    ($name:ident) => {
        impl $name {
            /// Wraps 32 bytes as they are.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }
        impl FromStr for $name {
            type Err = NotHex32;
            fn from_str(text: &str) -> Result<Self, NotHex32> {
                parse_hex32(text).map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use hex32;
hex32!(Identity);
hex32!(Hash);

impl Identity {
    /// Checks a signature made by [`IdentityKey::sign`] with the same context. Strict: no small-order keys, no second
    /// encodings.
    pub fn verify(&self, context: &'static str, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(&domain(context, message), &Signature::from_bytes(signature)).is_ok())
    }
}

/// What is signed for a message: the context's length and text, then the message, so that no context can be another's
/// prefix.
fn domain(context: &'static str, message: &[u8]) -> Vec<u8> {
    // contexts are literals of this project, far below 256 bytes; a longer one is cut and still separated by its text
    let length = u8::try_from(context.len()).unwrap_or(u8::MAX);
    let mut signed = Vec::with_capacity(1 + context.len() + message.len());
    signed.push(length);
    signed.extend_from_slice(context.as_bytes());
    signed.extend_from_slice(message);
    signed
}

/// Secret half of an [`Identity`]. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct IdentityKey(SigningKey);

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey(of {}, secret redacted)", self.identity())
    }
}

impl IdentityKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self(SigningKey::from_bytes(&seed))
    }
    /// The key of a stored seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
    /// The 32 bytes that [`IdentityKey::from_seed`] takes.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
    /// The public half.
    pub fn identity(&self) -> Identity {
        Identity(self.0.verifying_key().to_bytes())
    }
    /// Signs `message` for one purpose; `context` keeps purposes apart.
    pub fn sign(&self, context: &'static str, message: &[u8]) -> [u8; 64] {
        self.0.sign(&domain(context, message)).to_bytes()
    }
    /// The key itself, for TLS.
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

/// BLAKE3 hash for one purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Hash(#[cbor(with = "minicbor::bytes")] [u8; 32]);

impl Hash {
    /// BLAKE3 in derive-key mode: equal inputs under two contexts give unrelated hashes.
    pub fn of(context: &'static str, message: &[u8]) -> Self {
        Self(blake3::derive_key(context, message))
    }
}

/// Number of an epoch, counted from the network's genesis time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize, Default)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Epoch(#[n(0)] pub u64);

impl Epoch {
    /// The epoch `n` later; saturates.
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
    /// The epoch `n` earlier; stops at zero.
    pub const fn minus(self, n: u64) -> Self {
        Self(self.0.saturating_sub(n))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall-clock time: milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize, Default)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct UnixMillis(#[n(0)] pub u64);

impl UnixMillis {
    /// Later by `duration` (whole milliseconds); saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
    /// Earlier by `duration`; stops at zero.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Index of a store: given at admission, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct StoreIndex(#[n(0)] pub u16);

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Entry of clients; keeps nothing for anyone.
    #[n(0)]
    Gateway,
    /// One of the three layers.
    #[n(1)]
    Mix,
    /// Keeps boxes and inboxes.
    #[n(2)]
    Store,
}

/// A text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of: gateway, mix, store")]
pub struct NotARole;

impl FromStr for Role {
    type Err = NotARole;
    fn from_str(text: &str) -> Result<Self, NotARole> {
        match text {
            "gateway" => Ok(Self::Gateway),
            "mix" => Ok(Self::Mix),
            "store" => Ok(Self::Store),
            _ => Err(NotARole),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Mix => "mix",
            Self::Store => "store",
        })
    }
}

/// A layer of the stratified topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
pub enum Layer {
    /// First layer, reached from gateways and stores.
    #[n(1)]
    L1,
    /// Second layer.
    #[n(2)]
    L2,
    /// Third layer, from which packets leave to stores and gateways.
    #[n(3)]
    L3,
}

impl Layer {
    /// The layers in the order a packet passes them.
    pub const ALL: [Self; 3] = [Self::L1, Self::L2, Self::L3];
    /// 1, 2 or 3.
    pub const fn number(self) -> u8 {
        match self {
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.number())
    }
}
