//! What the machine gives: time and randomness. The only place of the node that reads a clock or the system's generator.
#![expect(clippy::disallowed_methods, reason = "IO shell")]

use crate::io::backlog::Backlog;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::types::UnixMillis;
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic and wall-clock time. Copies share one origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic origin is now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the origin; never goes back.
    pub fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    /// Wall-clock time; may step. Before 1970 it is 1970.
    pub fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// A monotonic time as tokio's timer takes it. A far future becomes a year.
    pub fn timer(&self, monotonic: Duration) -> tokio::time::Instant {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
        tokio::time::Instant::from_std(self.start + monotonic.min(self.monotonic() + YEAR))
    }
}

/// How much later than asked for the system may wake this thread: 1 µs instead of 50, so that packets leave when they are
/// due. A system that knows no such thing wakes it as it does.
pub fn sharp_timer() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
}

/// The runtime of a running node. Its threads gather while the workers are behind.
pub fn runtime(backlog: &Backlog) -> std::io::Result<tokio::runtime::Runtime> {
    let backlog = backlog.clone();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(sharp_timer)
        .on_thread_park(move || backlog.patience().into_iter().for_each(std::thread::sleep))
        .build()
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// A generator seeded from the system's. One a task, so that it may live across an `.await`.
pub fn generator() -> StdRng {
    StdRng::from_rng(&mut rand::rng())
}
