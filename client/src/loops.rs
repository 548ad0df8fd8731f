//! What the measuring decoys say: how many come back, how soon, and whether something drops them (design §3.5).
//!
//! A client whose loops vanish is either in a broken network or alone in one (an n−1 attack drops everybody else's
//! packets). It says so ([`Health::Warn`]) and then stops sending payload ([`Health::Pause`]); cover continues, and its
//! loops tell when it is over.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many decided loops the survival is taken over: at λ_L = 0.5/s about eight minutes.
const SURVIVAL_WINDOW: usize = 256;
/// How many round trips the percentiles are taken over: 512 × 16 bytes.
const ROUND_TRIPS_MAX: usize = 512;
/// How many of the last loops decide about [`Health`].
const HEALTH_WINDOW: usize = 40;
/// [`Health::Warn`] from this many lost of the last 40. With 2 % of ordinary loss, chance does that once in 500,000
/// windows.
const WARN_LOST: usize = 8;
/// [`Health::Pause`] from this many lost of the last 40. One store of three being down loses a third; chance makes 28
/// of that once in 300,000 windows.
const PAUSE_LOST: usize = 28;
/// A pause ends when no more than this many of the last 40 are lost: well below where it began, so that it does not
/// flutter.
const RESUME_LOST: usize = 16;
/// So many loops in a row through the next gateway, none of them lost, show that the one that was left was at fault.
/// When the mixes drop everything, the first loop of the next gateway is lost like the others.
const ACQUITTED_AFTER: usize = 3;

/// What the loops say about the network around this client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Loops come back.
    #[default]
    Good,
    /// Many loops are lost: messages still go, but something is wrong.
    Warn,
    /// Most loops are lost: payload stops, cover continues.
    Pause,
}

/// Round-trip times of the recent loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of the loops were faster.
    pub p50: Duration,
    /// Nine of ten were faster.
    pub p90: Duration,
    /// 99 of 100 were faster.
    pub p99: Duration,
}

/// Rolling statistics of one client's measuring decoys. A loop that was in flight when the link to the gateway broke
/// says nothing about the mixes and is not counted as lost: [`LoopStatistics::void`].
#[derive(Clone, Debug, Default)]
pub struct LoopStatistics {
    sent: u64,
    returned: u64,
    lost: u64,
    void: u64,
    recent: VecDeque<bool>,
    round_trips: VecDeque<Duration>,
    health: Health,
    /// Losses right before a gateway was left for its silence, while nobody knows whose fault they were.
    suspected: usize,
    /// Loops that came back since.
    cleared: usize,
}

impl LoopStatistics {
    /// A loop left.
    pub fn sent(&mut self) {
        self.sent += 1;
    }

    /// A loop came back after `round_trip`, counted from its departure.
    pub fn returned(&mut self, round_trip: Duration) {
        self.returned += 1;
        if self.round_trips.len() >= ROUND_TRIPS_MAX {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
        self.decide(true);
        if self.suspected > 0 {
            self.cleared += 1;
            if self.cleared >= ACQUITTED_AFTER {
                self.acquit();
            }
        }
    }

    /// A loop did not come back by its deadline.
    pub fn lost(&mut self) {
        self.lost += 1;
        self.suspected = 0;
        self.decide(false);
    }

    /// A loop can no longer be judged: the link to the gateway broke while it was out.
    pub fn void(&mut self) {
        self.void += 1;
    }

    /// A gateway was left because it answered nothing. If the next one returns its first loops, the losses since the
    /// last loop that came back were that gateway's fault and are taken back; if it loses one, they stay.
    pub fn left_in_silence(&mut self) {
        self.suspected = self.recent.iter().rev().take_while(|came_back| !**came_back).count();
        self.cleared = 0;
    }

    fn acquit(&mut self) {
        let end = self.recent.len().saturating_sub(self.cleared);
        let losses = self.recent.drain(end.saturating_sub(self.suspected)..end).count() as u64;
        self.lost = self.lost.saturating_sub(losses);
        self.void += losses;
        self.suspected = 0;
        self.judge();
    }

    fn decide(&mut self, came_back: bool) {
        if self.recent.len() >= SURVIVAL_WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(came_back);
        self.judge();
    }

    fn judge(&mut self) {
        let (lost, _) = self.lost_lately();
        self.health = match self.health {
            Health::Pause if lost > RESUME_LOST => Health::Pause,
            Health::Good | Health::Warn | Health::Pause => {
                if lost >= PAUSE_LOST {
                    Health::Pause
                } else if lost >= WARN_LOST {
                    Health::Warn
                } else {
                    Health::Good
                }
            }
        };
    }

    /// What to make of it.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Loops that left since the start.
    #[must_use]
    pub fn sent_total(&self) -> u64 {
        self.sent
    }

    /// Loops that came back since the start.
    #[must_use]
    pub fn returned_total(&self) -> u64 {
        self.returned
    }

    /// Loops that missed their deadline since the start.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost
    }

    /// Share of the recent loops that came back, 0 to 1; `None` before the first is decided.
    #[must_use]
    pub fn survival(&self) -> Option<f64> {
        if self.recent.is_empty() {
            return None;
        }
        let returned = self.recent.iter().filter(|came_back| **came_back).count();
        // at most 256: exact as f64
        Some(returned as f64 / self.recent.len() as f64)
    }

    /// How many of the last loops were lost, and how many those are: what [`LoopStatistics::health`] is judged by.
    #[must_use]
    pub fn lost_lately(&self) -> (usize, usize) {
        let lost = self.recent.iter().rev().take(HEALTH_WINDOW).filter(|came_back| !**came_back).count();
        (lost, self.recent.len().min(HEALTH_WINDOW))
    }

    /// Round trips of the recent loops that came back, oldest first; at most 512.
    pub fn round_trips(&self) -> impl Iterator<Item = Duration> + '_ {
        self.round_trips.iter().copied()
    }

    /// Percentiles of the recent round trips; `None` before the first.
    #[must_use]
    pub fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted: Vec<Duration> = self.round_trips.iter().copied().collect();
        sorted.sort_unstable();
        // nearest rank: the smallest value with at least `per_cent` of the samples at or below it
        let rank = |per_cent: usize| sorted.get((sorted.len() * per_cent).div_ceil(100).saturating_sub(1)).copied();
        Some(Percentiles { p50: rank(50)?, p90: rank(90)?, p99: rank(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silence::Silence;
    use shoal_protocol::Epoch;

    #[test]
    fn survival_and_percentiles() {
        let mut loops = LoopStatistics::default();
        assert_eq!(loops.survival(), None);
        assert_eq!(loops.percentiles(), None);
        for ms in 1..=100 {
            loops.sent();
            loops.returned(Duration::from_millis(ms));
        }
        let percentiles = loops.percentiles().unwrap();
        assert_eq!(percentiles.p50, Duration::from_millis(50));
        assert_eq!(percentiles.p90, Duration::from_millis(90));
        assert_eq!(percentiles.p99, Duration::from_millis(99));
        for _ in 0..100 {
            loops.sent();
            loops.lost();
        }
        assert_eq!(loops.survival(), Some(0.5));
        assert_eq!((loops.sent_total(), loops.returned_total(), loops.lost_total()), (200, 100, 100));
    }

    #[test]
    fn windows_are_bounded() {
        let mut loops = LoopStatistics::default();
        for _ in 0..10_000 {
            loops.returned(Duration::from_millis(1));
        }
        assert_eq!(loops.recent.len(), SURVIVAL_WINDOW);
        assert_eq!(loops.round_trips.len(), ROUND_TRIPS_MAX);
    }

    #[test]
    fn a_third_lost_warns_and_does_not_pause() {
        let mut loops = LoopStatistics::default();
        for i in 0..3_000 {
            if i % 3 == 0 {
                loops.lost()
            } else {
                loops.returned(Duration::from_millis(1))
            }
            assert_ne!(loops.health(), Health::Pause);
        }
        assert_eq!(loops.health(), Health::Warn);
    }

    #[test]
    fn most_lost_pauses_until_loops_are_back() {
        let mut loops = LoopStatistics::default();
        for _ in 0..100 {
            loops.returned(Duration::from_millis(1));
        }
        assert_eq!(loops.health(), Health::Good);
        for _ in 0..PAUSE_LOST {
            loops.lost();
        }
        assert_eq!(loops.health(), Health::Pause);
        let mut until_resumed = 0;
        while loops.health() == Health::Pause {
            loops.returned(Duration::from_millis(1));
            until_resumed += 1;
        }
        assert_eq!(until_resumed, HEALTH_WINDOW - RESUME_LOST);
        assert_eq!(loops.health(), Health::Warn);
    }

    #[test]
    fn what_a_silent_gateway_swallowed_is_taken_back() {
        let mut loops = LoopStatistics::default();
        for _ in 0..50 {
            loops.returned(Duration::from_millis(1));
        }
        for _ in 0..PAUSE_LOST {
            loops.lost();
        }
        loops.left_in_silence();
        assert_eq!(loops.health(), Health::Pause, "nobody knows yet whose fault it was");
        for _ in 0..ACQUITTED_AFTER {
            loops.returned(Duration::from_millis(1));
        }
        assert_eq!((loops.health(), loops.survival(), loops.lost_total()), (Health::Good, Some(1.0), 0));
    }

    #[test]
    fn losses_stay_when_the_next_gateway_loses_too() {
        let mut loops = LoopStatistics::default();
        for _ in 0..WARN_LOST {
            loops.lost();
        }
        loops.left_in_silence();
        loops.returned(Duration::from_millis(1));
        loops.lost();
        for _ in 0..10 {
            loops.returned(Duration::from_millis(1));
        }
        assert_eq!((loops.health(), loops.lost_total()), (Health::Warn, WARN_LOST as u64 + 1));
    }

    /// Everything is dropped, whichever gateway it goes through: the client says so, stops payload, and does not show
    /// its address to one gateway after the other.
    #[test]
    fn a_link_that_swallows_everything_ends_in_a_pause_and_not_in_flight() {
        const REQUESTS_AN_EPOCH: u64 = 200;
        const LOOP_EVERY: u64 = 5;
        const IN_FLIGHT: u64 = 2;
        let (mut loops, mut silence) = (LoopStatistics::default(), Silence::default());
        for _ in 0..100 {
            loops.returned(Duration::from_millis(1));
        }
        let mut switches = std::collections::BTreeMap::<Epoch, u32>::new();
        let mut warned_at = None;
        for request in 0..3 * REQUESTS_AN_EPOCH {
            silence.unanswered();
            if request % LOOP_EVERY == 0 {
                loops.lost();
            }
            let epoch = Epoch(request / REQUESTS_AN_EPOCH);
            if silence.leave(epoch) {
                *switches.entry(epoch).or_default() += 1;
                (0..IN_FLIGHT).for_each(|_| loops.lost());
                loops.left_in_silence();
                silence.linked();
            }
            if loops.health() != Health::Good {
                warned_at.get_or_insert(request);
            }
            if request >= PAUSE_LOST as u64 * LOOP_EVERY {
                assert_eq!(loops.health(), Health::Pause);
            }
        }
        assert!(warned_at.is_some_and(|request| request <= WARN_LOST as u64 * LOOP_EVERY));
        assert!(switches.len() == 3 && switches.values().all(|count| *count == 1), "{switches:?}");
    }

    #[test]
    fn a_broken_link_is_no_loss() {
        let mut loops = LoopStatistics::default();
        for _ in 0..100 {
            loops.sent();
            loops.void();
        }
        assert_eq!(loops.health(), Health::Good);
        assert_eq!(loops.survival(), None);
    }
}
