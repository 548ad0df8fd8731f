//! Agreement of the authorities on one document a height: BFT with n = 3f+1, of which f may do whatever they like.
//!
//! [`Agreement`] lives for one authority and is at one height at a time. It is pure: the caller brings time, bytes and a
//! [`Judge`], and carries out the [`Action`]s in the order in which they come. The algorithm is Tendermint's, by
//! `arc-malachitebft-core-consensus`; every signature and certificate is verified here, and a guard of its own stands
//! between the core and the signing key. Format and rules: `protocol/spec/agreement.md`; reasons:
//! `protocol/spec/decisions/0003-agreement.md`.
//!
//! The contract of calling it:
//! - After [`Agreement::start`], [`Agreement::receive`], [`Agreement::propose`] and [`Agreement::wake`], carry the actions
//!   out and ask [`Agreement::next_wake`] anew.
//! - Call [`Agreement::wake`] at the instant that [`Agreement::next_wake`] names, and whenever the judge may know more.
//! - `now` should come from a clock that does not step; when it does, timeouts are late or early, nothing else.
//! - An [`Action::Log`] must be durable before any later [`Action::Broadcast`] or [`Action::Decided`], of this or a later
//!   step, is carried out. One flush before the first of these is enough for all entries before it.

mod around;
mod book;
mod budget;
mod codec;
mod context;
mod convert;
mod engine;
mod evidence;
mod guard;
mod intake;
mod late;
pub mod log;
mod message;
pub mod scheme;
mod timers;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::certificate::{Certificate, MAX_AUTHORITIES};
use shoal_protocol::{Hash, UnixMillis};
use thiserror::Error;

pub use evidence::Evidence;
pub use message::{MAX_MESSAGE, MAX_PAYLOAD, MAX_SMALL_MESSAGE};
pub use scheme::{DocumentId, Keyring, Scheme};
pub use timers::Timing;

use budget::Budget;
use context::proposer;
use engine::{Beginning, Engine};
use intake::{take_proposal, take_quorum, take_round, take_vote};
use late::take_late;
use message::{Message, Quorum};
use scheme::{Sig, VoteKind};

/// Votes for the next height that are kept of one authority until that height is started: a round or two of an authority
/// whose clock is ahead. 64 × 8 × 2.6 kB = 1.3 MB.
const EARLY_VOTES: usize = 8;
/// Proposers of the next height whose proposal is kept: those of its first two rounds, 38 MiB.
const EARLY_PROPOSALS: u32 = 2;
/// How often the decided proposal is sent to who has the certificate and not the bytes: 76 MiB a height at most, whatever
/// is asked.
const PROPOSAL_TELLINGS: u8 = 4;

/// What is agreed on.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// The document: what is voted for and certified.
    pub document: DocumentId,
    /// Bytes from which everybody recomputes the document, at most [`MAX_PAYLOAD`].
    pub proposal: Arc<[u8]>,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({}, {} bytes)", self.document, self.proposal.len())
    }
}

/// Whether everybody honest may vote for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The document follows from the proposal's bytes and is what it should be.
    Valid,
    /// It does not, or is not, and asking again would not help.
    Invalid,
    /// Cannot be said yet: asked again at the next [`Agreement::wake`].
    Later,
}

/// Judges values. The answer for `locked` must depend on height and value alone.
pub trait Judge {
    /// Whether everybody honest may vote for `value`. `locked`: a quorum voted for it, which is proven; then f+1 honest
    /// authorities found it good in time, and lateness is no reason to refuse.
    fn judge(&self, height: u64, value: &Value, locked: bool) -> Verdict;
}

/// What the caller must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append to the log of this height; durable before any later `Broadcast` or `Decided`.
    Log(Vec<u8>),
    /// Send to all other authorities. May be lost.
    Broadcast(Vec<u8>),
    /// Answer with [`Agreement::propose`], now, later, or never.
    Propose {
        /// The height that is being agreed on.
        height: u64,
        /// The round of which this authority is the proposer.
        round: u32,
    },
    /// The height is decided.
    Decided {
        /// The proof.
        certificate: Certificate,
        /// What was decided.
        value: Value,
    },
    /// More authorities were seen to sign what was decided: this certificate of it is the one that everybody comes to.
    Completed(Certificate),
    /// An authority signed two things that contradict each other.
    Misbehaviour(Evidence),
    /// This authority stopped signing at this height, because it would have contradicted itself. Report it loudly: its
    /// log or its memory is not what it was.
    Muted {
        /// What went wrong.
        reason: &'static str,
    },
}

/// What this authority remembers of a height.
#[derive(Clone, Copy, Debug)]
pub enum Memory<'a> {
    /// It certainly signed nothing at this height: it was here, on this disk, before the height could begin.
    Fresh,
    /// What [`log::read`] gave.
    Log(&'a [log::Entry]),
    /// It may have signed something that it no longer knows: the log is damaged, foreign or gone. It observes: receives,
    /// never signs, may learn the decision.
    Lost,
}

/// Who takes part.
#[derive(Clone, Debug)]
pub struct Setup<S> {
    /// The network: its genesis hash.
    pub network: Hash,
    /// Keys of all and secret of this authority.
    pub scheme: S,
    /// This authority's index in the list.
    pub me: u16,
    /// Length of an epoch; timeouts scale with it.
    pub epoch: Duration,
}

/// A [`Setup`] that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("authority {me} of {count}: a network has 1 to {MAX_AUTHORITIES} authorities, counted from 0")]
pub struct BadSetup {
    me: u16,
    count: usize,
}

/// A message for the next height, kept until that is started.
#[derive(Debug)]
struct Early {
    from: u16,
    message: Message,
}

/// One authority's side of the agreement.
pub struct Agreement<S = Keyring> {
    setup: Setup<S>,
    timing: Timing,
    engine: Option<Engine<S>>,
    budgets: Vec<Budget>,
    early: Vec<Early>,
    /// When the certificate of the decision was sent last, and whether somebody still needs it.
    told: Option<UnixMillis>,
    asked: bool,
    /// How often it was sent.
    tellings: u8,
    /// Messages that came after the decision, by sender.
    late: BTreeMap<u16, u8>,
    now: UnixMillis,
}

impl<S> fmt::Debug for Agreement<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreement").field("me", &self.setup.me).finish_non_exhaustive()
    }
}

impl<S: Scheme + Clone> Agreement<S> {
    /// An authority that is at no height yet.
    ///
    /// # Errors
    /// When the index is none of the list's, or the list is empty or too long.
    pub fn new(setup: Setup<S>) -> Result<Self, BadSetup> {
        let count = setup.scheme.count();
        if count > MAX_AUTHORITIES || usize::from(setup.me) >= count {
            return Err(BadSetup { me: setup.me, count });
        }
        let timing = Timing::of_epoch(setup.epoch);
        let now = UnixMillis(0);
        let budgets = vec![Budget::new(count, timing.base(), now); count];
        Ok(Self {
            setup,
            timing,
            engine: None,
            budgets,
            early: Vec::new(),
            told: None,
            asked: false,
            tellings: 0,
            late: BTreeMap::new(),
            now,
        })
    }

    /// Moves to `height`, wherever it was before, and continues from what is remembered of it.
    pub fn start(&mut self, height: u64, memory: Memory<'_>, now: UnixMillis, judge: &impl Judge) -> Vec<Action> {
        let (entries, signs) = match memory {
            Memory::Fresh => (&[][..], true),
            Memory::Log(entries) => (entries, true),
            Memory::Lost => (&[][..], false),
        };
        let begin = Beginning { height, entries, signs, now };
        let Setup { network, scheme, me, .. } = &self.setup;
        let mut engine = Engine::start(scheme.clone(), *network, *me, self.timing, &begin);
        engine.settle(judge);
        let mut actions = engine.take_actions();
        self.engine = Some(engine);
        (self.told, self.asked, self.now) = (None, false, now);
        self.late.clear();
        self.tellings = 0;
        for Early { from, message } in std::mem::take(&mut self.early) {
            if message.height() == height {
                actions.extend(self.handle(from, message, judge));
            }
        }
        actions
    }

    /// Takes a message of authority `from`, whose link proved who it is. Whatever the bytes are, work and memory are
    /// bounded.
    pub fn receive(&mut self, from: u16, bytes: &[u8], now: UnixMillis, judge: &impl Judge) -> Vec<Action> {
        self.now = now;
        let count = self.setup.scheme.count();
        let Some(budget) = self.budgets.get_mut(usize::from(from)).filter(|_| from != self.setup.me) else {
            return Vec::new();
        };
        if bytes.len() > MAX_MESSAGE || !budget.spend(Budget::cost(bytes.len()), now) {
            return Vec::new();
        }
        let Ok(message) = Message::decode(bytes, |height, round| proposer(height, round, count)) else {
            return Vec::new();
        };
        let Some(engine) = &self.engine else {
            return Vec::new();
        };
        let height = engine.around.height;
        if message.height() == height {
            self.handle(from, message, judge)
        } else {
            if message.height().checked_sub(1) == Some(height) {
                self.keep_early(from, message);
            }
            Vec::new()
        }
    }

    fn keep_early(&mut self, from: u16, message: Message) {
        let mine = self.early.iter().filter(|early| early.from == from);
        let room = match &message {
            Message::Vote(vote) => {
                let votes = mine.filter(|early| matches!(early.message, Message::Vote(_))).count();
                vote.ballot.authority == from && votes < EARLY_VOTES
            }
            Message::Proposal { headline, .. } => {
                let proposals = mine.filter(|early| matches!(early.message, Message::Proposal { .. })).count();
                headline.authority == from && headline.round < EARLY_PROPOSALS && proposals == 0
            }
            Message::Quorum(_) | Message::Round(_) => false,
        };
        if room && self.early.iter().all(|early| early.message != message) {
            self.early.push(Early { from, message });
        }
    }

    fn handle(&mut self, from: u16, message: Message, judge: &impl Judge) -> Vec<Action> {
        let Some(engine) = &mut self.engine else {
            return Vec::new();
        };
        engine.around.now = self.now;
        let Some(budget) = self.budgets.get_mut(usize::from(from)) else {
            return Vec::new();
        };
        let now = self.now;
        let mut pay = |units: usize| budget.spend(units as u64, now);
        if engine.around.decided {
            // The last prevote and precommit are often late. Who goes on needs the certificate.
            let late = self.late.entry(from).or_default();
            *late = late.saturating_add(1);
            self.asked |= *late > 2 && !matches!(message, Message::Quorum(Quorum { kind: VoteKind::Precommit, .. }));
            if let Message::Vote(vote) = &message {
                take_late(engine, from, vote, &mut pay);
            }
            return engine.take_actions();
        }
        match message {
            Message::Vote(vote) => take_vote(engine, from, vote, &mut pay),
            Message::Proposal { headline, bytes, signature } => {
                take_proposal(engine, headline, bytes, signature, &mut pay);
            }
            Message::Quorum(quorum) => take_quorum(engine, quorum, &mut pay),
            Message::Round(proof) => take_round(engine, &proof, &mut pay),
        }
        engine.settle(judge);
        engine.take_actions()
    }

    /// Answers [`Action::Propose`]. Without effect when it comes too late, or is too large.
    pub fn propose(
        &mut self,
        height: u64,
        round: u32,
        value: Value,
        now: UnixMillis,
        judge: &impl Judge,
    ) -> Vec<Action> {
        self.now = now;
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.around.height == height) else {
            return Vec::new();
        };
        if value.proposal.len() > MAX_PAYLOAD {
            return Vec::new();
        }
        engine.around.now = now;
        engine.propose(round, value);
        engine.settle(judge);
        engine.take_actions()
    }

    /// Lets time pass, and asks the judge again.
    pub fn wake(&mut self, now: UnixMillis, judge: &impl Judge) -> Vec<Action> {
        self.now = now;
        let Some(engine) = &mut self.engine else {
            return Vec::new();
        };
        engine.around.now = now;
        if engine.around.decided {
            return self.tell_decision(now);
        }
        engine.settle(judge);
        engine.wake();
        engine.settle(judge);
        engine.take_actions()
    }

    /// Sends the certificate of the decision to whoever still votes, at most once an interval.
    fn tell_decision(&mut self, now: UnixMillis) -> Vec<Action> {
        let Some(engine) = &self.engine else {
            return Vec::new();
        };
        let Some(certificate) = &engine.around.certificate else {
            return Vec::new();
        };
        if !self.asked || self.next_telling() > now {
            return Vec::new();
        }
        (self.told, self.asked) = (Some(now), false);
        let signatures = certificate.signatures.iter();
        let message = Message::Quorum(Quorum {
            kind: VoteKind::Precommit,
            height: certificate.height,
            round: certificate.round,
            document: certificate.mark().into(),
            signatures: signatures.map(|s| (s.authority, Sig::new(s.signature.clone()))).collect(),
        });
        let mut actions = vec![Action::Broadcast(message.encode())];
        // Who asks again lacks the bytes.
        if (1..=PROPOSAL_TELLINGS).contains(&self.tellings) {
            let proposal = engine.around.values.proposal(certificate.round, &certificate.mark().into());
            actions.extend(proposal.map(|message| Action::Broadcast(message.encode())));
        }
        self.tellings = self.tellings.saturating_add(1);
        actions
    }

    fn next_telling(&self) -> UnixMillis {
        // A clock that went back does not silence it.
        self.told.map_or(self.now, |told| told.min(self.now).plus(self.timing.base()))
    }

    /// Leaves its height: what others have decided there is known by other means. Nothing is signed or logged until the
    /// next [`Self::start`].
    pub fn stop(&mut self) {
        (self.engine, self.told, self.asked) = (None, None, false);
    }

    /// When [`Self::wake`] wants to be called.
    #[must_use]
    pub fn next_wake(&self) -> Option<UnixMillis> {
        let engine = self.engine.as_ref()?;
        if engine.around.decided {
            return self.asked.then(|| self.next_telling());
        }
        let again = engine.around.values.waits().then(|| self.now.plus(self.timing.base() / 4));
        [engine.next_wake(), again].into_iter().flatten().min()
    }

    /// The height it is at, and whether that is decided.
    #[must_use]
    pub fn height(&self) -> Option<(u64, bool)> {
        self.engine.as_ref().map(|engine| (engine.around.height, engine.around.decided))
    }

    /// The round it is in.
    #[must_use]
    pub fn round(&self) -> Option<u32> {
        self.engine.as_ref().map(|engine| engine.around.round)
    }
}
