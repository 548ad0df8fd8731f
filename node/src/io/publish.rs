//! Publishing the node's descriptor: at the start, once an epoch, at once when a key had to be made anew, and a last time
//! when the node leaves.
//!
//! The last descriptor has a key for the current epoch only. An authority takes it, because it has a key that is good now,
//! and the next document is without the node, because it has none for then. An authority that does not get it lists the
//! node by its descriptor before as long as that has keys; so it is offered until every authority has taken it.

use crate::io::directory::Authorities;
use crate::io::host::{Clock, generator};
use crate::io::live_keys::KeySnapshot;
use crate::io::phase::Phase;
use crate::keys::EPOCHS_AHEAD;
use crate::loops::Loops;
use anyhow::{Context as _, Result};
use rand::RngExt as _;
use serde::Serialize;
use shoal_protocol::X25519Public;
use shoal_protocol::descriptor::{Descriptor, LoopEvidence, MAX_ADDRESSES, MAX_LOOPS};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::types::{Epoch, Hash, Identity, IdentityKey, Role, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PublishState {
    /// When it was made, in ms since 1970.
    pub published: UnixMillis,
    /// Last epoch it has keys for.
    pub covers: Epoch,
    /// Authorities that accepted it.
    pub accepted: usize,
    /// Authorities asked.
    pub authorities: usize,
    /// Answers of those that did not, by authority.
    pub refusals: BTreeMap<String, String>,
    /// The signed descriptor in hexadecimal digits.
    #[serde(skip)]
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
    /// `HOST:PORT` as configured.
    pub address: String,
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
        loop {
            let now = self.clock.wall();
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
                let due = self.is_round_due(now, next_round) || published.contradicts(&offer, current);
                (offer, due)
            };
            if due && !offer.mix.is_empty() {
                match self.descriptor(&offer, now).await {
                    Ok(made) => {
                        bytes = made;
                        published = offer;
                        // who has taken a farewell must not get one with a later key
                        if farewell.is_none() {
                            pending = self.authorities.reached().iter().map(|hint| hint.identity).collect();
                        }
                        farewell = (phase == Phase::Draining).then_some(current);
                        pause = RETRY_MIN;
                        next_round = self.next_round(now, &mut rng);
                        self.begin_round(now, &published, &bytes);
                    }
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "no descriptor can be made"),
                }
            }
            self.offer_to(&mut pending, &bytes).await;
            let wait = if pending.is_empty() && !bytes.is_empty() {
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
            }
        }
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

    async fn descriptor(&self, offer: &Offer, now: UnixMillis) -> Result<Vec<u8>> {
        let resolved = tokio::net::lookup_host(&self.address)
            .await
            .with_context(|| format!("the public address {} cannot be resolved", self.address))?;
        let mut addresses: Vec<_> = resolved.collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        let descriptor = Descriptor {
            network: self.network,
            identity: self.identity.identity(),
            role: self.role,
            addresses,
            family: self.family,
            published: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mix_keys: offer.mix.clone(),
            envelope_keys: offer.envelope.clone(),
            loops: self.evidence(),
            leaving: self.leaving.load(Ordering::Relaxed),
        };
        Ok(descriptor.sign(&self.identity))
    }

    /// What was settled since the last descriptor: about one epoch.
    fn evidence(&self) -> Vec<LoopEvidence> {
        let settled = self.loops.lock().unwrap_or_else(PoisonError::into_inner).take_settled();
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let evidence = settled.into_iter().map(|(peer, loops)| LoopEvidence {
            peer: Identity::from_bytes(peer),
            sent: count(loops.sent),
            returned: count(loops.returned),
        });
        let mut evidence: Vec<LoopEvidence> = evidence.collect();
        // when there is no room for all links, those that lost most; the order of a descriptor is that of the peers
        evidence.sort_by_key(|loops| std::cmp::Reverse(loops.sent.saturating_sub(loops.returned)));
        evidence.truncate(MAX_LOOPS);
        evidence.sort_by_key(|loops| loops.peer);
        evidence
    }

    fn begin_round(&self, now: UnixMillis, offer: &Offer, bytes: &[u8]) {
        self.state.send_modify(|state| {
            // the last answers stay visible until there are new ones
            let refusals = std::mem::take(&mut state.refusals);
            *state = PublishState {
                published: now,
                covers: offer.mix.last().map_or(Epoch(0), |(epoch, _)| *epoch),
                accepted: 0,
                authorities: self.authorities.reached().len(),
                refusals,
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
                let refusal = match answer {
                    Ok(DirectoryAnswer::Accepted) => None,
                    Ok(DirectoryAnswer::Refused(reason)) => Some(printable(&reason)),
                    Ok(_) => Some("it does not answer the question asked".to_owned()),
                    Err(error) => Some(format!("{error:#}")),
                };
                if refusal.is_none() {
                    self.loops.lock().unwrap_or_else(PoisonError::into_inner).settled_accepted();
                    pending.remove(&authority);
                }
                self.note(&authority, refusal);
            }
        };
        if timeout(patience, answers).await.is_err() {
            silent.iter().for_each(|authority| self.note(authority, Some("no answer in time".to_owned())));
        }
    }

    fn note(&self, authority: &Identity, refusal: Option<String>) {
        let name = authority.to_string();
        self.state.send_modify(|state| match refusal {
            None => {
                state.accepted += 1;
                state.refusals.remove(&name);
            }
            Some(reason) => {
                if state.refusals.get(&name) != Some(&reason) {
                    tracing::warn!(authority = %name, %reason, "the descriptor is not accepted");
                }
                state.refusals.insert(name, reason);
            }
        });
    }
}

/// An authority's text, as it may go to a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// Whether the last descriptor has to be made: it was not yet, or its epoch is over and somebody has not taken it.
fn is_farewell_due(made: Option<Epoch>, pending: &BTreeSet<Identity>, current: Epoch) -> bool {
    made.is_none_or(|made| made != current && !pending.is_empty())
}

/// The public keys of one descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Offer {
    mix: Vec<(Epoch, X25519Public)>,
    envelope: Vec<(Epoch, X25519Public)>,
}

impl Offer {
    /// Keys of some epochs.
    fn of(keys: &KeySnapshot, range: RangeInclusive<Epoch>) -> Self {
        Self {
            mix: keys.mix.range(range.clone()).map(|(epoch, key)| (*epoch, *key)).collect(),
            envelope: keys.envelope.range(range).map(|(epoch, key)| (*epoch, *key)).collect(),
        }
    }

    /// Whether this offer names a key for an epoch to come (or the current one) that the node no longer holds: then the
    /// new one must be known at once. An epoch that only `now` has waits for the next round.
    fn contradicts(&self, now: &Self, current: Epoch) -> bool {
        let differ = |old: &[(Epoch, X25519Public)], new: &[(Epoch, X25519Public)]| {
            old.iter().filter(|(epoch, _)| *epoch >= current).any(|entry| !new.contains(entry))
        };
        differ(&self.mix, &now.mix) || differ(&self.envelope, &now.envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(epochs: RangeInclusive<u64>, fill: u8) -> KeySnapshot {
        let mix = epochs.map(|epoch| (Epoch(epoch), X25519Public::from_bytes([fill; 32]))).collect();
        KeySnapshot { mix, ..KeySnapshot::default() }
    }

    fn offered(epochs: RangeInclusive<u64>, fill: u8, current: u64) -> Offer {
        Offer::of(&snapshot(epochs, fill), Epoch(current)..=Epoch(current).plus(EPOCHS_AHEAD))
    }

    #[test]
    fn four_epochs_are_offered_and_only_a_changed_key_is_urgent() {
        let first = offered(4..=8, 1, 5);
        assert_eq!(first.mix.iter().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [5, 6, 7, 8]);
        let later = offered(5..=9, 1, 6);
        assert!(!first.contradicts(&later, Epoch(6)), "the passing of time is no change");
        let anew = offered(5..=9, 2, 6);
        assert!(first.contradicts(&anew, Epoch(6)));
        assert!(!first.contradicts(&anew, Epoch(9)), "epochs that are over do not matter");
    }

    #[test]
    fn a_farewell_is_made_once_and_again_only_for_who_did_not_take_it() {
        let (nobody, somebody) = (BTreeSet::new(), BTreeSet::from([Identity::from_bytes([1; 32])]));
        assert!(is_farewell_due(None, &nobody, Epoch(5)));
        assert!(!is_farewell_due(Some(Epoch(5)), &somebody, Epoch(5)));
        assert!(!is_farewell_due(Some(Epoch(5)), &nobody, Epoch(6)), "a later key would list the node again");
        assert!(is_farewell_due(Some(Epoch(5)), &somebody, Epoch(6)));
    }
}
