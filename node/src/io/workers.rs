//! The workers: threads, one a core, that take packets from all links, unwrap them, hold them for their mixing delay and
//! send them on.
//!
//! A worker shares nothing with the others but the keys with their replay sets: it has an intake of its own
//! ([`crate::intake`]), a delay queue of its own ([`crate::mix`]), and sleeps until a packet comes or one is due, in a
//! timed wait of its thread, because the async runtime's timer is 1 to 2 ms late. It takes what is there, at most eight
//! packets, unwraps them in the order of checks of [`crate::unwrap`], writes the batch's replay tags to the log in one go,
//! and only then lets them go on. Between the packets of a batch it looks at what is due (decision 0004).

use crate::drops::DropReason;
use crate::io::backlog::Backlog;
use crate::io::counters::Counters;
use crate::io::egress::Egress;
use crate::io::host::{Clock, sharp_timer};
use crate::io::lane::{Incoming, Lane, Taken};
use crate::io::lateness::{Collected, Lateness};
use crate::io::live_keys::{LiveKey, LiveKeys};
use crate::io::store_seam::Request;
use crate::io::tag_log::LogError;
use crate::loops::Loops;
use crate::mix::{DelayQueue, Released};
use crate::onion::{OneByOne, Onion};
use crate::portions::Party;
use crate::replay::{Insertion, Tag};
use crate::scrub;
use crate::unwrap::{Next, Outcome, unwrap};
use crate::view::View;
use arc_swap::ArcSwapOption;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::sphinx::{Packet, Payload};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Packets a worker takes at a time. Eight cost about a millisecond one by one: none waits longer for its tag to be
/// written.
const GATHER: usize = 8;
/// How often a worker looks around when nothing is due, and shows the lateness it collected.
const IDLE: Duration = Duration::from_millis(500);

/// Gives packets to the workers. Clones share them; when the last is dropped, the workers end with what they hold.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Lanes>);

#[derive(Debug)]
struct Lanes {
    lanes: Vec<Arc<Lane>>,
    /// Numbers for links.
    links: AtomicU64,
    counters: Arc<Counters>,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.close());
    }
}

impl Workers {
    /// The way in for one link, of `party`.
    pub fn way_in(&self, party: Party) -> WayIn {
        let link = self.0.links.fetch_add(1, Ordering::Relaxed);
        WayIn { workers: self.clone(), party, link, turn: link as usize }
    }
}

/// The way in for one link: its packets go to the workers in turn, and wait behind the same link's only.
#[derive(Debug)]
pub struct WayIn {
    workers: Workers,
    party: Party,
    link: u64,
    turn: usize,
}

impl WayIn {
    /// Gives packets that were read at `arrived` to the next worker. Never waits: what finds no room is dropped and counted,
    /// because a packet that waits here would leave too late.
    pub fn submit(&mut self, arrived: Duration, packets: impl ExactSizeIterator<Item = Packet>) {
        let Lanes { lanes, counters, .. } = &*self.workers.0;
        counters.received.fetch_add(packets.len() as u64, Ordering::Relaxed);
        self.turn = self.turn.wrapping_add(1);
        let Some(lane) = lanes.get(self.turn % lanes.len().max(1)) else { return };
        let party = self.party;
        let refused = lane.push(self.link, packets.map(|packet| Incoming { packet, arrived, party }));
        counters.drops.count_many(DropReason::WorkerQueueFull, refused);
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
    /// Where packets go after their delay.
    pub egress: Egress,
    /// Lateness of released packets.
    pub lateness: Arc<Lateness>,
    /// This node's own loops.
    pub loops: Arc<Mutex<Loops>>,
    /// Where requests go; stores only.
    pub courier: Option<mpsc::Sender<Request>>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// How far behind they are, for the runtime.
    pub backlog: Backlog,
    /// Called when a panic was contained.
    pub on_panic: Arc<dyn Fn() + Send + Sync>,
}

/// How many workers there are and what each may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Threads.
    pub workers: usize,
    /// Packets waiting to be unwrapped, per worker.
    pub intake_packets: usize,
    /// Packets in the delay queues of all workers together.
    pub delay_queue_packets: usize,
}

/// Starts the workers. They end when every [`Workers`] handle is dropped and their delay queues are empty.
pub fn start(size: Size, context: &WorkerContext) -> std::io::Result<(Workers, Vec<JoinHandle<()>>)> {
    let count = size.workers.max(1);
    let mut lanes = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for number in 0..count {
        let clients = context.egress.sessions.is_some();
        let lane = Arc::new(Lane::new(size.intake_packets, clients, context.backlog.clone()));
        let worker = Worker {
            context: context.clone(),
            onion: OneByOne,
            collected: context.lateness.collect(),
            queue: DelayQueue::new(size.delay_queue_packets.div_ceil(count)),
            queued: 0,
            looked: Duration::ZERO,
        };
        let own = Arc::clone(&lane);
        threads.push(std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || worker.run(&own))?);
        lanes.push(lane);
    }
    let counters = Arc::clone(&context.counters);
    Ok((Workers(Arc::new(Lanes { lanes, links: AtomicU64::new(0), counters })), threads))
}

/// A packet that passed every check and waits for its tag to be written.
struct Passed {
    key: usize,
    arrived: Duration,
    outcome: Outcome,
}

struct Worker<O> {
    context: WorkerContext,
    onion: O,
    queue: DelayQueue<Packet, Next>,
    /// Length of the queue as it was counted last.
    queued: usize,
    collected: Collected,
    /// When it looked around last.
    looked: Duration,
}

impl<O: Onion> Worker<O> {
    fn run(mut self, lane: &Lane) {
        sharp_timer();
        let mut batch = Vec::with_capacity(GATHER);
        let heart = self.context.counters.hearts.watch("worker", self.context.clock.monotonic());
        loop {
            self.contained(1, Self::release);
            let now = self.context.clock.monotonic();
            heart.beat(now);
            if now.saturating_sub(self.looked) >= IDLE {
                self.looked = now;
                self.context.lateness.show(&mut self.collected);
                // traffic overwrites what keys leave here; without any, it would stay
                scrub::stack();
            }
            let patience = self.queue.next_due().map_or(IDLE, |due| due.saturating_sub(now)).min(IDLE);
            match lane.take(&mut batch, GATHER, patience) {
                Taken::AtOnce => self.give_way(),
                Taken::Waited => {}
                Taken::Closed if self.queue.is_empty() => break,
                Taken::Closed => {}
            }
            if !batch.is_empty() {
                let taken = std::mem::replace(&mut batch, Vec::with_capacity(GATHER));
                // if it panics it is unknown which of them passed: all are counted
                self.contained(taken.len() as u64, |worker| worker.batch(taken));
            }
        }
        self.context.lateness.show(&mut self.collected);
    }

    /// Between two packets: on a core that the runtime shares, what it is to send would wait for the end of this thread's
    /// turn. When packets wait in numbers, the turn is theirs.
    fn give_way(&self) {
        if !self.context.backlog.is_behind() {
            std::thread::yield_now();
        }
    }

    /// A panic costs the packets in hand; the worker and its delay queue live on.
    fn contained(&mut self, at_stake: u64, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.context.counters.drops.count_many(DropReason::Internal, at_stake);
            (self.context.on_panic)();
        }
    }

    /// Sends on everything that is due.
    fn release(&mut self) {
        let Self { context, queue, collected, .. } = self;
        while let Some(Released { packet, to, due }) = queue.poll(context.clock.monotonic()) {
            context.lateness.observe(collected, context.clock.monotonic().saturating_sub(due));
            context.egress.send(to, packet);
        }
        // the sum of all workers' differences is the sum of their queues; a negative one wraps round and back
        let counted = &context.counters.delay_queue;
        counted.fetch_add((queue.len() as u64).wrapping_sub(self.queued as u64), Ordering::Relaxed);
        self.queued = queue.len();
    }

    fn batch(&mut self, batch: Vec<Incoming>) {
        let (keys, schedule) = (Arc::clone(&self.context.keys), self.context.schedule);
        let now = self.context.clock.wall();
        let all = keys.all();
        let keys = LiveKeys::accepted(&all, now, schedule.epoch_at(now));
        let view = self.context.view.load_full();
        let Some(view) = view.as_deref() else {
            self.context.counters.drops.count_many(DropReason::NoConsensus, batch.len() as u64);
            return;
        };
        let batch = self.with_room(batch, &keys, view);
        let mut tags: Vec<Vec<Tag>> = vec![Vec::new(); keys.len()];
        let mut passed = Vec::with_capacity(batch.len());
        for (number, part) in batch.chunks(O::WIDTH.max(1)).enumerate() {
            if number > 0 {
                self.give_way();
            }
            self.check(part, &keys, view, &mut tags, &mut passed);
            self.release();
        }
        let logged: Vec<bool> = keys.iter().zip(&tags).map(|(key, tags)| self.log(key, tags)).collect();
        for Passed { key, arrived, outcome } in passed {
            if logged.get(key) == Some(&true) {
                self.pass_on(arrived, outcome, view);
            } else {
                self.context.counters.drops.count(DropReason::ReplayLogFailed);
            }
        }
    }

    /// Those whose neighbour may bring something more under any key; the others are not worth the arithmetic.
    fn with_room(&self, batch: Vec<Incoming>, keys: &[&LiveKey], view: &View) -> Vec<Incoming> {
        let whole = batch.len();
        let among = view.parties();
        let may = |party| keys.is_empty() || keys.iter().any(|key| key.has_room_for(party, among));
        let kept: Vec<_> = batch.into_iter().filter(|incoming| may(incoming.party)).collect();
        self.context.counters.drops.count_many(DropReason::PortionTaken, (whole - kept.len()) as u64);
        kept
    }

    /// Unwraps some packets: those that pass are added to `passed`, their tags to those of their key.
    fn check(
        &self,
        part: &[Incoming],
        keys: &[&LiveKey],
        view: &View,
        tags: &mut [Vec<Tag>],
        passed: &mut Vec<Passed>,
    ) {
        let insert = |at: usize, key: usize, replay_tag: &[u8; 32]| {
            let fitted = keys.get(key).ok_or(DropReason::Internal)?;
            let party = part.get(at).ok_or(DropReason::Internal)?.party;
            match fitted.insert(party, view.parties(), replay_tag) {
                (Insertion::Fresh, tag) => tags.get_mut(key).ok_or(DropReason::Internal)?.push(tag),
                (Insertion::Repeated, _) => return Err(DropReason::Replayed),
                (Insertion::Full, _) => return Err(DropReason::ReplaySetFull),
                (Insertion::PortionTaken, _) => return Err(DropReason::PortionTaken),
            }
            Ok(())
        };
        let packets: Vec<_> = part.iter().map(|incoming| (&incoming.packet, incoming.origin())).collect();
        for (result, incoming) in unwrap(&self.onion, &packets, keys, view, insert).into_iter().zip(part) {
            match result {
                Ok((outcome, key)) => passed.push(Passed { key, arrived: incoming.arrived, outcome }),
                Err(reason) => self.context.counters.drops.count(reason),
            }
        }
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
                self.context.keys.report_torn(key.epoch());
                false
            }
        }
    }

    fn pass_on(&mut self, arrived: Duration, outcome: Outcome, view: &View) {
        let reason = match outcome {
            Outcome::Forward { to, delay, packet } => {
                self.queue.push(arrived, packet, delay, to).err().map(|_| DropReason::DelayQueueFull)
            }
            Outcome::Final { identifier, .. } if self.is_own_loop(&identifier) => None,
            Outcome::Final { payload, .. } => self.request(arrived, payload, view).err(),
        };
        if let Some(reason) = reason {
            self.context.counters.drops.count(reason);
        }
    }

    /// Hands what ends here to the courier; at a node that is no store nothing ends.
    fn request(&self, arrived: Duration, payload: Payload, view: &View) -> Result<(), DropReason> {
        let courier = self.context.courier.as_ref().filter(|_| view.is_store()).ok_or(DropReason::UnexpectedFinal)?;
        let plaintext = Zeroizing::new(payload.open().map_err(|_| DropReason::TamperedPayload)?);
        courier.try_send(Request { plaintext, arrived }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DropReason::CourierQueueFull,
            mpsc::error::TrySendError::Closed(_) => DropReason::Stopping,
        })
    }

    fn is_own_loop(&self, identifier: &[u8; 16]) -> bool {
        let mut loops = self.context.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let own = loops.returned(identifier, self.context.clock.monotonic());
        if own {
            self.context.counters.set_loops(&loops);
        }
        own
    }
}
