//! Own cards: made and published once per generation and period, kept as long as a letter may come for them.

use super::flight::PendingBox;
use super::{Mail, MailError, provider};
use crate::card::{self, CardChain, CardPlace};
use crate::chains::{self, Side};
use crate::inbox_letter::PointerKey;
use crate::key_packages_mls;
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::card_period;
use zeroize::Zeroizing;

const POINTER: &str = "card.pointer";
const WRITER: &str = "card.writer";
const PACKAGE: &str = "card.package";
/// Periods for which a card's secrets are kept after its own: it may be read in the next one, and the letter lies for
/// a retention (two periods) after that.
pub(super) const CARD_KEPT_PERIODS: u64 = 4;

impl Mail {
    /// Makes and seals the own card of the current generation and period, once; and that of an address that was given up, as
    /// long as its inbox is read: who knows both would else see one card end where another begins. Says whether it did.
    pub(super) fn publish_card(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, MailError> {
        let Some(generation) = consensus.current_generation() else { return Ok(false) };
        let place = CardPlace { generation: generation.number, period: card_period(now, &consensus.parameters) };
        self.memory.published.retain(|(_, at)| *at == place);
        let active = self.active_keys(now)?;
        let Some(own_key) = active.into_iter().find(|row| !self.memory.published.contains(&(*row, place))) else {
            return Ok(false);
        };
        let exists: bool = self
            .profile
            .db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM card WHERE own_key = ?1 AND generation = ?2 AND period = ?3)",
            )?
            .query_row((own_key, place.generation, place.period), |row| row.get(0))?;
        if !exists {
            self.make_card(own_key, place, rng)?;
        }
        self.memory.published.push((own_key, place));
        Ok(!exists)
    }

    fn make_card(&mut self, own_key: i64, place: CardPlace, rng: &mut impl CryptoRng) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some(inbox) = self.profile.own.by_row(own_key) else { return Ok(()) };
        let (writer, pointer) = (WriteKey::generate(rng), PointerKey::generate(rng));
        let transaction = db.unchecked_transaction()?;
        let (package, reference) = key_packages_mls::make_key_package(
            &provider(&self.profile, &self.crypto, &transaction),
            inbox,
            &writer,
            rng,
        )?;
        let parts = card::write(inbox, place, &package, &pointer).map_err(|error| MailError::Mls(error.to_string()))?;
        let chain = CardChain::new(inbox.public(), place);
        let row = chains::insert(
            &transaction,
            vault,
            None,
            place.period,
            0,
            place.generation,
            chain.secret(),
            &Side::Offer(inbox.write_key().clone()),
        )?;
        let mut boxes = Vec::with_capacity(parts.len());
        for part in &parts {
            let chain = chains::by_row(&transaction, vault, row)?;
            boxes.push(chains::push_sealed(&transaction, &chain, part, rng)?);
        }
        transaction
            .prepare_cached(
                "INSERT INTO card (generation, period, pointer, writer, package, chain, own_key)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                place.generation,
                place.period,
                vault.seal(POINTER, &pointer.to_bytes()),
                vault.seal(WRITER, writer.seed().as_slice()),
                vault.seal(PACKAGE, &reference),
                row,
                own_key,
            ))?;
        transaction.commit()?;
        for box_row in boxes {
            self.memory.boxes.insert(box_row, PendingBox::new(row, false));
        }
        Ok(())
    }

    /// Whether a chain is an own card's.
    pub(super) fn is_card(&self, chain: i64) -> Result<bool, MailError> {
        let found = "SELECT EXISTS (SELECT 1 FROM card WHERE chain = ?1)";
        Ok(self.profile.db.prepare_cached(found)?.query_row([chain], |row| row.get(0))?)
    }

    /// The write key of the own card whose leaf carries this public half.
    pub(super) fn card_writer(
        &self,
        db: &rusqlite::Connection,
        public: &shoal_protocol::boxes::WritePublic,
    ) -> Result<Option<WriteKey>, MailError> {
        for (writer, _) in self.card_secrets(db)? {
            if writer.public() == *public {
                return Ok(Some(writer));
            }
        }
        Ok(None)
    }

    /// Secrets of the own cards that may still be used, newest first.
    pub(super) fn card_secrets(&self, db: &rusqlite::Connection) -> Result<Vec<(WriteKey, PointerKey)>, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a card does not open");
        let vault = &self.profile.vault;
        let mut statement = db.prepare_cached("SELECT writer, pointer FROM card ORDER BY card DESC")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter()
            .map(|(writer, pointer)| {
                let seed = vault.open(WRITER, &writer).map_err(|_| DAMAGED)?;
                let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.as_slice().try_into().map_err(|_| DAMAGED)?);
                let pointer = PointerKey::from_bytes(&vault.open(POINTER, &pointer).map_err(|_| DAMAGED)?)
                    .map_err(|_| DAMAGED)?;
                Ok((WriteKey::from_seed(&seed), pointer))
            })
            .collect()
    }

    /// Forgets the secrets of cards that nobody can have read any more.
    pub(super) fn forget_old_cards(&mut self, now: UnixMillis, consensus: &Consensus) -> Result<(), MailError> {
        let period = card_period(now, &consensus.parameters);
        let oldest = period.saturating_sub(CARD_KEPT_PERIODS);
        let db = &self.profile.db;
        loop {
            let found: Option<(i64, Vec<u8>, Vec<u8>, i64)> = db
                .prepare_cached("SELECT card, package, writer, chain FROM card WHERE period < ?1 LIMIT 1")?
                .query_row([oldest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                .optional()?;
            let Some((card, package, writer, chain)) = found else { return Ok(()) };
            const DAMAGED: MailError = MailError::Damaged("a card does not open");
            let vault = &self.profile.vault;
            let reference = vault.open(PACKAGE, &package).map_err(|_| DAMAGED)?;
            let joined = chains::writes(db, vault, &vault.open(WRITER, &writer).map_err(|_| DAMAGED)?)?;
            let transaction = db.unchecked_transaction()?;
            let provider = provider(&self.profile, &self.crypto, &transaction);
            key_packages_mls::forget_key_package(&provider, &reference, joined)?;
            drop(provider);
            transaction.execute("DELETE FROM card WHERE card = ?1", [card])?;
            chains::delete(&transaction, chain)?;
            transaction.commit()?;
            self.memory.boxes.retain(|_, pending| pending.chain != chain);
        }
    }
}
