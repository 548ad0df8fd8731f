//! Whether a proposal is what everybody honest computes: verified, recomputed, and of an epoch that is due.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::{Epoch, Hash, UnixMillis};

use super::Genesis;
use crate::agreement::{self, DocumentId, Value, Verdict};
use crate::document::{Draft, next_document};
use crate::list_message::DescriptorCache;
use crate::proposal::{UnverifiedProposal, VerifiedProposal};
use crate::schedule::lead;
use crate::signed_list::Place;

/// Proposals remembered with what came of them. A draft of 1,000 nodes takes about 1 MB: 16 MB.
const KNOWN: usize = 16;

/// A document with its epoch and hash.
type Named = (DocumentId, Arc<Draft>);

/// A proposal that was looked at.
#[derive(Debug)]
struct Known {
    /// Hash of its bytes.
    proposal: Hash,
    /// The document that follows from it, under its name; `None` if none does.
    draft: Option<Named>,
    epoch: Epoch,
}

/// What judging needs: the place in the chain, the clock, and a memory of what was judged.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) genesis: Genesis,
    pub(super) previous: Option<Arc<VerifiedConsensus>>,
    pub(super) now: UnixMillis,
    pub(super) cache: RefCell<DescriptorCache>,
    known: RefCell<VecDeque<Known>>,
}

impl Judge {
    pub(super) fn new(genesis: Genesis, previous: Option<Arc<VerifiedConsensus>>) -> Self {
        let cache = RefCell::new(DescriptorCache::new(genesis.network));
        Self { genesis, previous, now: UnixMillis(0), cache, known: RefCell::default() }
    }

    /// Moves behind a document.
    pub(super) fn follow(&mut self, document: Arc<VerifiedConsensus>) {
        self.previous = Some(document);
        self.known.borrow_mut().clear();
    }

    /// Where the next document stands.
    pub(super) fn place(&self) -> Place<'_> {
        Place::after(&self.genesis.rules(), self.previous.as_deref())
    }

    /// The epochs that a document made now may be for: what is due by the own clock, and by one that differs from it by
    /// the tolerance.
    pub(super) fn due_epochs(&self) -> (Epoch, Epoch) {
        let schedule = &self.genesis.schedule;
        let skew = self.genesis.parameters.skew();
        let ahead = self.now.plus(lead(schedule));
        // the first document is of the epoch in which it is made
        let from = if self.previous.is_none() { self.now } else { ahead };
        (schedule.epoch_at(from.minus(skew)), schedule.epoch_at(ahead.plus(skew)))
    }

    /// The latest epoch for which anybody honest can have voted until now: on a proposal that was due by a clock that is
    /// ahead of the true time by the tolerance, by [`Self::due_epochs`] of that clock, while ours is as much behind it.
    pub(super) fn last_voted_on(&self) -> Epoch {
        let skew = self.genesis.parameters.skew();
        self.genesis.schedule.epoch_at(self.now.plus(lead(&self.genesis.schedule)).plus(3 * skew))
    }

    /// The document that follows from a verified proposal, if one does.
    pub(super) fn draft(&self, proposal: &VerifiedProposal) -> Option<Named> {
        let hash = agreement::scheme::payload_hash(proposal.bytes());
        if let Some(known) = self.known.borrow().iter().find(|known| known.proposal == hash) {
            return known.draft.clone();
        }
        let draft = next_document(&self.genesis.rules(), self.previous.as_deref(), proposal).ok();
        let draft = draft.map(|draft| (draft.document.mark().into(), Arc::new(draft)));
        self.remember(Known { proposal: hash, draft: draft.clone(), epoch: proposal.epoch() });
        draft
    }

    /// The document that was agreed on.
    pub(super) fn document(&self, value: &Value) -> Option<Arc<Draft>> {
        let (_, draft) = self.look(&value.proposal)?;
        draft.filter(|(id, _)| *id == value.document).map(|(_, draft)| draft)
    }

    /// Epoch and draft of a proposal's bytes; `None` if they do not verify.
    fn look(&self, bytes: &[u8]) -> Option<(Epoch, Option<Named>)> {
        let hash = agreement::scheme::payload_hash(bytes);
        if let Some(known) = self.known.borrow().iter().find(|known| known.proposal == hash) {
            return Some((known.epoch, known.draft.clone()));
        }
        let proposal = UnverifiedProposal::parse(bytes)
            .and_then(|proposal| proposal.verify(&self.place(), &mut self.cache.borrow_mut()));
        match proposal {
            Ok(proposal) => Some((proposal.epoch(), self.draft(&proposal))),
            Err(error) => {
                tracing::debug!(%error, "a proposal is refused");
                None
            }
        }
    }

    fn remember(&self, entry: Known) {
        let mut known = self.known.borrow_mut();
        while known.len() >= KNOWN {
            known.pop_front();
        }
        known.push_back(entry);
    }
}

impl agreement::Judge for Judge {
    fn judge(&self, height: u64, value: &Value, locked: bool) -> Verdict {
        if height != self.place().height {
            return Verdict::Invalid;
        }
        let Some((epoch, draft)) = self.look(&value.proposal) else { return Verdict::Invalid };
        if draft.is_none_or(|(id, _)| id != value.document) {
            return Verdict::Invalid;
        }
        let (earliest, latest) = self.due_epochs();
        if !locked && epoch > latest {
            return Verdict::Later;
        }
        if !locked && epoch < earliest { Verdict::Invalid } else { Verdict::Valid }
    }
}
