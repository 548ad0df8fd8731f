//! A real mix between neighbours that this process plays: its authority, the gateways that send to it, the mixes that it
//! sends to.

use std::{net::SocketAddr, path::Path, process::Child, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use shoal_protocol::{
    authority::AuthoritySecret,
    consensus::{Consensus, EPOCHS_COVERED, Generation, NodeEntry, certify},
    descriptor::{Descriptor, UnverifiedDescriptor},
    geometry::PACKET_SIZE,
    link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX},
    network::{Founding, Hint, Hints, NetworkFile},
    parameters::Parameters,
    quic::{Endpoint, FrameWriter, Link, Protocol, QUESTION_TIMEOUT, read_question},
    sphinx::Hop,
    types::{Epoch, Hash, Identity, IdentityKey, Layer, Role, StoreIndex, UnixMillis},
    x25519::X25519Secret,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::{sync::mpsc, time::sleep};

use crate::io::{
    clock::{self, Stopwatch},
    http, parties, ports,
};

/// How long the mix may take to be ready. It is some seconds.
const READY_LIMIT: Duration = Duration::from_secs(100);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(50);
/// How long one question may take.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Received frames that wait to be taken; more than any part of the bench sends.
const RECEIVED: usize = 1 << 20;
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A frame that the mix sent on, and when it was read.
pub(super) type Received = (Duration, Box<[u8; PACKET_SIZE]>);

/// A neighbour of the mix.
struct Neighbour {
    key: IdentityKey,
    mix: X25519Secret,
    endpoint: Endpoint,
    role: Role,
    layer: Option<Layer>,
    number: u16,
}

impl Neighbour {
    fn new(role: Role, layer: Option<Layer>, number: u16, rng: &mut StdRng) -> anyhow::Result<Self> {
        let key = IdentityKey::generate(rng);
        let endpoint = Endpoint::bind(LOCAL, &key, &[Protocol::Mix])?;
        Ok(Self { mix: X25519Secret::generate(rng), key, endpoint, role, layer, number })
    }

    fn entry(&self, epoch: Epoch) -> anyhow::Result<NodeEntry> {
        let keys: Vec<_> = (0..EPOCHS_COVERED).map(|n| (epoch.plus(n), self.mix.public())).collect();
        let is_store = self.role == Role::Store;
        Ok(NodeEntry {
            identity: self.key.identity(),
            role: self.role,
            layer: self.layer,
            family: *self.key.identity().as_bytes(),
            addresses: vec![self.endpoint.local_addr()?],
            store_index: is_store.then_some(StoreIndex(self.number)),
            envelope_keys: if is_store { keys.clone() } else { Vec::new() },
            mix_keys: keys,
            since: Epoch(0),
            standby: false,
        })
    }
}

/// What the authority knows.
struct Authority {
    secret: AuthoritySecret,
    network: NetworkFile,
    neighbours: Vec<Neighbour>,
    descriptor: Mutex<Option<Descriptor>>,
}

/// The mix with its neighbours.
pub(super) struct Stage {
    authority: Arc<Authority>,
    child: Child,
    identity: Identity,
    address: SocketAddr,
    metrics: SocketAddr,
    received: tokio::sync::Mutex<mpsc::Receiver<Received>>,
    watch: Stopwatch,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    /// Starts the mix in `dir` with `spawn`, which may put it on a core of its own, and waits until it is ready. `mean` is
    /// the mean mixing delay of the network.
    pub(super) async fn set(
        dir: &Path,
        mean: Duration,
        spawn: impl FnOnce(std::process::Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(1);
        let secret = AuthoritySecret::generate(&mut rng);
        let endpoint = Endpoint::bind(LOCAL, secret.identity_key(), &[Protocol::Directory])?;
        let hint = Hint { identity: secret.identity_key().identity(), address: endpoint.local_addr()? };
        let mean_ms = u64::try_from(mean.as_millis())?;
        let network = NetworkFile {
            name: "bench".into(),
            genesis_time: UnixMillis(clock::now().0 - 5_000),
            authorities: vec![secret.public().clone()],
            // an epoch is longer than the whole measurement
            parameters: Parameters { mean_delay_ms: mean_ms, anonymity_floor: 0, ..Parameters::production() },
            founding: Founding::default(),
            hints: Hints { authorities: vec![hint], gateways: Vec::new() },
        };
        let gateways = (0..4).map(|_| (Role::Gateway, None));
        let mixes = [Layer::L2, Layer::L2, Layer::L3].map(|layer| (Role::Mix, Some(layer)));
        let stores = (0..3).map(|_| (Role::Store, None));
        let all = stores.chain(gateways).chain(mixes).zip(0_u16..);
        let neighbours: Vec<Neighbour> = all
            .map(|((role, layer), number)| Neighbour::new(role, layer, number, &mut rng))
            .collect::<anyhow::Result<_>>()?;
        let watch = Stopwatch::start();
        let (sender, received) = mpsc::channel(RECEIVED);
        for neighbour in &neighbours {
            tokio::spawn(collect(neighbour.endpoint.clone(), sender.clone(), watch));
        }
        let authority = Arc::new(Authority { secret, network, neighbours, descriptor: Mutex::default() });
        tokio::spawn(Arc::clone(&authority).serve(endpoint));

        let found = ports::free(LOCAL.ip(), 2, &mut rng).context("no ports for the mix")?;
        let [address, metrics] = found.as_slice() else { bail!("no ports for the mix") };
        let program = parties::binary("shoal-node")?;
        let file = dir.join("network.toml");
        std::fs::write(&file, authority.network.to_toml())?;
        let home = dir.join("mix");
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 12] = [
            &"init",
            &"--json",
            &"--role",
            &"mix",
            &"--address",
            &address.to_string(),
            &"--metrics",
            &metrics.to_string(),
            &"--network",
            &file,
            &"--dir",
            &home,
        ];
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.as_ref().to_string_lossy().into_owned()).collect();
        let made: Value = serde_json::from_str(&parties::init(&program, &arguments).await?)?;
        let identity = made.get("identity").and_then(Value::as_str).context("init says no identity")?.parse()?;
        let mut command = std::process::Command::new(program);
        command.arg("run").arg("--dir").arg(&home);
        let stage = Self {
            authority,
            child: spawn(command)?,
            identity,
            address: *address,
            metrics: *metrics,
            received: tokio::sync::Mutex::new(received),
            watch,
        };
        stage.ready().await?;
        Ok(stage)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let mut said = "nothing".to_owned();
        while self.watch.elapsed() < READY_LIMIT {
            if let Ok(answer) = http::get(self.metrics, "/readyz", ASK_LIMIT).await {
                if answer.code == 200 {
                    return Ok(());
                }
                said = answer.body;
            }
            sleep(LOOK).await;
        }
        bail!("the mix is not ready after {} s; it says: {said}", READY_LIMIT.as_secs())
    }

    /// Time since the stage was set.
    pub(super) fn now(&self) -> Duration {
        self.watch.elapsed()
    }

    /// The mix as a hop of a packet sent now.
    pub(super) fn hop(&self, delay: Duration) -> anyhow::Result<Hop> {
        let descriptor = self.authority.descriptor().clone().context("the mix has published")?;
        let epoch = self.authority.network.schedule().epoch_at(clock::now());
        let key = descriptor.mix_keys.iter().find(|(of, _)| *of == epoch).context("a key for this epoch")?.1;
        Ok(Hop { address: *self.identity.as_bytes(), key, delay })
    }

    /// The mixes that it sends to, each as the last hop of a packet and with its key.
    pub(super) fn next_mixes(&self) -> Vec<(Hop, &X25519Secret)> {
        let neighbours = self.authority.neighbours.iter().filter(|neighbour| neighbour.layer == Some(Layer::L2));
        let hop = |neighbour: &Neighbour| Hop {
            address: *neighbour.key.identity().as_bytes(),
            key: neighbour.mix.public(),
            delay: Duration::ZERO,
        };
        neighbours.map(|neighbour| (hop(neighbour), &neighbour.mix)).collect()
    }

    /// Links to the mix, one from each gateway.
    pub(super) async fn links(&self) -> anyhow::Result<Vec<(Link, FrameWriter<PACKET_SIZE>)>> {
        let mut links = Vec::new();
        for gateway in self.authority.neighbours.iter().filter(|neighbour| neighbour.role == Role::Gateway) {
            let link = gateway.endpoint.connect(self.address, &self.identity, Protocol::Mix).await?;
            let writer = link.open_frames().await?;
            links.push((link, writer));
        }
        Ok(links)
    }

    /// What the mix has sent on since this was asked last.
    pub(super) async fn take_received(&self) -> Vec<Received> {
        let mut received = self.received.lock().await;
        std::iter::from_fn(|| received.try_recv().ok()).collect()
    }

    /// What the mix has dropped, by reason, for an error.
    pub(super) async fn drops(&self) -> anyhow::Result<String> {
        let answer = http::get(self.metrics, "/metrics", ASK_LIMIT).await?;
        let drops = answer.body.lines().filter_map(|line| line.strip_prefix("shoal_packets_dropped_total"));
        Ok(drops.filter(|line| !line.ends_with(" 0")).collect::<Vec<_>>().join(" "))
    }

    /// A sum of one metric of the mix over its labels.
    pub(super) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = http::get(self.metrics, "/metrics", ASK_LIMIT).await.context("the mix tells its metrics")?;
        let samples = answer.body.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = if rest.starts_with('{') { rest.rsplit_once(' ')?.1 } else { rest.strip_prefix(' ')? };
            value.parse::<f64>().ok()
        });
        Ok(samples.sum())
    }
}

impl Authority {
    fn descriptor(&self) -> MutexGuard<'_, Option<Descriptor>> {
        self.descriptor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(arrival) = endpoint.accept().await {
            let authority = Arc::clone(&self);
            tokio::spawn(async move {
                let Ok(link) = arrival.admit().await else { return };
                while let Ok(Some((question, answerer))) =
                    read_question(&link, QUESTION_SIZE_MAX, QUESTION_TIMEOUT).await
                {
                    let answer = match DirectoryQuestion::from_bytes(&question) {
                        Ok(DirectoryQuestion::Publish(bytes)) => authority.publish(&bytes),
                        Ok(DirectoryQuestion::Newest { have }) => authority.newest(have),
                        Ok(DirectoryQuestion::Changes { .. }) => DirectoryAnswer::Changes(Vec::new()),
                        Ok(DirectoryQuestion::Agree(_) | DirectoryQuestion::List(_)) | Err(_) => {
                            DirectoryAnswer::BadQuestion
                        }
                    };
                    // who takes no answer asks again
                    let _ = answerer.answer(&answer).await;
                }
            });
        }
    }

    fn publish(&self, bytes: &[u8]) -> DirectoryAnswer {
        let (network, skew) = (self.network.genesis_hash(), self.network.parameters.skew());
        let verified =
            UnverifiedDescriptor::parse(bytes).and_then(|descriptor| descriptor.verify(&network, clock::now(), skew));
        match verified {
            Ok(signed) => {
                *self.descriptor() = Some(signed.descriptor);
                DirectoryAnswer::Accepted
            }
            Err(error) => DirectoryAnswer::Refused(error.to_string()),
        }
    }

    fn newest(&self, have: Option<Hash>) -> DirectoryAnswer {
        let Some(descriptor) = self.descriptor().clone() else {
            return DirectoryAnswer::NotYet("the mix has not published".into());
        };
        match self.document(&descriptor) {
            Ok(document) if have == Some(document.hash()) => DirectoryAnswer::UpToDate,
            Ok(document) => DirectoryAnswer::Document(certify(&document, 0, &[(0, &self.secret)])),
            Err(error) => DirectoryAnswer::NotYet(error.to_string()),
        }
    }

    /// The document of this epoch: the mix in L1 among its neighbours.
    fn document(&self, descriptor: &Descriptor) -> anyhow::Result<Consensus> {
        let schedule = self.network.schedule();
        let epoch = schedule.epoch_at(clock::now());
        let covered = |(of, _): &&(Epoch, _)| (epoch..epoch.plus(EPOCHS_COVERED)).contains(of);
        let mut nodes = vec![NodeEntry {
            identity: descriptor.identity,
            role: Role::Mix,
            layer: Some(Layer::L1),
            family: *descriptor.identity.as_bytes(),
            addresses: descriptor.addresses.clone(),
            store_index: None,
            mix_keys: descriptor.mix_keys.iter().filter(covered).copied().collect(),
            envelope_keys: Vec::new(),
            since: Epoch(0),
            standby: false,
        }];
        for neighbour in &self.neighbours {
            nodes.push(neighbour.entry(epoch)?);
        }
        nodes.sort_by_key(|node| node.identity);
        let stores: Vec<StoreIndex> = nodes.iter().filter_map(|node| node.store_index).collect();
        Ok(Consensus {
            height: epoch.0 + 1,
            previous: self.network.genesis_hash(),
            authorities: self.network.authorities.clone(),
            nodes,
            next_store_index: u16::try_from(stores.len())?,
            generations: vec![Generation {
                number: 1,
                since: Epoch(0),
                retired: None,
                seed: [1; 32],
                stores: (0..u16::try_from(stores.len())?).map(StoreIndex).collect(),
            }],
            randomness: [1; 32],
            ..Consensus::blank(self.network.genesis_hash(), epoch, schedule.start(epoch), self.network.parameters)
        })
    }
}

/// Accepts every link and keeps what comes, with the time at which it was read.
async fn collect(endpoint: Endpoint, received: mpsc::Sender<Received>, watch: Stopwatch) {
    while let Some(arrival) = endpoint.accept().await {
        let received = received.clone();
        tokio::spawn(async move {
            let Ok(link) = arrival.admit().await else { return };
            let Ok(mut frames) = link.accept_frames::<PACKET_SIZE>().await else { return };
            while let Ok(Some(frame)) = frames.next().await {
                // when nobody takes them any more the measurement is over
                if received.try_send((watch.elapsed(), frame)).is_err() {
                    return;
                }
            }
        });
    }
}
