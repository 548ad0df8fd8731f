//! All that the screen shows, and how it changes.
//!
//! [`State::take`] is given what happened and returns what is to be done; nothing else changes it. It reads no clock, no
//! terminal and no socket, so that every rule can be tested with keys and answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shoal_client::io::{ContactLine, EstimateLine, Failure, OverviewLine, Status};

use super::ask::{Ask, Input, Order, Side, Tag, knows_groups};
use super::bar;
use super::chats::{Chat, Told};
use super::editor::Editor;
use super::forms::Form;
use super::layout::{Areas, Wish};
use super::talk::{PAGE, Talk};
use super::words;
use super::wrap::{shown, wrapped};

/// Bytes of UTF-8 that a text may have; the daemon takes no more.
pub(super) const TEXT_MAX: usize = 1 << 20;
/// Drafts that are kept at a time, in memory only.
const DRAFTS_MAX: usize = 64;
/// How long a notice stays, in ticks; and one about a failure, unless Escape takes it away.
const NOTICE_TICKS: u64 = 8;
const FAILURE_TICKS: u64 = 60;

/// How the daemon stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Starting,
    Up,
    /// Why it does not answer.
    Down(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    List,
    Write,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) urgent: bool,
    pub(super) ticks: u64,
}

/// The whole state.
#[derive(Debug)]
pub(super) struct State {
    pub(super) size: (u16, u16),
    pub(super) link: Link,
    pub(super) status: Option<Status>,
    pub(super) address: Option<String>,
    pub(super) groups: bool,
    pub(super) contacts: Vec<ContactLine>,
    pub(super) told: Vec<Told>,
    pub(super) overview: Vec<OverviewLine>,
    pub(super) chats: Vec<Chat>,
    /// The one that the list points at.
    pub(super) picked: Option<String>,
    pub(super) talk: Option<Talk>,
    pub(super) drafts: BTreeMap<String, Editor>,
    pub(super) focus: Focus,
    pub(super) form: Option<Form>,
    pub(super) notice: Option<Notice>,
    pub(super) estimate: Option<EstimateLine>,
    /// The reason for caution that was last waved through.
    pub(super) waved: Option<String>,
    pub(super) status_asked: bool,
    pub(super) estimate_asked: bool,
    /// Questions about progress that are not answered yet.
    pub(super) progress_asked: usize,
    /// Texts and files that the daemon has not confirmed yet.
    pub(super) handing_over: usize,
    /// To leave as soon as it has.
    pub(super) leaving: bool,
    /// Answers that a look still waits for, and whether another one is wanted after it.
    pub(super) looking: u8,
    pub(super) look_again: bool,
    pub(super) ticks: u64,
    orders: Vec<Order>,
}

impl State {
    pub(super) fn new(size: (u16, u16)) -> Self {
        Self {
            size,
            link: Link::Starting,
            status: None,
            address: None,
            groups: knows_groups(),
            contacts: Vec::new(),
            told: Vec::new(),
            overview: Vec::new(),
            chats: Vec::new(),
            picked: None,
            talk: None,
            drafts: BTreeMap::new(),
            focus: Focus::List,
            form: None,
            notice: None,
            estimate: None,
            waved: None,
            status_asked: false,
            estimate_asked: false,
            progress_asked: 0,
            handing_over: 0,
            leaving: false,
            looking: 0,
            look_again: false,
            ticks: 0,
            orders: Vec::new(),
        }
    }

    /// Takes in what happened and says what is to be done, in this order.
    pub(super) fn take(&mut self, input: Input) -> Vec<Order> {
        match input {
            Input::Key(key) => self.key(key),
            Input::Paste(text) => self.paste(&text),
            Input::Size(columns, rows) => self.size = (columns, rows),
            Input::Tick => self.tick(),
            Input::Linked => self.linked(),
            Input::Lost(failure) => self.lost(&failure),
            Input::Event(event) => self.event(event),
            Input::Answer(tag, result) => self.answer(tag, result),
        }
        self.watch();
        std::mem::take(&mut self.orders)
    }

    pub(super) fn order(&mut self, order: Order) {
        self.orders.push(order);
    }

    pub(super) fn ask(&mut self, tag: Tag, method: &'static str, params: Value) {
        self.order(Order::Ask(Ask::new(tag, method, params)));
    }

    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), urgent: false, ticks: NOTICE_TICKS });
    }

    pub(super) fn complain(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), urgent: true, ticks: FAILURE_TICKS });
    }

    pub(super) fn fail(&mut self, failure: &Failure) {
        let text = if failure.next.is_empty() {
            failure.message.clone()
        } else {
            format!("{}. Next: {}", failure.message, failure.next)
        };
        self.complain(shown(&text, 2_000).0.replace('\n', " "));
    }

    pub(super) fn chat(&self, key: &str) -> Option<&Chat> {
        self.chats.iter().find(|chat| chat.key == key)
    }

    /// The conversation that is open.
    pub(super) fn open_chat(&self) -> Option<&Chat> {
        self.talk.as_ref().and_then(|talk| self.chat(&talk.key))
    }

    /// The one that a command means: the one pointed at in the list, else the open one.
    pub(super) fn meant(&self) -> Option<&Chat> {
        match self.focus {
            Focus::List => self.picked.as_ref().and_then(|key| self.chat(key)),
            Focus::Write => self.open_chat(),
        }
    }

    pub(super) fn draft(&self) -> Option<&Editor> {
        self.talk.as_ref().and_then(|talk| self.drafts.get(&talk.key))
    }

    pub(super) fn draft_mut(&mut self) -> Option<&mut Editor> {
        let key = self.talk.as_ref()?.key.clone();
        if !self.drafts.contains_key(&key) && self.drafts.len() >= DRAFTS_MAX {
            self.drafts.retain(|_, draft| !draft.is_empty());
            if self.drafts.len() >= DRAFTS_MAX {
                self.complain("There are too many texts that were begun: send or delete one first");
                return None;
            }
        }
        Some(self.drafts.entry(key).or_default())
    }

    /// Whether something was written that leaving would lose.
    pub(super) fn has_drafts(&self) -> bool {
        self.drafts.values().any(|draft| !draft.is_empty())
    }

    /// Where everything stands; `None`: the terminal is too small.
    pub(super) fn areas(&self) -> Option<Areas> {
        let width = usize::from(self.size.0);
        let list_first = self.talk.is_none() || self.focus == Focus::List;
        let wish = |draft| Wish {
            bar: bar::lines(self, width).len(),
            caution: bar::caution(self).map_or(0, |text| wrapped(&text, width.saturating_sub(2)).len()),
            notice: self.notice.as_ref().map_or(0, |notice| wrapped(&notice.text, width.saturating_sub(2)).len()),
            draft,
            list_first,
        };
        let areas = Areas::of(self.size, wish(1))?;
        let draft = self.draft().map_or(1, |draft| draft.lines(usize::from(areas.draft.width)).len());
        Areas::of(self.size, wish(draft))
    }

    /// Width and height of the messages.
    pub(super) fn window(&self) -> (usize, usize) {
        self.areas().map_or((0, 0), |areas| (areas.messages.width.into(), areas.messages.height.into()))
    }

    pub(super) fn open(&mut self, key: &str) {
        self.picked = Some(key.to_owned());
        self.focus = Focus::Write;
        if self.talk.as_ref().is_some_and(|talk| talk.key == key) {
            return;
        }
        self.talk = Some(Talk::new(key));
        self.estimate = None;
        self.newest();
        self.ask_estimate();
    }

    /// The newest page of the open conversation, in place of what is there.
    pub(super) fn newest(&mut self) {
        if let Some(talk) = &self.talk {
            let ask = Ask::timeline(&talk.key, Side::Newest, PAGE);
            self.order(Order::Ask(ask));
        }
    }

    /// What came after what is there.
    pub(super) fn onward(&mut self) {
        let Some(talk) = &mut self.talk else { return };
        if talk.asked_after {
            talk.after_again = true;
        } else if let Some(side) = talk.onward() {
            talk.asked_after = matches!(side, Side::After(_));
            let ask = Ask::timeline(&talk.key, side, PAGE);
            self.order(Order::Ask(ask));
        }
    }

    /// What came while nobody listened. Who looks at older messages goes on doing so.
    pub(super) fn catch_up(&mut self) {
        if self.talk.as_ref().is_some_and(Talk::scrolled) { self.onward() } else { self.newest() }
    }

    /// What came before what is there.
    pub(super) fn backward(&mut self) {
        let Some(talk) = &mut self.talk else { return };
        if let (Some(oldest), true, false) = (talk.oldest(), talk.more, talk.asked_before) {
            talk.asked_before = true;
            let ask = Ask::timeline(&talk.key, Side::Before(oldest), PAGE);
            self.order(Order::Ask(ask));
        }
    }

    /// Asks for everything that the list is made of; while that is asked for already, once more afterwards.
    pub(super) fn look(&mut self) {
        if self.looking > 0 {
            self.look_again = true;
            return;
        }
        self.looking = 3;
        self.ask(Tag::Contacts, "contacts", json!({}));
        self.ask(Tag::Conversations, "conversations", json!({}));
        self.ask(Tag::Overview, "overview", json!({}));
    }

    pub(super) fn ask_status(&mut self) {
        if !self.status_asked {
            self.status_asked = true;
            self.ask(Tag::Status, "status", json!({}));
        }
    }

    pub(super) fn ask_estimate(&mut self) {
        let Some(key) = self.talk.as_ref().map(|talk| talk.key.clone()) else { return };
        if !self.estimate_asked {
            self.estimate_asked = true;
            let bytes = self.draft().map_or(0, |draft| draft.text().len());
            self.ask(Tag::Estimate { key: key.clone() }, "estimate", json!({ "conversation": key, "bytes": bytes }));
        }
    }

    /// Why the user is asked before something is sent now.
    pub(super) fn asks_first(&self) -> Option<String> {
        self.status.as_ref().and_then(words::asks_first).filter(|why| self.waved.as_ref() != Some(why))
    }
}
