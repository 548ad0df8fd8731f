//! Letters: what a stranger appends to an inbox, a pointer to a Welcome, sealed to the owner's pointer key.
//!
//! The seal is a hybrid of X25519 and ML-KEM-768: a letter lies in a store for weeks, and who wrote it must stay unknown
//! also to a later quantum computer.
//!
//! ```text
//! X25519 key 32 ‖ ML-KEM ciphertext 1,088 ‖ ChaCha20-Poly1305( length 2 ‖ pointer ‖ zeros ) 680    = BOX_SIZE 1,800
//! key = BLAKE3-KDF( dh ‖ kem secret ‖ the two above ‖ both public keys ), nonce 0: one key seals one letter
//! ```

use crate::blobs::Manifest;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use minicbor::{Decode, Encode};
use ml_kem::kem::{Decapsulate as _, Encapsulate as _, KeyExport as _};
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use rand::CryptoRng;
use shoal_protocol::boxes::BoxBody;
use shoal_protocol::geometry::{BOX_SIZE, TAG_SIZE};
use shoal_protocol::{X25519Public, X25519Secret};
use std::fmt;
use zeroize::Zeroizing;

/// Size of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub const KEM_PUBLIC_SIZE: usize = 1_184;
/// Size of an ML-KEM-768 ciphertext.
const KEM_CIPHERTEXT_SIZE: usize = 1_088;
/// Room for length and pointer.
const CONTENT_SIZE: usize = BOX_SIZE - 32 - KEM_CIPHERTEXT_SIZE - TAG_SIZE;
/// Version of what a letter says; MLS suite 0x004E has a provisional code point, so the envelope around it counts.
const VERSION: u8 = 1;
const KEY: &str = "shoal/1 letter key";

/// What a letter says: where the Welcome lies.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pointer {
    #[n(0)]
    version: u8,
    /// Generation of stores by which the Welcome's boxes are placed.
    #[n(1)]
    pub generation: u32,
    /// The Welcome.
    #[n(2)]
    pub manifest: Manifest,
}

impl Pointer {
    /// A pointer of this version.
    #[must_use]
    pub fn new(generation: u32, manifest: Manifest) -> Self {
        Self { version: VERSION, generation, manifest }
    }

    /// As letters and invites carry it.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // encoding fixed fields into a Vec cannot fail
        Zeroizing::new(minicbor::to_vec(self).unwrap_or_default())
    }

    /// What [`Pointer::to_bytes`] made; `None` also for what this version does not know.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let decoded: Self = decoder.decode().ok()?;
        (decoder.position() == bytes.len() && decoded.version == VERSION).then_some(decoded)
    }
}

/// Public half of a [`PointerKey`], as a card shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct PointerPublic {
    x25519: X25519Public,
    kem: Box<[u8; KEM_PUBLIC_SIZE]>,
}

impl fmt::Debug for PointerPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PointerPublic(…)")
    }
}

/// Bytes that are no pointer key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pointer key")]
pub struct BadPointerKey;

impl PointerPublic {
    /// Size of [`PointerPublic::to_bytes`].
    pub const SIZE: usize = 32 + KEM_PUBLIC_SIZE;

    /// Takes a canonical point and an encapsulation key that passes the modulus check of FIPS 203 §7.2.
    ///
    /// # Errors
    /// When either is not.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadPointerKey> {
        let (x25519, kem) = bytes.split_first_chunk::<32>().ok_or(BadPointerKey)?;
        let x25519 = X25519Public::parse(*x25519).map_err(|_| BadPointerKey)?;
        let kem: [u8; KEM_PUBLIC_SIZE] = kem.try_into().map_err(|_| BadPointerKey)?;
        EncapsulationKey::new(&kem.into()).map_err(|_| BadPointerKey)?;
        Ok(Self { x25519, kem: Box::new(kem) })
    }

    /// X25519 key, then ML-KEM key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.x25519.as_bytes().as_slice(), self.kem.as_slice()].concat()
    }
}

/// The key to which letters are sealed; renewed with every card. Zeroized on drop; never printed.
pub struct PointerKey {
    x25519: X25519Secret,
    /// FIPS 203's d ‖ z.
    kem_seed: Zeroizing<[u8; 64]>,
}

impl fmt::Debug for PointerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PointerKey(redacted)")
    }
}

impl PointerKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut kem_seed = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *kem_seed);
        Self { x25519: X25519Secret::generate(rng), kem_seed }
    }

    /// The key of stored bytes: X25519 secret 32, ML-KEM seed 64.
    ///
    /// # Errors
    /// When there are not 96 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadPointerKey> {
        let (x25519, seed) = bytes.split_first_chunk::<32>().ok_or(BadPointerKey)?;
        let kem_seed = Zeroizing::new(seed.try_into().map_err(|_| BadPointerKey)?);
        Ok(Self { x25519: X25519Secret::from_bytes(x25519), kem_seed })
    }

    /// What [`PointerKey::from_bytes`] takes.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.x25519.to_bytes().as_slice(), self.kem_seed.as_slice()].concat())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PointerPublic {
        let encoded = self.decapsulation_key().encapsulation_key().to_bytes();
        let mut kem = Box::new([0; KEM_PUBLIC_SIZE]);
        kem.copy_from_slice(&encoded);
        PointerPublic { x25519: self.x25519.public(), kem }
    }

    fn decapsulation_key(&self) -> DecapsulationKey {
        DecapsulationKey::from_seed((*self.kem_seed).into())
    }

    /// Opens a letter; `None` if it was not sealed to this key or says nothing that this version knows.
    #[must_use]
    pub fn open(&self, letter: &BoxBody) -> Option<Pointer> {
        let (ephemeral, rest) = letter.as_bytes().split_first_chunk::<32>()?;
        let (ciphertext, sealed) = rest.split_first_chunk::<KEM_CIPHERTEXT_SIZE>()?;
        let point = X25519Public::parse(*ephemeral).ok()?;
        let shared = self.x25519.diffie_hellman(&point)?;
        let kem_shared = self.decapsulation_key().decapsulate(&(*ciphertext).into());
        let key = letter_key(&shared, &kem_shared, ephemeral, ciphertext, &self.public());
        let content = Zeroizing::new(cipher(&key).decrypt(&Nonce::default(), sealed).ok()?);
        let (length, pointer) = content.split_first_chunk::<2>()?;
        Pointer::parse(pointer.get(..usize::from(u16::from_be_bytes(*length)))?)
    }
}

/// Seals a letter to a pointer key; `None` only if the other key is of low order, which [`PointerPublic::parse`]
/// refuses.
pub fn seal_letter(to: &PointerPublic, pointer: &Pointer, rng: &mut impl CryptoRng) -> Option<BoxBody> {
    let ephemeral = X25519Secret::generate(rng);
    let shared = ephemeral.diffie_hellman(&to.x25519)?;
    let kem = EncapsulationKey::new(&(*to.kem).into()).ok()?;
    let (ciphertext, kem_shared) = kem.encapsulate_with_rng(rng);
    let public = ephemeral.public();
    let key = letter_key(&shared, &kem_shared, public.as_bytes(), &ciphertext, to);
    let encoded = pointer.to_bytes();
    let mut content = Zeroizing::new(Vec::with_capacity(CONTENT_SIZE));
    content.extend_from_slice(&u16::try_from(encoded.len()).ok()?.to_be_bytes());
    content.extend_from_slice(&encoded);
    if content.len() > CONTENT_SIZE {
        return None;
    }
    content.resize(CONTENT_SIZE, 0);
    let sealed = cipher(&key).encrypt(&Nonce::default(), content.as_slice()).ok()?;
    BoxBody::from_slice(&[public.as_bytes().as_slice(), &ciphertext, &sealed].concat()).ok()
}

fn cipher(key: &Zeroizing<[u8; 32]>) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&(**key).into())
}

fn letter_key(
    shared: &[u8; 32],
    kem_shared: &[u8],
    ephemeral: &[u8; 32],
    ciphertext: &[u8],
    to: &PointerPublic,
) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(KEY);
    hasher.update(shared).update(kem_shared).update(ephemeral).update(ciphertext);
    hasher.update(to.x25519.as_bytes()).update(to.kem.as_slice());
    Zeroizing::new(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn only_the_owner_opens_a_letter() {
        let mut rng = StdRng::seed_from_u64(1);
        let (owner, other) = (PointerKey::generate(&mut rng), PointerKey::generate(&mut rng));
        let pointer = Pointer::new(7, Manifest::of(b"welcome", [9; 32]));
        let public = PointerPublic::parse(&owner.public().to_bytes()).unwrap();
        let letter = seal_letter(&public, &pointer, &mut rng).unwrap();
        let restored = PointerKey::from_bytes(&owner.to_bytes()).unwrap();
        assert_eq!(restored.open(&letter), Some(pointer.clone()));
        assert_eq!(other.open(&letter), None);
        assert_ne!(seal_letter(&public, &pointer, &mut rng).unwrap(), letter);
        assert_eq!(owner.open(&BoxBody::random(&mut rng)), None);
    }

    #[test]
    fn every_part_of_a_letter_is_bound() {
        let mut rng = StdRng::seed_from_u64(2);
        let owner = PointerKey::generate(&mut rng);
        let letter = seal_letter(&owner.public(), &Pointer::new(1, Manifest::of(b"", [0; 32])), &mut rng).unwrap();
        for position in [0, 31, 32, 700, 1_119, 1_120, 1_799] {
            let mut changed = *letter.as_bytes();
            changed[position] ^= 1;
            assert_eq!(owner.open(&BoxBody::from_slice(&changed).unwrap()), None, "byte {position}");
        }
    }

    #[test]
    fn broken_keys_are_refused() {
        let public = PointerKey::generate(&mut StdRng::seed_from_u64(3)).public().to_bytes();
        assert!(PointerPublic::parse(&public).is_ok());
        assert!(PointerPublic::parse(&public[..public.len() - 1]).is_err());
        let mut zero_point = public.clone();
        zero_point[..32].fill(0);
        assert!(PointerPublic::parse(&zero_point).is_err());
        let mut above_modulus = public;
        above_modulus[32..64].fill(0xff);
        assert!(PointerPublic::parse(&above_modulus).is_err());
    }
}
