//! Four authorities as real processes: one is not missed, two are waited for, a wrong clock and a wrong file stop nothing.

#![expect(clippy::disallowed_methods, reason = "measures how long authorities take, on the real clock")]

use serde_json::Value;
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, metrics, until};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Long enough that a loaded machine misses none.
const EPOCH: Duration = Duration::from_secs(10);
/// Ten times what is expected of a step that takes an epoch.
const PATIENCE: Duration = Duration::from_secs(120);

fn epoch(party: &Party) -> Option<u64> {
    let (_, body) = metrics::get(&party.metrics, "/metrics")?;
    metrics::sample(&body, "shoal_consensus_epoch").map(|epoch| epoch as u64)
}

fn wait_for_epoch(party: &Party, wanted: u64) {
    until(&format!("epoch {wanted} at {}", party.dir.display()), PATIENCE, || (epoch(party)? >= wanted).then_some(()));
}

fn directory(arguments: &[&str], party: &Party) -> Value {
    let output = Command::new(binary("shoal-directory"))
        .args(arguments)
        .arg("--dir")
        .arg(&party.dir)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .expect("shoal-directory runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Epochs of the documents that an authority keeps.
fn epochs(party: &Party) -> Vec<u64> {
    let verified = directory(&["verify"], party);
    let (first, newest) = (&verified["first"]["epoch"], &verified["newest"]["epoch"]);
    let count = verified["documents"].as_u64().expect("a number");
    let (first, newest) = (first.as_u64().expect("an epoch"), newest.as_u64().expect("an epoch"));
    assert!(count <= newest - first + 1);
    vec![count, first, newest]
}

fn remarks_about(at: &Party, about: &Value) -> Vec<String> {
    let status = directory(&["status"], at);
    let authorities = status["authorities"].as_array().expect("a list").clone();
    let found = authorities.iter().find(|authority| authority["identity"] == *about).expect("is in the set");
    found["remarks"].as_array().expect("a list").iter().map(|remark| remark.as_str().unwrap_or("").to_owned()).collect()
}

#[test]
fn a_minority_of_authorities_stops_nothing() {
    let mut net = Testnet::start(&["--epoch", "10s", "--authorities", "4"]);
    let authorities = net.ready.authorities.clone();
    assert_eq!(authorities.len(), 4);
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let bob = Person::new("bob", folder.path(), &net.ready.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    assert_eq!(alice.send_and_wait("bob", "before", "stored"), "stored");

    eprintln!("one is killed: no epoch is missed");
    net.kill(authorities[3].pid);
    let [count, _, newest] = epochs(&authorities[0])[..] else { panic!("three numbers") };
    wait_for_epoch(&authorities[0], newest + 4);
    let [later, _, newest_later] = epochs(&authorities[0])[..] else { panic!("three numbers") };
    assert_eq!(later - count, newest_later - newest, "a document for every epoch");

    eprintln!("a second one is killed: messages flow on for two epochs");
    net.kill(authorities[2].pid);
    let begun = Instant::now();
    assert_eq!(alice.send_and_wait("bob", "without a directory", "stored"), "stored");
    assert!(begun.elapsed() < 2 * EPOCH, "the document held covers two epochs more");
    let stuck = epochs(&authorities[0])[2];

    eprintln!("both come back: the next document is there within two epochs' time");
    until("the last document is over", PATIENCE, || {
        metrics::get(&authorities[0].metrics, "/readyz").filter(|(code, _)| *code == 503)
    });
    let begun = Instant::now();
    for at in [2, 3] {
        net.run_again(&authorities[at].dir, "shoal-directory");
    }
    wait_for_epoch(&authorities[0], stuck + 2);
    eprintln!("  after {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < 2 * EPOCH, "{:?}", begun.elapsed());
    for authority in &authorities {
        wait_for_epoch(authority, stuck + 3);
    }

    eprintln!("one has another parameter file: it changes nothing and is named");
    let shown = directory(&["show"], &authorities[0]);
    let parameters = shown["parameters"].as_object().expect("a table");
    let line = |(name, value): (&String, &Value)| {
        let value = if name == "service_ms" { "777".to_owned() } else { value.to_string() };
        format!("{name} = {value}\n")
    };
    let text: String = parameters.iter().map(line).collect();
    std::fs::write(authorities[1].dir.join("parameters.toml"), text).expect("written");
    assert!(
        Command::new("kill").args(["-HUP", &authorities[1].pid.to_string()]).status().expect("kill runs").success()
    );
    let odd = directory(&["status"], &authorities[1])["identity"].clone();
    until("the wrong file is named", PATIENCE, || {
        remarks_about(&authorities[0], &odd).iter().any(|remark| remark.contains("service_ms")).then_some(())
    });
    assert_eq!(directory(&["show"], &authorities[0])["parameters"]["service_ms"], shown["parameters"]["service_ms"]);
}
