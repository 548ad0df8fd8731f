//! Messages of the height under way: what is looked at, what it may cost, and how it reaches the core.

use std::sync::Arc;

use super::engine::{Engine, ROUND_MAX, ROUNDS_AHEAD};
use super::message::{Quorum, RoundProof, SignedBallot};
use super::scheme::{Headline, Scheme, Sig, VoteKind};
use super::values::{Intake, PROPOSALS_AHEAD};

/// A single vote comes from whoever casts it.
pub(super) fn take_vote<S: Scheme>(
    engine: &mut Engine<S>,
    from: u16,
    vote: SignedBallot,
    pay: &mut impl FnMut(usize) -> bool,
) {
    let around = &engine.around;
    let round = vote.ballot.round;
    let in_reach = round >= around.floor() && round <= around.round.saturating_add(ROUNDS_AHEAD).min(ROUND_MAX);
    let counted = engine.has_voted(&vote);
    if vote.ballot.authority != from || !in_reach || counted && around.book.is_spent(&vote.ballot) {
        return;
    }
    let holds = around.book.knows(&vote) || pay(1) && around.check(&vote);
    if !holds {
        return;
    }
    engine.around.enter(vote.clone());
    if !counted {
        engine.vote(&vote);
    }
}

/// A proposal may be passed on by anybody: the proposer signed it.
pub(super) fn take_proposal<S: Scheme>(
    engine: &mut Engine<S>,
    headline: Headline,
    bytes: Arc<[u8]>,
    signature: Sig,
    pay: &mut impl FnMut(usize) -> bool,
) {
    let around = &mut engine.around;
    let round = headline.round;
    // Rounds before the last one: their proposals are proposed again, if they matter.
    let decided = around.certificate.as_ref().is_some_and(|c| (c.round, c.mark().into()) == (round, headline.document));
    let near = round.saturating_add(1) >= around.round && round <= around.round.saturating_add(PROPOSALS_AHEAD);
    if !(near || decided) || headline.lock_round.is_some_and(|lock| lock >= round) {
        return;
    }
    match around.values.look_up(&headline, &bytes, &signature) {
        Intake::Nothing | Intake::Bytes => {}
        Intake::Unknown => {
            let (context, message) = headline.signed(&around.network);
            if !pay(1) || !around.scheme.verify(headline.authority, context, &message, signature.get()) {
                return;
            }
            let evidence = around.values.enter(headline, signature.clone());
            around.report(evidence);
            around.values.hold(headline, signature, bytes);
        }
    }
}

/// 2f+1 prevotes, or the certificate of a decision.
pub(super) fn take_quorum<S: Scheme>(engine: &mut Engine<S>, quorum: Quorum, pay: &mut impl FnMut(usize) -> bool) {
    let around = &engine.around;
    if quorum.round > ROUND_MAX {
        return;
    }
    let wanted = match quorum.kind {
        VoteKind::Prevote => quorum.round >= around.floor() && engine.wants_polka(&quorum),
        VoteKind::Precommit => around.certificate.is_none(),
    };
    if !wanted || !pay(quorum.votes().filter(|vote| !around.book.knows(vote)).count()) {
        return;
    }
    match quorum.kind {
        VoteKind::Prevote => engine.polka(quorum),
        VoteKind::Precommit => engine.commit(&quorum),
    }
}

/// Votes that end a round or start a later one.
pub(super) fn take_round<S: Scheme>(engine: &mut Engine<S>, proof: &RoundProof, pay: &mut impl FnMut(usize) -> bool) {
    if proof.round > ROUND_MAX || !engine.wants_round(proof) {
        return;
    }
    let book = &engine.around.book;
    if pay(proof.votes.iter().filter(|vote| !book.knows(vote)).count()) {
        engine.round_proof(proof);
    }
}
