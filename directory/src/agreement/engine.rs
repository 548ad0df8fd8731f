//! Drives the agreement core: gives it inputs, in the order that keeps it from acting on half of what is known.

use std::collections::BTreeSet;

use arc_malachitebft_core_consensus as consensus;
use arc_malachitebft_core_types as core;
use consensus::{Input, Params, ProposedValue, State};
use core::{
    Round, RoundCertificate, RoundCertificateType, SignedMessage, Threshold, ThresholdParams, Timeout, TimeoutKind,
    Validity, ValueOrigin, ValuePayload, VoteExtensionPolicy, VoteType,
};
use shoal_protocol::authority::quorum;
use shoal_protocol::{Hash, UnixMillis};

use super::around::{Around, Halt};
use super::book::Book;
use super::context::{Context, Document, Height, Members, Proposal, Seat, Vote, proposer};
use super::convert::{certificate_of, polka_certificate, proposal_message};
use super::guard::Guard;
use super::log::{Entry, Framer, Record};
use super::message::{Quorum, RoundProof, RoundReason, SignedBallot};
use super::scheme::{DocumentId, Scheme, VoteKind};
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

/// The core and everything around it, for one height.
pub(crate) struct Engine<S> {
    state: State<Context>,
    pub(crate) around: Around<S>,
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
        let unsigned = self.unsigned_attempts(entries);
        let inputs: Vec<Input<Context>> = entries
            .iter()
            .enumerate()
            .filter(|(at, _)| !unsigned.contains(at))
            .filter_map(|(_, Entry(record))| self.around.recall(record))
            .collect();
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

    /// Documents that we were about to propose when the process ended: the log holds their bytes, and no proposal of ours
    /// for them, so nobody has seen them. Who crashes in this place again and again has several in one round, and the core
    /// takes only so many for one round when it reads them again: it must not be the signed one that has no room.
    fn unsigned_attempts(&self, entries: &[Entry]) -> BTreeSet<usize> {
        let Around { me, height, scheme, .. } = &self.around;
        let signed: BTreeSet<(u32, DocumentId)> = entries
            .iter()
            .filter_map(|Entry(record)| {
                let Record::Proposal(headline, _) = record else { return None };
                (headline.authority == *me).then_some((headline.round, headline.document))
            })
            .collect();
        let is_attempt = |record: &Record| {
            let Record::Verdict { round, document, .. } = record else { return false };
            proposer(*height, *round, scheme.count()) == *me && !signed.contains(&(*round, *document))
        };
        (0..).zip(entries).filter(|(_, Entry(record))| is_attempt(record)).map(|(at, _)| at).collect()
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
            let certified = self.around.certificate.as_ref().map(|certificate| DocumentId::from(certificate.mark()));
            let proven = |document: &DocumentId| {
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
        let kept = |value: Option<&(Round, DocumentId)>| value.and_then(|(round, _)| round.as_u32());
        let state = self.state.driver.round_state();
        let valid = state.valid.as_ref().map(|value| (value.round, value.value.0));
        let locked = state.locked.as_ref().map(|value| (value.round, value.value.0));
        let floor = around.round.saturating_sub(ROUNDS_BACK);
        // The votes behind the value that would be proposed again are needed for its proof.
        let floor = [kept(valid.as_ref()), kept(locked.as_ref())].into_iter().flatten().fold(floor, u32::min);
        let certified = around.certificate.as_ref().map(|certificate| DocumentId::from(certificate.mark()));
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
