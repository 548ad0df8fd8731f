//! What the user has to be told and may have missed, kept until it is seen. A table of the profile.

use crate::mail::MailError;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use rusqlite::{Connection, Row};
use shoal_protocol::UnixMillis;

const TEXT: &str = "notice.text";
const AT: &str = "notice.at";
/// Most that are kept; the oldest gives way.
pub(crate) const NOTICES_MAX: u32 = 16;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its number: the later, the higher.
    pub number: u64,
    /// A word for programs, as of a warning.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// When it was said, the last time.
    pub at: UnixMillis,
}

impl Sealed for Notice {
    type Raw = (u64, Vec<u8>, Vec<u8>);
    const SELECT: &'static str = "SELECT notice, text, at FROM notice";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, (number, text, at): Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a notice does not open");
        let text = vault.open(TEXT, &text).map_err(|_| DAMAGED)?;
        let text = std::str::from_utf8(&text).map_err(|_| DAMAGED)?;
        let (code, message) = text.split_once('\n').ok_or(DAMAGED)?;
        let at = vault.open(AT, &at).map_err(|_| DAMAGED)?;
        let at = u64::from_be_bytes(at.as_slice().try_into().map_err(|_| DAMAGED)?);
        Ok(Self { number, code: code.to_owned(), message: message.to_owned(), at: UnixMillis(at) })
    }
}

/// All that were not seen, oldest first.
pub(crate) fn all(db: &Connection, vault: &Vault) -> Result<Vec<Notice>, MailError> {
    rows::all(db, vault, "ORDER BY notice", [])
}

/// Keeps one; the same words are kept once.
pub(crate) fn insert(
    db: &Connection,
    vault: &Vault,
    code: &str,
    message: &str,
    now: UnixMillis,
) -> Result<(), MailError> {
    let text = vault.seal(TEXT, format!("{code}\n{message}").as_bytes());
    db.prepare_cached("INSERT OR REPLACE INTO notice (text, at) VALUES (?1, ?2)")?
        .execute((text, vault.seal(AT, &now.0.to_be_bytes())))?;
    let old = "DELETE FROM notice WHERE notice NOT IN (SELECT notice FROM notice ORDER BY notice DESC LIMIT ?1)";
    db.prepare_cached(old)?.execute([NOTICES_MAX])?;
    Ok(())
}

/// Forgets what was seen, up to this number.
pub(crate) fn seen(db: &Connection, number: u64) -> Result<(), MailError> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    db.prepare_cached("DELETE FROM notice WHERE notice <= ?1")?.execute([number])?;
    Ok(())
}
