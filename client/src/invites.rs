//! Invites in the profile: own ones that are not over, and those of others that are being used. Two tables.

use crate::mail::MailError;
use crate::names::Name;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{ChainSecret, WriteKey, WritePublic, invite_keys};
use shoal_protocol::invite::Invite;
use zeroize::Zeroizing;

const SEED: &str = "invite.seed";
const NAME: &str = "invite.name";
const WRITER: &str = "invite.writer";
const PACKAGE: &str = "invite.package";
const CLAIM: &str = "invite.claim";
const DAMAGED: MailError = MailError::Damaged("an invite does not open");

fn open_seed(vault: &Vault, context: &'static str, sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, MailError> {
    let bytes = vault.open(context, sealed).map_err(|_| DAMAGED)?;
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| DAMAGED)?))
}

/// An own invite.
pub(crate) struct Made {
    pub(crate) row: i64,
    pub(crate) seed: Zeroizing<[u8; 32]>,
    pub(crate) generation: u32,
    pub(crate) made_at: UnixMillis,
    pub(crate) ends_at: UnixMillis,
    /// What whoever uses it will be called.
    pub(crate) name: Option<Name>,
    /// The write key in the key package.
    pub(crate) writer: WriteKey,
    /// Reference of the key package.
    pub(crate) package: Vec<u8>,
    /// Chain on which the key package lies.
    pub(crate) chain: i64,
    /// The write key that whoever uses it has named.
    pub(crate) claim: Option<WritePublic>,
    /// The Welcome that is being fetched.
    pub(crate) welcome: Option<i64>,
    /// Row of the own key whose it is.
    pub(crate) own_key: i64,
}

impl Made {
    /// The secret of its chain.
    pub(crate) fn keys(&self) -> (WriteKey, ChainSecret) {
        invite_keys(&self.seed)
    }
}

impl Sealed for Made {
    type Raw =
        (i64, Vec<u8>, (u32, u64, u64), Option<Vec<u8>>, Vec<u8>, Vec<u8>, (i64, i64), Option<Vec<u8>>, Option<i64>);
    const SELECT: &'static str =
        "SELECT invite, seed, generation, made_at, ends_at, name, writer, package, chain, claim,
        welcome, own_key FROM invite_made";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        Ok((
            row.get(0)?,
            row.get(1)?,
            (row.get(2)?, row.get(3)?, row.get(4)?),
            row.get(5)?,
            row.get(6)?,
            row.get(7)?,
            (row.get(8)?, row.get(11)?),
            row.get(9)?,
            row.get(10)?,
        ))
    }

    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError> {
        let (row, seed, (generation, made_at, ends_at), name, writer, package, (chain, own_key), claim, welcome) = raw;
        let name = name
            .map(|sealed| {
                let bytes = vault.open(NAME, &sealed).map_err(|_| DAMAGED)?;
                std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).ok_or(DAMAGED)
            })
            .transpose()?;
        let claim = claim
            .map(|sealed| WritePublic::parse(*open_seed(vault, CLAIM, &sealed)?).map_err(|_| DAMAGED))
            .transpose()?;
        Ok(Self {
            row,
            seed: open_seed(vault, SEED, &seed)?,
            generation,
            made_at: UnixMillis(made_at),
            ends_at: UnixMillis(ends_at),
            name,
            writer: WriteKey::from_seed(&*open_seed(vault, WRITER, &writer)?),
            package: vault.open(PACKAGE, &package).map_err(|_| DAMAGED)?.to_vec(),
            chain,
            claim,
            welcome,
            own_key,
        })
    }
}

/// What a new invite consists of.
pub(crate) struct New<'a> {
    pub(crate) invite: &'a Invite,
    pub(crate) name: Option<&'a Name>,
    pub(crate) writer: &'a WriteKey,
    pub(crate) package: &'a [u8],
    pub(crate) chain: i64,
}

pub(crate) fn insert_made(db: &Connection, vault: &Vault, new: &New<'_>, now: UnixMillis) -> Result<i64, MailError> {
    db.prepare_cached(
        "INSERT INTO invite_made (seed, generation, made_at, ends_at, name, writer, package, chain, own_key)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, max(own_key) FROM own_key",
    )?
    .execute((
        vault.seal(SEED, new.invite.seed()),
        new.invite.generation(),
        now.0,
        new.invite.end().0,
        new.name.map(|name| vault.seal(NAME, name.as_str().as_bytes())),
        vault.seal(WRITER, new.writer.seed().as_slice()),
        vault.seal(PACKAGE, new.package),
        new.chain,
    ))?;
    Ok(db.last_insert_rowid())
}

/// Own invites, oldest first.
pub(crate) fn all_made(db: &Connection, vault: &Vault) -> Result<Vec<Made>, MailError> {
    rows::all(db, vault, "ORDER BY invite", [])
}

pub(crate) fn made(db: &Connection, vault: &Vault, row: i64) -> Result<Option<Made>, MailError> {
    rows::find(db, vault, "WHERE invite = ?1", [row])
}

/// The own invite whose boxes lie on this chain.
pub(crate) fn made_on(db: &Connection, vault: &Vault, chain: i64) -> Result<Option<Made>, MailError> {
    rows::find(db, vault, "WHERE chain = ?1", [chain])
}

/// The own invite that led to this Welcome.
pub(crate) fn made_for(db: &Connection, vault: &Vault, welcome: i64) -> Result<Option<Made>, MailError> {
    rows::find(db, vault, "WHERE welcome = ?1", [welcome])
}

/// Own invites whose Welcome was given up.
pub(crate) fn made_in_vain(db: &Connection, vault: &Vault) -> Result<Vec<Made>, MailError> {
    let gone = "WHERE welcome IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blob_in b WHERE b.blob = welcome)";
    rows::all(db, vault, gone, [])
}

/// How many are not over.
pub(crate) fn count_made(db: &Connection, now: UnixMillis) -> Result<u64, MailError> {
    Ok(db.query_row("SELECT count(*) FROM invite_made WHERE ends_at > ?1", [now.0], |row| row.get(0))?)
}

/// Somebody uses the invite.
pub(crate) fn set_claim(db: &Connection, vault: &Vault, row: i64, claim: &WritePublic) -> Result<(), MailError> {
    db.prepare_cached("UPDATE invite_made SET claim = ?2 WHERE invite = ?1")?
        .execute((row, vault.seal(CLAIM, claim.as_bytes())))?;
    Ok(())
}

/// The Welcome is being fetched.
pub(crate) fn set_welcome(db: &Connection, row: i64, welcome: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE invite_made SET welcome = ?2 WHERE invite = ?1")?.execute((row, welcome))?;
    Ok(())
}

/// Forgets the row; its chain is for the caller.
pub(crate) fn delete_made(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM invite_made WHERE invite = ?1")?.execute([row])?;
    Ok(())
}

/// An invite of somebody else that is being used.
pub(crate) struct Used {
    /// Whose it is.
    pub(crate) contact: i64,
    pub(crate) seed: Zeroizing<[u8; 32]>,
    pub(crate) generation: u32,
    /// The write key that the claim names.
    pub(crate) writer: WriteKey,
    /// The key package, once it is here.
    pub(crate) package: Option<Vec<u8>>,
    /// Chain of the claim.
    pub(crate) claim: Option<i64>,
    /// Chain of the pointer to the Welcome.
    pub(crate) pointer: Option<i64>,
    pub(crate) welcome: Option<i64>,
}

impl Used {
    /// The secret of its chain.
    pub(crate) fn keys(&self) -> (WriteKey, ChainSecret) {
        invite_keys(&self.seed)
    }
}

impl Sealed for Used {
    type Raw = (i64, Vec<u8>, u32, Vec<u8>, Option<Vec<u8>>, Option<i64>, Option<i64>, Option<i64>);
    const SELECT: &'static str =
        "SELECT contact, seed, generation, writer, package, claim, pointer, welcome FROM invite_used";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError> {
        let (contact, seed, generation, writer, package, claim, pointer, welcome) = raw;
        let package = package.map(|sealed| vault.open(PACKAGE, &sealed).map_err(|_| DAMAGED)).transpose()?;
        Ok(Self {
            contact,
            seed: open_seed(vault, SEED, &seed)?,
            generation,
            writer: WriteKey::from_seed(&*open_seed(vault, WRITER, &writer)?),
            package: package.map(|package| package.to_vec()),
            claim,
            pointer,
            welcome,
        })
    }
}

/// Begins to use an invite.
pub(crate) fn insert_used(
    db: &Connection,
    vault: &Vault,
    contact: i64,
    invite: &Invite,
    writer: &WriteKey,
) -> Result<(), MailError> {
    db.prepare_cached(
        "INSERT INTO invite_used (contact, seed, generation, ends_at, writer) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        contact,
        vault.seal(SEED, invite.seed()),
        invite.generation(),
        invite.end().0,
        vault.seal(WRITER, writer.seed().as_slice()),
    ))?;
    Ok(())
}

pub(crate) fn used(db: &Connection, vault: &Vault, contact: i64) -> Result<Option<Used>, MailError> {
    rows::find(db, vault, "WHERE contact = ?1", [contact])
}

/// The invite whose claim or pointer is written on this chain.
pub(crate) fn used_on(db: &Connection, vault: &Vault, chain: i64) -> Result<Option<Used>, MailError> {
    rows::find(db, vault, "WHERE claim = ?1 OR pointer = ?1", [chain])
}

/// Invites that ended before a time, and nobody claimed them for us.
pub(crate) fn used_in_vain(db: &Connection, vault: &Vault, before: UnixMillis) -> Result<Vec<Used>, MailError> {
    rows::all(db, vault, "WHERE ends_at < ?1 AND pointer IS NULL", [before.0])
}

/// Chains that are neither a conversation's nor a card's nor an invite's: claims of own invites that were withdrawn.
const NOTHING: &str = "conversation IS NULL
    AND NOT EXISTS (SELECT 1 FROM card c WHERE c.chain = chain.chain)
    AND NOT EXISTS (SELECT 1 FROM invite_made i WHERE i.chain = chain.chain)
    AND NOT EXISTS (SELECT 1 FROM invite_used u WHERE u.claim = chain.chain OR u.pointer = chain.chain)";

pub(crate) fn on_nothing(db: &Connection, chain: i64) -> Result<bool, MailError> {
    let found = format!("SELECT EXISTS (SELECT 1 FROM chain WHERE chain = ?1 AND {NOTHING})");
    Ok(db.prepare_cached(&found)?.query_row([chain], |row| row.get(0))?)
}

/// All of them, with their generations.
pub(crate) fn nothings(db: &Connection) -> Result<Vec<(i64, u32)>, MailError> {
    let mut statement = db.prepare_cached(&format!("SELECT chain, generation FROM chain WHERE {NOTHING}"))?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// Claims after which no conversation was founded yet: box, chain, which replicas have it.
pub(crate) fn claims(db: &Connection) -> Result<Vec<(i64, i64, u8)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT box, chain, stored FROM box_out WHERE chain IN (SELECT claim FROM invite_used WHERE pointer IS NULL)",
    )?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?)
}

/// Boxes with pointers to Welcomes, and the Welcomes' blobs.
pub(crate) fn pointers(db: &Connection) -> Result<Vec<(i64, i64)>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT box, u.welcome FROM box_out JOIN invite_used u ON u.pointer = box_out.chain")?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// Conversations that were founded by invites which ended before a time, with the contacts: nobody has joined them.
pub(crate) fn unanswered(db: &Connection, before: UnixMillis) -> Result<Vec<(i64, i64)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT contact, conversation FROM invite_used WHERE conversation IS NOT NULL AND ends_at < ?1",
    )?;
    Ok(statement.query_map([before.0], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// The key package is here, and the claim is being written.
pub(crate) fn set_package(
    db: &Connection,
    vault: &Vault,
    contact: i64,
    package: &[u8],
    claim: i64,
) -> Result<(), MailError> {
    db.prepare_cached("UPDATE invite_used SET package = ?2, claim = ?3 WHERE contact = ?1")?.execute((
        contact,
        vault.seal(PACKAGE, package),
        claim,
    ))?;
    Ok(())
}

/// The conversation is founded, and its Welcome and the pointer to it are being written.
pub(crate) fn set_founded(
    db: &Connection,
    contact: i64,
    conversation: i64,
    pointer: i64,
    welcome: i64,
) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE invite_used SET conversation = ?2, pointer = ?3, welcome = ?4, package = NULL WHERE contact = ?1",
    )?
    .execute((contact, conversation, pointer, welcome))?;
    Ok(())
}

/// By whose invite a conversation was founded, if by any.
pub(crate) fn founded(db: &Connection, conversation: i64) -> Result<Option<i64>, MailError> {
    let found = "SELECT contact FROM invite_used WHERE conversation = ?1";
    Ok(db.prepare_cached(found)?.query_row([conversation], |row| row.get(0)).optional()?)
}

/// Forgets the row; chains and blob are for the caller.
pub(crate) fn delete_used(db: &Connection, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM invite_used WHERE contact = ?1")?.execute([contact])?;
    Ok(())
}
