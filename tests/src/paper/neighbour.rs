//! A neighbour of the node under test: keys, a port, and what comes in there.

use super::{LOCAL, PATIENCE};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_node::io::host::Clock;
use shoal_protocol::X25519Secret;
use shoal_protocol::consensus::NodeEntry;
use shoal_protocol::geometry::{PACKET_SIZE, STORE_FRAME_SIZE};
use shoal_protocol::quic::{Endpoint, Link, Protocol};
use shoal_protocol::sphinx::{Hop, Packet, Unwrapped, open_header};
use shoal_protocol::types::{Epoch, Identity, IdentityKey, Layer, Role, StoreIndex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What a neighbour keeps of packets that nobody has asked it for yet: 65,536 × 2.8 kB = 184 MB. When it is full, its links
/// are no longer read.
const WAITING: usize = 1 << 16;

/// A neighbour that this test plays.
pub struct Neighbour {
    /// Its identity key.
    pub key: IdentityKey,
    /// Its mix key, the same in every epoch.
    pub mix: X25519Secret,
    /// Its port: takes links of the node under test, and dials it.
    pub endpoint: Endpoint,
    /// While true, it reads nothing from the links it has.
    pub stalled: Arc<AtomicBool>,
    pub(super) entry: NodeEntry,
    packets: Mutex<mpsc::Receiver<(Packet, Duration)>>,
}

impl Neighbour {
    pub(super) fn new(role: Role, layer: Option<Layer>, number: u64, clock: Clock) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(number);
        let (key, mix) = (IdentityKey::generate(&mut rng), X25519Secret::generate(&mut rng));
        let spoken: &[Protocol] =
            if role == Role::Store { &[Protocol::Mix, Protocol::Store] } else { &[Protocol::Mix] };
        let endpoint = Endpoint::bind(LOCAL, &key, spoken).expect("a port");
        let keys = vec![(Epoch(0), mix.public())];
        let entry = NodeEntry {
            identity: key.identity(),
            role,
            layer,
            family: *key.identity().as_bytes(),
            addresses: vec![endpoint.local_addr().expect("bound")],
            store_index: (role == Role::Store).then_some(StoreIndex(number as u16)),
            envelope_keys: if role == Role::Store { keys.clone() } else { Vec::new() },
            mix_keys: keys,
            since: Epoch(0),
            standby: false,
        };
        let (sender, packets) = mpsc::channel(WAITING);
        let stalled = Arc::new(AtomicBool::new(false));
        tokio::spawn(collect(endpoint.clone(), sender, Arc::clone(&stalled), clock));
        Arc::new(Self { key, mix, endpoint, stalled, entry, packets: Mutex::new(packets) })
    }

    /// Its identity.
    pub fn identity(&self) -> Identity {
        self.key.identity()
    }

    /// As last hop of a packet.
    pub fn last_hop(&self) -> Hop {
        Hop { address: *self.identity().as_bytes(), key: self.mix.public(), delay: Duration::ZERO }
    }

    /// The identifier of the next packet that ends here. The node's own loops pass by and are skipped.
    pub async fn receive(&self) -> [u8; 16] {
        let next = async {
            loop {
                let header = open_header(&self.packet().await.0, &self.mix).expect("a packet for me");
                if let Unwrapped::Final { identifier, .. } = header.finish().expect("a good packet") {
                    return identifier;
                }
            }
        };
        timeout(PATIENCE, next).await.expect("a packet in time")
    }

    /// The next packet, whatever it is, and when it was read from its link (monotonic).
    pub async fn packet(&self) -> (Packet, Duration) {
        let next = std::future::poll_fn(|context| self.packets.lock().expect("whole").poll_recv(context)).await;
        next.expect("the endpoint is open")
    }

    /// Every packet that has come by now.
    pub fn packets(&self) -> Vec<(Packet, Duration)> {
        let mut packets = self.packets.lock().expect("whole");
        std::iter::from_fn(|| packets.try_recv().ok()).collect()
    }
}

/// Accepts every link and passes its packets on.
async fn collect(
    endpoint: Endpoint,
    packets: mpsc::Sender<(Packet, Duration)>,
    stalled: Arc<AtomicBool>,
    clock: Clock,
) {
    while let Some(arrival) = endpoint.accept().await {
        let (packets, stalled) = (packets.clone(), Arc::clone(&stalled));
        tokio::spawn(async move {
            let Ok(link) = arrival.admit().await else { return };
            if link.protocol == Protocol::Store {
                return read_on(&link).await;
            }
            let Ok(mut frames) = link.accept_frames::<PACKET_SIZE>().await else { return };
            while let Ok(Some(frame)) = frames.next().await {
                if packets.send((Packet::from_array(frame), clock.monotonic())).await.is_err() {
                    return;
                }
                while stalled.load(Ordering::Relaxed) && link.is_open() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
}

/// Takes what another store sends at its constant rate, and never answers: as a replica that is down for its courier.
async fn read_on(link: &Link) {
    let Ok(mut frames) = link.accept_frames::<STORE_FRAME_SIZE>().await else { return };
    while let Ok(Some(_)) = frames.next().await {}
}
