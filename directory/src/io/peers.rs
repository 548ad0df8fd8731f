//! Messages to the other authorities: one task and one bounded queue each, so that a slow or dead one delays nobody.
//!
//! A message that does not fit or does not arrive is lost; the agreement sends again what still matters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, rngs::SysRng};
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::Hint;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Most bytes that wait for one authority: the largest list, the largest proposal, and 7 MiB of votes. What waits for several
/// is there once: the queues share it.
const WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Most messages that wait: an authority sends at most five kinds a round, and rounds get longer.
const WAITING_MESSAGES: usize = 256;
/// First and longest pause before the next attempt to reach an authority.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What waits for one authority; the oldest goes when it is full.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, message: Arc<[u8]>) {
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

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

/// The other authorities whose address is known, as somebody to send to.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Vec<(Hint, Queue)>>);

impl Peers {
    /// Queues for `peers`; nothing is sent until [`Peers::run`].
    #[must_use]
    pub fn new(peers: Vec<Hint>) -> Self {
        Self(Arc::new(peers.into_iter().map(|peer| (peer, Queue::default())).collect()))
    }

    /// Who they are.
    pub fn list(&self) -> impl Iterator<Item = &Hint> {
        self.0.iter().map(|(peer, _)| peer)
    }

    /// Sends one message to all of `set`, in time; never waits.
    pub fn broadcast(&self, question: &DirectoryQuestion, set: &[AuthorityKey]) {
        let message: Arc<[u8]> = question.to_bytes().into();
        let here = |peer: &Hint| set.iter().any(|key| key.identity == peer.identity);
        for (_, queue) in self.0.iter().filter(|(peer, _)| here(peer)) {
            queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&message));
            queue.filled.notify_one();
        }
    }

    /// Keeps sending until dropped.
    pub async fn run(self, endpoint: Endpoint) {
        let mut tasks = JoinSet::new();
        for at in 0..self.0.len() {
            let (all, endpoint) = (self.clone(), endpoint.clone());
            tasks.spawn(async move {
                if let Some((peer, queue)) = all.0.get(at) {
                    send_all(peer, queue, &endpoint).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

async fn send_all(peer: &Hint, queue: &Queue, endpoint: &Endpoint) {
    // it only spreads retries: without the system's randomness they come all the same
    let mut rng = StdRng::try_from_rng(&mut SysRng).unwrap_or_else(|_| StdRng::seed_from_u64(0));
    let mut link: Option<Link> = None;
    let mut pause = PAUSE_MIN;
    let mut held: Option<Arc<[u8]>> = None;
    loop {
        let message = match held.take() {
            Some(message) => message,
            None => loop {
                let next = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
                match next {
                    Some(message) => break message,
                    None => queue.filled.notified().await,
                }
            },
        };
        let open = match link.take().filter(Link::is_open) {
            Some(open) => Ok(open),
            None => endpoint.connect(peer.address, &peer.identity, Protocol::Directory).await,
        };
        match open {
            Ok(open) => match ask(&open, &message, ANSWER_SIZE_MAX).await {
                Ok(answer) => {
                    pause = PAUSE_MIN;
                    if let Ok(DirectoryAnswer::Refused(reason)) = DirectoryAnswer::from_bytes(&answer) {
                        tracing::debug!(authority = %peer.identity, reason, "another authority refuses a message");
                    }
                    link = Some(open);
                    continue;
                }
                Err(error) => tracing::debug!(authority = %peer.identity, %error, "a message did not arrive"),
            },
            Err(error) => {
                tracing::debug!(authority = %peer.identity, %error, "another authority is not reached");
                held = Some(message);
            }
        }
        tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
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
}
