//! What other members say has ended an epoch: the commit that the last record of each one's chain names. A column of the
//! profile's table of chains.

use crate::mail::MailError;
use crate::members::{self, MemberRow};
use crate::profile::Vault;
use rusqlite::Connection;
use shoal_protocol::Hash;
use std::collections::{BTreeMap, BTreeSet};

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

/// The commit that more than half of the other members say has ended an epoch. Not counted are those who went astray, who are
/// lost, who are leaving, and who are at `removed` leaves: whom a commit removes never says that it was applied.
///
/// Somebody who adds own profiles to a group can be more than half of it: this alone proves nothing to whoever was there.
pub(crate) fn most_named(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
    removed: &[u32],
) -> Result<Option<Hash>, MailError> {
    let counts = |member: &MemberRow| member.follows() && !member.leaving && !removed.contains(&member.leaf);
    let members: Vec<i64> =
        members::current(db, conversation)?.into_iter().filter(counts).map(|member| member.row).collect();
    let mut statement = db.prepare_cached(
        "SELECT member, named FROM chain WHERE conversation = ?1 AND epoch = ?2 AND named IS NOT NULL",
    )?;
    let said = statement
        .query_map((conversation, epoch), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(i64, Vec<u8>)>, _>>()?;
    // what is sealed is equal when what it holds is
    let mut by_commit: BTreeMap<Vec<u8>, BTreeSet<i64>> = BTreeMap::new();
    for (member, named) in said.into_iter().filter(|(member, _)| members.contains(member)) {
        by_commit.entry(named).or_default().insert(member);
    }
    let most = by_commit.into_iter().find(|(_, by)| 2 * by.len() > members.len());
    let opened = most.map(|(sealed, _)| vault.open_array(NAMED, &sealed)).transpose();
    let hash = opened.map_err(|_| MailError::Damaged("what a member's chain ended with does not open"))?;
    Ok(hash.map(|hash| Hash::from_bytes(*hash)))
}
