//! Precommits that come when the decision is made already.
//!
//! 2f+1 of them decide, whichever come first, so at that moment authorities hold different certificates of one document. Who
//! hands out a document would be known by its certificate, and could mark its readers by which one they get. So precommits
//! are taken further, and of all that are known those of the lowest 2f+1 indices make the certificate: when all have
//! arrived, which takes one way between authorities, everybody honest holds the same bytes.

use shoal_protocol::authority::quorum;
use shoal_protocol::certificate::{Certificate, CommitSignature};

use super::Action;
use super::around::Around;
use super::engine::Engine;
use super::message::SignedBallot;
use super::scheme::{DocumentId, Scheme, VoteKind};

/// A vote of authority `from` after the decision. Costs a check of a signature at most once an authority and height.
pub(super) fn take_late<S: Scheme>(
    engine: &mut Engine<S>,
    from: u16,
    vote: &SignedBallot,
    pay: &mut impl FnMut(usize) -> bool,
) {
    let around = &mut engine.around;
    let Some(held) = around.certificate.clone() else { return };
    let ballot = &vote.ballot;
    let decided = (VoteKind::Precommit, held.round, Some(DocumentId::from(held.mark())));
    if ballot.authority != from
        || (ballot.kind, ballot.round, ballot.document) != decided
        || around.book.is_spent(ballot)
        || !pay(1)
        || !around.check(vote)
    {
        return;
    }
    around.enter(vote.clone());
    let lowest = around.lowest(held.clone());
    if lowest != held {
        around.certificate = Some(lowest.clone());
        around.actions.push(Action::Completed(lowest));
    }
}

impl<S: Scheme> Around<S> {
    /// The certificate of the same decision with the signatures of the lowest 2f+1 indices that are known.
    pub(super) fn lowest(&self, certificate: Certificate) -> Certificate {
        let (count, document) = (self.scheme.count(), DocumentId::from(certificate.mark()));
        let known = (0_u16..).take(count).filter_map(|authority| {
            let signature = self.book.signature(VoteKind::Precommit, certificate.round, &document, authority)?;
            Some(CommitSignature { authority, signature: signature.get().clone() })
        });
        let signatures: Vec<_> = known.take(quorum(count)).collect();
        if signatures.len() < quorum(count) { certificate } else { Certificate { signatures, ..certificate } }
    }
}
