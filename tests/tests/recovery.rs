//! A client that is suspended, loses its gateway, and is cut off from the network for a minute: its daemon recovers by itself,
//! says meanwhile what it waits for, and loses nothing. Real processes on hosts of their own.

#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "measures how long a client needs, on the real clock")]

use shoal_tests::hosts::{Hosts, PAUSE};
use shoal_tests::person::Person;
use shoal_tests::until_every;
use shoal_tests::wire::{Quality, Wire};
use std::process::Command;
use std::time::{Duration, Instant};

const ROLES: [&str; 8] = ["gateway", "gateway", "mix", "mix", "mix", "store", "store", "store"];
/// Where each of the two people lives: after one authority and the nodes.
const ALICE: usize = 1 + ROLES.len();
const BOB: usize = ALICE + 1;
const EPOCH: Duration = Duration::from_secs(10);
/// Ten times what is expected of a step: at most two epochs.
const PATIENCE: Duration = Duration::from_secs(200);
const CUT: Duration = Duration::from_secs(60);

fn signal(person: &Person, name: &str) {
    let status = Command::new("kill").args([name, &person.daemon_pid().to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill {name}");
}

/// Reads until all of these have come, in this order and nothing else; says how long it took.
fn arrive(person: &Person, texts: &[&str]) -> Duration {
    let begun = Instant::now();
    let mut read: Vec<String> = Vec::new();
    until_every(PAUSE, &format!("{texts:?} at {}", person.name), PATIENCE, || {
        read.extend(person.read().iter().map(|line| line["text"].as_str().expect("a text").to_owned()));
        (read.len() >= texts.len()).then_some(())
    });
    assert_eq!(read, texts, "{}", person.name);
    begun.elapsed()
}

fn until_state(person: &Person, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
    until_every(PAUSE, what, PATIENCE, || wanted(&person.status()).then_some(()));
}

#[test]
fn a_client_recovers_by_itself() {
    let wire = Wire::new(BOB + 1, 7, |_, _| Quality { delay: Duration::from_millis(2), loss: 0.0 });
    let folder = tempfile::tempdir().expect("folder");
    let epoch = format!("{}s", EPOCH.as_secs());
    let parameters = [["--epoch", epoch.as_str()], ["--mixes-per-layer", "1"], ["--lambda-p", "10"]];
    let mut hosts = Hosts::start(&wire, folder.path(), 1, &ROLES, parameters.as_flattened());
    hosts.until_ready(PATIENCE);
    let alice = Person::inside(Some(wire.namespace(ALICE)), "alice", folder.path(), &hosts.network);
    let bob = Person::inside(Some(wire.namespace(BOB)), "bob", folder.path(), &hosts.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    alice.send("bob", "hello");
    arrive(&bob, &["hello"]);
    bob.send("alice", "hello");
    arrive(&alice, &["hello"]);

    eprintln!("bob is suspended for two epochs");
    let newest = |hosts: &Hosts| hosts.status(&hosts.authorities[0]).and_then(|status| status["epoch"].as_u64());
    let before = newest(&hosts).expect("the authority answers");
    bob.send("alice", "just before");
    signal(&bob, "-STOP");
    for text in ["one", "two", "three"] {
        alice.send("bob", text);
    }
    until_every(PAUSE, "two epochs", PATIENCE, || newest(&hosts).filter(|now| *now >= before + 3));
    signal(&bob, "-CONT");
    eprintln!("  all is read {:.1} s after", arrive(&bob, &["one", "two", "three"]).as_secs_f64());
    eprintln!("  and what he wrote before, {:.1} s later", arrive(&alice, &["just before"]).as_secs_f64());

    eprintln!("alice's gateway is killed");
    let gateway = alice.status()["gateway"].as_str().expect("she is connected").to_owned();
    let position = hosts
        .nodes
        .iter()
        .position(|node| hosts.status(node).is_some_and(|status| status["identity"] == gateway.as_str()));
    hosts.kill(position.expect("one of the two"));
    alice.send("bob", "another way");
    eprintln!("  she is read {:.1} s after", arrive(&bob, &["another way"]).as_secs_f64());
    assert_ne!(alice.status()["gateway"], gateway.as_str());

    eprintln!("alice is cut off for a minute");
    let begun = Instant::now();
    wire.cut(ALICE);
    alice.send("bob", "from an island");
    until_state(&alice, "she is told", |status| status["connected"] == false && status["state"] == "offline");
    eprintln!("  she is told after {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(alice.status()["queue"], 1, "what waits is said");
    until_every(PAUSE, "a minute", PATIENCE, || (begun.elapsed() >= CUT).then_some(()));
    wire.heal(ALICE);
    eprintln!("  she is read {:.1} s after", arrive(&bob, &["from an island"]).as_secs_f64());
    bob.send("alice", "welcome back");
    arrive(&alice, &["welcome back"]);
    until_state(&alice, "all is well", |status| status["state"] == "good" && status["queue"] == 0);
}
