//! How late packets leave, against their mixing delay.

use prometheus::Histogram;
use prometheus::local::LocalHistogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lateness of released packets. A gateway shows it per epoch only, so each worker collects for itself and shows what it
/// has when that is allowed.
#[derive(Debug)]
pub struct Lateness {
    histogram: Histogram,
    by_epoch: bool,
    /// Epochs that have ended since the start.
    epochs: AtomicU64,
    worst_nanoseconds: AtomicU64,
}

/// What one worker has collected.
#[derive(Debug)]
pub struct Collected {
    local: LocalHistogram,
    shown: u64,
}

impl Lateness {
    /// Collects into `histogram`; `by_epoch` at a gateway.
    pub fn new(histogram: Histogram, by_epoch: bool) -> Self {
        Self { histogram, by_epoch, epochs: AtomicU64::new(0), worst_nanoseconds: AtomicU64::new(0) }
    }

    /// An epoch has ended: what was collected may be shown.
    pub fn epoch_ended(&self) {
        self.epochs.fetch_add(1, Ordering::Relaxed);
    }

    /// The largest lateness since the start.
    pub fn worst(&self) -> Duration {
        Duration::from_nanos(self.worst_nanoseconds.load(Ordering::Relaxed))
    }

    /// A collection for one worker.
    pub fn collect(&self) -> Collected {
        Collected { local: self.histogram.local(), shown: self.epochs.load(Ordering::Relaxed) }
    }

    /// Takes the lateness of one packet.
    pub fn observe(&self, collected: &Collected, late: Duration) {
        collected.local.observe(late.as_secs_f64());
        self.worst_nanoseconds.fetch_max(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Shows what was collected, if it may be shown.
    pub fn show(&self, collected: &mut Collected) {
        let epochs = self.epochs.load(Ordering::Relaxed);
        if !self.by_epoch || epochs != collected.shown {
            collected.shown = epochs;
            collected.local.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::HistogramOpts;

    #[test]
    fn a_gateway_shows_what_every_worker_collected_when_an_epoch_has_ended() {
        let histogram = Histogram::with_opts(HistogramOpts::new("late", "late")).expect("a name");
        let lateness = Lateness::new(histogram.clone(), true);
        let mut workers = [lateness.collect(), lateness.collect()];
        for worker in &mut workers {
            lateness.observe(worker, Duration::from_millis(2));
            lateness.show(worker);
        }
        assert_eq!(histogram.get_sample_count(), 0);
        lateness.epoch_ended();
        workers.iter_mut().for_each(|worker| lateness.show(worker));
        assert_eq!(histogram.get_sample_count(), 2);
        assert_eq!(lateness.worst(), Duration::from_millis(2));
    }
}
