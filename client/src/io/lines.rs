//! The objects that the daemon's socket and `--json` speak of: messages, contacts, conversations, events.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shoal_protocol::network::NetworkFile;

use crate::estimate::costs;
use crate::mail::{
    Accepted, ContactInfo, ConversationInfo, Event, InviteInfo, MemberInfo, MemberState, MessageState, RateClass,
    ReceivedMessage, SentMessage, Standing, Verification,
};

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
    /// Of a file or long text: how much of it is written; only in answers to [`super::Call::State`].
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
    /// That a member adds this profile again, which was away for too long.
    Member,
}

impl From<SentMessage> for SentLine {
    fn from(message: SentMessage) -> Self {
        let waits_for = match (message.state, message.conversation) {
            (state, Some(_)) if message.away && state < MessageState::Delivered => Some(WaitsFor::Member),
            (MessageState::Queued, None) => Some(WaitsFor::Card),
            (MessageState::Queued, Some(_)) => Some(WaitsFor::Turn),
            (MessageState::Sent, _) => Some(WaitsFor::Stores),
            (MessageState::Stored, _) => Some(WaitsFor::Reader),
            (MessageState::Delivered | MessageState::Cancelled, _) => None,
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
    /// Name of the group, and only present when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
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
            group: message.group,
            text: message.text,
            file: message.file.map(|file| FileLine { name: file.name, size: file.size, path: file.path }),
            sent_at: message.sent_at.0,
            received_at: message.received_at.0,
            request: message.request,
        }
    }
}

/// An own invite, as `invite --json` prints it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteLine {
    /// Names it on this machine.
    pub number: u64,
    /// `shoal-invite1…`: whoever has it can use it, once.
    pub invite: String,
    /// What whoever uses it will be called, or `null`.
    pub name: Option<String>,
    /// Until then it can be used, in Unix ms.
    pub ends_at: u64,
    /// Somebody uses it just now.
    pub claimed: bool,
}

impl std::fmt::Debug for InviteLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InviteLine({}, text redacted)", self.number)
    }
}

impl From<InviteInfo> for InviteLine {
    fn from(info: InviteInfo) -> Self {
        let InviteInfo { number, text, name, ends_at, claimed } = info;
        Self { number, invite: text.to_string(), name, ends_at: ends_at.0, claimed }
    }
}

/// The rate class and what each costs, as `rate --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLine {
    /// The profile's.
    pub class: RateClass,
    /// Costs of the normal class.
    pub normal: CostLine,
    /// Costs of the low class.
    pub low: CostLine,
}

/// What a rate class costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostLine {
    /// Bytes in a month of 30 days, each way, used or not.
    pub monthly_bytes: u64,
    /// Mean time until two stores have a text, ms.
    pub text_stored_ms: u64,
    /// Mean time until its reader has it, ms.
    pub text_arrives_ms: u64,
    /// Mean time until a reader has a file of 64 KiB, ms.
    pub file_64k_ms: u64,
    /// The same for 5 MiB, ms.
    pub file_5m_ms: u64,
}

impl RateLine {
    /// What a profile of this class on this network is told.
    #[must_use]
    pub fn new(class: RateClass, network: &NetworkFile) -> Self {
        let line = |class| {
            let costs = costs(class, &network.parameters);
            let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            CostLine {
                monthly_bytes: costs.monthly_bytes,
                text_stored_ms: ms(costs.text_stored),
                text_arrives_ms: ms(costs.text_arrives),
                file_64k_ms: ms(costs.file_64k_arrives),
                file_5m_ms: ms(costs.file_5m_arrives),
            }
        };
        Self { class, normal: line(RateClass::Normal), low: line(RateClass::Low) }
    }
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
    /// The safety number was compared (`shoal verify`).
    #[serde(default)]
    pub verified: bool,
    /// Since when messages wait for the contact's card, in Unix ms, or `null`.
    #[serde(default)]
    pub waiting_since: Option<u64>,
    /// After `add`: the name that the contact had before, if it was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
}

impl From<ContactInfo> for ContactLine {
    fn from(contact: ContactInfo) -> Self {
        Self {
            name: contact.name,
            address: contact.address,
            conversation: contact.conversation.map(|id| id.to_string()),
            request: contact.request,
            blocked: contact.blocked,
            verified: contact.verified,
            waiting_since: None,
            was: None,
        }
    }
}

/// The safety number of a contact, as `verify --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyLine {
    /// The given name, else the address.
    pub name: String,
    /// `shoal1…`.
    pub address: String,
    /// The number in 16 groups of four digits.
    pub digits: String,
    /// The number in 13 words.
    pub words: String,
    /// The number as the other side's QR code has it, `shoal-verify1…`.
    pub code: String,
    /// It was compared before, or now.
    pub verified: bool,
    /// `true`, and only then present, when it was compared with what the other side sees.
    #[serde(default, rename = "match", skip_serializing_if = "std::ops::Not::not")]
    pub matches: bool,
}

impl VerifyLine {
    /// The line of a number that was, or was not, compared with another.
    #[must_use]
    pub fn new(found: Verification, compared: bool) -> Self {
        let Verification { contact, number } = found;
        Self {
            name: contact.name,
            address: contact.address,
            digits: number.digits(),
            words: number.words(),
            code: number.code(),
            verified: contact.verified,
            matches: compared,
        }
    }
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathLine {
    /// Its path.
    pub path: PathBuf,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationLine {
    /// The same at every member.
    pub conversation: String,
    /// Of two, or of many.
    pub kind: Kind,
    /// Name of the group, or of the other member.
    pub name: String,
    /// The other member of two, or `null`.
    pub with: Option<String>,
    /// The other member's address, or `null`.
    pub address: Option<String>,
    /// Its members, the own profile first.
    pub members: Vec<MemberLine>,
    /// An unanswered request of a stranger.
    pub request: bool,
    /// Own messages that are not delivered yet.
    pub undelivered: u64,
    /// Whether this profile is in it.
    pub standing: Standing,
    /// `true`, and only then present, when the user left: that is why this profile is not in it, or will not be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quit: bool,
    /// Who added this profile to the group, as long as they are in it; only present when there is somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_by: Option<String>,
    /// The members went on from different states and cannot read each other any more: begin anew.
    pub broken: bool,
}

/// Of how many a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Two people.
    Pair,
    /// A group.
    Group,
}

/// A member of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLine {
    /// The given name, else the address.
    pub name: String,
    /// `shoal1…`.
    pub address: String,
    /// This profile itself.
    #[serde(rename = "self")]
    pub oneself: bool,
    /// How far it is in it.
    pub state: MemberState,
}

impl From<ConversationInfo> for ConversationLine {
    fn from(conversation: ConversationInfo) -> Self {
        let (group, name) = (conversation.group, conversation.name);
        let line = |member: MemberInfo| MemberLine {
            name: member.name,
            address: member.address,
            oneself: member.oneself,
            state: member.state,
        };
        Self {
            conversation: conversation.id.to_string(),
            kind: if group { Kind::Group } else { Kind::Pair },
            with: (!group).then(|| name.clone()),
            name,
            address: conversation.address,
            members: conversation.members.into_iter().map(line).collect(),
            request: conversation.request,
            undelivered: conversation.undelivered,
            standing: conversation.standing,
            quit: conversation.quit,
            added_by: conversation.added_by,
            broken: conversation.broken,
        }
    }
}

/// What `accept` and `block` were about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AcceptedLine {
    /// A group.
    Group(ConversationLine),
    /// A person.
    Contact(ContactLine),
}

impl From<Accepted> for AcceptedLine {
    fn from(accepted: Accepted) -> Self {
        match accepted {
            Accepted::Contact(contact) => Self::Contact(contact.into()),
            Accepted::Group(group) => Self::Group(group.into()),
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
    /// A group began or changed.
    Group(ConversationLine),
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
            Event::Group(group) => Self::Group(group.into()),
            Event::Warning { code, message } => Self::Warning { code: code.to_owned(), message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{ConversationId, MessageId, ReceivedFile};
    use serde_json::json;
    use shoal_protocol::UnixMillis;

    fn received() -> ReceivedMessage {
        ReceivedMessage {
            cursor: 7,
            id: MessageId([1; 16]),
            from: "ann".to_owned(),
            address: "shoal1x".to_owned(),
            conversation: ConversationId([2; 16]),
            group: None,
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
}
