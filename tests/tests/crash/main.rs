//! Row 14 of the attack table: people write to each other while every few seconds some process, of any kind, is killed
//! with SIGKILL and started again. In the end nothing that was acknowledged is lost, nothing is shown twice, and each
//! sender's messages are in their order.
//!
//! Bounded by default. The full size: `TMPDIR=/dev/shm SHOAL_SECONDS=2700 SHOAL_PERIOD_MS=5000 SHOAL_PEOPLE=4
//! SHOAL_LAMBDA_P=40 SHOAL_WINDOW=400 cargo test -p shoal-tests --test crash -- --nocapture` (in memory, because what a
//! SIGKILL leaves is the same there, and every message costs each side several flushes of a disk). `SHOAL_SEED` repeats the
//! choice of victims.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

mod killer;
mod people;

use killer::Killer;
use people::{Ledger, Reader, Writer};
use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// All is delivered so long after the last kill (attacks.md).
const DELIVERED: Duration = Duration::from_secs(600);
const NAMES: [&str; 6] = ["ann", "ben", "cat", "dan", "eve", "fox"];

fn set<T: FromStr>(name: &str, bounded: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(bounded)
}

#[test]
fn nothing_is_lost_or_doubled_whoever_is_killed() {
    let seconds = Duration::from_secs(set("SHOAL_SECONDS", 30));
    let period = Duration::from_millis(set("SHOAL_PERIOD_MS", 3_000));
    let count = set("SHOAL_PEOPLE", 2usize).min(NAMES.len()) / 2 * 2;
    let rate: f64 = set("SHOAL_LAMBDA_P", 20.0);
    let window = set("SHOAL_WINDOW", 40);
    let seed: u64 = set("SHOAL_SEED", u64::from(std::process::id()));
    eprintln!("SHOAL_SEED={seed}: {count} people at {rate} packets a second, a kill every {period:?} for {seconds:?}");

    let net = Testnet::start(&["--epoch", "20s", "--lambda-p", &rate.to_string(), "--retention", "1h"]);
    let folder = tempfile::tempdir().expect("folder");
    let people: Vec<Person> =
        NAMES.iter().take(count).map(|name| Person::new(name, folder.path(), &net.ready.network)).collect();
    let pairs: Vec<(usize, usize)> = (0..count).map(|at| (at, at ^ 1)).collect();
    for (at, peer) in &pairs {
        let added = people[*at].run(["add", people[*peer].name, &people[*peer].address]);
        assert_eq!(added.code, 0, "{added:?}");
    }
    for (at, peer) in &pairs {
        assert_eq!(people[*at].send_and_wait(people[*peer].name, "0", "delivered"), "delivered");
    }

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let [stop, all_delivered] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let ledgers: Vec<Arc<Ledger>> = pairs.iter().map(|_| Arc::default()).collect();
    let writers: Vec<_> = pairs
        .iter()
        .zip(&ledgers)
        .map(|((at, peer), ledger)| {
            let writer = Writer {
                profile: people[*at].profile.clone(),
                to: people[*peer].name,
                ledger: Arc::clone(ledger),
                stop: Arc::clone(&stop),
                window,
            };
            runtime.spawn(writer.run())
        })
        .collect();
    let readers: Vec<_> = pairs
        .iter()
        .map(|(at, _)| {
            let reader = Reader { profile: people[*at].profile.clone(), stop: Arc::clone(&all_delivered) };
            runtime.spawn(reader.run())
        })
        .collect();

    let mut killer = Killer::new(net, people, seed);
    killer.run(seconds, period);
    let last_kill = Instant::now();
    // they write nothing more, and wait until all they wrote is delivered
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let left = DELIVERED.saturating_sub(last_kill.elapsed());
        let Ok(ended) = runtime.block_on(async { tokio::time::timeout(left, writer).await }) else {
            let states: Vec<_> = killer.people.iter().map(Person::status).collect();
            panic!("not all is delivered within ten minutes of the last kill: {states:#?}");
        };
        ended.expect("no panic");
    }
    let settled = last_kill.elapsed();
    all_delivered.store(true, Ordering::Relaxed);
    let shown: Vec<_> = readers.into_iter().map(|reader| runtime.block_on(reader).expect("no panic")).collect();

    let (mut acknowledged, mut unknown, mut arrived) = (0, 0, 0);
    for ((at, peer), ledger) in pairs.iter().zip(&ledgers) {
        let tally = ledger.compare(&shown[*peer], people::everything(&runtime, &killer.people[*peer].profile));
        eprintln!("{} → {}: {tally:?}", killer.people[*at].name, killer.people[*peer].name);
        acknowledged += tally.acknowledged;
        unknown += tally.unknown;
        arrived += tally.shown;
    }
    assert!(acknowledged > 0);
    eprintln!(
        "{} kills ({}); {acknowledged} acknowledged, {unknown} sends cut off by a kill, {arrived} shown; 0 lost, 0 twice, in \
         order; all delivered {:.1} s after the last kill",
        killer.kills(),
        killer.tally(),
        settled.as_secs_f64()
    );
}
