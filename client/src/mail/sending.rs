//! Own messages on their way: sealing into boxes, answers to writes, states, receipts.
//!
//! One transaction holds the sealed body, the chain's counter and the MLS ratchet that sealed it, before the body is
//! first sent; every retry sends the same body.

use super::flight::{BlobOut, Flight, PendingBox};
use super::{Mail, MailError, MessageState, ROLLED_BACK, provider, stored};
use crate::blobs_store::StoredPart;
use crate::chains::{self, Chain, STORED_BOTH, Side};
use crate::conversations::Conversation;
use crate::polls::PollClock;
use crate::records::{Content, Record, Seen};
use crate::want::Rank;
use crate::{blobs_store, contacts, conversations, conversations_mls};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::boxes;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use shoal_protocol::{StoreIndex, UnixMillis};

/// Boxes of one chain that no replica has yet before the next message is sealed. Sealing late lets a receipt
/// ride on a message and keeps the group's ratchet short; 16 are twice what a window of 64 needs with 8 busy chains.
const PIPELINE: usize = 16;
/// Receipts are sealed only while fewer boxes of the chain wait: a later one says the same.
const RECEIPT_PIPELINE: usize = 4;

impl Mail {
    /// At most one piece of work that writes to the disk: the own card, a message, or a receipt is sealed.
    pub(super) fn prepare(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        if self.rolled_back.is_some() || self.publish_card(now, consensus, rng)? {
            return Ok(());
        }
        if self.memory.unsealed {
            let waiting = stored::unsealed(&self.profile.db)?;
            self.memory.unsealed = !waiting.is_empty();
            for (message, conversation) in waiting {
                if self.seal_message(message, conversation, now, rng)? {
                    return Ok(());
                }
            }
        }
        let owing: Vec<i64> = self
            .memory
            .readers
            .values()
            .filter(|reader| reader.chain.owing && !reader.request)
            .map(|reader| reader.conversation)
            .collect();
        for conversation in owing {
            if self.seal_receipt(conversation, rng)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn waiting_boxes(&self, chain: i64) -> usize {
        self.memory.boxes.values().filter(|pending| pending.chain == chain && !pending.held).count()
    }

    fn seal_message(
        &mut self,
        row: i64,
        conversation: i64,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let own = chains::current(db, vault, conversation, true)?;
        if self.waiting_boxes(own.row) >= PIPELINE {
            return Ok(false);
        }
        let conversation = conversations::by_row(db, vault, conversation)?;
        if conversation.request || contacts::by_row(db, vault, conversation.contact)?.blocked {
            return Ok(false);
        }
        let message = stored::out_by_row(db, vault, row)?;
        let transaction = db.unchecked_transaction()?;
        let sealed = self.seal_record(&transaction, &conversation, &own, message.content, Some(row), rng)?;
        stored::set_sealed(&transaction, row)?;
        if let Some(blob) = message.blob {
            blobs_store::activate(&transaction, blob, own.generation, now)?;
        }
        conversations::touch(&transaction, conversation.row, now)?;
        transaction.commit()?;
        self.sealed(&sealed);
        self.wake(conversation.row, now);
        if message.blob.is_some() {
            self.adopt_blobs()?;
        }
        Ok(true)
    }

    fn seal_receipt(&mut self, conversation: i64, rng: &mut impl CryptoRng) -> Result<bool, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let own = chains::current(db, vault, conversation, true)?;
        if self.waiting_boxes(own.row) >= RECEIPT_PIPELINE {
            return Ok(false);
        }
        let conversation = conversations::by_row(db, vault, conversation)?;
        let transaction = db.unchecked_transaction()?;
        let sealed = self.seal_record(&transaction, &conversation, &own, Content::Receipt, None, rng)?;
        transaction.commit()?;
        self.sealed(&sealed);
        Ok(true)
    }

    /// Seals one record into the next box of the own chain, with the newest word on what was shown of the peer's.
    fn seal_record(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        own: &Chain,
        content: Content,
        message: Option<i64>,
        rng: &mut impl CryptoRng,
    ) -> Result<Sealed, MailError> {
        let vault = &self.profile.vault;
        let theirs = chains::current(transaction, vault, conversation.row, false)?;
        let record = Record { seen: Seen { epoch: theirs.epoch, boxes: theirs.shown }, content };
        let provider = provider(&self.profile, &self.crypto, transaction);
        let plaintext = zeroize::Zeroizing::new(record.to_bytes());
        let ciphertext = conversations_mls::seal(&provider, &conversation.id.0, &plaintext)?;
        let id = own.id(own.next, &self.profile.inbox);
        let body = boxes::seal(&own.secret, own.next, &id, &ciphertext, rng)
            .map_err(|_| MailError::Mls("a record does not fit into its box".to_owned()))?;
        let row = chains::push_box(transaction, own, &body, message)?;
        chains::set_told(transaction, theirs.row, theirs.shown)?;
        Ok(Sealed { row, chain: own.row, told: theirs.row })
    }

    /// After the commit: memory follows.
    fn sealed(&mut self, sealed: &Sealed) {
        self.memory.boxes.insert(sealed.row, PendingBox::new(sealed.chain, false));
        if let Some(reader) = self.memory.readers.get_mut(&sealed.told) {
            reader.chain.owing = false;
        }
    }

    /// A conversation became active: its peer's chain is polled at the hot pace again.
    pub(super) fn wake(&mut self, conversation: i64, now: UnixMillis) {
        for reader in self.memory.readers.values_mut().filter(|reader| reader.conversation == conversation) {
            reader.active_at = reader.active_at.max(now);
            // drawn anew at the pace of the new class; the exponential law has no memory, so this adds no pattern
            reader.clock = PollClock::default();
        }
    }

    /// Takes blobs that became active into memory.
    pub(super) fn adopt_blobs(&mut self) -> Result<(), MailError> {
        for outgoing in blobs_store::unstored_out(&self.profile.db, &self.profile.vault)? {
            self.memory.blobs_out.entry(outgoing.row).or_insert_with(|| BlobOut::new(&outgoing));
        }
        Ok(())
    }

    pub(super) fn box_written(
        &mut self,
        row: i64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(out) = chains::out_box(&self.profile.db, row)? else { return Ok(()) };
        let (stored, taken) = outcome(flight, answers, out.stored);
        if stored != out.stored {
            chains::set_stored(&self.profile.db, row, stored, now)?;
        }
        if stored == STORED_BOTH {
            self.memory.boxes.remove(&row);
            return out.message.map_or(Ok(()), |message| self.check_stored(message));
        }
        if let Some(pending) = self.memory.boxes.get_mut(&row) {
            pending.contested |= taken;
            pending.held = stored != 0;
            pending.later(now, &consensus.parameters, rng);
        }
        Ok(())
    }

    /// A message whose box and blob both replicas have is stored.
    pub(super) fn check_stored(&mut self, message: i64) -> Result<(), MailError> {
        let db = &self.profile.db;
        let found = stored::out_by_row(db, &self.profile.vault, message)?;
        let blob_stored = found.blob.map_or(Ok(true), |blob| blobs_store::is_stored(db, blob))?;
        if blob_stored && chains::message_stored(db, message)? {
            self.raise(message, MessageState::Stored)?;
        }
        Ok(())
    }

    /// What lies where a replica said that an own box is taken?
    pub(super) fn contest_answered(
        &mut self,
        row: i64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(out) = chains::out_box(&self.profile.db, row)? else { return Ok(()) };
        let chain = chains::by_row(&self.profile.db, &self.profile.vault, out.chain)?;
        let id = chain.id(out.j, &self.profile.inbox);
        let mut stored = out.stored;
        let mut other = false;
        for (store, answer) in each(answers) {
            let Some(body) = answer.body.as_ref().filter(|_| answer.status == Status::Found) else { continue };
            if *body == out.body {
                stored |= bit(flight.placement, store);
            } else {
                // only whoever knows the chain secret makes a body that opens: a lying replica cannot
                other |= boxes::open(&chain.secret, out.j, &id, body).is_ok();
            }
        }
        if other {
            return self.taken_by_another(row, &chain);
        }
        if stored != out.stored {
            chains::set_stored(&self.profile.db, row, stored, now)?;
        }
        if stored == STORED_BOTH {
            self.memory.boxes.remove(&row);
            return out.message.map_or(Ok(()), |message| self.check_stored(message));
        }
        if let Some(pending) = self.memory.boxes.get_mut(&row) {
            pending.contested = false;
            pending.held = stored != 0;
            pending.later(now, &consensus.parameters, rng);
        }
        Ok(())
    }

    /// An own next box holds another body that opens: an older copy of this profile came back, or a copy lives beside
    /// it. Nothing may be sent from this state again.
    fn taken_by_another(&mut self, row: i64, chain: &Chain) -> Result<(), MailError> {
        match (&chain.side, chain.conversation) {
            (Side::Own(_), Some(conversation)) => {
                let id = conversations::by_row(&self.profile.db, &self.profile.vault, conversation)?.id;
                self.profile.set_setting(ROLLED_BACK, &id.0)?;
                self.rolled_back = Some(id);
                self.warn(
                    "rolled_back",
                    "this profile is an older copy of one that went on elsewhere; nothing is sent from it any more",
                );
            }
            _ => {
                // a card's chain secret is known to all who know the address, so this proves nothing: leave the box
                chains::delete_box(&self.profile.db, row)?;
                self.memory.boxes.remove(&row);
                self.warn("card_taken", "another card was published for this address; a copy of this profile may exist");
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the flight, the answer and the surroundings")]
    pub(super) fn part_written(
        &mut self,
        row: i64,
        j: u64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(blob) = self.memory.blobs_out.get_mut(&row) else { return Ok(()) };
        let Some(StoredPart { stored: before, .. }) = blobs_store::part_out(&self.profile.db, &self.profile.vault, row, j)? else {
            return Ok(());
        };
        let (stored, _) = outcome(flight, answers, before);
        if stored == STORED_BOTH {
            blob.queue.done(j);
        } else {
            if stored != 0 {
                blob.queue.hold(j);
            }
            // as with boxes: the second copy is not urgent
            let slowest = if stored == 0 { Rank::Warm } else { Rank::Idle };
            blob.queue.later(j, slowest, now, &consensus.parameters, rng);
        }
        let last = blob.queue.open() == 0;
        if stored != before {
            let transaction = self.profile.db.unchecked_transaction()?;
            let whole = blobs_store::set_part_stored(&transaction, row, j, stored, last, now)?;
            transaction.commit()?;
            if whole {
                self.memory.blobs_out.remove(&row);
                if let Some(message) = stored::message_of_blob(&self.profile.db, row)? {
                    self.check_stored(message)?;
                }
            }
        }
        Ok(())
    }

    /// The peer has shown all boxes of our chain before `seen.boxes`: their messages are delivered, what was kept for
    /// rewriting is forgotten. Returns the delivered messages, to be announced after the commit.
    pub(super) fn confirm(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        seen: Seen,
    ) -> Result<Confirmed, MailError> {
        let mut confirmed = Confirmed::default();
        let Some(own) =
            chains::own_of_epoch(transaction, &self.profile.vault, conversation.row, seen.epoch)?
        else {
            return Ok(confirmed);
        };
        // a peer that claims more than was written confirms what was written
        for (row, message) in chains::confirmed(transaction, own.row, seen.boxes.min(own.next))? {
            chains::delete_box(transaction, row)?;
            confirmed.boxes.push(row);
            if let Some(message) = message {
                let found = stored::out_by_row(transaction, &self.profile.vault, message)?;
                if stored::raise(transaction, message, MessageState::Delivered)? {
                    confirmed.messages.push(found.id);
                }
                if let Some(blob) = found.blob {
                    stored::drop_blob(transaction, message)?;
                    blobs_store::delete_out(transaction, blob)?;
                    confirmed.blobs.push(blob);
                }
            }
        }
        // whoever answers has joined: the invitation is done with
        for (letter, blob) in stored::letters_of(transaction, conversation.row)? {
            stored::delete_letter(transaction, letter)?;
            confirmed.letters.push(letter);
            if let Some(blob) = blob {
                blobs_store::delete_out(transaction, blob)?;
                confirmed.blobs.push(blob);
            }
        }
        Ok(confirmed)
    }

    /// After the commit: memory follows, listeners hear.
    pub(super) fn confirmed(&mut self, confirmed: Confirmed) {
        for row in confirmed.boxes {
            self.memory.boxes.remove(&row);
        }
        for blob in confirmed.blobs {
            self.memory.blobs_out.remove(&blob);
        }
        for letter in confirmed.letters {
            self.memory.letters.remove(&letter);
        }
        for id in confirmed.messages {
            self.emit(super::Event::State { id, state: MessageState::Delivered });
        }
    }
}

/// What [`Mail::seal_record`] made.
struct Sealed {
    row: i64,
    chain: i64,
    told: i64,
}

/// What a peer's word on our chain settled.
#[derive(Default)]
pub(super) struct Confirmed {
    messages: Vec<super::MessageId>,
    boxes: Vec<i64>,
    blobs: Vec<i64>,
    letters: Vec<i64>,
}

/// Each answer with the store that gave it.
pub(super) fn each(
    answers: Option<&Answers>,
) -> impl Iterator<Item = (StoreIndex, &shoal_protocol::request::Answer)> {
    answers.into_iter().flat_map(|answers| {
        answers.replicas.iter().zip(&answers.by_replica).filter_map(|(store, answer)| Some((*store, answer.as_ref()?)))
    })
}

/// The bit of a store in `stored`.
pub(super) fn bit(placement: [StoreIndex; 2], store: StoreIndex) -> u8 {
    placement.iter().position(|replica| *replica == store).map_or(0, |position| 1 << position)
}

/// Which replicas have what was written, and whether one says that another body was first.
pub(super) fn outcome(flight: &Flight, answers: Option<&Answers>, before: u8) -> (u8, bool) {
    let mut stored = before;
    let mut taken = false;
    for (store, answer) in each(answers) {
        match answer.status {
            Status::Stored => stored |= bit(flight.placement, store),
            Status::Taken => taken = true,
            Status::Empty | Status::Found | Status::Full | Status::Refused | Status::Unavailable => {}
        }
    }
    (stored, taken)
}
