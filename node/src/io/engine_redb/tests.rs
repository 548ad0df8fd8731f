use super::*;
use crate::engine::Totals;
use crate::io::disk::Folder;
use crate::io::engine_conformance::{self, LIMITS, NOW, Place, append, body, id, put};
use crate::io::torn_disk::TornDisk;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tempfile::TempDir;

struct InFolder(TempDir);

impl Place for InFolder {
    fn open(&self, limits: Limits) -> Box<dyn Engine> {
        Box::new(RedbEngine::open(Box::new(Folder::new(self.0.path().to_owned())), limits).expect("opens"))
    }
}

impl Place for TornDisk {
    fn open(&self, limits: Limits) -> Box<dyn Engine> {
        Box::new(open(self, limits))
    }
}

fn open(disk: &TornDisk, limits: Limits) -> RedbEngine {
    RedbEngine::open(Box::new(disk.clone()), limits).expect("opens")
}

fn folder() -> InFolder {
    InFolder(tempfile::tempdir().expect("a directory"))
}

#[test]
fn redb_conforms() {
    engine_conformance::all(TornDisk::default);
}

#[test]
fn redb_conforms_on_a_real_disk() {
    let place = folder();
    let mut engine = place.open(LIMITS);
    let batch: Vec<Write> = (0..50).map(|n| put(n, n)).chain((0..50).map(|n| append(n % 3, n))).collect();
    assert!(engine.write(NOW, &batch).expect("works").iter().all(|written| *written == Written::Stored));
    drop(engine);
    let mut engine = place.open(LIMITS);
    assert_eq!(engine.totals().records, 100);
    assert_eq!(engine.get(&id(7)).expect("works"), Some(body(7)));
    let files: Vec<_> = fs::read_dir(place.0.path()).expect("reads").map(|file| file.expect("reads")).collect();
    assert_eq!(files.len(), 1);
    for file in &files {
        assert_eq!(file.metadata().expect("reads").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(engine.expire(NOW.plus(Duration::from_secs(3_600))).expect("works"), 1);
    assert_eq!(fs::read_dir(place.0.path()).expect("reads").count(), 0, "erased is unlinked");
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let place = folder();
    let mut engine = place.open(LIMITS);
    engine.write(NOW, &[put(1, 1)]).expect("works");
    let second = RedbEngine::open(Box::new(Folder::new(place.0.path().to_owned())), LIMITS);
    assert!(matches!(second, Err(EngineError::InUse)));
}

#[test]
fn what_a_crash_left_unfinished_is_removed_and_strangers_are_left_alone() {
    let place = folder();
    for name in ["boxes-0-10-0.redb.new", "lost+found", "notes.txt"] {
        fs::write(place.0.path().join(name), b"?").expect("writes");
    }
    assert_eq!(place.open(LIMITS).totals(), Totals::default());
    let mut left: Vec<_> =
        fs::read_dir(place.0.path()).expect("reads").map(|file| file.expect("reads").file_name()).collect();
    left.sort();
    assert_eq!(left, ["lost+found", "notes.txt"]);
}

#[test]
fn a_file_cut_short_or_overwritten_is_named_not_trusted() {
    let place = folder();
    let mut engine = place.open(LIMITS);
    engine.write(NOW, &(0..300).map(|n| put(n, n)).collect::<Vec<_>>()).expect("works");
    drop(engine);
    let path = fs::read_dir(place.0.path()).expect("reads").next().expect("one").expect("reads").path();
    let whole = fs::read(&path).expect("reads");
    for damaged in [whole[..whole.len() / 2].to_vec(), whole[..100].to_vec(), vec![0x5a; whole.len()]] {
        fs::write(&path, &damaged).expect("writes");
        match RedbEngine::open(Box::new(Folder::new(place.0.path().to_owned())), LIMITS) {
            Err(EngineError::Damaged { file, .. }) => {
                assert_eq!(Some(file.as_str()), path.file_name().and_then(|name| name.to_str()));
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("a damaged file was taken for good"),
        }
    }
}

/// A store that works until the disk dies at some operation, then loses power. Says how many operations it made.
fn crash_once(seed: u64, dies_in: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = TornDisk::default();
    let mut acknowledged: Vec<(u64, u64)> = Vec::new();
    let mut entries = 0;
    let mut now = NOW;
    let mut engine = open(&disk, LIMITS);
    disk.die_in(dies_in);
    for round in 0..12u64 {
        now = now.plus(Duration::from_secs(rng.random_range(0..40)));
        let boxes: Vec<(u64, u64)> = (0..rng.random_range(1..6)).map(|i| (round * 10 + i, rng.random())).collect();
        let mut batch: Vec<Write> = boxes.iter().map(|(name, content)| put(*name, *content)).collect();
        batch.push(append(5, 1_000 + round));
        match engine.write(now, &batch) {
            Ok(written) => {
                assert!(written.iter().all(|written| *written == Written::Stored));
                acknowledged.extend(boxes);
                entries = round + 1;
            }
            Err(EngineError::Unavailable(_)) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let operations = disk.operations();
    drop(engine);
    disk.crash(&mut rng);
    let mut engine = open(&disk, LIMITS);
    for (name, content) in &acknowledged {
        assert_eq!(engine.get(&id(*name)).expect("works"), Some(body(*content)), "seed {seed}, died in {dies_in}");
    }
    let mut after = 0;
    let mut found = 0;
    while let Some(entry) = engine.read(&id(5), after).expect("works") {
        after = entry.number;
        found += 1;
    }
    assert!(found >= entries, "seed {seed}, died in {dies_in}");
    // and it goes on
    let again: Vec<Write> = acknowledged.iter().map(|(name, content)| put(*name, *content)).collect();
    assert!(engine.write(now, &again).expect("works").iter().all(|written| *written == Written::Stored));
    assert_eq!(engine.write(now, &[put(999, 1)]).expect("works"), [Written::Stored]);
    operations
}

#[test]
fn nothing_acknowledged_is_lost_in_a_torn_write() {
    let whole = crash_once(0, u64::MAX / 2);
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(1_000 + seed);
        crash_once(seed, rng.random_range(0..whole));
    }
}

/// The full size of the test before: run it with `cargo test -p shoal-node --lib torn -- --ignored`.
#[test]
#[ignore = "10,000 crashes take a minute or two"]
fn nothing_acknowledged_is_lost_in_ten_thousand_torn_writes() {
    let whole = crash_once(0, u64::MAX / 2);
    for seed in 0..10_000 {
        crash_once(seed, StdRng::seed_from_u64(1_000 + seed).random_range(0..whole));
    }
}

/// Twelve writes, each repeated until acknowledged as a client does, while one flush fails; then the power goes. Says
/// how many operations the disk made and how many writes failed.
fn fail_a_flush_once(seed: u64, fails_in: u64) -> (u64, u32) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = TornDisk::default();
    let mut engine = open(&disk, LIMITS);
    disk.fail_a_flush_in(fails_in);
    let mut failures = 0;
    for name in 0..12u64 {
        while engine.write(NOW, &[put(name, name), append(7, name)]).is_err() {
            failures += 1;
            assert!(failures < 5, "seed {seed}: it does not recover");
        }
    }
    let operations = disk.operations();
    drop(engine);
    disk.crash(&mut rng);
    let mut engine = open(&disk, LIMITS);
    for name in 0..12 {
        assert_eq!(engine.get(&id(name)).expect("works"), Some(body(name)), "seed {seed}");
    }
    let mut bodies = Vec::new();
    let mut after = 0;
    while let Some(entry) = engine.read(&id(7), after).expect("works") {
        after = entry.number;
        bodies.push(entry.body);
    }
    assert!((0..12).all(|name| bodies.contains(&body(name))), "seed {seed}");
    let second = engine.write(NOW, &[put(3, 99)]).expect("works");
    assert_eq!(second, [Written::Taken], "seed {seed}: write-once holds over the file in doubt");
    (operations, failures)
}

#[test]
fn a_failed_flush_is_never_acknowledged_not_even_on_repetition() {
    let (whole, _) = fail_a_flush_once(0, u64::MAX / 2);
    let failed: u32 = (0..100).map(|n| fail_a_flush_once(n, n * whole / 100).1).sum();
    assert!(failed >= 80, "only {failed} of 100 failures were met");
}

#[test]
fn a_file_whose_flush_failed_is_read_but_never_written_or_believed_again() {
    let disk = TornDisk::default();
    let mut engine = open(&disk, LIMITS);
    engine.write(NOW, &[put(1, 1), append(7, 1)]).expect("works");
    disk.fail_a_flush_in(0);
    assert!(engine.write(NOW, &[put(2, 2)]).is_err());
    // what was in it counts as not durable: it is written once more before it is acknowledged once more
    let again = [put(1, 1), append(7, 1), put(2, 2)];
    assert_eq!(engine.write(NOW, &again).expect("works"), [Written::Stored; 3]);
    assert_eq!(engine.write(NOW, &[put(1, 9)]).expect("works"), [Written::Taken]);
    let names: Vec<BucketName> =
        disk.list().expect("works").iter().map(|name| name.parse().expect("a bucket")).collect();
    assert_eq!(names.iter().map(|name| (name.series, name.in_doubt)).collect::<Vec<_>>(), [(0, true), (1, false)]);
    let inside = |name: &BucketName| {
        let mut file = BucketFile::found(*name);
        file.ensure_open(&disk).expect("opens");
        file.records
    };
    drop(engine);
    assert_eq!(inside(&names[1]), 3);
    // the mark outlives the process
    let mut engine = open(&disk, LIMITS);
    engine.write(NOW, &[put(4, 4)]).expect("works");
    assert_eq!(disk.list().expect("works").len(), 2);
}

#[test]
fn a_disk_that_comes_back_is_used_again() {
    let disk = TornDisk::default();
    let mut engine = open(&disk, LIMITS);
    engine.write(NOW, &[put(1, 1)]).expect("works");
    disk.die_in(0);
    for _ in 0..3 {
        assert!(matches!(engine.write(NOW, &[put(2, 2)]), Err(EngineError::Unavailable(_))));
    }
    disk.die_in(u64::MAX / 2);
    assert_eq!(engine.write(NOW, &[put(2, 2)]).expect("works"), [Written::Stored]);
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
}
