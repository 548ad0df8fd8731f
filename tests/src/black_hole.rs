//! A mix gone bad: it has the identity key of a real one, publishes as that one does, takes every link and every packet, and
//! lets nothing out.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::X25519Secret;
use shoal_protocol::consensus::NodeEntry;
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, Protocol, ask};
use shoal_protocol::types::{IdentityKey, UnixMillis};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;

/// Such a mix; gone when dropped.
#[derive(Debug)]
pub struct BlackHole {
    swallowed: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl BlackHole {
    /// Takes the place of the node that `entry` describes, where that one was.
    ///
    /// # Panics
    /// When its port is taken.
    #[must_use]
    pub fn in_place_of(entry: NodeEntry, key: IdentityKey, network: NetworkFile) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let _inside = runtime.enter();
        let address = *entry.addresses.first().expect("an address");
        // whose place it takes may just have been killed
        let endpoint = crate::until("the port is free", Duration::from_secs(30), || {
            Endpoint::bind(address, &key, &[Protocol::Mix]).ok()
        });
        let (swallowed, accepted) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        runtime.spawn(swallow(endpoint.clone(), Arc::clone(&swallowed)));
        runtime.spawn(publish(endpoint, entry, key, network, Arc::clone(&accepted)));
        drop(_inside);
        Self { swallowed, accepted, _runtime: runtime }
    }

    /// Packets taken so far.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// Descriptors that an authority has accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn swallow(endpoint: Endpoint, swallowed: Arc<AtomicU64>) {
    while let Some(arrival) = endpoint.accept().await {
        let swallowed = Arc::clone(&swallowed);
        tokio::spawn(async move {
            let Ok(link) = arrival.admit().await else { return };
            let Ok(mut frames) = link.accept_frames::<PACKET_SIZE>().await else { return };
            while let Ok(Some(_)) = frames.next().await {
                swallowed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Publishes in the middle of every epoch, and once at the start.
async fn publish(
    endpoint: Endpoint,
    entry: NodeEntry,
    key: IdentityKey,
    network: NetworkFile,
    accepted: Arc<AtomicU64>,
) {
    let schedule = network.schedule();
    let mut rng = StdRng::seed_from_u64(5);
    loop {
        let now = now();
        let epoch = schedule.epoch_at(now);
        let descriptor = Descriptor {
            network: network.genesis_hash(),
            identity: entry.identity,
            role: entry.role,
            addresses: entry.addresses.clone(),
            family: (entry.family != *entry.identity.as_bytes()).then_some(entry.family),
            published: now,
            version: "1".into(),
            mix_keys: (0..4).map(|n| (epoch.plus(n), X25519Secret::generate(&mut rng).public())).collect(),
            envelope_keys: Vec::new(),
            loops: Vec::new(),
            leaving: false,
        };
        let question = DirectoryQuestion::Publish(descriptor.sign(&key)).to_bytes();
        for authority in &network.hints.authorities {
            let asked = endpoint.connect(authority.address, &authority.identity, Protocol::Directory).await;
            let Ok(link) = asked else { continue };
            if let Ok(answer) = ask(&link, &question, ANSWER_SIZE_MAX).await
                && matches!(DirectoryAnswer::from_bytes(&answer), Ok(DirectoryAnswer::Accepted))
            {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
        }
        let middle = |epoch| schedule.start(epoch).plus(Duration::from_millis(schedule.epoch_ms / 2));
        let next = if now < middle(epoch) { middle(epoch) } else { middle(epoch.plus(1)) };
        tokio::time::sleep(next.since(self::now())).await;
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UnixMillis(u64::try_from(since.as_millis()).expect("before the year 584 million"))
}
