//! The words in which the user-facing state speaks: messages, contacts, conversations, events, errors.

use std::path::PathBuf;

use crate::profile::{BadKeyFile, Moved, Protection};
use serde::{Deserialize, Serialize};
use shoal_protocol::{Hash, UnixMillis};

/// How fast a client sends, chosen when the profile is made (design §3.5). Visible on the wire, and users are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateClass {
    /// λ_P and λ_L of the consensus.
    Normal,
    /// The low class of the consensus, for a phone.
    Low,
}

/// Names a message; the same at its writer and at its readers. 16 random bytes, shown as hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

/// Names a conversation; the same at every member. The 16 bytes of its MLS group id, shown as hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(pub [u8; 16]);

/// How far an own message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// Kept on disk; nothing of it has left yet (its conversation may still wait for the peer's card).
    Queued,
    /// A packet with its box went onto the link to the gateway.
    Sent,
    /// Both replicas have it on disk, every content box too.
    Stored,
    /// The peer's client has stored it (its receipt came).
    Delivered,
    /// The user took it back before it was delivered.
    Cancelled,
}

/// Where an own message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// Its id, the same at the reader.
    pub id: MessageId,
    /// The conversation, once there is one.
    pub conversation: Option<ConversationId>,
    /// The contact or the group it goes to.
    pub to: String,
    /// How far it has come.
    pub state: MessageState,
    /// Its conversation waits until a member adds the own profile again.
    pub away: bool,
    /// When the user sent it.
    pub sent_at: UnixMillis,
}

/// A file that arrived, whole, at `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFile {
    /// File name as the sender gave it, reduced to a safe last component.
    pub name: String,
    /// Media type as the sender gave it; a hint, never trusted.
    pub mime: String,
    /// Length in bytes.
    pub size: u64,
    /// Where it lies (inside the profile's `files` folder).
    pub path: PathBuf,
}

/// A message that somebody else wrote, whole and in its sender's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Position in this profile's reading order: strictly increasing, never reused. The cursor of `read`.
    pub cursor: u64,
    /// Its id, the same at the writer.
    pub id: MessageId,
    /// Name of the contact, or the address of a stranger.
    pub from: String,
    /// The sender's address.
    pub address: String,
    /// The conversation it belongs to.
    pub conversation: ConversationId,
    /// Name of the group, if it is one.
    pub group: Option<String>,
    /// `true` while the sender is a stranger whom the user has not accepted.
    pub request: bool,
    /// The text; empty for a file without words and for an empty message.
    pub text: String,
    /// The file, when the message is one.
    pub file: Option<ReceivedFile>,
    /// When the sender says it was sent.
    pub sent_at: UnixMillis,
    /// When this client had it whole.
    pub received_at: UnixMillis,
}

/// A person in the address book, or a stranger who wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactInfo {
    /// The name the user gave, else the address.
    pub name: String,
    /// `shoal1…`.
    pub address: String,
    /// The conversation of two with this contact, once there is one.
    pub conversation: Option<ConversationId>,
    /// `true` while a stranger's request waits for the user's answer.
    pub request: bool,
    /// `true` when the user wants nothing from this contact.
    pub blocked: bool,
    /// `true` when the user has compared the safety number.
    pub verified: bool,
}

/// A conversation as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationInfo {
    /// Its id.
    pub id: ConversationId,
    /// Whether it is a group: of many, with a name of its own.
    pub group: bool,
    /// Name of the group, or of the other member.
    pub name: String,
    /// The other member's address; `None` in a group.
    pub address: Option<String>,
    /// The members, the own profile first; also those who are to be added.
    pub members: Vec<MemberInfo>,
    /// `true` while it is an unanswered request of a stranger.
    pub request: bool,
    /// Own messages of it that are not delivered yet.
    pub undelivered: u64,
    /// Whether this profile is in it.
    pub standing: Standing,
    /// `true` when the user left: that is why this profile is not in it, or will not be.
    pub quit: bool,
    /// Of a group: name or address of the member who added this profile, as long as they are in it.
    pub added_by: Option<String>,
    /// `true` when its members went on from different states and cannot read each other any more.
    pub broken: bool,
    /// Group epoch of the state here.
    pub epoch: u64,
    /// Generation of stores that keeps the boxes of that epoch.
    pub generation: u32,
}

/// A member of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// The name the user gave, else the address.
    pub name: String,
    /// `shoal1…`.
    pub address: String,
    /// Whether it is the own profile.
    pub oneself: bool,
    /// How far it is in it.
    pub state: MemberState,
}

/// How far somebody is in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// To be added; its card is not found yet, or the commit is on its way.
    Wanted,
    /// Added; nothing was read of it yet.
    Invited,
    /// In it.
    Member,
    /// It said that it leaves, or is to be removed.
    Leaving,
    /// It was away for longer than stores keep what it would have to read, and is added again when it comes back.
    Away,
    /// It went on from another commit than this client: neither reads the other. One of the two can leave, and be added again.
    Apart,
}

/// Whether the own profile is in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is.
    Member,
    /// The user left; the others are told.
    Left,
    /// It was removed, or its leaving is done.
    Removed,
    /// It was away for longer than stores keep what it would have to read. A member adds it again by itself when it sees
    /// that it is back; what is written meanwhile waits.
    Away,
}

/// A contact holds a document of the consensus that no chain holds beside those held here: one of the two is shown a
/// forged network, or the contact lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// Name of the contact, else its address.
    pub with: String,
    /// Height of its document.
    pub height: u64,
    /// Hash of its document.
    pub theirs: Hash,
    /// Hash of the document of that height held here, if one was.
    pub ours: Option<Hash>,
    /// Since when that is known.
    pub since: UnixMillis,
}

/// Something the user may want to hear of. What an event says is already on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An own message has come further.
    State {
        /// Which message.
        id: MessageId,
        /// Its new state.
        state: MessageState,
    },
    /// A message came in.
    Received(ReceivedMessage),
    /// A contact changed: a stranger wrote, a conversation began, a request was accepted.
    Contact(ContactInfo),
    /// A group began, its members or its name changed, it was left.
    Group(ConversationInfo),
    /// Something the user should know; `code` is stable, `message` is for people.
    Warning {
        /// Stable, lower case, words joined by `_` (for example `rolled_back`).
        code: &'static str,
        /// One sentence.
        message: String,
    },
}

macro_rules! hex_id {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl std::str::FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnId)?;
                Ok(Self(bytes))
            }
        }
    };
}
hex_id!(MessageId);
hex_id!(ConversationId);

/// A text that should be an id is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 32 hexadecimal digits")]
pub struct NotAnId;

/// What closes a profile, in a sentence.
fn word(protection: Protection) -> &'static str {
    match protection {
        Protection::File => "its key file",
        Protection::Passphrase => "its passphrase",
        Protection::Keyring => "the key in the desktop's keyring",
    }
}

/// Why a command or a step of the state failed, by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// Another process has the profile open.
    #[error("the profile {0} is in use by another process")]
    Locked(PathBuf),
    /// There is a profile already where one should be made.
    #[error("there is a profile in {0} already")]
    Exists(PathBuf),
    /// There is no profile here.
    #[error("there is no profile in {0}")]
    Missing(PathBuf),
    /// The profile was written by a newer version.
    #[error("the profile has format {found}, this version knows up to {known}")]
    Newer {
        /// Format of the profile.
        found: u32,
        /// Newest format this version knows.
        known: u32,
    },
    /// What lies on disk does not open under the profile's key, or contradicts itself.
    #[error("the profile is damaged: {0}")]
    Damaged(&'static str),
    /// An older copy of the profile came back: it must not send from its state again.
    #[error("this profile is an older copy of itself; conversation {0} was continued elsewhere")]
    RolledBack(ConversationId),
    /// The profile is closed, and nothing was given that opens it.
    #[error("the profile {profile} is closed by {}", word(*protection))]
    Sealed {
        /// Which profile.
        profile: PathBuf,
        /// What closes it.
        protection: Protection,
    },
    /// What was given does not open the profile.
    #[error("the profile {profile} does not open: {} is wrong, or profile.key was changed", word(*protection))]
    WrongKey {
        /// Which profile.
        profile: PathBuf,
        /// What closes it.
        protection: Protection,
    },
    /// The key file cannot be used.
    #[error("the profile {profile}: {why}")]
    BadKey {
        /// Which profile.
        profile: PathBuf,
        /// What is wrong.
        why: BadKeyFile,
    },
    /// The memory that a passphrase's work takes cannot be had.
    #[error("there is not enough memory to work on the passphrase")]
    NoMemory,
    /// The profile was exported: it lives elsewhere, and must not be used here.
    #[error("the profile {profile} was moved away to {}", moved.to.display())]
    Moved {
        /// Which profile.
        profile: PathBuf,
        /// Where it went.
        moved: Box<Moved>,
    },
    /// The members of the conversation went on from different states; nothing can be sent in it.
    #[error("conversation {0} is broken: its members cannot read each other any more")]
    Broken(ConversationId),
    /// The own profile is not in the group any more.
    #[error("you are not in group {0} any more")]
    NotAMember(ConversationId),
    /// No document of the network is held since the start.
    #[error("no document of the network is here yet")]
    NoDocument,
    /// What only a group can do, or somebody who is not in it.
    #[error("{0}")]
    Group(&'static str),
    /// The own address cannot be given up now.
    #[error("{0}")]
    Address(&'static str),
    /// Neither a contact, nor an address, nor a conversation.
    #[error("no contact, address or conversation {0:?}")]
    Unknown(String),
    /// Who is to have this name was invited, and has not used the invite up to the end.
    #[error("{0:?} has not used the invite yet, or is doing so just now")]
    Invited(String),
    /// A name is empty, too long, looks like an address, or is taken by another contact.
    #[error("the name {0:?} cannot be used: {1}")]
    Name(String, &'static str),
    /// The contact is blocked.
    #[error("{0} is blocked")]
    Blocked(String),
    /// The other side sees another safety number.
    #[error("the safety number of {0} is another one here")]
    Mismatch(String),
    /// An invite that cannot be used.
    #[error("{0}")]
    Invite(&'static str),
    /// No own invite has this number.
    #[error("there is no invite {0}")]
    NoInvite(u64),
    /// The own address where another's is needed.
    #[error("this is your own address")]
    Oneself,
    /// Text or file is longer than a blob may be.
    #[error("{length} bytes are too long; at most {limit} can be sent")]
    TooLong {
        /// Length given.
        length: u64,
        /// Largest length.
        limit: u64,
    },
    /// Too much waits to be sent.
    #[error("too much waits to be sent ({waiting} {unit}); try again when some of it has arrived")]
    QueueFull {
        /// How much waits.
        waiting: u64,
        /// Of what: messages or bytes.
        unit: &'static str,
    },
    /// What has left, and is no file on its way, cannot be taken back.
    #[error("message {0} cannot be taken back any more")]
    TooLate(MessageId),
    /// No such received message.
    #[error("no message {0}")]
    NoMessage(MessageId),
    /// SQLite failed.
    #[error("the profile's database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// OpenMLS refused something that own state should allow.
    #[error("MLS state: {0}")]
    Mls(String),
    /// The network file does not parse.
    #[error("network.toml: {0}")]
    Network(String),
}

impl MailError {
    /// An error of the file system, with its place.
    #[must_use]
    pub fn from_io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
