//! How much work one authority may cause the others.

use std::time::Duration;

use shoal_protocol::UnixMillis;

/// Bytes of a message that cost as much as one signature check (0.2 ms).
const BYTES_PER_UNIT: usize = 512 * 1024;

/// A token bucket in units of one signature check.
///
/// An honest authority of n = 64 causes at most 2 votes, 1 proposal of 8 units and 2 certificates of 64 unknown votes a
/// round, and repeats of them, which cost 1 each; a round lasts at least one interval. A bucket holds 64 + 8n units and
/// gains 32 + 3n in an interval: 224 checks, 45 ms of work a second and peer at the shortest interval.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    units: u64,
    capacity: u64,
    gain: u64,
    interval_ms: u64,
    filled: UnixMillis,
}

impl Budget {
    pub(crate) fn new(authorities: usize, interval: Duration, now: UnixMillis) -> Self {
        let n = authorities as u64;
        let capacity = 64 + 8 * n;
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { units: capacity, capacity, gain: 32 + 3 * n, interval_ms, filled: now }
    }

    /// What a message costs before any signature is checked.
    pub(crate) fn cost(bytes: usize) -> u64 {
        1 + (bytes / BYTES_PER_UNIT) as u64
    }

    /// Takes `units`, or nothing and `false` when they are not there.
    pub(crate) fn spend(&mut self, units: u64, now: UnixMillis) -> bool {
        let elapsed_ms = u64::try_from(now.since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(self.gain) / self.interval_ms;
        // Fractions are kept by moving the clock only when something was gained; a clock that went back starts anew.
        if gained > 0 || now < self.filled {
            self.units = self.units.saturating_add(gained).min(self.capacity);
            self.filled = now;
        }
        let Some(left) = self.units.checked_sub(units) else {
            return false;
        };
        self.units = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_forgiven_in_time() {
        let mut budget = Budget::new(4, Duration::from_millis(200), UnixMillis(1_000));
        let passed = (0..1_000).filter(|_| budget.spend(1, UnixMillis(1_000))).count();
        assert_eq!(passed, 96);
        let passed = (0..1_000).filter(|_| budget.spend(1, UnixMillis(1_200))).count();
        assert_eq!(passed, 44);
        assert!(!budget.spend(1, UnixMillis(500)), "a clock that goes back gives nothing");
        assert!(budget.spend(1, UnixMillis(510)), "and takes nothing for long");
    }
}
