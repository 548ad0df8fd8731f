//! The other members of conversations: a table of the profile. A member who was removed stays in it as long as one of
//! its chains is read.

use crate::chains::{self, Place};
use crate::mail::MailError;
use crate::records::Seen;
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::UnixMillis;

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberRow {
    pub(crate) row: i64,
    pub(crate) conversation: i64,
    pub(crate) contact: i64,
    pub(crate) leaf: u32,
    /// A record of its was read: it has joined.
    pub(crate) heard: bool,
    /// It said that it leaves, and no commit has removed it yet.
    pub(crate) leaving: bool,
    /// It went on from another commit than we: nothing of it is read, and nobody waits for it.
    pub(crate) astray: bool,
    /// It may have been away for so long that what it would have to read is gone: no commit waits for it, and it is to be
    /// added again.
    pub(crate) lost: bool,
    told: Option<Place>,
}

impl MemberRow {
    /// Whether a commit waits until it has followed.
    pub(crate) fn follows(&self) -> bool {
        !self.astray && !self.lost
    }
}

const COLUMNS: &str = "SELECT member, conversation, contact, leaf, heard, leaving, astray, told_epoch,
    told_boxes, lost FROM member";

fn read(row: &Row<'_>) -> rusqlite::Result<MemberRow> {
    let told: (Option<u64>, Option<u64>) = (row.get(7)?, row.get(8)?);
    Ok(MemberRow {
        row: row.get(0)?,
        conversation: row.get(1)?,
        contact: row.get(2)?,
        leaf: row.get(3)?,
        heard: row.get(4)?,
        leaving: row.get(5)?,
        astray: row.get(6)?,
        lost: row.get(9)?,
        told: told.0.zip(told.1).map(|(epoch, boxes)| Place { epoch, boxes }),
    })
}

pub(crate) fn by_row(db: &Connection, row: i64) -> Result<MemberRow, MailError> {
    Ok(db.prepare_cached(&format!("{COLUMNS} WHERE member = ?1"))?.query_row([row], read)?)
}

/// The members now, by leaf.
pub(crate) fn current(db: &Connection, conversation: i64) -> Result<Vec<MemberRow>, MailError> {
    let condition = "WHERE conversation = ?1 AND left_at IS NULL ORDER BY leaf";
    let mut statement = db.prepare_cached(&format!("{COLUMNS} {condition}"))?;
    Ok(statement.query_map([conversation], read)?.collect::<Result<_, _>>()?)
}

/// The member now whose contact this is.
pub(crate) fn of_contact(db: &Connection, conversation: i64, contact: i64) -> Result<Option<MemberRow>, MailError> {
    let condition = "WHERE conversation = ?1 AND contact = ?2 AND left_at IS NULL";
    Ok(db.prepare_cached(&format!("{COLUMNS} {condition}"))?.query_row((conversation, contact), read).optional()?)
}

/// Keeps somebody who is a member from this group epoch on.
pub(crate) fn insert(
    db: &Connection,
    conversation: i64,
    contact: i64,
    leaf: u32,
    epoch: u64,
) -> Result<i64, MailError> {
    db.prepare_cached("INSERT INTO member (conversation, contact, leaf, joined_epoch) VALUES (?1, ?2, ?3, ?4)")?
        .execute((conversation, contact, leaf, epoch))?;
    Ok(db.last_insert_rowid())
}

pub(crate) fn set_heard(db: &Connection, member: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET heard = 1 WHERE member = ?1")?.execute([member])?;
    Ok(())
}

pub(crate) fn set_leaving(db: &Connection, member: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET leaving = 1 WHERE member = ?1")?.execute([member])?;
    Ok(())
}

/// By this member's Welcome we joined.
pub(crate) fn set_inviter(db: &Connection, conversation: i64, leaf: u32) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET inviter = 1 WHERE conversation = ?1 AND leaf = ?2 AND left_at IS NULL")?
        .execute((conversation, leaf))?;
    Ok(())
}

/// The contact who brought us into a conversation, as long as they are in it.
pub(crate) fn inviter(db: &Connection, conversation: i64) -> Result<Option<i64>, MailError> {
    Ok(db
        .prepare_cached("SELECT contact FROM member WHERE conversation = ?1 AND inviter = 1 AND left_at IS NULL")?
        .query_row([conversation], |row| row.get(0))
        .optional()?)
}

/// The member went on from another commit.
pub(crate) fn set_astray(db: &Connection, member: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET astray = 1 WHERE member = ?1")?.execute([member])?;
    db.prepare_cached("UPDATE chain SET ended = 1 WHERE member = ?1")?.execute([member])?;
    Ok(())
}

/// The member may have been away for too long; or it is heard again, and was not.
pub(crate) fn set_lost(db: &Connection, member: i64, lost: bool) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET lost = ?2 WHERE member = ?1")?.execute((member, lost))?;
    Ok(())
}

/// All members of a conversation are those of a state that is given up.
pub(crate) fn leave_all(db: &Connection, conversation: i64, now: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET left_at = ?2 WHERE conversation = ?1 AND left_at IS NULL")?
        .execute((conversation, now.0))?;
    Ok(())
}

/// The member was removed: of its chains counts what comes before `cut`.
pub(crate) fn leave(db: &Connection, member: i64, cut: Place, now: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET left_at = ?2 WHERE member = ?1")?.execute((member, now.0))?;
    chains::cut(db, member, cut)
}

/// Nothing of what was said of the others' chains counts in an own chain that begins.
pub(crate) fn forget_told(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET told_epoch = NULL, told_boxes = NULL WHERE conversation = ?1")?
        .execute([conversation])?;
    Ok(())
}

/// What the next record of the own chain has to say of the others' chains: how far each was shown, where that was not said
/// yet.
pub(crate) fn to_tell(db: &Connection, conversation: i64) -> Result<Vec<(i64, Seen)>, MailError> {
    let mut news = Vec::new();
    for member in current(db, conversation)?.into_iter().filter(|member| !member.astray) {
        let at = chains::seen(db, member.row)?;
        if member.told != Some(at) {
            news.push((member.row, Seen { leaf: member.leaf, epoch: at.epoch, boxes: at.boxes }));
        }
    }
    Ok(news)
}

/// A record says so.
pub(crate) fn set_told(db: &Connection, member: i64, seen: &Seen) -> Result<(), MailError> {
    db.prepare_cached("UPDATE member SET told_epoch = ?2, told_boxes = ?3 WHERE member = ?1")?
        .execute((member, seen.epoch, seen.boxes))?;
    Ok(())
}

/// Whom a removal leaves unread for so long that nothing of theirs will come any more: their chains end.
pub(crate) fn end_left(db: &Connection, before: UnixMillis) -> Result<usize, MailError> {
    Ok(db
        .prepare_cached(
            "UPDATE chain SET ended = 1 WHERE own = 0 AND ended = 0
                AND member IN (SELECT member FROM member WHERE left_at < ?1)",
        )?
        .execute([before.0])?)
}
