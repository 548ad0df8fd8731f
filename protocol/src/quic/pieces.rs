//! Answers in pieces: a document that many read lies in memory once, also while it is on its way to all of them.

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::codec::{self, Put as _};
use crate::consensus::{Handout, VerifiedConsensus};
use crate::link::{ANSWER_SIZE_MAX, DirectoryAnswer, STREAM_CONSENSUS, STREAM_DIFFERENCE};

/// The bytes of one answer, in order. Those of documents are shared, not copied: QUIC keeps references to them until the
/// asker has acknowledged them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces(Vec<Bytes>);

/// Keeps a document alive as long as some of its bytes are on their way.
struct Shared(Arc<VerifiedConsensus>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The certified bytes of a document, without a copy.
fn shared(document: &Arc<VerifiedConsensus>) -> Bytes {
    Bytes::from_owner(Shared(Arc::clone(document)))
}

/// What a gateway writes on a stream to a client: a first byte and what it announces; `None` if there is nothing new.
#[must_use]
pub fn pushed(handout: Handout) -> Option<[Bytes; 2]> {
    match handout {
        Handout::UpToDate => None,
        Handout::Whole(document) => Some([Bytes::from_static(&[STREAM_CONSENSUS]), shared(&document)]),
        Handout::Difference(difference) => {
            Some([Bytes::from_static(&[STREAM_DIFFERENCE]), Bytes::from_owner(difference)])
        }
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![bytes.into()])
    }
}

impl From<&DirectoryAnswer> for Pieces {
    fn from(answer: &DirectoryAnswer) -> Self {
        answer.to_bytes().into()
    }
}

impl From<Handout> for Pieces {
    /// [`DirectoryAnswer::UpToDate`], [`DirectoryAnswer::Document`] or [`DirectoryAnswer::Difference`].
    fn from(handout: Handout) -> Self {
        match handout {
            Handout::UpToDate => (&DirectoryAnswer::UpToDate).into(),
            Handout::Whole(document) => Self(vec![head(2, document.bytes().len()), shared(&document)]),
            Handout::Difference(difference) => Self(vec![head(7, difference.len()), Bytes::from_owner(difference)]),
        }
    }
}

/// `[kind, [bytes of this length`: what stands before them.
fn head(kind: u64, length: usize) -> Bytes {
    let head = codec::encode(|writer| {
        writer.put_array(2);
        writer.put_uint(kind);
        writer.put_array(1);
        writer.put_head_of_bytes(length);
    });
    head.into()
}

impl Pieces {
    /// [`DirectoryAnswer::Changes`] with as many of these documents, from the first, as fit.
    #[must_use]
    pub fn changes(documents: &[Arc<VerifiedConsensus>]) -> Self {
        // the answer's own head and those of the documents
        const HEADS: usize = 16;
        let mut size = HEADS;
        let fitting = documents.iter().take_while(|document| {
            size += HEADS + document.bytes().len();
            size <= ANSWER_SIZE_MAX
        });
        let fitting: Vec<_> = fitting.collect();
        let head = codec::encode(|writer| {
            writer.put_array(2);
            writer.put_uint(6);
            writer.put_array(1);
            writer.put_array(fitting.len());
        });
        let mut pieces = vec![Bytes::from(head)];
        for document in fitting {
            pieces.push(codec::encode(|writer| writer.put_head_of_bytes(document.bytes().len())).into());
            pieces.push(shared(document));
        }
        Self(pieces)
    }

    /// The pieces, for a stream.
    #[must_use]
    pub fn into_bytes(self) -> Vec<Bytes> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Shelf;
    use crate::consensus::testing::chain;
    use crate::types::Hash;

    fn whole(pieces: Pieces) -> DirectoryAnswer {
        DirectoryAnswer::from_bytes(&pieces.into_bytes().concat()).expect("an answer")
    }

    #[test]
    fn pieces_are_the_answer_in_one() {
        let documents = chain(3);
        let of = |document: &Arc<VerifiedConsensus>| document.bytes().to_vec();
        let shelf = Shelf::default().with(&documents[0]).with(&documents[1]);
        let handout = |have: Option<usize>| {
            let have = have.map(|at| documents[at].hash());
            whole(shelf.for_holder_of(have.as_ref()).expect("a document").into())
        };
        assert_eq!(handout(None), DirectoryAnswer::Document(of(&documents[1])));
        assert_eq!(handout(Some(1)), DirectoryAnswer::UpToDate);
        let push =
            |have: &Hash| pushed(shelf.for_holder_of(Some(have)).expect("a document")).map(|pieces| pieces.concat());
        assert_eq!(push(&documents[1].hash()), None);
        assert_eq!(push(&documents[2].hash()), Some([&[STREAM_CONSENSUS], documents[1].bytes()].concat()));
        let DirectoryAnswer::Difference(difference) = handout(Some(0)) else { panic!("a difference") };
        assert_eq!(documents[0].apply(&difference), Ok(of(&documents[1])));
        assert_eq!(push(&documents[0].hash()), Some([vec![STREAM_DIFFERENCE], difference].concat()));

        let all = documents.iter().map(|document| of(document).into()).collect();
        assert_eq!(whole(Pieces::changes(&documents)), DirectoryAnswer::Changes(all));
        assert_eq!(whole(Pieces::changes(&[])), DirectoryAnswer::Changes(Vec::new()));
        let many = vec![Arc::clone(&documents[0]); 1_000];
        let fit = (ANSWER_SIZE_MAX - 16) / (documents[0].bytes().len() + 16);
        let pieces = Pieces::changes(&many);
        assert_eq!(pieces.0.len(), 1 + 2 * fit);
        assert!(pieces.0.concat().len() <= ANSWER_SIZE_MAX);
    }

    #[test]
    fn documents_are_not_copied() {
        let document = &chain(1)[0];
        let before = Arc::strong_count(document);
        let pieces =
            [Pieces::from(Handout::Whole(Arc::clone(document))), Pieces::changes(std::slice::from_ref(document))];
        for piece in pieces.iter().filter_map(|pieces| pieces.0.last()) {
            assert_eq!(piece.as_ptr(), document.bytes().as_ptr());
        }
        assert_eq!(Arc::strong_count(document), before + 2);
        drop(pieces);
        assert_eq!(Arc::strong_count(document), before);
    }
}
