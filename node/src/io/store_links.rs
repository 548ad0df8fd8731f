//! The links between stores: one dialled to every other store, with frames at a constant rate, dummies when idle.
//!
//! Questions and answers alike leave on the dialled link and wait there for the next frame that is due, so an observer
//! sees the same frames whether this store has anything to say or not.

use super::host::{Clock, generator};
use super::store_seam::StoreReport;
use crate::drops::{DropReason, Drops};
use crate::pacer::{BURST_MAX, Pacer};
use rand::RngExt as _;
use rand::rngs::StdRng;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::geometry::STORE_FRAME_SIZE;
use shoal_protocol::link::StoreFrame;
use shoal_protocol::parameters::Rate;
use shoal_protocol::quic::{CloseReason, Endpoint, FrameError, FrameWriter, Link, Protocol};
use shoal_protocol::types::{Identity, StoreIndex};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

/// Frames that wait for one link. 256 × 2.1 kB = 550 kB; at 400 frames a second the last one waits 640 ms, longer than
/// its answer would be waited for, so a longer queue could only hold what is of no use.
const QUEUE: usize = 256;
/// A link that takes no frame for this long is given up.
const STALLED: Duration = Duration::from_secs(5);
/// Waits between attempts to dial: doubling from the first to the last, each between half and one and a half of it.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// Frames from other stores that wait for the store's task, over all links. 1,024 × 2.2 kB = 2.2 MB; a full queue makes
/// the links wait, which their senders see as late answers.
pub const INCOMING: usize = 1_024;
/// A peer may send this much faster than the consensus says (its timers, our timers) before its link is slowed down.
const TOLERANCE: u32 = 2;
/// Frames a peer may send at once: four bursts.
const TOLERATED_BURST: u32 = 4 * BURST_MAX;

/// What the links take from the consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Frames a second on each link.
    rate: Rate,
    /// After this long nobody waits for a frame's content any more: the service time.
    stale: Duration,
}

struct Queued {
    /// When it was queued, on the node's clock.
    since: Duration,
    frame: Box<[u8; STORE_FRAME_SIZE]>,
}

struct Peer {
    identity: Identity,
    addresses: Vec<SocketAddr>,
    queue: mpsc::Sender<Queued>,
    up: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The dialled links.
pub struct StoreLinks {
    clock: Clock,
    endpoint: Arc<Endpoint>,
    drops: Arc<Drops>,
    report: Arc<StoreReport>,
    pace: watch::Sender<Pace>,
    peers: BTreeMap<StoreIndex, Peer>,
}

impl std::fmt::Debug for StoreLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreLinks").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl StoreLinks {
    /// No links yet.
    pub fn new(clock: Clock, endpoint: Arc<Endpoint>, drops: Arc<Drops>, report: Arc<StoreReport>) -> Self {
        let pace = watch::Sender::new(Pace { rate: Rate(1_000), stale: Duration::from_secs(1) });
        Self { clock, endpoint, drops, report, pace, peers: BTreeMap::new() }
    }

    /// Keeps links to all stores of the consensus but `me`: dials new ones, drops those that are gone or have moved.
    pub fn set_network(&mut self, consensus: &Consensus, me: &Identity) {
        let parameters = &consensus.parameters;
        self.pace
            .send_replace(Pace { rate: parameters.store_rate, stale: Duration::from_millis(parameters.service_ms) });
        let wanted: BTreeMap<StoreIndex, (Identity, &Vec<SocketAddr>)> = consensus
            .stores()
            .filter(|node| node.identity != *me)
            .filter_map(|node| Some((node.store_index?, (node.identity, &node.addresses))))
            .collect();
        self.peers.retain(|index, peer| {
            wanted.get(index).is_some_and(|(identity, addresses)| {
                peer.identity == *identity && peer.addresses == **addresses && !peer.task.is_finished()
            })
        });
        for (index, (identity, addresses)) in wanted {
            if !self.peers.contains_key(&index) {
                let peer = self.dial(identity, addresses.clone());
                self.peers.insert(index, peer);
            }
        }
    }

    fn dial(&self, identity: Identity, addresses: Vec<SocketAddr>) -> Peer {
        let (queue, queued) = mpsc::channel(QUEUE);
        let up = Arc::new(AtomicBool::new(false));
        let sender = Sender {
            clock: self.clock,
            endpoint: Arc::clone(&self.endpoint),
            identity,
            addresses: addresses.clone(),
            queued,
            up: Arc::clone(&up),
            pace: self.pace.subscribe(),
            drops: Arc::clone(&self.drops),
            rng: generator(),
        };
        Peer { identity, addresses, queue, up, task: tokio::spawn(sender.run()) }
    }

    /// Puts a frame on the link to a store. What cannot be sent is counted and is for whoever waits for it the same as a
    /// store that does not answer.
    pub fn send(&self, to: StoreIndex, frame: &StoreFrame) {
        let Some(peer) = self.peers.get(&to).filter(|peer| peer.up.load(Ordering::Relaxed)) else {
            self.drops.count(DropReason::LinkDown);
            return;
        };
        if peer.queue.try_send(Queued { since: self.clock.monotonic(), frame: frame.to_bytes() }).is_err() {
            self.drops.count(DropReason::StoreQueueFull);
        }
    }

    /// Tells the shell how many links there should be and how many there are.
    pub fn report(&self) {
        let up = self.peers.values().filter(|peer| peer.up.load(Ordering::Relaxed)).count();
        self.report.set_links(self.peers.len() as u64, up as u64);
    }

    /// The links' pace, for the readers.
    pub fn pace(&self) -> watch::Receiver<Pace> {
        self.pace.subscribe()
    }
}

/// The task that keeps one link up and fills it.
struct Sender {
    clock: Clock,
    endpoint: Arc<Endpoint>,
    identity: Identity,
    addresses: Vec<SocketAddr>,
    queued: mpsc::Receiver<Queued>,
    up: Arc<AtomicBool>,
    pace: watch::Receiver<Pace>,
    drops: Arc<Drops>,
    rng: StdRng,
}

impl Sender {
    async fn run(mut self) {
        let mut wait = RETRY_FIRST;
        loop {
            for address in self.addresses.clone() {
                let Ok(link) = self.endpoint.connect(address, &self.identity, Protocol::Store).await else { continue };
                let began = self.clock.monotonic();
                // what ends the link is the same to us whatever it is: dial again
                let _ = self.fill(&link).await;
                self.up.store(false, Ordering::Relaxed);
                link.close(CloseReason::Done);
                if self.clock.monotonic().saturating_sub(began) > RETRY_LAST {
                    wait = RETRY_FIRST;
                }
            }
            sleep(wait.mul_f64(0.5 + self.rng.random::<f64>())).await;
            wait = (wait * 2).min(RETRY_LAST);
        }
    }

    /// Sends frames at the rate of the consensus until the link ends.
    async fn fill(&mut self, link: &Link) -> Result<(), FrameError> {
        let mut writer: FrameWriter<STORE_FRAME_SIZE> = link.open_frames().await?;
        // what was queued for a link before this one is too old
        while self.queued.try_recv().is_ok() {}
        let rate = self.pace.borrow_and_update().rate;
        // links that begin together do not tick together
        let phase = rate.mean_gap().min(Duration::from_secs(1)).mul_f64(self.rng.random());
        let mut pacer = Pacer::new(rate, self.clock.monotonic() + phase);
        self.up.store(true, Ordering::Relaxed);
        loop {
            tokio::select! {
                changed = self.pace.changed() => {
                    if changed.is_err() {
                        // the store has ended
                        return Ok(());
                    }
                    pacer.set_rate(self.pace.borrow_and_update().rate);
                }
                () = sleep_until(self.clock.timer(pacer.next())) => {
                    let frames = (0..pacer.due(self.clock.monotonic())).map(|_| self.next_frame()).collect();
                    timeout(STALLED, writer.write_batch(frames)).await.map_err(|_| FrameError::Closed)??;
                }
            }
        }
    }

    /// The oldest frame that somebody still waits for, or a dummy.
    fn next_frame(&mut self) -> Box<[u8; STORE_FRAME_SIZE]> {
        let stale = self.pace.borrow().stale;
        while let Ok(queued) = self.queued.try_recv() {
            if self.clock.monotonic().saturating_sub(queued.since) < stale {
                return queued.frame;
            }
            self.drops.count(DropReason::StoreQueueFull);
        }
        StoreFrame::Dummy.to_bytes()
    }
}

/// A frame that another store sent, dummies left out.
#[derive(Debug)]
pub struct Incoming {
    /// The store that sent it.
    pub from: StoreIndex,
    /// When it arrived, on the node's clock.
    pub at: Duration,
    /// The frame.
    pub frame: StoreFrame,
}

/// Reads the frames of an accepted link until it ends. A frame of another length or kind ends it; a peer that sends much
/// faster than the consensus says is read no faster than that.
pub async fn read(
    link: Link,
    from: StoreIndex,
    clock: Clock,
    pace: watch::Receiver<Pace>,
    to: mpsc::Sender<Incoming>,
    drops: Arc<Drops>,
) {
    let Ok(mut reader) = link.accept_frames::<STORE_FRAME_SIZE>().await else { return };
    // when all frames so far would have arrived at the tolerated rate
    let mut paid = clock.monotonic();
    let reason = loop {
        let next = tokio::select! {
            next = reader.next() => next,
            () = to.closed() => break CloseReason::Leaving,
        };
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(FrameError::Closed) => break CloseReason::Done,
            Err(FrameError::WrongLength) => {
                drops.count(DropReason::BadStoreFrame);
                break CloseReason::Malformed;
            }
        };
        let at = clock.monotonic();
        let gap = pace.borrow().rate.mean_gap() / TOLERANCE;
        paid = paid.max(at).saturating_add(gap);
        match StoreFrame::from_bytes(&frame) {
            Ok(StoreFrame::Dummy) => {}
            Ok(frame @ (StoreFrame::Request { .. } | StoreFrame::Answer { .. })) => {
                if to.send(Incoming { from, at, frame }).await.is_err() {
                    break CloseReason::Leaving;
                }
            }
            Err(_) => {
                drops.count(DropReason::BadStoreFrame);
                break CloseReason::Malformed;
            }
        }
        if let Some(ahead) = paid.checked_sub(at + gap.saturating_mul(TOLERATED_BURST)) {
            sleep(ahead).await;
        }
    };
    link.close(reason);
}
