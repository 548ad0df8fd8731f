//! Publishing the node's descriptor: at the start, once an epoch, at once when a key had to be made anew, and a last time
//! when the node leaves.
//!
//! The last descriptor has a key for the current epoch only. An authority takes it, because it has a key that is good now,
//! and the next document is without the node, because it has none for then. An authority that does not get it lists the
//! node by its descriptor before as long as that has keys; so it is offered until every authority has taken it.

use crate::answers::{Answer, Answers, without_addresses};
use crate::io::asking::{Authorities, printable};
use crate::io::host::{Clock, generator};
use crate::io::live_keys::KeySnapshot;
use crate::io::offer::{Offer, is_farewell_due};
use crate::io::phase::Phase;
use crate::keys::EPOCHS_AHEAD;
use crate::loops::Loops;
use crate::tally::evidence;
use anyhow::{Context as _, Result};
use rand::RngExt as _;
use shoal_protocol::descriptor::{Descriptor, MAX_ADDRESSES};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::types::{Epoch, Hash, Identity, IdentityKey, Role, UnixMillis};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Pause before the first new attempt with an authority that did not accept; doubles.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Shortest and longest time for all authorities to take a descriptor; an eighth of an epoch in between. A first dial takes
/// theirs to the node along.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What became of the newest descriptor, for `status`, `descriptor` and `doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishState {
    /// When it was made, in ms since 1970.
    pub published: UnixMillis,
    /// Last epoch it has keys for.
    pub covers: Epoch,
    /// `HOST:PORT` as it was configured when it was made.
    pub address: String,
    /// The addresses that it names: where others dial the node.
    pub addresses: Vec<SocketAddr>,
    /// Authorities asked.
    pub authorities: usize,
    /// The last answer of each of them; those to the descriptor before stay until there are new ones.
    pub answers: Answers,
    /// Why no newer one can be made.
    pub problem: Option<String>,
    /// The signed descriptor.
    pub descriptor: Vec<u8>,
}

/// What publishing works with.
pub struct Publisher {
    /// Whom to tell.
    pub authorities: Arc<Authorities>,
    /// Genesis hash.
    pub network: Hash,
    /// Signs the descriptor.
    pub identity: Arc<IdentityKey>,
    /// Role of the node.
    pub role: Role,
    /// `HOST:PORT` as configured; a SIGHUP may change it.
    pub address: watch::Receiver<String>,
    /// Operator.
    pub family: Option<[u8; 32]>,
    /// Whether the store is to go.
    pub leaving: Arc<AtomicBool>,
    /// Epochs.
    pub schedule: Schedule,
    /// Time.
    pub clock: Clock,
    /// Keys held.
    pub keys: watch::Receiver<KeySnapshot>,
    /// Loss evidence.
    pub loops: Arc<Mutex<Loops>>,
    /// What is said about the work.
    pub state: watch::Sender<PublishState>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl Publisher {
    /// Runs until the node leaves.
    pub async fn run(&mut self) {
        let mut rng = generator();
        let mut published = Offer::default();
        let mut pending: BTreeSet<Identity> = BTreeSet::new();
        let mut next_round = UnixMillis(0);
        let mut farewell = None;
        let mut pause = RETRY_MIN;
        let mut bytes = Vec::new();
        let mut named = None;
        loop {
            let now = self.clock.wall();
            let address = self.address.borrow_and_update().clone();
            let moved = named.as_ref().is_some_and(|named| *named != address);
            let phase = *self.phase.borrow_and_update();
            if phase >= Phase::Stopping {
                return;
            }
            let current = self.schedule.epoch_at(now);
            let keys = self.keys.borrow_and_update().clone();
            let (offer, due) = if phase == Phase::Draining {
                (Offer::of(&keys, current..=current), is_farewell_due(farewell, &pending, current))
            } else {
                let offer = Offer::of(&keys, current..=current.plus(EPOCHS_AHEAD));
                let due = moved || self.is_round_due(now, next_round) || published.contradicts(&offer, current);
                (offer, due)
            };
            if due && !offer.mix.is_empty() {
                match self.descriptor(&offer, &address, now).await {
                    Ok((made, addresses)) => {
                        if moved {
                            tracing::info!("the descriptor names the new public address; `shoal-node status` shows it");
                        }
                        bytes = made;
                        published = offer;
                        // who has taken a farewell must not get one with a later key
                        if farewell.is_none() {
                            pending = self.authorities.reached().iter().map(|hint| hint.identity).collect();
                        }
                        farewell = (phase == Phase::Draining).then_some(current);
                        pause = RETRY_MIN;
                        next_round = self.next_round(now, &mut rng);
                        self.begin_round(now, &published, &bytes, &address, addresses);
                        named = Some(address);
                    }
                    Err(error) => self.say_problem(format!("{error:#}")),
                }
            }
            self.offer_to(&mut pending, &bytes).await;
            let failed = self.state.borrow().problem.is_some();
            let wait = if pending.is_empty() && !bytes.is_empty() && !failed {
                next_round.since(self.clock.wall()).max(RETRY_MIN)
            } else {
                let wait = pause.mul_f64(rng.random_range(0.5..1.0));
                pause = (pause * 2).min(RETRY_MAX);
                wait
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = self.keys.changed() => if changed.is_err() { return },
                changed = self.phase.changed() => if changed.is_err() { return },
                changed = self.address.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Once for each problem: the name of a host that cannot be resolved is asked for again and again.
    fn say_problem(&self, problem: String) {
        self.state.send_if_modified(|state| {
            let new = state.problem.as_ref() != Some(&problem);
            if new {
                // the problem names our own address
                tracing::warn!("no descriptor can be made; `shoal-node status` says why");
                state.problem = Some(problem);
            }
            new
        });
    }

    /// Whether it is time to publish again. A round further ahead than any can be was set by a clock that has been put back
    /// since: waiting for it would cost the node its place in the network.
    fn is_round_due(&self, now: UnixMillis, next_round: UnixMillis) -> bool {
        let longest = Duration::from_millis(self.schedule.epoch_ms.saturating_mul(2));
        now >= next_round || next_round.since(now) > longest
    }

    /// Half an epoch after the start of the current one (or the next, if that is over), plus up to an eighth so that not
    /// all nodes come at once.
    fn next_round(&self, now: UnixMillis, rng: &mut impl rand::CryptoRng) -> UnixMillis {
        let epoch_ms = self.schedule.epoch_ms;
        let offset = Duration::from_millis(epoch_ms / 2 + rng.random_range(0..=epoch_ms / 8));
        let current = self.schedule.epoch_at(now);
        let half = self.schedule.start(current).plus(Duration::from_millis(epoch_ms / 2));
        let epoch = if now < half { current } else { current.plus(1) };
        self.schedule.start(epoch).plus(offset)
    }

    /// A descriptor, and the addresses that it names.
    async fn descriptor(&self, offer: &Offer, address: &str, now: UnixMillis) -> Result<(Vec<u8>, Vec<SocketAddr>)> {
        let resolved = tokio::net::lookup_host(address)
            .await
            .with_context(|| format!("the public address {address} cannot be resolved"))?;
        let mut addresses: Vec<_> = resolved.collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        let descriptor = Descriptor {
            network: self.network,
            identity: self.identity.identity(),
            role: self.role,
            addresses: addresses.clone(),
            family: self.family,
            published: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mix_keys: offer.mix.clone(),
            envelope_keys: offer.envelope.clone(),
            // what was settled since the last descriptor: about one epoch
            loops: evidence(self.loops.lock().unwrap_or_else(PoisonError::into_inner).take_settled()),
            leaving: self.leaving.load(Ordering::Relaxed),
        };
        Ok((descriptor.sign(&self.identity), addresses))
    }

    fn begin_round(&self, now: UnixMillis, offer: &Offer, bytes: &[u8], address: &str, addresses: Vec<SocketAddr>) {
        let reached = self.authorities.reached();
        self.state.send_modify(|state| {
            let mut answers = std::mem::take(&mut state.answers);
            // one that has left accepts nothing any more
            answers.retain(|authority, _| reached.iter().any(|hint| hint.identity == *authority));
            *state = PublishState {
                published: now,
                covers: offer.mix.last().map_or(Epoch(0), |(epoch, _)| *epoch),
                address: address.to_owned(),
                addresses,
                authorities: reached.len(),
                answers,
                problem: None,
                descriptor: bytes.to_vec(),
            };
        });
    }

    /// Offers the descriptor to every authority that has not accepted it.
    async fn offer_to(&self, pending: &mut BTreeSet<Identity>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut asked = JoinSet::new();
        let reached = self.authorities.reached();
        // nobody waits for the answer of one that has left
        pending.retain(|identity| reached.iter().any(|hint| hint.identity == *identity));
        for hint in reached.into_iter().filter(|hint| pending.contains(&hint.identity)) {
            let authorities = Arc::clone(&self.authorities);
            let question = DirectoryQuestion::Publish(bytes.to_vec());
            asked.spawn(async move { (hint.identity, authorities.ask(&hint, &question).await) });
        }
        // one that does not answer holds up neither the others nor the next descriptor
        let patience = Duration::from_millis(self.schedule.epoch_ms / 8).clamp(PATIENCE.0, PATIENCE.1);
        let mut silent = pending.clone();
        let answers = async {
            while let Some(answered) = asked.join_next().await {
                // a task that panicked: as good as no answer
                let Ok((authority, answer)) = answered else { continue };
                silent.remove(&authority);
                let answer = match answer {
                    Ok(DirectoryAnswer::Accepted) => Answer::Accepted,
                    Ok(DirectoryAnswer::Refused(reason)) => Answer::Refused(printable(&reason)),
                    Ok(_) => Answer::Refused("it does not answer the question asked".to_owned()),
                    Err(error) => Answer::Silent(format!("{error:#}")),
                };
                if answer == Answer::Accepted {
                    self.loops.lock().unwrap_or_else(PoisonError::into_inner).settled_accepted();
                    pending.remove(&authority);
                }
                self.note(authority, answer);
            }
        };
        if timeout(patience, answers).await.is_err() {
            for authority in silent {
                self.note(authority, Answer::Silent("no answer in time".to_owned()));
            }
        }
    }

    fn note(&self, authority: Identity, answer: Answer) {
        self.state.send_modify(|state| {
            if let Some(reason) = answer.reason()
                && state.answers.get(&authority) != Some(&answer)
            {
                let reason = without_addresses(reason);
                tracing::warn!(%authority, %reason, "the descriptor is not accepted");
            }
            state.answers.insert(authority, answer);
        });
    }
}
