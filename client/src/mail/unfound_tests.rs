//! Who was away while the others passed over a slot whose deciding replica was mute: it finds the commit behind it, and does
//! not fill the empty slot itself. The network is the model of the integration tests.

use super::malice_commits::conversation;
use super::malice_groups::{
    ALICE, BOB, MALLORY, copy, fill_slot, group, show_commit, state_of, talk, trio, until, write_record,
};
use super::world::{GENERATION, World};
use super::*;
use crate::commit_slots::{Entry, SlotKeys};
use crate::group_epochs;
use crate::records::Content;
use shoal_protocol::StoreIndex;
use shoal_protocol::boxes;
use std::time::Duration;
use tempfile::TempDir;

/// The replica that decides slot 0 of the epoch that somebody is in.
fn decider(world: &mut World, who: usize) -> StoreIndex {
    let mail = world.mail(who);
    let at = conversation(mail);
    let epoch = group_epochs::of(&mail.profile.db, &mail.profile.vault, at.row, at.epoch).unwrap().unwrap();
    let id = SlotKeys::new(&epoch.secret).id(0);
    boxes::placement(world.consensus.generation(GENERATION).unwrap(), &id).unwrap()[0]
}

/// A second copy of somebody's profile, as it is now.
fn copy_of(world: &mut World, who: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    world.crash(who);
    copy(&world.people[who].dir, folder.path());
    world.restart(who);
    folder
}

fn named(world: &mut World, who: usize, name: &str) -> bool {
    group(world, who).is_some_and(|group| group.name == name)
}

/// Bob is away, the store that decides is mute, and Alice and Mallory pass over the slot: Bob comes back when the store has.
fn passed_over(seed: u64, before: impl FnOnce(&mut World)) -> (World, String, Duration) {
    let (mut world, id) = trio(seed);
    before(&mut world);
    let retention = world.consensus.parameters.retention();
    let store = decider(&mut world, BOB);
    world.crash(BOB);
    let began = world.now;
    world.stores.get_mut(&store).unwrap().down = true;
    world.mail(ALICE).group_rename(&id, "reef crew still").unwrap();
    for who in [ALICE, MALLORY] {
        until(&mut world, "they pass over it", |world| named(world, who, "reef crew still"));
    }
    assert!(
        world.now.since(began) < retention / 2,
        "what Bob saw of the slot counts as recent: {:?}",
        world.now.since(began)
    );
    world.stores.get_mut(&store).unwrap().down = false;
    (world, id, retention)
}

#[test]
fn who_was_away_while_a_slot_was_passed_over_follows() {
    let (mut world, id, retention) = passed_over(710, |_| ());
    world.restart(BOB);
    let began = world.now;
    until(&mut world, "Bob follows", |world| named(world, BOB, "reef crew still"));
    assert!(world.now.since(began) < retention / 8, "he waited {:?}", world.now.since(began));
    talk(&mut world, &id, "all here");
    for who in [ALICE, BOB, MALLORY] {
        assert!(!world.warnings(who).contains(&"member_astray"), "{:?}", world.warnings(who));
        assert!(group(&mut world, who).is_some_and(|group| !group.broken));
    }
}

/// What he wants himself, he commits after he has followed: the empty slot would take his commit, and he would be alone.
#[test]
fn who_comes_back_to_an_empty_slot_reads_before_committing() {
    for seed in 711..715 {
        let (mut world, id, _) = passed_over(seed, |_| ());
        world.restart(BOB);
        world.mail(BOB).group_rename(&id, "Bob's crew").unwrap();
        for who in [ALICE, BOB, MALLORY] {
            until(&mut world, "all see his name for it", |world| named(world, who, "Bob's crew"));
        }
        talk(&mut world, &id, "all here");
        assert!(!world.warnings(ALICE).contains(&"member_astray"), "seed {seed}");
    }
}

/// Whom a commit removes never says that it was applied: the word of those counts whom it leaves in.
#[test]
fn a_removal_is_followed_behind_an_empty_slot() {
    let (mut world, id) = trio(718);
    let store = decider(&mut world, BOB);
    world.crash(BOB);
    world.stores.get_mut(&store).unwrap().down = true;
    let address = world.address(MALLORY);
    world.mail(ALICE).group_remove(&id, &address).unwrap();
    until(&mut world, "Alice removes her", |world| state_of(world, ALICE, MALLORY).is_none());
    world.stores.get_mut(&store).unwrap().down = false;
    world.restart(BOB);
    until(&mut world, "Bob follows", |world| state_of(world, BOB, MALLORY).is_none());
    assert_eq!(state_of(&mut world, BOB, ALICE), Some(MemberState::Member));
    talk(&mut world, &id, "without her");
}

/// A member fills the slot behind an empty one, and names what is there: the word of one of two others moves nobody.
#[test]
fn one_member_leads_nobody_behind_an_empty_slot() {
    let (mut world, id) = trio(716);
    let epoch = group(&mut world, ALICE).unwrap().epoch;
    let profile = copy_of(&mut world, MALLORY);
    let commit = show_commit(&mut world, profile.path(), 1);
    write_record(&mut world, Vec::new(), Content::End { commit });
    world.run(Duration::from_secs(20));
    world.crash(MALLORY);
    for who in [ALICE, BOB] {
        until(&mut world, "she is not believed", |world| state_of(world, who, MALLORY) == Some(MemberState::Apart));
        assert_eq!(group(&mut world, who).unwrap().epoch, epoch);
    }
    talk(&mut world, &id, "without her");
}

/// Nor does what lies behind an empty slot count because something is there: only the commit that most others name.
#[test]
fn behind_an_empty_slot_only_the_commit_counts_that_most_name() {
    let mut copies = Vec::new();
    let (mut world, id, _) = passed_over(717, |world| copies.extend([ALICE, MALLORY].map(|who| copy_of(world, who))));
    let before = Mail::open(copies[0].path()).unwrap();
    let at = conversation(&before);
    let epoch = group_epochs::of(&before.profile.db, &before.profile.vault, at.row, at.epoch).unwrap().unwrap();
    let keys = SlotKeys::new(&epoch.secret);
    let in_slot = |slot: u64| world.stores.values().find_map(|store| store.boxes.get(&keys.id(slot)));
    let (slot, there) = (1..4).find_map(|slot| Some((slot, in_slot(slot)?.0.clone()))).unwrap();
    let followed = Entry::from_bytes(&keys.open(slot, &there).unwrap()).unwrap();
    // the one that was followed lies behind another that is as good
    fill_slot(&mut world, &before, slot + 1, &followed.manifest);
    drop(before);
    show_commit(&mut world, copies[1].path(), slot);
    world.restart(BOB);
    until(&mut world, "Bob follows", |world| named(world, BOB, "reef crew still"));
    talk(&mut world, &id, "all here");
    assert!(!world.warnings(BOB).contains(&"member_astray"));
}
