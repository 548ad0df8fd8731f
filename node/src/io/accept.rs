//! Accepted links: handshake, admission by protocol, identity and role, reading, and the re-check at every consensus.

use crate::admission::{Admission, Refusal, decide};
use crate::drops::DropReason;
use crate::io::counters::Counters;
use crate::io::gateway_io::ClientService;
use crate::io::host::Clock;
use crate::io::links::label;
use crate::io::phase::{self, Phase};
use crate::io::workers::{Incoming, Workers};
use crate::unwrap::Origin;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::quic::{Arrival, CloseReason, Endpoint, FrameError, Link, Protocol};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::types::{Identity, Role};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

/// Accepted links of nodes, by protocol and peer: one each. At most two entries per node of the consensus.
#[derive(Debug, Default)]
pub struct NodeLinks(Mutex<BTreeMap<(Protocol, Identity), Link>>);

impl NodeLinks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Protocol, Identity), Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links of nodes that are open now.
    pub fn count(&self) -> usize {
        self.lock().values().filter(|link| link.is_open()).count()
    }

    /// A newer link of a peer takes the place of the older one.
    fn enter(&self, peer: Identity, link: &Link) {
        if let Some(older) = self.lock().insert((link.protocol, peer), link.clone()) {
            older.close(CloseReason::Done);
        }
    }

    fn leave(&self, peer: Identity, link: &Link) {
        let mut links = self.lock();
        let id = link.connection.stable_id();
        if links.get(&(link.protocol, peer)).is_some_and(|current| current.connection.stable_id() == id) {
            links.remove(&(link.protocol, peer));
        }
    }
}

/// What accepting works with.
#[derive(Clone)]
pub struct Acceptor {
    /// This node.
    pub me: Identity,
    /// Its role.
    pub role: Role,
    /// Where links arrive.
    pub endpoint: Arc<Endpoint>,
    /// The newest consensus.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// Where packets go.
    pub workers: Workers,
    /// Open links of nodes.
    pub links: Arc<NodeLinks>,
    /// Who serves clients; gateways only.
    pub clients: Option<ClientService>,
    /// Where links of other stores go; stores only.
    pub stores: Option<mpsc::Sender<Link>>,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Counts refused and failed handshakes by reason.
    pub on_failure: Arc<dyn Fn(&'static str) + Send + Sync>,
    /// Called when a panic was contained.
    pub on_panic: Arc<dyn Fn() + Send + Sync>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl Acceptor {
    /// Accepts until the endpoint is closed. How many at a time is capped by the endpoint's limits.
    pub async fn run(mut self) {
        let mut phase = self.phase.clone();
        loop {
            tokio::select! {
                arrival = self.endpoint.accept() => match arrival {
                    Some(arrival) => self.take(arrival),
                    None => return,
                },
                changed = self.consensus.changed() => match changed {
                    Ok(()) => self.recheck(),
                    Err(_) => return,
                },
                () = phase::reached(&mut phase, Phase::Stopping) => return,
            }
        }
    }

    fn take(&self, arrival: Arrival) {
        let acceptor = self.clone();
        let on_panic = Arc::clone(&self.on_panic);
        tokio::spawn(async move {
            // a task of its own, so that a panic ends this link and nothing else
            let served = tokio::spawn(async move {
                match arrival.admit().await {
                    Ok(link) => acceptor.serve(link).await,
                    Err(error) => (acceptor.on_failure)(label(&error)),
                }
            });
            if served.await.is_err_and(|error| error.is_panic()) {
                on_panic();
            }
        });
    }

    fn decide(&self, link: &Link) -> Result<Admission, Refusal> {
        let consensus = self.consensus.borrow().clone();
        decide(link.protocol, link.peer.as_ref(), consensus.as_deref().map(|document| &**document), &self.me, self.role)
    }

    async fn serve(self, link: Link) {
        match (self.decide(&link), &self.clients, &self.stores) {
            (Ok(Admission::Mix(peer)), _, _) => {
                self.links.enter(peer, &link);
                let reason = self.read_packets(&link).await;
                link.close(reason);
                self.links.leave(peer, &link);
            }
            (Ok(Admission::Store(peer)), _, Some(stores)) => {
                self.links.enter(peer, &link);
                if stores.send(link.clone()).await.is_ok() {
                    link.closed().await;
                }
                self.links.leave(peer, &link);
            }
            (Ok(Admission::Client), Some(clients), _) => clients.clone().serve(link).await,
            (Ok(Admission::Store(_)), _, None) | (Ok(Admission::Client), None, _) => {
                (self.on_failure)(Refusal::WrongProtocol.label());
                link.close(CloseReason::NotAdmitted);
            }
            (Err(refusal), _, _) => {
                (self.on_failure)(refusal.label());
                link.close(CloseReason::NotAdmitted);
            }
        }
    }

    /// Reads packets of another node until its stream or link ends.
    async fn read_packets(&self, link: &Link) -> CloseReason {
        // it arrives with the first packet, which may take its time on a quiet network
        let Ok(mut frames) = link.accept_frames::<PACKET_SIZE>().await else { return CloseReason::Done };
        loop {
            match frames.next().await {
                Ok(Some(frame)) => {
                    let arrived = self.clock.monotonic();
                    let packet = Packet::from_array(frame);
                    self.workers.submit(Incoming { packet, arrived, origin: Origin::Node });
                }
                Err(FrameError::WrongLength) => {
                    self.counters.drops.count(DropReason::WrongLength);
                    return CloseReason::Malformed;
                }
                Ok(None) | Err(FrameError::Closed) => return CloseReason::Done,
            }
        }
    }

    /// Closes every link that the newest consensus would not admit.
    fn recheck(&self) {
        let consensus = self.consensus.borrow().clone();
        // while there is none, nothing is forwarded anyway; a link need not be made anew for it
        let Some(consensus) = consensus else { return };
        self.links.lock().retain(|_, link| {
            let admitted = decide(link.protocol, link.peer.as_ref(), Some(&consensus), &self.me, self.role).is_ok();
            if !admitted {
                link.close(CloseReason::NotAdmitted);
            }
            admitted
        });
    }
}
