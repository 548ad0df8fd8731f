//! Messages to the other authorities: one task and one bounded queue each, so that a slow or dead one delays nobody.
//!
//! Who they are may change while it runs, and where they are may be known twice: from the document and from the network file. A
//! message that does not fit or does not arrive is lost; the agreement sends again what still matters. A link on which nothing is
//! to be said is asked something small now and then: so it is there when a document is due, and one that is dead is noticed,
//! said in `status`, and made anew before it is needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
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

use super::now;

mod queue;

pub use queue::Reach;
use queue::{AT_A_TIME, Queue};

/// First and longest pause before the next attempt to reach an authority.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Silence after which a link is asked something: a third of the time after which it would end by itself.
const SILENCE: Duration = Duration::from_secs(5);
/// The first time it is asked at once: whether somebody is there is known before it matters.
const FIRST_SILENCE: Duration = Duration::from_millis(200);
/// Time for the answer to that.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// One authority to send to.
#[derive(Debug)]
struct Peer {
    identity: Identity,
    /// Where it may be, the likeliest first; at least one.
    addresses: Vec<SocketAddr>,
    /// Which of them is tried.
    at: AtomicUsize,
    queue: Queue,
}

impl Peer {
    /// Where it is looked for now.
    fn hint(&self) -> Hint {
        let at = self.at.load(Ordering::Relaxed) % self.addresses.len().max(1);
        // there is at least one, by how a peer is made
        let address = self.addresses.get(at).copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        Hint { identity: self.identity, address }
    }

    /// Nobody answers there: at the next one.
    fn elsewhere(&self) {
        self.at.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct All {
    peers: Mutex<Vec<Arc<Peer>>>,
    changed: Notify,
}

/// The other authorities whose address is known, as somebody to send to.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<All>);

impl Peers {
    /// Queues for `peers`; nothing is sent until [`Peers::run`].
    #[must_use]
    pub fn new(peers: Vec<Hint>) -> Self {
        let peers_to_be = Self::default();
        peers_to_be.set(peers);
        peers_to_be
    }

    /// From now on `peers` are sent to, at these addresses; of one with several the first is tried first, and each time it
    /// does not answer the next. What waits for one whose addresses stay goes on. Returns who is new, or somewhere else.
    pub fn set(&self, peers: Vec<Hint>) -> Vec<Hint> {
        let mut new = Vec::new();
        let mut next: Vec<Arc<Peer>> = Vec::new();
        let mut held = self.held();
        for hint in &peers {
            let identity = hint.identity;
            if next.iter().any(|peer| peer.identity == identity) {
                continue;
            }
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for other in peers.iter().filter(|other| other.identity == identity) {
                if !addresses.contains(&other.address) {
                    addresses.push(other.address);
                }
            }
            let before = held.iter().find(|peer| peer.identity == identity);
            let known = before.map_or(&[][..], |peer| &peer.addresses);
            new.extend(addresses.iter().filter(|at| !known.contains(at)).map(|at| Hint { identity, address: *at }));
            next.push(match before {
                Some(same) if same.addresses == addresses => Arc::clone(same),
                Some(_) | None => {
                    Arc::new(Peer { identity, addresses, at: AtomicUsize::new(0), queue: Queue::default() })
                }
            });
        }
        *held = next;
        drop(held);
        self.0.changed.notify_one();
        new
    }

    fn held(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who they are, and everywhere they may be.
    #[must_use]
    pub fn list(&self) -> Vec<Hint> {
        let held = self.held();
        let all = held
            .iter()
            .flat_map(|peer| peer.addresses.iter().map(|address| Hint { identity: peer.identity, address: *address }));
        all.collect()
    }

    /// Where an authority is looked for; `None` when its address is not known.
    #[must_use]
    pub fn address(&self, identity: &Identity) -> Option<SocketAddr> {
        self.held().iter().find(|peer| peer.identity == *identity).map(|peer| peer.hint().address)
    }

    /// Whether an authority is reached.
    #[must_use]
    pub fn reach(&self, identity: &Identity) -> Reach {
        let held = self.held();
        held.iter().find(|peer| peer.identity == *identity).map(|peer| peer.queue.reach().clone()).unwrap_or_default()
    }

    /// Sends one message to all of `set`, in time; never waits.
    pub fn broadcast(&self, question: &DirectoryQuestion, set: &[AuthorityKey]) {
        let message: Arc<[u8]> = question.to_bytes().into();
        for peer in self.held().iter().filter(|peer| set.iter().any(|key| key.identity == peer.identity)) {
            peer.queue.waiting().push(Arc::clone(&message));
            peer.queue.filled.notify_one();
        }
    }

    /// Keeps sending until dropped: one task for each authority that is sent to now.
    pub async fn run(self, endpoint: Endpoint) {
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Identity, (Arc<Peer>, AbortHandle)> = BTreeMap::new();
        loop {
            let peers = self.held().clone();
            running.retain(|_, (peer, task)| {
                let stays = peers.iter().any(|held| Arc::ptr_eq(held, peer));
                if !stays {
                    task.abort();
                }
                stays
            });
            for peer in peers {
                let (sent_to, endpoint) = (Arc::clone(&peer), endpoint.clone());
                running.entry(peer.identity).or_insert_with(|| {
                    let task = tasks.spawn(async move { send_all(&sent_to, &endpoint).await });
                    (peer, task)
                });
            }
            while tasks.try_join_next().is_some() {}
            self.0.changed.notified().await;
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
    let mut silence = FIRST_SILENCE;
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
                            queue.note(&peer.hint(), None, now());
                        }
                        Err(_) if of != attempt => {}
                        Err(problem) => {
                            link = None;
                            attempt += 1;
                            queue.note(&peer.hint(), Some(problem), now());
                            sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
                            pause = (pause * 2).min(PAUSE_MAX);
                        }
                    }
                    continue;
                }
                message = queue.next(), if under_way.len() < AT_A_TIME => Some(message),
                () = sleep(silence.mul_f64(rng.random_range(0.8..1.0))), if under_way.is_empty() => None,
            },
        };
        silence = SILENCE;
        let open = match link.take().filter(Link::is_open) {
            Some(open) => Ok(open),
            None => endpoint.connect(peer.hint().address, &peer.identity, Protocol::Directory).await,
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
                queue.note(&peer.hint(), Some(error.to_string()), now());
                peer.elsewhere();
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

    #[test]
    fn who_moved_is_somebody_to_reach_anew_and_the_others_keep_what_waits() {
        let hint = |byte: u8, port: u16| Hint {
            identity: Identity::from_bytes([byte; 32]),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        let peers = Peers::new(vec![hint(1, 10), hint(2, 20)]);
        for peer in peers.held().iter() {
            peer.queue.waiting().push(vec![7].into());
            peer.queue.note(&peer.hint(), Some("closed".to_owned()), now());
        }
        assert_eq!(peers.set(vec![hint(1, 10), hint(2, 21), hint(3, 30)]), [hint(2, 21), hint(3, 30)]);
        let waiting: Vec<_> = peers.held().iter().map(|peer| peer.queue.waiting().messages.len()).collect();
        assert_eq!(waiting, [1, 0, 0]);
        let problem = |byte: u8| peers.reach(&Identity::from_bytes([byte; 32])).problem;
        assert_eq!((problem(1), problem(2)), (Some("closed".to_owned()), None));
        assert_eq!(peers.address(&Identity::from_bytes([2; 32])), Some(hint(2, 21).address));
        assert_eq!(peers.address(&Identity::from_bytes([9; 32])), None);
        // by the document at one place, by the network file at another
        assert_eq!(peers.set(vec![hint(1, 10), hint(2, 21), hint(1, 11), hint(2, 21)]), [hint(1, 11)]);
        assert_eq!(peers.list(), [hint(1, 10), hint(1, 11), hint(2, 21)]);
        let one = Arc::clone(peers.held().first().expect("the first"));
        let tried: Vec<_> = (0..3).map(|_| (one.hint().address.port(), one.elsewhere()).0).collect();
        assert_eq!(tried, [10, 11, 10]);
    }
}
