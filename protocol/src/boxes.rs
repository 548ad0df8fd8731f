//! Boxes: ids, bodies, signatures, placement.
//!
//! A box id is an Ed25519 verification key made by blinding a writer's write key, as Tor does for onion services
//! (rend-spec-v3, key blinding): only the writer can fill the box, only those who know the chain secret can find it, and
//! two ids of one chain cannot be linked. The body is uniformly random to everybody else.

use crate::consensus::Generation;
use crate::geometry::{BOX_NONCE_SIZE, BOX_PLAINTEXT_SIZE, BOX_SIZE};
use crate::types::StoreIndex;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use rand::CryptoRng;
use sha2::Sha512;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const BLIND: &str = "shoal/1 box blinding factor";
const PREFIX: &str = "shoal/1 box nonce prefix";
const BODY: &str = "shoal/1 box body key";
const BLOB_WRITE: &str = "shoal/1 blob write key";
const BLOB_CHAIN: &str = "shoal/1 blob chain secret";
const INVITE_WRITE: &str = "shoal/1 invite write key";
const INVITE_CHAIN: &str = "shoal/1 invite chain";
const COMMIT_WRITE: &str = "shoal/1 commit write key";
const COMMIT_CHAIN: &str = "shoal/1 commit chain secret";
const PLACEMENT: &str = "shoal/1 box placement";
/// What a writer signs beside the body.
const WRITE_CONTEXT: &[u8] = b"shoal/1 box write";

/// The name of a box: an Ed25519 verification key. Not yet known to be a point; verification decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoxId([u8; 32]);

impl BoxId {
    /// Any 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

// a box id in a log would link a reader to a writer
impl fmt::Debug for BoxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxId(…)")
    }
}

/// The body of a box, [`BOX_SIZE`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct BoxBody(Box<[u8; BOX_SIZE]>);

impl fmt::Debug for BoxBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxBody(…)")
    }
}

impl BoxBody {
    /// Takes exactly [`BOX_SIZE`] bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, BoxError> {
        let exact: [u8; BOX_SIZE] = bytes.try_into().map_err(|_| BoxError::WrongLength(bytes.len()))?;
        Ok(Self(Box::new(exact)))
    }
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; BOX_SIZE] {
        &self.0
    }
    /// BLAKE3 of the body, as receipts and hashcash name it.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.0.as_slice()).as_bytes()
    }
    /// A body that nobody can open, for covers.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Box::new([0; BOX_SIZE]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self(bytes)
    }
}

/// Why a box was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// A body of another length.
    #[error("a box body has {BOX_SIZE} bytes, this one {0}")]
    WrongLength(usize),
    /// More than a box carries.
    #[error("{0} bytes do not fit into a box of {BOX_PLAINTEXT_SIZE}")]
    TooLong(usize),
    /// The body does not open under this chain and index.
    #[error("the body was not sealed for this box")]
    NotSealedForThis,
    /// Bytes that are no usable write key.
    #[error("not a prime-order Ed25519 point")]
    BadWriteKey,
}

/// Secret that names and opens the boxes of one chain. Zeroized on drop; never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ChainSecret([u8; 32]);

impl fmt::Debug for ChainSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainSecret(redacted)")
    }
}

impl ChainSecret {
    /// Wraps derived or stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The bytes, for the profile.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// Derives a secret for one purpose from key material.
    pub fn derive(context: &'static str, material: &[u8]) -> Self {
        Self(blake3::derive_key(context, material))
    }
    fn factor(&self, index: u64) -> Scalar {
        let mut wide = Zeroizing::new([0; 64]);
        let mut hasher = blake3::Hasher::new_derive_key(BLIND);
        hasher.update(&self.0).update(&index.to_be_bytes());
        hasher.finalize_xof().fill(&mut *wide);
        Scalar::from_bytes_mod_order_wide(&wide)
    }
    fn body_key(&self, index: u64) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key(BODY);
        hasher.update(&self.0).update(&index.to_be_bytes());
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

/// Public half of a [`WriteKey`]: a point of prime order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WritePublic([u8; 32]);

impl fmt::Debug for WritePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WritePublic(…)")
    }
}

impl WritePublic {
    /// Takes a canonical encoding of a point without small-order part: with one, several ids would verify alike.
    pub fn parse(bytes: [u8; 32]) -> Result<Self, BoxError> {
        let point = CompressedEdwardsY(bytes).decompress().ok_or(BoxError::BadWriteKey)?;
        let sound = point.is_torsion_free() && !point.is_small_order() && point.compress().0 == bytes;
        if sound { Ok(Self(bytes)) } else { Err(BoxError::BadWriteKey) }
    }
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    fn blinded(&self, factor: &Scalar) -> [u8; 32] {
        // parse admitted only points, so decompression succeeds; the identity point stands for the impossible else
        let point = CompressedEdwardsY(self.0).decompress().unwrap_or_default();
        (point * factor).compress().0
    }
}

/// An Ed25519 key that fills boxes. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct WriteKey(SigningKey);

impl fmt::Debug for WriteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteKey(redacted)")
    }
}

impl WriteKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }
    /// The key of a stored seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
    /// The seed.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
    /// The public half.
    pub fn public(&self) -> WritePublic {
        WritePublic(self.0.verifying_key().to_bytes())
    }
    /// Signs under the key blinded by `factor`: scalar a·h, nonce prefix derived so that no two factors share nonces.
    pub(crate) fn sign_blinded(&self, factor: &Scalar, message: &[u8]) -> [u8; 64] {
        let expanded = ExpandedSecretKey::from(&*self.seed());
        let mut prefix = blake3::Hasher::new_derive_key(PREFIX);
        prefix.update(&expanded.hash_prefix).update(factor.as_bytes());
        let blinded =
            ExpandedSecretKey { scalar: expanded.scalar * factor, hash_prefix: *prefix.finalize().as_bytes() };
        let public = VerifyingKey::from(&blinded);
        raw_sign::<Sha512>(&blinded, message, &public).to_bytes()
    }
}

/// The id of box `index` of a chain.
pub fn id(writer: &WritePublic, chain: &ChainSecret, index: u64) -> BoxId {
    BoxId(writer.blinded(&chain.factor(index)))
}

/// Blinds any write key by 64 bytes of hash output; inboxes use it.
pub(crate) fn blind(writer: &WritePublic, factor: &Scalar) -> BoxId {
    BoxId(writer.blinded(factor))
}

/// Seals `plaintext` (at most [`BOX_PLAINTEXT_SIZE`] bytes) for box `index` of the chain. A random nonce lies inside the
/// body, because two racing writers may share the key.
pub fn seal(
    chain: &ChainSecret,
    index: u64,
    id: &BoxId,
    plaintext: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<BoxBody, BoxError> {
    let length = u16::try_from(plaintext.len()).map_err(|_| BoxError::TooLong(plaintext.len()))?;
    if plaintext.len() > BOX_PLAINTEXT_SIZE {
        return Err(BoxError::TooLong(plaintext.len()));
    }
    let mut padded = Zeroizing::new(Vec::with_capacity(2 + BOX_PLAINTEXT_SIZE));
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(plaintext);
    padded.resize(2 + BOX_PLAINTEXT_SIZE, 0);
    let mut body = Vec::with_capacity(BOX_SIZE);
    let mut nonce = [0; BOX_NONCE_SIZE];
    rng.fill_bytes(&mut nonce);
    body.extend_from_slice(&nonce);
    let cipher = XChaCha20Poly1305::new(&(*chain.body_key(index)).into());
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), Payload { msg: &padded, aad: id.as_bytes() })
        .map_err(|_| BoxError::TooLong(plaintext.len()))?;
    body.extend_from_slice(&sealed);
    BoxBody::from_slice(&body)
}

/// Opens the body found in box `index` of the chain.
pub fn open(chain: &ChainSecret, index: u64, id: &BoxId, body: &BoxBody) -> Result<Vec<u8>, BoxError> {
    let (nonce, sealed) = body.as_bytes().split_at(BOX_NONCE_SIZE);
    let nonce: [u8; BOX_NONCE_SIZE] = nonce.try_into().map_err(|_| BoxError::NotSealedForThis)?;
    let cipher = XChaCha20Poly1305::new(&(*chain.body_key(index)).into());
    let padded = Zeroizing::new(
        cipher
            .decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: id.as_bytes() })
            .map_err(|_| BoxError::NotSealedForThis)?,
    );
    let (length, content) = padded.split_at_checked(2).ok_or(BoxError::NotSealedForThis)?;
    let length = u16::from_be_bytes(length.try_into().map_err(|_| BoxError::NotSealedForThis)?);
    content.get(..usize::from(length)).map(<[u8]>::to_vec).ok_or(BoxError::NotSealedForThis)
}

fn write_message(id: &BoxId, body: &BoxBody) -> Vec<u8> {
    [WRITE_CONTEXT, id.as_bytes(), body.as_bytes().as_slice()].concat()
}

/// The writer's signature over a body for box `index` of the chain.
pub fn sign(writer: &WriteKey, chain: &ChainSecret, index: u64, body: &BoxBody) -> [u8; 64] {
    let id = id(&writer.public(), chain, index);
    writer.sign_blinded(&chain.factor(index), &write_message(&id, body))
}

/// Whether a body was written by the owner of the id. Strict, so that a store takes no second encoding.
pub fn verify(id: &BoxId, body: &BoxBody, signature: &[u8; 64]) -> bool {
    verify_raw(id, &write_message(id, body), signature)
}

/// Verifies a signature under an id taken as a key.
pub(crate) fn verify_raw(id: &BoxId, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&id.0)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// Keys of a blob's content boxes: whoever holds the manifest's secret can read, and could write, them; the first
/// valid write wins, and the manifest's hash tells what was meant.
pub fn blob_keys(secret: &[u8; 32]) -> (WriteKey, ChainSecret) {
    let seed = Zeroizing::new(blake3::derive_key(BLOB_WRITE, secret));
    (WriteKey::from_seed(&seed), ChainSecret::derive(BLOB_CHAIN, secret))
}

/// Keys of the slots in which the members of a group race to end an epoch: all members derive the same ones from the
/// epoch's commit secret, so each can fill any slot, once.
pub fn commit_keys(secret: &[u8; 32]) -> (WriteKey, ChainSecret) {
    let seed = Zeroizing::new(blake3::derive_key(COMMIT_WRITE, secret));
    (WriteKey::from_seed(&seed), ChainSecret::derive(COMMIT_CHAIN, secret))
}

/// Keys of the chain of an invite: who made it writes the offer, and whoever uses it claims it there.
pub fn invite_keys(seed: &[u8; 32]) -> (WriteKey, ChainSecret) {
    let writer = Zeroizing::new(blake3::derive_key(INVITE_WRITE, seed));
    (WriteKey::from_seed(&writer), ChainSecret::derive(INVITE_CHAIN, seed))
}

/// The two replicas of a box: the highest rendezvous hashes over the generation's stores, highest first. `None` if the
/// generation has fewer than two stores.
pub fn placement(generation: &Generation, id: &BoxId) -> Option<[StoreIndex; 2]> {
    let mut ranked: Vec<([u8; 32], StoreIndex)> = generation
        .stores
        .iter()
        .map(|store| {
            let mut hasher = blake3::Hasher::new_derive_key(PLACEMENT);
            hasher.update(&generation.seed).update(id.as_bytes()).update(&store.0.to_be_bytes());
            (*hasher.finalize().as_bytes(), *store)
        })
        .collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    match ranked.as_slice() {
        [(_, first), (_, second), ..] => Some([*first, *second]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn chain() -> (WriteKey, ChainSecret, StdRng) {
        let mut rng = StdRng::seed_from_u64(1);
        (WriteKey::generate(&mut rng), ChainSecret::from_bytes([7; 32]), rng)
    }

    #[test]
    fn only_the_writer_fills_a_box() {
        let (writer, chain, mut rng) = chain();
        let id7 = id(&writer.public(), &chain, 7);
        let body = seal(&chain, 7, &id7, b"hello", &mut rng).unwrap();
        let signature = sign(&writer, &chain, 7, &body);
        assert!(verify(&id7, &body, &signature));
        assert!(!verify(&id(&writer.public(), &chain, 8), &body, &signature));
        assert!(!verify(&id7, &BoxBody::random(&mut rng), &signature));
        let other = WriteKey::generate(&mut rng);
        assert!(!verify(&id7, &body, &sign(&other, &chain, 7, &body)));
    }

    #[test]
    fn only_chain_and_index_open_a_body() {
        let (writer, chain, mut rng) = chain();
        let id0 = id(&writer.public(), &chain, 0);
        let body = seal(&chain, 0, &id0, b"", &mut rng).unwrap();
        assert_eq!(open(&chain, 0, &id0, &body), Ok(vec![]));
        assert_eq!(open(&chain, 1, &id0, &body), Err(BoxError::NotSealedForThis));
        assert_eq!(open(&ChainSecret::from_bytes([8; 32]), 0, &id0, &body), Err(BoxError::NotSealedForThis));
        let moved = id(&writer.public(), &chain, 1);
        assert_eq!(open(&chain, 0, &moved, &body), Err(BoxError::NotSealedForThis));
    }

    #[test]
    fn equal_plaintexts_give_unrelated_bodies() {
        let (writer, chain, mut rng) = chain();
        let id0 = id(&writer.public(), &chain, 0);
        let (a, b) = (seal(&chain, 0, &id0, b"x", &mut rng).unwrap(), seal(&chain, 0, &id0, b"x", &mut rng).unwrap());
        let equal = a.as_bytes().iter().zip(b.as_bytes()).filter(|(x, y)| x == y).count();
        assert!(equal < 60, "{equal} of {BOX_SIZE} bytes equal"); // expected 7, σ 2.6
    }

    #[test]
    fn points_with_torsion_are_no_write_keys() {
        let (writer, ..) = chain();
        assert!(WritePublic::parse(*writer.public().as_bytes()).is_ok());
        let point = CompressedEdwardsY(*writer.public().as_bytes()).decompress().unwrap();
        for torsion in curve25519_dalek::constants::EIGHT_TORSION.iter().skip(1) {
            assert_eq!(WritePublic::parse((point + torsion).compress().0), Err(BoxError::BadWriteKey));
            assert_eq!(WritePublic::parse(torsion.compress().0), Err(BoxError::BadWriteKey));
        }
    }

    #[test]
    fn placement_is_balanced_and_stable() {
        let mut generation = Generation {
            number: 1,
            since: Epoch(0),
            retired: None,
            seed: [3; 32],
            stores: (0..5).map(StoreIndex).collect(),
        };
        let mut rng = StdRng::seed_from_u64(9);
        let ids: Vec<BoxId> = (0..2_000)
            .map(|_| {
                let mut bytes = [0; 32];
                rng.fill_bytes(&mut bytes);
                BoxId::from_bytes(bytes)
            })
            .collect();
        let mut load = [0u32; 5];
        for id in &ids {
            let [a, b] = placement(&generation, id).unwrap();
            assert_ne!(a, b);
            load[usize::from(a.0)] += 1;
            load[usize::from(b.0)] += 1;
        }
        assert!(load.iter().all(|n| (650..950).contains(n)), "{load:?}"); // expected 800, σ 22
        let before: Vec<_> = ids.iter().map(|id| placement(&generation, id).unwrap()).collect();
        generation.stores.reverse();
        assert_eq!(before, ids.iter().map(|id| placement(&generation, id).unwrap()).collect::<Vec<_>>());
        generation.stores.truncate(1);
        assert_eq!(placement(&generation, &ids[0]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sealing_round_trips(plaintext in proptest::collection::vec(any::<u8>(), 0..=BOX_PLAINTEXT_SIZE), index: u64) {
            let (writer, chain, mut rng) = chain();
            let id = id(&writer.public(), &chain, index);
            let body = seal(&chain, index, &id, &plaintext, &mut rng).unwrap();
            prop_assert_eq!(open(&chain, index, &id, &body).unwrap(), plaintext);
        }
        #[test]
        fn a_changed_body_never_opens(position in 0..BOX_SIZE, mask in 1..=255u8) {
            let (writer, chain, mut rng) = chain();
            let id = id(&writer.public(), &chain, 0);
            let mut bytes = *seal(&chain, 0, &id, b"text", &mut rng).unwrap().as_bytes();
            bytes[position] ^= mask;
            prop_assert!(open(&chain, 0, &id, &BoxBody::from_slice(&bytes).unwrap()).is_err());
        }
    }
}
