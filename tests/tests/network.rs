//! One real network of real processes, and people at their shells (design: commands). The steps share the network, so
//! they run in order inside one test; each prints its name, so that a failure tells where it happened.

use serde_json::Value;
use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use shoal_tests::{metrics, until};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Expected about 2 s on a test network; ten times that and room for a loaded machine.
const ARRIVAL: Duration = Duration::from_secs(120);

fn texts(messages: &[Value]) -> Vec<String> {
    messages.iter().map(|m| m["text"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Reads until `count` messages have come.
fn read_until(person: &Person, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    until(&format!("{} reads {count} messages", person.name), ARRIVAL, || {
        all.extend(person.read());
        (all.len() >= count).then_some(())
    });
    assert_eq!(all.len(), count, "{}: nothing twice", person.name);
    all
}

#[test]
fn people_write_to_each_other_over_real_processes() {
    let mut net = Testnet::start(&["--epoch", "20s"]);
    eprintln!("network is up; every /readyz is 200");
    for party in net.ready.nodes.iter().chain(&net.ready.authorities) {
        let (status, body) = metrics::get(&party.metrics, "/readyz").expect("readyz answers");
        assert_eq!(status, 200, "{}: {body}", party.dir.display());
    }
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let mut bob = Person::new("bob", folder.path(), &net.ready.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        let added = person.run(["add", name, &peer.address]);
        assert_eq!(added.code, 0, "add: {added:?}");
    }

    first_contact(&alice, &bob);
    texts_arrive_byte_for_byte(&alice, &bob);
    statuses_have_their_shape(&alice);
    a_store_dies_between_two_messages(&mut net, &alice, &bob);
    a_client_dies_in_the_middle_of_ten_sends(&mut bob, &alice);
    who_follows_reads_on_when_the_daemon_is_another(&mut bob, &alice);
    a_layer_dies_and_comes_back(&mut net, &alice, &bob);
    promtool_accepts_every_metric(&net);
}

fn first_contact(alice: &Person, bob: &Person) {
    eprintln!("first contact");
    let id = alice.send("bob", "hello");
    let got = read_until(bob, 1);
    assert_eq!((got[0]["id"].as_str(), got[0]["text"].as_str()), (Some(id.as_str()), Some("hello")));
    assert!(got[0]["conversation"].is_string() && got[0]["sent_at"].is_number() && got[0]["received_at"].is_number());
    assert_eq!(bob.send_and_wait("alice", "hello yourself", "delivered"), "delivered");
    let got = read_until(alice, 1);
    assert_eq!(got[0]["text"], "hello yourself");
    assert_eq!(alice.send_and_wait("bob", "now I know that you read", "delivered"), "delivered");
    assert_eq!(texts(&read_until(bob, 1)), ["now I know that you read"]);
    assert!(bob.read().is_empty(), "read says nothing when nothing is new");
}

fn texts_arrive_byte_for_byte(alice: &Person, bob: &Person) {
    eprintln!("emoji, right to left, nothing, 100 KB");
    let long: String = "שלום 🐟 shoal \u{202e}rtl\u{202c} — ".chars().cycle().take(100_000).collect();
    let long: String = long
        .chars()
        .scan(0, |n, c| {
            *n += c.len_utf8();
            (*n <= 100_000).then_some(c)
        })
        .collect();
    assert!(long.len() > 99_990);
    let sent = ["🐟🐠🦈 👨‍👩‍👧‍👦 e\u{301}", "مرحبا بالعالم — שלום עולם", "", &long, "after the long one"];
    for text in sent {
        alice.send("bob", text);
    }
    let got = texts(&read_until(bob, sent.len()));
    assert_eq!(got.len(), sent.len());
    for (got, sent) in got.iter().zip(sent) {
        assert!(got == sent, "{} bytes came for {} bytes", got.len(), sent.len());
    }
}

fn statuses_have_their_shape(alice: &Person) {
    eprintln!("status");
    let status = alice.run(["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    for key in ["connected", "gateway", "epoch", "anonymity_bits", "hiding_among", "loop_survival", "queue"] {
        assert!(!status.lines[0][key].is_null(), "status has {key}: {:?}", status.lines[0]);
    }
    let wrong = alice.run(["send", "nobody-of-this-name", "x"]);
    assert_eq!(wrong.code, 64, "{wrong:?}");
    assert!(wrong.lines[0]["error"]["next"].is_string(), "{wrong:?}");
}

fn a_store_dies_between_two_messages(net: &mut Testnet, alice: &Person, bob: &Person) {
    eprintln!("kill -9 of a store between two messages");
    assert_eq!(alice.send_and_wait("bob", "before the crash", "stored"), "stored");
    let store = net.nodes("store", None).remove(0);
    net.kill(store.pid);
    let pid = net.run_again(&store.dir, "shoal-node");
    until("the store is ready again", Duration::from_secs(300), || {
        metrics::get(&store.metrics, "/readyz").filter(|(status, _)| *status == 200)
    });
    if let Some(known) = net.ready.nodes.iter_mut().find(|n| n.dir == store.dir) {
        known.pid = pid;
    }
    assert_eq!(alice.send_and_wait("bob", "after the crash", "stored"), "stored");
    assert_eq!(texts(&read_until(bob, 2)), ["before the crash", "after the crash"]);
}

fn a_client_dies_in_the_middle_of_ten_sends(bob: &mut Person, alice: &Person) {
    eprintln!("kill -9 of a client in the middle of ten sends");
    let sent: Vec<String> = (0..10).map(|n| format!("number {n}")).collect();
    for (n, text) in sent.iter().enumerate() {
        bob.send("alice", text);
        if n == 4 {
            bob.kill();
            bob.up();
        }
    }
    bob.kill();
    bob.up();
    assert_eq!(texts(&read_until(alice, 10)), sent);
}

fn who_follows_reads_on_when_the_daemon_is_another(bob: &mut Person, alice: &Person) {
    eprintln!("read --follow over a kill -9 of the daemon");
    let (mut follow, lines) = bob.start(["read", "--follow"]);
    for text in ["before", "after"] {
        alice.send("bob", text);
        let line = lines.recv_timeout(ARRIVAL).expect("it arrives");
        let message: Value = serde_json::from_str(&line).expect("a message");
        assert_eq!(message["text"], text, "in order, nothing twice");
        bob.kill();
        bob.up();
    }
    follow.kill().expect("it still runs");
    follow.wait().expect("reaped");
    // the last may have been printed and not marked as read: better twice than not at all
    assert!(bob.read().len() <= 1);
}

/// All mixes of a layer end at once: nothing comes through. The client must say so, stop sending messages, and go on by
/// itself when the layer is back.
///
/// Bound of the expectation: λ_L is 2 a second in a test network; WARN needs 8 lost loops of the last 40, PAUSE 28, so
/// 14 s of loops, 3 s until the first is overdue, and a change of the gateway in between: 20 s. Back: 24 loops that
/// return, 12 s, after the restart. Ten times that is the deadline.
fn a_layer_dies_and_comes_back(net: &mut Testnet, alice: &Person, bob: &Person) {
    const EXPECTED: Duration = Duration::from_secs(20);
    eprintln!("kill -9 of a whole layer");
    let state = |person: &Person| person.status()["state"].as_str().unwrap_or_default().to_owned();
    until("all is good before", EXPECTED * 10, || (state(alice) == "good").then_some(()));
    let mixes = net.nodes("mix", Some("L2"));
    assert!(!mixes.is_empty());
    mixes.iter().for_each(|mix| net.kill(mix.pid));
    let mut seen = vec!["good".to_owned()];
    until("the client pauses", EXPECTED * 10, || {
        let now = state(alice);
        if seen.last() != Some(&now) {
            seen.push(now.clone());
        }
        (now == "pause").then_some(())
    });
    // between two gateways it is offline for a moment, and on a loaded machine a loop or two more come back in time
    assert!(seen.iter().any(|state| state == "warn"), "it warns before it pauses: {seen:?}");
    // payload stops: not even handed to the link
    let waited = alice.run(["send", "bob", "through the pause", "--wait", "stored", "--timeout", "3s"]);
    assert!([69, 75].contains(&waited.code), "{waited:?}");
    assert_eq!(waited.lines[0]["state"], "queued", "{waited:?}");
    assert_eq!(waited.lines[0]["waits_for"], "turn", "{waited:?}");
    for mix in &mixes {
        let pid = net.run_again(&mix.dir, "shoal-node");
        if let Some(known) = net.ready.nodes.iter_mut().find(|node| node.dir == mix.dir) {
            known.pid = pid;
        }
    }
    until("the client goes on by itself", EXPECTED * 10, || {
        ["good", "warn"].contains(&state(alice).as_str()).then_some(())
    });
    assert_eq!(texts(&read_until(bob, 1)), ["through the pause"]);
}

fn promtool_accepts_every_metric(net: &Testnet) {
    eprintln!("promtool check metrics");
    if Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        panic!("promtool is missing: ops/test installs it (Debian package prometheus)");
    }
    for party in net.ready.nodes.iter().chain(&net.ready.authorities) {
        let (_, text) = metrics::get(&party.metrics, "/metrics").expect("metrics answer");
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), text.as_bytes()).expect("promtool reads");
        let output = child.wait_with_output().expect("promtool ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", party.dir.display());
        for name in ["shoal_build_info", "shoal_consensus_epoch", "process_resident_memory_bytes"] {
            assert!(text.contains(name), "{} lacks {name}", party.dir.display());
        }
    }
}
