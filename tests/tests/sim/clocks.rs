//! Row 16: clocks that are wrong, and clocks that step. Production parameters: epochs of 20 minutes, a tolerance of two.

use rand::RngExt as _;
use shoal_protocol::consensus::DocumentError;
use shoal_protocol::parameters::Parameters;

use crate::readers::Looks;
use crate::world::{GENESIS, World};
use crate::{seeds, size};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const EPOCH_MS: u64 = 20 * 60_000;

fn production(n: usize, seed: u64) -> World {
    World::new(n, 0, Parameters::production(), seed)
}

/// Everybody has a document of every epoch.
fn none_missed(world: &World, who: usize) {
    let epochs = world.epochs_of(who);
    world.check(!epochs.is_empty() && epochs.windows(2).all(|pair| pair[1] == pair[0] + 1), || {
        format!("authority {who} missed an epoch: {epochs:?}")
    });
    world.check(epochs.last() >= Some(&world.epoch()), || format!("authority {who} is late: {epochs:?}"));
}

#[test]
fn two_minutes_are_tolerated_everywhere() {
    for seed in seeds("SHOAL_CLOCKS", 5) {
        let n = if seed % 3 == 0 { 7 } else { 4 };
        let mut world = production(n, seed);
        world.now += 5 * EPOCH_MS;
        for who in 0..n {
            // seeds 0 and 1: as far apart as two clocks can be
            let ahead = match seed {
                0 | 1 => [2 * MINUTE, -2 * MINUTE][who % 2],
                _ => world.rng.random_range(-2 * MINUTE..=2 * MINUTE),
            };
            world.members[who].clock_ahead = ahead;
        }
        for ahead in [-2 * MINUTE, 0, 2 * MINUTE] {
            world.add_readers(ahead);
        }
        world.start_all();
        // everybody has begun when the fastest clock is in its second epoch
        world.run(EPOCH_MS);
        let end = world.now + 4 * EPOCH_MS;
        while world.now < end {
            world.run(30_000);
            for index in 0..world.readers.len() {
                let now = world.reader_clock(index);
                let looks = world.readers[index].looks(now);
                world.check(looks == Looks::Fresh, || format!("reader {index} looks {looks:?}"));
                world.check(world.readers[index].in_force(now).is_some(), || format!("reader {index} has nothing"));
            }
        }
        for who in 0..n {
            none_missed(&world, who);
        }
    }
}

#[test]
fn an_authority_an_hour_wrong_stops_nothing_and_is_named() {
    for seed in seeds("SHOAL_CLOCKS", 2) {
        for ahead in [HOUR, -HOUR] {
            let mut world = production(4, seed);
            world.now += 5 * EPOCH_MS;
            let wrong = usize::try_from(seed % 4).unwrap();
            world.members[wrong].clock_ahead = ahead;
            let reader = world.add_readers(0);
            world.start_all();
            world.run(4 * EPOCH_MS);
            for who in (0..4).filter(|who| *who != wrong) {
                none_missed(&world, who);
            }
            for index in [reader, reader + 1] {
                let looks = world.readers[index].looks(world.reader_clock(index));
                assert_eq!(looks, Looks::Fresh, "reader {index}");
            }
            // it took over what the others made, and nothing else
            let chain = world.members[wrong].chain();
            assert!(chain.iter().all(|document| world.documents[&document.height].hash() == document.hash()));
            // whoever looks at its state is told
            let own = world.members[wrong].core();
            let said = own.clock_problem().expect("it knows that its clock is wrong");
            assert!(said.contains("clock"), "{said}");
            for peer in own.peers().values() {
                let apart = peer.clock_ahead_ms.expect("their lists tell") + ahead;
                assert!(apart.abs() < 5 * MINUTE, "{apart}");
            }
            // and so are the others, when it says anything at all: one that is behind does not
            let others = world.members[(wrong + 1) % 4].core();
            assert_eq!(others.clock_problem(), None, "one of four is wrong, not this one");
            if ahead > 0 {
                let named = &others.peers()[&u16::try_from(wrong).unwrap()];
                assert!(named.clock_ahead_ms.is_some_and(|ms| (ms - ahead).abs() < 5 * MINUTE), "{named:?}");
            }
        }
    }
}

#[test]
fn a_reader_an_hour_wrong_goes_by_nothing_that_looks_right() {
    for seed in seeds("SHOAL_CLOCKS", 2) {
        let mut world = production(4, seed);
        world.now += 5 * EPOCH_MS;
        let first = [HOUR, -HOUR].map(|ahead| world.add_readers(ahead))[0];
        world.start_all();
        let end = world.now + 4 * EPOCH_MS;
        // Ahead: what was taken at the very end of its time has run out. Behind: what is offered has not begun; a client
        // keeps such a document for later, a node refuses it.
        let mut said = [0; 4];
        world.run(EPOCH_MS);
        while world.now < end {
            world.run(20_000);
            for index in first..first + 4 {
                let reader = &world.readers[index];
                let looks = reader.looks(world.reader_clock(index));
                world.check(looks != Looks::Fresh, || format!("reader {index} finds everything well"));
                let behind = reader.clock_ahead < 0;
                said[index - first] += u32::from(match (&reader.refused, looks) {
                    (Some(DocumentError::NotYetValid { in_ms, .. }), _) => behind && *in_ms > 30 * 60_000,
                    (_, Looks::Expired) => !behind,
                    (_, Looks::Nothing) => behind && index % 2 == 1,
                    _ => false,
                });
            }
        }
        assert!(said.iter().all(|count| *count > 0), "the clock is named as the cause: {said:?}");
    }
}

#[test]
fn clocks_that_step_make_no_two_documents_and_nobody_guilty() {
    for seed in seeds("SHOAL_CLOCKS", 4) {
        let mut world = production(4, seed);
        world.now += 5 * EPOCH_MS;
        let readers = world.add_readers(0);
        world.start_all();
        world.run(EPOCH_MS / 2);
        for _ in 0..24 {
            let who = world.rng.random_range(0..4);
            let ahead = [0, HOUR, -HOUR, 2 * MINUTE, -2 * MINUTE, 90_000][world.rng.random_range(0..6)];
            world.step_clock(who, ahead);
            let reader = readers + world.rng.random_range(0..2);
            world.readers[reader].clock_ahead = [0, HOUR, -HOUR, MINUTE][world.rng.random_range(0..4)];
            let ms = world.rng.random_range(1..EPOCH_MS / 3);
            world.run(ms);
        }
        for who in 0..4 {
            world.step_clock(who, 0);
        }
        for index in readers..readers + 2 {
            world.readers[index].clock_ahead = 0;
        }
        world.run(2 * EPOCH_MS + EPOCH_MS / 2);
        for who in 0..4 {
            assert!(world.newest_epoch(who) >= Some(world.epoch()), "seed {seed}: {:?}", world.epochs_of(who));
        }
        for index in readers..readers + 2 {
            let now = world.reader_clock(index);
            assert_eq!(world.readers[index].looks(now), Looks::Fresh, "seed {seed}, reader {index}");
        }
    }
}

#[test]
fn any_skew_is_either_harmless_or_said() {
    let steps = i64::try_from(size("SHOAL_SKEWS", 3)).unwrap();
    for step in -steps..=steps {
        let ahead = step * 90 * MINUTE / steps;
        let mut world = production(4, 77);
        world.now += 5 * EPOCH_MS;
        world.members[2].clock_ahead = ahead;
        world.start_all();
        world.run(4 * EPOCH_MS);
        for who in [0, 1, 3] {
            none_missed(&world, who);
        }
        let said = world.members[2].core().clock_problem();
        assert_eq!(said.is_some(), ahead.abs() > 2 * MINUTE + 1_000, "{ahead} ms: {said:?}");
        assert!(world.now > GENESIS.0);
    }
}
