//! Row 18: a majority of the authorities cut off for 5 and for 60 minutes. Production parameters.

use std::collections::BTreeSet;

use rand::RngExt as _;
use shoal_protocol::UnixMillis;
use shoal_protocol::parameters::Parameters;

use crate::readers::Looks;
use crate::seeds;
use crate::world::World;

const MINUTE: u64 = 60_000;
const EPOCH_MS: u64 = 20 * MINUTE;

/// A world that has run for two epochs, and its first reader.
fn settled(n: usize, seed: u64) -> (World, usize) {
    let mut world = World::new(n, 0, Parameters::production(), seed);
    world.now += 3 * EPOCH_MS;
    let readers = world.add_readers(0);
    world.start_all();
    world.run(2 * EPOCH_MS);
    (world, readers)
}

/// Cuts a majority off now, for so long; returns how long after healing the document that was due was there.
fn cut(world: &mut World, ms: u64) -> u64 {
    let n = world.members.len();
    let mut majority = BTreeSet::new();
    while majority.len() <= n / 2 {
        majority.insert(world.rng.random_range(0..n));
    }
    world.cut_off = majority;
    world.run(ms);
    world.cut_off.clear();
    let healed = world.now;
    // the document made a fifth of an epoch ahead
    let due = world.genesis.schedule.epoch_at(UnixMillis(healed + EPOCH_MS / 5)).0;
    let everywhere = |world: &World| (0..n).all(|who| world.newest_epoch(who) >= Some(due));
    let there = world.run_until(EPOCH_MS, everywhere);
    world.check(there, || format!("no document of epoch {due} within an epoch of healing"));
    world.now - healed
}

#[test]
fn after_healing_the_next_document_is_there_within_two_minutes() {
    let mut longest = [0; 2];
    for seed in seeds("SHOAL_OUTAGES", 5) {
        let n = if seed % 2 == 0 { 4 } else { 7 };
        for (at, minutes) in [5, 60].into_iter().enumerate() {
            let (mut world, _) = settled(n, seed);
            // the first seeds: when it hurts, just before the document is due
            let due_in = EPOCH_MS - EPOCH_MS / 5 - (world.now - world.genesis.schedule.genesis.0) % EPOCH_MS;
            let begin = if seed < 4 { due_in - 1_000 } else { world.rng.random_range(0..EPOCH_MS) };
            world.run(begin);
            let took = cut(&mut world, minutes * MINUTE);
            world.check(took <= 2 * MINUTE, || format!("{minutes} min: the next document took {took} ms"));
            longest[at] = longest[at].max(took);
        }
    }
    println!("ms from healing to the next document everywhere, at most, after 5 and 60 min: {longest:?}");
}

#[test]
fn nodes_and_clients_go_on_through_two_missed_epochs_and_say_when_it_is_over() {
    for seed in seeds("SHOAL_OUTAGES", 2) {
        let (mut world, readers) = settled(4, seed);
        let held = world.documents.values().next_back().unwrap().clone();
        let skew = held.parameters.skew_ms;
        world.cut_off = BTreeSet::from([0, 1, 2, 3]);
        // two missed epochs
        while world.now <= held.valid_until.0 + skew {
            for index in readers..readers + 2 {
                let now = world.reader_clock(index);
                let reader = &world.readers[index];
                assert_eq!(reader.in_force(now).map(|used| used.hash()), Some(held.hash()), "reader {index}");
                if world.now > held.valid_from.0 + 2 * EPOCH_MS {
                    assert_eq!(reader.looks(now), Looks::Stale, "reader {index}");
                }
                let next_begins = held.valid_from.0 + EPOCH_MS;
                if let Some(alarmed) = reader.alarmed_at.filter(|at| *at > held.valid_from.0) {
                    assert!(
                        (next_begins..=next_begins + EPOCH_MS).contains(&alarmed),
                        "within an epoch of the first miss"
                    );
                }
            }
            world.run(10_000);
        }
        for index in readers..readers + 2 {
            let now = world.reader_clock(index);
            assert!(world.readers[index].in_force(now).is_none(), "reader {index} goes by an expired document");
            assert_eq!(world.readers[index].looks(now), Looks::Expired, "reader {index}");
            assert!(world.readers[index].alarmed_at.is_some());
        }
        // and with the next document all is well
        world.cut_off.clear();
        world.run(3 * MINUTE);
        for index in readers..readers + 2 {
            let now = world.reader_clock(index);
            assert_eq!(world.readers[index].looks(now), Looks::Fresh, "seed {seed}, reader {index}");
        }
    }
}
