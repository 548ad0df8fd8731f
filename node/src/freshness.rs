//! How old the newest document may be before somebody has to look.
//!
//! A document serves three epochs, so that two missed ones stop no traffic. But who can hold back documents can freeze a
//! node's view of the network, so the first one that does not come is already said, long before traffic stops.

use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::{Epoch, UnixMillis};
use std::time::Duration;

/// Whether the newest document is of the current epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is, or the next one is not overdue yet.
    Fresh,
    /// The next one is overdue.
    Stale {
        /// Epochs that have begun since without a document, the current one included; at least 1.
        missed: u64,
    },
}

/// Judges a document of epoch `document` at `now`. The next one is overdue half an epoch after its epoch began: every
/// node asks about twenty times an epoch, and authorities that need longer than that have a problem. So a freeze is said
/// half an epoch after the first document that is held back.
pub fn judge(schedule: &Schedule, document: Epoch, now: UnixMillis) -> Freshness {
    let overdue = schedule.start(document.plus(1)).plus(Duration::from_millis(schedule.epoch_ms / 2));
    if now < overdue {
        return Freshness::Fresh;
    }
    Freshness::Stale { missed: schedule.epoch_at(now).0.saturating_sub(document.0).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { genesis: UnixMillis(1_000), epoch_ms: 20_000 };

    #[test]
    fn a_freeze_is_said_within_one_epoch() {
        let at = |epoch: u64, ms: u64| {
            judge(&SCHEDULE, Epoch(7), SCHEDULE.start(Epoch(epoch)).plus(Duration::from_millis(ms)))
        };
        assert_eq!(at(6, 0), Freshness::Fresh, "made ahead of its epoch");
        assert_eq!(at(7, 19_999), Freshness::Fresh);
        assert_eq!(at(8, 9_999), Freshness::Fresh, "not overdue yet");
        assert_eq!(at(8, 10_000), Freshness::Stale { missed: 1 });
        assert_eq!(at(9, 0), Freshness::Stale { missed: 2 });
        assert_eq!(at(12, 0), Freshness::Stale { missed: 5 });
    }
}
