//! A node whose authorities are dead, slow or lying: it gets the document from a gateway, in seconds and not in an epoch.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_node::io::asking::Authorities;
use shoal_node::io::changes::Keeper;
use shoal_node::io::directory::{CONSENSUS_FILE, ConsensusTask};
use shoal_node::io::fetch_state::FetchState;
use shoal_node::io::host::Clock;
use shoal_node::io::phase::Phase;
use shoal_node::roster::{Roster, USELESS_MAX};
use shoal_protocol::X25519Secret;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{
    Consensus, EPOCHS_COVERED, Follower, NodeEntry, Shelf, TrustAnchor, UnverifiedConsensus, VerifiedConsensus,
    certify, changes_after, set_hash,
};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::quic::{Endpoint, Pieces, Protocol, QUESTION_TIMEOUT, read_question};
use shoal_protocol::types::{Epoch, Hash, IdentityKey, Role, UnixMillis};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Long beside the seconds that all the liars together may cost.
const EPOCH: Duration = Duration::from_secs(120);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// The epoch of the test.
const NOW: u64 = 10;

/// What a server does with a question; kinds of answers that were given are counted.
#[derive(Clone)]
enum Conduct {
    /// Takes the question and says nothing.
    Silent,
    /// Says this, whatever is asked.
    Says(Arc<[u8]>),
    /// Hands out documents as a gateway does.
    Honest(Arc<Shelf>, Arc<[Arc<VerifiedConsensus>]>),
}

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, usize>>>);

impl Counts {
    fn add(&self, what: &str) {
        *self.0.lock().expect("whole").entry(what.to_owned()).or_default() += 1;
    }

    fn of(&self, what: &str) -> usize {
        self.0.lock().expect("whole").get(what).copied().unwrap_or_default()
    }
}

struct World {
    network: NetworkFile,
    clock: Clock,
    /// Certifies up to the change, and after it.
    sets: [AuthoritySecret; 2],
    gateway: IdentityKey,
    endpoint: Endpoint,
    counts: Counts,
}

impl World {
    fn new() -> Self {
        let secret = |seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed));
        let gateway = IdentityKey::generate(&mut StdRng::seed_from_u64(3));
        let endpoint = Endpoint::bind(LOCAL, &gateway, &[Protocol::Directory]).expect("a port");
        let clock = Clock::start();
        let sets = [secret(1), secret(2)];
        let parameters = Parameters { epoch_ms: 120_000, ..Parameters::test_network() };
        let network = NetworkFile {
            name: "liars".to_owned(),
            // the epoch has begun a second ago
            genesis_time: UnixMillis(clock.wall().0 - NOW * parameters.epoch_ms - 1_000),
            authorities: vec![sets[0].public().clone()],
            parameters,
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints::default(),
        };
        Self { network, clock, sets, gateway, endpoint, counts: Counts::default() }
    }

    /// The document of an epoch. The set changes in that of epoch 7.
    fn document(&self, epoch: u64) -> Arc<VerifiedConsensus> {
        let [first, second] = &self.sets;
        let by = if epoch <= 7 { first } else { second };
        let bytes = certify(&self.content(epoch), 0, &[(0, by)]);
        let anchor = TrustAnchor { network: self.network.genesis_hash(), authorities: vec![by.public().clone()] };
        let verified = UnverifiedConsensus::parse(&bytes).and_then(|parsed| parsed.verify_any_time(&anchor));
        Arc::new(verified.expect("a good document"))
    }

    fn content(&self, epoch: u64) -> Consensus {
        let [first, second] = &self.sets;
        let (schedule, parameters) = (self.network.schedule(), self.network.parameters);
        let epoch = Epoch(epoch);
        let key = |epoch: Epoch| X25519Secret::generate(&mut StdRng::seed_from_u64(epoch.0)).public();
        let identity = self.gateway.identity();
        Consensus {
            // every other height: then none names its predecessor
            height: 2 * epoch.0,
            previous: Hash::from_bytes([3; 32]),
            authorities: vec![if epoch.0 < 7 { first } else { second }.public().clone()],
            nodes: vec![NodeEntry {
                identity,
                role: Role::Gateway,
                layer: None,
                family: *identity.as_bytes(),
                addresses: vec![self.endpoint.local_addr().expect("bound")],
                store_index: None,
                mix_keys: (0..EPOCHS_COVERED).map(|n| (epoch.plus(n), key(epoch.plus(n)))).collect(),
                envelope_keys: Vec::new(),
                since: Epoch(0),
                standby: false,
            }],
            ..Consensus::blank(self.network.genesis_hash(), epoch, schedule.start(epoch), parameters)
        }
    }

    fn honest(&self) -> Conduct {
        let shelf = (8..=NOW).fold(Shelf::default(), |shelf, epoch| shelf.with(&self.document(epoch)));
        Conduct::Honest(Arc::new(shelf), Arc::from([self.document(7)]))
    }

    fn serve(&self, endpoint: Endpoint, conduct: Conduct, name: &'static str) {
        let (counts, genesis) = (self.counts.clone(), self.network.authorities.clone());
        tokio::spawn(async move {
            while let Some(arrival) = endpoint.accept().await {
                let (conduct, counts, genesis) = (conduct.clone(), counts.clone(), genesis.clone());
                tokio::spawn(async move {
                    let Ok(link) = arrival.admit().await else { return };
                    let mut held = Vec::new();
                    while let Ok(Some((question, answerer))) =
                        read_question(&link, QUESTION_SIZE_MAX, QUESTION_TIMEOUT).await
                    {
                        counts.add(name);
                        let question = DirectoryQuestion::from_bytes(&question).expect("a question");
                        let pieces = match (&conduct, question) {
                            (Conduct::Silent, _) => {
                                held.push(answerer);
                                continue;
                            }
                            (Conduct::Says(bytes), _) => Pieces::from(bytes.to_vec()),
                            (Conduct::Honest(shelf, _), DirectoryQuestion::Newest { have }) => {
                                let handout = shelf.for_holder_of(have.as_ref()).expect("a document");
                                counts.add(format!("{handout:?}").split('(').next().expect("a name"));
                                handout.into()
                            }
                            (Conduct::Honest(_, changes), DirectoryQuestion::Changes { after }) => {
                                counts.add("Changes");
                                Pieces::changes(changes_after(&genesis, changes, &after).unwrap_or_default())
                            }
                            (Conduct::Honest(..), other) => panic!("{other:?}"),
                        };
                        // an asker that has its document already takes no answer
                        let _ = answerer.answer(pieces).await;
                    }
                });
            }
        });
    }

    /// Starts authorities of every bad kind and names them in the network file.
    fn lie(&mut self) -> UdpSocket {
        let says = |answer: &DirectoryAnswer| Conduct::Says(answer.to_bytes().into());
        let document = |bytes: Vec<u8>| says(&DirectoryAnswer::Document(bytes));
        let forger = AuthoritySecret::generate(&mut StdRng::seed_from_u64(50));
        let forged = certify(&self.content(NOW), 0, &[(0, &forger)]);
        let mut elsewhere = self.content(NOW);
        elsewhere.network = Hash::from_bytes([8; 32]);
        let elsewhere = certify(&elsewhere, 0, &[(0, &self.sets[1])]);
        let conducts = [
            ("silent", Conduct::Silent),
            ("silent", Conduct::Silent),
            ("garbage", Conduct::Says([7; 900].into())),
            ("older", document(self.document(5).bytes().to_vec())),
            ("forged", document(forged)),
            ("another chain", document(elsewhere)),
            ("nothing new", says(&DirectoryAnswer::UpToDate)),
            ("a false difference", says(&DirectoryAnswer::Difference(vec![1; 500]))),
        ];
        for (seed, (name, conduct)) in (100..).zip(conducts) {
            let key = IdentityKey::generate(&mut StdRng::seed_from_u64(seed));
            let endpoint = Endpoint::bind(LOCAL, &key, &[Protocol::Directory]).expect("a port");
            let address = endpoint.local_addr().expect("bound");
            self.network.hints.authorities.push(Hint { identity: key.identity(), address });
            self.serve(endpoint, conduct, name);
        }
        // and one that is not there at all
        let dead = UdpSocket::bind(LOCAL).expect("a port");
        let identity = IdentityKey::generate(&mut StdRng::seed_from_u64(99)).identity();
        self.network.hints.authorities.push(Hint { identity, address: dead.local_addr().expect("bound") });
        dead
    }

    /// The task of a node that kept `own` in its directory.
    fn task(&self, dir: &Path, own: Option<&VerifiedConsensus>) -> ConsensusTask {
        if let Some(own) = own {
            std::fs::write(dir.join(CONSENSUS_FILE), own.bytes()).expect("written");
        }
        let me = IdentityKey::generate(&mut StdRng::seed_from_u64(4));
        let endpoint = Endpoint::dialler(Some(&me), LOCAL).expect("a port");
        let anchor = self.network.trust_anchor();
        let mut task = ConsensusTask {
            me: me.identity(),
            authorities: Arc::new(Authorities::new(Arc::new(endpoint), &self.network)),
            follower: Follower::new(anchor.clone()),
            changes: Keeper::open(dir, &anchor).expect("empty"),
            known: None,
            seen: None,
            roster: Roster::default(),
            schedule: self.network.schedule(),
            dir: dir.to_owned(),
            clock: self.clock,
            consensus: watch::Sender::new(None),
            state: watch::Sender::new(FetchState::default()),
            stale: false,
            quiet_until: Duration::ZERO,
        };
        task.load().expect("readable");
        task
    }

    /// How long the task takes until it has the document of this epoch.
    async fn fetched(&self, task: ConsensusTask) -> Duration {
        let mut task = task;
        let mut shown = task.consensus.subscribe();
        let (_phase, phases) = watch::channel(Phase::Running);
        let began = self.clock.monotonic();
        tokio::spawn(async move { task.run(phases).await });
        let current = shown.wait_for(|held| held.as_ref().is_some_and(|held| held.epoch == Epoch(NOW)));
        let held = timeout(EPOCH, current).await.expect("within the epoch").expect("the task runs").clone();
        assert_eq!(held.expect("a document").hash(), self.document(NOW).hash());
        self.clock.monotonic() - began
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_cost_seconds_when_the_network_file_names_a_gateway() {
    let mut world = World::new();
    let _dead = world.lie();
    let gateway = Hint { identity: world.gateway.identity(), address: world.endpoint.local_addr().expect("bound") };
    world.network.hints.gateways.push(gateway);
    world.serve(world.endpoint.clone(), world.honest(), "gateway");
    let dir = tempfile::tempdir().expect("a directory");
    let task = world.task(dir.path(), None);
    let changes = task.changes.subscribe();
    let took = world.fetched(task).await;
    // two that are silent and one that is dead: 2 s each; half an epoch is ten times as much
    assert!(took < EPOCH / 2, "{took:?}");
    println!("three that say nothing and six that lie cost {took:?}");
    assert_eq!((world.counts.of("Whole"), world.counts.of("Changes")), (1, 1));
    for name in ["silent", "garbage", "older", "forged", "another chain", "nothing new", "a false difference"] {
        assert!(world.counts.of(name) > 0, "{name} was asked first");
    }
    // what led from the set of the network file to the newest one is kept for others, also over a restart
    let first = set_hash(&world.network.authorities);
    assert_eq!(changes.borrow().after(&first).map(<[_]>::len), Some(1));
    let kept = Keeper::open(dir.path(), &world.network.trust_anchor()).expect("readable").subscribe();
    assert_eq!(kept.borrow().after(&first).expect("known")[0].hash(), world.document(7).hash());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_asks_the_gateways_of_its_last_document() {
    let mut world = World::new();
    let _dead = world.lie();
    world.serve(world.endpoint.clone(), world.honest(), "gateway");
    let dir = tempfile::tempdir().expect("a directory");
    // over since an epoch, and before the change
    let last = world.document(6);
    let task = world.task(dir.path(), Some(&last));
    assert!(task.consensus.borrow().is_none(), "it is not in force");
    let took = world.fetched(task).await;
    assert!(took < EPOCH / 2, "{took:?}");
    assert_eq!((world.counts.of("Whole"), world.counts.of("Changes")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_recent_document_downloads_a_difference() {
    let mut world = World::new();
    let _dead = world.lie();
    world.serve(world.endpoint.clone(), world.honest(), "gateway");
    let dir = tempfile::tempdir().expect("a directory");
    let task = world.task(dir.path(), Some(&world.document(9)));
    assert!(task.consensus.borrow().is_some(), "in force");
    let took = world.fetched(task).await;
    assert!(took < EPOCH / 2, "{took:?}");
    assert_eq!((world.counts.of("Difference"), world.counts.of("Whole"), world.counts.of("Changes")), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gives_what_is_of_no_use_is_left_alone_for_the_epoch() {
    let mut world = World::new();
    let key = IdentityKey::generate(&mut StdRng::seed_from_u64(200));
    let endpoint = Endpoint::bind(LOCAL, &key, &[Protocol::Directory]).expect("a port");
    let address = endpoint.local_addr().expect("bound");
    world.network.hints.authorities.push(Hint { identity: key.identity(), address });
    let older = DirectoryAnswer::Document(world.document(5).bytes().to_vec());
    world.serve(endpoint, Conduct::Says(older.to_bytes().into()), "older");
    let dir = tempfile::tempdir().expect("a directory");
    let mut task = world.task(dir.path(), None);
    let mut state = task.state.subscribe();
    let (_phase, phases) = watch::channel(Phase::Running);
    tokio::spawn(async move { task.run(phases).await });
    let rests = |state: &FetchState| state.problem.as_ref().is_some_and(|problem| problem.contains("of no use"));
    timeout(EPOCH, state.wait_for(rests)).await.expect("within the epoch").expect("the task runs");
    // said only when nobody is left to be asked: it was, four times a second
    assert_eq!(world.counts.of("older"), usize::try_from(USELESS_MAX).expect("few"));
}
