//! The two charts of the status page: round-trip times and loops over time. Lengths are units of the chart's view box.

use std::time::Duration;

use shoal_protocol::duration::short;

use crate::history::{BUCKETS_MAX, Point};

/// Width of a chart.
pub(crate) const WIDTH: f64 = 520.0;
/// Height of a chart.
pub(crate) const HEIGHT: f64 = 190.0;

/// Space at the left for the scale.
const LEFT: f64 = 56.0;
/// Space at the right.
const RIGHT: f64 = 12.0;
/// Space above.
const TOP: f64 = 12.0;
/// Base line.
const BASE: f64 = HEIGHT - 26.0;

/// A line of the scale with its text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    /// Its height in the chart.
    pub(crate) y: String,
    /// What it stands for.
    pub(crate) text: String,
}

/// Round-trip times: the median as a line, the middle eight tenths as a band.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RoundTrips {
    /// The `d` of the band's path; empty when there is nothing to show.
    pub(crate) band: String,
    /// The `d` of the median's path.
    pub(crate) median: String,
    /// The scale.
    pub(crate) ticks: Vec<Tick>,
}

/// One bar of the loops chart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    /// Left edge.
    pub(crate) x: String,
    /// Its width.
    pub(crate) width: String,
    /// Top of the part that came back.
    pub(crate) returned_y: String,
    /// Height of the part that came back.
    pub(crate) returned_height: String,
    /// Top of the part that was lost.
    pub(crate) lost_y: String,
    /// Height of the part that was lost.
    pub(crate) lost_height: String,
    /// What it stands for.
    pub(crate) title: String,
}

/// Loops over time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Loops {
    /// A bar for every bucket that had any.
    pub(crate) bars: Vec<Bar>,
    /// The scale.
    pub(crate) ticks: Vec<Tick>,
}

/// The left edge of a bucket. The newest stands at the right, so a young chart fills from there.
fn left_of(index: usize, points: usize) -> f64 {
    let step = step();
    WIDTH - RIGHT - (points - index) as f64 * step
}

/// Width of a bucket.
fn step() -> f64 {
    (WIDTH - LEFT - RIGHT) / BUCKETS_MAX as f64
}

/// The height of `value` on a scale that ends at `top`.
fn y_of(value: f64, top: f64) -> f64 {
    BASE - (BASE - TOP) * (value / top).clamp(0.0, 1.0)
}

/// The smallest of 1, 2, 5 × 10ⁿ that is at least `value`.
fn round_up(value: f64) -> f64 {
    let mut decade = 1.0;
    while decade * 10.0 < value {
        decade *= 10.0;
    }
    [1.0, 2.0, 5.0].into_iter().map(|step| step * decade).find(|end| *end >= value).unwrap_or(decade * 10.0)
}

fn ticks(top: f64, text: impl Fn(f64) -> String) -> Vec<Tick> {
    [0.0, 0.5, 1.0].map(|part| Tick { y: format!("{:.1}", y_of(part * top, top)), text: text(part * top) }).into()
}

/// The left end of the time axis in words.
pub(crate) fn since(bucket: Duration) -> String {
    format!("{} ago", short(bucket * u32::try_from(BUCKETS_MAX).unwrap_or(1)))
}

/// Draws the round-trip times of a series.
pub(crate) fn round_trips(series: &[Point]) -> RoundTrips {
    let known: Vec<_> = series
        .iter()
        .enumerate()
        .filter_map(|(index, point)| Some((left_of(index, series.len()) + step() / 2.0, point.round_trip_ms?)))
        .collect();
    let Some(top) = known.iter().map(|(_, percentiles)| percentiles.p90).max() else { return RoundTrips::default() };
    let top = round_up(f64::from(top).max(10.0));
    let at = |x: f64, ms: u32| format!("{x:.1} {:.1}", y_of(f64::from(ms), top));
    let path = |points: Vec<String>| format!("M{}", points.join("L"));
    let upper = known.iter().map(|(x, percentiles)| at(*x, percentiles.p90));
    let lower = known.iter().rev().map(|(x, percentiles)| at(*x, percentiles.p10));
    RoundTrips {
        band: format!("{}Z", path(upper.chain(lower).collect())),
        median: path(known.iter().map(|(x, percentiles)| at(*x, percentiles.p50)).collect()),
        ticks: ticks(top, |ms| short(Duration::from_millis(ms as u64)).replace("0µs", "0")),
    }
}

/// Draws the loops of a series.
pub(crate) fn loops(series: &[Point]) -> Loops {
    let total = |point: &Point| point.returned.saturating_add(point.lost);
    let Some(top) = series.iter().map(total).max().filter(|top| *top > 0) else { return Loops::default() };
    let top = round_up(f64::from(top).max(2.0));
    let bar = |(index, point): (usize, &Point)| {
        let returned_y = y_of(f64::from(point.returned), top);
        let lost_y = y_of(f64::from(total(point)), top);
        (total(point) > 0).then(|| Bar {
            x: format!("{:.1}", left_of(index, series.len()) + 0.8),
            width: format!("{:.1}", step() - 1.6),
            returned_y: format!("{returned_y:.1}"),
            returned_height: format!("{:.1}", BASE - returned_y),
            lost_y: format!("{lost_y:.1}"),
            lost_height: format!("{:.1}", returned_y - lost_y),
            title: format!("{} returned, {} lost", point.returned, point.lost),
        })
    };
    Loops {
        bars: series.iter().enumerate().filter_map(bar).collect(),
        ticks: ticks(top, |loops| format!("{loops:.0}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Percentiles;

    fn point(returned: u32, lost: u32) -> Point {
        let round_trip_ms = (returned > 0).then_some(Percentiles { p10: 80, p50: 120, p90: 340, p99: 400 });
        Point { start_ms: 0, sent: returned + lost, returned, lost, round_trip_ms }
    }

    #[test]
    fn nothing_draws_nothing() {
        assert_eq!(round_trips(&[]), RoundTrips::default());
        assert_eq!(loops(&[point(0, 0)]), Loops::default());
    }

    #[test]
    fn the_scale_ends_on_a_round_number() {
        let chart = round_trips(&[point(3, 0), point(0, 0), point(2, 1)]);
        let texts: Vec<&str> = chart.ticks.iter().map(|tick| &*tick.text).collect();
        assert_eq!(texts, ["0", "250ms", "500ms"]);
        assert_eq!(since(Duration::from_secs(5)), "5m ago");
        assert!(chart.median.starts_with('M') && chart.band.ends_with('Z'));
    }

    #[test]
    fn bars_stack_and_stay_inside() {
        let series = vec![point(4, 3); BUCKETS_MAX];
        let chart = loops(&series);
        assert_eq!(chart.bars.len(), BUCKETS_MAX);
        for bar in &chart.bars {
            let x: f64 = bar.x.parse().expect("is a number");
            assert!((LEFT - 1.0..=WIDTH).contains(&x), "{x}");
            let height: f64 = bar.returned_height.parse().expect("is a number");
            let lost: f64 = bar.lost_height.parse().expect("is a number");
            assert!(height > lost && lost > 0.0);
        }
    }

    #[test]
    fn round_numbers_are_reached_from_below() {
        assert_eq!(round_up(1.0), 1.0);
        assert_eq!(round_up(11.0), 20.0);
        assert_eq!(round_up(200.0), 200.0);
        assert_eq!(round_up(501.0), 1_000.0);
    }
}
