//! What the prober remembers of its loops: how many left and came back, and how long they took, in buckets of time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;
use shoal_protocol::{
    consensus::MAX_NODES,
    types::{Identity, UnixMillis},
};

/// Buckets kept. Sixty of 5 s are five minutes of a test network; sixty of 5 min are five hours of a real one.
pub(crate) const BUCKETS_MAX: usize = 60;

/// The buckets that decide whether loops come back now, the one that has begun among them: 20 to 25 s of a test network,
/// 20 to 25 min of a real one.
const RECENT_BUCKETS: u64 = 5;
/// A loop that left this many buckets ago has come back or run into its deadline: seconds of delays and margins.
const OVERDUE_BUCKETS: u64 = 2;

/// Round trips kept of one bucket. A prober sends at most a few loops a second: 512 is 100 a second for the shortest
/// bucket. Memory: 60 × 512 × 4 bytes = 123 kB.
const ROUND_TRIPS_MAX: usize = 512;

/// Loops of one stretch of time.
#[derive(Debug, Clone, Default)]
struct Bucket {
    start_ms: u64,
    sent: u32,
    lost: u32,
    returned: u32,
    round_trips_ms: Vec<u32>,
}

/// Nodes whose loops are counted. A document lists at most [`MAX_NODES`]; as many again may have left. 40 bytes each.
const NODES_MAX: usize = 2 * MAX_NODES;

/// Loops that were to pass one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Passed {
    /// Those that came back.
    pub(crate) returned: u64,
    /// Those that did not. A lost loop counts for every node of its route: one of them, or a link between two, lost it.
    pub(crate) lost: u64,
}

/// Counts and round-trip times of loops, over a sliding window of [`BUCKETS_MAX`] buckets, and totals since the start.
#[derive(Debug)]
pub(crate) struct LoopHistory {
    bucket_ms: u64,
    buckets: VecDeque<Bucket>,
    nodes: BTreeMap<Identity, Passed>,
    sent: u64,
    returned: u64,
    lost: u64,
}

/// The loops of one bucket, as the charts show them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Point {
    /// When the bucket begins.
    pub(crate) start_ms: u64,
    /// Loops that left in it.
    pub(crate) sent: u32,
    /// Loops that came back in it.
    pub(crate) returned: u32,
    /// Loops given up in it.
    pub(crate) lost: u32,
    /// Round-trip times of those that came back.
    pub(crate) round_trip_ms: Option<Percentiles>,
}

/// Percentiles of round-trip times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    /// One loop in ten was faster.
    pub(crate) p10: u32,
    /// The median.
    pub(crate) p50: u32,
    /// One loop in ten was slower.
    pub(crate) p90: u32,
    /// One loop in a hundred was slower.
    pub(crate) p99: u32,
}

/// The loops since the start, with percentiles over the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Loops sent since the start.
    pub(crate) sent: u64,
    /// Loops that came back since the start.
    pub(crate) returned: u64,
    /// Loops given up since the start.
    pub(crate) lost: u64,
    /// The part of the settled loops that came back, 0 to 1; `None` before any is settled.
    pub(crate) survival: Option<f64>,
    /// The same of the last few buckets, with loops that are overdue and were never heard of again counted as lost;
    /// `None` when none was due in them.
    pub(crate) recent_survival: Option<f64>,
    /// Round-trip times of the window.
    pub(crate) round_trip_ms: Option<Percentiles>,
}

/// Nearest-rank percentiles; `None` of nothing.
fn percentiles(values: &mut [u32]) -> Option<Percentiles> {
    values.sort_unstable();
    let rank = |hundredths: usize| {
        // the smallest value that at least so many hundredths of all values do not exceed
        let index = (values.len() * hundredths).div_ceil(100).saturating_sub(1);
        values.get(index).copied()
    };
    Some(Percentiles { p10: rank(10)?, p50: rank(50)?, p90: rank(90)?, p99: rank(99)? })
}

impl LoopHistory {
    /// An empty history with buckets of this length (at least a second).
    pub(crate) fn new(bucket: Duration) -> Self {
        let bucket_ms = u64::try_from(bucket.as_millis()).unwrap_or(u64::MAX).max(1_000);
        Self {
            bucket_ms,
            buckets: VecDeque::with_capacity(BUCKETS_MAX),
            nodes: BTreeMap::new(),
            sent: 0,
            returned: 0,
            lost: 0,
        }
    }

    /// Length of a bucket.
    pub(crate) fn bucket(&self) -> Duration {
        Duration::from_millis(self.bucket_ms)
    }

    /// So many loops have left since the start; a smaller number than before changes nothing.
    pub(crate) fn sent_total(&mut self, now: UnixMillis, total: u64) {
        let more = u32::try_from(total.saturating_sub(self.sent)).unwrap_or(u32::MAX);
        self.sent = self.sent.max(total);
        if more > 0
            && let Some(bucket) = self.bucket_at(now)
        {
            bucket.sent = bucket.sent.saturating_add(more);
        }
    }

    /// A loop over these nodes has ended: it came back after `round_trip`, or was given up.
    pub(crate) fn ended(&mut self, now: UnixMillis, nodes: &[Identity], round_trip: Option<Duration>) {
        match round_trip {
            Some(round_trip) => self.returned(now, round_trip),
            None => self.lost(now),
        }
        // whoever counts what left may not have told it yet
        self.sent_total(now, self.returned + self.lost);
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
                continue;
            }
            let passed = self.nodes.entry(node).or_default();
            match round_trip {
                Some(_) => passed.returned += 1,
                None => passed.lost += 1,
            }
        }
    }

    /// The loops that were to pass a node.
    pub(crate) fn passed(&self, node: &Identity) -> Option<Passed> {
        self.nodes.get(node).copied()
    }

    fn lost(&mut self, now: UnixMillis) {
        self.lost += 1;
        if let Some(bucket) = self.bucket_at(now) {
            bucket.lost = bucket.lost.saturating_add(1);
        }
    }

    fn returned(&mut self, now: UnixMillis, round_trip: Duration) {
        self.returned += 1;
        if let Some(bucket) = self.bucket_at(now) {
            bucket.returned = bucket.returned.saturating_add(1);
            if bucket.round_trips_ms.len() < ROUND_TRIPS_MAX {
                bucket.round_trips_ms.push(u32::try_from(round_trip.as_millis()).unwrap_or(u32::MAX));
            }
        }
    }

    /// The window up to `now`, oldest first, without gaps: a bucket without loops is a point of zeros.
    pub(crate) fn series(&self, now: UnixMillis) -> Vec<Point> {
        let Some(first) = self.buckets.front() else { return Vec::new() };
        let last_start = self.start_of(now);
        let window_ms = self.bucket_ms.saturating_mul(BUCKETS_MAX as u64 - 1);
        let from = first.start_ms.max(last_start.saturating_sub(window_ms));
        let count = last_start.saturating_sub(from) / self.bucket_ms + 1;
        (0..count)
            .map(|n| {
                let start_ms = from + n * self.bucket_ms;
                let bucket =
                    self.buckets.iter().find(|bucket| bucket.start_ms == start_ms).cloned().unwrap_or_default();
                let Bucket { sent, lost, returned, mut round_trips_ms, .. } = bucket;
                Point { start_ms, sent, returned, lost, round_trip_ms: percentiles(&mut round_trips_ms) }
            })
            .collect()
    }

    /// The part of the loops due lately that came back.
    fn recent_survival(&self, now: UnixMillis) -> Option<f64> {
        let newest = self.start_of(now);
        let before = |buckets: u64| newest.saturating_sub(self.bucket_ms.saturating_mul(buckets));
        let (mut returned, mut lost, mut due, mut settled) = (0u64, 0u64, 0u64, 0u64);
        for bucket in &self.buckets {
            let ended = u64::from(bucket.returned) + u64::from(bucket.lost);
            if bucket.start_ms > before(RECENT_BUCKETS) {
                returned += u64::from(bucket.returned);
                lost += u64::from(bucket.lost);
            }
            if bucket.start_ms > before(RECENT_BUCKETS + OVERDUE_BUCKETS) {
                settled += ended;
                if bucket.start_ms <= before(OVERDUE_BUCKETS) {
                    due += u64::from(bucket.sent);
                }
            }
        }
        // whatever is due has ended in these buckets too, unless nothing was ever heard of it
        let all = returned + lost + due.saturating_sub(settled);
        (all > 0).then(|| returned as f64 / all as f64)
    }

    /// Totals, and percentiles over the window.
    pub(crate) fn summary(&self, now: UnixMillis) -> Summary {
        let mut all: Vec<u32> = self.buckets.iter().flat_map(|bucket| bucket.round_trips_ms.iter().copied()).collect();
        let settled = self.returned + self.lost;
        let survival = (settled > 0).then(|| self.returned as f64 / settled as f64);
        Summary {
            sent: self.sent,
            returned: self.returned,
            lost: self.lost,
            survival,
            recent_survival: self.recent_survival(now),
            round_trip_ms: percentiles(&mut all),
        }
    }

    fn start_of(&self, now: UnixMillis) -> u64 {
        now.0 - now.0 % self.bucket_ms
    }

    /// The bucket of `now`, made when it is new. A clock that went back counts into the newest bucket.
    fn bucket_at(&mut self, now: UnixMillis) -> Option<&mut Bucket> {
        let start_ms = self.start_of(now);
        if self.buckets.back().is_none_or(|bucket| bucket.start_ms < start_ms) {
            if self.buckets.len() == BUCKETS_MAX {
                self.buckets.pop_front();
            }
            self.buckets.push_back(Bucket { start_ms, ..Bucket::default() });
        }
        self.buckets.back_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + seconds * 1_000)
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut history = LoopHistory::new(Duration::from_secs(5));
        for ms in 1..=100 {
            history.sent_total(at(0), ms);
            history.returned(at(0), Duration::from_millis(ms));
        }
        let summary = history.summary(at(0));
        assert_eq!(summary.round_trip_ms, Some(Percentiles { p10: 10, p50: 50, p90: 90, p99: 99 }));
        assert_eq!((summary.sent, summary.returned, summary.survival), (100, 100, Some(1.0)));
    }

    #[test]
    fn nothing_is_not_zero() {
        let history = LoopHistory::new(Duration::from_secs(5));
        assert_eq!(history.summary(at(0)).survival, None);
        assert_eq!(history.summary(at(0)).recent_survival, None);
        assert_eq!(history.summary(at(0)).round_trip_ms, None);
        assert_eq!(history.series(at(0)), []);
    }

    #[test]
    fn quiet_buckets_are_shown_as_quiet() {
        let mut history = LoopHistory::new(Duration::from_secs(5));
        history.sent_total(at(1), 2);
        history.ended(at(2), &[], Some(Duration::from_millis(80)));
        history.ended(at(17), &[], None);
        let series = history.series(at(21));
        let counts: Vec<_> = series.iter().map(|point| (point.sent, point.returned, point.lost)).collect();
        assert_eq!(counts, [(2, 1, 0), (0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0)]);
        assert_eq!(history.summary(at(21)).survival, Some(0.5));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut history = LoopHistory::new(Duration::from_secs(5));
        for second in 0..100_000 {
            history.sent_total(at(second), second + 1);
            for _ in 0..200 {
                history.returned(at(second), Duration::from_millis(second));
            }
        }
        assert_eq!(history.buckets.len(), BUCKETS_MAX);
        assert!(history.buckets.iter().all(|bucket| bucket.round_trips_ms.len() <= ROUND_TRIPS_MAX));
        assert_eq!(history.series(at(99_999)).len(), BUCKETS_MAX);
        assert_eq!(history.series(at(10_000_000)).len(), BUCKETS_MAX);
        assert_eq!(history.summary(at(99_999)).sent, 100_000);
    }

    #[test]
    fn a_blackout_is_seen_at_once_after_hours_of_health() {
        for reported in [true, false] {
            let mut history = LoopHistory::new(Duration::from_secs(5));
            let mut sent = 0;
            for second in 0..20_000 {
                sent += 4;
                history.sent_total(at(second), sent);
                (0..4).for_each(|_| history.returned(at(second), Duration::from_millis(900)));
                if second > 60 {
                    assert_eq!(history.summary(at(second)).recent_survival, Some(1.0));
                }
            }
            for second in 20_000..20_040 {
                sent += 4;
                history.sent_total(at(second), sent);
                // a link that broke reports no loss: then what was sent and never came counts
                if reported {
                    (0..4).for_each(|_| history.lost(at(second)));
                }
            }
            let summary = history.summary(at(20_039));
            assert_eq!(summary.recent_survival, Some(0.0), "reported: {reported}");
            assert!(summary.survival.is_some_and(|part| part > 0.99));
        }
    }

    #[test]
    fn a_loop_counts_once_for_every_node_of_its_route() {
        let mut history = LoopHistory::new(Duration::from_secs(5));
        let [a, b] = [1, 2].map(|n| Identity::from_bytes([n; 32]));
        history.ended(at(0), &[a, b, a], Some(Duration::from_millis(5)));
        history.ended(at(0), &[a], None);
        assert_eq!(history.passed(&a), Some(Passed { returned: 1, lost: 1 }));
        assert_eq!(history.passed(&b), Some(Passed { returned: 1, lost: 0 }));
        assert_eq!(history.passed(&Identity::from_bytes([3; 32])), None);
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let mut history = LoopHistory::new(Duration::from_secs(5));
        history.sent_total(at(100), 1);
        history.sent_total(at(0), 2);
        assert_eq!(history.series(at(100)).len(), 1);
        assert_eq!(history.series(at(0)).len(), 1);
    }
}
