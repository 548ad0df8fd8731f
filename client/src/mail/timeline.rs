//! What a screen shows of a conversation: own and others' messages in one order, and how far the user has seen it.
//!
//! The order is that in which messages were written or shown here (`profile/schema_timeline.rs`). Seeing is the user's
//! own affair: nothing of it leaves this machine, and receipts do not wait for it.

use super::meant::Target;
use super::{Mail, MailError, MessageId, ReceivedMessage, SentMessage, stored};
use crate::blobs::BLOB_SIZE_MAX;
use crate::records::{BlobKind, Content};
use crate::{contacts, conversations};
use rusqlite::{OptionalExtension as _, Transaction};
use shoal_protocol::UnixMillis;
use std::ops::RangeInclusive;
use zeroize::Zeroizing;

const OWN_TEXT: &str = "own_text.text";

/// Most entries of one answer. Each has a text of at most 1 MiB; [`TIMELINE_TEXT_MAX`] bounds them together.
pub const TIMELINE_ENTRIES_MAX: u32 = 200;
/// Bytes of text after which an answer ends, whatever was asked for; it has one entry at least.
pub const TIMELINE_TEXT_MAX: usize = 1 << 20;
/// Unseen messages are counted up to here: a screen shows no more digits, and counting costs one step each.
pub const UNSEEN_MAX: u64 = 1_000;
/// Conversations of one overview, those with the newest entries.
const OVERVIEW_MAX: u32 = 1_000;

/// A message in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// Its place: strictly increasing, never reused.
    pub cursor: u64,
    /// What stands there.
    pub message: TimelineMessage,
}

/// An own message or somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimelineMessage {
    /// An own one.
    Own(OwnMessage),
    /// Somebody else's.
    Received(ReceivedMessage),
}

/// An own message with what was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnMessage {
    /// Where it stands.
    pub sent: SentMessage,
    /// The text; empty for a file.
    pub text: String,
    /// Name and length of the file, when it is one. What was in it is not kept.
    pub file: Option<(String, u64)>,
    /// Boxes of a file or long text that both stores have, and all.
    pub parts: Option<(u64, u64)>,
}

/// Which entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimelineSide {
    /// The newest before this cursor; `None`: the newest of all.
    Before(Option<u64>),
    /// The oldest after this cursor.
    After(u64),
}

/// Some entries, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The entries.
    pub entries: Vec<TimelineEntry>,
    /// There are more on the side that was asked for.
    pub more: bool,
    /// Up to where the user has seen the conversation.
    pub seen: u64,
}

/// A conversation at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The conversation, as all calls take it; of messages that wait for a card the contact's address.
    pub conversation: String,
    /// `true` when there is no conversation yet: the messages wait for the contact's card.
    pub waiting: bool,
    /// Others' messages that the user has not seen, at most [`UNSEEN_MAX`].
    pub unseen: u64,
    /// The newest entry.
    pub newest: TimelineEntry,
}

/// Where entries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Conversation(i64),
    /// With this contact, who has no conversation yet.
    Waiting(i64),
}

impl Place {
    /// The condition on `?1`.
    fn condition(self) -> (&'static str, i64) {
        match self {
            Self::Conversation(row) => ("conversation = ?1", row),
            Self::Waiting(contact) => ("contact = ?1 AND conversation IS NULL", contact),
        }
    }
}

impl Mail {
    /// Entries of a conversation, a contact or an address, at most `limit` (and [`TIMELINE_ENTRIES_MAX`]).
    ///
    /// # Errors
    /// When nobody is meant, or the profile fails.
    pub fn timeline(&self, of: &str, side: TimelineSide, limit: u32) -> Result<Timeline, MailError> {
        let place = self.place(of)?;
        let (condition, row) = place.condition();
        let (edge, order) = match side {
            TimelineSide::Before(before) => (before.unwrap_or(u64::MAX), "entry < ?2 ORDER BY entry DESC"),
            TimelineSide::After(after) => (after, "entry > ?2 ORDER BY entry"),
        };
        let edge = i64::try_from(edge).unwrap_or(i64::MAX);
        let limit = usize::try_from(limit.clamp(1, TIMELINE_ENTRIES_MAX)).unwrap_or(1);
        let rows = self
            .profile
            .db
            .prepare_cached(&format!(
                "SELECT entry, sent, received FROM timeline WHERE {condition} AND {order} LIMIT {}",
                limit + 1
            ))?
            .query_map([row, edge], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<(u64, Option<i64>, Option<i64>)>, _>>()?;
        let mut timeline = Timeline { seen: self.seen_up_to(place)?, ..Timeline::default() };
        let mut text = 0;
        // not all have something to show
        timeline.more = rows.len() > limit;
        for (cursor, sent, received) in rows {
            if timeline.entries.len() == limit || text > TIMELINE_TEXT_MAX {
                timeline.more = true;
                break;
            }
            if let Some(entry) = self.entry(cursor, sent, received)? {
                text += entry.text().len();
                timeline.entries.push(entry);
            }
        }
        if matches!(side, TimelineSide::Before(_)) {
            timeline.entries.reverse();
        }
        Ok(timeline)
    }

    /// All conversations that have entries, the one with the newest first.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn overview(&self) -> Result<Vec<Overview>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let rows = db
            .prepare_cached(&format!(
                "SELECT max(entry), conversation, CASE WHEN conversation IS NULL THEN contact END AS waiting
                 FROM timeline GROUP BY conversation, waiting ORDER BY 1 DESC LIMIT {OVERVIEW_MAX}"
            ))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<(u64, Option<i64>, Option<i64>)>, _>>()?;
        let mut overview = Vec::with_capacity(rows.len());
        for (newest, conversation, contact) in rows {
            let (name, place) = match (conversation, contact) {
                (Some(row), _) => (conversations::by_row(db, vault, row)?.id.to_string(), Place::Conversation(row)),
                (None, Some(contact)) => (contacts::by_row(db, vault, contact)?.address(), Place::Waiting(contact)),
                (None, None) => continue,
            };
            let Some(newest) = self.newest_shown(place, newest)? else { continue };
            let waiting = matches!(place, Place::Waiting(_));
            overview.push(Overview { conversation: name, waiting, unseen: self.unseen(place)?, newest });
        }
        Ok(overview)
    }

    /// The newest entry up to one that is shown: what clients say to each other has entries too, a few in a row at most.
    fn newest_shown(&self, place: Place, newest: u64) -> Result<Option<TimelineEntry>, MailError> {
        let (condition, row) = place.condition();
        let rows = self
            .profile
            .db
            .prepare_cached(&format!(
                "SELECT entry, sent, received FROM timeline WHERE {condition} AND entry <= ?2 ORDER BY entry DESC LIMIT 16"
            ))?
            .query_map((row, i64::try_from(newest).unwrap_or(i64::MAX)), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<(u64, Option<i64>, Option<i64>)>, _>>()?;
        for (cursor, sent, received) in rows {
            if let Some(entry) = self.entry(cursor, sent, received)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The entry at a cursor.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn entry_at(&self, cursor: u64) -> Result<Option<TimelineEntry>, MailError> {
        let row: Option<(Option<i64>, Option<i64>)> = self
            .profile
            .db
            .prepare_cached("SELECT sent, received FROM timeline WHERE entry = ?1")?
            .query_row([i64::try_from(cursor).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        row.map_or(Ok(None), |(sent, received)| self.entry(cursor, sent, received))
    }

    /// The user has seen a conversation up to an entry. Never moves back.
    ///
    /// # Errors
    /// When nobody is meant, or the profile fails.
    pub fn set_seen(&mut self, of: &str, cursor: u64) -> Result<(), MailError> {
        // what waits for a card is all one's own: there is nothing to see
        if let Place::Conversation(row) = self.place(of)? {
            // a cursor beyond the last entry would hide what is yet to come
            self.profile
                .db
                .prepare_cached(
                    "INSERT INTO timeline_seen (conversation, entry)
                     VALUES (?1, min(?2, (SELECT coalesce(max(entry), 0) FROM timeline WHERE conversation = ?1)))
                     ON CONFLICT (conversation) DO UPDATE SET entry = max(entry, excluded.entry)",
                )?
                .execute((row, i64::try_from(cursor).unwrap_or(i64::MAX)))?;
        }
        Ok(())
    }

    /// What was read in the order in which it came, up to a cursor, has been seen in its conversations too.
    pub(super) fn see_read(
        &self,
        transaction: &Transaction<'_>,
        cursors: RangeInclusive<u64>,
    ) -> Result<(), MailError> {
        transaction
            .prepare_cached(
                "INSERT INTO timeline_seen (conversation, entry)
                 SELECT t.conversation, max(t.entry) FROM message_in m JOIN timeline t ON t.received = m.message
                 WHERE m.cursor BETWEEN ?1 AND ?2 GROUP BY t.conversation
                 ON CONFLICT (conversation) DO UPDATE SET entry = max(entry, excluded.entry)",
            )?
            .execute([*cursors.start(), *cursors.end()].map(|cursor| i64::try_from(cursor).unwrap_or(i64::MAX)))?;
        Ok(())
    }

    /// When there was last activity in a conversation, either way; `None` before there is one.
    ///
    /// # Errors
    /// When nobody is meant, or the profile fails.
    pub fn active_at(&self, of: &str) -> Result<Option<UnixMillis>, MailError> {
        match self.place(of)? {
            Place::Conversation(row) => {
                Ok(Some(conversations::by_row(&self.profile.db, &self.profile.vault, row)?.active_at))
            }
            Place::Waiting(_) => Ok(None),
        }
    }

    /// Keeps an own text that goes out as a blob, to be shown when the blob is gone.
    pub(super) fn keep_own_text(&self, id: MessageId, text: &str) -> Result<(), MailError> {
        let vault = &self.profile.vault;
        self.profile
            .db
            .prepare_cached("INSERT INTO own_text (message, text) SELECT message, ?2 FROM message_out WHERE id = ?1")?
            .execute((stored::seal_out_id(vault, id), vault.seal(OWN_TEXT, text.as_bytes())))?;
        Ok(())
    }

    fn own_text(&self, row: i64) -> Result<String, MailError> {
        const DAMAGED: MailError = MailError::Damaged("an own text does not open");
        let sealed: Option<Vec<u8>> = self
            .profile
            .db
            .prepare_cached("SELECT text FROM own_text WHERE message = ?1")?
            .query_row([row], |row| row.get(0))
            .optional()?;
        // a crash may have come between the message and its copy
        let Some(sealed) = sealed else { return Ok(String::new()) };
        let text: Zeroizing<Vec<u8>> = self.profile.vault.open(OWN_TEXT, &sealed).map_err(|_| DAMAGED)?;
        String::from_utf8(text.to_vec()).map_err(|_| DAMAGED)
    }

    fn entry(&self, cursor: u64, sent: Option<i64>, received: Option<i64>) -> Result<Option<TimelineEntry>, MailError> {
        let message = match (sent, received) {
            (Some(row), _) => self.own(row)?.map(TimelineMessage::Own),
            (None, Some(row)) => self.received("WHERE message = ?1", row)?.pop().map(TimelineMessage::Received),
            (None, None) => None,
        };
        Ok(message.map(|message| TimelineEntry { cursor, message }))
    }

    fn own(&self, row: i64) -> Result<Option<OwnMessage>, MailError> {
        let message = stored::out_by_row(&self.profile.db, &self.profile.vault, row)?;
        let (text, file) = if let Content::Text { text, .. } = &message.content {
            (text.clone(), None)
        } else if let Content::Blob { kind: BlobKind::File { name, .. }, manifest, .. } = &message.content {
            (String::new(), Some((name.clone(), manifest.length().min(BLOB_SIZE_MAX))))
        } else if let Content::Blob { kind: BlobKind::Text, .. } = &message.content {
            (self.own_text(row)?, None)
        } else {
            // what clients say to each other is not shown
            return Ok(None);
        };
        let (sent, parts) = (self.state(message.id)?, self.parts(message.id)?);
        Ok(Some(OwnMessage { sent, text, file, parts }))
    }

    fn seen_up_to(&self, place: Place) -> Result<u64, MailError> {
        let Place::Conversation(row) = place else { return Ok(0) };
        Ok(self
            .profile
            .db
            .prepare_cached("SELECT entry FROM timeline_seen WHERE conversation = ?1")?
            .query_row([row], |row| row.get(0))
            .optional()?
            .unwrap_or(0))
    }

    fn unseen(&self, place: Place) -> Result<u64, MailError> {
        let Place::Conversation(row) = place else { return Ok(0) };
        Ok(self
            .profile
            .db
            .prepare_cached(&format!(
                "SELECT count(*) FROM (SELECT 1 FROM timeline
                 WHERE conversation = ?1 AND received IS NOT NULL AND entry > ?2 LIMIT {UNSEEN_MAX})"
            ))?
            .query_row((row, self.seen_up_to(place)?), |row| row.get(0))?)
    }

    fn place(&self, of: &str) -> Result<Place, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        if let Ok(id) = of.parse()
            && let Some(conversation) = conversations::by_id(db, vault, id)?
        {
            return Ok(Place::Conversation(conversation.row));
        }
        match self.target(of)? {
            Some(Target::Person(contact, None)) => Ok(Place::Waiting(contact.row)),
            Some(Target::Person(_, Some(conversation)) | Target::Group(conversation)) => {
                Ok(Place::Conversation(conversation.row))
            }
            None => Err(MailError::Unknown(of.to_owned())),
        }
    }
}

impl TimelineEntry {
    fn text(&self) -> &str {
        match &self.message {
            TimelineMessage::Own(message) => &message.text,
            TimelineMessage::Received(message) => &message.text,
        }
    }
}
