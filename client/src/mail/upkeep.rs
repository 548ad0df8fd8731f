//! What is due from time to time: writing again what would expire unread, forgetting what nobody needs.

use super::epochs::Entered;
use super::{Mail, MailError};
use crate::{blobs_store, chains, commits, contacts, conversations, members};
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::Consensus;
use std::time::Duration;

/// The upkeep runs so many times in half a retention.
const RUNS: u32 = 64;

impl Mail {
    pub(super) fn upkeep(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        if now < self.memory.upkeep_at {
            return Ok(());
        }
        if self.memory.upkeep_at == UnixMillis::default() {
            // a crash may have come between the last replica's word and the message's state
            for message in super::stored::on_their_way(&self.profile.db)? {
                self.check_stored(message)?;
            }
        }
        let half = consensus.parameters.retention() / 2;
        self.memory.upkeep_at = now.plus((half / RUNS).max(Duration::from_secs(1)));
        self.settle_blobs(now, consensus, rng)?;
        self.forget_old_cards(now, consensus)?;
        self.forget_former_keys(now)?;
        contacts::forget_former(&self.profile.db, now.minus(half.saturating_mul(4)))?;
        self.end_invites(now, half, consensus)?;
        self.end_used(now, consensus, rng)?;
        self.leave_unlisted(consensus)?;
        self.forget_owed(now)?;
        self.end_left_members(now.minus(half.saturating_mul(2)))?;
        self.write_again(now.minus(half), now.minus(half / 8))?;
        self.memory.plan = true;
        // a letter lies for one retention at most; two cover clocks that differ and replicas that are slow to forget
        let oldest = now.minus(half.saturating_mul(4));
        self.profile.db.prepare_cached("DELETE FROM letter_seen WHERE at < ?1")?.execute([oldest.0])?;
        // pages of what is gone are given back, and old states of ratchets do not linger in the log
        self.profile.db.execute_batch("PRAGMA incremental_vacuum(4096); PRAGMA wal_checkpoint(TRUNCATE);")?;
        Ok(())
    }

    /// Nobody waits for ever for what somebody wrote who was removed; nor keeps people who are in no conversation.
    fn end_left_members(&mut self, before: UnixMillis) -> Result<(), MailError> {
        if members::end_left(&self.profile.db, before)? > 0 {
            for conversation in conversations::all(&self.profile.db, &self.profile.vault)? {
                let transaction = self.profile.db.unchecked_transaction()?;
                let gone = self.forget_behind(&transaction, &conversation)?;
                transaction.commit()?;
                self.went_on(conversation.row, Entered { gone, ..Entered::default() })?;
            }
        }
        contacts::forget_orphans(&self.profile.db)
    }

    /// A sender keeps a message until its reader has it, and writes it again before it expires. Slots of commits more
    /// often: an empty one invites another commit, and the group would fall apart.
    fn write_again(&mut self, before: UnixMillis, commits_before: UnixMillis) -> Result<(), MailError> {
        let transaction = self.profile.db.unchecked_transaction()?;
        let boxes = chains::expire_stored(&transaction, before)?;
        let blobs = blobs_store::expire_out(&transaction, before)?;
        let letters = super::stored::expire_letters(&transaction, before)?;
        let commits = commits::expire_stored(&transaction, commits_before)?;
        transaction.commit()?;
        if commits > 0 {
            for conversation in conversations::all(&self.profile.db, &self.profile.vault)? {
                self.refollow(conversation.row)?;
            }
        }
        if boxes > 0 {
            for (row, chain, held) in chains::unstored(&self.profile.db)? {
                self.memory.boxes.entry(row).or_insert(super::PendingBox::new(chain, held));
            }
        }
        if blobs > 0 {
            self.adopt_blobs()?;
        }
        if letters > 0 {
            for (row, letter) in super::stored::letters(&self.profile.db)? {
                self.memory.letters.entry(row).or_insert(letter);
            }
        }
        Ok(())
    }
}
