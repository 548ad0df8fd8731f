//! Partitions that begin and end, and older layouts.

use super::*;

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
