//! What is spoken on the daemon's socket and printed with `--json`: one JSON object a line.
//!
//! A request is `{"id":1,"method":"send","params":{"to":"bob","text":"hi"}}`; its reply `{"id":1,"result":…}` or
//! `{"id":1,"error":{"code","message","next"}}`; after `subscribe`, events come as `{"event":…}`. Times are Unix
//! milliseconds. Field names are a contract: `client/README.md` lists them all.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use shoal_protocol::address::Address;

use crate::mail::{
    ContactInfo, ConversationInfo, Event, MailError, MessageState, NotAnId, ReceivedMessage, SentMessage,
};

/// How a process ends, by what the caller can do (values of `sysexits.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// 64: asked wrongly; asking again the same way is no use.
    Usage,
    /// 69: daemon or network cannot be reached.
    Unreachable,
    /// 74: a file or profile is missing or cannot be read, disk or pipe failed.
    Io,
    /// 75: not now; try again later.
    Temporary,
    /// 77: not allowed.
    Permission,
    /// 78: profile or network file says what cannot be used.
    Configuration,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }
}

/// Why something failed, for programs (`code`) and people (`message`, `next`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable, lower case, words joined by `_`.
    pub code: String,
    /// What is wrong, and where.
    pub message: String,
    /// What to do next.
    pub next: String,
    /// How a command that meets it ends. Not printed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<Exit>,
}

impl Failure {
    /// A failure with all its parts.
    #[must_use]
    pub fn new(exit: Exit, code: &str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next: next.into(), exit: Some(exit) }
    }

    /// As it is printed: `{"error":{"code","message","next"}}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::json!({ "error": { "code": self.code, "message": self.message, "next": self.next } })
    }
}

impl From<NotAnId> for Failure {
    fn from(error: NotAnId) -> Self {
        Self::new(Exit::Usage, "bad_id", error.to_string(), "take the id as `send` or `read` printed it")
    }
}

impl From<MailError> for Failure {
    fn from(error: MailError) -> Self {
        // what begins like an address was meant as one: say what is wrong with it
        if let MailError::Unknown(text) = &error
            && text.trim().to_lowercase().starts_with("shoal1")
            && let Err(mistake) = text.parse::<Address>()
        {
            let next = "copy the whole address from whoever gave it to you";
            return Self::new(Exit::Usage, "bad_address", mistake.to_string(), next);
        }
        let message = error.to_string();
        let (exit, code, next) = match &error {
            MailError::Locked(_) => (Exit::Temporary, "profile_in_use", "stop the other process: shoal down"),
            MailError::Exists(_) => {
                (Exit::Configuration, "profile_exists", "use it, or name another folder with --profile DIR")
            }
            MailError::Missing(_) => (Exit::Io, "no_profile", "make one: shoal init --network FILE"),
            MailError::Newer { .. } => (Exit::Configuration, "profile_too_new", "install the newer version of shoal"),
            MailError::Damaged(_) => (Exit::Io, "profile_damaged", "check the disk; restore the profile's folder"),
            MailError::RolledBack(_) => {
                (Exit::Temporary, "rolled_back", "ask the contact to add you again; this copy must not send")
            }
            MailError::Broken(_) => {
                (Exit::Temporary, "conversation_broken", "agree with the contact on a new beginning")
            }
            MailError::Unknown(_) => (Exit::Usage, "unknown_contact", "see shoal contacts, or shoal add NAME ADDRESS"),
            MailError::Name(..) => (Exit::Usage, "bad_name", "choose another name"),
            MailError::Blocked(_) => (Exit::Permission, "blocked", "unblock with shoal accept first"),
            MailError::Oneself => (Exit::Usage, "own_address", "give the address of another person"),
            MailError::TooLong { .. } => (Exit::Usage, "too_long", "send it in parts"),
            MailError::QueueFull { .. } => (Exit::Temporary, "queue_full", "wait until some of it has arrived"),
            MailError::NoMessage(_) => (Exit::Usage, "unknown_message", "take the id as it was printed"),
            MailError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                (Exit::Permission, "permission_denied", "run as the owner of the profile")
            }
            MailError::Database(_) | MailError::Io { .. } => {
                (Exit::Io, "io", "check the disk's space and the profile's folder")
            }
            MailError::Mls(_) => (Exit::Io, "conversation_state", "run again with SHOAL_LOG=debug and report it"),
            MailError::Network(_) => {
                (Exit::Configuration, "bad_network_file", "ask whoever gave it to you for another")
            }
        };
        Self::new(exit, code, message, next)
    }
}

/// What can be asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Call {
    /// The own address → `{"address"}`.
    Address,
    /// Adds or renames a contact → contact.
    Add {
        /// The name to give.
        name: String,
        /// `shoal1…`.
        address: String,
    },
    /// → list of contacts.
    Contacts,
    /// → list of conversations.
    Conversations,
    /// Accepts a stranger's request → contact.
    Accept {
        /// Name, address or conversation.
        who: String,
    },
    /// Wants nothing more from somebody → contact.
    Block {
        /// Name, address or conversation.
        who: String,
    },
    /// Queues a text → `{"id","state"}`.
    Send {
        /// Contact, address or conversation.
        to: String,
        /// Any text, also an empty one.
        text: String,
    },
    /// Queues a file → `{"id","state"}`.
    SendFile {
        /// Contact, address or conversation.
        to: String,
        /// Absolute path of the file; the daemon reads it.
        path: PathBuf,
    },
    /// Messages of others → [`Page`].
    Read {
        /// After this message; else after the cursor `after`; else after the stored cursor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// After this cursor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    /// Moves the stored cursor, after what was read has been shown → `{}`.
    ReadDone {
        /// Cursor of the last message shown.
        cursor: u64,
    },
    /// Where an own message stands → `{"id","state"}`.
    State {
        /// The message.
        id: String,
    },
    /// → [`super::Status`].
    Status,
    /// Events from now on → `{}`, then `{"event":…}` lines.
    Subscribe,
    /// Stops the daemon → `{}`; the connection ends when it has stopped.
    Shutdown,
}

/// A call and the number that its reply will carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// What the daemon writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// Something happened.
    Event {
        /// What.
        event: EventLine,
    },
    /// A call failed.
    Error {
        /// Of the request; `null` when the line was no request.
        id: Option<u64>,
        /// Why.
        error: Failure,
    },
    /// A call succeeded.
    Result {
        /// Of the request.
        id: u64,
        /// What was asked for.
        result: Value,
    },
}

/// An own message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentLine {
    /// The same at the reader.
    pub id: String,
    /// How far it has come.
    pub state: MessageState,
    /// What has to happen for it to come further; not in events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<WaitsFor>,
    /// Of a file or long text: how much of it is written; only in answers to [`Call::State`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

/// How far the boxes of a file or long text have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Boxes that both stores have.
    pub written: u64,
    /// Boxes in all.
    pub all: u64,
}

/// What an own message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitsFor {
    /// The other side's card: their client has to run once.
    Card,
    /// A tick of the schedule, and that nothing has paused it.
    Turn,
    /// That two stores answer.
    Stores,
    /// The other side's client: it has to run, and the other side to accept.
    Reader,
}

impl From<SentMessage> for SentLine {
    fn from(message: SentMessage) -> Self {
        let waits_for = match (message.state, message.conversation) {
            (MessageState::Queued, None) => Some(WaitsFor::Card),
            (MessageState::Queued, Some(_)) => Some(WaitsFor::Turn),
            (MessageState::Sent, _) => Some(WaitsFor::Stores),
            (MessageState::Stored, _) => Some(WaitsFor::Reader),
            (MessageState::Delivered, _) => None,
        };
        Self { id: message.id.to_string(), state: message.state, waits_for, parts: None }
    }
}

/// A file of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// Its name, a plain file name.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Where it lies, whole.
    pub path: PathBuf,
}

/// A message of somebody else, as `read --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageLine {
    /// The same at the writer.
    pub id: String,
    /// Name of the contact, or address of a stranger.
    pub from: String,
    /// The same at every member.
    pub conversation: String,
    /// The text, byte for byte.
    pub text: String,
    /// The file, or `null`.
    pub file: Option<FileLine>,
    /// When the sender says it was sent, in Unix ms.
    pub sent_at: u64,
    /// When it was whole here, in Unix ms.
    pub received_at: u64,
    /// `true`, and only then present, while the sender is a stranger who was not accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub request: bool,
}

impl From<ReceivedMessage> for MessageLine {
    fn from(message: ReceivedMessage) -> Self {
        Self {
            id: message.id.to_string(),
            from: message.from,
            conversation: message.conversation.to_string(),
            text: message.text,
            file: message.file.map(|file| FileLine { name: file.name, size: file.size, path: file.path }),
            sent_at: message.sent_at.0,
            received_at: message.received_at.0,
            request: message.request,
        }
    }
}

/// Some messages, in reading order; when `entries` is empty there are no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The messages, each with its cursor.
    pub entries: Vec<PageEntry>,
}

/// A message and the cursor that stands after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageEntry {
    /// For [`Call::Read`] and [`Call::ReadDone`].
    pub cursor: u64,
    /// The message.
    pub message: MessageLine,
}

/// A contact, as `contacts --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactLine {
    /// The given name, else the address.
    pub name: String,
    /// `shoal1…`.
    pub address: String,
    /// The conversation of two, or `null`.
    pub conversation: Option<String>,
    /// A stranger who waits to be accepted.
    pub request: bool,
    /// Nothing is wanted from this contact.
    pub blocked: bool,
    /// Since when messages wait for the contact's card, in Unix ms, or `null`.
    #[serde(default)]
    pub waiting_since: Option<u64>,
}

impl From<ContactInfo> for ContactLine {
    fn from(contact: ContactInfo) -> Self {
        Self {
            name: contact.name,
            address: contact.address,
            conversation: contact.conversation.map(|id| id.to_string()),
            request: contact.request,
            blocked: contact.blocked,
            waiting_since: None,
        }
    }
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationLine {
    /// The same at every member.
    pub conversation: String,
    /// The other member.
    pub with: String,
    /// The other member's address.
    pub address: String,
    /// An unanswered request of a stranger.
    pub request: bool,
    /// Own messages that are not delivered yet.
    pub undelivered: u64,
    /// The members went on from different states and cannot read each other any more: begin anew.
    pub broken: bool,
}

impl From<ConversationInfo> for ConversationLine {
    fn from(conversation: ConversationInfo) -> Self {
        Self {
            conversation: conversation.id.to_string(),
            with: conversation.with,
            address: conversation.address,
            request: conversation.request,
            undelivered: conversation.undelivered,
            broken: conversation.broken,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLine {
    /// An own message came further.
    State(SentLine),
    /// A message came in.
    Message(MessageLine),
    /// A contact changed.
    Contact(ContactLine),
    /// Something the user should know.
    Warning {
        /// Stable.
        code: String,
        /// For people.
        message: String,
    },
    /// The listener was too slow and so many events are lost to it: ask anew for what matters.
    Missed(u64),
}

impl From<Event> for EventLine {
    fn from(event: Event) -> Self {
        match event {
            Event::State { id, state } => {
                Self::State(SentLine { id: id.to_string(), state, waits_for: None, parts: None })
            }
            Event::Received(message) => Self::Message(message.into()),
            Event::Contact(contact) => Self::Contact(contact.into()),
            Event::Warning { code, message } => Self::Warning { code: code.to_owned(), message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{ConversationId, MessageId, ReceivedFile};
    use proptest::prelude::*;
    use serde_json::json;
    use shoal_protocol::UnixMillis;

    fn received() -> ReceivedMessage {
        ReceivedMessage {
            cursor: 7,
            id: MessageId([1; 16]),
            from: "ann".to_owned(),
            address: "shoal1x".to_owned(),
            conversation: ConversationId([2; 16]),
            request: false,
            text: "שלום 🐟".to_owned(),
            file: None,
            sent_at: UnixMillis(1_750_000_000_000),
            received_at: UnixMillis(1_750_000_001_000),
        }
    }

    #[test]
    fn a_message_line_has_exactly_the_agreed_fields() {
        let line = serde_json::to_string(&MessageLine::from(received())).unwrap();
        assert_eq!(
            line,
            r#"{"id":"01010101010101010101010101010101","from":"ann","conversation":"02020202020202020202020202020202","text":"שלום 🐟","file":null,"sent_at":1750000000000,"received_at":1750000001000}"#
        );
        let file = ReceivedFile { name: "a.png".into(), mime: "image/png".into(), size: 3, path: "/p/a.png".into() };
        let stranger = ReceivedMessage { request: true, file: Some(file), ..received() };
        let value = serde_json::to_value(MessageLine::from(stranger)).unwrap();
        assert_eq!(value["request"], json!(true));
        assert_eq!(value["file"], json!({"name": "a.png", "size": 3, "path": "/p/a.png"}));
    }

    #[test]
    fn calls_have_the_documented_form() {
        for (text, call) in [
            (r#"{"id":1,"method":"address"}"#, Call::Address),
            (
                r#"{"id":1,"method":"send","params":{"to":"bob","text":""}}"#,
                Call::Send { to: "bob".into(), text: String::new() },
            ),
            (r#"{"id":1,"method":"read","params":{}}"#, Call::Read { since: None, after: None }),
            (r#"{"id":1,"method":"read_done","params":{"cursor":9}}"#, Call::ReadDone { cursor: 9 }),
            (r#"{"id":1,"method":"subscribe"}"#, Call::Subscribe),
        ] {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), Request { id: 1, call });
        }
        assert!(serde_json::from_str::<Request>(r#"{"id":1,"method":"format_disk"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"method":"address"}"#).is_err());
    }

    #[test]
    fn replies_are_told_apart() {
        let failure = Failure::new(Exit::Usage, "bad", "wrong", "do right");
        for reply in [
            Reply::Result { id: 3, result: json!({"address": "shoal1x"}) },
            Reply::Result { id: 3, result: Value::Null },
            Reply::Error { id: Some(3), error: failure.clone() },
            Reply::Error { id: None, error: failure },
            Reply::Event {
                event: EventLine::State(SentLine {
                    id: "x".into(),
                    state: MessageState::Stored,
                    waits_for: None,
                    parts: None,
                }),
            },
            Reply::Event { event: EventLine::Missed(2) },
        ] {
            let text = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply, "{text}");
        }
    }

    #[test]
    fn a_failure_prints_three_fields_and_knows_its_exit_code() {
        let failure = Failure::from(MailError::Unknown("zoe".into()));
        let printed = failure.to_json();
        let fields: Vec<&String> = printed["error"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["code", "message", "next"]);
        assert_eq!(failure.exit.unwrap().code(), 64);
        assert_eq!(Failure::from(MailError::Missing("/x".into())).exit.unwrap().code(), 74);
    }

    proptest! {
        #[test]
        fn any_text_survives_the_socket(to in ".*", text in "(?s).{0,300}", id: u64) {
            let request = Request { id, call: Call::Send { to, text } };
            let line = serde_json::to_string(&request).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }

        #[test]
        fn any_line_is_parsed_or_refused(line in "(?s).{0,200}") {
            let _ = serde_json::from_str::<Request>(&line);
            let _ = serde_json::from_str::<Reply>(&line);
        }
    }
}
