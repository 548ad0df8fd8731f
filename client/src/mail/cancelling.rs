//! Taking back what the user sent and nobody has as a whole yet: a file on its way, or anything that has not left.
//!
//! What was sealed stays in its box: a chain has no gaps. A word in a later box says that the rest does not come, so that readers
//! stop waiting for it and show what it held back.

use super::{Event, Mail, MailError, MessageId, MessageState, SentMessage, stored};
use crate::chains;
use crate::conversations::{self, Conversation};
use crate::members::MemberRow;
use crate::records::Content;
use crate::{blobs_store, contacts, invites};
use rand::CryptoRng;
use rusqlite::{OptionalExtension as _, Transaction};

impl Mail {
    /// Takes an own message back. What has left is only taken back when it is a file or long text, of which readers have no use
    /// before it is whole.
    ///
    /// # Errors
    /// [`MailError::NoMessage`], [`MailError::TooLate`].
    pub fn cancel(&mut self, id: MessageId) -> Result<SentMessage, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let message = stored::out_by_id(db, vault, id)?.ok_or(MailError::NoMessage(id))?;
        let row = stored::row_of(db, vault, id)?;
        // one that is to be sealed again may be known already
        let left =
            (stored::is_sealed(db, row)? || message.state > MessageState::Queued) && !stored::is_given_up(db, row)?;
        match message.state {
            MessageState::Cancelled => return self.state(id),
            MessageState::Delivered => return Err(MailError::TooLate(id)),
            MessageState::Queued | MessageState::Sent | MessageState::Stored => {}
        }
        if left && message.blob.is_none() {
            return Err(MailError::TooLate(id));
        }
        let transaction = db.unchecked_transaction()?;
        stored::cancel(&transaction, row, left)?;
        let contact = message.contact.filter(|_| message.conversation.is_none());
        let asks_nothing = match contact {
            // who has nothing to say asks nobody to talk
            Some(contact) => {
                invites::used(&transaction, vault, contact)?.is_none() && !stored::waits(&transaction, contact)?
            }
            None => false,
        };
        if let Some(contact) = contact.filter(|_| asks_nothing) {
            contacts::set_wanted(&transaction, contact, None)?;
        }
        if let Some(blob) = message.blob {
            stored::drop_blob(&transaction, row)?;
            blobs_store::delete_out(&transaction, blob)?;
        }
        transaction.commit()?;
        if let Some(blob) = message.blob {
            self.memory.blobs_out.remove(&blob);
        }
        if let Some(contact) = contact.filter(|_| asks_nothing) {
            self.drop_card_fetch(contact)?;
        }
        self.emit(Event::State { id, state: MessageState::Cancelled });
        self.state(id)
    }

    /// Seals the word on one message that was taken back, if there is one that can be said now.
    pub(super) fn seal_cancelled(&mut self, rng: &mut impl CryptoRng) -> Result<bool, MailError> {
        for (message, conversation) in stored::cancelled(&self.profile.db)? {
            let (db, vault) = (&self.profile.db, &self.profile.vault);
            let conversation = conversations::by_row(db, vault, conversation)?;
            let blocked = conversation.contact.map_or(Ok(false), |contact| self.is_blocked(contact))?;
            if conversation.request || !conversation.speaks() || blocked {
                continue;
            }
            let own = chains::writing(db, vault, conversation.row)?;
            let id = stored::out_by_row(db, vault, message)?.id;
            let transaction = db.unchecked_transaction()?;
            let word = Content::Cancel { id: id.0 };
            let sealed = self.seal_record(&transaction, &conversation, &own, word, Some(message), rng)?;
            stored::set_cancel_said(&transaction, message)?;
            transaction.commit()?;
            self.sealed(&sealed);
            return Ok(true);
        }
        Ok(false)
    }

    /// A member takes a message back: if it is not whole yet, nothing more of it is fetched. Returns its blob.
    pub(super) fn taken_back(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        member: &MemberRow,
        id: MessageId,
    ) -> Result<Option<i64>, MailError> {
        let found: Option<(i64, i64)> = transaction
            .prepare_cached(
                "SELECT message, blob FROM message_in
                 WHERE conversation = ?1 AND contact = ?2 AND id = ?3 AND blob IS NOT NULL",
            )?
            .query_row((conversation.row, member.contact, stored::seal_in_id(&self.profile.vault, id)), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((message, blob)) = found else { return Ok(None) };
        transaction.prepare_cached("DELETE FROM message_in WHERE message = ?1")?.execute([message])?;
        blobs_store::delete_in(transaction, blob)?;
        Ok(Some(blob))
    }
}
