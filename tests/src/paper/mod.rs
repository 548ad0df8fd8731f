//! A network of one real node process and paper neighbours: this test is its authority, its neighbours and its clients,
//! over real links.

mod accounts;
mod neighbour;
mod node;
mod record;

pub use accounts::Accounts;
pub use neighbour::Neighbour;
pub use node::Node;
pub use record::Record;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_node::io::host::Clock;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Consensus, EPOCHS_COVERED, Generation, NodeEntry, certify};
use shoal_protocol::descriptor::{Descriptor, UnverifiedDescriptor};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::quic::{Endpoint, Protocol, QUESTION_TIMEOUT, read_question};
use shoal_protocol::sphinx::{Hop, Packet, build};
use shoal_protocol::types::{Epoch, Hash, Layer, Role, StoreIndex, UnixMillis};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

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

    /// As [`Plan::small`], with epochs of five seconds and a grace time of half as much.
    #[must_use]
    pub fn hasty(place: Option<Layer>) -> Self {
        let mut plan = Self::small(place);
        (plan.parameters.epoch_ms, plan.parameters.skew_ms, plan.parameters.mean_delay_max_ms) = (5_000, 500, 50);
        plan
    }
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
