//! Row 19: every older document, at every later state, to readers that go on and to readers that start again; and a
//! directory that is frozen for one reader.

use std::sync::Arc;

use rand::RngExt as _;
use shoal_protocol::consensus::{DocumentError, TrustAnchor, VerifiedConsensus};

use crate::readers::{Looks, Reader};
use crate::size;
use crate::world::{World, short};

/// Documents of a directory whose set changes again and again.
fn history(documents: u64) -> World {
    let mut world = World::new(4, 3, short(), 19);
    world.start_all();
    let epoch_ms = world.epoch_ms();
    let mut keys: Vec<_> = world.members.iter().map(|member| member.secret.public().clone()).collect();
    while u64::try_from(world.documents.len()).unwrap() < documents {
        let epochs = world.rng.random_range(6..12);
        world.run(epochs * epoch_ms);
        // one leaves, one comes
        keys.rotate_left(1);
        world.wish_for(&keys[..4]);
    }
    world
}

fn readers(world: &World) -> [Reader; 2] {
    let anchor = TrustAnchor { network: world.genesis.network, authorities: world.genesis.authorities.clone() };
    let schedule = world.genesis.schedule;
    [Reader::node(anchor.clone(), schedule), Reader::client(anchor, schedule)]
}

/// Offers everything older, at the time when it was new: whoever holds back documents may set a clock back as well.
fn offer_older(reader: &mut Reader, older: &[Arc<VerifiedConsensus>], changes: &[&[u8]]) -> usize {
    let height = reader.height();
    for document in older {
        match reader.offer(document.bytes(), document.valid_from) {
            Ok(taken) => assert!(!taken, "height {} taken at {height}", document.height),
            Err(DocumentError::Conflict { .. }) => {
                panic!("height {} at {height} looks like a conflict", document.height)
            }
            Err(_) => {}
        }
    }
    assert!(!reader.advance(changes).is_ok_and(|led| led > 0), "an old change led somewhere at {height}");
    assert_eq!(reader.height(), height);
    older.len()
}

#[test]
fn no_older_document_is_ever_taken() {
    let world = history(size("SHOAL_HISTORY", 70));
    let documents: Vec<_> = world.documents.values().cloned().collect();
    let mut set = world.genesis.authorities.as_slice();
    let mut changes: Vec<(usize, &[u8])> = Vec::new();
    let mut going_on = readers(&world);
    let mut offers = 0;
    for (at, newest) in documents.iter().enumerate() {
        let older = &documents[..at];
        let before: Vec<_> = changes.iter().map(|(_, bytes)| *bytes).collect();
        for reader in &mut going_on {
            assert_eq!(reader.offer(newest.bytes(), newest.valid_from), Ok(true), "height {}", newest.height);
            offers += offer_older(reader, older, &before);
        }
        // and after a restart with nothing but the kept copy; the last few, and some of the others
        for mut reader in readers(&world) {
            reader.resume(newest.bytes());
            let from = at.saturating_sub(if at % 10 == 0 { at } else { 5 });
            offers += offer_older(&mut reader, &older[from..], &before);
        }
        if newest.authorities != set {
            changes.push((at, newest.bytes()));
        }
        set = &newest.authorities;
    }
    assert!(changes.len() > 4, "the set changed {} times", changes.len());
    println!(
        "{} documents, {} changes of the set, {offers} older ones offered, none taken",
        documents.len(),
        changes.len()
    );
}

#[test]
fn a_freeze_is_said_within_one_epoch() {
    let mut world = World::new(4, 0, short(), 20);
    let epoch_ms = world.epoch_ms();
    for _ in 0..8 {
        world.add_readers(0);
    }
    world.start_all();
    world.run(3 * epoch_ms);
    for index in 0..world.readers.len() {
        let ahead = world.rng.random_range(0..4);
        world.readers[index].frozen_at = Some(world.readers[index].height() + 1 + ahead);
    }
    world.run(12 * epoch_ms);
    for reader in &world.readers {
        let withheld = &world.documents[&reader.frozen_at.unwrap()];
        let said = reader.alarmed_at.unwrap();
        assert!(said > withheld.valid_from.0, "before anything was withheld");
        assert!(said - withheld.valid_from.0 <= epoch_ms, "{} ms after", said - withheld.valid_from.0);
        let now = shoal_protocol::UnixMillis(world.now);
        assert_eq!(reader.looks(now), Looks::Expired);
    }
}
