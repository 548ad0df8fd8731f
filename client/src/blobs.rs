//! Blobs: what is larger than a box, cut into content boxes under a fresh secret, and named by a manifest.
//!
//! The box bodies of a blob follow from its secret and content alone (the nonces too: each box has a key of its own that
//! seals exactly one plaintext), so that a writer that crashed writes the same bodies again and keeps no second copy.

use minicbor::{Decode, Encode};
use shoal_protocol::Hash;
use shoal_protocol::boxes::{self, BoxBody, BoxId, ChainSecret, WriteKey};
use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;
use std::convert::Infallible;
use std::fmt;
use zeroize::Zeroize as _;

/// Largest blob, bytes: 64 MiB are 38,174 boxes, about 7 hours at 1.5 writes a second.
pub const BLOB_SIZE_MAX: u64 = 64 << 20;
/// Largest text message, bytes of UTF-8; a person does not type more, and it is held in memory as a whole.
pub const TEXT_SIZE_MAX: u64 = 1 << 20;
/// Largest Welcome, bytes: one for two members has 5,583, a member more about 3,000, 32 of them 95,000.
pub const WELCOME_SIZE_MAX: u64 = 128 << 10;

const CONTENT: &str = "shoal/1 blob content hash";
const NONCES: &str = "shoal/1 blob box nonces";

/// Where a blob lies and what it must be. Whoever holds it can read the blob.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    #[cbor(n(0), with = "minicbor::bytes")]
    secret: [u8; 32],
    #[n(1)]
    length: u64,
    #[n(2)]
    hash: Hash,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({} bytes, secret redacted)", self.length)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Manifest {
    /// From its parts.
    #[must_use]
    pub fn new(secret: [u8; 32], length: u64, hash: Hash) -> Self {
        Self { secret, length, hash }
    }
    /// The manifest of `content` under a fresh secret.
    #[must_use]
    pub fn of(content: &[u8], secret: [u8; 32]) -> Self {
        Self::new(secret, content.len() as u64, Hash::of(CONTENT, content))
    }
    /// Length of the content in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
    /// Number of content boxes; an empty blob has none.
    #[must_use]
    pub fn boxes(&self) -> u64 {
        self.length.div_ceil(BOX_PLAINTEXT_SIZE as u64)
    }
    /// Length of the part in box `index`; zero beyond the end.
    #[must_use]
    pub fn part_length(&self, index: u64) -> usize {
        let start = index.saturating_mul(BOX_PLAINTEXT_SIZE as u64);
        // at most BOX_PLAINTEXT_SIZE, so the cast keeps the value
        self.length.saturating_sub(start).min(BOX_PLAINTEXT_SIZE as u64) as usize
    }
    /// Whether `content` is what the manifest names.
    #[must_use]
    pub fn names(&self, content: &[u8]) -> bool {
        content.len() as u64 == self.length && Hash::of(CONTENT, content) == self.hash
    }
    /// The keys of the content boxes.
    #[must_use]
    pub fn keys(&self) -> BlobKeys {
        let (writer, chain) = boxes::blob_keys(&self.secret);
        BlobKeys { writer, chain, nonces: blake3::derive_key(NONCES, &self.secret) }
    }
}

/// Keys of a blob's content boxes.
pub struct BlobKeys {
    writer: WriteKey,
    chain: ChainSecret,
    nonces: [u8; 32],
}

impl BlobKeys {
    /// Id of content box `index`.
    #[must_use]
    pub fn id(&self, index: u64) -> BoxId {
        boxes::id(&self.writer.public(), &self.chain, index)
    }

    /// The one body and signature of content box `index` with this part; the same at every call.
    ///
    /// # Errors
    /// When the part is longer than a box.
    pub fn seal(&self, index: u64, part: &[u8]) -> Result<(BoxId, BoxBody, [u8; 64]), boxes::BoxError> {
        let id = self.id(index);
        let mut hasher = blake3::Hasher::new_keyed(&self.nonces);
        hasher.update(&index.to_be_bytes());
        let body = boxes::seal(&self.chain, index, &id, part, &mut Stream(hasher.finalize_xof()))?;
        let signature = boxes::sign(&self.writer, &self.chain, index, &body);
        Ok((id, body, signature))
    }

    /// Opens the body of content box `index`.
    ///
    /// # Errors
    /// When it was not sealed for this box.
    pub fn open(&self, index: u64, body: &BoxBody) -> Result<Vec<u8>, boxes::BoxError> {
        boxes::open(&self.chain, index, &self.id(index), body)
    }
}

/// Hash output as the source of one nonce: fixed for all time, unlike a seeded generator of a library.
struct Stream(blake3::OutputReader);

impl rand::TryRng for Stream {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, destination: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(destination);
        Ok(())
    }
}

// output of a keyed BLAKE3 cannot be told from random without the key
impl rand::TryCryptoRng for Stream {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_the_content(length in 0u64..20_000) {
            let manifest = Manifest::new([1; 32], length, Hash::from_bytes([0; 32]));
            let parts: Vec<usize> = (0..manifest.boxes()).map(|index| manifest.part_length(index)).collect();
            prop_assert_eq!(parts.iter().sum::<usize>() as u64, length);
            prop_assert!(parts.iter().all(|part| *part > 0));
            prop_assert_eq!(manifest.part_length(manifest.boxes()), 0);
        }

        #[test]
        fn manifests_round_trip(secret: [u8; 32], length: u64, hash: [u8; 32]) {
            let manifest = Manifest::new(secret, length, Hash::from_bytes(hash));
            let bytes = minicbor::to_vec(&manifest).unwrap();
            prop_assert_eq!(minicbor::decode::<Manifest>(&bytes).unwrap(), manifest);
        }
    }

    #[test]
    fn bodies_are_the_same_at_every_writing() {
        let keys = Manifest::of(b"content", [5; 32]).keys();
        let (id, body, signature) = keys.seal(3, b"part").unwrap();
        assert_eq!((id, body.clone(), signature), keys.seal(3, b"part").unwrap());
        assert_ne!(body, keys.seal(4, b"part").unwrap().1);
        assert!(boxes::verify(&id, &body, &signature));
        assert_eq!(keys.open(3, &body), Ok(b"part".to_vec()));
        assert!(keys.open(4, &body).is_err());
    }

    #[test]
    fn a_manifest_names_its_content_only() {
        let manifest = Manifest::of(b"content", [5; 32]);
        assert!(manifest.names(b"content"));
        assert!(!manifest.names(b"contents"));
        assert!(!manifest.names(b"Content"));
    }
}
