//! The own inbox: one cursor per replica and generation, equal bodies dropped, pointers to Welcomes taken up.

use super::fetching::Fetched;
use super::parts::BlobIn;
use super::writing::each;
use super::{Mail, MailError};
use crate::blobs::WELCOME_SIZE_MAX;
use crate::blobs_store::{self, Purpose};
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use shoal_protocol::boxes::BoxBody;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use shoal_protocol::{StoreIndex, UnixMillis};

const SEEN: &str = "letter_seen.hash";
/// Welcomes that may be fetched at a time; the oldest gives way to a new one. The inbox is read about once a minute, so
/// an honest one, which lay there before its letter, has half an hour for its four boxes.
const WELCOMES_MAX: usize = 32;

impl Mail {
    /// Number of the last entry read from one replica.
    pub(super) fn inbox_cursor(&self, inbox: (i64, u32), store: StoreIndex) -> Result<u64, MailError> {
        Ok(self
            .profile
            .db
            .prepare_cached("SELECT after FROM inbox_cursor WHERE own_key = ?1 AND generation = ?2 AND store = ?3")?
            .query_row((inbox.0, inbox.1, store.0), |row| row.get(0))
            .optional()?
            .unwrap_or(0))
    }

    pub(super) fn inbox_read(
        &mut self,
        inbox: (i64, u32),
        after: u64,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        if self.profile.own.by_row(inbox.0).is_none() {
            // the key was erased while the question was out
            return Ok(());
        }
        for (store, answer) in each(answers) {
            let Some(body) = answer.body.as_ref().filter(|_| answer.status == Status::Found) else { continue };
            let cursor = self.inbox_cursor(inbox, store)?;
            // an answer to another replica's number says nothing about what this one holds in between; SQLite counts
            // to i64::MAX, and no honest replica comes near
            let advances = after == cursor && answer.number > cursor && i64::try_from(answer.number).is_ok();
            self.letter_read(inbox, store, advances.then_some(answer.number), body, now, consensus, rng)?;
        }
        Ok(())
    }

    /// Takes up one letter and moves the cursor on: one transaction.
    #[expect(clippy::too_many_arguments, reason = "the entry and the surroundings")]
    fn letter_read(
        &mut self,
        inbox: (i64, u32),
        store: StoreIndex,
        cursor: Option<u64>,
        body: &BoxBody,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let transaction = db.unchecked_transaction()?;
        if let Some(number) = cursor {
            transaction
                .prepare_cached(
                    "INSERT INTO inbox_cursor (own_key, generation, store, after) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (own_key, generation, store) DO UPDATE SET after = ?4",
                )?
                .execute((inbox.0, inbox.1, store.0, number))?;
        }
        let fresh = transaction
            .prepare_cached("INSERT OR IGNORE INTO letter_seen (hash, at) VALUES (?1, ?2)")?
            .execute((vault.seal(SEEN, &body.hash()), now.0))?;
        let mut taken = None;
        if fresh == 1 {
            let pointer = self.card_secrets(&transaction)?.iter().find_map(|(_, key)| key.open(body));
            if let Some(pointer) = pointer {
                let length = pointer.manifest.length();
                if (1..=WELCOME_SIZE_MAX).contains(&length) && consensus.generation(pointer.generation).is_some() {
                    taken = Some(blobs_store::insert_in(
                        &transaction,
                        vault,
                        &pointer.manifest,
                        pointer.generation,
                        Purpose::Welcome,
                        true,
                        now,
                    )?);
                }
            }
        }
        transaction.commit()?;
        if let Some(incoming) = taken {
            self.memory.blobs_in.insert(incoming.row, BlobIn::new(incoming, &[]));
            // those of whom the user invited do not give way, nor the few that are here and wait for something
            let is_welcome = |blob: &&BlobIn| {
                blob.incoming.purpose == Purpose::Welcome && blob.incoming.stranger && blob.failures == 0
            };
            let mut welcomes = self.memory.blobs_in.values().filter(is_welcome).map(|blob| blob.incoming.row);
            if let Some(oldest) = welcomes.next().filter(|_| welcomes.count() >= WELCOMES_MAX) {
                self.end_blob(oldest, Fetched::Late, now, rng)?;
            }
        }
        Ok(())
    }
}
