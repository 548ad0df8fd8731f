//! Whose turn it is: the first hop of a node's next loop.
//!
//! Loops go over all outgoing links in turn, each round in a new random order. So each link gets its share of loops with
//! next to no scatter, and a dropped link is found in half the time that it would take if each loop drew its first hop for
//! itself ([`crate::alarm`] has the figures). When loops leave is as random as before, and all behind the first hop; who
//! sees the links cannot tell loops from other packets, so the order tells nobody anything.

use rand::CryptoRng;
use rand::seq::SliceRandom as _;
use shoal_protocol::types::Identity;
use std::collections::BTreeSet;

/// The order of first hops.
#[derive(Debug, Default)]
pub struct Rounds {
    all: BTreeSet<Identity>,
    left: Vec<Identity>,
}

impl Rounds {
    /// The next first hop among `wanted`; `None` when there is none. Other hops than before begin a new round.
    pub fn next(&mut self, wanted: &BTreeSet<Identity>, rng: &mut impl CryptoRng) -> Option<Identity> {
        if self.all != *wanted {
            self.all.clone_from(wanted);
            self.left.clear();
        }
        if self.left.is_empty() {
            self.left = self.all.iter().copied().collect();
            self.left.shuffle(rng);
        }
        self.left.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn hops(numbers: &[u8]) -> BTreeSet<Identity> {
        numbers.iter().map(|number| Identity::from_bytes([*number; 32])).collect()
    }

    #[test]
    fn every_link_has_its_turn_in_every_round_in_a_new_order() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut rounds, wanted) = (Rounds::default(), hops(&[1, 2, 3, 4, 5]));
        let mut orders = BTreeSet::new();
        for _ in 0..20 {
            let order: Vec<Identity> = (0..5).filter_map(|_| rounds.next(&wanted, &mut rng)).collect();
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), wanted);
            orders.insert(order);
        }
        assert!(orders.len() > 10, "{}", orders.len());
        rounds.next(&wanted, &mut rng);
        let fewer = hops(&[1, 2]);
        let both: BTreeSet<_> = (0..2).filter_map(|_| rounds.next(&fewer, &mut rng)).collect();
        assert_eq!(both, fewer);
        assert_eq!(rounds.next(&BTreeSet::new(), &mut rng), None);
    }
}
