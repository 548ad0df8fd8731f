//! Received messages as the user sees them, and what is safe to take from a sender's manifest.

use super::stored::Received;
use super::{Event, Mail, MailError, MessageId, ReceivedFile, ReceivedMessage, conversations, stored};
use crate::blobs::Manifest;
use crate::contacts;
use crate::profile::received_files::Place;
use crate::records::BlobKind;
use rusqlite::Connection;
use shoal_protocol::UnixMillis;
use std::path::PathBuf;

impl Mail {
    /// Tells listeners of messages that were released.
    pub(super) fn announce(&mut self, released: Vec<i64>) -> Result<(), MailError> {
        for row in released {
            let message = self.received("WHERE message = ?1", row)?;
            for message in message {
                self.emit(Event::Received(message));
            }
        }
        Ok(())
    }

    /// Makes sure that the file of a received message is whole at the path returned, for as long as the profile is open: one
    /// that is sealed at rest lies there as a copy.
    ///
    /// # Errors
    /// [`MailError::NoMessage`] if there is no such message, or it has no file; what the disk says.
    pub fn open_file(&self, id: MessageId) -> Result<PathBuf, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let mut statement = db.prepare_cached(
            "SELECT conversation, content FROM message_in WHERE id = ?1 AND cursor IS NOT NULL ORDER BY cursor DESC",
        )?;
        let rows = statement
            .query_map([stored::seal_in_id(vault, id)], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(i64, Vec<u8>)>, _>>()?;
        for (conversation, content) in rows {
            if let Received::File { name, .. } = stored::open_in(vault, &content)? {
                let conversation = conversations::by_row(db, vault, conversation)?.id;
                return self.profile.files.hand_out(&Place { conversation, message: id, name }, vault);
            }
        }
        Err(MailError::NoMessage(id))
    }

    /// Has copies of sealed files made in another folder, which must be nobody else's: what lies there is removed.
    ///
    /// # Errors
    /// When the folder cannot be emptied.
    pub fn set_copies(&mut self, folder: PathBuf) -> Result<(), MailError> {
        self.profile.files.set_copies(folder)
    }

    /// Messages by a condition on one number, as the user sees them.
    pub(super) fn received(&self, condition: &str, number: i64) -> Result<Vec<ReceivedMessage>, MailError> {
        received(&self.profile.db, self, condition, number)
    }
}

fn received(db: &Connection, mail: &Mail, condition: &str, number: i64) -> Result<Vec<ReceivedMessage>, MailError> {
    let vault = &mail.profile.vault;
    let mut statement = db.prepare_cached(&format!(
        "SELECT conversation, contact, id, content, received_at, cursor FROM message_in {condition}"
    ))?;
    let rows = statement
        .query_map([number], |row| {
            let numbers: (i64, i64, u64, Option<u64>) = (row.get(0)?, row.get(1)?, row.get(4)?, row.get(5)?);
            Ok((numbers, row.get::<_, Vec<u8>>(2)?, row.get::<_, Vec<u8>>(3)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let mut messages = Vec::with_capacity(rows.len());
    for ((conversation, contact, received_at, cursor), id, content) in rows {
        let Some(cursor) = cursor else { continue };
        let conversation = conversations::by_row(db, vault, conversation)?;
        let contact = contacts::by_row(db, vault, contact)?;
        let content = stored::open_in(vault, &content)?;
        let id = stored::open_in_id(vault, &id)?;
        let sent_at = content.sent_at();
        let (text, file) = match content {
            Received::Text { text, .. } => (text, None),
            Received::HeldText { .. } => (String::new(), None),
            Received::File { name, mime, size, .. } => {
                let place = Place { conversation: conversation.id, message: id, name };
                let path = mail.profile.files.path(&place);
                (String::new(), Some(ReceivedFile { name: place.name, mime, size, path }))
            }
        };
        messages.push(ReceivedMessage {
            cursor,
            id,
            from: contact.label(),
            address: contact.address(),
            conversation: conversation.id,
            group: conversation.name.as_ref().map(|name| name.as_str().to_owned()),
            request: conversation.request,
            text,
            file,
            sent_at,
            received_at: UnixMillis(received_at),
        });
    }
    Ok(messages)
}

/// What is kept of a message whose content is still to be fetched.
pub(super) fn held(sent_at: UnixMillis, kind: BlobKind, manifest: &Manifest, id: MessageId) -> Received {
    match kind {
        BlobKind::Text => Received::HeldText { sent_at },
        BlobKind::File { name, mime } => {
            let name = safe_name(&name).unwrap_or_else(|| id.to_string());
            Received::File { sent_at, name, mime: safe_mime(&mime), size: manifest.length() }
        }
    }
}

/// A file name reduced to a harmless last component: no separators, no control characters, no leading dot, no tricks
/// with writing direction; at most 200 bytes. `None` when nothing is left.
pub(super) fn safe_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let turns =
        |letter: char| matches!(letter, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut safe = String::new();
    for letter in last.chars().filter(|letter| !letter.is_control() && !turns(*letter) && *letter != ':') {
        if safe.len() + letter.len_utf8() > 200 {
            break;
        }
        safe.push(letter);
    }
    let safe = safe.trim().trim_start_matches('.').trim().to_owned();
    (!safe.is_empty()).then_some(safe)
}

fn safe_mime(mime: &str) -> String {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "/+-._".contains(letter);
    if mime.chars().all(allowed) && mime.contains('/') {
        mime.to_owned()
    } else {
        "application/octet-stream".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_lose_what_could_hurt() {
        assert_eq!(safe_name("../../etc/passwd").as_deref(), Some("passwd"));
        assert_eq!(safe_name("C:\\a\\b.txt").as_deref(), Some("b.txt"));
        assert_eq!(safe_name(".bashrc").as_deref(), Some("bashrc"));
        assert_eq!(safe_name("sea\u{202e}gpj.exe").as_deref(), Some("seagpj.exe"));
        assert_eq!(safe_name("..").as_deref(), None);
        assert_eq!(safe_name("a/").as_deref(), None);
        assert_eq!(safe_name("שלום 🐟.png").as_deref(), Some("שלום 🐟.png"));
    }

    proptest! {
        #[test]
        fn a_safe_name_is_one_component(name in ".{0,300}") {
            if let Some(safe) = safe_name(&name) {
                prop_assert!(safe.len() <= 200 && !safe.contains(['/', '\\', '\0']) && !safe.starts_with('.'));
                prop_assert_eq!(safe_name(&safe), Some(safe.clone()));
            }
        }
    }
}
