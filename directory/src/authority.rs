//! One of n authorities: gathers descriptors, says what it has, agrees with the others on the next document.
//!
//! Pure: the shell brings time and bytes, and carries out the [`Act`]s in the order in which they come. That is how the
//! authorities of a network run in one simulation.
//!
//! The contract of calling it:
//! - After every call carry out the acts and ask [`Authority::next_wake`] anew.
//! - [`Act::Log`] must be durable before any later act, of this or a later call, is carried out; so must [`Act::Certified`]
//!   and [`Act::BeginLog`].
//! - When one of these three cannot be carried out, the process must end: what it signed or showed is not what it remembers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::authority::{AuthorityKey, AuthoritySecret, quorum};
use shoal_protocol::consensus::{DocumentError, TrustAnchor, UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity, UnixMillis};

use crate::agreement::{Agreement, Evidence, Keyring, Memory, Setup, Timing, log};
use crate::document::{Dropped, Rules};
use crate::list_message::ListMessage;
use crate::wishes::Wishes;

mod deciding;
mod drafting;
mod gathering;
mod judge;
mod peers;
mod showing;
mod waking;

use gathering::Gathering;
use judge::Judge;
pub use peers::{PeerState, PeerStates};

/// Contradictions kept for `status`. Each is below 6 kB; honest authorities cause none.
const EVIDENCE_KEPT: usize = 4;
/// Said while it is not known what was signed.
const LOST: &str = "what this authority signed before is not known: it watches until there is a document that it cannot \
                    have voted on";

/// What the network file fixes.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Genesis hash.
    pub network: Hash,
    /// The network's epochs.
    pub schedule: Schedule,
    /// Genesis parameters.
    pub parameters: Parameters,
    /// Genesis authorities.
    pub authorities: Vec<AuthorityKey>,
    /// Stores the first document waits for.
    pub stores: usize,
    /// Gateways the first document waits for.
    pub gateways: usize,
}

impl Genesis {
    /// As the document is computed from it.
    #[must_use]
    pub fn rules(&self) -> Rules<'_> {
        Rules {
            network: self.network,
            schedule: self.schedule,
            parameters: self.parameters,
            authorities: &self.authorities,
            genesis_stores: self.stores,
            genesis_gateways: self.gateways,
        }
    }
}

/// What the shell must do, in this order.
#[derive(Clone, Debug)]
pub enum Act {
    /// Append to the vote log, durably.
    Log(Vec<u8>),
    /// Send a message of the agreement to all other authorities.
    Agree(Vec<u8>),
    /// Send this authority's list to all others.
    List(Vec<u8>),
    /// Keep this document, durably; then show it.
    Certified(Arc<VerifiedConsensus>),
    /// Keep this in the place of the document that was certified last: it is the same, under the certificate that all
    /// authorities come to. When it cannot be kept, only its bytes differ from what others hand out.
    Completed(Arc<VerifiedConsensus>),
    /// Begin a new, empty vote log, durably, in the place of the one before. Without it the log stays as it is, and so does
    /// that there is none: what this authority signed is not known yet.
    BeginLog,
    /// Ask the other authorities for their newest document, and give it to [`Authority::adopt`].
    Ask,
    /// Keep this: an authority signed two things that contradict each other.
    Misbehaviour(Evidence),
}

/// The seat in the set that certifies the next document.
#[derive(Debug)]
struct Seat {
    me: u16,
    agreement: Agreement<Keyring>,
    /// What the agreement waits for: height and round.
    proposing: Option<(u64, u32)>,
}

/// One authority.
#[derive(Debug)]
pub struct Authority {
    secret: Arc<AuthoritySecret>,
    wishes: Wishes,
    judge: Judge,
    seat: Option<Seat>,
    gathering: Gathering,
    /// The list that was frozen last: height, epoch, when, and what was on it.
    frozen: Option<drafting::Frozen>,
    /// When the document that is due now could first have been made.
    due_since: Option<UnixMillis>,
    asked_at: Option<UnixMillis>,
    /// Nothing is signed before others had the time to say that they are further.
    silent_until: UnixMillis,
    peers: PeerStates,
    dropped: BTreeMap<Identity, Dropped>,
    evidence: VecDeque<Evidence>,
    waiting_for: Option<String>,
    muted: Option<&'static str>,
    clock_problem: Option<String>,
    /// Height for which the others were told the time although nothing was due by the own clock.
    spoke_for: Option<u64>,
    /// Lists of which no document follows: they are not put together again.
    fruitless: Option<Hash>,
    /// What was signed is not known: nothing is signed until there is a document of a later epoch than this.
    lost: Option<Epoch>,
}

/// What an authority begins with.
#[derive(Debug)]
pub struct Beginning {
    /// Genesis.
    pub genesis: Genesis,
    /// Its secret.
    pub secret: Arc<AuthoritySecret>,
    /// What its operator asks for.
    pub wishes: Wishes,
    /// The newest document it keeps.
    pub newest: Option<Arc<VerifiedConsensus>>,
}

impl Authority {
    /// An authority that continues after `newest`. [`Authority::resume`] must follow.
    #[must_use]
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { genesis, secret, wishes, newest } = beginning;
        let mut authority = Self {
            secret,
            wishes,
            judge: Judge::new(genesis, newest),
            seat: None,
            gathering: Gathering::default(),
            frozen: None,
            due_since: None,
            asked_at: None,
            silent_until: UnixMillis(0),
            peers: BTreeMap::new(),
            dropped: BTreeMap::new(),
            evidence: VecDeque::new(),
            waiting_for: None,
            muted: None,
            clock_problem: None,
            spoke_for: None,
            fruitless: None,
            lost: None,
        };
        authority.take_seat();
        authority
    }

    /// Height of the next document.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.judge.place().height
    }

    /// Who certifies the next document.
    #[must_use]
    pub fn set(&self) -> &[AuthorityKey] {
        self.judge.place().authorities
    }

    /// The newest document, handed out or not.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<VerifiedConsensus>> {
        self.judge.previous.as_ref()
    }

    /// This authority's index among those who certify the next document; `None` when it is not one of them.
    #[must_use]
    pub fn index(&self) -> Option<u16> {
        self.seat.as_ref().map(|seat| seat.me)
    }

    /// Continues with what the vote log tells about the next document. `None`: the log is gone or damaged, so this
    /// authority only watches until the others have made a document that it cannot have voted on before.
    ///
    /// The documents may be gone with the log, and the first one that others give may be older than the one that was voted
    /// on last. Every vote was for a height that could become a document of an epoch that had come near by an honest clock;
    /// whatever follows a document of a later epoch was never voted on.
    pub fn resume(&mut self, entries: Option<&[log::Entry]>, now: UnixMillis) -> Vec<Act> {
        self.judge.now = now;
        let alone = self.judge.place().authorities.len() == 1;
        // who was away may have missed documents: signing at an old height helps nobody
        self.silent_until = if alone { now } else { now.plus(self.timing().base().saturating_mul(2)) };
        let memory = match entries {
            Some([]) => return if alone { Vec::new() } else { self.ask(now) },
            Some(entries) => Memory::Log(entries),
            None => {
                self.lost = Some(self.judge.last_voted_on());
                self.muted = Some(LOST);
                Memory::Lost
            }
        };
        let mut acts = self.begin(memory, now);
        if !alone {
            acts.extend(self.ask(now));
        }
        acts
    }

    /// Takes a message of the agreement from authority `from`, whose link proved who it is.
    pub fn receive(&mut self, from: u16, bytes: &[u8], now: UnixMillis) -> Vec<Act> {
        self.judge.now = now;
        self.peers.entry(from).or_default().heard = Some(now);
        let mut acts = Vec::new();
        // one whose clock is a little ahead of ours may begin; the first document needs enough nodes here as well
        if self.is_nearly_due(now) && (self.newest().is_some() || self.frozen.is_some()) {
            acts.extend(self.begin_if_silent(now));
        }
        if let Some(seat) = &mut self.seat {
            let actions = seat.agreement.receive(from, bytes, now, &self.judge);
            acts.extend(self.carry_out(actions, now));
        }
        acts.extend(self.try_to_propose(now));
        acts
    }

    /// Takes another authority's list.
    ///
    /// # Errors
    /// Why it is refused, for its operator.
    pub fn take_list(&mut self, from: u16, bytes: &[u8], now: UnixMillis) -> Result<Vec<Act>, String> {
        self.judge.now = now;
        let state = self.peers.entry(from).or_default();
        state.heard = Some(now);
        let count = self.judge.place().authorities.len();
        if !self.gathering.may_come(from, count, now) {
            return Err("too many lists in a short time".to_owned());
        }
        let opened = ListMessage::open(bytes, &self.judge.place(), &mut self.judge.cache.borrow_mut());
        let message = match opened {
            Ok(message) if message.list().authority == from => message,
            Ok(_) => return Err("it is another authority's".to_owned()),
            Err(crate::signed_list::ListError::WrongHeight { found, expected }) if found > expected => {
                // the sender has a document that is missing here
                return Ok(self.ask(now));
            }
            Err(error) => {
                let reason = error.to_string();
                state.refused = Some(reason.clone());
                return Err(reason);
            }
        };
        let in_force = self.judge.previous.as_ref().map_or(self.judge.genesis.parameters, |newest| newest.parameters);
        state.note(message.list(), &in_force, now);
        let ahead = state.clock_ahead_ms.unwrap_or_default();
        self.judge_own_clock();
        let (_, latest) = self.judge.due_epochs();
        if message.list().epoch > latest {
            return Err(format!("it is for an epoch to come; your clock is {ahead} ms ahead of this authority's"));
        }
        self.gathering.keep(message);
        Ok(self.try_to_propose(now))
    }

    /// Takes a certified document that another authority gave, if it is newer than the newest here.
    ///
    /// # Errors
    /// Why not. [`DocumentError::Conflict`] is evidence against a quorum.
    pub fn adopt(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Vec<Act>, DocumentError> {
        self.judge.now = now;
        let parsed = UnverifiedConsensus::parse(bytes)?;
        let verified = parsed.verify_after(&self.anchor(), self.newest().map(|newest| newest.mark()))?;
        if self.newest().is_some_and(|newest| newest.hash() == verified.hash()) {
            return Ok(Vec::new());
        }
        Ok(self.certified(Arc::new(verified), now))
    }

    /// Who certifies the next document.
    fn anchor(&self) -> TrustAnchor {
        TrustAnchor { network: self.judge.genesis.network, authorities: self.judge.place().authorities.to_vec() }
    }

    /// Stops signing this document, because what is signed cannot be kept any more. Watches until others have made it.
    pub fn watch(&mut self, now: UnixMillis) {
        let height = self.height();
        self.muted = Some("the vote log is full: this authority only watches until there is a new document");
        if let Some(seat) = &mut self.seat {
            seat.proposing = None;
            // one that only watches has nothing to log or to say
            let _ = seat.agreement.start(height, Memory::Lost, now, &self.judge);
        }
    }

    fn timing(&self) -> Timing {
        Timing::of_epoch(Duration::from_millis(self.judge.genesis.schedule.epoch_ms))
    }

    /// Sits down among those who certify the next document, if this authority is one of them.
    fn take_seat(&mut self) {
        let authorities = self.judge.place().authorities;
        let me = authorities.iter().position(|key| key == self.secret.public());
        let Some(me) = me.and_then(|me| u16::try_from(me).ok()) else {
            self.seat = None;
            return;
        };
        let setup = Setup {
            network: self.judge.genesis.network,
            scheme: Keyring::new(authorities.into(), Arc::clone(&self.secret)),
            me,
            epoch: Duration::from_millis(self.judge.genesis.schedule.epoch_ms),
        };
        // the index is one of the list's
        self.seat = Agreement::new(setup).ok().map(|agreement| Seat { me, agreement, proposing: None });
    }

    fn begin(&mut self, memory: Memory<'_>, now: UnixMillis) -> Vec<Act> {
        let height = self.height();
        let Some(seat) = &mut self.seat else { return Vec::new() };
        seat.proposing = None;
        let actions = seat.agreement.start(height, memory, now, &self.judge);
        self.carry_out(actions, now)
    }

    /// Takes over what the operator asks for now.
    pub fn wish(&mut self, wishes: Wishes) {
        self.wishes = wishes;
    }
}

/// n − f of the authorities.
fn needed(authorities: &[AuthorityKey]) -> usize {
    quorum(authorities.len()).max(1)
}
