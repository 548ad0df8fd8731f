//! What a proposer offers: enough lists that nobody can be left out, and every descriptor they need, so that everybody
//! computes the same document from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::authority::quorum;
use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::MAX_NODES;
use shoal_protocol::consensus::codec::{self, Parsed, Put, Reader, strictly_sorted};
use shoal_protocol::descriptor::{DescriptorError, MAX_DESCRIPTOR_SIZE, SignedDescriptor};
use shoal_protocol::{Epoch, Hash, Identity};
use thiserror::Error;

use crate::choice::{Choice, choose};
use crate::list_message::{DescriptorCache, ListMessage};
use crate::lists::descriptor_hash;
use crate::signed_list::{Entry, ListError, MAX_LIST_SIZE, Place, SignedList, UnverifiedList};

/// Largest proposal, in bytes. One descriptor of at most 2,688 bytes for each of 2,048 nodes is 5.5 MB. The fewest lists of
/// 64 authorities are 43 of 320 KiB: 14.1 MB. So a proposal of n − f lists fits, whatever nodes and authorities say. Seven
/// authorities, 1,000 nodes, usual descriptors: 1.4 MB.
pub const MAX_PROPOSAL_SIZE: usize = 19 * 1024 * 1024;
const _: () = assert!(
    MAX_PROPOSED * (MAX_DESCRIPTOR_SIZE + 3)
        + (MAX_AUTHORITIES - (MAX_AUTHORITIES - 1) / 3) * (MAX_LIST_SIZE + 5)
        + 1024
        <= MAX_PROPOSAL_SIZE,
    "the fewest lists and all descriptors must fit"
);
/// Most descriptors in one proposal: one of each node of a full document. More are refused before any signature is checked.
pub const MAX_PROPOSED: usize = MAX_NODES;

const FORMAT: u8 = 1;

/// Why a proposal is refused, or cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposalError {
    /// Longer than accepted.
    #[error("the proposal is {0} bytes long; at most {MAX_PROPOSAL_SIZE} are accepted")]
    TooLarge(usize),
    /// A field is missing, malformed or contradicts another.
    #[error("the proposal is malformed: {0}")]
    Malformed(&'static str),
    /// It does not follow the newest document.
    #[error("the proposal is for height {height} after {previous}, which is not the next document")]
    Elsewhere {
        /// Its height.
        height: u64,
        /// The predecessor it names.
        previous: Hash,
    },
    /// It is for an epoch that has its document.
    #[error("the proposal is for epoch {0}, which has its document")]
    OldEpoch(Epoch),
    /// Too few lists: with fewer than n − f somebody could be left out.
    #[error("the proposal holds {found} lists; {needed} are needed")]
    TooFewLists {
        /// Lists in it.
        found: usize,
        /// n − f.
        needed: usize,
    },
    /// A list in it is refused.
    #[error("list {position} of the proposal: {error}")]
    List {
        /// Which one, from 0.
        position: usize,
        /// Why.
        error: ListError,
    },
    /// Lists of different epochs.
    #[error("list {0} of the proposal is for another epoch")]
    OtherEpoch(usize),
    /// A descriptor that the lists need is missing, or one is there that they do not need.
    #[error("the proposal does not hold exactly the descriptors that its lists need: {0}")]
    OtherDescriptors(Identity),
    /// A descriptor in it does not verify.
    #[error("the proposal's descriptor of {identity}: {error}")]
    Descriptor {
        /// The node.
        identity: Identity,
        /// What is wrong.
        error: DescriptorError,
    },
}

/// A proposal in which everything verified, with its exact bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedProposal {
    height: u64,
    epoch: Epoch,
    previous: Hash,
    lists: Vec<SignedList>,
    choice: Choice,
    descriptors: BTreeMap<Identity, Arc<SignedDescriptor>>,
    bytes: Vec<u8>,
}

impl VerifiedProposal {
    /// Makes a proposal for `epoch` of the lists that are there: all that are for this place and epoch, one an authority.
    /// If they do not fit, the longest are left out, down to n − f, which always fit.
    ///
    /// # Errors
    /// Fewer than n − f lists.
    pub fn compose(place: &Place<'_>, epoch: Epoch, messages: &[&ListMessage]) -> Result<Self, ProposalError> {
        let needed = quorum(place.authorities.len());
        let mut chosen: BTreeMap<u16, &ListMessage> = messages
            .iter()
            .filter(|message| message.list().height == place.height && message.list().epoch == epoch)
            .map(|message| (message.list().authority, *message))
            .collect();
        loop {
            if chosen.len() < needed {
                return Err(ProposalError::TooFewLists { found: chosen.len(), needed });
            }
            let proposal = Self::of(place, epoch, &chosen);
            let size = proposal.bytes.len();
            if size <= MAX_PROPOSAL_SIZE {
                return Ok(proposal);
            }
            let longest = chosen.iter().max_by_key(|(_, message)| message.list().bytes().len());
            let Some(authority) = longest.map(|(authority, _)| *authority).filter(|_| chosen.len() > needed) else {
                return Err(ProposalError::TooLarge(size));
            };
            chosen.remove(&authority);
        }
    }

    fn of(place: &Place<'_>, epoch: Epoch, messages: &BTreeMap<u16, &ListMessage>) -> Self {
        let lists: Vec<SignedList> = messages.values().map(|message| message.list().clone()).collect();
        let choice = choose(place, epoch, &lists);
        let mut descriptors = BTreeMap::new();
        for message in messages.values() {
            for (entry, signed) in message.list().entries.iter().zip(message.descriptors()) {
                if choice.chosen.get(&entry.identity) == Some(entry) {
                    descriptors.insert(entry.identity, Arc::clone(signed));
                }
            }
        }
        let Place { height, previous, .. } = *place;
        let bytes =
            encode(height, epoch, &previous, &lists, descriptors.values().map(|signed| signed.bytes.as_slice()));
        Self { height, epoch, previous, lists, choice, descriptors, bytes }
    }

    /// Height of the document that it makes.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Epoch of the document that it makes.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Hash of the document before.
    #[must_use]
    pub fn previous(&self) -> Hash {
        self.previous
    }

    /// The lists, strictly increasing by authority.
    #[must_use]
    pub fn lists(&self) -> &[SignedList] {
        &self.lists
    }

    /// What comes of the nodes that the lists name.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The descriptors that count, one a chosen node.
    #[must_use]
    pub fn descriptors(&self) -> &BTreeMap<Identity, Arc<SignedDescriptor>> {
        &self.descriptors
    }

    /// Its exact bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Hash of its exact bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of("shoal/1 proposal", &self.bytes)
    }
}

/// A proposal that nobody has verified; its content is out of reach.
#[derive(Clone, Debug)]
pub struct UnverifiedProposal {
    height: u64,
    epoch: Epoch,
    previous: Hash,
    lists: Vec<Vec<u8>>,
    descriptors: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

impl UnverifiedProposal {
    /// Reads `[format, height, epoch, previous, [signed list, …], [descriptor, …]]`.
    ///
    /// # Errors
    /// Too large or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProposalError> {
        if bytes.len() > MAX_PROPOSAL_SIZE {
            return Err(ProposalError::TooLarge(bytes.len()));
        }
        Self::read(bytes).map_err(ProposalError::Malformed)
    }

    fn read(bytes: &[u8]) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        let reader = &mut reader;
        reader.array(6, "proposal fields")?;
        if reader.u8("proposal format")? != FORMAT {
            return Err("format (made by another version of the protocol)");
        }
        let height = reader.u64("height")?;
        let epoch = Epoch(reader.u64("epoch")?);
        let previous = Hash::from_bytes(reader.bytes_of("previous hash")?);
        let lists = reader.list(1, MAX_AUTHORITIES, "lists", |reader| Ok(reader.bytes("lists")?.to_vec()))?;
        let descriptors =
            reader.list(0, MAX_PROPOSED, "descriptors", |reader| Ok(reader.bytes("descriptors")?.to_vec()))?;
        reader.end("bytes after the last field")?;
        let again = encode(height, epoch, &previous, &lists, descriptors.iter().map(Vec::as_slice));
        if again != bytes {
            return Err("not in canonical form");
        }
        Ok(Self { height, epoch, previous, lists, descriptors, bytes: bytes.to_vec() })
    }

    /// The height it claims to be for.
    #[must_use]
    pub fn claimed_height(&self) -> u64 {
        self.height
    }

    /// Checks that it stands at `place`, that it holds n − f to n lists of different authorities for its epoch, each
    /// signed, and exactly the descriptors that these lists need, each signed by its node.
    ///
    /// At most 64 signatures of authorities and [`MAX_PROPOSED`] of nodes are checked, the latter only when the set of
    /// descriptors is the right one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(self, place: &Place<'_>, cache: &mut DescriptorCache) -> Result<VerifiedProposal, ProposalError> {
        let Self { height, epoch, previous, lists, descriptors, bytes } = self;
        if height != place.height || previous != place.previous {
            return Err(ProposalError::Elsewhere { height, previous });
        }
        if place.after.is_some_and(|after| epoch <= after) {
            return Err(ProposalError::OldEpoch(epoch));
        }
        let n = place.authorities.len();
        if lists.len() < quorum(n) {
            return Err(ProposalError::TooFewLists { found: lists.len(), needed: quorum(n) });
        }
        let mut verified: Vec<SignedList> = Vec::new();
        for (position, list) in lists.iter().enumerate() {
            let list = UnverifiedList::parse(list)
                .and_then(|list| list.verify(place))
                .map_err(|error| ProposalError::List { position, error })?;
            if list.epoch != epoch {
                return Err(ProposalError::OtherEpoch(position));
            }
            verified.push(list);
        }
        if !strictly_sorted(&verified, |list| list.authority) {
            return Err(ProposalError::Malformed("lists (not sorted, or one authority twice)"));
        }
        let choice = choose(place, epoch, &verified);
        let descriptors = check_descriptors(&choice.chosen, &descriptors, cache)?;
        Ok(VerifiedProposal { height, epoch, previous, lists: verified, choice, descriptors, bytes })
    }
}

/// The descriptors of `carried`, if they are those of the `chosen` entries, in their order.
fn check_descriptors(
    chosen: &BTreeMap<Identity, Entry>,
    carried: &[Vec<u8>],
    cache: &mut DescriptorCache,
) -> Result<BTreeMap<Identity, Arc<SignedDescriptor>>, ProposalError> {
    // first by hash alone, which costs little
    for ((identity, entry), bytes) in chosen.iter().zip(carried) {
        if descriptor_hash(bytes) != entry.descriptor {
            return Err(ProposalError::OtherDescriptors(*identity));
        }
    }
    if chosen.len() != carried.len() {
        let missing = chosen.keys().nth(carried.len()).or(chosen.keys().last());
        return Err(missing.map_or(ProposalError::Malformed("descriptors (none is needed)"), |identity| {
            ProposalError::OtherDescriptors(*identity)
        }));
    }
    let mut descriptors = BTreeMap::new();
    for ((identity, entry), bytes) in chosen.iter().zip(carried) {
        let signed = cache.verify(bytes).map_err(|error| ProposalError::Descriptor { identity: *identity, error })?;
        // the list may say of it what it does not say of itself
        if Entry::of(&signed) != *entry {
            return Err(ProposalError::OtherDescriptors(*identity));
        }
        descriptors.insert(*identity, signed);
    }
    Ok(descriptors)
}

fn encode<'a, L: AsListBytes>(
    height: u64,
    epoch: Epoch,
    previous: &Hash,
    lists: &[L],
    descriptors: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    codec::encode(|writer| {
        writer.put_array(6);
        writer.put_uint(FORMAT.into());
        writer.put_uint(height);
        writer.put_uint(epoch.0);
        writer.put_bytes(previous.as_bytes());
        writer.put_array(lists.len());
        for list in lists {
            writer.put_bytes(list.list_bytes());
        }
        writer.put_array(descriptors.len());
        for bytes in descriptors {
            writer.put_bytes(bytes);
        }
    })
}

/// A signed list's bytes, verified or not.
trait AsListBytes {
    fn list_bytes(&self) -> &[u8];
}

impl AsListBytes for SignedList {
    fn list_bytes(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsListBytes for Vec<u8> {
    fn list_bytes(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests;
