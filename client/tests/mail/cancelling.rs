//! Taking back what nobody has as a whole yet.

use crate::messages::{MINUTE, acquainted};
use crate::world::World;
use shoal_client::mail::MailError;
use shoal_client::mail::MessageState::{Cancelled, Delivered};
use std::time::Duration;

/// Blobs that a profile keeps for a message: out, in.
fn blobs_kept(world: &World, who: usize) -> [u64; 2] {
    let db = rusqlite::Connection::open(world.people[who].dir.join("profile.db")).unwrap();
    let count = |query: &str| -> u64 { db.query_row(query, [], |row| row.get(0)).unwrap() };
    let of_no_commit =
        "SELECT count(*) FROM blob_out b WHERE NOT EXISTS (SELECT 1 FROM commit_out c WHERE c.blob = b.blob)";
    [count(of_no_commit), count("SELECT count(*) FROM blob_in WHERE purpose = 0")]
}

#[test]
fn a_file_on_its_way_ends_and_what_waited_behind_it_is_shown() {
    for seed in 0..6 {
        let mut world = acquainted(800 + seed);
        world.loss = 0.05;
        let file = world.send_file(0, "bob", "large.png", &vec![7; 300_000]);
        let behind = world.send(0, "bob", "behind it");
        let share = |world: &mut World| world.mail(0).parts(file).unwrap().map_or(0, |(written, _)| written);
        assert!(world.run_until(10 * MINUTE, |world| share(world) > 20), "seed {seed}");
        assert_eq!(world.mail(0).cancel(file).unwrap().state, Cancelled);
        world.crash(0);
        world.restart(0);
        if seed % 2 == 0 {
            world.run(Duration::from_secs(2));
            world.crash(1);
            world.restart(1);
        }
        assert!(world.run_until(10 * MINUTE, |world| world.all_delivered(0, &[behind])), "seed {seed}");
        assert_eq!(world.texts(1), ["hello Bob", "behind it"], "seed {seed}");
        world.run(5 * MINUTE);
        assert_eq!(world.state(0, file), Cancelled);
        assert_eq!([blobs_kept(&world, 0), blobs_kept(&world, 1)], [[0; 2]; 2], "seed {seed}");
        assert_eq!(world.mail(0).queue_length().unwrap(), 0);
        assert!(world.warnings(1).is_empty(), "{:?}", world.warnings(1));
        assert_eq!(world.states(0, file).last(), Some(&Cancelled));
        // the conversation goes on
        let after = world.send(1, "alice", "what was it?");
        assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(1, &[after])), "seed {seed}");
    }
}

#[test]
fn what_has_not_left_never_does() {
    let mut world = World::new(81, 2);
    let bob = world.address(1);
    world.crash(1);
    let [first, second] = ["not this", "but this"].map(|text| world.send(0, &bob, text));
    world.run(MINUTE);
    world.mail(0).cancel(first).unwrap();
    world.restart(1);
    assert!(world.run_until(10 * MINUTE, |world| world.shown(1).len() == 1));
    assert_eq!(world.texts(1), ["but this"]);
    world.accept(1, &world.address(0));
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[second])));
    assert_eq!(world.state(0, first), Cancelled);
}

#[test]
fn what_somebody_may_have_cannot_be_taken_back() {
    let mut world = acquainted(82);
    let text = world.send(0, "bob", "said is said");
    world.run(Duration::from_secs(5));
    assert!(matches!(world.mail(0).cancel(text), Err(MailError::TooLate(_))));
    let file = world.send_file(0, "bob", "small.png", &[7; 3_000]);
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[file])));
    assert!(matches!(world.mail(0).cancel(file), Err(MailError::TooLate(_))));
    assert_eq!(world.state(0, file), Delivered);
    let theirs = world.send(1, "alice", "mine");
    assert!(matches!(world.mail(0).cancel(theirs), Err(MailError::NoMessage(_))));
    // a reader that has all of it by then keeps it, and its writer learns that
    for n in 0..8 {
        let kept = world.send_file(0, "bob", "kept.png", &[8; 3_000]);
        let shown = world.shown(1).len();
        assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() > shown));
        if world.state(0, kept) == Delivered {
            continue;
        }
        world.mail(0).cancel(kept).unwrap();
        let after = world.send(0, "bob", "after");
        assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[after])), "{n}");
        assert_eq!(world.shown(1)[shown].id, kept);
        return;
    }
    panic!("never in time to take one back");
}

#[test]
fn many_files_that_are_taken_back_at_once_hold_nothing_up() {
    let mut world = acquainted(83);
    world.crash(1);
    let files: Vec<_> = (0..12).map(|n| world.send_file(0, "bob", &format!("{n}.png"), &vec![n; 600_000])).collect();
    world.run(MINUTE);
    for file in &files {
        world.mail(0).cancel(*file).unwrap();
    }
    let behind = world.send(0, "bob", "none of these");
    world.run(MINUTE);
    world.restart(1);
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[behind])));
    assert_eq!(world.texts(1), ["hello Bob", "none of these"]);
}

#[test]
fn taking_the_only_message_back_asks_nobody_to_talk() {
    let mut world = World::new(84, 2);
    let bob = world.address(1);
    world.crash(1);
    let only = world.send(0, &bob, "never mind");
    world.run(MINUTE);
    world.mail(0).cancel(only).unwrap();
    world.restart(1);
    world.run(10 * MINUTE);
    assert!(world.mail(1).contacts().unwrap().is_empty());
    assert!(world.people[0].asked.iter().all(|(_, kind)| *kind != "append"));
    // who writes later is heard
    let later = world.send(0, &bob, "on second thoughts");
    assert!(world.run_until(10 * MINUTE, |world| world.shown(1).len() == 1));
    assert_eq!(world.shown(1)[0].id, later);
}
