//! Members of a conversation tell each other which document of the consensus they hold. Where no chain holds both, one
//! of them is shown a network of its own. A word alone stops nobody: each sends the certificate of its own document, and
//! only whoever is given a certificate that the authorities had no right to make stops.

use super::{Dispute, Mail, MailError};
use crate::conversations::Conversation;
use crate::marks::{Testimony, Verdict};
use crate::marks_heard::{self, Differs, Heard};
use crate::members::MemberRow;
use crate::profile::evidence::{self, Exhibit, Kind};
use crate::proofs_owed::{self, Owed};
use crate::records::{Content, NO_MARK};
use crate::{contacts, conversations};
use rusqlite::Transaction;
use shoal_protocol::UnixMillis;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{Mark, VerifiedConsensus};

/// What a part of a certificate came to.
pub(super) enum Proof {
    /// More parts are to come, or it proves nothing.
    None,
    /// It was never signed by those whose certificate it pretends to be.
    Refused,
    /// The authorities certified the second beside the first, which is held here.
    Given(Mark, Mark),
}

/// What a record said of its writer's documents, to be told after the commit.
#[derive(Default)]
pub(super) struct Word {
    pub(super) heard: Option<Heard>,
    pub(super) proof: Option<Proof>,
    /// The writer is owed a certificate from now on.
    pub(super) owed: Option<Owed>,
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
            if heard == *before {
                continue;
            }
            let theirs = conversations::with(&transaction, vault, *contact)?;
            let Some(conversation) = theirs.into_iter().find(|theirs| !theirs.request && theirs.lives()) else {
                continue;
            };
            marks_heard::set_heard(&transaction, vault, *contact, &heard)?;
            let owed = self.owed_for_difference(&marks, conversation.row, &heard, now);
            if let Some(owed) = &owed {
                proofs_owed::set(&transaction, vault, conversation.row, owed)?;
            }
            changed.push((*contact, conversation.row, heard, owed));
        }
        transaction.commit()?;
        self.memory.generation = document.current_generation().map(|generation| generation.number);
        self.memory.marks = marks;
        for (contact, conversation, heard, owed) in changed {
            self.heard(contact, heard)?;
            self.memory.owed.extend(owed.map(|owed| (conversation, owed)));
        }
        Ok(())
    }

    /// This client itself was shown two documents that contradict each other: it keeps them and stops.
    ///
    /// # Errors
    /// When the files cannot be written; nothing is sent all the same, until the end of this run.
    pub(crate) fn shown_two(&mut self, evidence: &[Exhibit; 2]) -> std::io::Result<()> {
        self.network_forked = true;
        evidence::keep(self.profile.dir(), evidence)
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
                let ours = self.memory.marks.against(&mark).next().map(|held| held.mark.hash);
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

    /// What a record of another member says of its documents. A stranger's says nothing.
    pub(super) fn listen(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        member: &MemberRow,
        mark: Mark,
        content: &Content,
        now: UnixMillis,
    ) -> Result<Word, MailError> {
        if conversation.request {
            return Ok(Word::default());
        }
        let (vault, contact) = (&self.profile.vault, member.contact);
        let verdict = self.memory.marks.judge(&mark);
        let before = self.memory.heard.get(&contact).copied().unwrap_or_default();
        let mut heard = before.with(mark, verdict, self.memory.marks.newest(), now);
        let mut proof = None;
        if let Content::Proof { number, parts, part } = content {
            let place = (*number, *parts);
            let whole = marks_heard::take_part(transaction, vault, member.row, place, part)?;
            let weighed = whole.map_or(Ok(Proof::None), |whole| self.weigh(transaction, &whole))?;
            if let (Proof::Given(_, other), None) = (&weighed, heard.differs) {
                heard.differs = Some(Differs { mark: *other, since: now });
            }
            proof = Some(weighed);
        }
        if heard != before {
            marks_heard::set_heard(transaction, vault, contact, &heard)?;
        }
        let says = heard != before || verdict == Verdict::Differs;
        let owed = match &proof {
            Some(Proof::Given(held, _)) => self.owed_for_proof(conversation.row, held, &heard, now),
            _ if says => self.owed_for_difference(&self.memory.marks, conversation.row, &heard, now),
            _ => None,
        };
        if let Some(owed) = &owed {
            proofs_owed::set(transaction, vault, conversation.row, owed)?;
        }
        Ok(Word { heard: says.then_some(heard), proof, owed })
    }

    /// Judges a certificate. What it proves is noted in the transaction that counts the box that brought it as read.
    fn weigh(&self, transaction: &Transaction<'_>, bytes: &[u8]) -> Result<Proof, MailError> {
        let Ok(other) = Certificate::decode(bytes) else { return Ok(Proof::Refused) };
        let (vault, network) = (&self.profile.vault, self.profile.network());
        match self.memory.marks.weigh(transaction, vault, network, &other)? {
            Testimony::OfNothing => Ok(Proof::None),
            Testimony::False => Ok(Proof::Refused),
            Testimony::Proof { held, certificate } => {
                let exhibit =
                    |mark: Mark, bytes| Exhibit { kind: Kind::Certificate(mark.height), hash: mark.hash, bytes };
                let other = other.mark();
                evidence::note(&self.profile, &[exhibit(held, certificate), exhibit(other, bytes.to_vec())])?;
                Ok(Proof::Given(held, other))
            }
        }
    }

    /// After the commit: memory follows, the user hears, and what is proved lies in files.
    pub(super) fn listened(&mut self, conversation: &Conversation, contact: i64, word: Word) -> Result<(), MailError> {
        if let Some(heard) = word.heard {
            self.heard(contact, heard)?;
        }
        self.memory.owed.extend(word.owed.map(|owed| (conversation.row, owed)));
        match word.proof {
            None | Some(Proof::None) => {}
            Some(Proof::Refused) => {
                let contact = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?;
                self.warn(
                    "proof_refused",
                    format!(
                        "{} sent a proof of another network that no authority signed; it was dropped",
                        contact.label()
                    ),
                );
            }
            Some(Proof::Given(held, other)) => {
                self.network_forked = true;
                self.warn(
                    "conflict",
                    format!(
                        "the authorities certified two documents for one place in the chain ({} of epoch {}, {} of epoch {}): \
                         you and a contact were shown different networks; both certificates are kept, and no message leaves",
                        held.height, held.epoch, other.height, other.epoch
                    ),
                );
                evidence::keep_noted(&self.profile)?;
            }
        }
        Ok(())
    }

    fn heard(&mut self, contact: i64, heard: Heard) -> Result<(), MailError> {
        let before = self.memory.heard.insert(contact, heard);
        let differed = before.is_some_and(|before| before.differs.is_some());
        if heard == Heard::default() {
            self.memory.heard.remove(&contact);
        }
        let Some(Differs { mark, .. }) = heard.differs else {
            if differed {
                let contact = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?;
                self.warn("network_agrees", format!("{} holds the same documents as you again", contact.label()));
            }
            return Ok(());
        };
        if !differed {
            let contact = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?;
            self.warn("network_differs", differs(&contact.label(), mark.height));
        }
        Ok(())
    }
}

fn differs(name: &str, height: u64) -> String {
    format!(
        "the network that {name} is shown differs from yours at document {height}: one of you is shown a forged one, or \
         {name} is not honest. See shoal doctor"
    )
}
