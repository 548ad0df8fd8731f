//! The unwrap workers: threads that take packets from all links, unwrap them and hand them on.
//!
//! Frames of all links meet in one bounded channel per worker. A worker takes what is there, at most eight packets,
//! unwraps each, writes the batch's replay tags to the log in one go, and only then lets the packets go on. The order of
//! checks is that of [`crate::unwrap`].

use crate::drops::DropReason;
use crate::heartbeat::LOOK;
use crate::io::counters::Counters;
use crate::io::delay_thread::{DelayHandle, Delayed};
use crate::io::host::Clock;
use crate::io::live_keys::{LiveKey, LiveKeys};
use crate::io::store_seam::Request;
use crate::io::tag_log::LogError;
use crate::loops::Loops;
use crate::replay::{Insertion, Tag};
use crate::scrub;
use crate::unwrap::{Origin, Outcome, unwrap};
use crate::view::View;
use arc_swap::ArcSwapOption;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::sphinx::Packet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Packets a worker takes at a time. Eight cost about a millisecond: none waits longer for its tag to be written.
const BATCH: usize = 8;

/// A packet as it came from a link.
#[derive(Debug)]
pub struct Incoming {
    /// The packet.
    pub packet: Packet,
    /// When it was read from the link (monotonic): its mixing delay counts from here.
    pub arrived: Duration,
    /// Whose link.
    pub origin: Origin,
}

/// Gives packets to the workers. Clones share them.
#[derive(Debug, Clone)]
pub struct Workers {
    channels: Arc<Vec<SyncSender<Incoming>>>,
    next: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Workers {
    /// Gives a packet to the next worker in turn. Never waits: a full worker means a counted drop, because a packet that
    /// waits here would leave too late.
    pub fn submit(&self, incoming: Incoming) {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len().max(1);
        match self.channels.get(turn).map(|worker| worker.try_send(incoming)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => self.counters.drops.count(DropReason::WorkerQueueFull),
            Some(Err(TrySendError::Disconnected(_))) | None => self.counters.drops.count(DropReason::Stopping),
        }
    }
}

/// What a worker works with.
#[derive(Clone)]
pub struct WorkerContext {
    /// Keys with their replay sets.
    pub keys: Arc<LiveKeys>,
    /// The network as this node sees it; `None` while it has no place in it.
    pub view: Arc<ArcSwapOption<View>>,
    /// Epochs.
    pub schedule: Schedule,
    /// Time.
    pub clock: Clock,
    /// Where packets wait.
    pub delay: DelayHandle,
    /// This node's own loops.
    pub loops: Arc<Mutex<Loops>>,
    /// Where requests go; stores only.
    pub courier: Option<mpsc::Sender<Request>>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Called when a panic was contained.
    pub on_panic: Arc<dyn Fn() + Send + Sync>,
}

/// Starts `count` workers with channels of `queue` packets each. They end when every [`Workers`] handle is dropped.
pub fn start(count: usize, queue: usize, context: &WorkerContext) -> std::io::Result<(Workers, Vec<JoinHandle<()>>)> {
    let mut channels = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for number in 0..count.max(1) {
        let (sender, receiver) = sync_channel(queue);
        let context = context.clone();
        let name = format!("unwrap-{number}");
        threads.push(std::thread::Builder::new().name(name).spawn(move || context.work(&receiver))?);
        channels.push(sender);
    }
    let counters = Arc::clone(&context.counters);
    Ok((Workers { channels: Arc::new(channels), next: Arc::default(), counters }, threads))
}

/// A packet that passed every check and waits for its tag to be written.
struct Passed {
    key: usize,
    arrived: Duration,
    outcome: Outcome,
}

impl WorkerContext {
    fn work(&self, packets: &Receiver<Incoming>) {
        let mut batch = Vec::with_capacity(BATCH);
        let heart = self.counters.hearts.watch("unwrap worker", self.clock.monotonic());
        loop {
            heart.beat(self.clock.monotonic());
            match packets.recv_timeout(LOOK) {
                Ok(first) => batch.push(first),
                Err(RecvTimeoutError::Timeout) => {
                    // traffic overwrites what keys leave here; without any, it would stay
                    scrub::stack();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            batch.extend(packets.try_iter().take(BATCH - 1));
            let count = batch.len() as u64;
            let taken = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            if catch_unwind(AssertUnwindSafe(|| self.batch(taken))).is_err() {
                // which of them passed on is unknown: all are counted
                self.counters.drops.count_many(DropReason::Internal, count);
                (self.on_panic)();
            }
        }
    }

    fn batch(&self, batch: Vec<Incoming>) {
        let now = self.clock.wall();
        let all = self.keys.all();
        let keys = LiveKeys::accepted(&all, now, self.schedule.epoch_at(now));
        let view = self.view.load();
        let mut tags: Vec<Vec<Tag>> = vec![Vec::new(); keys.len()];
        let mut passed = Vec::with_capacity(batch.len());
        for incoming in batch {
            match self.check(incoming, &keys, view.as_deref(), &mut tags) {
                Ok(good) => passed.push(good),
                Err(reason) => self.counters.drops.count(reason),
            }
        }
        let logged: Vec<bool> = keys.iter().zip(&tags).map(|(key, tags)| self.log(key, tags)).collect();
        for Passed { key, arrived, outcome } in passed {
            if logged.get(key) == Some(&true) {
                self.pass_on(arrived, outcome, view.as_deref());
            } else {
                self.counters.drops.count(DropReason::ReplayLogFailed);
            }
        }
    }

    fn check(
        &self,
        incoming: Incoming,
        keys: &[&LiveKey],
        view: Option<&View>,
        tags: &mut [Vec<Tag>],
    ) -> Result<Passed, DropReason> {
        let Incoming { packet, arrived, origin } = incoming;
        let mut key = 0;
        let insert = |fitted: &LiveKey, replay_tag: &[u8; 32]| {
            key = keys.iter().position(|key| std::ptr::eq(*key, fitted)).ok_or(DropReason::Internal)?;
            match fitted.insert(replay_tag) {
                (Insertion::Fresh, tag) => tags.get_mut(key).ok_or(DropReason::Internal)?.push(tag),
                (Insertion::Repeated, _) => return Err(DropReason::Replayed),
                (Insertion::Full, _) => return Err(DropReason::ReplaySetFull),
            }
            Ok(())
        };
        let outcome = unwrap(&packet, origin, keys, view.ok_or(DropReason::NoConsensus)?, insert)?;
        Ok(Passed { key, arrived, outcome })
    }

    fn log(&self, key: &LiveKey, tags: &[Tag]) -> bool {
        use crate::keys::OfEpoch as _;
        if tags.is_empty() {
            return true;
        }
        match key.log(tags) {
            Ok(()) => true,
            Err(LogError::Unwritten(_)) => false,
            Err(LogError::Torn) => {
                self.keys.report_torn(key.epoch());
                false
            }
        }
    }

    fn pass_on(&self, arrived: Duration, outcome: Outcome, view: Option<&View>) {
        match outcome {
            Outcome::Forward { to, delay, packet } => self.delay.push(Delayed { packet, arrived, delay, to }),
            Outcome::Final { identifier, payload } => {
                if self.is_own_loop(&identifier) {
                    return;
                }
                let reason = match (&self.courier, view.map(View::is_store)) {
                    (Some(courier), Some(true)) => match payload.open() {
                        Ok(plaintext) => {
                            match courier.try_send(Request { plaintext: Zeroizing::new(plaintext), arrived }) {
                                Ok(()) => return,
                                Err(mpsc::error::TrySendError::Full(_)) => DropReason::CourierQueueFull,
                                Err(mpsc::error::TrySendError::Closed(_)) => DropReason::Stopping,
                            }
                        }
                        Err(_) => DropReason::TamperedPayload,
                    },
                    _ => DropReason::UnexpectedFinal,
                };
                self.counters.drops.count(reason);
            }
        }
    }

    fn is_own_loop(&self, identifier: &[u8; 16]) -> bool {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let own = loops.returned(identifier, self.clock.monotonic());
        if own {
            *self.counters.loops.lock().unwrap_or_else(PoisonError::into_inner) = loops.total();
        }
        own
    }
}
