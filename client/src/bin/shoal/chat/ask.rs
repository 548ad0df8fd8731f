//! What comes into the state, and what it wants done: the whole contract between the state and the shell.

use crossterm::event::KeyEvent;
use serde_json::{Value, json};
use shoal_client::io::{Call, EventLine, Failure};

/// Something that happened.
#[derive(Debug)]
pub(super) enum Input {
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// The terminal has so many columns and rows.
    Size(u16, u16),
    /// About a second has passed.
    Tick,
    /// The daemon answers, and its events come.
    Linked,
    /// It does not, and why.
    Lost(Failure),
    /// The daemon said something by itself.
    Event(EventLine),
    /// What a call brought.
    Answer(Tag, Result<Value, Failure>),
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub(super) enum Order {
    /// Call the daemon; an [`Input::Answer`] with the tag follows, always.
    Ask(Ask),
    /// Start the daemon, which has ended.
    Start,
    /// Draw everything anew: somebody else wrote on the screen.
    Redraw,
    /// Leave.
    Quit,
}

/// A call. By name, because groups may be known to a daemon and not to this version.
#[derive(Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) tag: Tag,
    pub(super) method: &'static str,
    pub(super) params: Value,
    /// It may take long: it must not hold up the others.
    pub(super) slow: bool,
}

/// What an answer is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Status,
    Address,
    Contacts,
    Conversations,
    Overview,
    /// Entries of a conversation, on this side of what is there.
    Timeline {
        key: String,
        side: Side,
    },
    Estimate {
        key: String,
    },
    /// How far a file or long text is.
    Progress {
        id: String,
    },
    /// A text, to be given back if it did not go.
    Sent {
        key: String,
        text: String,
    },
    File {
        key: String,
        name: String,
    },
    /// A contact or group was changed; what to say when it is done.
    Changed {
        done: String,
    },
    /// A stranger was accepted and may want a name.
    Accepted {
        address: Option<String>,
    },
    /// A group was made, to be opened.
    Made,
    /// An invite was made, to be shown.
    Invited,
    Seen,
}

/// Where entries were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Newest,
    Before(u64),
    After(u64),
}

impl Ask {
    pub(super) fn new(tag: Tag, method: &'static str, params: Value) -> Self {
        Self { tag, method, params, slow: false }
    }

    pub(super) fn slowly(self) -> Self {
        Self { slow: true, ..self }
    }

    pub(super) fn timeline(key: &str, side: Side, limit: usize) -> Self {
        let mut params = json!({ "conversation": key, "limit": limit });
        match side {
            Side::Newest => {}
            Side::Before(cursor) => params["before"] = cursor.into(),
            Side::After(cursor) => params["after"] = cursor.into(),
        }
        Self::new(Tag::Timeline { key: key.to_owned(), side }, "timeline", params)
    }
}

/// Whether this version knows groups.
pub(super) fn knows_groups() -> bool {
    Call::METHODS.contains(&"group_create")
}
