//! Who is meant by what the user writes: a name, an address, a conversation; and which names are free.

use super::{ConversationId, Mail, MailError, Standing};
use crate::contacts::{self, Contact};
use crate::conversations::{self, Conversation};
use crate::group_changes::{self, Wanted};
use crate::invites as own_invites;
use crate::names::Name;
use shoal_protocol::address::Address;

/// Who is meant.
pub(super) enum Target {
    /// Somebody, and the conversation of two to write to.
    Person(Contact, Option<Conversation>),
    /// A group.
    Group(Conversation),
}

impl Mail {
    /// Groups of a name that the user writes to or may write to; one that a stranger named, and that nobody has accepted,
    /// takes no name.
    fn groups_called(&self, name: &Name) -> Result<impl Iterator<Item = Conversation>, MailError> {
        let groups = conversations::groups_named(&self.profile.db, &self.profile.vault, name.as_str())?;
        let there =
            |group: &Conversation| matches!(group.standing, Standing::Member | Standing::Away) && !group.request;
        Ok(groups.into_iter().filter(there))
    }

    /// Whether a name is a group's: a contact of the same name would get its messages.
    pub(super) fn names_a_group(&self, name: &Name) -> Result<bool, MailError> {
        Ok(self.groups_called(name)?.next().is_some())
    }

    /// Whether the user may call a group so: by a name that is somebody else's too, one of the two is not meant.
    pub(super) fn free_for_group(&self, name: &Name, group: Option<i64>) -> Result<(), MailError> {
        let taken = |what| Err(MailError::Name(name.as_str().to_owned(), what));
        if contacts::by_name(&self.profile.db, &self.profile.vault, name.as_str())?.is_some() {
            return taken("a contact has it");
        }
        if self.groups_called(name)?.any(|other| Some(other.row) != group) {
            return taken("another group has it");
        }
        Ok(())
    }

    pub(super) fn parse_address(&self, text: &str) -> Result<Address, MailError> {
        let Ok(address) = text.parse::<Address>() else {
            let invites = own_invites::all_made(&self.profile.db, &self.profile.vault)?;
            let invited = invites.iter().any(|made| made.name.as_ref().is_some_and(|name| name.as_str() == text));
            return Err(if invited {
                MailError::Invited(text.to_owned())
            } else {
                MailError::Unknown(text.to_owned())
            });
        };
        if self.profile.own.is_own(address.inbox()) { Err(MailError::Oneself) } else { Ok(address) }
    }

    /// Groups to which the user has given a name that the others do not know yet.
    fn to_be_called(&self, name: &str) -> Result<Vec<Conversation>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut groups = conversations::all(db, vault)?;
        let mut called = Vec::new();
        groups.retain(|group| group.contact.is_none());
        for group in groups {
            let changes = group_changes::all(db, vault, group.row)?;
            let so = |wanted: &Wanted| matches!(wanted, Wanted::Rename { name: new } if new.as_str() == name);
            if changes.iter().any(|change| so(&change.wanted)) {
                called.push(group);
            }
        }
        Ok(called)
    }

    /// Who is meant by a name, an address or a conversation. A contact's name goes before a group's; of a group's that several
    /// have nobody can be meant.
    pub(super) fn target(&self, who: &str) -> Result<Option<Target>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        if let Ok(id) = who.parse::<ConversationId>()
            && let Some(conversation) = conversations::by_id(db, vault, id)?
        {
            return Ok(Some(match conversation.contact {
                Some(contact) => Target::Person(contacts::by_row(db, vault, contact)?, Some(conversation)),
                None => Target::Group(conversation),
            }));
        }
        let contact = match who.parse::<Address>() {
            Ok(address) => contacts::by_inbox(db, vault, address.inbox())?,
            Err(_) => contacts::by_name(db, vault, who)?,
        };
        if let Some(contact) = contact {
            let conversation = conversations::of_contact(db, vault, contact.row)?.into_iter().next();
            return Ok(Some(Target::Person(contact, conversation)));
        }
        let mut groups = conversations::groups_named(db, vault, who)?;
        if groups.is_empty() {
            groups = self.to_be_called(who)?;
        }
        let gone = groups.last().cloned();
        groups.retain(|group| matches!(group.standing, Standing::Member | Standing::Away));
        if groups.iter().any(|group| !group.request) {
            // a stranger gives a group what name they like
            groups.retain(|group| !group.request);
        }
        match groups.len() {
            // one that we were in is named too: what cannot be done there is said then
            0 | 1 => Ok(groups.pop().or(gone).map(Target::Group)),
            _ => {
                Err(MailError::Group("several groups have this name; name it by its id, as shoal group list shows it"))
            }
        }
    }
}
