//! Directories of honest authorities: what they do when nothing, or little, goes wrong.

use std::collections::BTreeSet;

use rand::RngExt as _;
use shoal_directory::wishes::Wishes;
use shoal_protocol::parameters::Parameters;

use crate::world::{World, short};

const EPOCH_MS: u64 = 20_000;

fn running(n: usize, seed: u64) -> World {
    let mut world = World::new(n, 0, short(), seed);
    world.start_all();
    world
}

fn gapless(epochs: &[u64]) -> bool {
    epochs.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

#[test]
fn four_authorities_make_a_document_an_epoch() {
    let mut world = running(4, 1);
    world.run(8 * EPOCH_MS);
    for who in 0..4 {
        let epochs = world.epochs_of(who);
        assert_eq!((epochs.first(), epochs.last()), (Some(&0), Some(&8)));
        assert!(gapless(&epochs), "{epochs:?}");
    }
    let last = &world.documents[&9];
    assert_eq!(last.nodes.len(), 12);
    assert!(last.generations.len() > 1, "stores were drawn anew");
}

/// Which 2f+1 sign first differs from one to the other; what each hands out does not.
#[test]
fn all_hand_out_the_same_bytes() {
    for (n, seed) in [(4, 21), (7, 22)] {
        let mut world = running(n, seed);
        world.run(6 * EPOCH_MS);
        let mut compared = 0;
        for (height, bytes) in world.certified_by(0) {
            // the first is of the epoch in which it is made: it is handed out at once
            for who in (1..n).filter(|_| height > 1) {
                assert_eq!(
                    world.certified_by(who).get(&height),
                    Some(&bytes),
                    "height {height}, authority {who} of {n}"
                );
                compared += 1;
            }
        }
        assert!(compared >= 5 * (n - 1), "{compared}");
    }
}

#[test]
fn one_alone_needs_nobody() {
    let mut world = running(1, 2);
    world.run(3 * EPOCH_MS);
    assert_eq!(world.epochs_of(0), [0, 1, 2, 3]);
}

#[test]
fn one_of_four_is_not_missed_and_catches_up() {
    let mut world = running(4, 3);
    world.run(2 * EPOCH_MS);
    world.crash(2);
    world.run(4 * EPOCH_MS);
    for who in [0, 1, 3] {
        assert_eq!(world.epochs_of(who), [0, 1, 2, 3, 4, 5, 6]);
    }
    world.restart(2);
    world.run(EPOCH_MS);
    assert_eq!(world.newest_epoch(2), Some(7));
}

#[test]
fn without_a_quorum_nothing_is_made_and_afterwards_it_is_made_at_once() {
    let mut world = running(4, 4);
    world.run(2 * EPOCH_MS);
    world.cut_off = BTreeSet::from([0, 1]);
    world.run(15 * EPOCH_MS);
    assert_eq!(world.newest_epoch(3), Some(2));
    world.cut_off.clear();
    world.run(2 * EPOCH_MS);
    for who in 0..4 {
        assert!(world.newest_epoch(who) >= Some(18), "{who}: {:?}", world.epochs_of(who));
    }
}

#[test]
fn other_parameters_of_one_change_nothing_and_are_named() {
    let in_force = short();
    let wanted = Parameters { service_ms: 777, ..in_force };
    // whoever wants it, and whatever place its list has among the others
    for other in 0..4 {
        let mut world = World::new(4, 0, short(), 6);
        world.members[other].wishes.parameters = Some(wanted);
        world.start_all();
        world.run(3 * EPOCH_MS);
        for document in world.documents.values() {
            assert_eq!(document.parameters, in_force, "height {}", document.height);
        }
        let somebody = (other + 1) % 4;
        let peers = world.members[somebody].core().peers();
        let wanted: Vec<_> = peers[&u16::try_from(other).unwrap()].wants_other.iter().map(|one| &*one.name).collect();
        assert_eq!(wanted, ["service_ms"]);
    }
    // and when a quorum wants it, it is so
    let mut world = running(4, 6);
    world.run(EPOCH_MS);
    for who in 0..3 {
        let wishes = Wishes { parameters: Some(wanted), ..Wishes::default() };
        world.members[who].faces[0].core.as_mut().unwrap().wish(wishes);
    }
    world.crash(3);
    world.run(4 * EPOCH_MS);
    assert_eq!(world.members[0].chain().last().unwrap().parameters.service_ms, 777);
}

#[test]
fn who_lost_its_votes_watches_one_document_and_takes_part_again() {
    let mut world = running(4, 7);
    world.run(2 * EPOCH_MS + EPOCH_MS / 2);
    world.crash(0);
    world.members[0].faces[0].votes = None;
    world.restart(0);
    world.run(2 * EPOCH_MS);
    assert!(world.members[0].faces[0].votes.is_some(), "a new log began with the next document");
    // now three are needed, and it is one of them
    world.crash(1);
    world.run(2 * EPOCH_MS);
    assert!(world.newest_epoch(0) >= Some(6), "{:?}", world.epochs_of(0));
}

#[test]
fn a_process_that_ends_between_document_and_log_goes_on() {
    let mut world = running(4, 9);
    world.run(2 * EPOCH_MS + EPOCH_MS / 2);
    let votes = |world: &World| world.members[0].faces[0].votes.clone().filter(|votes| !votes.is_empty());
    assert!(world.run_until(EPOCH_MS, |world| votes(world).is_some()));
    let log = votes(&world);
    assert!(world.run_until(EPOCH_MS, |world| world.newest_epoch(0) == Some(3)));
    world.crash(0);
    world.members[0].faces[0].votes = log;
    world.restart(0);
    world.crash(1);
    world.run(3 * EPOCH_MS);
    assert!(world.newest_epoch(0) >= Some(5), "three are needed, and it is one of them: {:?}", world.epochs_of(0));
}

#[test]
fn crashes_and_losses_at_random_never_make_two_documents() {
    for seed in 100..104 {
        let mut world = running(4, seed);
        world.net.loss = 10;
        world.net.delay = 5..400;
        world.net.crashes = 50;
        for _ in 0..40 {
            let who = world.rng.random_range(0..4);
            match world.rng.random_range(0..6) {
                0 => world.crash(who),
                1 | 2 => {
                    world.crash(who);
                    world.restart(who);
                }
                3 => world.cut_off = BTreeSet::from([who]),
                _ => world.cut_off.clear(),
            }
            let ms = world.rng.random_range(500..5_000);
            world.run(ms);
        }
        // healed: all come back
        world.cut_off.clear();
        world.net.crashes = 0;
        for who in 0..4 {
            world.restart(who);
        }
        world.run(3 * EPOCH_MS);
        let now = world.epoch();
        for who in 0..4 {
            assert!(world.newest_epoch(who) >= Some(now - 1), "seed {seed}: {:?}", world.epochs_of(who));
        }
    }
}

#[test]
fn a_new_set_of_authorities_takes_over() {
    let mut world = World::new(4, 1, short(), 8);
    world.start_all();
    world.run(2 * EPOCH_MS);
    let mut set = world.genesis.authorities[1..].to_vec();
    set.push(world.members[4].secret.public().clone());
    world.wish_for(&set);
    world.run(4 * EPOCH_MS);
    let last = world.members[1].chain().last().unwrap();
    let mut sorted = set.clone();
    sorted.sort_by_key(|key| key.identity);
    assert_eq!(last.authorities, sorted);
    assert_eq!(world.members[0].core().index(), None, "the old one has left");
    assert!(world.members[4].core().index().is_some(), "the new one takes part");
    // and it is needed
    world.crash(1);
    world.run(2 * EPOCH_MS);
    assert!(world.newest_epoch(4) >= Some(7), "{:?}", world.epochs_of(4));
}
