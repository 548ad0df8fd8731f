//! Whether documents that are over by this machine's clock come as they are made: then it is the clock that is ahead.
//!
//! Anybody who kept old documents can hand them over, one after the other: that a later one comes says nothing by itself.
//! The authorities make one in an epoch, and every gateway has it then. So the clock is called ahead only when
//!
//! - a document n epochs later than every one before comes at least n − ¼ epochs after that one first came, by time that
//!   nobody sets (the quarter is for documents that come late, and links that are made anew), and
//! - two gateways hand it over, or the next ones in their time, of which each handed over an earlier one before.
//!
//! One gateway that plays old documents at the pace of the network proves nothing. Neither do two if the network stands
//! still: an honest one never has an earlier document than its first. A later document that comes too soon says that whoever
//! handed over the one before kept it back: counting begins anew. Two gateways that conspire can still deceive.

use std::time::Duration;

use shoal_protocol::{Epoch, Identity};

/// Gateways of which it is remembered which document they handed over first: twice as many as a client goes round among,
/// its three guards.
const REMEMBERED_MAX: usize = 8;

/// The latest document that was over when it came.
#[derive(Debug)]
struct Latest {
    epoch: Epoch,
    /// When it first came, since the start of this process. That time does not run while the machine sleeps: a clock is
    /// called ahead later for it, never sooner.
    at: Duration,
    /// For how long it was over then.
    over_for: Duration,
}

/// The documents that were over when they came, in one run.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    latest: Option<Latest>,
    first: Vec<(Identity, Epoch)>,
    /// A gateway that went on when a document came in its time.
    witness: Option<Identity>,
    /// Another one did, too.
    confirmed: bool,
}

impl Pace {
    /// `gateway` handed over, at `at`, the document of `epoch`, which is over for `over_for`. An epoch is `length` long.
    pub(crate) fn came(
        &mut self,
        epoch: Epoch,
        over_for: Duration,
        gateway: Option<Identity>,
        at: Duration,
        length: Duration,
    ) {
        let goes_on = gateway.filter(|gateway| self.goes_on(*gateway, epoch));
        let in_time = match &self.latest {
            // this gateway is behind
            Some(latest) if epoch < latest.epoch => return,
            Some(latest) if epoch == latest.epoch => self.witness.is_some(),
            latest => {
                let in_time = latest.as_ref().is_some_and(|latest| {
                    let epochs = u32::try_from(epoch.0.saturating_sub(latest.epoch.0)).unwrap_or(u32::MAX);
                    at.saturating_sub(latest.at) >= length.saturating_mul(epochs).saturating_sub(length / 4)
                });
                self.latest = Some(Latest { epoch, at, over_for });
                if !in_time {
                    self.witness = None;
                    self.confirmed = false;
                }
                in_time
            }
        };
        if let Some(gateway) = goes_on.filter(|_| in_time) {
            self.confirmed |= *self.witness.get_or_insert(gateway) != gateway;
        }
    }

    /// By how much this machine's clock is ahead at least, if it is.
    pub(crate) fn ahead(&self) -> Option<Duration> {
        // a document that is handed over as it is made is not over by a right clock
        self.latest.as_ref().filter(|_| self.confirmed).map(|latest| latest.over_for)
    }

    /// Whether a gateway handed over an earlier document before, which was over then.
    fn goes_on(&mut self, gateway: Identity, epoch: Epoch) -> bool {
        if let Some((_, first)) = self.first.iter().find(|(known, _)| *known == gateway) {
            return *first < epoch;
        }
        if self.first.len() >= REMEMBERED_MAX {
            self.first.remove(0);
        }
        self.first.push((gateway, epoch));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(1_200);

    /// Each: at which minute which gateway handed over the document of which epoch; then whether the clock is called ahead.
    fn ahead(came: &[(u64, u8, u64)]) -> bool {
        let mut pace = Pace::default();
        for (minute, gateway, epoch) in came {
            let gateway = Identity::from_bytes([*gateway; 32]);
            let over_for = Duration::from_secs(3_600 + minute);
            pace.came(Epoch(*epoch), over_for, Some(gateway), Duration::from_secs(minute * 60), LENGTH);
        }
        pace.ahead().is_some()
    }

    #[test]
    fn a_network_that_goes_on_at_two_gateways_says_that_the_clock_is_ahead() {
        assert!(ahead(&[(0, 1, 40), (2, 2, 40), (18, 1, 41), (20, 2, 41)]));
        assert!(ahead(&[(0, 1, 40), (2, 2, 40), (15, 1, 41), (35, 2, 42)]), "each in its time");
        assert!(ahead(&[(0, 1, 40), (2, 2, 40), (35, 1, 42), (36, 2, 42)]), "one was missed");
        assert!(ahead(&[(0, 1, 40), (2, 2, 40), (9, 1, 41), (11, 2, 41), (29, 2, 42), (31, 1, 42)]), "begun late");
        // who is behind takes nothing back
        assert!(ahead(&[(0, 1, 40), (2, 2, 40), (18, 1, 41), (20, 2, 41), (21, 3, 30)]));
    }

    #[test]
    fn old_documents_that_somebody_plays_say_nothing_of_the_clock() {
        assert!(!ahead(&[(0, 1, 40), (0, 1, 41), (0, 1, 42)]), "at once");
        assert!(
            !ahead(&[(0, 1, 40), (20, 1, 41), (40, 1, 42), (60, 1, 43)]),
            "one gateway, at the pace of the network"
        );
        assert!(!ahead(&[(0, 1, 40), (2, 2, 40), (10, 1, 41), (12, 2, 41)]), "two, too fast");
        assert!(!ahead(&[(0, 1, 40), (2, 2, 40), (30, 1, 42), (31, 2, 42)]), "two epochs in one and a half");
        // the network stands still at 45, or at 41
        assert!(!ahead(&[(0, 1, 40), (20, 1, 41), (22, 2, 45), (24, 1, 45), (60, 2, 45)]));
        assert!(!ahead(&[(0, 1, 40), (20, 1, 41), (22, 2, 41), (24, 3, 41), (40, 2, 41)]));
        // nobody is named
        let mut pace = Pace::default();
        for epoch in 40..50 {
            pace.came(Epoch(epoch), LENGTH, None, LENGTH * u32::try_from(epoch).unwrap(), LENGTH);
        }
        assert_eq!(pace.ahead(), None);
    }

    #[test]
    fn the_least_that_the_clock_is_ahead_is_told_by_the_latest_document() {
        let [one, two] = [1, 2].map(|byte| Some(Identity::from_bytes([byte; 32])));
        let mut pace = Pace::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (gateway, epoch, at, over_for) in [(one, 40, 0, 70), (two, 40, 2, 72), (one, 41, 20, 71), (two, 41, 25, 76)]
        {
            pace.came(Epoch(epoch), minutes(over_for), gateway, minutes(at), LENGTH);
        }
        pace.came(Epoch(3), minutes(900), two, minutes(26), LENGTH);
        assert_eq!(pace.ahead(), Some(minutes(71)));
    }
}
