//! The slots in which the members of a group race to end an epoch, and what lies in one: an entry that says where the
//! commit is, signed by the member who put it there.
//!
//! Every member can fill every slot, once. What is not an entry signed by a member does not count: the next slot decides.

use crate::blobs::Manifest;
use minicbor::{Decode, Encode};
use rand::CryptoRng;
use shoal_protocol::Hash;
use shoal_protocol::boxes::{self, BoxBody, BoxError, BoxId, ChainSecret, WriteKey};
use zeroize::Zeroizing;

/// Slots of one epoch. Each that does not count was spoilt by a member or by a replica; a group whose members do that
/// sixteen times in one epoch has other troubles.
pub(crate) const SLOTS_MAX: u64 = 16;
/// Largest commit, bytes. An update of one leaf in a group of two has about 4,000; in a group of 32 whose members have
/// never committed it is sealed to each of them, 31 × 1,200, and adds eight key packages of 2,700: 63,000.
pub(crate) const COMMIT_SIZE_MAX: u64 = 128 << 10;
/// Version of the entry.
const VERSION: u8 = 1;
/// Context of the signature in an entry.
pub(crate) const ENTRY_CONTEXT: &str = "shoal/1 commit entry";
const SECRET: &str = "shoal/1 commit";
const COMMIT: &str = "shoal/1 commit hash";

/// The commit secret of an epoch, from E of its exporter.
pub(crate) fn commit_secret(exported: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key(SECRET, exported))
}

/// The hash by which an `end` record names a commit.
pub(crate) fn commit_hash(commit: &[u8]) -> Hash {
    Hash::of(COMMIT, commit)
}

/// Keys of one epoch's slots.
pub(crate) struct SlotKeys {
    writer: WriteKey,
    chain: ChainSecret,
}

impl SlotKeys {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let (writer, chain) = boxes::commit_keys(secret);
        Self { writer, chain }
    }
    /// Id of a slot's box.
    pub(crate) fn id(&self, slot: u64) -> BoxId {
        boxes::id(&self.writer.public(), &self.chain, slot)
    }
    /// Seals an entry for a slot.
    pub(crate) fn seal(&self, slot: u64, entry: &Entry, rng: &mut impl CryptoRng) -> Result<BoxBody, BoxError> {
        // plain fields into a Vec cannot fail
        let plaintext = minicbor::to_vec(entry).unwrap_or_default();
        boxes::seal(&self.chain, slot, &self.id(slot), &plaintext, rng)
    }
    /// Signs the body of a slot's box.
    pub(crate) fn sign(&self, slot: u64, body: &BoxBody) -> [u8; 64] {
        boxes::sign(&self.writer, &self.chain, slot, body)
    }
    /// Opens a body; `None`: no member sealed it for this slot.
    pub(crate) fn open(&self, slot: u64, body: &BoxBody) -> Option<Vec<u8>> {
        boxes::open(&self.chain, slot, &self.id(slot), body).ok()
    }
}

/// What lies in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Entry {
    #[n(0)]
    version: u8,
    /// Leaf of the committer.
    #[n(1)]
    pub(crate) leaf: u32,
    /// Where the commit is.
    #[n(2)]
    pub(crate) manifest: Manifest,
    /// By the signature key of that leaf over [`signed_part`].
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(crate) signature: [u8; 64],
}

impl Entry {
    pub(crate) fn new(leaf: u32, manifest: Manifest, signature: [u8; 64]) -> Self {
        Self { version: VERSION, leaf, manifest, signature }
    }
    /// Reads an entry; `None` when it is none of this version, or names a commit of a length that none has.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let entry: Self = decoder.decode().ok()?;
        let sound = decoder.position() == bytes.len()
            && entry.version == VERSION
            && (1..=COMMIT_SIZE_MAX).contains(&entry.manifest.length());
        sound.then_some(entry)
    }
}

/// What an entry's signature covers: the place, and the commit.
pub(crate) fn signed_part(group_id: &[u8], epoch: u64, slot: u64, leaf: u32, manifest: &Manifest) -> Vec<u8> {
    let manifest = Zeroizing::new(minicbor::to_vec(manifest).unwrap_or_default());
    let named = Hash::of(ENTRY_CONTEXT, &manifest);
    [group_id, &epoch.to_be_bytes(), &slot.to_be_bytes(), &leaf.to_be_bytes(), named.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn entry(length: u64) -> Entry {
        Entry::new(1, Manifest::new([7; 32], length, Hash::from_bytes([8; 32])), [9; 64])
    }

    #[test]
    fn an_entry_opens_in_its_slot_only() {
        let (keys, mut rng) = (SlotKeys::new(&[3; 32]), StdRng::seed_from_u64(1));
        let body = keys.seal(2, &entry(4_000), &mut rng).unwrap();
        assert!(boxes::verify(&keys.id(2), &body, &keys.sign(2, &body)));
        assert_eq!(Entry::from_bytes(&keys.open(2, &body).unwrap()), Some(entry(4_000)));
        assert_eq!(keys.open(3, &body), None);
        assert_eq!(SlotKeys::new(&[4; 32]).open(2, &body), None);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let bytes = minicbor::to_vec(entry(4_000)).unwrap();
        assert_eq!(Entry::from_bytes(&[bytes.as_slice(), &[0]].concat()), None);
        assert_eq!(Entry::from_bytes(&bytes[..bytes.len() - 1]), None);
        for length in [0, COMMIT_SIZE_MAX + 1] {
            assert_eq!(Entry::from_bytes(&minicbor::to_vec(entry(length)).unwrap()), None);
        }
        let newer = Entry { version: 2, ..entry(4_000) };
        assert_eq!(Entry::from_bytes(&minicbor::to_vec(newer).unwrap()), None);
    }
}
