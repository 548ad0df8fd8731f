//! Letters to inboxes of people we do not share a conversation with: hashcash, appending.

use super::flight::{Flight, Purpose, Work};
use super::wants::postpone;
use super::writing::{each, outcome};
use super::{Mail, MailError, stored};
use crate::chains::STORED_BOTH;
use crate::contacts::{self};
use crate::want::{Rank, Want};
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::{append_work, inbox_id};
use shoal_protocol::poisson::exponential;
use shoal_protocol::request::{Answers, Operation, Status};
use std::time::Duration;

/// Hashes tried for a letter's nonce in one tick: about 1 ms, which hides in the jitter of the schedule's disk writes.
const HASHES_PER_TICK: u32 = 2_048;
/// An inbox that asks for more hashcash than this is closed to us: 2^28 hashes are some minutes of a core.
const APPEND_BITS_MAX: u8 = 28;

impl Mail {
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
}

/// The next nonce: the first eight bytes count.
fn count_up(nonce: &mut [u8; 64]) {
    if let Some(counter) = nonce.first_chunk_mut::<8>() {
        *counter = u64::from_le_bytes(*counter).wrapping_add(1).to_le_bytes();
    }
}
