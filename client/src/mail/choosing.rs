//! Which want the next tick carries.

use super::flight::WINDOW;
use super::letters::Letter;
use super::parts::{BlobIn, BlobOut};
use super::{Mail, MailError, RateClass};
use crate::blobs_store::Purpose;
use crate::budget::Waiting;
use crate::polls::{OVERDUE_GAPS, mean_gap};
use crate::want::{Rank, Want};
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::Consensus;
use std::time::Duration;

/// A clock that goes back by more than this begins all waiting anew.
const STEP_BACK_MAX: Duration = Duration::from_secs(10);

/// One blob read of so many goes to a stranger's blob while others wait too.
const STRANGERS_EVERY: u64 = 4;

/// One part of so many is one of the oldest blob that is written.
const OLDEST_EVERY: u64 = 4;

/// What a tick could go to, chosen before it is known which rank gets it.
#[derive(Default)]
struct Picks {
    send: Option<Send>,
    read: Option<Read>,
    /// The read that does not wait until all is written.
    owed: Option<Read>,
    hot: Option<Poll>,
    warm: Option<Poll>,
    idle: Option<Poll>,
    copy: Option<Send>,
    /// An own key and a generation.
    inbox: Option<(i64, u32)>,
    overdue: Option<Rank>,
}

/// What is looked at again and again.
#[derive(Clone, Copy)]
enum Poll {
    Chain(i64),
    Slot(i64),
    Invite(i64),
}

#[derive(Clone, Copy)]
enum Send {
    Box(i64),
    Commit(i64),
    Letter(i64),
    Part(i64),
}

#[derive(Clone, Copy)]
enum Read {
    Card(i64),
    Slot(i64),
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
        self.memory.generation = consensus.current_generation().map(|generation| generation.number);
        if self.network_forked {
            return self.last_words(now, consensus, rng);
        }
        self.wind_clocks(now, consensus, rng)?;
        self.give_up_flights(now, consensus, rng)?;
        self.upkeep(now, consensus, rng)?;
        self.plan_commits(now, consensus, rng)?;
        self.prepare(now, consensus, rng)?;
        self.price_letters(now, consensus, rng)?;
        self.work();
        if self.memory.flights.len() >= WINDOW {
            return Ok(None);
        }
        let picks = self.pick(now, consensus);
        let waiting = Waiting {
            send: picks.send.is_some(),
            blob_read: picks.read.is_some(),
            read_owed: picks.owed.is_some(),
            hot: picks.hot.is_some(),
            warm: picks.warm.is_some(),
            idle: picks.idle.is_some(),
            copy: picks.copy.is_some(),
            inbox: picks.inbox.is_some(),
            overdue: picks.overdue,
        };
        let Some(rank) = self.budget.choose(waiting) else { return Ok(None) };
        match rank {
            Rank::Send => picks.send.map_or(Ok(None), |send| self.want_send(send, now, consensus, rng)),
            Rank::BlobRead => match picks.owed.filter(|_| picks.send.is_some()).or(picks.read) {
                Some(Read::Card(contact)) => Ok(self.want_card(contact, now, consensus, rng)),
                Some(Read::Slot(conversation)) => Ok(self.want_slot(conversation, Rank::BlobRead, now, consensus, rng)),
                Some(Read::Part(blob)) => Ok(self.want_part_in(blob, now, consensus, rng)),
                None => Ok(None),
            },
            Rank::Hot => Ok(picks.hot.and_then(|poll| self.want_look(poll, rank, now, consensus, rng))),
            Rank::Warm => Ok(picks.warm.and_then(|poll| self.want_look(poll, rank, now, consensus, rng))),
            Rank::Idle => Ok(picks.idle.and_then(|poll| self.want_look(poll, rank, now, consensus, rng))),
            Rank::Copy => {
                self.memory.copies += 1;
                let want = picks.copy.map_or(Ok(None), |send| self.want_send(send, now, consensus, rng));
                Ok(want?.map(|want| Want { rank, ..want }))
            }
            Rank::Inbox => match picks.inbox {
                Some(inbox) => self.want_inbox(inbox, now, consensus, rng),
                None => Ok(None),
            },
        }
    }

    fn want_look(
        &mut self,
        poll: Poll,
        rank: Rank,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        match poll {
            Poll::Chain(chain) => self.want_poll(chain, rank, now, consensus, rng),
            Poll::Slot(conversation) => self.want_slot(conversation, rank, now, consensus, rng),
            Poll::Invite(invite) => self.want_claim(invite, rank, now, consensus, rng),
        }
    }

    /// Mean gap between two looks into one own inbox: those of one key, in all generations, take at most one tick in eight, also
    /// at the low rate. How many keys are read does not show in it.
    pub(super) fn inbox_gap(&self, consensus: &Consensus) -> Duration {
        let parameters = &consensus.parameters;
        let generations = u32::try_from(consensus.generations.len()).unwrap_or(u32::MAX);
        let gap = self.tick_gap(consensus).saturating_mul(8).saturating_mul(generations);
        mean_gap(Rank::Inbox, parameters).max(gap)
    }

    /// Mean gap between two ticks of the own rate class.
    pub(super) fn tick_gap(&self, consensus: &Consensus) -> Duration {
        match self.profile.class() {
            RateClass::Normal => consensus.parameters.lambda_p.mean_gap(),
            RateClass::Low => consensus.parameters.lambda_low.mean_gap(),
        }
    }

    fn want_send(
        &mut self,
        send: Send,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        match send {
            Send::Box(row) => self.want_box(row, now, consensus, rng),
            Send::Commit(row) => self.want_commit(row, now, consensus, rng),
            Send::Letter(letter) => self.want_letter(letter, now, consensus, rng),
            Send::Part(blob) => self.want_part_out(blob, now, consensus, rng),
        }
    }

    /// Draws first times for clocks that have none: after a start, for a new chain, for a new generation.
    fn wind_clocks(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let parameters = &consensus.parameters;
        for reader in self.memory.readers.values_mut() {
            reader.clock.start(mean_gap(reader.class(now, parameters), parameters), now, rng);
        }
        for slot in self.memory.slots.values_mut() {
            slot.clock.start(mean_gap(Rank::Idle, parameters), now, rng);
        }
        let keys = self.active_keys(now)?;
        let gap = self.inbox_gap(consensus);
        let inboxes = &mut self.memory.inboxes;
        inboxes.retain(|(key, number), _| keys.contains(key) && consensus.generation(*number).is_some());
        for (key, generation) in
            keys.iter().flat_map(|key| consensus.generations.iter().map(move |of| (*key, of.number)))
        {
            let clock = inboxes.entry((key, generation)).or_default();
            clock.start(gap, now, rng);
        }
        for fetch in self.memory.cards.values_mut() {
            fetch.clock.start(Duration::ZERO, now, rng);
        }
        for invite in self.memory.invites.values_mut() {
            invite.clock.start(mean_gap(Rank::Warm, parameters), now, rng);
        }
        Ok(())
    }

    /// Wants whose answer is long overdue are as good as unanswered: the window must not fill up with them.
    pub(super) fn give_up_flights(
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
        let (read, owed) = self.pick_read(now, consensus);
        let (send, copy) = (self.pick_send(now), self.pick_copy(now));
        let mut picks = Picks { send, read, owed, copy, ..Picks::default() };
        let inboxes = self.memory.inboxes.iter().filter_map(|(inbox, clock)| Some((clock.ran_out(now)?, *inbox)));
        picks.inbox = inboxes.min().map(|(_, inbox)| inbox);
        let parameters = &consensus.parameters;
        let chains =
            self.memory.readers.iter().filter(|(_, reader)| reader.next().is_some()).filter_map(|(chain, reader)| {
                Some((reader.clock.ran_out(now)?, Poll::Chain(*chain), reader.class(now, parameters)))
            });
        let slots = self.memory.slots.iter().filter(|(_, slot)| slot.waits());
        let slots = slots.filter_map(|(row, slot)| Some((slot.clock.ran_out(now)?, Poll::Slot(*row), Rank::Idle)));
        let invites = self.memory.invites.iter().filter_map(|(row, invite)| {
            Some((invite.clock.ran_out(now)?, Poll::Invite(*row), invite.class(now, parameters)))
        });
        let mut earliest: [Option<(UnixMillis, Poll)>; 3] = [None; 3];
        for (at, poll, class) in chains.chain(slots).chain(invites) {
            let first = match class {
                Rank::Hot => &mut earliest[0],
                Rank::Warm => &mut earliest[1],
                Rank::Idle | Rank::Copy | Rank::Send | Rank::BlobRead | Rank::Inbox => &mut earliest[2],
            };
            if first.is_none_or(|(best, _)| at < best) {
                *first = Some((at, poll));
            }
        }
        let [_, warm, idle] = earliest;
        [picks.hot, picks.warm, picks.idle] = earliest.map(|first| first.map(|(_, poll)| poll));
        // of two that are overdue the one that waits for more of its own gaps: few warm chains take all ticks of a low rate
        picks.overdue = [(Rank::Warm, warm.map(|(at, _)| at)), (Rank::Idle, idle.map(|(at, _)| at))]
            .into_iter()
            .filter_map(|(rank, at)| {
                let gaps = now.since(at?).div_duration_f64(mean_gap(rank, &consensus.parameters));
                (gaps >= f64::from(OVERDUE_GAPS)).then_some((gaps, rank))
            })
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, rank)| rank);
        picks
    }

    fn pick_send(&self, now: UnixMillis) -> Option<Send> {
        if self.rolled_back.is_some() {
            return None;
        }
        let fresh = self.memory.boxes.iter().find(|(row, pending)| {
            // who is invited reads the Welcome at once: it is there before the pointer to it
            let welcome = self.memory.pointers.get(row).and_then(|blob| self.memory.blobs_out.get(blob));
            !pending.held && pending.attempt.ready(now) && welcome.is_none_or(|blob| blob.queue.readable())
        });
        if let Some((row, _)) = fresh {
            return Some(Send::Box(*row));
        }
        let commit = self.memory.commits.iter().find(|(_, commit)| {
            // who is sent to the slot reads the commit at once: it is there before
            !commit.held
                && commit.attempt.ready(now)
                && self.memory.blobs_out.get(&commit.blob).is_none_or(|blob| blob.queue.readable())
        });
        if let Some((row, _)) = commit {
            return Some(Send::Commit(*row));
        }
        let letter = self.memory.letters.iter().find(|(_, letter)| {
            // who is invited reads the Welcome at once: it is there before the letter
            let welcome = letter.blob.and_then(|blob| self.memory.blobs_out.get(&blob));
            letter.stored == 0
                && welcome.is_none_or(|blob| blob.queue.readable())
                && letter.attempt.ready(now)
                && letter.work.as_ref().is_some_and(|work| work.found)
        });
        if let Some((row, _)) = letter {
            return Some(Send::Letter(*row));
        }
        // the one that needs fewest: a commit or a long text must not wait for a file of half an hour; nor a file for ever
        let ready = |blob: &&BlobOut| !blob.queue.readable() && blob.queue.has_ready(now);
        let mut parts = self.memory.blobs_out.iter().filter(|(_, blob)| ready(blob));
        let part = match self.memory.blob_writes.is_multiple_of(OLDEST_EVERY) {
            true => parts.next(),
            false => parts.min_by_key(|(_, blob)| blob.queue.missing()),
        };
        part.map(|(row, _)| Send::Part(*row))
    }

    /// Something that one replica has and the other has not. Where that one is gone these are many, as many as it has boxes,
    /// and they would take the ticks from what somebody waits for: [`crate::budget`] gives them what is left, and one
    /// tick in 16.
    fn pick_copy(&self, now: UnixMillis) -> Option<Send> {
        if self.rolled_back.is_some() {
            return None;
        }
        let memory = &self.memory;
        let boxes = memory.boxes.iter().filter(|(_, pending)| pending.held);
        let boxes = boxes.map(|(row, pending)| (pending.attempt, Send::Box(*row)));
        let commits = memory.commits.iter().filter(|(_, commit)| commit.held);
        let commits = commits.map(|(row, commit)| (commit.attempt, Send::Commit(*row)));
        let priced = |letter: &Letter| letter.work.as_ref().is_some_and(|work| work.found);
        let letters = memory.letters.iter().filter(|(_, letter)| letter.stored != 0 && priced(letter));
        let letters = letters.map(|(row, letter)| (letter.attempt, Send::Letter(*row)));
        let copies = boxes.chain(commits).chain(letters).filter(|(attempt, _)| attempt.ready(now));
        // who waits longest; in turns with parts of blobs, of which nobody knows how long they wait
        let small = copies.min_by_key(|(attempt, _)| attempt.due).map(|(_, send)| send);
        let part = memory.blobs_out.iter().find(|(_, blob)| blob.queue.readable() && blob.queue.has_ready(now));
        let part = part.map(|(row, _)| Send::Part(*row));
        if memory.copies.is_multiple_of(2) { small.or(part) } else { part.or(small) }
    }

    /// What is read next, and what of it is owed: a read for somebody whom the user wants does not wait until all is written.
    fn pick_read(&self, now: UnixMillis, consensus: &Consensus) -> (Option<Read>, Option<Read>) {
        let mut cards = self.memory.cards.iter();
        let card = cards.find(|(_, fetch)| fetch.next().is_some() && (fetch.flows() || fetch.clock.due(now)));
        let card = card.map(|(contact, _)| Read::Card(*contact));
        let slots =
            || self.memory.slots.iter().filter(|(_, slot)| slot.urgent && slot.waits() && slot.attempt.ready(now));
        let slot = slots().find(|(_, slot)| !slot.request).map(|(row, _)| Read::Slot(*row));
        // what lies in a generation that is not listed has no place: its writer says where it is written anew
        let ready = || {
            self.memory.blobs_in.iter().filter(|(_, blob)| {
                !blob.waits
                    && blob.resting <= now
                    && blob.queue.has_ready(now)
                    && consensus.generation(blob.incoming.generation).is_some()
            })
        };
        // commits first, for others wait for whoever has not read them; the others take turns
        let is_commit = |blob: &BlobIn| blob.incoming.purpose == Purpose::Commit && blob.owed();
        let owed = ready().filter(|(_, blob)| blob.owed());
        let owed = owed.min_by_key(|(_, blob)| (!is_commit(blob), blob.served)).map(|(row, _)| Read::Part(*row));
        // those of accepted people before those of strangers, but for every fourth read
        let strangers_first = self.memory.blob_reads.is_multiple_of(STRANGERS_EVERY);
        let turn = ready()
            .min_by_key(|(_, blob)| (!is_commit(blob), blob.incoming.stranger != strangers_first, blob.served))
            .map(|(row, _)| Read::Part(*row));
        let of_request = slots().map(|(row, _)| Read::Slot(*row)).next();
        (card.or(slot).or(turn).or(of_request), card.or(slot).or(owed))
    }
}
