//! The clocks of this machine, read nowhere else in the client.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shoal_protocol::UnixMillis;

/// Monotonic time since the start, and wall-clock time. Copies share the start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Time since the start; does not run while the machine sleeps, and never goes back.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Wall-clock time; epochs follow it. A clock before 1970 counts as 1970.
    #[must_use]
    pub fn unix(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The instant that a timer has to be set to, to fire at `then`.
    #[must_use]
    pub fn instant(&self, then: Duration) -> tokio::time::Instant {
        // a time beyond what the system can count is as good as never: a day, after which the caller looks again
        let instant = self.started.checked_add(then).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        tokio::time::Instant::from_std(instant)
    }
}
