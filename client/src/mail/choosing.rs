//! Which want the next tick carries.

use super::flight::{Attempt, Flight, Purpose, WINDOW};
use super::{Mail, MailError, MessageState, stored};
use crate::blobs_store::{self, StoredPart};
use crate::budget::Waiting;
use crate::card::CardPlace;
use crate::chains;
use crate::polls::{OVERDUE_GAPS, class, mean_gap};
use crate::want::{Rank, Want};
use rand::{CryptoRng, RngExt as _};
use shoal_protocol::boxes::{self, BoxId};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::{card_period, inbox_id};
use shoal_protocol::request::Operation;
use shoal_protocol::{StoreIndex, UnixMillis};
use std::time::Duration;

/// A clock that goes back by more than this begins all waiting anew.
const STEP_BACK_MAX: Duration = Duration::from_secs(10);

/// What a tick could go to, chosen before it is known which rank gets it.
#[derive(Default)]
struct Picks {
    send: Option<Send>,
    read: Option<Read>,
    hot: Option<i64>,
    warm: Option<i64>,
    idle: Option<i64>,
    inbox: Option<u32>,
    overdue: Option<Rank>,
}

enum Send {
    Box(i64),
    Letter(i64),
    Part(i64),
}

enum Read {
    Card(i64),
    Part(i64),
}

impl Mail {
    pub(super) fn choose(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        if now.plus(STEP_BACK_MAX) < self.memory.latest {
            // the system's clock stepped back: what was due then would be due hours from now
            self.reload()?;
        }
        self.memory.latest = now;
        self.wind_clocks(now, consensus, rng);
        self.give_up_flights(now, consensus, rng)?;
        self.upkeep(now, consensus)?;
        self.prepare(now, consensus, rng)?;
        if self.memory.flights.len() >= WINDOW {
            return Ok(None);
        }
        let picks = self.pick(now, consensus);
        let waiting = Waiting {
            send: picks.send.is_some(),
            blob_read: picks.read.is_some(),
            hot: picks.hot.is_some(),
            warm: picks.warm.is_some(),
            idle: picks.idle.is_some(),
            inbox: picks.inbox.is_some(),
            overdue: picks.overdue,
        };
        let Some(rank) = self.budget.choose(waiting) else { return Ok(None) };
        match rank {
            Rank::Send => match picks.send {
                Some(Send::Box(row)) => self.want_box(row, now, consensus, rng),
                Some(Send::Letter(letter)) => self.want_letter(letter, now, consensus, rng),
                Some(Send::Part(blob)) => self.want_part_out(blob, now, consensus, rng),
                None => Ok(None),
            },
            Rank::BlobRead => match picks.read {
                Some(Read::Card(contact)) => Ok(self.want_card(contact, now, consensus, rng)),
                Some(Read::Part(blob)) => Ok(self.want_part_in(blob, now, consensus, rng)),
                None => Ok(None),
            },
            Rank::Hot => Ok(picks.hot.and_then(|chain| self.want_poll(chain, rank, now, consensus, rng))),
            Rank::Warm => Ok(picks.warm.and_then(|chain| self.want_poll(chain, rank, now, consensus, rng))),
            Rank::Idle => Ok(picks.idle.and_then(|chain| self.want_poll(chain, rank, now, consensus, rng))),
            Rank::Inbox => match picks.inbox {
                Some(generation) => self.want_inbox(generation, now, consensus, rng),
                None => Ok(None),
            },
        }
    }

    /// Draws first times for clocks that have none: after a start, for a new chain, for a new generation.
    fn wind_clocks(&mut self, now: UnixMillis, consensus: &Consensus, rng: &mut impl CryptoRng) {
        let parameters = &consensus.parameters;
        for reader in self.memory.readers.values_mut() {
            reader.clock.start(mean_gap(class(reader.active_at, now, parameters), parameters), now, rng);
        }
        self.memory.inboxes.retain(|number, _| consensus.generation(*number).is_some());
        for generation in &consensus.generations {
            let clock = self.memory.inboxes.entry(generation.number).or_default();
            clock.start(mean_gap(Rank::Inbox, parameters), now, rng);
        }
        for fetch in self.memory.cards.values_mut() {
            fetch.clock.start(Duration::ZERO, now, rng);
        }
    }

    /// Wants whose answer is long overdue are as good as unanswered: the window must not fill up with them.
    fn give_up_flights(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let patience = consensus.parameters.grace() + Duration::from_millis(consensus.parameters.service_ms);
        let stale: Vec<_> = self
            .memory
            .flights
            .iter()
            .filter(|(_, flight)| flight.since.plus(patience) < now)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in stale {
            if let Some(flight) = self.memory.flights.remove(&ticket) {
                self.landed(&flight, None, now, consensus, rng)?;
            }
        }
        Ok(())
    }

    fn pick(&self, now: UnixMillis, consensus: &Consensus) -> Picks {
        let mut picks = Picks { send: self.pick_send(now), read: self.pick_read(now), ..Picks::default() };
        picks.inbox =
            self.memory.inboxes.iter().find(|(_, clock)| clock.due(now)).map(|(generation, _)| *generation);
        let mut earliest: [Option<(UnixMillis, i64)>; 3] = [None; 3];
        for (chain, reader) in &self.memory.readers {
            let Some(at) = reader.clock.ran_out(now) else { continue };
            if reader.next().is_none() {
                continue;
            }
            let slot = match class(reader.active_at, now, &consensus.parameters) {
                Rank::Hot => &mut earliest[0],
                Rank::Warm => &mut earliest[1],
                Rank::Idle | Rank::Send | Rank::BlobRead | Rank::Inbox => &mut earliest[2],
            };
            if slot.is_none_or(|(best, _)| at < best) {
                *slot = Some((at, *chain));
            }
        }
        [picks.hot, picks.warm, picks.idle] = earliest.map(|slot| slot.map(|(_, chain)| chain));
        picks.overdue = [(Rank::Warm, earliest[1]), (Rank::Idle, earliest[2])].into_iter().find_map(|(rank, slot)| {
            let patience = mean_gap(rank, &consensus.parameters).saturating_mul(OVERDUE_GAPS);
            slot.is_some_and(|(at, _)| at.plus(patience) <= now).then_some(rank)
        });
        picks
    }

    fn pick_send(&self, now: UnixMillis) -> Option<Send> {
        if self.rolled_back.is_some() {
            return None;
        }
        let ready = |held: bool| {
            let mut boxes = self.memory.boxes.iter();
            boxes.find(|(_, pending)| pending.held == held && pending.attempt.ready(now)).map(|(row, _)| Send::Box(*row))
        };
        if let Some(fresh) = ready(false) {
            return Some(fresh);
        }
        let letter = self.memory.letters.iter().find(|(_, letter)| {
            // who is invited reads the Welcome at once: it is there before the letter
            let welcome = letter.blob.and_then(|blob| self.memory.blobs_out.get(&blob));
            welcome.is_none_or(|blob| blob.queue.readable()) && letter.attempt.ready(now)
        });
        if let Some((row, _)) = letter {
            return Some(Send::Letter(*row));
        }
        let part = self.memory.blobs_out.iter().find(|(_, blob)| blob.queue.has_ready(now));
        part.map(|(row, _)| Send::Part(*row)).or_else(|| ready(true))
    }

    fn pick_read(&self, now: UnixMillis) -> Option<Read> {
        let card = self
            .memory
            .cards
            .iter()
            .find(|(_, fetch)| fetch.next().is_some() && (fetch.begun() || fetch.clock.due(now)));
        if let Some((contact, _)) = card {
            return Some(Read::Card(*contact));
        }
        self.memory.blobs_in.iter().find(|(_, blob)| blob.queue.has_ready(now)).map(|(row, _)| Read::Part(*row))
    }

    /// Notes the flight and makes the want; `None` when the consensus cannot place the box now.
    #[expect(clippy::too_many_arguments, reason = "the parts of a want and of its flight")]
    pub(super) fn launch(
        &mut self,
        rank: Rank,
        generation: u32,
        operation: Operation,
        purpose: Purpose,
        order: Option<[StoreIndex; 2]>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let placement = place(consensus, generation, operation.id())?;
        let ordered = matches!(operation, Operation::PutOrdered { .. });
        let replicas = order.unwrap_or_else(|| {
            let [first, second] = placement;
            if !ordered && rng.random::<bool>() { [second, first] } else { placement }
        });
        let ticket = self.next_ticket();
        self.memory.flights.insert(ticket, Flight { purpose, placement, since: now });
        Some(Want { ticket, rank, generation, replicas, operation })
    }

    fn want_box(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let Some(contested) = self.memory.boxes.get(&row).map(|pending| pending.contested) else { return Ok(None) };
        let (db, vault, inbox) = (&self.profile.db, &self.profile.vault, &self.profile.inbox);
        let Some(out) = chains::out_box(db, row)? else {
            self.memory.boxes.remove(&row);
            return Ok(None);
        };
        let chain = chains::by_row(db, vault, out.chain)?;
        let id = chain.id(out.j, inbox);
        let (operation, purpose) = if contested {
            (Operation::Get { id }, Purpose::Contested { row })
        } else {
            let signature = chain.sign(out.j, &out.body, inbox).ok_or(MailError::Damaged("a box of a peer's chain"))?;
            (Operation::Put { id, signature, body: out.body }, Purpose::PutBox { row })
        };
        let want = self.launch(Rank::Send, chain.generation, operation, purpose, None, now, consensus, rng);
        if let Some(pending) = self.memory.boxes.get_mut(&row) {
            if want.is_some() {
                pending.attempt.out = true;
            } else {
                pending.later(now, &consensus.parameters, rng);
            }
        }
        if let (Some(_), Some(message)) = (&want, out.message) {
            self.raise(message, MessageState::Sent)?;
        }
        Ok(want)
    }

    fn want_part_out(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let Some(blob) = self.memory.blobs_out.get_mut(&row) else { return Ok(None) };
        let Some(j) = blob.queue.take(now, rng) else { return Ok(None) };
        let Some(StoredPart { part, .. }) = blobs_store::part_out(&self.profile.db, &self.profile.vault, row, j)? else {
            blob.queue.done(j);
            return Ok(None);
        };
        let (id, body, signature) =
            blob.keys.seal(j, &part).map_err(|_| MailError::Damaged("a part is longer than a box"))?;
        let generation = blob.generation;
        let operation = Operation::Put { id, signature, body };
        let purpose = Purpose::PutPart { blob: row, j };
        let want = self.launch(Rank::Send, generation, operation, purpose, None, now, consensus, rng);
        if want.is_none()
            && let Some(blob) = self.memory.blobs_out.get_mut(&row)
        {
            blob.queue.later(j, Rank::Warm, now, &consensus.parameters, rng);
        }
        Ok(want)
    }

    fn want_part_in(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let blob = self.memory.blobs_in.get_mut(&row)?;
        let j = blob.queue.take(now, rng)?;
        let (id, generation) = (blob.keys.id(j), blob.incoming.generation);
        let purpose = Purpose::GetPart { blob: row, j };
        let want = self.launch(Rank::BlobRead, generation, Operation::Get { id }, purpose, None, now, consensus, rng);
        if want.is_none()
            && let Some(blob) = self.memory.blobs_in.get_mut(&row)
        {
            blob.queue.later(j, Rank::Warm, now, &consensus.parameters, rng);
        }
        want
    }

    fn want_poll(
        &mut self,
        chain: i64,
        rank: Rank,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let reader = self.memory.readers.get_mut(&chain)?;
        reader.clock.wind(mean_gap(rank, &consensus.parameters), now, rng);
        let j = reader.next()?;
        let (id, generation) = (reader.chain.id(j, &self.profile.inbox), reader.chain.generation);
        let order = reader.first.take().and_then(|first| {
            let placement = place(consensus, generation, &id)?;
            if placement[1] == first { Some([placement[1], placement[0]]) } else { Some(placement) }
        });
        let purpose = Purpose::GetBox { chain, j };
        let want = self.launch(rank, generation, Operation::Get { id }, purpose, order, now, consensus, rng)?;
        if let Some(reader) = self.memory.readers.get_mut(&chain) {
            reader.asked(j);
        }
        Some(want)
    }

    fn want_inbox(
        &mut self,
        generation: u32,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        if let Some(clock) = self.memory.inboxes.get_mut(&generation) {
            clock.wind(mean_gap(Rank::Inbox, &consensus.parameters), now, rng);
        }
        let id = inbox_id(&self.profile.inbox.public(), generation);
        let Some([first, second]) = place(consensus, generation, &id) else { return Ok(None) };
        let order = if rng.random::<bool>() { [second, first] } else { [first, second] };
        // each replica has its own numbering: the question is for the one that is asked first
        let after = self.inbox_cursor(generation, order[0])?;
        let epoch = consensus.schedule().epoch_at(now);
        let signature = self.profile.inbox.sign_read(generation, after, epoch);
        let operation = Operation::Read { id, signature, after, epoch };
        let purpose = Purpose::ReadInbox { generation, after };
        Ok(self.launch(Rank::Inbox, generation, operation, purpose, Some(order), now, consensus, rng))
    }

    fn want_card(
        &mut self,
        contact: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let places = card_places(now, consensus);
        let inbox = crate::contacts::by_row(&self.profile.db, &self.profile.vault, contact).ok()?.inbox;
        let fetch = self.memory.cards.get_mut(&contact)?;
        let pace = mean_gap(class(fetch.wanted_at, now, &consensus.parameters), &consensus.parameters);
        fetch.clock.wind(pace, now, rng);
        if fetch.trying.is_none() {
            let place = *places.get(fetch.tried % places.len().max(1))?;
            fetch.trying = Some((place, crate::card::CardChain::new(inbox, place)));
        }
        let j = fetch.next()?;
        let (place, chain) = fetch.trying.as_ref()?;
        let (place, id) = (*place, chain.id(j));
        fetch.out.insert(j);
        let purpose = Purpose::GetCard { contact, place, j };
        let want =
            self.launch(Rank::BlobRead, place.generation, Operation::Get { id }, purpose, None, now, consensus, rng);
        if want.is_none()
            && let Some(fetch) = self.memory.cards.get_mut(&contact)
        {
            fetch.turn();
        }
        want
    }

    /// Notes that a message came further, on disk and to the listeners.
    pub(super) fn raise(&mut self, message: i64, state: MessageState) -> Result<(), MailError> {
        if stored::raise(&self.profile.db, message, state)? {
            let id = stored::out_by_row(&self.profile.db, &self.profile.vault, message)?.id;
            self.emit(super::Event::State { id, state });
        }
        Ok(())
    }
}

/// The two replicas of a box in the order of placement.
pub(super) fn place(consensus: &Consensus, generation: u32, id: &BoxId) -> Option<[StoreIndex; 2]> {
    boxes::placement(consensus.generation(generation)?, id)
}

/// Where a card may lie: the newest generation first, the current period before the previous.
fn card_places(now: UnixMillis, consensus: &Consensus) -> Vec<CardPlace> {
    let period = card_period(now, &consensus.parameters);
    let newest = consensus.generations.iter().rev().take(2);
    newest
        .flat_map(|generation| {
            [period, period.saturating_sub(1)].map(|period| CardPlace { generation: generation.number, period })
        })
        .collect()
}

/// Tries again later.
pub(super) fn postpone(attempt: &mut Attempt, now: UnixMillis, consensus: &Consensus, rng: &mut impl CryptoRng) {
    attempt.later(Rank::Warm, now, &consensus.parameters, rng);
}
