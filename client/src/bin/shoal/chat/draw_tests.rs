use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{json, to_value};
use shoal_client::io::{Condition, EntryFile, Exit, Failure, Parts, Status};
use shoal_client::mail::MessageState;

use super::*;
use crate::chat::ask::{Input, Side, Tag};
use crate::chat::samples::{own, page, status, theirs};
use crate::chat::state_tests::{two_chats, with_bob};

const SIZES: [(u16, u16); 3] = [(80, 24), (40, 10), (120, 40)];

/// What a terminal shows: a string a row, a wide character counted once.
fn rows(state: &State, look: Look) -> Vec<String> {
    let (width, height) = state.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, look)).unwrap();
    let buffer = terminal.backend().buffer();
    (0..height)
        .map(|y| {
            let mut row = String::new();
            let mut x = 0;
            while x < width {
                let symbol = buffer.cell((x, y)).unwrap().symbol();
                row.push_str(symbol);
                x += u16::try_from(crate::chat::wrap::columns(symbol).max(1)).unwrap();
            }
            row
        })
        .collect()
}

fn screen(state: &State) -> String {
    rows(state, Look::of(false)).join("\n")
}

fn press(state: &mut State, code: KeyCode) {
    state.take(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)));
}

fn holds(screen: &str, parts: &[&str]) {
    for part in parts {
        assert!(screen.contains(part), "{part:?} is missing:\n{screen}");
    }
}

#[test]
fn the_bar_has_every_fact_at_every_size() {
    for size in SIZES {
        let screen = screen(&with_bob(size));
        holds(&screen, &["CONNECTED", "512", "9.0 bits", "loops 98%", "5 s", "bob", "hello 🐟", "✓ stored"]);
        let words = if size.0 < 80 { ["ep 41", "gw 3f3f", "q 2"] } else { ["epoch 41", "gateway 3f3f3f3f", "queue 2"] };
        holds(&screen, &words);
    }
}

#[test]
fn every_row_is_as_wide_as_the_terminal() {
    for size in SIZES {
        let mut state = with_bob(size);
        let text = "漢字 👨‍👩‍👧 e\u{301} שלום नमस्ते 🇳🇱 ".repeat(9);
        let newest = Tag::Timeline { key: "c1".into(), side: Side::Newest };
        let entries = page(vec![theirs(5, &text), own(6, &text, MessageState::Sent)], false);
        state.take(Input::Answer(newest, Ok(to_value(entries).unwrap())));
        state.take(Input::Paste(text.clone()));
        for row in rows(&state, Look::of(false)) {
            assert_eq!(crate::chat::wrap::columns(&row), usize::from(size.0), "{row:?}");
        }
    }
}

#[test]
fn warnings_and_pauses_are_words_and_say_what_to_do() {
    for size in SIZES {
        for (condition, word, meaning) in [
            (Condition::Warn, "WARNING", "Many packets are lost"),
            (Condition::Pause, "PAUSED", "Most packets are lost"),
            (Condition::Offline, "OFFLINE", "No connection"),
            (Condition::Stopped, "STOPPED", "The network's authorities"),
        ] {
            let mut state = with_bob(size);
            let next = "look again in a moment and then do this and that, as long as it takes".to_owned();
            let bad = Status { state: condition, cause: Some("loss".into()), next, ..status() };
            state.take(Input::Answer(Tag::Status, Ok(to_value(bad).unwrap())));
            // colours add nothing that is not said
            assert_eq!(rows(&state, Look::of(false)), rows(&state, Look::of(true)));
            holds(&screen(&state), &[word, meaning.get(..20).unwrap_or(meaning), "hello 🐟"]);
        }
    }
    let mut state = with_bob((80, 24));
    state.take(Input::Lost(Failure::new(Exit::Unreachable, "daemon_gone", "the daemon has ended", "")));
    holds(&screen(&state), &["NOT RUNNING", "no cover traffic", "Ctrl+R"]);
}

#[test]
fn without_colours_nothing_has_one() {
    let mut state = with_bob((80, 24));
    state.take(Input::Lost(Failure::new(Exit::Unreachable, "daemon_gone", "the daemon has ended", "")));
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, &state, Look::of(true))).unwrap();
    let plain = |cell: &ratatui::buffer::Cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset);
    assert!(terminal.backend().buffer().content().iter().all(plain));
}

#[test]
fn list_and_conversation_stand_side_by_side_where_there_is_room() {
    for size in SIZES {
        let list = screen(&two_chats(size));
        holds(&list, &["Conversations", "bob", "2 new", "REQUEST"]);
        let open = screen(&with_bob(size));
        assert_eq!(open.contains("Conversations"), size.0 >= 64, "{open}");
        holds(&open, &["Write", "Enter send"]);
    }
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    for size in [(39, 24), (80, 9), (12, 3), (1, 1)] {
        let screen = screen(&with_bob(size));
        assert!(screen.replace(['\n', ' '], "").starts_with(if size.0 > 1 { "CONNECTED" } else { "C" }), "{screen}");
    }
    holds(&screen(&with_bob((39, 24))), &["Too small: 39 x 24"]);
}

#[test]
fn what_others_write_cannot_move_the_cursor() {
    let mut state = with_bob((80, 24));
    let mut entry = theirs(5, "red\u{1b}[31m\u{7}\u{202e}txt");
    entry.from = Some("b\u{1b}]0;x\u{7}ob".into());
    entry.file = Some(EntryFile { name: "a\u{9b}1m\n.png".into(), size: 3, path: Some("/f/a\u{1b}.png".into()) });
    let newest = Tag::Timeline { key: "c1".into(), side: Side::Newest };
    state.take(Input::Answer(newest, Ok(to_value(page(vec![entry], false)).unwrap())));
    let screen = screen(&state);
    assert!(screen.chars().all(|letter| letter == '\n' || !letter.is_control()), "{screen:?}");
    holds(&screen, &["red\u{fffd}[31m\u{fffd}\u{fffd}txt", "[file a\u{fffd}1m .png, 3 bytes]"]);
}

#[test]
fn a_file_has_a_bar_until_it_is_stored() {
    let mut state = with_bob((80, 24));
    let mut entry = own(5, "", MessageState::Sent);
    entry.file = Some(EntryFile { name: "fish.png".into(), size: 123_456, path: None });
    entry.parts = Some(Parts { written: 5, all: 10 });
    let newest = Tag::Timeline { key: "c1".into(), side: Side::Newest };
    state.take(Input::Answer(newest, Ok(to_value(page(vec![entry], false)).unwrap())));
    holds(&screen(&state), &["[file fish.png, 123.4 kB]", "[##########----------] 5 of 10 boxes", "→ sent"]);
}

#[test]
fn the_own_address_has_a_code_where_it_fits() {
    for size in SIZES {
        let mut state = with_bob(size);
        let address = format!("shoal1{}", "q".repeat(59));
        state.take(Input::Answer(Tag::Address, Ok(json!({ "address": address }))));
        press(&mut state, KeyCode::F(3));
        let screen = screen(&state);
        assert_eq!(screen.contains('▀'), size.1 >= 24, "{screen}");
        holds(&screen, &["My address", "shoal1qqqq"]);
    }
}

#[test]
fn help_questions_and_fields_fit_every_size() {
    for size in SIZES {
        let mut state = with_bob(size);
        press(&mut state, KeyCode::F(1));
        holds(&screen(&state), &["Help", "WRITING"]);
        // one cannot scroll beyond the end
        (0..300).for_each(|_| press(&mut state, KeyCode::Down));
        holds(&screen(&state), &["written to disk."]);
        press(&mut state, KeyCode::Esc);
        press(&mut state, KeyCode::F(2));
        holds(&screen(&state), &["Status", "Connection"]);
        press(&mut state, KeyCode::Esc);
        press(&mut state, KeyCode::F(4));
        holds(&screen(&state), &["Name"]);
        press(&mut state, KeyCode::Esc);
        press(&mut state, KeyCode::F(9));
        holds(&screen(&state), &["Block bob?", "y  block"]);
    }
}

#[test]
fn the_cursor_is_where_one_writes() {
    let mut state = with_bob((80, 24));
    state.take(Input::Paste("漢字 e\u{301}".into()));
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, &state, Look::of(false))).unwrap();
    let areas = state.areas().unwrap();
    terminal.backend_mut().assert_cursor_position((areas.draft.x + 6, areas.draft.y));
}

proptest::proptest! {
    #[test]
    fn no_state_and_no_size_breaks_the_drawing(
        size in (1_u16..130, 1_u16..50),
        text in "\\PC{0,200}|[a🐟漢\u{301} \n]{0,300}",
        keys in proptest::collection::vec(0..12_usize, 0..12),
    ) {
        let mut state = with_bob(size);
        state.take(Input::Paste(text.clone()));
        let newest = Tag::Timeline { key: "c1".into(), side: Side::Newest };
        state.take(Input::Answer(newest, Ok(to_value(page(vec![theirs(5, &text)], false)).unwrap())));
        for key in keys {
            let codes = [KeyCode::Up, KeyCode::Down, KeyCode::PageUp, KeyCode::PageDown, KeyCode::Tab, KeyCode::Esc,
                KeyCode::Enter, KeyCode::Left, KeyCode::Backspace, KeyCode::F(1), KeyCode::F(3), KeyCode::F(4)];
            press(&mut state, codes[key]);
            screen(&state);
        }
    }
}
