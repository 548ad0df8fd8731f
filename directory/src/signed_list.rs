//! What one authority says for one document: whom it lists, its part in the randomness, what it wants changed.
//!
//! A list is signed with the authority's hybrid key over its exact bytes. It names descriptors by hash; beside it travel
//! the descriptors themselves ([`crate::list_message`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;

use shoal_protocol::authority::{AuthorityKey, AuthoritySecret, HYBRID_SIGNATURE_SIZE, HybridSignature};
use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::consensus::codec::{self, Parsed, Put, Reader};
use shoal_protocol::consensus::{MAX_NODES, VerifiedConsensus, put_authorities, read_authorities};
use shoal_protocol::descriptor::{Descriptor, DescriptorError, SignedDescriptor};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity, Role, UnixMillis};
use thiserror::Error;

use crate::document::Rules;
use crate::lists::descriptor_hash;

/// Largest signed list, in bytes: 2,048 entries of 113 bytes (231 kB), 64 authorities of 1,352 bytes (87 kB), 64
/// addresses of 58 (4 kB), a signature of 2,484, and less than 1 kB for the rest: 326 kB.
pub const MAX_LIST_SIZE: usize = 320 * 1024;

const CONTEXT: &str = "shoal/1 list";
const FORMAT: u8 = 1;
const FIELDS: usize = 13;

/// One listed node: who it is, what the authority admitted it as, and which descriptor of it the authority has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The node.
    pub identity: Identity,
    /// Its role.
    pub role: Role,
    /// Its operator's family.
    pub family: Option<[u8; 32]>,
    /// When the descriptor was made.
    pub published: UnixMillis,
    /// [`crate::lists::descriptor_hash`] of its descriptor.
    pub descriptor: Hash,
}

impl Entry {
    /// The entry of a descriptor: everything in it but the hash stands in the descriptor as well, so that proposals can be
    /// compared before descriptors are there.
    #[must_use]
    pub fn of(signed: &SignedDescriptor) -> Self {
        let Descriptor { identity, role, family, published, .. } = signed.descriptor;
        Self { identity, role, family, published, descriptor: descriptor_hash(&signed.bytes) }
    }
}

/// One authority's part in the shared randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// Its commitment for the next draw.
    pub commitment: Hash,
    /// Its commitment for the draw after, in case the document of this list draws.
    pub commitment_after: Hash,
    /// Its value for the next draw, once its commitment is fixed and values are counted.
    pub reveal: Option<[u8; 32]>,
}

/// What one authority says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Genesis hash.
    pub network: Hash,
    /// Its index in the set that certifies the document.
    pub authority: u16,
    /// Height of the document the list is for.
    pub height: u64,
    /// Epoch of the document the list is for.
    pub epoch: Epoch,
    /// The authority's clock when it froze the list; shown, never judged.
    pub made_at: UnixMillis,
    /// Listed nodes, strictly increasing by identity.
    pub entries: Vec<Entry>,
    /// Its part in the shared randomness.
    pub contribution: Contribution,
    /// The parameters it wants.
    pub parameters: Parameters,
    /// The authorities it wants, if others than those in force.
    pub authorities: Option<Vec<AuthorityKey>>,
    /// Where authorities are reached: itself, and those that it wants and that are new. At most [`MAX_AUTHORITIES`]; what it
    /// says of others means nothing.
    pub addresses: BTreeMap<Identity, SocketAddr>,
}

/// Why a list, or the message that carries it, is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    /// Longer than accepted.
    #[error("it is {size} bytes long; at most {max} are accepted")]
    TooLarge {
        /// Bytes found, or needed.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// A field is missing, malformed or contradicts another.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// For another network.
    #[error("it is for network {0}")]
    WrongNetwork(Hash),
    /// For another height than the next document's.
    #[error("it is for height {found}; the next document has height {expected}")]
    WrongHeight {
        /// Height in the list.
        found: u64,
        /// Height of the next document.
        expected: u64,
    },
    /// For an epoch that is over.
    #[error("it is for epoch {0}, which has its document")]
    OldEpoch(Epoch),
    /// By nobody in the set.
    #[error("it claims to be by authority {0}, which is not in the set")]
    UnknownAuthority(u16),
    /// Not signed by the authority it names.
    #[error("it is not signed by authority {0}")]
    BadSignature(u16),
    /// A descriptor that came with it does not verify.
    #[error("its descriptor of {identity}: {error}")]
    Descriptor {
        /// The listed node.
        identity: Identity,
        /// What is wrong.
        error: DescriptorError,
    },
    /// A descriptor that came with it is not the one it names.
    #[error("the descriptor beside its entry {0} is another one")]
    OtherDescriptor(Identity),
}

/// Where the next document stands: what lists and proposals for it are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Genesis hash.
    pub network: Hash,
    /// Who makes and certifies it.
    pub authorities: &'a [AuthorityKey],
    /// Its height.
    pub height: u64,
    /// Hash of the document before it; of the network for the first.
    pub previous: Hash,
    /// Epoch of the document before it.
    pub after: Option<Epoch>,
    /// The document before it.
    pub before: Option<&'a Consensus>,
    /// The network's epochs.
    pub schedule: Schedule,
}

impl<'a> Place<'a> {
    /// The place after `previous`, or the first.
    #[must_use]
    pub fn after(rules: &Rules<'a>, previous: Option<&'a VerifiedConsensus>) -> Self {
        let Rules { network, schedule, authorities, .. } = *rules;
        let first = Self { network, authorities, height: 1, previous: network, after: None, before: None, schedule };
        previous.map_or(first, |previous| Self {
            authorities: &previous.authorities,
            height: previous.height + 1,
            previous: previous.hash(),
            after: Some(previous.epoch),
            before: Some(previous),
            ..first
        })
    }
}

/// How many lists must name a node so that an honest authority is among them: f + 1 of n.
#[must_use]
pub fn witnesses(n: usize) -> usize {
    n.saturating_sub(1) / 3 + 1
}

impl List {
    /// Signs the list.
    #[must_use]
    pub fn sign(self, secret: &AuthoritySecret) -> SignedList {
        let content = self.encode();
        let signature = secret.sign(CONTEXT, &content);
        SignedList { hash: list_hash(&content), bytes: join(&content, &signature), list: self }
    }

    fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(FIELDS);
            writer.put_uint(FORMAT.into());
            writer.put_bytes(self.network.as_bytes());
            writer.put_uint(self.authority.into());
            writer.put_uint(self.height);
            writer.put_uint(self.epoch.0);
            writer.put_uint(self.made_at.0);
            writer.put_array(self.entries.len());
            for Entry { identity, role, family, published, descriptor } in &self.entries {
                writer.put_array(5);
                writer.put_bytes(identity.as_bytes());
                writer.put_uint(codec::role_code(*role));
                match family {
                    Some(family) => writer.put_bytes(family),
                    None => writer.put_null(),
                }
                writer.put_uint(published.0);
                writer.put_bytes(descriptor.as_bytes());
            }
            writer.put_bytes(self.contribution.commitment.as_bytes());
            writer.put_bytes(self.contribution.commitment_after.as_bytes());
            match &self.contribution.reveal {
                Some(value) => writer.put_bytes(value),
                None => writer.put_null(),
            }
            self.parameters.put(writer);
            match &self.authorities {
                Some(authorities) => put_authorities(writer, authorities),
                None => writer.put_null(),
            }
            writer.put_array(self.addresses.len());
            for (identity, address) in &self.addresses {
                writer.put_array(2);
                writer.put_bytes(identity.as_bytes());
                codec::put_address(writer, address);
            }
        })
    }

    fn decode(bytes: &[u8]) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        let reader = &mut reader;
        reader.array(FIELDS, "list fields")?;
        if reader.u8("list format")? != FORMAT {
            return Err("list format (made by another version of the protocol)");
        }
        let list = Self {
            network: Hash::from_bytes(reader.bytes_of("list network")?),
            authority: reader.u16("list authority")?,
            height: reader.u64("list height")?,
            epoch: Epoch(reader.u64("list epoch")?),
            made_at: UnixMillis(reader.u64("list time")?),
            entries: reader.list(0, MAX_NODES, "list entries", |reader| {
                reader.array(5, "list entries")?;
                Ok(Entry {
                    identity: codec::read_identity(reader, "list entries")?,
                    role: codec::read_role(reader)?,
                    family: reader.optional("list entries", |reader| reader.bytes_of("list entries"))?,
                    published: UnixMillis(reader.u64("list entries")?),
                    descriptor: Hash::from_bytes(reader.bytes_of("list entries")?),
                })
            })?,
            contribution: Contribution {
                commitment: Hash::from_bytes(reader.bytes_of("list commitment")?),
                commitment_after: Hash::from_bytes(reader.bytes_of("list commitment")?),
                reveal: reader.optional("list reveal", |reader| reader.bytes_of("list reveal"))?,
            },
            parameters: Parameters::read(reader)?,
            authorities: reader.optional("list authorities", read_authorities)?,
            // their order, and that nobody is there twice, shows when it is written again
            addresses: reader
                .list(0, MAX_AUTHORITIES, "list addresses", |reader| {
                    reader.array(2, "list addresses")?;
                    Ok((codec::read_identity(reader, "list addresses")?, codec::read_address(reader)?))
                })?
                .into_iter()
                .collect(),
        };
        reader.end("bytes after the last field")?;
        if !codec::strictly_sorted(&list.entries, |entry| entry.identity) {
            return Err("list entries (not sorted, or one twice)");
        }
        if list.encode() == bytes { Ok(list) } else { Err("list (not in canonical form)") }
    }
}

/// A list whose signature nobody has checked yet.
#[derive(Clone, Debug)]
pub struct UnverifiedList {
    list: List,
    content: Vec<u8>,
    signature: HybridSignature,
    bytes: Vec<u8>,
}

impl UnverifiedList {
    /// Reads `[list bytes, signature]`.
    ///
    /// # Errors
    /// Too large or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        if bytes.len() > MAX_LIST_SIZE {
            return Err(ListError::TooLarge { size: bytes.len(), max: MAX_LIST_SIZE });
        }
        Self::read(bytes).map_err(ListError::Malformed)
    }

    fn read(bytes: &[u8]) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        reader.array(2, "signed list")?;
        let content = reader.bytes("list")?.to_vec();
        let signature: [u8; HYBRID_SIGNATURE_SIZE] = reader.bytes_of("list signature")?;
        let signature = HybridSignature::from_slice(&signature).map_err(|_| "list signature")?;
        reader.end("bytes after the list's signature")?;
        if join(&content, &signature) != bytes {
            return Err("signed list (not in canonical form)");
        }
        Ok(Self { list: List::decode(&content)?, content, signature, bytes: bytes.to_vec() })
    }

    /// The height it claims to be for: to tell one that came too early or too late from a bad one.
    #[must_use]
    pub fn claimed_height(&self) -> u64 {
        self.list.height
    }

    /// Checks network, height, epoch, and the signature of the authority that it names.
    ///
    /// # Errors
    /// Which of them failed.
    pub fn verify(self, place: &Place<'_>) -> Result<SignedList, ListError> {
        let Self { list, content, signature, bytes } = self;
        if list.network != place.network {
            return Err(ListError::WrongNetwork(list.network));
        }
        if list.height != place.height {
            return Err(ListError::WrongHeight { found: list.height, expected: place.height });
        }
        if place.after.is_some_and(|after| list.epoch <= after) {
            return Err(ListError::OldEpoch(list.epoch));
        }
        let key =
            place.authorities.get(usize::from(list.authority)).ok_or(ListError::UnknownAuthority(list.authority))?;
        if !key.verify(CONTEXT, &content, &signature) {
            return Err(ListError::BadSignature(list.authority));
        }
        Ok(SignedList { hash: list_hash(&content), list, bytes })
    }
}

/// A list that its authority signed, with its exact bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedList {
    list: List,
    hash: Hash,
    bytes: Vec<u8>,
}

impl Deref for SignedList {
    type Target = List;

    fn deref(&self) -> &List {
        &self.list
    }
}

impl SignedList {
    /// Hash of what was signed: documents name lists by it. Two of one authority, height and epoch are no proof of
    /// anything: an honest one says more when it knows more.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// `[list bytes, signature]`, as it travels.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn list_hash(content: &[u8]) -> Hash {
    Hash::of("shoal/1 list hash", content)
}

fn join(content: &[u8], signature: &HybridSignature) -> Vec<u8> {
    codec::encode(|writer| {
        writer.put_array(2);
        writer.put_bytes(content);
        writer.put_bytes(signature.as_bytes());
    })
}

#[cfg(test)]
mod tests;
