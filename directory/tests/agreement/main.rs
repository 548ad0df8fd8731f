//! Agreement under everything that may go wrong: f authorities that do what they like, lost and repeated messages,
//! partitions, crashes with torn logs, wiped disks. Every schedule follows from its seed.
//!
//! `SHOAL_SCHEDULES=100000 cargo test -p shoal-directory --test agreement` runs the full size, `SHOAL_SEED=7` one schedule.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test harness: what panics here is a failed test")]

mod byzantine;
mod keys;
mod wire;
mod world;

use byzantine::Style;
use world::{Outcome, Plan, World};

/// How many schedules: the bounded size, or that of the environment.
fn schedules(bounded: u64) -> u64 {
    std::env::var("SHOAL_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(bounded)
}

fn run_all(count: u16, bounded: u64) {
    let mut sum = Outcome::default();
    let mut slowest = 0;
    let total = schedules(bounded);
    let one = std::env::var("SHOAL_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    for seed in one.map_or(0..total, |seed| seed..seed + 1) {
        let outcome = World::new(Plan::of(count, seed)).run();
        sum.messages += outcome.messages;
        sum.rounds_max = sum.rounds_max.max(outcome.rounds_max);
        sum.rounds_after_healing = sum.rounds_after_healing.max(outcome.rounds_after_healing);
        sum.crashes += outcome.crashes;
        sum.convicted += outcome.convicted;
        sum.fetched += outcome.fetched;
        sum.log_bytes = sum.log_bytes.max(outcome.log_bytes);
        if outcome.done_ms > sum.done_ms {
            (sum.done_ms, slowest) = (outcome.done_ms, seed);
        }
    }
    println!("n = {count}, {total} schedules, slowest {slowest}: {sum:?}");
}

#[test]
fn schedules_of_four() {
    run_all(4, 300);
}

#[test]
fn schedules_of_seven() {
    run_all(7, 100);
}

#[test]
fn real_signatures() {
    for seed in 0..4 {
        let plan = Plan { real: true, heights: 1, byzantine: vec![Style::Twins], wiped: 0, ..Plan::of(4, seed) };
        World::new(plan).run();
    }
}
