//! The address book: people whom the user added, and strangers who wrote. A table of the profile.

use crate::mail::MailError;
use crate::profile::Vault;
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::address::Address;
use shoal_protocol::inbox::InboxPublic;

const INBOX: &str = "contact.inbox";
const NAME: &str = "contact.name";
/// Longest name, bytes of UTF-8.
pub const NAME_SIZE_MAX: usize = 128;
/// Most contacts: each conversation costs a poll every 10 minutes even when idle, 17 a second at this number.
pub const CONTACTS_MAX: u64 = 10_000;

/// One row of the address book.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    pub(crate) row: i64,
    pub(crate) inbox: InboxPublic,
    pub(crate) name: Option<String>,
    /// Added, written to or accepted by the user.
    pub(crate) known: bool,
    pub(crate) blocked: bool,
    /// Messages wait for the contact's card since then.
    pub(crate) wanted_at: Option<UnixMillis>,
}

impl Contact {
    pub(crate) fn address(&self) -> String {
        Address::new(self.inbox).to_string()
    }
    /// The name, else the address.
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address())
    }
}

const COLUMNS: &str = "SELECT contact, inbox, name, known, blocked, wanted_at FROM contact";

type Raw = (i64, Vec<u8>, Option<Vec<u8>>, bool, bool, Option<u64>);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}

fn decode(vault: &Vault, (row, inbox, name, known, blocked, wanted_at): Raw) -> Result<Contact, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a contact does not open");
    let inbox = vault.open(INBOX, &inbox).map_err(|_| DAMAGED)?;
    let inbox = <[u8; 32]>::try_from(inbox.as_slice()).ok().and_then(|bytes| InboxPublic::parse(bytes).ok());
    let name = name
        .map(|sealed| {
            let bytes = vault.open(NAME, &sealed).map_err(|_| DAMAGED)?;
            String::from_utf8(bytes.to_vec()).map_err(|_| DAMAGED)
        })
        .transpose()?;
    Ok(Contact { row, inbox: inbox.ok_or(DAMAGED)?, name, known, blocked, wanted_at: wanted_at.map(UnixMillis) })
}

pub(crate) fn by_inbox(db: &Connection, vault: &Vault, inbox: &InboxPublic) -> Result<Option<Contact>, MailError> {
    db.prepare_cached(&format!("{COLUMNS} WHERE inbox = ?1"))?
        .query_row([vault.seal(INBOX, inbox.as_bytes())], raw)
        .optional()?
        .map(|found| decode(vault, found))
        .transpose()
}

pub(crate) fn by_name(db: &Connection, vault: &Vault, name: &str) -> Result<Option<Contact>, MailError> {
    db.prepare_cached(&format!("{COLUMNS} WHERE name = ?1"))?
        .query_row([vault.seal(NAME, name.as_bytes())], raw)
        .optional()?
        .map(|found| decode(vault, found))
        .transpose()
}

pub(crate) fn by_row(db: &Connection, vault: &Vault, row: i64) -> Result<Contact, MailError> {
    let found = db.prepare_cached(&format!("{COLUMNS} WHERE contact = ?1"))?.query_row([row], raw)?;
    decode(vault, found)
}

pub(crate) fn all(db: &Connection, vault: &Vault) -> Result<Vec<Contact>, MailError> {
    let mut statement = db.prepare_cached(&format!("{COLUMNS} ORDER BY contact"))?;
    let rows = statement.query_map([], raw)?.collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|found| decode(vault, found)).collect()
}

/// Whether the address book takes nobody more.
pub(crate) fn full(db: &Connection) -> Result<bool, MailError> {
    let count: u64 = db.query_row("SELECT count(*) FROM contact", [], |row| row.get(0))?;
    Ok(count >= CONTACTS_MAX)
}

/// Adds a contact without a name.
pub(crate) fn insert(db: &Connection, vault: &Vault, inbox: &InboxPublic, known: bool) -> Result<Contact, MailError> {
    if full(db)? {
        return Err(MailError::QueueFull { waiting: CONTACTS_MAX, unit: "contacts" });
    }
    db.prepare_cached("INSERT INTO contact (inbox, known) VALUES (?1, ?2)")?
        .execute((vault.seal(INBOX, inbox.as_bytes()), known))?;
    by_row(db, vault, db.last_insert_rowid())
}

/// Gives a contact its name; refuses empty, long and ambiguous ones.
pub(crate) fn set_name(db: &Connection, vault: &Vault, contact: i64, name: &str) -> Result<(), MailError> {
    let refuse = |why| Err(MailError::Name(name.to_owned(), why));
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return refuse("it is empty or has control characters");
    }
    if name.len() > NAME_SIZE_MAX {
        return refuse("it is longer than 128 bytes");
    }
    if name.parse::<Address>().is_ok() || name.parse::<crate::mail::ConversationId>().is_ok() {
        return refuse("it reads as an address or a conversation");
    }
    if by_name(db, vault, name)?.is_some_and(|other| other.row != contact) {
        return refuse("another contact has it");
    }
    db.prepare_cached("UPDATE contact SET name = ?2 WHERE contact = ?1")?
        .execute((contact, vault.seal(NAME, name.as_bytes())))?;
    Ok(())
}

pub(crate) fn set_known(db: &Connection, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE contact SET known = 1 WHERE contact = ?1")?.execute([contact])?;
    Ok(())
}

pub(crate) fn set_blocked(db: &Connection, contact: i64, blocked: bool) -> Result<(), MailError> {
    db.prepare_cached("UPDATE contact SET blocked = ?2 WHERE contact = ?1")?.execute((contact, blocked))?;
    Ok(())
}

pub(crate) fn set_wanted(db: &Connection, contact: i64, since: Option<UnixMillis>) -> Result<(), MailError> {
    db.prepare_cached("UPDATE contact SET wanted_at = ?2 WHERE contact = ?1")?
        .execute((contact, since.map(|at| at.0)))?;
    Ok(())
}
