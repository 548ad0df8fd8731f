//! Blobs on their way out and in: tables of the profile. Parts lie sealed, one row a content box, so that a crash loses
//! at most what was in flight.

use crate::blobs::Manifest;
use crate::chains::STORED_BOTH;
use crate::mail::MailError;
use crate::profile::Vault;
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::UnixMillis;
use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;
use std::time::Duration;
use zeroize::Zeroizing;

const MANIFEST: &str = "blob.manifest";
const PART: &str = "blob.part";

/// What an incoming blob is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The content of a message that waits for it.
    Message,
    /// A Welcome.
    Welcome,
    /// A commit.
    Commit,
}

impl Purpose {
    fn number(self) -> u8 {
        match self {
            Self::Message => 0,
            Self::Welcome => 1,
            Self::Commit => 2,
        }
    }
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Message,
            1 => Self::Welcome,
            _ => Self::Commit,
        }
    }
}

/// What was seen again and again: that parts are not there, or that replicas answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) since: UnixMillis,
    /// When that was seen last.
    pub(crate) seen: UnixMillis,
}

impl Observed {
    /// It is seen again. Who did not ask for long knows nothing of the time between, and begins anew.
    pub(crate) fn again(before: Option<Self>, now: UnixMillis, longest_gap: Duration) -> Self {
        match before {
            Some(before) if before.seen.plus(longest_gap) >= now => Self { seen: now, ..before },
            Some(_) | None => Self { since: now, seen: now },
        }
    }
}

/// An incoming blob.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) row: i64,
    pub(crate) manifest: Manifest,
    pub(crate) generation: u32,
    pub(crate) purpose: Purpose,
    pub(crate) since: UnixMillis,
    pub(crate) absent: Option<Observed>,
    /// A Welcome that nobody was invited to write, or of a request that is not accepted.
    pub(crate) stranger: bool,
}

fn seal_manifest(vault: &Vault, manifest: &Manifest) -> Vec<u8> {
    // encoding three fixed fields into a Vec cannot fail
    vault.seal(MANIFEST, &Zeroizing::new(minicbor::to_vec(manifest).unwrap_or_default()))
}

fn open_manifest(vault: &Vault, sealed: &[u8]) -> Result<Manifest, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a manifest does not open");
    minicbor::decode(&vault.open(MANIFEST, sealed).map_err(|_| DAMAGED)?).map_err(|_| DAMAGED)
}

/// Keeps an outgoing blob's parts; nothing is written before [`activate`].
pub(crate) fn insert_out(
    db: &Connection,
    vault: &Vault,
    manifest: &Manifest,
    content: &[u8],
) -> Result<i64, MailError> {
    db.prepare_cached("INSERT INTO blob_out (manifest) VALUES (?1)")?.execute([seal_manifest(vault, manifest)])?;
    let row = db.last_insert_rowid();
    let mut statement = db.prepare_cached("INSERT INTO part_out (blob, j, part) VALUES (?1, ?2, ?3)")?;
    for (j, part) in (0u64..).zip(content.chunks(BOX_PLAINTEXT_SIZE)) {
        statement.execute((row, j, vault.seal(PART, part)))?;
    }
    Ok(row)
}

/// From now on the blob's boxes may be written, placed by this generation. An empty blob is stored at once.
pub(crate) fn activate(db: &Connection, blob: i64, generation: u32, now: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE blob_out SET generation = ?2,
            stored_at = CASE WHEN EXISTS (SELECT 1 FROM part_out WHERE blob = ?1) THEN NULL ELSE ?3 END
         WHERE blob = ?1",
    )?
    .execute((blob, generation, now.0))?;
    Ok(())
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) row: i64,
    pub(crate) manifest: Manifest,
    pub(crate) generation: u32,
    /// Parts that not both replicas have, each with whether one has it.
    pub(crate) parts: Vec<(u64, bool)>,
}

/// Blobs that are being written.
pub(crate) fn unstored_out(db: &Connection, vault: &Vault) -> Result<Vec<Outgoing>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT blob, manifest, generation FROM blob_out WHERE generation IS NOT NULL AND stored_at IS NULL ORDER BY blob",
    )?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, u32>(2)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter()
        .map(|(row, manifest, generation)| {
            let parts = db
                .prepare_cached("SELECT j, stored > 0 FROM part_out WHERE blob = ?1 AND stored < 3")?
                .query_map([row], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<Vec<(u64, bool)>, _>>()?;
            Ok(Outgoing { row, manifest: open_manifest(vault, &manifest)?, generation, parts })
        })
        .collect()
}

/// One outgoing part.
#[derive(Debug)]
pub(crate) struct StoredPart {
    /// Its content.
    pub(crate) part: Zeroizing<Vec<u8>>,
    /// Bit p: replica p of the placement has it.
    pub(crate) stored: u8,
}

/// One part of an outgoing blob; `None` when the blob is gone.
pub(crate) fn part_out(db: &Connection, vault: &Vault, blob: i64, j: u64) -> Result<Option<StoredPart>, MailError> {
    let found: Option<(Vec<u8>, u8)> = db
        .prepare_cached("SELECT part, stored FROM part_out WHERE blob = ?1 AND j = ?2")?
        .query_row((blob, j), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found
        .map(|(part, stored)| {
            let part = vault.open(PART, &part).map_err(|_| MailError::Damaged("a part does not open"))?;
            Ok(StoredPart { part, stored })
        })
        .transpose()
}

/// Notes which replicas have a part; says whether both have all of them now.
pub(crate) fn set_part_stored(
    db: &Connection,
    blob: i64,
    j: u64,
    stored: u8,
    last: bool,
    now: UnixMillis,
) -> Result<bool, MailError> {
    db.prepare_cached("UPDATE part_out SET stored = ?3 WHERE blob = ?1 AND j = ?2")?.execute((blob, j, stored))?;
    if stored != STORED_BOTH || !last {
        return Ok(false);
    }
    let changed = db
        .prepare_cached(
            "UPDATE blob_out SET stored_at = ?2
             WHERE blob = ?1 AND NOT EXISTS (SELECT 1 FROM part_out WHERE blob = ?1 AND stored < 3)",
        )?
        .execute((blob, now.0))?;
    Ok(changed == 1)
}

/// Whether both replicas have all of an outgoing blob.
pub(crate) fn is_stored(db: &Connection, blob: i64) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached("SELECT stored_at IS NOT NULL FROM blob_out WHERE blob = ?1")?
        .query_row([blob], |row| row.get(0))
        .optional()?
        .unwrap_or(true))
}

/// Forgets an outgoing blob: its reader has it.
pub(crate) fn delete_out(db: &Connection, blob: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM part_out WHERE blob = ?1")?.execute([blob])?;
    db.prepare_cached("DELETE FROM blob_out WHERE blob = ?1")?.execute([blob])?;
    Ok(())
}

/// All of a blob is to be written anew, elsewhere.
pub(crate) fn restart_out(db: &Connection, blob: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE part_out SET stored = 0 WHERE blob = ?1")?.execute([blob])?;
    db.prepare_cached("UPDATE blob_out SET generation = NULL, stored_at = NULL WHERE blob = ?1")?.execute([blob])?;
    Ok(())
}

/// Sum of the parts that wait, bytes on disk.
pub(crate) fn waiting_bytes(db: &Connection) -> Result<u64, MailError> {
    let parts: u64 = db.query_row("SELECT count(*) FROM part_out", [], |row| row.get(0))?;
    Ok(parts.saturating_mul(BOX_PLAINTEXT_SIZE as u64))
}

/// Blobs that were stored so long ago that they will expire unread are written again.
pub(crate) fn expire_out(db: &Connection, before: UnixMillis) -> Result<usize, MailError> {
    db.prepare_cached("UPDATE part_out SET stored = 0 WHERE blob IN (SELECT blob FROM blob_out WHERE stored_at < ?1)")?
        .execute([before.0])?;
    Ok(db
        .prepare_cached(
            "UPDATE blob_out SET stored_at = NULL
             WHERE stored_at < ?1 AND EXISTS (SELECT 1 FROM part_out WHERE part_out.blob = blob_out.blob)",
        )?
        .execute([before.0])?)
}

/// Keeps an incoming blob that is to be fetched.
pub(crate) fn insert_in(
    db: &Connection,
    vault: &Vault,
    manifest: &Manifest,
    generation: u32,
    purpose: Purpose,
    stranger: bool,
    now: UnixMillis,
) -> Result<Incoming, MailError> {
    db.prepare_cached("INSERT INTO blob_in (manifest, generation, purpose, since) VALUES (?1, ?2, ?3, ?4)")?
        .execute((seal_manifest(vault, manifest), generation, purpose.number(), now.0))?;
    let row = db.last_insert_rowid();
    Ok(Incoming { row, manifest: manifest.clone(), generation, purpose, since: now, absent: None, stranger })
}

/// Blobs that are being fetched, with the parts that are here.
pub(crate) fn all_in(db: &Connection, vault: &Vault) -> Result<Vec<(Incoming, Vec<u64>)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT blob, manifest, generation, purpose, since, absent_since, absent_seen,
         (purpose = 1 AND NOT EXISTS (SELECT 1 FROM invite_made i WHERE i.welcome = blob_in.blob)) OR EXISTS (
            SELECT 1 FROM message_in m JOIN conversation v ON v.conversation = m.conversation
            WHERE m.blob = blob_in.blob AND v.request = 1) OR EXISTS (
            SELECT 1 FROM group_epoch g JOIN conversation v ON v.conversation = g.conversation
            WHERE g.blob = blob_in.blob AND v.request = 1) FROM blob_in ORDER BY blob",
    )?;
    let rows = statement
        .query_map([], |row| {
            let manifest: Vec<u8> = row.get(1)?;
            let numbers = (row.get::<_, u32>(2)?, row.get::<_, u8>(3)?, row.get::<_, u64>(4)?);
            let absent: (Option<u64>, Option<u64>) = (row.get(5)?, row.get(6)?);
            Ok((row.get::<_, i64>(0)?, manifest, numbers, absent, row.get::<_, bool>(7)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter()
        .map(|(row, manifest, (generation, purpose, since), absent, stranger)| {
            let parts = db
                .prepare_cached("SELECT j FROM part_in WHERE blob = ?1")?
                .query_map([row], |row| row.get(0))?
                .collect::<Result<Vec<u64>, _>>()?;
            let purpose = Purpose::from_number(purpose);
            let manifest = open_manifest(vault, &manifest)?;
            let since = UnixMillis(since);
            let absent = absent.0.zip(absent.1);
            let absent = absent.map(|(since, seen)| Observed { since: UnixMillis(since), seen: UnixMillis(seen) });
            Ok((Incoming { row, manifest, generation, purpose, since, absent, stranger }, parts))
        })
        .collect()
}

/// Keeps a part that came.
pub(crate) fn insert_part(db: &Connection, vault: &Vault, blob: i64, j: u64, part: &[u8]) -> Result<(), MailError> {
    db.prepare_cached("INSERT OR IGNORE INTO part_in (blob, j, part) VALUES (?1, ?2, ?3)")?.execute((
        blob,
        j,
        vault.seal(PART, part),
    ))?;
    Ok(())
}

/// The content of a message is written anew, in this newer generation. `false`: it was to be another content, or is there.
pub(crate) fn move_in(
    db: &Connection,
    vault: &Vault,
    blob: i64,
    manifest: &Manifest,
    generation: u32,
    now: UnixMillis,
) -> Result<bool, MailError> {
    let changed = db
        .prepare_cached(
            "UPDATE blob_in SET generation = ?3, since = ?4 WHERE blob = ?1 AND manifest = ?2 AND generation < ?3",
        )?
        .execute((blob, seal_manifest(vault, manifest), generation, now.0))?;
    Ok(changed == 1)
}

/// Something came of a message's blob: none of its writer's in the conversation is given up yet. Returns them.
pub(crate) fn set_since_of_writer(db: &Connection, blob: i64, now: UnixMillis) -> Result<Vec<i64>, MailError> {
    let theirs = "SELECT o.blob FROM message_in m JOIN message_in o USING (conversation, contact)
        WHERE m.blob = ?1 AND o.blob IS NOT NULL";
    let mut statement = db.prepare_cached(theirs)?;
    let theirs = statement.query_map([blob], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    for row in &theirs {
        set_since(db, *row, now)?;
    }
    Ok(theirs)
}

/// From now on it is waited for anew.
pub(crate) fn set_since(db: &Connection, blob: i64, now: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE blob_in SET since = ?2 WHERE blob = ?1")?.execute((blob, now.0))?;
    Ok(())
}

/// That a part is not there, or that one came.
pub(crate) fn set_absent(db: &Connection, blob: i64, absent: Option<Observed>) -> Result<(), MailError> {
    db.prepare_cached("UPDATE blob_in SET absent_since = ?2, absent_seen = ?3 WHERE blob = ?1")?.execute((
        blob,
        absent.map(|absent| absent.since.0),
        absent.map(|absent| absent.seen.0),
    ))?;
    Ok(())
}

/// Puts the parts together.
pub(crate) fn assemble(db: &Connection, vault: &Vault, incoming: &Incoming) -> Result<Zeroizing<Vec<u8>>, MailError> {
    // the length was checked against BLOB_SIZE_MAX when the manifest was taken
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(incoming.manifest.length()).unwrap_or(0)));
    let mut statement = db.prepare_cached("SELECT part FROM part_in WHERE blob = ?1 ORDER BY j")?;
    let mut rows = statement.query([incoming.row])?;
    while let Some(row) = rows.next()? {
        let sealed: Vec<u8> = row.get(0)?;
        content.extend_from_slice(&vault.open(PART, &sealed).map_err(|_| MailError::Damaged("a part does not open"))?);
    }
    Ok(content)
}

/// Forgets an incoming blob and its parts.
pub(crate) fn delete_in(db: &Connection, blob: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM part_in WHERE blob = ?1")?.execute([blob])?;
    db.prepare_cached("DELETE FROM blob_in WHERE blob = ?1")?.execute([blob])?;
    Ok(())
}
