//! Messages to the other authorities: one task and one bounded queue each, so that a slow or dead one delays nobody.
//!
//! A message that does not fit or does not arrive is lost; the agreement sends again what still matters. A link on which
//! nothing is to be said is asked something small now and then: so it is there when a document is due, and one that is dead
//! is noticed, said in `status`, and made anew before it is needed.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, rngs::SysRng};
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::Hint;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::{Hash, Identity};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Most bytes that wait for one authority: the largest list, the largest proposal, and 7 MiB of votes. What waits for several
/// is there once: the queues share it.
const WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Most messages that wait: an authority sends at most five kinds a round, and rounds get longer.
const WAITING_MESSAGES: usize = 256;
/// Messages on their way to one authority at a time: the streams that it lets us have open. One after the other, a message
/// would wait for the answers to all before it, and rounds outrun what a long way carries: at a round trip of 400 ms and
/// epochs of 30 s the authorities never agreed. They are shared between the others they go to, like those that wait.
const AT_A_TIME: usize = 8;
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
    /// Sent, and not answered yet; at most [`AT_A_TIME`].
    under_way: Vec<Arc<[u8]>>,
}

impl Waiting {
    /// What waits or is under way is not sent twice: it arrives, or its link fails. The agreement repeats itself faster than
    /// a long way with losses carries, and the repeats would keep what is new from arriving at all.
    fn push(&mut self, message: Arc<[u8]>) {
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

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    /// Why the authority is not reached; `None` when it is, or nobody has tried.
    problem: Mutex<Option<String>>,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the oldest message, which is under way from then on. Cancel safe.
    async fn next(&self) -> Arc<[u8]> {
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
    fn ended(&self, message: &Arc<[u8]>) {
        self.waiting().under_way.retain(|held| !Arc::ptr_eq(held, message));
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

/// One other authority.
#[derive(Debug)]
struct Peer {
    identity: Identity,
    /// Where it is reached now. A link that stands is kept until it ends, wherever it leads.
    address: Mutex<SocketAddr>,
    queue: Queue,
}

impl Peer {
    fn address(&self) -> SocketAddr {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hint(&self) -> Hint {
        Hint { identity: self.identity, address: self.address() }
    }
}

#[derive(Debug, Default)]
struct All {
    /// At most 64 of the set and 256 that are hinted at.
    known: Mutex<BTreeMap<Identity, Arc<Peer>>>,
    /// Told when there are others than before.
    changed: Notify,
}

/// The other authorities whose address is known, as somebody to send to.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<All>);

impl Peers {
    /// From now on the others are `peers`, at these addresses. Nothing is sent until [`Peers::run`]; what waits for those
    /// that stay goes on waiting, and goes to the new address.
    pub fn follow(&self, peers: &[Hint]) {
        let mut known = self.known();
        known.retain(|identity, _| peers.iter().any(|peer| peer.identity == *identity));
        for Hint { identity, address } in peers {
            match known.get(identity) {
                Some(peer) => *peer.address.lock().unwrap_or_else(PoisonError::into_inner) = *address,
                None => {
                    let peer = Peer { identity: *identity, address: Mutex::new(*address), queue: Queue::default() };
                    known.insert(*identity, Arc::new(peer));
                }
            }
        }
        drop(known);
        self.0.changed.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Identity, Arc<Peer>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who they are.
    #[must_use]
    pub fn list(&self) -> Vec<Hint> {
        self.known().values().map(|peer| peer.hint()).collect()
    }

    /// Why an authority is not reached, if that was tried and failed last.
    #[must_use]
    pub fn problem(&self, identity: &Identity) -> Option<String> {
        let peer = self.known().get(identity).map(Arc::clone)?;
        peer.queue.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends one message to all of `set`, in time; never waits.
    pub fn broadcast(&self, question: &DirectoryQuestion, set: &[AuthorityKey]) {
        let message: Arc<[u8]> = question.to_bytes().into();
        let known = self.known();
        for peer in set.iter().filter_map(|key| known.get(&key.identity)) {
            peer.queue.waiting().push(Arc::clone(&message));
            peer.queue.filled.notify_one();
        }
    }

    /// Keeps sending until dropped.
    pub async fn run(self, endpoint: Endpoint) {
        let mut tasks = JoinSet::new();
        let mut sending: BTreeMap<Identity, (Arc<Peer>, AbortHandle)> = BTreeMap::new();
        loop {
            let known = self.known().clone();
            sending.retain(|identity, (peer, task)| {
                // who went and came again has a new queue
                let stays = known.get(identity).is_some_and(|known| Arc::ptr_eq(known, peer));
                if !stays {
                    task.abort();
                }
                stays
            });
            for (identity, peer) in known {
                sending.entry(identity).or_insert_with(|| {
                    let (of_task, endpoint) = (Arc::clone(&peer), endpoint.clone());
                    let task = tasks.spawn(async move { send_all(&of_task, &endpoint).await });
                    (peer, task)
                });
            }
            self.0.changed.notified().await;
            while tasks.try_join_next().is_some() {}
        }
    }
}

async fn send_all(peer: &Peer, endpoint: &Endpoint) {
    let queue = &peer.queue;
    // it only spreads retries: without the system's randomness they come all the same
    let mut rng = StdRng::try_from_rng(&mut SysRng).unwrap_or_else(|_| StdRng::seed_from_u64(0));
    let mut link: Option<Link> = None;
    // counts links, so that all that a broken one carried is one failure
    let mut attempt = 0_u64;
    let mut pause = PAUSE_MIN;
    let mut held: Option<Arc<[u8]>> = None;
    // the changes after a set that nobody has: none
    let probe: Arc<[u8]> = DirectoryQuestion::Changes { after: Hash::from_bytes([0; 32]) }.to_bytes().into();
    let mut under_way = JoinSet::new();
    loop {
        let message = match held.take() {
            Some(message) => Some(message),
            None => tokio::select! {
                biased;
                Some(ended) = under_way.join_next() => {
                    // nothing panics in there, and nothing is aborted
                    let Ok((message, of, arrived)) = ended else { continue };
                    if let Some(message) = &message {
                        queue.ended(message);
                    }
                    match arrived {
                        Ok(()) => {
                            pause = PAUSE_MIN;
                            queue.note(&peer.identity, None);
                        }
                        Err(_) if of != attempt => {}
                        Err(problem) => {
                            link = None;
                            attempt += 1;
                            queue.note(&peer.identity, Some(problem));
                            sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
                            pause = (pause * 2).min(PAUSE_MAX);
                        }
                    }
                    continue;
                }
                message = queue.next(), if under_way.len() < AT_A_TIME => Some(message),
                () = sleep(SILENCE.mul_f64(rng.random_range(0.8..1.0))), if under_way.is_empty() => None,
            },
        };
        let open = match link.take().filter(Link::is_open) {
            Some(open) => Ok(open),
            None => endpoint.connect(peer.address(), &peer.identity, Protocol::Directory).await,
        };
        match open {
            Ok(open) => {
                let (carrier, identity, probe) = (open.clone(), peer.identity, Arc::clone(&probe));
                under_way.spawn(async move {
                    let arrived = deliver(&carrier, message.as_deref(), &probe, &identity).await;
                    (message, attempt, arrived)
                });
                link = Some(open);
            }
            Err(error) => {
                held = message;
                attempt += 1;
                queue.note(&peer.identity, Some(error.to_string()));
                sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Sends a message, or else the probe; why it was not answered. A message may be large and its way slow: there the link's own
/// idle timeout decides.
async fn deliver(link: &Link, message: Option<&[u8]>, probe: &[u8], to: &Identity) -> Result<(), String> {
    let answer = match message {
        Some(message) => ask(link, message, ANSWER_SIZE_MAX).await,
        None => match timeout(PROBE_PATIENCE, ask(link, probe, ANSWER_SIZE_MAX)).await {
            Ok(answer) => answer,
            Err(_) => return Err("the link is dead: no answer in 5 s".to_owned()),
        },
    };
    let answer = answer.map_err(|error| error.to_string())?;
    if let Ok(DirectoryAnswer::Refused(reason)) = DirectoryAnswer::from_bytes(&answer) {
        tracing::debug!(authority = %to, reason, "another authority refuses a message");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::authority::ML_DSA_PUBLIC_SIZE;

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

    #[test]
    fn who_moves_keeps_what_waits_for_it_and_who_goes_gets_nothing() {
        let peers = Peers::default();
        let key =
            |byte: u8| AuthorityKey { identity: Identity::from_bytes([byte; 32]), ml_dsa: [0; ML_DSA_PUBLIC_SIZE] };
        let hint = |byte: u8, port: u16| Hint { identity: key(byte).identity, address: ([127, 0, 0, 1], port).into() };
        let waits = |byte: u8| {
            let peer = peers.known().get(&key(byte).identity).map(Arc::clone);
            peer.map(|peer| peer.queue.waiting().messages.len())
        };
        let set = [key(1), key(2), key(3)];
        peers.follow(&[hint(1, 10), hint(2, 20)]);
        peers.broadcast(&DirectoryQuestion::Agree(vec![1]), &set);
        peers.follow(&[hint(2, 21), hint(3, 30)]);
        assert_eq!(peers.list(), [hint(2, 21), hint(3, 30)]);
        assert_eq!((waits(1), waits(2), waits(3)), (None, Some(1), Some(0)));
        peers.broadcast(&DirectoryQuestion::Agree(vec![2]), &set[..2]);
        assert_eq!((waits(1), waits(2), waits(3)), (None, Some(2), Some(0)));
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
