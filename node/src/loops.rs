//! The node's own loops: packets that it sends to itself through the network at rate λ_M, and counts back in.
//!
//! Loops go over the outgoing links in turn ([`crate::rounds`]) and turn round at a gateway or a store. One that does not
//! return says little; [`crate::alarm`] says when losses are sustained and where, which is an n−1 attack or a black hole,
//! and [`crate::tally`] what the authorities are told.
//!
//! A loop is lost when it is not back [`SLACK`] after the sum of the delays that the node itself drew for it: a fixed
//! timeout would have to be 12 s at a mean of 0.5 s (2 s, and the sum of three exponential delays that is exceeded once in a
//! million), or it would take honest loops of long delays for lost ones.
//!
//! Polling contract: call [`Loops::due`] when `now` has reached [`Loops::next`]; if it says so, build a loop over
//! [`Loops::first_hop`] and call [`Loops::sent`]. Call [`Loops::expire`] now and then, at least once a second.

use crate::alarm::{Alarm, Spot};
use crate::rounds::Rounds;
use crate::tally::Tally;
use rand::CryptoRng;
use shoal_protocol::poisson::PoissonClock;
use shoal_protocol::sphinx::Hop;
use shoal_protocol::types::Identity;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How much later than the sum of its delays a loop may come back. Four links of 150 ms one way, the longest on this planet,
/// are 0.6 s; a datagram lost on two of them and sent again costs 2 × 0.5 s; unwrapping and lateness at four hops some
/// milliseconds. Two seconds are above what a node that keeps its timing adds.
pub const SLACK: Duration = Duration::from_secs(2);
/// Loops in flight at most. At λ_M = 1,000/s (the largest rate the parameters allow) and 12 s round trips; each with its way
/// of three nodes: 12,000 × about 200 bytes = 2.4 MB.
const IN_FLIGHT_MAX: usize = 12_000;

/// What became of some loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoopCounts {
    /// Loops sent.
    pub sent: u64,
    /// Loops that came back in time.
    pub returned: u64,
    /// Loops that did not.
    pub lost: u64,
}

impl LoopCounts {
    /// One more that ended.
    pub fn settle(&mut self, returned: bool) {
        self.sent += 1;
        if returned { self.returned += 1 } else { self.lost += 1 }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.returned += other.returned;
        self.lost += other.lost;
    }
}

#[derive(Debug)]
struct InFlight {
    /// The nodes that it crosses; its own is left out.
    way: Vec<[u8; 32]>,
    deadline: Duration,
}

/// The loops of one node. All times are monotonic, from one origin.
#[derive(Debug)]
pub struct Loops {
    clock: PoissonClock,
    mean_gap: Duration,
    rounds: Rounds,
    in_flight: BTreeMap<[u8; 16], InFlight>,
    total: LoopCounts,
    alarm: Alarm,
    settled: Tally,
    /// Evidence that was given out and that no authority has accepted yet.
    offered: Tally,
}

impl Loops {
    /// Loops with a mean gap of 1/λ_M, the first one an exponential time after `now`.
    pub fn new(mean_gap: Duration, now: Duration, rng: &mut impl CryptoRng) -> Self {
        Self {
            clock: PoissonClock::new(mean_gap, now, rng),
            mean_gap,
            rounds: Rounds::default(),
            in_flight: BTreeMap::new(),
            total: LoopCounts::default(),
            alarm: Alarm::default(),
            settled: Tally::default(),
            offered: Tally::default(),
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

    /// The first hop of the next loop: one of `wanted`, in turn.
    pub fn first_hop(&mut self, wanted: &BTreeSet<Identity>, rng: &mut impl CryptoRng) -> Option<Identity> {
        self.rounds.next(wanted, rng)
    }

    /// A fresh, non-zero identifier for a loop.
    pub fn identifier(rng: &mut impl CryptoRng) -> [u8; 16] {
        let mut identifier = [0; 16];
        rng.fill_bytes(&mut identifier);
        // 2⁻¹²⁸: never seen, but zero is not allowed
        if identifier == [0; 16] { [1; 16] } else { identifier }
    }

    /// A loop over `hops`, of which the last is this node, left at `now`. Its deadline is the sum of its own delays plus
    /// [`SLACK`].
    pub fn sent(&mut self, now: Duration, identifier: [u8; 16], hops: &[Hop]) {
        let Some((_, others)) = hops.split_last() else { return };
        let delays = hops.iter().fold(Duration::ZERO, |sum, hop| sum.saturating_add(hop.delay));
        let deadline = now.saturating_add(delays).saturating_add(SLACK);
        let way = others.iter().map(|hop| hop.address).collect();
        self.in_flight.insert(identifier, InFlight { way, deadline });
        self.total.sent += 1;
    }

    /// A final packet arrived: whether it is one of our loops. A loop counts once; one that comes after its deadline
    /// still is ours, but was counted as lost when [`Loops::expire`] saw it.
    pub fn returned(&mut self, identifier: &[u8; 16], now: Duration) -> bool {
        let Some(in_flight) = self.in_flight.remove(identifier) else { return false };
        self.settle(&in_flight.way, now <= in_flight.deadline);
        true
    }

    /// Counts loops whose deadline is over as lost; returns how many.
    pub fn expire(&mut self, now: Duration) -> u64 {
        let over: Vec<[u8; 16]> =
            self.in_flight.iter().filter(|(_, in_flight)| now > in_flight.deadline).map(|(id, _)| *id).collect();
        let lost: Vec<InFlight> = over.iter().filter_map(|identifier| self.in_flight.remove(identifier)).collect();
        lost.iter().for_each(|in_flight| self.settle(&in_flight.way, false));
        lost.len() as u64
    }

    fn settle(&mut self, way: &[[u8; 32]], returned: bool) {
        if returned {
            self.total.returned += 1
        } else {
            self.total.lost += 1
        }
        self.alarm.settle(way, returned);
        // the neighbours on either side, each with the node on its other side
        if let ([first, behind, ..], [.., before, last]) = (way, way) {
            for (neighbour, other) in [(first, behind), (last, before)] {
                if returned || self.alarm.blames(way, neighbour) {
                    self.settled.count(*neighbour, *other, returned);
                }
            }
        }
    }

    /// Forgets nodes that have no place in the network any more.
    pub fn retain(&mut self, keep: impl Fn(&[u8; 32]) -> bool) {
        self.alarm.retain(&keep);
        self.settled.retain(&keep);
        self.offered.retain(&keep);
    }

    /// Where loops are lost now.
    pub fn losing(&self) -> Vec<Spot> {
        self.alarm.losing()
    }

    /// What was settled (returned or lost) since the evidence that an authority accepted last, per neighbour: evidence
    /// for the descriptor. A loop in flight is settled later, so that never more return than were sent. Evidence in a
    /// descriptor that nobody accepted is given out again with what came since: who can keep a node from publishing
    /// must not thereby erase what the node knows about losses.
    pub fn take_settled(&mut self) -> BTreeMap<[u8; 32], LoopCounts> {
        self.offered.add(std::mem::take(&mut self.settled));
        self.offered.said()
    }

    /// An authority has accepted a descriptor with what [`Loops::take_settled`] gave last.
    pub fn settled_accepted(&mut self) {
        self.offered = Tally::default();
    }

    /// All loops since the start.
    pub fn total(&self) -> LoopCounts {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::X25519Secret;

    const ME: u8 = 1;

    fn hops(way: [u8; 3], delay: Duration) -> Vec<Hop> {
        let key = X25519Secret::generate(&mut StdRng::seed_from_u64(1)).public();
        let hop = |node: u8| Hop { address: [node; 32], key, delay };
        way.into_iter().chain([ME]).map(hop).collect()
    }

    fn counts(sent: u64, returned: u64) -> LoopCounts {
        LoopCounts { sent, returned, lost: sent - returned }
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
        loops.sent(Duration::ZERO, first, &hops([7, 2, 3], delay));
        loops.sent(Duration::ZERO, second, &hops([8, 2, 4], delay));
        assert!(!loops.returned(&[9; 16], delay), "not ours");
        assert!(loops.returned(&first, delay * 4));
        assert!(!loops.returned(&first, delay * 4), "a loop returns once");
        let deadline = delay * 4 + SLACK;
        assert_eq!(loops.expire(deadline), 0);
        assert_eq!(loops.expire(deadline + Duration::from_nanos(1)), 1);
        assert!(!loops.returned(&second, deadline * 2));
        assert_eq!(loops.total(), counts(2, 1));
        let all = [([3; 32], counts(1, 1)), ([4; 32], counts(1, 0)), ([7; 32], counts(1, 1)), ([8; 32], counts(1, 0))];
        assert_eq!(loops.take_settled(), all.into(), "of the neighbours on both sides, not of whom lies between them");
        // nobody accepted it: once more, with what came since
        let third = Loops::identifier(&mut rng);
        loops.sent(deadline, third, &hops([7, 2, 3], delay));
        assert!(loops.returned(&third, deadline));
        assert_eq!(loops.take_settled().get(&[7; 32]), Some(&counts(2, 2)));
        loops.retain(|node| node == &[7; 32]);
        assert_eq!(loops.take_settled(), [([7; 32], counts(2, 2))].into());
        loops.settled_accepted();
        assert!(loops.take_settled().is_empty());
        assert_eq!(loops.total(), counts(3, 2), "what was counted stays counted");
    }

    #[test]
    fn a_loss_that_has_its_place_is_no_evidence_against_others() {
        let mut rng = StdRng::seed_from_u64(4);
        let mut loops = Loops::new(Duration::from_secs(1), Duration::ZERO, &mut rng);
        for n in 0..400u64 {
            let bit = |at: u64| u8::from(n >> at & 1 == 1);
            let way = [10 + bit(0), 20 + bit(1), 30 + bit(2)];
            let (now, identifier) = (Duration::from_secs(n), Loops::identifier(&mut rng));
            loops.sent(now, identifier, &hops(way, Duration::ZERO));
            // the node in the middle drops everything
            if way[1] == 20 {
                loops.returned(&identifier, now);
            }
            loops.expire(now);
        }
        assert_eq!(loops.losing(), [Spot::Node([21; 32])]);
        for (neighbour, counts) in loops.take_settled() {
            assert!(counts.sent >= 90 && counts.lost <= 4, "{}: {counts:?}", neighbour[0]);
        }
    }
}
