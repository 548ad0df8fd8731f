//! The keys as the workers use them, and the task that makes, publishes, opens and erases them on time.

use crate::io::host::{Clock, generator};
use crate::io::key_files::{KeyFiles, LogError, ReplayLog};
use crate::io::phase::{self, Phase};
use crate::io::store_seam::EnvelopeKeys;
use crate::keys::{EpochKeys, KeyRing, KeyWindow, OfEpoch, Window, in_order};
use crate::replay::{Insertion, ReplaySet, Tag};
use crate::unwrap::MixKey;
use anyhow::Result;
use arc_swap::ArcSwap;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::types::{Epoch, UnixMillis};
use shoal_protocol::{X25519Public, X25519Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A mix key with everything that lives and dies with it.
#[derive(Debug)]
pub struct LiveKey {
    window: Window,
    keys: Arc<EpochKeys>,
    replay: Mutex<Replay>,
}

/// What was seen under one mix key: in memory, and in the log.
#[derive(Debug)]
struct Replay {
    set: ReplaySet,
    log: ReplayLog,
}

impl OfEpoch for LiveKey {
    fn epoch(&self) -> Epoch {
        self.keys.epoch
    }
}

impl MixKey for LiveKey {
    fn secret(&self) -> &X25519Secret {
        &self.keys.mix
    }
}

impl LiveKey {
    fn replay(&self) -> MutexGuard<'_, Replay> {
        // insertion and appending leave set and log usable wherever they stop
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts a packet's replay tag. Atomic: of two packets with one tag exactly one is fresh.
    pub fn insert(&self, replay_tag: &[u8; 32]) -> (Insertion, Tag) {
        let mut replay = self.replay();
        let tag = replay.set.tag(replay_tag);
        (replay.set.insert(tag), tag)
    }

    /// Writes the tags of fresh packets to the log; only then may they leave.
    pub fn log(&self, tags: &[Tag]) -> Result<(), LogError> {
        self.replay().log.append(tags)
    }

    /// Packets seen and the share of the capacity they take.
    pub fn fill(&self) -> (usize, f64) {
        let replay = self.replay();
        (replay.set.len(), replay.set.fill_ratio())
    }
}

/// The keys of all epochs held, as the workers read them.
#[derive(Debug, Default)]
pub struct LiveKeys {
    keys: ArcSwap<Vec<Arc<LiveKey>>>,
    torn: Mutex<Vec<Epoch>>,
    torn_notify: Notify,
}

impl LiveKeys {
    /// All keys, oldest first.
    pub fn all(&self) -> Arc<Vec<Arc<LiveKey>>> {
        self.keys.load_full()
    }

    /// The keys accepted at `now`, in the order in which to try them.
    pub fn accepted(all: &[Arc<LiveKey>], now: UnixMillis, current: Epoch) -> Vec<&LiveKey> {
        in_order(current, all.iter().map(|key| &**key).filter(|key| key.window.contains(now)))
    }

    /// A worker found the log of this epoch torn: its key must go.
    pub fn report_torn(&self, epoch: Epoch) {
        let mut torn = self.torn.lock().unwrap_or_else(PoisonError::into_inner);
        if !torn.contains(&epoch) {
            torn.push(epoch);
        }
        self.torn_notify.notify_one();
    }

    fn take_torn(&self) -> Vec<Epoch> {
        std::mem::take(&mut self.torn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What others may know about the keys: what a descriptor offers, and what is held until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySnapshot {
    /// Mix keys held, by epoch.
    pub mix: BTreeMap<Epoch, X25519Public>,
    /// Envelope keys held, by epoch; stores only.
    pub envelope: BTreeMap<Epoch, X25519Public>,
    /// When the secrets of each epoch are erased.
    pub erased_at: BTreeMap<Epoch, UnixMillis>,
}

/// Everything the key task works with.
pub struct KeyTask {
    /// Keys on disk.
    pub files: KeyFiles,
    /// Epochs of the network.
    pub schedule: Schedule,
    /// Genesis parameters: grace and skew follow them.
    pub parameters: Parameters,
    /// Whether this is a store.
    pub with_envelope: bool,
    /// Time.
    pub clock: Clock,
    /// Where the workers read.
    pub live: Arc<LiveKeys>,
    /// Where the store reads.
    pub envelope: Arc<EnvelopeKeys>,
    /// Where everybody else reads.
    pub snapshot: watch::Sender<KeySnapshot>,
}

/// The key task after its start: it holds the ring.
pub struct KeyKeeper {
    task: KeyTask,
    ring: KeyRing,
    live: BTreeMap<Epoch, Arc<LiveKey>>,
    /// Epochs whose keys are over but still on disk, because erasing failed. At most the handful a ring ever holds.
    unerased: BTreeSet<Epoch>,
}

impl KeyTask {
    /// Restores what the runtime directory holds, makes what is missing and shows it to everybody.
    pub fn start(self) -> Result<KeyKeeper> {
        let ring = KeyRing::new(self.with_envelope);
        let mut keeper = KeyKeeper { task: self, ring, live: BTreeMap::new(), unerased: BTreeSet::new() };
        for restored in keeper.task.files.restore(&mut keeper.ring)? {
            keeper.adopt(restored.epoch, restored.set, restored.log);
        }
        keeper.turn()?;
        Ok(keeper)
    }
}

impl KeyKeeper {
    fn adopt(&mut self, epoch: Epoch, set: ReplaySet, log: ReplayLog) {
        let KeyTask { schedule, parameters, .. } = &self.task;
        let window = Window::of(epoch, schedule, parameters.grace(), parameters.skew());
        if let Some(keys) = self.ring.get(epoch) {
            let live = LiveKey { window, keys: Arc::clone(keys), replay: Mutex::new(Replay { set, log }) };
            self.live.insert(epoch, Arc::new(live));
        }
    }

    /// Does what is due now: erases what is over or torn, makes what is missing, publishes.
    fn turn(&mut self) -> Result<()> {
        let now = self.task.clock.wall();
        let current = self.task.schedule.epoch_at(now);
        let mut gone = self.ring.expire(now, &self.task.schedule, self.task.parameters.grace());
        for epoch in self.task.live.take_torn() {
            if self.ring.destroy(epoch) {
                tracing::warn!(%epoch, "the replay log is torn: the mix key is destroyed and made anew");
                gone.push(epoch);
            }
        }
        if !gone.is_empty() {
            gone.iter().for_each(|epoch| drop(self.live.remove(epoch)));
            // out of the workers' and the store's sight first, then off the disk
            self.publish();
        }
        // one that cannot be erased must not keep the others on disk; it is tried again at every turn
        self.unerased.extend(gone);
        let mut failed = None;
        for epoch in std::mem::take(&mut self.unerased) {
            if let Err(error) = self.task.files.erase(epoch) {
                self.unerased.insert(epoch);
                failed = Some(error);
            }
        }
        for keys in self.ring.fill(current, &mut generator()) {
            if self.unerased.contains(&keys.epoch) {
                // the torn key of this epoch still lies where the new one would
                self.ring.destroy(keys.epoch);
                continue;
            }
            match self.task.files.create(&keys) {
                Ok((set, log)) => self.adopt(keys.epoch, set, log),
                Err(error) => {
                    // not on disk, so not to be used: tried again at the next turn
                    self.ring.destroy(keys.epoch);
                    self.publish();
                    return Err(error);
                }
            }
        }
        self.publish();
        failed.map_or(Ok(()), Err)
    }

    fn publish(&self) {
        self.task.live.keys.store(Arc::new(self.live.values().cloned().collect()));
        if self.task.with_envelope {
            let windows = self.live.values();
            let windows = windows.map(|live| KeyWindow { window: live.window, keys: Arc::clone(&live.keys) }).collect();
            self.task.envelope.replace(windows);
        }
        let public = |pick: fn(&EpochKeys) -> Option<X25519Public>| {
            self.live.values().filter_map(|live| Some((live.keys.epoch, pick(&live.keys)?))).collect()
        };
        let snapshot = KeySnapshot {
            mix: public(|keys| Some(keys.mix.public())),
            envelope: public(|keys| keys.envelope.as_ref().map(X25519Secret::public)),
            erased_at: self.live.values().map(|live| (live.keys.epoch, live.window.until)).collect(),
        };
        self.task.snapshot.send_if_modified(|held| {
            let changed = *held != snapshot;
            *held = snapshot;
            changed
        });
    }

    /// Runs until the process stops. Looks at least once a second, because the wall clock may step.
    pub async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        const LOOK: Duration = Duration::from_secs(1);
        let live = Arc::clone(&self.task.live);
        loop {
            let now = self.task.clock.wall();
            let next_epoch = self.task.schedule.start(self.task.schedule.epoch_at(now).plus(1));
            let next_erasure = self.live.values().map(|live| live.window.until).min().unwrap_or(next_epoch);
            let wait = next_epoch.min(next_erasure).since(now).min(LOOK).max(Duration::from_millis(1));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = live.torn_notify.notified() => {}
                () = phase::reached(&mut phase, Phase::Stopping) => return,
            }
            if let Err(error) = self.turn() {
                tracing::error!(error = format!("{error:#}"), "mix keys cannot be written or erased; trying again");
            }
        }
    }
}
