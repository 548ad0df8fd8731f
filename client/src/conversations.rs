//! Conversations of two: a table of the profile. The group itself lies in OpenMLS's tables ([`crate::conversations_mls`]).

use crate::chains::{self, Side};
use crate::commit_slots::commit_secret;
use crate::commits;
use crate::conversations_mls::{Begun, chain_secret};
use crate::mail::{ConversationId, MailError, RateClass};
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use rusqlite::{Connection, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::parameters::Parameters;

const GROUP: &str = "conversation.group_id";
/// Most requests of strangers that wait for the user's answer, however fast the client is.
pub const REQUESTS_MAX: u64 = 256;

/// Most requests of strangers that wait for the user's answer; further ones are dropped until some are answered. Their
/// chains, polled at the idle pace, get at most a quarter of the payload ticks: 2/s × 600 s ÷ 4 = 300 in production,
/// 0.05/s × 600 s ÷ 4 = 7 in its low class.
#[must_use]
pub fn requests_max(parameters: &Parameters, class: RateClass) -> u64 {
    let millihertz = match class {
        RateClass::Normal => parameters.lambda_p.0,
        RateClass::Low => parameters.lambda_low.0,
    };
    (u64::from(millihertz).saturating_mul(parameters.poll_idle_ms) / 4_000_000).clamp(1, REQUESTS_MAX)
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) row: i64,
    pub(crate) contact: i64,
    pub(crate) id: ConversationId,
    /// A stranger's, not accepted.
    pub(crate) request: bool,
    /// Last activity, either way.
    pub(crate) active_at: UnixMillis,
    /// Group epoch of the MLS state.
    pub(crate) epoch: u64,
    /// Generation of that epoch.
    pub(crate) generation: u32,
    /// Since when the keys of the own leaf are in use; 0: they are a card's, which others joined with too.
    pub(crate) healed_at: UnixMillis,
    /// An own commit is due then.
    pub(crate) commit_at: Option<UnixMillis>,
    /// The members applied different commits, or can agree on none: nothing is read or sent.
    pub(crate) broken: bool,
}

impl Sealed for Conversation {
    type Raw = (i64, i64, Vec<u8>, bool, u64, u64, u32, u64, Option<u64>, bool);
    const SELECT: &'static str = "SELECT conversation, contact, group_id, request, active_at, epoch, generation,
        healed_at, commit_at, broken FROM conversation";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError> {
        let (row, contact, group, request, active_at, epoch, generation, healed_at, commit_at, broken) = raw;
        let id = vault.open(GROUP, &group).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes.as_slice()).ok());
        let id = ConversationId(id.ok_or(MailError::Damaged("a conversation does not open"))?);
        let (active_at, healed_at) = (UnixMillis(active_at), UnixMillis(healed_at));
        let commit_at = commit_at.map(UnixMillis);
        Ok(Self { row, contact, id, request, active_at, epoch, generation, healed_at, commit_at, broken })
    }
}

pub(crate) fn by_row(db: &Connection, vault: &Vault, row: i64) -> Result<Conversation, MailError> {
    rows::one(db, vault, "WHERE conversation = ?1", [row])
}

pub(crate) fn by_id(db: &Connection, vault: &Vault, id: ConversationId) -> Result<Option<Conversation>, MailError> {
    rows::find(db, vault, "WHERE group_id = ?1", [vault.seal(GROUP, &id.0)])
}

pub(crate) fn all(db: &Connection, vault: &Vault) -> Result<Vec<Conversation>, MailError> {
    rows::all(db, vault, "ORDER BY conversation", [])
}

/// All conversations with a contact, the one to write to first: the lowest id, which both sides choose alike when each
/// founded one at the same time.
pub(crate) fn of_contact(db: &Connection, vault: &Vault, contact: i64) -> Result<Vec<Conversation>, MailError> {
    let mut found: Vec<Conversation> = rows::all(db, vault, "WHERE contact = ?1", [contact])?;
    found.sort_by_key(|conversation| conversation.id);
    Ok(found)
}

/// Whether a conversation has this group id.
pub(crate) fn known(db: &Connection, vault: &Vault, group_id: &[u8]) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM conversation WHERE group_id = ?1)")?
        .query_row([vault.seal(GROUP, group_id)], |row| row.get(0))?)
}

/// How a conversation begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// We founded it, with a fresh leaf.
    Founded,
    /// We joined it with the leaf of a card.
    Joined {
        /// As the request of a stranger.
        request: bool,
    },
}

/// Keeps a conversation that begins, with the two chains of its first epoch.
pub(crate) fn insert(
    db: &Connection,
    vault: &Vault,
    contact: i64,
    begun: &Begun,
    writer: &WriteKey,
    origin: Origin,
    now: UnixMillis,
) -> Result<Conversation, MailError> {
    let (request, healed_at) = match origin {
        Origin::Founded => (false, now),
        Origin::Joined { request } => (request, UnixMillis(0)),
    };
    db.prepare_cached(
        "INSERT INTO conversation (contact, group_id, epoch, generation, request, active_at, healed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        contact,
        vault.seal(GROUP, &begun.group_id),
        begun.epoch,
        begun.generation,
        request,
        now.0,
        healed_at.0,
    ))?;
    let row = db.last_insert_rowid();
    insert_epoch(db, vault, row, begun, writer, now)?;
    by_row(db, vault, row)
}

/// The group has come to another epoch: its chains begin, and its slots.
pub(crate) fn enter(
    db: &Connection,
    vault: &Vault,
    row: i64,
    begun: &Begun,
    writer: &WriteKey,
    now: UnixMillis,
) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET epoch = ?2, generation = ?3, commit_at = NULL WHERE conversation = ?1")?
        .execute((row, begun.epoch, begun.generation))?;
    insert_epoch(db, vault, row, begun, writer, now)
}

fn insert_epoch(
    db: &Connection,
    vault: &Vault,
    row: i64,
    begun: &Begun,
    writer: &WriteKey,
    now: UnixMillis,
) -> Result<(), MailError> {
    for (leaf, side) in [(begun.own_leaf, Side::Own(writer.clone())), (begun.peer.leaf, Side::Peer(begun.peer.writer))]
    {
        let secret = chain_secret(&begun.exported, leaf);
        chains::insert(db, vault, Some(row), begun.epoch, leaf, begun.generation, &secret, &side)?;
    }
    commits::insert_epoch(db, vault, row, begun.epoch, begun.generation, &commit_secret(&begun.exported), now)
}

pub(crate) fn set_commit_at(db: &Connection, row: i64, at: Option<UnixMillis>) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET commit_at = ?2 WHERE conversation = ?1")?
        .execute((row, at.map(|at| at.0)))?;
    Ok(())
}

pub(crate) fn set_healed(db: &Connection, row: i64, at: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET healed_at = ?2 WHERE conversation = ?1")?.execute((row, at.0))?;
    Ok(())
}

pub(crate) fn set_broken(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET broken = 1, commit_at = NULL WHERE conversation = ?1")?
        .execute([row])?;
    Ok(())
}

pub(crate) fn set_owing(db: &Connection, row: i64, owing: bool) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET owing = ?2 WHERE conversation = ?1")?.execute((row, owing))?;
    Ok(())
}

/// Conversations whose peer was not told of a message that was shown.
pub(crate) fn owing(db: &Connection) -> Result<Vec<i64>, MailError> {
    let mut statement = db.prepare_cached("SELECT conversation FROM conversation WHERE owing = 1")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

pub(crate) fn requests(db: &Connection) -> Result<u64, MailError> {
    Ok(db.query_row("SELECT count(*) FROM conversation WHERE request = 1", [], |row| row.get(0))?)
}

pub(crate) fn accept(db: &Connection, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET request = 0, commit_at = NULL WHERE contact = ?1 AND request = 1")?
        .execute([contact])?;
    Ok(())
}

pub(crate) fn touch(db: &Connection, conversation: i64, now: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET active_at = ?2 WHERE conversation = ?1")?
        .execute((conversation, now.0))?;
    Ok(())
}
