//! Which gateway a client uses: the same one for weeks, so that few gateways ever learn its address (design §3.2).
//!
//! A short, ordered list of gateways is drawn from the consensus. The first one that can be reached is used; a gateway
//! that fails is skipped for a while and comes back to its place.

use std::net::SocketAddr;
use std::time::Duration;

use rand::{CryptoRng, RngExt as _};
use serde::{Deserialize, Serialize};
use shoal_protocol::consensus::{Consensus, NodeEntry};
use shoal_protocol::{Identity, UnixMillis};

/// How many guards are kept: one to use, two for the days when it is out. More would show the client to more gateways.
const GUARDS_MAX: usize = 3;
/// Shortest and longest life of a guard, in days; drawn uniformly, so that nobody can tell when a client will move.
const LIFE_DAYS: std::ops::RangeInclusive<u32> = 28..=84;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// One kept gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guard {
    identity: Identity,
    /// Where the last consensus said it is reached: a client that was away for long goes back to its guard first.
    addresses: Vec<SocketAddr>,
    /// When it is given up, in Unix milliseconds.
    until: u64,
}

/// The kept gateways, in order of preference. Kept in the profile; see [`Guards::to_json`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guards {
    guards: Vec<Guard>,
    /// Gateways that failed, and until when they are skipped (Unix milliseconds). At most [`GUARDS_MAX`], because only
    /// guards are tried. Not kept: a restart tries the first again.
    #[serde(skip)]
    skipped: Vec<(Identity, UnixMillis)>,
}

impl Guards {
    /// Reads what [`Guards::to_json`] wrote; anything else is no guards yet.
    #[must_use]
    pub fn from_json(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// What the profile keeps.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // a list of plain strings and numbers cannot fail to encode
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The gateway to use now, and whether the kept list changed (then it must be stored before the gateway is used).
    /// `None` when the consensus lists no gateway.
    pub fn choose(
        &mut self,
        consensus: &Consensus,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> (Option<Identity>, bool) {
        let before = self.guards.len();
        // a guard that is not listed today keeps its place for its whole life: a day's absence must not move the client
        self.guards.retain(|guard| guard.until > now.0);
        let mut changed = self.guards.len() != before;
        for guard in &mut self.guards {
            if let Some(entry) = consensus.node(&guard.identity).filter(|entry| entry.addresses != guard.addresses) {
                guard.addresses.clone_from(&entry.addresses);
                changed = true;
            }
        }
        self.skipped.retain(|(_, until)| *until > now);
        let listed = |identity: &Identity| consensus.gateways().any(|gateway| gateway.identity == *identity);
        loop {
            let usable = |guard: &&Guard| {
                listed(&guard.identity) && !self.skipped.iter().any(|(identity, _)| *identity == guard.identity)
            };
            if let Some(guard) = self.guards.iter().find(usable) {
                return (Some(guard.identity), changed);
            }
            let fresh: Vec<&NodeEntry> = consensus
                .gateways()
                .filter(|gateway| !self.guards.iter().any(|guard| guard.identity == gateway.identity))
                .collect();
            if fresh.is_empty() {
                // every gateway there is has failed lately: the first of them again, rather than none
                let first = self.guards.iter().find(|guard| listed(&guard.identity)).map(|guard| guard.identity);
                return (first, changed);
            }
            if self.guards.len() >= GUARDS_MAX {
                // make room only for guards that are not even listed
                match self.guards.iter().position(|guard| !listed(&guard.identity)) {
                    Some(gone) => drop(self.guards.remove(gone)),
                    None => {
                        let first = self.guards.first().map(|guard| guard.identity);
                        return (first, changed);
                    }
                }
            }
            if let Some(chosen) = fresh.get(rng.random_range(0..fresh.len())) {
                let life = DAY * rng.random_range(LIFE_DAYS);
                let NodeEntry { identity, addresses, .. } = chosen;
                self.guards.push(Guard { identity: *identity, addresses: addresses.clone(), until: now.plus(life).0 });
                changed = true;
            }
        }
    }

    /// Where to go without a consensus in force, at the `attempt`-th time since: to the kept gateways first, in their
    /// order, and only when each has failed once to the hints of the network file, beginning with hint `offset`.
    #[must_use]
    pub fn without_consensus(
        &self,
        hints: &[(Identity, SocketAddr)],
        attempt: usize,
        offset: usize,
    ) -> Option<(Identity, Vec<SocketAddr>)> {
        let strangers: Vec<_> =
            hints.iter().filter(|(identity, _)| self.guards.iter().all(|guard| guard.identity != *identity)).collect();
        let at = attempt.checked_rem(self.guards.len() + strangers.len())?;
        if let Some(guard) = self.guards.get(at) {
            return Some((guard.identity, guard.addresses.clone()));
        }
        let at = (at - self.guards.len()).wrapping_add(offset).checked_rem(strangers.len())?;
        strangers.get(at).map(|(identity, address)| (*identity, vec![*address]))
    }

    /// How many gateways [`Guards::without_consensus`] goes round.
    #[must_use]
    pub fn known(&self, hints: &[(Identity, SocketAddr)]) -> usize {
        let strange = |identity: &Identity| self.guards.iter().all(|guard| guard.identity != *identity);
        self.guards.len() + hints.iter().filter(|(identity, _)| strange(identity)).count()
    }

    /// The gateway could not be reached, or threw the client out: others are tried for `pause`.
    pub fn failed(&mut self, identity: &Identity, now: UnixMillis, pause: Duration) {
        if self.guards.iter().any(|guard| guard.identity == *identity) {
            self.skipped.retain(|(skipped, _)| skipped != identity);
            self.skipped.push((*identity, now.plus(pause)));
        }
    }

    /// The gateway was reached: it is not skipped any more.
    pub fn reached(&mut self, identity: &Identity) {
        self.skipped.retain(|(skipped, _)| skipped != identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::consensus;
    use rand::{SeedableRng as _, rngs::StdRng};

    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

    #[test]
    fn the_same_gateway_for_weeks_and_then_another_draw() {
        let (consensus, _) = consensus(5, 2, 3);
        let mut rng = StdRng::seed_from_u64(1);
        let mut guards = Guards::default();
        let (first, changed) = guards.choose(&consensus, NOW, &mut rng);
        assert!(first.is_some() && changed);
        for day in 0..28 {
            let mut resumed = Guards::from_json(&guards.to_json());
            assert_eq!(resumed, guards);
            assert_eq!(resumed.choose(&consensus, NOW.plus(DAY * day), &mut rng), (first, false));
        }
        let (_, changed) = guards.choose(&consensus, NOW.plus(DAY * 85), &mut rng);
        assert!(changed);
    }

    #[test]
    fn a_failed_guard_is_replaced_for_a_while_and_comes_back() {
        let (consensus, _) = consensus(5, 2, 3);
        let mut rng = StdRng::seed_from_u64(2);
        let mut guards = Guards::default();
        let first = guards.choose(&consensus, NOW, &mut rng).0.unwrap();
        let pause = Duration::from_secs(60);
        guards.failed(&first, NOW, pause);
        let second = guards.choose(&consensus, NOW, &mut rng).0.unwrap();
        assert_ne!(second, first);
        assert_eq!(guards.choose(&consensus, NOW.plus(pause), &mut rng).0, Some(first));
    }

    #[test]
    fn no_more_than_three_gateways_ever_see_the_client() {
        let (consensus, _) = consensus(10, 2, 3);
        let mut rng = StdRng::seed_from_u64(3);
        let mut guards = Guards::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let gateway = guards.choose(&consensus, NOW, &mut rng).0.unwrap();
            seen.insert(gateway);
            guards.failed(&gateway, NOW, Duration::from_secs(3_600));
        }
        assert_eq!(seen.len(), GUARDS_MAX);
    }

    #[test]
    fn a_network_of_one_gateway_is_tried_again_and_again() {
        let (consensus, _) = consensus(1, 2, 3);
        let mut rng = StdRng::seed_from_u64(4);
        let mut guards = Guards::default();
        let only = guards.choose(&consensus, NOW, &mut rng).0.unwrap();
        guards.failed(&only, NOW, Duration::from_secs(60));
        assert_eq!(guards.choose(&consensus, NOW, &mut rng).0, Some(only));
    }

    #[test]
    fn after_an_absence_the_guards_come_before_any_hint() {
        let (consensus, _) = consensus(5, 2, 3);
        let mut rng = StdRng::seed_from_u64(5);
        let mut guards = Guards::default();
        let mut expected = Vec::new();
        for _ in 0..GUARDS_MAX {
            let guard = guards.choose(&consensus, NOW, &mut rng).0.unwrap();
            guards.failed(&guard, NOW, Duration::from_secs(60));
            expected.push(guard);
        }
        let hints: Vec<_> = consensus.gateways().map(|gateway| (gateway.identity, gateway.addresses[0])).collect();
        let mut first_hints = std::collections::BTreeSet::new();
        for offset in 0..20 {
            let tried: Vec<_> =
                (0..6).map(|attempt| guards.without_consensus(&hints, attempt, offset).unwrap().0).collect();
            assert_eq!(tried[..GUARDS_MAX], expected, "offset {offset}");
            assert!(tried[GUARDS_MAX..5].iter().all(|identity| !expected.contains(identity)));
            assert_eq!(tried[5], expected[0]);
            first_hints.insert(tried[GUARDS_MAX]);
        }
        assert_eq!(first_hints.len(), 2, "clients spread over the hints");
        assert!(Guards::default().without_consensus(&[], 0, 7).is_none());
    }
}
