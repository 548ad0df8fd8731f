//! The directory, and people, on a bad network: every party on a host of its own, every packet late, one of twenty lost; one
//! authority is cut off and comes back. Real processes, real IP packets.

#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "measures how long authorities take, on the real clock")]

use shoal_tests::authority::{Kept, directory, remarks};
use shoal_tests::hosts::{Hosts, PAUSE};
use shoal_tests::person::Person;
use shoal_tests::until_every;
use shoal_tests::wire::{Ping, Quality, Wire};
use std::time::{Duration, Instant};

const AUTHORITIES: usize = 4;
const ROLES: [&str; 7] = ["gateway", "mix", "mix", "mix", "store", "store", "store"];
/// Where the people live: the last host.
const PEOPLE: usize = AUTHORITIES + ROLES.len();
/// Rounds of the agreement begin with timeouts of a thirtieth of it, 1 s, and reach 3 s: by then a proposal has come.
const EPOCH: Duration = Duration::from_secs(30);
/// Ten times what is expected of a step that takes an epoch.
const PATIENCE: Duration = Duration::from_secs(300);
/// One way, to and from every authority: a round trip of 400 ms.
const FAR: Duration = Duration::from_millis(200);
/// One way, among nodes and people. A request and its reply cross ten of these links one after the other, and are given up
/// two seconds after the delays that the client chose.
const NEAR: Duration = Duration::from_millis(50);
const LOSS: f64 = 0.05;

fn quality(from: usize, to: usize) -> Quality {
    let delay = if from.min(to) < AUTHORITIES { FAR } else { NEAR };
    Quality { delay, loss: LOSS }
}

/// Its identity, as the authority in `dir` says.
fn me(dir: &std::path::Path) -> serde_json::Value {
    let status = directory(&["status"], dir);
    let authorities = status["authorities"].as_array().expect("a list");
    authorities.iter().find(|authority| authority["me"] == true).expect("it is one of them")["identity"].clone()
}

fn newest(dir: &std::path::Path) -> u64 {
    directory(&["status"], dir)["epoch"].as_u64().unwrap_or(0)
}

/// Checks with `ping` that the wire is as bad as it should be: the test must not run on a good one. The loss of a round
/// trip is 9.75 % at 5 % each way; four standard errors of 400 echoes are 6 %.
fn measure(wire: &Wire, from: usize, to: usize) {
    let ping = wire.ping(from, to, 400);
    let Ping { sent, received, min_ms, mean_ms } = ping;
    let expected_ms = 2.0 * quality(from, to).delay.as_secs_f64() * 1000.0;
    eprintln!(
        "  ping {from} -> {to}: {received} of {sent} came back ({:.1} % lost), round trip {min_ms:.1} ms at least, {mean_ms:.1} ms mean",
        ping.loss() * 100.0
    );
    assert!(min_ms >= expected_ms && min_ms < 2.0 * expected_ms, "{ping:?}: {expected_ms} ms are expected");
    assert!((0.0375..0.1575).contains(&ping.loss()), "{ping:?}: 9.75 % are expected");
}

#[test]
fn authorities_far_apart_miss_no_epoch_and_people_write_to_each_other() {
    let wire = Wire::new(PEOPLE + 1, 20_261_126, quality);
    eprintln!("the wire, before anybody is on it");
    measure(&wire, 0, 1);
    measure(&wire, AUTHORITIES, PEOPLE);

    eprintln!("the first document");
    let folder = tempfile::tempdir().expect("folder");
    let begun = Instant::now();
    let epoch = format!("{}s", EPOCH.as_secs());
    // at 5 % loss a link carries no more than about 70 KB/s at 100 ms (congestion control takes loss for congestion): rates
    // that load no link with more than a third of it
    let parameters = [
        ["--epoch", epoch.as_str()],
        ["--mixes-per-layer", "1"],
        ["--service", "1s"],
        ["--store-rate", "10"],
        ["--lambda-p", "2"],
        ["--lambda-l", "0.5"],
        ["--lambda-m", "0.2"],
    ];
    let hosts = Hosts::start(&wire, folder.path(), AUTHORITIES, &ROLES, parameters.as_flattened());
    hosts.until_ready(PATIENCE);
    eprintln!("  every node is listed after {:.1} s", begun.elapsed().as_secs_f64());
    let dirs: Vec<_> = hosts.authorities.iter().map(|authority| authority.dir.clone()).collect();
    let before = Kept::at(&dirs[0]);

    eprintln!("two people write to each other");
    let live = wire.namespace(PEOPLE);
    let alice = Person::inside(Some(live), "alice", folder.path(), &hosts.network);
    let bob = Person::inside(Some(live), "bob", folder.path(), &hosts.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    let begun = Instant::now();
    alice.send("bob", "far away");
    arrives(&bob, "far away");
    bob.send("alice", "not that far");
    arrives(&alice, "not that far");
    eprintln!("  there and back after {:.1} s", begun.elapsed().as_secs_f64());

    eprintln!("one authority is cut off for two epochs: the others miss none");
    let cut = &dirs[3];
    wire.cut(3);
    let stuck = newest(cut);
    let reached = newest(&dirs[0]);
    for dir in &dirs[..3] {
        until_every(PAUSE, "two epochs more", PATIENCE, || (newest(dir) >= reached + 2).then_some(()));
    }
    assert!(newest(cut) <= stuck + 1, "it is cut off: nothing but what was on its way arrives");

    eprintln!("it is back: it has all documents, and certifies the next ones");
    wire.heal(3);
    let (begun, reached) = (Instant::now(), newest(&dirs[0]));
    until_every(PAUSE, "it has caught up", PATIENCE, || (newest(cut) >= reached).then_some(()));
    eprintln!("  it has caught up after {:.1} s", begun.elapsed().as_secs_f64());
    // documents come over any one link; before another one may be missing, all links to it must be there again
    let linked =
        |from: usize, to: usize| !remarks(&dirs[from], &me(&dirs[to])).iter().any(|said| said.contains("not reached"));
    for (from, to) in [(0, 3), (1, 3), (3, 0), (3, 1)] {
        until_every(PAUSE, &format!("{from} reaches {to}"), PATIENCE, || linked(from, to).then_some(()));
    }
    eprintln!("  and is linked with the others after {:.1} s", begun.elapsed().as_secs_f64());
    // of three, all must sign: nothing is certified without the one that is back
    wire.cut(2);
    // on disk there may be one more than is handed out yet
    let certified = Kept::at(&dirs[0]).newest;
    until_every(PAUSE, "a document that needs it", PATIENCE, || (newest(&dirs[0]) > certified).then_some(()));
    wire.heal(2);
    bob.send("alice", "still there");
    arrives(&alice, "still there");

    let after = Kept::at(&dirs[0]);
    let missed = after.missed_since(&before);
    let counts = wire.counts();
    let lost = counts.lost as f64 / (counts.lost + counts.carried) as f64;
    eprintln!(
        "  {} epochs, {missed} missed; the wire carried {} packets, lost {:.2} %, kept away {}, let {} fall",
        after.newest - before.newest,
        counts.carried,
        lost * 100.0,
        counts.cut,
        counts.overflowed
    );
    assert_eq!(missed, 0);
    assert!(counts.cut > 0 && (0.04..0.06).contains(&lost), "{counts:?}");
}

/// Waits for one message, and that it is this one.
fn arrives(person: &Person, text: &str) {
    let got = until_every(PAUSE, &format!("{} reads {text:?}", person.name), PATIENCE, || {
        let got = person.read();
        (!got.is_empty()).then_some(got)
    });
    assert_eq!(got.iter().map(|message| message["text"].as_str()).collect::<Vec<_>>(), [Some(text)]);
}
