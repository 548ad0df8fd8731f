//! First contact: a peer's card, the founding of a conversation, and joining what others founded.

use super::fetching::Taken;
use super::letters::Letter;
use super::parts::BlobIn;
use super::writing::{Confirmed, each};
use super::{ContactInfo, Event, Mail, MailError, conversations, provider, stored};
use crate::blobs::Manifest;
use crate::card::{self, Card, CardPlace};
use crate::contacts::{self, Contact};
use crate::conversations::{Origin, requests_max};
use crate::conversations_mls::{self, GroupError};
use crate::inbox_letter::{Pointer, seal_letter};
use crate::{blobs_store, group_changes, group_epochs, invites, members};
use rand::CryptoRng;
use rusqlite::{Connection, Transaction};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::inbox::InboxPublic;
use shoal_protocol::request::{Answers, Status};
use zeroize::Zeroizing;

/// A conversation that was founded, and what leads its other member to it.
pub(super) struct Founded {
    pub(super) conversation: i64,
    /// Row of the Welcome.
    pub(super) welcome: i64,
    pub(super) generation: u32,
    pub(super) manifest: Manifest,
}

/// Answers without a box before a place of a card is given up for the next one.
const CARD_MISSES_MAX: u32 = 4;

impl Mail {
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
            // found at the replica that was not asked first: ask again soon. Not there, or never what it should be: try
            // another place
            fetch.missed += 1;
            let elsewhere = each(answers).any(|(_, answer)| answer.status == Status::Found);
            let absent = each(answers).any(|(_, answer)| answer.status == Status::Empty);
            if fetch.missed >= CARD_MISSES_MAX || (absent && !elsewhere && j == 0) {
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
        if fetch.invite.is_some() {
            return self.offer_read(contact, &parts, rng);
        }
        let contact = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?;
        match card::read(&contact.inbox, place, &parts) {
            Ok(card) => {
                self.card_for_groups(contact.row, &card)?;
                if contact.wanted_at.is_some() {
                    return self.found_conversation(&contact, &card, now, consensus, rng);
                }
                self.memory.cards.remove(&contact.row);
                Ok(())
            }
            Err(_) => {
                if let Some(fetch) = self.memory.cards.get_mut(&contact.row) {
                    fetch.turn();
                }
                Ok(())
            }
        }
    }

    /// Founds a conversation by somebody's card, with a letter to their inbox: one transaction.
    fn found_conversation(
        &mut self,
        contact: &Contact,
        card: &Card,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let transaction = self.profile.db.unchecked_transaction()?;
        let founded = match self.found_with(&transaction, contact, &card.key_package, now, consensus, rng)? {
            Some(Ok(founded)) => founded,
            Some(Err(why)) => {
                drop(transaction);
                if let Some(fetch) = self.memory.cards.get_mut(&contact.row) {
                    fetch.turn();
                }
                self.warn("bad_card", format!("the card of {} cannot be used: {why}", contact.label()));
                return Ok(());
            }
            None => return Ok(()),
        };
        let Founded { conversation, welcome, generation, manifest } = founded;
        let body = seal_letter(&card.pointer, &Pointer::new(generation, manifest), rng)
            .ok_or_else(|| MailError::Mls("the letter cannot be sealed".to_owned()))?;
        let letter = Letter::new(contact.row, Some(welcome), generation, body);
        let letter_row = stored::insert_letter(&transaction, conversation, &letter)?;
        transaction.commit()?;
        self.memory.letters.insert(letter_row, letter);
        self.founded(contact.row, conversation)
    }

    /// The address of a contact, of now or a former one, whose key package this is.
    pub(super) fn whose_package(
        &self,
        db: &Connection,
        contact: &Contact,
        key_package: &[u8],
    ) -> Result<Option<InboxPublic>, MailError> {
        let provider = provider(&self.profile, &self.crypto, db);
        let fits = |inbox: &InboxPublic| conversations_mls::key_package_of(&provider, inbox, key_package).is_ok();
        Ok(contacts::inboxes(db, &self.profile.vault, contact)?.into_iter().find(fits))
    }

    /// Creates a group of two with the owner of a key package, keeps its Welcome, and gives it the messages that waited. `None`:
    /// there is no generation of stores. The inner error: the key package cannot be used; roll back.
    pub(super) fn found_with(
        &self,
        transaction: &Transaction<'_>,
        contact: &Contact,
        key_package: &[u8],
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Result<Founded, &'static str>>, MailError> {
        let Some(generation) = consensus.current_generation().map(|generation| generation.number) else {
            return Ok(None);
        };
        let (vault, inbox) = (&self.profile.vault, self.profile.own.current());
        let Some(person) = self.whose_package(transaction, contact, key_package)? else {
            return Ok(Some(Err("key package of another person, or none")));
        };
        let writer = WriteKey::generate(rng);
        let founded = conversations_mls::found(
            &provider(&self.profile, &self.crypto, transaction),
            inbox,
            &writer,
            &person,
            key_package,
            generation,
            rng,
        );
        let (begun, welcome) = match founded {
            Ok(founded) => founded,
            Err(GroupError::Refused(why)) => return Ok(Some(Err(why))),
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let conversation = conversations::insert(transaction, vault, &begun, &writer, Origin::Founded, now)?.row;
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let manifest = Manifest::of(&welcome, *secret);
        let welcome = blobs_store::insert_out(transaction, vault, &manifest, &welcome)?;
        blobs_store::activate(transaction, welcome, generation, now)?;
        stored::adopt(transaction, contact.row, conversation)?;
        contacts::set_wanted(transaction, contact.row, None)?;
        Ok(Some(Ok(Founded { conversation, welcome, generation, manifest })))
    }

    /// After the commit: memory follows, and listeners hear.
    pub(super) fn founded(&mut self, contact: i64, conversation: i64) -> Result<(), MailError> {
        self.refollow(conversation)?;
        self.drop_card_fetch(contact)?;
        self.memory.unsealed = true;
        self.adopt_blobs()?;
        let info = self.contact_info(contact)?;
        self.emit(Event::Contact(info));
        Ok(())
    }

    /// Joins the conversation of a Welcome that arrived whole. A Welcome that breaks a rule, or for which there is no
    /// room, is dropped without a word: anybody may write one.
    pub(super) fn join_conversation(
        &mut self,
        blob: &BlobIn,
        welcome: &[u8],
        now: UnixMillis,
    ) -> Result<Taken, MailError> {
        let (db, vault, own) = (&self.profile.db, &self.profile.vault, &self.profile.own);
        let most = requests_max(&self.profile.network().parameters, self.profile.class());
        let transaction = db.unchecked_transaction()?;
        let joined = conversations_mls::join(&provider(&self.profile, &self.crypto, &transaction), own, welcome);
        let joined = match joined {
            Ok(joined) => Some(joined),
            Err(GroupError::Refused(_)) => None,
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        // one that came by an own invite, and only that one, was made with the invite's key package
        let invite = invites::made_for(&transaction, vault, blob.incoming.row)?;
        let admitted = match joined {
            // nobody founds a second conversation in place of an old one; who is in it adds again who was away or gone
            Some((begun, inviter)) if conversations::known(&transaction, vault, &begun.group_id)? => {
                drop(transaction);
                return self.rejoin(blob, welcome, &begun, &inviter, now);
            }
            Some((begun, inviter)) if begun.context.generation == blob.incoming.generation => {
                let writer = conversations_mls::own_writer(
                    &provider(&self.profile, &self.crypto, &transaction),
                    &begun.group_id,
                )?;
                let known = contacts::by_inbox(&transaction, vault, &inviter.inbox)?;
                let stranger = invite.is_none() && known.as_ref().is_none_or(|contact| !contact.known);
                let people = conversations::requests(&transaction)?.saturating_add(begun.others.len() as u64);
                let writer = match &invite {
                    Some(invite) => Some(&invite.writer).filter(|own| own.public() == writer).cloned(),
                    None => self.card_writer(&transaction, &writer)?,
                };
                match (writer, known) {
                    (None, _) => None,
                    _ if invite.is_some() && begun.context.name.is_some() => None,
                    (_, Some(contact)) if contact.blocked => None,
                    _ if stranger && people > most => None,
                    // who has given an address up wants nobody new by it
                    _ if stranger && begun.own != own.public() => None,
                    (_, None) if contacts::full(&transaction)? => None,
                    (Some(writer), _) => Some((begun, writer, stranger, inviter.leaf)),
                }
            }
            _ => None,
        };
        let Some((begun, writer, request, inviter)) = admitted else {
            // what joining wrote is undone with the transaction
            drop(transaction);
            blobs_store::delete_in(&self.profile.db, blob.incoming.row)?;
            invite.map_or(Ok(()), |invite| self.spoilt(&invite))?;
            return Ok(Taken::Done);
        };
        let origin = Origin::Joined { request };
        let conversation = conversations::insert(&transaction, vault, &begun, &writer, origin, now)?;
        group_epochs::set_touched(&transaction, conversation.row, begun.epoch, self.out_of_sight(now))?;
        members::set_inviter(&transaction, conversation.row, inviter)?;
        let invited = invite.as_ref().map(|invite| self.welcomed(&transaction, invite, &begun)).transpose()?;
        let mut gone = Confirmed::default();
        if let Some(contact) = conversation.contact {
            stored::adopt(&transaction, contact, conversation.row)?;
            contacts::set_wanted(&transaction, contact, None)?;
            // one of theirs that is being used is of no use any more
            self.erase_used(&transaction, contact, &mut gone)?;
        }
        blobs_store::delete_in(&transaction, blob.incoming.row)?;
        transaction.commit()?;

        self.confirmed(gone);
        if let (Some(invite), Some(boxes)) = (&invite, invited) {
            self.made_forgotten(invite, &boxes);
        }
        self.refollow(conversation.row)?;
        self.memory.unsealed = true;
        self.memory.plan = true;
        match conversation.contact {
            Some(contact) => {
                self.drop_card_fetch(contact)?;
                let info = self.contact_info(contact)?;
                if invite.is_some() {
                    self.warn("invite_used", format!("{} has used your invite", info.name));
                }
                self.emit(Event::Contact(info));
            }
            None => self.tell_group(conversation.row)?,
        }
        Ok(Taken::Done)
    }

    /// Nobody writes to the contact for the first time any more: its card is looked for only if it is to be added to a
    /// group.
    pub(super) fn drop_card_fetch(&mut self, contact: i64) -> Result<(), MailError> {
        if group_changes::without_card(&self.profile.db)?.contains(&contact) {
            return self.look_for_card(contact, self.memory.latest);
        }
        self.memory.cards.remove(&contact);
        Ok(())
    }

    /// Contacts to whom messages wait because no card of theirs was found yet, and since when.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn waiting_for_cards(&self) -> Result<Vec<(ContactInfo, UnixMillis)>, MailError> {
        let contacts = contacts::all(&self.profile.db, &self.profile.vault)?.into_iter();
        contacts
            .filter(|contact| !contact.blocked)
            .filter_map(|contact| Some((contact.row, contact.wanted_at?)))
            .map(|(row, since)| Ok((self.contact_info(row)?, since)))
            .collect()
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
            verified: contacts::is_verified(db, contact.row)?,
        })
    }
}
