//! Authorities that do what they like with their key.

use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;
use shoal_directory::agreement::scheme::{Ballot, DocumentId, Headline, Scheme as _, VoteKind, payload_hash};
use shoal_directory::agreement::{Action, Agreement, Memory, Value};
use shoal_protocol::authority::HybridSignature;
use shoal_protocol::authority::quorum;
use shoal_protocol::{Epoch, Hash, UnixMillis};

use crate::keys::{Keys, NETWORK};
use crate::wire::{Wire, sign_proposal, sign_vote};
use crate::world::{World, document_of};

/// How one misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Withholds everything.
    Silent,
    /// Two honest machines with one key, each talking to a part of the others.
    Twins,
    /// Signs whatever may hurt, replays, invents, sends rubbish.
    Inventive,
}

/// Messages of others that are kept for later use.
const POOL: usize = 400;

pub(crate) struct Byzantine {
    me: u16,
    style: Style,
    keys: Keys,
    count: u16,
    twins: Vec<Agreement<Keys>>,
    /// Which twin talks to whom; 2 is both.
    side: Vec<u8>,
    pool: Vec<Arc<[u8]>>,
    votes: Vec<(Ballot, HybridSignature)>,
    documents: Vec<(DocumentId, Vec<u8>)>,
    place: (u64, u32),
}

impl Byzantine {
    pub(crate) fn new(me: u16, style: Style, keys: Keys, count: u16, rng: &mut StdRng) -> Self {
        let twins = if style == Style::Twins {
            vec![World::setup(keys.clone(), me), World::setup(keys.clone(), me)]
        } else {
            vec![]
        };
        let side = (0..count).map(|_| rng.random_range(0..3)).collect();
        Self { me, style, keys, count, twins, side, pool: vec![], votes: vec![], documents: vec![], place: (1, 0) }
    }

    pub(crate) fn receive(&mut self, from: u16, bytes: &Arc<[u8]>, world: &mut World) {
        let Some(wire) = Wire::read(bytes, u64::from(self.count)) else {
            return;
        };
        let place = wire.place();
        if place.0 > self.place.0 && place.0 <= world.plan.heights || place.0 == self.place.0 && place.1 > self.place.1
        {
            self.place = place;
        }
        match self.style {
            Style::Silent => {}
            Style::Twins => {
                let judge = world.credulous();
                let now = UnixMillis(world.now);
                for index in 0..2 {
                    if self.twins[index].height().is_none_or(|(height, _)| height < self.place.0) {
                        let actions = self.twins[index].start(self.place.0, Memory::Fresh, now, &judge);
                        self.carry_out(index, actions, world);
                    }
                    if usize::from(self.side[usize::from(from)]) != 1 - index {
                        let actions = self.twins[index].receive(from, bytes, now, &judge);
                        self.carry_out(index, actions, world);
                    }
                }
            }
            Style::Inventive => self.collect(wire, bytes, world),
        }
    }

    /// Called every now and then.
    pub(crate) fn mischief(&mut self, world: &mut World) {
        match self.style {
            Style::Silent => {}
            Style::Twins => {
                let judge = world.credulous();
                for index in 0..2 {
                    let actions = self.twins[index].wake(UnixMillis(world.now), &judge);
                    self.carry_out(index, actions, world);
                }
            }
            Style::Inventive => self.invent(world),
        }
    }

    fn carry_out(&mut self, index: usize, actions: Vec<Action>, world: &mut World) {
        for action in actions {
            match action {
                Action::Broadcast(bytes) => {
                    let bytes: Arc<[u8]> = bytes.into();
                    for to in 0..self.count {
                        if usize::from(self.side[usize::from(to)]) != 1 - index {
                            world.send(self.me, to, bytes.clone());
                        }
                    }
                }
                Action::Propose { height, round } => {
                    let bytes = format!("ok twin {index} {height} {round}").into_bytes();
                    let value = Value { document: document_of(&bytes), proposal: bytes.into() };
                    let judge = world.credulous();
                    let actions = self.twins[index].propose(height, round, value, UnixMillis(world.now), &judge);
                    self.carry_out(index, actions, world);
                }
                Action::Log(_)
                | Action::Decided { .. }
                | Action::Completed(_)
                | Action::Misbehaviour(_)
                | Action::Muted { .. } => {}
            }
        }
    }

    fn collect(&mut self, wire: Wire, bytes: &Arc<[u8]>, world: &mut World) {
        match wire {
            Wire::Vote(ballot, signature) => {
                if !self.votes.iter().any(|(known, _)| *known == ballot) {
                    self.votes.push((ballot, signature));
                }
            }
            Wire::Proposal { headline, bytes, .. } => self.documents.push((headline.document, bytes)),
            Wire::Quorum { .. } | Wire::Round { .. } => {}
        }
        for list in [self.pool.len(), self.votes.len(), self.documents.len()] {
            if list >= POOL {
                self.pool.clear();
                self.votes.clear();
                self.documents.truncate(8);
            }
        }
        self.pool.push(bytes.clone());
        if world.rng.random_range(0..8) == 0 {
            self.invent(world);
        }
    }

    /// One lie.
    fn invent(&mut self, world: &mut World) {
        let (height, mut round) = self.place;
        if world.rng.random_range(0..4) == 0 {
            round = world.rng.random_range(round.saturating_sub(2)..round + 4);
        }
        match world.rng.random_range(0..10) {
            // Two votes, one for each half.
            0..3 => {
                let kind = if world.rng.random() { VoteKind::Prevote } else { VoteKind::Precommit };
                for half in 0..2 {
                    let document = self.some_document(world);
                    let ballot = Ballot { kind, height, round, document, authority: self.me };
                    self.send_half(half, sign_vote(&self.keys, &NETWORK, ballot).write(), world);
                }
            }
            // Two proposals, maybe with bytes that are not the document's, or with an invented lock.
            3 | 4 => {
                let count = u64::from(self.count);
                let round = (round..).find(|r| (height + u64::from(*r)) % count == u64::from(self.me)).unwrap_or(0);
                for half in 0..2 {
                    let honest = self.documents.last().cloned().filter(|_| world.rng.random());
                    let made =
                        format!("{} {half} {height} {round}", ["ok", "bad", "ok late"][world.rng.random_range(0..3)]);
                    let (document, bytes) = honest.unwrap_or_else(|| (document_of(made.as_bytes()), made.into_bytes()));
                    let bytes = if world.rng.random_range(0..4) == 0 { b"rubbish".to_vec() } else { bytes };
                    let document = if world.rng.random_range(0..4) == 0 { of_next_epoch(document) } else { document };
                    let lock_round = (round > 0 && world.rng.random()).then(|| world.rng.random_range(0..round));
                    let payload = payload_hash(&bytes);
                    let headline = Headline { height, round, lock_round, document, payload, authority: self.me };
                    self.send_half(half, sign_proposal(&self.keys, &NETWORK, headline, &bytes).write(), world);
                }
            }
            // A certificate of what was really voted, and one that pretends.
            5 | 6 => self.certify(height, round, world),
            // A message of somebody, again, maybe bent.
            7 | 8 => {
                if self.pool.is_empty() {
                    return;
                }
                let mut bytes = self.pool[world.rng.random_range(0..self.pool.len())].to_vec();
                if world.rng.random() {
                    let position = world.rng.random_range(0..bytes.len());
                    bytes[position] ^= world.rng.random_range(1..=255);
                }
                let to = world.rng.random_range(0..self.count);
                world.send(self.me, to, bytes.into());
            }
            // Rubbish.
            _ => {
                let length = world.rng.random_range(0..300);
                let bytes: Vec<u8> = (0..length).map(|_| world.rng.random()).collect();
                let to = world.rng.random_range(0..self.count);
                world.send(self.me, to, bytes.into());
            }
        }
    }

    fn certify(&mut self, height: u64, round: u32, world: &mut World) {
        let kind = if world.rng.random() { VoteKind::Prevote } else { VoteKind::Precommit };
        let Some(document) = self.some_document(world) else {
            return;
        };
        let own = Ballot { kind, height, round, document: Some(document), authority: self.me };
        let (context, message) = own.signed(&NETWORK);
        let mut votes: Vec<(Ballot, HybridSignature)> = self
            .votes
            .iter()
            .filter(|(b, _)| (b.kind, b.height, b.round, b.document) == (kind, height, round, Some(document)))
            .cloned()
            .collect();
        votes.push((own, self.keys.sign(context, &message)));
        votes.sort_by_key(|(ballot, _)| ballot.authority);
        votes.dedup_by_key(|(ballot, _)| ballot.authority);
        if votes.len() < quorum(usize::from(self.count)) && world.rng.random() {
            // Pretends that the others signed as well.
            for authority in 0..self.count {
                if votes.iter().all(|(ballot, _)| ballot.authority != authority) {
                    votes.push((Ballot { authority, ..own }, self.keys.sign(context, &message)));
                }
            }
            votes.sort_by_key(|(ballot, _)| ballot.authority);
        }
        let wire = if world.rng.random() {
            let over = kind == VoteKind::Precommit;
            Wire::Round { height, round, over, votes }
        } else {
            let signatures = votes.into_iter().map(|(ballot, signature)| (ballot.authority, signature)).collect();
            Wire::Quorum { kind, height, round, document, signatures }
        };
        let half = world.rng.random_range(0..2);
        self.send_half(half, wire.write(), world);
    }

    fn some_document(&self, world: &mut World) -> Option<DocumentId> {
        match world.rng.random_range(0..4) {
            0 => None,
            1 => Some(DocumentId { epoch: Epoch(1), hash: Hash::from_bytes([world.rng.random_range(0..3); 32]) }),
            _ if self.documents.is_empty() => None,
            _ => {
                let document = self.documents[world.rng.random_range(0..self.documents.len())].0;
                Some(if world.rng.random_range(0..4) == 0 { of_next_epoch(document) } else { document })
            }
        }
    }

    fn send_half(&self, half: u8, bytes: Vec<u8>, world: &mut World) {
        let bytes: Arc<[u8]> = bytes.into();
        for to in world.honest() {
            if self.side[usize::from(to)] != 1 - half {
                world.send(self.me, to, bytes.clone());
            }
        }
    }
}

/// The same document, said to be of another epoch than it is.
fn of_next_epoch(document: DocumentId) -> DocumentId {
    DocumentId { epoch: document.epoch.plus(1), ..document }
}
