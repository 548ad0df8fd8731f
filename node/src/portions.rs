//! Who may fill the memory of one key, and how far. Every valid packet takes a place in it until the key is erased, and a
//! node that the network lists makes valid packets as fast as it can send: without a bound for each, one of them fills it,
//! and then every packet of everybody is refused until the epoch is over.
//!
//! While half of the room is free, nobody is asked. From then on the other half is divided by the number of neighbours
//! that may send here, and each has its portion and no more. So one that floods takes the first half and its portion; what
//! each of the others has, nobody can take. An honest neighbour notices nothing as long as all of them together bring less
//! than half of the room in the life of a key, which is what the room is sized for; without a flood, n neighbours that
//! bring the same fill it all, and one twice as busy as the average is refused at three quarters.
//!
//! At a gateway its clients have a room of their own, half of it all, and what comes from nodes the other half: each packet
//! of a client is answered by one. Clients have no portions, because each link is another one; how much all of them together
//! bring is bounded by their tokens ([`crate::gateway`]), and [`crate::needs`] has the sum.
//!
//! Pure. What was seen before a restart is known by number only, not by whom: it counts as brought by nobody, and what is
//! left is divided.

use shoal_protocol::types::{Identity, StoreIndex};
use std::collections::BTreeMap;

/// Who fills a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The clients of this gateway, all of them.
    Clients,
    /// A node, over whichever link: one made anew begins no new portion.
    Node(Identity),
    /// A courier that asks this replica.
    Courier(StoreIndex),
}

/// Among whom a memory is divided. Follows the documents: when a draw changes it within the life of a key, portions are
/// those of the new number, and what was taken stays taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties {
    /// Nodes that may send here.
    pub nodes: usize,
    /// Whether clients do, too.
    pub clients: bool,
}

/// How a place was taken; given back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// While nobody was asked.
    Open,
    /// Of the party's portion.
    Portion,
}

/// What each party has taken of the memory of one key.
#[derive(Debug)]
pub struct Portions {
    capacity: usize,
    /// Seen before a restart.
    before: usize,
    clients: usize,
    nodes: usize,
    /// Taken since portions count. At most one entry of some 60 bytes for each node of the documents in a key's life.
    portions: BTreeMap<Party, usize>,
}

/// What is decided by.
struct Room {
    /// Taken of it.
    taken: usize,
    /// Below this nobody is asked.
    open: usize,
    /// Each party's part of what is above.
    portion: usize,
}

impl Portions {
    /// For a memory that takes `capacity` and has seen `before` already.
    pub fn new(capacity: usize, before: usize) -> Self {
        Self { capacity, before, clients: 0, nodes: 0, portions: BTreeMap::new() }
    }

    fn room(&self, party: Party, among: Parties) -> Room {
        // half of what was there before a restart came from clients, if any came: each packet of theirs is answered
        let halves = if among.clients { 2 } else { 1 };
        let (room, before) = (self.capacity / halves, self.before / halves);
        match party {
            Party::Clients => Room { taken: before.saturating_add(self.clients), open: room, portion: 0 },
            Party::Node(_) | Party::Courier(_) => {
                let open = (room / 2).max(before);
                // one at least: whether there is room at all is the set's to say
                let portion = (room.saturating_sub(open) / among.nodes.max(1)).max(1);
                Room { taken: before.saturating_add(self.nodes), open, portion }
            }
        }
    }

    /// How `party` would take one more place, if it may.
    pub fn may(&self, party: Party, among: Parties) -> Option<Taken> {
        let Room { taken, open, portion } = self.room(party, among);
        if taken < open {
            return Some(Taken::Open);
        }
        (self.portions.get(&party).copied().unwrap_or(0) < portion).then_some(Taken::Portion)
    }

    /// Takes a place for `party`, if it may.
    pub fn take(&mut self, party: Party, among: Parties) -> Option<Taken> {
        let taken = self.may(party, among)?;
        *self.count(party) += 1;
        if taken == Taken::Portion {
            *self.portions.entry(party).or_default() += 1;
        }
        Some(taken)
    }

    /// Gives back what turned out to take no place.
    pub fn give_back(&mut self, party: Party, taken: Taken) {
        let count = self.count(party);
        *count = count.saturating_sub(1);
        if taken == Taken::Portion
            && let Some(portion) = self.portions.get_mut(&party)
        {
            *portion = portion.saturating_sub(1);
        }
    }

    fn count(&mut self, party: Party) -> &mut usize {
        match party {
            Party::Clients => &mut self.clients,
            Party::Node(_) | Party::Courier(_) => &mut self.nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> Party {
        Party::Node(Identity::from_bytes([n; 32]))
    }

    /// Takes until it is refused, `most` at most; says how many it got.
    fn flood(portions: &mut Portions, party: Party, among: Parties, most: usize) -> usize {
        (0..most).take_while(|_| portions.take(party, among).is_some()).count()
    }

    const TEN: Parties = Parties { nodes: 10, clients: false };

    #[test]
    fn who_floods_leaves_each_other_its_portion() {
        let mut portions = Portions::new(10_000, 0);
        assert_eq!(flood(&mut portions, node(0), TEN, 100_000), 5_500, "the open half, and a tenth of the other");
        // nor do eight that flood together take the tenth's
        for n in 1..9 {
            assert_eq!(flood(&mut portions, node(n), TEN, 100_000), 500);
        }
        assert_eq!(flood(&mut portions, node(9), TEN, 100_000), 500);
        assert_eq!(portions.may(node(9), TEN), None);
    }

    #[test]
    fn neighbours_that_bring_the_same_fill_it_all() {
        let mut portions = Portions::new(10_000, 0);
        for n in 0..10_000u32 {
            assert!(portions.take(node((n % 10) as u8), TEN).is_some(), "{n}");
        }
        // alone, a neighbour has everything
        let one = Parties { nodes: 1, clients: false };
        assert_eq!(flood(&mut Portions::new(1_000, 0), node(1), one, 5_000), 1_000);
    }

    #[test]
    fn a_neighbour_twice_as_busy_as_others_is_refused_at_three_quarters() {
        let mut portions = Portions::new(11_000, 0);
        let mut taken = 0;
        // of eleven packets two are the busy one's, one each of nine others
        let refused = (0..20_000u32).find(|n| {
            let party = (n % 11).min(9) as u8;
            taken += 1;
            portions.take(node(9 - party), TEN).is_none()
        });
        assert!(refused.is_some() && (8_000..8_800).contains(&taken), "{taken}");
    }

    #[test]
    fn nodes_and_clients_leave_each_other_half() {
        let among = Parties { nodes: 4, clients: true };
        let mut portions = Portions::new(8_000, 0);
        assert_eq!(flood(&mut portions, Party::Clients, among, 100_000), 4_000);
        assert_eq!(flood(&mut portions, node(1), among, 100_000), 2_500);
        let mut portions = Portions::new(8_000, 0);
        assert_eq!((1..5).map(|n| flood(&mut portions, node(n), among, 100_000)).sum::<usize>(), 4_000);
        assert_eq!(flood(&mut portions, Party::Clients, among, 100_000), 4_000);
    }

    #[test]
    fn after_a_restart_what_is_left_is_divided() {
        let mut portions = Portions::new(10_000, 6_000);
        for n in 0..10 {
            assert_eq!(flood(&mut portions, node(n), TEN, 100_000), 400);
        }
    }

    #[test]
    fn what_takes_no_place_costs_nothing() {
        let mut portions = Portions::new(100, 0);
        for _ in 0..1_000 {
            let taken = portions.take(node(1), TEN).expect("room");
            portions.give_back(node(1), taken);
        }
        assert_eq!(flood(&mut portions, node(1), TEN, 1_000), 55);
        let among = Parties { nodes: 0, clients: false };
        assert_eq!(portions.may(node(2), among), Some(Taken::Portion), "a number that is not known divides by nobody");
    }
}
