//! Exponential delays and Poisson clocks: the only sources of waiting time in Shoal.
//!
//! The sampler is our own because a tight cap or a zero for a bad mean, both seen elsewhere, bend the distribution that
//! anonymity rests on (Loopix §4.1).

use rand::{CryptoRng, RngExt as _};
use std::time::Duration;

/// Samples Exp(1/mean), to the nanosecond. A zero mean gives zero: parameters are checked where they are parsed.
pub fn exponential(mean: Duration, rng: &mut impl CryptoRng) -> Duration {
    // 53 uniform bits in (0, 1]: ln is finite, the largest sample is 36.7 means
    let uniform = ((rng.random::<u64>() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    // at most 36.7 × mean: a mean below 10^17 s cannot overflow a Duration
    Duration::from_secs_f64(-uniform.ln() * mean.as_secs_f64())
}

/// A Poisson process. Contract: call [`PoissonClock::due`] when `now` has reached [`PoissonClock::next`]; calling it
/// earlier is harmless. Time that was slept through is not made up for: one tick at most, then on from `now`, so that
/// a client that wakes does not betray itself by a burst.
#[derive(Debug, Clone)]
pub struct PoissonClock {
    mean: Duration,
    next: Duration,
}

impl PoissonClock {
    /// A clock whose ticks are `mean` apart on average, starting at `now` (any monotonic origin).
    pub fn new(mean: Duration, now: Duration, rng: &mut impl CryptoRng) -> Self {
        Self { mean, next: now.saturating_add(exponential(mean, rng)) }
    }
    /// When the clock ticks next.
    pub fn next(&self) -> Duration {
        self.next
    }
    /// Whether the clock ticked; if so the next tick is drawn. Small lateness (a timer's) is carried over, so that the
    /// rate holds; when later than one mean the process starts anew at `now`.
    pub fn due(&mut self, now: Duration, rng: &mut impl CryptoRng) -> bool {
        if now < self.next {
            return false;
        }
        let late = now.saturating_sub(self.next);
        let from = if late > self.mean { now } else { self.next };
        self.next = from.saturating_add(exponential(self.mean, rng));
        true
    }
    /// Changes the rate from the next tick on (a new consensus); memoryless, so the pending tick is drawn anew.
    pub fn set_mean(&mut self, mean: Duration, now: Duration, rng: &mut impl CryptoRng) {
        if mean != self.mean {
            *self = Self::new(mean, now, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    /// Kolmogorov–Smirnov distance of samples (in means) from Exp(1).
    fn distance(mut samples: Vec<f64>) -> f64 {
        samples.sort_by(f64::total_cmp);
        let n = samples.len() as f64;
        samples.iter().enumerate().fold(0.0, |worst: f64, (i, x)| {
            let f = 1.0 - (-x).exp();
            worst.max((f - i as f64 / n).abs()).max(((i + 1) as f64 / n - f).abs())
        })
    }

    #[test]
    fn samples_are_exponential() {
        let mut rng = StdRng::seed_from_u64(3);
        let mean = Duration::from_millis(20);
        let samples: Vec<f64> =
            (0..100_000).map(|_| exponential(mean, &mut rng).as_secs_f64() / mean.as_secs_f64()).collect();
        // p = 0.01 at n = 100,000
        assert!(distance(samples) < 1.63 / 100_000f64.sqrt());
    }

    #[test]
    fn a_clock_that_is_polled_late_keeps_its_rate() {
        let mut rng = StdRng::seed_from_u64(4);
        let mean = Duration::from_millis(100);
        let mut clock = PoissonClock::new(mean, Duration::ZERO, &mut rng);
        let mut ticks = 0u32;
        for step in 0..1_000_000u64 {
            if clock.due(Duration::from_millis(step), &mut rng) {
                ticks += 1;
            }
        }
        assert!((9_600..10_400).contains(&ticks), "{ticks}");
    }

    #[test]
    fn no_burst_after_sleep() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut clock = PoissonClock::new(Duration::from_millis(100), Duration::ZERO, &mut rng);
        let woken = Duration::from_secs(3_600);
        assert!(clock.due(woken, &mut rng));
        assert!(clock.next() > woken);
    }

    #[test]
    fn extreme_means_do_not_panic() {
        let mut rng = StdRng::seed_from_u64(6);
        for mean in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1 << 40)] {
            let _ = exponential(mean, &mut rng);
        }
    }
}
