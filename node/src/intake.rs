//! Where packets of all links wait for a worker, so that each link gets its turn.
//!
//! A worker takes from the links in turn, one packet each, and from nodes and clients alternately when both have some: a
//! link that sends more than its share waits behind itself, not before the others, and clients by their number cannot
//! hold up the replies that come from the mixes. Nor can they by their number take the room: nodes and clients have each a
//! room of their own and borrow nothing, because what is lent comes back only when a worker has emptied it, and who floods
//! gives it back last. Where there are no clients, nodes have it all. A room is shared among its links by a dynamic
//! threshold (Choudhury and Hahne, 1998): a link may hold half of what is free, a third of the room when it is alone, so
//! that one that floods leaves most of it to others, and several that flood together still leave some.
//!
//! Polling contract: [`Intake::push`] never waits, it gives back what does not fit; [`Intake::pop`] gives `None` when
//! nothing waits.

use crate::unwrap::Origin;
use std::collections::{BTreeMap, VecDeque};

/// What is free ÷ what one link may hold of it.
const SHARE: usize = 2;
/// Empty queues that are kept for the next link, so that a link that comes and goes costs no allocation. 64 × some
/// hundred bytes.
const SPARES: usize = 64;

/// Packets (or what stands for them) that wait, by the link they came on.
#[derive(Debug)]
pub struct Intake<T> {
    nodes: Class<T>,
    clients: Class<T>,
    /// Whose turn it is when both wait.
    clients_next: bool,
}

#[derive(Debug)]
struct Class<T> {
    /// Links with something waiting; none is empty.
    links: BTreeMap<u64, VecDeque<T>>,
    /// The same links in the order of their turns.
    turns: VecDeque<u64>,
    waiting: usize,
    /// What may wait of all its links together.
    room: usize,
    spares: Vec<VecDeque<T>>,
}

/// There is no room for more from this link; what did not fit comes back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more room for this link")]
pub struct NoRoom<T>(pub T);

impl<T> Intake<T> {
    /// Room for `capacity` packets of all links together: half of it for nodes and half for clients, or all of it for nodes
    /// where no client comes.
    pub fn new(capacity: usize, clients: bool) -> Self {
        let for_clients = if clients { capacity / 2 } else { 0 };
        Self { nodes: Class::new(capacity - for_clients), clients: Class::new(for_clients), clients_next: false }
    }

    /// Puts in what came on link `link` (a number that names it).
    pub fn push(&mut self, origin: Origin, link: u64, item: T) -> Result<(), NoRoom<T>> {
        let class = match origin {
            Origin::Node => &mut self.nodes,
            Origin::Client => &mut self.clients,
        };
        let free = class.room.saturating_sub(class.waiting);
        let held = class.links.get(&link).map_or(0, VecDeque::len);
        if free == 0 || held >= (free / SHARE).max(1) {
            return Err(NoRoom(item));
        }
        class.push(link, item);
        Ok(())
    }

    /// What is next.
    pub fn pop(&mut self) -> Option<T> {
        let clients_first = self.clients_next;
        let (first, second) =
            if clients_first { (&mut self.clients, &mut self.nodes) } else { (&mut self.nodes, &mut self.clients) };
        if let Some(item) = first.pop() {
            self.clients_next = !clients_first;
            return Some(item);
        }
        second.pop()
    }

    /// Packets waiting.
    pub fn len(&self) -> usize {
        self.nodes.waiting + self.clients.waiting
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Class<T> {
    fn new(room: usize) -> Self {
        Self { links: BTreeMap::new(), turns: VecDeque::new(), waiting: 0, room, spares: Vec::new() }
    }

    fn push(&mut self, link: u64, item: T) {
        let (spares, turns) = (&mut self.spares, &mut self.turns);
        let queue = self.links.entry(link).or_insert_with(|| {
            turns.push_back(link);
            spares.pop().unwrap_or_default()
        });
        queue.push_back(item);
        self.waiting += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let link = self.turns.pop_front()?;
        let queue = self.links.get_mut(&link)?;
        let item = queue.pop_front();
        self.waiting -= usize::from(item.is_some());
        if !queue.is_empty() {
            self.turns.push_back(link);
        } else if let Some(empty) = self.links.remove(&link)
            && self.spares.len() < SPARES
        {
            self.spares.push(empty);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pushes until there is no room; says how many fitted.
    fn flood(intake: &mut Intake<(u64, usize)>, origin: Origin, link: u64) -> usize {
        (0..10_000).take_while(|n| intake.push(origin, link, (link, *n)).is_ok()).count()
    }

    #[test]
    fn a_link_that_floods_leaves_room_and_turns_to_others() {
        let mut intake = Intake::new(500, false);
        // a third: x = (500 − x) / 2
        assert_eq!(flood(&mut intake, Origin::Node, 1), 167);
        let more: usize = (2..10).map(|link| flood(&mut intake, Origin::Node, link)).sum();
        assert!(more > 200, "{more}");
        // nine that flood leave room for a tenth, and its packet is out within one round
        intake.push(Origin::Node, 99, (99, 0)).expect("room for an honest one");
        let before = std::iter::from_fn(|| intake.pop()).take_while(|(link, _)| *link != 99).count();
        assert!(before <= 9, "{before}");
    }

    #[test]
    fn many_clients_do_not_hold_up_what_comes_from_nodes() {
        let mut intake = Intake::new(1_000, true);
        for client in 0..300 {
            intake.push(Origin::Client, client, (client, 0)).expect("room");
        }
        for n in 0..100 {
            intake.push(Origin::Node, 7, (1_000, n)).expect("room");
        }
        let first: Vec<_> = std::iter::from_fn(|| intake.pop()).take(200).collect();
        assert_eq!(first.iter().filter(|(link, _)| *link == 1_000).count(), 100);
    }

    #[test]
    fn neither_clients_nor_nodes_take_the_room_of_the_others() {
        // a link with one packet is below every threshold: many of them fill what there is
        for (many, few) in [(Origin::Client, Origin::Node), (Origin::Node, Origin::Client)] {
            let mut intake = Intake::new(1_000, true);
            let taken = (0..10_000).filter(|link| intake.push(many, *link, (*link, 0)).is_ok()).count();
            assert_eq!(taken, 500);
            assert_eq!(flood(&mut intake, few, 1), 167, "as in a room that nobody else uses");
            assert!(flood(&mut intake, few, 2) > 80);
        }
        // where no client comes, nothing is kept for one
        let mut intake = Intake::new(1_000, false);
        assert_eq!((0..10_000).filter(|link| intake.push(Origin::Node, *link, (*link, 0)).is_ok()).count(), 1_000);
        assert!(intake.push(Origin::Client, 1, (1, 0)).is_err());
    }

    #[test]
    fn without_room_nothing_is_lost_that_waits() {
        let mut intake = Intake::new(2, true);
        assert_eq!(intake.push(Origin::Node, 1, 'a'), Ok(()));
        assert_eq!(intake.push(Origin::Node, 1, 'b'), Err(NoRoom('b')));
        assert_eq!(intake.push(Origin::Client, 1, 'c'), Ok(()));
        assert_eq!(intake.push(Origin::Client, 2, 'd'), Err(NoRoom('d')));
        assert_eq!([intake.pop(), intake.pop(), intake.pop()], [Some('a'), Some('c'), None]);
    }

    proptest! {
        /// Whatever comes and goes: within the capacity, everything out once, each link's packets in their order.
        #[test]
        fn everything_comes_out_once_and_in_order(steps in proptest::collection::vec((any::<bool>(), 0u64..6, any::<bool>()), 0..600)) {
            let mut intake = Intake::new(40, true);
            let mut inside: BTreeMap<(bool, u64), VecDeque<usize>> = BTreeMap::new();
            for (number, (client, link, push)) in steps.into_iter().enumerate() {
                let origin = if client { Origin::Client } else { Origin::Node };
                if push {
                    if intake.push(origin, link, (client, link, number)).is_ok() {
                        inside.entry((client, link)).or_default().push_back(number);
                    }
                } else {
                    match intake.pop() {
                        Some((client, link, number)) => {
                            prop_assert_eq!(inside.entry((client, link)).or_default().pop_front(), Some(number));
                        }
                        None => prop_assert!(inside.values().all(VecDeque::is_empty)),
                    }
                }
                let held: usize = inside.values().map(VecDeque::len).sum();
                prop_assert_eq!(intake.len(), held);
                prop_assert!(held <= 40);
            }
        }
    }
}
