//! People who are shown different networks find out at the first exchange, and stop with the proof in hand.

use crate::messages::acquainted;
use crate::world::{JUMP, JUMPS, World};
use shoal_client::mail::MessageState::{Delivered, Queued};
use shoal_protocol::certificate::Certificate;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// The evidence that somebody keeps: which document each certificate is for.
fn evidence(world: &World, who: usize) -> BTreeMap<String, Certificate> {
    let Ok(folder) = fs::read_dir(world.people[who].dir.join("conflict")) else { return BTreeMap::new() };
    folder
        .map(|file| {
            let file = file.unwrap();
            let certificate = Certificate::decode(&fs::read(file.path()).unwrap()).unwrap();
            certificate.verify(&world.network.genesis_hash(), &world.network.authorities).unwrap();
            (file.file_name().into_string().unwrap(), certificate)
        })
        .collect()
}

/// Alice (0) and Bob (1) have exchanged messages under documents that both hold; then Bob is shown another chain.
fn parted(seed: u64, branch: u8) -> World {
    let mut world = acquainted(seed);
    for height in 9..=12 {
        let trunk = world.document(height, 0);
        world.hold(0, &trunk);
        let shown = world.document(height, branch);
        world.hold(1, &shown);
    }
    world
}

#[test]
fn a_forked_network_is_found_at_the_first_message_and_both_stop_with_the_proof() {
    let mut world = parted(71, 1);
    world.send(0, "bob", "which network are you in?");
    let found = |world: &mut World| world.warnings(1).contains(&"network_differs");
    assert!(world.run_until(MINUTE, found), "Bob hears of it with the first message");
    assert_eq!(world.texts(1).last().unwrap(), "which network are you in?", "and it is shown");
    let dispute = world.mail(1).disputes().unwrap().remove(0);
    assert_eq!((dispute.with.as_str(), dispute.height), ("alice", 12));
    assert_eq!((dispute.theirs, dispute.ours), (world.document(12, 0).hash(), Some(world.document(12, 1).hash())));

    let stopped = |world: &mut World| (0..2).all(|who| world.mail(who).network_forked());
    assert!(world.run_until(2 * MINUTE, stopped), "{:?} {:?}", world.warnings(0), world.warnings(1));
    for (who, own) in [(0, 0), (1, 1)] {
        let (held, other) = (world.document(12, own).hash(), world.document(12, 1 - own).hash());
        let kept = evidence(&world, who);
        let names: Vec<&String> = kept.keys().collect();
        assert_eq!(names, [&format!("held-certificate-12-{held}"), &format!("other-certificate-12-{other}")]);
        assert_eq!(kept.values().map(|certificate| certificate.document).collect::<Vec<_>>(), [held, other]);
        assert!(world.warnings(who).contains(&"conflict"));
    }

    // once the proof is stored nothing leaves any more, nor after a restart
    world.run(2 * MINUTE);
    for restart in [false, true] {
        if restart {
            (0..2).for_each(|who| world.crash(who));
            (0..2).for_each(|who| world.restart(who));
        }
        let later = world.send(0, "bob", "too late");
        let asked = world.people[0].asked.len();
        world.run(5 * MINUTE);
        assert_eq!(world.state(0, later), Queued);
        assert_eq!(world.people[0].asked.len(), asked, "only decoys: {:?}", &world.people[0].asked[asked..]);
    }
}

#[test]
fn who_was_away_is_told_by_the_answer() {
    let mut world = acquainted(72);
    for height in 9..=11 {
        let shown = world.document(height, 1);
        world.hold(1, &shown);
    }
    let trunk = world.document(9, 0);
    world.hold(0, &trunk);
    world.send(0, "bob", "sealed under a document that both know");
    world.run(MINUTE);
    // Alice's client comes back to a later document than the one that Bob's answers name, and takes it up afterwards
    assert!(world.mail(0).disputes().unwrap().is_empty(), "Bob names document 11, which Alice has yet to see");
    for height in 10..=11 {
        let trunk = world.document(height, 0);
        world.hold(0, &trunk);
    }
    assert_eq!(world.mail(0).disputes().unwrap().len(), 1, "and now she has seen it");
    let stopped = |world: &mut World| (0..2).all(|who| world.mail(who).network_forked());
    assert!(world.run_until(2 * MINUTE, stopped), "{:?} {:?}", world.warnings(0), world.warnings(1));
}

#[test]
fn documents_that_agree_are_no_news() {
    let mut world = acquainted(73);
    let mut ids = Vec::new();
    for height in 9..=14 {
        let document = world.document(height, 0);
        // Alice misses some
        if height % 3 != 0 {
            world.hold(0, &document);
        }
        world.hold(1, &document);
        ids.push((0, world.send(0, "bob", "from Alice")));
        ids.push((1, world.send(1, "alice", "from Bob")));
        world.run(Duration::from_secs(5));
    }
    let done = |world: &mut World| ids.iter().all(|(who, id)| world.state(*who, *id) == Delivered);
    assert!(world.run_until(MINUTE, done));
    for who in 0..2 {
        assert!(world.mail(who).disputes().unwrap().is_empty());
        assert!(world.warnings(who).is_empty(), "{:?}", world.warnings(who));
        assert!(!world.mail(who).network_forked());
    }
}

#[test]
fn a_stranger_causes_nothing_until_accepted() {
    let mut world = World::new(74, 2);
    let bob = world.address(1);
    for height in 9..=12 {
        for (who, branch) in [(0, 0), (1, 1)] {
            let document = world.document(height, branch);
            world.hold(who, &document);
        }
    }
    world.send(0, &bob, "hello, stranger");
    assert!(world.run_until(5 * MINUTE, |world| !world.texts(1).is_empty()));
    world.run(MINUTE);
    assert!(world.warnings(1).is_empty() && world.mail(1).disputes().unwrap().is_empty());
    // accepted, the answer names Bob's document, and Alice has something to say to that
    let alice = world.address(0);
    world.accept(1, &alice);
    let stopped = |world: &mut World| (0..2).all(|who| world.mail(who).network_forked());
    assert!(world.run_until(5 * MINUTE, stopped), "{:?} {:?}", world.warnings(0), world.warnings(1));
}

#[test]
fn a_fork_that_skips_heights_stops_both_with_the_proof() {
    let mut world = parted(75, JUMPS);
    world.send(0, "bob", "which network are you in?");
    let stopped = |world: &mut World| (0..2).all(|who| world.mail(who).network_forked());
    assert!(world.run_until(3 * MINUTE, stopped), "{:?} {:?}", world.warnings(0), world.warnings(1));
    let (trunk, shown) = (world.document(12, 0).mark(), world.document(12, JUMPS).mark());
    assert_eq!((shown.height, shown.epoch), (12 + JUMP, trunk.epoch), "no height in common");
    for (who, held, other) in [(0, trunk, shown), (1, shown, trunk)] {
        let kept = evidence(&world, who);
        let name = |which, height, hash| format!("{which}-certificate-{height}-{hash}");
        let names = [name("held", held.height, held.hash), name("other", other.height, other.hash)];
        assert_eq!(kept.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
        let marks: Vec<_> = kept.values().map(Certificate::mark).collect();
        assert_eq!(marks, [held, other]);
        assert!(marks[0].contradicts(&marks[1]));
    }
}

#[test]
fn last_words_come_after_a_crash_and_a_long_time_away() {
    for (seed, ms) in [(76, 0), (77, 400), (78, 1_500)] {
        let mut world = parted(seed, 1);
        world.send(0, "bob", "which network are you in?");
        let one = |world: &mut World| (0..2).any(|who| world.mail(who).network_forked());
        assert!(world.run_until(3 * MINUTE, one));
        let who = usize::from(!world.mail(0).network_forked());
        world.run(Duration::from_millis(ms));
        // the one that knows is gone, and the other one has nobody else to learn it from
        world.crash(who);
        world.run(3 * MINUTE);
        world.restart(who);
        let stopped = |world: &mut World| (0..2).all(|who| world.mail(who).network_forked());
        assert!(world.run_until(5 * MINUTE, stopped), "after {ms} ms: {:?} {:?}", world.warnings(0), world.warnings(1));
        // and then it owes nobody anything
        let silent = |world: &mut World| (0..2).all(|who| !world.mail(who).owes_last_words());
        assert!(world.run_until(5 * MINUTE, silent));
    }
}
