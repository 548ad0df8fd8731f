//! What lies inside a box of a chain, after MLS has opened it: records.
//!
//! Every record says how much of the reader's own chain its writer has shown so far (`seen`), so that whoever answers
//! also confirms; a [`Content::Receipt`] is for those who have nothing to answer. CBOR; a decoder takes all bytes or
//! refuses.

use crate::blobs::Manifest;
use minicbor::{Decode, Encode};
use shoal_protocol::{Hash, UnixMillis};

/// Longest encoded record, bytes: what fits into one box ([`shoal_protocol::geometry::BOX_PLAINTEXT_SIZE`] = 1,758)
/// after MLS has added its framing: 146 bytes measured with suite 0x004E and a short group id, plus up to 2 for longer
/// length prefixes, rounded up for epochs and padding of later versions.
pub const RECORD_SIZE_MAX: usize = 1_580;

/// Longest file name in a manifest, bytes of UTF-8.
pub const FILE_NAME_SIZE_MAX: usize = 255;
/// Longest media type in a manifest, bytes.
pub const MIME_SIZE_MAX: usize = 127;

/// How far the writer of a record has shown the reader's chain: boxes `0..boxes` of group epoch `epoch` are on its disk
/// and in front of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct Seen {
    /// Group epoch of the reader's chain.
    #[n(0)]
    pub epoch: u64,
    /// Number of boxes, from the chain's first.
    #[n(1)]
    pub boxes: u64,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// What the writer has shown of the reader's chain.
    #[n(0)]
    pub seen: Seen,
    /// What the writer has to say.
    #[n(1)]
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
            Content::Receipt | Content::End { .. } => (0, 0),
        };
        if [record.seen.epoch, record.seen.boxes, sent_at, length].iter().any(|number| i64::try_from(*number).is_err())
        {
            return Err(NotARecord("a number is out of range"));
        }
        if let Content::Blob { kind: BlobKind::File { name, mime }, .. } = &record.content
            && (name.len() > FILE_NAME_SIZE_MAX || mime.len() > MIME_SIZE_MAX)
        {
            return Err(NotARecord("name or media type too long"));
        }
        Ok(record)
    }

    /// Whether the record fits into one box.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.to_bytes().len() <= RECORD_SIZE_MAX
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
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(content in content(), epoch in 0..=COUNT_MAX, boxes in 0..=COUNT_MAX) {
            let record = Record { seen: Seen { epoch, boxes }, content };
            prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
        }

        #[test]
        fn nothing_may_follow(content in content(), extra in 1usize..20) {
            let mut bytes = Record { seen: Seen::default(), content }.to_bytes();
            bytes.resize(bytes.len() + extra, 0);
            prop_assert!(Record::from_bytes(&bytes).is_err());
        }

        #[test]
        fn a_cut_record_is_refused(content in content(), cut in 1usize..40) {
            let bytes = Record { seen: Seen::default(), content }.to_bytes();
            prop_assert!(Record::from_bytes(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::from_bytes(&bytes);
        }
    }

    #[test]
    fn the_longest_manifest_fits_into_a_box() {
        let record = Record {
            seen: Seen { epoch: u64::MAX, boxes: u64::MAX },
            content: Content::Blob {
                id: [255; 16],
                sent_at: UnixMillis(u64::MAX),
                kind: BlobKind::File { name: "x".repeat(FILE_NAME_SIZE_MAX), mime: "y".repeat(MIME_SIZE_MAX) },
                manifest: Manifest::new([255; 32], u64::MAX, Hash::from_bytes([255; 32])),
            },
        };
        assert!(record.fits());
    }

    #[test]
    fn an_overlong_name_is_refused() {
        let record = Record {
            seen: Seen::default(),
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
