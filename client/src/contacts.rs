//! The address book: people whom the user added, and strangers who wrote. A table of the profile.

use crate::mail::MailError;
use crate::names::Name;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use rusqlite::{Connection, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::address::Address;
use shoal_protocol::inbox::InboxPublic;

const INBOX: &str = "contact.inbox";
const NAME: &str = "contact.name";
const VERIFIED: &str = "contact.verified";
/// Former addresses that are kept of a contact, who may have a new one with every commit.
const FORMER_MAX: u32 = 8;
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

impl Sealed for Contact {
    type Raw = (i64, Vec<u8>, Option<Vec<u8>>, bool, bool, Option<u64>);
    const SELECT: &'static str = "SELECT contact, inbox, name, known, blocked, wanted_at FROM contact";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, (row, inbox, name, known, blocked, wanted_at): Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a contact does not open");
        let inbox = open_inbox(vault, &inbox)?;
        let name = name
            .map(|sealed| {
                let bytes = vault.open(NAME, &sealed).map_err(|_| DAMAGED)?;
                String::from_utf8(bytes.to_vec()).map_err(|_| DAMAGED)
            })
            .transpose()?;
        Ok(Self { row, inbox, name, known, blocked, wanted_at: wanted_at.map(UnixMillis) })
    }
}

/// Who has this address, or had it.
pub(crate) fn by_inbox(db: &Connection, vault: &Vault, inbox: &InboxPublic) -> Result<Option<Contact>, MailError> {
    let sealed = vault.seal(INBOX, inbox.as_bytes());
    match rows::find(db, vault, "WHERE inbox = ?1", [&sealed])? {
        Some(contact) => Ok(Some(contact)),
        None => {
            rows::find(db, vault, "WHERE contact IN (SELECT contact FROM contact_former WHERE inbox = ?1)", [&sealed])
        }
    }
}

pub(crate) fn by_name(db: &Connection, vault: &Vault, name: &str) -> Result<Option<Contact>, MailError> {
    rows::find(db, vault, "WHERE name = ?1", [vault.seal(NAME, name.as_bytes())])
}

pub(crate) fn by_row(db: &Connection, vault: &Vault, row: i64) -> Result<Contact, MailError> {
    rows::one(db, vault, "WHERE contact = ?1", [row])
}

pub(crate) fn all(db: &Connection, vault: &Vault) -> Result<Vec<Contact>, MailError> {
    rows::all(db, vault, "ORDER BY contact", [])
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

/// The contact of somebody who is in a conversation; one whom nobody added is kept without a name. Not bounded by
/// [`CONTACTS_MAX`], for a commit that adds somebody has to be applied: by the number of conversations and the size of a
/// group, and `forget_orphans`.
pub(crate) fn of_member(db: &Connection, vault: &Vault, inbox: &InboxPublic) -> Result<i64, MailError> {
    if let Some(contact) = by_inbox(db, vault, inbox)? {
        return Ok(contact.row);
    }
    db.prepare_cached("INSERT INTO contact (inbox, known) VALUES (?1, 0)")?
        .execute([vault.seal(INBOX, inbox.as_bytes())])?;
    Ok(db.last_insert_rowid())
}

/// What became of a contact who has another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succeeded {
    /// Nothing: it is known already.
    Known,
    /// The contact has the new address.
    Moved,
    /// Somebody else in the address book had it, and is the same person: there is one contact less.
    Merged,
}

/// A contact has another address now, as both keys signed. Whom the user knows under that one is the same person: what is
/// known of both is known of one from now on.
pub(crate) fn succeed(
    db: &Connection,
    vault: &Vault,
    contact: i64,
    next: &InboxPublic,
    now: UnixMillis,
) -> Result<Succeeded, MailError> {
    let before = by_row(db, vault, contact)?;
    if before.inbox == *next {
        return Ok(Succeeded::Known);
    }
    let (former, sealed) = (vault.seal(INBOX, before.inbox.as_bytes()), vault.seal(INBOX, next.as_bytes()));
    // who has an address that was somebody else's before has found a key, and is not that person
    let other = rows::find(db, vault, "WHERE inbox = ?1", [&sealed])?;
    if let Some(other) = &other {
        merge(db, vault, other, &before)?;
    }
    db.prepare_cached("DELETE FROM contact_former WHERE inbox = ?1")?.execute([&sealed])?;
    db.prepare_cached("UPDATE contact SET inbox = ?2 WHERE contact = ?1")?.execute((contact, &sealed))?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO contact_former (inbox, contact, number, at)
         SELECT ?1, ?2, ifnull(max(number), 0) + 1, ?3 FROM contact_former",
    )?
    .execute((&former, contact, now.0))?;
    db.prepare_cached(
        "DELETE FROM contact_former WHERE contact = ?1 AND number NOT IN
            (SELECT number FROM contact_former WHERE contact = ?1 ORDER BY number DESC LIMIT ?2)",
    )?
    .execute((contact, FORMER_MAX))?;
    Ok(if other.is_some() { Succeeded::Merged } else { Succeeded::Moved })
}

/// Former addresses of contacts name nobody any more when all who were there have followed, or never will: whoever finds an
/// old key is not taken for its owner for ever.
pub(crate) fn forget_former(db: &Connection, before: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM contact_former WHERE at < ?1")?.execute([before.0])?;
    Ok(())
}

/// Gives all that is one contact's to another, who keeps the own name, if there is one.
fn merge(db: &Connection, vault: &Vault, from: &Contact, into: &Contact) -> Result<(), MailError> {
    let (from_row, into_row) = (from.row, into.row);
    // where both have something of which there can be one, what the survivor has stays
    let tables = [
        "member",
        "conversation",
        "group_change",
        "message_in",
        "message_out",
        "letter_out",
        "timeline",
        "contact_former",
        "invite_used",
        "mark_heard",
        "contact_verified",
    ];
    for table in tables {
        db.execute(&format!("UPDATE OR IGNORE {table} SET contact = ?2 WHERE contact = ?1"), [from_row, into_row])?;
    }
    for table in ["message_in", "invite_used", "mark_heard", "contact_verified", "contact"] {
        db.execute(&format!("DELETE FROM {table} WHERE contact = ?1"), [from_row])?;
    }
    if let (None, Some(name)) = (&into.name, &from.name) {
        db.prepare_cached("UPDATE contact SET name = ?2 WHERE contact = ?1")?
            .execute((into_row, vault.seal(NAME, name.as_bytes())))?;
    }
    let wanted = into.wanted_at.or(from.wanted_at).map(|at| at.0);
    db.prepare_cached("UPDATE contact SET known = ?2, blocked = ?3, wanted_at = ?4 WHERE contact = ?1")?.execute((
        into_row,
        into.known || from.known,
        into.blocked || from.blocked,
        wanted,
    ))?;
    Ok(())
}

/// The addresses that a contact has and had, the one of now first.
pub(crate) fn inboxes(db: &Connection, vault: &Vault, contact: &Contact) -> Result<Vec<InboxPublic>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT inbox FROM contact_former WHERE contact = ?1 ORDER BY number DESC")?;
    let mut found = vec![contact.inbox];
    for sealed in statement.query_map([contact.row], |row| row.get::<_, Vec<u8>>(0))? {
        found.push(open_inbox(vault, &sealed?)?);
    }
    Ok(found)
}

fn open_inbox(vault: &Vault, sealed: &[u8]) -> Result<InboxPublic, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a contact does not open");
    let inbox = vault.open(INBOX, sealed).map_err(|_| DAMAGED)?;
    <[u8; 32]>::try_from(inbox.as_slice()).ok().and_then(|bytes| InboxPublic::parse(bytes).ok()).ok_or(DAMAGED)
}

/// Forgets people whom the user never named, accepted or blocked, who wrote nothing and are in no conversation any more.
pub(crate) fn forget_orphans(db: &Connection) -> Result<(), MailError> {
    db.execute_batch(
        "DELETE FROM chain WHERE ended = 1 AND member IN (SELECT member FROM member WHERE left_at IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM message_in m WHERE m.chain = chain.chain);
         DELETE FROM member WHERE left_at IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM chain c WHERE c.member = member.member);
         DELETE FROM mark_heard WHERE contact IN (SELECT contact FROM contact c WHERE known = 0 AND blocked = 0
            AND name IS NULL AND NOT EXISTS (SELECT 1 FROM member m WHERE m.contact = c.contact));
         DELETE FROM contact_verified WHERE contact IN (SELECT contact FROM contact c WHERE known = 0 AND blocked = 0
            AND name IS NULL AND NOT EXISTS (SELECT 1 FROM member m WHERE m.contact = c.contact));
         DELETE FROM contact WHERE known = 0 AND blocked = 0 AND name IS NULL
            AND NOT EXISTS (SELECT 1 FROM member m WHERE m.contact = contact.contact)
            AND NOT EXISTS (SELECT 1 FROM conversation v WHERE v.contact = contact.contact)
            AND NOT EXISTS (SELECT 1 FROM group_change g WHERE g.contact = contact.contact)
            AND NOT EXISTS (SELECT 1 FROM message_in m WHERE m.contact = contact.contact)
            AND NOT EXISTS (SELECT 1 FROM message_out m WHERE m.contact = contact.contact)
            AND NOT EXISTS (SELECT 1 FROM letter_out l WHERE l.contact = contact.contact);",
    )?;
    Ok(())
}

/// Gives a contact its name; refuses one that another has.
pub(crate) fn set_name(db: &Connection, vault: &Vault, contact: i64, name: &Name) -> Result<(), MailError> {
    if by_name(db, vault, name.as_str())?.is_some_and(|other| other.row != contact) {
        return Err(MailError::Name(name.as_str().to_owned(), "another contact has it"));
    }
    db.prepare_cached("UPDATE contact SET name = ?2 WHERE contact = ?1")?
        .execute((contact, vault.seal(NAME, name.as_str().as_bytes())))?;
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

/// Whether the user has compared the contact's safety number.
pub(crate) fn is_verified(db: &Connection, contact: i64) -> Result<bool, MailError> {
    let found = "SELECT EXISTS (SELECT 1 FROM contact_verified WHERE contact = ?1)";
    Ok(db.prepare_cached(found)?.query_row([contact], |row| row.get(0))?)
}

/// Notes that the user has compared this safety number.
pub(crate) fn set_verified(db: &Connection, vault: &Vault, contact: i64, number: &str) -> Result<(), MailError> {
    db.prepare_cached("INSERT OR REPLACE INTO contact_verified (contact, number) VALUES (?1, ?2)")?
        .execute((contact, vault.seal(VERIFIED, number.as_bytes())))?;
    Ok(())
}
