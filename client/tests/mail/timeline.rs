//! What a screen shows: own and others' messages in one order, paged from either end, and what was not seen yet.

use crate::messages::acquainted;
use crate::world::World;
use shoal_client::mail::{
    MailError, MessageState, TIMELINE_ENTRIES_MAX, Timeline, TimelineEntry, TimelineMessage, TimelineSide,
};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn said(entry: &TimelineEntry) -> (bool, String) {
    match &entry.message {
        TimelineMessage::Own(own) => (true, own.text.clone()),
        TimelineMessage::Received(received) => (false, received.text.clone()),
    }
}

fn texts(timeline: &Timeline) -> Vec<(bool, String)> {
    timeline.entries.iter().map(said).collect()
}

fn page(world: &mut World, who: usize, of: &str, side: TimelineSide, limit: u32) -> Timeline {
    world.mail(who).timeline(of, side, limit).unwrap()
}

#[test]
fn both_sides_of_a_conversation_stand_in_one_order_also_when_a_clock_is_set_back() {
    let mut world = acquainted(21);
    let long = "a long text, longer than a box ".repeat(200);
    let ids = [world.send(0, "bob", &long), world.send_file(0, "bob", "/tmp/a.png", &[7; 4_000])];
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &ids)));
    world.step_back(Duration::from_secs(3_600));
    let answer = world.send(1, "alice", "seen");
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(1, &[answer])));
    let all = page(&mut world, 0, "bob", TimelineSide::Before(None), 50);
    let mine = |text: &str| (true, text.to_owned());
    let theirs = |text: &str| (false, text.to_owned());
    assert_eq!(texts(&all), [mine("hello Bob"), theirs("hello Alice"), mine(&long), mine(""), theirs("seen")]);
    assert!(!all.more && all.seen == 0);
    let TimelineMessage::Own(file) = &all.entries[3].message else { panic!("{:?}", all.entries[3]) };
    assert_eq!(file.file, Some(("a.png".to_owned(), 4_000)));
    assert_eq!(file.sent.state, MessageState::Delivered);
    assert_eq!(file.parts, Some((3, 3)));
    assert!(all.entries.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
    // the same from the other side, whatever it is called by
    let (address, id) = (world.address(0), world.shown(1)[0].conversation.to_string());
    for of in ["alice", &address, &id] {
        let theirs = page(&mut world, 1, of, TimelineSide::Before(None), 50);
        let turned: Vec<_> = texts(&theirs).into_iter().map(|(own, text)| (!own, text)).collect();
        assert_eq!(turned, texts(&all), "{of}");
    }
    world.crash(0);
    world.restart(0);
    assert_eq!(page(&mut world, 0, "bob", TimelineSide::Before(None), 50), all, "it lies on the disk");
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap_from_both_ends() {
    let mut world = acquainted(22);
    for n in 0..25 {
        world.send(0, "bob", &format!("message {n}"));
    }
    let all = page(&mut world, 0, "bob", TimelineSide::Before(None), u32::MAX);
    assert_eq!(all.entries.len(), 27);
    const { assert!(TIMELINE_ENTRIES_MAX >= 27) };
    for limit in [1, 7, 26, 27, 28] {
        let (mut backwards, mut before) = (Vec::new(), None);
        loop {
            let page = page(&mut world, 0, "bob", TimelineSide::Before(before), limit);
            assert!(page.entries.len() <= limit as usize);
            before = page.entries.first().map(|entry| entry.cursor);
            backwards.splice(0..0, page.entries);
            if !page.more {
                break;
            }
        }
        assert_eq!(backwards, all.entries, "{limit} at a time");
        let (mut forwards, mut after) = (Vec::new(), 0);
        loop {
            let page = page(&mut world, 0, "bob", TimelineSide::After(after), limit);
            after = page.entries.last().map_or(after, |entry| entry.cursor);
            forwards.extend(page.entries);
            if !page.more {
                break;
            }
        }
        assert_eq!(forwards, all.entries, "{limit} at a time");
    }
    let none = page(&mut world, 0, "bob", TimelineSide::After(u64::MAX), 5);
    assert!(none.entries.is_empty() && !none.more);
    assert_eq!(page(&mut world, 0, "bob", TimelineSide::Before(Some(0)), 0).entries, []);
}

#[test]
fn what_waits_for_a_card_is_shown_and_moves_into_the_conversation() {
    let mut world = World::new(23, 2);
    let bob = world.address(1);
    world.send(0, &bob, "first");
    let waiting = page(&mut world, 0, &bob, TimelineSide::Before(None), 5);
    assert_eq!(texts(&waiting), [(true, "first".to_owned())]);
    let overview = world.mail(0).overview().unwrap();
    assert_eq!((overview.len(), overview[0].waiting, overview[0].conversation.as_str()), (1, true, bob.as_str()));
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 1));
    assert_eq!(texts(&page(&mut world, 0, &bob, TimelineSide::Before(None), 5)), texts(&waiting));
    let overview = world.mail(0).overview().unwrap();
    assert_eq!((overview.len(), overview[0].waiting), (1, false));
    assert_eq!(overview[0].conversation, world.shown(1)[0].conversation.to_string());
}

#[test]
fn what_was_not_seen_is_counted_and_seeing_tells_nobody() {
    let mut world = acquainted(24);
    let ids: Vec<_> = (0..3).map(|n| world.send(1, "alice", &format!("new {n}"))).collect();
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(1, &ids)), "delivered without having been seen");
    let unseen = |world: &mut World| world.mail(0).overview().unwrap()[0].unseen;
    assert_eq!(unseen(&mut world), 4);
    let all = page(&mut world, 0, "bob", TimelineSide::Before(None), 50);
    world.mail(0).set_seen("bob", all.entries[2].cursor).unwrap();
    assert_eq!(unseen(&mut world), 2);
    world.mail(0).set_seen("bob", 1).unwrap();
    assert_eq!(unseen(&mut world), 2, "never back");
    // nor beyond what is there: the next message is not hidden
    world.mail(0).set_seen("bob", u64::MAX).unwrap();
    assert_eq!(unseen(&mut world), 0);
    let next = world.send(1, "alice", "one more");
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(1, &[next])));
    assert_eq!(unseen(&mut world), 1);
    // what was read in a terminal was seen
    let last = world.shown(0).last().unwrap().cursor;
    world.mail(0).set_read_cursor(last).unwrap();
    assert_eq!(unseen(&mut world), 0);
    assert!(matches!(world.mail(0).set_seen("nobody", 1), Err(MailError::Unknown(_))));
}
