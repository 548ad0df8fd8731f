//! Attacks on the way of a packet, each against a real node process between paper neighbours: the rows of the table in
//! `tests/README.md`, by number. Sizes are bounded; an environment variable named in each file makes them full.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

mod delays;
mod encodings;
mod floods;
mod flow;
mod neighbours;
mod overload;
mod position;
mod refusals;
mod replay;
mod replay_log;
mod replay_restart;
mod seats;
mod silent;
mod tagging;
mod timing;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The size of a test: what the environment says, or what every run does.
fn size(variable: &str, bounded: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => bounded,
    }
}

/// Mean of the mixing delays where timing is measured: `SHOAL_MEAN_MS=500` at full size, as in a public network; shorter in
/// every run, because the last packets of a measurement are waited for.
fn mean() -> std::time::Duration {
    std::time::Duration::from_millis(size("SHOAL_MEAN_MS", 200))
}

static MACHINE: RwLock<()> = RwLock::const_new(());

/// For a test that measures: no other beside it.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// For a test that another one does not disturb.
async fn beside() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}
