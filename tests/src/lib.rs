//! What the suites share: a real test network of real processes, people who use the real `shoal` command, metrics.
//!
//! Nothing here waits for a fixed time: [`until`] polls a condition against a deadline.

#![expect(clippy::disallowed_methods, reason = "a harness waits on the real clock")]

pub mod authority;
pub mod black_hole;
pub mod browser;
pub mod faketime;
#[cfg(target_os = "linux")]
pub mod hosts;
pub mod impostor;
pub mod liar;
pub mod metrics;
pub mod netns;
pub mod paper;
pub mod person;
pub mod postgres;
pub mod seized;
pub mod small_disk;
pub mod statistics;
pub mod testnet;
#[cfg(target_os = "linux")]
pub mod wire;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Polls `condition` until it yields a value.
///
/// # Panics
/// When `deadline` has passed: the test has failed, and `what` says at what.
pub fn until<T>(what: &str, deadline: Duration, condition: impl FnMut() -> Option<T>) -> T {
    until_every(Duration::from_millis(20), what, deadline, condition)
}

/// As [`until`], for a condition that costs so much that it is not asked for all the time: a command that is run.
///
/// # Panics
/// As [`until`].
pub fn until_every<T>(pause: Duration, what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(pause);
    }
}

/// Path of one of the workspace's binaries, next to the running test.
///
/// # Panics
/// When it was not built: `cargo build --workspace` makes all of them.
pub fn binary(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().expect("a test knows its own path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}
