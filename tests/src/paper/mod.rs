//! A network of one real node process and paper neighbours: this test is its authority, its neighbours and its clients,
//! over real links.

use crate::binary;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use shoal_node::io::control::{self, Command};
use shoal_node::io::host::Clock;
use shoal_protocol::X25519Secret;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Consensus, EPOCHS_COVERED, Generation, NodeEntry, certify};
use shoal_protocol::descriptor::{Descriptor, UnverifiedDescriptor};
use shoal_protocol::geometry::{PACKET_SIZE, STORE_FRAME_SIZE};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::quic::{Endpoint, FrameWriter, Link, Protocol, QUESTION_TIMEOUT, read_question};
use shoal_protocol::sphinx::{Hop, Packet, Unwrapped, build, open_header};
use shoal_protocol::types::{Epoch, Hash, Identity, IdentityKey, Layer, Role, StoreIndex, UnixMillis};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What a neighbour keeps of packets that nobody has asked it for yet: 65,536 × 2.8 kB = 184 MB. When it is full, its links
/// are no longer read.
const WAITING: usize = 1 << 16;

mod accounts;
mod record;

pub use accounts::Accounts;
pub use record::Record;

/// What a paper network is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Layer of the node under test, if it is a mix.
    pub place: Option<Layer>,
    /// Gateways on paper.
    pub gateways: usize,
    /// Mixes on paper in each layer.
    pub width: usize,
    /// Parameters.
    pub parameters: Parameters,
}

impl Plan {
    /// The smallest network, with epochs of ten seconds.
    #[must_use]
    pub fn small(place: Option<Layer>) -> Self {
        let parameters =
            Parameters { epoch_ms: 10_000, skew_ms: 1_000, mean_delay_max_ms: 150, ..Parameters::test_network() };
        Self { place, gateways: 1, width: 1, parameters }
    }
}

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
    entry: NodeEntry,
    packets: Mutex<mpsc::Receiver<(Packet, Duration)>>,
}

impl Neighbour {
    fn new(role: Role, layer: Option<Layer>, number: u64, clock: Clock) -> Arc<Self> {
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

/// The network on paper.
pub struct Paper {
    /// The network file.
    pub network: NetworkFile,
    /// A gateway: before L1, after L3.
    pub gateway: Arc<Neighbour>,
    /// All gateways.
    pub gateways: Vec<Arc<Neighbour>>,
    /// A mix of each layer.
    pub mixes: [Arc<Neighbour>; 3],
    /// All mixes, by layer.
    pub layers: [Vec<Arc<Neighbour>>; 3],
    /// Three stores.
    pub stores: Vec<Arc<Neighbour>>,
    authority: AuthoritySecret,
    place: Option<Layer>,
    descriptor: Mutex<Option<Descriptor>>,
    made: Mutex<Option<Consensus>>,
    /// Whether the authority withholds new documents.
    pub frozen: AtomicBool,
    /// Whether it certifies another document at every question.
    pub contradicting: AtomicBool,
    answers: AtomicU8,
    /// What the authority answers to whoever asks for changes of its set, whatever it believes.
    pub changes: Mutex<Vec<Vec<u8>>>,
    /// How often it was asked for them.
    pub asked_for_changes: AtomicUsize,
    /// Whether it answers no question at all for a document.
    pub silent: AtomicBool,
    /// Whether it dials who publishes, as real ones do, and refuses whom it does not reach.
    pub dialling: AtomicBool,
    /// Whether its documents leave the node out.
    pub left_out: AtomicBool,
    /// Refuses descriptors with this reason.
    pub refusing: Mutex<Option<String>>,
    endpoint: Endpoint,
    /// Time, with the origin of everything this test measures.
    pub clock: Clock,
}

impl Paper {
    /// Starts the authority. The node under test will be a mix of `place`, or a gateway.
    pub fn start(place: Option<Layer>) -> Arc<Self> {
        Self::start_as(Plan::small(place))
    }

    /// Starts a network of this plan.
    pub fn start_as(plan: Plan) -> Arc<Self> {
        let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
        let endpoint = Endpoint::bind(LOCAL, authority.identity_key(), &[Protocol::Directory]).expect("a port");
        let clock = Clock::start();
        let hint =
            Hint { identity: authority.identity_key().identity(), address: endpoint.local_addr().expect("bound") };
        let network = NetworkFile {
            name: "paper".into(),
            genesis_time: UnixMillis(clock.wall().0 - 5_000),
            authorities: vec![authority.public().clone()],
            parameters: plan.parameters,
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints { authorities: vec![hint], gateways: Vec::new() },
        };
        // numbers that differ: a neighbour's keys follow from its own
        let gateways: Vec<_> =
            (0..plan.gateways as u64).map(|n| Neighbour::new(Role::Gateway, None, 10 + 100 * n, clock)).collect();
        let layers = Layer::ALL.map(|layer| {
            let first = 11 + layer as u64;
            let mix = |n| Neighbour::new(Role::Mix, Some(layer), first + 100 * n, clock);
            (0..plan.width as u64).map(mix).collect::<Vec<_>>()
        });
        let paper = Arc::new(Self {
            network,
            gateway: Arc::clone(&gateways[0]),
            gateways,
            mixes: [0, 1, 2].map(|layer: usize| Arc::clone(&layers[layer][0])),
            layers,
            stores: (0..3).map(|number| Neighbour::new(Role::Store, None, number, clock)).collect(),
            authority,
            place: plan.place,
            descriptor: Mutex::default(),
            made: Mutex::default(),
            frozen: AtomicBool::new(false),
            contradicting: AtomicBool::new(false),
            answers: AtomicU8::new(0),
            changes: Mutex::default(),
            asked_for_changes: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            dialling: AtomicBool::new(false),
            left_out: AtomicBool::new(false),
            refusing: Mutex::default(),
            endpoint: endpoint.clone(),
            clock,
        });
        tokio::spawn(Arc::clone(&paper).serve(endpoint));
        paper
    }

    async fn serve(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(arrival) = endpoint.accept().await {
            let paper = Arc::clone(&self);
            tokio::spawn(async move {
                let Ok(link) = arrival.admit().await else { return };
                while let Ok(Some((question, answerer))) =
                    read_question(&link, QUESTION_SIZE_MAX, QUESTION_TIMEOUT).await
                {
                    let question = DirectoryQuestion::from_bytes(&question).expect("a question");
                    let answer = match question {
                        DirectoryQuestion::Publish(bytes) => paper.publish(&bytes).await,
                        DirectoryQuestion::Newest { have } => paper.newest(have),
                        DirectoryQuestion::Changes { .. } => {
                            paper.asked_for_changes.fetch_add(1, Ordering::Relaxed);
                            let changes = paper.changes.lock().expect("whole").clone();
                            DirectoryAnswer::Changes(changes.into_iter().map(Into::into).collect())
                        }
                        DirectoryQuestion::Agree(_) | DirectoryQuestion::List(_) => DirectoryAnswer::BadQuestion,
                    };
                    // an asker that was killed takes no answer
                    let _ = answerer.answer(&answer).await;
                }
            });
        }
    }

    async fn publish(&self, bytes: &[u8]) -> DirectoryAnswer {
        if let Some(reason) = self.refusing.lock().expect("whole").clone() {
            return DirectoryAnswer::Refused(reason);
        }
        let (network, now) = (self.network.genesis_hash(), self.clock.wall());
        let verified = UnverifiedDescriptor::parse(bytes)
            .and_then(|descriptor| descriptor.verify(&network, now, self.network.parameters.skew()));
        match verified {
            Ok(signed) => {
                let Descriptor { identity, addresses, .. } = &signed.descriptor;
                if self.dialling.load(Ordering::Relaxed) {
                    let dialled = self.endpoint.connect(addresses[0], identity, Protocol::Mix);
                    if !matches!(timeout(Duration::from_secs(3), dialled).await, Ok(Ok(_))) {
                        // in the words of the real one
                        return DirectoryAnswer::Refused(format!(
                            "this authority cannot reach the node at the address it names ({}: no answer within 3 s); open \
                             the UDP port, check --address",
                            addresses[0]
                        ));
                    }
                }
                *self.descriptor.lock().expect("whole") = Some(signed.descriptor);
                DirectoryAnswer::Accepted
            }
            Err(error) => DirectoryAnswer::Refused(error.to_string()),
        }
    }

    fn newest(&self, have: Option<Hash>) -> DirectoryAnswer {
        if self.silent.load(Ordering::Relaxed) {
            return DirectoryAnswer::NotYet("waiting for this test".into());
        }
        let Some(descriptor) = self.descriptor.lock().expect("whole").clone() else {
            return DirectoryAnswer::NotYet("waiting for the node".into());
        };
        let mut document = self.document(&descriptor);
        if self.contradicting.load(Ordering::Relaxed) {
            document.randomness = [self.answers.fetch_add(1, Ordering::Relaxed); 32];
            return DirectoryAnswer::Document(certify(&document, 0, &[(0, &self.authority)]));
        }
        if have.is_some() && self.frozen.load(Ordering::Relaxed) {
            return DirectoryAnswer::UpToDate;
        }
        if have == Some(document.hash()) {
            return DirectoryAnswer::UpToDate;
        }
        DirectoryAnswer::Document(certify(&document, 0, &[(0, &self.authority)]))
    }

    /// The document of the current epoch: made once, of what was published then.
    fn document(&self, descriptor: &Descriptor) -> Consensus {
        let schedule = self.network.schedule();
        let epoch = schedule.epoch_at(self.clock.wall());
        let mut made = self.made.lock().expect("whole");
        let frozen = self.frozen.load(Ordering::Relaxed);
        match made.as_ref().filter(|document| document.epoch == epoch || frozen) {
            Some(document) => document.clone(),
            None => made.insert(self.make_document(epoch, descriptor)).clone(),
        }
    }

    fn make_document(&self, epoch: Epoch, descriptor: &Descriptor) -> Consensus {
        let schedule = self.network.schedule();
        let covered = |keys: &[(Epoch, shoal_protocol::X25519Public)]| {
            keys.iter().filter(|(of, _)| (epoch..epoch.plus(EPOCHS_COVERED)).contains(of)).copied().collect()
        };
        // as authorities do: a node without a key for the document's epoch is not in it
        let has_key = !self.left_out.load(Ordering::Relaxed) && descriptor.mix_keys.iter().any(|(of, _)| *of == epoch);
        let is_store = descriptor.role == Role::Store;
        let under_test = NodeEntry {
            identity: descriptor.identity,
            role: descriptor.role,
            layer: self.place,
            family: *descriptor.identity.as_bytes(),
            addresses: descriptor.addresses.clone(),
            store_index: is_store.then_some(StoreIndex(3)),
            mix_keys: covered(&descriptor.mix_keys),
            envelope_keys: covered(&descriptor.envelope_keys),
            since: Epoch(0),
            standby: false,
        };
        let mut nodes: Vec<NodeEntry> = has_key.then_some(under_test).into_iter().collect();
        let neighbours = self.layers.iter().flatten().chain(&self.stores).chain(&self.gateways);
        nodes.extend(neighbours.map(|neighbour| {
            let mut entry = neighbour.entry.clone();
            let keys: Vec<_> = (0..EPOCHS_COVERED).map(|n| (epoch.plus(n), neighbour.mix.public())).collect();
            entry.envelope_keys = if entry.role == Role::Store { keys.clone() } else { Vec::new() };
            entry.mix_keys = keys;
            entry
        }));
        nodes.sort_by_key(|node| node.identity);
        Consensus {
            // every other height: then nobody can tell whether a document names its predecessor
            height: 2 * epoch.0 + 1,
            previous: self.network.genesis_hash(),
            authorities: self.network.authorities.clone(),
            nodes,
            next_store_index: 3 + u16::from(is_store),
            generations: vec![Generation {
                number: 1,
                since: Epoch(0),
                retired: None,
                seed: [1; 32],
                stores: (0..3 + u16::from(is_store)).map(StoreIndex).collect(),
            }],
            randomness: [1; 32],
            ..Consensus::blank(self.network.genesis_hash(), epoch, schedule.start(epoch), self.network.parameters)
        }
    }

    /// The newest descriptor of the node under test.
    pub fn descriptor(&self) -> Descriptor {
        self.descriptor.lock().expect("whole").clone().expect("published")
    }

    /// The node under test as a hop, with the key it published for the current epoch; if it is leaving and the epoch is
    /// over, with its last.
    pub fn hop(&self, delay: Duration) -> Hop {
        let descriptor = self.descriptor();
        let epoch = self.network.schedule().epoch_at(self.clock.wall());
        let key = descriptor.mix_keys.iter().find(|(of, _)| *of == epoch).or(descriptor.mix_keys.last());
        let key = key.expect("a key").1;
        Hop { address: *descriptor.identity.as_bytes(), key, delay }
    }

    /// A packet through the node under test to `last`, with a number that its receiver reads: [`Record::number`].
    pub fn numbered(&self, number: u64, delay: Duration, last: Hop, rng: &mut StdRng) -> Packet {
        build(&[], &[self.hop(delay), last], record::identifier(number), rng).expect("a good route")
    }

    /// A packet through the node under test to `last`, named by `identifier`.
    pub fn packet(&self, delay: Duration, last: Hop, identifier: u8) -> Packet {
        let mut rng = StdRng::seed_from_u64(u64::from(identifier) + 1_000);
        build(&[], &[self.hop(delay), last], [identifier; 16], &mut rng).expect("a good route")
    }
}

/// The node under test: a process.
pub struct Node {
    child: Child,
    dir: PathBuf,
    environment: Vec<(String, String)>,
    /// Own loops that it dropped before it was ready.
    own: AtomicU64,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its identity.
    pub identity: Identity,
    metrics: SocketAddr,
}

impl Node {
    /// Makes and starts a node of `role` in `dir`.
    pub fn start(paper: &Paper, role: Role, dir: &std::path::Path) -> Self {
        Self::start_with(paper, role, dir, &[], &[])
    }

    /// As [`Node::start`], with these environment variables and these lines under `[limits]` in its configuration.
    pub fn start_with(
        paper: &Paper,
        role: Role,
        dir: &std::path::Path,
        environment: &[(&str, &str)],
        limits: &[(&str, usize)],
    ) -> Self {
        let network = dir.join("network.toml");
        std::fs::write(&network, paper.network.to_toml()).expect("written");
        let (address, metrics) = (free_udp(), free_tcp());
        let made = Process::new(binary("shoal-node"))
            .args(["init", "--json", "--role", &role.to_string(), "--address", &address.to_string()])
            .args(["--metrics", &metrics.to_string(), "--network"])
            .arg(&network)
            .arg("--dir")
            .arg(dir.join("node"))
            .output()
            .expect("init runs");
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).expect("one line of JSON");
        let identity = made["identity"].as_str().expect("an identity").parse().expect("hexadecimal");
        let dir = dir.join("node");
        // all that a log can hold, also that of libraries if they were let
        let config = std::fs::read_to_string(dir.join("node.toml")).expect("read");
        let loud = "log = \"debug,quinn=trace,quinn_proto::connection=trace,rustls=trace\"";
        let mut config: toml::Table = config.replace("log = \"info\"", loud).parse().expect("TOML");
        let own = config.entry("limits").or_insert_with(|| toml::Table::new().into()).as_table_mut().expect("a table");
        for (name, value) in limits {
            own.insert((*name).to_owned(), toml::Value::Integer(i64::try_from(*value).expect("small")));
        }
        std::fs::write(dir.join("node.toml"), config.to_string()).expect("written");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { child: spawn(&dir, &environment), dir, environment, own: AtomicU64::new(0), address, identity, metrics }
    }

    /// Its directory.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("read")
    }

    /// Waits until the log satisfies `condition`.
    pub async fn wait_log(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let waiting = async {
            while !condition(&self.log()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}: {}", self.log());
    }

    /// Code and body of an answer on the metrics port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.metrics).await.expect("connected");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.metrics);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"), body.to_owned())
    }

    /// What a command of the operator prints for people.
    pub fn command(&self, name: &str) -> String {
        let output = Process::new(binary("shoal-node")).arg(name).arg("--dir").arg(&self.dir).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command of the operator prints for programs.
    pub fn command_json(&self, name: &str) -> String {
        let output =
            Process::new(binary("shoal-node")).args([name, "--json", "--dir"]).arg(&self.dir).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// kill -9, then start again in the same directory.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// Starts it again in the same directory.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.environment);
    }

    /// Where its keys and logs are.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Names of the files of keys and of what was seen under them.
    pub fn key_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.runtime_dir()).expect("listed");
        let names = entries.filter_map(|entry| entry.expect("an entry").file_name().into_string().ok());
        names.filter(|name| name.starts_with("mix-")).collect()
    }

    /// What it says of itself; null while it is not there.
    pub async fn status(&self) -> Value {
        control::ask(&self.runtime_dir(), Command::Status).await.unwrap_or(Value::Null)
    }

    /// Waits until the status satisfies `condition`.
    pub async fn wait(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waiting = async {
            loop {
                last = self.status().await;
                if condition(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        assert!(found.is_ok(), "{what}: {last}");
        last
    }

    /// What became of the packets it has received since its start.
    pub async fn accounts(&self) -> Accounts {
        self.read(&self.status().await)
    }

    /// What a status says of its packets.
    pub fn read(&self, status: &Value) -> Accounts {
        Accounts::of(status).counted(self.own.load(Ordering::Relaxed))
    }

    /// Waits until it has received `count` packets since its start, none waits any more, and each of them is accounted
    /// for: forwarded or dropped.
    pub async fn settled(&self, count: u64) -> Accounts {
        let settled = |status: &Value| {
            let accounts = self.read(status);
            accounts.received >= count && accounts.is_settled()
        };
        self.read(&self.wait("every packet is accounted for", settled).await)
    }

    /// Resident memory, in bytes, as the system has it.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        self.own.store(0, Ordering::Relaxed);
        let status = self.wait("ready", |status| status["ready"] == Value::Bool(true)).await;
        self.own.store(Accounts::of(&status).own_now(), Ordering::Relaxed);
    }

    /// Waits until exactly `count` packets were dropped for `reason` since its start.
    pub async fn dropped(&self, reason: &str, count: u64) {
        self.wait(reason, |status| status["dropped"][reason].as_u64() == Some(count)).await;
    }

    /// A link from `peer`, with its stream of packets.
    pub async fn dial(&self, peer: &Neighbour) -> (Link, FrameWriter<PACKET_SIZE>) {
        let link = peer.endpoint.connect(self.address, &self.identity, Protocol::Mix).await.expect("a link");
        let frames = link.open_frames().await.expect("a stream");
        (link, frames)
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Process::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Sends a signal by name and waits for the end of the process.
    pub async fn end(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.ended().await
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> Option<i32> {
        // a drain takes up to an epoch and its grace time: 17 s
        const LONG: Duration = Duration::from_secs(180);
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("our child") {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, ended).await.expect("ends in time")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &std::path::Path, environment: &[(String, String)]) -> Child {
    Process::new(binary("shoal-node"))
        .args(["run", "--dir"])
        .arg(dir)
        .env_remove("SHOAL_LOG")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(std::fs::OpenOptions::new().append(true).create(true).open(dir.join("log")).expect("opened"))
        .spawn()
        .expect("starts")
}

fn free_udp() -> SocketAddr {
    std::net::UdpSocket::bind(LOCAL).and_then(|socket| socket.local_addr()).expect("a free port")
}

fn free_tcp() -> SocketAddr {
    std::net::TcpListener::bind(LOCAL).and_then(|listener| listener.local_addr()).expect("a free port")
}
