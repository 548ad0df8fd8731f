//! What becomes of writes: stored, taken, to be repeated; and the word of other members that all of it was shown.

use super::flight::{Flight, slowest};
use super::wants::place;
use super::{Mail, MailError, MessageState, ROLLED_BACK, stored};
use crate::blobs_store::StoredPart;
use crate::chains::{self, Chain, OutBox, Place, STORED_BOTH, Side};
use crate::conversations::Conversation;
use crate::members::{self, MemberRow};
use crate::records::Seen;
use crate::{blobs_store, conversations};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::boxes;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use shoal_protocol::{StoreIndex, UnixMillis};

impl Mail {
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
        if let Some(pending) = self.memory.boxes.get_mut(&row) {
            pending.contested |= taken;
            pending.held = stored != 0;
            pending.later(now, &consensus.parameters, rng);
        }
        self.box_stored(row, &out, stored, taken, now)?;
        if out.message.is_none() { self.claim_written(row, out.chain, stored, now, consensus, rng) } else { Ok(()) }
    }

    /// Notes which replicas have a box, and what follows: the message is stored, or was shown already.
    fn box_stored(
        &mut self,
        row: i64,
        out: &OutBox,
        stored: u8,
        taken: bool,
        now: UnixMillis,
    ) -> Result<(), MailError> {
        if stored == out.stored {
            return Ok(());
        }
        let transaction = self.profile.db.unchecked_transaction()?;
        chains::set_stored(&transaction, row, stored, now)?;
        let mut shown = Confirmed::default();
        if !taken {
            self.confirm_boxes(&transaction, out.chain, &mut shown)?;
        }
        transaction.commit()?;
        if stored == STORED_BOTH {
            self.memory.boxes.remove(&row);
            if let Some(message) = out.message {
                self.check_stored(message)?;
            }
        }
        self.confirmed(shown);
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
        let id = chain.id(out.j);
        let mut stored = out.stored;
        let (mut other, mut looked) = (false, false);
        for (store, answer) in each(answers) {
            let answered = matches!(answer.status, Status::Found | Status::Empty);
            looked |= answered && out.stored & bit(flight.placement, store) == 0;
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
        if let Some(pending) = self.memory.boxes.get_mut(&row) {
            pending.contested = !looked;
            pending.held = stored != 0;
            pending.later(now, &consensus.parameters, rng);
        }
        self.box_stored(row, &out, stored, false, now)?;
        if out.message.is_none() { self.claim_written(row, out.chain, stored, now, consensus, rng) } else { Ok(()) }
    }

    /// An own next box holds another body that opens: an older copy of this profile came back, or a copy lives beside
    /// it. Nothing may be sent from this state again.
    fn taken_by_another(&mut self, row: i64, chain: &Chain) -> Result<(), MailError> {
        match (&chain.side, chain.conversation) {
            (Side::Own(_), Some(conversation)) => {
                self.stop(conversation)?;
            }
            (Side::Offer(_), _) if !self.is_card(chain.row)? => self.claimed_by_another(row, chain.row)?,
            _ => {
                // a card's chain secret is known to all who know the address, so this proves nothing: leave the box
                chains::delete_box(&self.profile.db, row)?;
                self.memory.boxes.remove(&row);
                self.warn(
                    "card_taken",
                    "another card was published for this address; a copy of this profile may exist",
                );
            }
        }
        Ok(())
    }

    /// A conversation proves that this profile is an older copy of itself: nothing is sealed or sent any more, also after
    /// a restart.
    pub(super) fn stop(&mut self, conversation: i64) -> Result<(), MailError> {
        let id = conversations::by_row(&self.profile.db, &self.profile.vault, conversation)?.id;
        self.profile.set_setting(ROLLED_BACK, &id.0)?;
        self.rolled_back = Some(id);
        self.warn(
            "rolled_back",
            "this profile is an older copy of one that went on elsewhere; nothing is sent from it any more",
        );
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
        let Some(StoredPart { stored: before, .. }) =
            blobs_store::part_out(&self.profile.db, &self.profile.vault, row, j)?
        else {
            return Ok(());
        };
        if place(consensus, blob.generation, &blob.keys.id(j)) != Some(flight.placement) {
            // it was written where the blob is not to lie any more
            blob.queue.later(j, slowest(false), now, &consensus.parameters, rng);
            return Ok(());
        }
        let (stored, _) = outcome(flight, answers, before);
        if stored == STORED_BOTH {
            blob.queue.done(j);
        } else {
            if stored != 0 {
                blob.queue.hold(j);
            }
            blob.queue.later(j, slowest(stored != 0), now, &consensus.parameters, rng);
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

    /// A member has shown boxes of our chains: what all have is delivered, and what was kept for rewriting is forgotten. Its
    /// word to other members is none of ours. Returns the delivered messages, to be announced after the commit.
    pub(super) fn confirm(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        member: &MemberRow,
        seen: &[Seen],
    ) -> Result<Confirmed, MailError> {
        let mut confirmed = Confirmed::default();
        let own = chains::writing(transaction, &self.profile.vault, conversation.row)?.leaf;
        for seen in seen.iter().filter(|seen| seen.leaf == own && seen.epoch <= conversation.epoch) {
            let at = Place { epoch: seen.epoch, boxes: seen.boxes };
            chains::acknowledge(transaction, conversation.row, member.row, at)?;
            self.confirm_all(transaction, conversation.row, &mut confirmed)?;
        }
        if !member.heard {
            // whoever speaks has joined: the invitation is done with
            members::set_heard(transaction, member.row)?;
            self.forget_letters(transaction, conversation.row, member.contact, &mut confirmed)?;
            self.invite_answered(transaction, conversation.row, &mut confirmed)?;
        }
        Ok(confirmed)
    }

    /// Looks through all own chains of a conversation.
    pub(super) fn confirm_all(
        &self,
        transaction: &Transaction<'_>,
        conversation: i64,
        confirmed: &mut Confirmed,
    ) -> Result<(), MailError> {
        for chain in chains::own(transaction, conversation)? {
            self.confirm_boxes(transaction, chain, confirmed)?;
        }
        Ok(())
    }

    /// Letters to somebody are no longer kept up, nor is the Welcome when nobody else needs it.
    pub(super) fn forget_letters(
        &self,
        transaction: &Transaction<'_>,
        conversation: i64,
        contact: i64,
        confirmed: &mut Confirmed,
    ) -> Result<(), MailError> {
        for (letter, blob) in stored::letters_of(transaction, conversation, contact)? {
            stored::delete_letter(transaction, letter)?;
            confirmed.letters.push(letter);
            if let Some(blob) = blob.filter(|blob| !stored::pointed_to(transaction, *blob).unwrap_or(true)) {
                blobs_store::delete_out(transaction, blob)?;
                confirmed.blobs.push(blob);
            }
        }
        Ok(())
    }

    /// Boxes of an own chain that are stored and were shown to all: their messages are delivered.
    fn confirm_boxes(
        &self,
        transaction: &Transaction<'_>,
        chain: i64,
        confirmed: &mut Confirmed,
    ) -> Result<(), MailError> {
        for (row, message) in chains::confirmed(transaction, chain)? {
            chains::delete_box(transaction, row)?;
            confirmed.boxes.push(row);
            if let Some(message) = message {
                let found = stored::out_by_row(transaction, &self.profile.vault, message)?;
                let arrived = stored::arrived_all_the_same(transaction, message)?;
                if arrived || stored::raise(transaction, message, MessageState::Delivered)? {
                    confirmed.messages.push(found.id);
                }
                if let Some(blob) = found.blob {
                    stored::drop_blob(transaction, message)?;
                    blobs_store::delete_out(transaction, blob)?;
                    confirmed.blobs.push(blob);
                }
            }
        }
        Ok(())
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

/// What a word on our chains settled.
#[derive(Default)]
pub(super) struct Confirmed {
    messages: Vec<super::MessageId>,
    pub(super) boxes: Vec<i64>,
    pub(super) blobs: Vec<i64>,
    letters: Vec<i64>,
}

/// Each answer with the store that gave it.
pub(super) fn each(answers: Option<&Answers>) -> impl Iterator<Item = (StoreIndex, &shoal_protocol::request::Answer)> {
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
