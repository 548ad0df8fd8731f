//! Connections that are cut, a database that is killed, silent or not there yet.

use super::*;

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
