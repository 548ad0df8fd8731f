//! Four authorities as real processes: one is not missed, two are waited for, a wrong file stops nothing.

#![expect(clippy::disallowed_methods, reason = "measures how long authorities take, on the real clock")]

use serde_json::Value;
use shoal_tests::authority::{Kept, directory, remarks};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{metrics, until, until_every};
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Long enough that a loaded machine misses none.
const EPOCH: Duration = Duration::from_secs(10);
/// Ten times what is expected of a step that takes an epoch.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until when there must be a document after a majority is back (row 18 of the attack table). Expected within an epoch.
const HEALED: Duration = Duration::from_secs(120);
/// Pause between two questions that cost a process each.
const PAUSE: Duration = Duration::from_millis(250);

fn epoch(party: &Party) -> Option<u64> {
    let (_, body) = metrics::get(&party.metrics, "/metrics")?;
    metrics::sample(&body, "shoal_consensus_epoch").map(|epoch| epoch as u64)
}

fn wait_for_epoch(party: &Party, wanted: u64) {
    until(&format!("epoch {wanted} at {}", party.dir.display()), PATIENCE, || (epoch(party)? >= wanted).then_some(()));
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 584 million")
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
    let before = Kept::at(&authorities[0].dir);
    wait_for_epoch(&authorities[0], before.newest + 4);
    assert_eq!(Kept::at(&authorities[0].dir).missed_since(&before), 0, "a document for every epoch");

    eprintln!("a second one is killed: messages flow on for two epochs");
    net.kill(authorities[2].pid);
    let mut sent = vec!["before".to_owned()];
    let stuck = Kept::at(&authorities[0].dir).newest;
    let held = alice.status();
    // one that was under way when the second was killed may have come yet
    let valid_until_ms = held["consensus_valid_until"].as_u64().expect("a document");
    let last_epoch_ms = valid_until_ms - u64::try_from(EPOCH.as_millis()).expect("small");
    let (mut during, mut last_stored_ms) = (0, 0);
    while now_ms() < valid_until_ms {
        let text = format!("without a directory, number {during}");
        alice.send("bob", &text);
        sent.push(text);
        // stored: nothing waits any more
        until_every(PAUSE, "it is stored, or the document is over", PATIENCE, || {
            let stored = alice.status()["queue"] == 0;
            if stored {
                (during, last_stored_ms) = (during + 1, now_ms());
            }
            (stored || now_ms() >= valid_until_ms).then_some(())
        });
    }
    eprintln!(
        "  {during} messages stored, the last one {:.1} s before the document held is over",
        valid_until_ms.saturating_sub(last_stored_ms) as f64 / 1000.0
    );
    assert!(last_stored_ms >= last_epoch_ms, "until the second epoch without a document of its own");
    assert!(Kept::at(&authorities[0].dir).newest <= stuck + 1, "two of four certify nothing");
    until_every(PAUSE, "an operator is told who is missing, and what to do", PATIENCE, || {
        let status = directory(&["status"], &authorities[0].dir);
        let next = status["next"][0].as_str()?.to_owned();
        let named = [2, 3].iter().all(|at| next.contains(authorities[*at].addr.as_str()));
        let stopped = status["documents"].as_str()?.contains("ARE NOT MADE");
        (stopped && named && next.contains("2 of 4 authorities are missing and 3 must run")).then_some(())
    });

    eprintln!("both come back: the next document is there within two minutes, messages flow again");
    let begun = Instant::now();
    let back = [2, 3].map(|at| net.run_again(&authorities[at].dir, "shoal-directory"));
    wait_for_epoch(&authorities[0], stuck + 2);
    eprintln!("  the next document after {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < HEALED, "{:?}", begun.elapsed());
    for authority in &authorities {
        wait_for_epoch(authority, stuck + 3);
    }
    alice.send("bob", "after it");
    sent.push("after it".to_owned());
    let mut got = Vec::new();
    until_every(PAUSE, "bob has read all of them", PATIENCE, || {
        got.extend(bob.read().iter().map(|message| message["text"].as_str().unwrap_or_default().to_owned()));
        (got.len() >= sent.len()).then_some(())
    });
    assert_eq!(got, sent, "all, once, in order");

    eprintln!("one has another parameter file: it changes nothing and is named");
    let shown = directory(&["show"], &authorities[0].dir);
    let parameters = shown["parameters"].as_object().expect("a table");
    let line = |(name, value): (&String, &Value)| {
        let value = if name == "service_ms" { "777".to_owned() } else { value.to_string() };
        format!("{name} = {value}\n")
    };
    let text: String = parameters.iter().map(line).collect();
    let asks_for_it = |at: usize, pid: u32| {
        std::fs::write(authorities[at].dir.join("parameters.toml"), &text).expect("written");
        assert!(Command::new("kill").args(["-HUP", &pid.to_string()]).status().expect("kill runs").success());
    };
    asks_for_it(1, authorities[1].pid);
    let odd = directory(&["status"], &authorities[1].dir)["identity"].clone();
    until_every(PAUSE, "the wrong file is named", PATIENCE, || {
        let in_force = format!("wants service_ms = 777; {} is in force", shown["parameters"]["service_ms"]);
        remarks(&authorities[0].dir, &odd).iter().any(|remark| remark.contains(&in_force)).then_some(())
    });
    let asks = directory(&["status"], &authorities[1].dir)["asks"].clone();
    assert_eq!(asks[0], format!("service_ms = 777 ({} in force)", shown["parameters"]["service_ms"]));
    assert_eq!(
        directory(&["show"], &authorities[0].dir)["parameters"]["service_ms"],
        shown["parameters"]["service_ms"]
    );

    eprintln!("three of four ask for it: it is in force, and nobody is said to want otherwise any more");
    asks_for_it(0, authorities[0].pid);
    asks_for_it(2, back[0]);
    until_every(PAUSE, "it is in force", PATIENCE, || {
        (directory(&["show"], &authorities[0].dir)["parameters"]["service_ms"] == 777).then_some(())
    });
    let status = directory(&["status"], &authorities[0].dir);
    assert!(!status["authorities"].to_string().contains("wants service_ms"), "{status:#}");
    assert_eq!(status["asks"], serde_json::json!([]), "{status:#}");
    assert!(status["next"].to_string().contains("asks for what is in force: remove it"), "{status:#}");

    eprintln!("two of four move at a time: no document says where they are, the network files do");
    let moved = [2, 3].map(|at| {
        net.kill_again(back[at - 2]);
        let free =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").to_string();
        let dir = &authorities[at].dir;
        let changed = directory(&["init", "--key-only", "--listen", &free], dir);
        assert_eq!(changed["address"], free.as_str(), "{changed}");
        format!("{}@{free}", changed["identity"].as_str().expect("an identity"))
    });
    for authority in &authorities {
        for hint in &moved {
            let network = directory(&["network", "--add-authority", hint], &authority.dir);
            assert!(network["genesis"].is_string(), "{network}");
        }
    }
    let reached = Kept::at(&authorities[0].dir).newest;
    for at in [2, 3] {
        net.run_again(&authorities[at].dir, "shoal-directory");
    }
    for authority in &authorities {
        wait_for_epoch(authority, reached + 3);
    }
    let named = directory(&["show"], &authorities[0].dir)["addresses"].to_string();
    for hint in &moved {
        let (_, address) = hint.split_once('@').expect("as made");
        assert!(named.contains(address), "documents say it from now on: {named}");
    }
}
