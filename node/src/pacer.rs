//! The clock of a constant-rate link: how many frames are due, so that the average rate holds although timers are late.

use shoal_protocol::parameters::Rate;
use std::time::Duration;

/// Frames sent at once at most. A timer that is 2 ms late makes two frames due at 1,000/s; sixteen cover a pause of 40 ms
/// at 400/s. What is due beyond that was slept through and is not made up for: a burst would say how busy the node was.
pub const BURST_MAX: u32 = 16;

/// Contract: call [`Pacer::due`] when `now` has reached [`Pacer::next`]; calling it earlier is harmless.
#[derive(Debug, Clone)]
pub struct Pacer {
    gap: Duration,
    next: Duration,
}

impl Pacer {
    /// Frames at `rate` from `first` on.
    pub fn new(rate: Rate, first: Duration) -> Self {
        Self { gap: gap(rate), next: first }
    }

    /// When the next frame is due.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// How many frames are due at `now`; they count as sent.
    pub fn due(&mut self, now: Duration) -> u32 {
        let Some(late) = now.checked_sub(self.next) else { return 0 };
        // gap is at least a nanosecond
        let due = late.as_nanos() / self.gap.as_nanos().max(1) + 1;
        match u32::try_from(due) {
            Ok(due) if due <= BURST_MAX => {
                self.next = self.next.saturating_add(self.gap.saturating_mul(due));
                due
            }
            Ok(_) | Err(_) => {
                self.next = now.saturating_add(self.gap);
                BURST_MAX
            }
        }
    }

    /// Another rate (a new consensus), from the next frame on.
    pub fn set_rate(&mut self, rate: Rate) {
        self.gap = gap(rate);
    }
}

fn gap(rate: Rate) -> Duration {
    rate.mean_gap().max(Duration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_polls_keep_the_rate() {
        let mut pacer = Pacer::new(Rate(400_000), Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut sent = 0;
        // a timer that is 1 to 2 ms late each time
        let mut step: u64 = 0;
        while now < Duration::from_secs(10) {
            now = pacer.next() + Duration::from_micros(1_000 + (step * 7_919) % 1_000);
            step += 1;
            sent += pacer.due(now);
        }
        assert!((3_996..=4_001).contains(&sent), "{sent}");
    }

    #[test]
    fn nothing_is_due_early_and_no_burst_after_sleep() {
        let mut pacer = Pacer::new(Rate(400_000), Duration::from_millis(5));
        assert_eq!(pacer.due(Duration::from_millis(4)), 0);
        assert_eq!(pacer.due(Duration::from_millis(5)), 1);
        assert_eq!(pacer.due(Duration::from_millis(5)), 0);
        let woken = Duration::from_secs(3_600);
        assert_eq!(pacer.due(woken), BURST_MAX);
        assert_eq!(pacer.due(woken), 0);
        assert_eq!(pacer.next(), woken + Duration::from_micros(2_500));
    }

    #[test]
    fn extreme_rates_do_not_panic() {
        for rate in [Rate(0), Rate(1), Rate(u32::MAX)] {
            let mut pacer = Pacer::new(rate, Duration::ZERO);
            assert!(pacer.due(Duration::from_secs(u64::from(u32::MAX))) <= BURST_MAX);
            pacer.set_rate(Rate(u32::MAX));
        }
    }
}
