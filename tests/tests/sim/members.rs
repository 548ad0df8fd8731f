//! One authority's shell on paper: what is on its disk survives a crash, what is in memory does not.
//!
//! A member who lies with whole machines has several *faces*: authorities with one key, each of which talks to a part of
//! the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::RngExt as _;
use shoal_directory::agreement::{Evidence, Keyring, log};
use shoal_directory::authority::{Act, Authority, Beginning};
use shoal_directory::lists::Listing;
use shoal_directory::schedule::released_at;
use shoal_directory::wishes::Wishes;
use shoal_protocol::authority::{AuthorityKey, AuthoritySecret};
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::{Identity, UnixMillis};

use crate::forger::Forger;
use crate::world::{Event, Message, NETWORK, World};

/// Shortest and longest pause between two looks at the clock, in ms: the shell's.
const PAUSE_MS: (u64, u64) = (5, 1_000);

/// One machine of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) who: usize,
    pub(crate) face: usize,
}

/// One machine with its disk.
#[derive(Default)]
pub(crate) struct Face {
    pub(crate) core: Option<Authority>,
    pub(crate) listing: Listing,
    pub(crate) chain: Vec<Arc<VerifiedConsensus>>,
    /// The vote log; `None` when it is gone.
    pub(crate) votes: Option<Vec<u8>>,
    /// Who is never on its lists.
    pub(crate) censors: BTreeSet<Identity>,
    /// Members it neither hears nor talks to.
    pub(crate) shuns: BTreeSet<usize>,
    /// In percent: lists, and messages of the agreement, that it keeps to itself.
    pub(crate) withholds: (u32, u32),
    wake_at: Option<u64>,
}

pub(crate) struct Member {
    pub(crate) secret: Arc<AuthoritySecret>,
    pub(crate) faces: Vec<Face>,
    /// Lies with messages of its own making.
    pub(crate) forger: Option<Box<Forger>>,
    /// Ahead of true time, in ms.
    pub(crate) clock_ahead: i64,
    pub(crate) wishes: Wishes,
    pub(crate) liar: bool,
}

impl Face {
    /// A machine that was never used: its log is there, and empty.
    pub(crate) fn fresh() -> Self {
        Self { votes: Some(Vec::new()), ..Self::default() }
    }
}

impl Member {
    pub(crate) fn new(secret: AuthoritySecret) -> Self {
        Self {
            secret: Arc::new(secret),
            faces: vec![Face::fresh()],
            forger: None,
            clock_ahead: 0,
            wishes: Wishes::default(),
            liar: false,
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.secret.public().identity
    }

    pub(crate) fn lies(&self) -> bool {
        self.liar
    }

    /// Machines, or the one forger.
    pub(crate) fn count_faces(&self) -> usize {
        if self.forger.is_some() { 1 } else { self.faces.len() }
    }

    pub(crate) fn talks_to(&self, face: usize, to: usize) -> bool {
        self.faces.get(face).is_none_or(|face| !face.shuns.contains(&to))
    }

    pub(crate) fn is_deaf(&self, face: usize, from: usize) -> bool {
        self.forger.is_none() && self.faces.get(face).is_none_or(|face| face.shuns.contains(&from))
    }

    pub(crate) fn runs(&self) -> bool {
        self.faces.first().is_some_and(|face| face.core.is_some())
    }

    /// The authority of a member with one face.
    pub(crate) fn core(&self) -> &Authority {
        self.faces[0].core.as_ref().expect("runs")
    }

    pub(crate) fn chain(&self) -> &[Arc<VerifiedConsensus>] {
        self.faces.first().map_or(&[], |face| &face.chain)
    }
}

impl World {
    pub(crate) fn clock(&self, who: usize) -> UnixMillis {
        UnixMillis(self.now.saturating_add_signed(self.members[who].clock_ahead))
    }

    pub(crate) fn start_all(&mut self) {
        for who in 0..self.members.len() {
            for face in 0..self.members[who].faces.len() {
                self.start(Seat { who, face });
            }
        }
    }

    /// Starts a machine with what is on its disk.
    pub(crate) fn start(&mut self, seat: Seat) {
        let now = self.clock(seat.who);
        let genesis = self.genesis.clone();
        let member = &mut self.members[seat.who];
        let face = &mut member.faces[seat.face];
        let mut core = Authority::new(Beginning {
            genesis,
            secret: Arc::clone(&member.secret),
            wishes: member.wishes.clone(),
            newest: face.chain.last().cloned(),
        });
        let (me, height) = (core.index().unwrap_or_default(), core.height());
        let entries = face.votes.as_mut().map(|bytes| match log::resume(bytes, &NETWORK, me, height) {
            Ok(recovered) => {
                bytes.truncate(recovered.length);
                recovered.entries
            }
            Err(damage) => panic!("{}: a log with nothing but a torn tail is refused: {damage}", self.title),
        });
        let acts = core.resume(entries.as_deref(), now);
        face.core = Some(core);
        face.wake_at = None;
        self.carry_out(seat, acts);
        self.schedule_wake(seat);
    }

    /// Starts an honest member that does not run.
    pub(crate) fn restart(&mut self, who: usize) {
        if !self.members[who].runs() {
            self.start(Seat { who, face: 0 });
        }
    }

    /// Ends a machine between two steps.
    pub(crate) fn crash(&mut self, who: usize) {
        self.members[who].faces[0].core = None;
        self.tally.crashes += 1;
    }

    /// Ends a machine in the middle of a step, and lets it come again.
    fn crash_at(&mut self, who: usize, act: &Act) {
        let (part, flip, back) =
            (self.rng.random::<u32>() as usize, self.rng.random_range(0..4), self.rng.random_range(50..15_000));
        let face = &mut self.members[who].faces[0];
        match act {
            Act::Log(entry) => {
                // a part of the entry is on the disk, maybe with rubbish at its end
                if let Some(votes) = &mut face.votes {
                    let part = part % (entry.len() + 1);
                    votes.extend_from_slice(&entry[..part]);
                    if let Some(last) = votes.last_mut().filter(|_| flip == 0 && part > 0) {
                        *last ^= 0x55;
                    }
                }
            }
            // before the log began, the document is kept: the crash at the act before
            Act::Certified(document) if part % 2 == 0 => face.chain.push(Arc::clone(document)),
            Act::BeginLog
            | Act::Certified(_)
            | Act::Completed(_)
            | Act::Agree(_)
            | Act::List(_)
            | Act::Ask
            | Act::Misbehaviour(_) => {}
        }
        self.crash(who);
        self.after(back, Event::Restart(who));
    }

    pub(crate) fn wake(&mut self, seat: Seat) {
        let now = self.clock(seat.who);
        let face = &mut self.members[seat.who].faces[seat.face];
        if face.wake_at.take_if(|at| *at <= self.now).is_none() {
            return;
        }
        let Some(core) = &mut face.core else { return };
        let acts = core.wake(&face.listing, now);
        self.carry_out(seat, acts);
        self.schedule_wake(seat);
    }

    fn schedule_wake(&mut self, seat: Seat) {
        let now = self.clock(seat.who);
        let true_now = self.now;
        let face = &mut self.members[seat.who].faces[seat.face];
        let Some(core) = &face.core else { return };
        let wait = u64::try_from(core.next_wake(now).since(now).as_millis()).unwrap_or(u64::MAX);
        let wait = wait.clamp(PAUSE_MS.0, PAUSE_MS.1);
        if face.wake_at.is_none_or(|at| true_now + wait < at) {
            face.wake_at = Some(true_now + wait);
            self.after(wait, Event::Wake(seat));
        }
    }

    /// Has every operator ask for this set of authorities.
    pub(crate) fn wish_for(&mut self, set: &[AuthorityKey]) {
        let mut set = set.to_vec();
        set.sort_by_key(|key| key.identity);
        for member in &mut self.members {
            member.wishes = Wishes { authorities: Some(set.clone()), ..Wishes::default() };
            if let Some(core) = member.faces.first_mut().and_then(|face| face.core.as_mut()) {
                core.wish(member.wishes.clone());
            }
        }
    }

    /// Steps a member's clock.
    pub(crate) fn step_clock(&mut self, who: usize, ahead: i64) {
        self.members[who].clock_ahead = ahead;
    }

    pub(crate) fn deliver(&mut self, from: Seat, to: Seat, message: &Arc<Message>) {
        if self.members[to.who].forger.is_some() {
            return self.with_forger(to.who, |forger, world| forger.hear(from.who, message, world));
        }
        let now = self.clock(to.who);
        let sender = self.members[from.who].identity();
        let Some(core) = &mut self.members[to.who].faces[to.face].core else { return };
        let index = core.set().iter().position(|key| key.identity == sender);
        let index = index.and_then(|index| u16::try_from(index).ok());
        let acts = match (&**message, index) {
            (Message::Agree(bytes), Some(index)) => core.receive(index, bytes, now),
            (Message::List(bytes), Some(index)) => core.take_list(index, bytes, now).unwrap_or_default(),
            (Message::Newest(document), _) => return self.adopt(from, to, document),
            (Message::Agree(_) | Message::List(_), None) => return,
        };
        self.carry_out(to, acts);
        self.schedule_wake(to);
    }

    /// Takes over a document, led there by the changes of the set if there were any.
    fn adopt(&mut self, from: Seat, to: Seat, document: &Arc<VerifiedConsensus>) {
        let now = self.clock(to.who);
        let height = self.members[to.who].faces[to.face].core.as_ref().map_or(1, |core| core.height());
        let changes = self.changes_after(from.who, height - 1);
        let Some(core) = &mut self.members[to.who].faces[to.face].core else { return };
        match core.adopt(document.bytes(), now) {
            Ok(acts) => self.carry_out(to, acts),
            Err(error) if error.may_be_another_set() => {
                for change in changes.iter().chain([document]) {
                    let Some(core) = &mut self.members[to.who].faces[to.face].core else { return };
                    let Ok(acts) = core.adopt(change.bytes(), now) else { return };
                    self.carry_out(to, acts);
                }
            }
            Err(_) => {}
        }
        self.schedule_wake(to);
    }

    /// Documents of a member after `height` at which the set of authorities changed, oldest first.
    pub(crate) fn changes_after(&self, who: usize, height: u64) -> Vec<Arc<VerifiedConsensus>> {
        let mut set = self.genesis.authorities.as_slice();
        let mut changes = Vec::new();
        for document in self.documents.values() {
            let held = self.members[who].chain().last().is_some_and(|newest| newest.height >= document.height);
            if held && document.authorities != set && document.height > height {
                changes.push(Arc::clone(document));
            }
            set = &document.authorities;
        }
        changes
    }

    fn carry_out(&mut self, seat: Seat, acts: Vec<Act>) {
        let Seat { who, face: at } = seat;
        let honest = !self.members[who].liar;
        for act in acts {
            if honest && self.net.crashes > 0 && self.rng.random_range(0..10_000) < self.net.crashes {
                return self.crash_at(who, &act);
            }
            let withholds = self.members[who].faces[at].withholds;
            match act {
                Act::Log(entry) => {
                    if let Some(votes) = &mut self.members[who].faces[at].votes {
                        votes.extend_from_slice(&entry);
                    }
                }
                Act::Agree(bytes) => self.broadcast(seat, Message::Agree(bytes), withholds.1),
                Act::List(bytes) => self.broadcast(seat, Message::List(bytes), withholds.0),
                Act::Certified(document) => {
                    self.saw(&document);
                    self.members[who].faces[at].chain.push(document);
                }
                Act::Completed(document) => {
                    let chain = &mut self.members[who].faces[at].chain;
                    let newest = chain.last_mut().expect("what is completed was certified");
                    assert_eq!(newest.hash(), document.hash(), "another document is completed than the newest");
                    *newest = document;
                }
                Act::BeginLog => self.members[who].faces[at].votes = Some(Vec::new()),
                Act::Ask => self.ask(seat),
                Act::Misbehaviour(evidence) if honest => self.judge_evidence(&evidence),
                Act::Misbehaviour(_) => {}
            }
        }
    }

    fn broadcast(&mut self, from: Seat, message: Message, withheld: u32) {
        let message = Arc::new(message);
        let Some(core) = &self.members[from.who].faces[from.face].core else { return };
        let set: BTreeSet<_> = core.set().iter().map(|key| key.identity).collect();
        for to in 0..self.members.len() {
            if to != from.who && set.contains(&self.members[to].identity()) && !self.chance(withheld) {
                self.send(from, to, &message);
            }
        }
    }

    /// Everybody who can be reached answers with his newest document.
    fn ask(&mut self, who: Seat) {
        for other in (0..self.members.len()).filter(|other| *other != who.who) {
            if self.members[other].lies() || !self.members[other].runs() {
                continue;
            }
            if let Some(newest) = self.members[other].chain().last() {
                let newest = Arc::new(Message::Newest(Arc::clone(newest)));
                self.send(Seat { who: other, face: 0 }, who.who, &newest);
            }
        }
    }

    /// Evidence must hold and must not be against anybody honest.
    fn judge_evidence(&mut self, evidence: &Evidence) {
        let height = evidence.height();
        let set = match self.documents.get(&(height - 1)) {
            Some(before) => before.authorities.clone(),
            None => self.genesis.authorities.clone(),
        };
        let key = &set[usize::from(evidence.authority())];
        let who = self.members.iter().position(|member| member.identity() == key.identity).expect("a member");
        let liar = self.members[who].liar;
        self.check(liar, || format!("authority {who} is honest, and there is evidence against it at height {height}"));
        let keyring = Keyring::new(set.into(), Arc::clone(&self.members[who].secret));
        self.check(evidence.verify(&NETWORK, &keyring), || "evidence that does not verify".to_owned());
        self.tally.convictions += 1;
    }

    /// What a member hands out: its newest document that may be shown by its own clock.
    pub(crate) fn shown_by(&self, who: usize) -> Option<&Arc<VerifiedConsensus>> {
        if self.cut_off.contains(&who) || !self.members[who].runs() {
            return None;
        }
        let now = self.clock(who);
        let shown = |document: &&Arc<VerifiedConsensus>| {
            now >= released_at(&self.genesis.schedule, document.epoch, document.parameters.skew())
        };
        self.members[who].chain().iter().rev().find(shown)
    }
}
