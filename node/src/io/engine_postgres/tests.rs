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

/// Writes batches until `enough`, each until it is acknowledged; says what was.
fn write_through(engine: &mut PostgresEngine, enough: impl Fn(u64) -> bool) -> (u64, u64) {
    let (mut round, mut failed) = (0, 0);
    while !enough(round) {
        let batch: Vec<Write> =
            (0..20).map(|n| put(round * 20 + n, round * 20 + n)).chain([append(7, round)]).collect();
        match engine.write(NOW.plus(Duration::from_secs(round % 300)), &batch) {
            Ok(written) => {
                assert!(written.iter().all(|written| *written == Written::Stored), "round {round}: {written:?}");
                round += 1;
            }
            Err(EngineError::Unavailable(_)) => {
                failed += 1;
                thread::sleep(Duration::from_millis(5));
            }
            Err(other) => panic!("{other}"),
        }
    }
    (round, failed)
}

fn all_there(engine: &mut PostgresEngine, rounds: u64) {
    let ids: Vec<BoxId> = (0..rounds * 20).map(id).collect();
    let found = engine.get_all(&ids).expect("works");
    for (n, found) in found.into_iter().enumerate() {
        assert_eq!(found, Some(body(n as u64)), "box {n}");
    }
    let mut after = 0;
    let mut entries = Vec::new();
    while let Some(entry) = engine.read(&id(7), after).expect("works") {
        after = entry.number;
        entries.push(entry.body);
    }
    assert_eq!(entries, (0..rounds).map(body).collect::<Vec<_>>(), "in their order, each once");
    assert_eq!(engine.totals().records, rounds * 21);
}

#[test]
fn connections_that_are_cut_in_a_batch_cost_nothing() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.check().expect("works");
    let (stop, cuts) = (AtomicBool::new(false), AtomicU32::new(0));
    let (rounds, _) = thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'shoal-node'";
                thread::sleep(Duration::from_millis(20));
                let cut = server.sql(sql).ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
                cuts.fetch_add(cut, Ordering::Relaxed);
            }
        });
        // until it has been cut often enough, however fast the disk is
        let done = write_through(&mut engine, |round| round >= 30 && cuts.load(Ordering::Relaxed) > 5);
        stop.store(true, Ordering::Relaxed);
        cutter.join().expect("ends");
        done
    });
    until("it works again", || engine.check());
    all_there(&mut engine, rounds);
}

#[test]
fn a_database_that_is_killed_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = server(&[]);
    let mut engine = open(&server, "a");
    engine.check().expect("works");
    let mut rounds = 0;
    for kill in 1..=3u64 {
        let (asked, back) = (AtomicBool::new(false), AtomicBool::new(false));
        rounds = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                // 15 more rounds or more, with the database gone in the midst of them: it writes until that is over
                write_through(&mut engine, |round| {
                    asked.fetch_or(round >= rounds + 5, Ordering::Relaxed);
                    round >= rounds + 15 && back.load(Ordering::Relaxed)
                })
            });
            while !asked.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            server.kill();
            // away for longer each time
            thread::sleep(Duration::from_millis(50 * kill));
            server.run().expect("starts again");
            back.store(true, Ordering::Relaxed);
            let (rounds, failed) = writer.join().expect("ends");
            assert!(failed > 0, "the writer noticed");
            rounds
        });
        all_there(&mut engine, rounds);
    }
}

#[test]
fn a_database_that_does_not_answer_holds_nobody_up() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1)]).expect("works");
    server.freeze(true);
    let clock = Clock::start();
    assert!(engine.write(NOW, &[put(2, 2)]).is_err());
    let first = clock.monotonic();
    assert!(first < CALL_MAX + Duration::from_secs(5), "{first:?}");
    // the next ones are told at once, until the pause is over
    assert!(matches!(engine.get(&id(1)), Err(EngineError::Unavailable(_))));
    assert!(clock.monotonic() < first + PAUSE_MIN / 2, "the second was not asked");
    server.freeze(false);
    assert_eq!(until("it works again", || engine.get(&id(1))), Some(body(1)));
    assert_eq!(until("it works again", || engine.write(NOW, &[put(2, 2)])), [Written::Stored]);
}

#[test]
fn a_database_that_comes_later_is_waited_for() {
    let mut server = server(&[]);
    server.stop();
    let mut engine = open(&server, "a");
    assert!(matches!(engine.check(), Err(EngineError::Unavailable(_))));
    assert_eq!(engine.totals(), Totals::default());
    server.run().expect("starts");
    until("it works", || engine.check());
    assert_eq!(engine.write(NOW, &[put(1, 1)]).expect("works"), [Written::Stored]);
}

/// Whether a file below `path` holds these bytes.
fn holds(path: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(path).expect("reads").any(|entry| {
        let path = entry.expect("reads").path();
        if path.is_dir() {
            return holds(&path, wanted);
        }
        // a file may go between the listing and the reading
        fs::read(&path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted))
    })
}

#[test]
fn what_is_over_is_in_no_table_file_any_more() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &(0..50).map(|n| put(n, n)).chain([append(7, 100)]).collect::<Vec<_>>()).expect("works");
    let base = server.data().join("base");
    let signs =
        [body(7).as_bytes()[100..164].to_vec(), id(7).as_bytes().to_vec(), body(100).as_bytes()[5..70].to_vec()];
    server.sql("CHECKPOINT").expect("written out");
    assert!(signs.iter().all(|sign| holds(&base, sign)), "what is looked for can be found");
    assert_eq!(engine.expire(NOW.plus(Duration::from_secs(3_600))).expect("works"), 1);
    server.sql("CHECKPOINT").expect("written out");
    assert!(!signs.iter().any(|sign| holds(&base, sign)));
    // what the runbook says of it is true: the log of the server still has it
    assert!(holds(&server.data().join("pg_wal"), &signs[0]));
    assert_eq!(BOX_SIZE, body(7).as_bytes().len());
}

#[test]
fn nothing_of_a_box_is_in_an_error_or_in_the_servers_log() {
    let server = server(&["log_min_duration_statement=-1", "log_error_verbosity=default"]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1), append(7, 1)]).expect("works");
    server.sql("ALTER TABLE a.buckets ADD CHECK (records < 3) NOT VALID").expect("altered");
    let error = engine.write(NOW, &[put(2, 2), put(3, 3)]).expect_err("refused").to_string();
    assert!(error.contains("23514"), "{error}");
    let log = fs::read_to_string(server.log()).expect("reads");
    assert!(log.contains("violates check"), "{log}");
    for n in [2, 3] {
        let name = hex::encode(id(n).as_bytes());
        assert!(!log.contains(&name) && !error.contains(&name));
        assert!(!log.contains(&hex::encode(&body(n).as_bytes()[..8])));
    }
    // nothing of the batch is there
    server.sql("ALTER TABLE a.buckets DROP CONSTRAINT buckets_records_check1").expect("altered");
    assert_eq!(until("it works again", || engine.get_all(&[id(1), id(2)])), [Some(body(1)), None]);
}

/// A session of somebody else, who begins something and stays.
struct Session {
    client: Option<Object>,
    engine: PostgresEngine,
}

impl Session {
    fn begin(server: &Postgres, schema: &str, sql: &str) -> Self {
        let engine = open(server, schema);
        let runtime = engine.runtime.as_ref().expect("runs");
        let client = runtime.block_on(engine.pool.get()).expect("a connection");
        let sql = format!("SET idle_in_transaction_session_timeout = 0; BEGIN; {sql}");
        runtime.block_on(client.batch_execute(&sql)).expect("begun");
        Self { client: Some(client), engine }
    }

    fn end(mut self) {
        let client = self.client.take().expect("there");
        self.engine.runtime.as_ref().expect("runs").block_on(client.batch_execute("COMMIT")).expect("ended");
    }
}

#[test]
fn a_reader_that_stays_holds_nobody_up_while_buckets_begin_and_expire() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    let written = engine.write(NOW, &[put(0, 0), append(7, 0)]).expect("works");
    assert_eq!(written, [Written::Stored; 2]);
    let reader = Session::begin(&server, "a", "SELECT count(*) FROM boxes; SELECT count(*) FROM entries");
    let mut blocked = 0;
    // one new bucket each time; from the tenth on there is one that is over
    for n in 1..=14_u64 {
        let now = NOW.plus(Duration::from_secs(80 * n));
        let written = engine.write(now, &[put(n, n), append(7, n)]).expect("a bucket begins");
        assert_eq!(written, [Written::Stored; 2], "bucket {n}");
        match engine.expire(now) {
            Ok(_) => {}
            Err(EngineError::Unavailable(text)) => {
                assert!(text.contains("another session") && text.contains("55P03"), "{text}");
                blocked += 1;
            }
            Err(other) => panic!("{other}"),
        }
        // at once, whatever became of that
        engine.totals();
        assert_eq!(engine.write(now, &[put(100 + n, n)]).expect("writes go on"), [Written::Stored]);
        let found = engine.get_all(&[id(n), id(100 + n)]).expect("reads go on");
        assert_eq!(found, [Some(body(n)), Some(body(n))]);
        assert!(engine.read(&id(7), 0).expect("reads go on").is_some());
    }
    assert!(blocked > 0, "something was over, and could not be dropped");
    assert_eq!(engine.get(&id(0)).expect("works"), Some(body(0)), "the bucket that the reader holds");
    reader.end();
    let now = NOW.plus(Duration::from_secs(80 * 14));
    assert!(until("it is dropped", || engine.expire(now)) > 0);
    assert_eq!(engine.get(&id(0)).expect("works"), None);
}

#[test]
fn a_bucket_begins_in_tables_that_were_made_ahead() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(0, 0)]).expect("works");
    let spares = || server.sql("SELECT count(*) FROM a.spares").expect("counts");
    assert_eq!(spares(), "0");
    for _ in 0..3 {
        engine.expire(NOW).expect("works");
        assert_eq!(spares(), "1");
    }
    let before = engine.totals();
    assert_eq!((before.records, engine.buckets().expect("works").len()), (1, 1), "what is ahead does not show");
    // as who vacuums, analyses or builds an index: nothing can be attached now
    let busy = Session::begin(&server, "a", "LOCK TABLE boxes, entries IN SHARE UPDATE EXCLUSIVE MODE");
    let now = NOW.plus(Duration::from_secs(100));
    assert_eq!(engine.write(now, &[put(1, 1), append(7, 1)]).expect("works"), [Written::Stored; 2]);
    assert_eq!(spares(), "0");
    engine.expire(now).expect("what cannot be made ahead now is no failure");
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
    busy.end();
    engine.expire(now).expect("works");
    assert_eq!(spares(), "1");
}

#[test]
fn tables_of_the_layout_before_are_brought_up_to_date() {
    let server = server(&[]);
    open(&server, "a").write(NOW, &[put(1, 1)]).expect("works");
    server
        .sql("ALTER TABLE a.state DROP COLUMN mark; DROP TABLE a.spares; DELETE FROM a.versions WHERE version = 2")
        .expect("as an older program left them");
    let mut engine = open(&server, "a");
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
    assert_eq!(engine.mark().expect("works"), None);
    engine.write(NOW.plus(Duration::from_secs(100)), &[put(2, 2)]).expect("works");
    assert_eq!(engine.totals().records, 2);
}

fn transfer(source: &mut dyn Engine, target: BoxedEngine) -> Result<BoxedEngine, String> {
    let mut transfer = Transfer::new(MoveId::draw(&mut generator()), "postgres, elsewhere".to_owned(), target);
    for _ in 0..1_000 {
        match transfer.step(source, NOW, || true) {
            Turn::On => {}
            Turn::Over => return Ok(transfer.into_target()),
            Turn::Failed(problem) => return Err(problem),
            other @ (Turn::Waiting(_) | Turn::CalledOff) => panic!("{other:?}"),
        }
    }
    panic!("does not end")
}

#[test]
fn a_schema_that_the_store_left_does_not_open_until_it_comes_back() {
    let server = server(&[]);
    let stored = |schema: &str| StoreConfig {
        engine: EngineKind::Postgres,
        postgres: Some(config(&server.url(), schema)),
        ..StoreConfig::default()
    };
    let opened = |schema: &str| store_engine::open(&stored(schema), Path::new("/"), &ME, LIMITS);
    let marked = |schema: &str| store_engine::open_marked(&stored(schema), Path::new("/"), &ME, LIMITS).expect("opens");
    let left = |schema: &str| match opened(schema).map(drop) {
        Err(EngineError::Refused(text)) => assert!(text.contains("left this place"), "{text}"),
        other => panic!("{other:?}"),
    };
    let mut first = opened("a").expect("opens");
    fill(&mut *first);
    let mut second = transfer(&mut *first, marked("b")).expect("moves");
    left("a");
    // time passes where the store is now, and nothing is erased where it was
    let over = second.buckets().expect("works")[0].end + 600_000;
    assert_eq!(second.expire(UnixMillis(over)).expect("works"), 1);
    second.write(UnixMillis(over), &[put(500, 5)]).expect("works");
    let mut back = transfer(&mut *second, marked("a")).expect("moves back");
    left("b");
    assert_eq!(contents(&mut *back, 100), contents(&mut *second, 100));
    drop(back);
    assert_eq!(opened("a").expect("opens").get(&id(500)).expect("works"), Some(body(5)));
}

#[test]
fn the_same_tables_by_another_way_are_no_goal_of_a_move() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1)]).expect("works");
    let url = format!("postgres://shoal@127.0.0.1:{}/postgres", server.port());
    let other = PostgresEngine::new(&place(&url, "a"), ME, LIMITS).expect("opens");
    let problem = transfer(&mut engine, Box::new(other)).map(drop).expect_err("refused");
    assert!(problem.contains("under another name"), "{problem}");
    assert_eq!(engine.mark().expect("works"), None);
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    let output = output.expect("openssl runs (Debian package openssl)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_over_a_network_shows_a_certificate_and_asks_for_a_password() {
    let mut server = server(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["server", "stranger"] {
        openssl(
            folder.path(),
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
                 -keyout {name}.key -out {name}.pem"
            ),
        );
    }
    for name in ["server.key", "server.pem"] {
        let there = server.data().join(name);
        fs::copy(folder.path().join(name), &there).expect("copied");
        fs::set_permissions(&there, fs::Permissions::from_mode(0o600)).expect("closed");
        std::os::unix::fs::chown(&there, server.user(), server.user()).expect("given");
    }
    server.sql("CREATE ROLE store LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE postgres TO store").expect("made");
    let rules = "local all all trust\nhostssl all store 127.0.0.1/32 scram-sha-256\n";
    fs::write(server.data().join("pg_hba.conf"), rules).expect("written");
    for setting in ["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"] {
        let (name, value) = setting.split_once('=').expect("a setting");
        server.sql(&format!("ALTER SYSTEM SET {name} = '{value}'")).expect("set");
    }
    server.stop();
    server.run().expect("starts");
    let password = folder.path().join("password");
    let config = PostgresConfig {
        url: DatabaseUrl(format!("postgres://store@localhost:{}/postgres", server.port())),
        schema: Some("far".to_owned()),
        password_file: Some("password".into()),
        ca_file: Some("server.pem".into()),
        connections: 2,
    };
    let check = |config: &PostgresConfig| {
        let place = Place::of(config, folder.path(), &ME).map_err(EngineError::from)?;
        PostgresEngine::new(&place, ME, LIMITS)?.check()
    };
    fs::write(&password, "secret\n").expect("written");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("opened");
    match check(&config) {
        Err(EngineError::Refused(text)) => assert!(text.contains("chmod 600"), "{text}"),
        other => panic!("{other:?}"),
    }
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("closed");
    check(&config).expect("a certificate that is known, a password that is right");
    let stranger = PostgresConfig { ca_file: Some("stranger.pem".into()), ..config.clone() };
    match check(&stranger) {
        Err(EngineError::Unavailable(text)) => assert!(text.contains("certificate"), "{text}"),
        other => panic!("{other:?}"),
    }
    // in clear the server does not even ask for the password
    assert!(check(&PostgresConfig { ca_file: None, ..config.clone() }).is_err());
    fs::write(&password, "wrong").expect("written");
    match check(&config) {
        Err(EngineError::Refused(text)) => assert!(text.contains("28P01") && !text.contains("wrong"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// Moves a store and writes meanwhile.
fn move_to(source: &mut dyn Engine, target: BoxedEngine, salt: u64) -> BoxedEngine {
    let mut moving = Moving::new(target);
    for step in 0..1_000 {
        match moving.step(source) {
            Step::On => {}
            Step::Complete => return moving.into_target(),
            other @ (Step::Waiting(_) | Step::Failed(_)) => panic!("{other:?}"),
        }
        if step < 8 {
            let batch = [put(salt + step, step), append(2, salt + step), put(3, 3)];
            let written = source.write(NOW.plus(Duration::from_secs(250 + step)), &batch).expect("works");
            moving.mirror(source, &batch, &written);
        }
    }
    panic!("does not end")
}

#[test]
fn a_store_moves_into_a_database_and_out_again() {
    let server = Rc::new(server(&[]));
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let redb = |folder: &tempfile::TempDir| -> BoxedEngine {
        Box::new(RedbEngine::open(Box::new(Folder::new(folder.path().to_owned())), LIMITS).expect("opens"))
    };
    let mut first = redb(&one);
    fill(&mut *first);
    first.write(NOW, &(1_000..1_500).map(|n| put(n, n)).collect::<Vec<_>>()).expect("works");
    let mut database = move_to(&mut *first, InSchema::new(&server).open(LIMITS), 7_000);
    assert_eq!(contents(&mut *database, 100), contents(&mut *first, 100));
    let mut files = move_to(&mut *database, redb(&other), 8_000);
    assert_eq!(contents(&mut *files, 100), contents(&mut *database, 100));
    assert_eq!(files.totals().records, 120 + 500 + 32);
}
