//! What the user asks for. Each command is one transaction; what it promises is on disk when it returns.

use super::groups::{Accepted, accepts_messages};
use super::meant::Target;
use super::showing::safe_name;
use super::writing::Confirmed;
use super::{
    ContactInfo, ConversationInfo, Event, Mail, MailError, MessageId, MessageState, READ_CURSOR, ReceivedMessage,
    SentMessage, Standing, stored,
};
use crate::blobs::{BLOB_SIZE_MAX, Manifest, TEXT_SIZE_MAX};
use crate::contacts;
use crate::conversations::Conversation;
use crate::names::Name;
use crate::records::{BlobKind, Content, FILE_NAME_SIZE_MAX, MIME_SIZE_MAX};
use crate::{blobs_store, conversations, group_changes};
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use shoal_protocol::UnixMillis;
use shoal_protocol::invite::Introduction;
use zeroize::Zeroizing;

/// Own messages that may wait to be delivered to anybody: 10,000 boxes of 2 KB are 20 MB.
const MESSAGES_WAITING_MAX: u64 = 10_000;
/// Bytes of blobs that may wait to be delivered: 45 hours of writing at 1.5 boxes a second, four largest files.
const BLOB_BYTES_WAITING_MAX: u64 = 256 << 20;

impl Mail {
    /// Adds a contact by an address or an invite, or renames one. An invite is used at once: a conversation begins.
    ///
    /// # Errors
    /// When address, invite or name cannot be used.
    pub fn add(
        &mut self,
        name: &str,
        introduction: &str,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<ContactInfo, MailError> {
        let name = name.parse::<Name>()?;
        if self.names_a_group(&name)? {
            return Err(MailError::Name(name.as_str().to_owned(), "a group has it"));
        }
        if let Ok(Introduction::Invite(invite)) = introduction.parse() {
            return self.use_invite(&name, &invite, now, rng);
        }
        let inbox = *self.parse_address(introduction)?.inbox();
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let transaction = db.unchecked_transaction()?;
        let contact = match contacts::by_inbox(&transaction, vault, &inbox)? {
            Some(contact) => contact,
            None => contacts::insert(&transaction, vault, &inbox, true)?,
        };
        contacts::set_name(&transaction, vault, contact.row, &name)?;
        transaction.commit()?;
        // a stranger with a name is still a stranger: accepting tells the other side, and that is the user's word to say
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info.clone()));
        Ok(info)
    }

    /// The name that whoever has this address, or made this invite, has already.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn name_of(&self, introduction: &str) -> Result<Option<String>, MailError> {
        let inbox = match introduction.parse() {
            Ok(Introduction::Address(address)) => *address.inbox(),
            Ok(Introduction::Invite(invite)) => *invite.inbox(),
            Err(_) => return Ok(None),
        };
        Ok(contacts::by_inbox(&self.profile.db, &self.profile.vault, &inbox)?.and_then(|contact| contact.name))
    }

    /// The address book: people whom the user added, wrote to or blocked, and those with whom there is a conversation.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn contacts(&self) -> Result<Vec<ContactInfo>, MailError> {
        let mut infos = Vec::new();
        for contact in contacts::all(&self.profile.db, &self.profile.vault)? {
            let info = self.contact_info(contact.row)?;
            // people of a group whom the user does not know otherwise are listed with the group
            if contact.known || contact.blocked || contact.name.is_some() || info.conversation.is_some() {
                infos.push(info);
            }
        }
        Ok(infos)
    }

    /// Accepts what a stranger asked (and takes back a block): from now on the stranger's client is told what was shown
    /// here.
    ///
    /// # Errors
    /// When nobody is known by this name, address or conversation; of a group also when the user is not in it any more.
    pub fn accept(&mut self, who: &str, _now: UnixMillis, _rng: &mut impl CryptoRng) -> Result<Accepted, MailError> {
        let contact = match self.target(who)?.ok_or_else(|| MailError::Unknown(who.to_owned()))? {
            Target::Person(contact, _) => contact,
            Target::Group(conversation) if matches!(conversation.standing, Standing::Left | Standing::Removed) => {
                return Err(MailError::NotAMember(conversation.id));
            }
            Target::Group(conversation) => {
                conversations::accept_group(&self.profile.db, conversation.row)?;
                self.follow_again(std::slice::from_ref(&conversation))?;
                let accepted = conversations::by_row(&self.profile.db, &self.profile.vault, conversation.row)?;
                let info = self.conversation_info(&accepted)?;
                self.emit(Event::Group(info.clone()));
                return Ok(Accepted::Group(info));
            }
        };
        let transaction = self.profile.db.unchecked_transaction()?;
        contacts::set_known(&transaction, contact.row)?;
        contacts::set_blocked(&transaction, contact.row, false)?;
        conversations::accept(&transaction, contact.row)?;
        transaction.commit()?;
        self.follow_again(&conversations::of_contact(&self.profile.db, &self.profile.vault, contact.row)?)?;
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info.clone()));
        Ok(Accepted::Contact(info))
    }

    /// Wants nothing of somebody any more: nothing is read or sent, and what they write in groups is not shown. An address
    /// that is not known yet can be blocked too. A group of which a stranger made the user a member is refused.
    ///
    /// # Errors
    /// When nobody is meant, or a group that was accepted: that is left.
    pub fn block(&mut self, who: &str, _now: UnixMillis, rng: &mut impl CryptoRng) -> Result<Accepted, MailError> {
        let contact = match self.target(who)? {
            Some(Target::Person(contact, _)) => contact,
            Some(Target::Group(conversation)) if conversation.request => {
                return Ok(Accepted::Group(self.group_leave(&conversation.id.to_string(), rng)?));
            }
            Some(Target::Group(_)) => return Err(MailError::Group("leave the group instead: shoal group leave")),
            None => {
                let inbox = *self.parse_address(who).map_err(|_| MailError::Unknown(who.to_owned()))?.inbox();
                contacts::insert(&self.profile.db, &self.profile.vault, &inbox, false)?
            }
        };
        let transaction = self.profile.db.unchecked_transaction()?;
        contacts::set_blocked(&transaction, contact.row, true)?;
        contacts::set_wanted(&transaction, contact.row, None)?;
        self.take_back_adds(&transaction, contact.row, None)?;
        group_changes::delete_readds_of(&transaction, contact.row)?;
        let mut gone = Confirmed::default();
        if conversations::of_contact(&transaction, &self.profile.vault, contact.row)?.is_empty() {
            // an invite that is only being claimed; what it founded is kept, for a block may be taken back
            self.erase_used(&transaction, contact.row, &mut gone)?;
        }
        transaction.commit()?;
        self.confirmed(gone);
        let theirs = conversations::of_contact(&self.profile.db, &self.profile.vault, contact.row)?;
        self.memory.readers.retain(|_, reader| theirs.iter().all(|theirs| theirs.row != reader.conversation));
        for conversation in &theirs {
            self.memory.slots.remove(&conversation.row);
            self.memory.commits_due.remove(&conversation.row);
        }
        self.memory.cards.remove(&contact.row);
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info.clone()));
        Ok(Accepted::Contact(info))
    }

    /// All conversations.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn conversations(&self) -> Result<Vec<ConversationInfo>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        conversations::all(db, vault)?.iter().map(|conversation| self.conversation_info(conversation)).collect()
    }

    /// Sends a text to a contact, an address, a conversation or a group. It is queued, on disk, when this returns. Writing to
    /// somebody accepts them.
    ///
    /// # Errors
    /// When nobody is meant, the text is too long, too much waits, or the profile is an older copy of itself.
    pub fn send(
        &mut self,
        to: &str,
        text: &str,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<MessageId, MailError> {
        let id = fresh_id(rng);
        let content = Content::Text { id: id.0, sent_at: now, text: text.to_owned() };
        if content.fits() {
            return self.enqueue(to, id, content, None, now);
        }
        check_length(text.len() as u64, TEXT_SIZE_MAX)?;
        let manifest = Manifest::of(text.as_bytes(), *fresh_secret(rng));
        let content = Content::Blob { id: id.0, sent_at: now, kind: BlobKind::Text, manifest };
        let id = self.enqueue(to, id, content, Some(text.as_bytes()), now)?;
        self.keep_own_text(id, text)?;
        Ok(id)
    }

    /// Sends a file: its name (the last component counts), media type and content.
    ///
    /// # Errors
    /// As [`Mail::send`].
    pub fn send_file(
        &mut self,
        to: &str,
        name: &str,
        mime: &str,
        bytes: &[u8],
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<MessageId, MailError> {
        check_length(bytes.len() as u64, BLOB_SIZE_MAX)?;
        let id = fresh_id(rng);
        let name = safe_name(name).filter(|name| name.len() <= FILE_NAME_SIZE_MAX).unwrap_or_else(|| "file".to_owned());
        let mime = if mime.len() <= MIME_SIZE_MAX { mime.to_owned() } else { "application/octet-stream".to_owned() };
        let manifest = Manifest::of(bytes, *fresh_secret(rng));
        let content = Content::Blob { id: id.0, sent_at: now, kind: BlobKind::File { name, mime }, manifest };
        self.enqueue(to, id, content, Some(bytes), now)
    }

    fn enqueue(
        &mut self,
        to: &str,
        id: MessageId,
        content: Content,
        blob: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<MessageId, MailError> {
        if let Some(conversation) = self.rolled_back {
            return Err(MailError::RolledBack(conversation));
        }
        let waiting = stored::count_below(&self.profile.db, MessageState::Delivered)?;
        if waiting >= MESSAGES_WAITING_MAX {
            return Err(MailError::QueueFull { waiting, unit: "messages" });
        }
        if let Some(bytes) = blob {
            let waiting = blobs_store::waiting_bytes(&self.profile.db)?;
            if waiting.saturating_add(bytes.len() as u64) > BLOB_BYTES_WAITING_MAX {
                return Err(MailError::QueueFull { waiting, unit: "bytes" });
            }
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let transaction = db.unchecked_transaction()?;
        let target = match self.target(to)? {
            Some(target) => target,
            None => {
                let inbox = *self.parse_address(to)?.inbox();
                Target::Person(contacts::insert(&transaction, vault, &inbox, true)?, None)
            }
        };
        let (contact, conversation) = match target {
            Target::Person(contact, _) if contact.blocked => return Err(MailError::Blocked(contact.label())),
            Target::Person(contact, conversation) => (Some(contact), conversation),
            Target::Group(conversation) => (None, Some(conversation)),
        };
        let conversation = conversation.map(accepts_messages).transpose()?;
        match (&contact, &conversation) {
            (Some(contact), conversation) => {
                contacts::set_known(&transaction, contact.row)?;
                conversations::accept(&transaction, contact.row)?;
                if conversation.is_none() && contact.wanted_at.is_none() {
                    contacts::set_wanted(&transaction, contact.row, Some(now))?;
                }
            }
            (None, Some(group)) => conversations::accept_group(&transaction, group.row)?,
            (None, None) => {}
        }
        let blob = match (&content, blob) {
            (Content::Blob { manifest, .. }, Some(bytes)) => {
                Some(blobs_store::insert_out(&transaction, vault, manifest, bytes)?)
            }
            _ => None,
        };
        let [contact_row, conversation_row] =
            [contact.as_ref().map(|contact| contact.row), conversation.as_ref().map(|conversation| conversation.row)];
        stored::insert_out(&transaction, vault, id, contact_row, conversation_row, &content, blob)?;
        transaction.commit()?;

        match (conversation, contact_row) {
            (Some(conversation), contact) => {
                self.memory.unsealed = true;
                if conversation.request {
                    self.follow_again(std::slice::from_ref(&conversation))?;
                    match contact {
                        Some(contact) => {
                            let info = self.contact_info(contact)?;
                            self.emit(Event::Contact(info));
                        }
                        None => self.tell_group(conversation.row)?,
                    }
                }
            }
            (None, Some(contact)) => {
                self.look_for_card(contact, now)?;
            }
            (None, None) => {}
        }
        self.emit(Event::State { id, state: MessageState::Queued });
        Ok(id)
    }

    /// Others' messages after a cursor (0: from the first), in reading order, at most `limit`.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn messages(&self, after: u64, limit: usize) -> Result<Vec<ReceivedMessage>, MailError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = limit.min(10_000);
        self.received(&format!("WHERE cursor > ?1 ORDER BY cursor LIMIT {limit}"), after)
    }

    /// The cursor of a received message.
    ///
    /// # Errors
    /// [`MailError::NoMessage`].
    pub fn cursor_of(&self, id: MessageId) -> Result<u64, MailError> {
        self.profile
            .db
            .prepare_cached("SELECT max(cursor) FROM message_in WHERE id = ?1")?
            .query_row([stored::seal_in_id(&self.profile.vault, id)], |row| row.get::<_, Option<u64>>(0))
            .optional()?
            .flatten()
            .ok_or(MailError::NoMessage(id))
    }

    /// How far plain `read` has shown messages.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn read_cursor(&self) -> Result<u64, MailError> {
        let stored = self.profile.setting(READ_CURSOR)?;
        let bytes = stored.as_ref().and_then(|bytes| bytes.as_slice().try_into().ok());
        Ok(bytes.map_or(0, u64::from_be_bytes))
    }

    /// Moves that cursor on, once its messages are out. Never back.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn set_read_cursor(&mut self, cursor: u64) -> Result<(), MailError> {
        let before = self.read_cursor()?;
        // beyond the last message it would hide what is yet to come
        let cursor = cursor.min(self.newest_cursor()?);
        if cursor > before {
            let transaction = self.profile.db.unchecked_transaction()?;
            self.see_read(&transaction, before..=cursor)?;
            self.profile.set_setting(READ_CURSOR, &cursor.to_be_bytes())?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// The place of the newest message that was shown.
    fn newest_cursor(&self) -> Result<u64, MailError> {
        let mut newest = self.profile.db.prepare_cached("SELECT coalesce(max(cursor), 0) FROM message_in")?;
        Ok(newest.query_row([], |row| row.get(0))?)
    }

    /// Where an own message stands.
    ///
    /// # Errors
    /// [`MailError::NoMessage`].
    pub fn state(&self, id: MessageId) -> Result<SentMessage, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let message = stored::out_by_id(db, vault, id)?.ok_or(MailError::NoMessage(id))?;
        let conversation = message.conversation.map(|row| conversations::by_row(db, vault, row)).transpose()?;
        let sent_at = match &message.content {
            Content::Text { sent_at, .. } | Content::Blob { sent_at, .. } => *sent_at,
            Content::Receipt
            | Content::End { .. }
            | Content::Proof { .. }
            | Content::Leave { .. }
            | Content::Cancel { .. } => UnixMillis(0),
        };
        let group = conversation.as_ref().and_then(|found| found.name.as_ref()).map(|name| name.as_str().to_owned());
        let to = match (message.contact, group) {
            (Some(contact), _) => contacts::by_row(db, vault, contact)?.label(),
            (None, group) => group.unwrap_or_default(),
        };
        let away = conversation.as_ref().is_some_and(|found| found.standing == Standing::Away);
        let conversation = conversation.map(|found| found.id);
        Ok(SentMessage { id, conversation, to, state: message.state, away, sent_at })
    }

    /// Of an own file or long text: how many of its boxes both replicas have, and how many it has. `None`: it has none.
    ///
    /// # Errors
    /// [`MailError::NoMessage`].
    pub fn parts(&self, id: MessageId) -> Result<Option<(u64, u64)>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let message = stored::out_by_id(db, vault, id)?.ok_or(MailError::NoMessage(id))?;
        if message.state == MessageState::Cancelled {
            return Ok(None);
        }
        let Content::Blob { manifest, .. } = &message.content else { return Ok(None) };
        let all = manifest.boxes();
        let waiting = message.blob.and_then(|row| self.memory.blobs_out.get(&row)).map(|blob| blob.queue.open() as u64);
        let none = if message.state >= MessageState::Stored { 0 } else { all };
        Ok(Some((all.saturating_sub(waiting.unwrap_or(none)), all)))
    }

    /// Requests of strangers, and to groups, that the user has not answered.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn requests(&self) -> Result<u64, MailError> {
        conversations::unanswered(&self.profile.db)
    }

    /// Own messages that not both replicas have yet.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn queue_length(&self) -> Result<u64, MailError> {
        stored::count_below(&self.profile.db, MessageState::Stored)
    }

    /// Memory follows an acceptance: chains are read, and are no requests.
    pub(super) fn follow_again(&mut self, accepted: &[Conversation]) -> Result<(), MailError> {
        for conversation in accepted {
            self.refollow(conversation.row)?;
        }
        self.memory.plan = true;
        let accepted = blobs_store::all_in(&self.profile.db, &self.profile.vault)?;
        for (incoming, _) in accepted.into_iter().filter(|(incoming, _)| !incoming.stranger) {
            if let Some(blob) = self.memory.blobs_in.get_mut(&incoming.row) {
                blob.incoming.stranger = false;
            }
        }
        self.memory.unsealed = true;
        Ok(())
    }
}

pub(super) fn fresh_id(rng: &mut impl CryptoRng) -> MessageId {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    MessageId(id)
}

fn fresh_secret(rng: &mut impl CryptoRng) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *secret);
    secret
}

fn check_length(length: u64, limit: u64) -> Result<(), MailError> {
    if length > limit { Err(MailError::TooLong { length, limit }) } else { Ok(()) }
}
