//! Using another person's invite: its key package is fetched, then claimed, and only who has the claim founds a conversation
//! with it. Two who use the same one never found two.
//!
//! When that comes to nothing, because somebody else was first or the invite is over, the inviter is written to as anybody is:
//! by the card of the address, as a stranger. Messages that wait lose nothing by it.

use super::flight::{CardFetch, PendingBox};
use super::writing::Confirmed;
use super::{ContactInfo, Event, Mail, MailError, provider, stored};
use crate::inbox_letter::Pointer;
use crate::invites::{self, Used};
use crate::names::Name;
use crate::profile::Vault;
use crate::{blobs_store, chains, commits_mls, contacts, conversations, offer};
use rand::CryptoRng;
use rusqlite::{Connection, Transaction};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::invite::{CLAIM_BOX, Invite, WELCOME_BOX};
use std::time::Duration;

/// A claim that one replica has counts after so many attempts at the other, which may be gone.
const CLAIM_TRIES: u32 = 4;

/// How much clocks of two people may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3_600);

/// How memory looks for what a first message needs: by the invite that is being used, else by the address. `None`: an invite
/// is claimed, and nothing more is to be found.
pub(super) fn card_fetch(
    db: &Connection,
    vault: &Vault,
    contact: i64,
    since: UnixMillis,
) -> Result<Option<CardFetch>, MailError> {
    Ok(match invites::used(db, vault, contact)? {
        Some(used) if used.package.is_some() => None,
        Some(used) if used.pointer.is_none() => Some(CardFetch::by_invite(since, &used)),
        Some(_) | None => Some(CardFetch::new(since)),
    })
}

impl Mail {
    /// Names somebody and begins a conversation with them by their invite; with whom there is one already, it is only the name.
    pub(super) fn use_invite(
        &mut self,
        name: &Name,
        invite: &Invite,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<ContactInfo, MailError> {
        if self.profile.own.is_own(invite.inbox()) {
            return Err(MailError::Oneself);
        }
        if !invite.is_of(&self.profile.network().genesis_hash()) {
            return Err(MailError::Invite("the invite is for another network"));
        }
        if invite.end() <= now {
            return Err(MailError::Invite("the invite is over"));
        }
        let longest = self.profile.network().parameters.retention() / 2 + CLOCKS_DIFFER;
        if invite.end() > now.plus(longest) {
            return Err(MailError::Invite("the invite would last longer than any can"));
        }
        if let Some(conversation) = self.rolled_back {
            return Err(MailError::RolledBack(conversation));
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let transaction = db.unchecked_transaction()?;
        let contact = match contacts::by_inbox(&transaction, vault, invite.inbox())? {
            Some(contact) if contact.blocked => return Err(MailError::Blocked(contact.label())),
            Some(contact) => contact,
            None => contacts::insert(&transaction, vault, invite.inbox(), true)?,
        };
        contacts::set_name(&transaction, vault, contact.row, name)?;
        contacts::set_known(&transaction, contact.row)?;
        let met = !conversations::of_contact(&transaction, vault, contact.row)?.is_empty();
        // typed a second time: one's own claim must not be in the way of another one
        let same = invites::used(&transaction, vault, contact.row)?.is_some_and(|used| *used.seed == *invite.seed());
        let strangers = !met && !same;
        let mut dropped = Confirmed::default();
        if strangers {
            self.erase_used(&transaction, contact.row, &mut dropped)?;
            invites::insert_used(&transaction, vault, contact.row, invite, &WriteKey::generate(rng))?;
            contacts::set_wanted(&transaction, contact.row, Some(contact.wanted_at.unwrap_or(now)))?;
        }
        if met {
            // whoever wrote first, the user wants them
            conversations::accept(&transaction, contact.row)?;
        }
        transaction.commit()?;
        if met {
            self.follow_again(&conversations::of_contact(&self.profile.db, &self.profile.vault, contact.row)?)?;
        }
        if strangers {
            self.confirmed(dropped);
            self.memory.cards.remove(&contact.row);
            self.look_for_card(contact.row, now)?;
        }
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info.clone()));
        Ok(info)
    }

    /// What a conversation with somebody begins with is looked for, if it is not already.
    pub(super) fn look_for_card(&mut self, contact: i64, since: UnixMillis) -> Result<(), MailError> {
        if !self.memory.cards.contains_key(&contact)
            && let Some(fetch) = card_fetch(&self.profile.db, &self.profile.vault, contact, since)?
        {
            self.memory.cards.insert(contact, fetch);
        }
        Ok(())
    }

    /// All boxes of an offer are here: claims it.
    pub(super) fn offer_read(
        &mut self,
        contact: i64,
        parts: &[Vec<u8>],
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some(used) = invites::used(db, vault, contact)? else {
            self.memory.cards.remove(&contact);
            return Ok(());
        };
        let person = contacts::by_row(db, vault, contact)?;
        let package = match offer::read(parts) {
            Ok(package) => self.whose_package(db, &person, &package)?.map(|_| package),
            Err(_) => None,
        };
        let Some(package) = package else { return self.give_up_invite(&used, "does not hold what it should") };
        let (key, secret) = used.keys();
        let transaction = db.unchecked_transaction()?;
        let chain = chains::insert_one_time(&transaction, vault, used.generation, &secret, &key, CLAIM_BOX)?;
        let claim = used.writer.public();
        let sealed = chains::push_sealed(&transaction, &chain, claim.as_bytes(), rng)?;
        invites::set_package(&transaction, vault, contact, &package, chain.row)?;
        transaction.commit()?;
        self.memory.cards.remove(&contact);
        self.memory.boxes.insert(sealed, PendingBox::new(chain.row, false));
        Ok(())
    }

    /// A box that belongs to no conversation was written: if it is a claim that nobody contests, the invite is ours.
    pub(super) fn claim_written(
        &mut self,
        row: i64,
        chain: i64,
        stored: u8,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let both = stored == chains::STORED_BOTH;
        let alone =
            stored != 0 && self.memory.boxes.get(&row).is_some_and(|pending| pending.attempt.tries() >= CLAIM_TRIES);
        let contested = self.memory.boxes.get(&row).is_some_and(|pending| pending.contested);
        if contested || !(both || alone) {
            return Ok(());
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        if both && invites::on_nothing(db, chain)? && chains::all_stored(db, chain)? {
            // an invite was withdrawn
            chains::delete(db, chain)?;
            return Ok(());
        }
        let used = invites::used_on(db, vault, chain)?;
        let Some(used) = used.filter(|used| used.claim == Some(chain) && used.pointer.is_none()) else { return Ok(()) };
        if !conversations::of_contact(db, vault, used.contact)?.is_empty() {
            // the inviter wrote first, another way
            let (transaction, mut gone) = (db.unchecked_transaction()?, Confirmed::default());
            self.erase_used(&transaction, used.contact, &mut gone)?;
            transaction.commit()?;
            self.confirmed(gone);
            return self.drop_card_fetch(used.contact);
        }
        let Some(package) = &used.package else { return Ok(()) };
        self.found_by_invite(&used, package, now, consensus, rng)
    }

    fn found_by_invite(
        &mut self,
        used: &Used,
        package: &[u8],
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let contact = contacts::by_row(&self.profile.db, &self.profile.vault, used.contact)?;
        let transaction = self.profile.db.unchecked_transaction()?;
        let founded = match self.found_with(&transaction, &contact, package, now, consensus, rng)? {
            Some(Ok(founded)) => founded,
            Some(Err(_)) => {
                drop(transaction);
                return self.give_up_invite(used, "does not hold what it should");
            }
            None => return Ok(()),
        };
        let (_, secret) = used.keys();
        let vault = &self.profile.vault;
        let chain = chains::insert_one_time(&transaction, vault, used.generation, &secret, &used.writer, WELCOME_BOX)?;
        let pointer = Pointer::new(founded.generation, founded.manifest.clone()).to_bytes();
        let sealed = chains::push_sealed(&transaction, &chain, &pointer, rng)?;
        invites::set_founded(&transaction, used.contact, founded.conversation, chain.row, founded.welcome)?;
        transaction.commit()?;
        self.memory.boxes.insert(sealed, PendingBox::new(chain.row, false));
        self.memory.pointers.insert(sealed, founded.welcome);
        self.founded(contact.row, founded.conversation)
    }

    /// Another body lies where ours should, and it opens: somebody else holds the invite too.
    pub(super) fn claimed_by_another(&mut self, row: i64, chain: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        if let Some(used) = invites::used_on(db, vault, chain)?.filter(|used| used.claim == Some(chain)) {
            if used.pointer.is_none() {
                return self.give_up_invite(&used, "was used by somebody else, or withdrawn");
            }
            // founded on the word of one store, while the other one has somebody else's claim
            let contact = contacts::by_row(db, vault, used.contact)?.label();
            chains::delete_box(db, row)?;
            self.memory.boxes.remove(&row);
            self.warn(
                "invite_contested",
                format!("somebody else used the invite of {contact} too: compare safety numbers before you trust it"),
            );
            return Ok(());
        }
        if let Some(made) = invites::made_on(db, vault, chain)? {
            return self.spoilt(&made);
        }
        let gone = if invites::on_nothing(db, chain)? { chains::delete(db, chain)? } else { vec![row] };
        chains::delete_box(db, row)?;
        self.memory.boxes.retain(|row, _| !gone.contains(row));
        Ok(())
    }

    /// The invite leads nowhere: its owner is written to as a stranger writes.
    fn give_up_invite(&mut self, used: &Used, why: &str) -> Result<(), MailError> {
        let transaction = self.profile.db.unchecked_transaction()?;
        let mut gone = Confirmed::default();
        self.erase_used(&transaction, used.contact, &mut gone)?;
        if !stored::waits(&transaction, used.contact)? {
            // who has nothing to say does not ask as a stranger
            contacts::set_wanted(&transaction, used.contact, None)?;
        }
        transaction.commit()?;
        self.confirmed(gone);
        self.memory.cards.remove(&used.contact);
        let contact = contacts::by_row(&self.profile.db, &self.profile.vault, used.contact)?;
        match contact.wanted_at {
            Some(since) => self.look_for_card(contact.row, since)?,
            None => self.drop_card_fetch(contact.row)?,
        }
        self.warn(
            "invite_failed",
            format!(
                "the invite of {} {why}: compare safety numbers, or ask for another one. What you write goes to their address, \
                 as a stranger's request",
                contact.label()
            ),
        );
        Ok(())
    }

    /// Nothing of an invite is kept that was used for this contact, nor its Welcome.
    pub(super) fn erase_used(
        &self,
        transaction: &Transaction<'_>,
        contact: i64,
        gone: &mut Confirmed,
    ) -> Result<(), MailError> {
        let Some(used) = invites::used(transaction, &self.profile.vault, contact)? else { return Ok(()) };
        invites::delete_used(transaction, contact)?;
        for chain in [used.claim, used.pointer].into_iter().flatten() {
            gone.boxes.extend(chains::delete(transaction, chain)?);
        }
        if let Some(welcome) = used.welcome {
            blobs_store::delete_out(transaction, welcome)?;
            gone.blobs.push(welcome);
        }
        Ok(())
    }

    /// Somebody has spoken in a conversation: the invite by which it was founded is done with.
    pub(super) fn invite_answered(
        &self,
        transaction: &Transaction<'_>,
        conversation: i64,
        gone: &mut Confirmed,
    ) -> Result<(), MailError> {
        let founded = invites::founded(transaction, conversation)?;
        founded.map_or(Ok(()), |contact| self.erase_used(transaction, contact, gone))
    }

    /// Invites that are over before they could be claimed; and claims after which a crash came.
    pub(super) fn end_used(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        for used in invites::used_in_vain(&self.profile.db, &self.profile.vault, now)? {
            self.give_up_invite(&used, "is over")?;
        }
        for (row, chain, stored) in invites::claims(&self.profile.db)? {
            self.claim_written(row, chain, stored, now, consensus, rng)?;
        }
        // the inviter looks for a quarter of a retention after the end, and answers within a retention of that
        let answer = consensus.parameters.retention() / 2;
        for (contact, conversation) in invites::unanswered(&self.profile.db, now.minus(answer))? {
            self.abandon(contact, conversation, now)?;
        }
        Ok(())
    }

    /// A conversation that its inviter never joined is undone: what was written goes to the address.
    fn abandon(&mut self, contact: i64, conversation: i64, now: UnixMillis) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let founded = conversations::by_row(db, vault, conversation)?;
        let transaction = db.unchecked_transaction()?;
        let mut gone = Confirmed::default();
        self.erase_used(&transaction, contact, &mut gone)?;
        commits_mls::forget(&provider(&self.profile, &self.crypto, &transaction), &founded.id.0, false)?;
        self.forget_state(&transaction, &founded)?;
        stored::unseal_all(&transaction, conversation)?;
        stored::disown(&transaction, conversation)?;
        conversations::delete(&transaction, conversation)?;
        if stored::waits(&transaction, contact)? {
            contacts::set_wanted(&transaction, contact, Some(now))?;
        }
        transaction.commit()?;
        self.reload()?;
        let label = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?.label();
        self.warn(
            "invite_failed",
            format!("{label} has never answered to the use of the invite; what you wrote goes to their address"),
        );
        Ok(())
    }
}
