//! What protects the key of a profile, and what opens it.

use super::passphrase::{Cost, Passphrase};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub(super) [u8; 16]);

        impl $name {
            /// A fresh one.
            pub fn random(rng: &mut impl CryptoRng) -> Self {
                let mut id = [0; 16];
                rng.fill_bytes(&mut id);
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
id! {
    /// Names a profile on its machine and says nothing about its owner: 16 random bytes, shown as hex.
    ProfileId
}
id! {
    /// Names one entry of a keyring: 16 random bytes, shown as hex.
    KeyringEntry
}

/// What the key of a profile is protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// The mode of the file, and nothing else.
    File,
    /// A passphrase.
    Passphrase,
    /// The keyring of the desktop session.
    Keyring,
}

/// A key that wraps the profile's key. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct WrappingKey(pub(super) Zeroizing<[u8; 32]>);

impl WrappingKey {
    /// A fresh one.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *key);
        Self(key)
    }
    /// One that a keyring or an exported profile kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
    /// Its bytes, for a keyring or an exported profile to keep.
    #[must_use]
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(redacted)")
    }
}

/// What opens a profile.
#[derive(Clone, Debug)]
pub enum Opener {
    /// Nothing more than its folder.
    File,
    /// Its passphrase.
    Passphrase(Passphrase),
    /// What the keyring kept for it.
    Keyring(WrappingKey),
}

impl Opener {
    /// What kind of protection it is for.
    #[must_use]
    pub fn protection(&self) -> Protection {
        match self {
            Self::File => Protection::File,
            Self::Passphrase(_) => Protection::Passphrase,
            Self::Keyring(_) => Protection::Keyring,
        }
    }
}

/// What shall protect a profile from now on.
#[derive(Clone, Debug)]
pub enum Protector {
    /// The mode of its file, for machines without people.
    File,
    /// A passphrase, at this cost.
    Passphrase(Passphrase, Cost),
    /// A keyring, which keeps this key under that entry already.
    Keyring(KeyringEntry, WrappingKey),
}

impl Protector {
    /// A keyring: an entry and a key that it is to keep before it protects anything.
    pub fn fresh_keyring(rng: &mut impl CryptoRng) -> (KeyringEntry, WrappingKey) {
        (KeyringEntry::random(rng), WrappingKey::random(rng))
    }
    /// What opens the profile again.
    #[must_use]
    pub fn opener(&self) -> Opener {
        match self {
            Self::File => Opener::File,
            Self::Passphrase(passphrase, _) => Opener::Passphrase(passphrase.clone()),
            Self::Keyring(_, key) => Opener::Keyring(key.clone()),
        }
    }
}
