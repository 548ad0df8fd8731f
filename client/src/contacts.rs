//! The address book: people whom the user added, and strangers who wrote. A table of the profile.

use crate::mail::{ConversationId, MailError};
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use rusqlite::{Connection, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::address::Address;
use shoal_protocol::inbox::InboxPublic;
use std::str::FromStr;

const INBOX: &str = "contact.inbox";
const NAME: &str = "contact.name";
const VERIFIED: &str = "contact.verified";
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

/// A name that the user gave: one line that shows what it is, can be typed after a command, and is nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContactName(String);

impl FromStr for ContactName {
    type Err = MailError;

    fn from_str(name: &str) -> Result<Self, MailError> {
        let refuse = |why| Err(MailError::Name(name.to_owned(), why));
        if name.is_empty() || name != name.trim() {
            return refuse("it is empty, or begins or ends with a space");
        }
        if name.len() > NAME_SIZE_MAX {
            return refuse("it is longer than 128 bytes");
        }
        if name.chars().any(|letter| letter.is_control() || unseen(letter)) {
            return refuse("it has characters that cannot be seen, or that turn the direction of writing");
        }
        if name.contains(['/', '\\']) {
            return refuse("it has a slash");
        }
        if name.starts_with('-') {
            return refuse("it begins with a dash and would be taken for an option");
        }
        let lower = name.to_lowercase();
        if lower.starts_with("shoal1") || lower.starts_with("shoal-invite") {
            return refuse("it reads as an address");
        }
        if name.parse::<ConversationId>().is_ok() {
            return refuse("it reads as a conversation");
        }
        Ok(Self(name.to_owned()))
    }
}

/// Separators of lines, marks of direction, and letters of no width but the two joiners, which words and emoji need.
fn unseen(letter: char) -> bool {
    matches!(letter, '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Sealed for Contact {
    type Raw = (i64, Vec<u8>, Option<Vec<u8>>, bool, bool, Option<u64>);
    const SELECT: &'static str = "SELECT contact, inbox, name, known, blocked, wanted_at FROM contact";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, (row, inbox, name, known, blocked, wanted_at): Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a contact does not open");
        let inbox = vault.open(INBOX, &inbox).map_err(|_| DAMAGED)?;
        let inbox = <[u8; 32]>::try_from(inbox.as_slice()).ok().and_then(|bytes| InboxPublic::parse(bytes).ok());
        let name = name
            .map(|sealed| {
                let bytes = vault.open(NAME, &sealed).map_err(|_| DAMAGED)?;
                String::from_utf8(bytes.to_vec()).map_err(|_| DAMAGED)
            })
            .transpose()?;
        Ok(Self { row, inbox: inbox.ok_or(DAMAGED)?, name, known, blocked, wanted_at: wanted_at.map(UnixMillis) })
    }
}

pub(crate) fn by_inbox(db: &Connection, vault: &Vault, inbox: &InboxPublic) -> Result<Option<Contact>, MailError> {
    rows::find(db, vault, "WHERE inbox = ?1", [vault.seal(INBOX, inbox.as_bytes())])
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

/// Gives a contact its name; refuses one that another has.
pub(crate) fn set_name(db: &Connection, vault: &Vault, contact: i64, name: &ContactName) -> Result<(), MailError> {
    if by_name(db, vault, &name.0)?.is_some_and(|other| other.row != contact) {
        return Err(MailError::Name(name.0.clone(), "another contact has it"));
    }
    db.prepare_cached("UPDATE contact SET name = ?2 WHERE contact = ?1")?
        .execute((contact, vault.seal(NAME, name.0.as_bytes())))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_what_they_look_like() {
        for name in ["bob", "Ann Lee", "שרה", "نامه\u{200c}ها", "👩\u{200d}🚀", "o'neill", "a.b@c", "7"] {
            assert_eq!(name.parse::<ContactName>().unwrap().0, name);
        }
        let long = "x".repeat(NAME_SIZE_MAX + 1);
        let conversation = "0123456789abcdef0123456789ABCDEF";
        for name in [
            "",
            " ",
            " bob",
            "bob ",
            "al/ice",
            "al\\ice",
            "bob\n",
            "b\u{1b}[31mob",
            "b\u{202e}ob",
            "b\u{200b}ob",
            "b\u{2028}ob",
            "-bob",
            "--json",
            "shoal1bob",
            "SHOAL1BOB",
            "shoal-invite1x",
            conversation,
            &long,
        ] {
            assert!(matches!(name.parse::<ContactName>(), Err(MailError::Name(..))), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_line_and_one_word_to_the_command_line(name in "\\PC{0,20}|.{0,20}") {
            if let Ok(ContactName(name)) = name.parse::<ContactName>() {
                prop_assert!(!name.chars().any(char::is_control) && !name.starts_with('-') && name.parse::<Address>().is_err());
            }
        }
    }
}
