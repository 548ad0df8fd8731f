//! Timeouts of a round: how long each lasts, and which are running.

use std::time::Duration;

use arc_malachitebft_core_types::{Timeout, TimeoutKind};
use shoal_protocol::UnixMillis;

/// Shortest and longest base of a timeout.
const BASE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Durations for a length of an epoch.
///
/// A timeout of round r lasts (r + 1) × base, at most a tenth of an epoch (but never less than base); base is a
/// thirtieth of an epoch, between 200 ms and 5 s. The same for propose, prevote, precommit and rebroadcast.
///
/// A vote crosses a link of 200 ms one way and 5 % loss within 1.4 s even when it is lost once (QUIC's second probe), a
/// proposal of 50 kB within two to four seconds (congestion control takes loss for congestion): 5 s are enough for
/// production's documents, and epochs of 30 s reach 3 s in the third round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    base: Duration,
    cap: Duration,
}

impl Timing {
    /// The timing of a network with epochs of this length.
    #[must_use]
    pub fn of_epoch(epoch: Duration) -> Self {
        let base = (epoch / 30).clamp(BASE.0, BASE.1);
        Self { base, cap: (epoch / 10).max(base) }
    }

    /// The shortest timeout.
    #[must_use]
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The longest timeout.
    #[must_use]
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// How long a timeout of `round` lasts.
    #[must_use]
    pub fn of_round(&self, round: u32) -> Duration {
        self.base.saturating_mul(round.saturating_add(1)).min(self.cap)
    }
}

/// Running timeouts: one of each kind, since all belong to the current round.
#[derive(Debug, Default)]
pub(crate) struct Timers(Vec<(UnixMillis, Timeout)>);

impl Timers {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn cancel(&mut self, timeout: &Timeout) {
        self.0.retain(|(_, running)| running != timeout);
    }

    /// Starts a timeout, or starts it again.
    pub(crate) fn set(&mut self, timeout: Timeout, timing: &Timing, now: UnixMillis) {
        self.0.retain(|(_, running)| running.kind != timeout.kind);
        let after = timing.of_round(timeout.round.as_u32().unwrap_or(0));
        if !matches!(timeout.kind, TimeoutKind::FinalizeHeight(_)) {
            self.0.push((now.plus(after), timeout));
        }
    }

    /// The next one that is due at `now`, earliest first.
    pub(crate) fn pop(&mut self, now: UnixMillis) -> Option<Timeout> {
        let index = (0..self.0.len()).filter(|i| self.0[*i].0 <= now).min_by_key(|i| self.0[*i].0)?;
        Some(self.0.remove(index).1)
    }

    /// A clock that went back must not stop the round: nothing waits longer than the longest timeout.
    pub(crate) fn settle(&mut self, timing: &Timing, now: UnixMillis) {
        for (at, _) in &mut self.0 {
            *at = (*at).min(now.plus(timing.cap));
        }
    }

    pub(crate) fn next(&self) -> Option<UnixMillis> {
        self.0.iter().map(|(at, _)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arc_malachitebft_core_types::Round;

    #[test]
    fn timeouts_scale_with_the_epoch_and_grow_with_the_round() {
        let of = |secs, round| Timing::of_epoch(Duration::from_secs(secs)).of_round(round).as_millis();
        assert_eq!([of(1200, 0), of(1200, 1), of(1200, 23), of(1200, 1_000)], [5_000, 10_000, 120_000, 120_000]);
        assert_eq!([of(30, 0), of(30, 1), of(30, 50)], [1_000, 2_000, 3_000]);
        assert_eq!([of(1, 0), of(1, 9), of(60, 0), of(60, u32::MAX)], [200, 200, 2_000, 6_000]);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_stop_a_timeout() {
        let timing = Timing::of_epoch(Duration::from_secs(20));
        let mut timers = Timers::default();
        timers.set(Timeout::propose(Round::new(0)), &timing, UnixMillis(3_600_000));
        timers.settle(&timing, UnixMillis(0));
        assert_eq!(timers.next(), Some(UnixMillis(2_000)));
        assert_eq!(timers.pop(UnixMillis(1_999)), None);
        assert!(timers.pop(UnixMillis(2_000)).is_some());
    }
}
