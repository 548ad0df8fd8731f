//! What other members say has ended an epoch: the commit that the last record of each one's chain names. A column of the
//! profile's table of chains.

use crate::mail::MailError;
use crate::profile::Vault;
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::Hash;

const NAMED: &str = "chain.named";

/// Another member's chain ends with the word that this commit was applied.
pub(crate) fn set_named(db: &Connection, vault: &Vault, chain: i64, commit: &Hash) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET ended = 1, named = ?2 WHERE chain = ?1")?
        .execute((chain, vault.seal(NAMED, commit.as_bytes())))?;
    Ok(())
}

/// Members who applied another commit to an epoch than this one.
pub(crate) fn name_others(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
    commit: &Hash,
) -> Result<Vec<i64>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT c.member FROM chain c JOIN member m ON m.member = c.member
         WHERE c.conversation = ?1 AND c.epoch = ?2 AND c.named != ?3 AND m.left_at IS NULL",
    )?;
    let sealed = vault.seal(NAMED, commit.as_bytes());
    Ok(statement.query_map((conversation, epoch, sealed), |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// The commit that more than half of the other members say has ended an epoch; of those who went astray nothing counts.
///
/// One member alone cannot make it up in a group of four or more; of three, both others would have to.
pub(crate) fn most_named(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
) -> Result<Option<Hash>, MailError> {
    // what is sealed is equal when what it holds is
    let sealed: Option<Vec<u8>> = db
        .prepare_cached(
            "SELECT c.named FROM chain c JOIN member m ON m.member = c.member
             WHERE c.conversation = ?1 AND c.epoch = ?2 AND c.named IS NOT NULL AND m.left_at IS NULL AND m.astray = 0
             GROUP BY c.named
             HAVING 2 * COUNT(DISTINCT c.member) > (
                SELECT COUNT(*) FROM member WHERE conversation = ?1 AND left_at IS NULL AND astray = 0)",
        )?
        .query_row((conversation, epoch), |row| row.get(0))
        .optional()?;
    let opened = sealed.map(|sealed| vault.open_array(NAMED, &sealed)).transpose();
    Ok(opened
        .map_err(|_| MailError::Damaged("what a member's chain ended with does not open"))?
        .map(|hash| Hash::from_bytes(*hash)))
}
