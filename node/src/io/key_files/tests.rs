//! A restart keeps keys and memory; every loss of a log destroys its key.

use super::*;
use crate::replay::Insertion;
use rand::{SeedableRng as _, rngs::StdRng};
use std::fs::OpenOptions;
use std::sync::Arc;

/// Bytes of a log before its tags.
const LOG_HEADER: usize = 80;
const NETWORK: Hash = Hash::from_bytes([1; 32]);

struct Fixture {
    dir: tempfile::TempDir,
    files: KeyFiles,
    keys: Arc<EpochKeys>,
}

/// Names of the two packets, or envelopes, that were seen.
const NAMES: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// One epoch of a store with two logged tags under each key.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let files = KeyFiles::new(dir.path(), NETWORK, 1_000);
    let mut ring = KeyRing::new(true);
    let keys = ring.fill(Epoch(7), &mut StdRng::seed_from_u64(1)).remove(0);
    let Memories { replay, seen } = files.create(&keys).expect("created");
    for memory in [replay, seen.expect("a store's")] {
        let tags = NAMES.map(|name| memory.insert(&name)).map(|(insertion, tag)| {
            assert_eq!(insertion, Insertion::Fresh);
            tag
        });
        memory.log(&tags).expect("written");
    }
    Fixture { dir, files, keys }
}

fn restored(files: &KeyFiles) -> (KeyRing, Vec<Restored>) {
    let mut ring = KeyRing::new(true);
    let restored = files.restore(&mut ring).expect("the directory can be read");
    (ring, restored)
}

#[test]
fn a_restart_keeps_the_keys_and_what_they_saw() {
    let Fixture { dir: _dir, files, keys } = fixture();
    let (ring, mut restored) = restored(&files);
    let back = restored.pop().expect("restored");
    assert_eq!(ring.get(Epoch(7)).map(|keys| keys.mix.public()), Some(keys.mix.public()));
    for memory in [back.memories.replay, back.memories.seen.expect("a store's")] {
        assert!(NAMES.iter().all(|name| memory.insert(name).0 == Insertion::Repeated));
        assert_eq!(memory.insert(&[3; 32]).0, Insertion::Fresh);
    }
}

#[test]
fn the_two_logs_of_an_epoch_do_not_speak_of_the_same_tags() {
    let Fixture { dir, .. } = fixture();
    let read = |kind: &str| fs::read(dir.path().join(format!("mix-7.{kind}"))).expect("read");
    assert_ne!(read(REPLAY), read(SEEN));
}

#[test]
fn a_lost_or_foreign_log_destroys_the_keys() {
    type Damage = fn(&Fixture, &str);
    let damages: [(&str, Damage); 3] = [
        ("lost", |f, kind| fs::remove_file(f.files.path(Epoch(7), kind)).expect("removed")),
        ("empty", |f, kind| fs::write(f.files.path(Epoch(7), kind), b"").expect("written")),
        ("of another key", |f, kind| {
            let mut bytes = fs::read(f.files.path(Epoch(7), kind)).expect("read");
            bytes[20] ^= 1;
            fs::write(f.files.path(Epoch(7), kind), bytes).expect("written");
        }),
    ];
    for (name, damage) in damages {
        for kind in [KEY, REPLAY, SEEN] {
            let fixture = fixture();
            damage(&fixture, kind);
            let (ring, restored) = restored(&fixture.files);
            assert!(restored.is_empty() && ring.get(Epoch(7)).is_none(), "{kind} {name}");
            assert_eq!(fs::read_dir(fixture.dir.path()).expect("listed").count(), 0, "{kind} {name}: nothing is left");
        }
    }
}

#[test]
fn a_key_file_cut_short_or_too_long_is_destroyed_wherever_it_is_cut() {
    let whole = {
        let fixture = fixture();
        fs::read(fixture.files.path(Epoch(7), KEY)).expect("read")
    };
    let longer = [&whole[..], &[0]].concat();
    let huge = [&whole[..], &vec![0; 5 << 20]].concat();
    for damaged in (0..whole.len()).map(|length| &whole[..length]).chain([&longer[..], &huge[..]]) {
        let fixture = fixture();
        fs::write(fixture.files.path(Epoch(7), KEY), damaged).expect("written");
        assert!(restored(&fixture.files).1.is_empty(), "{} bytes", damaged.len());
        assert_eq!(fs::read_dir(fixture.dir.path()).expect("listed").count(), 0);
    }
}

/// Four tags that are written to a log of the fixture's key, and the log cut back to `keep` of their bytes. `counted`: the
/// header counts them, as after a whole append.
fn torn(kind: &str, keep: usize, counted: bool) -> Fixture {
    const NEXT: [[u8; 32]; 4] = [[11; 32], [12; 32], [13; 32], [14; 32]];
    let fixture = fixture();
    let path = fixture.files.path(Epoch(7), kind);
    let acknowledged = fs::read(&path).expect("read");
    let (_, mut back) = restored(&fixture.files);
    let Memories { replay, seen } = back.remove(0).memories;
    let memory = if kind == REPLAY { replay } else { seen.expect("a store's") };
    memory.log(&NEXT.map(|name| memory.insert(&name).1)).expect("written");
    drop(memory);
    let mut bytes = fs::read(&path).expect("read");
    assert_eq!(bytes.len(), acknowledged.len() + NEXT.len() * 16);
    bytes.truncate(acknowledged.len() + keep);
    if !counted {
        bytes.splice(..LOG_HEADER, acknowledged.into_iter().take(LOG_HEADER));
    }
    fs::write(&path, bytes).expect("written");
    fixture
}

/// A process that dies while it writes tags leaves any number of their bytes, which were never acted upon. What was
/// acknowledged before is known ever after.
#[test]
fn no_tag_is_forgotten_wherever_the_writing_of_the_next_ones_was_torn() {
    for kind in [REPLAY, SEEN] {
        for keep in 0..=64 {
            let fixture = torn(kind, keep, false);
            // twice: what the first restart repaired, the second one still knows
            for restart in 0..2 {
                let (_, mut back) = restored(&fixture.files);
                let Memories { replay, seen } = back.pop().expect("the key lives").memories;
                let memory = if kind == REPLAY { replay } else { seen.expect("a store's") };
                assert!(NAMES.iter().all(|name| memory.insert(name).0 == Insertion::Repeated), "{kind} {keep}");
                let fresh = [40 + restart; 32];
                memory.log(&[memory.insert(&fresh).1]).expect("written");
                if restart == 1 {
                    assert_eq!(memory.insert(&[40; 32]).0, Insertion::Repeated, "{kind} {keep}");
                }
            }
        }
    }
}

#[test]
fn a_log_that_lacks_a_byte_of_what_was_acknowledged_destroys_the_keys() {
    for kind in [REPLAY, SEEN] {
        for keep in 0..64 {
            let fixture = torn(kind, keep, true);
            assert!(restored(&fixture.files).1.is_empty(), "{kind} {keep}");
            assert_eq!(fs::read_dir(fixture.dir.path()).expect("listed").count(), 0);
        }
        assert_eq!(restored(&torn(kind, 64, true).files).1.len(), 1, "whole");
    }
}

#[test]
fn a_log_whose_header_is_torn_destroys_the_keys_wherever_it_is_torn() {
    for kind in [REPLAY, SEEN] {
        for length in 0..LOG_HEADER as u64 {
            let fixture = fixture();
            let log = OpenOptions::new().write(true).open(fixture.files.path(Epoch(7), kind)).expect("opened");
            log.set_len(length).expect("cut");
            assert!(restored(&fixture.files).1.is_empty(), "{kind} {length}");
            assert_eq!(fs::read_dir(fixture.dir.path()).expect("listed").count(), 0);
        }
    }
}

#[test]
fn a_log_that_holds_more_than_its_capacity_destroys_the_keys() {
    let Fixture { dir, .. } = fixture();
    let small = KeyFiles::new(dir.path(), NETWORK, 1);
    assert!(restored(&small).1.is_empty());
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

#[test]
fn a_directory_that_is_gone_is_made_anew_for_the_next_keys() {
    let Fixture { dir, files, .. } = fixture();
    fs::remove_dir_all(dir.path()).expect("removed");
    let keys = KeyRing::new(true).fill(Epoch(8), &mut StdRng::seed_from_u64(2)).remove(0);
    files.create(&keys).expect("created");
    assert_eq!(restored(&files).1.len(), 1);
}

#[test]
fn a_log_that_cannot_be_cut_back_is_torn_for_good() {
    let Fixture { dir: _dir, files, keys } = fixture();
    // writing to it fails, and so does cutting
    let path = files.path(Epoch(7), REPLAY);
    fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink("/dev/full", &path).expect("linked");
    let id = Hash::of("shoal/1 node replay log of key", keys.mix.public().as_bytes());
    let opened = Memory::create(&path, &id, ReplaySet::new(keys.tag_key(), 10));
    assert!(opened.is_err(), "not even a header can be written: there is no key");
}

#[test]
fn what_a_crash_left_half_written_is_erased() {
    let Fixture { dir, files, .. } = fixture();
    // a crash before the key got its name, in an epoch that is used and in one that never came to be
    for epoch in [7, 9] {
        fs::write(files.path(Epoch(epoch), NEW), b"a key").expect("written");
    }
    let key = OpenOptions::new().write(true).open(files.path(Epoch(7), KEY)).expect("opened");
    assert_eq!(restored(&files).1.len(), 1);
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 3, "key and two logs");
    key.set_len(50).expect("cut");
    assert!(restored(&files).1.is_empty());
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

#[test]
fn keys_of_another_network_or_boot_are_not_used() {
    let Fixture { dir: _dir, mut files, .. } = fixture();
    files.boot = [9; 16];
    assert!(restored(&files).1.is_empty());
    let second = fixture();
    let other = KeyFiles::new(second.dir.path(), Hash::from_bytes([2; 32]), 1_000);
    assert!(restored(&other).1.is_empty());
}

#[test]
fn erasing_leaves_nothing_and_what_cannot_be_erased_keeps_nothing_else() {
    let Fixture { dir, files, .. } = fixture();
    files.erase_all().expect("erased");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);

    let Fixture { dir, files, .. } = fixture();
    // a directory cannot be opened for writing
    fs::remove_file(files.path(Epoch(7), KEY)).expect("removed");
    fs::create_dir(files.path(Epoch(7), KEY)).expect("made");
    assert!(files.erase_all().is_err());
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

#[test]
fn what_is_erased_is_overwritten() {
    let Fixture { dir: _dir, files, .. } = fixture();
    for kind in [KEY, REPLAY, SEEN] {
        // another name of the same bytes shows what becomes of them
        let kept = files.path(Epoch(7), "kept");
        fs::hard_link(files.path(Epoch(7), kind), &kept).expect("linked");
        files.erase(Epoch(7)).expect("erased");
        assert!(fs::read(&kept).expect("read").iter().all(|byte| *byte == 0), "{kind}");
        fs::remove_file(&kept).expect("removed");
        files.create(&KeyRing::new(true).fill(Epoch(7), &mut StdRng::seed_from_u64(1))[0]).expect("created");
    }
}
