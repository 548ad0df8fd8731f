//! A restart keeps keys and memory; every loss of a log destroys its key.

use super::*;
use crate::replay::Insertion;
use rand::{SeedableRng as _, rngs::StdRng};
use std::fs::OpenOptions;
use std::sync::Arc;

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
