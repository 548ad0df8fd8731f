//! How messages lie in the profile, out and in, and the letters.

use super::letters::Letter;
use super::{MailError, MessageId, MessageState};
use crate::blobs_store;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use crate::records::Content;
use minicbor::{Decode, Encode};
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::BoxBody;
use zeroize::Zeroizing;

const OUT_ID: &str = "message_out.id";
const OUT_CONTENT: &str = "message_out.content";
const IN_ID: &str = "message_in.id";
const IN_CONTENT: &str = "message_in.content";

/// What a received message says, as the profile keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Received {
    /// Text, whole.
    #[n(0)]
    Text {
        #[n(0)]
        sent_at: UnixMillis,
        #[n(1)]
        text: String,
    },
    /// Long text that is being fetched.
    #[n(1)]
    HeldText {
        #[n(0)]
        sent_at: UnixMillis,
    },
    /// A file; at its place once the message is no longer held.
    #[n(2)]
    File {
        #[n(0)]
        sent_at: UnixMillis,
        /// A safe last component.
        #[n(1)]
        name: String,
        #[n(2)]
        mime: String,
        #[n(3)]
        size: u64,
    },
}

impl Received {
    pub(super) fn sent_at(&self) -> UnixMillis {
        match self {
            Self::Text { sent_at, .. } | Self::HeldText { sent_at } | Self::File { sent_at, .. } => *sent_at,
        }
    }
}

fn encode<T: Encode<()>>(value: &T) -> Zeroizing<Vec<u8>> {
    // writing plain fields to a Vec cannot fail
    Zeroizing::new(minicbor::to_vec(value).unwrap_or_default())
}

pub(super) fn seal_in(vault: &Vault, content: &Received) -> Vec<u8> {
    vault.seal(IN_CONTENT, &encode(content))
}

pub(super) fn open_in(vault: &Vault, sealed: &[u8]) -> Result<Received, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a received message does not open");
    minicbor::decode(&vault.open(IN_CONTENT, sealed).map_err(|_| DAMAGED)?).map_err(|_| DAMAGED)
}

pub(super) fn seal_in_id(vault: &Vault, id: MessageId) -> Vec<u8> {
    vault.seal(IN_ID, &id.0)
}

pub(super) fn open_in_id(vault: &Vault, sealed: &[u8]) -> Result<MessageId, MailError> {
    open_id(vault, IN_ID, sealed)
}

pub(super) fn seal_out_id(vault: &Vault, id: MessageId) -> Vec<u8> {
    vault.seal(OUT_ID, &id.0)
}

fn open_id(vault: &Vault, context: &'static str, sealed: &[u8]) -> Result<MessageId, MailError> {
    vault
        .open(context, sealed)
        .ok()
        .and_then(|bytes| bytes.as_slice().try_into().ok())
        .map(MessageId)
        .ok_or(MailError::Damaged("a message id does not open"))
}

/// An own message.
#[derive(Clone, Debug)]
pub(super) struct OutMessage {
    pub(super) id: MessageId,
    /// To whom; `None`: to a group.
    pub(super) contact: Option<i64>,
    pub(super) conversation: Option<i64>,
    pub(super) content: Content,
    pub(super) blob: Option<i64>,
    pub(super) state: MessageState,
}

fn state_of(number: u8) -> MessageState {
    match number {
        0 => MessageState::Queued,
        1 => MessageState::Sent,
        2 => MessageState::Stored,
        3 => MessageState::Delivered,
        _ => MessageState::Cancelled,
    }
}

fn number_of(state: MessageState) -> u8 {
    match state {
        MessageState::Queued => 0,
        MessageState::Sent => 1,
        MessageState::Stored => 2,
        MessageState::Delivered => 3,
        MessageState::Cancelled => 4,
    }
}

impl Sealed for OutMessage {
    type Raw = (Vec<u8>, Option<i64>, Option<i64>, Vec<u8>, Option<i64>, u8);
    const SELECT: &'static str = "SELECT id, contact, conversation, content, blob, state FROM message_out";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, (id, contact, conversation, content, blob, state): Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("an own message does not open");
        let id = open_id(vault, OUT_ID, &id)?;
        let content = vault.open(OUT_CONTENT, &content).map_err(|_| DAMAGED)?;
        let content = minicbor::decode(&content).map_err(|_| DAMAGED)?;
        Ok(Self { id, contact, conversation, content, blob, state: state_of(state) })
    }
}

pub(super) fn out_by_id(db: &Connection, vault: &Vault, id: MessageId) -> Result<Option<OutMessage>, MailError> {
    rows::find(db, vault, "WHERE id = ?1", [vault.seal(OUT_ID, &id.0)])
}

pub(super) fn out_by_row(db: &Connection, vault: &Vault, row: i64) -> Result<OutMessage, MailError> {
    rows::one(db, vault, "WHERE message = ?1", [row])
}

pub(super) fn insert_out(
    db: &Connection,
    vault: &Vault,
    id: MessageId,
    contact: Option<i64>,
    conversation: Option<i64>,
    content: &Content,
    blob: Option<i64>,
) -> Result<i64, MailError> {
    db.prepare_cached(
        "INSERT INTO message_out (id, contact, conversation, content, blob) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        vault.seal(OUT_ID, &id.0),
        contact,
        conversation,
        vault.seal(OUT_CONTENT, &encode(content)),
        blob,
    ))?;
    Ok(db.last_insert_rowid())
}

/// Raises a message's state; `false` if it was there already.
pub(super) fn raise(db: &Connection, row: i64, state: MessageState) -> Result<bool, MailError> {
    let changed = db
        .prepare_cached("UPDATE message_out SET state = ?2 WHERE message = ?1 AND state < ?2")?
        .execute((row, number_of(state)))?;
    Ok(changed == 1)
}

/// The oldest message that waits to be sealed of each conversation in which anything can be.
pub(super) fn unsealed(db: &Connection) -> Result<Vec<(i64, i64)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT min(message), conversation FROM message_out m WHERE sealed = 0 AND EXISTS (
            SELECT 1 FROM conversation v WHERE v.conversation = m.conversation AND v.standing < 2)
         GROUP BY conversation ORDER BY min(message) LIMIT 64",
    )?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

pub(super) fn set_sealed(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE message_out SET sealed = 1 WHERE message = ?1")?.execute([row])?;
    Ok(())
}

pub(super) fn is_sealed(db: &Connection, row: i64) -> Result<bool, MailError> {
    Ok(db.prepare_cached("SELECT sealed FROM message_out WHERE message = ?1")?.query_row([row], |row| row.get(0))?)
}

pub(super) fn row_of(db: &Connection, vault: &Vault, id: MessageId) -> Result<i64, MailError> {
    let found = "SELECT message FROM message_out WHERE id = ?1";
    Ok(db.prepare_cached(found)?.query_row([vault.seal(OUT_ID, &id.0)], |row| row.get(0))?)
}

/// The user took a message back. `told`: its readers may have heard of it, and are to be told.
pub(super) fn cancel(db: &Connection, row: i64, told: bool) -> Result<(), MailError> {
    db.prepare_cached("UPDATE message_out SET state = ?2, sealed = 1, cancel = ?3 WHERE message = ?1")?.execute((
        row,
        number_of(MessageState::Cancelled),
        told,
    ))?;
    Ok(())
}

/// Messages that were taken back and whose readers are to be told: row, conversation.
pub(super) fn cancelled(db: &Connection) -> Result<Vec<(i64, i64)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT min(message), conversation FROM message_out m WHERE cancel = 1 AND EXISTS (
            SELECT 1 FROM conversation v WHERE v.conversation = m.conversation AND v.standing < 2 AND v.broken = 0)
         GROUP BY conversation",
    )?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// The box of a message was confirmed by all its readers. If the message was taken back, and they cannot have read the word that
/// did so, they have it all the same. Says whether that is so.
pub(super) fn arrived_all_the_same(db: &Connection, row: i64) -> Result<bool, MailError> {
    let changed = db
        .prepare_cached(
            "UPDATE message_out SET state = 3, cancel = 0 WHERE message = ?1 AND state = 4
                AND (cancel = 1 OR EXISTS (SELECT 1 FROM box_out b WHERE b.message = ?1 AND b.j >= (
                    SELECT coalesce(min(coalesce(a.boxes, 0)), 0)
                    FROM chain c JOIN member m ON m.conversation = c.conversation
                    LEFT JOIN acknowledged a ON a.chain = c.chain AND a.member = m.member
                    WHERE c.chain = b.chain AND m.left_at IS NULL AND m.leaving = 0 AND m.astray = 0
                        AND m.joined_epoch <= c.epoch)))",
        )?
        .execute([row])?;
    Ok(changed == 1)
}

/// Whether the conversation of a message was left before it was delivered: it goes nowhere any more.
pub(super) fn is_given_up(db: &Connection, row: i64) -> Result<bool, MailError> {
    let found = "SELECT cancel = 3 FROM message_out WHERE message = ?1";
    Ok(db.prepare_cached(found)?.query_row([row], |row| row.get(0))?)
}

pub(super) fn set_cancel_said(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE message_out SET cancel = 2 WHERE message = ?1")?.execute([row])?;
    Ok(())
}

/// The message is to be sealed again, or the word that it was taken back; returns its blob.
pub(super) fn unseal(db: &Connection, row: i64) -> Result<Option<i64>, MailError> {
    db.prepare_cached("UPDATE message_out SET sealed = state > 3, cancel = min(cancel, 1) WHERE message = ?1")?
        .execute([row])?;
    Ok(db.prepare_cached("SELECT blob FROM message_out WHERE message = ?1")?.query_row([row], |row| row.get(0))?)
}

/// All messages of a conversation that were not delivered are sealed again; their blobs are written anew.
pub(super) fn unseal_all(db: &Connection, conversation: i64) -> Result<(), MailError> {
    let mut statement = db.prepare_cached(
        "SELECT message FROM message_out WHERE conversation = ?1 AND sealed = 1 AND state < 3 AND cancel < 3",
    )?;
    let rows = statement.query_map([conversation], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    for row in rows {
        if let Some(blob) = unseal(db, row)? {
            blobs_store::restart_out(db, blob)?;
        }
    }
    db.prepare_cached("UPDATE message_out SET cancel = 1 WHERE conversation = ?1 AND cancel = 2")?
        .execute([conversation])?;
    Ok(())
}

/// Nothing of a conversation that was left is sent any more, should it begin again: messages stay as far as they came. Returns the
/// blobs that nobody needs any more.
pub(super) fn give_up_all(db: &Connection, conversation: i64) -> Result<Vec<i64>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT message, blob FROM message_out WHERE conversation = ?1 AND state < 3 AND blob NOT NULL",
    )?;
    let rows = statement.query_map([conversation], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = rows.collect::<Result<Vec<(i64, i64)>, _>>()?;
    for (message, blob) in &rows {
        drop_blob(db, *message)?;
        blobs_store::delete_out(db, *blob)?;
    }
    db.prepare_cached(
        "UPDATE message_out SET sealed = 1, cancel = CASE WHEN state < 3 THEN 3 ELSE 0 END
         WHERE conversation = ?1 AND (state < 3 OR cancel > 0)",
    )?
    .execute([conversation])?;
    Ok(rows.into_iter().map(|(_, blob)| blob).collect())
}

/// The messages of a conversation that is undone wait for another one.
pub(super) fn disown(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE message_out SET conversation = NULL WHERE conversation = ?1")?.execute([conversation])?;
    Ok(())
}

/// Gives the messages that wait for a conversation with a contact to this one.
pub(super) fn adopt(db: &Connection, contact: i64, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE message_out SET conversation = ?2 WHERE contact = ?1 AND conversation IS NULL")?
        .execute((contact, conversation))?;
    Ok(())
}

/// Messages that have not come so far, and still can: not those whose boxes were forgotten when the own profile was removed.
pub(super) fn count_below(db: &Connection, state: MessageState) -> Result<u64, MailError> {
    Ok(db
        .prepare_cached(
            "SELECT count(*) FROM message_out m WHERE state < ?1 AND state < 3 AND NOT EXISTS (
                SELECT 1 FROM conversation v WHERE v.conversation = m.conversation AND v.standing = 2)
             AND (sealed = 0 OR EXISTS (SELECT 1 FROM box_out b WHERE b.message = m.message))",
        )?
        .query_row([number_of(state)], |row| row.get(0))?)
}

/// Letters that not both replicas have.
pub(super) fn letters(db: &Connection) -> Result<Vec<(i64, Letter)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT letter, contact, blob, generation, body, stored FROM letter_out WHERE stored < 3 ORDER BY letter",
    )?;
    let rows = statement
        .query_map([], |row| {
            let body: Vec<u8> = row.get(4)?;
            let row_number: i64 = row.get(0)?;
            let stored: u8 = row.get(5)?;
            Ok((row_number, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?, row.get::<_, u32>(3)?, body, stored))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter()
        .map(|(row, contact, blob, generation, body, stored)| {
            let body = BoxBody::from_slice(&body).map_err(|_| MailError::Damaged("a letter"))?;
            Ok((row, Letter { stored, ..Letter::new(contact, blob, generation, body) }))
        })
        .collect()
}

/// The message that an outgoing blob belongs to; a Welcome belongs to none.
pub(super) fn message_of_blob(db: &Connection, blob: i64) -> Result<Option<i64>, MailError> {
    Ok(db
        .prepare_cached("SELECT message FROM message_out WHERE blob = ?1")?
        .query_row([blob], |row| row.get(0))
        .optional()?)
}

/// The message no longer needs its blob.
pub(super) fn drop_blob(db: &Connection, message: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE message_out SET blob = NULL WHERE message = ?1")?.execute([message])?;
    Ok(())
}

/// Keeps a letter that is to be appended.
pub(super) fn insert_letter(db: &Connection, conversation: i64, letter: &Letter) -> Result<i64, MailError> {
    db.prepare_cached(
        "INSERT INTO letter_out (conversation, contact, blob, generation, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((conversation, letter.contact, letter.blob, letter.generation, letter.body.as_bytes().as_slice()))?;
    Ok(db.last_insert_rowid())
}

pub(super) fn set_letter_stored(
    db: &Connection,
    letter: i64,
    stored: u8,
    at: Option<UnixMillis>,
) -> Result<(), MailError> {
    db.prepare_cached("UPDATE letter_out SET stored = ?2, stored_at = ?3 WHERE letter = ?1")?.execute((
        letter,
        stored,
        at.map(|at| at.0),
    ))?;
    Ok(())
}

/// Letters to somebody for a conversation, and the Welcomes they point to.
pub(super) fn letters_of(
    db: &Connection,
    conversation: i64,
    contact: i64,
) -> Result<Vec<(i64, Option<i64>)>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT letter, blob FROM letter_out WHERE conversation = ?1 AND contact = ?2")?;
    let rows = statement.query_map((conversation, contact), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether a letter points to this Welcome.
pub(super) fn pointed_to(db: &Connection, blob: i64) -> Result<bool, MailError> {
    let mut statement = db.prepare_cached("SELECT EXISTS (SELECT 1 FROM letter_out WHERE blob = ?1)")?;
    Ok(statement.query_row([blob], |row| row.get(0))?)
}

pub(super) fn delete_letter(db: &Connection, letter: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM letter_out WHERE letter = ?1")?.execute([letter])?;
    Ok(())
}

/// Letters that were stored so long ago that they will expire unread are appended again; their owner drops equal ones.
pub(super) fn expire_letters(db: &Connection, before: UnixMillis) -> Result<usize, MailError> {
    Ok(db
        .prepare_cached("UPDATE letter_out SET stored = 0, stored_at = NULL WHERE stored_at < ?1")?
        .execute([before.0])?)
}

/// Whether messages wait for a conversation with a contact.
pub(super) fn waits(db: &Connection, contact: i64) -> Result<bool, MailError> {
    let found = "SELECT EXISTS (SELECT 1 FROM message_out WHERE contact = ?1 AND conversation IS NULL AND sealed = 0)";
    Ok(db.prepare_cached(found)?.query_row([contact], |row| row.get(0))?)
}

/// Messages in boxes that are not known to be stored.
pub(super) fn on_their_way(db: &Connection) -> Result<Vec<i64>, MailError> {
    // `state < 3` is the condition of the index
    let mut statement = db.prepare_cached(
        "SELECT message FROM message_out WHERE state < 2 AND state < 3 AND sealed = 1 AND cancel < 3",
    )?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
