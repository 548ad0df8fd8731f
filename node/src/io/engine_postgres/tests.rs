//! The engine on a real server of the test's own.

mod moves;
mod network;
mod outages;
mod tables;
mod traces;

use super::*;
use crate::config_store::{DatabaseUrl, EngineKind, PostgresConfig, StoreConfig};
use crate::engine::BoxedEngine;
use crate::engine_mark::MoveId;
use crate::io::disk::Folder;
use crate::io::engine_conformance::{self, LIMITS, NOW, Place as _, append, body, contents, fill, id, put};
use crate::io::engine_moving::{Moving, Step};
use crate::io::engine_redb::RedbEngine;
use crate::io::engine_transfer::{Transfer, Turn};
use crate::io::postgres_server::Postgres;
use crate::io::store_engine;
use shoal_protocol::geometry::BOX_SIZE;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

/// Longer than any wait that a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
const ME: [u8; 32] = [0x5a; 32];

/// A server of one's own. A machine without PostgreSQL fails these tests: what is not tested must not look as if it were.
fn server(settings: &[&str]) -> Postgres {
    Postgres::start(settings).expect("a PostgreSQL server of one's own; `ops/test node` installs what it needs")
}

fn config(url: &str, schema: &str) -> PostgresConfig {
    PostgresConfig {
        url: DatabaseUrl(url.to_owned()),
        schema: Some(schema.to_owned()),
        password_file: None,
        ca_file: None,
        connections: 3,
    }
}

fn place(url: &str, schema: &str) -> Place {
    Place::of(&config(url, schema), Path::new("/"), &ME).expect("a place")
}

fn open(server: &Postgres, schema: &str) -> PostgresEngine {
    PostgresEngine::new(&place(&server.url(), schema), ME, LIMITS).expect("opens")
}

/// A schema of its own.
struct InSchema(Rc<Postgres>, String);

impl InSchema {
    fn new(server: &Rc<Postgres>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(Rc::clone(server), format!("store_{}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl engine_conformance::Place for InSchema {
    fn open(&self, limits: Limits) -> BoxedEngine {
        let mut engine = open(&self.0, &self.1);
        engine.set_limits(limits);
        engine.check().expect("works");
        Box::new(engine)
    }
}

/// Repeats a call until it works.
fn until<T>(what: &str, mut call: impl FnMut() -> Result<T, EngineError>) -> T {
    let clock = Clock::start();
    loop {
        match call() {
            Ok(value) => return value,
            Err(error) => assert!(clock.monotonic() < PATIENCE, "{what}: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn postgres_conforms() {
    let server = Rc::new(server(&[]));
    engine_conformance::all(|| InSchema::new(&server));
}

#[test]
fn a_server_that_may_forget_is_refused() {
    let server = server(&["fsync=off"]);
    match open(&server, "a").check() {
        Err(EngineError::Refused(text)) => assert!(text.contains("fsync = on"), "{text}"),
        other => panic!("{other:?}"),
    }
    // and what a database or a user is set to does not weaken a session
    let server = self::server(&["synchronous_commit=off"]);
    server
        .sql("ALTER ROLE shoal SET synchronous_commit = off; ALTER ROLE shoal SET search_path = public")
        .expect("set");
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1)]).expect("works");
    let commit = engine.call(CALL_MAX, async |pool| {
        connected(pool, async |client| {
            Ok(client.query_one("SELECT current_setting('synchronous_commit')", &[]).await?.get::<_, String>(0))
        })
        .await
    });
    assert_eq!(commit.expect("works"), "on");
    server.sql("ALTER DATABASE postgres SET default_transaction_read_only = on").expect("set");
    assert!(matches!(open(&server, "a").check(), Err(EngineError::Unavailable(_))), "a server that only reads");
}

#[test]
fn a_schema_has_one_owner_one_life_and_a_layout_that_is_known() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1)]).expect("works");
    let mut other = PostgresEngine::new(&place(&server.url(), "a"), [1; 32], LIMITS).expect("opens");
    match other.check() {
        Err(EngineError::Refused(text)) => assert!(text.contains("belongs to the store 5a5a"), "{text}"),
        other => panic!("{other:?}"),
    }
    // two stores side by side know nothing of each other
    let mut other = PostgresEngine::new(&place(&server.url(), "b"), [1; 32], LIMITS).expect("opens");
    assert_eq!(other.write(NOW, &[put(1, 2)]).expect("works"), [Written::Stored]);
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
    assert_eq!((engine.totals().records, other.totals().records), (1, 1));
    // a program that is older than the tables does not touch them
    server.sql("INSERT INTO b.versions (version) VALUES (99)").expect("written");
    match PostgresEngine::new(&place(&server.url(), "b"), [1; 32], LIMITS).expect("opens").check() {
        Err(EngineError::Refused(text)) => assert!(text.contains("layout 99"), "{text}"),
        other => panic!("{other:?}"),
    }
    // tables that vanish under a running store took with them what it acknowledged: it does not go on with empty ones
    server.sql("DROP SCHEMA a CASCADE").expect("dropped");
    let gone = |engine: &mut PostgresEngine| matches!(engine.get(&id(1)), Err(EngineError::Refused(_)));
    let clock = Clock::start();
    while !gone(&mut engine) {
        assert!(clock.monotonic() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    open(&server, "a").check().expect("a new process makes new ones");
    assert!(engine.get(&id(1)).is_err());
}

#[test]
fn two_processes_at_once_fill_a_box_once() {
    let server = server(&[]);
    open(&server, "a").check().expect("works");
    const ROUNDS: u64 = 40;
    const BOXES: u64 = 16;
    let url = server.url();
    let write = |who: u64| {
        let mut engine = PostgresEngine::new(&place(&url, "a"), ME, LIMITS).expect("opens");
        let mut won = BTreeMap::new();
        for round in 0..ROUNDS {
            // from both ends: turns at the lock would else let one of them be first everywhere
            let round = if who == 0 { round } else { ROUNDS - 1 - round };
            // clocks differ, so buckets are made while both write; no unique index spans two of them
            let now = NOW.plus(Duration::from_secs(round + 80 * who));
            let names: Vec<u64> = (0..BOXES).map(|n| round * BOXES + n).collect();
            let mut batch: Vec<Write> = names.iter().map(|n| put(*n, n * 2 + who)).collect();
            batch.push(append(7, 10_000 + round));
            batch.push(append(7, 20_000 + round * 2 + who));
            let written = until("a write", || engine.write(now, &batch));
            for (n, written) in names.iter().zip(&written) {
                match written {
                    Written::Stored => assert_eq!(won.insert(*n, who), None),
                    Written::Taken => {}
                    Written::Full | Written::Absent | Written::TooLittleWork { .. } => panic!("{written:?}"),
                }
            }
            assert_eq!(written[names.len()..], [Written::Stored; 2]);
        }
        won
    };
    let (first, second) = thread::scope(|scope| {
        let (first, second) = (scope.spawn(|| write(0)), scope.spawn(|| write(1)));
        (first.join().expect("ends"), second.join().expect("ends"))
    });
    let mut engine = open(&server, "a");
    for n in 0..ROUNDS * BOXES {
        let who = match (first.contains_key(&n), second.contains_key(&n)) {
            (true, false) => 0,
            (false, true) => 1,
            both => panic!("box {n}: {both:?}"),
        };
        assert_eq!(engine.get(&id(n)).expect("works"), Some(body(n * 2 + who)));
    }
    assert!(!first.is_empty() && !second.is_empty(), "they raced: {} and {}", first.len(), second.len());
    // entries of both: each once, under a number of its own
    let mut numbers = Vec::new();
    while let Some(entry) = engine.read(&id(7), numbers.last().copied().unwrap_or(0)).expect("works") {
        numbers.push(entry.number);
    }
    assert_eq!(numbers.len() as u64, ROUNDS * 3);
    assert_eq!(engine.totals().records, ROUNDS * (BOXES + 3));
    let counted =
        server.sql("SELECT (SELECT count(*) FROM a.boxes) + (SELECT count(*) FROM a.entries)").expect("counts");
    assert_eq!(counted, engine.totals().records.to_string());
}
