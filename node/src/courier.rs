//! The courier: answers every request exactly one service time after it arrived, whatever it asks and whatever comes
//! of it.
//!
//! A courier sees a SURB and an envelope: two store indices, a fresh key, ciphertext. It asks the first replica; on its
//! answer, or when half the service time is over, the second, with the first one's sealed receipt; and when the service
//! time is over it sends the reply. Nothing in this sequence depends on the operation. A replica that cannot be asked (an
//! index nobody has, this store itself, one store named twice) is a replica that does not answer, and random bytes stand
//! where an answer is missing, so that not even the length tells.
//!
//! Pure: [`Courier::on_request`] and [`Courier::on_answer`] return whom to ask next; call [`Courier::on_time`] when `now`
//! has reached [`Courier::next_timeout`], which may change with every call of the other three.

use crate::drops::{DropReason, Drops};
use rand::{CryptoRng, RngExt as _};
use shoal_protocol::geometry::RECEIPT_SIZE;
use shoal_protocol::request::{Envelope, SealedAnswer, pack_reply, parse_request};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::surb::Surb;
use shoal_protocol::types::StoreIndex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Requests in hand at most. Each is a SURB (396 bytes), an envelope (2,045) and two answers (1,969 each): 6.4 kB with
/// what holds them, 53 MB in all. At a service time of 1 s that is 8,192 requests a second, about 60 Mbit/s of packets
/// each way: more than a store's own links to its replicas carry.
pub const PENDING_MAX: usize = 8_192;

/// What the courier wants done.
#[derive(Debug)]
pub enum Action {
    /// Put this question on the link to a replica.
    Ask {
        /// The replica.
        store: StoreIndex,
        /// Random number of the question; the answer repeats it.
        ticket: u64,
        /// The client's envelope.
        envelope: Envelope,
        /// The first replica's sealed receipt, or random bytes.
        receipt: [u8; RECEIPT_SIZE],
    },
    /// Send the reply on its way.
    Reply {
        /// Identity of the mix it goes to first, as the SURB names it: to be looked up in the consensus.
        first_hop: [u8; 32],
        /// The reply.
        packet: Packet,
    },
}

/// What comes next for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The first replica has had its time.
    AskSecond,
    /// The service time is over.
    Reply,
}

struct Pending {
    surb: Surb,
    envelope: Envelope,
    /// Half the service time after arrival.
    ask_second_at: Duration,
    second_asked: bool,
    /// Tickets given out for this request, to be forgotten with it.
    tickets: [Option<u64>; 2],
    /// Answers in the order in which they came: at most one a replica.
    answers: Vec<SealedAnswer>,
}

/// All requests in hand.
pub struct Courier {
    me: StoreIndex,
    stores: BTreeSet<StoreIndex>,
    service: Duration,
    drops: Arc<Drops>,
    /// By order of arrival.
    pending: BTreeMap<u64, Pending>,
    next_number: u64,
    /// Ticket → request, position of the replica asked. Both replicas' tickets are random and unrelated.
    tickets: BTreeMap<u64, (u64, usize)>,
    agenda: BTreeSet<(Duration, u64, Step)>,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Courier {
    /// A courier that is itself store `me`. Until [`Courier::set_network`] it knows no replicas.
    pub fn new(me: StoreIndex, service: Duration, drops: Arc<Drops>) -> Self {
        Self {
            me,
            stores: BTreeSet::new(),
            service,
            drops,
            pending: BTreeMap::new(),
            next_number: 0,
            tickets: BTreeMap::new(),
            agenda: BTreeSet::new(),
        }
    }

    /// Takes the stores and the service time of a new consensus. Requests in hand keep the times they were given.
    pub fn set_network(&mut self, me: StoreIndex, stores: BTreeSet<StoreIndex>, service: Duration) {
        self.me = me;
        self.stores = stores;
        self.service = service;
    }

    /// Takes the plaintext of a packet that ended here. What is no request, and what finds the table full, is counted and
    /// gets no reply: the same silence as for a packet that was changed on its way.
    pub fn on_request(&mut self, now: Duration, plaintext: &[u8], rng: &mut impl CryptoRng) -> Option<Action> {
        let Ok((surb, envelope)) = parse_request(plaintext) else {
            self.drops.count(DropReason::MalformedRequest);
            return None;
        };
        if self.pending.len() >= PENDING_MAX {
            self.drops.count(DropReason::CourierQueueFull);
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        let ask_second_at = now.saturating_add(self.service / 2);
        self.agenda.insert((ask_second_at, number, Step::AskSecond));
        self.agenda.insert((now.saturating_add(self.service), number, Step::Reply));
        let pending =
            Pending { surb, envelope, ask_second_at, second_asked: false, tickets: [None; 2], answers: Vec::new() };
        self.pending.insert(number, pending);
        let receipt = random_receipt(rng);
        self.ask(number, 0, receipt, rng)
    }

    /// Takes a replica's answer. `from` is the store that the link belongs to: an answer to a ticket that this store was
    /// not given is as good as none.
    pub fn on_answer(
        &mut self,
        from: StoreIndex,
        ticket: u64,
        answer: SealedAnswer,
        rng: &mut impl CryptoRng,
    ) -> Option<Action> {
        let asked = self.tickets.get(&ticket).copied().filter(|(number, position)| {
            self.pending.get(number).is_some_and(|p| p.envelope.replicas().get(*position) == Some(&from))
        });
        let Some((number, position)) = asked else {
            self.drops.count(DropReason::LateAnswer);
            return None;
        };
        // one answer a ticket
        self.tickets.remove(&ticket);
        let pending = self.pending.get_mut(&number)?;
        let receipt = answer.receipt;
        pending.answers.push(answer);
        if position != 0 || pending.second_asked {
            return None;
        }
        pending.second_asked = true;
        let at = pending.ask_second_at;
        self.agenda.remove(&(at, number, Step::AskSecond));
        self.ask(number, 1, receipt, rng)
    }

    /// Does what is due at `now`.
    pub fn on_time(&mut self, now: Duration, rng: &mut impl CryptoRng) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((_, number, step)) = self.agenda.first().copied().filter(|(at, _, _)| *at <= now) {
            self.agenda.pop_first();
            match step {
                Step::AskSecond => {
                    if let Some(pending) = self.pending.get_mut(&number) {
                        pending.second_asked = true;
                        let receipt = random_receipt(rng);
                        actions.extend(self.ask(number, 1, receipt, rng));
                    }
                }
                Step::Reply => actions.extend(self.reply(number, rng)),
            }
        }
        actions
    }

    /// When [`Courier::on_time`] has something to do next.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.agenda.first().map(|(at, _, _)| *at)
    }

    /// Requests in hand.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn ask(
        &mut self,
        number: u64,
        position: usize,
        receipt: [u8; RECEIPT_SIZE],
        rng: &mut impl CryptoRng,
    ) -> Option<Action> {
        let pending = self.pending.get_mut(&number)?;
        let [first, second] = pending.envelope.replicas();
        let store = if position == 0 { first } else { second };
        if first == second || store == self.me || !self.stores.contains(&store) {
            return None;
        }
        let ticket = loop {
            let ticket = rng.random::<u64>();
            if !self.tickets.contains_key(&ticket) {
                break ticket;
            }
        };
        self.tickets.insert(ticket, (number, position));
        if let Some(slot) = pending.tickets.get_mut(position) {
            *slot = Some(ticket);
        }
        Some(Action::Ask { store, ticket, envelope: pending.envelope.clone(), receipt })
    }

    fn reply(&mut self, number: u64, rng: &mut impl CryptoRng) -> Option<Action> {
        let pending = self.pending.remove(&number)?;
        for ticket in pending.tickets.into_iter().flatten() {
            self.tickets.remove(&ticket);
        }
        let mut answers = pending.answers.into_iter();
        let full = answers.next().unwrap_or_else(|| SealedAnswer::random(rng)).full;
        let short = answers.next().unwrap_or_else(|| SealedAnswer::random(rng)).short;
        match pending.surb.reply(&pack_reply(&full, &short)) {
            Ok((first_hop, packet)) => Some(Action::Reply { first_hop, packet }),
            Err(_) => {
                self.drops.count(DropReason::BadSurb);
                None
            }
        }
    }
}

fn random_receipt(rng: &mut impl CryptoRng) -> [u8; RECEIPT_SIZE] {
    let mut receipt = [0; RECEIPT_SIZE];
    rng.fill_bytes(&mut receipt);
    receipt
}

#[cfg(test)]
mod tests;
