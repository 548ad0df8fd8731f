//! IPv6: a whole network on `::1`, where people write to each other and `doctor` finds nothing wrong; a node with addresses
//! of both families in a network of IPv4; and a host that has one family of the two.

#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use serde_json::Value;
use shoal_tests::impostor::network_of;
use shoal_tests::netns::Namespaces;
use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use shoal_tests::{binary, until, until_every};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Expected some seconds.
const SOON: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);

/// `shoal-node` where the name `dual.test` has an address of each family: with a hosts file of its own.
fn shoal_node(hosts: Option<&Path>) -> Command {
    let Some(hosts) = hosts else { return Command::new(binary("shoal-node")) };
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"", "sh"]);
    command.arg(hosts).arg(binary("shoal-node"));
    command
}

fn ask(command: &str, dir: &Path, hosts: Option<&Path>) -> Option<Value> {
    let output = shoal_node(hosts).args([command, "--json", "--dir"]).arg(dir).output();
    serde_json::from_slice(&output.expect("shoal-node runs").stdout).ok()
}

/// What `doctor` finds wrong, but for the runtime directory: that of a test is on a disk.
fn bad_findings(dir: &Path, hosts: Option<&Path>) -> Vec<Value> {
    let report = ask("doctor", dir, hosts).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").clone();
    findings.into_iter().filter(|finding| finding["ok"] == false && finding["check"] != "runtime directory").collect()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_network_on_ipv6_alone_carries_messages_both_ways() {
    let net = Testnet::start(&["--ip", "::1"]);
    assert!(net.ready.nodes.iter().all(|node| node.addr.starts_with("[::1]:")), "nobody is anywhere else");
    let (alice, bob) = (
        Person::new("alice", net.folder.path(), &net.ready.network),
        Person::new("bob", net.folder.path(), &net.ready.network),
    );
    assert_eq!(alice.send_and_wait(&bob.address, "over IPv6", "stored"), "stored");
    let text = until_every(PAUSE, "bob reads it", SOON, || bob.read().pop());
    assert_eq!(text["text"], "over IPv6");
    bob.send(&alice.address, "and back");
    let text = until_every(PAUSE, "alice reads it", SOON, || alice.read().pop());
    assert_eq!(text["text"], "and back");
    // the authorities have dialled every node there
    for node in net.nodes("gateway", None).iter().chain(&net.nodes("store", None)) {
        let bad = until_every(PAUSE, "doctor finds nothing wrong", SOON, || {
            let bad = bad_findings(&node.dir, None);
            (bad.is_empty() || bad.iter().any(|finding| finding["check"] == "descriptor")).then_some(bad)
        });
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

#[test]
fn a_node_with_both_families_is_listed_with_both_and_linked() {
    let net = Testnet::start(&["--epoch", "10s", "--draw", "2"]);
    let dir = net.folder.path().join("dual");
    // one port that is free for both
    let port = until("a free port", SOON, || {
        let socket = UdpSocket::bind("[::]:0").ok()?;
        Some(socket.local_addr().ok()?.port())
    });
    let hosts = net.folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost dual.test\n::1 dual.test\n").expect("written");
    let made = Command::new(binary("shoal-node"))
        .args(["init", "--json", "--role", "gateway", "--metrics", "127.0.0.1:0", "--network"])
        .arg(&net.ready.network)
        // a name of both families, as an operator has it
        .args(["--address", &format!("dual.test:{port}"), "--dir"])
        .arg(&dir)
        .output()
        .expect("shoal-node runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    let run = shoal_node(Some(&hosts)).arg("run").arg("--dir").arg(&dir).stdin(Stdio::null()).stderr(log).spawn();
    let _running = Running(run.expect("it starts"));
    let status = until_every(PAUSE, "it is listed", SOON, || {
        ask("status", &dir, None).filter(|status| status["in_consensus"] == true)
    });
    let named: Vec<&str> =
        status["descriptor"]["addresses"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(named, [format!("127.0.0.1:{port}"), format!("[::1]:{port}")], "one address of each family");
    // others dial it, whichever address they take
    until_every(PAUSE, "mixes are linked to it", SOON, || {
        let status = ask("status", &dir, None)?;
        (status["standing"] == "serving" && status["links"]["incoming"].as_u64()? > 0).then_some(())
    });
    let bad = bad_findings(&dir, Some(&hosts));
    assert!(bad.is_empty(), "{bad:#?}");

    // and somebody who knows its IPv6 address alone comes in by it
    let mut network = network_of(&net);
    network.hints.gateways.retain(|hint| hint.address.is_ipv6());
    let identity = status["identity"].as_str().expect("an identity").parse().expect("hex");
    let address = format!("[::1]:{port}").parse().expect("an address");
    network.hints.gateways.push(shoal_protocol::network::Hint { identity, address });
    let file = net.folder.path().join("by-ipv6.toml");
    std::fs::write(&file, network.to_toml()).expect("written");
    let carol = Person::new("carol", net.folder.path(), &file);
    until_every(PAUSE, "carol is connected", SOON, || (carol.status()["connected"] == true).then_some(()));
}

#[test]
fn a_host_without_a_way_says_so_at_once() {
    let net = Testnet::start(&["--authorities", "1"]);
    let mut network = network_of(&net);
    // for documentation only: from a namespace with nothing but its own loopback there is no way to it
    network.hints.authorities[0].address = "[2001:db8::1]:4433".parse().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("network.toml");
    std::fs::write(&file, network.to_toml()).expect("written");
    let dir = folder.path().join("node");
    let made = Command::new(binary("shoal-node"))
        .args(["init", "--role", "mix", "--address", "192.0.2.1:4433", "--network"])
        .arg(&file)
        .arg("--dir")
        .arg(&dir)
        .output()
        .expect("shoal-node runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let namespaces = Namespaces::new(1);
    let began = std::time::SystemTime::now();
    let output = namespaces
        .command(0, &binary("shoal-node"))
        .args(["doctor", "--json", "--dir"])
        .arg(&dir)
        .output()
        .expect("runs");
    let took = began.elapsed().expect("time goes on");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let authority = report["findings"].as_array().expect("findings").iter().find(|one| one["check"] == "authority");
    let authority = authority.expect("it was looked for");
    assert_eq!(authority["ok"], false);
    // a dial that waits for an answer takes ten seconds
    assert!(took < Duration::from_secs(8), "{took:?}: {authority}");
}
