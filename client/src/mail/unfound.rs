//! Nothing was found in a slot: what that means, and where else the commit may be.

use super::epochs::Entered;
use super::flight::{Flight, Reader};
use super::writing::each;
use super::{Mail, MailError};
use crate::blobs_store::{self, Observed};
use crate::group_epochs::{self, GroupEpoch, Sight};
use crate::{commits, conversations, ends};
use rand::CryptoRng;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use shoal_protocol::{Hash, UnixMillis};
use std::time::Duration;

/// Slots behind an empty one that are looked into. Members pass over one when the replica that decides it was mute for a
/// sixteenth of the retention time at least; three times in one epoch no two stores do that.
const AHEAD_MAX: u64 = 3;
/// After this part of the retention time a slot is passed over whose deciding replica is mute: when it left, or somebody is
/// told that there is a commit.
const PATIENCE_SHORT: u32 = 16;
/// After this one in any case.
const PATIENCE_LONG: u32 = 4;
/// A slot is in sight that was seen empty within this part of the retention time.
const IN_SIGHT: u32 = 24;

/// What it means that nothing was found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfound {
    /// Nothing yet: it is read again.
    Waits,
    /// The replica that decides is gone: the next slot decides.
    GivenUp,
    /// A commit may lie behind the next slots: a member's `end` names one, or the slot was out of sight.
    Elsewhere,
    /// The same for so long that there is no such commit.
    Missing,
}

impl Sight {
    /// Whether the slot was seen empty so lately that nobody can have passed over it since: they wait for half as long again.
    pub(super) fn lately(&self, now: UnixMillis, retention: Duration) -> bool {
        now <= self.touched_at.plus(retention / IN_SIGHT)
    }
    /// Whether the slot was out of sight for so long, now or before, that others may have passed over it. Who was there all the
    /// time knows that none did, whatever others say.
    pub(super) fn interrupted(&self, now: UnixMillis, retention: Duration) -> bool {
        self.back_at.is_some() || !self.lately(now, retention)
    }
}

/// When a slot that had been out of sight was seen again, and how long ago that is in this stretch of being there.
#[derive(Clone, Copy)]
struct Return {
    /// First of all, over all lives of the client.
    back_at: UnixMillis,
    /// In this stretch: the slot has been in sight since.
    since: UnixMillis,
}

impl Return {
    fn over(since: UnixMillis, now: UnixMillis, part: Duration) -> bool {
        since.plus(part) < now
    }
    /// Whether it took long enough, however little was heard: nobody is held up for ever. So long is the 64th part of the retention
    /// time of being there, or a quarter of it in all.
    fn long(self, now: UnixMillis, retention: Duration) -> bool {
        Self::over(self.since, now, retention / 64) || Self::over(self.back_at, now, retention / 4)
    }
    /// Whether a chain was read to its end since the slot is in sight again. Both replicas have to say so; after the 512th part of
    /// the retention time (40 minutes of 14 days) of being there, or a 16th in all, one is enough.
    fn heard(self, chain: &Reader, now: UnixMillis, retention: Duration) -> bool {
        let patient = Self::over(self.since, now, retention / 512) || Self::over(self.back_at, now, retention / 16);
        let read = if patient { chain.dry_at.max(chain.heard_at) } else { chain.heard_at };
        read.is_some_and(|at| at >= self.since)
    }
    /// Whether all chains of a conversation were. The others are read at once when it is wished.
    fn listen<'a>(
        self,
        chains: impl Iterator<Item = &'a mut Reader>,
        wished: bool,
        now: UnixMillis,
        retention: Duration,
    ) -> bool {
        let mut all = true;
        for chain in chains.filter(|chain| !self.heard(chain, now, retention)) {
            all = false;
            if wished && !chain.clock.due(now) {
                chain.clock.ring(now);
            }
        }
        all
    }
}

impl Mail {
    /// Nothing was found. Notes whether the replica that decides was heard: when it was not for long the slot is given up, else
    /// a dead store would hold the group in its generation until that is gone. And when both say for so long that there is
    /// nothing that whoever committed would have written it again twice, a commit that few members name is not believed any
    /// more: else one member could hold a group for ever.
    pub(super) fn unfound(
        &mut self,
        conversation: i64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
    ) -> Result<Unfound, MailError> {
        let own_waits = self.memory.commit_waits(conversation);
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(Unfound::Waits) };
        let retention = consensus.parameters.retention();
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
        if reader.named.is_some() && empty_at(0) {
            let nowhere = empty_at(1) || second_gone;
            if nowhere && seen {
                let missing = Observed::again(sight.missing, now, retention / 32);
                sight.missing = Some(missing);
                unfound = if missing.since.plus(retention / 8) < now { Unfound::Missing } else { Unfound::Elsewhere };
            } else {
                unfound = Unfound::Elsewhere;
            }
        }
        if empty_at(0) {
            reader.urgent = reader.named.is_some();
            if sight.touched_at.plus(retention * 3 / 4) < now {
                // whoever committed writes its slot again at least so often
                sight.hold_until = now.plus(retention / 4);
            }
            if !sight.lately(now, retention) {
                // others may have passed over it meanwhile: their chains say so, and are read to their ends first; and what lies behind
                // it says so when they had no time to
                let back = Return {
                    back_at: *sight.back_at.get_or_insert(now),
                    since: reader.in_sight_since(now, retention / IN_SIGHT),
                };
                let wished = reader.named.is_some() || own_waits;
                let chains = self.memory.readers.values_mut().filter(|chain| chain.conversation == conversation);
                let heard = back.listen(chains, wished, now, retention);
                if back.long(now, retention) || (heard && reader.alone) {
                    sight.touched_at = flight.since;
                } else if unfound == Unfound::Waits && !reader.alone {
                    unfound = Unfound::Elsewhere;
                }
            } else if sight.touched_at.plus(retention / 128) < now {
                sight.touched_at = flight.since;
            }
            sight.mute = None;
        } else if spoke {
            sight.mute = None;
        } else if empty_at(1) {
            // who was not there to see it does not know that it was mute meanwhile
            let left = consensus.store(flight.placement[0]).is_none();
            // one that has left does not come back between two looks
            let mute = Observed::again(sight.mute, now, if left { retention / 4 } else { retention / 32 });
            sight.mute = Some(mute);
            // who is told that there is a commit need not wait for long
            // nor who sees that the store has left
            let part = if reader.named.is_some() || left { PATIENCE_SHORT } else { PATIENCE_LONG };
            // nobody passes over it before there is something to follow in the next one: others may not have to
            let own = commits::commit_of(&self.profile.db, &self.profile.vault, conversation, reader.epoch)?;
            if mute.since.plus(retention / part) < now && (reader.named.is_some() || own.is_some()) {
                unfound = Unfound::GivenUp;
            } else if reader.named.is_some() {
                // who is not there for so long may still look
                unfound = Unfound::Elsewhere;
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
    pub(super) fn commit_missing(
        &mut self,
        conversation: i64,
        now: UnixMillis,
        consensus: &Consensus,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        if ends::most_named(db, vault, conversation.row, conversation.epoch, &[])?.is_some() {
            self.look_ahead(conversation.row, now, consensus);
            return Ok(());
        }
        // no commit has this hash
        let never = Hash::from_bytes([0; 32]);
        let said = ends::name_others(db, vault, conversation.row, conversation.epoch, &never)?;
        let transaction = db.unchecked_transaction()?;
        let mut entered = Entered { regrouped: true, ..Entered::default() };
        entered.forked = self.part_from(&transaction, &conversation, conversation.epoch, &said)?;
        group_epochs::forget_named(&transaction, conversation.row, conversation.epoch)?;
        entered.gone = self.forget_behind(&transaction, &conversation)?;
        transaction.commit()?;
        self.memory.slots.remove(&conversation.row);
        self.went_on(conversation.row, entered)
    }

    /// The slot is empty, and a member says that a commit ended the epoch. Others may have passed over the slot while the replica
    /// that decides it was mute and we were away: then the next ones are looked into, one at a time and round about.
    pub(super) fn look_ahead(&mut self, conversation: i64, now: UnixMillis, consensus: &Consensus) {
        let own_waits = self.memory.commit_waits(conversation);
        if let Some(reader) = self.memory.slots.get_mut(&conversation)
            && reader.sight.interrupted(now, consensus.parameters.retention())
        {
            reader.look(AHEAD_MAX, now);
            if own_waits {
                reader.hurry();
            }
        }
    }

    /// What lies in a slot behind an empty one: when a member filled it it is read, and counts if it is what others name.
    pub(super) fn looked_ahead(
        &mut self,
        (conversation, epoch, slot): (i64, u64, u64),
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(()) };
        let (mut entry, mut spoilt, mut other, mut empty) = (None, false, None, false);
        for (store, answer) in each(answers) {
            match (answer.status, &answer.body) {
                (Status::Found, Some(body)) => match reader.open(slot, body) {
                    Some(plaintext) => entry = Some(plaintext),
                    None => spoilt = true,
                },
                (Status::Found, None) => other = Some(store),
                (Status::Empty, _) if flight.placement.first() == Some(&store) => empty = true,
                _ => {}
            }
        }
        match (entry, other) {
            (Some(entry), _) if reader.named.is_some() => {
                group_epochs::look_into(&self.profile.db, conversation, epoch, slot)?;
                self.refollow(conversation)?;
                return self.entry_read(conversation, &entry, now, rng);
            }
            // somebody went on from there, and has not said so yet
            (Some(_), _) => reader.look(0, now),
            (None, Some(other)) if !spoilt => reader.ask_first(other),
            (None, _) if spoilt || empty => reader.look(AHEAD_MAX, now),
            // it was not heard: the empty slot decides, and it is looked into again after that
            (None, _) => reader.look(0, now),
        }
        Ok(())
    }

    /// What was looked into behind an empty slot does not count, or not yet: back to that one.
    pub(super) fn look_back(&mut self, conversation: i64, at: &GroupEpoch, now: UnixMillis) -> Result<(), MailError> {
        let retention = self.profile.network().parameters.retention();
        let transaction = self.profile.db.unchecked_transaction()?;
        group_epochs::look_back(&transaction, conversation, at.epoch)?;
        if let Some((_, blob)) = at.fetching {
            blobs_store::delete_in(&transaction, blob)?;
        }
        transaction.commit()?;
        if let Some((_, blob)) = at.fetching {
            self.memory.blobs_in.remove(&blob);
        }
        if let Some(reader) = self.memory.slots.get_mut(&conversation) {
            reader.refuse(now.plus(retention / 16));
        }
        self.refollow(conversation)
    }

    /// When the slot of an epoch counts as seen last that was entered by what others wrote, nobody knows when: so long ago that
    /// their chains are read first, and not so long that a commit may have expired there.
    pub(super) fn out_of_sight(&self, now: UnixMillis) -> UnixMillis {
        now.minus(self.profile.network().parameters.retention() / 8)
    }

    /// Whether a commit that lies where others were to look has been passed over by them, while the slot was out of sight here: most
    /// of them say that another one ended the epoch.
    pub(super) fn passed_over(
        &self,
        conversation: i64,
        at: &GroupEpoch,
        commit: &Hash,
        now: UnixMillis,
    ) -> Result<bool, MailError> {
        let retention = self.profile.network().parameters.retention();
        if at.base.is_some() || !at.sight.interrupted(now, retention) {
            return Ok(false);
        }
        let named = ends::most_named(&self.profile.db, &self.profile.vault, conversation, at.epoch, &[])?;
        Ok(named.is_some_and(|named| named != *commit))
    }
}
