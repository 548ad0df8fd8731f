//! Outgoing links: one to every node that packets go to from here.
//!
//! A link has a bounded queue and a task of its own, so that a slow or dead neighbour costs only its own packets. A
//! packet for a link that is down is dropped at once: a packet that waited for a reconnection would leave late and in a
//! burst.

use crate::drops::DropReason;
use crate::io::counters::Counters;
use crate::io::host::{Clock, generator};
use crate::io::phase::{self, Phase};
use crate::view::next_hops;
use arc_swap::ArcSwap;
use rand::RngExt as _;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::quic::{CloseReason, Endpoint, FrameError, Link, Protocol, QuicError};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::types::Identity;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Packets per write: the best rate measured, one lock and one burst of datagrams for all.
const BATCH: usize = 16;
/// Pause before the first new attempt; doubles up to [`PAUSE_MAX`], jittered between half and all of it.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A link that lasted this long ends the back-off.
const STABLE: Duration = Duration::from_secs(2);
/// How long the other side has to refuse us after the handshake before the link counts as up.
const PROBATION: Duration = Duration::from_millis(100);

/// How often links are looked after although nothing has changed.
const LOOK: Duration = Duration::from_secs(5);
/// How long the last packets of a link may take to arrive when it is given up.
const FAREWELL: Duration = Duration::from_millis(500);

/// One outgoing link as senders see it.
#[derive(Debug)]
struct Outgoing {
    queue: mpsc::Sender<Packet>,
    up: AtomicBool,
    addresses: ArcSwap<Vec<SocketAddr>>,
}

/// Sends packets into the outgoing links. Clones share the links.
#[derive(Debug, Clone)]
pub struct LinkSender {
    links: Arc<ArcSwap<BTreeMap<Identity, Arc<Outgoing>>>>,
    counters: Arc<Counters>,
}

impl LinkSender {
    /// A sender without links yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { links: Arc::default(), counters }
    }

    /// Passes on a packet of somebody else: as [`LinkSender::send`], and it is counted as forwarded.
    pub fn forward(&self, next: [u8; 32], packet: Packet) -> Result<(), DropReason> {
        self.send(next, packet)?;
        self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Queues a packet for the link to `next`. Never waits. On error the packet is gone and already counted.
    pub fn send(&self, next: [u8; 32], packet: Packet) -> Result<(), DropReason> {
        let links = self.links.load();
        let sent = match links.get(&Identity::from_bytes(next)) {
            None => Err(DropReason::UnknownNextHop),
            Some(link) if !link.up.load(Ordering::Acquire) => Err(DropReason::LinkDown),
            Some(link) => link.queue.try_send(packet).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => DropReason::LinkQueueFull,
                mpsc::error::TrySendError::Closed(_) => DropReason::LinkDown,
            }),
        };
        sent.inspect_err(|reason| self.counters.drops.count(*reason))
    }

    /// Counts a drop of a packet that could go nowhere.
    pub fn count(&self, reason: DropReason) {
        self.counters.drops.count(reason);
    }

    /// Every link that the consensus asks for and whether it is up.
    pub fn states(&self) -> Vec<(Identity, bool)> {
        self.links.load().iter().map(|(peer, link)| (*peer, link.up.load(Ordering::Acquire))).collect()
    }
}

/// Keeps the links that the consensus asks for.
pub struct LinkKeeper {
    /// This node.
    pub me: Identity,
    /// Where to dial from.
    pub endpoint: Arc<Endpoint>,
    /// The newest consensus.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// The one before it, for the grace time: packets built under it still go its steps.
    pub before: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// The senders' side.
    pub sender: LinkSender,
    /// Time.
    pub clock: Clock,
    /// Packets waiting for one link at most; read when a link is made.
    pub queue_packets: Arc<AtomicUsize>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl LinkKeeper {
    /// Runs until the process stops.
    pub async fn run(mut self) {
        let mut tasks: BTreeMap<Identity, JoinHandle<()>> = BTreeMap::new();
        loop {
            let consensus = self.consensus.borrow_and_update().clone();
            let before = self.before.borrow_and_update().clone();
            self.reconcile(consensus.as_deref(), before.as_deref(), &mut tasks);
            tokio::select! {
                changed = self.consensus.changed() => if changed.is_err() { break },
                changed = self.before.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(LOOK) => {}
                () = phase::reached(&mut self.phase, Phase::Stopping) => break,
            }
        }
        // what is in the links' queues still leaves: each task ends when its queue is closed and empty
        self.sender.links.store(Arc::default());
        for task in tasks.into_values() {
            if tokio::time::timeout(Duration::from_secs(1), task).await.is_err() {
                tracing::debug!("a link did not take its last packets in time");
            }
        }
    }

    /// Without a consensus the links stay as they are: nothing is sent into them, and the next consensus most likely
    /// asks for the same.
    fn reconcile(
        &self,
        consensus: Option<&VerifiedConsensus>,
        before: Option<&VerifiedConsensus>,
        tasks: &mut BTreeMap<Identity, JoinHandle<()>>,
    ) {
        let Some(consensus) = consensus else { return };
        let mut wanted = next_hops(consensus, &self.me);
        if let Some(before) = before {
            wanted.append(&mut next_hops(before, &self.me));
        }
        let mut links = BTreeMap::clone(&self.sender.links.load());
        links.retain(|peer, _| wanted.contains(peer));
        tasks.retain(|peer, task| {
            if !wanted.contains(peer) {
                task.abort();
                return false;
            }
            // the task of a link that is wanted ends by a panic only
            if task.is_finished() {
                self.sender.counters.handshake_failed(PANICKED);
            }
            !task.is_finished()
        });
        for peer in wanted {
            let listed = consensus.node(&peer).or_else(|| before.and_then(|before| before.node(&peer)));
            let Some(node) = listed else { continue };
            if tasks.contains_key(&peer)
                && let Some(link) = links.get(&peer)
            {
                link.addresses.store(Arc::new(node.addresses.clone()));
                continue;
            }
            let (queue, packets) = mpsc::channel(self.queue_packets.load(Ordering::Relaxed));
            let outgoing = Arc::new(Outgoing {
                queue,
                up: AtomicBool::new(false),
                addresses: ArcSwap::from_pointee(node.addresses.clone()),
            });
            let task = LinkTask {
                peer,
                endpoint: Arc::clone(&self.endpoint),
                outgoing: Arc::downgrade(&outgoing),
                packets,
                clock: self.clock,
                counters: Arc::clone(&self.sender.counters),
            };
            tasks.insert(peer, tokio::spawn(task.run()));
            links.insert(peer, outgoing);
        }
        self.sender.links.store(Arc::new(links));
    }
}

struct LinkTask {
    peer: Identity,
    endpoint: Arc<Endpoint>,
    /// Weak: when the sender's side lets go of it, the queue closes and the task ends.
    outgoing: std::sync::Weak<Outgoing>,
    packets: mpsc::Receiver<Packet>,
    clock: Clock,
    counters: Arc<Counters>,
}

impl LinkTask {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        let mut rng = generator();
        while let Some(outgoing) = self.outgoing.upgrade() {
            let addresses = outgoing.addresses.load_full();
            drop(outgoing);
            match self.dial(&addresses).await {
                Ok(link) => {
                    let began = self.clock.monotonic();
                    let ended = self.carry(&link).await;
                    link.close(CloseReason::Done);
                    if ended {
                        return;
                    }
                    if self.clock.monotonic().saturating_sub(began) >= STABLE {
                        pause = PAUSE_MIN;
                    }
                }
                Err(error) => self.counters.handshake_failed(label(&error)),
            }
            tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn dial(&self, addresses: &[SocketAddr]) -> Result<Link, QuicError> {
        let mut last = QuicError::Unreachable;
        for address in addresses {
            match self.endpoint.connect(*address, &self.peer, Protocol::Mix).await {
                Ok(link) => match tokio::time::timeout(PROBATION, link.closed()).await {
                    Err(_still_open) => return Ok(link),
                    Ok(_) => last = QuicError::Closed,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Carries packets until the link breaks (`false`) or the queue is closed and empty (`true`).
    async fn carry(&mut self, link: &Link) -> bool {
        let Ok(mut writer) = link.open_frames::<PACKET_SIZE>().await else { return false };
        // a sender that saw the last link up may have queued behind its end: what waited since then would leave late
        self.drop_waiting();
        self.set_up(true);
        let mut batch = Vec::with_capacity(BATCH);
        let ended = loop {
            let taken = tokio::select! {
                taken = self.packets.recv_many(&mut batch, BATCH) => taken,
                _ = link.closed() => break false,
            };
            if taken == 0 {
                // the other side closes the link when it has read the end of the stream
                if writer.finish().await.is_ok() {
                    drop(tokio::time::timeout(FAREWELL, link.closed()).await);
                }
                break true;
            }
            let frames = batch.drain(..).map(Packet::into_array).collect();
            if let Err(FrameError::Closed | FrameError::WrongLength) = writer.write_batch(frames).await {
                self.counters.drops.count_many(DropReason::LinkDown, taken as u64);
                break false;
            }
        };
        self.set_up(false);
        self.drop_waiting();
        ended
    }

    fn drop_waiting(&mut self) {
        let mut stranded = 0;
        while self.packets.try_recv().is_ok() {
            stranded += 1;
        }
        self.counters.drops.count_many(DropReason::LinkDown, stranded);
    }

    fn set_up(&self, up: bool) {
        if let Some(outgoing) = self.outgoing.upgrade() {
            outgoing.up.store(up, Ordering::Release);
        }
    }
}

/// Label of a failed attempt in `shoal_handshake_failures_total`.
pub fn label(error: &QuicError) -> &'static str {
    match error {
        QuicError::Bind(_) | QuicError::Setup(_) => "setup",
        QuicError::Unreachable => "unreachable",
        QuicError::TimedOut => "timed_out",
        QuicError::WrongIdentity => "wrong_identity",
        QuicError::NoCommonKeyExchange => "no_common_key_exchange",
        QuicError::ProtocolRefused => "protocol_refused",
        QuicError::IdentityNeeded(_) => "identity_needed",
        QuicError::IdentityForbidden(_) => "identity_forbidden",
        QuicError::Busy => "busy",
        QuicError::Tls(_) => "tls",
        QuicError::Closed => "closed",
    }
}

/// Label of a link whose task panicked; it begins anew.
const PANICKED: &str = "panicked";
/// All labels of [`label`], and that of a panicked link.
pub const FAILURE_LABELS: [&str; 12] = [
    PANICKED,
    "setup",
    "unreachable",
    "timed_out",
    "wrong_identity",
    "no_common_key_exchange",
    "protocol_refused",
    "identity_needed",
    "identity_forbidden",
    "busy",
    "tls",
    "closed",
];
