//! A restart keeps keys and memory; every loss of a log destroys its key.

use super::*;
use rand::{SeedableRng as _, rngs::StdRng};
use std::sync::Arc;

const NETWORK: Hash = Hash::from_bytes([1; 32]);

struct Fixture {
    dir: tempfile::TempDir,
    files: KeyFiles,
    keys: Arc<EpochKeys>,
    tags: Vec<Tag>,
}

/// One epoch with two logged tags.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let files = KeyFiles::new(dir.path(), NETWORK, 1_000);
    let mut ring = KeyRing::new(false);
    let keys = ring.fill(Epoch(7), &mut StdRng::seed_from_u64(1)).remove(0);
    let (mut set, mut log) = files.create(&keys).expect("created");
    let tags: Vec<Tag> = [[1; 32], [2; 32]].iter().map(|tag| set.tag(tag)).collect();
    for tag in &tags {
        assert_eq!(set.insert(*tag), Insertion::Fresh);
    }
    log.append(&tags).expect("written");
    Fixture { dir, files, keys, tags }
}

fn restored(files: &KeyFiles) -> (KeyRing, Vec<Restored>) {
    let mut ring = KeyRing::new(false);
    let restored = files.restore(&mut ring).expect("the directory can be read");
    (ring, restored)
}

#[test]
fn a_restart_keeps_the_key_and_what_it_saw() {
    let Fixture { dir: _dir, files, keys, tags } = fixture();
    let (ring, mut restored) = restored(&files);
    let back = restored.first_mut().expect("restored");
    assert_eq!(ring.get(Epoch(7)).map(|keys| keys.mix.public()), Some(keys.mix.public()));
    for tag in &tags {
        assert_eq!(back.set.insert(*tag), Insertion::Repeated);
    }
    let third = back.set.tag(&[3; 32]);
    assert_eq!(back.set.insert(third), Insertion::Fresh);
    back.log.append(&[third]).expect("the log goes on");
    assert_eq!(restored_tags(&files), 3);
}

fn restored_tags(files: &KeyFiles) -> usize {
    restored(files).1.first().map_or(0, |back| back.set.len())
}

#[test]
fn a_lost_torn_or_foreign_log_destroys_the_key() {
    type Damage = fn(&Fixture);
    let damages: [(&str, Damage); 5] = [
        ("log lost", |f| fs::remove_file(f.files.log_path(Epoch(7))).expect("removed")),
        ("log torn", |f| {
            let log = OpenOptions::new().write(true).open(f.files.log_path(Epoch(7))).expect("opened");
            log.set_len(HEADER_SIZE as u64 + 17).expect("cut");
        }),
        ("log empty", |f| fs::write(f.files.log_path(Epoch(7)), b"").expect("written")),
        ("log of another key", |f| {
            let mut bytes = fs::read(f.files.log_path(Epoch(7))).expect("read");
            bytes[20] ^= 1;
            fs::write(f.files.log_path(Epoch(7)), bytes).expect("written");
        }),
        ("key torn", |f| {
            let key = OpenOptions::new().write(true).open(f.files.key_path(Epoch(7))).expect("opened");
            key.set_len(50).expect("cut");
        }),
    ];
    for (name, damage) in damages {
        let fixture = fixture();
        damage(&fixture);
        let (ring, restored) = restored(&fixture.files);
        assert!(restored.is_empty() && ring.get(Epoch(7)).is_none(), "{name}");
        assert_eq!(fs::read_dir(fixture.dir.path()).expect("listed").count(), 0, "{name}: nothing is left");
    }
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
fn erasing_leaves_nothing() {
    let Fixture { dir, files, .. } = fixture();
    files.erase(Epoch(7)).expect("erased");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

#[test]
fn a_log_that_cannot_be_written_says_so_and_stays_whole() {
    let Fixture { dir: _dir, files, .. } = fixture();
    let mut log = ReplayLog {
        // opened for reading only: every write fails, as on a full disk
        file: File::open(files.log_path(Epoch(7))).expect("opened"),
        length: HEADER_SIZE as u64 + 32,
        torn: false,
    };
    assert!(log.append(&[Tag::from_bytes([1; 16])]).is_err());
    assert_eq!(restored_tags(&files), 2);
}
