//! The consensus: the agreed document of an epoch.
//!
//! [`Consensus`] is the content, [`UnverifiedConsensus`] what came off a wire or a disk, [`VerifiedConsensus`] what may
//! be used. Content reaches nobody who has not passed [`UnverifiedConsensus::verify`].

use std::net::SocketAddr;

use serde::Serialize;

use crate::authority::{AuthorityKey, ML_DSA_PUBLIC_SIZE};
use crate::certificate::MAX_AUTHORITIES;
use crate::descriptor::MAX_ADDRESSES;
use crate::epoch::Schedule;
use crate::parameters::Parameters;
use crate::types::{Epoch, Hash, Identity, Layer, Role, StoreIndex, UnixMillis};
use crate::x25519::X25519Public;

pub mod codec;
mod content;
mod difference;
mod follower;
mod reach;
mod shelf;
mod verify;

pub use difference::{DifferenceError, difference, leads_from};
pub use follower::{Follower, Offered};
pub use reach::{AuthorityAddress, authorities_reached, documents_reached};
pub use shelf::{Handout, RECENT_KEPT, Shelf};
pub use verify::{DocumentError, Mark, TrustAnchor, UnverifiedConsensus, VerifiedConsensus, assemble, certify};

use codec::{Parsed, Put, Reader, Writer};

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

    /// The exact bytes that are hashed and signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(21);
            writer.put_uint(self.version.into());
            writer.put_bytes(self.network.as_bytes());
            writer.put_uint(self.height);
            writer.put_uint(self.epoch.0);
            writer.put_bytes(self.previous.as_bytes());
            writer.put_uint(self.valid_from.0);
            writer.put_uint(self.valid_until.0);
            self.parameters.put(writer);
            writer.put_uint(self.previous_mean_delay_ms);
            writer.put_uint(self.mean_delay_since.0);
            put_authorities(writer, &self.authorities);
            put_list(writer, &self.addresses, AuthorityAddress::put);
            put_list(writer, &self.nodes, NodeEntry::put);
            put_list(writer, &self.absent, AbsentNode::put);
            writer.put_uint(self.next_store_index.into());
            put_list(writer, &self.generations, Generation::put);
            writer.put_bytes(&self.randomness);
            self.draw.put(writer);
            put_list(writer, &self.commitments, |entry, writer| {
                put_pair(writer, entry.authority, entry.hash.as_bytes())
            });
            put_list(writer, &self.reveals, |entry, writer| put_pair(writer, entry.authority, &entry.value));
            put_list(writer, &self.lists, |entry, writer| put_pair(writer, entry.authority, entry.hash.as_bytes()));
        })
    }

    /// Reads a document strictly; says which field is wrong.
    fn decode(bytes: &[u8]) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        let reader = &mut reader;
        reader.array(21, "document fields")?;
        let version = reader.u16("format")?;
        if version != CONSENSUS_FORMAT {
            return Err("format (made by another version of the protocol)");
        }
        let document = Self {
            version,
            network: Hash::from_bytes(reader.bytes_of("network")?),
            height: reader.u64("height")?,
            epoch: Epoch(reader.u64("epoch")?),
            previous: Hash::from_bytes(reader.bytes_of("previous hash")?),
            valid_from: UnixMillis(reader.u64("valid_from")?),
            valid_until: UnixMillis(reader.u64("valid_until")?),
            parameters: Parameters::read(reader)?,
            previous_mean_delay_ms: reader.u64("previous mean delay")?,
            mean_delay_since: Epoch(reader.u64("mean delay since")?),
            authorities: read_authorities(reader)?,
            addresses: AuthorityAddress::read_all(reader)?,
            nodes: reader.list(0, MAX_NODES, "nodes", NodeEntry::read)?,
            absent: reader.list(0, MAX_ABSENT, "absent nodes", AbsentNode::read)?,
            next_store_index: reader.u16("next store index")?,
            generations: reader.list(0, MAX_GENERATIONS, "generations", Generation::read)?,
            randomness: reader.bytes_of("randomness")?,
            draw: DrawState::read(reader)?,
            commitments: read_pairs(reader, "commitments", |authority, bytes| Commitment {
                authority,
                hash: Hash::from_bytes(bytes),
            })?,
            reveals: read_pairs(reader, "reveals", |authority, value| Reveal { authority, value })?,
            lists: read_pairs(reader, "lists", |authority, bytes| ListHash {
                authority,
                hash: Hash::from_bytes(bytes),
            })?,
        };
        reader.end("bytes after the last field")?;
        document.check()?;
        if document.encode() == bytes { Ok(document) } else { Err("not in canonical form") }
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

/// `[[identity, ml-dsa], …]`.
pub fn put_authorities(writer: &mut Writer, authorities: &[AuthorityKey]) {
    put_list(writer, authorities, |key, writer| {
        writer.put_array(2);
        writer.put_bytes(key.identity.as_bytes());
        writer.put_bytes(&key.ml_dsa);
    });
}

/// What [`put_authorities`] wrote: 1 to [`MAX_AUTHORITIES`] keys, strictly increasing by identity.
///
/// # Errors
/// What is wrong with them.
pub fn read_authorities(reader: &mut Reader<'_>) -> Parsed<Vec<AuthorityKey>> {
    let keys = reader.list(1, MAX_AUTHORITIES, "authorities", |reader| {
        reader.array(2, "authorities")?;
        Ok(AuthorityKey {
            identity: codec::read_identity(reader, "authorities")?,
            ml_dsa: reader.bytes_of::<ML_DSA_PUBLIC_SIZE>("authorities")?,
        })
    })?;
    if codec::strictly_sorted(&keys, |key| key.identity) {
        Ok(keys)
    } else {
        Err("authorities (not sorted, or one twice)")
    }
}

fn put_list<T>(writer: &mut Writer, items: &[T], put: impl Fn(&T, &mut Writer)) {
    writer.put_array(items.len());
    for item in items {
        put(item, writer);
    }
}

fn put_pair(writer: &mut Writer, authority: u16, bytes: &[u8; 32]) {
    writer.put_array(2);
    writer.put_uint(authority.into());
    writer.put_bytes(bytes);
}

/// `[[authority, 32 bytes], …]`, at most one per authority.
fn read_pairs<T>(reader: &mut Reader<'_>, field: &'static str, make: impl Fn(u16, [u8; 32]) -> T) -> Parsed<Vec<T>> {
    let mut last = None;
    reader.list(0, MAX_AUTHORITIES, field, |reader| {
        reader.array(2, field)?;
        let authority = reader.u16(field)?;
        if last.replace(authority).is_some_and(|before| before >= authority) {
            return Err(field);
        }
        Ok(make(authority, reader.bytes_of(field)?))
    })
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

    fn put(&self, writer: &mut Writer) {
        writer.put_array(10);
        writer.put_bytes(self.identity.as_bytes());
        writer.put_uint(codec::role_code(self.role));
        codec::put_layer(writer, self.layer);
        if self.family == *self.identity.as_bytes() {
            writer.put_null();
        } else {
            writer.put_bytes(&self.family);
        }
        put_list(writer, &self.addresses, |address, writer| codec::put_address(writer, address));
        put_index(writer, self.store_index);
        codec::put_keys(writer, &self.mix_keys);
        codec::put_keys(writer, &self.envelope_keys);
        writer.put_uint(self.since.0);
        writer.put_bool(self.standby);
    }

    fn read(reader: &mut Reader<'_>) -> Parsed<Self> {
        const COVERED: usize = EPOCHS_COVERED as usize;
        reader.array(10, "node fields")?;
        let identity = codec::read_identity(reader, "node identity")?;
        Ok(Self {
            identity,
            role: codec::read_role(reader)?,
            layer: codec::read_layer(reader)?,
            family: reader.optional("family", |reader| reader.bytes_of("family"))?.unwrap_or(*identity.as_bytes()),
            addresses: reader.list(1, MAX_ADDRESSES, "node addresses", codec::read_address)?,
            store_index: read_index(reader)?,
            mix_keys: codec::read_keys(reader, 1, COVERED, "mix keys")?,
            envelope_keys: codec::read_keys(reader, 0, COVERED, "envelope keys")?,
            since: Epoch(reader.u64("since")?),
            standby: reader.bool("standby")?,
        })
    }
}

impl DrawState {
    fn put(&self, writer: &mut Writer) {
        writer.put_array(6);
        writer.put_uint(self.revealed_from.0);
        writer.put_uint(self.number.into());
        writer.put_uint(self.commit_before.0);
        writer.put_uint(self.reveal_from.0);
        writer.put_uint(self.due.0);
        put_list(writer, &self.excluded, |authority, writer| writer.put_uint((*authority).into()));
    }

    fn read(reader: &mut Reader<'_>) -> Parsed<Self> {
        reader.array(6, "draw")?;
        Ok(Self {
            revealed_from: Epoch(reader.u64("draw")?),
            number: reader.u32("draw")?,
            commit_before: Epoch(reader.u64("draw")?),
            reveal_from: Epoch(reader.u64("draw")?),
            due: Epoch(reader.u64("draw")?),
            excluded: reader
                .list(0, MAX_AUTHORITIES, "excluded authorities", |reader| reader.u16("excluded authorities"))?,
        })
    }
}

impl AbsentNode {
    fn put(&self, writer: &mut Writer) {
        writer.put_array(5);
        writer.put_bytes(self.identity.as_bytes());
        writer.put_uint(codec::role_code(self.role));
        codec::put_layer(writer, self.layer);
        put_index(writer, self.store_index);
        writer.put_uint(self.since.0);
    }

    fn read(reader: &mut Reader<'_>) -> Parsed<Self> {
        reader.array(5, "absent node")?;
        Ok(Self {
            identity: codec::read_identity(reader, "absent node")?,
            role: codec::read_role(reader)?,
            layer: codec::read_layer(reader)?,
            store_index: read_index(reader)?,
            since: Epoch(reader.u64("absent node")?),
        })
    }
}

impl Generation {
    fn put(&self, writer: &mut Writer) {
        writer.put_array(5);
        writer.put_uint(self.number.into());
        writer.put_uint(self.since.0);
        match self.retired {
            Some(epoch) => writer.put_uint(epoch.0),
            None => writer.put_null(),
        }
        writer.put_bytes(&self.seed);
        put_list(writer, &self.stores, |index, writer| writer.put_uint(index.0.into()));
    }

    fn read(reader: &mut Reader<'_>) -> Parsed<Self> {
        reader.array(5, "generation")?;
        Ok(Self {
            number: reader.u32("generation number")?,
            since: Epoch(reader.u64("generation since")?),
            retired: reader.optional("generation retired", |reader| reader.u64("generation retired"))?.map(Epoch),
            seed: reader.bytes_of("generation seed")?,
            stores: reader
                .list(3, MAX_STORES, "generation stores", |reader| Ok(StoreIndex(reader.u16("generation stores")?)))?,
        })
    }
}

fn put_index(writer: &mut Writer, index: Option<StoreIndex>) {
    match index {
        Some(index) => writer.put_uint(index.0.into()),
        None => writer.put_null(),
    }
}

fn read_index(reader: &mut Reader<'_>) -> Parsed<Option<StoreIndex>> {
    Ok(reader.optional("store index", |reader| reader.u16("store index"))?.map(StoreIndex))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
