//! Wants in the making: one for each kind of box that is written or read.

use super::flight::{Attempt, Flight, Purpose};
use super::{Mail, MailError, MessageState, stored};
use crate::blobs_store::{self, StoredPart};
use crate::card::CardPlace;
use crate::chains;
use crate::polls::{class, mean_gap};
use crate::want::{Rank, Ticket, Want};
use rand::{CryptoRng, RngExt as _};
use shoal_protocol::boxes::{self, BoxId};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::{card_period, inbox_id};
use shoal_protocol::request::Operation;
use shoal_protocol::{StoreIndex, UnixMillis};

impl Mail {
    /// Notes the flight and makes the want; `None` when the consensus cannot place the box now.
    #[expect(clippy::too_many_arguments, reason = "the parts of a want and of its flight")]
    pub(super) fn launch(
        &mut self,
        rank: Rank,
        generation: u32,
        operation: Operation,
        purpose: Purpose,
        order: Option<[StoreIndex; 2]>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let placement = place(consensus, generation, operation.id())?;
        let ordered = matches!(operation, Operation::PutOrdered { .. });
        let replicas = order.unwrap_or_else(|| {
            let [first, second] = placement;
            if !ordered && rng.random::<bool>() { [second, first] } else { placement }
        });
        let ticket = self.next_ticket();
        self.memory.flights.insert(ticket, Flight { purpose, placement, since: now });
        Some(Want { ticket, rank, generation, replicas, operation })
    }

    pub(super) fn want_box(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let Some(contested) = self.memory.boxes.get(&row).map(|pending| pending.contested) else { return Ok(None) };
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some(out) = chains::out_box(db, row)? else {
            self.memory.boxes.remove(&row);
            return Ok(None);
        };
        let chain = chains::by_row(db, vault, out.chain)?;
        let id = chain.id(out.j);
        let (operation, purpose) = if contested {
            (Operation::Get { id }, Purpose::Contested { row })
        } else {
            let signature = chain.sign(out.j, &out.body).ok_or(MailError::Damaged("a box of a peer's chain"))?;
            (Operation::Put { id, signature, body: out.body }, Purpose::PutBox { row })
        };
        // what lies at the replica that has not ours is the question
        let order = place(consensus, chain.generation, &id).filter(|_| contested);
        let order = order.map(|[first, second]| if out.stored & 1 == 0 { [first, second] } else { [second, first] });
        let want = self.launch(Rank::Send, chain.generation, operation, purpose, order, now, consensus, rng);
        if let Some(pending) = self.memory.boxes.get_mut(&row) {
            if want.is_some() {
                pending.attempt.out = true;
            } else {
                pending.later(now, &consensus.parameters, rng);
            }
        }
        Ok(want)
    }

    pub(super) fn want_part_out(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let Some(blob) = self.memory.blobs_out.get_mut(&row) else { return Ok(None) };
        self.memory.blob_writes += 1;
        let Some(j) = blob.queue.take(now, rng) else { return Ok(None) };
        let Some(StoredPart { part, .. }) = blobs_store::part_out(&self.profile.db, &self.profile.vault, row, j)?
        else {
            blob.queue.done(j);
            return Ok(None);
        };
        let (id, body, signature) =
            blob.keys.seal(j, &part).map_err(|_| MailError::Damaged("a part is longer than a box"))?;
        let generation = blob.generation;
        let operation = Operation::Put { id, signature, body };
        let purpose = Purpose::PutPart { blob: row, j };
        let want = self.launch(Rank::Send, generation, operation, purpose, None, now, consensus, rng);
        if want.is_none()
            && let Some(blob) = self.memory.blobs_out.get_mut(&row)
        {
            blob.queue.later(j, Rank::Warm, now, &consensus.parameters, rng);
        }
        Ok(want)
    }

    pub(super) fn want_part_in(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let blob = self.memory.blobs_in.get_mut(&row)?;
        self.memory.blob_reads += 1;
        blob.served = self.memory.blob_reads;
        let j = blob.queue.take(now, rng)?;
        let (id, generation) = (blob.keys.id(j), blob.incoming.generation);
        let purpose = Purpose::GetPart { blob: row, j };
        let want = self.launch(Rank::BlobRead, generation, Operation::Get { id }, purpose, None, now, consensus, rng);
        if want.is_none()
            && let Some(blob) = self.memory.blobs_in.get_mut(&row)
        {
            blob.queue.later(j, Rank::Warm, now, &consensus.parameters, rng);
        }
        want
    }

    pub(super) fn want_poll(
        &mut self,
        chain: i64,
        rank: Rank,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let reader = self.memory.readers.get_mut(&chain)?;
        reader.clock.wind(mean_gap(rank, &consensus.parameters), now, rng);
        let j = reader.next()?;
        let (id, generation) = (reader.chain.id(j), reader.chain.generation);
        let order = reader.first.take().and_then(|first| {
            let placement = place(consensus, generation, &id)?;
            if placement[1] == first { Some([placement[1], placement[0]]) } else { Some(placement) }
        });
        let purpose = Purpose::GetBox { chain, j };
        let want = self.launch(rank, generation, Operation::Get { id }, purpose, order, now, consensus, rng)?;
        if let Some(reader) = self.memory.readers.get_mut(&chain) {
            reader.asked(j);
        }
        Some(want)
    }

    pub(super) fn want_inbox(
        &mut self,
        (own_key, generation): (i64, u32),
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let gap = self.inbox_gap(consensus);
        if let Some(clock) = self.memory.inboxes.get_mut(&(own_key, generation)) {
            clock.wind(gap, now, rng);
        }
        let Some(inbox) = self.profile.own.by_row(own_key) else { return Ok(None) };
        let id = inbox_id(&inbox.public(), generation);
        let Some([first, second]) = place(consensus, generation, &id) else { return Ok(None) };
        let order = if rng.random::<bool>() { [second, first] } else { [first, second] };
        // each replica has its own numbering: the question is for the one that is asked first
        let after = self.inbox_cursor((own_key, generation), order[0])?;
        let epoch = consensus.schedule().epoch_at(now);
        let signature = inbox.sign_read(generation, after, epoch);
        let operation = Operation::Read { id, signature, after, epoch };
        let purpose = Purpose::ReadInbox { own_key, generation, after };
        Ok(self.launch(Rank::Inbox, generation, operation, purpose, Some(order), now, consensus, rng))
    }

    pub(super) fn want_card(
        &mut self,
        contact: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let places = card_places(now, consensus);
        let inbox = crate::contacts::by_row(&self.profile.db, &self.profile.vault, contact).ok()?.inbox;
        let fetch = self.memory.cards.get_mut(&contact)?;
        let pace = mean_gap(class(fetch.wanted_at, now, &consensus.parameters), &consensus.parameters);
        fetch.clock.wind(pace, now, rng);
        if fetch.trying.is_none() {
            fetch.trying = match &fetch.invite {
                Some(only) => Some(only.clone()),
                None => {
                    let place = *places.get(fetch.tried % places.len().max(1))?;
                    Some((place, crate::card::CardChain::new(inbox, place)))
                }
            };
        }
        let j = fetch.next()?;
        let (place, chain) = fetch.trying.as_ref()?;
        let (place, id) = (*place, chain.id(j));
        fetch.out.insert(j);
        let purpose = Purpose::GetCard { contact, place, j };
        let want =
            self.launch(Rank::BlobRead, place.generation, Operation::Get { id }, purpose, None, now, consensus, rng);
        if want.is_none()
            && let Some(fetch) = self.memory.cards.get_mut(&contact)
        {
            fetch.turn();
        }
        want
    }

    /// The packet that carries a want went onto the link: if it was a message's box, the message is sent. Tickets that
    /// are not out are ignored.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn departed(&mut self, ticket: Ticket) -> Result<(), MailError> {
        let Some(Flight { purpose: Purpose::PutBox { row }, .. }) = self.memory.flights.get(&ticket) else {
            return Ok(());
        };
        let message = chains::out_box(&self.profile.db, *row)?.and_then(|out| out.message);
        message.map_or(Ok(()), |message| self.raise(message, MessageState::Sent))
    }

    /// Notes that a message came further, on disk and to the listeners.
    pub(super) fn raise(&mut self, message: i64, state: MessageState) -> Result<(), MailError> {
        if stored::raise(&self.profile.db, message, state)? {
            let id = stored::out_by_row(&self.profile.db, &self.profile.vault, message)?.id;
            self.emit(super::Event::State { id, state });
        }
        Ok(())
    }
}

/// The two replicas of a box in the order of placement.
pub(super) fn place(consensus: &Consensus, generation: u32, id: &BoxId) -> Option<[StoreIndex; 2]> {
    boxes::placement(consensus.generation(generation)?, id)
}

/// Where a card may lie: the newest generation first, the current period before the previous.
fn card_places(now: UnixMillis, consensus: &Consensus) -> Vec<CardPlace> {
    let period = card_period(now, &consensus.parameters);
    let newest = consensus.generations.iter().rev().take(2);
    newest
        .flat_map(|generation| {
            [period, period.saturating_sub(1)].map(|period| CardPlace { generation: generation.number, period })
        })
        .collect()
}

/// Tries again later.
pub(super) fn postpone(attempt: &mut Attempt, now: UnixMillis, consensus: &Consensus, rng: &mut impl CryptoRng) {
    attempt.later(Rank::Warm, now, &consensus.parameters, rng);
}

/// A want was made of it and is out; or the consensus could not place it now, and it is tried again later.
pub(super) fn launched(
    want: Option<&Want>,
    attempt: &mut Attempt,
    now: UnixMillis,
    consensus: &Consensus,
    rng: &mut impl CryptoRng,
) {
    match want {
        Some(_) => attempt.out = true,
        None => postpone(attempt, now, consensus, rng),
    }
}
