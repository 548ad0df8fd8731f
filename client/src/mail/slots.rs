//! The slots of a group's current epoch, read: whose commit ends it.

use super::epochs::Entered;
use super::flight::{Attempt, Flight, Purpose};
use super::parts::BlobIn;
use super::writing::each;
use super::{Mail, MailError, Standing, provider};
use crate::blobs_store::{self, Purpose as Aim};
use crate::chains::{self, Side};
use crate::commit_slots::{Entry, SLOTS_MAX, SlotKeys, commit_hash, signed_part};
use crate::commits::{self, Parcel};
use crate::commits_mls::{self, Applied, Author};
use crate::conversations::{self, Conversation};
use crate::conversations_mls::GroupError;
use crate::group_epochs::{self, GroupEpoch, Sight};
use crate::polls::{PollClock, mean_gap};
use crate::want::{Rank, Want};
use crate::{contacts, group_changes, members};
use rand::CryptoRng;
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

/// What it means that nothing was found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfound {
    /// Nothing yet: it is read again.
    Waits,
    /// The replica that decides is gone: the next slot decides.
    GivenUp,
    /// There is no commit, though a member's `end` names one.
    Missing,
}

/// The slots of one conversation's current epoch.
pub(super) struct SlotReader {
    epoch: u64,
    slot: u64,
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
    named: Option<Hash>,
    sight: Sight,
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
            self.sight.missing_since = None;
        }
        self.hurry();
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
        let (epoch, slot, generation) = (reader.epoch, reader.slot, reader.generation);
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
        if (reader.epoch, reader.slot) != (epoch, slot) || reader.fetching || self.rolled_back.is_some() {
            return Ok(());
        }
        let mut found = None;
        for (store, answer) in each(answers) {
            let second = usize::from(store == flight.placement[1]);
            let other = flight.placement[1 - second];
            match (answer.status, &answer.body) {
                (Status::Found, Some(body)) => match reader.keys.open(slot, body) {
                    Some(plaintext) => found = Some((plaintext, body.clone())),
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
        if let Some((plaintext, body)) = found {
            let own = commits::commit_of(&self.profile.db, &self.profile.vault, conversation, epoch)?;
            if let Some(own) = own.filter(|own| own.slot == slot && own.body == body) {
                return self.won(own.row, now, rng);
            }
            return self.entry_read(conversation, &plaintext, now, rng);
        }
        // the second replica takes nothing that the first did not sign for: what the first spoilt decides nothing
        if matches!(reader.holds, [Holds::Garbage, Holds::Garbage | Holds::Nothing]) {
            return self.skip_slot(conversation, epoch, slot, rng);
        }
        match self.unfound(conversation, flight, answers, now, consensus)? {
            Unfound::Waits => {}
            Unfound::GivenUp => return self.skip_slot(conversation, epoch, slot, rng),
            Unfound::Missing => return self.commit_missing(conversation),
        }
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(()) };
        if reader.ask.is_some() {
            let pace = if reader.request { Rank::Idle } else { Rank::Hot };
            reader.clock.wind(mean_gap(pace, &consensus.parameters), now, rng);
        }
        Ok(())
    }

    /// Nothing was found. Notes whether the replica that decides was heard: when it was not for long the slot is given up, else
    /// a dead store would hold the group in its generation until that is gone. And when both say for so long that there is
    /// nothing that whoever committed would have written it again twice, a commit that few members name is not believed any
    /// more: else one member could hold a group for ever.
    fn unfound(
        &mut self,
        conversation: i64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
    ) -> Result<Unfound, MailError> {
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(Unfound::Waits) };
        let retention = Duration::from_millis(consensus.parameters.retention_ms);
        let empty_at = |position: usize| {
            each(answers)
                .any(|(store, answer)| flight.placement.get(position) == Some(&store) && answer.status == Status::Empty)
        };
        let spoke = each(answers).any(|(store, answer)| {
            store == flight.placement[0] && matches!(answer.status, Status::Empty | Status::Found)
        });
        let mut sight = reader.sight;
        let mut unfound = Unfound::Waits;
        // who was away for so long that it may have come and gone knows nothing
        let seen = sight.hold_until == UnixMillis(0) && sight.touched_at.plus(retention * 3 / 4) >= now;
        let second_gone = flight.placement.get(1).is_some_and(|second| consensus.store(*second).is_none());
        if reader.named.is_some()
            && seen
            && empty_at(0)
            && (empty_at(1) || second_gone)
            && sight.missing_since.get_or_insert(now).plus(retention / 8) < now
        {
            unfound = Unfound::Missing;
        }
        if empty_at(0) {
            reader.urgent = reader.named.is_some();
            if sight.touched_at.plus(retention * 3 / 4) < now {
                // whoever committed writes its slot again at least so often
                sight.hold_until = now.plus(retention / 4);
            }
            if sight.touched_at.plus(retention / 64) < now {
                sight.touched_at = now;
            }
            sight.mute_since = None;
        } else if spoke {
            sight.mute_since = None;
        } else if empty_at(1) {
            let since = *sight.mute_since.get_or_insert(now);
            // who is told that there is a commit need not wait for long
            // nor who sees that the store has left
            let left = consensus.store(flight.placement[0]).is_none();
            let patience = if reader.named.is_some() || left { retention / 16 } else { retention / 4 };
            if since.plus(patience) < now {
                unfound = Unfound::GivenUp;
            }
        }
        if sight != reader.sight {
            reader.sight = sight;
            group_epochs::set_sight(&self.profile.db, conversation, reader.epoch, &sight)?;
        }
        Ok(unfound)
    }

    /// The commit that ended the epoch, as members say, is nowhere. When more than half of the others say so the own profile may
    /// have been away until it was gone, and waits; else they did not say the truth, and nothing more is read of them.
    fn commit_missing(&mut self, conversation: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        // no commit has this hash
        let never = Hash::from_bytes([0; 32]);
        let mut said = chains::name_others(db, vault, conversation.row, conversation.epoch, &never)?;
        let others = members::current(db, conversation.row)?.into_iter().filter(|member| !member.astray);
        let others: Vec<i64> = others.map(|member| member.row).collect();
        said.retain(|member| others.contains(member));
        if 2 * said.len() > others.len() {
            return Ok(());
        }
        let transaction = db.unchecked_transaction()?;
        let mut entered = Entered { regrouped: true, ..Entered::default() };
        entered.forked = self.part_from(&transaction, &conversation, conversation.epoch, &said)?;
        group_epochs::forget_named(&transaction, conversation.row, conversation.epoch)?;
        entered.gone = self.forget_behind(&transaction, &conversation)?;
        transaction.commit()?;
        self.memory.slots.remove(&conversation.row);
        self.went_on(conversation.row, entered)
    }

    /// A member sealed this for the slot: is it an entry, and whose?
    fn entry_read(
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
            return self.skip_slot(conversation.row, epoch, slot, rng);
        };
        let signed = signed_part(&conversation.id.0, epoch, slot, entry.leaf, &entry.manifest);
        let provider = provider(&self.profile, &self.crypto, db);
        let id = conversation.id.0;
        let author = commits_mls::whose_entry(&provider, &id, entry.leaf, &signed, &entry.signature)?;
        drop(provider);
        match author {
            Author::Nobody => return self.skip_slot(conversation.row, epoch, slot, rng),
            // ours, and not what we have on our disk
            Author::Oneself => return self.stop(conversation.row),
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
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        let transaction = db.unchecked_transaction()?;
        let Some(at) = group_epochs::of(&transaction, vault, conversation.row, epoch)? else { return Ok(()) };
        if conversation.epoch != epoch || at.slot != slot {
            return Ok(());
        }
        let next = slot + 1;
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
        let at = group_epochs::of(db, vault, conversation.row, epoch)?;
        let Some((slot, leaf)) = at.and_then(|at| Some((at.slot, at.fetching?.0))) else { return Ok(()) };
        if self.rolled_back.is_some() || conversation.epoch != epoch {
            return Ok(());
        }
        let Some(parcel) = Parcel::from_bytes(bytes) else {
            return self.skip_slot(conversation.row, epoch, slot, rng);
        };
        let hash = commit_hash(bytes);
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
                return self.skip_slot(conversation.row, epoch, slot, rng);
            }
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let Side::Own(writer) = &own.side else { return Err(MailError::Damaged("an own chain without write key")) };
        let mut entered = self.next_epoch(&transaction, &conversation, &led, &parcel.cuts, writer, &hash, now)?;
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
    pub(super) fn commit_given_up(&mut self, blob: i64, rng: &mut impl CryptoRng) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some((conversation, epoch)) = group_epochs::of_blob(db, blob)? else {
            return blobs_store::delete_in(db, blob);
        };
        let Some(at) = group_epochs::of(db, vault, conversation, epoch)? else { return Ok(()) };
        self.skip_slot(conversation, epoch, at.slot, rng)
    }

    pub(super) fn warn_astray(&mut self, conversation: &Conversation) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut names = Vec::new();
        for member in members::current(db, conversation.row)?.iter().filter(|member| member.astray) {
            names.push(contacts::by_row(db, vault, member.contact)?.label());
        }
        self.warn(
            "member_astray",
            format!(
                "{1} went on from another state in group {0}: neither reads the other any more. One side can leave the group, \
                 and the other add it again",
                conversation.id,
                names.join(", "),
            ),
        );
        Ok(())
    }

    pub(super) fn warn_broken(&mut self, conversation: &Conversation) {
        let next = match conversation.contact {
            Some(_) => "agree on a new beginning",
            None => {
                "leave the group, and ask a member who can still write in it to add you again; else create a new one"
            }
        };
        let apart = format!("the members of conversation {} went on from different states; {next}", conversation.id);
        self.warn("conversation_broken", apart);
    }
}
