//! A document as bytes: CBOR in its canonical form, field by field.

use super::codec::{self, Parsed, Put, Reader, Writer};
use super::{
    AbsentNode, AuthorityAddress, CONSENSUS_FORMAT, Commitment, Consensus, DrawState, EPOCHS_COVERED, Generation,
    ListHash, MAX_ABSENT, MAX_GENERATIONS, MAX_NODES, MAX_STORES, MAX_SUSPECTS, NodeEntry, Reveal, Share, Suspect,
};
use crate::authority::{AuthorityKey, ML_DSA_PUBLIC_SIZE};
use crate::certificate::MAX_AUTHORITIES;
use crate::descriptor::MAX_ADDRESSES;
use crate::parameters::Parameters;
use crate::types::{Epoch, Hash, StoreIndex, UnixMillis};

impl Consensus {
    /// The exact bytes that are hashed and signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(22);
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
            put_list(writer, &self.suspects, Suspect::put);
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
    pub(super) fn decode(bytes: &[u8]) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        let reader = &mut reader;
        reader.array(22, "document fields")?;
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
            suspects: reader.list(0, MAX_SUSPECTS, "suspects", Suspect::read)?,
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

impl Suspect {
    fn put(&self, writer: &mut Writer) {
        writer.put_array(7);
        writer.put_bytes(self.identity.as_bytes());
        writer.put_uint(self.strikes.into());
        for share in [self.before, self.behind] {
            writer.put_uint(share.losing.into());
            writer.put_uint(share.of.into());
        }
        match self.demoted_until {
            Some(epoch) => writer.put_uint(epoch.0),
            None => writer.put_null(),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Parsed<Self> {
        const FIELD: &str = "suspects";
        reader.array(7, FIELD)?;
        let identity = codec::read_identity(reader, FIELD)?;
        let strikes = reader.u8(FIELD)?;
        let mut share = || -> Parsed<Share> { Ok(Share { losing: reader.u16(FIELD)?, of: reader.u16(FIELD)? }) };
        let (before, behind) = (share()?, share()?);
        let demoted_until = reader.optional(FIELD, |reader| reader.u64(FIELD))?.map(Epoch);
        Ok(Self { identity, strikes, before, behind, demoted_until })
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
