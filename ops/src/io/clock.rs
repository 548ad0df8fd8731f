//! What the machine gives: time and randomness.
#![expect(clippy::disallowed_methods, reason = "IO shell")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::types::UnixMillis;

/// A generator seeded from the system's.
pub(crate) fn generator() -> StdRng {
    StdRng::from_rng(&mut rand::rng())
}

/// Milliseconds since 1970; zero on a machine whose clock stands before that.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A point in time to measure from, untouched by steps of the wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts measuring.
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
