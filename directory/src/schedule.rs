//! When to make which document.

use std::time::Duration;

use shoal_protocol::epoch::Schedule;
use shoal_protocol::{Epoch, UnixMillis};

/// How often an authority looks whether enough nodes are there for the first document, or for one that is overdue.
pub const RETRY: Duration = Duration::from_millis(100);

/// How long the first document after an outage waits for nodes to publish again, if most of them do not sooner.
#[must_use]
pub fn patience(schedule: &Schedule) -> Duration {
    Duration::from_millis(schedule.epoch_ms / 20)
}

/// Whether the document of `epoch` comes after an outage: descriptors listed for the one before may be too old for it.
#[must_use]
pub fn after_outage(newest: Option<Epoch>, epoch: Epoch) -> bool {
    newest.is_some_and(|newest| epoch > newest.plus(1))
}

/// What an authority should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Make the document of this epoch now.
    Document(Epoch),
    /// Nothing before this instant.
    Wait(UnixMillis),
}

/// The document of epoch *e*+1 is made a fifth of an epoch before *e*+1 starts: late enough to hold this epoch's
/// descriptors, early enough to be everywhere in time.
#[must_use]
pub fn lead(schedule: &Schedule) -> Duration {
    Duration::from_millis(schedule.epoch_ms / 5)
}

/// What is due at `now`, when the newest document is of epoch `newest`.
///
/// Without any document the one of the current epoch is due at once; whoever makes it finds out whether enough nodes are
/// listed, and asks again after [`RETRY`] if not. After a pause, missed epochs are skipped, never made up for. Ask again
/// after a document was made, and at the instant that [`Due::Wait`] names.
#[must_use]
pub fn due(schedule: &Schedule, newest: Option<Epoch>, now: UnixMillis) -> Due {
    let Some(newest) = newest else {
        return if now < schedule.genesis {
            Due::Wait(schedule.genesis)
        } else {
            Due::Document(schedule.epoch_at(now))
        };
    };
    let approaching = schedule.epoch_at(now.plus(lead(schedule)));
    if approaching > newest {
        Due::Document(approaching)
    } else {
        Due::Wait(schedule.start(newest.plus(1)).minus(lead(schedule)))
    }
}

/// From when on the document of `epoch` is handed out. Earlier it would be refused everywhere as not yet valid.
#[must_use]
pub fn released_at(schedule: &Schedule, epoch: Epoch, skew: Duration) -> UnixMillis {
    schedule.start(epoch).minus(skew)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCHEDULE: Schedule = Schedule { genesis: UnixMillis(1_000_000), epoch_ms: 20_000 };

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_000_000 + ms)
    }

    #[test]
    fn the_first_document_is_of_the_current_epoch() {
        assert_eq!(due(&SCHEDULE, None, UnixMillis(5)), Due::Wait(UnixMillis(1_000_000)));
        assert_eq!(due(&SCHEDULE, None, at(0)), Due::Document(Epoch(0)));
        assert_eq!(due(&SCHEDULE, None, at(39_999)), Due::Document(Epoch(1)));
    }

    #[test]
    fn the_next_is_made_a_fifth_before_its_epoch() {
        assert_eq!(due(&SCHEDULE, Some(Epoch(1)), at(20_000)), Due::Wait(at(36_000)));
        assert_eq!(due(&SCHEDULE, Some(Epoch(1)), at(35_999)), Due::Wait(at(36_000)));
        assert_eq!(due(&SCHEDULE, Some(Epoch(1)), at(36_000)), Due::Document(Epoch(2)));
        assert_eq!(due(&SCHEDULE, Some(Epoch(2)), at(36_000)), Due::Wait(at(56_000)));
    }

    #[test]
    fn missed_epochs_are_skipped() {
        assert_eq!(due(&SCHEDULE, Some(Epoch(1)), at(200_000)), Due::Document(Epoch(10)));
        assert_eq!(due(&SCHEDULE, Some(Epoch(1)), at(217_000)), Due::Document(Epoch(11)));
    }

    #[test]
    fn only_a_missed_epoch_is_an_outage() {
        assert!(!after_outage(None, Epoch(7)));
        assert!(!after_outage(Some(Epoch(6)), Epoch(7)));
        assert!(after_outage(Some(Epoch(5)), Epoch(7)));
        assert_eq!(patience(&SCHEDULE), Duration::from_secs(1));
    }

    #[test]
    fn a_clock_that_jumped_back_waits() {
        assert_eq!(due(&SCHEDULE, Some(Epoch(9)), at(0)), Due::Wait(at(196_000)));
    }

    #[test]
    fn release_is_skew_before_the_epoch() {
        assert_eq!(released_at(&SCHEDULE, Epoch(2), Duration::from_secs(2)), at(38_000));
    }

    proptest! {
        #[test]
        fn waiting_until_told_makes_every_document_once(start in 0u64..1_000_000) {
            let mut now = at(start);
            let mut newest = None;
            for _ in 0..20 {
                match due(&SCHEDULE, newest, now) {
                    Due::Document(epoch) => {
                        prop_assert!(newest.is_none_or(|newest: Epoch| epoch == newest.plus(1)));
                        newest = Some(epoch);
                    }
                    Due::Wait(until) => {
                        prop_assert!(until > now);
                        now = until;
                    }
                }
            }
        }
    }
}
