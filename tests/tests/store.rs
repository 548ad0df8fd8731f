//! Stores on a real PostgreSQL: a whole network whose stores share one cluster, people who write to each other, a database
//! that is killed and comes back, a store that is killed; and stores that change their engine while they run.

#![expect(clippy::disallowed_methods, reason = "a harness reads the real clock")]

use serde_json::Value;
use shoal_node::config_store::{DatabaseUrl, EngineKind, PostgresConfig, StoreConfig};
use shoal_node::engine::{BoxedEngine, EngineError, Limits, Record, Write, Written};
use shoal_node::io::{config_file, setup, store_engine};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use shoal_tests::person::Person;
use shoal_tests::postgres::Postgres;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, metrics, until, until_every};
use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Expected within seconds; ten times that, and a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// As long as the test network keeps boxes (10 min): nothing is erased while the test looks.
const LIMITS: Limits = Limits { retention: Duration::from_secs(600), records_max: 10_000_000, append_bits: 0 };

fn postgres_config(server: &Postgres) -> PostgresConfig {
    let url = DatabaseUrl(server.url());
    PostgresConfig { url, schema: None, password_file: None, ca_file: None, connections: 4 }
}

fn server() -> Postgres {
    Postgres::start(&[]).expect("a PostgreSQL server of one's own; ops/test installs what it needs")
}

fn ready(party: &Party) -> Option<u16> {
    metrics::get(&party.metrics, "/readyz").map(|(status, _)| status)
}

fn until_ready(what: &str, parties: &[Party]) {
    for party in parties {
        until(what, PATIENCE, || ready(party).filter(|status| *status == 200));
    }
}

fn pid_now(net: &mut Testnet, dir: &Path, pid: u32) {
    if let Some(known) = net.ready.nodes.iter_mut().find(|node| node.dir == dir) {
        known.pid = pid;
    }
}

fn pid_of(net: &Testnet, dir: &Path) -> u32 {
    net.ready.nodes.iter().find(|node| node.dir == dir).expect("a node").pid
}

/// Waits for the end of a process that was killed.
fn until_gone(pid: u32) {
    until("the process is gone", PATIENCE, || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty().then_some(())
    });
}

fn texts(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Reads until `count` messages are there; none comes twice.
fn read_until(person: &Person, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    until_every(Duration::from_millis(200), &format!("{} reads {count} messages", person.name), PATIENCE, || {
        all.extend(person.read());
        (all.len() >= count).then_some(())
    });
    assert_eq!(all.len(), count, "{}: nothing twice", person.name);
    texts(&all)
}

#[test]
fn people_write_to_each_other_over_stores_that_share_a_cluster() {
    let mut database = server();
    let mut net = Testnet::start(&["--epoch", "20s"]);
    let stores = net.nodes("store", None);
    for store in &stores {
        net.kill(store.pid);
        until_gone(store.pid);
        let to = StoreConfig {
            engine: EngineKind::Postgres,
            postgres: Some(postgres_config(&database)),
            ..StoreConfig::default()
        };
        config_file::record_store(&store.dir, &to).expect("node.toml is changed");
        let pid = net.run_again(&store.dir, "shoal-node");
        pid_now(&mut net, &store.dir, pid);
    }
    until_ready("the stores are ready on the database", &stores);
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let bob = Person::new("bob", folder.path(), &net.ready.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    eprintln!("messages flow");
    assert_eq!(alice.send_and_wait("bob", "hello", "stored"), "stored");
    assert_eq!(read_until(&bob, 1), ["hello"]);
    assert_eq!(bob.send_and_wait("alice", "hello yourself", "delivered"), "delivered");
    assert_eq!(read_until(&alice, 1), ["hello yourself"]);
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'shoal\\_%'";
    assert_eq!(database.sql(schemas).expect("counts"), "3", "each store has a schema of its own");

    the_database_is_killed(&mut database, &net, &stores, &alice, &bob);
    everything_is_killed_in_the_midst_of_it(&mut database, &mut net, &stores, &alice, &bob);
    for store in &stores {
        let log = std::fs::read_to_string(store.dir.join("again.log")).unwrap_or_default();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Nothing is acknowledged while there is no database, and everything goes on by itself when there is.
fn the_database_is_killed(database: &mut Postgres, net: &Testnet, stores: &[Party], alice: &Person, bob: &Person) {
    eprintln!("kill -9 of the database");
    for n in 0..5 {
        assert_eq!(alice.send_and_wait("bob", &format!("before {n}"), "stored"), "stored");
    }
    database.kill();
    let while_down = alice.run(["send", "bob", "while it is down", "--wait", "stored", "--timeout", "10s"]);
    assert!([69, 75].contains(&while_down.code), "acknowledged without a database: {while_down:?}");
    for store in stores {
        until("a store without its database is not ready", PATIENCE, || ready(store).filter(|status| *status == 503));
        assert!(Path::new(&format!("/proc/{}", pid_of(net, &store.dir))).exists(), "and goes on running");
    }
    database.run().expect("the database starts again");
    until_ready("the stores work again by themselves", stores);
    let mut expected: Vec<String> = (0..5).map(|n| format!("before {n}")).collect();
    expected.push("while it is down".to_owned());
    assert_eq!(read_until(bob, 6), expected);
    assert_eq!(bob.send_and_wait("alice", "all came", "delivered"), "delivered");
    assert_eq!(read_until(alice, 1), ["all came"]);
}

fn everything_is_killed_in_the_midst_of_it(
    database: &mut Postgres,
    net: &mut Testnet,
    stores: &[Party],
    alice: &Person,
    bob: &Person,
) {
    eprintln!("ten messages; database and a store killed in between");
    let sent: Vec<String> = (0..10).map(|n| format!("number {n}")).collect();
    for (n, text) in sent.iter().enumerate() {
        alice.send("bob", text);
        match n {
            3 => {
                database.kill();
                database.run().expect("the database starts again");
            }
            6 => {
                let store = stores.first().expect("a store");
                net.kill(pid_of(net, &store.dir));
                let pid = net.run_again(&store.dir, "shoal-node");
                pid_now(net, &store.dir, pid);
            }
            8 => {
                database.kill();
                database.run().expect("the database starts again");
            }
            _ => {}
        }
    }
    assert_eq!(read_until(bob, 10), sent);
    until_ready("all stores are ready", stores);
    assert_eq!(alice.send_and_wait("bob", "at the end", "delivered"), "delivered");
    assert_eq!(read_until(bob, 1), ["at the end"]);
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UnixMillis(u64::try_from(since.as_millis()).expect("fits"))
}

/// The engine of a store that does not run.
fn engine_of(store: &StoreConfig, dir: &Path) -> BoxedEngine {
    let identity = *setup::load(dir).expect("a node").identity.identity().as_bytes();
    store_engine::open(store, dir, &identity, LIMITS).expect("opens")
}

/// The engine that a store has left: an older node.toml would not open it.
fn engine_left(store: &StoreConfig, dir: &Path) -> BoxedEngine {
    let identity = *setup::load(dir).expect("a node").identity.identity().as_bytes();
    match store_engine::open(store, dir, &identity, LIMITS).map(drop) {
        Err(EngineError::Refused(text)) => assert!(text.contains("left this place"), "{text}"),
        other => panic!("the old place opens: {other:?}"),
    }
    store_engine::open_marked(store, dir, &identity, LIMITS).expect("opens")
}

fn name(n: u64) -> BoxId {
    let mut bytes = [0x77; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    BoxId::from_bytes(bytes)
}

fn content(n: u64) -> BoxBody {
    let mut bytes = vec![0x33; shoal_protocol::geometry::BOX_SIZE];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    BoxBody::from_slice(&bytes).expect("a body")
}

/// Boxes and entries enough that a move can be interrupted.
fn fill(engine: &mut BoxedEngine, boxes: u64) {
    let numbers: Vec<u64> = (0..boxes).collect();
    for chunk in numbers.chunks(500) {
        let mut batch: Vec<Write> = chunk.iter().map(|n| Write::Put { id: name(*n), body: content(*n) }).collect();
        batch.extend(chunk.iter().take(5).map(|n| Write::Append {
            inbox: name(1 << 40),
            body: content(*n),
            work_bits: 60,
        }));
        let written = engine.write(now(), &batch).expect("works");
        assert!(written.iter().all(|written| *written == Written::Stored));
    }
}

/// Everything that an engine holds.
fn contents(engine: &mut BoxedEngine) -> Vec<Record> {
    let mut all = Vec::new();
    for bucket in engine.buckets().expect("works") {
        let mut after = None;
        loop {
            let page = engine.page(bucket, after, 1_000).expect("works");
            all.extend(page.iter().cloned());
            match page.last() {
                Some(last) if page.len() == 1_000 => after = Some(last.key),
                Some(_) | None => break,
            }
        }
    }
    all
}

/// `store migrate` as a process, its lines read as they come.
fn migrate(dir: &Path, arguments: &[&str]) -> Child {
    Command::new(binary("shoal-node"))
        .args(["store", "migrate", "--json", "--dir"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the command starts")
}

/// A store moves, is killed -9 in the midst of it, goes on when it is started again, and holds in the end what it held.
fn a_store_moves(net: &mut Testnet, store: &Party, arguments: &[&str], boxes: u64) {
    let before = config_file::read(&store.dir).expect("node.toml").config.store;
    let mut command = migrate(&store.dir, arguments);
    let lines = std::io::BufReader::new(command.stdout.take().expect("piped")).lines();
    let mut killed = false;
    let mut last = Value::Null;
    for line in lines {
        let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let records = line["records"].as_u64().unwrap_or(0);
        if !killed && records > boxes / 10 {
            assert!(line["migrated"].is_null() && records < boxes, "in the midst of it: {line}");
            killed = true;
            let pid = pid_of(net, &store.dir);
            net.kill(pid);
            until_gone(pid);
            assert_eq!(
                config_file::read(&store.dir).expect("node.toml").config.store,
                before,
                "nothing has changed yet"
            );
            let pid = net.run_again(&store.dir, "shoal-node");
            pid_now(net, &store.dir, pid);
        }
        last = line;
    }
    assert!(command.wait().expect("ends").success(), "{last}");
    assert!(killed, "the store was not killed: {last}");
    assert_eq!(last["migrated"], true, "{last}");
    until_ready("the store is ready", std::slice::from_ref(store));
    let after = config_file::read(&store.dir).expect("node.toml").config.store;
    assert_ne!(after.engine, before.engine);
    assert!(!store.dir.join("store-move.toml").exists());
    // stop it and look at both: everything that the old one holds is in the new one, as it was
    let pid = pid_of(net, &store.dir);
    net.kill(pid);
    until_gone(pid);
    let old = contents(&mut engine_left(&before, &store.dir));
    let new = contents(&mut engine_of(&after, &store.dir));
    assert!(old.len() as u64 >= boxes + boxes / 100, "the old data are kept: {}", old.len());
    let mut missing = old
        .iter()
        .filter(|record| new.binary_search_by_key(&(record.bucket, record.key), |r| (r.bucket, r.key)).is_err());
    assert!(missing.next().is_none(), "{} of {} are missing", missing.count() + 1, old.len());
    let pid = net.run_again(&store.dir, "shoal-node");
    pid_now(net, &store.dir, pid);
    until_ready("the store is ready", std::slice::from_ref(store));
}

#[test]
fn stores_change_their_engine_while_they_serve() {
    // twice as many as are copied in two looks of the command, in a dev build on a busy machine
    let boxes: u64 = std::env::var("SHOAL_BOXES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let database = server();
    let mut net = Testnet::start(&["--epoch", "20s"]);
    let stores = net.nodes("store", None);
    let store = stores.first().expect("a store").clone();
    net.kill(store.pid);
    until_gone(store.pid);
    fill(&mut engine_of(&StoreConfig::default(), &store.dir), boxes);
    let pid = net.run_again(&store.dir, "shoal-node");
    pid_now(&mut net, &store.dir, pid);
    until_ready("the stores are ready", &stores);
    an_old_configuration_is_brought_up_to_date(&mut net, stores.last().expect("a store"));
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let bob = Person::new("bob", folder.path(), &net.ready.network);
    for (person, name, peer) in [(&alice, "bob", &bob), (&bob, "alice", &alice)] {
        assert_eq!(person.run(["add", name, &peer.address]).code, 0);
    }
    assert_eq!(alice.send_and_wait("bob", "hello", "delivered"), "delivered");
    let mut sent = vec!["hello".to_owned()];

    eprintln!("from files into the database");
    for n in 0..5 {
        sent.push(format!("into {n}"));
        alice.send("bob", &sent[sent.len() - 1]);
    }
    a_store_moves(&mut net, &store, &["--to", "postgres", "--url", &database.url()], boxes);
    eprintln!("and out again");
    for n in 0..5 {
        sent.push(format!("out {n}"));
        alice.send("bob", &sent[sent.len() - 1]);
    }
    // into the very folder that it left: what is there is an older copy
    a_store_moves(&mut net, &store, &["--to", "redb"], boxes);
    an_older_configuration_does_not_start(&mut net, &store);
    sent.push("at the end".to_owned());
    assert_eq!(alice.send_and_wait("bob", "at the end", "delivered"), "delivered");
    assert_eq!(read_until(&bob, sent.len()), sent);

    let again = migrate(&store.dir, &["--to", "redb"]).wait_with_output().expect("ends");
    assert_eq!(again.status.code(), Some(64), "it is there already");
    let secret = migrate(&store.dir, &["--to", "postgres", "--url", "postgres://a:b@127.0.0.1/c"]);
    let secret = secret.wait_with_output().expect("ends");
    assert_eq!(secret.status.code(), Some(64), "a password on a command line");
    assert!(String::from_utf8_lossy(&secret.stdout).contains("--password-file"));
}

/// `node.toml` as a backup or a configuration manager would put it back: it names the place that the store has left.
fn an_older_configuration_does_not_start(net: &mut Testnet, store: &Party) {
    eprintln!("an older configuration");
    let path = store.dir.join("node.toml");
    let kept = std::fs::read_to_string(&path).expect("reads");
    let now = config_file::read(&store.dir).expect("node.toml").config.store;
    let pid = pid_of(net, &store.dir);
    net.kill(pid);
    until_gone(pid);
    let before = StoreConfig { engine: EngineKind::Postgres, ..now };
    config_file::record_store(&store.dir, &before).expect("written");
    let run = Command::new(binary("shoal-node")).args(["run", "--dir"]).arg(&store.dir).output().expect("runs");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout));
    assert!(!run.status.success() && said.contains("left this place"), "{said}");
    std::fs::write(&path, &kept).expect("writes");
    let pid = net.run_again(&store.dir, "shoal-node");
    pid_now(net, &store.dir, pid);
    until_ready("the store is ready", std::slice::from_ref(store));
}

/// A store whose `node.toml` is of version 1, as the program before this one wrote it.
fn an_old_configuration_is_brought_up_to_date(net: &mut Testnet, store: &Party) {
    eprintln!("a configuration of version 1");
    let path = store.dir.join("node.toml");
    let mut old: toml::Table = toml::from_str(&std::fs::read_to_string(&path).expect("reads")).expect("TOML");
    let table = old.remove("store").expect("a store");
    old.insert("config_version".to_owned(), toml::Value::Integer(1));
    old.insert("store_dir".to_owned(), table["dir"].clone());
    let limits = old.get_mut("limits").and_then(toml::Value::as_table_mut).expect("limits");
    limits.insert("store_records".to_owned(), toml::Value::Integer(12_345));
    let old = toml::to_string(&old).expect("TOML");
    let pid = pid_of(net, &store.dir);
    net.kill(pid);
    until_gone(pid);
    std::fs::write(&path, &old).expect("writes");

    let checked = Command::new(binary("shoal-node"))
        .args(["check-config", "--json", "--dir"])
        .arg(&store.dir)
        .output()
        .expect("the command runs");
    let checked: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(checked["config"]["version"], 1, "{checked}");
    assert_eq!(checked["config"]["upgrade"]["to"], 2, "{checked}");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), old, "looking changes nothing");

    let pid = net.run_again(&store.dir, "shoal-node");
    pid_now(net, &store.dir, pid);
    until_ready("a store with an old configuration", std::slice::from_ref(store));
    assert_eq!(std::fs::read_to_string(store.dir.join("node.toml.v1")).expect("kept"), old);
    let now = config_file::read(&store.dir).expect("of this version");
    assert!(now.upgrade.is_none());
    assert_eq!((now.config.store.records, now.config.store.dir.to_str()), (12_345, Some("store")));
    let log = std::fs::read_to_string(store.dir.join("again.log")).expect("reads");
    assert_eq!(log.matches("node.toml is of this version now").count(), 1, "{log}");
}
