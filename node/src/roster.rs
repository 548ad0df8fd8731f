//! Whom a node asks for documents, and in which order: authorities before gateways, those that failed last at the end, and
//! not those that have given too much nonsense.

use crate::allowance::Account;
use rand::CryptoRng;
use rand::seq::SliceRandom as _;
use shoal_protocol::network::Hint;
use shoal_protocol::types::{Epoch, Identity};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Gateways asked in one turn, when no authority has the document of the epoch.
const GATEWAYS_ASKED: usize = 3;
/// Documents of no use that are taken from one server in an epoch: older ones, others', early ones, nonsense. 8 MiB at most
/// and for each the work to verify it; a node asks 25 times an epoch while it has no document of it. An honest server that
/// is behind rests until the next epoch, and the others are asked meanwhile.
pub const USELESS_MAX: u32 = 8;

/// What is remembered of servers. At most 64 authorities and 2,048 gateways.
#[derive(Debug, Default)]
pub struct Roster {
    /// Those that did not do what was asked when they were asked last.
    failing: BTreeSet<Identity>,
    /// Documents of no use that each has given.
    useless: BTreeMap<Identity, Account>,
}

impl Roster {
    /// All authorities, then some gateways, each in random order with those that failed last at the end.
    pub fn order(
        &self,
        mut authorities: Vec<Hint>,
        mut gateways: Vec<Hint>,
        epoch: Epoch,
        rng: &mut impl CryptoRng,
    ) -> VecDeque<Hint> {
        let rests =
            |server: &Hint| self.useless.get(&server.identity).is_some_and(|given| given.is_spent(epoch, USELESS_MAX));
        for servers in [&mut authorities, &mut gateways] {
            servers.retain(|server| !rests(server));
            servers.shuffle(rng);
            servers.sort_by_key(|server| self.failing.contains(&server.identity));
        }
        gateways.truncate(GATEWAYS_ASKED);
        authorities.into_iter().chain(gateways).collect()
    }

    /// It did what was asked.
    pub fn served(&mut self, server: &Identity) {
        self.failing.remove(server);
    }

    /// These did not, or were too slow.
    pub fn failed(&mut self, servers: impl IntoIterator<Item = Identity>) {
        self.failing.extend(servers);
    }

    /// It gave a document that is of no use.
    pub fn gave_useless(&mut self, server: Identity, epoch: Epoch) {
        self.useless.retain(|_, given| given.is_of(epoch));
        self.useless.entry(server).or_default().take(epoch, USELESS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn hints(numbers: std::ops::Range<u8>) -> Vec<Hint> {
        let address = "127.0.0.1:1".parse().expect("an address");
        numbers.map(|number| Hint { identity: Identity::from_bytes([number; 32]), address }).collect()
    }

    fn order(roster: &Roster, epoch: u64) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(7);
        let order = roster.order(hints(0..4), hints(10..20), Epoch(epoch), &mut rng);
        order.iter().map(|hint| hint.identity.as_bytes()[0]).collect()
    }

    #[test]
    fn who_failed_is_asked_last_and_who_gives_nonsense_rests_for_the_epoch() {
        let mut roster = Roster::default();
        let all = order(&roster, 5);
        assert!(all.len() == 7 && all[..4].iter().all(|number| *number < 4) && all[4..].iter().all(|n| *n >= 10));
        let [one, two] = [1, 2].map(|number| Identity::from_bytes([number; 32]));
        roster.failed([one]);
        assert_eq!(order(&roster, 5)[3], 1);
        roster.served(&one);
        for _ in 0..USELESS_MAX {
            assert!(order(&roster, 5).contains(&2));
            roster.gave_useless(two, Epoch(5));
        }
        assert!(!order(&roster, 5).contains(&2));
        assert!(order(&roster, 6).contains(&2), "it may have recovered");
        roster.gave_useless(one, Epoch(6));
        assert_eq!(roster.useless.len(), 1, "what was in another epoch is forgotten");
    }
}
