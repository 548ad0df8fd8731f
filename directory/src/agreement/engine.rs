//! Drives the agreement core: gives it inputs and carries out its effects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_malachitebft_core_consensus as consensus;
use arc_malachitebft_core_types as core;
use consensus::{Effect, Input, LivenessMsg, Params, ProposedValue, Resumable as _, Resume, SignedConsensusMsg, State};
use core::{
    CertificateError, Round, RoundCertificate, RoundCertificateType, SignedMessage, Threshold, ThresholdParams,
    Timeout, TimeoutKind, Validity, ValueOrigin, ValuePayload, VoteExtensionPolicy, VoteType,
};
use shoal_protocol::authority::quorum;
use shoal_protocol::certificate::{Certificate, CommitSignature};
use shoal_protocol::{Hash, UnixMillis};

use super::book::Book;
use super::context::{Context, Document, Height, Members, Proposal, Seat, Vote, document_of, kind_of, proposer};
use super::guard::Guard;
use super::log::{Entry, Framer, Record};
use super::message::{Message, Quorum, RoundProof, RoundReason, SignedBallot};
use super::scheme::{Ballot, Headline, Scheme, Sig, VoteKind};
use super::timers::{Timers, Timing};
use super::values::{Judged, Values};
use super::{Action, Judge, Value};

/// Rounds ahead of the current one whose single votes are taken; the core has the same bound. Who is further behind
/// catches up by round certificates.
pub(crate) const ROUNDS_AHEAD: u32 = 10;
/// Rounds behind the current one whose votes are kept: a decision of an earlier round is still seen.
pub(crate) const ROUNDS_BACK: u32 = 32;
/// No honest authority gets here: 100,000 epochs without agreement.
pub(crate) const ROUND_MAX: u32 = 1 << 20;
/// How often a proposer repeats his proposal in one round.
const PROPOSAL_REPEATS: u8 = 3;

/// Why an effect was not carried out; the core then drops the input that caused it.
#[derive(Debug)]
enum Halt {
    /// The guard refused.
    Refused,
    /// An observer is not asked to sign; a document without bytes is not proposed; nobody votes before round 0.
    Cannot,
}

/// The core and everything around it, for one height.
pub(crate) struct Engine<S> {
    state: State<Context>,
    pub(crate) around: Around<S>,
}

/// Everything around the core.
pub(crate) struct Around<S> {
    pub(crate) scheme: S,
    pub(crate) network: Hash,
    me: u16,
    pub(crate) height: u64,
    pub(crate) round: u32,
    pub(crate) now: UnixMillis,
    timing: Timing,
    timers: Timers,
    guard: Guard,
    pub(crate) book: Book,
    pub(crate) values: Values,
    framer: Framer,
    /// Checksums of the entries that the log holds, while it is replayed; `None` afterwards.
    replaying: Option<BTreeSet<Hash>>,
    /// The round for which the core waits for our proposal.
    wanted: Option<u32>,
    /// Repeats of our proposal in the current round.
    repeats: u8,
    /// Whether this authority signs.
    signs: bool,
    /// Whether it has a log: who only observes from the beginning has nothing to remember.
    logs: bool,
    /// A certificate of this height, maybe without the document's bytes.
    pub(crate) certificate: Option<Certificate>,
    pub(crate) decided: bool,
    floor: u32,
    actions: Vec<Action>,
}

/// How a height is started.
pub(crate) struct Beginning<'a> {
    pub(crate) height: u64,
    pub(crate) entries: &'a [Entry],
    pub(crate) signs: bool,
    pub(crate) now: UnixMillis,
}

impl<S: Scheme> Engine<S> {
    pub(crate) fn start(scheme: S, network: Hash, me: u16, timing: Timing, begin: &Beginning<'_>) -> Self {
        let count = u16::try_from(scheme.count()).unwrap_or(u16::MAX);
        let Beginning { height, entries, signs, now } = *begin;
        let members = Members::new(count);
        let params = Params {
            address: Seat(me),
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: signs,
        };
        // Messages for later heights never reach the core, so its queue needs no room.
        let state = State::new(Context, Height(height), members.clone(), params, 1, 1);
        let around = Around {
            scheme,
            network,
            me,
            height,
            round: 0,
            now,
            timing,
            timers: Timers::default(),
            guard: Guard::default(),
            book: Book::default(),
            values: Values::default(),
            framer: Framer::new(height, entries.len()),
            replaying: Some(BTreeSet::new()),
            wanted: None,
            repeats: 0,
            signs,
            logs: signs,
            certificate: None,
            decided: false,
            floor: 0,
            actions: Vec::new(),
        };
        let mut engine = Self { state, around };
        engine.replay(entries, members);
        engine
    }

    /// Brings the core to where the log ends, and sends again what it says last.
    fn replay(&mut self, entries: &[Entry], members: Members) {
        if entries.is_empty() && self.around.signs {
            self.around.log(&Record::Opening { network: self.around.network, authority: self.around.me });
        }
        let inputs: Vec<Input<Context>> =
            entries.iter().filter_map(|Entry(record)| self.around.recall(record)).collect();
        self.state.params.enabled = self.around.signs;
        self.state.index_wal_entries(&inputs);
        let height = Height(self.around.height);
        // No target time: with one, the core would read a clock.
        self.input(Input::StartHeight(height, members, false, None, VoteExtensionPolicy::Disabled));
        for input in inputs {
            self.input(input);
            self.prune();
        }
        self.state.reset_entries_index();
        self.around.replaying = None;
        if self.around.decided || entries.is_empty() {
            self.ask_for_proposal();
            return;
        }
        self.input(Input::TimeoutElapsed(Timeout::rebroadcast(self.state.round())));
        self.repeat_proposal();
        self.ask_for_proposal();
    }

    fn ask_for_proposal(&mut self) {
        if let Some(round) = self.around.wanted
            && !self.around.decided
            && self.state.round() == Round::new(round)
            && self.state.driver.step_is_propose()
        {
            self.around.actions.push(Action::Propose { height: self.around.height, round });
        }
    }

    fn input(&mut self, input: Input<Context>) {
        let Self { state, around } = self;
        let mut refused = false;
        let result: Result<(), consensus::Error<Context>> = consensus::process!(
            input: input,
            state: state,
            metrics: &(),
            with: effect => around.effect(effect).inspect_err(|halt| refused |= matches!(halt, Halt::Refused))
        );
        // What else the core complains about concerns one input, which is then without effect.
        if refused || matches!(result, Err(consensus::Error::ReplayDivergence(..))) {
            self.mute("the agreement core asked for a signature that contradicts an earlier one");
        }
    }

    /// From now on this authority only watches this height.
    fn mute(&mut self, reason: &'static str) {
        if self.around.signs {
            self.around.signs = false;
            self.state.params.enabled = false;
            self.around.actions.push(Action::Muted { reason });
        }
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.around.actions)
    }

    /// Our answer to [`Action::Propose`].
    pub(crate) fn propose(&mut self, round: u32, value: Value) {
        let around = &mut self.around;
        if around.decided || around.wanted != Some(round) || self.state.round() != Round::new(round) {
            return;
        }
        around.wanted = None;
        let Value { document, proposal } = value;
        around.values.accept(round, document, proposal);
        let local = consensus::LocallyProposedValue::new(Height(around.height), Round::new(round), Document(document));
        self.input(Input::Propose(local));
    }

    /// A vote whose signature holds.
    pub(crate) fn vote(&mut self, vote: &SignedBallot) {
        self.input(Input::Vote(SignedMessage::new(Vote::of(&vote.ballot), vote.signature.clone())));
    }

    /// Whether the core counted this vote, or another one in its place.
    pub(crate) fn has_voted(&self, vote: &SignedBallot) -> bool {
        let kind = match vote.ballot.kind {
            VoteKind::Prevote => VoteType::Prevote,
            VoteKind::Precommit => VoteType::Precommit,
        };
        let round = self.state.driver.votes().per_round(Round::new(vote.ballot.round));
        round.is_some_and(|round| round.get_vote(kind, &Seat(vote.ballot.authority)).is_some())
    }

    /// Whether a certificate of 2f+1 prevotes would be news.
    pub(crate) fn wants_polka(&self, polka: &Quorum) -> bool {
        self.state.polka_certificate(Round::new(polka.round), &polka.document).is_none()
    }

    /// A certificate of 2f+1 prevotes; the core asks for its verification.
    pub(crate) fn polka(&mut self, polka: Quorum) {
        self.input(Input::PolkaCertificate(polka_certificate(polka)));
    }

    /// Whether a round certificate would lead anywhere.
    pub(crate) fn wants_round(&self, proof: &RoundProof) -> bool {
        match proof.reason {
            RoundReason::Over => proof.round >= self.around.round,
            RoundReason::Skip => proof.round > self.around.round,
        }
    }

    /// A round certificate; the core asks for its verification.
    pub(crate) fn round_proof(&mut self, proof: &RoundProof) {
        let round_signatures = proof.votes.iter().map(|vote| {
            let Vote { kind, value, seat, .. } = Vote::of(&vote.ballot);
            core::RoundSignature::new(kind, value, seat, vote.signature.clone())
        });
        self.input(Input::RoundCertificate(RoundCertificate {
            height: Height(proof.height),
            round: Round::new(proof.round),
            cert_type: match proof.reason {
                RoundReason::Skip => RoundCertificateType::Skip,
                RoundReason::Over => RoundCertificateType::Precommit,
            },
            round_signatures: round_signatures.collect(),
        }));
    }

    /// A certificate of a decision that others reached; its signatures are checked here.
    pub(crate) fn commit(&mut self, commit: &Quorum) {
        if self.around.certificate.is_none()
            && commit.signatures.len() >= quorum(self.around.scheme.count())
            && commit.votes().all(|vote| self.around.check(&vote))
        {
            commit.votes().for_each(|vote| self.around.enter(vote));
            self.around.certificate = Some(certificate_of(commit));
        }
    }

    /// Asks the judge about open proposals and tells the core, until nothing changes; then forgets what is old.
    pub(crate) fn settle(&mut self, judge: &impl Judge) {
        while !self.around.decided {
            let votes = self.state.driver.votes();
            let polkas = self.state.driver.polka_certificates();
            let certified = self.around.certificate.as_ref().map(|certificate| certificate.document);
            let proven = |document: &Hash| {
                certified == Some(*document)
                    || polkas.iter().any(|polka| polka.value_id == *document)
                    || votes.all_rounds().keys().any(|round| {
                        [VoteType::Prevote, VoteType::Precommit]
                            .into_iter()
                            .any(|kind| votes.is_threshold_met(round, kind, Threshold::Value(*document)))
                    })
            };
            let told = self.around.values.judge(judge, proven);
            self.around.finish();
            if told.is_empty() {
                break;
            }
            for judged in told {
                self.tell(judged);
            }
        }
        self.prune();
    }

    fn tell(&mut self, judged: Judged) {
        let Judged { headline, signature, news } = judged;
        let (height, round) = (Height(headline.height), Round::new(headline.round));
        let lock_round = Round::from(headline.lock_round);
        let document = Document(headline.document);
        if let Some(valid) = news {
            let value = ProposedValue {
                height,
                round,
                valid_round: lock_round,
                proposer: Seat(headline.authority),
                value: document.clone(),
                validity: Validity::from_bool(valid),
            };
            self.input(Input::ProposedValue(value, ValueOrigin::Consensus));
        }
        let proposal = Proposal { height, round, document, lock_round, seat: Seat(headline.authority) };
        self.input(Input::Proposal(SignedMessage::new(proposal, signature)));
    }

    fn prune(&mut self) {
        let around = &mut self.around;
        let kept = |value: Option<&(Round, Hash)>| value.and_then(|(round, _)| round.as_u32());
        let state = self.state.driver.round_state();
        let valid = state.valid.as_ref().map(|value| (value.round, value.value.0));
        let locked = state.locked.as_ref().map(|value| (value.round, value.value.0));
        let floor = around.round.saturating_sub(ROUNDS_BACK);
        // The votes behind the value that would be proposed again are needed for its proof.
        let floor = [kept(valid.as_ref()), kept(locked.as_ref())].into_iter().flatten().fold(floor, u32::min);
        let certified = around.certificate.as_ref().map(|certificate| certificate.document);
        let named = [valid.map(|(_, d)| d), locked.map(|(_, d)| d), certified];
        around.values.prune(around.round, floor, |document| named.contains(&Some(*document)));
        if floor > around.floor {
            around.floor = floor;
            around.book.prune(floor);
            self.state.driver.prune_votes_and_certificates(Round::new(floor));
        }
    }

    /// Lets every timeout that is due elapse.
    pub(crate) fn wake(&mut self) {
        let Around { timers, timing, now, .. } = &mut self.around;
        timers.settle(timing, *now);
        // Ends: a timeout that is set again lasts at least the base, so it is not due at the same instant.
        while let Some(timeout) = self.around.timers.pop(self.around.now) {
            if self.around.decided {
                break;
            }
            self.input(Input::TimeoutElapsed(timeout));
            if timeout.kind == TimeoutKind::Rebroadcast {
                self.repeat_proposal();
            }
        }
    }

    /// The core repeats votes and certificates, not proposals.
    fn repeat_proposal(&mut self) {
        let Around { values, round, height, me, repeats, scheme, .. } = &self.around;
        if *repeats >= PROPOSAL_REPEATS || proposer(*height, *round, scheme.count()) != *me || !self.around.signs {
            return;
        }
        let mine = self.state.driver.proposals_and_validities_for_round(Round::new(*round)).first();
        let Some(message) = mine.and_then(|(proposal, _)| proposal_message(values, proposal)) else {
            return;
        };
        self.around.repeats += 1;
        self.around.send(&message);
    }

    pub(crate) fn next_wake(&self) -> Option<UnixMillis> {
        if self.around.decided { None } else { self.around.timers.next() }
    }
}

impl<S: Scheme> Around<S> {
    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    fn log(&mut self, record: &Record) {
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

    fn send(&mut self, message: &Message) {
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

    pub(crate) fn report(&mut self, evidence: Option<super::Evidence>) {
        self.actions.extend(evidence.map(Action::Misbehaviour));
    }

    /// Takes one entry of the log over, and gives the input that the core saw then.
    fn recall(&mut self, record: &Record) -> Option<Input<Context>> {
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
    fn effect(&mut self, effect: Effect<Context>) -> Result<Resume<Context>, Halt> {
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
    fn finish(&mut self) {
        if self.decided {
            return;
        }
        let Some(certificate) = self.certificate.clone() else {
            return;
        };
        let Some(value) = self.values.value(&certificate.document) else {
            return;
        };
        self.decided = true;
        self.timers.clear();
        self.actions.push(Action::Decided { certificate, value });
    }

    fn sign_vote(&mut self, vote: &Vote) -> Result<Sig, Halt> {
        let ballot = vote.ballot().filter(|_| self.signs).ok_or(Halt::Cannot)?;
        let signed = self.guard.sign_vote(&self.scheme, &self.network, ballot).map_err(|_| Halt::Refused)?;
        let vote = SignedBallot { ballot, signature: signed.signature.clone() };
        if signed.fresh {
            self.log(&Record::Vote(vote.clone()));
        }
        self.enter(vote);
        Ok(signed.signature)
    }

    fn sign_proposal(&mut self, proposal: &Proposal) -> Result<Sig, Halt> {
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

    fn send_vote(&mut self, vote: &core::SignedVote<Context>) {
        if let Some(ballot) = vote.message.ballot() {
            self.send(&Message::Vote(SignedBallot { ballot, signature: vote.signature.clone() }));
        }
    }

    fn send_round(&mut self, certificate: &RoundCertificate<Context>) {
        if let Some(proof) = round_proof_of(certificate) {
            self.send(&Message::Round(proof));
        }
    }

    fn quorum_holds(&self, certificate: &Quorum) -> bool {
        certificate.signatures.len() >= quorum(self.scheme.count()) && certificate.votes().all(|vote| self.check(&vote))
    }

    fn round_holds(&self, proof: &RoundProof, thresholds: &ThresholdParams) -> bool {
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
    fn log_input(&mut self, input: &Input<Context>) {
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

fn headline_of(values: &Values, proposal: &core::SignedProposal<Context>) -> Option<(Headline, Sig)> {
    let message = &proposal.message;
    values.headline(message.round.as_u32()?, message.lock_round.as_u32(), &message.document.0).cloned()
}

fn proposal_message(values: &Values, proposal: &core::SignedProposal<Context>) -> Option<Message> {
    let (headline, signature) = headline_of(values, proposal)?;
    let bytes: Arc<[u8]> = values.bytes_of(&headline)?;
    Some(Message::Proposal { headline, bytes, signature })
}

/// Signatures by authority: sorted, one each. `None` for the round before the first.
fn gather(
    kind: VoteKind,
    height: Height,
    round: Round,
    document: Hash,
    signatures: impl Iterator<Item = (u16, Sig)>,
) -> Option<Quorum> {
    let signatures: BTreeMap<u16, Sig> = signatures.collect();
    let signatures = signatures.into_iter().collect();
    Some(Quorum { kind, height: height.0, round: round.as_u32()?, document, signatures })
}

fn quorum_of(polka: &core::PolkaCertificate<Context>) -> Option<Quorum> {
    let signatures = polka.polka_signatures.iter().map(|s| (s.address.0, s.signature.clone()));
    gather(VoteKind::Prevote, polka.height, polka.round, polka.value_id, signatures)
}

fn commit_of(commit: &core::CommitCertificate<Context>) -> Option<Quorum> {
    let signatures = commit.commit_signatures.iter().map(|s| (s.address.0, s.signature.clone()));
    gather(VoteKind::Precommit, commit.height, commit.round, commit.value_id, signatures)
}

fn polka_certificate(quorum: Quorum) -> core::PolkaCertificate<Context> {
    core::PolkaCertificate {
        height: Height(quorum.height),
        round: Round::new(quorum.round),
        value_id: quorum.document,
        polka_signatures: quorum
            .signatures
            .into_iter()
            .map(|(authority, signature)| core::PolkaSignature::new(Seat(authority), signature))
            .collect(),
    }
}

fn round_proof_of(certificate: &RoundCertificate<Context>) -> Option<RoundProof> {
    let (height, round) = (certificate.height.0, certificate.round.as_u32()?);
    let votes: BTreeMap<u16, SignedBallot> = certificate
        .round_signatures
        .iter()
        .map(|signature| {
            let ballot = Ballot {
                kind: kind_of(signature.vote_type),
                height,
                round,
                document: document_of(&signature.value_id),
                authority: signature.address.0,
            };
            (signature.address.0, SignedBallot { ballot, signature: signature.signature.clone() })
        })
        .collect();
    let reason = match certificate.cert_type {
        RoundCertificateType::Skip => RoundReason::Skip,
        RoundCertificateType::Precommit => RoundReason::Over,
    };
    Some(RoundProof { height, round, reason, votes: votes.into_values().collect() })
}

/// The certificate that the project knows.
fn certificate_of(commit: &Quorum) -> Certificate {
    Certificate {
        height: commit.height,
        round: commit.round,
        document: commit.document,
        signatures: commit
            .signatures
            .iter()
            .map(|(authority, signature)| CommitSignature { authority: *authority, signature: signature.get().clone() })
            .collect(),
    }
}
