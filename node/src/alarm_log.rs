//! When the log says that loops are lost, or no longer: once for a change, and not again and again.

use std::time::Duration;

/// Least time between two lines. A node whose alarms come and go says so once a minute, not at every turn.
const PAUSE: Duration = Duration::from_secs(60);

/// What the log said last.
#[derive(Debug, Default)]
pub struct AlarmLog {
    said: usize,
    at: Option<Duration>,
}

impl AlarmLog {
    /// At `now` loops are lost in this many places: the number, if a line is due. Ask at least every few seconds: a change
    /// within the pause is said after it, if it still holds.
    pub fn observe(&mut self, now: Duration, places: usize) -> Option<usize> {
        let paused = self.at.is_some_and(|at| now < at.saturating_add(PAUSE));
        if places == self.said || paused {
            return None;
        }
        (self.said, self.at) = (places, Some(now));
        Some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_change_and_at_most_one_a_minute() {
        let mut log = AlarmLog::default();
        let mut at = |seconds, places| log.observe(Duration::from_secs(seconds), places);
        assert_eq!((at(0, 0), at(1, 1), at(2, 1)), (None, Some(1), None));
        assert_eq!((at(3, 0), at(4, 1), at(70, 1)), (None, None, None), "back before the pause was over");
        assert_eq!((at(80, 0), at(81, 0)), (Some(0), None));
        let flapping = (200..800).filter(|second| at(*second, usize::try_from(second % 2).unwrap()).is_some()).count();
        assert!(flapping <= 11, "{flapping}");
    }
}
