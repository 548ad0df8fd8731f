//! Stores that are drawn anew every two epochs: conversations move from generation to generation, also past those that are
//! gone. Real processes.

use serde_json::Value;
use shoal_tests::authority::{directory, node};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::until_every;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Draws that are watched. One every two epochs of 10 s. A conversation has to move within the retention after its generation
/// was replaced, also when the store that decides its commit is gone: with 100 s, people on a machine that ran two such
/// networks at once missed that, and stood still for good.
const DRAWS: u64 = 6;
/// Six draws take 120 s, and until the first generation is gone 170 s, 150 s after it was replaced. Four times that: people
/// and network go on meanwhile, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two messages of a person.
const PAUSE: Duration = Duration::from_millis(1_500);

/// Numbers of the generations that the newest document lists: still readable, the last one written to.
fn generations(dir: &Path) -> Vec<u64> {
    let shown = directory(&["show"], dir);
    let listed = shown["generations"].as_array().expect("a list");
    listed.iter().map(|generation| generation["number"].as_u64().expect("a number")).collect()
}

fn append_texts(person: &Person, to: &mut Vec<String>) {
    to.extend(person.read().iter().map(|message: &Value| message["text"].as_str().unwrap_or_default().to_owned()));
}

/// Asks a process for something by a signal.
fn signal(name: &str, pid: u32) {
    let asked = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs");
    assert!(asked.success());
}

/// Says that a store is to go, as its operator does.
fn announce(store: &Party) {
    let path = store.dir.join("node.toml");
    let text = std::fs::read_to_string(&path).expect("its configuration");
    let says = text.replace("leaving = false", "leaving = true");
    assert_ne!(says, text, "the key is there");
    std::fs::write(&path, says).expect("written");
    signal("-HUP", store.pid);
}

/// Two people write to each other until the first generations are gone. One store goes as its operator should: it says so and
/// is stopped when no generation names it any more. Another goes at once, for good: what one replica of two has is enough to
/// read, and a commit box whose deciding replica is gone is given up for the next.
#[test]
fn conversations_outlive_the_generations_they_began_in() {
    let net = Testnet::start(&[
        "--epoch",
        "10s",
        "--authorities",
        "4",
        "--draw",
        "2",
        "--retention",
        "150s",
        "--stores",
        "5",
        "--no-prober",
    ]);
    let authority = &net.ready.authorities[0].dir;
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let bob = Person::new("bob", folder.path(), &net.ready.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    // one after the other: two who write first at once make two conversations
    alice.send("bob", "the first one");
    until_every(PAUSE, "bob has the first one", PATIENCE, || (bob.read().len() == 1).then_some(()));
    let first = *generations(authority).last().expect("a generation");
    let mut stores = net.nodes("store", None);
    let (leaves, announced) = (stores.remove(1), stores.remove(1));
    announce(&announced);
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let (mut from_alice, mut from_bob, mut at_alice, mut at_bob) = (vec![], vec![], vec![], vec![]);
    let mut left = false;

    until_every(PAUSE, &format!("{DRAWS} draws and the end of the first generation"), PATIENCE, || {
        let number = from_alice.len();
        // not only ASCII, and of different lengths
        for (person, to, sent) in [(&alice, "bob", &mut from_alice), (&bob, "alice", &mut from_bob)] {
            let text = format!("{} \u{1f41f} {number} {}", person.name, "שלום ".repeat(number % 7));
            person.send(to, &text);
            sent.push(text);
        }
        append_texts(&alice, &mut at_alice);
        append_texts(&bob, &mut at_bob);
        let listed = generations(authority);
        let newest = *listed.last().expect("a generation");
        if seen.insert(newest) {
            let (sent, read) = (from_alice.len() + from_bob.len(), at_alice.len() + at_bob.len());
            eprintln!("  generations {listed:?}: {sent} sent, {read} read");
        }
        seen.extend(&listed);
        if !left && newest >= first + DRAWS / 2 {
            eprintln!("a store leaves for good, after {} messages", from_alice.len() + from_bob.len());
            signal("-TERM", leaves.pid);
            left = true;
        }
        (newest >= first + DRAWS && listed[0] > first && left).then_some(())
    });
    let gone = seen.iter().filter(|number| **number < generations(authority)[0]).count();
    eprintln!("{} generations seen, {gone} of them are gone", seen.len());
    assert!(seen.len() as u64 > DRAWS && gone >= 1, "{seen:?}");
    assert!(seen.iter().zip(1..).all(|(seen, number)| *seen == number), "no number is left out: {seen:?}");

    has_left(authority, &leaves);
    until_every(PAUSE, "no generation names the store that is to go", PATIENCE, || {
        let status = node(&["status"], &announced.dir);
        assert_eq!((&status["leaving"], &status["in_consensus"]), (&true.into(), &true.into()), "it serves on");
        status["generations"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    signal("-TERM", announced.pid);
    has_left(authority, &announced);
    // whatever was written when it was written: all of it is there
    for (person, got, sent) in [(&bob, &mut at_bob, &from_alice), (&alice, &mut at_alice, &from_bob)] {
        all_there(person, got, sent);
    }
    // and the last ones are in a generation drawn after it
    for (from, to, name, sent) in [(&alice, &bob, "bob", &mut from_alice), (&bob, &alice, "alice", &mut from_bob)] {
        let state = from.send_and_wait(name, "the last one", "delivered");
        assert_eq!(state, "delivered", "{} to {}", from.name, to.name);
        sent.push("the last one".to_owned());
    }
    all_there(&bob, &mut at_bob, &from_alice);
    all_there(&alice, &mut at_alice, &from_bob);
    eprintln!("{} messages both ways, all there, once, in order", from_alice.len() + from_bob.len());
}

/// Waits until somebody has read what was sent: byte for byte, once, in order.
fn all_there(person: &Person, got: &mut Vec<String>, sent: &[String]) {
    until_every(PAUSE, &format!("{} has {} messages", person.name, sent.len()), PATIENCE, || {
        append_texts(person, got);
        (got.len() >= sent.len()).then_some(())
    });
    assert_eq!(got, sent, "{}: byte for byte, once, in order", person.name);
}

/// Waits until a store that was asked to leave has ended, and is not in the document any more.
fn has_left(authority: &Path, store: &Party) {
    until_every(PAUSE, "the store has drained", PATIENCE, || {
        (!Path::new(&format!("/proc/{}", store.pid)).exists()).then_some(())
    });
    let identity = store.identity.as_deref().expect("a node has one");
    let shown = directory(&["show"], authority);
    let listed = shown["nodes"].as_array().expect("a list").iter().any(|node| node["identity"] == identity);
    assert!(!listed, "it is not in the document any more");
    eprintln!("{} has ended, and the document does not name it", store.dir.display());
}
