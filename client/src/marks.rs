//! Which documents of the consensus this client held, to compare with what contacts say they hold: who is shown another
//! chain of documents than the rest can only learn it from somebody who is not. Tables of the profile, and the rules.
//!
//! When a client held which document says when it was online, so all of it is sealed.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::authority::{AuthorityKey, ML_DSA_PUBLIC_SIZE};
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{Mark, VerifiedConsensus};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::{Epoch, Hash, Identity};

use crate::mail::MailError;
use crate::profile::Vault;

const HELD: &str = "document_held.mark";
const CERTIFICATE: &str = "document_held.certificate";
const SET: &str = "authority_set.keys";

/// Most documents that are remembered. A box lives for one retention and its mark is no younger than the box: 14 days of
/// 20 minutes are 1,008 documents; twice as many for networks with other figures. About 160 bytes each on disk, 0.3 MB.
const HELD_MAX: usize = 2_048;
/// Epochs beyond the retention for which a document is remembered: one serves for three.
const EPOCHS_BEYOND: u64 = 3;
/// Bytes of certificates that are kept, the newest first: of 4 authorities (7.5 KB each) those of 14 days, of 13
/// (22 KB) those of 5 days, of 64 (107 KB) those of a day.
const CERTIFICATES_MAX: u64 = 8 << 20;

/// A document that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Held {
    #[n(0)]
    pub(crate) mark: Mark,
    /// The hash that it gives the document before.
    #[n(1)]
    previous: Hash,
    /// Row of the set of authorities that had to certify it, where that is known.
    #[n(2)]
    by: Option<i64>,
    /// Row of the set that certifies the next one.
    #[n(3)]
    next: i64,
}

/// What another's mark is, beside the documents held here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is of the same chain.
    Agrees,
    /// No chain holds both.
    Differs,
    /// It is of a document that was not held here, and nothing contradicts it so far.
    Unknown,
}

/// The documents that were held, by height and by epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    rows: BTreeMap<u64, (i64, Held)>,
    heights: BTreeMap<Epoch, u64>,
}

impl Marks {
    pub(crate) fn load(db: &Connection, vault: &Vault) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a document's mark does not open");
        let mut statement = db.prepare_cached("SELECT document, mark FROM document_held")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        let mut marks = Self::default();
        for (row, sealed) in rows {
            let bytes = vault.open(HELD, &sealed).map_err(|_| DAMAGED)?;
            let held: Held = minicbor::decode(&bytes).map_err(|_| DAMAGED)?;
            marks.insert(row, held);
        }
        Ok(marks)
    }

    fn insert(&mut self, row: i64, held: Held) {
        self.heights.insert(held.mark.epoch, held.mark.height);
        self.rows.insert(held.mark.height, (row, held));
    }

    /// The newest document held.
    pub(crate) fn newest(&self) -> Option<Mark> {
        self.rows.last_key_value().map(|(_, (_, held))| held.mark)
    }

    pub(crate) fn at(&self, height: u64) -> Option<&Held> {
        self.rows.get(&height).map(|(_, held)| held)
    }

    /// The documents held that no chain holds beside this one: of its height, of its epoch, and the next ones below and
    /// above. Heights and epochs of what is held grow together, so if any contradicts it, one of these does.
    pub(crate) fn against(&self, mark: &Mark) -> impl Iterator<Item = &Held> {
        let height = |height: &u64| self.at(*height);
        let of_height = height(&mark.height);
        let of_epoch = self.heights.get(&mark.epoch).and_then(height);
        let below = self.rows.range(..mark.height).next_back().map(|(_, (_, held))| held);
        let above = self.rows.range(mark.height..).next().map(|(_, (_, held))| held);
        let mark = *mark;
        [of_height, of_epoch, below, above].into_iter().flatten().filter(move |held| held.mark.contradicts(&mark))
    }

    /// Compares by what one chain cannot hold: two documents of one height or epoch, heights and epochs that disagree about
    /// which came later, another predecessor than the next one names.
    pub(crate) fn judge(&self, mark: &Mark) -> Verdict {
        if mark.height == 0 {
            return Verdict::Unknown;
        }
        if self.against(mark).next().is_some() {
            return Verdict::Differs;
        }
        if self.at(mark.height).is_some() {
            return Verdict::Agrees;
        }
        match mark.height.checked_add(1).and_then(|next| self.at(next)) {
            Some(next) if next.previous == mark.hash => Verdict::Agrees,
            Some(_) => Verdict::Differs,
            None => Verdict::Unknown,
        }
    }

    /// Takes up a document that was just taken; what a contact may no longer name is forgotten. Documents come in the
    /// order of the chain: an older one is known.
    pub(crate) fn hold(
        &mut self,
        db: &Connection,
        vault: &Vault,
        network: &NetworkFile,
        document: &VerifiedConsensus,
    ) -> Result<(), MailError> {
        let mark = document.mark();
        if self.newest().is_some_and(|newest| newest.height >= mark.height) {
            return Ok(());
        }
        let by = self.certified_by(db, vault, network, document)?;
        let next = set_row(db, vault, &document.authorities)?;
        let held = Held { mark, previous: document.previous, by, next };
        // writing to a Vec cannot fail
        let sealed = vault.seal(HELD, &minicbor::to_vec(held).unwrap_or_default());
        let certificate = vault.seal(CERTIFICATE, &document.certificate().encode());
        db.prepare_cached("INSERT INTO document_held (mark, certificate) VALUES (?1, ?2)")?
            .execute((sealed, certificate))?;
        self.insert(db.last_insert_rowid(), held);
        let lived = document.parameters.retention_epochs().saturating_add(EPOCHS_BEYOND);
        let oldest = mark.epoch.0.saturating_sub(lived);
        while let Some((_, (row, first))) = self.rows.first_key_value()
            && (self.rows.len() > HELD_MAX || first.mark.epoch.0 < oldest)
        {
            db.prepare_cached("DELETE FROM document_held WHERE document = ?1")?.execute([row])?;
            self.heights.remove(&first.mark.epoch);
            self.rows.pop_first();
        }
        db.prepare_cached(
            "UPDATE document_held SET certificate = NULL WHERE document IN (
                SELECT document FROM (SELECT document, sum(length(certificate)) OVER (ORDER BY document DESC) AS kept
                    FROM document_held WHERE certificate IS NOT NULL) WHERE kept > ?1)",
        )?
        .execute([CERTIFICATES_MAX])?;
        let used: Vec<i64> = self.rows.values().flat_map(|(_, held)| held.by.into_iter().chain([held.next])).collect();
        let rows = db
            .prepare_cached("SELECT authority_set FROM authority_set")?
            .query_map([], |row| row.get::<_, i64>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        for row in rows.into_iter().filter(|row| !used.contains(row)) {
            db.prepare_cached("DELETE FROM authority_set WHERE authority_set = ?1")?.execute([row])?;
        }
        Ok(())
    }

    /// Who had to certify a document: the set that the one before names, for the first the network file's. Where
    /// documents were missed, the last set known, if it did: it certified what was missed too, or was in force before
    /// and after. `None`: the set changed meanwhile.
    fn certified_by(
        &self,
        db: &Connection,
        vault: &Vault,
        network: &NetworkFile,
        document: &VerifiedConsensus,
    ) -> Result<Option<i64>, MailError> {
        let last = self.rows.last_key_value().map(|(_, (_, held))| held);
        let row = match last {
            Some(last) => last.next,
            None => set_row(db, vault, &network.authorities)?,
        };
        if last.map_or(1, |last| last.mark.height + 1) == document.height {
            return Ok(Some(row));
        }
        let keys = set(db, vault, row)?;
        Ok(document.certificate().verify(&network.genesis_hash(), &keys).is_ok().then_some(row))
    }

    /// The certificate of the document of a height, while it is kept.
    pub(crate) fn certificate(
        &self,
        db: &Connection,
        vault: &Vault,
        height: u64,
    ) -> Result<Option<Vec<u8>>, MailError> {
        let Some((row, _)) = self.rows.get(&height) else { return Ok(None) };
        db.prepare_cached("SELECT certificate FROM document_held WHERE document = ?1")?
            .query_row([row], |row| row.get::<_, Option<Vec<u8>>>(0))?
            .map(|sealed| {
                let opened = vault.open(CERTIFICATE, &sealed);
                opened.map(|bytes| bytes.to_vec()).map_err(|_| MailError::Damaged("a certificate does not open"))
            })
            .transpose()
    }

    /// Whether a certificate proves that the authorities contradicted themselves. It does if no chain holds its document
    /// beside one held here, and a quorum of those who had to certify one of the two signed it.
    pub(crate) fn weigh(
        &self,
        db: &Connection,
        vault: &Vault,
        network: &NetworkFile,
        other: &Certificate,
    ) -> Result<Testimony, MailError> {
        let mut testimony = Testimony::OfNothing;
        let mark = other.mark();
        for held in self.against(&mark) {
            let Some(certificate) = self.certificate(db, vault, held.mark.height)? else { continue };
            let due = self.due(mark.height);
            for by in [held.by, due.filter(|due| held.by != Some(*due))].into_iter().flatten() {
                if other.verify(&network.genesis_hash(), &set(db, vault, by)?).is_ok() {
                    return Ok(Testimony::Proof { held: held.mark, certificate });
                }
                testimony = Testimony::False;
            }
        }
        Ok(testimony)
    }

    /// Who has to certify the document of a height: the set that the one before names.
    fn due(&self, height: u64) -> Option<i64> {
        match self.at(height) {
            Some(held) => held.by,
            None => height.checked_sub(1).and_then(|before| self.at(before)).map(|before| before.next),
        }
    }
}

/// What another's certificate is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Testimony {
    /// The authorities certified two documents that no chain holds.
    Proof {
        /// The one held here.
        held: Mark,
        /// Its certificate.
        certificate: Vec<u8>,
    },
    /// It agrees, or there is nothing here to hold against it.
    OfNothing,
    /// The authorities did not sign it.
    False,
}

fn set_row(db: &Connection, vault: &Vault, keys: &[AuthorityKey]) -> Result<i64, MailError> {
    let bytes: Vec<u8> =
        keys.iter().flat_map(|key| key.identity.as_bytes().iter().chain(&key.ml_dsa)).copied().collect();
    let sealed = vault.seal(SET, &bytes);
    let known: Option<i64> = db
        .prepare_cached("SELECT authority_set FROM authority_set WHERE keys = ?1")?
        .query_row([&sealed], |row| row.get(0))
        .optional()?;
    if let Some(row) = known {
        return Ok(row);
    }
    db.prepare_cached("INSERT INTO authority_set (keys) VALUES (?1)")?.execute([sealed])?;
    Ok(db.last_insert_rowid())
}

fn set(db: &Connection, vault: &Vault, row: i64) -> Result<Vec<AuthorityKey>, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a set of authorities does not open");
    let sealed: Vec<u8> = db
        .prepare_cached("SELECT keys FROM authority_set WHERE authority_set = ?1")?
        .query_row([row], |row| row.get(0))?;
    let bytes = vault.open(SET, &sealed).map_err(|_| DAMAGED)?;
    let (keys, rest) = bytes.as_chunks::<{ 32 + ML_DSA_PUBLIC_SIZE }>();
    if !rest.is_empty() {
        return Err(DAMAGED);
    }
    keys.iter()
        .map(|key| {
            let (identity, ml_dsa) = key.split_first_chunk::<32>().ok_or(DAMAGED)?;
            let ml_dsa = ml_dsa.try_into().map_err(|_| DAMAGED)?;
            Ok(AuthorityKey { identity: Identity::from_bytes(*identity), ml_dsa })
        })
        .collect()
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
