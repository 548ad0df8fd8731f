//! Whether the threads that packets depend on still turn. Each leaves the time whenever it has looked around, which it does
//! at least once a second; who does not for [`SILENCE`] hangs. The service manager's watchdog and `/livez` go by this.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a thread that has nothing to do looks around.
pub const LOOK: Duration = Duration::from_secs(1);
/// Silence after which a thread is taken to hang: ten looks, and no step of a thread takes a second.
pub const SILENCE: Duration = Duration::from_secs(10);

/// The threads that are watched: one entry each, a handful.
#[derive(Debug, Default)]
pub struct Hearts(Mutex<Vec<(&'static str, Arc<AtomicU64>)>>);

/// What one thread holds. It is watched until this is dropped.
#[derive(Debug)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Says that the thread turns, at `now` (monotonic).
    pub fn beat(&self, now: Duration) {
        self.0.store(milliseconds(now), Ordering::Relaxed);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Hearts {
    /// Watches a thread that begins at `now`.
    pub fn watch(&self, name: &'static str, now: Duration) -> Beat {
        let last = Arc::new(AtomicU64::new(milliseconds(now)));
        let mut hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // whose thread has ended is not there to hang
        hearts.retain(|(_, last)| Arc::strong_count(last) > 1);
        hearts.push((name, Arc::clone(&last)));
        Beat(last)
    }

    /// A thread that hangs at `now`, if there is one.
    pub fn silent(&self, now: Duration) -> Option<&'static str> {
        let hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let too_old =
            |last: &AtomicU64| milliseconds(now).saturating_sub(last.load(Ordering::Relaxed)) > milliseconds(SILENCE);
        hearts.iter().find(|(_, last)| Arc::strong_count(last) > 1 && too_old(last)).map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_falls_silent_is_named_until_it_beats_or_ends() {
        let hearts = Hearts::default();
        let seconds = Duration::from_secs;
        let (one, other) = (hearts.watch("one", seconds(5)), hearts.watch("other", seconds(5)));
        assert_eq!(hearts.silent(seconds(15)), None);
        one.beat(seconds(12));
        assert_eq!(hearts.silent(seconds(16)), Some("other"));
        other.beat(seconds(16));
        assert_eq!(hearts.silent(seconds(16)), None);
        assert_eq!(hearts.silent(seconds(23)), Some("one"));
        drop(one);
        assert_eq!(hearts.silent(seconds(24)), None, "it has ended");
    }
}
