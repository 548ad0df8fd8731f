//! The way from links to one worker: a bounded intake and a wake-up.

use crate::intake::Intake;
use crate::io::backlog::Backlog;
use crate::portions::Party;
use crate::unwrap::Origin;
use shoal_protocol::sphinx::Packet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A packet as it came from a link.
#[derive(Debug)]
pub struct Incoming {
    /// The packet.
    pub packet: Packet,
    /// When it was read from the link (monotonic): its mixing delay counts from here.
    pub arrived: Duration,
    /// Who brought it.
    pub party: Party,
}

impl Incoming {
    /// Whose link it came on.
    pub const fn origin(&self) -> Origin {
        match self.party {
            Party::Clients => Origin::Client,
            Party::Node(_) | Party::Courier(_) => Origin::Node,
        }
    }
}

/// What waits for one worker.
#[derive(Debug)]
pub struct Lane {
    inside: Mutex<Inside>,
    filled: Condvar,
    /// What waits here counts there too.
    backlog: Backlog,
}

#[derive(Debug)]
struct Inside {
    intake: Intake<Incoming>,
    /// The worker sleeps: only then it has to be woken.
    asleep: bool,
    closed: bool,
}

/// How a worker got what it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Packets, which were there already.
    AtOnce,
    /// It waited; then there were packets, or the time was over.
    Waited,
    /// Nothing, and nothing will come any more.
    Closed,
}

impl Lane {
    /// A lane with room for `capacity` packets, which are counted in `backlog` too; `clients`: whether any of them may come
    /// from clients.
    pub fn new(capacity: usize, clients: bool, backlog: Backlog) -> Self {
        let inside = Inside { intake: Intake::new(capacity, clients), asleep: false, closed: false };
        Self { inside: Mutex::new(inside), filled: Condvar::new(), backlog }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // every operation on the intake is one step
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in what came on link `link`; says how many found no room.
    pub fn push(&self, link: u64, packets: impl Iterator<Item = Incoming>) -> u64 {
        let mut inside = self.lock();
        let before = inside.intake.len();
        let refused = packets.filter_map(|packet| inside.intake.push(packet.origin(), link, packet).err()).count();
        self.backlog.add(inside.intake.len() - before);
        let wake = std::mem::take(&mut inside.asleep);
        drop(inside);
        if wake {
            self.filled.notify_one();
        }
        refused as u64
    }

    /// Takes at most `count` packets into `batch`; waits for the first for at most `patience`.
    pub fn take(&self, batch: &mut Vec<Incoming>, count: usize, patience: Duration) -> Taken {
        let mut inside = self.lock();
        let wait = inside.intake.is_empty() && !patience.is_zero();
        if wait {
            inside.asleep = true;
            // a wake-up without a packet is no harm: the worker looks around and comes back
            inside = match self.filled.wait_timeout(inside, patience) {
                Ok((inside, _)) => inside,
                Err(poisoned) => poisoned.into_inner().0,
            };
            inside.asleep = false;
        }
        let before = inside.intake.len();
        batch.extend(std::iter::from_fn(|| inside.intake.pop()).take(count));
        self.backlog.take(before - inside.intake.len());
        match wait {
            _ if batch.is_empty() && inside.closed => Taken::Closed,
            true => Taken::Waited,
            false => Taken::AtOnce,
        }
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }
}
