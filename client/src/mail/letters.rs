//! Letters to inboxes of people we do not share a conversation with: hashcash, appending.

use super::flight::{Attempt, Flight, Purpose};
use super::wants::{launched, postpone};
use super::writing::{each, outcome};
use super::{Mail, MailError, stored};
use crate::chains::STORED_BOTH;
use crate::contacts::{self};
use crate::want::{Rank, Want};
use rand::CryptoRng;
use shoal_protocol::boxes::{BoxBody, BoxId};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::{append_work, inbox_id};
use shoal_protocol::poisson::exponential;
use shoal_protocol::request::{Answers, Operation, Status};
use shoal_protocol::{Epoch, UnixMillis};

/// Hashes tried for a letter's nonce in one step: about 10 ms of the mail thread, before a tick and after an answer. At
/// two of each a second these are 2^15 hashes a second: 8 s for the 2^18 of an empty inbox, 17 minutes for 2^25.
const HASHES_PER_STEP: u64 = 8_192;
/// An inbox that asks for more hashcash than this is closed to us: at that pace it would take two hours.
const APPEND_BITS_MAX: u8 = 28;
/// One replica alone is believed so many bits above the least: it may lie, and the other one may only be slow.
const LONE_BITS_MAX: u8 = 4;

/// A letter to a stranger's inbox and the work it takes.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) contact: i64,
    pub(super) blob: Option<i64>,
    pub(super) generation: u32,
    pub(super) body: BoxBody,
    pub(super) stored: u8,
    pub(super) attempt: Attempt,
    /// The nonce being searched, for one epoch and one price.
    pub(super) work: Option<Work>,
}

/// A search for hashcash, continued from step to step.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) inbox: BoxId,
    pub(super) epoch: Epoch,
    /// What the inbox asks for, as far as it said in this epoch.
    pub(super) bits: u8,
    pub(super) nonce: [u8; 64],
    /// Nonces tried.
    pub(super) tried: u64,
    pub(super) found: bool,
}

impl Letter {
    /// One that no replica has yet.
    pub(super) fn new(contact: i64, blob: Option<i64>, generation: u32, body: BoxBody) -> Self {
        Self { contact, blob, generation, body, stored: 0, attempt: Attempt::default(), work: None }
    }
}

impl Mail {
    /// Begins the search for the nonces that are missing. Prices of another epoch are forgotten: inboxes are emptied.
    pub(super) fn price_letters(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let epoch = consensus.schedule().epoch_at(now);
        let least = consensus.parameters.append_bits;
        for letter in self.memory.letters.values_mut() {
            if letter.work.as_ref().is_none_or(|work| work.epoch != epoch || work.bits < least) {
                let to = contacts::by_row(&self.profile.db, &self.profile.vault, letter.contact)?.inbox;
                letter.work = Some(Work::new(inbox_id(&to, letter.generation), epoch, least, rng));
            }
        }
        Ok(())
    }

    /// Searches on for the nonce of the letter that was searched for least, a bounded number of hashes. Ticks do not
    /// wait for it: a letter is wanted when its nonce is found.
    pub(super) fn work(&mut self) {
        let due = |letter: &&mut Letter| !letter.attempt.out && letter.attempt.due <= self.memory.latest;
        let searched = self.memory.letters.values_mut().filter(due).filter_map(|letter| {
            let work = letter.work.as_mut().filter(|work| !work.found)?;
            Some((letter.generation, &letter.body, work))
        });
        if let Some((generation, body, work)) = searched.min_by_key(|(_, _, work)| work.tried) {
            work.search(generation, body);
        }
    }

    /// Makes the want of a letter whose nonce is found.
    pub(super) fn want_letter(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let Some(letter) = self.memory.letters.get_mut(&row) else { return Ok(None) };
        let Some(work) = letter.work.as_ref().filter(|work| work.found) else { return Ok(None) };
        let operation = Operation::Append { id: work.inbox, nonce: work.nonce, body: letter.body.clone() };
        let generation = letter.generation;
        let purpose = Purpose::Append { letter: row };
        let want = self.launch(Rank::Send, generation, operation, purpose, None, now, consensus, rng);
        if let Some(letter) = self.memory.letters.get_mut(&row) {
            launched(want.as_ref(), &mut letter.attempt, now, consensus, rng);
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
        let asked: Vec<u8> = each(answers)
            .filter(|(_, answer)| answer.status == Status::Refused)
            .filter_map(|(_, answer)| u8::try_from(answer.number).ok())
            .collect();
        let price = match asked[..] {
            [] => 0,
            [lone] => lone.min(consensus.parameters.append_bits.saturating_add(LONE_BITS_MAX)),
            [first, second, ..] => first.min(second),
        };
        let closed = price > APPEND_BITS_MAX;
        if let Some(work) = letter.work.as_mut().filter(|work| !closed && price > work.bits) {
            *work = Work::new(work.inbox, work.epoch, price, rng);
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
                let rare = consensus.parameters.retention() / 16;
                letter.attempt.due = now.plus(exponential(rare, rng));
            }
            if closed {
                let contact = contacts::by_row(&self.profile.db, &self.profile.vault, letter.contact)?.label();
                self.warn("inbox_closed", format!("the inbox of {contact} takes no letters now; it is tried again"));
            }
        }
        Ok(())
    }
}

impl Work {
    fn new(inbox: BoxId, epoch: Epoch, bits: u8, rng: &mut impl CryptoRng) -> Self {
        let mut nonce = [0; 64];
        rng.fill_bytes(&mut nonce);
        Self { inbox, epoch, bits, nonce, tried: 0, found: false }
    }

    fn search(&mut self, generation: u32, body: &BoxBody) {
        for _ in 0..HASHES_PER_STEP {
            self.tried += 1;
            self.found = append_work(&self.inbox, generation, self.epoch, body, self.bits, &self.nonce);
            if self.found {
                return;
            }
            count_up(&mut self.nonce);
        }
    }
}

/// The next nonce: the first eight bytes count.
fn count_up(nonce: &mut [u8; 64]) {
    if let Some(counter) = nonce.first_chunk_mut::<8>() {
        *counter = u64::from_le_bytes(*counter).wrapping_add(1).to_le_bytes();
    }
}
