//! Links of clients at a gateway: the attach frame, packets in, packets out. Documents are handed out by `handing`.
//!
//! Nothing here is logged about a client, at any level: not that it came, not its address, not its session.

use crate::drops::DropReason;
use crate::gateway::{Sessions, fill_rate, silence_max};
use crate::io::counters::Counters;
use crate::io::fetch_state::{FetchState, contradicted};
use crate::io::handing::Handing;
use crate::io::host::Clock;
use crate::io::phase::{self, Phase};
use crate::io::workers::Workers;
use crate::portions::Party;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{Attach, STREAM_PACKETS};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::quic::{CloseReason, FrameError, FrameReader, FrameWriter, Link};
use shoal_protocol::sphinx::Packet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

/// Packets waiting for one client: as deep as its token bucket, because every packet is answered by one.
const SESSION_QUEUE: usize = 64;
/// Packets per write to a client.
const BATCH: usize = 16;
/// How long a client may take to send its attach frame.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// How the delay thread reaches one session.
#[derive(Debug)]
struct Handle {
    queue: mpsc::Sender<Packet>,
    link: Link,
}

/// Delivers replies to sessions. Clones share the table.
#[derive(Debug, Clone)]
pub struct SessionSender {
    sessions: Arc<Mutex<Sessions<Handle>>>,
    counters: Arc<Counters>,
}

impl SessionSender {
    /// A table of at most `capacity` sessions.
    pub fn new(capacity: usize, counters: Arc<Counters>) -> Self {
        Self { sessions: Arc::new(Mutex::new(Sessions::new(capacity))), counters }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions<Handle>> {
        // every operation on the table is one step
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many sessions may be attached. Those attached now stay.
    pub fn set_capacity(&self, capacity: usize) {
        self.sessions().set_capacity(capacity);
    }

    /// Queues a packet for a session. Never waits; a drop is counted.
    pub fn send(&self, address: &[u8; 32], packet: Packet) {
        let reason = match self.sessions().get(address).map(|handle| handle.queue.try_send(packet)) {
            Some(Ok(())) => return,
            Some(Err(mpsc::error::TrySendError::Full(_))) => DropReason::SessionQueueFull,
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => DropReason::NoSession,
        };
        self.counters.drops.count(reason);
    }
}

/// What serves the clients of a gateway.
#[derive(Clone)]
pub struct ClientService {
    /// Sessions.
    pub sessions: SessionSender,
    /// Where packets go.
    pub workers: Workers,
    /// The newest consensus.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// What hands out documents.
    pub handing: Handing,
    /// Rates before the first consensus.
    pub genesis: Parameters,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Numbers for links.
    pub next_link: Arc<AtomicU64>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
    /// Whether the network contradicts itself: then no client is served.
    pub fetch: watch::Receiver<FetchState>,
}

impl ClientService {
    /// Serves one client until its link ends.
    pub async fn serve(self, link: Link) {
        let (mut phase, fetch) = (self.phase.clone(), self.fetch.clone());
        let (attached, has_attached) = oneshot::channel();
        let documents = async {
            // who has not attached is no client yet, and is handed nothing
            if has_attached.await.is_err() {
                return std::future::pending().await;
            }
            tokio::select! {
                reason = self.handing.push(&link) => reason,
                reason = self.handing.answer_client(&link) => reason,
            }
        };
        let reason = tokio::select! {
            reason = self.receive(&link, attached) => reason,
            reason = documents => reason,
            _ = link.closed() => CloseReason::Done,
            () = phase::reached(&mut phase, Phase::Stopping) => CloseReason::Leaving,
            () = contradicted(fetch) => CloseReason::Leaving,
        };
        link.close(reason);
    }

    /// Answers somebody who asks for documents and is no client, until the link ends.
    pub async fn answer_asker(self, link: Link) {
        let (mut phase, fetch) = (self.phase.clone(), self.fetch.clone());
        let reason = tokio::select! {
            reason = self.handing.answer_asker(&link) => reason,
            () = phase::reached(&mut phase, Phase::Stopping) => CloseReason::Leaving,
            () = contradicted(fetch) => CloseReason::Leaving,
        };
        link.close(reason);
    }

    async fn receive(&self, link: &Link, attached: oneshot::Sender<()>) -> CloseReason {
        let attaching = timeout(ATTACH_TIMEOUT, async {
            let mut frames = link.accept_frames::<PACKET_SIZE>().await?;
            Ok::<_, FrameError>((frames.next().await?, frames))
        });
        let (first, mut frames) = match attaching.await {
            Ok(Ok((Some(first), frames))) => (first, frames),
            Ok(Err(FrameError::WrongLength)) => {
                self.counters.drops.count(DropReason::WrongLength);
                return CloseReason::Malformed;
            }
            Ok(Ok((None, _)) | Err(FrameError::Closed)) | Err(_) => return CloseReason::Done,
        };
        let address = *Attach::from_frame(&Packet::from_array(first)).address().as_bytes();
        let number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let (queue, packets) = mpsc::channel(SESSION_QUEUE);
        let handle = Handle { queue, link: link.clone() };
        match self.sessions.sessions().attach(address, number, handle, self.clock.monotonic(), self.fill()) {
            Err(_) => return CloseReason::Busy,
            Ok(Some(older)) => older.link.close(CloseReason::Done),
            Ok(None) => {}
        }
        // detaches also when this future is dropped
        let _attached = Attached { service: self, address, number };
        // nobody listens any more when the link is about to be closed
        let _ = attached.send(());
        tokio::select! {
            reason = self.read(&address, &mut frames) => reason,
            () = write_packets(link, packets) => CloseReason::Done,
        }
    }

    /// Reads packets until the link ends or is silent for longer than any client. Which of them are real shows nowhere here.
    async fn read(&self, address: &[u8; 32], frames: &mut FrameReader<PACKET_SIZE>) -> CloseReason {
        let mut way_in = self.workers.way_in(Party::Clients);
        loop {
            match timeout(self.by_parameters(silence_max), frames.next()).await {
                Ok(Ok(Some(frame))) => {
                    let arrived = self.token(address).await;
                    way_in.submit(arrived, std::iter::once(Packet::from_array(frame)));
                }
                Ok(Err(FrameError::WrongLength)) => {
                    self.counters.drops.count(DropReason::WrongLength);
                    return CloseReason::Malformed;
                }
                Ok(Ok(None) | Err(FrameError::Closed)) | Err(_) => return CloseReason::Done,
            }
        }
    }

    /// Waits for the session's next token, and says when that was. Nothing is read meanwhile: the link's window of 93
    /// packets fills, and then the sender waits.
    async fn token(&self, address: &[u8; 32]) -> Duration {
        loop {
            let now = self.clock.monotonic();
            let admitted = self.sessions.sessions().admit(address, now, self.fill());
            match admitted {
                Ok(()) => return now,
                Err(wait) => sleep(wait).await,
            }
        }
    }

    fn fill(&self) -> f64 {
        self.by_parameters(fill_rate)
    }

    fn by_parameters<T>(&self, of: impl FnOnce(&Parameters) -> T) -> T {
        match &*self.consensus.borrow() {
            Some(consensus) => of(&consensus.parameters),
            None => of(&self.genesis),
        }
    }
}

/// Takes the link out of the table when it is gone.
struct Attached<'a> {
    service: &'a ClientService,
    address: [u8; 32],
    number: u64,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let Self { service, address, number } = self;
        service.sessions.sessions().detach(address, *number, service.clock.monotonic(), service.fill());
    }
}

/// Writes a session's packets until the link breaks or the session goes to a newer link.
async fn write_packets(link: &Link, mut packets: mpsc::Receiver<Packet>) {
    let Ok(mut stream) = link.open_uni().await else { return };
    // packets go before documents
    let prepared = stream.set_priority(1).is_ok();
    if !prepared || stream.write_all(&[STREAM_PACKETS]).await.is_err() {
        return;
    }
    let mut writer = FrameWriter::<PACKET_SIZE>::new(stream);
    let mut batch = Vec::with_capacity(BATCH);
    while packets.recv_many(&mut batch, BATCH).await > 0 {
        let frames = batch.drain(..).map(Packet::into_array).collect();
        if writer.write_batch(frames).await.is_err() {
            return;
        }
    }
}
