//! What one descriptor offers: the public keys of some epochs, and when they have to be offered anew.

use crate::io::live_keys::KeySnapshot;
use shoal_protocol::X25519Public;
use shoal_protocol::types::{Epoch, Identity};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Whether the last descriptor has to be made: it was not yet, or its epoch is over and somebody has not taken it.
pub fn is_farewell_due(made: Option<Epoch>, pending: &BTreeSet<Identity>, current: Epoch) -> bool {
    made.is_none_or(|made| made != current && !pending.is_empty())
}

/// The public keys of one descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Mix keys.
    pub mix: Vec<(Epoch, X25519Public)>,
    /// Envelope keys; a store's.
    pub envelope: Vec<(Epoch, X25519Public)>,
}

impl Offer {
    /// Keys of some epochs.
    pub fn of(keys: &KeySnapshot, range: RangeInclusive<Epoch>) -> Self {
        Self {
            mix: keys.mix.range(range.clone()).map(|(epoch, key)| (*epoch, *key)).collect(),
            envelope: keys.envelope.range(range).map(|(epoch, key)| (*epoch, *key)).collect(),
        }
    }

    /// Whether this offer names a key for an epoch to come (or the current one) that the node no longer holds: then the
    /// new one must be known at once. An epoch that only `now` has waits for the next round.
    pub fn contradicts(&self, now: &Self, current: Epoch) -> bool {
        let differ = |old: &[(Epoch, X25519Public)], new: &[(Epoch, X25519Public)]| {
            old.iter().filter(|(epoch, _)| *epoch >= current).any(|entry| !new.contains(entry))
        };
        differ(&self.mix, &now.mix) || differ(&self.envelope, &now.envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::EPOCHS_AHEAD;

    fn snapshot(epochs: RangeInclusive<u64>, fill: u8) -> KeySnapshot {
        let mix = epochs.map(|epoch| (Epoch(epoch), X25519Public::from_bytes([fill; 32]))).collect();
        KeySnapshot { mix, ..KeySnapshot::default() }
    }

    fn offered(epochs: RangeInclusive<u64>, fill: u8, current: u64) -> Offer {
        Offer::of(&snapshot(epochs, fill), Epoch(current)..=Epoch(current).plus(EPOCHS_AHEAD))
    }

    #[test]
    fn four_epochs_are_offered_and_only_a_changed_key_is_urgent() {
        let first = offered(4..=8, 1, 5);
        assert_eq!(first.mix.iter().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [5, 6, 7, 8]);
        let later = offered(5..=9, 1, 6);
        assert!(!first.contradicts(&later, Epoch(6)), "the passing of time is no change");
        let anew = offered(5..=9, 2, 6);
        assert!(first.contradicts(&anew, Epoch(6)));
        assert!(!first.contradicts(&anew, Epoch(9)), "epochs that are over do not matter");
    }

    #[test]
    fn a_farewell_is_made_once_and_again_only_for_who_did_not_take_it() {
        let (nobody, somebody) = (BTreeSet::new(), BTreeSet::from([Identity::from_bytes([1; 32])]));
        assert!(is_farewell_due(None, &nobody, Epoch(5)));
        assert!(!is_farewell_due(Some(Epoch(5)), &somebody, Epoch(5)));
        assert!(!is_farewell_due(Some(Epoch(5)), &nobody, Epoch(6)), "a later key would list the node again");
        assert!(is_farewell_due(Some(Epoch(5)), &somebody, Epoch(6)));
    }
}
