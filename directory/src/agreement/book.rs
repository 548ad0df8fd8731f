//! Votes whose signatures were checked: each is checked once, and two that contradict each other are evidence.

use std::collections::BTreeMap;

use shoal_protocol::Hash;

use super::evidence::Evidence;
use super::message::SignedBallot;
use super::scheme::{Ballot, DocumentId, Scheme, Sig, VoteKind};

/// Votes kept of one authority, round and kind: the first, and one that contradicts it.
const PER_PLACE: usize = 2;
/// Contradictions reported of one authority at one height; the first is proof enough.
const REPORTS_PER_AUTHORITY: u8 = 4;

/// What was voted for, and the signature.
type Checked = (Option<DocumentId>, Sig);

/// Checked votes of the current height. Bound: 64 authorities × 2 kinds × [`PER_PLACE`] × 2.6 kB = 0.7 MB a round, and
/// [`super::engine::ROUNDS_BACK`] + [`super::engine::ROUNDS_AHEAD`] rounds: 28 MB. Rounds further ahead come only with
/// f+1 signatures.
#[derive(Debug, Default)]
pub(crate) struct Book {
    votes: BTreeMap<(u32, VoteKind, u16), Vec<Checked>>,
    reported: BTreeMap<u16, u8>,
}

impl Book {
    /// Whether exactly this vote with exactly this signature was checked before.
    pub(crate) fn knows(&self, vote: &SignedBallot) -> bool {
        let Ballot { kind, round, document, authority, .. } = vote.ballot;
        self.votes
            .get(&(round, kind, authority))
            .is_some_and(|known| known.iter().any(|(d, s)| *d == document && *s == vote.signature))
    }

    /// The signature under a checked vote for a document.
    pub(crate) fn signature(&self, kind: VoteKind, round: u32, document: &DocumentId, authority: u16) -> Option<&Sig> {
        let known = self.votes.get(&(round, kind, authority))?;
        known.iter().find(|(of, _)| of.as_ref() == Some(document)).map(|(_, signature)| signature)
    }

    /// Checks the signature unless it was checked before.
    pub(crate) fn holds(&self, scheme: &impl Scheme, network: &Hash, vote: &SignedBallot) -> bool {
        self.knows(vote) || {
            let (context, message) = vote.ballot.signed(network);
            scheme.verify(vote.ballot.authority, context, &message, vote.signature.get())
        }
    }

    /// Whether another vote would say nothing new: this one is known, by whatever signature, or a contradiction is.
    pub(crate) fn is_spent(&self, ballot: &Ballot) -> bool {
        let known = self.votes.get(&(ballot.round, ballot.kind, ballot.authority));
        known.is_some_and(|known| known.len() >= PER_PLACE || known.iter().any(|(d, _)| *d == ballot.document))
    }

    /// Enters a vote whose signature holds.
    pub(crate) fn enter(&mut self, vote: SignedBallot) -> Option<Evidence> {
        let Ballot { kind, round, document, authority, .. } = vote.ballot;
        let known = self.votes.entry((round, kind, authority)).or_default();
        if known.len() >= PER_PLACE || known.iter().any(|(d, _)| *d == document) {
            return None;
        }
        known.push((document, vote.signature.clone()));
        let (first, signature) = known.first()?.clone();
        let first = SignedBallot { ballot: Ballot { document: first, ..vote.ballot }, signature };
        let evidence = Evidence::of_votes(first, vote)?;
        let reports = self.reported.entry(authority).or_default();
        if *reports >= REPORTS_PER_AUTHORITY {
            return None;
        }
        *reports += 1;
        Some(evidence)
    }

    /// Forgets the rounds before `floor`.
    pub(crate) fn prune(&mut self, floor: u32) {
        self.votes = self.votes.split_off(&(floor, VoteKind::Prevote, 0));
    }
}
