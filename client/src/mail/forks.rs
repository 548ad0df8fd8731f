//! Members of a conversation tell each other which document of the consensus they hold. Where no chain holds both, one
//! of them is shown a network of its own. A word alone stops nobody: each sends the certificate of its own document, and
//! only whoever is given a certificate that the authorities had no right to make stops.

use super::sending::Sealed;
use super::{Dispute, Mail, MailError};
use crate::conversations::Conversation;
use crate::marks::{Testimony, Verdict};
use crate::marks_heard::{self, Differs, Heard, Proved};
use crate::profile::{evidence, io_error};
use crate::records::{Content, NO_MARK, PROOF_PART_SIZE, PROOF_PARTS_MAX};
use crate::want::Want;
use crate::{chains, contacts, conversations};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::UnixMillis;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{Consensus, Mark, VerifiedConsensus};
use std::time::Duration;

/// Documents behind the newest whose certificate is given to a contact that names another one of that height: those in use.
/// That this client runs now is seen from its answering at all; of an older height a certificate would say that it ran then.
const PROVED_BEHIND: u64 = 3;

/// What a part of a certificate came to.
pub(super) enum Proof {
    /// More parts are to come, or it proves nothing.
    None,
    /// It was never signed by those whose certificate it pretends to be.
    Refused,
    /// The authorities certified this document beside the one held here.
    Given(Mark),
}

/// What a record said of its writer's documents, to be told after the commit.
#[derive(Default)]
pub(super) struct Word {
    pub(super) heard: Option<Heard>,
    pub(super) proof: Option<Proof>,
}

impl Mail {
    /// A document of the consensus was taken. Call it with every one, in their order, before anything is sealed by it.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn held(&mut self, document: &VerifiedConsensus, now: UnixMillis) -> Result<(), MailError> {
        let result = self.hold(document, now);
        self.rebuilt_on_error(result)
    }

    fn hold(&mut self, document: &VerifiedConsensus, now: UnixMillis) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut marks = self.memory.marks.clone();
        let transaction = db.unchecked_transaction()?;
        marks.hold(&transaction, vault, self.profile.network(), document)?;
        let mut changed = Vec::new();
        for (contact, before) in &self.memory.heard {
            let Some(pending) = before.pending else { continue };
            let heard = before.with(pending, marks.judge(&pending), marks.newest(), now);
            if heard != *before {
                marks_heard::set_heard(&transaction, vault, *contact, &heard)?;
                changed.push((*contact, heard));
            }
        }
        transaction.commit()?;
        self.memory.marks = marks;
        for (contact, heard) in changed {
            let theirs = conversations::of_contact(&self.profile.db, &self.profile.vault, contact)?;
            if let Some(conversation) = theirs.iter().find(|theirs| !theirs.request && !theirs.broken) {
                self.heard(conversation, heard, now)?;
            }
        }
        Ok(())
    }

    /// The authorities are proven to have contradicted themselves: nothing is sent any more but what proves it to who
    /// proved it.
    #[must_use]
    pub fn network_forked(&self) -> bool {
        self.network_forked
    }

    /// Contacts who hold documents that no chain holds beside those held here.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn disputes(&self) -> Result<Vec<Dispute>, MailError> {
        let mut disputes = Vec::new();
        for (contact, heard) in &self.memory.heard {
            let Some(Differs { mark, since }) = heard.differs else { continue };
            let contact = contacts::by_row(&self.profile.db, &self.profile.vault, *contact)?;
            if !contact.blocked {
                let ours = self.memory.marks.at(mark.height).map(|held| held.mark.hash);
                disputes.push(Dispute { with: contact.label(), height: mark.height, theirs: mark.hash, ours, since });
            }
        }
        Ok(disputes)
    }

    /// The newest document held: what the next record of a conversation names. Of what is sealed in a stranger's request
    /// it would say, once that is accepted, when this client ran before.
    pub(super) fn mark(&self, conversation: &Conversation) -> Mark {
        self.memory.marks.newest().filter(|_| !conversation.request).unwrap_or(NO_MARK)
    }

    /// What a record of the other member says of its documents. A stranger's says nothing.
    pub(super) fn listen(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        mark: Mark,
        content: &Content,
        now: UnixMillis,
    ) -> Result<Word, MailError> {
        if conversation.request {
            return Ok(Word::default());
        }
        let (vault, contact) = (&self.profile.vault, conversation.contact);
        let verdict = self.memory.marks.judge(&mark);
        let before = self.memory.heard.get(&contact).copied().unwrap_or_default();
        let mut heard = before.with(mark, verdict, self.memory.marks.newest(), now);
        let mut proof = None;
        if let Content::Proof { number, parts, part } = content {
            let place = (*number, *parts);
            let whole = marks_heard::take_part(transaction, vault, conversation.row, place, part)?;
            let weighed = whole.map_or(Ok(Proof::None), |whole| self.weigh(transaction, &whole))?;
            if let (Proof::Given(other), None) = (&weighed, heard.differs) {
                heard.differs = Some(Differs { mark: *other, since: now });
            }
            proof = Some(weighed);
        }
        if heard != before {
            marks_heard::set_heard(transaction, vault, contact, &heard)?;
        }
        let says = heard != before || verdict == Verdict::Differs;
        Ok(Word { heard: says.then_some(heard), proof })
    }

    /// Judges a certificate. What it proves is on disk when this returns, before the box that brought it counts as read.
    fn weigh(&self, transaction: &Transaction<'_>, bytes: &[u8]) -> Result<Proof, MailError> {
        let Ok(other) = Certificate::decode(bytes) else { return Ok(Proof::Refused) };
        let (vault, network) = (&self.profile.vault, self.profile.network());
        match self.memory.marks.weigh(transaction, vault, network, &other)? {
            Testimony::OfNothing => Ok(Proof::None),
            Testimony::False => Ok(Proof::Refused),
            Testimony::Proof { held, certificate } => {
                let dir = self.profile.dir();
                let exhibit = evidence::Exhibit::Certificates(held.height);
                evidence::keep(dir, exhibit, (held.hash, &certificate), (other.document, bytes))
                    .map_err(io_error(&evidence::folder(dir)))?;
                Ok(Proof::Given(Mark { hash: other.document, ..held }))
            }
        }
    }

    /// After the commit: memory follows, the user hears, and whoever differs is sent our certificate.
    pub(super) fn listened(
        &mut self,
        conversation: &Conversation,
        word: Word,
        now: UnixMillis,
    ) -> Result<(), MailError> {
        if let Some(heard) = word.heard {
            self.heard(conversation, heard, now)?;
        }
        match word.proof {
            None | Some(Proof::None) => {}
            Some(Proof::Refused) => {
                let contact = contacts::by_row(&self.profile.db, &self.profile.vault, conversation.contact)?;
                self.warn(
                    "proof_refused",
                    format!(
                        "{} sent a proof of another network that no authority signed; it was dropped",
                        contact.label()
                    ),
                );
            }
            Some(Proof::Given(other)) => {
                self.network_forked = true;
                let proved = self.memory.heard.get(&conversation.contact).and_then(|heard| heard.proved);
                if proved.is_none_or(|proved| proved.height != other.height) {
                    self.memory.proofs_due.insert(conversation.row, other.height);
                }
                self.warn(
                    "conflict",
                    format!(
                        "the authorities certified two documents of height {}: you and a contact were shown different \
                         networks; both certificates are kept, and no message leaves",
                        other.height
                    ),
                );
            }
        }
        Ok(())
    }

    fn heard(&mut self, conversation: &Conversation, heard: Heard, now: UnixMillis) -> Result<(), MailError> {
        let before = self.memory.heard.insert(conversation.contact, heard);
        let differed = before.is_some_and(|before| before.differs.is_some());
        if heard == Heard::default() {
            self.memory.heard.remove(&conversation.contact);
        }
        let Some(Differs { mark, .. }) = heard.differs else {
            if differed {
                let contact = contacts::by_row(&self.profile.db, &self.profile.vault, conversation.contact)?;
                self.warn("network_agrees", format!("{} holds the same documents as you again", contact.label()));
            }
            return Ok(());
        };
        if !differed {
            let contact = contacts::by_row(&self.profile.db, &self.profile.vault, conversation.contact)?;
            self.warn("network_differs", differs(&contact.label(), mark.height));
        }
        // once a retention, whatever the contact says: which of the authorities signed the certificate of a document differs
        // from gateway to gateway, so many certificates would tell which one this client uses
        let pause = Duration::from_millis(self.profile.network().parameters.retention_ms);
        let rested = heard.proved.is_none_or(|proved| proved.at.plus(pause) <= now);
        let newest = self.memory.marks.newest().map_or(0, |newest| newest.height);
        let recent = mark.height.saturating_add(PROVED_BEHIND) >= newest;
        if rested && recent && self.memory.marks.at(mark.height).is_some_and(|held| held.mark.hash != mark.hash) {
            self.memory.proofs_due.insert(conversation.row, mark.height);
        }
        Ok(())
    }

    /// Seals the certificate of a document held here for a contact who named another; `false`: none was due.
    pub(super) fn prove(&mut self, now: UnixMillis, rng: &mut impl CryptoRng) -> Result<bool, MailError> {
        let Some((conversation, height)) = self.memory.proofs_due.pop_first() else { return Ok(false) };
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, conversation)?;
        let silent = conversation.request || conversation.broken;
        if silent || contacts::by_row(db, vault, conversation.contact)?.blocked {
            return Ok(false);
        }
        let Some(certificate) = self.memory.marks.certificate(db, vault, height)? else { return Ok(false) };
        let Ok(parts @ 1..=PROOF_PARTS_MAX) = u8::try_from(certificate.len().div_ceil(PROOF_PART_SIZE)) else {
            return Ok(false);
        };
        let mut sealed: Vec<Sealed> = Vec::with_capacity(parts.into());
        let transaction = db.unchecked_transaction()?;
        for (number, part) in (0..parts).zip(certificate.chunks(PROOF_PART_SIZE)) {
            let own = chains::writing(&transaction, vault, conversation.row)?;
            let content = Content::Proof { number, parts, part: part.to_vec() };
            sealed.push(self.seal_record(&transaction, &conversation, &own, content, None, rng)?);
        }
        let mut heard = self.memory.heard.get(&conversation.contact).copied().unwrap_or_default();
        heard.proved = Some(Proved { height, at: now });
        marks_heard::set_heard(&transaction, vault, conversation.contact, &heard)?;
        transaction.commit()?;
        self.memory.heard.insert(conversation.contact, heard);
        for sealed in &sealed {
            self.memory.proof_chains.insert(sealed.chain());
            self.sealed(sealed);
        }
        Ok(true)
    }

    /// What a client that has stopped still says: the certificate that stops whoever stopped it. What was sealed before
    /// it in the same chain goes along, for nobody could read on to it otherwise.
    pub(super) fn last_words(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        if self.rolled_back.is_some() {
            return Ok(None);
        }
        self.give_up_flights(now, consensus, rng)?;
        while !self.memory.proofs_due.is_empty() {
            if self.prove(now, rng)? {
                break;
            }
        }
        if self.memory.flights.len() >= super::flight::WINDOW {
            return Ok(None);
        }
        let mut boxes = self.memory.boxes.iter();
        let last = boxes.find(|(_, pending)| {
            self.memory.proof_chains.contains(&pending.chain) && !pending.held && pending.attempt.ready(now)
        });
        match last.map(|(row, _)| *row) {
            Some(row) => self.want_box(row, now, consensus, rng),
            None => Ok(None),
        }
    }
}

fn differs(name: &str, height: u64) -> String {
    format!(
        "the network that {name} is shown differs from yours at document {height}: one of you is shown a forged one, or \
         {name} is not honest. See shoal doctor"
    )
}
