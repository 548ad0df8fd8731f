//! A token bucket: how much may come at once, and how much in the long run. Pure.

use std::time::Duration;

/// Shortest wait for a token that is asked for again.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Longest.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A token bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    depth: f64,
    updated: Duration,
}

impl Bucket {
    /// A bucket of `depth` that has `tokens`.
    pub fn new(tokens: f64, depth: f64, now: Duration) -> Self {
        Self { tokens: tokens.min(depth), depth, updated: now }
    }

    /// Takes one token, or says in how long there is one. `fill` in packets per second.
    pub fn admit(&mut self, now: Duration, fill: f64) -> Result<(), Duration> {
        self.refill(now, fill);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // some rate and some time, whatever the parameters: one that waits must not spin, nor for ever
        let wait = (1.0 - self.tokens) / fill.max(1e-3);
        Err(Duration::try_from_secs_f64(wait).unwrap_or(WAIT_MAX).clamp(WAIT_MIN, WAIT_MAX))
    }

    /// Changes its depth; what is above flows over.
    pub fn set_depth(&mut self, depth: f64) {
        self.depth = depth;
        self.tokens = self.tokens.min(depth);
    }

    /// Takes as many tokens as there are, at most `most`.
    pub fn draw(&mut self, most: f64, now: Duration, fill: f64) -> f64 {
        self.refill(now, fill);
        let drawn = self.tokens.min(most);
        self.tokens -= drawn;
        drawn
    }

    /// Whether it would be full by `now`, had it gone on filling.
    pub fn would_be_full(&self, now: Duration, fill: f64) -> bool {
        self.tokens + now.saturating_sub(self.updated).as_secs_f64() * fill >= self.depth
    }

    /// Goes on filling at `now`: nothing came since it was looked at last.
    pub fn resume(&mut self, now: Duration) {
        self.updated = self.updated.max(now);
    }

    /// Lets it fill until `now`.
    pub fn refill(&mut self, now: Duration, fill: f64) {
        let passed = now.saturating_sub(self.updated).as_secs_f64();
        self.updated = self.updated.max(now);
        self.tokens = (self.tokens + passed * fill).min(self.depth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;
    const DEPTH: f64 = 64.0;

    #[test]
    fn a_bucket_lets_bursts_through_and_keeps_the_mean() {
        let mut bucket = Bucket::new(64.0, DEPTH, Duration::ZERO);
        assert_eq!((0..100).filter(|_| bucket.admit(Duration::ZERO, 3.0).is_ok()).count(), 64);
        let passed = (1..=100_000u64).filter(|ms| bucket.admit(Duration::from_millis(*ms), 3.0).is_ok()).count();
        assert!((299..=301).contains(&passed), "{passed}");
    }

    #[test]
    fn a_bucket_survives_a_clock_that_stands_or_jumps() {
        let mut bucket = Bucket::new(64.0, DEPTH, Duration::from_secs(10));
        assert!(bucket.admit(Duration::ZERO, 1.0).is_ok());
        assert_eq!((0..1_000).filter(|_| bucket.admit(Duration::MAX, 1.0).is_ok()).count(), 64);
        // without a rate there is still an end to the wait
        assert_eq!(bucket.admit(Duration::MAX, 0.0), Err(WAIT_MAX));
    }

    #[test]
    fn who_has_no_token_is_told_when_there_is_one() {
        let mut bucket = Bucket::new(0.5, DEPTH, START);
        let wait = bucket.admit(START, 2.0).expect_err("half a token");
        assert_eq!(wait, Duration::from_millis(250));
        assert_eq!(bucket.admit(wait, 2.0), Ok(()));
    }
}
