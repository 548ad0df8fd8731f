//! The state, driven by keys and answers.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};
use shoal_client::io::{Condition, EventLine, Exit, Failure, MessageLine, SentLine, Status};
use shoal_client::mail::MessageState;

use super::ask::{Ask, Input, Order, Side, Tag};
use super::forms::{Form, Prompt, Shown, What};
use super::samples::{contact, overview, own, page, status, theirs};
use super::state::{Focus, Link, State};

fn value(of: impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}

fn answer(state: &mut State, tag: Tag, of: impl serde::Serialize) -> Vec<Order> {
    state.take(Input::Answer(tag, Ok(value(of))))
}

fn press(state: &mut State, code: KeyCode) -> Vec<Order> {
    state.take(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn control(state: &mut State, letter: char) -> Vec<Order> {
    state.take(Input::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL)))
}

fn write(state: &mut State, text: &str) {
    for letter in text.chars() {
        press(state, KeyCode::Char(letter));
    }
}

fn asks(orders: &[Order]) -> Vec<(&'static str, &Value)> {
    orders
        .iter()
        .filter_map(|order| match order {
            Order::Ask(Ask { method, params, .. }) => Some((*method, params)),
            Order::Start | Order::Redraw | Order::Quit => None,
        })
        .collect()
}

fn methods(orders: &[Order]) -> Vec<&'static str> {
    asks(orders).into_iter().map(|(method, _)| method).collect()
}

/// Bob and a stranger in the list; nothing is open.
pub(in crate::chat) fn two_chats(size: (u16, u16)) -> State {
    let mut state = State::new(size);
    state.take(Input::Linked);
    let mut stranger = contact("qzoezoezoezoezoezoezoezoezoezoe", Some("c2"));
    stranger.name.clone_from(&stranger.address);
    stranger.request = true;
    let told = json!([
        {"conversation": "c1", "with": "bob", "address": "shoal1bob", "request": false, "undelivered": 0, "broken": false},
        {"conversation": "c2", "with": stranger.address, "address": stranger.address, "request": true, "undelivered": 0,
         "broken": false}
    ]);
    answer(&mut state, Tag::Contacts, [contact("bob", Some("c1")), stranger]);
    answer(&mut state, Tag::Conversations, told);
    answer(&mut state, Tag::Overview, [overview("c2", 9, 1), overview("c1", 4, 2)]);
    answer(&mut state, Tag::Status, status());
    answer(&mut state, Tag::Address, json!({"address": "shoal1me"}));
    state
}

/// The conversation with Bob is open.
pub(in crate::chat) fn with_bob(size: (u16, u16)) -> State {
    let mut state = two_chats(size);
    press(&mut state, KeyCode::End);
    press(&mut state, KeyCode::Enter);
    let entries = vec![theirs(3, "ahoy"), own(4, "hello 🐟", MessageState::Stored)];
    answer(&mut state, Tag::Timeline { key: "c1".into(), side: Side::Newest }, page(entries, false));
    answer(&mut state, Tag::Estimate { key: "c1".into() }, json!({"stored_ms": 2_000, "arrives_ms": 5_000}));
    state
}

#[test]
fn everything_is_asked_for_when_there_is_a_daemon() {
    let mut state = State::new((80, 24));
    let orders = state.take(Input::Linked);
    assert_eq!(methods(&orders), ["address", "status", "contacts", "conversations", "overview"]);
    // what is asked already is not asked again, and what changed meanwhile is looked at afterwards, once
    let orders = state.take(Input::Event(EventLine::Contact(contact("bob", None))));
    assert_eq!(methods(&orders), [""; 0]);
    state.take(Input::Event(EventLine::Contact(contact("bob", None))));
    answer(&mut state, Tag::Contacts, json!([]));
    answer(&mut state, Tag::Conversations, json!([]));
    let orders = answer(&mut state, Tag::Overview, json!([]));
    assert_eq!(methods(&orders), ["contacts", "conversations", "overview"]);
}

#[test]
fn a_conversation_is_opened_and_seen() {
    let mut state = two_chats((80, 24));
    press(&mut state, KeyCode::End);
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(methods(&orders), ["timeline", "estimate"]);
    let newest = Tag::Timeline { key: "c1".into(), side: Side::Newest };
    let orders = answer(&mut state, newest.clone(), page(vec![theirs(4, "ahoy")], false));
    assert_eq!(asks(&orders), [("seen", &json!({"conversation": "c1", "cursor": 4}))]);
    // an answer for another conversation than the open one is for nobody
    answer(&mut state, Tag::Timeline { key: "c9".into(), side: Side::Newest }, page(vec![theirs(8, "x")], false));
    assert_eq!(state.talk.as_ref().and_then(super::talk::Talk::newest), Some(4));
}

#[test]
fn enter_sends_and_other_enters_begin_a_line() {
    let mut state = with_bob((80, 24));
    write(&mut state, "one");
    state.take(Input::Key(KeyEvent::new(KeyCode::Enter, KeyModifiers::ALT)));
    write(&mut state, "two");
    control(&mut state, 'j');
    state.take(Input::Paste("thr\u{1b}ee\r\nfour?".into()));
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(asks(&orders), [("send", &json!({"to": "c1", "text": "one\ntwo\nthree\nfour?"}))]);
    assert!(state.draft().is_some_and(super::editor::Editor::is_empty));
    assert_eq!(press(&mut state, KeyCode::Enter), []);
    // when the daemon has it, the new entry is fetched
    let tag = Tag::Sent { key: "c1".into(), text: "x".into() };
    let orders = answer(&mut state, tag, json!({"id": "id5", "state": "queued"}));
    assert!(asks(&orders).contains(&("timeline", &json!({"conversation": "c1", "limit": 50, "after": 4}))));
}

#[test]
fn a_text_that_was_refused_comes_back_before_what_was_written_since() {
    let mut state = with_bob((80, 24));
    write(&mut state, "since");
    let failure = Failure::new(Exit::Temporary, "queue_full", "the queue is full\u{1b}[2J", "wait");
    state.take(Input::Answer(Tag::Sent { key: "c1".into(), text: "first".into() }, Err(failure)));
    assert_eq!(state.draft().unwrap().text(), "first\nsince");
    let notice = state.notice.as_ref().unwrap();
    assert!(notice.urgent && notice.text.contains("the queue is full\u{fffd}[2J. Next: wait"), "{notice:?}");
    press(&mut state, KeyCode::Esc);
    assert_eq!((&state.notice, state.focus), (&None, Focus::Write));
}

#[test]
fn one_is_asked_once_a_reason_before_something_leaves_while_anonymity_is_low() {
    let mut state = with_bob((80, 24));
    let few = Status { anonymity_bits: Some(2.0), hiding_among: Some(4), ..status() };
    answer(&mut state, Tag::Status, few);
    write(&mut state, "hi");
    assert_eq!(press(&mut state, KeyCode::Enter), []);
    assert!(matches!(state.form, Some(Form::Question(_))));
    // not by hitting Enter twice
    assert_eq!(press(&mut state, KeyCode::Enter), []);
    press(&mut state, KeyCode::Char('n'));
    assert_eq!((state.draft().unwrap().text(), &state.form), ("hi", &None));
    press(&mut state, KeyCode::Enter);
    assert_eq!(methods(&press(&mut state, KeyCode::Char('y'))), ["send"]);
    write(&mut state, "again");
    assert_eq!(methods(&press(&mut state, KeyCode::Enter)), ["send"]);
    // another reason is asked about
    answer(&mut state, Tag::Status, Status { state: Condition::Pause, cause: Some("loss".into()), ..status() });
    write(&mut state, "more");
    assert_eq!(press(&mut state, KeyCode::Enter), []);
}

#[test]
fn a_request_is_accepted_only_when_asked_and_then_given_a_name() {
    let mut state = two_chats((80, 24));
    press(&mut state, KeyCode::Char('y'));
    assert!(matches!(state.form, Some(Form::Question(_))));
    let orders = press(&mut state, KeyCode::Char('y'));
    assert_eq!(asks(&orders), [("accept", &json!({"who": "c2"}))]);
    let Some(Order::Ask(ask)) = orders.first() else { panic!("{orders:?}") };
    answer(&mut state, ask.tag.clone(), json!({}));
    let Some(Form::Prompt(Prompt { what: What::AddContact, fields, .. })) = &state.form else { panic!("{state:?}") };
    assert!(fields[1].1.text().starts_with("shoal1qzoe"));
    write(&mut state, "zoe");
    press(&mut state, KeyCode::Enter);
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(asks(&orders)[0].1["name"], "zoe");
    // b blocks, after a question
    press(&mut state, KeyCode::Char('b'));
    assert_eq!(asks(&press(&mut state, KeyCode::Char('y'))), [("block", &json!({"who": "c2"}))]);
}

#[test]
fn a_pasted_address_loses_its_line_breaks_and_empty_fields_are_not_taken() {
    let mut state = two_chats((80, 24));
    press(&mut state, KeyCode::End);
    press(&mut state, KeyCode::Char('a'));
    press(&mut state, KeyCode::Tab);
    state.take(Input::Paste("shoal1\nbob\r\n".into()));
    assert_eq!(press(&mut state, KeyCode::Enter), []);
    write(&mut state, "bob");
    press(&mut state, KeyCode::Tab);
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(asks(&orders), [("add", &json!({"name": "bob", "address": "shoal1bob"}))]);
}

#[test]
fn a_file_is_sent_on_a_way_of_its_own_and_its_progress_is_asked_for() {
    let mut state = with_bob((80, 24));
    press(&mut state, KeyCode::F(5));
    write(&mut state, "~/fish.png");
    let orders = press(&mut state, KeyCode::Enter);
    let Some(Order::Ask(ask)) = orders.first() else { panic!("{orders:?}") };
    assert_eq!((ask.method, ask.slow, &ask.params), ("send_file", true, &json!({"to": "c1", "path": "~/fish.png"})));
    let mut entry = own(5, "", MessageState::Queued);
    entry.parts = Some(shoal_client::io::Parts { written: 1, all: 9 });
    answer(&mut state, Tag::Timeline { key: "c1".into(), side: Side::After(4) }, page(vec![entry], false));
    let orders = state.take(Input::Tick);
    assert!(asks(&orders).contains(&("state", &json!({"id": "id5"}))), "{orders:?}");
    // not again before the answer
    assert!(!methods(&state.take(Input::Tick)).contains(&"state"));
    let parts = json!({"id": "id5", "state": "queued", "waits_for": "turn", "parts": {"written": 4, "all": 9}});
    answer(&mut state, Tag::Progress { id: "id5".into() }, parts);
    assert_eq!(state.talk.as_ref().unwrap().entries()[2].parts.map(|parts| parts.written), Some(4));
}

#[test]
fn news_reach_the_open_conversation_and_the_list() {
    let mut state = with_bob((80, 24));
    let message = MessageLine {
        id: "id9".into(),
        from: "bob".into(),
        conversation: "c1".into(),
        group: None,
        text: "new".into(),
        file: None,
        sent_at: 0,
        received_at: 0,
        request: false,
    };
    let orders = state.take(Input::Event(EventLine::Message(message)));
    assert!(methods(&orders).contains(&"timeline") && methods(&orders).contains(&"overview"), "{orders:?}");
    let line = SentLine { id: "id4".into(), state: MessageState::Delivered, waits_for: None, parts: None };
    assert_eq!(state.take(Input::Event(EventLine::State(line))), []);
    assert_eq!(state.talk.as_ref().unwrap().entries()[1].state, Some(MessageState::Delivered));
}

#[test]
fn what_comes_while_an_answer_is_awaited_is_asked_for_after_it() {
    let mut state = with_bob((80, 24));
    let unknown = || {
        Input::Event(EventLine::State(SentLine {
            id: "elsewhere".into(),
            state: MessageState::Queued,
            waits_for: None,
            parts: None,
        }))
    };
    assert_eq!(methods(&state.take(unknown())), ["timeline"]);
    assert_eq!(state.take(unknown()), []);
    assert_eq!(state.take(unknown()), []);
    let after = |cursor| Tag::Timeline { key: "c1".into(), side: Side::After(cursor) };
    let orders = answer(&mut state, after(4), page(vec![own(5, "x", MessageState::Queued)], false));
    assert!(asks(&orders).contains(&("timeline", &json!({"conversation": "c1", "limit": 50, "after": 5}))));
    let orders = answer(&mut state, after(5), page(vec![own(6, "y", MessageState::Queued)], false));
    assert!(!methods(&orders).contains(&"timeline"), "{orders:?}");
}

#[test]
fn who_looks_at_older_messages_goes_on_doing_so_when_events_were_missed() {
    let mut state = with_bob((80, 24));
    let many = (1..40).map(|cursor| theirs(cursor, "text")).collect();
    answer(&mut state, Tag::Timeline { key: "c1".into(), side: Side::Newest }, page(many, false));
    press(&mut state, KeyCode::PageUp);
    let orders = state.take(Input::Event(EventLine::Missed(9)));
    assert!(asks(&orders).contains(&("timeline", &json!({"conversation": "c1", "limit": 50, "after": 39}))));
}

#[test]
fn who_was_written_to_before_there_was_a_conversation_stays_open() {
    let mut state = State::new((80, 24));
    state.take(Input::Linked);
    answer(&mut state, Tag::Contacts, [contact("bob", None)]);
    assert_eq!(state.picked, None, "nobody is picked before it is known who wrote last");
    answer(&mut state, Tag::Conversations, json!([]));
    answer(&mut state, Tag::Overview, json!([]));
    press(&mut state, KeyCode::Enter);
    write(&mut state, "draft");
    answer(&mut state, Tag::Conversations, json!([{"conversation": "c1", "with": "bob", "address": "shoal1bob"}]));
    assert_eq!(state.talk.as_ref().unwrap().key, "c1");
    assert_eq!(state.draft().unwrap().text(), "draft");
}

#[test]
fn a_daemon_that_ended_is_started_only_when_asked() {
    let mut state = with_bob((80, 24));
    state.take(Input::Lost(Failure::new(Exit::Unreachable, "daemon_gone", "the daemon has ended", "")));
    assert!(matches!(state.link, Link::Down(_)) && state.status.is_none());
    assert_eq!(state.take(Input::Tick), []);
    write(&mut state, "kept");
    assert_eq!(press(&mut state, KeyCode::Enter), []);
    assert_eq!(state.draft().unwrap().text(), "kept");
    assert_eq!(control(&mut state, 'r'), [Order::Start]);
    let orders = state.take(Input::Linked);
    assert!(methods(&orders).contains(&"timeline"), "{orders:?}");
}

#[test]
fn leaving_asks_about_texts_that_were_begun_and_waits_for_those_that_were_sent() {
    let mut state = with_bob((80, 24));
    write(&mut state, "begun");
    assert_eq!(control(&mut state, 'c'), []);
    press(&mut state, KeyCode::Esc);
    press(&mut state, KeyCode::Enter);
    // the daemon has not said yet that it has the text
    assert_eq!(control(&mut state, 'c'), []);
    let tag = Tag::Sent { key: "c1".into(), text: "begun".into() };
    let orders = answer(&mut state, tag, json!({"id": "id5", "state": "queued"}));
    assert!(orders.contains(&Order::Quit), "{orders:?}");
    let mut idle = with_bob((80, 24));
    assert_eq!(control(&mut idle, 'q'), [Order::Quit]);
}

#[test]
fn groups_are_offered_only_where_they_are_known() {
    let mut state = two_chats((80, 24));
    state.groups = false;
    press(&mut state, KeyCode::Char('n'));
    assert!(state.form.is_none() && state.notice.is_some());
    state.groups = true;
    press(&mut state, KeyCode::Char('n'));
    write(&mut state, "club");
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(asks(&orders), [("group_create", &json!({"name": "club"}))]);
    let orders = answer(&mut state, Tag::Made, json!({"conversation": "g1"}));
    assert!(asks(&orders).contains(&("timeline", &json!({"conversation": "g1", "limit": 50}))));
    let told =
        json!([{"conversation": "g1", "kind": "group", "name": "club", "with": null, "address": null, "members": []}]);
    answer(&mut state, Tag::Conversations, told);
    press(&mut state, KeyCode::F(7));
    press(&mut state, KeyCode::Char('a'));
    write(&mut state, "bob");
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(asks(&orders), [("group_add", &json!({"conversation": "g1", "who": "bob"}))]);
    press(&mut state, KeyCode::F(7));
    press(&mut state, KeyCode::Char('l'));
    assert_eq!(asks(&press(&mut state, KeyCode::Char('y'))), [("group_leave", &json!({"conversation": "g1"}))]);
}

#[test]
fn an_invite_is_made_and_shown_and_an_address_given_up_only_when_asked() {
    let mut state = two_chats((80, 24));
    press(&mut state, KeyCode::Char('i'));
    write(&mut state, "zoe");
    let orders = press(&mut state, KeyCode::Enter);
    assert_eq!(asks(&orders), [("invite", &json!({"name": "zoe"}))]);
    answer(&mut state, Tag::Invited, json!({"invite": "shoal-invite1x", "number": 1}));
    assert_eq!(state.form, Some(Form::Shown(Shown::Invite("shoal-invite1x".into()))));
    press(&mut state, KeyCode::Esc);
    press(&mut state, KeyCode::Char('m'));
    press(&mut state, KeyCode::Char('n'));
    assert!(matches!(state.form, Some(Form::Question(_))));
    assert_eq!(methods(&press(&mut state, KeyCode::Char('y'))), ["new_address"]);
    answer(&mut state, Tag::Address, json!({"address": "shoal1new", "moving": 1}));
    assert_eq!((state.address.as_deref(), &state.form), (Some("shoal1new"), &Some(Form::Shown(Shown::Address))));
}

#[test]
fn what_is_taken_back_is_the_newest_that_can_be() {
    let mut state = with_bob((80, 24));
    control(&mut state, 'x');
    assert!(state.form.is_none() && state.notice.is_some(), "nothing is on its way");
    let mut file = own(6, "", MessageState::Stored);
    file.file = Some(shoal_client::io::EntryFile { name: "fish.png".into(), size: 9, path: None });
    let entries = vec![own(5, "queued", MessageState::Queued), file, own(7, "left", MessageState::Stored)];
    answer(&mut state, Tag::Timeline { key: "c1".into(), side: Side::After(4) }, page(entries, false));
    control(&mut state, 'x');
    assert_eq!(asks(&press(&mut state, KeyCode::Char('y'))), [("cancel", &json!({"id": "id6"}))]);
}
