//! Epochs: the clock all parties share, counted from the network's genesis.

use std::time::Duration;

use crate::parameters::Parameters;
use crate::types::{Epoch, UnixMillis};

/// Where epochs begin and how long they are. Epoch *n* is `[genesis + n × epoch, genesis + (n+1) × epoch)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Start of epoch 0.
    pub genesis: UnixMillis,
    /// Length of an epoch, in ms; never 0.
    pub epoch_ms: u64,
}

impl Schedule {
    /// The schedule of a network that began at `genesis`.
    #[must_use]
    pub fn new(genesis: UnixMillis, parameters: &Parameters) -> Self {
        Self { genesis, epoch_ms: parameters.epoch_ms.max(1) }
    }

    /// The epoch `now` lies in; epoch 0 also before genesis.
    #[must_use]
    pub fn epoch_at(&self, now: UnixMillis) -> Epoch {
        Epoch(now.0.saturating_sub(self.genesis.0) / self.epoch_ms.max(1))
    }

    /// First millisecond of `epoch`.
    #[must_use]
    pub fn start(&self, epoch: Epoch) -> UnixMillis {
        UnixMillis(self.genesis.0.saturating_add(epoch.0.saturating_mul(self.epoch_ms)))
    }

    /// First millisecond after `epoch`.
    #[must_use]
    pub fn end(&self, epoch: Epoch) -> UnixMillis {
        self.start(Epoch(epoch.0.saturating_add(1)))
    }

    /// How long from `now` until `then`; zero when it has passed.
    #[must_use]
    pub fn until(now: UnixMillis, then: UnixMillis) -> Duration {
        Duration::from_millis(then.0.saturating_sub(now.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCHEDULE: Schedule = Schedule { genesis: UnixMillis(1_000), epoch_ms: 20_000 };

    #[test]
    fn boundaries() {
        assert_eq!(SCHEDULE.epoch_at(UnixMillis(0)), Epoch(0));
        assert_eq!(SCHEDULE.epoch_at(UnixMillis(20_999)), Epoch(0));
        assert_eq!(SCHEDULE.epoch_at(UnixMillis(21_000)), Epoch(1));
        assert_eq!(SCHEDULE.start(Epoch(1)), UnixMillis(21_000));
        assert_eq!(SCHEDULE.end(Epoch(0)), UnixMillis(21_000));
        assert_eq!(SCHEDULE.start(Epoch(u64::MAX)), UnixMillis(u64::MAX));
    }

    proptest! {
        #[test]
        fn every_instant_lies_in_its_epoch(now in 1_000u64..10_000_000_000_000) {
            let epoch = SCHEDULE.epoch_at(UnixMillis(now));
            prop_assert!(SCHEDULE.start(epoch).0 <= now && now < SCHEDULE.end(epoch).0);
        }
    }
}
