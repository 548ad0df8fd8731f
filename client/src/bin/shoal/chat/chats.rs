//! The list of conversations, put together from what the daemon says of contacts, conversations and newest messages.

use serde::Deserialize;
use shoal_client::io::{ContactLine, EntryLine, OverviewLine};

use super::wrap::{one_line, short};

/// Conversations of the list; with more, the oldest are left out. The daemon's overview has as many.
pub(super) const CHATS_MAX: usize = 1_000;

/// A conversation as any version of the daemon tells it: one without groups says less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    conversation: String,
    kind: Option<String>,
    name: Option<String>,
    with: Option<String>,
    address: Option<String>,
    members: Option<Vec<Member>>,
    request: bool,
    undelivered: u64,
    standing: Option<String>,
    quit: bool,
    added_by: Option<String>,
    broken: bool,
}

/// Who is in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) address: String,
    #[serde(rename = "self")]
    pub(super) own: bool,
    pub(super) state: Option<String>,
}

/// Something to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chat {
    /// What every call takes: the conversation, or the address of who has none yet.
    pub(super) key: String,
    pub(super) group: bool,
    /// As it is shown, fit for a terminal.
    pub(super) title: String,
    pub(super) address: Option<String>,
    pub(super) request: bool,
    pub(super) blocked: bool,
    pub(super) broken: bool,
    /// One has left the group, or was removed.
    pub(super) gone: Option<&'static str>,
    /// Of a group: who added one.
    pub(super) added_by: Option<String>,
    pub(super) members: Vec<Member>,
    /// Messages wait for the other side's card.
    pub(super) waiting: bool,
    pub(super) undelivered: u64,
    pub(super) unseen: u64,
    pub(super) newest: Option<EntryLine>,
}

impl Chat {
    /// What is to be known of it at a glance, in a word or two; empty: nothing.
    pub(super) fn mark(&self) -> String {
        match self {
            Self { blocked: true, .. } => "blocked".into(),
            Self { request: true, .. } => "REQUEST".into(),
            Self { broken: true, .. } => "BROKEN".into(),
            Self { gone: Some(how), .. } => (*how).into(),
            Self { unseen: 1_000.., .. } => "999+ new".into(),
            Self { unseen: 1.., .. } => format!("{} new", self.unseen),
            _ => String::new(),
        }
    }

    /// The newest message on one line.
    pub(super) fn preview(&self) -> String {
        let Some(newest) = &self.newest else { return "no message yet".into() };
        let what = match &newest.file {
            Some(file) => format!("file {}", file.name),
            None if newest.text.is_empty() => "(empty)".into(),
            None => newest.text.get(..newest.text.floor_char_boundary(400)).unwrap_or_default().to_owned(),
        };
        if newest.own { format!("you: {what}") } else { what }
    }

    /// Requests first, the blocked last, else the one with the newest message first.
    fn rank(&self) -> (u8, std::cmp::Reverse<u64>, &str) {
        let class = if self.blocked { 2 } else { u8::from(!self.request) };
        (class, std::cmp::Reverse(self.newest.as_ref().map_or(0, |newest| newest.cursor)), &self.title)
    }
}

/// All there is to open, in the order of the list.
pub(super) fn gather(contacts: &[ContactLine], told: &[Told], overview: &[OverviewLine]) -> Vec<Chat> {
    let glance = |key: &str| overview.iter().find(|line| line.conversation == key);
    let mut chats: Vec<Chat> = told
        .iter()
        .map(|line| {
            let address = line.address.clone();
            let contact = contacts.iter().find(|contact| Some(&contact.address) == address.as_ref());
            let seen = glance(&line.conversation);
            let group = line.kind.as_deref() == Some("group");
            let name = line.name.as_deref().or(line.with.as_deref()).unwrap_or_default();
            Chat {
                key: line.conversation.clone(),
                group,
                title: title(name, address.as_deref(), group),
                address,
                request: line.request,
                blocked: contact.is_some_and(|contact| contact.blocked),
                broken: line.broken,
                gone: match line.standing.as_deref() {
                    Some("left") => Some("left"),
                    Some("removed") if line.quit => Some("left"),
                    Some("removed") => Some("removed"),
                    Some("away") => Some("away"),
                    _ => None,
                },
                added_by: line.added_by.as_deref().map(|name| title(name, None, false)),
                members: line.members.clone().unwrap_or_default(),
                waiting: false,
                undelivered: line.undelivered,
                unseen: seen.map_or(0, |line| line.unseen),
                newest: seen.map(|line| line.newest.clone()),
            }
        })
        .collect();
    for contact in contacts {
        let known = chats.iter().any(|chat| !chat.group && chat.address.as_ref() == Some(&contact.address));
        if contact.conversation.is_some() || known {
            continue;
        }
        let seen = glance(&contact.address);
        chats.push(Chat {
            key: contact.address.clone(),
            group: false,
            title: title(&contact.name, Some(&contact.address), false),
            address: Some(contact.address.clone()),
            request: contact.request,
            blocked: contact.blocked,
            broken: false,
            gone: None,
            added_by: None,
            members: Vec::new(),
            waiting: contact.waiting_since.is_some(),
            undelivered: 0,
            unseen: seen.map_or(0, |line| line.unseen),
            newest: seen.map(|line| line.newest.clone()),
        });
    }
    chats.sort_by(|one, other| one.rank().cmp(&other.rank()));
    chats.truncate(CHATS_MAX);
    chats
}

/// A stranger has no name but the address; the name of a group is given by others.
fn title(name: &str, address: Option<&str>, group: bool) -> String {
    match name {
        "" if group => "(a group without a name)".into(),
        "" => "(nobody)".into(),
        name if Some(name) == address => short(name),
        name => one_line(name, 200),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{contact, overview};
    use super::*;
    use serde_json::json;

    #[test]
    fn conversations_of_any_version_are_understood() {
        let told: Vec<Told> = serde_json::from_value(json!([
            {"conversation": "c1", "with": "bob", "address": "shoal1bob", "request": false, "undelivered": 2, "broken": false},
            {"conversation": "c2", "kind": "group", "name": "fish\u{1b}[2J\nclub", "with": null, "address": null,
             "members": [{"name": "bob", "address": "shoal1bob", "self": false, "state": "member"}],
             "request": false, "undelivered": 0, "standing": "left", "broken": false, "later": 1}
        ]))
        .unwrap();
        let chats = gather(&[contact("bob", Some("c1"))], &told, &[overview("c2", 9, 3), overview("c1", 4, 0)]);
        let shown: Vec<_> = chats.iter().map(|chat| (chat.title.as_str(), chat.mark(), chat.group)).collect();
        assert_eq!(shown, [("fish\u{fffd}[2J club", "left".into(), true), ("bob", String::new(), false)]);
        assert_eq!(chats[1].undelivered, 2);
    }

    #[test]
    fn requests_come_first_and_the_blocked_last() {
        let (mut stranger, mut foe) = (contact("zoe", None), contact("eve", None));
        stranger.request = true;
        foe.blocked = true;
        let chats = gather(&[contact("bob", None), foe, stranger], &[], &[overview("shoal1bob", 1, 0)]);
        let marks: Vec<_> = chats.iter().map(Chat::mark).collect();
        assert_eq!(marks, ["REQUEST", "", "blocked"]);
    }
}
