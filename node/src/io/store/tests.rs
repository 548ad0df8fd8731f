//! Three stores as they run, with real links and real files, and an L1 mix that only receives.

use super::*;
use crate::config_store::StoreConfig;
use crate::drops::Drops;
use crate::io::counters::Counters;
use crate::io::key_files::KeyFiles;
use crate::io::links::{LinkKeeper, LinkSender};
use crate::io::live_keys::LiveKey;
use crate::io::phase::Phase;
use crate::keys::{EpochKeys, Window};
use shoal_protocol::X25519Secret;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::boxes::{self, BoxBody, BoxId, ChainSecret, WriteKey};
use shoal_protocol::consensus::{Generation, NodeEntry, TrustAnchor, UnverifiedConsensus, certify};
use shoal_protocol::geometry::{PACKET_SIZE, PLAINTEXT_SIZE};
use shoal_protocol::inbox::{InboxKey, find_nonce, inbox_id};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::quic::{Endpoint, Protocol};
use shoal_protocol::request::{Answer, Operation, Status, pack_request, seal_envelope};
use shoal_protocol::sphinx::{Hop, Packet, Unwrapped, open_header};
use shoal_protocol::surb;
use shoal_protocol::types::{Epoch, Hash, Layer, Role, StoreIndex};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

const NETWORK: Hash = Hash::from_bytes([7; 32]);
const EPOCH: Epoch = Epoch(100);
const GENERATION: u32 = 1;
/// Longer than any wait that a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Times at which a loaded machine still keeps up.
fn parameters() -> Parameters {
    Parameters {
        epoch_ms: 3_600_000,
        service_ms: 1_000,
        answer_ms: 250,
        retention_ms: 7_200_000,
        ..Parameters::test_network()
    }
}

struct Machine {
    key: Arc<IdentityKey>,
    index: StoreIndex,
    endpoint: Arc<Endpoint>,
    keys: Arc<EpochKeys>,
    dir: TempDir,
    /// Where its keys and what they have seen survive a restart.
    run_dir: TempDir,
}

fn machine(index: u16, rng: &mut StdRng) -> Machine {
    let key = Arc::new(IdentityKey::generate(rng));
    Machine {
        endpoint: Arc::new(bind(&key)),
        key,
        index: StoreIndex(index),
        keys: Arc::new(EpochKeys {
            epoch: EPOCH,
            mix: X25519Secret::generate(rng),
            envelope: Some(X25519Secret::generate(rng)),
        }),
        dir: tempfile::tempdir().expect("a directory"),
        run_dir: tempfile::tempdir().expect("a directory"),
    }
}

impl Machine {
    /// The keys with what was seen under them, now or before the last restart.
    fn live_keys(&self) -> Arc<LiveKeys> {
        let files = KeyFiles::new(self.run_dir.path(), NETWORK, 1_000);
        let mut ring = crate::keys::KeyRing::new(true);
        let memories = match files.restore(&mut ring).expect("readable").pop() {
            Some(restored) => restored.memories,
            None => files.create(&self.keys).expect("created"),
        };
        let window = Window { from: UnixMillis(0), until: UnixMillis(u64::MAX) };
        let live = Arc::new(LiveKeys::default());
        live.replace(vec![Arc::new(LiveKey::new(window, Arc::clone(&self.keys), memories))]);
        live
    }
}

fn bind(key: &IdentityKey) -> Endpoint {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    Endpoint::bind(loopback, key, &[Protocol::Mix, Protocol::Store]).expect("a port")
}

fn entry(identity: Identity, role: Role, address: SocketAddr, mix: &X25519Secret) -> NodeEntry {
    NodeEntry {
        identity,
        role,
        layer: None,
        family: *identity.as_bytes(),
        addresses: vec![address],
        store_index: None,
        mix_keys: vec![(EPOCH, mix.public())],
        envelope_keys: Vec::new(),
        since: Epoch(1),
        standby: false,
    }
}

/// What a store in the making is reached by.
struct Running {
    requests: mpsc::Sender<Request>,
    report: Arc<StoreReport>,
    sender: LinkSender,
    phase: watch::Sender<Phase>,
    /// Kept: a store whose shell is gone ends.
    _documents: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    task: tokio::task::JoinHandle<Result<()>>,
}

struct Net {
    rng: StdRng,
    clock: Clock,
    records_max: u64,
    /// From the arrival of the last request to its reply.
    took: Duration,
    consensus: Arc<VerifiedConsensus>,
    machines: BTreeMap<StoreIndex, Machine>,
    running: BTreeMap<StoreIndex, Running>,
    l1: Identity,
    replies: mpsc::Receiver<Packet>,
}

impl Net {
    async fn start(records_max: u64) -> Self {
        let mut rng = generator();
        let machines: BTreeMap<StoreIndex, Machine> =
            (0..3).map(|index| (StoreIndex(index), machine(index, &mut rng))).collect();
        let l1_key = IdentityKey::generate(&mut rng);
        let l1 = Arc::new(bind(&l1_key));
        let consensus = consensus(&machines, l1_key.identity(), &l1, &mut rng);
        let mut net = Self {
            rng,
            clock: Clock::start(),
            records_max,
            took: Duration::ZERO,
            consensus,
            machines,
            running: BTreeMap::new(),
            l1: l1_key.identity(),
            replies: receive_packets(l1),
        };
        for index in net.machines.keys().copied().collect::<Vec<_>>() {
            net.run(index);
        }
        net.until_linked().await;
        net
    }

    fn run(&mut self, index: StoreIndex) {
        let machine = &self.machines[&index];
        let (requests, from_workers) = mpsc::channel(64);
        let (phase, phases) = watch::channel(Phase::Running);
        let (documents, consensus) = watch::channel(Some(Arc::clone(&self.consensus)));
        let counters = Arc::new(Counters::default());
        let sender = LinkSender::new(Arc::clone(&counters));
        let (before_in, before) = watch::channel(None);
        let keeper = LinkKeeper {
            me: machine.key.identity(),
            endpoint: Arc::clone(&machine.endpoint),
            consensus: consensus.clone(),
            before,
            sender: sender.clone(),
            clock: Clock::start(),
            queue_packets: Arc::new(std::sync::atomic::AtomicUsize::new(64)),
            phase: phases.clone(),
        };
        tokio::spawn(async move {
            let _open = before_in;
            keeper.run().await;
        });
        let report = Arc::new(StoreReport::default());
        let context = StoreContext {
            identity: Arc::clone(&machine.key),
            consensus,
            requests: from_workers,
            arrivals: accept_stores(Arc::clone(&machine.endpoint)),
            endpoint: Arc::clone(&machine.endpoint),
            outgoing: sender.clone(),
            keys: machine.live_keys(),
            dir: machine.dir.path().to_owned(),
            store: StoreConfig {
                dir: ".".into(),
                records: usize::try_from(self.records_max).expect("fits"),
                ..StoreConfig::default()
            },
            mover: Arc::default(),
            clock: self.clock,
            drops: Arc::new(Drops::default()),
            report: Arc::clone(&report),
            phase: phases,
        };
        let task = tokio::spawn(run(context));
        self.running.insert(index, Running { requests, report, sender, phase, _documents: documents, task });
    }

    /// Waits until every store has its links.
    async fn until_linked(&self) {
        let linked = |running: &Running| {
            let states = running.sender.states();
            running.report.is_open()
                && running.report.links() == (2, 2)
                && !states.is_empty()
                && states.iter().all(|(_, up)| *up)
        };
        let waiting = async {
            while !self.running.values().all(linked) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the stores find each other");
    }

    async fn stop(&mut self, index: StoreIndex) {
        let running = self.running.remove(&index).expect("it runs");
        running.phase.send_replace(Phase::Stopping);
        timeout(PATIENCE, running.task).await.expect("it stops").expect("it does not panic").expect("without an error");
    }

    fn replicas(&self, id: &BoxId) -> [StoreIndex; 2] {
        let generation = self.consensus.current_generation().expect("one");
        boxes::placement(generation, id).expect("three stores")
    }

    /// Sends one operation through the store that is no replica of it; the client's view of the answers.
    async fn ask(&mut self, operation: &Operation) -> [Option<Answer>; 2] {
        self.ask_late(operation, Duration::ZERO).await
    }

    /// The same for a packet that was read from its link some time ago.
    async fn ask_late(&mut self, operation: &Operation, waited: Duration) -> [Option<Answer>; 2] {
        let replicas = self.replicas(operation.id());
        let courier = *self.machines.keys().find(|index| !replicas.contains(index)).expect("a third store");
        let keys: Vec<X25519Secret> = (0..5).map(|_| X25519Secret::generate(&mut self.rng)).collect();
        let hops: Vec<Hop> = keys
            .iter()
            .map(|key| Hop { address: *self.l1.as_bytes(), key: key.public(), delay: Duration::ZERO })
            .collect();
        let (surb, recovery) = surb::build(&hops, [9; 16], &mut self.rng).expect("a SURB");
        let envelope_key = |index| {
            let keys: &EpochKeys = &self.machines[&index].keys;
            (index, keys.envelope.as_ref().expect("a store").public())
        };
        let (envelope, opener) = seal_envelope(operation, replicas.map(envelope_key), &mut self.rng);
        let mut plaintext = pack_request(&surb, &envelope);
        plaintext.resize(PLAINTEXT_SIZE, 0);
        // it may have waited between its link and the store's task
        let arrived = self.clock.monotonic().saturating_sub(waited);
        let request = Request { plaintext: plaintext.into(), arrived };
        self.running[&courier].requests.send(request).await.expect("the courier runs");
        let mut packet = timeout(PATIENCE, self.replies.recv()).await.expect("a reply").expect("L1 listens");
        let service = Duration::from_millis(self.consensus.parameters.service_ms);
        self.took = self.clock.monotonic() - arrived;
        assert!(self.took >= service, "not before the service time");
        for key in &keys {
            match open_header(&packet, key).expect("our header").finish().expect("our packet") {
                Unwrapped::Forward { packet: on, .. } => packet = on,
                Unwrapped::Final { payload, .. } => {
                    let reply = recovery.open(payload).expect("intact");
                    return opener.open(&reply).by_replica;
                }
            }
        }
        panic!("five hops");
    }

    async fn statuses(&mut self, operation: &Operation) -> [Option<Status>; 2] {
        self.ask(operation).await.map(|answer| answer.map(|answer| answer.status))
    }
}

fn consensus(
    machines: &BTreeMap<StoreIndex, Machine>,
    l1: Identity,
    l1_endpoint: &Endpoint,
    rng: &mut StdRng,
) -> Arc<VerifiedConsensus> {
    let authority = AuthoritySecret::generate(rng);
    let parameters = parameters();
    let now = Clock::start().wall();
    let valid_from = UnixMillis(now.0 - 1_000);
    let address = |endpoint: &Endpoint| endpoint.local_addr().expect("bound");
    let mut nodes: Vec<NodeEntry> = machines
        .values()
        .map(|machine| NodeEntry {
            store_index: Some(machine.index),
            envelope_keys: vec![(EPOCH, machine.keys.envelope.as_ref().expect("a store").public())],
            ..entry(machine.key.identity(), Role::Store, address(&machine.endpoint), &machine.keys.mix)
        })
        .collect();
    let mix = X25519Secret::generate(rng);
    nodes.push(NodeEntry { layer: Some(Layer::L1), ..entry(l1, Role::Mix, address(l1_endpoint), &mix) });
    nodes.sort_by_key(|node| node.identity);
    let document = Consensus {
        height: 1,
        previous: NETWORK,
        authorities: vec![authority.public().clone()],
        nodes,
        next_store_index: 3,
        generations: vec![Generation {
            number: GENERATION,
            since: Epoch(1),
            retired: None,
            seed: [3; 32],
            stores: machines.keys().copied().collect(),
        }],
        ..Consensus::blank(NETWORK, EPOCH, valid_from, parameters)
    };
    let anchor = TrustAnchor { network: NETWORK, authorities: vec![authority.public().clone()] };
    let bytes = certify(&document, 0, &[(0, &authority)]);
    let parsed = UnverifiedConsensus::parse(&bytes).expect("well-formed");
    Arc::new(parsed.verify(&anchor, now, None).expect("certified"))
}

fn accept_stores(endpoint: Arc<Endpoint>) -> mpsc::Receiver<Link> {
    let (links, arrivals) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(arrival) = endpoint.accept().await {
            let Ok(link) = arrival.admit().await else { continue };
            if link.protocol == Protocol::Store && links.send(link).await.is_err() {
                return;
            }
        }
    });
    arrivals
}

fn receive_packets(endpoint: Arc<Endpoint>) -> mpsc::Receiver<Packet> {
    let (packets, received) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(arrival) = endpoint.accept().await {
            let Ok(link) = arrival.admit().await else { continue };
            let packets = packets.clone();
            tokio::spawn(async move {
                let Ok(mut reader) = link.accept_frames::<PACKET_SIZE>().await else { return };
                while let Ok(Some(frame)) = reader.next().await {
                    let packet = Packet::from_slice(frame.as_slice()).expect("a whole packet");
                    if packets.send(packet).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    received
}

/// A box and what its writer signs for it.
fn writer(rng: &mut StdRng) -> (BoxId, impl Fn(u64) -> (BoxBody, [u8; 64]) + use<>) {
    let (key, chain) = (WriteKey::generate(rng), ChainSecret::from_bytes([1; 32]));
    let id = boxes::id(&key.public(), &chain, 0);
    let content = move |n: u64| {
        use rand::SeedableRng as _;
        let body = BoxBody::random(&mut StdRng::seed_from_u64(n));
        let signature = boxes::sign(&key, &chain, 0, &body);
        (body, signature)
    };
    (id, content)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_through_courier_and_replicas_and_survive_a_restart() {
    let mut net = Net::start(1_000).await;
    let both = |status| [Some(status), Some(status)];

    // a box
    let (id, content) = writer(&mut net.rng);
    let (body, signature) = content(1);
    assert_eq!(net.statuses(&Operation::Get { id }).await, both(Status::Empty));
    let put = Operation::Put { id, signature, body: body.clone() };
    assert_eq!(net.statuses(&put).await, both(Status::Stored));
    assert_eq!(net.statuses(&put).await, both(Status::Stored));
    let (other, signature) = content(2);
    let second = Operation::Put { id, signature, body: other.clone() };
    assert_eq!(net.statuses(&second).await, both(Status::Taken));
    let forged = Operation::Put { id, signature: [1; 64], body: other };
    assert_eq!(net.statuses(&forged).await, both(Status::Refused));

    // an ordered write: the receipt travels from the first replica through the courier to the second
    let (ordered, content) = writer(&mut net.rng);
    let write = |n| {
        let (body, signature) = content(n);
        Operation::PutOrdered { id: ordered, signature, body }
    };
    assert_eq!(net.statuses(&write(1)).await, both(Status::Stored));
    assert_eq!(net.statuses(&write(2)).await, both(Status::Taken));

    // an inbox
    let owner = InboxKey::generate(&mut net.rng);
    let inbox = inbox_id(&owner.public(), GENERATION);
    let letter = BoxBody::random(&mut net.rng);
    let bits = net.consensus.parameters.append_bits;
    let nonce = find_nonce(&inbox, GENERATION, EPOCH, &letter, bits, &mut net.rng).expect("found");
    let append = Operation::Append { id: inbox, nonce, body: letter.clone() };
    assert_eq!(net.statuses(&append).await, both(Status::Stored));
    let read = |after| Operation::Read {
        id: inbox,
        signature: owner.sign_read(GENERATION, after, EPOCH),
        after,
        epoch: EPOCH,
    };
    let [Some(first), _] = net.ask(&read(0)).await else { panic!("an answer") };
    assert_eq!((first.status, first.body), (Status::Found, Some(letter)));
    assert_eq!(net.ask(&read(first.number)).await[0], Some(Answer::plain(Status::Empty)));

    // one replica away: the other answers, nothing is acknowledged for it
    let [gone, _] = net.replicas(&id);
    net.stop(gone).await;
    let answers = net.ask(&Operation::Get { id }).await;
    assert_eq!(answers[0], None);
    assert_eq!(answers[1].as_ref().and_then(|answer| answer.body.clone()), Some(body.clone()));

    // and back: what it acknowledged is there
    net.run(gone);
    net.until_linked().await;
    let answers = net.ask(&Operation::Get { id }).await;
    assert_eq!(answers[0].as_ref().and_then(|answer| answer.body.clone()), Some(body));
    assert_eq!(answers[1].as_ref().map(|answer| answer.status), Some(Status::Found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_and_keeps_what_it_has() {
    let mut net = Net::start(2).await;
    let mut puts = Vec::new();
    for n in 0..3 {
        let (id, content) = writer(&mut net.rng);
        let (body, signature) = content(n);
        puts.push(Operation::Put { id, signature, body });
    }
    // three stores and two replicas a box: two boxes share at least one store, and six replicas fill two of three
    let mut full = 0;
    for put in &puts {
        full += net.statuses(put).await.iter().filter(|status| **status == Some(Status::Full)).count();
    }
    let here: Vec<StoreIndex> = puts.iter().flat_map(|put| net.replicas(put.id())).collect();
    let over: usize =
        net.machines.keys().map(|index| here.iter().filter(|at| *at == index).count().saturating_sub(2)).sum();
    assert_eq!(full, over, "each store takes two, no more and no fewer");
    let (id, content) = writer(&mut net.rng);
    let mut extra = 0;
    for n in 0..4 {
        let (body, signature) = content(n);
        let again = net.statuses(&Operation::Put { id, signature, body }).await;
        extra += again.iter().filter(|status| **status == Some(Status::Full)).count();
    }
    assert!(full + extra > 0, "some store was full");
    // nothing was evicted: the first two of each store are still there
    for put in puts.iter().take(2) {
        assert_eq!(net.statuses(put).await, [Some(Status::Stored); 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_time_runs_from_the_arrival_of_the_packet() {
    let mut net = Net::start(1_000).await;
    let get = Operation::Get { id: writer(&mut net.rng).0 };
    let service = Duration::from_millis(net.consensus.parameters.service_ms);
    // the reply of a request that waited longer than the service time leaves at once
    net.ask_late(&get, service * 30).await;
    assert!(net.took < service * 31, "{:?}", net.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_arrives_waits_for_another_kind_to_pause() {
    const FLOOD: usize = 10_000;
    let (_done, outcomes) = mpsc::channel(1);
    let (frames_in, frames) = mpsc::channel(FLOOD);
    let (requests_in, requests) = mpsc::channel(FLOOD);
    let (arrivals_in, arrivals) = mpsc::channel(1);
    let (_documents, consensus) = watch::channel(None);
    let (_phase, phase) = watch::channel(Phase::Running);
    let ticks = interval(Duration::from_secs(3_600));
    let mut inputs = Inputs { outcomes, consensus, phase, ticks, frames, requests, arrivals };
    for _ in 0..FLOOD {
        let frame = Incoming { from: StoreIndex(1), at: Duration::ZERO, frame: StoreFrame::Dummy };
        frames_in.try_send(frame).expect("room");
        let request = Request { plaintext: Vec::new().into(), arrived: Duration::ZERO };
        requests_in.try_send(request).expect("room");
    }
    let mut rng = generator();
    let [from, to] = [0, 1].map(|index| machine(index, &mut rng));
    let address = to.endpoint.local_addr().expect("bound");
    let mut links = accept_stores(Arc::clone(&to.endpoint));
    let _dialled = from.endpoint.connect(address, &to.key.identity(), Protocol::Store).await.expect("a link");
    arrivals_in.send(links.recv().await.expect("a link")).await.expect("room");
    // two floods and one link: the chance that it is not among the first 1,000 is (2/3)^1000 at most
    let mut found = false;
    for _ in 0..1_000 {
        found |= matches!(inputs.next(false).await, Event::Arrival(_));
    }
    assert!(found);
}
