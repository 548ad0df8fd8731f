//! A gateway that shows its client a forked network (row 20): real processes but for the gateway that lies. The keys of a
//! quorum of the authorities are stolen, and with them every document is certified a second time, as another one in which
//! the gateway's address is the liar's. The client of Ann hears of no other; Bob's sees the network as it is.

use serde_json::Value;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{Consensus, UnverifiedConsensus, VerifiedConsensus, certify};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion, STREAM_CONSENSUS, STREAM_PACKETS};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::{Hash, Identity, IdentityKey};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, until};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Expected: a few epochs of 20 s at most.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the authorities are asked for a new document.
const ASK: Duration = Duration::from_millis(200);

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn seed<const N: usize>(path: &Path) -> [u8; N] {
    let text = std::fs::read_to_string(path).expect("a key");
    let mut seed = [0; N];
    hex::decode_to_slice(text.trim(), &mut seed).expect("hex");
    seed
}

/// Who has stolen the keys, and the chain that it makes up.
struct Forger {
    network: NetworkFile,
    stolen: Vec<(u16, AuthoritySecret)>,
    /// Where the gateway is in its documents.
    gateway: (Identity, SocketAddr),
    last: Option<(u64, Hash)>,
}

impl Forger {
    fn new(net: &Testnet, network: NetworkFile, gateway: (Identity, SocketAddr)) -> Self {
        let place = |secret: &AuthoritySecret| {
            let at = network.authorities.iter().position(|key| key == secret.public()).expect("of this network");
            u16::try_from(at).expect("few")
        };
        let stolen = net.ready.authorities.iter().take(3).map(|party| {
            let secret = AuthoritySecret::from_bytes(&seed(&party.dir.join("authority.key")));
            (place(&secret), secret)
        });
        let stolen = stolen.collect();
        Self { network, stolen, gateway, last: None }
    }

    fn forge(&mut self, real: &Consensus) -> Vec<u8> {
        let mut forged = real.clone();
        for node in forged.nodes.iter_mut().filter(|node| node.identity == self.gateway.0) {
            node.addresses = vec![self.gateway.1];
        }
        if let Some((_, hash)) = self.last.filter(|(height, _)| height + 1 == forged.height) {
            forged.previous = hash;
        }
        self.last = Some((forged.height, forged.hash()));
        let signers: Vec<_> = self.stolen.iter().map(|(index, secret)| (*index, secret)).collect();
        certify(&forged, 0, &signers)
    }

    /// Forges every document that the network makes.
    async fn run(mut self, documents: watch::Sender<Vec<u8>>) {
        let hint = self.network.hints.authorities.first().copied().expect("an authority");
        let mut have = None;
        loop {
            if let Some(real) = newest(&self.network, hint.address, &hint.identity, have).await {
                have = Some(real.hash());
                documents.send_replace(self.forge(&real));
            }
            tokio::time::sleep(ASK).await;
        }
    }
}

async fn newest(
    network: &NetworkFile,
    at: SocketAddr,
    who: &Identity,
    have: Option<Hash>,
) -> Option<VerifiedConsensus> {
    let endpoint = Endpoint::dialler(None, local()).ok()?;
    let link = endpoint.connect(at, who, Protocol::Directory).await.ok()?;
    let answer = ask(&link, &DirectoryQuestion::Newest { have }.to_bytes(), ANSWER_SIZE_MAX).await.ok()?;
    let Ok(DirectoryAnswer::Document(bytes)) = DirectoryAnswer::from_bytes(&answer) else { return None };
    let document = UnverifiedConsensus::parse(&bytes).expect("well-formed");
    Some(document.verify_any_time(&network.trust_anchor()).expect("certified"))
}

/// Serves clients in the gateway's name: packets go to the real gateway and come from it, documents are the forger's.
async fn lie(endpoint: Endpoint, real: (Identity, SocketAddr), documents: watch::Receiver<Vec<u8>>) {
    while let Some(arrival) = endpoint.accept().await {
        let documents = documents.clone();
        tokio::spawn(async move {
            let Ok(client) = arrival.admit().await else { return };
            let dialler = Endpoint::dialler(None, local()).expect("a port");
            let Ok(gateway) = dialler.connect(real.1, &real.0, Protocol::Client).await else { return };
            tokio::select! {
                () = up(&client, &gateway) => {}
                () = down(&client, &gateway) => {}
                () = push(&client, documents) => {}
            }
        });
    }
}

async fn up(client: &Link, gateway: &Link) {
    let Ok(mut frames) = client.accept_frames::<PACKET_SIZE>().await else { return };
    let Ok(mut writer) = gateway.open_frames::<PACKET_SIZE>().await else { return };
    while let Ok(Some(frame)) = frames.next().await {
        if writer.write(&frame).await.is_err() {
            return;
        }
    }
}

async fn down(client: &Link, gateway: &Link) {
    while let Ok(mut stream) = gateway.accept_uni().await {
        let mut kind = [0; 1];
        if stream.read_exact(&mut kind).await.is_err() {
            return;
        }
        // what the real gateway says of the network is kept from the client
        if kind != [STREAM_PACKETS] {
            continue;
        }
        let Ok(mut to) = client.open_uni().await else { return };
        tokio::spawn(async move {
            let mut bytes = vec![0; PACKET_SIZE];
            let mut more = to.write_all(&kind).await.is_ok();
            while more {
                more = match stream.read(&mut bytes).await {
                    Ok(Some(count)) => to.write_all(&bytes[..count]).await.is_ok(),
                    Ok(None) | Err(_) => false,
                };
            }
        });
    }
}

async fn push(client: &Link, mut documents: watch::Receiver<Vec<u8>>) {
    loop {
        let document = documents.borrow_and_update().clone();
        if !document.is_empty() {
            let Ok(mut stream) = client.open_uni().await else { return };
            let pushed =
                stream.write_all(&[STREAM_CONSENSUS]).await.is_ok() && stream.write_all(&document).await.is_ok();
            if !pushed || stream.finish().is_err() {
                return;
            }
        }
        if documents.changed().await.is_err() {
            return;
        }
    }
}

/// Both certificates that a stopped client keeps, its own first.
fn evidence(person: &Person) -> [Certificate; 2] {
    let mut files: Vec<_> = std::fs::read_dir(person.profile.join("conflict"))
        .expect("the folder that status names")
        .map(|file| file.expect("readable").path())
        .collect();
    files.sort();
    let read =
        |path: &std::path::PathBuf| Certificate::decode(&std::fs::read(path).expect("a file")).expect("a certificate");
    let [held, other] = &files[..] else { panic!("two files: {files:?}") };
    [read(held), read(other)]
}

fn verifies(authority: &Party, file: &Path) -> Value {
    let output = Command::new(binary("shoal-directory"))
        .args(["verify", "--json", "--dir"])
        .arg(&authority.dir)
        .arg(file)
        .output()
        .expect("shoal-directory runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_view_is_found_at_the_first_exchange_with_an_honest_peer() {
    let net = Testnet::start(&["--gateways", "1"]);
    let text = std::fs::read_to_string(&net.ready.network).expect("the network file");
    let network = NetworkFile::parse(&text).expect("the network file");
    let gateway = net.nodes("gateway", None).remove(0);
    let key = IdentityKey::from_seed(&seed(&gateway.dir.join("identity.key")));
    let real = (key.identity(), gateway.addr.parse().expect("an address"));
    let endpoint = Endpoint::bind(local(), &key, &[Protocol::Client]).expect("a port");
    let liar = (key.identity(), endpoint.local_addr().expect("bound"));
    let (forged, documents) = watch::channel(Vec::new());
    tokio::spawn(Forger::new(&net, network.clone(), liar).run(forged));
    tokio::spawn(lie(endpoint, real, documents));

    // Ann's network file has the genesis of the others; the hint, which no hash covers, leads to the liar
    let mut given = network.clone();
    given.hints.gateways.iter_mut().for_each(|hint| hint.address = liar.1);
    let file = net.folder.path().join("given.toml");
    std::fs::write(&file, given.to_toml()).expect("written");

    let (folder, honest) = (net.folder.path().to_owned(), net.ready.network.clone());
    let net = Arc::new(net);
    let held = Arc::clone(&net);
    tokio::task::spawn_blocking(move || converse(&held, &folder, &file, &honest, &network)).await.expect("the people");
    drop(net);
}

fn converse(net: &Testnet, folder: &Path, given: &Path, honest: &Path, network: &NetworkFile) {
    let ann = Person::new("ann", folder, given);
    let bob = Person::new("bob", folder, honest);
    assert_eq!(ann.run(["add", "bob", &bob.address]).code, 0);
    assert_eq!(bob.run(["add", "ann", &ann.address]).code, 0);
    for person in [&ann, &bob] {
        until(&format!("{} is connected", person.name), PATIENCE, || {
            person.status()["connected"].as_bool().filter(|connected| *connected)
        });
        assert_eq!(person.status()["disputes"], serde_json::json!([]), "nobody can know yet");
    }

    ann.send("bob", "are you there?");
    let first = until("the first message arrives", PATIENCE, || bob.read().into_iter().next());
    assert_eq!(first["text"], "are you there?");
    // whoever is given the proof first is killed at once: its last words are on disk, and stop the other one
    let stopped = |person: &Person| person.status()["conflict"] == true;
    let mut people = [bob, ann];
    let first = until("one of them has stopped", PATIENCE, || people.iter().position(stopped));
    people[first].kill();
    people[first].up();
    let [bob, ann] = people;
    for person in [&bob, &ann] {
        until(&format!("{} has stopped", person.name), PATIENCE, || stopped(person).then_some(()));
        let status = person.status();
        assert_eq!(status["state"], "stopped", "{status}");
    }

    // each holds the other's certificate of the same height, and anybody can check both
    for (person, other) in [(&ann, &bob), (&bob, &ann)] {
        let [held, shown] = evidence(person);
        assert_eq!(held.height, shown.height);
        assert_ne!(held.document, shown.document, "{} and {}", person.name, other.name);
        for certificate in [&held, &shown] {
            certificate.verify(&network.genesis_hash(), &network.authorities).expect("signed by the authorities' keys");
        }
        for file in std::fs::read_dir(person.profile.join("conflict")).expect("the folder") {
            let said = verifies(&net.ready.authorities[0], &file.expect("readable").path());
            assert_eq!(said["certificate"]["height"], held.height);
        }
        let dispute = &person.status()["disputes"][0];
        assert_eq!(dispute["name"], other.name);
        let doctor = person.run(["doctor"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
        assert!(doctor.lines[0].to_string().contains("network differs from yours"), "{doctor:?}");
    }

    // nothing is sent any more, though the link stands
    let queued = bob.send("ann", "never mind");
    let asked = bob.run(["send", "ann", "nor this", "--wait", "stored", "--timeout", "10s"]);
    assert_eq!(asked.code, 75, "{asked:?}");
    assert_eq!(asked.lines[0]["state"], "queued", "{asked:?}; before it {queued}");
}
