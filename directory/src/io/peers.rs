//! Messages to the other authorities: one task and one bounded queue each, so that a slow or dead one delays nobody.
//!
//! A message that does not fit or does not arrive is lost; the agreement sends again what still matters. A link on which
//! nothing is to be said is asked something small now and then: so it is there when a document is due, and one that is dead
//! is noticed, said in `status`, and made anew before it is needed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, rngs::SysRng};
use shoal_protocol::Identity;
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::Hint;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Most bytes that wait for one authority: the largest list, the largest proposal, and 7 MiB of votes. What waits for several
/// is there once: the queues share it.
const WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Most messages that wait: an authority sends at most five kinds a round, and rounds get longer.
const WAITING_MESSAGES: usize = 256;
/// First and longest pause before the next attempt to reach an authority.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Silence after which a link is asked something: a third of the time after which it would end by itself.
const SILENCE: Duration = Duration::from_secs(5);
/// Time for the answer to that.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

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
    /// Why the authority is not reached; `None` when it is, or nobody has tried.
    problem: Mutex<Option<String>>,
}

impl Queue {
    async fn next(&self) -> Arc<[u8]> {
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match next {
                Some(message) => return message,
                None => self.filled.notified().await,
            }
        }
    }

    /// Takes note whether the authority is reached; the log hears of a change only.
    fn note(&self, authority: &Identity, problem: Option<String>) {
        let mut held = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*held, &problem) {
            (None, Some(problem)) => tracing::warn!(%authority, problem, "another authority is not reached"),
            (Some(_), None) => tracing::info!(%authority, "another authority is reached again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *held = problem;
    }
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

    /// Why an authority is not reached, if that was tried and failed last.
    #[must_use]
    pub fn problem(&self, identity: &Identity) -> Option<String> {
        let (_, queue) = self.0.iter().find(|(peer, _)| peer.identity == *identity)?;
        queue.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    // the changes of the set after the last height there can be: none
    let probe = DirectoryQuestion::Changes { after_height: u64::MAX }.to_bytes();
    loop {
        let message = match held.take() {
            Some(message) => Some(message),
            None => timeout(SILENCE.mul_f64(rng.random_range(0.8..1.0)), queue.next()).await.ok(),
        };
        let open = match link.take().filter(Link::is_open) {
            Some(open) => Ok(open),
            None => endpoint.connect(peer.address, &peer.identity, Protocol::Directory).await,
        };
        let problem = match open {
            Ok(open) => match question(&open, message.as_deref(), &probe).await {
                Ok(answer) => {
                    pause = PAUSE_MIN;
                    queue.note(&peer.identity, None);
                    if let Ok(DirectoryAnswer::Refused(reason)) = DirectoryAnswer::from_bytes(&answer) {
                        tracing::debug!(authority = %peer.identity, reason, "another authority refuses a message");
                    }
                    link = Some(open);
                    continue;
                }
                Err(error) => error,
            },
            Err(error) => {
                held = message;
                error.to_string()
            }
        };
        queue.note(&peer.identity, Some(problem));
        tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Sends a message, or else the probe, and waits for the answer. A message may be large and its way slow: there the link's
/// own idle timeout decides.
async fn question(link: &Link, message: Option<&[u8]>, probe: &[u8]) -> Result<Vec<u8>, String> {
    match message {
        Some(message) => ask(link, message, ANSWER_SIZE_MAX).await.map_err(|error| error.to_string()),
        None => match timeout(PROBE_PATIENCE, ask(link, probe, ANSWER_SIZE_MAX)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the link is dead: no answer in 5 s".to_owned()),
        },
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
