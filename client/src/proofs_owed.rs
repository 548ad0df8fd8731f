//! Certificates that contacts are owed: of a document held here, for a contact who named another one or proved it. A table
//! of the profile, so that neither a crash nor the end of all sending makes a client forget what stops the other side.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};
use rusqlite::Connection;
use shoal_protocol::UnixMillis;

use crate::chains::Place;
use crate::mail::MailError;
use crate::profile::Vault;

const OWED: &str = "proof_owed.owed";

/// A certificate that the other members of a conversation are owed. At most one a conversation: 77 boxes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Owed {
    /// Of the document held of this height.
    #[n(0)]
    pub(crate) height: u64,
    /// Since when. After one retention it is not owed any more: what it is an answer to has expired by then.
    #[n(1)]
    pub(crate) since: UnixMillis,
    /// Sealed: its last box, and all before it, are among the first `boxes` of the own chain of this group epoch.
    #[n(2)]
    pub(crate) sealed: Option<Place>,
}

impl Owed {
    pub(crate) fn new(height: u64, since: UnixMillis) -> Self {
        Self { height, since, sealed: None }
    }

    pub(crate) fn is_over(&self, now: UnixMillis, retention: Duration) -> bool {
        self.since.plus(retention) <= now
    }
}

pub(crate) fn load(db: &Connection, vault: &Vault) -> Result<BTreeMap<i64, Owed>, MailError> {
    const DAMAGED: MailError = MailError::Damaged("what a contact is owed does not open");
    let mut statement = db.prepare_cached("SELECT conversation, owed FROM proof_owed")?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter()
        .map(|(conversation, sealed)| {
            let bytes = vault.open(OWED, &sealed).map_err(|_| DAMAGED)?;
            Ok((conversation, minicbor::decode(&bytes).map_err(|_| DAMAGED)?))
        })
        .collect()
}

pub(crate) fn set(db: &Connection, vault: &Vault, conversation: i64, owed: &Owed) -> Result<(), MailError> {
    // writing to a Vec cannot fail
    let sealed = vault.seal(OWED, &minicbor::to_vec(owed).unwrap_or_default());
    db.prepare_cached(
        "INSERT INTO proof_owed (conversation, owed) VALUES (?1, ?2) ON CONFLICT (conversation) DO UPDATE SET owed = ?2",
    )?
    .execute((conversation, sealed))?;
    Ok(())
}

pub(crate) fn forget(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM proof_owed WHERE conversation = ?1")?.execute([conversation])?;
    Ok(())
}
