//! What a node says of its neighbours' losses, for the descriptor: evidence from which authorities demote.
//!
//! Its own loops cross its neighbours on both sides: the first hop, and the last one before they are back. Of each neighbour
//! it counts loops by the way behind it, that is by the node on the neighbour's other side, and says what holds for the
//! better half of these ways. A neighbour that loses packets loses them on all ways; one whose *other* neighbours lose them,
//! by chance or to have it blamed, looks well as long as these are at most half. (Measured the other way round a handful of
//! hostile nodes, each giving up one link, could have any node between them thrown out.)

use crate::loops::LoopCounts;
use shoal_protocol::descriptor::{LoopEvidence, MAX_LOOPS};
use shoal_protocol::types::Identity;
use std::collections::BTreeMap;

/// Pairs of neighbour and node behind it at most: 16,384 × about 130 bytes = 2 MB. With 64 neighbours on each side and 128
/// behind each there are as many; what is beyond is not counted.
const WAYS_MAX: usize = 16_384;

/// Loops by neighbour, and by the node on its other side.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    ways: BTreeMap<([u8; 32], [u8; 32]), LoopCounts>,
}

impl Tally {
    /// A loop crossed `neighbour` and, on its other side, `behind`.
    pub fn count(&mut self, neighbour: [u8; 32], behind: [u8; 32], returned: bool) {
        if self.ways.len() < WAYS_MAX || self.ways.contains_key(&(neighbour, behind)) {
            self.ways.entry((neighbour, behind)).or_default().settle(returned);
        }
    }

    /// Adds what another tally counted.
    pub fn add(&mut self, other: Self) {
        for (way, counts) in other.ways {
            if self.ways.len() < WAYS_MAX || self.ways.contains_key(&way) {
                self.ways.entry(way).or_default().add(&counts);
            }
        }
    }

    /// Forgets neighbours that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&[u8; 32]) -> bool) {
        self.ways.retain(|(neighbour, _), _| keep(neighbour));
    }

    /// What is said of each neighbour: the counts over the better half of the ways behind it, rounded up.
    pub fn said(&self) -> BTreeMap<[u8; 32], LoopCounts> {
        let mut ways: BTreeMap<[u8; 32], Vec<LoopCounts>> = BTreeMap::new();
        for ((neighbour, _), counts) in &self.ways {
            ways.entry(*neighbour).or_default().push(*counts);
        }
        ways.into_iter().map(|(neighbour, ways)| (neighbour, better_half(ways))).collect()
    }
}

fn better_half(mut ways: Vec<LoopCounts>) -> LoopCounts {
    // by lost/sent, without a division; among equals the one that says more
    ways.sort_by(|a, b| {
        let (left, right) = (u128::from(a.lost) * u128::from(b.sent), u128::from(b.lost) * u128::from(a.sent));
        left.cmp(&right).then(b.sent.cmp(&a.sent))
    });
    ways.truncate(ways.len().div_ceil(2));
    ways.iter().fold(LoopCounts::default(), |mut sum, counts| {
        sum.add(counts);
        sum
    })
}

/// The evidence of a descriptor: when there is no room for all neighbours, those at which most is lost; in the order of peers.
pub fn evidence(said: BTreeMap<[u8; 32], LoopCounts>) -> Vec<LoopEvidence> {
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let mut evidence: Vec<LoopEvidence> = said
        .into_iter()
        .map(|(peer, loops)| LoopEvidence {
            peer: Identity::from_bytes(peer),
            sent: count(loops.sent),
            returned: count(loops.returned),
        })
        .collect();
    evidence.sort_by_key(|loops| std::cmp::Reverse(loops.sent.saturating_sub(loops.returned)));
    evidence.truncate(MAX_LOOPS);
    evidence.sort_by_key(|loops| loops.peer);
    evidence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ways: &[(u8, u64, u64)]) -> LoopCounts {
        let mut tally = Tally::default();
        for (behind, sent, lost) in ways {
            (0..*sent).for_each(|n| tally.count([1; 32], [*behind; 32], n >= *lost));
        }
        tally.said()[&[1; 32]]
    }

    #[test]
    fn the_better_half_of_the_ways_speaks() {
        let counts = |sent, lost| LoopCounts { sent, returned: sent - lost, lost };
        assert_eq!(said(&[(2, 10, 10), (3, 10, 10), (4, 10, 9)]), counts(20, 19), "it loses on all ways");
        assert_eq!(said(&[(2, 10, 10), (3, 10, 0)]), counts(10, 0), "one of two behind it loses");
        assert_eq!(said(&[(2, 10, 10), (3, 20, 20), (4, 10, 0), (5, 10, 1)]), counts(20, 1));
        assert_eq!(said(&[(2, 10, 10), (3, 10, 10), (4, 10, 0)]), counts(20, 10), "more than half behind it lose");
        assert_eq!(said(&[(2, 3, 3)]), counts(3, 3));
    }

    #[test]
    fn a_descriptor_has_room_for_those_at_which_most_is_lost() {
        let counts = |n: u8| LoopCounts { sent: 100, returned: 100 - u64::from(n), lost: u64::from(n) };
        let evidence = evidence((1..=60).map(|n| ([61 - n; 32], counts(n))).collect());
        assert_eq!(evidence.len(), MAX_LOOPS);
        assert!(evidence.windows(2).all(|pair| pair[0].peer < pair[1].peer));
        assert!(evidence.iter().all(|loops| loops.returned <= 79), "at least the 21st");
    }

    #[test]
    fn tallies_add_up_and_forget() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.count([1; 32], [2; 32], true);
        other.count([1; 32], [2; 32], false);
        other.count([3; 32], [2; 32], true);
        one.add(other);
        assert_eq!(one.said()[&[1; 32]], LoopCounts { sent: 2, returned: 1, lost: 1 });
        one.retain(|neighbour| *neighbour == [3; 32]);
        assert_eq!(one.said().len(), 1);
        for n in 0..20_000u32 {
            let mut behind = [0; 32];
            behind[..4].copy_from_slice(&n.to_be_bytes());
            one.count([4; 32], behind, true);
        }
        assert_eq!(one.ways.len(), WAYS_MAX);
    }
}
