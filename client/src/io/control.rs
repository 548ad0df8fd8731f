//! What can be asked of the daemon, whatever the way: over its socket (`rpc`) and by its web page (`web`).
//!
//! Times are Unix milliseconds. Field names are a contract: `client/README.md` lists them all.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::{Exit, Failure};
use super::lines::MessageLine;

/// What can be asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// The own address, and how many conversations have not heard of it yet → `{"address","moving"}`.
    Address,
    /// Gives the own address up for another one → as [`Call::Address`].
    NewAddress,
    /// Adds or renames a contact → contact.
    Add {
        /// The name to give.
        name: String,
        /// `shoal1…`, or an invite, `shoal-invite1…`, which is used.
        address: String,
    },
    /// Makes an invite for one person → [`super::InviteLine`].
    Invite {
        /// What whoever uses it will be called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Own invites that can still be used → list of [`super::InviteLine`].
    Invites,
    /// Takes an own invite back → `{}`.
    Withdraw {
        /// The invite's number.
        number: u64,
    },
    /// → list of contacts.
    Contacts,
    /// → list of conversations.
    Conversations,
    /// Founds a group → conversation.
    GroupCreate {
        /// Its name.
        name: String,
    },
    /// Adds somebody to a group → conversation.
    GroupAdd {
        /// The group.
        conversation: String,
        /// Contact or address.
        who: String,
    },
    /// Removes somebody from a group → conversation.
    GroupRemove {
        /// The group.
        conversation: String,
        /// Contact or address.
        who: String,
    },
    /// Leaves a group → conversation.
    GroupLeave {
        /// The group.
        conversation: String,
    },
    /// Gives a group another name → conversation.
    GroupRename {
        /// The group.
        conversation: String,
        /// The new name.
        name: String,
    },
    /// Accepts a stranger's request → contact, or the group.
    Accept {
        /// Name, address or conversation.
        who: String,
    },
    /// Wants nothing more from somebody → contact; refuses a group → conversation.
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
    /// Takes an own message back: a file on its way, or what has not left → `{"id","state"}`.
    Cancel {
        /// The message.
        id: String,
    },
    /// Own and others' messages of a conversation as a screen shows them → [`super::TimelinePage`].
    Timeline {
        /// Conversation, contact or address.
        conversation: String,
        /// Those before this entry, the newest of them; without `before` and `after` the newest of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// Those after this entry, the oldest of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// How many at most; 50 unless said, never more than 200.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Every conversation that has entries → list of [`super::OverviewLine`], the one with the newest first.
    Overview,
    /// The user has seen a conversation up to an entry; says nothing to anybody → `{}`.
    Seen {
        /// Conversation, contact or address.
        conversation: String,
        /// The entry.
        cursor: u64,
    },
    /// About how long a message would take now → [`super::EstimateLine`].
    Estimate {
        /// Conversation, contact or address.
        conversation: String,
        /// Length of text or file; one box unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// → [`super::Status`].
    Status,
    /// The user has seen the notices of `status` up to one → `{}`.
    NoticesSeen {
        /// Its number.
        number: u64,
    },
    /// The rate class and what each costs → [`super::RateLine`].
    Rate,
    /// The profile's network → [`super::NetworkLine`].
    Network,
    /// Takes up the hints of a newer network file of the same network → [`super::NetworkLine`].
    NetworkUpdate {
        /// The file's text.
        file: String,
    },
    /// A link to the web page, good for one use; the page is served from then on → `{"url"}`.
    WebLink {
        /// Where to serve it, if it is not served yet; loopback only, a free port unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<SocketAddr>,
    },
    /// Events from now on → `{}`, then notifications of the method `event`.
    Subscribe,
    /// Stops the daemon → `{}`; the connection ends when it has stopped.
    Shutdown,
}

/// Why a method and its parameters are no call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACall {
    /// No such method.
    #[error("there is no method {0:?}")]
    Method(String),
    /// The parameters are not those of the method.
    #[error("the parameters do not fit: {0}")]
    Params(String),
}

impl From<NotACall> for Failure {
    fn from(problem: NotACall) -> Self {
        let code = match problem {
            NotACall::Method(_) => "unknown_method",
            NotACall::Params(_) => "bad_params",
        };
        Self::new(Exit::Usage, code, problem.to_string(), "see client/README.md; this may be another version of shoal")
    }
}

impl Call {
    /// Names of all calls, as they are spoken.
    pub const METHODS: &[&str] = &[
        "address",
        "new_address",
        "add",
        "invite",
        "invites",
        "withdraw",
        "contacts",
        "conversations",
        "group_create",
        "group_add",
        "group_remove",
        "group_leave",
        "group_rename",
        "accept",
        "block",
        "verify",
        "open_file",
        "send",
        "send_file",
        "read",
        "read_done",
        "state",
        "cancel",
        "timeline",
        "overview",
        "seen",
        "estimate",
        "status",
        "notices_seen",
        "rate",
        "network",
        "network_update",
        "web_link",
        "subscribe",
        "shutdown",
    ];

    /// The call of a name with named parameters. Unknown parameters are refused: a misspelt one must not be ignored.
    ///
    /// # Errors
    /// What does not fit.
    pub fn parse(method: &str, params: Map<String, Value>) -> Result<Self, NotACall> {
        if !Self::METHODS.contains(&method) {
            return Err(NotACall::Method(method.to_owned()));
        }
        let none = params.is_empty();
        let params: Map<String, Value> = params.into_iter().map(|(name, value)| (name, whole(value))).collect();
        let fields = |params: Option<Map<String, Value>>| {
            let mut fields = Map::from_iter([("method".to_owned(), Value::from(method))]);
            fields.extend(params.map(|params| ("params".to_owned(), Value::Object(params))));
            serde_json::from_value::<Self>(Value::Object(fields))
        };
        match fields(Some(params)) {
            // a call without parameters may be given none, or an empty object
            Err(error) if none => fields(None).map_err(|_| error),
            parsed => parsed,
        }
        .map_err(|error| NotACall::Params(error.to_string()))
    }
}

/// JSON has one kind of number: `7.0` is 7. Beyond 2^53 such a number does not say which one it is, and is left as it
/// came.
fn whole(value: Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && (0.0..=EXACT).contains(&number) => {
            Value::from(number as u64)
        }
        _ => value,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_list_of_methods_is_complete() {
        // serde names all variants when it meets a wrong one
        let error = serde_json::from_value::<Call>(json!({"method": "x"})).unwrap_err().to_string();
        let all: Vec<String> = Call::METHODS.iter().map(|method| format!("`{method}`")).collect();
        assert!(error.ends_with(&format!("expected one of {}", all.join(", "))), "{error}");
    }

    #[test]
    fn calls_are_made_of_a_name_and_named_parameters() {
        let parse = |method: &str, params: Value| Call::parse(method, params.as_object().unwrap().clone());
        assert_eq!(parse("status", json!({})), Ok(Call::Status));
        assert_eq!(parse("read", json!({})), Ok(Call::Read { since: None, after: None }));
        assert_eq!(
            parse("timeline", json!({"conversation": "bob", "before": 7})),
            Ok(Call::Timeline { conversation: "bob".into(), before: Some(7), after: None, limit: None })
        );
        assert_eq!(parse("read_done", json!({"cursor": 7.0})), Ok(Call::ReadDone { cursor: 7 }));
        for cursor in [json!(7.5), json!(-1.0), json!(1e300), json!("7")] {
            assert!(matches!(parse("read_done", json!({ "cursor": cursor })), Err(NotACall::Params(_))));
        }
        assert!(matches!(parse("format_disk", json!({})), Err(NotACall::Method(_))));
        for params in [json!({}), json!({"who": 7}), json!({"who": "bob", "how": "now"})] {
            assert!(matches!(parse("accept", params), Err(NotACall::Params(_))));
        }
        let missing = Call::parse("accept", Map::new()).unwrap_err().to_string();
        assert!(missing.contains("`who`"), "{missing}");
    }
}
