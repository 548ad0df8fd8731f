//! The real program over real QUIC on loopback: init, run, publish, fetch, refuse, crash, continue.
#![expect(clippy::unwrap_used, reason = "a test fails where something is missing")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use shoal_directory::io::now;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::{IdentityKey, Layer, Role, X25519Secret};

const PROGRAM: &str = env!("CARGO_BIN_EXE_shoal-directory");
/// Anything that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

fn shoal_directory(arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(PROGRAM).args(arguments).arg("--json").output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A directory made by `init`, and its process.
struct Authority {
    dir: tempfile::TempDir,
    process: Option<Child>,
    network: NetworkFile,
    health: SocketAddr,
}

impl Authority {
    /// Epochs of two seconds, one mix a layer.
    fn init(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let health = format!("127.0.0.1:{}", free_port());
        let path = dir.path().to_str().unwrap();
        let mut arguments = vec![
            "init",
            "--dir",
            path,
            "--name",
            "reef",
            "--listen",
            &listen,
            "--metrics",
            &health,
            "--test-network",
            "--epoch",
            "2s",
            "--mean-delay",
            "5ms",
            "--retention",
            "1m",
            "--mixes-per-layer",
            "1",
            "--anonymity-floor",
            "0",
            "--lambda-p",
            "10",
        ];
        arguments.extend_from_slice(more);
        let (output, json) = shoal_directory(&arguments);
        assert!(output.status.success(), "{json}");
        let network = NetworkFile::parse(&std::fs::read_to_string(dir.path().join("network.toml")).unwrap()).unwrap();
        assert_eq!(json["genesis"], network.genesis_hash().to_string());
        assert_eq!(network.parameters.skew_ms, 200);
        Self { network, health: health.parse().unwrap(), dir, process: None }
    }

    fn start(&mut self) {
        let process = Command::new(PROGRAM)
            .args(["run", "--dir", self.path()])
            .env("SHOAL_LOG", "warn")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        self.wait_for("/livez", 200);
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    /// Kills the process without warning.
    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// `(status, body)` of a health path; status 0 when nothing answers.
    fn get(&self, path: &str) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(self.health) else { return (0, String::new()) };
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn wait_for(&self, path: &str, status: u16) {
        let begun = now();
        while self.get(path).0 != status {
            assert!(now().since(begun) < DEADLINE, "{path} is never {status}: {:?}", self.get(path));
            std::thread::sleep(POLL);
        }
    }

    async fn link(&self) -> Link {
        let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().unwrap()).unwrap();
        let hint = self.network.hints.authorities[0];
        endpoint.connect(hint.address, &hint.identity, Protocol::Directory).await.unwrap()
    }

    async fn ask(&self, question: &DirectoryQuestion) -> DirectoryAnswer {
        let answer = ask(&self.link().await, &question.to_bytes(), ANSWER_SIZE_MAX).await.unwrap();
        DirectoryAnswer::from_bytes(&answer).unwrap()
    }

    /// The document in force, verified as a client would.
    async fn fetch(&self) -> Option<VerifiedConsensus> {
        let answer = self.ask(&DirectoryQuestion::Newest { have: None }).await;
        let DirectoryAnswer::Document(bytes) = answer else {
            assert!(matches!(answer, DirectoryAnswer::NotYet(_)), "{answer:?}");
            return None;
        };
        let unverified = UnverifiedConsensus::parse(&bytes).unwrap();
        Some(unverified.verify(&self.network.trust_anchor(), now(), None).unwrap())
    }

    async fn fetch_after(&self, height: u64, nodes: &[Node]) -> VerifiedConsensus {
        let begun = now();
        loop {
            for node in nodes {
                node.publish(self).await;
            }
            if let Some(document) = self.fetch().await.filter(|document| document.height > height) {
                return document;
            }
            assert!(now().since(begun) < DEADLINE, "no document after height {height}");
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A node that publishes, and can be reached.
struct Node {
    key: IdentityKey,
    role: Role,
    number: u8,
    endpoint: Endpoint,
}

impl Node {
    /// A network that is just big enough.
    fn cast() -> Vec<Self> {
        let roles = [Role::Gateway, Role::Mix, Role::Mix, Role::Mix, Role::Store, Role::Store, Role::Store];
        (1..).zip(roles).map(|(number, role)| Self::new(number, role)).collect()
    }

    fn new(number: u8, role: Role) -> Self {
        let key = IdentityKey::from_seed(&[number; 32]);
        let here = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::bind(here, &key, &[Protocol::Mix]).expect("a free port");
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(arrival) = accepting.accept().await {
                tokio::spawn(arrival.admit());
            }
        });
        Self { key, role, number, endpoint }
    }

    fn descriptor(&self, authority: &Authority, change: impl FnOnce(&mut Descriptor)) -> Vec<u8> {
        let published = now();
        let epoch = authority.network.schedule().epoch_at(published);
        let mut rng = StdRng::seed_from_u64(published.0 + u64::from(self.number));
        let mut keys =
            || (0..4).map(|n| (epoch.plus(n), X25519Secret::generate(&mut rng).public())).collect::<Vec<_>>();
        let mut descriptor = Descriptor {
            network: authority.network.genesis_hash(),
            identity: self.key.identity(),
            role: self.role,
            addresses: vec![self.endpoint.local_addr().expect("bound")],
            family: None,
            published,
            version: "test".into(),
            mix_keys: keys(),
            envelope_keys: if self.role == Role::Store { keys() } else { Vec::new() },
            loops: Vec::new(),
            leaving: false,
        };
        change(&mut descriptor);
        descriptor.sign(&self.key)
    }

    async fn publish(&self, authority: &Authority) {
        let answer = authority.ask(&DirectoryQuestion::Publish(self.descriptor(authority, |_| ()))).await;
        assert_eq!(answer, DirectoryAnswer::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_comes_up_and_its_document_verifies() {
    let mut authority = Authority::init(&["--open"]);
    authority.start();
    assert_eq!(authority.get("/readyz").0, 503);
    let nodes = Node::cast();
    let (last, others) = nodes.split_last().unwrap();
    for node in others {
        node.publish(&authority).await;
    }
    assert!(authority.fetch().await.is_none());
    let DirectoryAnswer::NotYet(reason) = authority.ask(&DirectoryQuestion::Newest { have: None }).await else {
        panic!("a document with two stores");
    };
    assert!(reason.contains("2 of 3 stores"), "{reason}");
    last.publish(&authority).await;
    authority.wait_for("/readyz", 200);

    let document = authority.fetch_after(0, &[]).await;
    assert_eq!((document.signatures(), document.nodes.len()), (1, 7));
    assert!(Layer::ALL.into_iter().all(|layer| document.layer(layer).count() == 1));
    assert_eq!(document.current_generation().unwrap().stores.len(), 3);
    let have = Some(document.hash());
    assert!(matches!(
        authority.ask(&DirectoryQuestion::Newest { have }).await,
        DirectoryAnswer::UpToDate | DirectoryAnswer::Document(_)
    ));

    let next = authority.fetch_after(document.height, &nodes).await;
    assert_eq!((next.height, next.epoch), (document.height + 1, document.epoch.plus(1)));
    assert_eq!(next.previous, document.hash());

    let (_, metrics) = authority.get("/metrics");
    assert!(metrics.contains("shoal_build_info{role=\"authority\""));
    assert!(metrics.contains("shoal_consensus_signatures 1"));
    assert!(metrics.contains("shoal_listed_nodes{role=\"mix\"} 3"));
    let (output, shown) = shoal_directory(&["show", "--dir", authority.path()]);
    assert!(output.status.success());
    assert_eq!(shown["nodes"].as_array().unwrap().len(), 7);
    assert!(shown["height"].as_u64().unwrap() >= next.height);
    let (_, status) = shoal_directory(&["status", "--dir", authority.path()]);
    assert_eq!((&status["running"], &status["ready"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(status["nodes"].as_array().unwrap().len(), 7);
    let (output, verified) = shoal_directory(&["verify", "--dir", authority.path()]);
    assert!(output.status.success() && verified["documents"].as_u64().unwrap() >= 2, "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_descriptors_are_refused_with_reasons() {
    let mut authority = Authority::init(&[]);
    authority.start();
    let node = &Node::cast()[1];
    let refusal = async |bytes: Vec<u8>| {
        let answer = authority.ask(&DirectoryQuestion::Publish(bytes)).await;
        let DirectoryAnswer::Refused(reason) = answer else { panic!("{answer:?}") };
        reason
    };
    let good = node.descriptor(&authority, |_| ());
    assert!(refusal(good.clone()).await.contains("not admitted"));
    let refused = || {
        let (_, status) = shoal_directory(&["status", "--dir", authority.path()]);
        let reasons = status["refused"].as_array().unwrap().clone();
        reasons.iter().map(|entry| entry["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // it is shown for three epochs of two seconds: on a slow machine a node says so again
    let begun = now();
    while !refused().iter().any(|reason| reason.contains("not admitted")) {
        assert!(now().since(begun) < DEADLINE, "{:?}", refused());
        refusal(good.clone()).await;
    }

    let line = format!("{} mix 127.0.0.1:5002", node.key.identity());
    let (output, admitted) = shoal_directory(&["admit", "--dir", authority.path(), &line]);
    assert!(output.status.success(), "{admitted}");
    assert_eq!((&admitted["new"], &admitted["running_authority_told"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(authority.ask(&DirectoryQuestion::Publish(good.clone())).await, DirectoryAnswer::Accepted);
    assert_eq!(authority.ask(&DirectoryQuestion::Publish(good.clone())).await, DirectoryAnswer::Accepted);

    let mut flipped = good.clone();
    flipped[10] ^= 1;
    let reason = refusal(flipped).await;
    assert!(reason.contains("network") || reason.contains("malformed"), "{reason}");
    assert!(refusal(good[..good.len() - 1].to_vec()).await.contains("malformed"));
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(refusal(forged).await.contains("signature"));
    let early = node.descriptor(&authority, |descriptor| descriptor.published = now().plus(Duration::from_secs(60)));
    assert!(refusal(early).await.contains("clock"));
    let store = node.descriptor(&authority, |descriptor| {
        descriptor.role = Role::Store;
        descriptor.envelope_keys = descriptor.mix_keys.clone();
    });
    assert!(refusal(store).await.contains("known as a mix"));

    // the node is listed: that it was not is over
    assert!(!refused().iter().any(|reason| reason.contains("not admitted")), "{:?}", refused());
    let answer = ask(&authority.link().await, b"gibberish", ANSWER_SIZE_MAX).await.unwrap();
    assert_eq!(DirectoryAnswer::from_bytes(&answer), Ok(DirectoryAnswer::BadQuestion));
    assert!(ask(&authority.link().await, &vec![0; 17 * 1024], ANSWER_SIZE_MAX).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_authority_continues_its_chain() {
    let mut authority = Authority::init(&["--open"]);
    authority.start();
    let nodes = Node::cast();
    let first = authority.fetch_after(0, &nodes).await;
    let second = authority.fetch_after(first.height, &nodes).await;
    authority.kill();
    let (_, status) = shoal_directory(&["status", "--dir", authority.path()]);
    assert_eq!(status["running"], Value::Bool(false));
    authority.start();
    // Without a single new descriptor it still has what it had: the same document, the same nodes.
    let same = authority.fetch_after(0, &[]).await;
    assert!(same.height >= second.height);
    if same.height == second.height {
        assert_eq!(same.hash(), second.hash());
    }
    let third = authority.fetch_after(same.height, &nodes).await;
    assert!(third.epoch > same.epoch);
    assert_eq!((third.nodes.len(), &third.generations), (7, &first.generations));
    let seats = |document: &VerifiedConsensus| {
        document.nodes.iter().map(|node| (node.identity, node.layer, node.store_index)).collect::<Vec<_>>()
    };
    assert_eq!(seats(&third), seats(&first));
    authority.kill();
    let (output, verified) = shoal_directory(&["verify", "--dir", authority.path()]);
    assert!(output.status.success(), "{verified}");

    // A torn or exchanged document: it must not sign on top of what it cannot read.
    let newest = newest_document(&authority.dir.path().join("documents"));
    std::fs::write(&newest, b"torn").unwrap();
    let (output, refused) = shoal_directory(&["run", "--dir", authority.path()]);
    assert_eq!(output.status.code(), Some(78), "{refused}");
    let (output, _) = shoal_directory(&["verify", "--dir", authority.path()]);
    assert_eq!(output.status.code(), Some(78));
}

fn newest_document(dir: &Path) -> std::path::PathBuf {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_when_told_and_leaves_nothing_behind() {
    let mut authority = Authority::init(&["--open"]);
    for signal in ["-TERM", "-INT"] {
        authority.start();
        let mut process = authority.process.take().unwrap();
        let sent = Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let begun = now();
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            assert!(now().since(begun) < DEADLINE, "{signal} does not stop it");
            std::thread::sleep(POLL);
        };
        assert!(status.success(), "{signal}: {status}");
        assert!(!authority.dir.path().join("control.sock").exists());
    }
}

#[test]
fn failures_have_codes_and_say_what_next() {
    let authority = Authority::init(&[]);
    let nowhere = authority.dir.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    for (arguments, code, word) in [
        (vec!["fly"], 64, "usage"),
        (vec!["run"], 64, "usage"),
        (vec!["run", "--dir", nowhere], 74, "io"),
        (vec!["status", "--dir", nowhere], 74, "io"),
        (vec!["show", "--dir", authority.path()], 75, "temporary"),
        (vec!["admit", "--dir", authority.path(), "nonsense"], 64, "usage"),
        (vec!["network", "--dir", authority.path(), "--add-gateway", "x"], 64, "usage"),
        (
            vec!["init", "--dir", nowhere, "--name", "x", "--listen", "127.0.0.1:1", "--metrics", "8.8.8.8:1"],
            64,
            "usage",
        ),
        (
            vec![
                "init",
                "--dir",
                authority.path(),
                "--name",
                "x",
                "--listen",
                "127.0.0.1:1",
                "--metrics",
                "127.0.0.1:2",
            ],
            78,
            "configuration",
        ),
    ] {
        let (output, json) = shoal_directory(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {json}");
        assert_eq!(json["error"]["code"], word, "{arguments:?}");
        assert!(!json["error"]["next"].as_str().unwrap().is_empty(), "{arguments:?}");
        assert!(!json["error"]["message"].as_str().unwrap().is_empty(), "{arguments:?}");
    }
    // all that is missing at once, and who has a file that is not there
    let (_, json) = shoal_directory(&["init", "--dir", nowhere, "--name", "x"]);
    let message = json["error"]["message"].as_str().unwrap();
    assert!(message.contains("--listen") && message.contains("--metrics"), "{message}");
    assert!(!Path::new(nowhere).exists(), "a refused init writes nothing");
    let keys = ["init", "--dir", nowhere, "--key-only", "--listen", "127.0.0.1:1", "--metrics", "127.0.0.1:2"];
    assert!(shoal_directory(&keys).0.status.success());
    for (option, whom) in [("--network", "founder"), ("--authority", "operator")] {
        let mut arguments = vec!["init", "--dir", nowhere, option, "/no/such/file"];
        if option == "--authority" {
            arguments.extend(["--name", "x"]);
        }
        let (output, json) = shoal_directory(&arguments);
        assert_eq!(output.status.code(), Some(74), "{arguments:?}: {json}");
        assert!(json["error"]["next"].as_str().unwrap().contains(whom), "{arguments:?}: {json}");
    }
    let (output, _) = shoal_directory(&["--help"]);
    assert!(output.status.success());
}

#[test]
fn gateways_can_be_added_without_changing_the_network() {
    let authority = Authority::init(&[]);
    let gateway = format!("{}@127.0.0.1:7000", "ab".repeat(32));
    let (output, json) = shoal_directory(&["network", "--dir", authority.path(), "--add-gateway", &gateway]);
    assert!(output.status.success(), "{json}");
    let text = std::fs::read_to_string(authority.dir.path().join("network.toml")).unwrap();
    let network = NetworkFile::parse(&text).unwrap();
    assert_eq!(network.hints.gateways.len(), 1);
    assert_eq!(network.genesis_hash(), authority.network.genesis_hash());
}

#[test]
fn the_key_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let authority = Authority::init(&[]);
    let mode = std::fs::metadata(authority.dir.path().join("authority.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
