//! Whole directories in virtual time: the real rooms of authorities, nodes' and clients' views, real signatures, and a
//! network that delays, loses and separates, with authorities that lie. Every schedule follows from its seed.
//!
//! Nothing here waits or opens a socket: a day of the network passes in seconds. Sizes come from the environment, see
//! `tests/README.md`; `SHOAL_SEED=7` runs one schedule.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test harness: what panics here is a failed test")]

mod byzantine;
mod calm;
mod clocks;
mod forger;
mod lies;
mod loss;
mod loss_demotion;
mod loss_outage;
mod loss_world;

mod members;
mod nodes;
mod outages;
mod plan;
mod readers;
mod rollback;
mod wire;
mod world;

/// A size from the environment, or the bounded one.
fn size(name: &str, bounded: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(bounded)
}

/// The seeds to run: as many as the environment says, from 0, or the one of `SHOAL_SEED`.
fn seeds(name: &str, bounded: u64) -> std::ops::Range<u64> {
    let one = std::env::var("SHOAL_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    one.map_or(0..size(name, bounded), |seed| seed..seed + 1)
}
