//! Rows whose values are sealed: read as they lie, then opened.

use rusqlite::{Connection, OptionalExtension as _, Params, Row};

use super::Vault;
use crate::mail::MailError;

/// What one row of a table says.
pub(crate) trait Sealed: Sized {
    /// The columns as they lie.
    type Raw;
    /// `SELECT … FROM …`, in the order in which [`Sealed::read`] takes the columns.
    const SELECT: &'static str;

    /// Takes the columns.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw>;

    /// Opens them.
    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError>;
}

/// The row that is there.
pub(crate) fn one<T: Sealed>(
    db: &Connection,
    vault: &Vault,
    condition: &str,
    parameters: impl Params,
) -> Result<T, MailError> {
    find(db, vault, condition, parameters)?.ok_or(MailError::Database(rusqlite::Error::QueryReturnedNoRows))
}

/// The first row, if there is any.
pub(crate) fn find<T: Sealed>(
    db: &Connection,
    vault: &Vault,
    condition: &str,
    parameters: impl Params,
) -> Result<Option<T>, MailError> {
    let mut statement = db.prepare_cached(&format!("{} {condition}", T::SELECT))?;
    statement.query_row(parameters, T::read).optional()?.map(|raw| T::open(vault, raw)).transpose()
}

/// All rows.
pub(crate) fn all<T: Sealed>(
    db: &Connection,
    vault: &Vault,
    condition: &str,
    parameters: impl Params,
) -> Result<Vec<T>, MailError> {
    let mut statement = db.prepare_cached(&format!("{} {condition}", T::SELECT))?;
    let rows = statement.query_map(parameters, T::read)?.collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|raw| T::open(vault, raw)).collect()
}
