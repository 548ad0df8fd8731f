//! How many documents somebody is handed, or hands to us, in one epoch. A document an epoch is all that there is; what is
//! more is for links that break, readers that cannot use what they got, and those who share an address.

use crate::places::Prefix;
use shoal_protocol::types::Epoch;
use std::collections::BTreeMap;

/// Documents and differences on one link in an epoch. One is new; after a time of two missed epochs up to three come at
/// once. 8 MiB at most.
pub const DOCUMENTS_OF_LINK: u32 = 8;
/// Documents on all links of an address prefix in an epoch, to clients, and as many to others: the 256 links that it may
/// have, each made anew three times.
/// 200 MB with 1,000 nodes, 1 GiB at most: 7 Mbit/s over an epoch of 20 minutes.
pub const DOCUMENTS_OF_PREFIX: u32 = 1_024;
/// Prefixes that are counted: each of 4,096 clients may have one of its own, and half as many more. Entries of 32 bytes:
/// 200 kB for clients and as much for askers. Who comes from yet another prefix is not counted: he must not be shut out by those who have thousands.
const PREFIXES_MAX: usize = 6_144;

/// What was handed over in an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    epoch: Epoch,
    documents: u32,
}

impl Account {
    /// Counts one more in `epoch`; `false`: there were `max` already.
    pub fn take(&mut self, epoch: Epoch, max: u32) -> bool {
        if self.epoch != epoch {
            *self = Self { epoch, documents: 0 };
        }
        let left = self.documents < max;
        self.documents += u32::from(left);
        left
    }

    /// Whether it counts for `epoch`.
    pub fn is_of(&self, epoch: Epoch) -> bool {
        self.epoch == epoch
    }

    /// Whether `max` were counted in `epoch`.
    pub fn is_spent(&self, epoch: Epoch, max: u32) -> bool {
        self.epoch == epoch && self.documents >= max
    }
}

/// What all prefixes were handed in an epoch.
#[derive(Debug, Default)]
pub struct Ledger {
    epoch: Epoch,
    prefixes: BTreeMap<Prefix, Account>,
}

impl Ledger {
    /// Counts one more for a prefix; `false`: it has had its share.
    pub fn take(&mut self, epoch: Epoch, prefix: Prefix) -> bool {
        if self.epoch != epoch {
            (self.epoch, self.prefixes) = (epoch, BTreeMap::new());
        }
        if self.prefixes.len() >= PREFIXES_MAX && !self.prefixes.contains_key(&prefix) {
            return true;
        }
        self.prefixes.entry(prefix).or_default().take(epoch, DOCUMENTS_OF_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_share_is_for_one_epoch() {
        let mut account = Account::default();
        for epoch in [Epoch(0), Epoch(4), Epoch(3)] {
            assert!((0..3).all(|_| account.take(epoch, 3)));
            assert!(!account.take(epoch, 3) && account.is_spent(epoch, 3));
            assert!(!account.is_spent(epoch.plus(1), 3));
        }
    }

    #[test]
    fn a_prefix_has_its_share_and_a_crowd_of_them_shuts_nobody_out() {
        let prefix = |n: u16| {
            let [a, b] = n.to_be_bytes();
            Prefix::of(Ipv4Addr::new(10, a, b, 1).into())
        };
        let mut ledger = Ledger::default();
        assert!((0..DOCUMENTS_OF_PREFIX).all(|_| ledger.take(Epoch(1), prefix(0))));
        assert!(!ledger.take(Epoch(1), prefix(0)) && ledger.take(Epoch(1), prefix(1)));
        for n in 0..7_000 {
            ledger.take(Epoch(1), prefix(n));
        }
        assert_eq!(ledger.prefixes.len(), PREFIXES_MAX);
        assert!(ledger.take(Epoch(1), prefix(6_999)));
        assert!(!ledger.take(Epoch(1), prefix(0)));
        assert!(ledger.take(Epoch(2), prefix(0)), "a new epoch");
    }
}
