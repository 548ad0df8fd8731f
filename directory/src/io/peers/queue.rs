//! What waits for one authority, what is on its way there, and what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_protocol::UnixMillis;
use shoal_protocol::network::Hint;
use tokio::sync::Notify;

/// Most bytes that wait for one authority: the largest list, the largest proposal, and 7 MiB of votes. What waits for several
/// is there once: the queues share it.
const WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Most messages that wait: an authority sends at most five kinds a round, and rounds get longer.
const WAITING_MESSAGES: usize = 256;
/// Messages on their way to one authority at a time: the streams that it lets us have open. One after the other, a message
/// would wait for the answers to all before it, and rounds outrun what a long way carries: at a round trip of 400 ms and
/// epochs of 30 s the authorities never agreed. They are shared between the others they go to, like those that wait.
pub(super) const AT_A_TIME: usize = 8;
/// What waits for one authority; the oldest goes when it is full.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// Sent, and not answered yet; at most [`AT_A_TIME`].
    under_way: Vec<Arc<[u8]>>,
}

impl Waiting {
    /// What waits or is under way is not sent twice: it arrives, or its link fails. The agreement repeats itself faster than
    /// a long way with losses carries, and the repeats would keep what is new from arriving at all.
    pub(super) fn push(&mut self, message: Arc<[u8]>) {
        if self.messages.iter().chain(&self.under_way).any(|held| *held == message) {
            return;
        }
        self.bytes += message.len();
        self.messages.push_back(message);
        while self.messages.len() > WAITING_MESSAGES || (self.bytes > WAITING_BYTES && self.messages.len() > 1) {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Arc<[u8]>> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

/// What came of the last attempts to reach an authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// When it answered last.
    pub answered: Option<UnixMillis>,
    /// Why it is not reached; `None` when it is, or nobody has tried.
    pub problem: Option<String>,
    /// Since when it is not reached.
    pub failing_since: Option<UnixMillis>,
}

/// The way to one authority.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told when something waits.
    pub(super) filled: Notify,
    reach: Mutex<Reach>,
    said: Mutex<Said>,
}

/// Least time between two lines of the log about one authority.
const QUIET: Duration = Duration::from_secs(10);

/// What the log has of an authority.
#[derive(Debug, Default)]
struct Said {
    failing: bool,
    at: UnixMillis,
}

impl Queue {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the oldest message, which is under way from then on. Cancel safe.
    pub(super) async fn next(&self) -> Arc<[u8]> {
        loop {
            let next = {
                let mut waiting = self.waiting();
                let next = waiting.pop();
                waiting.under_way.extend(next.clone());
                next
            };
            match next {
                Some(message) => return message,
                None => self.filled.notified().await,
            }
        }
    }

    /// A message is not under way any more.
    pub(super) fn ended(&self, message: &Arc<[u8]>) {
        self.waiting().under_way.retain(|held| !Arc::ptr_eq(held, message));
    }

    pub(super) fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note whether the authority is reached; the log hears of a change only, and of one that comes and goes now and
    /// then. Where the authority is stands in `status`, not in the log.
    pub(super) fn note(&self, peer: &Hint, problem: Option<String>, now: UnixMillis) {
        let authority = peer.identity;
        let mut reach = self.reach();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.is_some() != said.failing && now.since(said.at) >= QUIET {
            *said = Said { failing: problem.is_some(), at: now };
            match &problem {
                Some(problem) => tracing::warn!(%authority, problem, "another authority is not reached"),
                None => tracing::info!(%authority, "another authority is reached again"),
            }
        }
        match problem {
            None => (reach.answered, reach.failing_since) = (Some(now), None),
            Some(_) => reach.failing_since = reach.failing_since.or(Some(now)),
        }
        reach.problem = problem;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_the_oldest() {
        let mut waiting = Waiting::default();
        for number in 0..300_u32 {
            waiting.push(number.to_be_bytes().to_vec().into());
        }
        assert_eq!(waiting.messages.len(), WAITING_MESSAGES);
        assert_eq!(waiting.pop().as_deref(), Some(&44_u32.to_be_bytes()[..]));
        waiting.push(vec![0; WAITING_BYTES].into());
        assert_eq!((waiting.messages.len(), waiting.bytes), (1, WAITING_BYTES), "the newest always fits");
        waiting.pop();
        assert_eq!(waiting.bytes, 0);
    }

    #[tokio::test]
    async fn what_waits_or_is_under_way_is_not_sent_twice() {
        let queue = Queue::default();
        let message = |byte: u8| Arc::<[u8]>::from([byte; 3]);
        for byte in [1, 1, 2, 1] {
            queue.waiting().push(message(byte));
        }
        assert_eq!(queue.waiting().messages.len(), 2);
        let first = queue.next().await;
        assert_eq!(*first, [1; 3]);
        queue.waiting().push(message(1));
        assert_eq!(queue.waiting().messages.len(), 1, "it is under way");
        queue.ended(&first);
        queue.waiting().push(message(1));
        assert_eq!(queue.waiting().messages.len(), 2, "it arrived, or failed: a repeat is sent");
    }
}
