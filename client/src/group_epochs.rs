//! Group epochs: a table of the profile. Each from the oldest that a member still writes in to the current one, with what is
//! known of the slot in which the commit is looked for that ends it.

use crate::blobs_store::Observed;
use crate::mail::MailError;
use crate::profile::Vault;
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::{Hash, UnixMillis};
use zeroize::Zeroizing;

const SECRET: &str = "group_epoch.secret";
const HASH: &str = "group_epoch.hash";
const DAMAGED: MailError = MailError::Damaged("a group epoch does not open");

/// One group epoch.
#[derive(Clone, Debug)]
pub(crate) struct GroupEpoch {
    pub(crate) epoch: u64,
    pub(crate) generation: u32,
    pub(crate) secret: Zeroizing<[u8; 32]>,
    /// The slot to read next.
    pub(crate) slot: u64,
    /// The empty slot before it that still decides: what lies in `slot` counts only when it is the commit that others name.
    pub(crate) base: Option<u64>,
    /// Who filled that slot, and the blob of the commit, while it is fetched.
    pub(crate) fetching: Option<(u32, i64)>,
    /// The commit that another member's `end` names.
    pub(crate) named: Option<Hash>,
    /// The commit that ended the epoch here.
    pub(crate) applied: Option<Hash>,
    pub(crate) sight: Sight,
}

/// What is known of the replica that decides the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// When it last said that the slot is empty.
    pub(crate) touched_at: UnixMillis,
    /// No own commit before: the slot was out of sight for so long that another's may have come and expired.
    pub(crate) hold_until: UnixMillis,
    /// When it came into sight again after having been out of it, once, for so long that others may have passed over the slot.
    pub(crate) back_at: Option<UnixMillis>,
    /// That it alone does not answer.
    pub(crate) mute: Option<Observed>,
    /// That both replicas say that the slot is empty, though a member's `end` names a commit.
    pub(crate) missing: Option<Observed>,
}

/// Keeps the epoch that a group has come to.
pub(crate) fn insert(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
    generation: u32,
    secret: &[u8; 32],
    now: UnixMillis,
) -> Result<(), MailError> {
    db.prepare_cached(
        "INSERT INTO group_epoch (conversation, epoch, generation, secret, touched_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((conversation, epoch, generation, vault.seal(SECRET, secret), now.0))?;
    Ok(())
}

/// Keeps what is known of the replica that decides the slot.
pub(crate) fn set_sight(db: &Connection, conversation: i64, epoch: u64, sight: &Sight) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET touched_at = ?3, hold_until = ?4, mute_since = ?5, mute_seen = ?6, missing_since = ?7,
            missing_seen = ?8, back_at = ?9
         WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((
        conversation,
        epoch,
        sight.touched_at.0,
        sight.hold_until.0,
        sight.mute.map(|mute| mute.since.0),
        sight.mute.map(|mute| mute.seen.0),
        sight.missing.map(|missing| missing.since.0),
        sight.missing.map(|missing| missing.seen.0),
        sight.back_at.map(|at| at.0),
    ))?;
    Ok(())
}

/// The slot of an epoch was not in sight since then: its commit was read later than it was written.
pub(crate) fn set_touched(db: &Connection, conversation: i64, epoch: u64, at: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE group_epoch SET touched_at = ?3 WHERE conversation = ?1 AND epoch = ?2")?.execute((
        conversation,
        epoch,
        at.0,
    ))?;
    Ok(())
}

pub(crate) fn of(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
) -> Result<Option<GroupEpoch>, MailError> {
    type Hashes = (Option<Vec<u8>>, Option<Vec<u8>>);
    type Places = (u64, Option<u64>, Option<u32>, Option<i64>);
    type Seen = (Option<u64>, Option<u64>);
    type Times = (u64, u64, Seen, Seen, Option<u64>);
    type Raw = (u32, Vec<u8>, Places, Hashes, Times);
    let found: Option<Raw> = db
        .prepare_cached(
            "SELECT generation, secret, slot, base, leaf, blob, named, applied, touched_at, hold_until, mute_since,
                mute_seen, missing_since, missing_seen, back_at
             FROM group_epoch WHERE conversation = ?1 AND epoch = ?2",
        )?
        .query_row((conversation, epoch), |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?),
                (row.get(6)?, row.get(7)?),
                (row.get(8)?, row.get(9)?, (row.get(10)?, row.get(11)?), (row.get(12)?, row.get(13)?), row.get(14)?),
            ))
        })
        .optional()?;
    let Some((generation, secret, places, (named, applied), times)) = found else { return Ok(None) };
    let (slot, base, leaf, blob) = places;
    let (touched_at, hold_until, mute, missing, back_at) = times;
    let observed = |(since, seen): Seen| {
        since.zip(seen).map(|(since, seen)| Observed { since: UnixMillis(since), seen: UnixMillis(seen) })
    };
    let sight = Sight {
        touched_at: UnixMillis(touched_at),
        hold_until: UnixMillis(hold_until),
        mute: observed(mute),
        missing: observed(missing),
        back_at: back_at.map(UnixMillis),
    };
    let open = |context, sealed: &[u8]| vault.open_array(context, sealed).map_err(|_| DAMAGED);
    let hash = |sealed: Option<Vec<u8>>| {
        sealed.map(|sealed| Ok::<_, MailError>(Hash::from_bytes(*open(HASH, &sealed)?))).transpose()
    };
    Ok(Some(GroupEpoch {
        epoch,
        generation,
        secret: open(SECRET, &secret)?,
        slot,
        base,
        fetching: leaf.zip(blob),
        named: hash(named)?,
        applied: hash(applied)?,
        sight,
    }))
}

/// The conversation whose slot a blob's commit lies in, and the epoch.
pub(crate) fn of_blob(db: &Connection, blob: i64) -> Result<Option<(i64, u64)>, MailError> {
    Ok(db
        .prepare_cached("SELECT conversation, epoch FROM group_epoch WHERE blob = ?1")?
        .query_row([blob], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// Moves on to a slot; what was fetched for the one before is no longer wanted.
pub(crate) fn set_slot(db: &Connection, conversation: i64, epoch: u64, slot: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET slot = ?3, leaf = NULL, blob = NULL, mute_since = NULL, mute_seen = NULL,
            missing_since = NULL, missing_seen = NULL
         WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((conversation, epoch, slot))?;
    Ok(())
}

/// Something lies in a slot behind an empty one: it is read, and the empty one decides until it was found to count.
pub(crate) fn look_into(db: &Connection, conversation: i64, epoch: u64, slot: u64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE group_epoch SET base = slot, slot = ?3 WHERE conversation = ?1 AND epoch = ?2")?
        .execute((conversation, epoch, slot))?;
    Ok(())
}

/// It does not count: the empty slot decides again.
pub(crate) fn look_back(db: &Connection, conversation: i64, epoch: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET slot = base, base = NULL, leaf = NULL, blob = NULL
         WHERE conversation = ?1 AND epoch = ?2 AND base IS NOT NULL",
    )?
    .execute((conversation, epoch))?;
    Ok(())
}

pub(crate) fn set_fetching(
    db: &Connection,
    conversation: i64,
    epoch: u64,
    leaf: u32,
    blob: i64,
) -> Result<(), MailError> {
    db.prepare_cached("UPDATE group_epoch SET leaf = ?3, blob = ?4 WHERE conversation = ?1 AND epoch = ?2")?
        .execute((conversation, epoch, leaf, blob))?;
    Ok(())
}

pub(crate) fn set_named(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
    hash: &Hash,
) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET named = ?3, missing_since = NULL, missing_seen = NULL WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((conversation, epoch, vault.seal(HASH, hash.as_bytes())))?;
    Ok(())
}

/// The commit that was named is nowhere: nobody looks for it any more.
pub(crate) fn forget_named(db: &Connection, conversation: i64, epoch: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET named = NULL, missing_since = NULL, missing_seen = NULL WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((conversation, epoch))?;
    Ok(())
}

pub(crate) fn set_applied(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
    hash: &Hash,
) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET applied = ?3, leaf = NULL, blob = NULL WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((conversation, epoch, vault.seal(HASH, hash.as_bytes())))?;
    Ok(())
}

/// Forgets what is known of epochs before one: nobody writes in them any more.
pub(crate) fn forget_before(db: &Connection, conversation: i64, before: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "DELETE FROM group_epoch WHERE conversation = ?1 AND epoch < ?2
            AND NOT EXISTS (SELECT 1 FROM commit_out c WHERE c.conversation = ?1 AND c.epoch = group_epoch.epoch)",
    )?
    .execute((conversation, before))?;
    Ok(())
}
