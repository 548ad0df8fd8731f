//! What the user-facing state asks of the network: one operation on one box, carried by one request.
//!
//! [`Mail`](crate::mail::Mail) hands out a [`Want`] for a tick of the payload clock and gets it back by its [`Ticket`],
//! with whatever the replicas said. Nothing of a want may show on the wire: a request that carries one and a decoy are
//! made by the same work and look alike.

use shoal_protocol::{request::Operation, types::StoreIndex};

/// Names one outstanding want. Never reused in one process; a retry is a new want with a new ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Why a want is wanted, in the order of the budget (design §3.7): the earlier is served first, except that
/// [`Rank::Send`] and [`Rank::BlobRead`] together take at most three of four ticks while polls wait, and of those one of three
/// goes to a read that is not for a stranger.
///
/// Local knowledge: it must never influence how the request is made, only which want the tick gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// A write: a message, a content box of a blob, a card, a letter to an inbox, until one replica has it.
    Send,
    /// A read that somebody waits for: a content box of a blob, a box of a peer's card.
    BlobRead,
    /// The next box of a chain that was active within the last minutes.
    Hot,
    /// The next box of a chain that was active within the last day.
    Warm,
    /// The next box of any other chain.
    Idle,
    /// The second copy of what one replica has: when nothing else waits, and in one tick of 16.
    Copy,
    /// The own inbox, at its constant rate.
    Inbox,
}

/// One operation that the state wants carried to the two replicas of its box.
#[derive(Debug)]
pub struct Want {
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// Why it is wanted; decides between wants, never how a request looks.
    pub rank: Rank,
    /// Generation by which the box is placed.
    pub generation: u32,
    /// The two replicas in the order in which the envelope must name them; answers are handed back in this order.
    /// Random for reads and plain writes, the order of placement for ordered writes (the first decides).
    pub replicas: [StoreIndex; 2],
    /// What the replicas are asked.
    pub operation: Operation,
}
