//! The own inbox keys: the one behind the own address, and those of addresses that were given up. A table of the profile.
//!
//! A key that was given up still signs that the next one is the same person's, in every conversation whose leaf is under it;
//! its inbox is read for a while, so that who watches inboxes does not see one end where another begins. When neither needs
//! it any more it is erased.

use crate::mail::MailError;
use crate::profile::Vault;
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::UnixMillis;
use shoal_protocol::inbox::{InboxKey, InboxPublic};
use zeroize::Zeroizing;

const SEED: &str = "own_key.seed";
const PUBLIC: &str = "own_key.public";
const DAMAGED: MailError = MailError::Damaged("an own key does not open");
/// Most addresses that were given up and whose inbox is still read, for a retention at most: at the normal rate, where 16 and
/// the current one, in three generations, are a look each 60 s, 0.85 of 2 ticks a second; and at the low one, where each takes
/// one tick in eight.
pub const FORMER_READ_MAX: [usize; 2] = [16, 3];
/// Most keys of addresses that were given up: those that are not read any more are kept for conversations that stand still
/// (somebody who is blocked, a request that nobody answers), 100 bytes each.
pub const FORMER_MAX: usize = 256;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct FormerKey {
    pub(crate) row: i64,
    pub(crate) key: InboxKey,
    /// Until when its inbox is read.
    pub(crate) read_until: UnixMillis,
}

/// All own keys.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    /// Row of the current one.
    pub(crate) row: i64,
    current: InboxKey,
    former: Vec<FormerKey>,
}

impl OwnKeys {
    /// The key behind the own address.
    #[must_use]
    pub fn current(&self) -> &InboxKey {
        &self.current
    }
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> InboxPublic {
        self.current.public()
    }
    /// Those of addresses that were given up, newest first.
    pub(crate) fn former(&self) -> &[FormerKey] {
        &self.former
    }
    /// Whether somebody is oneself, under the own address or one that was given up.
    #[must_use]
    pub fn is_own(&self, inbox: &InboxPublic) -> bool {
        *inbox == self.public() || self.former.iter().any(|former| former.key.public() == *inbox)
    }
    /// Rows of the keys whose inboxes are read now and whose cards are published, the current one first; of those that are
    /// `awaited` as long as they are.
    pub(crate) fn active(&self, awaited: &[i64], now: UnixMillis) -> Vec<i64> {
        let reads = |former: &&FormerKey| former.read_until > now || awaited.contains(&former.row);
        std::iter::once(self.row).chain(self.former.iter().filter(reads).map(|former| former.row)).collect()
    }
    /// The own key whose public half this is.
    pub(crate) fn by_public(&self, public: &InboxPublic) -> Option<&InboxKey> {
        let former = self.former.iter().map(|former| &former.key);
        std::iter::once(&self.current).chain(former).find(|key| key.public() == *public)
    }
    /// The key of a row, if it is still here.
    pub(crate) fn by_row(&self, row: i64) -> Option<&InboxKey> {
        if row == self.row {
            return Some(&self.current);
        }
        self.former.iter().find(|former| former.row == row).map(|former| &former.key)
    }
}

/// All of them.
pub(crate) fn load(db: &Connection, vault: &Vault) -> Result<OwnKeys, MailError> {
    let mut statement = db.prepare_cached("SELECT own_key, seed, read_until FROM own_key ORDER BY own_key DESC")?;
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Option<u64>>(2)?)))?;
    let mut keys = Vec::new();
    for row in rows {
        let (row, seed, read_until) = row?;
        let seed = vault.open(SEED, &seed).map_err(|_| DAMAGED)?;
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.as_slice().try_into().map_err(|_| DAMAGED)?);
        keys.push(FormerKey { row, key: InboxKey::from_seed(&seed), read_until: UnixMillis(read_until.unwrap_or(0)) });
    }
    if keys.is_empty() {
        return Err(MailError::Damaged("the profile has no key of its own"));
    }
    let newest = keys.remove(0);
    Ok(OwnKeys { row: newest.row, current: newest.key, former: keys })
}

/// Keeps a key, which is the current one from now on. The inbox of the one before it is read until `read_until`.
pub(crate) fn insert(db: &Connection, vault: &Vault, key: &InboxKey, read_until: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE own_key SET read_until = ?1 WHERE read_until IS NULL")?.execute([read_until.0])?;
    db.prepare_cached("INSERT INTO own_key (seed, public) VALUES (?1, ?2)")?
        .execute((vault.seal(SEED, key.seed().as_slice()), vault.seal(PUBLIC, key.public().as_bytes())))?;
    Ok(())
}

/// The row of the key whose public half this is; the current one's when it was erased, and then no commit can be made.
pub(crate) fn row_of(db: &Connection, vault: &Vault, public: &InboxPublic) -> Result<i64, MailError> {
    let found = db
        .prepare_cached("SELECT own_key FROM own_key WHERE public = ?1")?
        .query_row([vault.seal(PUBLIC, public.as_bytes())], |row| row.get(0))
        .optional()?;
    match found {
        Some(row) => Ok(row),
        None => Ok(db.query_row("SELECT max(own_key) FROM own_key", [], |row| row.get(0))?),
    }
}

/// Conversations that go on and whose other members do not know the current address yet.
pub(crate) fn moving(db: &Connection) -> Result<u64, MailError> {
    let found = "SELECT count(*) FROM conversation c WHERE own_key < (SELECT max(own_key) FROM own_key)
        AND standing = 0 AND broken = 0 AND request = 0
        AND NOT EXISTS (SELECT 1 FROM contact b WHERE b.contact = c.contact AND b.blocked = 1)";
    Ok(db.prepare_cached(found)?.query_row([], |row| row.get(0))?)
}

/// Keys under which a conversation waits for a member to add its owner again: that member looks for a card under them.
pub(crate) fn awaited(db: &Connection) -> Result<Vec<i64>, MailError> {
    let found = "SELECT DISTINCT own_key FROM conversation c WHERE standing = 3 AND broken = 0
        AND NOT EXISTS (SELECT 1 FROM contact b WHERE b.contact = c.contact AND b.blocked = 1)";
    let mut statement = db.prepare_cached(found)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Erases the keys that nothing needs any more: whose inbox is read no longer, and under which are no conversation that goes
/// on, invite or card; nothing while a commit is staged, whose leaf may be under any of them. Says whether there were any.
pub(crate) fn forget(db: &Connection, now: UnixMillis) -> Result<bool, MailError> {
    let unneeded = "SELECT own_key FROM own_key k WHERE read_until < ?1
        AND NOT EXISTS (SELECT 1 FROM commit_out o JOIN conversation c USING (conversation)
            WHERE o.merged = 0 AND c.standing IN (0, 1) AND c.broken = 0)
        AND NOT EXISTS (SELECT 1 FROM conversation c WHERE c.own_key = k.own_key AND c.standing <> 2 AND c.broken = 0)
        AND NOT EXISTS (SELECT 1 FROM invite_made i WHERE i.own_key = k.own_key)
        AND NOT EXISTS (SELECT 1 FROM card c WHERE c.own_key = k.own_key)";
    db.prepare_cached(&format!(
        "UPDATE conversation SET own_key = (SELECT max(own_key) FROM own_key) WHERE own_key IN ({unneeded})"
    ))?
    .execute([now.0])?;
    db.prepare_cached(&format!("DELETE FROM inbox_cursor WHERE own_key IN ({unneeded})"))?.execute([now.0])?;
    Ok(db.prepare_cached(&format!("DELETE FROM own_key WHERE own_key IN ({unneeded})"))?.execute([now.0])? > 0)
}
