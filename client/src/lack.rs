//! Why a client has no document in force: told from what gateways hand over, and from nothing else.
//!
//! A clock is blamed only on evidence. Documents are certified less than an epoch before they begin: one that begins later
//! than that by this clock says that the clock is behind. And a gateway that hands over a later document than before, which
//! by this clock is over as well, says that the clock is ahead: where the network stands still, no later one comes.

use std::time::Duration;

use shoal_protocol::consensus::{Consensus, DocumentError};
use shoal_protocol::{Epoch, Identity, UnixMillis};

/// Gateways of which it is remembered which document they handed over when it was over.
const REMEMBERED_MAX: usize = 8;

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
    /// The newest document that anybody hands over is over.
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
    over: Vec<(Identity, Epoch)>,
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

    /// A document of `gateway` was refused.
    pub fn refused(&mut self, error: &DocumentError, gateway: Option<Identity>, now: UnixMillis) {
        self.any = true;
        self.last = Some(if let DocumentError::Expired { epoch, ago_ms } = error {
            let ago = Duration::from_millis(*ago_ms);
            if gateway.is_some_and(|gateway| self.goes_on(gateway, *epoch)) {
                Lack::ClockAhead(ago)
            } else {
                Lack::Standstill { epoch: *epoch, ended: now.minus(ago) }
            }
        } else if matches!(error, DocumentError::WrongNetwork { .. }) {
            Lack::OtherNetwork
        } else if error.may_be_another_set() {
            Lack::UnknownAuthorities
        } else {
            Lack::Refused
        });
    }

    /// Whether a gateway handed over an earlier document before, which was over then.
    fn goes_on(&mut self, gateway: Identity, epoch: Epoch) -> bool {
        if let Some((_, first)) = self.over.iter().find(|(known, _)| *known == gateway) {
            return *first < epoch;
        }
        if self.over.len() >= REMEMBERED_MAX {
            self.over.remove(0);
        }
        self.over.push((gateway, epoch));
        false
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
            // a gateway that is further behind than this client says nothing of the network
            Some(Lack::Standstill { epoch, .. }) if epoch <= held.epoch => own,
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

    fn gateway(byte: u8) -> Option<Identity> {
        Some(Identity::from_bytes([byte; 32]))
    }

    fn over(epoch: u64, ago_ms: u64) -> DocumentError {
        DocumentError::Expired { epoch: Epoch(epoch), ago_ms }
    }

    #[test]
    fn a_clock_is_blamed_on_evidence_only() {
        let mut offers = Offers::default();
        assert_eq!(offers.lack(None, NOW), Lack::Nothing);
        offers.refused(&over(40, HOUR_MS), gateway(1), NOW);
        let still = Lack::Standstill { epoch: Epoch(40), ended: UnixMillis(NOW.0 - HOUR_MS) };
        assert_eq!(offers.lack(None, NOW), still);
        // the same again, and another gateway that knows of a later one, are no evidence
        offers.refused(&over(40, HOUR_MS), gateway(1), NOW);
        offers.refused(&over(42, 0), gateway(2), NOW);
        assert!(matches!(offers.lack(None, NOW), Lack::Standstill { epoch: Epoch(42), .. }));
        // the first one goes on
        offers.refused(&over(41, HOUR_MS), gateway(1), NOW);
        assert_eq!(offers.lack(None, NOW), Lack::ClockAhead(Duration::from_millis(HOUR_MS)));
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
        offers.refused(&DocumentError::UnknownAuthority { authority: 3 }, gateway(1), NOW);
        assert_eq!(offers.lack(None, NOW), Lack::UnknownAuthorities);
        let zero = Hash::from_bytes([0; 32]);
        offers.refused(&DocumentError::WrongNetwork { found: zero, expected: zero }, gateway(1), NOW);
        assert_eq!(offers.lack(None, NOW), Lack::OtherNetwork);
        offers.refused(&DocumentError::Malformed("nodes"), gateway(1), NOW);
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
        offers.refused(&over(held.epoch.0 - 1, HOUR_MS), gateway(1), later);
        assert_eq!(offers.lack(Some(&held), later), own, "a gateway further behind");
        offers.refused(&over(held.epoch.0 + 1, 5), gateway(2), later);
        assert!(
            matches!(offers.lack(Some(&held), later), Lack::Standstill { epoch, .. } if epoch == held.epoch.plus(1))
        );
        let long_before = held.valid_from.minus(held.parameters.epoch() * 3);
        assert_eq!(offers.lack(Some(&held), long_before), Lack::ClockBehind(held.parameters.epoch() * 2));
    }
}
