//! One of four authorities whose clock is an hour wrong (row 16 of the attack table), as a real process under libfaketime: the
//! others miss no epoch and name it, and it says itself that it is the wrong one.

use serde_json::Value;
use shoal_tests::authority::{Kept, directory, remarks};
use shoal_tests::faketime::library;
use shoal_tests::testnet::Testnet;
use shoal_tests::{metrics, until, until_every};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Long enough that a loaded machine misses none.
const EPOCH: Duration = Duration::from_secs(10);
/// Ten times what is expected of a step that takes an epoch.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two questions that cost a process each.
const PAUSE: Duration = Duration::from_millis(250);
/// Epochs that are watched with each wrong clock.
const WATCHED: u64 = 4;
const HOUR_MS: i64 = 3_600_000;

fn wait_for(dir: &Path, epoch: u64) {
    until_every(PAUSE, &format!("epoch {epoch} at {}", dir.display()), PATIENCE, || {
        (directory(&["status"], dir)["epoch"].as_u64()? >= epoch).then_some(())
    });
}

/// How far the clock of the authority `about` is ahead, as the one in `dir` says.
fn ahead_ms(dir: &Path, about: &Value) -> Option<i64> {
    let status = directory(&["status"], dir);
    status["authorities"].as_array()?.iter().find(|authority| authority["identity"] == *about)?["clock_ahead_ms"]
        .as_i64()
}

#[test]
fn a_clock_wrong_by_an_hour_stops_nothing_and_is_named_by_everybody() {
    let library = library();
    let mut net = Testnet::start(&["--epoch", "10s", "--authorities", "4", "--no-prober"]);
    let authorities = net.ready.authorities.clone();
    let dirs: Vec<PathBuf> = authorities.iter().map(|authority| authority.dir.clone()).collect();
    let (wrong, others) = (&dirs[1], [&dirs[0], &dirs[2], &dirs[3]]);
    let identity = directory(&["status"], wrong)["identity"].clone();
    net.kill(authorities[1].pid);
    let mut pid = None;

    for (shift, ahead, side) in [("+1h", HOUR_MS, "ahead of"), ("-1h", -HOUR_MS, "behind")] {
        eprintln!("a clock {shift}");
        if let Some(pid) = pid {
            net.kill_again(pid);
        }
        // sleeps and timeouts are counted on the monotonic clock, which nobody sets
        let environment = [
            ("LD_PRELOAD", library.to_str().expect("UTF-8")),
            ("FAKETIME", shift),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let before = Kept::at(others[0]);
        pid = Some(net.run_again_with(wrong, "shoal-directory", &environment));
        for dir in others {
            wait_for(dir, before.newest + WATCHED);
            let missed = Kept::at(dir).missed_since(&before);
            assert_eq!(missed, 0, "{}: a document for every epoch", dir.display());
        }
        for dir in others {
            let said = until_every(PAUSE, &format!("{} names it", dir.display()), PATIENCE, || {
                remarks(dir, &identity).into_iter().find(|remark| remark.contains("its clock is"))
            });
            assert!(said.contains(&format!("ms {side} ours")), "{said}");
            let told = ahead_ms(dir, &identity).expect("it has sent lists");
            let tolerance = i64::try_from(EPOCH.as_millis()).expect("small");
            assert!((told - ahead).abs() < tolerance, "{told} ms");
            // and nobody else, but for what a list was late on a loaded machine; least of all itself
            for about in dirs.iter().filter(|about| *about != wrong) {
                let about = directory(&["status"], about)["identity"].clone();
                assert!(ahead_ms(dir, &about).is_none_or(|told| told.abs() < HOUR_MS / 2), "{about}");
                assert!(!remarks(dir, &about).iter().any(|remark| remark.contains("set it right")), "{about}");
            }
        }
        let own = until_every(PAUSE, "it says so itself", PATIENCE, || {
            remarks(wrong, &identity).into_iter().find(|remark| remark.contains("set it right"))
        });
        assert!(own.contains(&format!("clock is {side} those of 3 other authorities")), "{own}");
        let (code, body) = until("health answers", PATIENCE, || metrics::get(&authorities[1].metrics, "/readyz"));
        assert!(code == 503 && body.contains("set it right"), "{code} {body}");
        let log = std::fs::read_to_string(wrong.join("again.log")).expect("log");
        assert!(log.contains(&format!("clock is {side} those of")), "{log}");
        eprintln!("  {WATCHED} epochs, none missed; the wrong one says: {own}");
    }

    eprintln!("the clock is right again");
    net.kill_again(pid.expect("runs"));
    net.run_again(wrong, "shoal-directory");
    let reached = Kept::at(others[0]).newest;
    wait_for(wrong, reached + 1);
    for dir in dirs.iter() {
        until_every(PAUSE, "nobody's clock is named any more", PATIENCE, || {
            let right = ahead_ms(dir, &identity).is_none_or(|told| told.abs() < HOUR_MS / 2);
            (right && !remarks(dir, &identity).iter().any(|remark| remark.contains("set it right"))).then_some(())
        });
    }
}
