//! Nothing was found in a slot: what that means, and where else the commit may be.

use super::epochs::Entered;
use super::flight::Flight;
use super::writing::each;
use super::{Mail, MailError};
use crate::group_epochs::Sight;
use crate::{conversations, ends, group_epochs, members};
use rand::CryptoRng;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use shoal_protocol::{Hash, UnixMillis};
use std::time::Duration;

/// Slots behind an empty one that are looked into. Members pass over one when the replica that decides it was mute for a
/// quarter of the retention time; three times in one epoch no two stores do that.
const AHEAD_MAX: u64 = 3;
/// After this part of the retention time a slot is passed over whose deciding replica is mute: when it left, or somebody is
/// told that there is a commit.
const PATIENCE_SHORT: u64 = 16;
/// After this one in any case.
const PATIENCE_LONG: u64 = 4;

/// What it means that nothing was found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfound {
    /// Nothing yet: it is read again.
    Waits,
    /// The replica that decides is gone: the next slot decides.
    GivenUp,
    /// Both replicas say that there is nothing, though a member's `end` names a commit: it may be behind the next slots.
    Elsewhere,
    /// The same for so long that there is no such commit.
    Missing,
}

/// Whether the slot was seen empty so lately that nobody can have passed over it since: they wait for longer.
pub(super) fn seen_lately(sight: &Sight, now: UnixMillis, consensus: &Consensus) -> bool {
    let patience = Duration::from_millis(consensus.parameters.retention_ms / PATIENCE_SHORT);
    now <= sight.touched_at.plus(patience)
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
        if reader.named.is_some() && empty_at(0) && (empty_at(1) || second_gone) {
            let gone = seen && sight.missing_since.get_or_insert(now).plus(retention / 8) < now;
            unfound = if gone { Unfound::Missing } else { Unfound::Elsewhere };
        }
        if empty_at(0) {
            reader.urgent = reader.named.is_some();
            if sight.touched_at.plus(retention * 3 / 4) < now {
                // whoever committed writes its slot again at least so often
                sight.hold_until = now.plus(retention / 4);
                sight.touched_at = now;
            } else if !seen_lately(&sight, now, consensus) {
                // others may have passed over it meanwhile: their chains say so, and are read to their ends first
                let since = *reader.back_at.get_or_insert(now);
                let readers = self.memory.readers.values_mut().filter(|reader| reader.conversation == conversation);
                let mut behind = false;
                for chain in readers.filter(|chain| !chain.paused && chain.dry_at.is_none_or(|at| at < since)) {
                    behind = true;
                    if !chain.clock.due(now) {
                        chain.clock.ring(now);
                    }
                }
                // a chain whose replicas are gone holds nobody up for long
                if !behind || since.plus(retention / 64) < now {
                    sight.touched_at = now;
                    reader.back_at = None;
                }
            } else if sight.touched_at.plus(retention / 64) < now {
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
            let part = if reader.named.is_some() || left { PATIENCE_SHORT } else { PATIENCE_LONG };
            if since.plus(Duration::from_millis(consensus.parameters.retention_ms / part)) < now {
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
    /// have been away until it was gone, and looks behind the next slots; else they did not say the truth, and nothing more is read of them.
    pub(super) fn commit_missing(&mut self, conversation: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        // no commit has this hash
        let never = Hash::from_bytes([0; 32]);
        let mut said = ends::name_others(db, vault, conversation.row, conversation.epoch, &never)?;
        let others = members::current(db, conversation.row)?.into_iter().filter(|member| !member.astray);
        let others: Vec<i64> = others.map(|member| member.row).collect();
        said.retain(|member| others.contains(member));
        if 2 * said.len() > others.len() {
            return self.look_ahead(conversation.row);
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

    /// The slot is empty. When most others say that a commit ended the epoch they may have passed over the slot while the
    /// replica that decides it was mute, and we were away: the next ones are looked into, one at a time and round about. The
    /// word of fewer moves nobody, else one member could lead another away from those who wait here.
    pub(super) fn look_ahead(&mut self, conversation: i64) -> Result<(), MailError> {
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(()) };
        let named = ends::most_named(&self.profile.db, &self.profile.vault, conversation, reader.epoch)?;
        reader.look(if named.is_some() { AHEAD_MAX } else { 0 });
        Ok(())
    }

    /// What lies in a slot behind an empty one: when a member filled it it is the one to read.
    pub(super) fn looked_ahead(
        &mut self,
        (conversation, epoch, slot): (i64, u64, u64),
        answers: Option<&Answers>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(reader) = self.memory.slots.get_mut(&conversation) else { return Ok(()) };
        let bodies = each(answers).filter_map(|(_, answer)| answer.body.as_ref());
        if !bodies.into_iter().any(|body| reader.opens(slot, body)) {
            if answers.is_some() {
                reader.look(AHEAD_MAX);
            }
            return Ok(());
        }
        let from = reader.slot;
        self.go_to_slot(conversation, epoch, from, slot, rng)
    }

    /// Whether most other members say that another commit than this one ended the epoch.
    pub(super) fn passed_over(&self, conversation: i64, epoch: u64, commit: &Hash) -> Result<bool, MailError> {
        let named = ends::most_named(&self.profile.db, &self.profile.vault, conversation, epoch)?;
        Ok(named.is_some_and(|named| named != *commit))
    }
}
