//! From one group epoch to the next: the end of the own chain, the others' chains that are followed, what is forgotten.

use super::committing::PendingCommit;
use super::flight::{Attempt, PendingBox};
use super::sending::Sealed;
use super::slots::SlotReader;
use super::writing::Confirmed;
use super::{Mail, MailError, Standing, follow, provider};
use crate::chains::{self, Chain, Side};
use crate::commits::Cut;
use crate::commits_mls::Led;
use crate::conversations::Conversation;
use crate::records::Content;
use crate::{blobs_store, commits, commits_mls, contacts, conversations, ends, group_epochs, members};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::{Hash, UnixMillis};
use std::collections::BTreeSet;

/// What a step from one epoch towards the next did, to be told after the commit.
#[derive(Default)]
pub(super) struct Entered {
    /// Own commits that are no longer needed, with their blobs.
    pub(super) gone: Vec<(i64, i64)>,
    /// A member applied another commit.
    pub(super) forked: bool,
    /// What is delivered now that somebody need not read it any more.
    pub(super) confirmed: Confirmed,
    /// The members of a group may have changed, or its name.
    pub(super) regrouped: bool,
    /// Contacts who have another address now.
    pub(super) moved: Vec<i64>,
    /// Two contacts turned out to be one person.
    pub(super) merged: bool,
}

impl Mail {
    /// Seals the record that ends the own chain: the last in the current epoch.
    pub(super) fn seal_end(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        own: &Chain,
        commit: Hash,
        rng: &mut impl CryptoRng,
    ) -> Result<Sealed, MailError> {
        self.seal_record(transaction, conversation, own, Content::End { commit }, None, rng)
    }

    /// The group has applied `commit` and is in the epoch that it led to.
    #[expect(clippy::too_many_arguments, reason = "the commit, what it did, and the surroundings")]
    pub(super) fn next_epoch(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        led: &Led,
        cuts: &[Cut],
        writer: &WriteKey,
        commit: &Hash,
        now: UnixMillis,
    ) -> Result<Entered, MailError> {
        let vault = &self.profile.vault;
        group_epochs::set_applied(transaction, vault, conversation.row, conversation.epoch, commit)?;
        let mut entered = Entered { regrouped: conversation.contact.is_none(), ..Entered::default() };
        let again = self.adds_again(transaction, conversation, led)?;
        self.uninvite(transaction, conversation, led, &mut entered.confirmed)?;
        let (moved, merged) = conversations::enter(transaction, vault, conversation.row, led, cuts, writer, now)?;
        if merged {
            // who was invited by the other address, and is here by this one, needs no letter
            for contact in &moved {
                self.forget_letters(transaction, conversation.row, *contact, &mut entered.confirmed)?;
            }
        }
        (entered.moved, entered.merged) = (moved, merged);
        self.changes_done(transaction, conversation.row)?;
        if again {
            self.seal_again(transaction, conversation.row, &mut entered.confirmed)?;
        }
        if !led.removed.is_empty() {
            self.confirm_all(transaction, conversation.row, &mut entered.confirmed)?;
        }
        entered.forked = self.fell_apart(transaction, conversation, conversation.epoch, commit)?;
        entered.gone = self.forget_behind(transaction, conversation)?;
        Ok(entered)
    }

    /// Another member's chain ended with the commit that it names.
    pub(super) fn chain_ended(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        chain: &Chain,
        commit: &Hash,
    ) -> Result<Entered, MailError> {
        let vault = &self.profile.vault;
        ends::set_named(transaction, vault, chain.row, commit)?;
        let epoch = group_epochs::of(transaction, vault, conversation.row, chain.epoch)?;
        let forked = match epoch.and_then(|epoch| epoch.applied) {
            Some(applied) => self.fell_apart(transaction, conversation, chain.epoch, &applied)?,
            None => {
                group_epochs::set_named(transaction, vault, conversation.row, chain.epoch, commit)?;
                false
            }
        };
        let gone = self.forget_behind(transaction, conversation)?;
        Ok(Entered { gone, forked, ..Entered::default() })
    }

    /// Looks for members who applied another commit than this one, and says whether there are any not known before.
    fn fell_apart(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        epoch: u64,
        applied: &Hash,
    ) -> Result<bool, MailError> {
        let others = ends::name_others(transaction, &self.profile.vault, conversation.row, epoch, applied)?;
        self.part_from(transaction, conversation, epoch, &others)
    }

    /// Members have gone another way from this epoch: nothing more is read of them, and nobody waits for them. When they are the
    /// other member of two, or more than half of the others, the conversation is broken. A few who lie break nothing. Says whether anything is
    /// new.
    pub(super) fn part_from(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        epoch: u64,
        others: &[i64],
    ) -> Result<bool, MailError> {
        let before = members::current(transaction, conversation.row)?;
        let new = before.iter().filter(|member| !member.astray && others.contains(&member.row));
        let new: Vec<i64> = new.map(|member| member.row).collect();
        for member in &new {
            members::set_astray(transaction, *member)?;
        }
        if !new.is_empty() {
            conversations::set_parted(transaction, conversation.row, epoch)?;
        }
        let astray = before.iter().filter(|member| member.astray).count() + new.len();
        let breaks = 2 * astray > before.len()
            && !conversations::by_row(transaction, &self.profile.vault, conversation.row)?.broken;
        if breaks {
            conversations::set_broken(transaction, conversation.row)?;
        }
        Ok(breaks || !new.is_empty())
    }

    /// A chain has ended without a word: its writer was removed, and what comes from here on does not count.
    pub(super) fn chain_cut(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
    ) -> Result<Entered, MailError> {
        Ok(Entered { gone: self.forget_behind(transaction, conversation)?, ..Entered::default() })
    }

    /// Forgets what only epochs need in which nobody writes any more: own commits that all have followed, secrets of
    /// slots and chains, and the means to open messages.
    pub(super) fn forget_behind(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
    ) -> Result<Vec<(i64, i64)>, MailError> {
        let vault = &self.profile.vault;
        let current = conversations::by_row(transaction, vault, conversation.row)?.epoch;
        let followed = chains::followed(transaction, conversation.row)?.unwrap_or(current);
        let gone = match followed.checked_sub(1) {
            Some(before) => commits::forget_commits(transaction, conversation.row, before)?,
            None => Vec::new(),
        };
        group_epochs::forget_before(transaction, conversation.row, followed)?;
        chains::erase_past(transaction, conversation.row)?;
        let provider = provider(&self.profile, &self.crypto, transaction);
        let behind = usize::try_from(current.saturating_sub(followed)).unwrap_or(usize::MAX);
        commits_mls::forget_past(&provider, &conversation.id.0, behind)?;
        Ok(gone)
    }

    /// After the commit: memory follows.
    pub(super) fn went_on(&mut self, conversation: i64, entered: Entered) -> Result<(), MailError> {
        for (commit, blob) in entered.gone {
            self.memory.commits.remove(&commit);
            self.memory.blobs_out.remove(&blob);
        }
        self.memory.commits_due.remove(&conversation);
        self.memory.plan = true;
        self.memory.unsealed = true;
        self.confirmed(entered.confirmed);
        if let Some(slot) = self.memory.slots.get_mut(&conversation) {
            slot.look_anew();
        }
        self.refollow(conversation)?;
        self.repause(conversation)?;
        if entered.forked {
            let conversation = conversations::by_row(&self.profile.db, &self.profile.vault, conversation)?;
            if conversation.broken { self.warn_broken(&conversation) } else { self.warn_astray(&conversation)? }
        }
        if entered.regrouped {
            self.tell_group(conversation)?;
        }
        if entered.merged {
            // much of what memory holds names contacts by their rows
            self.reload()?;
        }
        for contact in entered.moved {
            self.moved(contact)?;
        }
        Ok(())
    }

    /// Memory follows what the profile says of a conversation: the chains that are read, the slots, own commits, and boxes
    /// that may be written now. Who has left only looks for the commit that removes it.
    pub(super) fn refollow(&mut self, row: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, row)?;
        let silent = self.silent(&conversation)?;
        let leaves = conversation.standing == Standing::Left && !conversation.broken;
        let theirs = if silent { Vec::new() } else { chains::reading(db, vault, row)? };
        let epoch = group_epochs::of(db, vault, row, conversation.epoch)?.filter(|_| !silent || leaves);
        let own = commits::unstored(db, vault, row)?;
        let sealed = chains::unstored(db)?;
        let followed: BTreeSet<i64> = theirs.iter().map(|theirs| theirs.row).collect();
        self.memory.readers.retain(|chain, reader| reader.conversation != row || followed.contains(chain));
        for theirs in theirs {
            match self.memory.readers.get_mut(&theirs.row) {
                Some(reader) => reader.request = conversation.request,
                None => follow(&mut self.memory, &self.profile.db, theirs, &conversation)?,
            }
        }
        match (epoch, self.memory.slots.get_mut(&row)) {
            (Some(epoch), Some(reader)) if reader.is_at(&epoch) => {
                reader.request = conversation.request;
                if let Some(named) = epoch.named {
                    reader.name(named);
                }
            }
            (Some(epoch), before) => {
                let reader = SlotReader::new(&epoch, conversation.request);
                let reader = match before {
                    Some(before) => reader.after(before),
                    None => reader,
                };
                self.memory.slots.insert(row, reader);
            }
            (None, _) => {
                self.memory.slots.remove(&row);
            }
        }
        for commit in own.iter().filter(|_| !conversation.broken) {
            let (blob, held) = (commit.blob, commit.stored != 0);
            let fresh = PendingCommit { conversation: row, blob, attempt: Attempt::default(), held };
            self.memory.commits.entry(commit.row).or_insert(fresh);
        }
        self.memory.commits.retain(|commit, pending| {
            pending.conversation != row || (!conversation.broken && own.iter().any(|own| own.row == *commit))
        });
        for (sealed, chain, held) in sealed {
            self.memory.boxes.entry(sealed).or_insert_with(|| PendingBox::new(chain, held));
        }
        if conversation.request {
            // what is sealed in a request waits until it is accepted: it would tell a stranger that we are online
            let own = chains::own(&self.profile.db, row)?;
            self.memory.boxes.retain(|_, pending| !own.contains(&pending.chain));
        }
        Ok(())
    }

    /// Stores forget what lies in a generation that is no longer listed. Whoever still wrote in an epoch there before the
    /// current one may not be able to follow any more, and we are not when it is the current one. Own messages of past epochs there
    /// that nobody confirmed are sealed again in the current epoch.
    pub(super) fn leave_unlisted(&mut self, consensus: &Consensus) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut left = Vec::new();
        let mut again = false;
        let (mut away, mut over) = (Vec::new(), Vec::new());
        for conversation in conversations::all(db, vault)? {
            if conversation.lives() && !conversation.request && consensus.generation(conversation.generation).is_none()
            {
                away.push(conversation);
                continue;
            }
            if conversation.standing == Standing::Left && consensus.generation(conversation.generation).is_none() {
                // the commit that removes us can be found no more
                over.push(conversation.row);
                continue;
            }
            if conversation.standing == Standing::Removed {
                continue;
            }
            chains::erase_past(db, conversation.row)?;
            let transaction = db.unchecked_transaction()?;
            let mut gone = false;
            for theirs in chains::reading(&transaction, vault, conversation.row)? {
                let Side::Peer { member, .. } = theirs.side else { continue };
                if theirs.epoch < conversation.epoch && consensus.generation(theirs.generation).is_none() {
                    chains::end(&transaction, theirs.row)?;
                    self.lose(&transaction, &conversation, member)?;
                    gone = true;
                }
            }
            for (chain, generation) in chains::past_own(&transaction, conversation.row)? {
                if consensus.generation(generation).is_none() {
                    for (row, message) in chains::boxes_of(&transaction, chain)? {
                        chains::delete_box(&transaction, row)?;
                        if let Some(blob) = message.map(|row| super::stored::unseal(&transaction, row)).transpose()? {
                            blob.map_or(Ok(()), |blob| blobs_store::restart_out(&transaction, blob))?;
                        }
                    }
                    gone = true;
                }
            }
            if gone {
                let forgotten = self.forget_behind(&transaction, &conversation)?;
                transaction.commit()?;
                left.push((conversation.row, forgotten));
                again = true;
            }
        }
        for (conversation, gone) in left {
            self.went_on(conversation, Entered { gone, regrouped: true, ..Entered::default() })?;
        }
        if again {
            self.reload()?;
        }
        for conversation in over {
            self.put_out(conversation)?;
        }
        for conversation in away {
            self.gone_away(&conversation)?;
        }
        Ok(())
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
