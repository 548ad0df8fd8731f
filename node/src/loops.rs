//! The node's own loops: packets that it sends to itself through the network at rate λ_M, and counts back in.
//!
//! Loops are spread over the outgoing links by the uniform choice of the first hop (`route::loop_route`) and turn round
//! at a gateway or a store. A loop that does not return is a loss of its first link: one loss says nothing, sustained
//! loss is an n−1 attack or a black hole.
//!
//! Polling contract: call [`Loops::due`] when `now` has reached [`Loops::next`]; if it says so, build a loop and call
//! [`Loops::sent`]. Call [`Loops::expire`] now and then, at least once a second.

use rand::CryptoRng;
use shoal_protocol::poisson::PoissonClock;
use shoal_protocol::sphinx::Hop;
use std::collections::BTreeMap;
use std::time::Duration;

/// How much later than the sum of its delays a loop may come back. Links, queues and unwrapping at five hops take some
/// milliseconds each; two seconds are far above what a node that keeps its timing adds.
pub const SLACK: Duration = Duration::from_secs(2);
/// Loops in flight at most. At λ_M = 1,000/s (the largest rate the parameters allow) and 12 s round trips.
const IN_FLIGHT_MAX: usize = 12_000;

/// What became of the loops over one outgoing link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkLoops {
    /// Loops sent.
    pub sent: u64,
    /// Loops that came back in time.
    pub returned: u64,
    /// Loops that did not.
    pub lost: u64,
}

#[derive(Debug)]
struct InFlight {
    first: [u8; 32],
    deadline: Duration,
}

/// The loops of one node. All times are monotonic, from one origin.
#[derive(Debug)]
pub struct Loops {
    clock: PoissonClock,
    mean_gap: Duration,
    in_flight: BTreeMap<[u8; 16], InFlight>,
    links: BTreeMap<[u8; 32], LinkLoops>,
    settled: BTreeMap<[u8; 32], LinkLoops>,
    /// Evidence that was given out and that no authority has accepted yet.
    offered: BTreeMap<[u8; 32], LinkLoops>,
}

impl Loops {
    /// Loops with a mean gap of 1/λ_M, the first one an exponential time after `now`.
    pub fn new(mean_gap: Duration, now: Duration, rng: &mut impl CryptoRng) -> Self {
        Self {
            clock: PoissonClock::new(mean_gap, now, rng),
            mean_gap,
            in_flight: BTreeMap::new(),
            links: BTreeMap::new(),
            settled: BTreeMap::new(),
            offered: BTreeMap::new(),
        }
    }

    /// Takes a new rate from the consensus; does nothing if it is the same.
    pub fn set_mean_gap(&mut self, mean_gap: Duration, now: Duration, rng: &mut impl CryptoRng) {
        if mean_gap != self.mean_gap {
            self.mean_gap = mean_gap;
            self.clock = PoissonClock::new(mean_gap, now, rng);
        }
    }

    /// When the next loop leaves.
    pub fn next(&self) -> Duration {
        self.clock.next()
    }

    /// Whether a loop leaves now.
    pub fn due(&mut self, now: Duration, rng: &mut impl CryptoRng) -> bool {
        self.clock.due(now, rng) && self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// A fresh, non-zero identifier for a loop.
    pub fn identifier(rng: &mut impl CryptoRng) -> [u8; 16] {
        let mut identifier = [0; 16];
        rng.fill_bytes(&mut identifier);
        // 2⁻¹²⁸: never seen, but zero is not allowed
        if identifier == [0; 16] { [1; 16] } else { identifier }
    }

    /// A loop over `hops` left at `now`. Its deadline is the sum of its own delays plus [`SLACK`].
    pub fn sent(&mut self, now: Duration, identifier: [u8; 16], hops: &[Hop]) {
        let Some(first) = hops.first().map(|hop| hop.address) else { return };
        let delays = hops.iter().fold(Duration::ZERO, |sum, hop| sum.saturating_add(hop.delay));
        let deadline = now.saturating_add(delays).saturating_add(SLACK);
        self.in_flight.insert(identifier, InFlight { first, deadline });
        self.links.entry(first).or_default().sent += 1;
    }

    /// A final packet arrived: whether it is one of our loops. A loop counts once; one that comes after its deadline
    /// still is ours, but was counted as lost when [`Loops::expire`] saw it.
    pub fn returned(&mut self, identifier: &[u8; 16], now: Duration) -> bool {
        let Some(in_flight) = self.in_flight.remove(identifier) else { return false };
        self.settle(in_flight.first, now <= in_flight.deadline);
        true
    }

    /// Counts loops whose deadline is over as lost; returns how many.
    pub fn expire(&mut self, now: Duration) -> u64 {
        let mut lost = Vec::new();
        self.in_flight.retain(|_, in_flight| {
            let alive = now <= in_flight.deadline;
            if !alive {
                lost.push(in_flight.first);
            }
            alive
        });
        let count = lost.len() as u64;
        lost.into_iter().for_each(|first| self.settle(first, false));
        count
    }

    fn settle(&mut self, first: [u8; 32], returned: bool) {
        for link in [self.links.entry(first).or_default(), self.settled.entry(first).or_default()] {
            if returned { link.returned += 1 } else { link.lost += 1 }
        }
        if let Some(link) = self.settled.get_mut(&first) {
            link.sent += 1;
        }
    }

    /// Forgets links that the consensus no longer asks for.
    pub fn retain_links(&mut self, keep: impl Fn(&[u8; 32]) -> bool) {
        self.links.retain(|first, _| keep(first));
        self.settled.retain(|first, _| keep(first));
        self.offered.retain(|first, _| keep(first));
    }

    /// Counts per first hop.
    pub fn links(&self) -> &BTreeMap<[u8; 32], LinkLoops> {
        &self.links
    }

    /// What was settled (returned or lost) since the evidence that an authority accepted last, per first hop: evidence
    /// for the descriptor. A loop in flight is settled later, so that never more return than were sent. Evidence in a
    /// descriptor that nobody accepted is given out again with what came since: who can keep a node from publishing
    /// must not thereby erase what the node knows about losses.
    pub fn take_settled(&mut self) -> BTreeMap<[u8; 32], LinkLoops> {
        for (first, since) in std::mem::take(&mut self.settled) {
            let sum = self.offered.entry(first).or_default();
            sum.sent += since.sent;
            sum.returned += since.returned;
            sum.lost += since.lost;
        }
        self.offered.clone()
    }

    /// An authority has accepted a descriptor with what [`Loops::take_settled`] gave last.
    pub fn settled_accepted(&mut self) {
        self.offered.clear();
    }

    /// Sum over all links.
    pub fn total(&self) -> LinkLoops {
        self.links.values().fold(LinkLoops::default(), |sum, link| LinkLoops {
            sent: sum.sent + link.sent,
            returned: sum.returned + link.returned,
            lost: sum.lost + link.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::X25519Secret;

    fn hops(first: u8, delay: Duration) -> Vec<Hop> {
        let key = X25519Secret::generate(&mut StdRng::seed_from_u64(1)).public();
        [first, 2, 3].map(|n| Hop { address: [n; 32], key, delay }).to_vec()
    }

    #[test]
    fn loops_keep_their_rate() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut loops = Loops::new(Duration::from_millis(100), Duration::ZERO, &mut rng);
        let sent = (0..100_000u64).filter(|ms| loops.due(Duration::from_millis(*ms), &mut rng)).count();
        assert!((900..1_100).contains(&sent), "{sent}");
    }

    #[test]
    fn returns_count_once_and_losses_after_their_deadline() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut loops = Loops::new(Duration::from_secs(1), Duration::ZERO, &mut rng);
        let delay = Duration::from_millis(50);
        let (first, second) = (Loops::identifier(&mut rng), Loops::identifier(&mut rng));
        loops.sent(Duration::ZERO, first, &hops(7, delay));
        loops.sent(Duration::ZERO, second, &hops(8, delay));
        assert!(!loops.returned(&[9; 16], delay), "not ours");
        assert!(loops.returned(&first, delay * 3));
        assert!(!loops.returned(&first, delay * 3), "a loop returns once");
        let deadline = delay * 3 + SLACK;
        assert_eq!(loops.expire(deadline), 0);
        assert_eq!(loops.expire(deadline + Duration::from_nanos(1)), 1);
        assert!(!loops.returned(&second, deadline * 2));
        assert_eq!(loops.total(), LinkLoops { sent: 2, returned: 1, lost: 1 });
        assert_eq!(loops.links().get(&[8; 32]), Some(&LinkLoops { sent: 1, returned: 0, lost: 1 }));
        let settled = loops.take_settled();
        assert_eq!(settled.get(&[7; 32]), Some(&LinkLoops { sent: 1, returned: 1, lost: 0 }));
        assert_eq!(settled.get(&[8; 32]), Some(&LinkLoops { sent: 1, returned: 0, lost: 1 }));
        // nobody accepted it: once more, with what came since
        let third = Loops::identifier(&mut rng);
        loops.sent(deadline, third, &hops(7, delay));
        assert!(loops.returned(&third, deadline));
        assert_eq!(loops.take_settled().get(&[7; 32]), Some(&LinkLoops { sent: 2, returned: 2, lost: 0 }));
        loops.settled_accepted();
        assert!(loops.take_settled().is_empty());
        loops.retain_links(|first| first == &[7; 32]);
        assert_eq!(loops.links().len(), 1);
    }
}
