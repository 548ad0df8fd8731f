//! What contacts say of the documents they hold, and the certificates by which they prove it. Tables of the profile.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use rusqlite::Connection;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::Mark;

use crate::mail::MailError;
use crate::marks::Verdict;
use crate::profile::Vault;

const HEARD: &str = "mark_heard.heard";
const PART: &str = "proof_in.part";

/// What was heard of one contact's documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Heard {
    /// The newest mark that is still to be compared: its document was not held here yet.
    #[n(0)]
    pub(crate) pending: Option<Mark>,
    /// A mark that no chain holds beside the documents held here.
    #[n(1)]
    pub(crate) differs: Option<Differs>,
    /// The certificate that was last sealed for the contact.
    #[n(2)]
    pub(crate) proved: Option<Proved>,
}

/// A certificate that was sealed for a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Proved {
    /// Of the document of this height.
    #[n(0)]
    pub(crate) height: u64,
    /// When.
    #[n(1)]
    pub(crate) at: UnixMillis,
}

/// A contact's network differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Differs {
    /// The newest mark that does.
    #[n(0)]
    pub(crate) mark: Mark,
    /// Since when that is known.
    #[n(1)]
    pub(crate) since: UnixMillis,
}

impl Heard {
    /// Takes up what a mark turned out to be. An earlier difference is explained by a later document that both hold.
    pub(crate) fn with(mut self, mark: Mark, verdict: Verdict, newest: Option<Mark>, now: UnixMillis) -> Self {
        let later = |than: Option<Mark>| than.is_none_or(|than| than.height < mark.height);
        match verdict {
            Verdict::Agrees => self.differs = self.differs.filter(|differs| differs.mark.height >= mark.height),
            Verdict::Differs if later(self.differs.map(|differs| differs.mark)) => {
                let since = self.differs.map_or(now, |differs| differs.since);
                self.differs = Some(Differs { mark, since });
            }
            Verdict::Unknown if later(self.pending) && mark.height != 0 => self.pending = Some(mark),
            Verdict::Differs | Verdict::Unknown => {}
        }
        // a height that was passed without a word will not be held any more
        self.pending = self.pending.filter(|pending| newest.is_none_or(|newest| newest.height < pending.height));
        self
    }
}

pub(crate) fn load_heard(db: &Connection, vault: &Vault) -> Result<BTreeMap<i64, Heard>, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a contact's mark does not open");
    let mut statement = db.prepare_cached("SELECT contact, heard FROM mark_heard")?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter()
        .map(|(contact, sealed)| {
            let bytes = vault.open(HEARD, &sealed).map_err(|_| DAMAGED)?;
            Ok((contact, minicbor::decode(&bytes).map_err(|_| DAMAGED)?))
        })
        .collect()
}

pub(crate) fn set_heard(db: &Connection, vault: &Vault, contact: i64, heard: &Heard) -> Result<(), MailError> {
    if *heard == Heard::default() {
        db.prepare_cached("DELETE FROM mark_heard WHERE contact = ?1")?.execute([contact])?;
        return Ok(());
    }
    // writing to a Vec cannot fail
    let sealed = vault.seal(HEARD, &minicbor::to_vec(heard).unwrap_or_default());
    db.prepare_cached(
        "INSERT INTO mark_heard (contact, heard) VALUES (?1, ?2) ON CONFLICT (contact) DO UPDATE SET heard = ?2",
    )?
    .execute((contact, sealed))?;
    Ok(())
}

/// Keeps a part of a certificate that a member sends; the whole when it is the last. Parts come in
/// order, each as long as all but the last are: what does not follow the part before begins nothing and ends what was.
pub(crate) fn take_part(
    db: &Connection,
    vault: &Vault,
    member: i64,
    (number, parts): (u8, u8),
    part: &[u8],
) -> Result<Option<Vec<u8>>, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a part of a certificate does not open");
    let here: u64 =
        db.prepare_cached("SELECT count(*) FROM proof_in WHERE member = ?1")?.query_row([member], |row| row.get(0))?;
    if number == 0 || u64::from(number) != here {
        db.prepare_cached("DELETE FROM proof_in WHERE member = ?1")?.execute([member])?;
    }
    if number != 0 && u64::from(number) != here {
        return Ok(None);
    }
    db.prepare_cached("INSERT INTO proof_in (member, number, part) VALUES (?1, ?2, ?3)")?.execute((
        member,
        number,
        vault.seal(PART, part),
    ))?;
    if number + 1 < parts {
        return Ok(None);
    }
    let sealed = db
        .prepare_cached("SELECT part FROM proof_in WHERE member = ?1 ORDER BY number")?
        .query_map([member], |row| row.get::<_, Vec<u8>>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    db.prepare_cached("DELETE FROM proof_in WHERE member = ?1")?.execute([member])?;
    let mut whole = Vec::new();
    for part in sealed {
        whole.extend_from_slice(&vault.open(PART, &part).map_err(|_| DAMAGED)?);
    }
    Ok(Some(whole))
}
