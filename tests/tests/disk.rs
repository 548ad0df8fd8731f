//! Row 15 of the attack table with real processes and a real full disk: a mix whose replay log does not fit stops
//! forwarding, a store whose boxes do not fit acknowledges nothing, both say so, and both go on by themselves when there
//! is room. And what else an operator may do to the files of a node. Needs root, to mount small file systems.

use serde_json::Value;
use shoal_tests::authority::node;
use shoal_tests::person::Person;
use shoal_tests::small_disk::SmallDisk;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, metrics, until, until_every};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Expected some seconds: a restart, a document of the next epoch of 10 s.
const SOON: Duration = Duration::from_secs(120);
/// A store meets the full disk when a bucket ends, 37 s at most.
const BUCKET: Duration = Duration::from_secs(370);
const PAUSE: Duration = Duration::from_millis(200);

fn sample(party: &Party, name: &str) -> u64 {
    let (_, text) = metrics::get(&party.metrics, "/metrics").expect("metrics answer");
    metrics::sample(&text, name).unwrap_or_else(|| panic!("{name} exists from the start")) as u64
}

fn log_failures(party: &Party) -> u64 {
    sample(party, "shoal_packets_dropped_total{reason=\"replay_log_failed\"}")
}

fn forwarded(party: &Party) -> u64 {
    sample(party, "shoal_packets_forwarded_total")
}

/// What keeps a node from being ready; empty when nothing does.
fn problems(party: &Party) -> String {
    match metrics::get(&party.metrics, "/readyz") {
        Some((200, _)) => String::new(),
        Some((_, why)) => why,
        None => "nobody answers".to_owned(),
    }
}

fn until_ready(party: &Party) {
    until_every(PAUSE, &format!("{} is ready", party.dir.display()), SOON, || problems(party).is_empty().then_some(()));
}

/// Gives a key of `node.toml` another value.
fn configure(party: &Party, key: &str, value: &str) {
    let path = party.dir.join("node.toml");
    let text = std::fs::read_to_string(&path).expect("its configuration");
    let line = |line: &str| {
        let this = line.split(" =").next() == Some(key);
        if this { format!("{key} = {value}") } else { line.to_owned() }
    };
    let changed: Vec<String> = text.lines().map(line).collect();
    let changed = changed.join("\n") + "\n";
    assert_ne!(changed, text, "{key} is there");
    std::fs::write(&path, changed).expect("written");
}

/// Stops a node, moves a folder of it to another disk, and starts it again.
fn move_to(net: &mut Testnet, party: &Party, key: &str, folder: &str, disk: &SmallDisk) {
    net.kill(party.pid);
    let copied = Command::new("cp").arg("-a").arg(party.dir.join(folder).join(".")).arg(disk.path()).status();
    assert!(copied.expect("cp runs").success());
    configure(party, key, &format!("{:?}", disk.path()));
    net.run_again(&party.dir, "shoal-node");
    until_ready(party);
}

/// Names of the files on a disk.
fn files(disk: &SmallDisk) -> BTreeSet<OsString> {
    std::fs::read_dir(disk.path()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect()
}

fn texts(person: &Person) -> Vec<String> {
    person.read().iter().map(|message: &Value| message["text"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn nodes_on_a_full_disk_stop_say_so_and_go_on_when_there_is_room() {
    let options = ["--epoch", "10s", "--authorities", "1", "--gateways", "1", "--mixes-per-layer", "1"];
    let mut net = Testnet::start(&[&options[..], &["--retention", "300s"]].concat());
    let folder = tempfile::tempdir().expect("folder");
    let people = [("alice", "bob"), ("bob", "alice")];
    let [alice, bob] = people.map(|(name, _)| Person::new(name, folder.path(), &net.ready.network));
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    let mut got = Vec::new();
    let mut sent = vec!["the first".to_owned()];
    assert_eq!(alice.send_and_wait("bob", "the first", "delivered"), "delivered");

    let [mix_disk, store_disk] = [SmallDisk::mount(512), SmallDisk::mount(96 * 1_024)];
    let mix = net.nodes("mix", Some("L2")).remove(0);
    let store = net.nodes("store", None).remove(0);
    move_to(&mut net, &mix, "runtime_dir", "run", &mix_disk);
    move_to(&mut net, &store, "dir", "store", &store_disk);
    sent.push("on the new disks".to_owned());
    assert_eq!(alice.send_and_wait("bob", "on the new disks", "delivered"), "delivered");

    a_mix_that_cannot_log_forwards_nothing(&mix, &mix_disk);
    sent.push("after the mix".to_owned());
    assert_eq!(alice.send_and_wait("bob", "after the mix", "delivered"), "delivered");

    a_store_that_cannot_write_acknowledges_nothing(&store, &store_disk, &alice, &mut sent);
    until_every(PAUSE, "everything arrives", SOON, || {
        got.extend(texts(&bob));
        (got.len() >= sent.len()).then_some(())
    });
    assert_eq!(got, sent, "everything, once, in order");

    a_runtime_directory_that_vanishes_is_made_anew(&net);
}

/// The disk under the replay log is full. Every packet that comes is dropped under its reason, none leaves; `/readyz` and
/// `status` say why. With room it goes on, by itself.
fn a_mix_that_cannot_log_forwards_nothing(mix: &Party, disk: &SmallDisk) {
    eprintln!("a full disk under a mix");
    let before = log_failures(mix);
    disk.fill();
    // the log of an old epoch goes and gives its room back: the disk is kept full
    until("the first packet is held back", SOON, || {
        disk.fill();
        (log_failures(mix) > before).then_some(())
    });
    until("it says so", SOON, || problems(mix).contains("replay tags cannot be written").then_some(()));
    // `status` asks another thing than the runtime directory's files: its socket is there
    let status = node(&["status"], &mix.dir);
    assert_eq!(status["standing"], "hindered", "{status}");
    assert!(status["problems"].to_string().contains("replay tags cannot be written"), "{status}");
    // the delay queue is empty after 40 means of 20 ms; a page that was begun before takes the last tags
    let gone = until("a while in which no log goes and fifty are held back", 10 * SOON, || {
        disk.fill();
        let logs = files(disk);
        until("what was logged before is gone", SOON, || (node(&["status"], &mix.dir)["queue"] == 0).then_some(()));
        let (gone, failed) = (forwarded(mix), log_failures(mix));
        until("fifty more are held back", SOON, || {
            (log_failures(mix) >= failed + 50 || files(disk) != logs).then_some(())
        });
        let after = forwarded(mix);
        let steady = files(disk) == logs;
        assert!(!steady || after == gone, "{} packets left whose tags are not in the log", after - gone);
        steady.then_some(gone)
    });
    disk.make_room();
    until("it forwards again", SOON, || (forwarded(mix) > gone).then_some(()));
    until_ready(mix);
}

/// The disk under the boxes is full. What is sent stays unacknowledged as long as one of its two stores cannot write it;
/// with room it is written, by itself.
fn a_store_that_cannot_write_acknowledges_nothing(
    store: &Party,
    disk: &SmallDisk,
    alice: &Person,
    sent: &mut Vec<String>,
) {
    eprintln!("a full disk under a store");
    disk.fill();
    let mut waiting = Vec::new();
    until_every(PAUSE, "the store meets it", BUCKET, || {
        if problems(store).contains("store is not open") {
            return Some(());
        }
        let text = format!("number {}", sent.len());
        waiting.push(alice.send("bob", &text));
        sent.push(text);
        None
    });
    let why = problems(store);
    assert!(why.contains("storage is unavailable"), "{why}");
    let status = node(&["status"], &store.dir);
    assert!(status["problems"].to_string().contains("storage is unavailable"), "{status}");
    // two of three stores keep each: among ten some name this one
    for _ in 0..10 {
        let text = format!("number {}", sent.len());
        waiting.push(alice.send("bob", &text));
        sent.push(text);
    }
    let queue = |alice: &Person| alice.status()["queue"].as_u64().expect("a number");
    until_every(PAUSE, "what the other two keep is stored", SOON, || (queue(alice) < 10).then_some(()));
    assert!(queue(alice) > 0, "something was acknowledged that was not written");
    assert!(problems(store).contains("store is not open"), "reading does not hide it");
    disk.make_room();
    until_every(PAUSE, "all is stored", SOON, || (queue(alice) == 0).then_some(()));
    until_ready(store);
}

/// Somebody removes the runtime directory of a running node. Packets go on, the keys of the next epoch are made in a new
/// one, and the operator can ask.
fn a_runtime_directory_that_vanishes_is_made_anew(net: &Testnet) {
    eprintln!("a runtime directory vanishes");
    let mix = net.nodes("mix", Some("L1")).remove(0);
    let before = forwarded(&mix);
    std::fs::remove_dir_all(mix.dir.join("run")).expect("removed");
    until("it forwards on", SOON, || (forwarded(&mix) > before).then_some(()));
    let key = |dir: &Path| {
        let names = std::fs::read_dir(dir.join("run")).ok()?;
        names.flatten().any(|name| name.path().extension().is_some_and(|end| end == "key")).then_some(())
    };
    until_every(PAUSE, "the next keys are there", SOON, || key(&mix.dir));
    until_every(PAUSE, "it can be asked", SOON, || mix.dir.join("run/control.sock").exists().then_some(()));
    assert_eq!(node(&["status"], &mix.dir)["role"], "mix");
    until_ready(&mix);
}

/// Runs a node that cannot start: its exit code and its last words.
fn refused(dir: &Path) -> (i32, String) {
    let output = Command::new("timeout")
        .arg("60")
        .arg(binary("shoal-node"))
        .args(["run", "--json", "--dir"])
        .arg(dir)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn a_node_whose_files_are_wrong_ends_and_says_which() {
    let net = Testnet::start(&["--epoch", "60s", "--authorities", "1", "--gateways", "1", "--mixes-per-layer", "1"]);
    let store = net.nodes("store", None).remove(0);
    net.kill(store.pid);
    let identity = store.dir.join("identity.key");
    let whole = std::fs::read(&identity).expect("a key");

    eprintln!("no identity, half of one, a folder in its place");
    std::fs::remove_file(&identity).expect("removed");
    let (code, said) = refused(&store.dir);
    assert!(code == 74 && said.contains("identity.key") && said.contains("backup"), "{code}: {said}");
    std::fs::write(&identity, &whole[..20]).expect("written");
    Command::new("chmod").arg("600").arg(&identity).status().expect("chmod runs");
    let (code, said) = refused(&store.dir);
    assert!(code == 78 && said.contains("identity.key"), "{code}: {said}");
    std::fs::remove_file(&identity).expect("removed");
    std::fs::create_dir(&identity).expect("made");
    let (code, said) = refused(&store.dir);
    assert!(code == 74 && said.contains("identity.key"), "{code}: {said}");
    std::fs::remove_dir(&identity).expect("removed");
    std::fs::write(&identity, &whole).expect("written");
    Command::new("chmod").arg("600").arg(&identity).status().expect("chmod runs");

    eprintln!("a store that may not write");
    let disk = SmallDisk::mount(32 * 1_024);
    let copied = Command::new("cp").arg("-a").arg(store.dir.join("store").join(".")).arg(disk.path()).status();
    assert!(copied.expect("cp runs").success());
    // one more file, else there is nothing that has to be written
    std::fs::write(disk.path().join("boxes-0-10000-0.redb"), b"no database").expect("written");
    configure(&store, "dir", &format!("{:?}", disk.path()));
    let (code, said) = refused(&store.dir);
    assert!(code == 75 && said.contains("boxes-0-10000-0.redb"), "a damaged file is named: {code}: {said}");
    disk.make_read_only();
    let (code, said) = refused(&store.dir);
    assert!(code == 75 && said.contains("cannot open the store"), "{code}: {said}");
}
