//! Why a client has no document in force: told from what gateways hand over, and from nothing else.
//!
//! A clock is blamed only on evidence. Documents are certified less than an epoch before they begin: one that begins later
//! than that by this clock says that the clock is behind. That it is ahead is said only where documents which by this clock
//! are over come at the pace at which the network makes them, from more than one gateway (`pace.rs`): whoever believes it
//! sets the clock back, and then takes old documents for new ones. Those of no later epoch than the one held say nothing.

use std::time::Duration;

use shoal_protocol::consensus::{Consensus, DocumentError};
use shoal_protocol::{Epoch, Identity, UnixMillis};

use crate::pace::Pace;

/// What is known of why no document is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lack {
    /// No gateway handed over a document.
    #[default]
    Nothing,
    /// The newest document begins later by this clock; less than an epoch.
    Early {
        /// At this time.
        begins: UnixMillis,
    },
    /// This machine's clock is behind by at least so much.
    ClockBehind(Duration),
    /// This machine's clock is ahead by at least so much.
    ClockAhead(Duration),
    /// The newest document that anybody hands over is over: the network stands still, or these gateways are behind.
    Standstill {
        /// Its epoch.
        epoch: Epoch,
        /// When it ended.
        ended: UnixMillis,
    },
    /// Authorities that are not known here certified what is handed over, or nobody did, and no chain of changes leads to
    /// them.
    UnknownAuthorities,
    /// What is handed over belongs to another network.
    OtherNetwork,
    /// What is handed over is refused for another reason.
    Refused,
}

/// What gateways handed over that could not be taken; the last one counts.
#[derive(Debug, Default)]
pub struct Offers {
    /// Whatever was handed over in this run.
    any: bool,
    last: Option<Lack>,
    pace: Pace,
}

/// Who hands a document over, and when.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The gateway, if one is linked.
    pub gateway: Option<Identity>,
    /// Time since the start of this process.
    pub at: Duration,
    /// This machine's clock.
    pub unix: UnixMillis,
    /// Length of the network's epochs.
    pub epoch: Duration,
}

impl Offers {
    /// A document was taken, or is the one that is held.
    pub fn taken(&mut self) {
        *self = Self { any: true, ..Self::default() };
    }

    /// A certified document came that begins in `in_ms` milliseconds.
    pub fn early(&mut self, in_ms: u64, epoch: Duration, now: UnixMillis) {
        self.any = true;
        let wait = Duration::from_millis(in_ms);
        self.last = Some(match wait.checked_sub(epoch) {
            Some(behind) if !behind.is_zero() => Lack::ClockBehind(behind),
            _ => Lack::Early { begins: now.plus(wait) },
        });
    }

    /// A document was refused. `held`: the epoch of the one that is held.
    pub fn refused(&mut self, error: &DocumentError, held: Option<Epoch>, moment: Moment) {
        self.any = true;
        if let DocumentError::Expired { epoch, ago_ms } = error {
            if held.is_none_or(|held| *epoch > held) {
                self.over(*epoch, Duration::from_millis(*ago_ms), moment);
            }
            return;
        }
        self.last = Some(if matches!(error, DocumentError::WrongNetwork { .. }) {
            Lack::OtherNetwork
        } else if error.may_be_another_set() {
            Lack::UnknownAuthorities
        } else {
            Lack::Refused
        });
    }

    /// A certified document came, later than the one held, that is over for `ago`.
    fn over(&mut self, epoch: Epoch, ago: Duration, moment: Moment) {
        let Moment { gateway, at, unix, epoch: length } = moment;
        self.pace.came(epoch, ago, gateway, at, length);
        self.last = match (self.pace.ahead(), self.last) {
            (Some(ahead), _) => Some(Lack::ClockAhead(ahead)),
            // this gateway is behind
            (None, Some(Lack::Standstill { epoch: latest, .. })) if latest >= epoch => self.last,
            (None, _) => Some(Lack::Standstill { epoch, ended: unix.minus(ago) }),
        };
    }

    /// Why nothing is in force at `now`, beside what is held.
    #[must_use]
    pub fn lack(&self, held: Option<&Consensus>, now: UnixMillis) -> Lack {
        let Some(held) = held else { return self.last.unwrap_or_default() };
        let begins_in = Duration::from_millis(held.valid_from.0.saturating_sub(now.0));
        if let Some(behind) = begins_in.checked_sub(held.parameters.epoch()).filter(|behind| !behind.is_zero()) {
            return Lack::ClockBehind(behind);
        }
        let own = if begins_in.is_zero() {
            Lack::Standstill { epoch: held.epoch, ended: held.valid_until }
        } else {
            Lack::Early { begins: held.valid_from }
        };
        match self.last {
            None if !self.any => Lack::Nothing,
            None => own,
            Some(last) => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::Hash;

    const EPOCH: Duration = Duration::from_secs(1_200);
    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);
    const HOUR_MS: u64 = 3_600_000;

    fn by_and_at(byte: u8, at: Duration) -> Moment {
        Moment { gateway: Some(Identity::from_bytes([byte; 32])), at, unix: NOW, epoch: EPOCH }
    }

    fn over(epoch: u64, ago_ms: u64) -> DocumentError {
        DocumentError::Expired { epoch: Epoch(epoch), ago_ms }
    }

    #[test]
    fn a_clock_is_blamed_on_evidence_only() {
        let mut offers = Offers::default();
        assert_eq!(offers.lack(None, NOW), Lack::Nothing);
        let still = |epoch| Lack::Standstill { epoch: Epoch(epoch), ended: UnixMillis(NOW.0 - HOUR_MS) };
        // whatever one gateway hands over is no evidence, nor that another one knows of a later document
        for (epoch, by) in [(40, 1), (40, 1), (41, 1), (42, 2), (43, 1)] {
            offers.refused(&over(epoch, HOUR_MS), None, by_and_at(by, EPOCH / 100));
            assert_eq!(offers.lack(None, NOW), still(epoch));
        }
        // one that is behind changes nothing
        offers.refused(&over(41, 5), None, by_and_at(3, EPOCH / 50));
        assert_eq!(offers.lack(None, NOW), still(43));
        // an epoch later, at both
        offers.refused(&over(44, HOUR_MS), None, by_and_at(2, EPOCH));
        assert_eq!(offers.lack(None, NOW), still(44));
        offers.refused(&over(44, HOUR_MS + 5), None, by_and_at(1, EPOCH + EPOCH / 10));
        let ahead = Lack::ClockAhead(Duration::from_millis(HOUR_MS));
        assert_eq!(offers.lack(None, NOW), ahead);
        offers.refused(&over(7, 900 * HOUR_MS), None, by_and_at(3, EPOCH * 2));
        assert_eq!(offers.lack(None, NOW), ahead, "not by as much as an old document is over");
        offers.taken();
        assert_eq!(offers.lack(None, NOW), Lack::Nothing);
    }

    #[test]
    fn a_document_that_begins_late_is_early_or_the_clock_is_behind() {
        let mut offers = Offers::default();
        offers.early(60_000, EPOCH, NOW);
        assert_eq!(offers.lack(None, NOW), Lack::Early { begins: NOW.plus(Duration::from_secs(60)) });
        offers.early(HOUR_MS, EPOCH, NOW);
        assert_eq!(offers.lack(None, NOW), Lack::ClockBehind(Duration::from_secs(2_400)));
    }

    #[test]
    fn who_cannot_be_followed_and_who_is_elsewhere_are_told_apart() {
        let mut offers = Offers::default();
        let moment = by_and_at(1, EPOCH);
        offers.refused(&DocumentError::UnknownAuthority { authority: 3 }, None, moment);
        assert_eq!(offers.lack(None, NOW), Lack::UnknownAuthorities);
        let zero = Hash::from_bytes([0; 32]);
        offers.refused(&DocumentError::WrongNetwork { found: zero, expected: zero }, None, moment);
        assert_eq!(offers.lack(None, NOW), Lack::OtherNetwork);
        offers.refused(&DocumentError::Malformed("nodes"), None, moment);
        assert_eq!(offers.lack(None, NOW), Lack::Refused);
    }

    #[test]
    fn no_gateway_makes_this_client_forget_what_it_held() {
        let (held, _) = crate::testing::consensus(1, 1, 3);
        let ends = held.valid_until;
        let later = ends.plus(EPOCH * 10);
        let mut offers = Offers::default();
        let own = Lack::Standstill { epoch: held.epoch, ended: ends };
        assert_eq!(offers.lack(Some(&held), later), Lack::Nothing, "nobody was asked yet");
        offers.taken();
        assert_eq!(offers.lack(Some(&held), later), own);
        // gateways further behind say nothing of network or clock, however their documents come
        for back in (0..5).rev() {
            for by in 1..=3 {
                let at = EPOCH * u32::try_from(5 - back).unwrap();
                offers.refused(&over(held.epoch.0 - back, HOUR_MS), Some(held.epoch), by_and_at(by, at));
                assert_eq!(offers.lack(Some(&held), later), own);
            }
        }
        offers.refused(&over(held.epoch.0 + 1, 5), Some(held.epoch), by_and_at(2, EPOCH * 6));
        assert!(
            matches!(offers.lack(Some(&held), later), Lack::Standstill { epoch, .. } if epoch == held.epoch.plus(1))
        );
        let long_before = held.valid_from.minus(held.parameters.epoch() * 3);
        assert_eq!(offers.lack(Some(&held), long_before), Lack::ClockBehind(held.parameters.epoch() * 2));
    }
}
