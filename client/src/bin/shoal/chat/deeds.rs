//! What the user wants done: sending, leaving, contacts, groups; asked about where it cannot be taken back.

use serde_json::json;
use shoal_client::io::EntryLine;
use shoal_client::mail::MessageState;

use super::ask::{Ask, Order, Tag};
use super::bar;
use super::editor::Editor;
use super::forms::{Form, Outcome, Prompt, Question, Shown, Then, What};
use super::state::{Link, State};
use super::wrap::one_line;

impl State {
    pub(super) fn quit(&mut self) {
        let asked = matches!(&self.form, Some(Form::Question(Question { then: Then::Quit, .. })));
        if self.has_drafts() && !asked {
            let text = "Texts that were begun are kept nowhere else and will be gone.".to_owned();
            self.form = Some(Form::Question(Question { text, yes: "leave", then: Then::Quit }));
        } else {
            self.leave();
        }
    }

    /// At once, unless the daemon still has to confirm what was sent; then at the second time.
    fn leave(&mut self) {
        if self.handing_over == 0 || self.leaving {
            self.order(Order::Quit);
        } else {
            self.leaving = true;
            self.say("Leaving as soon as the daemon has what was sent (Ctrl+Q again: at once)");
        }
    }

    pub(super) fn send(&mut self) {
        if self.draft().is_none_or(Editor::is_empty) {
            return;
        }
        if self.link != Link::Up {
            return self.complain("The daemon does not run: the text stays here. Ctrl+R starts it");
        }
        match self.asks_first() {
            Some(waved) => self.ask_caution(|waved| Then::Send { waved }, waved),
            None => self.send_now(),
        }
    }

    fn ask_caution(&mut self, then: impl FnOnce(String) -> Then, waved: String) {
        let text = bar::caution(self).unwrap_or_default();
        self.form = Some(Form::Question(Question { text, yes: "send all the same", then: then(waved) }));
    }

    fn send_now(&mut self) {
        let Some(text) = self.draft_mut().map(Editor::take) else { return };
        let Some(key) = self.talk.as_ref().map(|talk| talk.key.clone()) else { return };
        let params = json!({ "to": key, "text": text });
        self.handing_over += 1;
        self.ask(Tag::Sent { key, text }, "send", params);
        self.end_of_talk();
    }

    fn send_file(&mut self, path: String) {
        match self.asks_first() {
            Some(waved) => self.ask_caution(|waved| Then::SendFile { path, waved }, waved),
            None => self.send_file_now(&path),
        }
    }

    fn send_file_now(&mut self, path: &str) {
        let Some(key) = self.talk.as_ref().map(|talk| talk.key.clone()) else { return };
        let name = one_line(path.rsplit('/').next().unwrap_or(path), 60);
        self.say(format!("taking in {name}"));
        let params = json!({ "to": key, "path": path });
        self.handing_over += 1;
        self.order(Order::Ask(Ask::new(Tag::File { key, name }, "send_file", params).slowly()));
    }

    /// Asks for what only makes sense in an open conversation.
    pub(super) fn prompt_open(&mut self, what: What) {
        if self.talk.is_some() {
            self.form = Some(Form::Prompt(Prompt::new(what)));
        } else {
            self.say("Open a conversation first (Enter)");
        }
    }

    /// A contact; of a stranger that the list points at the address is filled in.
    pub(super) fn add_contact(&mut self) {
        let prompt = Prompt::new(What::AddContact);
        let stranger = self.meant().filter(|chat| !chat.group && chat.request).and_then(|chat| chat.address.clone());
        self.form = Some(Form::Prompt(match stranger {
            Some(address) => prompt.fill(1, &address),
            None => prompt,
        }));
    }

    pub(super) fn invite(&mut self) {
        self.form = Some(Form::Prompt(Prompt::new(What::Invite)));
    }

    /// The newest own message of the open conversation that has not left, or file that is not delivered.
    pub(super) fn take_back(&mut self) {
        let entries = self.talk.as_ref().map(|talk| talk.entries()).unwrap_or_default();
        let on_its_way = |entry: &&EntryLine| match entry.state {
            Some(MessageState::Queued) => entry.own,
            Some(MessageState::Sent | MessageState::Stored) => entry.own && entry.file.is_some(),
            Some(MessageState::Delivered | MessageState::Cancelled) | None => false,
        };
        let Some(entry) = entries.iter().rev().find(on_its_way) else {
            return self.say("Nothing of yours is on its way here");
        };
        let what = match &entry.file {
            Some(file) => one_line(&file.name, 60),
            None => one_line(&entry.text, 60),
        };
        let text = format!("Take back what is on its way: {what}?");
        let then = Then::TakeBack { id: entry.id.clone() };
        self.form = Some(Form::Question(Question { text, yes: "take it back", then }));
    }

    pub(super) fn new_group(&mut self) {
        if self.groups {
            self.form = Some(Form::Prompt(Prompt::new(What::NewGroup)));
        } else {
            self.say("This version of shoal knows no groups yet");
        }
    }

    pub(super) fn group_menu(&mut self) {
        match self.meant() {
            Some(chat) if chat.group => {
                let key = chat.key.clone();
                self.open(&key);
                self.form = Some(Form::Group);
            }
            Some(_) | None => self.say("This is no group: F6 begins one"),
        }
    }

    pub(super) fn accept(&mut self) {
        let Some(chat) = self.meant().filter(|chat| chat.request || chat.blocked) else {
            return self.say("Nothing to accept here");
        };
        let (name, key) = (one_line(&chat.title, 60), chat.key.clone());
        let text = format!("Accept {name}? From then on they learn that you read what they write.");
        self.form = Some(Form::Question(Question { text, yes: "accept", then: Then::Accept { key } }));
    }

    pub(super) fn block(&mut self) {
        let Some(chat) = self.meant().filter(|chat| !chat.blocked) else { return self.say("Nobody to block here") };
        if chat.group {
            return self.say("A group is left, not blocked: F7");
        }
        let (name, key) = (one_line(&chat.title, 60), chat.key.clone());
        let text = format!("Block {name}? Nothing more comes from them; they do not learn of it.");
        self.form = Some(Form::Question(Question { text, yes: "block", then: Then::Block { key } }));
    }

    pub(super) fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Stay => {}
            Outcome::Close => self.form = None,
            Outcome::Open(what) => self.form = Some(Form::Prompt(Prompt::new(what))),
            Outcome::Leave => {
                let Some(key) = self.talk.as_ref().map(|talk| talk.key.clone()) else { return };
                let text = "Leave the group? You can come back only when a member adds you again.".to_owned();
                self.form = Some(Form::Question(Question { text, yes: "leave the group", then: Then::Leave { key } }));
            }
            Outcome::NewAddress => {
                let text = "Take another address? Those with whom you have a conversation follow by themselves; whoever only has \
                            the old one does not reach you any more. It cannot be taken back."
                    .to_owned();
                self.form = Some(Form::Question(Question { text, yes: "take another", then: Then::NewAddress }));
            }
            Outcome::Yes(then) => {
                self.form = None;
                self.yes(then);
            }
            Outcome::Filled(what, fields) => {
                self.form = None;
                self.filled(what, fields);
            }
        }
    }

    fn yes(&mut self, then: Then) {
        match then {
            Then::Send { waved } => {
                self.waved = Some(waved);
                self.send_now();
            }
            Then::SendFile { path, waved } => {
                self.waved = Some(waved);
                self.send_file_now(&path);
            }
            Then::Accept { key } => {
                let address =
                    self.chat(&key).filter(|chat| !chat.group && chat.request).and_then(|chat| chat.address.clone());
                self.ask(Tag::Accepted { address }, "accept", json!({ "who": key }));
            }
            Then::Block { key } => self.ask(Tag::Changed { done: "blocked".into() }, "block", json!({ "who": key })),
            Then::Leave { key } => {
                let tag = Tag::Changed { done: "you are leaving the group".into() };
                self.order(Order::Ask(Ask::new(tag, "group_leave", json!({ "conversation": key })).slowly()));
            }
            Then::TakeBack { id } => {
                self.ask(Tag::Changed { done: "taken back".into() }, "cancel", json!({ "id": id }));
            }
            Then::NewAddress => {
                self.form = Some(Form::Shown(Shown::Address));
                self.ask(Tag::Address, "new_address", json!({}));
            }
            Then::Quit => self.leave(),
        }
    }

    fn filled(&mut self, what: What, fields: Vec<String>) {
        let mut fields = fields.into_iter();
        let (first, second) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let key = self.talk.as_ref().map(|talk| talk.key.clone()).unwrap_or_default();
        let who = one_line(&first, 60);
        let changed =
            |done: String, method, params| Order::Ask(Ask::new(Tag::Changed { done }, method, params).slowly());
        match what {
            What::AddContact => {
                let tag = Tag::Changed { done: format!("{who} is in the list") };
                self.ask(tag, "add", json!({ "name": first, "address": second }));
            }
            What::Invite => {
                self.order(Order::Ask(Ask::new(Tag::Invited, "invite", json!({ "name": first })).slowly()));
            }
            What::SendFile => self.send_file(first),
            What::NewGroup => {
                self.order(Order::Ask(Ask::new(Tag::Made, "group_create", json!({ "name": first })).slowly()))
            }
            What::RenameGroup => {
                let params = json!({ "conversation": key, "name": first });
                self.order(changed("the group has another name".into(), "group_rename", params));
            }
            What::AddMember => {
                self.say(format!("looking for {who}; this takes up to a minute"));
                let params = json!({ "conversation": key, "who": first });
                self.order(changed(format!("{who} is added"), "group_add", params));
            }
            What::RemoveMember => {
                let params = json!({ "conversation": key, "who": first });
                self.order(changed(format!("{who} is removed"), "group_remove", params));
            }
        }
    }
}
