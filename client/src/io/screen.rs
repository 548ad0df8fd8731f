//! What is said of conversations to whoever draws a screen: entries, overviews, estimates.

use serde::{Deserialize, Serialize};

use super::lines::{FileLine, MessageLine, Parts, SentLine, WaitsFor};
use crate::mail::{MessageState, Overview, OwnMessage, Timeline, TimelineEntry, TimelineMessage};

/// Some entries of a conversation, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelinePage {
    /// The entries.
    pub entries: Vec<EntryLine>,
    /// There are more on the side that was asked for.
    pub more: bool,
    /// Cursor up to which the user has seen the conversation.
    pub seen: u64,
}

/// A message in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryLine {
    /// Its place: strictly increasing over all conversations, never reused.
    pub cursor: u64,
    /// The same at writer and reader.
    pub id: String,
    /// Whether the user wrote it.
    pub own: bool,
    /// Who wrote it: a contact's name, a stranger's address; `null` of an own one.
    pub from: Option<String>,
    /// The text, byte for byte; empty for a file.
    pub text: String,
    /// The file, or `null`. Of an own one `path` is `null`: what was in it is not kept.
    pub file: Option<EntryFile>,
    /// When its writer says it was sent, in Unix ms.
    pub sent_at: u64,
    /// When it was whole here, in Unix ms; `null` of an own one.
    pub received_at: Option<u64>,
    /// How far an own one has come, else `null`.
    pub state: Option<MessageState>,
    /// What an own one waits for, or `null`.
    pub waits_for: Option<WaitsFor>,
    /// Of an own file or long text, how much is written, or `null`.
    pub parts: Option<Parts>,
    /// The writer is a stranger who was not accepted.
    pub request: bool,
}

/// A file in a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFile {
    /// Its name, a plain file name.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Where it lies, whole, or `null`.
    pub path: Option<std::path::PathBuf>,
}

/// A conversation at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverviewLine {
    /// The conversation; while there is none yet, the address of the contact whose card is waited for.
    pub conversation: String,
    /// There is none yet.
    pub waiting: bool,
    /// Others' messages after the `seen` cursor, 1,000 at most.
    pub unseen: u64,
    /// The newest entry.
    pub newest: EntryLine,
}

/// About how long a message would take now: sums of mean waits, not promises. Both are `null` without a document of the
/// network, and while the reader's card is not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstimateLine {
    /// Until two stores have it, in ms.
    pub stored_ms: Option<u64>,
    /// Until the reader's client has it, if it is online, in ms.
    pub arrives_ms: Option<u64>,
}

impl From<TimelineEntry> for EntryLine {
    fn from(entry: TimelineEntry) -> Self {
        let cursor = entry.cursor;
        match entry.message {
            TimelineMessage::Own(OwnMessage { sent, text, file, parts }) => {
                let sent_at = sent.sent_at.0;
                let SentLine { id, state, waits_for, .. } = sent.into();
                let parts = parts.map(|(written, all)| Parts { written, all });
                let file = file.map(|(name, size)| EntryFile { name, size, path: None });
                let state = Some(state);
                Self {
                    cursor,
                    id,
                    own: true,
                    from: None,
                    text,
                    file,
                    sent_at,
                    received_at: None,
                    state,
                    waits_for,
                    parts,
                    request: false,
                }
            }
            TimelineMessage::Received(received) => {
                let MessageLine { id, from, text, file, sent_at, received_at, request, .. } = received.into();
                let file = file.map(|FileLine { name, size, path }| EntryFile { name, size, path: Some(path) });
                Self {
                    cursor,
                    id,
                    own: false,
                    from: Some(from),
                    text,
                    file,
                    sent_at,
                    received_at: Some(received_at),
                    state: None,
                    waits_for: None,
                    parts: None,
                    request,
                }
            }
        }
    }
}

impl From<Timeline> for TimelinePage {
    fn from(Timeline { entries, more, seen }: Timeline) -> Self {
        Self { entries: entries.into_iter().map(EntryLine::from).collect(), more, seen }
    }
}

impl From<Overview> for OverviewLine {
    fn from(Overview { conversation, waiting, unseen, newest }: Overview) -> Self {
        Self { conversation, waiting, unseen, newest: newest.into() }
    }
}
