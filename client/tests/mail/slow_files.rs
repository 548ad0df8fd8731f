//! Files that take longer than stores keep anything, and what else waits meanwhile.

use std::time::Duration;

use rand::RngExt as _;
use shoal_client::mail::{MessageId, MessageState};
use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;
use shoal_protocol::parameters::Rate;

use crate::epochs::conversation;
use crate::messages::acquainted;
use crate::world::World;

/// Runs until it is delivered, while stores forget what is older than the retention.
fn delivered(world: &mut World, who: usize, id: MessageId, at_most: Duration) -> bool {
    let end = world.now.plus(at_most);
    while world.now < end {
        if world.run_until(Duration::from_secs(10), |world| world.all_delivered(who, &[id])) {
            return true;
        }
        world.retire();
    }
    false
}

/// A network that carries a request in 2.5 seconds for each: 400 boxes take half an hour, and stores keep them for ten minutes.
#[test]
fn a_file_that_takes_longer_than_stores_keep_it_arrives_and_parts_nobody() {
    for seed in 0..2 {
        let mut world = acquainted(720 + seed);
        world.consensus.parameters.lambda_p = Rate(400);
        let retention = world.consensus.parameters.retention();
        let before = conversation(&mut world, 0).epoch;
        let mut file = vec![0; 400 * BOX_PLAINTEXT_SIZE];
        world.rng.fill(&mut file[..]);
        let began = world.now;
        let id = world.send_file(0, "bob", "slow.bin", &file);
        // both use the conversation, so that both renew their keys while the file is on its way
        world.run(Duration::from_secs(60));
        world.send(1, "alice", "it takes its time");
        assert!(delivered(&mut world, 0, id, 14 * retention), "seed {seed}: {:?}", world.state(0, id));
        assert!(world.now.since(began) > 2 * retention, "seed {seed}: else this shows nothing");
        for who in 0..2 {
            let now = conversation(&mut world, who);
            assert!(!now.broken, "seed {seed}");
            assert!(now.epoch > before, "seed {seed}: nobody renewed keys");
            assert_eq!(world.warnings(who), [""; 0], "seed {seed}");
        }
        let arrived = world.shown(1).into_iter().find_map(|message| message.file).expect("it is shown");
        assert!(std::fs::read(&arrived.path).unwrap() == file, "seed {seed}");
        for (who, to) in [(0, "bob"), (1, "alice")] {
            let id = world.send(who, to, "still here");
            assert!(delivered(&mut world, who, id, retention), "seed {seed}");
        }
    }
}

/// The stores that a file is written to are replaced while it is on its way, and forget it before it is there.
#[test]
fn a_file_goes_on_to_newer_stores() {
    let mut world = acquainted(740);
    world.consensus.parameters.lambda_p = Rate(400);
    let retention = world.consensus.parameters.retention();
    let mut file = vec![0; 320 * BOX_PLAINTEXT_SIZE];
    world.rng.fill(&mut file[..]);
    let id = world.send_file(0, "bob", "moving.bin", &file);
    world.run(Duration::from_secs(120));
    world.draw();
    assert!(delivered(&mut world, 0, id, 14 * retention), "{:?} {:?}", world.state(0, id), world.warnings(1));
    assert_eq!(world.consensus.generations.len(), 1, "else this shows nothing");
    let arrived = world.shown(1).into_iter().find_map(|message| message.file).expect("it is shown");
    assert!(std::fs::read(&arrived.path).unwrap() == file);
}

/// What is small does not wait for what is large.
#[test]
fn a_long_text_does_not_wait_for_a_file() {
    let mut world = acquainted(730);
    world.consensus.parameters.lambda_p = Rate(400);
    let mut file = vec![0; 240 * BOX_PLAINTEXT_SIZE];
    world.rng.fill(&mut file[..]);
    let file = world.send_file(0, "bob", "slow.bin", &file);
    world.run(Duration::from_secs(60));
    let text = world.send(0, "bob", &"long ".repeat(2_000));
    // shown it is after the file, which was sent before it
    let there = world.run_until(Duration::from_secs(300), |world| world.state(0, text) >= MessageState::Stored);
    assert!(there, "{:?}", world.state(0, text));
    assert!(world.state(0, file) < MessageState::Stored, "else this shows nothing");
}
