//! What the user wants of a group and no commit has done yet: a table of the profile.

use crate::card::Card;
use crate::inbox_letter::PointerPublic;
use crate::mail::MailError;
use crate::names::Name;
use crate::profile::Vault;
use minicbor::{Decode, Encode};
use rusqlite::Connection;

const NAME: &str = "group_change.name";
const CARD: &str = "group_change.card";
/// Changes of one group that may wait: more than can be members.
pub(crate) const CHANGES_MAX: u64 = 64;

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// Somebody is to be added, once the card is found.
    Add {
        contact: i64,
        card: Option<Card>,
    },
    /// A member was away for too long, or went on from another state, and is to be added again, once its newest card is found.
    Readd {
        contact: i64,
        card: Option<Card>,
    },
    /// A member is to be removed.
    Remove {
        contact: i64,
    },
    Rename {
        name: Name,
    },
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct GroupChange {
    pub(crate) row: i64,
    pub(crate) wanted: Wanted,
}

#[derive(Encode, Decode)]
struct StoredCard {
    #[cbor(n(0), with = "minicbor::bytes")]
    key_package: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pointer: Vec<u8>,
}

/// Keeps a change, in place of what it makes void: one change a person, one name.
pub(crate) fn insert(db: &Connection, vault: &Vault, conversation: i64, wanted: &Wanted) -> Result<(), MailError> {
    let (kind, contact, name) = match wanted {
        Wanted::Add { contact, .. } => (0, Some(*contact), None),
        Wanted::Readd { contact, .. } => (3, Some(*contact), None),
        Wanted::Remove { contact } => (1, Some(*contact), None),
        Wanted::Rename { name } => (2, None, Some(vault.seal(NAME, name.as_str().as_bytes()))),
    };
    db.prepare_cached("DELETE FROM group_change WHERE conversation = ?1 AND contact IS ?2")?
        .execute((conversation, contact))?;
    db.prepare_cached("INSERT INTO group_change (conversation, kind, contact, name) VALUES (?1, ?2, ?3, ?4)")?
        .execute((conversation, kind, contact, name))?;
    Ok(())
}

/// Whether the user wants somebody out of a group who is still in it.
pub(crate) fn removes(db: &Connection, conversation: i64) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM group_change WHERE conversation = ?1 AND kind = 1)")?
        .query_row([conversation], |row| row.get(0))?)
}

/// Changes of a group, in the order in which they were asked.
pub(crate) fn all(db: &Connection, vault: &Vault, conversation: i64) -> Result<Vec<GroupChange>, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a change of a group does not open");
    type Raw = (i64, u8, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);
    let mut statement = db.prepare_cached(
        "SELECT change, kind, contact, name, card FROM group_change WHERE conversation = ?1 ORDER BY change",
    )?;
    let rows = statement.query_map([conversation], |row| row.try_into())?.collect::<Result<Vec<Raw>, _>>()?;
    rows.into_iter()
        .map(|(row, kind, contact, name, card)| {
            let wanted = match (kind, contact, name) {
                (0 | 3, Some(contact), _) => {
                    let card = card.map(|sealed| open_card(vault, &sealed)).transpose()?;
                    if kind == 0 { Wanted::Add { contact, card } } else { Wanted::Readd { contact, card } }
                }
                (1, Some(contact), _) => Wanted::Remove { contact },
                (2, None, Some(sealed)) => {
                    let bytes = vault.open(NAME, &sealed).map_err(|_| DAMAGED)?;
                    let name = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
                    Wanted::Rename { name: name.ok_or(DAMAGED)? }
                }
                _ => return Err(DAMAGED),
            };
            Ok(GroupChange { row, wanted })
        })
        .collect()
}

fn open_card(vault: &Vault, sealed: &[u8]) -> Result<Card, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a card does not open");
    let bytes = vault.open(CARD, sealed).map_err(|_| DAMAGED)?;
    let stored: StoredCard = minicbor::decode(&bytes).map_err(|_| DAMAGED)?;
    let pointer = PointerPublic::parse(&stored.pointer).map_err(|_| DAMAGED)?;
    Ok(Card { key_package: stored.key_package, pointer })
}

/// The card of somebody who is to be added was found: all groups that want it have it.
pub(crate) fn set_card(db: &Connection, vault: &Vault, contact: i64, card: &Card) -> Result<(), MailError> {
    let stored = StoredCard { key_package: card.key_package.clone(), pointer: card.pointer.to_bytes() };
    // writing to a Vec cannot fail
    let sealed = vault.seal(CARD, &minicbor::to_vec(stored).unwrap_or_default());
    db.prepare_cached("UPDATE group_change SET card = ?2 WHERE contact = ?1 AND kind IN (0, 3)")?
        .execute((contact, sealed))?;
    Ok(())
}

/// The card that was found cannot be used: it is looked for again.
pub(crate) fn forget_card(db: &Connection, change: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE group_change SET card = NULL WHERE change = ?1")?.execute([change])?;
    Ok(())
}

/// People whose card is looked for because they are to be added to a group.
pub(crate) fn without_card(db: &Connection) -> Result<Vec<i64>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT DISTINCT contact FROM group_change WHERE kind IN (0, 3) AND card IS NULL")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

pub(crate) fn delete(db: &Connection, change: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM group_change WHERE change = ?1")?.execute([change])?;
    Ok(())
}

/// The changes that are to add somebody, each with its group; not those that add a member again.
pub(crate) fn adds_of(db: &Connection, contact: i64) -> Result<Vec<(i64, i64)>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT change, conversation FROM group_change WHERE contact = ?1 AND kind = 0")?;
    Ok(statement.query_map([contact], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// A member is not added again anywhere.
pub(crate) fn delete_readds_of(db: &Connection, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM group_change WHERE contact = ?1 AND kind = 3")?.execute([contact])?;
    Ok(())
}

/// Whether a change of a group concerns somebody.
pub(crate) fn concern(db: &Connection, conversation: i64, contact: i64) -> Result<bool, MailError> {
    let found = "SELECT EXISTS (SELECT 1 FROM group_change WHERE conversation = ?1 AND contact = ?2)";
    Ok(db.prepare_cached(found)?.query_row((conversation, contact), |row| row.get(0))?)
}

/// Somebody who was to be added again follows after all.
pub(crate) fn delete_readd(db: &Connection, conversation: i64, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM group_change WHERE conversation = ?1 AND contact = ?2 AND kind = 3")?
        .execute((conversation, contact))?;
    Ok(())
}

/// Somebody is not to be removed any more.
pub(crate) fn delete_remove(db: &Connection, conversation: i64, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM group_change WHERE conversation = ?1 AND contact = ?2 AND kind = 1")?
        .execute((conversation, contact))?;
    Ok(())
}

pub(crate) fn delete_all(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM group_change WHERE conversation = ?1")?.execute([conversation])?;
    Ok(())
}
