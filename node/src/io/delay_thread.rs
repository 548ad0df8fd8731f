//! The thread that owns the delay queue. A timed wait of a thread wakes within 0.2 ms; the async runtime's timer is 1 to
//! 2 ms late, which would be seen in the mixing delays.

use crate::drops::DropReason;
use crate::io::counters::Counters;
use crate::io::gateway_io::SessionSender;
use crate::io::host::Clock;
use crate::io::links::LinkSender;
use crate::mix::{DelayQueue, Released};
use crate::unwrap::Next;
use prometheus::Histogram;
use prometheus::local::LocalHistogram;
use shoal_protocol::sphinx::Packet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Packets on their way from workers to the queue: a few milliseconds' worth.
const CHANNEL: usize = 1_024;
/// How often the thread looks around when nothing is due, and shows the lateness it collected.
const IDLE: Duration = Duration::from_millis(500);

/// A packet for the delay queue.
#[derive(Debug)]
pub struct Delayed {
    /// The packet.
    pub packet: Packet,
    /// When it arrived (monotonic).
    pub arrived: Duration,
    /// How long it has to wait from then on.
    pub delay: Duration,
    /// Where it goes.
    pub to: Next,
}

/// Gives packets to the delay thread. Clones share it.
#[derive(Debug, Clone)]
pub struct DelayHandle {
    channel: SyncSender<Delayed>,
    counters: Arc<Counters>,
}

impl DelayHandle {
    /// Puts a packet into the queue, or counts its drop.
    pub fn push(&self, delayed: Delayed) {
        match self.channel.try_send(delayed) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.counters.drops.count(DropReason::DelayQueueFull),
            Err(TrySendError::Disconnected(_)) => self.counters.drops.count(DropReason::Stopping),
        }
    }
}

/// Where released packets go.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Links to other nodes.
    pub links: LinkSender,
    /// Sessions of clients; gateways only.
    pub sessions: Option<SessionSender>,
}

impl Egress {
    fn send(&self, to: Next, packet: Packet) {
        // errors are counted where they arise
        match (to, &self.sessions) {
            (Next::Node(peer), _) => drop(self.links.forward(*peer.as_bytes(), packet)),
            (Next::Session(address), Some(sessions)) => sessions.send(&address, packet),
            (Next::Session(_), None) => self.links.count(DropReason::ForbiddenNextHop),
        }
    }
}

/// Lateness of released packets. A gateway shows it per epoch only, so it is collected here and shown on demand.
#[derive(Debug)]
pub struct Lateness {
    histogram: Histogram,
    /// Show what was collected: set by the epoch task at a gateway, always at other roles.
    show: AtomicBool,
    by_epoch: bool,
    worst_nanoseconds: AtomicU64,
}

impl Lateness {
    /// Collects into `histogram`; `by_epoch` at a gateway.
    pub fn new(histogram: Histogram, by_epoch: bool) -> Self {
        Self { histogram, show: AtomicBool::new(false), by_epoch, worst_nanoseconds: AtomicU64::new(0) }
    }

    /// An epoch has ended: what was collected may be shown.
    pub fn epoch_ended(&self) {
        self.show.store(true, Ordering::Relaxed);
    }

    /// The largest lateness since the start.
    pub fn worst(&self) -> Duration {
        Duration::from_nanos(self.worst_nanoseconds.load(Ordering::Relaxed))
    }

    fn observe(&self, local: &LocalHistogram, late: Duration) {
        local.observe(late.as_secs_f64());
        self.worst_nanoseconds.fetch_max(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn flush(&self, local: &LocalHistogram) {
        if !self.by_epoch || self.show.swap(false, Ordering::Relaxed) {
            local.flush();
        }
    }
}

/// What the thread works with.
pub struct DelayContext {
    /// Packets in the queue at most.
    pub capacity: usize,
    /// Time.
    pub clock: Clock,
    /// Where packets go.
    pub egress: Egress,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Lateness of released packets.
    pub lateness: Arc<Lateness>,
    /// Called when a panic was contained.
    pub on_panic: Arc<dyn Fn() + Send + Sync>,
}

/// Starts the thread. It ends when every [`DelayHandle`] is dropped and the queue is empty.
pub fn start(context: DelayContext) -> std::io::Result<(DelayHandle, JoinHandle<()>)> {
    let (channel, packets) = sync_channel(CHANNEL);
    let counters = Arc::clone(&context.counters);
    let thread = std::thread::Builder::new().name("delay".into()).spawn(move || {
        let mut queue = DelayQueue::new(context.capacity);
        // a panic may lose one packet; the queue and the thread live on
        while catch_unwind(AssertUnwindSafe(|| context.run(&packets, &mut queue))).is_err() {
            context.counters.drops.count(DropReason::Internal);
            (context.on_panic)();
        }
    })?;
    Ok((DelayHandle { channel, counters }, thread))
}

impl DelayContext {
    fn run(&self, packets: &Receiver<Delayed>, queue: &mut DelayQueue<Packet, Next>) {
        let local = self.lateness.histogram.local();
        let mut open = true;
        let mut flushed = Duration::ZERO;
        let heart = self.counters.hearts.watch("delay thread", self.clock.monotonic());
        while open || !queue.is_empty() {
            heart.beat(self.clock.monotonic());
            while let Some(Released { packet, to, due }) = queue.poll(self.clock.monotonic()) {
                self.lateness.observe(&local, self.clock.monotonic().saturating_sub(due));
                self.egress.send(to, packet);
            }
            self.counters.delay_queue.store(queue.len() as u64, Ordering::Relaxed);
            let now = self.clock.monotonic();
            if now.saturating_sub(flushed) >= IDLE {
                flushed = now;
                self.lateness.flush(&local);
            }
            let wait = queue.next_due().map_or(IDLE, |due| due.saturating_sub(now)).min(IDLE);
            if !open {
                std::thread::sleep(wait);
                continue;
            }
            match packets.recv_timeout(wait) {
                Ok(first) => {
                    self.push(queue, first);
                    packets.try_iter().take(CHANNEL).for_each(|delayed| self.push(queue, delayed));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        local.flush();
    }

    fn push(&self, queue: &mut DelayQueue<Packet, Next>, delayed: Delayed) {
        let Delayed { packet, arrived, delay, to } = delayed;
        if queue.push(arrived, packet, delay, to).is_err() {
            self.counters.drops.count(DropReason::DelayQueueFull);
        }
    }
}
