//! A list with everything it names: how lists travel between authorities.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::MAX_NODES;
use shoal_protocol::consensus::codec::{self, Parsed, Put, Reader};
use shoal_protocol::descriptor::{DescriptorError, MAX_DESCRIPTOR_SIZE, SignedDescriptor, UnverifiedDescriptor};
use shoal_protocol::{Hash, Identity, UnixMillis};

use crate::lists::descriptor_hash;
use crate::signed_list::{Entry, List, ListError, MAX_LIST_SIZE, Place, SignedList, UnverifiedList};

/// Largest list with its descriptors, in bytes: a list of 320 KiB and 2,048 descriptors of at most 2,688 bytes and 3 around
/// each come to 5.9 MB, so whatever nodes publish fits.
pub const MAX_MESSAGE_SIZE: usize = 6 * 1024 * 1024;
const _: () =
    assert!(MAX_LIST_SIZE + MAX_NODES * (MAX_DESCRIPTOR_SIZE + 3) + 1024 <= MAX_MESSAGE_SIZE, "a full list must fit");

/// Descriptors whose signatures were checked, by hash, so that a second list with the same ones costs hashing only.
///
/// Two ages of at most 2,048 each: 4,096 × 2.7 kB = 11 MB at worst, about 4 MB of usual ones. When the young age is full
/// it becomes the old one, and what was not used since is forgotten.
#[derive(Clone, Debug)]
pub struct DescriptorCache {
    network: Hash,
    young: BTreeMap<Hash, Arc<SignedDescriptor>>,
    old: BTreeMap<Hash, Arc<SignedDescriptor>>,
}

impl DescriptorCache {
    /// An empty one, for the descriptors of `network`.
    #[must_use]
    pub fn new(network: Hash) -> Self {
        Self { network, young: BTreeMap::new(), old: BTreeMap::new() }
    }

    /// Remembers a descriptor of this network that verified elsewhere.
    pub fn remember(&mut self, descriptor: Arc<SignedDescriptor>) {
        let hash = descriptor_hash(&descriptor.bytes);
        self.insert(hash, descriptor);
    }

    /// Verifies form, network and signature, or remembers that it did. Time is not looked at: what a document makes of a
    /// descriptor must not depend on whose clock judged it.
    ///
    /// # Errors
    /// Which of them failed.
    pub fn verify(&mut self, bytes: &[u8]) -> Result<Arc<SignedDescriptor>, DescriptorError> {
        let hash = descriptor_hash(bytes);
        if let Some(known) = self.young.get(&hash) {
            return Ok(Arc::clone(known));
        }
        let verified = match self.old.get(&hash) {
            Some(known) => Arc::clone(known),
            None => {
                let whenever = UnixMillis(u64::MAX);
                let parsed = UnverifiedDescriptor::parse(bytes)?;
                Arc::new(parsed.verify(&self.network, whenever, std::time::Duration::ZERO)?)
            }
        };
        self.insert(hash, Arc::clone(&verified));
        Ok(verified)
    }

    fn insert(&mut self, hash: Hash, descriptor: Arc<SignedDescriptor>) {
        if self.young.len() >= MAX_NODES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, descriptor);
    }
}

/// A verified list and the verified descriptors of its entries, in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListMessage {
    list: SignedList,
    descriptors: Vec<Arc<SignedDescriptor>>,
}

impl ListMessage {
    /// Freezes `descriptors` into a signed list. `head` says everything but the entries, which are replaced.
    ///
    /// # Errors
    /// They do not fit.
    pub fn freeze(
        head: List,
        descriptors: &BTreeMap<Identity, Arc<SignedDescriptor>>,
        secret: &AuthoritySecret,
    ) -> Result<Self, ListError> {
        let entries = descriptors.values().map(|signed| Entry::of(signed)).collect();
        let list = List { entries, ..head }.sign(secret);
        let message = Self { list, descriptors: descriptors.values().map(Arc::clone).collect() };
        let size = message.to_bytes().len();
        if size > MAX_MESSAGE_SIZE {
            return Err(ListError::TooLarge { size, max: MAX_MESSAGE_SIZE });
        }
        Ok(message)
    }

    /// Reads and verifies a whole message: the list for `place`, and that every descriptor verifies and is the one that
    /// its entry names, word for word. One that does not spoils the message: an honest authority lists nothing it has not verified.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], place: &Place<'_>, cache: &mut DescriptorCache) -> Result<Self, ListError> {
        if bytes.len() > MAX_MESSAGE_SIZE {
            return Err(ListError::TooLarge { size: bytes.len(), max: MAX_MESSAGE_SIZE });
        }
        let (list, carried) = read(bytes).map_err(ListError::Malformed)?;
        let list = UnverifiedList::parse(list)?.verify(place)?;
        if carried.len() != list.entries.len() {
            return Err(ListError::Malformed("descriptors (one for each entry)"));
        }
        let mut descriptors = Vec::with_capacity(carried.len());
        for (entry, bytes) in list.entries.iter().zip(carried) {
            if descriptor_hash(bytes) != entry.descriptor {
                return Err(ListError::OtherDescriptor(entry.identity));
            }
            let identity = entry.identity;
            let signed = cache.verify(bytes).map_err(|error| ListError::Descriptor { identity, error })?;
            if Entry::of(&signed) != *entry {
                return Err(ListError::OtherDescriptor(identity));
            }
            descriptors.push(signed);
        }
        let message = Self { list, descriptors };
        if message.to_bytes() == bytes { Ok(message) } else { Err(ListError::Malformed("not in canonical form")) }
    }

    /// The list.
    #[must_use]
    pub fn list(&self) -> &SignedList {
        &self.list
    }

    /// The descriptors, in the order of the list's entries.
    #[must_use]
    pub fn descriptors(&self) -> &[Arc<SignedDescriptor>] {
        &self.descriptors
    }

    /// `[signed list, [descriptor, …]]`, as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(2);
            writer.put_bytes(self.list.bytes());
            writer.put_array(self.descriptors.len());
            for descriptor in &self.descriptors {
                writer.put_bytes(&descriptor.bytes);
            }
        })
    }
}

fn read(bytes: &[u8]) -> Parsed<(&[u8], Vec<&[u8]>)> {
    let mut reader = Reader::new(bytes);
    reader.array(2, "list message")?;
    let list = reader.bytes("signed list")?;
    let descriptors = reader.list(0, MAX_NODES, "descriptors", |reader| reader.bytes("descriptors"))?;
    reader.end("bytes after the descriptors")?;
    Ok((list, descriptors))
}

#[cfg(test)]
mod tests;
