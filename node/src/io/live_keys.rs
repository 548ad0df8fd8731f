//! The keys as the workers use them, and the task that makes, publishes, opens and erases them on time.

use crate::io::host::{Clock, generator};
use crate::io::key_files::{KeyFiles, Memories};
use crate::io::phase::{self, Phase};
use crate::io::tag_log::{LogError, Memory};
use crate::keys::{EpochKeys, KeyRing, OfEpoch, Window, in_order};
use crate::portions::{Parties, Party};
use crate::replay::{Insertion, Tag};
use crate::scrub;
use crate::unwrap::MixKey;
use anyhow::Result;
use arc_swap::ArcSwap;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::types::{Epoch, UnixMillis};
use shoal_protocol::{X25519Public, X25519Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The keys of one epoch with everything that lives and dies with them. What was seen under a key is part of it, so that
/// no clock, wherever it steps, can make a key outlive its memory.
#[derive(Debug)]
pub struct LiveKey {
    window: Window,
    keys: Arc<EpochKeys>,
    replay: Memory,
    seen: Option<Arc<Memory>>,
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
    /// The keys of an epoch, accepted inside `window`.
    pub fn new(window: Window, keys: Arc<EpochKeys>, memories: Memories) -> Self {
        Self { window, keys, replay: memories.replay, seen: memories.seen.map(Arc::new) }
    }

    /// The secrets. Hold them for one packet or envelope only: a key that is erased must not live on in a copy.
    pub const fn keys(&self) -> &Arc<EpochKeys> {
        &self.keys
    }

    /// The envelopes seen under the envelope key; stores only.
    pub const fn seen(&self) -> Option<&Arc<Memory>> {
        self.seen.as_ref()
    }

    /// Inserts the replay tag of a packet that `party` brought. Atomic: of two packets with one tag exactly one is fresh.
    pub fn insert(&self, party: Party, among: Parties, replay_tag: &[u8; 32]) -> (Insertion, Tag) {
        self.replay.insert_from(party, among, replay_tag)
    }

    /// Whether `party` may bring any packet more under this key.
    pub fn has_room_for(&self, party: Party, among: Parties) -> bool {
        self.replay.has_room_for(party, among)
    }

    /// Writes the tags of fresh packets to the log; only then may they leave.
    pub fn log(&self, tags: &[Tag]) -> Result<(), LogError> {
        self.replay.log(tags)
    }

    /// Share of its capacity that the fuller memory of this epoch takes.
    pub fn fill_ratio(&self) -> f64 {
        self.replay.fill().1.max(self.seen.as_ref().map_or(0.0, |seen| seen.fill().1))
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
    /// Replaces the keys.
    pub fn replace(&self, keys: Vec<Arc<LiveKey>>) {
        self.keys.store(Arc::new(keys));
    }

    /// All keys, oldest first.
    pub fn all(&self) -> Arc<Vec<Arc<LiveKey>>> {
        self.keys.load_full()
    }

    /// The keys accepted at `now`, in the order in which to try them.
    pub fn accepted(all: &[Arc<LiveKey>], now: UnixMillis, current: Epoch) -> Vec<&LiveKey> {
        in_order(current, all.iter().map(|key| &**key).filter(|key| key.window.contains(now)))
    }

    /// A log of this epoch was found torn: its keys must go.
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
    /// Where the workers and the store read.
    pub live: Arc<LiveKeys>,
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
        let now = self.clock.wall();
        self.start_at(now)
    }

    fn start_at(self, now: UnixMillis) -> Result<KeyKeeper> {
        let ring = KeyRing::new(self.with_envelope);
        let mut keeper = KeyKeeper { task: self, ring, live: BTreeMap::new(), unerased: BTreeSet::new() };
        for restored in keeper.task.files.restore(&mut keeper.ring)? {
            keeper.adopt(restored.epoch, restored.memories);
        }
        scrub::stack();
        keeper.turn(now)?;
        Ok(keeper)
    }
}

impl KeyKeeper {
    fn adopt(&mut self, epoch: Epoch, memories: Memories) {
        let KeyTask { schedule, parameters, .. } = &self.task;
        let window = Window::of(epoch, schedule, parameters.grace(), parameters.skew());
        if let Some(keys) = self.ring.get(epoch) {
            self.live.insert(epoch, Arc::new(LiveKey::new(window, Arc::clone(keys), memories)));
        }
    }

    /// Does what is due at `now`: erases what is over or torn, makes what is missing, publishes.
    fn turn(&mut self, now: UnixMillis) -> Result<()> {
        let done = self.turn_keys(now);
        // keys that were made, written or derived from have been on the stack of this thread
        scrub::stack();
        done
    }

    fn turn_keys(&mut self, now: UnixMillis) -> Result<()> {
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
                Ok(memories) => self.adopt(keys.epoch, memories),
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
        self.task.live.replace(self.live.values().cloned().collect());
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
            if let Err(error) = self.turn(self.task.clock.wall()) {
                tracing::error!(error = format!("{error:#}"), "mix keys cannot be written or erased; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::types::{Hash, StoreIndex};
    use std::fs;
    use std::path::Path;

    const EPOCH_MS: u64 = 1_000_000;

    /// The middle of an epoch.
    fn at(epoch: u64) -> UnixMillis {
        UnixMillis(epoch * EPOCH_MS + EPOCH_MS / 2)
    }

    /// The key task of a store that starts in epoch 5.
    fn keeper(dir: &Path) -> KeyKeeper {
        let task = KeyTask {
            files: KeyFiles::new(dir, Hash::from_bytes([1; 32]), 1_000),
            schedule: Schedule { genesis: UnixMillis(0), epoch_ms: EPOCH_MS },
            parameters: Parameters::test_network(),
            with_envelope: true,
            clock: Clock::start(),
            live: Arc::default(),
            snapshot: watch::Sender::default(),
        };
        task.start_at(at(5)).expect("starts")
    }

    fn key_files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        names.retain(|name| name.ends_with(".key"));
        names.sort();
        names
    }

    #[test]
    fn a_key_that_cannot_be_erased_is_tried_again_and_does_not_keep_the_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = keeper(dir.path());
        assert_eq!(key_files(dir.path()), ["mix-5.key", "mix-6.key", "mix-7.key", "mix-8.key"]);
        // a directory cannot be opened for writing
        let stuck = dir.path().join("mix-5.key");
        let kept = dir.path().join("kept");
        fs::rename(&stuck, &kept).expect("renamed");
        fs::create_dir(&stuck).expect("made");
        assert!(keeper.turn(at(7)).is_err());
        assert_eq!(keeper.live.keys().map(|epoch| epoch.0).collect::<Vec<_>>(), [7, 8, 9, 10]);
        assert_eq!(
            key_files(dir.path()),
            ["mix-10.key", "mix-5.key", "mix-7.key", "mix-8.key", "mix-9.key"],
            "6 is gone, 5 is not"
        );
        fs::remove_dir(&stuck).expect("removed");
        fs::rename(&kept, &stuck).expect("renamed");
        keeper.turn(at(7)).expect("now it can be erased");
        assert_eq!(key_files(dir.path()), ["mix-10.key", "mix-7.key", "mix-8.key", "mix-9.key"]);
    }

    #[test]
    fn a_clock_that_steps_back_and_forth_empties_no_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = keeper(dir.path());
        let see = |keeper: &KeyKeeper| {
            let all = keeper.task.live.all();
            let first = *LiveKeys::accepted(&all, at(5), Epoch(5)).first().expect("a key");
            let among = Parties { nodes: 1, clients: false };
            let inserted = first.insert(Party::Courier(StoreIndex(1)), among, &[1; 32]).0;
            (first.epoch(), inserted, first.seen().expect("a store's").insert(&[1; 32]).0)
        };
        let (fresh, repeated) = (Insertion::Fresh, Insertion::Repeated);
        assert_eq!(see(&keeper), (Epoch(5), fresh, fresh));
        // an epoch back, where the key of epoch 5 is held but not accepted
        keeper.turn(at(4)).expect("turns");
        let all = keeper.task.live.all();
        assert!(LiveKeys::accepted(&all, at(4), Epoch(4)).iter().all(|key| key.epoch() == Epoch(4)));
        keeper.turn(at(5)).expect("turns");
        assert_eq!(see(&keeper), (Epoch(5), repeated, repeated));
        // far ahead, where it is erased: what comes back is another key
        let before = keeper.live[&Epoch(5)].keys().mix.public();
        keeper.turn(at(50)).expect("turns");
        keeper.turn(at(5)).expect("turns");
        assert_ne!(keeper.live[&Epoch(5)].keys().mix.public(), before);
        assert_eq!(see(&keeper), (Epoch(5), fresh, fresh));
    }

    #[test]
    fn a_clock_that_was_ahead_leaves_no_keys_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = keeper(dir.path());
        for ahead in [500, 5_000, 50_000] {
            keeper.turn(at(ahead)).expect("turns");
        }
        keeper.turn(at(5)).expect("turns");
        assert_eq!(key_files(dir.path()), ["mix-5.key", "mix-6.key", "mix-7.key", "mix-8.key"]);
    }
}
