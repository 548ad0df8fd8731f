//! What a commit's blob holds, and own commits: a table of the profile.

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

const HASH: &str = "commit.hash";
const MANIFEST: &str = "commit.manifest";
const WRITER: &str = "commit.writer";
const CUTS: &str = "commit.cuts";
const WELCOME: &str = "commit.welcome";
const ADDED: &str = "commit.added";
const DAMAGED: MailError = MailError::Damaged("an own commit does not open");

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
    let open = |context, sealed: &[u8]| vault.open_array(context, sealed).map_err(|_| DAMAGED);
    let cuts = vault.open(CUTS, &cuts).map_err(|_| DAMAGED)?;
    let manifest = vault.open(MANIFEST, &manifest).map_err(|_| DAMAGED)?;
    Ok(OwnCommit {
        row,
        conversation,
        epoch,
        hash: Hash::from_bytes(*open(HASH, &hash)?),
        manifest: minicbor::decode(&manifest).map_err(|_| DAMAGED)?,
        blob,
        slot,
        body: BoxBody::from_slice(&body).map_err(|_| DAMAGED)?,
        writer: WriteKey::from_seed(&*open(WRITER, &writer)?),
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
