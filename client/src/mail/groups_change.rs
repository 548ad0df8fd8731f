//! How the members of a group change: what an own commit does, whom it invites, and what is forgotten by whoever goes.

use super::epochs::Entered;
use super::letters::Letter;
use super::writing::Confirmed;
use super::{Mail, MailError, Standing, provider, stored};
use crate::blobs::Manifest;
use crate::card::Card;
use crate::chains::{self, Chain, Side};
use crate::commits::{Cut, Invitation, OwnCommit};
use crate::commits_mls::{ADDED_MAX, Change, Led};
use crate::conversations::Conversation;
use crate::conversations_mls::{self, GROUP_SIZE_MAX, GroupError};
use crate::group_changes::{self, Wanted};
use crate::inbox_letter::{Pointer, seal_letter};
use crate::members::{self, MemberRow};
use crate::{blobs_store, commits, commits_mls, contacts, conversations, group_epochs};
use rand::CryptoRng;
use rusqlite::{Connection, Transaction};
use shoal_protocol::UnixMillis;
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// What was forgotten with the state of a conversation, to be taken out of memory after the commit.
pub(super) struct Forgotten {
    /// Own commits, with their blobs.
    pub(super) commits: Vec<(i64, i64)>,
    /// The blob of the commit that was fetched.
    fetched: Option<i64>,
}

impl Mail {
    /// Whether a commit has something to do in a group beside renewing keys.
    pub(super) fn change_waits(&self, conversation: &Conversation) -> Result<bool, MailError> {
        let (change, _) = self.change(&self.profile.db, conversation)?;
        Ok(change.name.is_some() || !change.add.is_empty() || !change.remove.is_empty())
    }

    /// What a commit in this epoch would do: what the user wants and can be done now, and who said that they leave goes.
    pub(super) fn change(&self, db: &Connection, conversation: &Conversation) -> Result<(Change, Vec<Cut>), MailError> {
        let vault = &self.profile.vault;
        let (mut change, mut cuts) = (Change::default(), Vec::new());
        let current = members::current(db, conversation.row)?;
        let mut removed: Vec<_> = current.iter().filter(|member| member.leaving).copied().collect();
        if !self.profile.own.former().is_empty() {
            // somebody added the own address, or a former one, who did not know that both are one person's
            for member in current.iter().filter(|member| !member.leaving) {
                if self.is_oneself(db, member.contact)? {
                    removed.push(*member);
                }
            }
        }
        let mut size = current.len() + 1;
        for wanted in group_changes::all(db, vault, conversation.row)? {
            if let Wanted::Add { contact, .. } | Wanted::Readd { contact, .. } = &wanted.wanted
                && self.is_oneself(db, *contact)?
            {
                continue;
            }
            match wanted.wanted {
                Wanted::Add { contact, card: Some(card) } => {
                    if change.add.len() < ADDED_MAX
                        && size < GROUP_SIZE_MAX
                        && current.iter().all(|member| member.contact != contact)
                    {
                        change.add.push((contacts::by_row(db, vault, contact)?.inbox, card));
                        size += 1;
                    }
                }
                Wanted::Readd { contact, card: Some(card) } => {
                    let left = |member: &&MemberRow| member.contact == contact && !member.follows() && !member.leaving;
                    if let Some(member) = current.iter().find(left).filter(|_| change.add.len() < ADDED_MAX) {
                        removed.push(*member);
                        change.add.push((contacts::by_row(db, vault, contact)?.inbox, card));
                    }
                }
                Wanted::Add { card: None, .. } | Wanted::Readd { card: None, .. } => {}
                Wanted::Remove { contact } => {
                    removed.extend(current.iter().filter(|member| member.contact == contact && !member.leaving));
                }
                Wanted::Rename { name } => {
                    change.name = Some(name).filter(|name| conversation.name.as_ref() != Some(name))
                }
            }
        }
        for member in removed {
            if change.remove.contains(&member.leaf) {
                continue;
            }
            change.remove.push(member.leaf);
            cuts.push(Cut { leaf: member.leaf, at: chains::read_to(db, member.row)? });
        }
        Ok((change, cuts))
    }

    /// Whether a contact is oneself, by an address that somebody added beside the one in use.
    fn is_oneself(&self, db: &Connection, contact: i64) -> Result<bool, MailError> {
        let own = &self.profile.own;
        Ok(!own.former().is_empty() && own.is_own(&contacts::by_row(db, &self.profile.vault, contact)?.inbox))
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
                Wanted::Readd { contact, .. } => {
                    current.iter().all(|member| member.contact != *contact || member.follows())
                }
                Wanted::Remove { contact } => !here(*contact),
                Wanted::Rename { name } => now.name.as_ref() == Some(name),
            };
            if done {
                group_changes::delete(transaction, change.row)?;
            }
        }
        Ok(())
    }

    /// The own commit has won: keeps the Welcome of those whom it added, and a letter to each of them. To be called before
    /// the group enters the epoch.
    pub(super) fn letters_to_added(
        &self,
        transaction: &Transaction<'_>,
        commit: &OwnCommit,
        generation: u32,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<(i64, Letter)>, MailError> {
        let Some(Invitation { welcome, added }) = &commit.invitation else { return Ok(Vec::new()) };
        let vault = &self.profile.vault;
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let manifest = Manifest::of(welcome, *secret);
        let blob = blobs_store::insert_out(transaction, vault, &manifest, welcome)?;
        blobs_store::activate(transaction, blob, generation, now)?;
        let mut letters = Vec::new();
        for (person, pointer) in added {
            let body = seal_letter(pointer, &Pointer::new(generation, manifest.clone()), rng)
                .ok_or_else(|| MailError::Mls("the letter cannot be sealed".to_owned()))?;
            let letter = Letter::new(contacts::of_member(transaction, vault, person)?, Some(blob), generation, body);
            letters.push((stored::insert_letter(transaction, commit.conversation, &letter)?, letter));
        }
        Ok(letters)
    }

    /// Takes back that somebody is to be added, to one group or to all, and says whether they were to be. When a staged commit
    /// does it already, they are in the group as soon as it has won, with a letter as everybody: then they are removed again.
    pub(super) fn take_back_adds(
        &self,
        transaction: &Transaction<'_>,
        contact: i64,
        of: Option<i64>,
    ) -> Result<bool, MailError> {
        let vault = &self.profile.vault;
        // more than one in a group, when two contacts turned out to be one person
        let mut adds = group_changes::adds_of(transaction, contact)?;
        adds.retain(|(_, group)| of.is_none_or(|of| of == *group));
        for (change, group) in &adds {
            group_changes::delete(transaction, *change)?;
            let epoch = conversations::by_row(transaction, vault, *group)?.epoch;
            let staged = commits::commit_of(transaction, vault, *group, epoch)?.and_then(|commit| commit.invitation);
            for (person, _) in staged.iter().flat_map(|invitation| &invitation.added) {
                if contacts::by_inbox(transaction, vault, person)?.is_some_and(|person| person.row == contact) {
                    group_changes::insert(transaction, vault, *group, &Wanted::Remove { contact })?;
                }
            }
        }
        Ok(!adds.is_empty())
    }

    /// Whether a commit removes somebody and adds them again.
    pub(super) fn adds_again(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        led: &Led,
    ) -> Result<bool, MailError> {
        let people = self.people(transaction, led)?;
        let current = members::current(transaction, conversation.row)?;
        Ok(current.iter().any(|member| led.removed.contains(&member.leaf) && people.contains(&member.contact)))
    }

    /// The contacts, under whatever address, who are in a group after a commit.
    fn people(&self, transaction: &Transaction<'_>, led: &Led) -> Result<BTreeSet<i64>, MailError> {
        let mut people = BTreeSet::new();
        for member in &led.begun.others {
            people.extend(
                contacts::by_inbox(transaction, &self.profile.vault, &member.inbox)?.map(|contact| contact.row),
            );
        }
        Ok(people)
    }

    /// Who was removed before they ever spoke need not be invited any more; who was added again has a letter of this commit.
    pub(super) fn uninvite(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        led: &Led,
        confirmed: &mut Confirmed,
    ) -> Result<(), MailError> {
        let people = self.people(transaction, led)?;
        for member in members::current(transaction, conversation.row)? {
            if led.removed.contains(&member.leaf) && !people.contains(&member.contact) {
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
            let (Wanted::Add { contact, card: Some(card) } | Wanted::Readd { contact, card: Some(card) }) =
                &change.wanted
            else {
                continue;
            };
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
            self.look_for_card(contact.row, now)?;
            self.warn("bad_card", format!("the card of {} cannot be used: {why}", contact.label()));
        }
        Ok(found)
    }

    /// What a member wrote last is gone with its stores, and perhaps what it would have to read to follow: it is looked for,
    /// and added again when it is back, unless it is heard before that.
    pub(super) fn lose(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        member: i64,
    ) -> Result<(), MailError> {
        let member = members::by_row(transaction, member)?;
        members::set_lost(transaction, member.row, true)?;
        let blocked = contacts::by_row(transaction, &self.profile.vault, member.contact)?.blocked;
        // not again, for the card may have been found; nor in place of what the user wants, who may have removed them
        let asked = group_changes::concern(transaction, conversation.row, member.contact)?;
        if !member.leaving && !blocked && !asked && !self.is_oneself(transaction, member.contact)? {
            let wanted = Wanted::Readd { contact: member.contact, card: None };
            group_changes::insert(transaction, &self.profile.vault, conversation.row, &wanted)?;
        }
        Ok(())
    }

    /// A member who was thought to be away for too long has followed.
    pub(super) fn found_again(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        member: &MemberRow,
    ) -> Result<(), MailError> {
        members::set_lost(transaction, member.row, false)?;
        group_changes::delete_readd(transaction, conversation.row, member.contact)
    }

    /// Somebody was added again who could not read what was written before: what is not delivered is sealed again.
    pub(super) fn seal_again(
        &self,
        transaction: &Transaction<'_>,
        conversation: i64,
        confirmed: &mut Confirmed,
    ) -> Result<(), MailError> {
        for chain in chains::own(transaction, conversation)? {
            for (row, message) in chains::boxes_of(transaction, chain)? {
                let Some(message) = message else { continue };
                // the box stays: whoever reads the chain goes through it, and knows the second copy by its id
                chains::disown_box(transaction, row)?;
                if let Some(blob) = stored::unseal(transaction, message)? {
                    blobs_store::restart_out(transaction, blob)?;
                    confirmed.blobs.push(blob);
                }
            }
        }
        Ok(())
    }

    /// What the own profile would have to read to follow is gone with its stores: it waits until a member adds it again.
    pub(super) fn gone_away(&mut self, conversation: &Conversation) -> Result<(), MailError> {
        let transaction = self.profile.db.unchecked_transaction()?;
        conversations::set_standing(&transaction, conversation.row, Standing::Away)?;
        let fetched = self.stop_fetching(&transaction, conversation)?;
        transaction.commit()?;
        if let Some(blob) = fetched {
            self.memory.blobs_in.remove(&blob);
        }
        self.wake_welcomes();
        self.refollow(conversation.row)?;
        self.warn(
            "away_too_long",
            format!(
                "this client was away for longer than stores keep what conversation {} needs; a member adds you again when \
                 their client sees that you are back, and what you write until then waits",
                conversation.id
            ),
        );
        self.tell_group(conversation.row)
    }

    /// The own profile is not in the conversation any more: everything that opens it is forgotten; what was shown stays.
    pub(super) fn put_out(&mut self, row: i64) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation = conversations::by_row(db, vault, row)?;
        let transaction = db.unchecked_transaction()?;
        let mut entered = Entered { regrouped: true, ..Entered::default() };
        let own = chains::writing(&transaction, vault, row)?;
        let of_card = self.of_card(&transaction, &own, row)?;
        commits_mls::forget(&provider(&self.profile, &self.crypto, &transaction), &conversation.id.0, of_card)?;
        for member in members::current(&transaction, row)? {
            self.forget_letters(&transaction, row, member.contact, &mut entered.confirmed)?;
        }
        let forgotten = self.forget_state(&transaction, &conversation)?;
        entered.gone = forgotten.commits;
        group_changes::delete_all(&transaction, row)?;
        conversations::accept_group(&transaction, row)?;
        conversations::set_owing(&transaction, row, false)?;
        conversations::set_out(&transaction, row, conversation.together_until())?;
        // whoever is in it by then, should somebody add us again, is not whom they were written to
        entered.confirmed.blobs.extend(stored::give_up_all(&transaction, row)?);
        transaction.commit()?;
        if let Some(blob) = forgotten.fetched {
            self.memory.blobs_in.remove(&blob);
        }
        self.memory.owing.remove(&row);
        let waits: Vec<i64> = chains::unstored(&self.profile.db)?.into_iter().map(|(sealed, ..)| sealed).collect();
        self.memory.boxes.retain(|sealed, _| waits.contains(sealed));
        self.wake_welcomes();
        self.went_on(row, entered)
    }

    /// The commit of the slot that is read is not fetched any more. Returns its blob.
    fn stop_fetching(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
    ) -> Result<Option<i64>, MailError> {
        let (row, epoch) = (conversation.row, conversation.epoch);
        let Some(at) = group_epochs::of(transaction, &self.profile.vault, row, epoch)? else { return Ok(None) };
        let Some((_, blob)) = at.fetching else { return Ok(None) };
        group_epochs::set_slot(transaction, row, epoch, at.slot)?;
        blobs_store::delete_in(transaction, blob)?;
        Ok(Some(blob))
    }

    /// Forgets what only the state of a conversation needs that is given up: own commits, epochs, chains and their boxes.
    pub(super) fn forget_state(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
    ) -> Result<Forgotten, MailError> {
        let (row, epoch) = (conversation.row, conversation.epoch);
        let fetched = self.stop_fetching(transaction, conversation)?;
        let commits = commits::forget_commits(transaction, row, epoch)?;
        group_epochs::forget_before(transaction, row, epoch.saturating_add(1))?;
        chains::end_all(transaction, row)?;
        Ok(Forgotten { commits, fetched })
    }

    /// Whether the signature key of the own leaf is a card's too, because the leaf has not been renewed since joining.
    pub(super) fn of_card(
        &self,
        transaction: &Transaction<'_>,
        own: &Chain,
        conversation: i64,
    ) -> Result<bool, MailError> {
        Ok(match &own.side {
            Side::Own(writer) => {
                self.card_writer(transaction, &writer.public())?.is_some()
                    || chains::writes_elsewhere(
                        transaction,
                        &self.profile.vault,
                        writer.seed().as_slice(),
                        conversation,
                    )?
            }
            Side::Offer(_) | Side::Peer { .. } => false,
        })
    }
}
