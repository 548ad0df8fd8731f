//! What lies inside a box of a chain, after MLS has opened it: records.
//!
//! A record says how much of the other members' chains its writer has shown since it last said so (`seen`), so that whoever
//! answers also confirms; a [`Content::Receipt`] is for those who have nothing to answer. CBOR; a decoder takes all bytes
//! or refuses.

use crate::blobs::Manifest;
use minicbor::{Decode, Encode};
use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::Mark;
use shoal_protocol::{Epoch, Hash, UnixMillis};

/// Longest encoded record, bytes: what fits into one box ([`shoal_protocol::geometry::BOX_PLAINTEXT_SIZE`] = 1,758)
/// after MLS has added its framing: 146 bytes measured with suite 0x004E and a short group id, plus up to 2 for longer
/// length prefixes, rounded up for epochs and padding of later versions.
pub const RECORD_SIZE_MAX: usize = 1_580;

/// Longest file name in a manifest, bytes of UTF-8.
pub const FILE_NAME_SIZE_MAX: usize = 255;
/// Longest media type in a manifest, bytes.
pub const MIME_SIZE_MAX: usize = 127;

/// Bytes of a certificate in one record: 1,580 less 90 of one `seen` (26), mark (54), frame and numbers (10) at their
/// largest, rounded down.
pub const PROOF_PART_SIZE: usize = 1_400;
/// Most records of one certificate. Of 64 authorities 43 sign; a signature with its index is at most 2,490 bytes, the
/// rest of the certificate 60: 107,130 bytes, 77 records.
pub const PROOF_PARTS_MAX: u8 = 77;
const _: () =
    assert!(((MAX_AUTHORITIES * 2 + 1).div_ceil(3) * 2_490 + 60).div_ceil(PROOF_PART_SIZE) == PROOF_PARTS_MAX as usize);

/// What a writer names that holds no document yet. No document has height 0.
pub const NO_MARK: Mark = Mark { height: 0, epoch: Epoch(0), hash: Hash::from_bytes([0; 32]) };

/// Most members of whom one record says how far their chains were shown; of the others the next one does.
pub const SEEN_MAX: usize = 16;

/// How far the writer of a record has shown the chain of a member: boxes `0..boxes` of group epoch `epoch` are on its disk
/// and in front of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct Seen {
    /// Leaf of the member.
    #[n(0)]
    pub leaf: u32,
    /// Group epoch of its chain.
    #[n(1)]
    pub epoch: u64,
    /// Number of boxes, from the chain's first.
    #[n(2)]
    pub boxes: u64,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// What the writer has shown of others' chains and did not say yet in this chain; at most [`SEEN_MAX`].
    #[n(0)]
    pub seen: Vec<Seen>,
    /// The newest document of the consensus that the writer held when it sealed the record, or [`NO_MARK`].
    #[n(1)]
    pub mark: Mark,
    /// What the writer has to say.
    #[n(2)]
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Content {
    /// A message that fits into the box.
    #[n(0)]
    Text {
        /// Id of the message, random, chosen by the writer.
        #[cbor(n(0), with = "minicbor::bytes")]
        id: [u8; 16],
        /// When the user sent it, as the writer says.
        #[n(1)]
        sent_at: UnixMillis,
        /// The text; may be empty.
        #[n(2)]
        text: String,
    },
    /// Nothing but [`Record::seen`].
    #[n(1)]
    Receipt,
    /// A message whose content lies in a blob.
    #[n(2)]
    Blob {
        /// Id of the message.
        #[cbor(n(0), with = "minicbor::bytes")]
        id: [u8; 16],
        /// When the user sent it, as the writer says.
        #[n(1)]
        sent_at: UnixMillis,
        /// What the content is.
        #[n(2)]
        kind: BlobKind,
        /// Where the content is.
        #[n(3)]
        manifest: Manifest,
    },
    /// The chain ends here; its writer goes on in the next group epoch.
    #[n(3)]
    End {
        /// Hash of the commit that its writer applied.
        #[n(0)]
        commit: Hash,
    },
    /// A part of the certificate of a document that the writer held: the reader had named another of that height.
    #[n(4)]
    Proof {
        /// Which part, from 0.
        #[n(0)]
        number: u8,
        /// How many there are, at most [`PROOF_PARTS_MAX`].
        #[n(1)]
        parts: u8,
        /// At most [`PROOF_PART_SIZE`] bytes.
        #[cbor(n(2), with = "minicbor::bytes")]
        part: Vec<u8>,
    },
    /// The writer leaves the group: the last message of its user. Others remove its leaf.
    #[n(5)]
    Leave {
        /// Id of this word, as of a message.
        #[cbor(n(0), with = "minicbor::bytes")]
        id: [u8; 16],
    },
    /// The writer's user took a message back: if it is not whole, nothing more of it comes.
    #[n(6)]
    Cancel {
        /// Id of the message.
        #[cbor(n(0), with = "minicbor::bytes")]
        id: [u8; 16],
    },
}

/// What the content of a blob is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum BlobKind {
    /// UTF-8 text of a message that did not fit into a box.
    #[n(0)]
    Text,
    /// A file.
    #[n(1)]
    File {
        /// Its name, at most [`FILE_NAME_SIZE_MAX`] bytes; a reader trusts nothing of it.
        #[n(0)]
        name: String,
        /// Its media type, at most [`MIME_SIZE_MAX`] bytes; a hint.
        #[n(1)]
        mime: String,
    },
}

/// Bytes that are no record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct NotARecord(pub &'static str);

impl Record {
    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // writing to a Vec cannot fail, and no field's encoder has an error of its own
        minicbor::to_vec(self).unwrap_or_default()
    }

    /// Reads exactly one record: nothing may follow it, and no field may exceed its bound; a number's is `i64::MAX`,
    /// which is how far SQLite counts.
    ///
    /// # Errors
    /// Says which rule was broken.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotARecord> {
        if bytes.len() > RECORD_SIZE_MAX {
            return Err(NotARecord("longer than a box"));
        }
        let mut decoder = minicbor::Decoder::new(bytes);
        let record: Self = decoder.decode().map_err(|_| NotARecord("malformed"))?;
        if decoder.position() != bytes.len() {
            return Err(NotARecord("bytes follow"));
        }
        let (sent_at, length) = match &record.content {
            Content::Text { sent_at, .. } => (sent_at.0, 0),
            Content::Blob { sent_at, manifest, .. } => (sent_at.0, manifest.length()),
            Content::Receipt
            | Content::End { .. }
            | Content::Proof { .. }
            | Content::Leave { .. }
            | Content::Cancel { .. } => (0, 0),
        };
        if record.seen.len() > SEEN_MAX {
            return Err(NotARecord("says too much of others' chains"));
        }
        let Mark { height, epoch: Epoch(network_epoch), .. } = record.mark;
        let seen = record.seen.iter().flat_map(|seen| [seen.epoch, seen.boxes]);
        if seen.chain([height, network_epoch, sent_at, length]).any(|number| i64::try_from(number).is_err()) {
            return Err(NotARecord("a number is out of range"));
        }
        if let Content::Proof { number, parts, part } = &record.content
            && (number >= parts || *parts > PROOF_PARTS_MAX || part.len() > PROOF_PART_SIZE)
        {
            return Err(NotARecord("no part of a proof"));
        }
        if let Content::Blob { kind: BlobKind::File { name, mime }, .. } = &record.content
            && (name.len() > FILE_NAME_SIZE_MAX || mime.len() > MIME_SIZE_MAX)
        {
            return Err(NotARecord("name or media type too long"));
        }
        Ok(record)
    }
}

impl Content {
    /// Whether a record that says this fits into one box, with any mark and a word on one member's chain.
    #[must_use]
    pub fn fits(&self) -> bool {
        let seen = vec![Seen { leaf: u32::MAX, epoch: u64::MAX, boxes: u64::MAX }];
        let mark = Mark { height: u64::MAX, epoch: Epoch(u64::MAX), hash: Hash::from_bytes([255; 32]) };
        Record { seen, mark, content: self.clone() }.to_bytes().len() <= RECORD_SIZE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// i64::MAX
    const COUNT_MAX: u64 = u64::MAX >> 1;

    fn content() -> impl Strategy<Value = Content> {
        let id = any::<[u8; 16]>();
        let manifest = (any::<[u8; 32]>(), 0..=COUNT_MAX, any::<[u8; 32]>())
            .prop_map(|(secret, length, hash)| Manifest::new(secret, length, Hash::from_bytes(hash)));
        let kind = prop_oneof![
            Just(BlobKind::Text),
            (".{0,60}", "[a-z/]{0,40}").prop_map(|(name, mime)| BlobKind::File { name, mime }),
        ];
        prop_oneof![
            (id, 0..=COUNT_MAX, ".{0,200}").prop_map(|(id, at, text)| Content::Text {
                id,
                sent_at: UnixMillis(at),
                text
            }),
            Just(Content::Receipt),
            (any::<[u8; 16]>(), 0..=COUNT_MAX, kind, manifest).prop_map(|(id, at, kind, manifest)| Content::Blob {
                id,
                sent_at: UnixMillis(at),
                kind,
                manifest
            }),
            any::<[u8; 32]>().prop_map(|hash| Content::End { commit: Hash::from_bytes(hash) }),
            any::<[u8; 16]>().prop_map(|id| Content::Leave { id }),
            any::<[u8; 16]>().prop_map(|id| Content::Cancel { id }),
            (1..=PROOF_PARTS_MAX, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..PROOF_PART_SIZE))
                .prop_map(|(parts, number, part)| Content::Proof { number: number % parts, parts, part }),
        ]
    }

    fn seen() -> impl Strategy<Value = Vec<Seen>> {
        let one = (any::<u32>(), 0..=COUNT_MAX, 0..=COUNT_MAX);
        proptest::collection::vec(one.prop_map(|(leaf, epoch, boxes)| Seen { leaf, epoch, boxes }), 0..3)
    }

    fn mark() -> impl Strategy<Value = Mark> {
        (0..=COUNT_MAX, 0..=COUNT_MAX, any::<[u8; 32]>()).prop_map(|(height, epoch, hash)| Mark {
            height,
            epoch: Epoch(epoch),
            hash: Hash::from_bytes(hash),
        })
    }

    proptest! {
        #[test]
        fn records_round_trip(content in content(), mark in mark(), seen in seen()) {
            let record = Record { seen, mark, content };
            prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
        }

        #[test]
        fn nothing_may_follow(content in content(), extra in 1usize..20) {
            let mut bytes = Record { seen: Vec::new(), mark: NO_MARK, content }.to_bytes();
            bytes.resize(bytes.len() + extra, 0);
            prop_assert!(Record::from_bytes(&bytes).is_err());
        }

        #[test]
        fn a_cut_record_is_refused(content in content(), cut in 1usize..40) {
            let bytes = Record { seen: Vec::new(), mark: NO_MARK, content }.to_bytes();
            prop_assert!(Record::from_bytes(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::from_bytes(&bytes);
        }
    }

    #[test]
    fn the_longest_contents_fit_into_a_box() {
        let blob = Content::Blob {
            id: [255; 16],
            sent_at: UnixMillis(u64::MAX),
            kind: BlobKind::File { name: "x".repeat(FILE_NAME_SIZE_MAX), mime: "y".repeat(MIME_SIZE_MAX) },
            manifest: Manifest::new([255; 32], u64::MAX, Hash::from_bytes([255; 32])),
        };
        assert!(blob.fits());
        let proof = |size| Content::Proof { number: 76, parts: PROOF_PARTS_MAX, part: vec![255; size] };
        assert!(proof(PROOF_PART_SIZE).fits());
        assert!(!proof(PROOF_PART_SIZE + 100).fits(), "no more records than there must be");
    }

    /// The example of conversations.md.
    #[test]
    fn a_receipt_has_the_bytes_of_the_specification() {
        let mark = Mark { height: 12, epoch: Epoch(40), hash: Hash::from_bytes([0xab; 32]) };
        let seen = vec![Seen { leaf: 0, epoch: 1, boxes: 0 }];
        let record = Record { seen, mark, content: Content::Receipt };
        let expected = format!("838183000100830c18285820{}820180", "ab".repeat(32));
        assert_eq!(hex::encode(record.to_bytes()), expected);
    }

    #[test]
    fn parts_of_proofs_are_bounded() {
        let read = |number, parts, size| {
            let content = Content::Proof { number, parts, part: vec![0; size] };
            Record::from_bytes(&Record { seen: Vec::new(), mark: NO_MARK, content }.to_bytes())
        };
        assert!(read(0, 1, PROOF_PART_SIZE).is_ok());
        for (number, parts, size) in [(0, 0, 1), (1, 1, 1), (0, PROOF_PARTS_MAX + 1, 1), (0, 1, PROOF_PART_SIZE + 1)] {
            assert_eq!(read(number, parts, size), Err(NotARecord("no part of a proof")));
        }
    }

    #[test]
    fn a_record_speaks_of_so_many_members_at_most() {
        let read = |members| {
            let record = Record { seen: vec![Seen::default(); members], mark: NO_MARK, content: Content::Receipt };
            Record::from_bytes(&record.to_bytes()).is_ok()
        };
        assert!(read(SEEN_MAX) && !read(SEEN_MAX + 1));
    }

    #[test]
    fn an_overlong_name_is_refused() {
        let record = Record {
            seen: Vec::new(),
            mark: NO_MARK,
            content: Content::Blob {
                id: [0; 16],
                sent_at: UnixMillis(0),
                kind: BlobKind::File { name: "x".repeat(FILE_NAME_SIZE_MAX + 1), mime: String::new() },
                manifest: Manifest::new([0; 32], 0, Hash::from_bytes([0; 32])),
            },
        };
        assert_eq!(Record::from_bytes(&record.to_bytes()), Err(NotARecord("name or media type too long")));
    }
}
