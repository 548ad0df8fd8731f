//! One authority gives its seat to another (runbook: changing the set). Real processes: the others read their wishes again,
//! no process restarts and no network file names the new one; authorities and nodes find it by the documents, clients follow,
//! and who was away during the change finds the way afterwards.

use serde_json::Value;
use shoal_tests::authority::{Kept, directory, node};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, until_every};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Ten times what is expected of a step that takes an epoch or two of 10 s.
const PATIENCE: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(250);

fn free_address() -> String {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").to_string()
}

fn init(dir: &Path, arguments: &[&str]) {
    let output = Command::new(binary("shoal-directory"))
        .args(["init", "--json", "--dir"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("shoal-directory runs");
    assert!(output.status.success(), "{output:?}");
}

/// Identities of those who certify the next document, as the authority in `dir` shows it.
fn set(dir: &Path) -> Vec<String> {
    let shown = directory(&["show"], dir);
    let listed = shown["authorities"].as_array().cloned().unwrap_or_default();
    listed.iter().map(|key| key["identity"].as_str().expect("an identity").to_owned()).collect()
}

/// The `[[authorities]]` tables of a network file or a public key file.
fn keys(path: &Path) -> Vec<toml::Value> {
    let text = std::fs::read_to_string(path).expect("readable");
    let table: toml::Table = text.parse().expect("TOML");
    match table.get("authorities") {
        Some(list) => list.as_array().expect("a list").clone(),
        None => vec![table["key"].clone()],
    }
}

fn identity(key: &toml::Value) -> String {
    key["identity"].as_str().expect("an identity").to_owned()
}

/// A key as `authorities.toml` wants it, of a new one with its address.
fn wanted(key: &toml::Value, address: Option<&str>) -> toml::Value {
    let mut table = toml::Table::new();
    for name in ["identity", "ml_dsa"] {
        table.insert(name.to_owned(), key[name].clone());
    }
    table.extend(address.map(|address| ("address".to_owned(), address.into())));
    toml::Value::Table(table)
}

/// Nodes on the list of the authority in `dir`: those that publish to it.
fn listed(dir: &Path) -> BTreeSet<String> {
    let status = directory(&["status"], dir);
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().map(|node| node["identity"].as_str().expect("an identity").to_owned()).collect()
}

#[test]
fn an_authority_is_succeeded_by_another() {
    let mut net = Testnet::start(&["--epoch", "10s", "--authorities", "4", "--no-prober"]);
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let bob = Person::new("bob", folder.path(), &net.ready.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    assert_eq!(alice.send_and_wait("bob", "before", "delivered"), "delivered");
    assert_eq!(bob.run(["down"]).code, 0);

    // the one that sits first: everybody else moves up, under the others' old links
    let mut old = keys(&net.ready.network);
    old.sort_by_key(identity);
    let leaver = identity(&old[0]);
    let of = |party: &Party| directory(&["status"], &party.dir)["identity"].as_str().expect("an identity").to_owned();
    let (leaving, staying): (Vec<Party>, Vec<Party>) =
        net.ready.authorities.clone().into_iter().partition(|party| of(party) == leaver);
    assert_eq!((leaving.len(), staying.len()), (1, 3));

    let new: PathBuf = folder.path().join("successor");
    let address = free_address();
    init(&new, &["--key-only", "--open", "--listen", &address, "--address", &address, "--metrics", &free_address()]);
    let network = net.ready.network.to_str().expect("UTF-8").to_owned();
    init(&new, &["--network", &network, "--later"]);
    let successor = keys(&new.join("authority.pub")).remove(0);
    let mut set_wanted: Vec<toml::Value> = old[1..].iter().map(|key| wanted(key, None)).collect();
    set_wanted.push(wanted(&successor, Some(&address)));
    let set_wanted = toml::Table::from_iter([("authorities".to_owned(), toml::Value::Array(set_wanted))]).to_string();

    eprintln!("the new one watches; the others ask for it, and say where it is");
    net.run_again(&new, "shoal-directory");
    let before = Kept::at(&staying[0].dir);
    for party in staying.iter().chain(&leaving) {
        std::fs::write(party.dir.join("authorities.toml"), &set_wanted).expect("written");
        let told = Command::new("kill").args(["-HUP", &party.pid.to_string()]).status().expect("kill runs");
        assert!(told.success());
    }
    let changed = |dir: &Path| {
        let set = set(dir);
        set.contains(&identity(&successor)) && !set.contains(&leaver)
    };
    until_every(PAUSE, "a document with the new set", PATIENCE, || changed(&staying[0].dir).then_some(()));

    eprintln!("every node finds the new one, which nobody's network file names");
    let named = |path: &Path| std::fs::read_to_string(path).expect("readable").contains(&identity(&successor));
    for party in net.ready.authorities.iter().chain(&net.ready.nodes) {
        assert!(!named(&party.dir.join("network.toml")), "{}", party.dir.display());
    }
    let nodes: BTreeSet<String> =
        net.ready.nodes.iter().map(|node| node.identity.clone().expect("a node has one")).collect();
    until_every(PAUSE, "all nodes publish to it", PATIENCE, || (listed(&new) == nodes).then_some(()));

    eprintln!("the one that left is killed, and one of the others: the new one is needed, and signs");
    net.kill(leaving[0].pid);
    let after = Kept::at(&staying[0].dir);
    net.kill(staying[2].pid);
    for dir in [&staying[0].dir, &new] {
        until_every(PAUSE, "three documents more", PATIENCE, || {
            (Kept::at(dir).newest >= after.newest + 3).then_some(())
        });
    }
    eprintln!("  {} epochs missed since before the change", Kept::at(&new).missed_since(&before));

    eprintln!("nodes and clients follow, also who was away");
    let newest = Kept::at(&new).newest;
    for party in net.nodes("mix", None) {
        until_every(PAUSE, "a mix has the newest document", PATIENCE, || {
            (node(&["status"], &party.dir)["epoch"].as_u64()? >= newest).then_some(())
        });
    }
    assert_eq!(alice.send_and_wait("bob", "after", "stored"), "stored");
    let came: Vec<Value> = until_every(PAUSE, "bob comes back and reads", PATIENCE, || {
        let lines = bob.read();
        (!lines.is_empty()).then_some(lines)
    });
    assert!(came.iter().any(|line| line["text"] == "after" || line["text"] == "before"), "{came:?}");
    assert_eq!(bob.send_and_wait("alice", "here again", "stored"), "stored");
}
