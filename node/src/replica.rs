//! The replica: opens envelopes, judges what they ask, and answers each exactly one answer time after it arrived.
//!
//! Garbage is answered like everything else, with random bytes of the same size at the same time, and so is an operation
//! that the disk did not finish in time: a courier learns from an answer that there is a replica, and nothing more.
//!
//! Pure: [`Replica::on_request`] returns what to ask the engine, [`Replica::on_outcome`] takes what came of it, and
//! [`Replica::on_time`] must be called when `now` has reached [`Replica::next_timeout`]. Outcomes that come after their
//! answer has gone are forgotten: what they stored stays stored, and the client, who was told `unavailable`, asks again.

use crate::drops::{DropReason, Drops};
use crate::engine::{Outcome, Task, Write, Written};
use crate::inbox::GROWTH_MAX;
use crate::keys::EpochKeys;
use crate::replay::Insertion;
use rand::CryptoRng;
use shoal_protocol::boxes::{self, BoxBody, BoxId};
use shoal_protocol::consensus::{Consensus, Generation};
use shoal_protocol::geometry::RECEIPT_SIZE;
use shoal_protocol::inbox;
use shoal_protocol::request::{
    Answer, Envelope, OpenEnvelope, Operation, RECEIPT_CONTEXT, SealedAnswer, Status, receipt_message,
};
use shoal_protocol::types::{Epoch, Identity, IdentityKey, StoreIndex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Envelopes in hand at most. Each keeps its keys, an answer with a body (1.8 kB) and bookkeeping: 2.2 kB, 18 MB in all.
/// At an answer time of 100 ms that is 81,920 envelopes a second, ten times what one core can open.
pub const WAITING_MAX: usize = 8_192;

/// Ephemeral keys remembered for one envelope key: what fills 2^22 slots of 16 bytes to 7/8, 67 MB, and 59 MB of log. An
/// envelope key lives for an epoch, its grace and the skew, 27 minutes by default, and at most three are accepted at a
/// time; so this is reached at 2,200 envelopes a second. Beyond it envelopes are refused, never forgotten; from half of it on
/// each courier has its portion, so that one that floods leaves the others theirs.
pub const SEEN_MAX: usize = (1 << 22) / 8 * 7;

/// Epochs by which the clocks of a client and this store, and the time on the way, may differ: an inbox operation made
/// in the epoch before or after this one is good.
const EPOCHS_AROUND: u64 = 1;

/// What a replica needs of a consensus.
#[derive(Debug, Clone)]
pub struct Network {
    me: StoreIndex,
    stores: BTreeMap<StoreIndex, Identity>,
    generations: Vec<Generation>,
    answer: Duration,
    append_bits: u8,
}

impl Network {
    /// The network as the store `me` sees it; `None` if the consensus does not list it as a store.
    pub fn of(consensus: &Consensus, me: &Identity) -> Option<Self> {
        Some(Self {
            me: consensus.node(me)?.store_index?,
            stores: consensus.stores().filter_map(|node| Some((node.store_index?, node.identity))).collect(),
            generations: consensus.generations.clone(),
            answer: Duration::from_millis(consensus.parameters.answer_ms),
            append_bits: consensus.parameters.append_bits,
        })
    }

    /// This store's index.
    pub const fn me(&self) -> StoreIndex {
        self.me
    }
}

/// An envelope as it came from a courier.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The courier.
    pub courier: StoreIndex,
    /// Its number for the question.
    pub ticket: u64,
    /// The envelope.
    pub envelope: &'a Envelope,
    /// The first replica's sealed receipt, or random bytes.
    pub receipt: &'a [u8; RECEIPT_SIZE],
}

/// An answer to put on the link to the courier that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The courier.
    pub to: StoreIndex,
    /// The courier's number for the question.
    pub ticket: u64,
    /// The answer.
    pub answer: SealedAnswer,
}

/// An envelope whose answer has not gone yet.
struct Waiting {
    courier: StoreIndex,
    ticket: u64,
    /// `None`: garbage.
    open: Option<OpenEnvelope>,
    /// `None`: the engine has not finished.
    answer: Option<Answer>,
    /// What the receipt signs if the write is stored.
    receipt_for: Option<[u8; 64]>,
    receipt: Option<[u8; 64]>,
}

/// A replica's envelopes in hand. What it has seen is kept with the envelope keys, whose fate it shares.
pub struct Replica {
    identity: Arc<IdentityKey>,
    drops: Arc<Drops>,
    network: Network,
    /// By the time at which the answer goes, then order of arrival.
    waiting: BTreeMap<(Duration, u64), Waiting>,
    next_number: u64,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// Names an engine task; given back with its outcome.
pub type Job = (Duration, u64);

/// What an operation leads to.
enum Verdict {
    Say(Answer),
    Do { task: Task, receipt_for: Option<[u8; 64]> },
}

impl Replica {
    /// A replica that signs receipts with the node's identity key.
    pub fn new(identity: Arc<IdentityKey>, network: Network, drops: Arc<Drops>) -> Self {
        Self { identity, drops, network, waiting: BTreeMap::new(), next_number: 0 }
    }

    /// Takes a new consensus. Envelopes in hand keep the times they were given.
    pub fn set_network(&mut self, network: Network) {
        self.network = network;
    }

    /// Takes a question that arrived at `now`. `keys` are those accepted now, in the order in which to try them; `epoch` is
    /// the current one. `remember` takes the ephemeral key of an envelope that opens into what was seen under the key of
    /// that epoch; only a fresh one is acted on. Returns the engine task, if the operation has one; it may be done only
    /// after what was remembered is where a restart of the process finds it.
    pub fn on_request(
        &mut self,
        now: Duration,
        epoch: Epoch,
        question: Question<'_>,
        keys: &[Arc<EpochKeys>],
        remember: impl FnOnce(Epoch, &[u8; 32]) -> Insertion,
    ) -> Option<(Job, Task)> {
        let Question { courier, ticket, envelope, receipt } = question;
        if self.waiting.len() >= WAITING_MAX {
            self.drops.count(DropReason::StoreQueueFull);
            return None;
        }
        let job = (now.saturating_add(self.network.answer), self.next_number);
        self.next_number += 1;
        let mut waiting = Waiting { courier, ticket, open: None, answer: None, receipt_for: None, receipt: None };
        let mut task = None;
        if let Some(open) = self.open(envelope, keys, remember) {
            match self.judge(&open, epoch, receipt) {
                Verdict::Say(answer) => waiting.answer = Some(answer),
                Verdict::Do { task: wanted, receipt_for } => {
                    waiting.receipt_for = receipt_for;
                    task = Some((job, wanted));
                }
            }
            waiting.open = Some(open);
        }
        self.waiting.insert(job, waiting);
        task
    }

    /// Takes what came of an engine task.
    pub fn on_outcome(&mut self, job: Job, outcome: Outcome) {
        let Some(waiting) = self.waiting.get_mut(&job) else { return };
        if matches!(outcome, Outcome::Written(Written::Stored)) {
            waiting.receipt = waiting.receipt_for.map(|message| self.identity.sign(RECEIPT_CONTEXT, &message));
        }
        waiting.answer = Some(answer(outcome));
    }

    /// The answers that go at `now`.
    pub fn on_time(&mut self, now: Duration, rng: &mut impl CryptoRng) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let waiting = entry.remove();
            let answer = match (&waiting.open, &waiting.answer) {
                (None, _) => SealedAnswer::random(rng),
                (Some(open), Some(answer)) => open.seal_answer(answer, waiting.receipt.as_ref(), rng),
                (Some(open), None) => open.seal_answer(&Answer::plain(Status::Unavailable), None, rng),
            };
            replies.push(Reply { to: waiting.courier, ticket: waiting.ticket, answer });
        }
        replies
    }

    /// When [`Replica::on_time`] has something to do next.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether no answer is owed.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Opens an envelope under the first key that fits, unless its ephemeral key was seen under that key before.
    fn open(
        &mut self,
        envelope: &Envelope,
        keys: &[Arc<EpochKeys>],
        remember: impl FnOnce(Epoch, &[u8; 32]) -> Insertion,
    ) -> Option<OpenEnvelope> {
        let opened = keys.iter().find_map(|keys| {
            let open = envelope.open(self.network.me, keys.envelope.as_ref()?).ok()?;
            Some((keys.epoch, open))
        });
        let Some((epoch, open)) = opened else {
            self.drops.count(DropReason::BadEnvelope);
            return None;
        };
        let reason = match remember(epoch, &open.ephemeral) {
            Insertion::Fresh => return Some(open),
            Insertion::Repeated => DropReason::RepeatedEnvelope,
            Insertion::Full => DropReason::ReplaySetFull,
            Insertion::PortionTaken => DropReason::PortionTaken,
        };
        self.drops.count(reason);
        None
    }

    fn judge(&self, open: &OpenEnvelope, epoch: Epoch, receipt: &[u8; RECEIPT_SIZE]) -> Verdict {
        match &open.operation {
            Err(_) => refused(),
            Ok(Operation::Put { id, signature, body }) => {
                if boxes::verify(id, body, signature) {
                    self.put(id, body)
                } else {
                    refused()
                }
            }
            Ok(Operation::PutOrdered { id, signature, body }) => {
                if boxes::verify(id, body, signature) {
                    self.put_ordered(open, id, body, receipt)
                } else {
                    refused()
                }
            }
            Ok(Operation::Get { id }) => Verdict::Do { task: Task::Get(*id), receipt_for: None },
            Ok(Operation::Append { id, nonce, body }) => match self.work_of(id, epoch, body, nonce) {
                Some(work_bits) => {
                    let write = Write::Append { inbox: *id, body: body.clone(), work_bits };
                    Verdict::Do { task: Task::Write(write), receipt_for: None }
                }
                None => Verdict::Say(Answer {
                    status: Status::Refused,
                    number: self.network.append_bits.into(),
                    body: None,
                }),
            },
            Ok(Operation::Read { id, signature, after, epoch: made }) => {
                let fresh = made.0.abs_diff(epoch.0) <= EPOCHS_AROUND;
                if fresh && inbox::verify_read(id, *after, *made, signature) {
                    Verdict::Do { task: Task::Read { inbox: *id, after: *after }, receipt_for: None }
                } else {
                    refused()
                }
            }
        }
    }

    fn put(&self, id: &BoxId, body: &BoxBody) -> Verdict {
        let write = Write::Put { id: *id, body: body.clone() };
        Verdict::Do { task: Task::Write(write), receipt_for: Some(receipt_message(id, body)) }
    }

    /// Where one write must win, the first replica of the box's placement decides. The order in which the envelope names
    /// the two must be that of the placement, else two writers could each have a replica of their own decide.
    fn put_ordered(&self, open: &OpenEnvelope, id: &BoxId, body: &BoxBody, receipt: &[u8; RECEIPT_SIZE]) -> Verdict {
        let first = self.network.generations.iter().find_map(|generation| {
            let replicas = boxes::placement(generation, id)?;
            (replicas.get(open.position) == Some(&self.network.me)).then_some(replicas[0])
        });
        match first {
            None => refused(),
            Some(_) if open.position == 0 => self.put(id, body),
            Some(first) => match open.open_receipt(first, receipt) {
                Some(signature) if self.is_receipt(first, id, body, &signature) => self.put(id, body),
                Some(_) => refused(),
                // the first replica did not answer in time, or another body won there
                None => {
                    let write = Write::Confirm { id: *id, body: body.clone() };
                    Verdict::Do { task: Task::Write(write), receipt_for: None }
                }
            },
        }
    }

    fn is_receipt(&self, store: StoreIndex, id: &BoxId, body: &BoxBody, signature: &[u8; 64]) -> bool {
        let identity = self.network.stores.get(&store);
        identity.is_some_and(|identity| identity.verify(RECEIPT_CONTEXT, &receipt_message(id, body), signature))
    }

    /// How much work an append shows, as far as an inbox may ask for it; `None` if less than an empty inbox asks for.
    /// The operation does not say for which generation and epoch the work was done: the few that are possible are tried.
    fn work_of(&self, id: &BoxId, epoch: Epoch, body: &BoxBody, nonce: &[u8; 64]) -> Option<u8> {
        let (base, hash) = (self.network.append_bits, body.hash());
        let epochs = epoch.minus(EPOCHS_AROUND).0..=epoch.plus(EPOCHS_AROUND).0;
        let possible = self.network.generations.iter().flat_map(|generation| {
            epochs.clone().map(|made| inbox::work_bits(id, generation.number, Epoch(made), &hash, nonce))
        });
        let shown = { possible }.find(|bits| *bits >= u32::from(base))?;
        Some(u8::try_from(shown).unwrap_or(u8::MAX).min(base.saturating_add(GROWTH_MAX)))
    }
}

fn refused() -> Verdict {
    Verdict::Say(Answer::plain(Status::Refused))
}

fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Written(Written::Stored) => Answer::plain(Status::Stored),
        Outcome::Written(Written::Taken) => Answer::plain(Status::Taken),
        Outcome::Written(Written::Full) => Answer::plain(Status::Full),
        Outcome::Written(Written::Absent) | Outcome::Failed => Answer::plain(Status::Unavailable),
        Outcome::Written(Written::TooLittleWork { required }) => {
            Answer { status: Status::Refused, number: required.into(), body: None }
        }
        Outcome::Got(Some(body)) => Answer { status: Status::Found, number: 0, body: Some(body) },
        Outcome::Entry(Some(entry)) => Answer { status: Status::Found, number: entry.number, body: Some(entry.body) },
        Outcome::Got(None) | Outcome::Entry(None) => Answer::plain(Status::Empty),
    }
}

#[cfg(test)]
mod tests;
