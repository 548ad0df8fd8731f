//! Entries of the write-ahead log of one height.
//!
//! A frame is `SAL1` ‖ payload length (4, big endian) ‖ height (8) ‖ sequence number (4) ‖ checksum (16) ‖ payload. The
//! checksum covers height, sequence number and payload. A frame that is cut off or broken, with no whole frame behind
//! it, is the tail of a write that did not become durable: nothing that rested on it was sent, and it is cut. A broken
//! frame with a whole one behind it is damage: what was signed is no longer known.

use std::sync::Arc;

use arc_malachitebft_core_types::TimeoutKind;
use shoal_protocol::Hash;
use thiserror::Error;

use super::codec::{self, Parsed, Reader};
use super::evidence::{put_headline, read_headline};
use super::message::{MAX_MESSAGE, Message, Quorum, SignedBallot, put_vote, read_vote};
use super::scheme::{DocumentId, Headline, Sig};

const MAGIC: &[u8; 4] = b"SAL1";
const HEADER: usize = 4 + 4 + 8 + 4 + 16;
/// Most bytes of a payload: a proposal and below 4 kB around it.
const MAX_ENTRY: usize = MAX_MESSAGE + 4096;
/// Domain of the checksum.
const CHECKSUM: &str = "shoal/1 agreement log";

/// A log that must not be signed on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damaged {
    /// Written by another authority, for another network or another height.
    #[error("the agreement log belongs to another {what}; this authority only observes this height")]
    Foreign {
        /// What differs.
        what: &'static str,
    },
    /// A frame in the middle is broken or missing.
    #[error("the agreement log is damaged at byte {offset}; this authority only observes this height")]
    Broken {
        /// Where the first broken frame starts.
        offset: usize,
    },
    /// A whole frame says something this version cannot read.
    #[error(
        "the agreement log holds an unknown entry at byte {offset} ({field}); this authority only observes this height"
    )]
    Unreadable {
        /// Where the frame starts.
        offset: usize,
        /// What could not be read.
        field: &'static str,
    },
}

/// One entry, as [`read`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(pub(crate) Record);

/// What a log tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Entries in the order in which they were written.
    pub entries: Vec<Entry>,
    /// Bytes of the file that are whole: cut it to this length before more is appended.
    pub length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The first entry.
    Opening { network: Hash, authority: u16 },
    /// A vote that counted, our own included.
    Vote(SignedBallot),
    /// A proposal that counted, our own included.
    Proposal(Headline, Sig),
    /// The verdict on a document; the proposal's bytes when it is valid.
    Verdict { round: u32, lock_round: Option<u32>, document: DocumentId, bytes: Option<Arc<[u8]>> },
    /// 2f+1 prevotes.
    Polka(Quorum),
    /// A timeout that had effect.
    Timeout(TimeoutKind, u32),
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| match self {
            Self::Opening { network, authority } => {
                writer.array(3);
                writer.uint(0_u32);
                writer.hash(network);
                writer.uint(*authority);
            }
            Self::Vote(vote) => {
                writer.array(6);
                writer.uint(1_u32);
                writer.uint(vote.ballot.round);
                put_vote(writer, vote);
            }
            Self::Proposal(headline, signature) => {
                writer.array(7);
                writer.uint(2_u32);
                writer.uint(headline.round);
                writer.uint(headline.authority);
                put_headline(writer, headline, signature);
            }
            Self::Verdict { round, lock_round, document, bytes } => {
                writer.array(5);
                writer.uint(3_u32);
                writer.uint(*round);
                writer.optional_round(*lock_round);
                writer.document(document);
                match bytes {
                    Some(bytes) => writer.bytes(bytes),
                    None => writer.null(),
                }
            }
            Self::Polka(quorum) => {
                writer.array(2);
                writer.uint(4_u32);
                writer.bytes(&Message::Quorum(quorum.clone()).encode());
            }
            Self::Timeout(kind, round) => {
                writer.array(3);
                writer.uint(5_u32);
                writer.uint(match kind {
                    TimeoutKind::Propose => 0_u32,
                    TimeoutKind::Prevote => 1,
                    TimeoutKind::Precommit => 2,
                    TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => 3,
                });
                writer.uint(*round);
            }
        })
    }

    fn decode(bytes: &[u8], height: u64) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        let len = reader.array_len("entry")?;
        let record = match (reader.u32("entry")?, len) {
            (0, 3) => Self::Opening { network: reader.hash("network")?, authority: reader.u16("authority")? },
            (1, 6) => {
                let round = reader.u32("round")?;
                Self::Vote(read_vote(&mut reader, height, round)?)
            }
            (2, 7) => {
                let round = reader.u32("round")?;
                let authority = reader.u16("authority")?;
                let (headline, signature) = read_headline(&mut reader, height, round, authority)?;
                Self::Proposal(headline, signature)
            }
            (3, 5) => Self::Verdict {
                round: reader.u32("round")?,
                lock_round: reader.optional_round("lock round")?,
                document: reader.document("document")?,
                bytes: reader.optional_bytes("proposal")?.map(Arc::from),
            },
            (4, 2) => {
                let Message::Quorum(quorum) = Message::decode(reader.bytes("certificate")?, |_, _| 0)? else {
                    return Err("certificate");
                };
                if quorum.height != height {
                    return Err("certificate");
                }
                Self::Polka(quorum)
            }
            (5, 3) => {
                let kind = match reader.u32("timeout")? {
                    0 => TimeoutKind::Propose,
                    1 => TimeoutKind::Prevote,
                    2 => TimeoutKind::Precommit,
                    _ => return Err("timeout"),
                };
                Self::Timeout(kind, reader.u32("round")?)
            }
            _ => return Err("entry (unknown kind)"),
        };
        reader.end("bytes after the entry")?;
        if record.encode() == bytes { Ok(record) } else { Err("entry (not in canonical form)") }
    }
}

/// Numbers the frames of one height.
#[derive(Debug)]
pub(crate) struct Framer {
    height: u64,
    sequence: u32,
}

impl Framer {
    pub(crate) fn new(height: u64, written: usize) -> Self {
        Self { height, sequence: u32::try_from(written).unwrap_or(u32::MAX) }
    }

    pub(crate) fn frame(&mut self, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX); // an entry is below 5 MiB
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&self.height.to_be_bytes());
        frame.extend_from_slice(&self.sequence.to_be_bytes());
        frame.extend_from_slice(&checksum(self.height, self.sequence, payload));
        frame.extend_from_slice(payload);
        self.sequence = self.sequence.saturating_add(1);
        frame
    }
}

fn checksum(height: u64, sequence: u32, payload: &[u8]) -> [u8; 16] {
    let mut covered = Vec::with_capacity(12 + payload.len());
    covered.extend_from_slice(&height.to_be_bytes());
    covered.extend_from_slice(&sequence.to_be_bytes());
    covered.extend_from_slice(payload);
    let mut short = [0; 16];
    short.copy_from_slice(&Hash::of(CHECKSUM, &covered).as_bytes()[..16]);
    short
}

/// A whole frame at the start of some bytes.
struct Frame<'b> {
    height: u64,
    sequence: u32,
    payload: &'b [u8],
    length: usize,
}

fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (height, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<16>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if magic != MAGIC || length > MAX_ENTRY {
        return None;
    }
    let payload = rest.get(..length)?;
    let (height, sequence) = (u64::from_be_bytes(*height), u32::from_be_bytes(*sequence));
    (checksum(height, sequence, payload) == *sum).then_some(Frame {
        height,
        sequence,
        payload,
        length: HEADER + length,
    })
}

/// Whether a whole frame starts anywhere in `bytes`.
fn any_frame(bytes: &[u8]) -> bool {
    (0..bytes.len())
        .any(|start| bytes.get(start..).is_some_and(|rest| rest.starts_with(MAGIC) && frame(rest).is_some()))
}

/// The height of the first frame, if there is a whole one: a log is about one height only.
fn height(bytes: &[u8]) -> Option<u64> {
    frame(bytes).map(|found| found.height)
}

/// The network whose agreement the log is of, if its first entry is whole.
#[must_use]
pub fn network(bytes: &[u8]) -> Option<Hash> {
    let first = frame(bytes)?;
    match Record::decode(first.payload, first.height) {
        Ok(Record::Opening { network, .. }) => Some(network),
        Ok(_) | Err(_) => None,
    }
}

/// Reads the log file of `height`. An empty or torn first entry gives no entries: then nothing was ever signed.
///
/// # Errors
/// [`Damaged`]: start with [`super::Memory::Lost`].
pub fn read(bytes: &[u8], network: &Hash, authority: u16, height: u64) -> Result<Recovered, Damaged> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let Some(found) = frame(rest) else {
            if any_frame(rest) {
                return Err(Damaged::Broken { offset });
            }
            break;
        };
        if found.height != height {
            return Err(Damaged::Foreign { what: "height" });
        }
        if usize::try_from(found.sequence).ok() != Some(entries.len()) {
            return Err(Damaged::Broken { offset });
        }
        let record = Record::decode(found.payload, height).map_err(|field| Damaged::Unreadable { offset, field })?;
        let opens = if let Record::Opening { network: theirs, authority: them } = &record {
            if theirs != network {
                return Err(Damaged::Foreign { what: "network" });
            }
            if *them != authority {
                return Err(Damaged::Foreign { what: "authority" });
            }
            true
        } else {
            false
        };
        if opens != entries.is_empty() {
            return Err(Damaged::Broken { offset });
        }
        entries.push(Entry(record));
        offset += found.length;
    }
    Ok(Recovered { entries, length: offset })
}

/// What an authority that starts before `height` makes of the log it finds. Nothing is signed for a height before its log
/// begins, and that happens only when the document before is kept: so a log of an earlier height is over, whatever it
/// holds, and nothing was signed for this one. The process ended between keeping the document and beginning the log.
///
/// # Errors
/// [`Damaged`], as of [`read`].
pub fn resume(bytes: &[u8], network: &Hash, authority: u16, height: u64) -> Result<Recovered, Damaged> {
    match read(bytes, network, authority, height) {
        Err(_) if self::height(bytes).is_some_and(|of| of < height) => Ok(Recovered { entries: Vec::new(), length: 0 }),
        recovered => recovered,
    }
}
