//! A member of a group whose client keeps no rules: the others lose nothing by it, say what is the matter, and find together
//! again. The network is the model of the integration tests; what it holds can be put there by hand.

use super::malice_commits::{conversation, usurped};
use super::world::{GENERATION, World};
use super::*;
use crate::blobs::Manifest;
use crate::commit_slots::{SlotKeys, commit_hash};
use crate::commits::{self, Parcel};
use crate::commits_mls;
use crate::conversations::Conversation;
use crate::conversations_mls;
use crate::group_epochs;
use crate::records::{BlobKind, Content, NO_MARK, Record, Seen};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::Hash;
use shoal_protocol::boxes::{self, BoxBody, BoxId, WriteKey};
use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;
use shoal_protocol::inbox::InboxKey;
use std::path::Path;
use std::time::Duration;

pub(super) const ALICE: usize = 0;
pub(super) const BOB: usize = 1;
pub(super) const MALLORY: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

/// Runs until `done`, which is asked once a second; fails with `what` when it takes longer than 30 minutes.
pub(super) fn until(world: &mut World, what: &str, done: impl FnMut(&mut World) -> bool) {
    let in_time = world.eventually(30 * MINUTE, done);
    let seen: Vec<_> = (0..3).map(|who| world.warnings(who)).collect();
    assert!(in_time, "{what}: {seen:?}");
}

pub(super) fn group(world: &mut World, who: usize) -> Option<ConversationInfo> {
    world.people[who].mail.as_ref()?.conversations().unwrap().pop()
}

pub(super) fn state_of(world: &mut World, who: usize, whom: usize) -> Option<MemberState> {
    let address = world.address(whom);
    let member = group(world, who)?.members.into_iter().find(|member| member.address == address);
    member.map(|member| member.state)
}

fn add(world: &mut World, who: usize, id: &str, whom: usize) {
    let (now, address) = (world.now, world.address(whom));
    world.mail(who).group_add(id, &address, now).unwrap();
}

/// All of these are members for each other, heard of, and in one epoch.
fn together(world: &mut World, who: &[usize]) -> bool {
    let pairs = who.iter().flat_map(|one| who.iter().map(move |other| (*one, *other)));
    let all = pairs.collect::<Vec<_>>().into_iter().all(|(one, other)| {
        matches!(state_of(world, one, other), Some(MemberState::Member))
            && group(world, one).is_some_and(|group| !group.request)
    });
    let mut epochs: Vec<_> = who.iter().filter_map(|who| group(world, *who)).map(|group| group.epoch).collect();
    epochs.dedup();
    all && epochs.len() == 1
}

/// Nobody has anything to commit: who has joined has renewed its leaf.
fn at_rest(world: &mut World) -> bool {
    (0..3).all(|who| {
        let mail = world.mail(who);
        let at = conversation(mail);
        let staged = commits::commit_of(&mail.profile.db, &mail.profile.vault, at.row, at.epoch).unwrap();
        at.healed_at != UnixMillis(0) && at.commit_at.is_none() && staged.is_none()
    })
}

/// Alice's group, in which Bob and Mallory are.
pub(super) fn trio(seed: u64) -> (World, String) {
    let mut world = World::new(seed, 3);
    world.run(Duration::from_secs(2));
    let (now, mut rng) = (world.now, world.fork());
    let id = world.mail(ALICE).group_create("reef crew", now, &mut rng).unwrap().id.to_string();
    for whom in [BOB, MALLORY] {
        add(&mut world, ALICE, &id, whom);
    }
    until(&mut world, "they do not come together", |world| {
        world.accept_group(&id, &[BOB, MALLORY]);
        together(world, &[ALICE, BOB, MALLORY]) && at_rest(world)
    });
    (world, id)
}

/// Alice and Bob read each other, once and whole.
pub(super) fn talk(world: &mut World, id: &str, word: &str) {
    let sent = [ALICE, BOB].map(|who| {
        let text = format!("{who}: {word}");
        world.send(who, id, &text);
        (who, text)
    });
    for (who, text) in sent {
        let other = if who == ALICE { BOB } else { ALICE };
        until(world, &text, |world| world.texts(other).contains(&text));
        assert_eq!(world.texts(other).iter().filter(|shown| **shown == text).count(), 1);
    }
}

/// Mallory is removed, and the others go on.
fn without_her(world: &mut World, id: &str) {
    let address = world.address(MALLORY);
    world.mail(ALICE).group_remove(id, &address).unwrap();
    for who in [ALICE, BOB] {
        until(world, "she is removed", |world| state_of(world, who, MALLORY).is_none());
    }
    talk(world, id, "without her");
}

/// Puts a body to where a box lies, by hand: over whatever is there.
pub(super) fn put(world: &mut World, id: BoxId, body: &BoxBody) {
    let placed = boxes::placement(world.consensus.generation(GENERATION).unwrap(), &id).unwrap();
    for store in placed {
        world.stores.get_mut(&store).unwrap().boxes.insert(id, (body.clone(), world.now));
    }
}

pub(super) fn publish(world: &mut World, content: &[u8]) -> Manifest {
    let manifest = Manifest::of(content, rand::RngExt::random(&mut world.rng));
    for (j, part) in (0..).zip(content.chunks(BOX_PLAINTEXT_SIZE)) {
        let (id, body, _) = manifest.keys().seal(j, part).unwrap();
        put(world, id, &body);
    }
    manifest
}

/// Fills a slot of the epoch that a profile is in, with an entry that it signs.
pub(super) fn fill_slot(world: &mut World, mail: &Mail, slot: u64, manifest: &Manifest) {
    let (at, mut rng) = (conversation(mail), world.fork());
    let epoch = group_epochs::of(&mail.profile.db, &mail.profile.vault, at.row, at.epoch).unwrap().unwrap();
    let keys = SlotKeys::new(&epoch.secret);
    let body = mail.seal_entry(&mail.profile.db, &at, &keys, slot, manifest, &mut rng).unwrap();
    put(world, keys.id(slot), &body);
}

/// Writes what she likes into Mallory's next box.
fn write(world: &mut World, seal: impl FnOnce(&Mail, &Conversation) -> Vec<u8>) {
    let mut rng = world.fork();
    let mallory = world.mail(MALLORY);
    let (db, vault) = (&mallory.profile.db, &mallory.profile.vault);
    let at = conversation(mallory);
    let own = chains::writing(db, vault, at.row).unwrap();
    let body = boxes::seal(&own.secret, own.next, &own.id(own.next), &seal(mallory, &at), &mut rng).unwrap();
    chains::push_box(db, &own, &body, None).unwrap();
    mallory.reload().unwrap();
}

pub(super) fn write_record(world: &mut World, seen: Vec<Seen>, content: Content) {
    write(world, |mallory, at| {
        let provider = provider(&mallory.profile, &mallory.crypto, &mallory.profile.db);
        let record = Record { seen, mark: NO_MARK, content };
        conversations_mls::seal(&provider, &at.id.0, &record.to_bytes()).unwrap()
    });
}

#[test]
fn a_member_who_writes_nonsense_is_alone_with_it() {
    let (mut world, id) = trio(700);
    let max = u64::MAX;
    write(&mut world, |_, _| b"no message of the group".to_vec());
    write(&mut world, |mallory, at| {
        let provider = provider(&mallory.profile, &mallory.crypto, &mallory.profile.db);
        conversations_mls::seal(&provider, &at.id.0, b"no record").unwrap()
    });
    // of leaves that are none, and of places that will never be
    let seen = (0..31).map(|leaf| Seen { leaf, epoch: max, boxes: max }).collect();
    write_record(&mut world, seen, Content::Receipt);
    let blob = |n, length| Content::Blob {
        id: [n; 16],
        sent_at: UnixMillis(1),
        kind: BlobKind::File { name: "note".to_owned(), mime: "text/plain".to_owned() },
        manifest: Manifest::new([n; 32], length, Hash::from_bytes([n; 32])),
    };
    write_record(&mut world, Vec::new(), blob(1, max));
    write_record(&mut world, Vec::new(), blob(2, 5));
    let text = Content::Text { id: [3; 16], sent_at: UnixMillis(max), text: "of the far future".to_owned() };
    write_record(&mut world, Vec::new(), text);
    let text = Content::Text { id: [4; 16], sent_at: UnixMillis(1), text: "and a good one".to_owned() };
    write_record(&mut world, Vec::new(), text);
    for who in [ALICE, BOB] {
        until(&mut world, "the good one", |world| world.texts(who).contains(&"and a good one".to_owned()));
    }
    talk(&mut world, &id, "still here");
    assert!(together(&mut world, &[ALICE, BOB]));
    for who in [ALICE, BOB] {
        assert!(world.mail(who).memory.blobs_in.len() <= 1, "only the one that may still come is waited for");
    }
    // a commit that is nowhere, named as the end of the epoch: it holds nobody up for long
    write_record(&mut world, Vec::new(), Content::End { commit: Hash::from_bytes([9; 32]) });
    world.run(Duration::from_secs(20));
    world.crash(MALLORY);
    for who in [ALICE, BOB] {
        until(&mut world, "she is not believed", |world| state_of(world, who, MALLORY) == Some(MemberState::Apart));
        assert!(world.warnings(who).contains(&"member_astray"));
    }
    without_her(&mut world, &id);
}

#[test]
fn what_a_member_commits_against_the_rules_is_passed_over_by_all() {
    let (mut world, id) = trio(701);
    let mut rng = StdRng::seed_from_u64(1);
    let at = group(&mut world, ALICE).unwrap().epoch;
    let mallory = world.people[MALLORY].mail.take().unwrap();
    // no commit
    let junk = publish(&mut world, b"no commit");
    fill_slot(&mut world, &mallory, 0, &junk);
    // a blob of a false hash is refused at once; one that never comes whole is a test of its own
    let part = publish(&mut world, b"one part");
    fill_slot(&mut world, &mallory, 1, &Manifest::new([8; 32], part.length(), Hash::from_bytes([1; 32])));
    let keys = Manifest::new([8; 32], part.length(), Hash::from_bytes([1; 32])).keys();
    let (box_id, body, _) = keys.seal(0, b"one part").unwrap();
    put(&mut world, box_id, &body);
    // a leaf under somebody else's key
    let thief = InboxKey::generate(&mut rng);
    let (_, commit) = usurped(&mallory, &thief, None, &mut rng);
    let usurping = publish(&mut world, &Parcel { commit, cuts: Vec::new() }.to_bytes());
    fill_slot(&mut world, &mallory, 2, &usurping);
    // Bob is removed, and nothing is said of how far he counts; then of somebody who stays
    let leaf = members::current(&mallory.profile.db, conversation(&mallory).row).unwrap();
    let leaf = leaf.iter().find(|member| {
        contacts::by_row(&mallory.profile.db, &mallory.profile.vault, member.contact).unwrap().address()
            == world.people[BOB].address
    });
    let leaf = leaf.unwrap().leaf;
    for (slot, cuts) in
        [(3, Vec::new()), (4, vec![commits::Cut { leaf: leaf + 1, at: chains::Place { epoch: 0, boxes: 0 } }])]
    {
        let transaction = mallory.profile.db.unchecked_transaction().unwrap();
        let change = commits_mls::Change { remove: vec![leaf], ..commits_mls::Change::default() };
        let writer = WriteKey::generate(&mut rng);
        let provider = provider(&mallory.profile, &mallory.crypto, &transaction);
        let group_id = conversation(&mallory).id.0;
        let staged =
            commits_mls::stage(&provider, &mallory.profile.own, &writer, &group_id, &change, &mut rng).unwrap();
        drop(provider);
        drop(transaction);
        let short = publish(&mut world, &Parcel { commit: staged.commit, cuts }.to_bytes());
        fill_slot(&mut world, &mallory, slot, &short);
    }
    world.people[MALLORY].mail = Some(mallory);
    world.mail(ALICE).group_rename(&id, "reef crew still").unwrap();
    for who in [ALICE, BOB] {
        until(&mut world, "the first good commit counts", |world| {
            group(world, who).is_some_and(|group| group.name == "reef crew still")
        });
        assert_eq!(group(&mut world, who).unwrap().epoch, at + 1);
        assert!(world.mail(who).memory.blobs_in.is_empty());
        assert!(world.warnings(who).is_empty(), "{:?}", world.warnings(who));
    }
    talk(&mut world, &id, "still here");
}

/// An entry whose commit is not there holds nobody up for longer than three quarters of the retention, though a part of it comes
/// meanwhile and one replica of the rest is gone; and not at all who was not there to see it.
#[test]
fn a_commit_that_was_never_written_is_passed_over_when_that_was_seen() {
    let (mut world, id) = trio(706);
    let retention = world.consensus.parameters.retention();
    let mallory = world.people[MALLORY].mail.take().unwrap();
    let parcel = vec![5; 3 * BOX_PLAINTEXT_SIZE];
    let promised = Manifest::of(&parcel, [6; 32]);
    fill_slot(&mut world, &mallory, 0, &promised);
    let (first, _, _) = promised.keys().seal(0, &parcel[..BOX_PLAINTEXT_SIZE]).unwrap();
    let placed = boxes::placement(world.consensus.generation(GENERATION).unwrap(), &first).unwrap();
    let began = world.now;
    world.mail(ALICE).group_rename(&id, "reef crew still").unwrap();
    let fetches = |world: &mut World, who: usize| world.mail(who).memory.blobs_in.len() == 1;
    until(&mut world, "they look for it", |world| [ALICE, BOB].into_iter().all(|who| fetches(world, who)));
    // Bob is away for the rest of it
    world.crash(BOB);
    world.stores.get_mut(&placed[1]).unwrap().down = true;
    world.run(retention / 2);
    assert!(fetches(&mut world, ALICE), "too early: an honest writer may be about to write it again");
    let (part, body, _) = promised.keys().seal(1, &parcel[BOX_PLAINTEXT_SIZE..2 * BOX_PLAINTEXT_SIZE]).unwrap();
    put(&mut world, part, &body);
    until(&mut world, "Alice gives it up", |world| !fetches(world, ALICE));
    let held = world.now.since(began);
    assert!((retention * 3 / 4..retention).contains(&held), "{held:?}");
    // it is back before anybody takes it for gone that decides the next slot
    world.stores.get_mut(&placed[1]).unwrap().down = false;
    let renamed = |world: &mut World, who: usize| group(world, who).unwrap().name == "reef crew still";
    until(&mut world, "Alice goes on", |world| renamed(world, ALICE));
    // who comes back begins to look only now, and follows for all that: there is an end that names the commit of the next slot
    world.restart(BOB);
    world.run(Duration::from_secs(60));
    assert!(!renamed(&mut world, BOB), "he has not seen that it is not there");
    until(&mut world, "Bob goes on", |world| renamed(world, BOB));
    world.people[MALLORY].mail = Some(mallory);
    without_her(&mut world, &id);
}

/// A commit that a copy of Mallory's profile makes, in a slot and at the replicas, in place of whatever was there.
pub(super) fn show_commit(world: &mut World, profile: &Path, slot: u64) -> Hash {
    let mut mail = Mail::open(profile).unwrap();
    let (now, consensus, mut rng) = (world.now, world.consensus.clone(), world.fork());
    let at = conversation(&mail);
    mail.stage_commit(&at, now, &consensus, &mut rng).unwrap();
    let (db, vault) = (&mail.profile.db, &mail.profile.vault);
    let commit = commits::commit_of(db, vault, at.row, at.epoch).unwrap().unwrap();
    let parts = (0..commit.manifest.boxes()).map(|j| blobs_store::part_out(db, vault, commit.blob, j));
    let content: Vec<u8> = parts.flat_map(|part| part.unwrap().unwrap().part.to_vec()).collect();
    let manifest = publish(world, &content);
    fill_slot(world, &mail, slot, &manifest);
    commit_hash(&content)
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let target = to.join(entry.file_name().unwrap());
        if kind.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
}

/// Mallory, and the stores that help her, show Alice one commit and Bob another; both have said so to each other.
fn parted(seed: u64) -> (World, String) {
    let (mut world, id) = trio(seed);
    talk(&mut world, &id, "before");
    world.crash(MALLORY);
    let (dir, copies) = (world.people[MALLORY].dir.clone(), tempfile::TempDir::new().unwrap());
    let [one, other] = ["one", "other"].map(|name| copies.path().join(name));
    copy(&dir, &one);
    copy(&dir, &other);
    let epoch = group(&mut world, ALICE).unwrap().epoch;
    world.crash(BOB);
    let first = show_commit(&mut world, &one, 0);
    until(&mut world, "Alice goes on", |world| group(world, ALICE).is_some_and(|group| group.epoch == epoch + 1));
    // her word of it waits until Bob has gone another way
    let second = show_commit(&mut world, &other, 0);
    assert_ne!(first, second);
    world.crash(ALICE);
    world.restart(BOB);
    until(&mut world, "Bob goes on", |world| group(world, BOB).is_some_and(|group| group.epoch == epoch + 1));
    world.restart(ALICE);
    for (who, whom) in [(ALICE, BOB), (BOB, ALICE)] {
        until(&mut world, "they notice", |world| state_of(world, who, whom) == Some(MemberState::Apart));
        assert!(world.warnings(who).contains(&"member_astray"));
        assert!(!group(&mut world, who).unwrap().broken, "one liar breaks nothing");
    }
    (world, id)
}

#[test]
fn whom_a_liar_has_parted_come_together_when_one_leaves_and_is_added_again() {
    let (mut world, id) = parted(702);
    // each goes on alone: their epochs say nothing of each other
    let epoch = group(&mut world, BOB).unwrap().epoch;
    for name in ["this way", "that way"] {
        world.mail(BOB).group_rename(&id, name).unwrap();
        until(&mut world, "Bob goes on", |world| group(world, BOB).is_some_and(|group| group.name == name));
    }
    assert!(group(&mut world, BOB).unwrap().epoch > epoch + 1);
    // an invitation alone changes nothing: who says which way is the true one?
    add(&mut world, ALICE, &id, BOB);
    until(&mut world, "he is added", |world| state_of(world, ALICE, BOB) == Some(MemberState::Invited));
    world.run(5 * MINUTE);
    assert_eq!(state_of(&mut world, BOB, ALICE), Some(MemberState::Apart));
    let mut rng = world.fork();
    world.mail(BOB).group_leave(&id, &mut rng).unwrap();
    until(&mut world, "he is brought over", |world| {
        world.accept_group(&id, &[BOB]);
        together(world, &[ALICE, BOB])
    });
    talk(&mut world, &id, "together");
    without_her(&mut world, &id);
}

#[test]
fn who_leaves_first_is_added_again_as_well() {
    let (mut world, id) = parted(703);
    world.send(BOB, &id, "into the void");
    let mut rng = world.fork();
    let left = world.mail(BOB).group_leave(&id, &mut rng).unwrap();
    assert_eq!(left.standing, Standing::Left);
    world.run(MINUTE);
    add(&mut world, ALICE, &id, BOB);
    until(&mut world, "he is brought over", |world| {
        world.accept_group(&id, &[BOB]);
        together(world, &[ALICE, BOB])
    });
    talk(&mut world, &id, "together");
    assert!(!world.texts(ALICE).contains(&"into the void".to_owned()), "it was for those who were there");
}
