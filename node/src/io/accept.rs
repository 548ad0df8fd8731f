//! Accepted links: handshake, admission by protocol, identity and role, reading, and the re-check at every consensus.

use crate::admission::{Admission, Refusal, decide};
use crate::drops::DropReason;
use crate::io::counters::Counters;
use crate::io::fetch_state::FetchState;
use crate::io::gateway_io::ClientService;
use crate::io::host::Clock;
use crate::io::links::label;
use crate::io::phase::{self, Phase};
use crate::io::workers::Workers;
use crate::portions::Party;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::quic::{Arrival, CloseReason, Endpoint, FrameError, Link, Protocol};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::types::{Identity, Role};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

/// Packets that are handed to a worker at a time.
const BATCH: usize = 16;

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

    /// Enters the link of an admitted peer and decides again. A consensus that came between the first decision and the
    /// entry found no link to judge; one that comes after the entry finds it.
    fn enter_if_still(
        &self,
        peer: Identity,
        link: &Link,
        decide: impl FnOnce() -> Result<Admission, Refusal>,
    ) -> Result<(), Refusal> {
        self.enter(peer, link);
        match decide() {
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.leave(peer, link);
                Err(refusal)
            }
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
    /// The one before it, for the grace time: links that it allows stay, because packets built under it still come.
    pub before: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// Where packets go.
    pub workers: Workers,
    /// Where authorities are by the network file: they dial a node before any document lists it.
    pub hinted: Arc<[IpAddr]>,
    /// Open links of nodes.
    pub links: Arc<NodeLinks>,
    /// Who serves clients and those who ask for documents; gateways only.
    pub clients: Option<ClientService>,
    /// Where links of other stores go; stores only.
    pub stores: Option<mpsc::Sender<Link>>,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Called when a panic was contained.
    pub on_panic: Arc<dyn Fn() + Send + Sync>,
    /// Whether the authorities contradict themselves: then no link is taken and none stays.
    pub fetch: watch::Receiver<FetchState>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl Acceptor {
    /// Accepts until the endpoint is closed. How many at a time is capped by the endpoint's limits.
    pub async fn run(mut self) {
        let mut phase = self.phase.clone();
        self.expect();
        loop {
            tokio::select! {
                arrival = self.endpoint.accept() => match arrival {
                    Some(arrival) => self.take(arrival),
                    None => return,
                },
                changed = self.consensus.changed() => match changed {
                    Ok(()) => {
                        self.expect();
                        self.recheck();
                    }
                    Err(_) => return,
                },
                changed = self.before.changed() => match changed {
                    Ok(()) => self.recheck(),
                    Err(_) => return,
                },
                changed = self.fetch.changed() => match changed {
                    Ok(()) => self.recheck(),
                    Err(_) => return,
                },
                () = phase::reached(&mut phase, Phase::Stopping) => return,
            }
        }
    }

    /// Tells the endpoint where nodes and authorities are, so that no flood of handshakes shuts them out.
    fn expect(&self) {
        let consensus = self.consensus.borrow().clone();
        let listed = consensus.iter().flat_map(|document| document.listed_addresses());
        self.endpoint.expect_from(listed.chain(self.hinted.iter().copied()));
    }

    fn take(&self, arrival: Arrival) {
        let acceptor = self.clone();
        let on_panic = Arc::clone(&self.on_panic);
        tokio::spawn(async move {
            // a task of its own, so that a panic ends this link and nothing else
            let served = tokio::spawn(async move {
                match arrival.admit().await {
                    Ok(link) => acceptor.serve(link).await,
                    Err(error) => acceptor.counters.handshake_failed(label(&error)),
                }
            });
            if served.await.is_err_and(|error| error.is_panic()) {
                on_panic();
            }
        });
    }

    fn decide(&self, link: &Link) -> Result<Admission, Refusal> {
        if self.is_contradicted() {
            return Err(Refusal::Contradiction);
        }
        let by = |consensus: &Option<Arc<VerifiedConsensus>>| {
            let consensus = consensus.as_deref().map(|document| &**document);
            decide(link.protocol, link.peer.as_ref(), consensus, &self.me, self.role)
        };
        let before = self.before.borrow().clone();
        by(&self.consensus.borrow().clone()).or_else(|refusal| match before {
            Some(_) => by(&before).map_err(|_| refusal),
            None => Err(refusal),
        })
    }

    fn is_contradicted(&self) -> bool {
        self.fetch.borrow().contradiction.is_some()
    }

    async fn serve(self, link: Link) {
        if let Err(refusal) = self.admit(&link).await {
            self.counters.handshake_failed(refusal.label());
            link.close(CloseReason::NotAdmitted);
        }
    }

    /// Serves the link to its end, if it is admitted.
    async fn admit(&self, link: &Link) -> Result<(), Refusal> {
        match (self.decide(link)?, &self.clients, &self.stores) {
            (Admission::Mix(peer), _, _) => {
                self.links.enter_if_still(peer, link, || self.decide(link))?;
                let reason = self.read_packets(peer, link).await;
                link.close(reason);
                self.links.leave(peer, link);
            }
            (Admission::Store(peer), _, Some(stores)) => {
                self.links.enter_if_still(peer, link, || self.decide(link))?;
                if stores.send(link.clone()).await.is_ok() {
                    link.closed().await;
                }
                self.links.leave(peer, link);
            }
            (Admission::Client, Some(clients), _) => clients.clone().serve(link.clone()).await,
            (Admission::Asker, Some(clients), _) => clients.clone().answer_asker(link.clone()).await,
            (Admission::Store(_), _, None) | (Admission::Client | Admission::Asker, None, _) => {
                return Err(Refusal::WrongProtocol);
            }
        }
        Ok(())
    }

    /// Reads packets of another node until its stream or link ends.
    async fn read_packets(&self, peer: Identity, link: &Link) -> CloseReason {
        // it arrives with the first packet, which may take its time on a quiet network
        let Ok(mut frames) = link.accept_frames::<PACKET_SIZE>().await else { return CloseReason::Done };
        let mut way_in = self.workers.way_in(Party::Node(peer));
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            match frames.next().await {
                Ok(Some(frame)) => {
                    let arrived = self.clock.monotonic();
                    batch.push(Packet::from_array(frame));
                    // what came with it goes with it
                    batch.extend(std::iter::from_fn(|| frames.ready()).take(BATCH - 1).map(Packet::from_array));
                    way_in.submit(arrived, batch.drain(..));
                }
                Err(FrameError::WrongLength) => {
                    self.counters.drops.count(DropReason::WrongLength);
                    return CloseReason::Malformed;
                }
                Ok(None) | Err(FrameError::Closed) => return CloseReason::Done,
            }
        }
    }

    /// Closes every link that would not be admitted now.
    fn recheck(&self) {
        // without a consensus nothing is forwarded anyway; a link need not be made anew for it
        if self.consensus.borrow().is_none() && !self.is_contradicted() {
            return;
        }
        self.links.lock().retain(|_, link| {
            let admitted = self.decide(link).is_ok();
            if !admitted {
                link.close(CloseReason::NotAdmitted);
            }
            admitted
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::types::IdentityKey;
    use std::net::{Ipv4Addr, SocketAddr};

    #[tokio::test]
    async fn a_consensus_between_decision_and_entry_closes_the_link() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut rng = StdRng::seed_from_u64(1);
        let (here, there) = (IdentityKey::generate(&mut rng), IdentityKey::generate(&mut rng));
        let listening = Endpoint::bind(any, &here, &[Protocol::Mix]).expect("a port");
        let dialling = Endpoint::dialler(Some(&there), any).expect("a port");
        let address = listening.local_addr().expect("bound");
        let accepted = async { listening.accept().await.expect("somebody knocks").admit().await.expect("a handshake") };
        let (here, peer) = (here.identity(), there.identity());
        let (link, _dialled) = tokio::join!(accepted, dialling.connect(address, &here, Protocol::Mix));

        let links = NodeLinks::default();
        assert_eq!(links.enter_if_still(peer, &link, || Err(Refusal::Unlisted)), Err(Refusal::Unlisted));
        assert_eq!(links.lock().len(), 0, "the peer is out of the consensus by now");
        // and it is entered before it is judged again, so that a consensus that comes later finds it
        let judged = links.enter_if_still(peer, &link, || {
            assert_eq!(links.lock().len(), 1);
            Ok(Admission::Mix(peer))
        });
        assert_eq!((judged, links.count()), (Ok(()), 1));
    }
}
