//! Group epochs and own commits: tables of the profile.

use crate::blobs::Manifest;
use crate::chains::{Place, STORED_BOTH};
use crate::commits_mls::ADDED_MAX;
use crate::conversations_mls::GROUP_SIZE_MAX;
use crate::inbox_letter::PointerPublic;
use crate::mail::MailError;
use crate::profile::Vault;
use minicbor::{Decode, Encode};
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::boxes::{BoxBody, WriteKey};
use shoal_protocol::inbox::InboxPublic;
use shoal_protocol::{Hash, UnixMillis};
use zeroize::Zeroizing;

const SECRET: &str = "group_epoch.secret";
const HASH: &str = "commit.hash";
const MANIFEST: &str = "commit.manifest";
const WRITER: &str = "commit.writer";
const CUTS: &str = "commit.cuts";
const WELCOME: &str = "commit.welcome";
const ADDED: &str = "commit.added";
const DAMAGED: MailError = MailError::Damaged("a group epoch does not open");

/// Of the chains of a member whom a commit removes counts what comes before a place: how far its writer had read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Cut {
    #[n(0)]
    pub(crate) leaf: u32,
    #[n(1)]
    pub(crate) at: Place,
}

/// What the blob of a commit holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Parcel {
    /// The commit, TLS encoding.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) commit: Vec<u8>,
    /// One for each leaf that it removes.
    #[n(1)]
    pub(crate) cuts: Vec<Cut>,
}

impl Parcel {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // plain fields into a Vec cannot fail
        minicbor::to_vec(self).unwrap_or_default()
    }
    /// Reads one; `None` when it is none, or a number is out of range (SQLite counts to `i64::MAX`).
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let parcel: Self = decoder.decode().ok()?;
        let counts = |cut: &Cut| i64::try_from(cut.at.epoch).is_ok() && i64::try_from(cut.at.boxes).is_ok();
        let sound = decoder.position() == bytes.len() && parcel.cuts.len() < GROUP_SIZE_MAX;
        (sound && parcel.cuts.iter().all(counts)).then_some(parcel)
    }
    /// Whether it says of all whom the commit removes, and of nobody else, how far their chains count.
    pub(crate) fn covers(&self, removed: &[u32]) -> bool {
        let mut cut: Vec<u32> = self.cuts.iter().map(|cut| cut.leaf).collect();
        let mut removed = removed.to_vec();
        cut.sort_unstable();
        removed.sort_unstable();
        cut == removed
    }
}

/// Whom an own commit adds: what a letter to them is made of once it has won, whatever the user wants by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// The Welcome, TLS encoding, for all of them.
    pub(crate) welcome: Zeroizing<Vec<u8>>,
    /// Each with the pointer key of the card whose key package the commit takes; at most [`ADDED_MAX`].
    pub(crate) added: Vec<(InboxPublic, PointerPublic)>,
}

#[derive(Encode, Decode)]
struct StoredAdded {
    #[cbor(n(0), with = "minicbor::bytes")]
    inbox: [u8; 32],
    #[cbor(n(1), with = "minicbor::bytes")]
    pointer: Vec<u8>,
}

impl Invitation {
    fn added_to_bytes(&self) -> Vec<u8> {
        let of = |(inbox, pointer): &(InboxPublic, PointerPublic)| StoredAdded {
            inbox: *inbox.as_bytes(),
            pointer: pointer.to_bytes(),
        };
        // plain fields into a Vec cannot fail
        minicbor::to_vec(self.added.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
    }

    fn added_from_bytes(bytes: &[u8]) -> Option<Vec<(InboxPublic, PointerPublic)>> {
        let stored: Vec<StoredAdded> = minicbor::decode(bytes).ok()?;
        let open =
            |one: &StoredAdded| Some((InboxPublic::parse(one.inbox).ok()?, PointerPublic::parse(&one.pointer).ok()?));
        (stored.len() <= ADDED_MAX).then(|| stored.iter().map(open).collect()).flatten()
    }
}

/// One group epoch.
#[derive(Clone, Debug)]
pub(crate) struct GroupEpoch {
    pub(crate) epoch: u64,
    pub(crate) generation: u32,
    pub(crate) secret: Zeroizing<[u8; 32]>,
    /// The slot to read next.
    pub(crate) slot: u64,
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
    /// Since when it alone does not answer.
    pub(crate) mute_since: Option<UnixMillis>,
    /// Since when both replicas say that the slot is empty, though a member's `end` names a commit.
    pub(crate) missing_since: Option<UnixMillis>,
}

fn open_array(vault: &Vault, context: &'static str, sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, MailError> {
    let opened = vault.open(context, sealed).map_err(|_| DAMAGED)?;
    Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| DAMAGED)?))
}

fn open_hash(vault: &Vault, sealed: &[u8]) -> Result<Hash, MailError> {
    Ok(Hash::from_bytes(*open_array(vault, HASH, sealed)?))
}

/// Keeps the epoch that a group has come to.
pub(crate) fn insert_epoch(
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
        "UPDATE group_epoch SET touched_at = ?3, hold_until = ?4, mute_since = ?5, missing_since = ?6
         WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((
        conversation,
        epoch,
        sight.touched_at.0,
        sight.hold_until.0,
        sight.mute_since.map(|at| at.0),
        sight.missing_since.map(|at| at.0),
    ))?;
    Ok(())
}

pub(crate) fn epoch(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
) -> Result<Option<GroupEpoch>, MailError> {
    type Hashes = (Option<Vec<u8>>, Option<Vec<u8>>);
    type Raw = (u32, Vec<u8>, u64, (Option<u32>, Option<i64>), Hashes, (u64, u64, Option<u64>, Option<u64>));
    let found: Option<Raw> = db
        .prepare_cached(
            "SELECT generation, secret, slot, leaf, blob, named, applied, touched_at, hold_until, mute_since,
                missing_since
             FROM group_epoch WHERE conversation = ?1 AND epoch = ?2",
        )?
        .query_row((conversation, epoch), |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                (row.get(3)?, row.get(4)?),
                (row.get(5)?, row.get(6)?),
                (row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?),
            ))
        })
        .optional()?;
    let Some((generation, secret, slot, (leaf, blob), (named, applied), sight)) = found else { return Ok(None) };
    let (touched_at, hold_until, mute_since, missing_since) = sight;
    let sight = Sight {
        touched_at: UnixMillis(touched_at),
        hold_until: UnixMillis(hold_until),
        mute_since: mute_since.map(UnixMillis),
        missing_since: missing_since.map(UnixMillis),
    };
    let hash = |sealed: Option<Vec<u8>>| sealed.map(|sealed| open_hash(vault, &sealed)).transpose();
    Ok(Some(GroupEpoch {
        epoch,
        generation,
        secret: open_array(vault, SECRET, &secret)?,
        slot,
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
        "UPDATE group_epoch SET slot = ?3, leaf = NULL, blob = NULL, mute_since = NULL, missing_since = NULL
         WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((conversation, epoch, slot))?;
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
        "UPDATE group_epoch SET named = ?3, missing_since = NULL WHERE conversation = ?1 AND epoch = ?2",
    )?
    .execute((conversation, epoch, vault.seal(HASH, hash.as_bytes())))?;
    Ok(())
}

/// The commit that was named is nowhere: nobody looks for it any more.
pub(crate) fn forget_named(db: &Connection, conversation: i64, epoch: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE group_epoch SET named = NULL, missing_since = NULL WHERE conversation = ?1 AND epoch = ?2",
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

/// An own commit.
#[derive(Clone, Debug)]
pub(crate) struct OwnCommit {
    pub(crate) row: i64,
    pub(crate) conversation: i64,
    pub(crate) epoch: u64,
    pub(crate) hash: Hash,
    pub(crate) manifest: Manifest,
    pub(crate) blob: i64,
    pub(crate) slot: u64,
    pub(crate) body: BoxBody,
    /// Write key of the new leaf.
    pub(crate) writer: WriteKey,
    /// Where the chains of those end whom it removes.
    pub(crate) cuts: Vec<Cut>,
    /// Those whom it adds, until it has won and each has a letter.
    pub(crate) invitation: Option<Invitation>,
    /// It won, and the group has gone on.
    pub(crate) merged: bool,
    /// Bit p: replica p of the placement has the slot's box.
    pub(crate) stored: u8,
}

const COLUMNS: &str =
    "SELECT commit_row, conversation, epoch, hash, manifest, blob, slot, body, writer, merged, stored,
    cuts, welcome, added FROM commit_out";

type Last = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);
type Raw = ((i64, i64, u64), Vec<u8>, Vec<u8>, (i64, u64), Vec<u8>, Vec<u8>, (bool, u8), Last);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((
        (row.get(0)?, row.get(1)?, row.get(2)?),
        row.get(3)?,
        row.get(4)?,
        (row.get(5)?, row.get(6)?),
        row.get(7)?,
        row.get(8)?,
        (row.get(9)?, row.get(10)?),
        (row.get(11)?, row.get(12)?, row.get(13)?),
    ))
}

fn decode(vault: &Vault, raw: Raw) -> Result<OwnCommit, MailError> {
    let ((row, conversation, epoch), hash, manifest, (blob, slot), body, writer, (merged, stored), last) = raw;
    let (cuts, welcome, added) = last;
    let invitation = welcome.zip(added).map(|(welcome, added)| {
        let added = Invitation::added_from_bytes(&vault.open(ADDED, &added).map_err(|_| DAMAGED)?).ok_or(DAMAGED)?;
        Ok::<_, MailError>(Invitation { welcome: vault.open(WELCOME, &welcome).map_err(|_| DAMAGED)?, added })
    });
    let cuts = vault.open(CUTS, &cuts).map_err(|_| DAMAGED)?;
    let manifest = vault.open(MANIFEST, &manifest).map_err(|_| DAMAGED)?;
    Ok(OwnCommit {
        row,
        conversation,
        epoch,
        hash: open_hash(vault, &hash)?,
        manifest: minicbor::decode(&manifest).map_err(|_| DAMAGED)?,
        blob,
        slot,
        body: BoxBody::from_slice(&body).map_err(|_| DAMAGED)?,
        writer: WriteKey::from_seed(&*open_array(vault, WRITER, &writer)?),
        cuts: minicbor::decode(&cuts).map_err(|_| DAMAGED)?,
        invitation: invitation.transpose()?,
        merged,
        stored,
    })
}

/// What a commit in the making consists of.
pub(crate) struct Draft<'a> {
    pub(crate) conversation: i64,
    pub(crate) epoch: u64,
    pub(crate) hash: Hash,
    pub(crate) manifest: &'a Manifest,
    pub(crate) blob: i64,
    pub(crate) slot: u64,
    pub(crate) body: &'a BoxBody,
    pub(crate) writer: &'a WriteKey,
    pub(crate) cuts: &'a [Cut],
    pub(crate) invitation: Option<&'a Invitation>,
}

/// Keeps an own commit that is to be written.
pub(crate) fn insert_commit(db: &Connection, vault: &Vault, draft: &Draft<'_>) -> Result<i64, MailError> {
    let manifest = Zeroizing::new(minicbor::to_vec(draft.manifest).unwrap_or_default());
    db.prepare_cached(
        "INSERT INTO commit_out (conversation, epoch, hash, manifest, blob, slot, body, writer, cuts, welcome, added)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute((
        draft.conversation,
        draft.epoch,
        vault.seal(HASH, draft.hash.as_bytes()),
        vault.seal(MANIFEST, &manifest),
        draft.blob,
        draft.slot,
        draft.body.as_bytes().as_slice(),
        vault.seal(WRITER, draft.writer.seed().as_slice()),
        vault.seal(CUTS, &minicbor::to_vec(draft.cuts).unwrap_or_default()),
        draft.invitation.map(|invitation| vault.seal(WELCOME, &invitation.welcome)),
        draft.invitation.map(|invitation| vault.seal(ADDED, &invitation.added_to_bytes())),
    ))?;
    Ok(db.last_insert_rowid())
}

pub(crate) fn commit(db: &Connection, vault: &Vault, row: i64) -> Result<Option<OwnCommit>, MailError> {
    db.prepare_cached(&format!("{COLUMNS} WHERE commit_row = ?1"))?
        .query_row([row], raw)
        .optional()?
        .map(|raw| decode(vault, raw))
        .transpose()
}

/// The own commit that is to end an epoch, or did.
pub(crate) fn commit_of(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
) -> Result<Option<OwnCommit>, MailError> {
    db.prepare_cached(&format!("{COLUMNS} WHERE conversation = ?1 AND epoch = ?2"))?
        .query_row((conversation, epoch), raw)
        .optional()?
        .map(|raw| decode(vault, raw))
        .transpose()
}

/// Own commits of a conversation whose slot not both replicas have.
pub(crate) fn unstored(db: &Connection, vault: &Vault, conversation: i64) -> Result<Vec<OwnCommit>, MailError> {
    let mut statement = db.prepare_cached(&format!("{COLUMNS} WHERE conversation = ?1 AND stored < 3"))?;
    let rows = statement.query_map([conversation], raw)?.collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|raw| decode(vault, raw)).collect()
}

pub(crate) fn set_stored(db: &Connection, row: i64, stored: u8, now: UnixMillis) -> Result<(), MailError> {
    let at = (stored == STORED_BOTH).then_some(now.0);
    db.prepare_cached("UPDATE commit_out SET stored = ?2, stored_at = ?3 WHERE commit_row = ?1")?
        .execute((row, stored, at))?;
    Ok(())
}

/// It goes to another slot.
pub(crate) fn move_to(db: &Connection, row: i64, slot: u64, body: &BoxBody) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE commit_out SET slot = ?2, body = ?3, stored = 0, stored_at = NULL WHERE commit_row = ?1",
    )?
    .execute((row, slot, body.as_bytes().as_slice()))?;
    Ok(())
}

/// It won. Its write key lies with the new chain from now on, the invitation with the letters.
pub(crate) fn set_merged(db: &Connection, vault: &Vault, row: i64) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE commit_out SET merged = 1, writer = ?2, welcome = NULL, added = NULL WHERE commit_row = ?1",
    )?
    .execute((row, vault.seal(WRITER, &[0; 32])))?;
    Ok(())
}

/// Forgets own commits up to an epoch, with their blobs: all have followed, or they lost. Returns rows and blobs.
pub(crate) fn forget_commits(db: &Connection, conversation: i64, epoch: u64) -> Result<Vec<(i64, i64)>, MailError> {
    let gone = db
        .prepare_cached("SELECT commit_row, blob FROM commit_out WHERE conversation = ?1 AND epoch <= ?2")?
        .query_map((conversation, epoch), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(i64, i64)>, _>>()?;
    db.prepare_cached("DELETE FROM commit_out WHERE conversation = ?1 AND epoch <= ?2")?
        .execute((conversation, epoch))?;
    for (_, blob) in &gone {
        crate::blobs_store::delete_out(db, *blob)?;
    }
    Ok(gone)
}

/// Forgets what is known of epochs before one: nobody writes in them any more.
pub(crate) fn forget_epochs(db: &Connection, conversation: i64, before: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "DELETE FROM group_epoch WHERE conversation = ?1 AND epoch < ?2
            AND NOT EXISTS (SELECT 1 FROM commit_out c WHERE c.conversation = ?1 AND c.epoch = group_epoch.epoch)",
    )?
    .execute((conversation, before))?;
    Ok(())
}

/// Slots that were stored so long ago that they will expire before all have followed: to be written again.
pub(crate) fn expire_stored(db: &Connection, before: UnixMillis) -> Result<usize, MailError> {
    Ok(db
        .prepare_cached("UPDATE commit_out SET stored = 0, stored_at = NULL WHERE stored_at < ?1")?
        .execute([before.0])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_names_all_whom_its_commit_removes() {
        let cut = |leaf| Cut { leaf, at: Place { epoch: 3, boxes: 9 } };
        let parcel = Parcel { commit: vec![1; 100], cuts: vec![cut(4), cut(2)] };
        assert_eq!(Parcel::from_bytes(&parcel.to_bytes()), Some(parcel.clone()));
        assert!(parcel.covers(&[2, 4]) && !parcel.covers(&[2]) && !parcel.covers(&[2, 4, 5]));
        assert_eq!(Parcel::from_bytes(&[parcel.to_bytes(), vec![0]].concat()), None);
        let far = Cut { leaf: 1, at: Place { epoch: u64::MAX, boxes: 0 } };
        assert_eq!(Parcel::from_bytes(&Parcel { cuts: vec![far], ..parcel.clone() }.to_bytes()), None);
        let many = Parcel { cuts: vec![cut(1); GROUP_SIZE_MAX], ..parcel };
        assert_eq!(Parcel::from_bytes(&many.to_bytes()), None);
    }
}
