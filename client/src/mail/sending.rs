//! Own messages are sealed into boxes, and receipts.
//!
//! One transaction holds the sealed body, the chain's counter and the MLS ratchet that sealed it, before the body is
//! first sent; every retry sends the same body.

use super::flight::PendingBox;
use super::parts::BlobOut;
use super::{Mail, MailError, provider, stored};
use crate::chains::{self, Chain};
use crate::conversations::Conversation;
use crate::polls::{PollClock, mean_gap};
use crate::records::{Content, RECORD_SIZE_MAX, Record, SEEN_MAX};
use crate::want::Rank;
use crate::{blobs_store, conversations, conversations_mls, group_changes, members};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::poisson::exponential;
use std::time::Duration;

/// Boxes of one chain that no replica has yet before the next message is sealed. Sealing late lets a receipt
/// ride on a message and keeps the group's ratchet short; 16 are twice what a window of 64 needs with 8 busy chains.
const PIPELINE: usize = 16;
/// Receipts are sealed only while fewer boxes of the chain wait: a later one says the same.
const RECEIPT_PIPELINE: usize = 4;
/// In a group one tick of so many goes to receipts of the others, while all of them are shown messages all the time.
const RECEIPTS_READ: u32 = 4;

impl Mail {
    /// At most one piece of work that writes to the disk: the own card, a certificate, a message, or a receipt is sealed.
    pub(super) fn prepare(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        if self.rolled_back.is_some() || self.publish_card(now, consensus, rng)? {
            return Ok(());
        }
        if self.prove(now, rng)? {
            return Ok(());
        }
        if self.seal_cancelled(rng)? {
            return Ok(());
        }
        if self.memory.unsealed {
            let waiting = stored::unsealed(&self.profile.db)?;
            self.memory.unsealed = !waiting.is_empty();
            for (message, conversation) in waiting {
                if self.seal_message(message, conversation, now, rng)? {
                    return Ok(());
                }
            }
        }
        if self.commit_due(now, consensus, rng)? {
            return Ok(());
        }
        let request = |conversation| {
            self.memory.readers.values().any(|reader| reader.conversation == conversation && reader.request)
        };
        let owing: Vec<i64> = self.memory.owing.keys().copied().filter(|row| !request(*row)).collect();
        let owing: Vec<i64> = owing.into_iter().filter(|row| self.receipt_due(*row, now, consensus, rng)).collect();
        for conversation in owing {
            if self.seal_receipt(conversation, rng)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// In a group a receipt waits for others to say more: each of its members reads it, and each shown message would be
    /// told that way by all of them. Where all have one rate class, what a member reads of the others' receipts takes one tick of
    /// [`RECEIPTS_READ`]. It waits for no longer than a conversation is hot: somebody may be there for minutes only.
    fn receipt_due(&mut self, row: i64, now: UnixMillis, consensus: &Consensus, rng: &mut impl CryptoRng) -> bool {
        let others = self.memory.readers.values().filter(|reader| reader.conversation == row).count();
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let gap = mean_gap(Rank::Hot, &consensus.parameters).max(self.tick_gap(consensus) * RECEIPTS_READ);
        let wait = gap.saturating_mul(others).min(Duration::from_millis(consensus.parameters.hot_for_ms));
        let Some(due) = self.memory.owing.get_mut(&row) else { return false };
        let draw = || if others < 2 { now } else { now.plus(exponential(wait, rng)) };
        *due.get_or_insert_with(draw) <= now
    }

    fn waiting_boxes(&self, chain: i64) -> usize {
        self.memory.boxes.values().filter(|pending| pending.chain == chain && !pending.held).count()
    }

    fn seal_message(
        &mut self,
        row: i64,
        conversation: i64,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let own = chains::writing(db, vault, conversation)?;
        if self.waiting_boxes(own.row) >= PIPELINE {
            return Ok(false);
        }
        let conversation = conversations::by_row(db, vault, conversation)?;
        let blocked = conversation.contact.map_or(Ok(false), |contact| self.is_blocked(contact))?;
        if conversation.request || !conversation.speaks() || blocked {
            return Ok(false);
        }
        if group_changes::removes(db, conversation.row)? {
            // whom the user removes does not read what the user writes after that
            return Ok(false);
        }
        let message = stored::out_by_row(db, vault, row)?;
        let transaction = db.unchecked_transaction()?;
        let sealed = self.seal_record(&transaction, &conversation, &own, message.content, Some(row), rng)?;
        stored::set_sealed(&transaction, row)?;
        if let Some(blob) = message.blob {
            blobs_store::activate(&transaction, blob, own.generation, now)?;
        }
        conversations::touch(&transaction, conversation.row, now)?;
        transaction.commit()?;
        self.sealed(&sealed);
        self.wake(conversation.row, now);
        if message.blob.is_some() {
            self.adopt_blobs()?;
        }
        Ok(true)
    }

    fn seal_receipt(&mut self, conversation: i64, rng: &mut impl CryptoRng) -> Result<bool, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        // first: who was removed has no chain of their own any more
        if conversation.request || self.silent(&conversation)? {
            return Ok(false);
        }
        let own = chains::writing(db, vault, conversation.row)?;
        if self.waiting_boxes(own.row) >= RECEIPT_PIPELINE {
            return Ok(false);
        }
        let transaction = db.unchecked_transaction()?;
        let sealed = self.seal_record(&transaction, &conversation, &own, Content::Receipt, None, rng)?;
        transaction.commit()?;
        self.sealed(&sealed);
        Ok(true)
    }

    /// Seals one record into the next box of the own chain, with the newest word on what was shown of the others' and the
    /// newest document held.
    pub(super) fn seal_record(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        own: &Chain,
        content: Content,
        message: Option<i64>,
        rng: &mut impl CryptoRng,
    ) -> Result<Sealed, MailError> {
        let news = members::to_tell(transaction, conversation.row)?;
        let mut record = Record { seen: Vec::new(), mark: self.mark(conversation), content };
        for (member, seen) in news.iter().take(SEEN_MAX) {
            record.seen.push(*seen);
            if record.to_bytes().len() > RECORD_SIZE_MAX {
                record.seen.pop();
                break;
            }
            members::set_told(transaction, *member, seen)?;
        }
        let told = record.seen.len() == news.len();
        let provider = provider(&self.profile, &self.crypto, transaction);
        let plaintext = zeroize::Zeroizing::new(record.to_bytes());
        let ciphertext = conversations_mls::seal(&provider, &conversation.id.0, &plaintext)?;
        let id = own.id(own.next);
        let body = boxes::seal(&own.secret, own.next, &id, &ciphertext, rng)
            .map_err(|_| MailError::Mls("a record does not fit into its box".to_owned()))?;
        let row = chains::push_box(transaction, own, &body, message)?;
        if told {
            conversations::set_owing(transaction, conversation.row, false)?;
        }
        Ok(Sealed { row, chain: own.row, conversation: conversation.row, told })
    }

    /// After the commit: memory follows.
    pub(super) fn sealed(&mut self, sealed: &Sealed) {
        self.memory.boxes.insert(sealed.row, PendingBox::new(sealed.chain, false));
        if sealed.told {
            self.memory.owing.remove(&sealed.conversation);
        }
    }

    /// A conversation became active: its chains are polled at the hot pace again.
    pub(super) fn wake(&mut self, conversation: i64, now: UnixMillis) {
        for reader in self.memory.readers.values_mut().filter(|reader| reader.conversation == conversation) {
            reader.active_at = reader.active_at.max(now);
            // drawn anew at the pace of the new class; the exponential law has no memory, so this adds no pattern
            reader.clock = PollClock::default();
        }
    }

    /// Takes blobs that became active into memory.
    pub(super) fn adopt_blobs(&mut self) -> Result<(), MailError> {
        for outgoing in blobs_store::unstored_out(&self.profile.db, &self.profile.vault)? {
            self.memory.blobs_out.entry(outgoing.row).or_insert_with(|| BlobOut::new(&outgoing));
        }
        Ok(())
    }
}

/// What [`Mail::seal_record`] made.
pub(super) struct Sealed {
    row: i64,
    chain: i64,
    conversation: i64,
    /// All that there is to say of others' chains was said.
    told: bool,
}
