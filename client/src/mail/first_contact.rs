//! First contact: the own card, a peer's card, the founding of a conversation, the letter that announces it, and
//! joining what others founded.

use super::choosing::postpone;
use super::flight::{BlobIn, Flight, PendingBox, Purpose, Work};
use super::sending::{each, outcome};
use super::{ContactInfo, Event, Mail, MailError, conversations, follow, letter_of, provider, stored};
use crate::blobs::Manifest;
use crate::card::{self, Card, CardChain, CardPlace};
use crate::chains::{self, STORED_BOTH, Side};
use crate::contacts::{self, Contact};
use crate::conversations::REQUESTS_MAX;
use crate::conversations_mls::{self, GroupError};
use crate::inbox_letter::{Pointer, PointerKey, seal_letter};
use crate::want::{Rank, Want};
use crate::blobs_store;
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::{append_work, card_period, inbox_id};
use shoal_protocol::poisson::exponential;
use shoal_protocol::request::{Answers, Operation, Status};
use std::time::Duration;
use zeroize::Zeroizing;

const POINTER: &str = "card.pointer";
const WRITER: &str = "card.writer";
const PACKAGE: &str = "card.package";
/// Periods for which a card's secrets are kept after its own: it may be read in the next one, and the letter lies for
/// a retention (two periods) after that.
pub(super) const CARD_KEPT_PERIODS: u64 = 4;
/// Hashes tried for a letter's nonce in one tick: about 1 ms, which hides in the jitter of the schedule's disk writes.
const HASHES_PER_TICK: u32 = 2_048;
/// An inbox that asks for more hashcash than this is closed to us: 2^28 hashes are some minutes of a core.
const APPEND_BITS_MAX: u8 = 28;

impl Mail {
    /// Makes and seals the own card of the current generation and period, once. Says whether it did.
    pub(super) fn publish_card(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, MailError> {
        let Some(generation) = consensus.current_generation() else { return Ok(false) };
        let place =
            CardPlace { generation: generation.number, period: card_period(now, &consensus.parameters) };
        if self.memory.card == Some(place) {
            return Ok(false);
        }
        let (db, vault, inbox) = (&self.profile.db, &self.profile.vault, &self.profile.inbox);
        let exists: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM card WHERE generation = ?1 AND period = ?2)")?
            .query_row((place.generation, place.period), |row| row.get(0))?;
        if exists {
            self.memory.card = Some(place);
            return Ok(false);
        }
        let (writer, pointer) = (WriteKey::generate(rng), PointerKey::generate(rng));
        let transaction = db.unchecked_transaction()?;
        let (package, reference) =
            conversations_mls::make_key_package(&provider(&self.profile, &self.crypto, &transaction), inbox, &writer, rng)?;
        let parts = card::write(inbox, place, &package, &pointer).map_err(|error| MailError::Mls(error.to_string()))?;
        let chain = CardChain::new(inbox.public(), place);
        let row =
            chains::insert(&transaction, vault, None, place.period, 0, place.generation, chain.secret(), &Side::OwnCard)?;
        let mut boxes = Vec::with_capacity(parts.len());
        for (j, part) in (0u64..).zip(&parts) {
            let body = chain.seal(j, part, rng).map_err(|error| MailError::Mls(error.to_string()))?;
            boxes.push(chains::push_box(&transaction, &chains::by_row(&transaction, vault, row)?, &body, None)?);
        }
        transaction
            .prepare_cached(
                "INSERT INTO card (generation, period, pointer, writer, package, chain) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                place.generation,
                place.period,
                vault.seal(POINTER, &pointer.to_bytes()),
                vault.seal(WRITER, writer.seed().as_slice()),
                vault.seal(PACKAGE, &reference),
                row,
            ))?;
        transaction.commit()?;
        for box_row in boxes {
            self.memory.boxes.insert(box_row, PendingBox::new(row, false));
        }
        self.memory.card = Some(place);
        Ok(true)
    }

    #[expect(clippy::too_many_arguments, reason = "the flight, the answer and the surroundings")]
    pub(super) fn card_read(
        &mut self,
        contact: i64,
        place: CardPlace,
        j: u64,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(fetch) = self.memory.cards.get_mut(&contact) else { return Ok(()) };
        let Some((_, chain)) = fetch.trying.as_ref().filter(|(trying, _)| *trying == place) else { return Ok(()) };
        fetch.out.remove(&j);
        let part = each(answers)
            .filter(|(_, answer)| answer.status == Status::Found)
            .find_map(|(_, answer)| chain.open(j, answer.body.as_ref()?).ok());
        let Some(part) = part else {
            // found at the replica that was not asked first: ask again soon. Not there: try another place
            let elsewhere = each(answers).any(|(_, answer)| answer.status == Status::Found);
            let absent = each(answers).any(|(_, answer)| answer.status == Status::Empty);
            if absent && !elsewhere && j == 0 {
                fetch.turn();
            } else if elsewhere {
                fetch.clock.ring(now);
            }
            return Ok(());
        };
        if j == 0 {
            match card::boxes_of(&part) {
                Ok(boxes) => fetch.boxes = Some(boxes),
                Err(_) => {
                    fetch.turn();
                    return Ok(());
                }
            }
        }
        fetch.parts.insert(j, part);
        if fetch.boxes != Some(fetch.parts.len() as u64) {
            return Ok(());
        }
        let parts: Vec<Vec<u8>> = fetch.parts.values().cloned().collect();
        let contact = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?;
        match card::read(&contact.inbox, place, &parts) {
            Ok(card) => self.found_conversation(&contact, &card, now, consensus, rng),
            Err(_) => {
                if let Some(fetch) = self.memory.cards.get_mut(&contact.row) {
                    fetch.turn();
                }
                Ok(())
            }
        }
    }

    /// Creates the group, keeps its Welcome and the letter, and gives it the messages that waited: one transaction.
    fn found_conversation(
        &mut self,
        contact: &Contact,
        card: &Card,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(generation) = consensus.current_generation().map(|generation| generation.number) else {
            return Ok(());
        };
        let (db, vault, inbox) = (&self.profile.db, &self.profile.vault, &self.profile.inbox);
        let writer = WriteKey::generate(rng);
        let transaction = db.unchecked_transaction()?;
        let founded = conversations_mls::found(
            &provider(&self.profile, &self.crypto, &transaction),
            inbox,
            &writer,
            &contact.inbox,
            &card.key_package,
            generation,
            rng,
        );
        let (begun, welcome) = match founded {
            Ok(founded) => founded,
            Err(GroupError::Refused(why)) => {
                drop(transaction);
                if let Some(fetch) = self.memory.cards.get_mut(&contact.row) {
                    fetch.turn();
                }
                self.warn("bad_card", format!("the card of {} cannot be used: {why}", contact.label()));
                return Ok(());
            }
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let conversation = conversations::insert(&transaction, vault, contact.row, &begun, &writer, false, now)?;
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let manifest = Manifest::of(&welcome, *secret);
        let blob = blobs_store::insert_out(&transaction, vault, &manifest, &welcome)?;
        blobs_store::activate(&transaction, blob, generation, now)?;
        let body = seal_letter(&card.pointer, &Pointer::new(generation, manifest), rng)
            .ok_or_else(|| MailError::Mls("the letter cannot be sealed".to_owned()))?;
        let letter = letter_of(contact.row, Some(blob), generation, body);
        let letter_row = stored::insert_letter(&transaction, conversation.row, &letter)?;
        stored::adopt(&transaction, contact.row, conversation.row)?;
        contacts::set_wanted(&transaction, contact.row, None)?;
        transaction.commit()?;

        let theirs = chains::current(&self.profile.db, &self.profile.vault, conversation.row, false)?;
        follow(&mut self.memory, theirs, &conversation);
        self.memory.letters.insert(letter_row, letter);
        self.memory.cards.remove(&contact.row);
        self.memory.unsealed = true;
        self.adopt_blobs()?;
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info));
        Ok(())
    }

    /// Searches on for the letter's nonce, a bounded number of hashes a tick; the want follows when it is found.
    pub(super) fn want_letter(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let Some(letter) = self.memory.letters.get_mut(&row) else { return Ok(None) };
        let to = contacts::by_row(&self.profile.db, &self.profile.vault, letter.contact)?.inbox;
        let id = inbox_id(&to, letter.generation);
        let epoch = consensus.schedule().epoch_at(now);
        let bits = letter.bits.max(consensus.parameters.append_bits);
        if letter.work.as_ref().is_none_or(|work| work.epoch != epoch || work.bits != bits) {
            let mut nonce = [0; 64];
            rng.fill_bytes(&mut nonce);
            letter.work = Some(Work { epoch, bits, nonce, found: false });
        }
        let Some(work) = letter.work.as_mut() else { return Ok(None) };
        for _ in 0..HASHES_PER_TICK {
            if work.found {
                break;
            }
            work.found = append_work(&id, letter.generation, epoch, &letter.body, bits, &work.nonce);
            if !work.found {
                count_up(&mut work.nonce);
            }
        }
        if !work.found {
            return Ok(None);
        }
        let operation = Operation::Append { id, nonce: work.nonce, body: letter.body.clone() };
        let generation = letter.generation;
        let purpose = Purpose::Append { letter: row };
        let want = self.launch(Rank::Send, generation, operation, purpose, None, now, consensus, rng);
        if let Some(letter) = self.memory.letters.get_mut(&row) {
            if want.is_some() {
                letter.attempt.out = true;
            } else {
                postpone(&mut letter.attempt, now, consensus, rng);
            }
        }
        Ok(want)
    }

    pub(super) fn letter_appended(
        &mut self,
        row: i64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(letter) = self.memory.letters.get_mut(&row) else { return Ok(()) };
        let (stored, _) = outcome(flight, answers, letter.stored);
        let asked = each(answers)
            .filter(|(_, answer)| answer.status == Status::Refused)
            .filter_map(|(_, answer)| u8::try_from(answer.number).ok())
            .max()
            .unwrap_or(0);
        let closed = asked > APPEND_BITS_MAX;
        if !closed {
            letter.bits = letter.bits.max(asked);
        }
        if stored != letter.stored {
            letter.stored = stored;
            let at = (stored == STORED_BOTH).then_some(now);
            stored::set_letter_stored(&self.profile.db, row, stored, at)?;
        }
        if stored == STORED_BOTH {
            self.memory.letters.remove(&row);
        } else {
            postpone(&mut letter.attempt, now, consensus, rng);
            if stored != 0 {
                // its owner can read it; every further try may leave a second copy where the first one is
                let rare = Duration::from_millis(consensus.parameters.retention_ms / 16);
                letter.attempt.due = now.plus(exponential(rare, rng));
            }
            if closed {
                let contact = contacts::by_row(&self.profile.db, &self.profile.vault, letter.contact)?.label();
                self.warn("inbox_closed", format!("the inbox of {contact} takes no letters now; it is tried again"));
            }
        }
        Ok(())
    }

    /// Joins the conversation of a Welcome that arrived whole. A Welcome that breaks a rule is dropped without a word:
    /// anybody may write one.
    pub(super) fn join_conversation(&mut self, blob: &BlobIn, welcome: &[u8], now: UnixMillis) -> Result<(), MailError> {
        let (db, vault, inbox) = (&self.profile.db, &self.profile.vault, &self.profile.inbox);
        let transaction = db.unchecked_transaction()?;
        let joined =
            conversations_mls::join(&provider(&self.profile, &self.crypto, &transaction), &inbox.public(), welcome);
        let begun = match joined {
            Ok(begun) => Some(begun),
            Err(GroupError::Refused(_)) => None,
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let admitted = match begun {
            Some(begun) if begun.generation == blob.incoming.generation => {
                let writer = conversations_mls::own_writer(
                    &provider(&self.profile, &self.crypto, &transaction),
                    &begun.group_id,
                )?;
                let known = contacts::by_inbox(&transaction, vault, &begun.peer.inbox)?;
                let writer = self.card_writer(&transaction, &writer)?;
                match (writer, known) {
                    (None, _) => None,
                    (_, Some(contact)) if contact.blocked => None,
                    (_, None) if conversations::requests(&transaction)? >= REQUESTS_MAX => None,
                    (Some(writer), known) => Some((begun, writer, known)),
                }
            }
            _ => None,
        };
        let Some((begun, writer, known)) = admitted else {
            // what joining wrote is undone with the transaction
            drop(transaction);
            blobs_store::delete_in(&self.profile.db, blob.incoming.row)?;
            return Ok(());
        };
        let contact = match known {
            Some(contact) => contact,
            None => contacts::insert(&transaction, vault, &begun.peer.inbox, false)?,
        };
        let request = !contact.known;
        let conversation = conversations::insert(&transaction, vault, contact.row, &begun, &writer, request, now)?;
        stored::adopt(&transaction, contact.row, conversation.row)?;
        contacts::set_wanted(&transaction, contact.row, None)?;
        blobs_store::delete_in(&transaction, blob.incoming.row)?;
        transaction.commit()?;

        let theirs = chains::current(&self.profile.db, &self.profile.vault, conversation.row, false)?;
        follow(&mut self.memory, theirs, &conversation);
        self.memory.cards.remove(&contact.row);
        self.memory.unsealed = true;
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info));
        Ok(())
    }

    /// The write key of the own card whose leaf carries this public half.
    fn card_writer(
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
            let found: Option<(i64, Vec<u8>, i64)> = db
                .prepare_cached("SELECT card, package, chain FROM card WHERE period < ?1 LIMIT 1")?
                .query_row([oldest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let Some((card, package, chain)) = found else { return Ok(()) };
            let reference = self
                .profile
                .vault
                .open(PACKAGE, &package)
                .map_err(|_| MailError::Damaged("a card does not open"))?;
            let transaction = db.unchecked_transaction()?;
            conversations_mls::forget_key_package(&provider(&self.profile, &self.crypto, &transaction), &reference)?;
            transaction.execute("DELETE FROM card WHERE card = ?1", [card])?;
            transaction.execute("DELETE FROM box_out WHERE chain = ?1", [chain])?;
            transaction.execute("DELETE FROM chain WHERE chain = ?1", [chain])?;
            transaction.commit()?;
            self.memory.boxes.retain(|_, pending| pending.chain != chain);
        }
    }

    /// A contact as the user sees it.
    pub(super) fn contact_info(&self, contact: i64) -> Result<ContactInfo, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let contact = contacts::by_row(db, vault, contact)?;
        let conversations = conversations::of_contact(db, vault, contact.row)?;
        Ok(ContactInfo {
            name: contact.label(),
            address: contact.address(),
            conversation: conversations.first().map(|conversation| conversation.id),
            request: conversations.iter().any(|conversation| conversation.request),
            blocked: contact.blocked,
        })
    }
}

/// The next nonce: the first eight bytes count.
fn count_up(nonce: &mut [u8; 64]) {
    if let Some(counter) = nonce.first_chunk_mut::<8>() {
        *counter = u64::from_le_bytes(*counter).wrapping_add(1).to_le_bytes();
    }
}
