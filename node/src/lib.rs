//! The Shoal relay: gateway, mix or store in one binary.
//!
//! Pure rooms decide: [`intake`], [`unwrap`], [`onion`], [`replay`], [`mix`], [`loops`], [`alarm`], [`gateway`], [`admission`],
//! [`keys`], [`view`],
//! [`freshness`], [`leaving`] for every node; [`courier`], [`replica`], [`inbox`], [`engine`] for a store. They are given bytes,
//! `now` and a random
//! generator, and say what to do. [`io`] is the shell that acts.

pub mod admission;
pub mod advice;
pub mod alarm;
pub mod alarm_log;
pub mod allowance;
pub mod answers;
pub mod bundle;
pub mod config;
pub mod config_store;
pub mod config_versions;
pub mod courier;
pub mod drops;
pub mod engine;
pub mod engine_batch;
pub mod engine_mark;
pub mod failure;
pub mod freshness;
pub mod gateway;
pub mod heartbeat;
pub mod hindrance;
pub mod inbox;
pub mod intake;
pub mod io;
pub mod keys;
pub mod leaving;
pub mod log_watch;
pub mod loops;
pub mod losses;
pub mod mix;
pub mod needs;
pub mod onion;
pub mod pacer;
pub mod places;
pub mod portions;
pub mod replay;
pub mod replica;
pub mod report;
pub mod roster;
pub mod rounds;
pub mod scrub;
pub mod standing;
pub mod tally;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod unwrap;
pub mod verdict;
pub mod view;
