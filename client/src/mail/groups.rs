//! What the user asks of groups, and groups as the user sees them. What is asked is on disk when a command returns; a
//! commit does it when it has won its slot.

use super::commands::fresh_id;
use super::meant::Target;
use super::{
    ContactInfo, ConversationId, ConversationInfo, Event, Mail, MailError, MemberInfo, MemberState, Standing, provider,
    stored,
};
use crate::contacts::{self, Contact};
use crate::conversations::{Conversation, Origin};
use crate::conversations_mls::{self, GROUP_SIZE_MAX};
use crate::group_changes::{self, CHANGES_MAX, GroupChange, Wanted};
use crate::names::Name;
use crate::records::Content;
use crate::{conversations, members};
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::address::Address;
use shoal_protocol::boxes::WriteKey;

impl Mail {
    /// Founds a group, in which nobody else is yet. Its boxes lie in the newest generation of stores that is known.
    ///
    /// # Errors
    /// When the name cannot be used, no document with stores was held since the start, or the profile is an older copy of
    /// itself.
    pub fn group_create(
        &mut self,
        name: &str,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<ConversationInfo, MailError> {
        let name: Name = name.parse()?;
        self.free_for_group(&name, None)?;
        if let Some(conversation) = self.rolled_back {
            return Err(MailError::RolledBack(conversation));
        }
        let generation = self.memory.generation.ok_or(MailError::NoDocument)?;
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let writer = WriteKey::generate(rng);
        let transaction = db.unchecked_transaction()?;
        let begun = conversations_mls::found_group(
            &provider(&self.profile, &self.crypto, &transaction),
            self.profile.own.current(),
            &writer,
            &name,
            generation,
            rng,
        )?;
        let conversation = conversations::insert(&transaction, vault, &begun, &writer, Origin::Founded, now)?;
        transaction.commit()?;
        self.refollow(conversation.row)?;
        self.tell_group(conversation.row)?;
        self.conversation_info(&conversation)
    }

    /// Adds somebody to a group: a contact, or an address. Their card is found, and a commit adds them. A member who cannot
    /// follow any more is added again.
    ///
    /// # Errors
    /// When group or person is not meant, is blocked or a member, or the group is full.
    pub fn group_add(&mut self, group: &str, who: &str, now: UnixMillis) -> Result<ConversationInfo, MailError> {
        let conversation = self.own_group(group)?;
        if who.parse::<Address>().is_ok_and(|address| self.profile.own.is_own(address.inbox())) {
            return Err(MailError::Oneself);
        }
        let full = self.member_infos(&conversation)?.len() >= GROUP_SIZE_MAX;
        let full_error = MailError::Group("the group is full: it has 32 members at most");
        let known = self.target(who)?;
        if full && known.is_none() {
            return Err(full_error);
        }
        let contact = self.person(who)?;
        if contact.blocked {
            return Err(MailError::Blocked(contact.label()));
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let current = members::current(db, conversation.row)?;
        let waiting = group_changes::all(db, vault, conversation.row)?;
        let waits = |change: &GroupChange| match change.wanted {
            Wanted::Add { contact: of, .. } | Wanted::Readd { contact: of, .. } => of == contact.row,
            Wanted::Remove { .. } | Wanted::Rename { .. } => false,
        };
        if waiting.iter().any(waits) {
            // their card may have been found
            return self.changed(conversation.row);
        }
        let leaves =
            |change: &GroupChange| matches!(change.wanted, Wanted::Remove { contact: of } if of == contact.row);
        let member = current.iter().find(|member| member.contact == contact.row && !member.leaving);
        let wanted = match member {
            Some(member) if !member.follows() => Wanted::Readd { contact: contact.row, card: None },
            Some(_) if !waiting.iter().any(leaves) => {
                return Err(MailError::Group("this person is in the group already"));
            }
            None if current.iter().all(|member| member.contact != contact.row) => {
                Wanted::Add { contact: contact.row, card: None }
            }
            Some(_) | None => {
                return Err(MailError::Group("this person is leaving the group just now: try again when they are out"));
            }
        };
        if (full && member.is_none()) || waiting.len() as u64 >= CHANGES_MAX {
            return Err(full_error);
        }
        let transaction = db.unchecked_transaction()?;
        contacts::set_known(&transaction, contact.row)?;
        group_changes::insert(&transaction, vault, conversation.row, &wanted)?;
        transaction.commit()?;
        self.look_for_card(contact.row, now)?;
        self.changed(conversation.row)
    }

    /// Removes a member from a group; takes back that somebody was to be added.
    ///
    /// # Errors
    /// When group or member is not meant.
    pub fn group_remove(&mut self, group: &str, who: &str) -> Result<ConversationInfo, MailError> {
        let conversation = self.own_group(group)?;
        if who.parse::<Address>().is_ok_and(|address| self.profile.own.is_own(address.inbox())) {
            return Err(MailError::Group("this is you: shoal group leave"));
        }
        let contact = match self.target(who)? {
            Some(Target::Person(contact, _)) => contact,
            None if who.parse::<Address>().is_err() => return Err(MailError::Unknown(who.to_owned())),
            Some(Target::Group(_)) | None => return Err(MailError::Group("this person is not in the group")),
        };
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        if members::of_contact(db, conversation.row, contact.row)?.is_some() {
            group_changes::insert(db, vault, conversation.row, &Wanted::Remove { contact: contact.row })?;
        } else {
            let transaction = db.unchecked_transaction()?;
            if !self.take_back_adds(&transaction, contact.row, Some(conversation.row))? {
                return Err(MailError::Group("this person is not in the group"));
            }
            transaction.commit()?;
        }
        self.changed(conversation.row)
    }

    /// Gives a group another name, for all of its members.
    ///
    /// # Errors
    /// When the group is not meant, or the name cannot be used.
    pub fn group_rename(&mut self, group: &str, name: &str) -> Result<ConversationInfo, MailError> {
        let conversation = self.own_group(group)?;
        let name = name.parse()?;
        self.free_for_group(&name, Some(conversation.row))?;
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        group_changes::insert(db, vault, conversation.row, &Wanted::Rename { name })?;
        self.changed(conversation.row)
    }

    /// Leaves a group: what was written before is still sent, then the others are told, and one of them removes the own
    /// leaf. A group whose request was not accepted is left without a word, and so is one in which nobody else is, or nobody but
    /// who went on from another state. Whoever adds us to it again asks.
    ///
    /// # Errors
    /// When the group is not meant.
    pub fn group_leave(&mut self, group: &str, rng: &mut impl CryptoRng) -> Result<ConversationInfo, MailError> {
        let conversation = match self.target(group)? {
            Some(Target::Group(conversation)) => conversation,
            Some(Target::Person(..)) => return Err(MailError::Group("this is no group")),
            None => return Err(MailError::Unknown(group.to_owned())),
        };
        if conversation.standing == Standing::Removed {
            return self.conversation_info(&conversation);
        }
        // who went another way does not hear of it, nor does any of them remove us
        let unheard = members::current(&self.profile.db, conversation.row)?.iter().all(|member| member.astray);
        if conversation.request || unheard || conversation.broken || conversation.standing == Standing::Away {
            conversations::set_quit(&self.profile.db, conversation.row)?;
            self.put_out(conversation.row)?;
            if conversation.request {
                conversations::refuse_group(&self.profile.db, conversation.row)?;
            }
        } else if conversation.standing == Standing::Member {
            let (db, vault) = (&self.profile.db, &self.profile.vault);
            let transaction = db.unchecked_transaction()?;
            let id = fresh_id(rng);
            stored::insert_out(
                &transaction,
                vault,
                id,
                None,
                Some(conversation.row),
                &Content::Leave { id: id.0 },
                None,
            )?;
            group_changes::delete_all(&transaction, conversation.row)?;
            conversations::set_quit(&transaction, conversation.row)?;
            conversations::set_standing(&transaction, conversation.row, Standing::Left)?;
            transaction.commit()?;
            self.memory.unsealed = true;
            self.refollow(conversation.row)?;
            self.tell_group(conversation.row)?;
        }
        self.conversation_info(&conversations::by_row(&self.profile.db, &self.profile.vault, conversation.row)?)
    }

    /// A group that the user may change.
    fn own_group(&self, group: &str) -> Result<Conversation, MailError> {
        if let Some(conversation) = self.rolled_back {
            return Err(MailError::RolledBack(conversation));
        }
        match self.target(group)? {
            Some(Target::Group(conversation)) if conversation.request && conversation.lives() => {
                Err(MailError::Group("accept the group first: shoal accept"))
            }
            Some(Target::Group(conversation)) => writable(conversation),
            Some(Target::Person(..)) => Err(MailError::Group("this is no group")),
            None => Err(MailError::Unknown(group.to_owned())),
        }
    }

    /// Somebody by name or address; an address that is not known yet becomes a contact.
    fn person(&self, who: &str) -> Result<Contact, MailError> {
        match self.target(who)? {
            Some(Target::Person(contact, _)) => Ok(contact),
            Some(Target::Group(_)) => Err(MailError::Group("this is a group, and no person")),
            None => {
                let inbox = *self.parse_address(who)?.inbox();
                contacts::insert(&self.profile.db, &self.profile.vault, &inbox, true)
            }
        }
    }

    /// A change was kept: it is planned, and listeners hear.
    fn changed(&mut self, row: i64) -> Result<ConversationInfo, MailError> {
        self.memory.plan = true;
        self.tell_group(row)?;
        self.conversation_info(&conversations::by_row(&self.profile.db, &self.profile.vault, row)?)
    }

    /// Tells listeners of a group; nothing of a conversation of two.
    pub(super) fn tell_group(&mut self, row: i64) -> Result<(), MailError> {
        let conversation = conversations::by_row(&self.profile.db, &self.profile.vault, row)?;
        if conversation.contact.is_none() {
            let info = self.conversation_info(&conversation)?;
            self.emit(Event::Group(info));
        }
        Ok(())
    }

    /// One conversation.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn conversation(&self, id: ConversationId) -> Result<ConversationInfo, MailError> {
        let found = conversations::by_id(&self.profile.db, &self.profile.vault, id)?;
        self.conversation_info(&found.ok_or_else(|| MailError::Unknown(id.to_string()))?)
    }

    /// A conversation as the user sees it.
    pub(super) fn conversation_info(&self, conversation: &Conversation) -> Result<ConversationInfo, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let other = conversation.contact.map(|contact| contacts::by_row(db, vault, contact)).transpose()?;
        let undelivered = db
            .prepare_cached(
                "SELECT count(*) FROM message_out m WHERE conversation = ?1 AND state < 3
                    AND (sealed = 0 OR EXISTS (SELECT 1 FROM box_out b WHERE b.message = m.message))",
            )?
            .query_row([conversation.row], |row| row.get(0))?;
        let added_by = match conversation.contact {
            Some(_) => None,
            None => members::inviter(db, conversation.row)?,
        };
        let added_by = added_by.map(|contact| contacts::by_row(db, vault, contact)).transpose()?;
        let group_name = conversation.name.as_ref().map(|name| name.as_str().to_owned());
        Ok(ConversationInfo {
            id: conversation.id,
            group: conversation.contact.is_none(),
            name: group_name.or_else(|| other.as_ref().map(Contact::label)).unwrap_or_default(),
            address: other.as_ref().map(Contact::address),
            members: self.member_infos(conversation)?,
            // a request that was refused waits for nobody; that it was one keeps its founder from adding us again
            request: conversation.request && conversation.standing == Standing::Member,
            undelivered,
            standing: conversation.standing,
            quit: conversation.quit,
            added_by: added_by.map(|contact| contact.label()),
            broken: conversation.broken,
            epoch: conversation.epoch,
            generation: conversation.generation,
        })
    }

    fn member_infos(&self, conversation: &Conversation) -> Result<Vec<MemberInfo>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut infos = Vec::new();
        if conversation.standing != Standing::Removed {
            let address = self.address();
            let state = match conversation.standing {
                Standing::Member => MemberState::Member,
                Standing::Away => MemberState::Away,
                Standing::Left | Standing::Removed => MemberState::Leaving,
            };
            infos.push(MemberInfo { name: address.clone(), address, oneself: true, state });
        }
        let info = |contact: i64, state| -> Result<MemberInfo, MailError> {
            let contact = contacts::by_row(db, vault, contact)?;
            Ok(MemberInfo { name: contact.label(), address: contact.address(), oneself: false, state })
        };
        let waiting = group_changes::all(db, vault, conversation.row)?;
        let leaves = |contact: i64| {
            waiting.iter().any(|change| matches!(change.wanted, Wanted::Remove { contact: of } if of == contact))
        };
        let comes = |contact: i64| {
            waiting.iter().any(|change| matches!(change.wanted, Wanted::Readd { contact: of, .. } if of == contact))
        };
        for member in members::current(db, conversation.row)? {
            let state = if member.leaving || leaves(member.contact) {
                MemberState::Leaving
            } else if member.astray {
                if comes(member.contact) { MemberState::Wanted } else { MemberState::Apart }
            } else if member.lost {
                MemberState::Away
            } else if member.heard {
                MemberState::Member
            } else {
                MemberState::Invited
            };
            infos.push(info(member.contact, state)?);
        }
        for change in &waiting {
            if let Wanted::Add { contact, .. } = &change.wanted {
                infos.push(info(*contact, MemberState::Wanted)?);
            }
        }
        Ok(infos)
    }
}

/// The conversation, if messages may be given to it: where the own profile was away for too long they wait.
pub(super) fn accepts_messages(conversation: Conversation) -> Result<Conversation, MailError> {
    if conversation.standing == Standing::Away { Ok(conversation) } else { writable(conversation) }
}

/// The conversation, if anything may be changed in it.
fn writable(conversation: Conversation) -> Result<Conversation, MailError> {
    if conversation.broken {
        return Err(MailError::Broken(conversation.id));
    }
    if conversation.standing != Standing::Member {
        return Err(MailError::NotAMember(conversation.id));
    }
    Ok(conversation)
}

/// What was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A person.
    Contact(ContactInfo),
    /// A group.
    Group(ConversationInfo),
}
