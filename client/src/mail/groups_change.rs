//! How the members of a group change: what an own commit does, whom it invites, and what is forgotten by whoever goes.

use super::epochs::Entered;
use super::flight::CardFetch;
use super::letters::Letter;
use super::writing::Confirmed;
use super::{Mail, MailError, Standing, provider, stored};
use crate::blobs::Manifest;
use crate::card::Card;
use crate::chains::{self, Side};
use crate::commits::{Cut, OwnCommit};
use crate::commits_mls::{ADDED_MAX, Change, Led};
use crate::conversations::Conversation;
use crate::conversations_mls::{self, GROUP_SIZE_MAX, GroupError};
use crate::group_changes::{self, Wanted};
use crate::inbox_letter::{Pointer, seal_letter};
use crate::{blobs_store, commits, commits_mls, contacts, conversations, members};
use rand::CryptoRng;
use rusqlite::{Connection, Transaction};
use shoal_protocol::UnixMillis;
use zeroize::Zeroizing;

impl Mail {
    /// Whether a commit has something to do in a group beside renewing keys.
    pub(super) fn change_waits(&self, conversation: &Conversation) -> Result<bool, MailError> {
        if conversation.contact.is_some() {
            return Ok(false);
        }
        let (change, _) = self.change(&self.profile.db, conversation)?;
        Ok(change.name.is_some() || !change.add.is_empty() || !change.remove.is_empty())
    }

    /// What a commit in this epoch would do: what the user wants and can be done now, and who said that they leave goes.
    pub(super) fn change(&self, db: &Connection, conversation: &Conversation) -> Result<(Change, Vec<Cut>), MailError> {
        let vault = &self.profile.vault;
        let (mut change, mut cuts) = (Change::default(), Vec::new());
        if conversation.contact.is_some() {
            return Ok((change, cuts));
        }
        let current = members::current(db, conversation.row)?;
        let mut removed: Vec<_> = current.iter().filter(|member| member.leaving).copied().collect();
        let mut size = current.len() + 1;
        for wanted in group_changes::all(db, vault, conversation.row)? {
            match wanted.wanted {
                Wanted::Add { contact, card: Some(card) } => {
                    if change.add.len() < ADDED_MAX
                        && size < GROUP_SIZE_MAX
                        && current.iter().all(|member| member.contact != contact)
                    {
                        change.add.push((contacts::by_row(db, vault, contact)?.inbox, card.key_package));
                        size += 1;
                    }
                }
                Wanted::Add { card: None, .. } => {}
                Wanted::Remove { contact } => {
                    removed.extend(current.iter().filter(|member| member.contact == contact && !member.leaving));
                }
                Wanted::Rename { name } => {
                    change.name = Some(name).filter(|name| conversation.name.as_ref() != Some(name))
                }
            }
        }
        for member in removed {
            change.remove.push(member.leaf);
            cuts.push(Cut { leaf: member.leaf, at: chains::read_to(db, member.row)? });
        }
        Ok((change, cuts))
    }

    /// Forgets what a commit has done, whoever wrote it.
    pub(super) fn changes_done(&self, transaction: &Transaction<'_>, row: i64) -> Result<(), MailError> {
        let vault = &self.profile.vault;
        let now = conversations::by_row(transaction, vault, row)?;
        let current = members::current(transaction, row)?;
        let here = |contact: i64| current.iter().any(|member| member.contact == contact);
        for change in group_changes::all(transaction, vault, row)? {
            let done = match &change.wanted {
                Wanted::Add { contact, .. } => here(*contact),
                Wanted::Remove { contact } => !here(*contact),
                Wanted::Rename { name } => now.name.as_ref() == Some(name),
            };
            if done {
                group_changes::delete(transaction, change.row)?;
            }
        }
        Ok(())
    }

    /// The own commit has won: keeps the Welcome of those whom it added, and a letter to each. To be called before the
    /// group enters the epoch.
    pub(super) fn invite(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        commit: &OwnCommit,
        led: &Led,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<(i64, Letter)>, MailError> {
        let Some(welcome) = &commit.welcome else { return Ok(Vec::new()) };
        let vault = &self.profile.vault;
        let generation = led.begun.context.generation;
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let manifest = Manifest::of(welcome, *secret);
        let blob = blobs_store::insert_out(transaction, vault, &manifest, welcome)?;
        blobs_store::activate(transaction, blob, generation, now)?;
        let mut letters = Vec::new();
        for change in group_changes::all(transaction, vault, conversation.row)? {
            let Wanted::Add { contact, card: Some(card) } = change.wanted else { continue };
            let person = contacts::by_row(transaction, vault, contact)?.inbox;
            let before = members::of_contact(transaction, conversation.row, contact)?.is_some();
            if before || led.begun.others.iter().all(|member| member.inbox != person) {
                continue;
            }
            let body = seal_letter(&card.pointer, &Pointer::new(generation, manifest.clone()), rng)
                .ok_or_else(|| MailError::Mls("the letter cannot be sealed".to_owned()))?;
            let letter = Letter::new(contact, Some(blob), generation, body);
            letters.push((stored::insert_letter(transaction, conversation.row, &letter)?, letter));
        }
        Ok(letters)
    }

    /// Who was removed before they ever spoke need not be invited any more.
    pub(super) fn uninvite(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        removed: &[u32],
        confirmed: &mut Confirmed,
    ) -> Result<(), MailError> {
        for member in members::current(transaction, conversation.row)? {
            if removed.contains(&member.leaf) {
                self.forget_letters(transaction, conversation.row, member.contact, confirmed)?;
            }
        }
        Ok(())
    }

    /// The card of somebody who is to be added is here.
    pub(super) fn card_for_groups(&mut self, contact: i64, card: &Card) -> Result<(), MailError> {
        group_changes::set_card(&self.profile.db, &self.profile.vault, contact, card)?;
        self.memory.plan = true;
        Ok(())
    }

    /// Looks for the cards again that no commit can use. Says whether there were any.
    pub(super) fn drop_bad_cards(&mut self, conversation: &Conversation, now: UnixMillis) -> Result<bool, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut bad = Vec::new();
        for change in group_changes::all(db, vault, conversation.row)? {
            let Wanted::Add { contact, card: Some(card) } = &change.wanted else { continue };
            let contact = contacts::by_row(db, vault, *contact)?;
            let provider = provider(&self.profile, &self.crypto, db);
            if let Err(GroupError::Refused(why)) =
                conversations_mls::key_package_of(&provider, &contact.inbox, &card.key_package)
            {
                group_changes::forget_card(db, change.row)?;
                bad.push((contact, why));
            }
        }
        let found = !bad.is_empty();
        for (contact, why) in bad {
            self.memory.cards.entry(contact.row).or_insert_with(|| CardFetch::new(now));
            self.warn("bad_card", format!("the card of {} cannot be used: {why}", contact.label()));
        }
        Ok(found)
    }

    /// The own profile is not in the conversation any more: everything that opens it is forgotten; what was shown stays.
    pub(super) fn put_out(&mut self, row: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, row)?;
        let transaction = db.unchecked_transaction()?;
        let mut entered = Entered { regrouped: true, ..Entered::default() };
        let own = chains::writing(&transaction, vault, row)?;
        let of_card = match &own.side {
            Side::Own(writer) => {
                self.card_writer(&transaction, &writer.public())?.is_some()
                    || chains::writes_elsewhere(&transaction, vault, writer.seed().as_slice(), row)?
            }
            Side::OwnCard | Side::Peer { .. } => false,
        };
        commits_mls::forget(&provider(&self.profile, &self.crypto, &transaction), &conversation.id.0, of_card)?;
        for member in members::current(&transaction, row)? {
            self.forget_letters(&transaction, row, member.contact, &mut entered.confirmed)?;
        }
        if let Some(at) = commits::epoch(&transaction, vault, row, conversation.epoch)?
            && let Some((_, blob)) = at.fetching
        {
            commits::set_slot(&transaction, row, conversation.epoch, at.slot)?;
            blobs_store::delete_in(&transaction, blob)?;
            self.memory.blobs_in.remove(&blob);
        }
        entered.gone = commits::forget_commits(&transaction, row, conversation.epoch)?;
        commits::forget_epochs(&transaction, row, conversation.epoch.saturating_add(1))?;
        chains::end_all(&transaction, row)?;
        group_changes::delete_all(&transaction, row)?;
        conversations::accept_group(&transaction, row)?;
        conversations::set_owing(&transaction, row, false)?;
        conversations::set_standing(&transaction, row, Standing::Removed)?;
        transaction.commit()?;
        self.memory.owing.remove(&row);
        let waits: Vec<i64> = chains::unstored(&self.profile.db)?.into_iter().map(|(sealed, ..)| sealed).collect();
        self.memory.boxes.retain(|sealed, _| waits.contains(sealed));
        self.went_on(row, entered)
    }
}
