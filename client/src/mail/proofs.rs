//! Who is owed the certificate of a document held here, and how it gets there. What is owed is on disk in the transaction
//! that makes it owed, and stays there until both replicas have all of it: also when this client has stopped, and starts
//! again. These are the last words of a client that stopped, and they stop the other side.

use super::sending::Sealed;
use super::{Mail, MailError};
use crate::chains::{self, Place};
use crate::conversations;
use crate::conversations::Conversation;
use crate::marks::Marks;
use crate::marks_heard::{self, Heard, Proved};
use crate::members::{self, MemberRow};
use crate::proofs_owed::{self, Owed};
use crate::records::{Content, PROOF_PART_SIZE, PROOF_PARTS_MAX};
use crate::want::Want;
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::{Consensus, Mark};
use std::time::Duration;

/// Documents behind the newest whose certificate is given to a contact that names one beside which no chain holds them: those
/// in use. That this client runs now is seen from its answering at all; of an older height a certificate would say that it
/// ran then.
const PROVED_BEHIND: u64 = 3;

impl Mail {
    fn retention(&self) -> Duration {
        self.profile.network().parameters.retention()
    }

    /// What a contact is owed that names a document which no chain holds beside one held here. Once a retention, whatever
    /// the contact says: which of the authorities signed the certificate of a document differs from gateway to gateway, so
    /// many certificates would tell which one this client uses.
    pub(super) fn owed_for_difference(
        &self,
        marks: &Marks,
        conversation: i64,
        heard: &Heard,
        now: UnixMillis,
    ) -> Option<Owed> {
        let differs = heard.differs?;
        let newest = marks.newest()?.height;
        let recent = |height: u64| height.saturating_add(PROVED_BEHIND) >= newest;
        let held = marks.against(&differs.mark).find(|held| recent(held.mark.height))?;
        let rested = heard.proved.is_none_or(|proved| proved.at.plus(self.retention()) <= now);
        let known = self.memory.owed.get(&conversation).is_some_and(|owed| owed.height == held.mark.height);
        (rested && !known).then(|| Owed::new(held.mark.height, now))
    }

    /// What a contact is owed that has proved the contradiction by another certificate than this one.
    pub(super) fn owed_for_proof(
        &self,
        conversation: i64,
        held: &Mark,
        heard: &Heard,
        now: UnixMillis,
    ) -> Option<Owed> {
        let sealed = heard.proved.is_some_and(|proved| proved.height == held.height);
        let known = self.memory.owed.get(&conversation).is_some_and(|owed| owed.height == held.height);
        (!sealed && !known).then(|| Owed::new(held.height, now))
    }

    /// Seals a certificate that is owed; `false`: none was, or it cannot be given any more.
    pub(super) fn prove(&mut self, now: UnixMillis, rng: &mut impl CryptoRng) -> Result<bool, MailError> {
        let unsealed = self.memory.owed.iter().find(|(_, owed)| owed.sealed.is_none());
        let Some((row, owed)) = unsealed.map(|(row, owed)| (*row, *owed)) else { return Ok(false) };
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some((conversation, certificate)) = self.provable(row, owed.height)? else {
            proofs_owed::forget(db, row)?;
            self.memory.owed.remove(&row);
            return Ok(false);
        };
        let Ok(parts @ 1..=PROOF_PARTS_MAX) = u8::try_from(certificate.len().div_ceil(PROOF_PART_SIZE)) else {
            // nothing that was verified is longer
            return Err(MailError::Damaged("a certificate is too long"));
        };
        let mut sealed: Vec<Sealed> = Vec::with_capacity(parts.into());
        let transaction = db.unchecked_transaction()?;
        for (number, part) in (0..parts).zip(certificate.chunks(PROOF_PART_SIZE)) {
            let own = chains::writing(&transaction, vault, row)?;
            let content = Content::Proof { number, parts, part: part.to_vec() };
            sealed.push(self.seal_record(&transaction, &conversation, &own, content, None, rng)?);
        }
        let end = chains::writing(&transaction, vault, row)?;
        let owed = Owed { sealed: Some(Place { epoch: end.epoch, boxes: end.next }), ..owed };
        proofs_owed::set(&transaction, vault, row, &owed)?;
        let mut proved = Vec::new();
        for MemberRow { contact, .. } in members::current(&transaction, row)? {
            let mut heard = self.memory.heard.get(&contact).copied().unwrap_or_default();
            heard.proved = Some(Proved { height: owed.height, at: now });
            marks_heard::set_heard(&transaction, vault, contact, &heard)?;
            proved.push((contact, heard));
        }
        transaction.commit()?;
        self.memory.heard.extend(proved);
        self.memory.owed.insert(row, owed);
        for sealed in &sealed {
            self.sealed(sealed);
        }
        Ok(true)
    }

    /// The conversation and the certificate of the document of a height, if it may still be given.
    fn provable(&self, conversation: i64, height: u64) -> Result<Option<(Conversation, Vec<u8>)>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        if conversation.request || self.silent(&conversation)? {
            return Ok(None);
        }
        let certificate = self.memory.marks.certificate(db, vault, height)?;
        Ok(certificate.map(|certificate| (conversation, certificate)))
    }

    /// Forgets what both replicas have, and what is over.
    pub(super) fn forget_owed(&mut self, now: UnixMillis) -> Result<(), MailError> {
        let (db, retention) = (&self.profile.db, self.retention());
        let mut gone = Vec::new();
        for (row, owed) in &self.memory.owed {
            let stored = match owed.sealed {
                Some(end) => chains::unstored_up_to(db, *row, end)?.is_empty(),
                None => false,
            };
            if stored || owed.is_over(now, retention) {
                proofs_owed::forget(db, *row)?;
                gone.push(*row);
            }
        }
        for row in gone {
            self.memory.owed.remove(&row);
        }
        Ok(())
    }

    /// Whether a client that has stopped has still something to say.
    #[must_use]
    pub fn owes_last_words(&self) -> bool {
        self.network_forked && self.rolled_back.is_none() && !self.memory.owed.is_empty()
    }

    /// What a client that has stopped still says: the certificate that stops whoever stopped it. What was sealed before
    /// it in the same chain goes along, for nobody could read on to it otherwise.
    pub(super) fn last_words(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        self.give_up_flights(now, consensus, rng)?;
        self.forget_owed(now)?;
        if !self.owes_last_words() {
            return Ok(None);
        }
        // each turn seals one or forgets one
        while self.memory.owed.values().any(|owed| owed.sealed.is_none()) {
            if self.prove(now, rng)? {
                break;
            }
        }
        if self.memory.flights.len() >= super::flight::WINDOW {
            return Ok(None);
        }
        let mut last = Vec::new();
        for (row, owed) in &self.memory.owed {
            if let Some(end) = owed.sealed {
                last.extend(chains::unstored_up_to(&self.profile.db, *row, end)?);
            }
        }
        // what one replica has can be found: the second copy comes after all that nobody has
        last.sort_by_key(|(row, held)| (*held, *row));
        let ready = |row: &i64| self.memory.boxes.get(row).is_some_and(|pending| pending.attempt.ready(now));
        match last.iter().find(|(row, _)| ready(row)) {
            Some((row, _)) => self.want_box(*row, now, consensus, rng),
            None => Ok(None),
        }
    }
}
