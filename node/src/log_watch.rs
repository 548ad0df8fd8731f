//! Whether packets are held back because their replay tags cannot be written: a mix that says nothing then looks well and
//! forwards nothing.

use std::time::Duration;

/// Without a failure for this long the log works again. Own loops come about once a second, so that a log that fails is
/// met even where nobody else sends.
const QUIET: Duration = Duration::from_secs(10);

/// Watches the counter of packets that were dropped for this reason. Call [`LogWatch::observe`] about once a second.
#[derive(Debug, Default)]
pub struct LogWatch {
    failures: u64,
    failing_until: Option<Duration>,
}

impl LogWatch {
    /// Takes the counter as it is at `now`; says whether the log fails, if that has changed.
    pub fn observe(&mut self, failures: u64, now: Duration) -> Option<bool> {
        let was_failing = self.failing_until.is_some();
        if failures != self.failures {
            self.failures = failures;
            self.failing_until = Some(now.saturating_add(QUIET));
        } else if self.failing_until.is_some_and(|until| until <= now) {
            self.failing_until = None;
        }
        let is_failing = self.failing_until.is_some();
        (is_failing != was_failing).then_some(is_failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fails_at_the_first_drop_and_works_after_ten_quiet_seconds() {
        let mut watch = LogWatch::default();
        let at = Duration::from_secs;
        assert_eq!(watch.observe(0, at(1)), None);
        assert_eq!(watch.observe(3, at(2)), Some(true));
        assert_eq!(watch.observe(4, at(9)), None);
        assert_eq!(watch.observe(4, at(18)), None);
        assert_eq!(watch.observe(4, at(19)), Some(false));
        assert_eq!(watch.observe(4, at(60)), None);
    }
}
