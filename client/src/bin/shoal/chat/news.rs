//! What the daemon says, and what time brings.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shoal_client::io::{EventLine, Exit, Failure, SentLine, TimelinePage};

use super::ask::{Order, Side, Tag};
use super::chats::{Chat, gather};
use super::editor::Editor;
use super::forms::{Form, Prompt, Shown, What};
use super::state::{Link, State, TEXT_MAX};
use super::talk::Talk;
use super::wrap::shown;

/// After so many ticks everything is looked at anew, whatever was heard.
const LOOK_TICKS: u64 = 30;
const ESTIMATE_TICKS: u64 = 5;

impl State {
    pub(super) fn linked(&mut self) {
        // what failed while there was no daemon is over
        self.notice.take_if(|notice| notice.urgent);
        self.link = Link::Up;
        (self.status_asked, self.estimate_asked, self.look_again) = (false, false, false);
        (self.looking, self.progress_asked) = (0, 0);
        if self.address.is_none() {
            self.ask(Tag::Address, "address", json!({}));
        }
        self.ask_status();
        self.look();
        if let Some(talk) = &mut self.talk {
            (talk.asked_before, talk.asked_after) = (false, false);
        }
        self.catch_up();
        self.ask_estimate();
    }

    pub(super) fn lost(&mut self, failure: &Failure) {
        self.status = None;
        self.estimate = None;
        let next = if failure.next.is_empty() { String::new() } else { format!(". Next: {}", failure.next) };
        let text = format!("{}{next}", failure.message);
        self.link = Link::Down(shown(&text, 1_000).0.replace('\n', " "));
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        if let Some(notice) = &mut self.notice {
            notice.ticks = notice.ticks.saturating_sub(1);
            if notice.ticks == 0 {
                self.notice = None;
            }
        }
        if self.link != Link::Up {
            return;
        }
        self.ask_status();
        if self.ticks.is_multiple_of(LOOK_TICKS) {
            self.look();
        }
        if self.ticks.is_multiple_of(ESTIMATE_TICKS) {
            self.ask_estimate();
        }
        if self.progress_asked > 0 {
            return;
        }
        let under_way: Vec<String> = self.talk.iter().flat_map(Talk::under_way).map(|entry| entry.id.clone()).collect();
        for id in under_way {
            self.progress_asked += 1;
            self.ask(Tag::Progress { id: id.clone() }, "state", json!({ "id": id }));
        }
    }

    pub(super) fn event(&mut self, event: EventLine) {
        match event {
            EventLine::State(line) => {
                if !self.talk.as_mut().is_some_and(|talk| talk.state(&line)) {
                    // from another window, or faster than the answer
                    self.onward();
                }
            }
            EventLine::Message(_) | EventLine::Contact(_) | EventLine::Group(_) => {
                self.onward();
                self.look();
            }
            EventLine::Warning { message, .. } => self.complain(shown(&message, 2_000).0.replace('\n', " ")),
            EventLine::Missed(_) => {
                self.look();
                self.catch_up();
            }
        }
    }

    /// Tells the daemon what the user has seen; nobody else learns of it.
    pub(super) fn watch(&mut self) {
        let visible = self.areas().is_some_and(|areas| areas.messages.width > 0);
        let Some(talk) = self.talk.as_mut().filter(|talk| visible && talk.watched().is_some_and(|at| at > talk.seen))
        else {
            return;
        };
        if self.link == Link::Up
            && let Some(cursor) = talk.watched()
        {
            talk.seen = cursor;
            let params = json!({ "conversation": talk.key, "cursor": cursor });
            self.ask(Tag::Seen, "seen", params);
        }
    }

    pub(super) fn answer(&mut self, tag: Tag, result: Result<Value, Failure>) {
        match &tag {
            Tag::Contacts | Tag::Conversations | Tag::Overview => self.looking = self.looking.saturating_sub(1),
            Tag::Status => self.status_asked = false,
            Tag::Estimate { .. } => self.estimate_asked = false,
            Tag::Progress { .. } => self.progress_asked = self.progress_asked.saturating_sub(1),
            Tag::Sent { .. } | Tag::File { .. } => self.handing_over = self.handing_over.saturating_sub(1),
            Tag::Address
            | Tag::Timeline { .. }
            | Tag::Changed { .. }
            | Tag::Accepted { .. }
            | Tag::Made
            | Tag::Invited
            | Tag::Seen => {}
        }
        let given_back = result.is_err() && matches!(tag, Tag::Sent { .. } | Tag::File { .. });
        match result {
            Ok(value) => {
                if let Err(failure) = self.result(tag, value) {
                    self.fail(&failure);
                }
            }
            Err(failure) => self.refused(tag, &failure),
        }
        if self.looking == 0 && std::mem::take(&mut self.look_again) {
            self.look();
        }
        if given_back {
            // which is to be seen
            self.leaving = false;
        } else if self.leaving && self.handing_over == 0 {
            self.order(Order::Quit);
        }
    }

    fn refused(&mut self, tag: Tag, failure: &Failure) {
        match tag {
            // asked again soon; that the daemon is gone is said elsewhere
            Tag::Status | Tag::Estimate { .. } | Tag::Progress { .. } | Tag::Seen => return,
            Tag::Timeline { side, .. } => {
                if let Some(talk) = &mut self.talk {
                    match side {
                        Side::Newest => {}
                        Side::Before(_) => talk.asked_before = false,
                        Side::After(_) => talk.asked_after = false,
                    }
                }
            }
            Tag::Sent { key, text } => {
                // what was written since stays behind it
                let draft = self.drafts.entry(key).or_default();
                let since = draft.take();
                *draft = Editor::with(&text);
                if !since.is_empty() {
                    draft.insert("\n", TEXT_MAX);
                    draft.insert(&since, TEXT_MAX);
                }
            }
            Tag::Address
            | Tag::Contacts
            | Tag::Conversations
            | Tag::Overview
            | Tag::File { .. }
            | Tag::Changed { .. }
            | Tag::Accepted { .. }
            | Tag::Made
            | Tag::Invited => {}
        }
        self.fail(failure);
    }

    fn result(&mut self, tag: Tag, value: Value) -> Result<(), Failure> {
        match tag {
            Tag::Status => self.status = Some(read(value)?),
            Tag::Address => self.address = value["address"].as_str().map(str::to_owned),
            Tag::Contacts => {
                self.contacts = read(value)?;
                self.gather();
            }
            Tag::Conversations => {
                self.told = read(value)?;
                self.gather();
            }
            Tag::Overview => {
                self.overview = read(value)?;
                self.gather();
            }
            Tag::Timeline { key, side } => {
                let page: TimelinePage = read(value)?;
                if let Some(talk) = self.talk.as_mut().filter(|talk| talk.key == key) {
                    let more = page.more && matches!(side, Side::After(_));
                    talk.put(page, side);
                    if std::mem::take(&mut talk.after_again) || more {
                        self.onward();
                    }
                }
            }
            Tag::Estimate { key } => {
                if self.talk.as_ref().is_some_and(|talk| talk.key == key) {
                    self.estimate = Some(read(value)?);
                }
            }
            Tag::Progress { .. } => {
                let line: SentLine = read(value)?;
                if let Some(talk) = &mut self.talk {
                    talk.state(&line);
                }
            }
            Tag::Sent { key, .. } => self.went(&key),
            Tag::File { key, name } => {
                self.say(format!("{name} is queued; its progress stands with the message"));
                self.went(&key);
            }
            Tag::Changed { done } => {
                self.say(done);
                self.look();
            }
            Tag::Accepted { address } => {
                self.look();
                match address.filter(|_| self.form.is_none()) {
                    Some(address) => {
                        self.say("accepted; a name of your own tells them from others (Esc: later)");
                        self.form = Some(Form::Prompt(Prompt::new(What::AddContact).fill(1, &address)));
                    }
                    None => self.say("accepted"),
                }
            }
            Tag::Made => {
                self.look();
                if let Some(key) = value["conversation"].as_str().map(str::to_owned) {
                    self.say("the group is made: add members with F7");
                    self.open(&key);
                }
            }
            Tag::Invited => {
                if let Some(invite) = value["invite"].as_str() {
                    self.form = Some(Form::Shown(Shown::Invite(invite.to_owned())));
                }
            }
            Tag::Seen => self.look(),
        }
        Ok(())
    }

    fn went(&mut self, key: &str) {
        if self.talk.as_ref().is_some_and(|talk| talk.key == key) {
            self.onward();
        }
        self.look();
    }

    fn gather(&mut self) {
        self.chats = gather(&self.contacts, &self.told, &self.overview);
        self.follow_beginning();
        // only when all is here: of contacts alone the first is somebody to whom nothing was written yet
        if self.looking == 0 && self.picked.as_ref().is_none_or(|key| self.chat(key).is_none()) {
            self.picked = self.chats.first().map(|chat| chat.key.clone());
        }
    }

    /// A conversation that began has another key than the address that was written to.
    fn follow_beginning(&mut self) {
        let Some(old) = self.talk.as_ref().map(|talk| talk.key.clone()) else { return };
        let begun = |chat: &&Chat| !chat.group && chat.address.as_ref() == Some(&old);
        if self.chat(&old).is_some() {
            return;
        }
        if let Some(key) = self.chats.iter().find(begun).map(|chat| chat.key.clone()) {
            if let Some(draft) = self.drafts.remove(&old) {
                self.drafts.insert(key.clone(), draft);
            }
            if self.picked.as_ref() == Some(&old) {
                self.picked = Some(key.clone());
            }
            self.talk = Some(Talk::new(&key));
            self.newest();
        }
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        let message = format!("the daemon speaks another version: {error}");
        Failure::new(Exit::Unreachable, "daemon_version", message, "stop the old daemon: shoal down, and begin anew")
    })
}
