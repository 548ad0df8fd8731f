//! The slots of a group's current epoch, read: whose commit ends it.

use super::flight::{Attempt, Flight, Purpose};
use super::parts::BlobIn;
use super::unfound::Unfound;
use super::writing::each;
use super::{Mail, MailError, Standing, provider};
use crate::blobs_store::{self, Observed, Purpose as Aim};
use crate::chains::{self, Side};
use crate::commit_slots::{Entry, SLOTS_MAX, SlotKeys, commit_hash, signed_part};
use crate::commits::{self, Parcel};
use crate::commits_mls::{self, Applied, Author};
use crate::conversations;
use crate::conversations_mls::GroupError;
use crate::group_epochs::{self, GroupEpoch, Sight};
use crate::polls::{PollClock, mean_gap};
use crate::want::{Rank, Want};
use crate::{contacts, ends, group_changes};
use rand::CryptoRng;
use shoal_protocol::boxes::BoxBody;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Operation, Status};
use shoal_protocol::{Hash, StoreIndex, UnixMillis};
use std::time::Duration;

/// What a replica was seen to hold in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Unknown,
    Nothing,
    /// What no member sealed for this slot.
    Garbage,
}

/// The slots of one conversation's current epoch.
pub(super) struct SlotReader {
    pub(super) epoch: u64,
    /// The one that decides, as far as is known.
    pub(super) slot: u64,
    generation: u32,
    keys: SlotKeys,
    /// Polls without a reason, at the idle pace.
    pub(super) clock: PollClock,
    /// The next try when there is a reason.
    pub(super) attempt: Attempt,
    /// Somebody waits for what lies there: an `end` names a commit, or an own one found the slot taken.
    pub(super) urgent: bool,
    fetching: bool,
    /// A stranger's, not accepted: read only when there is a reason, and never in a hurry.
    pub(super) request: bool,
    /// What the replicas hold, in the order of placement.
    holds: [Holds; 2],
    ask: Option<StoreIndex>,
    /// The commit that an `end` names.
    pub(super) named: Option<Hash>,
    pub(super) sight: Sight,
    /// So many slots behind this one it looks next: this one is empty, and somebody says that a commit ended the epoch.
    ahead: u64,
    /// The empty slot that decides, while something behind it is read.
    base: Option<u64>,
    /// Slots behind this one that hold nothing that counts, a bit each, and when they are looked into again.
    refused: u64,
    refused_until: UnixMillis,
    /// Since when it is in sight in this life of the client without a long gap, and when it was seen last.
    in_sight: Option<Observed>,
    /// Nothing was found in the slots behind this one since it is in sight; `false` in the middle of a round.
    pub(super) alone: bool,
}

impl SlotReader {
    pub(super) fn new(epoch: &GroupEpoch, request: bool) -> Self {
        Self {
            epoch: epoch.epoch,
            slot: epoch.slot,
            generation: epoch.generation,
            keys: SlotKeys::new(&epoch.secret),
            clock: PollClock::default(),
            attempt: Attempt::default(),
            urgent: epoch.named.is_some(),
            fetching: epoch.fetching.is_some(),
            request,
            holds: [Holds::Unknown; 2],
            ask: None,
            named: epoch.named,
            sight: epoch.sight,
            ahead: 0,
            base: epoch.base,
            refused: 0,
            refused_until: UnixMillis(0),
            in_sight: None,
            alone: false,
        }
    }
    /// Whether it reads where the profile says.
    pub(super) fn is_at(&self, epoch: &GroupEpoch) -> bool {
        (self.epoch, self.slot, self.fetching) == (epoch.epoch, epoch.slot, epoch.fetching.is_some())
    }
    /// Whether the slot may be read now: not while what was found in it is fetched.
    pub(super) fn waits(&self) -> bool {
        !self.fetching && (self.urgent || !self.request)
    }
    /// An `end` named the commit.
    pub(super) fn name(&mut self, commit: Hash) {
        if self.named.replace(commit) != Some(commit) {
            self.sight.missing = None;
        }
        self.hurry();
    }
    /// What was known of the epoch's slots before it came to this one.
    pub(super) fn after(self, before: &Self) -> Self {
        match self.epoch == before.epoch {
            true => Self { refused: before.refused, refused_until: before.refused_until, ..self },
            false => self,
        }
    }
    /// Looks into a slot behind the one that was looked into last, and after so many into the one that decides again.
    pub(super) fn look(&mut self, most: u64, now: UnixMillis) {
        if self.refused_until <= now {
            self.refused = 0;
        }
        let fresh = |ahead: &u64| self.slot + ahead < SLOTS_MAX && self.refused >> (self.slot + ahead) & 1 == 0;
        let next = (self.ahead + 1..=most).find(fresh);
        self.alone |= next.is_none() && most > 0 && self.refused == 0;
        self.ahead = next.unwrap_or(0);
    }
    /// Somebody said something new: what did not count may count now.
    pub(super) fn look_anew(&mut self) {
        self.refused = 0;
    }
    /// What lies in the slot that is read does not count; it is looked into again after a while, for others may say more by then.
    pub(super) fn refuse(&mut self, until: UnixMillis) {
        self.refused |= 1 << self.slot.min(SLOTS_MAX);
        self.refused_until = until;
    }
    /// Whether what is read lies behind an empty slot, which decides as long as it does not count.
    pub(super) fn behind(&self) -> bool {
        self.base.is_some()
    }
    /// The slot that is read next.
    pub(super) fn next(&self) -> u64 {
        self.slot + self.ahead
    }
    /// This replica is to be asked first.
    pub(super) fn ask_first(&mut self, store: StoreIndex) {
        self.ask = Some(store);
    }
    /// It is in sight now. Since when it has been, without a gap of this length?
    pub(super) fn in_sight_since(&mut self, now: UnixMillis, gap: Duration) -> UnixMillis {
        let before = self.in_sight;
        let in_sight = Observed::again(before, now, gap);
        self.alone &= before.is_some_and(|before| before.since == in_sight.since);
        self.in_sight.insert(in_sight).since
    }
    /// What a member sealed for a slot.
    pub(super) fn open(&self, slot: u64, body: &BoxBody) -> Option<Vec<u8>> {
        self.keys.open(slot, body)
    }
    /// There is a reason to read it now.
    pub(super) fn hurry(&mut self) {
        if !self.urgent {
            self.urgent = true;
            self.attempt = Attempt::default();
        }
    }
}

impl Mail {
    pub(super) fn want_slot(
        &mut self,
        conversation: i64,
        rank: Rank,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let reader = self.memory.slots.get_mut(&conversation)?;
        reader.clock.wind(mean_gap(Rank::Idle, &consensus.parameters), now, rng);
        let slowest = if reader.request { Rank::Idle } else { Rank::Warm };
        reader.attempt.later(slowest, now, &consensus.parameters, rng);
        let (epoch, slot, generation) = (reader.epoch, reader.next(), reader.generation);
        let id = reader.keys.id(slot);
        let first = reader.ask.take();
        let order = first.and_then(|first| {
            let [one, other] = super::wants::place(consensus, generation, &id)?;
            Some(if other == first { [other, one] } else { [one, other] })
        });
        let purpose = Purpose::GetSlot { conversation, epoch, slot };
        self.launch(rank, generation, Operation::Get { id }, purpose, order, now, consensus, rng)
    }

    pub(super) fn slot_read(
        &mut self,
        (conversation, epoch, slot): (i64, u64, u64),
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(()) };
        if (reader.epoch, reader.next()) != (epoch, slot) || reader.fetching || self.rolled_back.is_some() {
            return Ok(());
        }
        if reader.ahead > 0 {
            return self.looked_ahead((conversation, epoch, slot), flight, answers, now, rng);
        }
        let mut found = None;
        for (store, answer) in each(answers) {
            let second = usize::from(store == flight.placement[1]);
            let other = flight.placement[1 - second];
            match (answer.status, &answer.body) {
                (Status::Found, Some(body)) => match reader.keys.open(slot, body) {
                    Some(plaintext) => found = Some(plaintext),
                    None => {
                        if let Some(holds) = reader.holds.get_mut(second) {
                            *holds = Holds::Garbage;
                        }
                        reader.ask = Some(other);
                    }
                },
                (Status::Found, None) if reader.holds.get(second) != Some(&Holds::Garbage) => reader.ask = Some(store),
                (Status::Empty, _) => {
                    if let Some(holds) = reader.holds.get_mut(second) {
                        *holds = Holds::Nothing;
                    }
                }
                _ => {}
            }
        }
        if let Some(plaintext) = found {
            return self.entry_read(conversation, &plaintext, now, rng);
        }
        if reader.behind() {
            // it was there when it was looked into; that was in another life of the client
            return self.skip_slot(conversation, epoch, slot, now, rng);
        }
        // the second replica takes nothing that the first did not sign for: what the first spoilt decides nothing
        if matches!(reader.holds, [Holds::Garbage, Holds::Garbage | Holds::Nothing]) {
            return self.skip_slot(conversation, epoch, slot, now, rng);
        }
        match self.unfound(conversation, flight, answers, now, consensus)? {
            Unfound::Waits => {}
            Unfound::GivenUp => return self.skip_slot(conversation, epoch, slot, now, rng),
            Unfound::Elsewhere => self.look_ahead(conversation, now, consensus),
            Unfound::Missing => return self.commit_missing(conversation, now, consensus),
        }
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(()) };
        if reader.ask.is_some() {
            let pace = if reader.request { Rank::Idle } else { Rank::Hot };
            reader.clock.wind(mean_gap(pace, &consensus.parameters), now, rng);
        }
        Ok(())
    }

    /// A member sealed this for the slot: is it an entry, and whose?
    pub(super) fn entry_read(
        &mut self,
        conversation: i64,
        plaintext: &[u8],
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        let Some(reader) = self.memory.slots.get_mut(&conversation.row) else { return Ok(()) };
        let (epoch, slot) = (reader.epoch, reader.slot);
        let Some(entry) = Entry::from_bytes(plaintext) else {
            return self.skip_slot(conversation.row, epoch, slot, now, rng);
        };
        let signed = signed_part(&conversation.id.0, epoch, slot, entry.leaf, &entry.manifest);
        let provider = provider(&self.profile, &self.crypto, db);
        let id = conversation.id.0;
        let author = commits_mls::whose_entry(&provider, &id, entry.leaf, &signed, &entry.signature)?;
        drop(provider);
        match author {
            Author::Nobody => return self.skip_slot(conversation.row, epoch, slot, now, rng),
            Author::Oneself => {
                // whoever sealed it: what counts is what we signed
                let own = commits::commit_of(db, vault, conversation.row, epoch)?;
                let own = own.filter(|own| own.slot == slot && own.manifest == entry.manifest);
                let at = group_epochs::of(db, vault, conversation.row, epoch)?;
                return match own.zip(at) {
                    // ours, and not what we have on our disk
                    None => self.stop(conversation.row),
                    Some((own, at)) if self.passed_over(conversation.row, &at, &own.hash, now)? => {
                        self.skip_slot(conversation.row, epoch, slot, now, rng)
                    }
                    Some((own, _)) => self.won(own.row, now, rng),
                };
            }
            Author::Peer => {}
        }
        let transaction = db.unchecked_transaction()?;
        let (generation, stranger) = (reader.generation, conversation.request);
        let incoming =
            blobs_store::insert_in(&transaction, vault, &entry.manifest, generation, Aim::Commit, stranger, now)?;
        group_epochs::set_fetching(&transaction, conversation.row, epoch, entry.leaf, incoming.row)?;
        transaction.commit()?;
        reader.fetching = true;
        self.memory.blobs_in.insert(incoming.row, BlobIn::new(incoming, &[]));
        Ok(())
    }

    /// What lies in the slot does not count: the next one decides. An own commit that waits goes there.
    fn skip_slot(
        &mut self,
        conversation: i64,
        epoch: u64,
        slot: u64,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        let Some(at) = group_epochs::of(db, vault, conversation.row, epoch)? else { return Ok(()) };
        if conversation.epoch != epoch || at.slot != slot {
            return Ok(());
        }
        if at.base.is_some() {
            return self.look_back(conversation.row, &at, now);
        }
        let next = slot + 1;
        let transaction = db.unchecked_transaction()?;
        group_epochs::set_slot(&transaction, conversation.row, epoch, next)?;
        if let Some((_, blob)) = at.fetching {
            blobs_store::delete_in(&transaction, blob)?;
        }
        let broken = next >= SLOTS_MAX;
        if broken {
            conversations::set_broken(&transaction, conversation.row)?;
        } else if let Some(own) = commits::commit_of(&transaction, vault, conversation.row, epoch)? {
            let keys = SlotKeys::new(&at.secret);
            let body = self.seal_entry(&transaction, &conversation, &keys, next, &own.manifest, rng)?;
            commits::move_to(&transaction, own.row, next, &body)?;
        }
        transaction.commit()?;
        if let Some((_, blob)) = at.fetching {
            self.memory.blobs_in.remove(&blob);
        }
        let urgent = self.memory.slots.get(&conversation.row).is_some_and(|reader| reader.urgent);
        self.refollow(conversation.row)?;
        if let Some(reader) = self.memory.slots.get_mut(&conversation.row) {
            reader.urgent |= urgent;
        }
        if broken {
            self.warn_broken(&conversation);
        }
        Ok(())
    }

    /// The commit of a slot is here, whole: apply it, or skip the slot. One transaction.
    pub(super) fn commit_whole(
        &mut self,
        blob: i64,
        bytes: &[u8],
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some((conversation, epoch)) = group_epochs::of_blob(db, blob)? else {
            return blobs_store::delete_in(db, blob);
        };
        let conversation = conversations::by_row(db, vault, conversation)?;
        let Some(at) = group_epochs::of(db, vault, conversation.row, epoch)? else { return Ok(()) };
        let (slot, Some((leaf, _))) = (at.slot, at.fetching) else { return Ok(()) };
        if self.rolled_back.is_some() || conversation.epoch != epoch {
            return Ok(());
        }
        let Some(parcel) = Parcel::from_bytes(bytes) else {
            return self.skip_slot(conversation.row, epoch, slot, now, rng);
        };
        let hash = commit_hash(bytes);
        // most went on from a later slot: whoever followed this one would be alone with its committer
        if self.passed_over(conversation.row, &at, &hash, now)? {
            return self.skip_slot(conversation.row, epoch, slot, now, rng);
        }
        let transaction = db.unchecked_transaction()?;
        let own = chains::writing(&transaction, vault, conversation.row)?;
        // before the group goes on: nothing can be sealed in a past epoch
        let sealed = self.seal_end(&transaction, &conversation, &own, hash, rng)?;
        let applied = commits_mls::apply(
            &provider(&self.profile, &self.crypto, &transaction),
            &self.profile.own,
            &conversation.id.0,
            leaf,
            &parcel.commit,
        );
        if let (Some(_), Ok(applied)) = (at.base, &applied)
            && ends::most_named(&transaction, vault, conversation.row, epoch, applied.removed())? != Some(hash)
        {
            // behind an empty slot the word of those counts whom the commit leaves in
            drop(transaction);
            if at.named == Some(hash) {
                // it is there, and who named it did not lie: it waits for the others' word
                let sight = Sight { missing: None, ..at.sight };
                group_epochs::set_sight(db, conversation.row, epoch, &sight)?;
            }
            return self.look_back(conversation.row, &at, now);
        }
        let led = match applied {
            Ok(Applied::On(led)) if parcel.covers(&led.removed) => led,
            Ok(Applied::Out(removed)) if parcel.covers(&removed) => {
                // nothing of the own end is said any more: the others know
                drop(transaction);
                return self.put_out(conversation.row);
            }
            Ok(Applied::Again(removed)) if parcel.covers(&removed) => {
                drop(transaction);
                // who has left comes back only when somebody asks them anew
                let left = conversation.standing == Standing::Left;
                return if left { self.put_out(conversation.row) } else { self.gone_away(&conversation) };
            }
            Ok(Applied::On(_) | Applied::Out(_) | Applied::Again(_)) | Err(GroupError::Refused(_)) => {
                drop(transaction);
                return self.skip_slot(conversation.row, epoch, slot, now, rng);
            }
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let Side::Own(writer) = &own.side else { return Err(MailError::Damaged("an own chain without write key")) };
        let mut entered = self.next_epoch(&transaction, &conversation, &led, &parcel.cuts, writer, &hash, now)?;
        // the commit was read later than it was written: nobody can have been there before
        let seen = at.sight.touched_at.max(self.out_of_sight(now));
        group_epochs::set_touched(&transaction, conversation.row, led.begun.epoch, seen)?;
        // an own commit for this epoch lost; whom it was to add and the user wanted no more, the winner may have added
        let lost = commits::commit_of(&transaction, vault, conversation.row, epoch)?.and_then(|own| own.invitation);
        for (person, _) in lost.iter().flat_map(|lost| &lost.added) {
            if let Some(person) = contacts::by_inbox(&transaction, vault, person)? {
                group_changes::delete_remove(&transaction, conversation.row, person.row)?;
            }
        }
        entered.gone.extend(commits::forget_commits(&transaction, conversation.row, epoch)?);
        blobs_store::delete_in(&transaction, blob)?;
        transaction.commit()?;
        self.sealed(&sealed);
        self.went_on(conversation.row, entered)
    }

    /// The blob of a slot's commit is not what its manifest says, or never came.
    pub(super) fn commit_given_up(
        &mut self,
        blob: i64,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some((conversation, epoch)) = group_epochs::of_blob(db, blob)? else {
            return blobs_store::delete_in(db, blob);
        };
        let Some(at) = group_epochs::of(db, vault, conversation, epoch)? else { return Ok(()) };
        self.skip_slot(conversation, epoch, at.slot, now, rng)
    }
}
