//! Old documents offered to real processes (row 19 of the attack table): a node, a new node, an authority and a client are
//! each cut off from all but a liar that offers every document older than theirs. None is accepted, and each says within
//! an epoch that nothing new comes.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::{EPOCHS_COVERED, UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::types::{Epoch, Identity};
use shoal_tests::authority::{Kept, directory};
use shoal_tests::liar::{Liar, authority_key, node_key};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, metrics, until, until_every};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Length of an epoch.
const EPOCH: Duration = Duration::from_secs(10);
/// Ten times what is expected of a step that takes an epoch.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two questions that cost a process each.
const PAUSE: Duration = Duration::from_millis(250);
/// Documents that there are before the lying begins, at least: some of them are over, some still valid.
const DOCUMENTS: u64 = 6;
const LOCAL: &str = "127.0.0.1:0";

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UnixMillis(u64::try_from(since.as_millis()).expect("before the year 584 million"))
}

fn network(path: &Path) -> NetworkFile {
    NetworkFile::parse(&std::fs::read_to_string(path).expect("network file")).expect("network file")
}

fn document(bytes: &[u8], network: &NetworkFile) -> VerifiedConsensus {
    let parsed = UnverifiedConsensus::parse(bytes).expect("well-formed");
    parsed.verify_any_time(&network.trust_anchor()).expect("certified")
}

/// Every document that an authority keeps, with its epoch, oldest first.
fn documents(authority: &Path, network: &NetworkFile) -> Vec<(Epoch, Vec<u8>)> {
    let files =
        std::fs::read_dir(authority.join("documents")).expect("folder").map(|entry| entry.expect("entry").path());
    let bytes = files.filter(|path| path.is_file()).map(|path| std::fs::read(path).expect("a document"));
    let mut all: Vec<_> = bytes.map(|bytes| (document(&bytes, network).epoch, bytes)).collect();
    all.sort_by_key(|(epoch, _)| *epoch);
    all
}

fn older_than(all: &[(Epoch, Vec<u8>)], epoch: Epoch) -> Vec<Vec<u8>> {
    all.iter().filter(|(of, _)| *of < epoch).map(|(_, bytes)| bytes.clone()).collect()
}

/// Lets a party know one authority only, at the liar's address.
fn knows_only(dir: &Path, liar: &Liar) {
    let path = dir.join("network.toml");
    let mut network = network(&path);
    network.hints.authorities = vec![Hint { identity: liar.identity, address: liar.address }];
    std::fs::write(&path, network.to_toml()).expect("written");
}

/// Has no document say any more where authorities are: else whoever has one finds them past the liar.
fn are_found_by_hints_only(authorities: &[Party]) {
    for party in authorities {
        let path = party.dir.join("authority.pub");
        std::fs::rename(&path, path.with_extension("away")).expect("authority.pub");
        assert!(Command::new("kill").args(["-HUP", &party.pid.to_string()]).status().expect("kill runs").success());
    }
    until_every(PAUSE, "a document that names no address", PATIENCE, || {
        let shown = directory(&["show"], &authorities[0].dir);
        shown["addresses"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

fn identity(party: &Party) -> Identity {
    party.identity.as_deref().expect("a node has one").parse().expect("hexadecimal")
}

fn metric_epoch(metrics_at: &str) -> Option<u64> {
    let (_, body) = metrics::get(metrics_at, "/metrics")?;
    metrics::sample(&body, "shoal_consensus_epoch").map(|epoch| epoch as u64)
}

/// Checks the row's bound: a freeze is said within one epoch after the first document that does not come is due. Who was
/// started when that was over has an epoch from its start on.
fn within_an_epoch(what: &str, schedule: &Schedule, held: Epoch, started: Instant) {
    let missing_for = now().since(schedule.start(held.plus(1)));
    let since_start = started.elapsed();
    eprintln!(
        "  {what}: said {:.1} s after the epoch began whose document did not come, {:.1} s after its start",
        missing_for.as_secs_f64(),
        since_start.as_secs_f64()
    );
    assert!(missing_for.min(since_start) <= EPOCH, "{what}");
}

#[test]
fn every_older_document_is_refused_and_the_freeze_is_said() {
    let mut net = Testnet::start(&["--epoch", "10s", "--authorities", "4", "--no-prober"]);
    let authorities = net.ready.authorities.clone();
    are_found_by_hints_only(&authorities);
    let founded = network(&net.ready.network);
    let schedule = founded.schedule();
    let folder = tempfile::tempdir().expect("folder");
    let mut alice = Person::new("alice", folder.path(), &net.ready.network);
    until_every(PAUSE, "there are some documents", PATIENCE, || {
        (Kept::at(&authorities[0].dir).count >= DOCUMENTS).then_some(())
    });
    let stolen = authority_key(&authorities[3].dir);
    let key = stolen.identity_key();
    let local: SocketAddr = LOCAL.parse().expect("an address");

    let mix = net.nodes("mix", None).remove(0);
    net.kill(mix.pid);
    let held = document(&std::fs::read(mix.dir.join("consensus")).expect("kept"), &founded).epoch;

    // gateways give documents to nodes as well: none is left that tells the truth
    let before = alice.status();
    assert_eq!(before["rolled_back"], false, "{before}");
    alice.kill();
    let gateways = net.nodes("gateway", None);
    gateways.iter().for_each(|gateway| net.kill(gateway.pid));
    let held_by_alice = before["epoch"].as_u64().expect("an epoch");
    let old = older_than(&documents(&authorities[0].dir, &founded), Epoch(held_by_alice));
    let liars: Vec<_> = gateways
        .iter()
        .map(|gateway| {
            let address = gateway.addr.parse().expect("an address");
            until("the killed gateway's port is free", PATIENCE, || {
                std::net::UdpSocket::bind::<SocketAddr>(address).ok().map(drop)
            });
            Liar::gateway(address, &node_key(&gateway.dir), old.clone())
        })
        .collect();
    let all = documents(&authorities[0].dir, &founded);
    let old = older_than(&all, held);
    let offered = old.len();
    let liar = Liar::authority(local, key, old);
    knows_only(&mix.dir, &liar);
    let started = Instant::now();
    net.run_again(&mix.dir, "shoal-node");
    alice.up();

    eprintln!("a node that was there before");
    until("the node says that it is frozen", PATIENCE, || {
        // it shows nothing older at any time: what it held, or nothing
        assert!(metric_epoch(&mix.metrics).is_none_or(|epoch| epoch == held.0 || epoch == 0));
        metrics::get(&mix.metrics, "/readyz").filter(|(_, body)| body.contains("stale")).map(|_| ())
    });
    within_an_epoch("node", &schedule, held, started);

    eprintln!("a client, started beside it");
    let said = until_every(PAUSE, "the client says that it is frozen", PATIENCE, || {
        let said = alice.status();
        assert!(said["epoch"].as_u64().is_none_or(|epoch| epoch >= held_by_alice), "{said}");
        (["stale", "expired"].contains(&said["document"].as_str().unwrap_or_default())).then_some(said)
    });
    within_an_epoch("client", &schedule, Epoch(said["epoch"].as_u64().unwrap_or(held_by_alice)), started);
    until_every(PAUSE, "the client was offered all of them and says so", PATIENCE, || {
        let offered = liars.iter().any(|liar| liar.rounds(None) >= 1);
        (offered && alice.status()["rolled_back"] == true).then_some(())
    });
    assert!(alice.status()["epoch"].as_u64().is_none_or(|epoch| epoch >= held_by_alice));

    eprintln!("a new node, offered what is over");
    let over: Vec<_> = all.iter().filter(|(epoch, _)| schedule.start(epoch.plus(EPOCHS_COVERED + 1)) < now()).collect();
    let over: Vec<_> = over.into_iter().map(|(_, bytes)| bytes.clone()).collect();
    assert!(over.len() >= 2, "some documents are over");
    let liar_of_new = Liar::authority(local, key, over);
    let new = NewNode::start(folder.path(), &founded, &liar_of_new);
    until("the new node was offered all of them", PATIENCE, || {
        (liar_of_new.rounds(Some(&new.identity)) >= 2).then_some(())
    });
    let said = new.status();
    assert!(said["epoch"].is_null() && said["ready"] == false, "{said}");

    eprintln!("an authority");
    let victim = &authorities[1];
    net.kill(victim.pid);
    let held_there = Kept::at(&victim.dir);
    let liar_of_authority =
        Liar::authority(local, key, older_than(&documents(&authorities[0].dir, &founded), Epoch(held_there.newest)));
    knows_only(&victim.dir, &liar_of_authority);
    // the others do not find it either: else they would tell it what they agree on
    let config = victim.dir.join("authority.toml");
    let text = std::fs::read_to_string(&config).expect("authority.toml");
    std::fs::write(&config, text.replace(&format!("listen = \"{}\"", victim.addr), &format!("listen = \"{LOCAL}\"")))
        .expect("written");
    let me = authority_key(&victim.dir).identity_key().identity();
    let started = Instant::now();
    net.run_again(&victim.dir, "shoal-directory");
    until("the authority is not ready", PATIENCE, || {
        metrics::get(&victim.metrics, "/readyz").filter(|(code, _)| *code == 503)
    });
    within_an_epoch("authority", &schedule, Epoch(held_there.newest), started);
    until("the authority was offered all of them twice", PATIENCE, || {
        (liar_of_authority.rounds(Some(&me)) >= 2).then_some(())
    });
    assert_eq!(Kept::at(&victim.dir), held_there, "its chain is as it was");

    eprintln!("the node's document runs out, and still it takes none of the old ones");
    until("the node has no document", PATIENCE, || {
        metrics::get(&mix.metrics, "/readyz").filter(|(code, _)| *code == 503)
    });
    let rounds = liar.rounds(Some(&identity(&mix)));
    until("it is offered all of them again", PATIENCE, || {
        (liar.rounds(Some(&identity(&mix))) >= rounds + 2).then_some(())
    });
    assert!(metrics::get(&mix.metrics, "/readyz").is_some_and(|(code, _)| code == 503));
    assert!(metric_epoch(&mix.metrics).is_none_or(|epoch| epoch == held.0 || epoch == 0));
    let kept = document(&std::fs::read(mix.dir.join("consensus")).expect("kept"), &founded).epoch;
    assert_eq!(kept, held, "what it remembers against rollback is as it was");
    let reached = Kept::at(&authorities[0].dir);
    assert!(reached.newest > held.0, "the others went on");
    eprintln!("  {offered} older documents, each offered {} times or more: none accepted", rounds + 2);
}

/// A node that joins now; ended when dropped.
struct NewNode {
    child: std::process::Child,
    dir: std::path::PathBuf,
    identity: Identity,
}

impl NewNode {
    fn start(folder: &Path, network: &NetworkFile, liar: &Liar) -> Self {
        let (dir, path) = (folder.join("new"), folder.join("new.toml"));
        std::fs::write(&path, network.to_toml()).expect("written");
        let udp = std::net::UdpSocket::bind(LOCAL).and_then(|socket| socket.local_addr()).expect("a port");
        let tcp = std::net::TcpListener::bind(LOCAL).and_then(|socket| socket.local_addr()).expect("a port");
        let made = Command::new(binary("shoal-node"))
            .args(["init", "--json", "--role", "mix", "--address", &udp.to_string(), "--metrics", &tcp.to_string()])
            .arg("--network")
            .arg(&path)
            .arg("--dir")
            .arg(&dir)
            .output()
            .expect("init runs");
        assert!(made.status.success(), "{made:?}");
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("one line of JSON");
        knows_only(&dir, liar);
        let log = std::fs::File::create(dir.join("log")).expect("log");
        let mut command = Command::new(binary("shoal-node"));
        let child = command.args(["run", "--dir"]).arg(&dir).stderr(log).spawn().expect("it starts");
        let identity = made["identity"].as_str().expect("an identity").parse().expect("hexadecimal");
        Self { child, dir, identity }
    }

    fn status(&self) -> serde_json::Value {
        let output = Command::new(binary("shoal-node")).args(["status", "--json", "--dir"]).arg(&self.dir).output();
        serde_json::from_slice(&output.expect("status runs").stdout).expect("one line of JSON")
    }
}

impl Drop for NewNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
