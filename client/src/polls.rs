//! When a chain is asked for its next box: each on its own exponential clock in one of three published classes, the
//! inbox on one of constant mean. A clock that ran out while the client was away counts once: no burst on return.

use crate::want::Rank;
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::poisson::exponential;
use std::time::Duration;

/// A poll that waits for so many mean gaps of its class is overdue.
pub const OVERDUE_GAPS: u32 = 4;

/// The class of a chain by its last activity, either way.
#[must_use]
pub fn class(last_activity: UnixMillis, now: UnixMillis, parameters: &Parameters) -> Rank {
    let quiet_ms = now.0.saturating_sub(last_activity.0);
    if quiet_ms < parameters.hot_for_ms {
        Rank::Hot
    } else if quiet_ms < parameters.warm_for_ms {
        Rank::Warm
    } else {
        Rank::Idle
    }
}

/// Mean gap between two polls of a class; for ranks that are no polls the mean that paces their retries: the hot one, of
/// copies the idle one.
#[must_use]
pub fn mean_gap(rank: Rank, parameters: &Parameters) -> Duration {
    Duration::from_millis(match rank {
        Rank::Send | Rank::BlobRead | Rank::Hot => parameters.poll_hot_ms,
        Rank::Warm => parameters.poll_warm_ms,
        Rank::Idle | Rank::Copy => parameters.poll_idle_ms,
        Rank::Inbox => parameters.poll_inbox_ms,
    })
}

/// One exponential clock. Nothing is due before [`PollClock::wind`] was called once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollClock {
    at: Option<UnixMillis>,
}

impl PollClock {
    /// Draws the next time from now on. Call when the poll was sent, and when the chain's class becomes faster.
    pub fn wind(&mut self, mean: Duration, now: UnixMillis, rng: &mut impl CryptoRng) {
        self.at = Some(now.plus(exponential(mean, rng)));
    }
    /// Makes it due now: the answer said that there is more to fetch at the other replica.
    pub fn ring(&mut self, now: UnixMillis) {
        self.at = Some(now);
    }
    /// Draws the first time if there is none yet.
    pub fn start(&mut self, mean: Duration, now: UnixMillis, rng: &mut impl CryptoRng) {
        if self.at.is_none() {
            self.wind(mean, now, rng);
        }
    }
    /// Whether it has run out.
    #[must_use]
    pub fn due(&self, now: UnixMillis) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
    /// When it ran out, if it has.
    #[must_use]
    pub fn ran_out(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.at.filter(|at| *at <= now)
    }
    /// When it runs out.
    #[must_use]
    pub fn at(&self) -> Option<UnixMillis> {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn classes_follow_the_last_activity() {
        let parameters = Parameters::production();
        let at = |quiet_ms| class(UnixMillis(1_000), UnixMillis(1_000 + quiet_ms), &parameters);
        assert_eq!(at(0), Rank::Hot);
        assert_eq!(at(parameters.hot_for_ms - 1), Rank::Hot);
        assert_eq!(at(parameters.hot_for_ms), Rank::Warm);
        assert_eq!(at(parameters.warm_for_ms), Rank::Idle);
        assert_eq!(class(UnixMillis(9), UnixMillis(0), &parameters), Rank::Hot, "a clock that stepped back");
    }

    #[test]
    fn gaps_are_exponential_and_absence_makes_no_burst() {
        let mut rng = StdRng::seed_from_u64(7);
        let (mean, mut now) = (Duration::from_secs(2), UnixMillis(0));
        let mut clock = PollClock::default();
        assert!(!clock.due(UnixMillis(u64::MAX)), "not wound yet");
        clock.start(mean, now, &mut rng);
        let mut polls = 0u64;
        while now.0 < 4_000_000 {
            now = UnixMillis(now.0 + 10);
            if clock.due(now) {
                polls += 1;
                clock.wind(mean, now, &mut rng);
            }
        }
        assert!((1_850..2_150).contains(&polls), "{polls} polls in 4,000 s at a mean of 2 s"); // 3.4 σ, σ = √2000
        now = UnixMillis(now.0 + 3_600_000);
        assert!(clock.ran_out(now).is_some_and(|at| at.plus(mean * OVERDUE_GAPS) < now));
        clock.wind(mean, now, &mut rng);
        assert!(!clock.due(now), "an hour away counts once");
    }
}
