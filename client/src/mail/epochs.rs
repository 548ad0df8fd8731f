//! From one group epoch to the next: the end of the own chain, the peer's chain that is followed, what is forgotten.

use super::committing::PendingCommit;
use super::flight::{Attempt, PendingBox};
use super::sending::Sealed;
use super::slots::SlotReader;
use super::{Mail, MailError, follow, provider};
use crate::chains::{self, Chain};
use crate::conversations::Conversation;
use crate::conversations_mls::Begun;
use crate::records::Content;
use crate::{blobs_store, commits, commits_mls, contacts, conversations};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::{Hash, UnixMillis};

/// What a step from one epoch towards the next did, to be told after the commit.
#[derive(Default)]
pub(super) struct Entered {
    /// Own commits that are no longer needed, with their blobs.
    pub(super) gone: Vec<(i64, i64)>,
    /// The peer applied another commit.
    pub(super) forked: bool,
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

    /// The group has applied `commit` and is in the epoch `begun`.
    pub(super) fn next_epoch(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        begun: &Begun,
        writer: &WriteKey,
        commit: &Hash,
        now: UnixMillis,
    ) -> Result<Entered, MailError> {
        let vault = &self.profile.vault;
        let ended = commits::epoch(transaction, vault, conversation.row, conversation.epoch)?;
        commits::set_applied(transaction, vault, conversation.row, conversation.epoch, commit)?;
        conversations::enter(transaction, vault, conversation.row, begun, writer, now)?;
        if ended.and_then(|epoch| epoch.named).is_some_and(|named| named != *commit) {
            conversations::set_broken(transaction, conversation.row)?;
            return Ok(Entered { gone: Vec::new(), forked: true });
        }
        let gone = self.forget_behind(transaction, conversation)?;
        Ok(Entered { gone, forked: false })
    }

    /// A peer's chain ended with the commit that it names.
    pub(super) fn chain_ended(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        chain: &Chain,
        commit: &Hash,
    ) -> Result<Entered, MailError> {
        let vault = &self.profile.vault;
        chains::end(transaction, chain.row)?;
        let epoch = commits::epoch(transaction, vault, conversation.row, chain.epoch)?;
        match epoch.and_then(|epoch| epoch.applied) {
            Some(applied) if applied != *commit => {
                conversations::set_broken(transaction, conversation.row)?;
                return Ok(Entered { gone: Vec::new(), forked: true });
            }
            Some(_) => {}
            None => commits::set_named(transaction, vault, conversation.row, chain.epoch, commit)?,
        }
        let gone = self.forget_behind(transaction, conversation)?;
        Ok(Entered { gone, forked: false })
    }

    /// Forgets what only epochs need in which the peer writes no more: own commits that it has followed, secrets of
    /// slots and chains, and the means to open its messages.
    fn forget_behind(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
    ) -> Result<Vec<(i64, i64)>, MailError> {
        let vault = &self.profile.vault;
        let current = conversations::by_row(transaction, vault, conversation.row)?.epoch;
        let followed = chains::reading(transaction, vault, conversation.row)?.map_or(current, |theirs| theirs.epoch);
        let gone = match followed.checked_sub(1) {
            Some(before) => commits::forget_commits(transaction, conversation.row, before)?,
            None => Vec::new(),
        };
        commits::forget_epochs(transaction, conversation.row, followed)?;
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
        self.refollow(conversation)?;
        self.repause(conversation)?;
        if entered.forked {
            let conversation = conversations::by_row(&self.profile.db, &self.profile.vault, conversation)?;
            self.warn_broken(&conversation);
        }
        Ok(())
    }

    /// Memory follows what the profile says of a conversation: the chain that is read, the slots, own commits, and boxes
    /// that may be written now.
    pub(super) fn refollow(&mut self, row: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, row)?;
        let silent = conversation.broken || contacts::by_row(db, vault, conversation.contact)?.blocked;
        let theirs = chains::reading(db, vault, row)?.filter(|_| !silent);
        let epoch = commits::epoch(db, vault, row, conversation.epoch)?.filter(|_| !silent);
        let own = commits::unstored(db, vault, row)?;
        let sealed = chains::unstored(db)?;
        let followed = theirs.as_ref().map(|theirs| theirs.row);
        self.memory.readers.retain(|chain, reader| reader.conversation != row || Some(*chain) == followed);
        match (theirs, followed.and_then(|chain| self.memory.readers.get_mut(&chain))) {
            (Some(_), Some(reader)) => reader.request = conversation.request,
            (Some(theirs), None) => follow(&mut self.memory, theirs, &conversation),
            (None, _) => {}
        }
        match (epoch, self.memory.slots.get_mut(&row)) {
            (Some(epoch), Some(reader)) if reader.is_at(&epoch) => {
                reader.request = conversation.request;
                if epoch.named.is_some() {
                    reader.name();
                }
            }
            (Some(epoch), _) => {
                self.memory.slots.insert(row, SlotReader::new(&epoch, conversation.request));
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

    /// Stores forget what lies in a generation that is no longer listed. Of past epochs there: a peer's chain is left for
    /// the next one, and own messages that nobody confirmed are sealed again in the current epoch.
    pub(super) fn leave_unlisted(&mut self, consensus: &Consensus) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut left = Vec::new();
        let mut again = false;
        for conversation in conversations::all(db, vault)? {
            chains::erase_past(db, conversation.row)?;
            let transaction = db.unchecked_transaction()?;
            let mut gone = false;
            while let Some(theirs) = chains::reading(&transaction, vault, conversation.row)? {
                if theirs.epoch >= conversation.epoch || consensus.generation(theirs.generation).is_some() {
                    break;
                }
                chains::end(&transaction, theirs.row)?;
                gone = true;
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
            self.went_on(conversation, Entered { gone, forked: false })?;
        }
        if again {
            self.reload()?;
        }
        Ok(())
    }
}
