//! How far behind the workers are, for whoever can be quick or thrifty.
//!
//! A thread of the runtime that wakes for every datagram costs a node a fifth of what it can do. While packets wait for a
//! worker anyway, nothing is lost when the runtime sleeps a little and handles together what came in the meantime; while
//! none waits, there is time to spare, and every packet is handled at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Packets that wait for the workers when they are behind: two batches, two milliseconds of work.
const BEHIND: usize = 16;
/// How long the runtime gathers while they are: what those packets wait at least.
const GATHER: Duration = Duration::from_millis(2);

/// Packets that wait for a worker, of all lanes. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Some more wait.
    pub fn add(&self, packets: usize) {
        self.0.fetch_add(packets, Ordering::Relaxed);
    }

    /// Some were taken. Never more than were added before.
    pub fn take(&self, packets: usize) {
        self.0.fetch_sub(packets, Ordering::Relaxed);
    }

    /// Whether the workers are behind.
    pub fn is_behind(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BEHIND
    }

    /// How long a thread of the runtime that has nothing to do sleeps before it looks for more.
    pub fn patience(&self) -> Option<Duration> {
        self.is_behind().then_some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_gathers_only_while_workers_are_behind() {
        let backlog = Backlog::default();
        assert_eq!(backlog.patience(), None);
        backlog.add(BEHIND);
        assert_eq!(backlog.patience(), Some(GATHER));
        backlog.take(1);
        assert_eq!(backlog.patience(), None);
    }
}
