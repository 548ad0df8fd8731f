//! What a server of documents has at hand for whoever asks for the newest: the document, and what leads to it from those
//! before. Every answer is made once, however many ask.

use std::collections::VecDeque;
use std::sync::Arc;

use super::VerifiedConsensus;
use super::difference::difference;
use crate::types::Hash;

/// Documents before the newest from which a difference leads. A document is used for three epochs; who holds an older one
/// has stopped, and the whole document costs little beside that.
pub const RECENT_KEPT: usize = 3;

/// A document before the newest, and what leads from it, if that is smaller than the whole.
type Recent = (Arc<VerifiedConsensus>, Option<Arc<[u8]>>);

/// The newest document with the differences that lead to it.
///
/// At most four documents of 1 MiB and their contents, 2.5 times that, and three differences smaller than the document:
/// 17 MiB; with 1,000 nodes about 2 MB.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    newest: Option<Arc<VerifiedConsensus>>,
    /// The latest first.
    recent: VecDeque<Recent>,
}

/// What is handed to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handout {
    /// It holds the newest.
    UpToDate,
    /// The whole document.
    Whole(Arc<VerifiedConsensus>),
    /// What leads to it from the document the reader holds.
    Difference(Arc<[u8]>),
}

impl Shelf {
    /// This shelf with a newer document. Computes the differences: some milliseconds for each.
    #[must_use]
    pub fn with(&self, document: &Arc<VerifiedConsensus>) -> Self {
        if self.newest.as_ref().is_some_and(|newest| newest.hash() == document.hash()) {
            return self.clone();
        }
        let before = self.newest.iter().chain(self.recent.iter().map(|(old, _)| old)).take(RECENT_KEPT);
        let recent = before.map(|old| (Arc::clone(old), difference(old, document).map(Arc::from))).collect();
        Self { newest: Some(Arc::clone(document)), recent }
    }

    /// The newest document.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<VerifiedConsensus>> {
        self.newest.as_ref()
    }

    /// What brings a reader who holds the document `have` to the newest; `None` if there is no document.
    #[must_use]
    pub fn for_holder_of(&self, have: Option<&Hash>) -> Option<Handout> {
        let newest = self.newest.as_ref()?;
        if have == Some(&newest.hash()) {
            return Some(Handout::UpToDate);
        }
        let led = self
            .recent
            .iter()
            .find(|(old, _)| have == Some(&old.hash()))
            .and_then(|(_, difference)| difference.clone());
        Some(led.map_or_else(|| Handout::Whole(Arc::clone(newest)), Handout::Difference))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::chain;

    #[test]
    fn who_holds_a_recent_document_gets_what_is_new() {
        let documents = chain(6);
        let mut shelf = Shelf::default();
        assert_eq!(shelf.for_holder_of(None), None);
        for document in &documents {
            shelf = shelf.with(document);
            assert_eq!(shelf.with(document).recent, shelf.recent, "the same again changes nothing");
        }
        let newest = &documents[5];
        assert_eq!(shelf.newest(), Some(newest));
        assert_eq!(shelf.for_holder_of(Some(&newest.hash())), Some(Handout::UpToDate));
        for (at, old) in documents[..5].iter().enumerate() {
            match shelf.for_holder_of(Some(&old.hash())) {
                Some(Handout::Difference(difference)) if at >= 2 => {
                    assert_eq!(old.apply(&difference).as_deref(), Ok(newest.bytes()));
                }
                Some(Handout::Whole(document)) if at < 2 => assert_eq!(&document, newest),
                other => panic!("document {at}: {other:?}"),
            }
        }
        for have in [None, Some(&Hash::from_bytes([9; 32]))] {
            assert_eq!(shelf.for_holder_of(have), Some(Handout::Whole(Arc::clone(newest))));
        }
    }
}
