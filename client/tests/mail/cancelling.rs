//! Taking back what nobody has as a whole yet.

use crate::messages::{MINUTE, acquainted};
use crate::world::World;
use shoal_client::mail::MailError;
use shoal_client::mail::MessageState::{Cancelled, Delivered};
use std::time::Duration;

/// Files of a profile's database that hold parts of blobs: how many rows.
fn parts_kept(world: &World, who: usize) -> u64 {
    let db = rusqlite::Connection::open(world.people[who].dir.join("profile.db")).unwrap();
    let count = |table: &str| -> u64 {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    count("part_out") + count("part_in") + count("blob_in")
}

#[test]
fn a_file_on_its_way_ends_and_what_waited_behind_it_is_shown() {
    for seed in 0..6 {
        let mut world = acquainted(800 + seed);
        world.loss = 0.05;
        let file = world.send_file(0, "bob", "large.png", &vec![7; 300_000]);
        let behind = world.send(0, "bob", "behind it");
        let mut share = |world: &mut World| world.mail(0).parts(file).unwrap().map_or(0, |(written, _)| written);
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
        assert_eq!([parts_kept(&world, 0), parts_kept(&world, 1)], [0, 0], "seed {seed}");
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
    // a reader that has all of it by then keeps it
    let kept = world.send_file(0, "bob", "kept.png", &[8; 3_000]);
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 4));
    if world.mail(0).cancel(kept).is_ok() {
        let after = world.send(0, "bob", "after");
        assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[after])));
    }
    assert!(world.shown(1)[3].file.is_some());
}
