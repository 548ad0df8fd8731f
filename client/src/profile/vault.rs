//! Encryption at rest: everything in the database but small numbers is sealed under the profile's key.
//!
//! Sealing is deterministic (the nonce is a keyed hash of context and plaintext), because OpenMLS looks its rows up by
//! serialised keys, and so do we: equal plaintexts of one context give equal ciphertexts, which is all that a thief of
//! the file without the key file learns beside lengths and counts.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use openmls_sqlite_storage::Codec;
use rand::CryptoRng;
use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use zeroize::Zeroizing;

const ENCRYPTION: &str = "shoal/1 profile encryption key";
const NONCE: &str = "shoal/1 profile nonce key";
const NONCE_SIZE: usize = 24;
/// Context of what OpenMLS stores.
const MLS: &str = "mls";

/// The keys that seal a profile. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct Vault {
    encryption: Zeroizing<[u8; 32]>,
    nonce: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(redacted)")
    }
}

/// A sealed value does not open: wrong key, wrong context, or changed on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open")]
pub struct NotSealedHere;

impl Vault {
    /// The vault of a stored profile key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            encryption: Zeroizing::new(blake3::derive_key(ENCRYPTION, key)),
            nonce: Zeroizing::new(blake3::derive_key(NONCE, key)),
        }
    }

    /// A fresh profile key.
    pub fn fresh_key(rng: &mut impl CryptoRng) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *key);
        key
    }

    /// Seals a value for one context (a table's column): nonce 24, ciphertext, tag 16.
    #[must_use]
    pub fn seal(&self, context: &'static str, plaintext: &[u8]) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce);
        hasher.update(&(context.len() as u64).to_be_bytes()).update(context.as_bytes()).update(plaintext);
        let mut nonce = [0; NONCE_SIZE];
        hasher.finalize_xof().fill(&mut nonce);
        let cipher = XChaCha20Poly1305::new(&(*self.encryption).into());
        let mut sealed = nonce.to_vec();
        let ciphertext = cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: context.as_bytes() })
            .expect("XChaCha20-Poly1305 refuses only above 256 GiB, and nothing here is above BLOB_SIZE_MAX");
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Opens what is so many bytes.
    ///
    /// # Errors
    /// As [`Vault::open`], also when it is of another length.
    pub fn open_array<const N: usize>(
        &self,
        context: &'static str,
        sealed: &[u8],
    ) -> Result<Zeroizing<[u8; N]>, NotSealedHere> {
        let opened = self.open(context, sealed)?;
        Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| NotSealedHere)?))
    }

    /// Opens what [`Vault::seal`] made for the same context.
    ///
    /// # Errors
    /// When it does not open.
    pub fn open(&self, context: &'static str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotSealedHere> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_SIZE).ok_or(NotSealedHere)?;
        let nonce: [u8; NONCE_SIZE] = nonce.try_into().map_err(|_| NotSealedHere)?;
        XChaCha20Poly1305::new(&(*self.encryption).into())
            .decrypt(&XNonce::from(nonce), Payload { msg: ciphertext, aad: context.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| NotSealedHere)
    }

    /// Makes this vault the one that [`SealedCbor`] uses on this thread until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Entered {
        let before = ENTERED.with(|slot| slot.borrow_mut().replace(self.clone()));
        Entered { before, not_send: PhantomData }
    }
}

thread_local! {
    /// OpenMLS's storage takes its codec as a type without a value, so the key must reach it from the side. Operations
    /// on a group run from start to end on one thread, inside one guard.
    static ENTERED: RefCell<Option<Vault>> = const { RefCell::new(None) };
}

/// While it lives, [`SealedCbor`] on this thread seals for one vault. Guards nest; it cannot leave its thread.
#[derive(Debug)]
pub struct Entered {
    before: Option<Vault>,
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.with(|slot| *slot.borrow_mut() = self.before.take());
    }
}

/// How OpenMLS's values lie on disk: CBOR, sealed for the entered vault. A group's secrets are mostly bytes,
/// which JSON would write as numbers: four times as long, and read for each message.
#[derive(Clone, Copy, Debug, Default)]
pub struct SealedCbor;

/// Why a value of OpenMLS could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SealedCborError {
    /// No vault was entered on this thread: a mistake of the program.
    #[error("no vault was entered")]
    NoVault,
    /// The value cannot be written.
    #[error(transparent)]
    Write(#[from] minicbor_serde::error::EncodeError<Infallible>),
    /// The value is no CBOR of the expected type.
    #[error(transparent)]
    Read(#[from] minicbor_serde::error::DecodeError),
    /// The value does not open.
    #[error(transparent)]
    Sealed(#[from] NotSealedHere),
}

impl Codec for SealedCbor {
    type Error = SealedCborError;

    fn to_vec<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Self::Error> {
        let plaintext = Zeroizing::new(minicbor_serde::to_vec(value)?);
        ENTERED
            .with(|slot| slot.borrow().as_ref().map(|vault| vault.seal(MLS, &plaintext)))
            .ok_or(SealedCborError::NoVault)
    }

    fn from_slice<T: serde::de::DeserializeOwned>(sealed: &[u8]) -> Result<T, Self::Error> {
        let plaintext = ENTERED
            .with(|slot| slot.borrow().as_ref().map(|vault| vault.open(MLS, sealed)))
            .ok_or(SealedCborError::NoVault)??;
        Ok(minicbor_serde::from_slice(&plaintext)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sealing_is_deterministic_and_opens(plaintext in proptest::collection::vec(any::<u8>(), 0..300), key: [u8; 32]) {
            let vault = Vault::new(&key);
            let sealed = vault.seal("a", &plaintext);
            prop_assert_eq!(&sealed, &vault.seal("a", &plaintext));
            prop_assert_eq!(vault.open("a", &sealed).unwrap().to_vec(), plaintext.clone());
            prop_assert!(vault.open("b", &sealed).is_err());
            prop_assert!(Vault::new(&[!key[0]; 32]).open("a", &sealed).is_err());
            prop_assert_ne!(vault.seal("b", &plaintext), sealed);
        }
    }

    #[test]
    fn a_flipped_bit_does_not_open() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.seal("a", b"plaintext");
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(vault.open("a", &changed).is_err());
        }
    }

    #[test]
    fn the_codec_follows_the_entered_vault() {
        assert!(matches!(SealedCbor::to_vec(&1u8), Err(SealedCborError::NoVault)));
        let (one, two) = (Vault::new(&[1; 32]), Vault::new(&[2; 32]));
        let outer = one.enter();
        let sealed = SealedCbor::to_vec(&"text").unwrap();
        {
            let _inner = two.enter();
            assert!(SealedCbor::from_slice::<String>(&sealed).is_err());
        }
        assert_eq!(SealedCbor::from_slice::<String>(&sealed).unwrap(), "text");
        drop(outer);
        assert!(matches!(SealedCbor::from_slice::<String>(&sealed), Err(SealedCborError::NoVault)));
    }
}
