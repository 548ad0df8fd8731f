//! The window of messages, tested without a screen.

use proptest::prelude::*;
use shoal_client::io::{EntryLine, SentLine, WaitsFor};
use shoal_client::mail::MessageState;

use super::ask::Side;
use super::samples::{own, page, theirs};
use super::talk::{KEPT, PAGE, Talk};

const WIDTH: usize = 30;
const HEIGHT: usize = 10;

fn many(cursors: std::ops::Range<u64>) -> Vec<EntryLine> {
    cursors.map(|cursor| theirs(cursor, &format!("text {cursor}"))).collect()
}

fn opened(cursors: std::ops::Range<u64>, more: bool) -> Talk {
    let mut talk = Talk::new("c");
    talk.put(page(many(cursors), more), Side::Newest);
    talk
}

fn last(talk: &Talk) -> String {
    talk.rows(WIDTH, HEIGHT).last().map(|row| row.text.trim().to_owned()).unwrap_or_default()
}

#[test]
fn what_is_being_read_stays_where_it_is() {
    let mut talk = opened(100..150, true);
    assert_eq!(last(&talk), "text 149");
    assert!(!talk.up(20, WIDTH, HEIGHT));
    let seen = talk.rows(WIDTH, HEIGHT);
    talk.put(page(many(150..160), false), Side::After(149));
    assert_eq!(talk.rows(WIDTH, HEIGHT), seen);
    talk.put(page(many(50..100), true), Side::Before(100));
    assert_eq!(talk.rows(WIDTH, HEIGHT), seen);
    assert_eq!(talk.watched(), None);
    talk.down(1_000, WIDTH);
    assert_eq!((last(&talk).as_str(), talk.watched()), ("text 159", Some(159)));
}

#[test]
fn older_entries_are_wanted_near_the_beginning_and_not_when_there_are_none() {
    let mut talk = opened(1..51, true);
    assert!(!talk.up(5, WIDTH, HEIGHT));
    assert!(talk.top(WIDTH, HEIGHT));
    assert!(talk.rows(WIDTH, HEIGHT)[0].text.contains("(UTC)"));
    assert_eq!(talk.rows(WIDTH, HEIGHT).len(), HEIGHT);
    let mut talk = opened(1..51, false);
    assert!(!talk.top(WIDTH, HEIGHT));
    // what fits has nothing to scroll
    let mut talk = opened(1..3, false);
    assert!(!talk.up(7, WIDTH, HEIGHT) && !talk.scrolled());
}

#[test]
fn a_window_that_is_full_gives_up_the_other_end() {
    let mut talk = opened(1_000..1_000 + PAGE as u64, true);
    let mut first = 1_000;
    while first > 400 {
        talk.top(WIDTH, HEIGHT);
        talk.put(page(many(first - PAGE as u64..first), true), Side::Before(first));
        first -= PAGE as u64;
    }
    assert_eq!((talk.entries().len(), talk.oldest()), (KEPT, Some(first)));
    // what is new would not follow what is there
    assert_eq!(talk.onward(), None);
    talk.put(page(many(2_000..2_010), false), Side::After(1_049));
    assert!(talk.newest().is_some_and(|newest| newest < 1_000));
    assert!(talk.end());
    talk.put(page(many(1_960..2_010), true), Side::Newest);
    assert_eq!((talk.watched(), talk.onward()), (Some(2_009), Some(Side::After(2_009))));
}

#[test]
fn states_only_rise() {
    let mut talk = Talk::new("c");
    talk.put(page(vec![own(1, "hi", MessageState::Queued)], false), Side::Newest);
    let line = |state| SentLine { id: "id1".into(), state, waits_for: None, parts: None };
    for (told, state, waits) in [
        (MessageState::Sent, MessageState::Sent, Some(WaitsFor::Stores)),
        (MessageState::Delivered, MessageState::Delivered, None),
        (MessageState::Stored, MessageState::Delivered, None),
    ] {
        assert!(talk.state(&line(told)));
        assert_eq!((talk.entries()[0].state, talk.entries()[0].waits_for), (Some(state), waits));
    }
    assert!(!talk.state(&SentLine { id: "other".into(), ..line(MessageState::Sent) }));
}

proptest! {
    #[test]
    fn the_screen_is_full_or_shows_everything(
        texts in prop::collection::vec("[a-z 🐟漢\n]{0,80}", 1..30),
        steps in prop::collection::vec((any::<bool>(), 1..40_usize), 0..20),
    ) {
        let entries: Vec<EntryLine> = (1..).zip(&texts).map(|(cursor, text)| theirs(cursor, text)).collect();
        let mut talk = Talk::new("c");
        talk.put(page(entries, false), Side::Newest);
        let all = talk.rows(WIDTH, usize::MAX);
        for (up, lines) in steps {
            if up { talk.up(lines, WIDTH, HEIGHT); } else { talk.down(lines, WIDTH); }
            let rows = talk.rows(WIDTH, HEIGHT);
            prop_assert_eq!(rows.len(), HEIGHT.min(all.len()));
            prop_assert!(all.windows(rows.len()).any(|window| window == rows));
            prop_assert_eq!(talk.scrolled(), all.last() != rows.last() || !all.ends_with(&rows));
        }
    }
}
