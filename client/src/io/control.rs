//! What is spoken on the daemon's socket and printed with `--json`: one JSON object a line.
//!
//! A request is `{"id":1,"method":"send","params":{"to":"bob","text":"hi"}}`; its reply `{"id":1,"result":…}` or
//! `{"id":1,"error":{"code","message","next"}}`; after `subscribe`, events come as `{"event":…}`. Times are Unix
//! milliseconds. Field names are a contract: `client/README.md` lists them all.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;
use super::lines::{EventLine, MessageLine};

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
    /// The safety number of somebody, compared and noted as compared if that is asked → [`super::VerifyLine`].
    Verify {
        /// Name or address.
        who: String,
        /// What the other side sees: digits, words, or the content of its QR code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// Note that it was compared.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        confirm: bool,
    },
    /// Makes sure that the file of a message is at the path returned → [`super::PathLine`].
    OpenFile {
        /// The message.
        id: String,
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
    /// The profile's network → [`super::NetworkLine`].
    Network,
    /// Takes up the hints of a newer network file of the same network → [`super::NetworkLine`].
    NetworkUpdate {
        /// The file's text.
        file: String,
    },
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

#[cfg(test)]
mod tests {
    use super::super::failure::Exit;
    use super::super::lines::SentLine;
    use super::*;
    use crate::mail::MessageState;
    use proptest::prelude::*;
    use serde_json::json;

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
