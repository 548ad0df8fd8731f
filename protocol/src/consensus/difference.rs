//! What changed from one document to the next, for a reader who holds the one before.
//!
//! Most of a document is known to whoever holds the last one: of three mix keys of a node two were in it. So both sides
//! compute the document that is *expected* to follow, with the new keys filled in from one column of bytes, and copy
//! from it whatever came true; the rest, and the certificate, travels as it is. Of 1,000 nodes the keys alone are 32 kB of
//! an eighth of a megabyte.
//!
//! A difference is believed by nobody. It names the document it leads from and the one it leads to, and what comes out is
//! parsed and verified like any document.

use std::collections::HashMap;

use thiserror::Error;

use super::codec::{self, Parsed, Put, Reader};
use super::verify::{document_hash, join, split};
use super::{Consensus, EPOCHS_COVERED, MAX_CONSENSUS_SIZE, VerifiedConsensus};
use crate::types::{Epoch, Hash, Identity};
use crate::x25519::X25519Public;

/// Format of the difference that this code reads and writes.
const FORMAT: u16 = 1;
/// Shortest run of bytes that is copied from where the copying stands: a step costs about six bytes.
const RUN_MIN: usize = 8;
/// Length of the blocks by which bytes that moved are found again.
const BLOCK: usize = 16;

/// Why a difference is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DifferenceError {
    /// Longer than any document.
    #[error("the difference is {0} bytes long; at most {MAX_CONSENSUS_SIZE} are accepted")]
    TooLarge(usize),
    /// It leads from another document than the one held.
    #[error("the difference leads from another document")]
    OtherDocument,
    /// It cannot be read, or does not lead to the document that it names.
    #[error("the difference is malformed: {0}")]
    Malformed(&'static str),
}

/// How a list of keys is continued: by the 32 bytes for a node and an epoch.
type Fill<'a> = dyn FnMut(&Identity, Kind, Epoch) -> [u8; 32] + 'a;

/// Which of a node's two lists of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mix,
    Envelope,
}

/// The bytes of the document that is expected `epochs` after `old`: one height later, every validity later, no key of an
/// epoch that is over, and every list of keys complete again, by `fill`.
///
/// At most 2,048 nodes × 2 lists × 2 keys × 44 bytes = 361 kB longer than the document it is made from.
fn expected(old: &Consensus, old_hash: Hash, epochs: u64, fill: &mut Fill<'_>) -> Vec<u8> {
    let mut next = old.clone();
    let later = epochs.saturating_mul(old.parameters.epoch_ms);
    next.height = old.height.saturating_add(1);
    next.epoch = old.epoch.plus(epochs);
    next.previous = old_hash;
    next.valid_from.0 = old.valid_from.0.saturating_add(later);
    next.valid_until.0 = old.valid_until.0.saturating_add(later);
    for node in &mut next.nodes {
        let identity = node.identity;
        complete(&mut node.mix_keys, next.epoch, |epoch| fill(&identity, Kind::Mix, epoch));
        if !node.envelope_keys.is_empty() {
            complete(&mut node.envelope_keys, next.epoch, |epoch| fill(&identity, Kind::Envelope, epoch));
        }
    }
    next.encode()
}

/// Keys for `from` and the epochs after it that a document covers; those that are missing come from `fill`.
fn complete(keys: &mut Vec<(Epoch, X25519Public)>, from: Epoch, mut fill: impl FnMut(Epoch) -> [u8; 32]) {
    keys.retain(|(epoch, _)| *epoch >= from);
    for epoch in (0..EPOCHS_COVERED).map(|n| from.plus(n)) {
        if keys.iter().all(|(of, _)| *of != epoch) {
            keys.push((epoch, X25519Public::from_bytes(fill(epoch))));
        }
    }
    keys.sort_by_key(|(epoch, _)| *epoch);
}

/// What leads from `old` to `new`; `None` if `new` is not of a later epoch or the whole document is not larger.
#[must_use]
pub fn difference(old: &VerifiedConsensus, new: &VerifiedConsensus) -> Option<Vec<u8>> {
    let epochs = new.epoch.0.checked_sub(old.epoch.0).filter(|epochs| *epochs > 0)?;
    let (document, certificate) = split(new.bytes()).ok()?;
    let mut keys = Vec::new();
    let base = expected(old, old.hash(), epochs, &mut |identity, kind, epoch| {
        let node = new.node(identity);
        let key = node.and_then(|node| match kind {
            Kind::Mix => node.mix_key(epoch),
            Kind::Envelope => node.envelope_key(epoch),
        });
        let key = key.map_or([0; 32], |key| *key.as_bytes());
        keys.extend_from_slice(&key);
        key
    });
    let steps = steps(&base, document);
    let bytes = codec::encode(|writer| {
        writer.put_array(8);
        writer.put_uint(FORMAT.into());
        writer.put_bytes(old.hash().as_bytes());
        writer.put_bytes(new.hash().as_bytes());
        writer.put_uint(epochs);
        writer.put_bytes(&keys);
        writer.put_uint(document.len() as u64);
        writer.put_array(steps.len());
        for step in &steps {
            writer.put_array(3);
            writer.put_int(step.jump);
            writer.put_uint(step.copy as u64);
            writer.put_bytes(step.insert);
        }
        writer.put_bytes(certificate);
    });
    (bytes.len() < new.bytes().len()).then_some(bytes)
}

/// Moves by `jump` in the expected document, copies `copy` bytes from there, writes `insert`, and stands as many bytes
/// further: what is inserted takes the place of as many.
#[derive(Debug)]
struct Step<'n> {
    jump: i64,
    copy: usize,
    insert: &'n [u8],
}

/// Steps that make `new` of `base`.
fn steps<'n>(base: &[u8], new: &'n [u8]) -> Vec<Step<'n>> {
    let mut blocks: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (n, block) in base.chunks_exact(BLOCK).enumerate() {
        blocks.entry(block).or_default().push(n * BLOCK);
    }
    let mut steps: Vec<Step<'n>> = vec![Step { jump: 0, copy: 0, insert: &[] }];
    // where the copying stands, and the first byte of `new` that no step has yet
    let (mut at, mut pending, mut stands) = (0, 0, 0);
    while at < new.len() {
        let in_place = stands + (at - pending);
        let Some(mut from) = find(base, &blocks, new.get(at..).unwrap_or_default(), in_place) else {
            at += 1;
            continue;
        };
        // a block is found at its beginning, and the run may begin before it
        while at > pending && from > 0 && base.get(from - 1) == new.get(at - 1) {
            (at, from) = (at - 1, from - 1);
        }
        let insert = new.get(pending..at).unwrap_or_default();
        if let Some(last) = steps.last_mut() {
            last.insert = insert;
        }
        stands += insert.len();
        let copy = common(base.get(from..).unwrap_or_default(), new.get(at..).unwrap_or_default());
        // both are lengths of documents of at most 2 MiB
        let jump = i64::try_from(from).unwrap_or_default() - i64::try_from(stands).unwrap_or_default();
        steps.push(Step { jump, copy, insert: &[] });
        (at, stands) = (at + copy, from + copy);
        pending = at;
    }
    if let Some(last) = steps.last_mut() {
        last.insert = new.get(pending..).unwrap_or_default();
    }
    steps.retain(|step| step.copy > 0 || !step.insert.is_empty());
    steps
}

/// Where in `base` the beginning of `new` stands: in place, if it does, else wherever it is next to that.
fn find(base: &[u8], blocks: &HashMap<&[u8], Vec<usize>>, new: &[u8], in_place: usize) -> Option<usize> {
    let run = new.get(..RUN_MIN.min(new.len()))?;
    if base.get(in_place..).is_some_and(|rest| rest.starts_with(run)) {
        return Some(in_place);
    }
    blocks.get(new.get(..BLOCK)?)?.iter().copied().min_by_key(|from| from.abs_diff(in_place))
}

/// Length of the common beginning.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The certified bytes of the document that `difference` leads to from the one with content `old` and hash `old_hash`.
/// Nothing says that it is a good document.
///
/// Memory: the expected document and the one that comes out, at most 1.4 MiB and 1 MiB, whatever the difference claims.
pub(super) fn apply(old: &Consensus, old_hash: Hash, difference: &[u8]) -> Result<Vec<u8>, DifferenceError> {
    if difference.len() > MAX_CONSENSUS_SIZE {
        return Err(DifferenceError::TooLarge(difference.len()));
    }
    let mut reader = Reader::new(difference);
    let head = Head::read(&mut reader).map_err(DifferenceError::Malformed)?;
    if head.old != old_hash {
        return Err(DifferenceError::OtherDocument);
    }
    let mut keys = head.keys.chunks_exact(32).map(|key| key.try_into().unwrap_or([0; 32]));
    let mut missing = false;
    let base = expected(old, old_hash, head.epochs, &mut |_, _, _| {
        keys.next().unwrap_or_else(|| {
            missing = true;
            [0; 32]
        })
    });
    if missing || keys.next().is_some() || !head.keys.len().is_multiple_of(32) {
        return Err(DifferenceError::Malformed("keys (not as many as are missing)"));
    }
    let (document, certificate) = rebuild(&mut reader, &base, &head).map_err(DifferenceError::Malformed)?;
    if document_hash(&document) != head.new {
        return Err(DifferenceError::Malformed("new document (another one than is named)"));
    }
    let bytes = join(&document, certificate);
    if bytes.len() > MAX_CONSENSUS_SIZE {
        return Err(DifferenceError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The document that a difference says it leads from, if it can be told.
#[must_use]
pub fn leads_from(difference: &[u8]) -> Option<Hash> {
    Head::read(&mut Reader::new(difference)).ok().map(|head| head.old)
}

struct Head<'d> {
    old: Hash,
    new: Hash,
    epochs: u64,
    keys: &'d [u8],
    length: usize,
}

impl<'d> Head<'d> {
    fn read(reader: &mut Reader<'d>) -> Parsed<Self> {
        reader.array(8, "difference")?;
        if reader.u16("format")? != FORMAT {
            return Err("format (made by another version of the protocol)");
        }
        let old = Hash::from_bytes(reader.bytes_of("old document")?);
        let new = Hash::from_bytes(reader.bytes_of("new document")?);
        let epochs = reader.u64("epochs")?;
        let keys = reader.bytes("keys")?;
        let length = usize::try_from(reader.u64("length")?).map_err(|_| "length")?;
        if length > MAX_CONSENSUS_SIZE {
            return Err("length (more than any document has)");
        }
        Ok(Self { old, new, epochs, keys, length })
    }
}

/// The document, and the bytes of its certificate.
fn rebuild<'d>(reader: &mut Reader<'d>, base: &[u8], head: &Head<'_>) -> Parsed<(Vec<u8>, &'d [u8])> {
    let mut document = Vec::with_capacity(head.length);
    let mut stands: usize = 0;
    // a step makes at least a byte, so there are no more than the document has
    reader.list(0, head.length, "steps", |reader| {
        reader.array(3, "step")?;
        let jump = isize::try_from(reader.i64("jump")?).map_err(|_| "jump")?;
        let copy = usize::try_from(reader.u64("copy")?).map_err(|_| "copy")?;
        let insert = reader.bytes("insert")?;
        let from = stands.checked_add_signed(jump).ok_or("jump (out of the document)")?;
        let to = from.checked_add(copy).ok_or("copy")?;
        let copied = base.get(from..to).ok_or("copy (out of the document)")?;
        if copied.is_empty() && insert.is_empty() {
            return Err("step (makes nothing)");
        }
        if head.length - document.len() < copied.len().saturating_add(insert.len()) {
            return Err("steps (make more than the length says)");
        }
        document.extend_from_slice(copied);
        document.extend_from_slice(insert);
        stands = to.saturating_add(insert.len());
        Ok(())
    })?;
    let certificate = reader.bytes("certificate")?;
    reader.end("bytes after the certificate")?;
    if document.len() == head.length {
        Ok((document, certificate))
    } else {
        Err("steps (make less than the length says)")
    }
}

#[cfg(test)]
mod tests;
