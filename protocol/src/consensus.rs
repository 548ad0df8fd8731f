//! The consensus: the agreed document of an epoch.
//!
//! [`Consensus`] is the content, [`UnverifiedConsensus`] what came off a wire or a disk, [`VerifiedConsensus`] what may
//! be used. Content reaches nobody who has not passed [`UnverifiedConsensus::verify`].

use std::net::SocketAddr;

use serde::Serialize;

use crate::authority::AuthorityKey;
use crate::epoch::Schedule;
use crate::parameters::Parameters;
use crate::types::{Epoch, Hash, Identity, Layer, Role, StoreIndex, UnixMillis};
use crate::x25519::X25519Public;

mod bytes;
pub mod codec;
mod content;
mod difference;
mod follower;
mod reach;
mod shelf;
mod verify;

pub use bytes::{put_authorities, read_authorities};
pub use difference::{DifferenceError, difference, leads_from};
pub use follower::{Follower, Offered};
pub use reach::{AuthorityAddress, authorities_reached, documents_reached};
pub use shelf::{Handout, RECENT_KEPT, Shelf};
pub use verify::{DocumentError, Mark, TrustAnchor, UnverifiedConsensus, VerifiedConsensus, assemble, certify};

/// Format of the document that this code reads and writes.
pub const CONSENSUS_FORMAT: u16 = 1;
/// Largest certified document, in bytes. 2,048 stores, the largest kind of entry (about 430 bytes), come to 880 kB.
pub const MAX_CONSENSUS_SIZE: usize = 1024 * 1024;
/// Most nodes one document lists.
pub const MAX_NODES: usize = 2048;
/// Most nodes remembered although they are not listed now.
pub const MAX_ABSENT: usize = 1024;
/// Most store generations alive at once.
pub const MAX_GENERATIONS: usize = 64;
/// Strikes that cost a mix its seat (documents.md, *Demotion*).
pub const DEMOTION_STRIKES: u8 = 3;
/// Epochs for which it has none then: a day in a public network.
pub const DEMOTION_EPOCHS: u64 = 72;
/// Most mixes that a document remembers losses of.
pub const MAX_SUSPECTS: usize = 128;
/// Most stores in one generation.
pub const MAX_STORES: usize = 512;
/// Epochs a document carries mix keys for, and is valid: its own and two more, so two missed documents stop nothing.
pub const EPOCHS_COVERED: u64 = 3;

/// The document of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consensus {
    /// Format of the document, [`CONSENSUS_FORMAT`].
    pub version: u16,
    /// Genesis hash of the network.
    pub network: Hash,
    /// Gapless sequence number, from 1.
    pub height: u64,
    /// The epoch it is made for; strictly increasing from document to document.
    pub epoch: Epoch,
    /// Hash of the document before it; of the network (the genesis hash) for the first.
    pub previous: Hash,
    /// Start of its epoch.
    pub valid_from: UnixMillis,
    /// Start of the third epoch after: nobody uses it later.
    pub valid_until: UnixMillis,
    /// Network-wide parameters in force.
    pub parameters: Parameters,
    /// Mean mixing delay of the document before it, in ms: packets built under that one are still on their way.
    pub previous_mean_delay_ms: u64,
    /// Epoch of the document that brought the mean mixing delay in force: the next change is at least a day later.
    pub mean_delay_since: Epoch,
    /// Authorities that certify the next document.
    pub authorities: Vec<AuthorityKey>,
    /// Where they are reached, as far as it is known; strictly increasing by authority.
    pub addresses: Vec<AuthorityAddress>,
    /// Listed nodes, strictly increasing by identity.
    pub nodes: Vec<NodeEntry>,
    /// Nodes not listed now whose seat or store index must survive their absence, strictly increasing by identity.
    pub absent: Vec<AbsentNode>,
    /// Mixes at which their neighbours lose loops, those that lost their seat for it among them; strictly increasing by
    /// identity.
    pub suspects: Vec<Suspect>,
    /// The store index the next new store gets. Only ever grows: an index is never given twice.
    pub next_store_index: u16,
    /// Store generations within the retention time, strictly increasing by number; the last is the current one.
    pub generations: Vec<Generation>,
    /// Randomness of the last draw of layers and generation; zeros before the first.
    #[serde(serialize_with = "codec::hex_32")]
    pub randomness: [u8; 32],
    /// The draw that comes next, and whom the one before may seat.
    pub draw: DrawState,
    /// Commitments to what authorities will reveal for the next draw, strictly increasing by authority. Once here, a
    /// commitment stays until its draw.
    pub commitments: Vec<Commitment>,
    /// What was revealed for the next draw so far, strictly increasing by authority.
    pub reveals: Vec<Reveal>,
    /// Hashes of the authorities' lists this document was computed from, strictly increasing by authority. Indices into
    /// the set that certifies this document; all other indices are into [`Self::authorities`].
    pub lists: Vec<ListHash>,
}

/// Where the shared randomness stands: when the next draw takes commitments, reveals, and is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrawState {
    /// Epoch from which on the randomness in force was revealed: only nodes known since an earlier one may be seated by
    /// it.
    pub revealed_from: Epoch,
    /// Number of the next draw, and of the generation it makes. A draw that had to be begun anew has a new number.
    pub number: u32,
    /// Documents of earlier epochs take commitments.
    pub commit_before: Epoch,
    /// Documents from this epoch on count reveals; not before [`Self::commit_before`].
    pub reveal_from: Epoch,
    /// The first document from this epoch on draws, if enough was revealed in documents before it.
    pub due: Epoch,
    /// Authorities that committed and did not reveal for the draw before: they have no part in this one. Strictly
    /// increasing.
    pub excluded: Vec<u16>,
}

impl Default for DrawState {
    fn default() -> Self {
        Self {
            revealed_from: Epoch(0),
            number: 1,
            commit_before: Epoch(1),
            reveal_from: Epoch(1),
            due: Epoch(2),
            excluded: Vec::new(),
        }
    }
}

/// One listed node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeEntry {
    /// Its identity key.
    pub identity: Identity,
    /// What it does.
    pub role: Role,
    /// The layer of an active mix; `None` for every other node.
    pub layer: Option<Layer>,
    /// Its operator; its own identity when it named none. A route visits a family at most once.
    #[serde(serialize_with = "codec::hex_32")]
    pub family: [u8; 32],
    /// Where it is reached.
    pub addresses: Vec<SocketAddr>,
    /// The index of a store.
    pub store_index: Option<StoreIndex>,
    /// Mix keys for the document's epoch and up to two more.
    pub mix_keys: Vec<(Epoch, X25519Public)>,
    /// Envelope keys of a store, for the same epochs.
    pub envelope_keys: Vec<(Epoch, X25519Public)>,
    /// Since which epoch it is known without being forgotten: only randomness drawn later may seat it.
    pub since: Epoch,
    /// Waits for a draw or a vacancy: a mix without a layer, a store in no generation.
    pub standby: bool,
}

/// A node that is not listed now but whose place is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AbsentNode {
    /// Its identity key.
    pub identity: Identity,
    /// Its role.
    pub role: Role,
    /// The seat of a mix, kept until the next draw unless a standby took it.
    pub layer: Option<Layer>,
    /// The index of a store, kept while a living generation names it.
    pub store_index: Option<StoreIndex>,
    /// As in [`NodeEntry::since`].
    pub since: Epoch,
}

/// A mix at which its neighbours lose loops: what one document tells the next, and everybody, about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suspect {
    /// Its identity key.
    pub identity: Identity,
    /// Documents that found loss at it, less those that did not since; at most [`DEMOTION_STRIKES`].
    pub strikes: u8,
    /// Operators before it on the way of a packet, by the last document that found loss.
    pub before: Share,
    /// Operators behind it.
    pub behind: Share,
    /// First epoch in which it may have a seat again; `None` while it has not lost its seat.
    pub demoted_until: Option<Epoch>,
}

/// How many of some operators lose loops at a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Those that do.
    pub losing: u16,
    /// All of them.
    pub of: u16,
}

impl Share {
    /// More than half of them.
    #[must_use]
    pub fn is_majority(self) -> bool {
        2 * u32::from(self.losing) > u32::from(self.of)
    }
}

/// A fixed set of stores with the randomness that places boxes on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// Number of the draw that made it, from 1.
    pub number: u32,
    /// Epoch of the document that drew it.
    pub since: Epoch,
    /// Epoch in which a later one replaced it; `None` for the current one.
    pub retired: Option<Epoch>,
    /// Randomness drawn after its stores were admitted.
    #[serde(serialize_with = "codec::hex_32")]
    pub seed: [u8; 32],
    /// Its stores, strictly increasing; at least three.
    pub stores: Vec<StoreIndex>,
}

/// An authority's commitment to its next reveal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Commitment {
    /// Index in the authority list.
    pub authority: u16,
    /// Hash of the value it will reveal.
    pub hash: Hash,
}

/// A revealed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reveal {
    /// Index in the authority list.
    pub authority: u16,
    /// The value that its earlier commitment covers.
    #[serde(serialize_with = "codec::hex_32")]
    pub value: [u8; 32],
}

/// Which descriptor list of an authority went into a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListHash {
    /// Index in the authority list.
    pub authority: u16,
    /// Hash of the list's exact bytes.
    pub hash: Hash,
}

impl Consensus {
    /// The entry of a listed node.
    #[must_use]
    pub fn node(&self, identity: &Identity) -> Option<&NodeEntry> {
        self.nodes.binary_search_by_key(identity, |node| node.identity).ok().map(|at| &self.nodes[at])
    }

    /// The entry of a listed store.
    #[must_use]
    pub fn store(&self, index: StoreIndex) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.store_index == Some(index))
    }

    /// What is remembered of losses at a mix.
    #[must_use]
    pub fn suspect(&self, identity: &Identity) -> Option<&Suspect> {
        self.suspects.binary_search_by_key(identity, |suspect| suspect.identity).ok().map(|at| &self.suspects[at])
    }

    /// All gateways.
    pub fn gateways(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter().filter(|node| node.role == Role::Gateway)
    }

    /// All stores of a living generation; those that stand by are left out.
    pub fn stores(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter().filter(|node| node.role == Role::Store && !node.standby)
    }

    /// The active mixes of one layer.
    pub fn layer(&self, layer: Layer) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter().filter(move |node| node.layer == Some(layer))
    }

    /// The generation that new boxes go to; `None` before genesis.
    #[must_use]
    pub fn current_generation(&self) -> Option<&Generation> {
        self.generations.last()
    }

    /// A generation that is still within the retention time.
    #[must_use]
    pub fn generation(&self, number: u32) -> Option<&Generation> {
        self.generations
            .binary_search_by_key(&number, |generation| generation.number)
            .ok()
            .map(|at| &self.generations[at])
    }

    /// The network's epochs, as this document dates them.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let epoch_ms = self.parameters.epoch_ms;
        let genesis = self.valid_from.0.saturating_sub(self.epoch.0.saturating_mul(epoch_ms));
        Schedule { genesis: UnixMillis(genesis), epoch_ms }
    }

    /// Grace for the previous keys and cap of a hop's delay follow the larger of two means.
    #[must_use]
    pub fn delay_cap(&self) -> std::time::Duration {
        self.parameters.delay_cap(self.previous_mean_delay_ms)
    }
}

/// Hash of a set of authorities: how a reader that was away says which one it believes, and nothing more of itself.
#[must_use]
pub fn set_hash(authorities: &[AuthorityKey]) -> Hash {
    Hash::of("shoal/1 authority set", &codec::encode(|writer| put_authorities(writer, authorities)))
}

/// Of the documents that changed the set of authorities, oldest first, those that lead on from the set with this hash;
/// `None` if it is neither the genesis set nor named by any of them. Where a set was in force twice, from its last time.
#[must_use]
pub fn changes_after<'c, D: AsRef<VerifiedConsensus>>(
    genesis: &[AuthorityKey],
    changes: &'c [D],
    set: &Hash,
) -> Option<&'c [D]> {
    match changes.iter().rposition(|change| set_hash(&change.as_ref().authorities) == *set) {
        Some(at) => changes.get(at + 1..),
        None => (set_hash(genesis) == *set).then_some(changes),
    }
}

impl NodeEntry {
    /// The mix key for `epoch`, if the document has it.
    #[must_use]
    pub fn mix_key(&self, epoch: Epoch) -> Option<&X25519Public> {
        self.mix_keys.iter().find(|(of, _)| *of == epoch).map(|(_, key)| key)
    }

    /// The envelope key of a store for `epoch`, if the document has it.
    #[must_use]
    pub fn envelope_key(&self, epoch: Epoch) -> Option<&X25519Public> {
        self.envelope_keys.iter().find(|(of, _)| *of == epoch).map(|(_, key)| key)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
