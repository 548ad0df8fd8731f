//! Carries out the effects of the agreement core: signs, verifies, logs, sends, waits.

use std::collections::BTreeSet;

use arc_malachitebft_core_consensus as consensus;
use arc_malachitebft_core_types as core;
use consensus::{Effect, Input, LivenessMsg, ProposedValue, Resumable as _, Resume, SignedConsensusMsg};
use core::{CertificateError, Round, RoundCertificate, SignedMessage, ThresholdParams, Timeout, Validity, ValueOrigin};
use shoal_protocol::authority::quorum;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::{Hash, UnixMillis};

use super::book::Book;
use super::context::{Context, Document, Height, Proposal, Seat, Vote, proposer};
use super::convert::{
    certificate_of, commit_of, headline_of, polka_certificate, proposal_message, quorum_of, round_proof_of,
};
use super::guard::Guard;
use super::log::{Framer, Record};
use super::message::{Message, Quorum, RoundProof, RoundReason, SignedBallot};
use super::scheme::{Headline, Scheme, Sig, VoteKind};
use super::timers::{Timers, Timing};
use super::values::Values;
use super::{Action, Evidence};

/// Why an effect was not carried out; the core then drops the input that caused it.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The guard refused.
    Refused,
    /// An observer is not asked to sign; a document without bytes is not proposed; nobody votes before round 0.
    Cannot,
}

/// Everything around the core.
pub(crate) struct Around<S> {
    pub(crate) scheme: S,
    pub(crate) network: Hash,
    pub(crate) me: u16,
    pub(crate) height: u64,
    pub(crate) round: u32,
    pub(crate) now: UnixMillis,
    pub(crate) timing: Timing,
    pub(crate) timers: Timers,
    pub(crate) guard: Guard,
    pub(crate) book: Book,
    pub(crate) values: Values,
    pub(crate) framer: Framer,
    /// Checksums of the entries that the log holds, while it is replayed; `None` afterwards.
    pub(crate) replaying: Option<BTreeSet<Hash>>,
    /// The round for which the core waits for our proposal.
    pub(crate) wanted: Option<u32>,
    /// Repeats of our proposal in the current round.
    pub(crate) repeats: u8,
    /// Whether this authority signs.
    pub(crate) signs: bool,
    /// Whether it has a log: who only observes from the beginning has nothing to remember.
    pub(crate) logs: bool,
    /// A certificate of this height, maybe without the document's bytes.
    pub(crate) certificate: Option<Certificate>,
    pub(crate) decided: bool,
    pub(crate) floor: u32,
    pub(crate) actions: Vec<Action>,
}

impl<S: Scheme> Around<S> {
    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    pub(crate) fn log(&mut self, record: &Record) {
        if !self.logs {
            return;
        }
        let payload = record.encode();
        if self.replaying.as_ref().is_some_and(|held| held.contains(&entry_hash(&payload))) {
            return;
        }
        let frame = self.framer.frame(&payload);
        self.actions.push(Action::Log(frame));
    }

    pub(crate) fn send(&mut self, message: &Message) {
        // What is replayed was sent before the crash, or is repeated when the replay is over.
        if self.replaying.is_none() {
            self.actions.push(Action::Broadcast(message.encode()));
        }
    }

    /// Checks a vote's signature, once.
    pub(crate) fn check(&self, vote: &SignedBallot) -> bool {
        self.book.holds(&self.scheme, &self.network, vote)
    }

    /// Enters a vote whose signature holds.
    pub(crate) fn enter(&mut self, vote: SignedBallot) {
        if let Some(evidence) = self.book.enter(vote) {
            self.actions.push(Action::Misbehaviour(evidence));
        }
    }

    pub(crate) fn report(&mut self, evidence: Option<Evidence>) {
        self.actions.extend(evidence.map(Action::Misbehaviour));
    }

    /// Takes one entry of the log over, and gives the input that the core saw then.
    pub(crate) fn recall(&mut self, record: &Record) -> Option<Input<Context>> {
        if let Some(held) = &mut self.replaying {
            held.insert(entry_hash(&record.encode()));
        }
        let height = Height(self.height);
        let mut restored = Ok(());
        if let Record::Vote(vote) = record
            && vote.ballot.authority == self.me
        {
            restored = self.guard.restore_vote(vote.ballot, vote.signature.clone());
        }
        if let Record::Proposal(headline, signature) = record
            && headline.authority == self.me
        {
            restored = self.guard.restore_proposal(*headline, signature.clone());
        }
        if restored.is_err() {
            self.signs = false;
            self.actions.push(Action::Muted { reason: "the agreement log holds contradictory signatures of ours" });
        }
        match record {
            Record::Opening { .. } => None,
            Record::Vote(vote) => {
                self.book.enter(vote.clone());
                Some(Input::Vote(SignedMessage::new(Vote::of(&vote.ballot), vote.signature.clone())))
            }
            Record::Proposal(headline, signature) => {
                self.values.enter(*headline, signature.clone());
                let proposal = Proposal {
                    height,
                    round: Round::new(headline.round),
                    document: Document(headline.document),
                    lock_round: Round::from(headline.lock_round),
                    seat: Seat(headline.authority),
                };
                Some(Input::Proposal(SignedMessage::new(proposal, signature.clone())))
            }
            Record::Verdict { round, lock_round, document, bytes } => {
                match bytes {
                    Some(bytes) => self.values.accept(*round, *document, bytes.clone()),
                    None => self.values.was_told_invalid(*round, *document),
                }
                let value = ProposedValue {
                    height,
                    round: Round::new(*round),
                    valid_round: Round::from(*lock_round),
                    proposer: Seat(proposer(self.height, *round, self.scheme.count())),
                    value: Document(*document),
                    validity: Validity::from_bool(bytes.is_some()),
                };
                Some(Input::ProposedValue(value, ValueOrigin::Consensus))
            }
            Record::Polka(quorum) => {
                for vote in quorum.votes() {
                    self.book.enter(vote);
                }
                Some(Input::PolkaCertificate(polka_certificate(quorum.clone())))
            }
            Record::Timeout(kind, round) => Some(Input::TimeoutElapsed(Timeout::new(Round::new(*round), *kind))),
        }
    }

    /// Carries out one effect of the core.
    pub(crate) fn effect(&mut self, effect: Effect<Context>) -> Result<Resume<Context>, Halt> {
        Ok(match effect {
            Effect::CancelAllTimeouts(resume) => {
                self.timers.clear();
                resume.resume_with(())
            }
            Effect::CancelTimeout(timeout, resume) => {
                self.timers.cancel(&timeout);
                resume.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, resume) => {
                self.timers.set(timeout, &self.timing, self.now);
                resume.resume_with(())
            }
            Effect::StartRound(_, round, _, _, resume) => {
                self.round = round.as_u32().unwrap_or(0);
                self.repeats = 0;
                self.wanted = None;
                resume.resume_with(())
            }
            Effect::GetValue(height, round, _, resume) => {
                self.wanted = round.as_u32();
                if let (Some(round), None) = (round.as_u32(), &self.replaying) {
                    self.actions.push(Action::Propose { height: height.0, round });
                }
                resume.resume_with(())
            }
            Effect::PublishConsensusMsg(SignedConsensusMsg::Vote(vote), resume) => {
                self.send_vote(&vote);
                resume.resume_with(())
            }
            Effect::RepublishVote(vote, resume) => {
                self.send_vote(&vote);
                resume.resume_with(())
            }
            Effect::PublishConsensusMsg(SignedConsensusMsg::Proposal(proposal), resume) => {
                if let Some(message) = proposal_message(&self.values, &proposal) {
                    self.send(&message);
                }
                resume.resume_with(())
            }
            Effect::PublishLivenessMsg(message, resume) => {
                match message {
                    LivenessMsg::Vote(vote) => self.send_vote(&vote),
                    LivenessMsg::PolkaCertificate(polka) => {
                        if let Some(quorum) = quorum_of(&polka) {
                            self.send(&Message::Quorum(quorum));
                        }
                    }
                    LivenessMsg::SkipRoundCertificate(certificate) => self.send_round(&certificate),
                }
                resume.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, resume) => {
                self.send_round(&certificate);
                resume.resume_with(())
            }
            Effect::SignVote(vote, resume) => {
                let signature = self.sign_vote(&vote)?;
                resume.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, resume) => {
                let signature = self.sign_proposal(&proposal)?;
                resume.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::VerifySignature(message, (), resume) => {
                let holds = match &message.message {
                    consensus::ConsensusMsg::Vote(vote) => vote.ballot().is_some_and(|ballot| {
                        self.check(&SignedBallot { ballot, signature: message.signature.clone() })
                    }),
                    consensus::ConsensusMsg::Proposal(proposal) => proposal.round.as_u32().is_some_and(|round| {
                        let lock = proposal.lock_round.as_u32();
                        self.values.knows(round, lock, &proposal.document.0, &message.signature)
                    }),
                };
                resume.resume_with(holds)
            }
            Effect::VerifyCommitCertificate(certificate, _, _, resume) => {
                let quorum = commit_of(&certificate);
                let holds = quorum.as_ref().is_some_and(|quorum| self.quorum_holds(quorum));
                resume.resume_with(verdict(holds))
            }
            Effect::VerifyPolkaCertificate(certificate, _, _, resume) => {
                let quorum = quorum_of(&certificate).filter(|quorum| self.quorum_holds(quorum));
                let holds = quorum.is_some();
                quorum.iter().flat_map(Quorum::votes).for_each(|vote| self.enter(vote));
                resume.resume_with(verdict(holds))
            }
            Effect::VerifyRoundCertificate(certificate, _, thresholds, resume) => {
                let proof = round_proof_of(&certificate).filter(|proof| self.round_holds(proof, &thresholds));
                let holds = proof.is_some();
                proof.into_iter().flat_map(|proof| proof.votes).for_each(|vote| self.enter(vote));
                resume.resume_with(verdict(holds))
            }
            // Certificates with extensions belong to the core's own way of catching up, which is not used.
            Effect::VerifyExtendedCommitCertificate(.., resume) => resume.resume_with(verdict(false)),
            Effect::WalAppend(_, input, resume) => {
                self.log_input(&input);
                resume.resume_with(())
            }
            Effect::Decide(certificate, _, resume) => {
                if let Some(quorum) = commit_of(&certificate) {
                    self.certificate.get_or_insert_with(|| certificate_of(&quorum));
                    self.finish();
                }
                resume.resume_with(())
            }
            Effect::ExtendVote(.., resume) => resume.resume_with(None),
            Effect::VerifyVoteExtension(.., resume) => resume.resume_with(Ok(())),
            // The proposal message carries the bytes, evidence is reported at once, and the next height is started from
            // outside.
            Effect::RestreamProposal(.., resume) | Effect::Finalize(.., resume) => resume.resume_with(()),
            Effect::CertVerifiedSyncValue(_, _, resume) | Effect::CertRejectedSyncValue(.., resume) => {
                resume.resume_with(())
            }
        })
    }

    /// Gives out the decision, once certificate and bytes are there.
    pub(crate) fn finish(&mut self) {
        if self.decided {
            return;
        }
        let Some(certificate) = self.certificate.clone() else {
            return;
        };
        let Some(value) = self.values.value(&certificate.mark().into()) else {
            return;
        };
        self.decided = true;
        self.timers.clear();
        let certificate = self.lowest(certificate);
        self.certificate = Some(certificate.clone());
        self.actions.push(Action::Decided { certificate, value });
    }

    pub(crate) fn sign_vote(&mut self, vote: &Vote) -> Result<Sig, Halt> {
        let ballot = vote.ballot().filter(|_| self.signs).ok_or(Halt::Cannot)?;
        let signed = self.guard.sign_vote(&self.scheme, &self.network, ballot).map_err(|_| Halt::Refused)?;
        let vote = SignedBallot { ballot, signature: signed.signature.clone() };
        if signed.fresh {
            self.log(&Record::Vote(vote.clone()));
        }
        self.enter(vote);
        Ok(signed.signature)
    }

    pub(crate) fn sign_proposal(&mut self, proposal: &Proposal) -> Result<Sig, Halt> {
        let document = proposal.document.0;
        let payload = self.values.payload(&document).ok_or(Halt::Cannot)?;
        let round = proposal.round.as_u32().filter(|_| self.signs).ok_or(Halt::Cannot)?;
        let lock_round = proposal.lock_round.as_u32();
        let headline = Headline { height: self.height, round, lock_round, document, payload, authority: self.me };
        let signed = self.guard.sign_proposal(&self.scheme, &self.network, headline).map_err(|_| Halt::Refused)?;
        if signed.fresh {
            self.log(&Record::Proposal(headline, signed.signature.clone()));
        }
        self.values.enter(headline, signed.signature.clone());
        Ok(signed.signature)
    }

    pub(crate) fn send_vote(&mut self, vote: &core::SignedVote<Context>) {
        if let Some(ballot) = vote.message.ballot() {
            self.send(&Message::Vote(SignedBallot { ballot, signature: vote.signature.clone() }));
        }
    }

    pub(crate) fn send_round(&mut self, certificate: &RoundCertificate<Context>) {
        if let Some(proof) = round_proof_of(certificate) {
            self.send(&Message::Round(proof));
        }
    }

    pub(crate) fn quorum_holds(&self, certificate: &Quorum) -> bool {
        certificate.signatures.len() >= quorum(self.scheme.count()) && certificate.votes().all(|vote| self.check(&vote))
    }

    pub(crate) fn round_holds(&self, proof: &RoundProof, thresholds: &ThresholdParams) -> bool {
        let (votes, total) = (proof.votes.len() as u64, self.scheme.count() as u64);
        let enough = match proof.reason {
            RoundReason::Skip => thresholds.honest.is_met(votes, total),
            RoundReason::Over => {
                thresholds.quorum.is_met(votes, total)
                    && proof.votes.iter().all(|vote| vote.ballot.kind == VoteKind::Precommit)
            }
        };
        enough && proof.votes.iter().all(|vote| self.check(vote))
    }

    /// Writes down what the core must see again after a crash.
    pub(crate) fn log_input(&mut self, input: &Input<Context>) {
        let record = match input {
            // Ours are logged when they are signed, before the core sees them.
            Input::Vote(vote) if vote.message.seat.0 != self.me => vote
                .message
                .ballot()
                .map(|ballot| Record::Vote(SignedBallot { ballot, signature: vote.signature.clone() })),
            Input::Proposal(proposal) if proposal.message.seat.0 != self.me => {
                headline_of(&self.values, proposal).map(|(headline, signature)| Record::Proposal(headline, signature))
            }
            Input::ProposedValue(value, _) => value.round.as_u32().map(|round| Record::Verdict {
                round,
                lock_round: value.valid_round.as_u32(),
                document: value.value.0,
                bytes: self
                    .values
                    .value(&value.value.0)
                    .filter(|_| value.validity.is_valid())
                    .map(|value| value.proposal),
            }),
            Input::PolkaCertificate(polka) => quorum_of(polka).map(Record::Polka),
            Input::TimeoutElapsed(timeout) => timeout.round.as_u32().map(|round| Record::Timeout(timeout.kind, round)),
            Input::Vote(_)
            | Input::Proposal(_)
            | Input::StartHeight(..)
            | Input::RoundCertificate(_)
            | Input::Propose(_)
            | Input::SyncValueResponse(_) => None,
        };
        if let Some(record) = record {
            self.log(&record);
        }
    }
}

fn entry_hash(payload: &[u8]) -> Hash {
    Hash::of("shoal/1 agreement log entry", payload)
}

fn verdict(holds: bool) -> Result<(), CertificateError<Context>> {
    if holds { Ok(()) } else { Err(CertificateError::VerificationError(None)) }
}
