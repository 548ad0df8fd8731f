//! Inboxes and cards: how a stranger reaches a person of whom it knows only the address.
//!
//! The address names an inbox key. The inbox id is that key blinded by a hash of key and generation, so that stores of
//! one generation cannot follow a person into the next. The card (key package and pointer key) is an ordinary chain
//! whose write key is the inbox key.

use crate::boxes::{BoxBody, BoxId, ChainSecret, WriteKey, WritePublic, blind, verify_raw};
use crate::parameters::Parameters;
use crate::types::{Epoch, UnixMillis};
use curve25519_dalek::scalar::Scalar;
use rand::CryptoRng;
use std::fmt;
use zeroize::Zeroizing;

const INBOX: &str = "shoal/1 inbox blinding factor";
const CARD: &str = "shoal/1 card chain secret";
const WORK: &str = "shoal/1 append work";
const READ_CONTEXT: &[u8] = b"shoal/1 inbox read";
const CREDENTIAL_CONTEXT: &str = "shoal/1 credential";
const SUCCESSION_CONTEXT: &str = "shoal/1 succession";

/// Public half of an [`InboxKey`]; what an address encodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxPublic(WritePublic);

impl fmt::Debug for InboxPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InboxPublic(…)")
    }
}

/// Bytes that are no inbox key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an inbox key")]
pub struct BadInboxKey;

impl InboxPublic {
    /// Takes a canonical point of prime order.
    pub fn parse(bytes: [u8; 32]) -> Result<Self, BadInboxKey> {
        WritePublic::parse(bytes).map(Self).map_err(|_| BadInboxKey)
    }
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
    /// The same key as the write key of the card chain.
    pub const fn write_public(&self) -> &WritePublic {
        &self.0
    }
    /// Checks a credential's signature over a leaf's signature key.
    pub fn verify_credential(&self, leaf_signature_key: &[u8], signature: &[u8; 64]) -> bool {
        crate::Identity::from_bytes(*self.as_bytes()).verify(CREDENTIAL_CONTEXT, leaf_signature_key, signature)
    }
    /// Checks that the owner of this key has another one from now on.
    pub fn verify_succession(&self, next: &Self, signature: &[u8; 64]) -> bool {
        crate::Identity::from_bytes(*self.as_bytes()).verify(SUCCESSION_CONTEXT, next.as_bytes(), signature)
    }
}

/// The long-term Ed25519 key of a person. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct InboxKey(WriteKey);

impl fmt::Debug for InboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InboxKey(redacted)")
    }
}

impl InboxKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(WriteKey::generate(rng))
    }
    /// The key of a stored seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(WriteKey::from_seed(seed))
    }
    /// The seed.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        self.0.seed()
    }
    /// The public half.
    pub fn public(&self) -> InboxPublic {
        InboxPublic(self.0.public())
    }
    /// The same key as the write key of the card chain.
    pub const fn write_key(&self) -> &WriteKey {
        &self.0
    }
    /// Signs a leaf's signature key: the credential of a conversation.
    pub fn sign_credential(&self, leaf_signature_key: &[u8]) -> [u8; 64] {
        crate::IdentityKey::from_seed(&self.seed()).sign(CREDENTIAL_CONTEXT, leaf_signature_key)
    }
    /// Signs that its owner has another key from now on: who knew the one knows the other.
    pub fn sign_succession(&self, next: &InboxPublic) -> [u8; 64] {
        crate::IdentityKey::from_seed(&self.seed()).sign(SUCCESSION_CONTEXT, next.as_bytes())
    }
    /// Signs a READ of entries after `after` in one replica's numbering.
    pub fn sign_read(&self, generation: u32, after: u64, epoch: Epoch) -> [u8; 64] {
        let public = self.public();
        let id = inbox_id(&public, generation);
        self.0.sign_blinded(&factor(&public, generation), &read_message(&id, after, epoch))
    }
}

fn factor(inbox: &InboxPublic, generation: u32) -> Scalar {
    let mut wide = [0; 64];
    let mut hasher = blake3::Hasher::new_derive_key(INBOX);
    hasher.update(inbox.as_bytes()).update(&generation.to_be_bytes());
    hasher.finalize_xof().fill(&mut wide);
    Scalar::from_bytes_mod_order_wide(&wide)
}

/// The id of a person's inbox in one generation of stores.
pub fn inbox_id(inbox: &InboxPublic, generation: u32) -> BoxId {
    blind(&inbox.0, &factor(inbox, generation))
}

fn read_message(id: &BoxId, after: u64, epoch: Epoch) -> Vec<u8> {
    [READ_CONTEXT, id.as_bytes(), &after.to_be_bytes(), &epoch.0.to_be_bytes()].concat()
}

/// Whether a READ comes from the inbox's owner.
pub fn verify_read(id: &BoxId, after: u64, epoch: Epoch, signature: &[u8; 64]) -> bool {
    verify_raw(id, &read_message(id, after, epoch), signature)
}

/// Number of leading zero bits of an APPEND's hashcash: BLAKE3 over inbox, generation, epoch, [`BoxBody::hash`] and nonce.
pub fn work_bits(id: &BoxId, generation: u32, epoch: Epoch, body_hash: &[u8; 32], nonce: &[u8; 64]) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key(WORK);
    hasher.update(id.as_bytes()).update(&generation.to_be_bytes()).update(&epoch.0.to_be_bytes());
    hasher.update(body_hash).update(nonce);
    let mut zeros = 0;
    for byte in hasher.finalize().as_bytes() {
        zeros += byte.leading_zeros();
        if *byte != 0 {
            break;
        }
    }
    zeros
}

/// Whether an APPEND carries at least `bits` of work.
pub fn append_work(id: &BoxId, generation: u32, epoch: Epoch, body: &BoxBody, bits: u8, nonce: &[u8; 64]) -> bool {
    work_bits(id, generation, epoch, &body.hash(), nonce) >= u32::from(bits)
}

/// Finds a nonce for an APPEND: about 2^bits hashes of a microsecond each; at most 2^40 are tried.
pub fn find_nonce(
    id: &BoxId,
    generation: u32,
    epoch: Epoch,
    body: &BoxBody,
    bits: u8,
    rng: &mut impl CryptoRng,
) -> Option<[u8; 64]> {
    let hash = body.hash();
    let mut nonce = [0; 64];
    rng.fill_bytes(&mut nonce);
    for counter in 0..1u64 << 40 {
        if let Some(slot) = nonce.first_chunk_mut::<8>() {
            *slot = counter.to_be_bytes();
        }
        if work_bits(id, generation, epoch, &hash, &nonce) >= u32::from(bits) {
            return Some(nonce);
        }
    }
    None
}

/// Number of the card period at `now`: half the retention, so that a card always outlives the period in which it is
/// read.
pub fn card_period(now: UnixMillis, parameters: &Parameters) -> u64 {
    now.0 / (parameters.retention_ms / 2).max(1)
}

/// The chain on which a person's card of one generation and period lies; its write key is the inbox key.
pub fn card_chain(inbox: &InboxPublic, generation: u32, period: u64) -> ChainSecret {
    let material = [inbox.as_bytes().as_slice(), &generation.to_be_bytes(), &period.to_be_bytes()].concat();
    ChainSecret::derive(CARD, &material)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn only_the_owner_reads() {
        let mut rng = StdRng::seed_from_u64(1);
        let owner = InboxKey::generate(&mut rng);
        let id = inbox_id(&owner.public(), 3);
        let signature = owner.sign_read(3, 17, Epoch(5));
        assert!(verify_read(&id, 17, Epoch(5), &signature));
        assert!(!verify_read(&id, 18, Epoch(5), &signature));
        assert!(!verify_read(&id, 17, Epoch(6), &signature));
        assert!(!verify_read(&inbox_id(&owner.public(), 4), 17, Epoch(5), &signature));
        let other = InboxKey::generate(&mut rng);
        assert!(!verify_read(&id, 17, Epoch(5), &other.sign_read(3, 17, Epoch(5))));
    }

    #[test]
    fn ids_of_two_generations_are_unlinked() {
        let owner = InboxKey::generate(&mut StdRng::seed_from_u64(2)).public();
        assert_ne!(inbox_id(&owner, 1), inbox_id(&owner, 2));
        assert_ne!(inbox_id(&owner, 1).as_bytes(), owner.as_bytes());
    }

    #[test]
    fn work_is_found_and_bound_to_what_it_was_done_for() {
        let mut rng = StdRng::seed_from_u64(3);
        let id = inbox_id(&InboxKey::generate(&mut rng).public(), 1);
        let body = BoxBody::random(&mut rng);
        let nonce = find_nonce(&id, 1, Epoch(9), &body, 12, &mut rng).unwrap();
        assert!(append_work(&id, 1, Epoch(9), &body, 12, &nonce));
        // each of these holds by chance with probability 2^-12; the seed is one where none does
        assert!(!append_work(&id, 1, Epoch(10), &body, 12, &nonce));
        assert!(!append_work(&id, 2, Epoch(9), &body, 12, &nonce));
        assert!(!append_work(&id, 1, Epoch(9), &BoxBody::random(&mut rng), 12, &nonce));
    }

    #[test]
    fn credentials_bind_leaf_and_inbox() {
        let mut rng = StdRng::seed_from_u64(4);
        let (a, b) = (InboxKey::generate(&mut rng), InboxKey::generate(&mut rng));
        let signature = a.sign_credential(b"leaf");
        assert!(a.public().verify_credential(b"leaf", &signature));
        assert!(!a.public().verify_credential(b"leaf2", &signature));
        assert!(!b.public().verify_credential(b"leaf", &signature));
    }

    #[test]
    fn a_succession_binds_both_keys() {
        let mut rng = StdRng::seed_from_u64(6);
        let [a, b, c] = std::array::from_fn(|_| InboxKey::generate(&mut rng));
        let signature = a.sign_succession(&b.public());
        assert!(a.public().verify_succession(&b.public(), &signature));
        assert!(!a.public().verify_succession(&c.public(), &signature));
        assert!(!b.public().verify_succession(&a.public(), &signature));
        assert!(!a.public().verify_credential(b.public().as_bytes(), &signature), "another context");
    }
}
