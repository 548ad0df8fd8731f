//! Commits as a member may make them and must not: what counts, what is skipped, and what an old state can read.

use super::fetching::Fetched;
use super::flight::{Flight, Purpose as Aim};
use super::malice::{Scene, text};
use super::*;
use crate::blobs::Manifest;
use crate::commit_slots::{SlotKeys, commit_hash};
use crate::commits::{self, OwnCommit, Parcel};
use crate::commits_mls::{self, Applied};
use crate::conversations::Conversation;
use crate::conversations_mls;
use crate::group_epochs;
use crate::leaves_mls::OwnLeaf;
use crate::records::{Content, NO_MARK, Record, Seen};
use openmls::credentials::NewSignerBundle;
use openmls::prelude::LeafNodeParameters;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::boxes::{BoxBody, WriteKey};
use shoal_protocol::inbox::{InboxKey, InboxPublic};
use shoal_protocol::request::{Answer, Status};
use shoal_protocol::{Hash, StoreIndex};
use std::time::Duration;

pub(super) fn conversation(mail: &Mail) -> Conversation {
    conversations::all(&mail.profile.db, &mail.profile.vault).unwrap().remove(0)
}

/// A member stages a commit: its row, and its bytes.
fn stage(scene: &mut Scene, who: fn(&mut Scene) -> &mut Mail) -> (OwnCommit, Vec<u8>) {
    let (now, consensus) = (scene.now, scene.consensus.clone());
    let mut rng = StdRng::from_rng(&mut scene.rng);
    let mail = who(scene);
    let at = conversation(mail);
    mail.stage_commit(&at, now, &consensus, &mut rng).unwrap();
    let mail = who(scene);
    let (db, vault) = (&mail.profile.db, &mail.profile.vault);
    let commit = commits::commit_of(db, vault, at.row, at.epoch).unwrap().unwrap();
    let parts =
        (0..commit.manifest.boxes()).map(|j| blobs_store::part_out(db, vault, commit.blob, j).unwrap().unwrap());
    let bytes = parts.flat_map(|stored| stored.part.to_vec()).collect();
    (commit, bytes)
}

fn bob(scene: &mut Scene) -> &mut Mail {
    &mut scene.bob
}

fn mallory(scene: &mut Scene) -> &mut Mail {
    &mut scene.mallory
}

/// Bob reads a slot of his group's epoch; only the first replica has something.
fn read_slot(scene: &mut Scene, slot: u64, body: &BoxBody) {
    let at = conversation(&scene.bob);
    let replicas = [StoreIndex(0), StoreIndex(1)];
    let found = Answer { status: Status::Found, number: 0, body: Some(body.clone()) };
    let answers = Answers { replicas, by_replica: [Some(found), Some(Answer::plain(Status::Empty))] };
    let purpose = Aim::GetSlot { conversation: at.row, epoch: at.epoch, slot };
    let flight = Flight { purpose, placement: replicas, since: scene.now };
    let place = (at.row, at.epoch, slot);
    scene.bob.slot_read(place, &flight, Some(&answers), scene.now, &scene.consensus, &mut scene.rng).unwrap();
}

/// Bob reads his slot and learns nothing but this of the two replicas; those behind it, when he looks there, are empty.
fn miss_slot(scene: &mut Scene, said: [Option<Status>; 2]) {
    let at = conversation(&scene.bob);
    let replicas = [StoreIndex(0), StoreIndex(1)];
    let mut said = said;
    loop {
        let slot = scene.bob.memory.slots[&at.row].next();
        let answers = Answers { replicas, by_replica: said.map(|status| status.map(Answer::plain)) };
        let purpose = Aim::GetSlot { conversation: at.row, epoch: at.epoch, slot };
        let flight = Flight { purpose, placement: replicas, since: scene.now };
        let place = (at.row, at.epoch, slot);
        scene.bob.slot_read(place, &flight, Some(&answers), scene.now, &scene.consensus, &mut scene.rng).unwrap();
        if scene.bob.memory.slots[&at.row].next() == slot_of(scene) {
            return;
        }
        said = [Some(Status::Empty); 2];
    }
}

/// Mallory's chain is read to its end: both replicas say so.
fn hear(scene: &mut Scene) {
    let now = scene.now;
    scene.bob.memory.readers.values_mut().for_each(|chain| chain.heard_at = Some(now));
}

/// Time goes by, and the slot is read sixteen times meanwhile; each time this is said of it.
fn miss_for(scene: &mut Scene, time: Duration, said: [Option<Status>; 2]) {
    for _ in 0..16 {
        scene.now = scene.now.plus(time / 16);
        miss_slot(scene, said);
    }
}

#[test]
fn a_slot_whose_deciding_store_is_dead_is_given_up_in_time() {
    let mut scene = Scene::new(53);
    scene.acquaint();
    let (own, _) = stage(&mut scene, bob);
    let quarter = scene.consensus.parameters.retention() / 4;
    let dead = [None, Some(Status::Empty)];
    miss_slot(&mut scene, dead);
    miss_for(&mut scene, quarter / 2, dead);
    miss_slot(&mut scene, [Some(Status::Empty), None]);
    miss_for(&mut scene, quarter * 19 / 20, dead);
    assert_eq!(slot_of(&scene), 0, "it was heard in between");
    scene.bob.reload().unwrap();
    miss_for(&mut scene, quarter / 8, [None, None]);
    assert_eq!(slot_of(&scene), 0, "perhaps we are offline");
    miss_slot(&mut scene, dead);
    assert_eq!(slot_of(&scene), 1);
    let moved = commits::commit(&scene.bob.profile.db, &scene.bob.profile.vault, own.row).unwrap().unwrap();
    assert_eq!((moved.slot, moved.merged), (1, false));
}

/// Two answers that are lost, one before and one after a night, say nothing of the night.
#[test]
fn a_store_is_not_mute_while_nobody_asks_it() {
    let mut scene = Scene::new(56);
    scene.acquaint();
    stage(&mut scene, bob);
    let half = scene.consensus.parameters.retention() / 2;
    for _ in 0..3 {
        miss_slot(&mut scene, [None, Some(Status::Empty)]);
        scene.now = scene.now.plus(half);
        scene.bob.reload().unwrap();
    }
    assert_eq!(slot_of(&scene), 0);
}

/// Where nobody has anything to follow a slot is not given up: who was away would not learn of it, and fill it.
#[test]
fn a_slot_is_given_up_only_for_a_commit() {
    let mut scene = Scene::new(57);
    scene.acquaint();
    let retention = scene.consensus.parameters.retention();
    let dead = [None, Some(Status::Empty)];
    miss_slot(&mut scene, dead);
    miss_for(&mut scene, retention / 2, dead);
    assert_eq!(slot_of(&scene), 0);
    stage(&mut scene, bob);
    miss_slot(&mut scene, dead);
    assert_eq!(slot_of(&scene), 1);
}

#[test]
fn who_was_away_for_long_watches_a_slot_before_writing_to_it() {
    let mut scene = Scene::new(54);
    scene.acquaint();
    let (own, _) = stage(&mut scene, bob);
    let put = |scene: &mut Scene| {
        scene.bob.want_commit(own.row, scene.now, &scene.consensus, &mut scene.rng).unwrap().is_some()
    };
    let empty = [Some(Status::Empty), Some(Status::Empty)];
    assert!(!put(&mut scene), "nobody knows when the Welcome was written");
    hear(&mut scene);
    miss_slot(&mut scene, empty);
    miss_slot(&mut scene, empty);
    assert!(put(&mut scene));
    let quarter = scene.consensus.parameters.retention() / 4;
    scene.now = scene.now.plus(quarter * 7 / 2);
    assert!(!put(&mut scene), "another commit may have been there, and expired");
    hear(&mut scene);
    miss_slot(&mut scene, empty);
    assert!(!put(&mut scene), "empty now says nothing of before");
    miss_for(&mut scene, quarter * 9 / 10, empty);
    assert!(!put(&mut scene));
    miss_for(&mut scene, quarter / 5, empty);
    assert!(put(&mut scene), "who committed would have written the slot again");
}

/// The others may have passed over the slot meanwhile: their chains are read first. One that cannot be read holds nobody up for
/// ever, whoever is there for an hour in the evening either; and a lid that was closed begins it anew.
#[test]
fn who_comes_back_hears_the_others_before_writing_to_a_slot() {
    let mut scene = Scene::new(58);
    scene.acquaint();
    let (own, _) = stage(&mut scene, bob);
    let put = |scene: &mut Scene| {
        scene.bob.want_commit(own.row, scene.now, &scene.consensus, &mut scene.rng).unwrap().is_some()
    };
    let retention = scene.consensus.parameters.retention();
    let empty = [Some(Status::Empty), Some(Status::Empty)];
    miss_slot(&mut scene, empty);
    hear(&mut scene);
    // the lid is closed
    scene.now = scene.now.plus(retention / 8);
    miss_slot(&mut scene, empty);
    assert!(!put(&mut scene), "what was heard before it says nothing of the time since");
    hear(&mut scene);
    miss_slot(&mut scene, empty);
    assert!(put(&mut scene), "heard, and nothing lies behind it");
    // away again, and this time the chain cannot be read
    let mut evenings = 0;
    while !put(&mut scene) || evenings == 0 {
        scene.now = scene.now.plus(retention / 14);
        scene.bob.reload().unwrap();
        miss_slot(&mut scene, empty);
        for _ in 0..3 {
            scene.now = scene.now.plus(retention / 1_000);
            miss_slot(&mut scene, empty);
        }
        evenings += 1;
        assert!(evenings < 6, "somebody who has an hour each evening never commits");
    }
}

/// The blob that Bob fetches has come.
fn deliver(scene: &mut Scene, content: &[u8]) {
    let row = *scene.bob.memory.blobs_in.keys().next().unwrap();
    let (db, vault) = (&scene.bob.profile.db, &scene.bob.profile.vault);
    for (j, part) in (0..).zip(content.chunks(shoal_protocol::geometry::BOX_PLAINTEXT_SIZE)) {
        blobs_store::insert_part(db, vault, row, j, part).unwrap();
    }
    scene.bob.end_blob(row, Fetched::Whole, scene.now, &mut scene.rng).unwrap();
}

fn slot_of(scene: &Scene) -> u64 {
    let at = conversation(&scene.bob);
    let epoch = group_epochs::of(&scene.bob.profile.db, &scene.bob.profile.vault, at.row, at.epoch).unwrap();
    epoch.unwrap().slot
}

fn keys(scene: &Scene) -> SlotKeys {
    let at = conversation(&scene.mallory);
    let epoch = group_epochs::of(&scene.mallory.profile.db, &scene.mallory.profile.vault, at.row, at.epoch).unwrap();
    SlotKeys::new(&epoch.unwrap().secret)
}

#[test]
fn what_is_no_commit_of_a_member_is_skipped_and_the_own_one_moves_on() {
    let mut scene = Scene::new(50);
    scene.acquaint();
    let (own, _) = stage(&mut scene, bob);
    assert_eq!((own.slot, slot_of(&scene)), (0, 0));
    let at = conversation(&scene.bob);
    let moved = |scene: &Scene| {
        commits::commit(&scene.bob.profile.db, &scene.bob.profile.vault, own.row).unwrap().unwrap().slot
    };
    // a body that no member sealed, at the replica that decides, and nothing at the other
    let garbage = BoxBody::random(&mut scene.rng);
    read_slot(&mut scene, 0, &garbage);
    assert_eq!((slot_of(&scene), moved(&scene)), (1, 1));
    // sealed by a member, and no entry
    let slots = keys(&scene);
    let (writer, chain) = shoal_protocol::boxes::commit_keys(
        &group_epochs::of(&scene.bob.profile.db, &scene.bob.profile.vault, at.row, at.epoch).unwrap().unwrap().secret,
    );
    let id = shoal_protocol::boxes::id(&writer.public(), &chain, 1);
    let body = shoal_protocol::boxes::seal(&chain, 1, &id, b"junk", &mut scene.rng).unwrap();
    read_slot(&mut scene, 1, &body);
    assert_eq!((slot_of(&scene), moved(&scene)), (2, 2));
    // an entry that its leaf did not sign for this slot
    let (theirs, bytes) = stage(&mut scene, mallory);
    let forged = crate::commit_slots::Entry::new(0, theirs.manifest.clone(), [7; 64]);
    let body = slots.seal(2, &forged, &mut scene.rng).unwrap();
    read_slot(&mut scene, 2, &body);
    assert_eq!((slot_of(&scene), moved(&scene)), (3, 3));
    // signed, but what it names is no commit
    let their_conversation = conversation(&scene.mallory);
    let junk = Manifest::of(b"no commit", [9; 32]);
    let mallory = &scene.mallory;
    let body = mallory.seal_entry(&mallory.profile.db, &their_conversation, &slots, 3, &junk, &mut scene.rng).unwrap();
    read_slot(&mut scene, 3, &body);
    deliver(&mut scene, b"no commit");
    assert_eq!((slot_of(&scene), moved(&scene)), (4, 4));
    assert!(scene.bob.memory.blobs_in.is_empty());
    // and the real one counts: the own one gives way
    let mallory = &scene.mallory;
    let body =
        mallory.seal_entry(&mallory.profile.db, &their_conversation, &slots, 4, &theirs.manifest, &mut scene.rng);
    read_slot(&mut scene, 4, &body.unwrap());
    deliver(&mut scene, &bytes);
    assert_eq!(conversation(&scene.bob).epoch, at.epoch + 1);
    assert!(commits::commit(&scene.bob.profile.db, &scene.bob.profile.vault, own.row).unwrap().is_none());
    assert!(!conversation(&scene.bob).broken);
}

/// Every member can seal what lies in a slot anew. What counts is what its committer signed: nobody stops over it.
#[test]
fn an_own_entry_that_somebody_sealed_anew_is_the_own_one() {
    let mut scene = Scene::new(59);
    scene.acquaint();
    let epoch = conversation(&scene.bob).epoch;
    let (own, _) = stage(&mut scene, bob);
    let slots = keys(&scene);
    let entry = crate::commit_slots::Entry::from_bytes(&slots.open(0, &own.body).unwrap()).unwrap();
    let anew = slots.seal(0, &entry, &mut scene.rng).unwrap();
    assert!(anew != own.body);
    read_slot(&mut scene, 0, &anew);
    assert_eq!(conversation(&scene.bob).epoch, epoch + 1, "it has won");
    assert!(scene.bob.rolled_back.is_none());
}

#[test]
fn a_commit_that_the_other_has_passed_over_is_passed_over() {
    let mut scene = Scene::new(55);
    scene.acquaint();
    let epoch = conversation(&scene.bob).epoch;
    let (theirs, bytes) = stage(&mut scene, mallory);
    let other = Content::End { commit: Hash::from_bytes([3; 32]) };
    let end = scene.write(Seen::default(), other);
    scene.read(&end);
    read_slot(&mut scene, 0, &theirs.body);
    deliver(&mut scene, &bytes);
    assert_eq!((slot_of(&scene), conversation(&scene.bob).epoch), (1, epoch), "the one that was named may lie there");
    assert!(!conversation(&scene.bob).broken);
    // an own one is not written there either: it would win where nobody looks
    let own = stage(&mut scene, bob).0;
    assert!(scene.bob.want_commit(own.row, scene.now, &scene.consensus, &mut scene.rng).unwrap().is_none());
}

#[test]
fn an_end_that_names_another_commit_breaks_the_conversation_and_nothing_else() {
    let mut scene = Scene::new(51);
    scene.acquaint();
    let end = scene.write(Seen::default(), Content::End { commit: Hash::from_bytes([3; 32]) });
    let (theirs, bytes) = stage(&mut scene, mallory);
    read_slot(&mut scene, 0, &theirs.body);
    deliver(&mut scene, &bytes);
    assert!(!conversation(&scene.bob).broken, "nothing is known of it yet");
    scene.read(&end);
    assert!(conversation(&scene.bob).broken);
    assert!(scene.warned("conversation_broken"));
    let to = conversation(&scene.bob).id.to_string();
    let sent = scene.bob.send(&to, "lost", scene.now, &mut scene.rng);
    assert!(matches!(sent, Err(MailError::Broken(_))));
    scene.bob.reload().unwrap();
    scene.ticks(50);
    assert!(scene.bob.memory.readers.is_empty() && scene.bob.memory.slots.is_empty());
}

#[test]
fn an_old_state_reads_nothing_after_its_owner_committed() {
    let mut scene = Scene::new(52);
    scene.acquaint();
    // who seizes Bob's disk now reads what comes in this epoch ...
    let path = scene.bob.dir().join("seized.db");
    scene.bob.profile.db.execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
    let copy = rusqlite::Connection::open(path).unwrap();
    let id = conversation(&scene.bob).id.0;
    let leaf = conversations_mls::testing::peer_leaf(&provider(&scene.bob.profile, &scene.bob.crypto, &copy), &id);
    let seal = |scene: &Scene, n| {
        let record = Record { seen: Vec::new(), mark: NO_MARK, content: text(n, 0) };
        let provider = provider(&scene.mallory.profile, &scene.mallory.crypto, &scene.mallory.profile.db);
        conversations_mls::seal(&provider, &id, &record.to_bytes()).unwrap()
    };
    let open = |scene: &Scene, db: &rusqlite::Connection, message: &[u8]| {
        let provider = provider(&scene.bob.profile, &scene.bob.crypto, db);
        conversations_mls::open(&provider, &id, leaf, message).is_ok()
    };
    let before = seal(&scene, 1);
    assert!(open(&scene, &copy, &before));
    // ... and loses it with Bob's commit, which the old state cannot apply
    let (own, bytes) = stage(&mut scene, bob);
    scene.bob.won(own.row, scene.now, &mut scene.rng).unwrap();
    let theirs = &scene.mallory;
    let commit = Parcel::from_bytes(&bytes).unwrap().commit;
    let applied = commits_mls::apply(
        &provider(&theirs.profile, &theirs.crypto, &theirs.profile.db),
        &theirs.profile.own,
        &id,
        1 - leaf,
        &commit,
    )
    .unwrap();
    let Applied::On(applied) = applied else { panic!("nobody is removed") };
    assert_eq!(commit_hash(&bytes), own.hash);
    let after = seal(&scene, 2);
    let stolen = commits_mls::apply(
        &provider(&scene.bob.profile, &scene.bob.crypto, &copy),
        &scene.bob.profile.own,
        &id,
        1 - leaf,
        &commit,
    );
    assert!(stolen.is_err());
    assert!(!open(&scene, &copy, &after));
    assert!(open(&scene, &scene.bob.profile.db, &after));
    // neither the write key nor the epoch's secret of the old state says where the boxes are
    let writer: WriteKey = own.writer;
    assert_eq!(applied.begun.others[0].writer, writer.public());
    assert_ne!(
        conversations_mls::testing::exported(&provider(&scene.bob.profile, &scene.bob.crypto, &copy), &id),
        *applied.begun.exported
    );
}

/// A commit of Mallory's whose leaf is under another inbox key, which says that it succeeds another.
pub(super) fn usurped(
    mallory: &Mail,
    key: &InboxKey,
    succeeds: Option<&(InboxPublic, [u8; 64])>,
    rng: &mut StdRng,
) -> (u32, Vec<u8>) {
    let id = conversation(mallory).id.0;
    let transaction = mallory.profile.db.unchecked_transaction().unwrap();
    let provider = provider(&mallory.profile, &mallory.crypto, &transaction);
    let mut group = conversations_mls::load(&provider, &id).unwrap();
    let signer = conversations_mls::own_signer(&provider, &group).unwrap();
    let writer = WriteKey::generate(rng);
    let leaf = OwnLeaf::new(&provider, key, succeeds, &writer, rng).unwrap();
    let renewed = NewSignerBundle { signer: &leaf.signer, credential_with_key: leaf.credential };
    let parameters = LeafNodeParameters::builder().with_extensions(leaf.extensions).build();
    let bundle = group.commit_builder().force_self_update(true).leaf_node_parameters(parameters);
    let bundle = bundle
        .load_psks(openmls_traits::OpenMlsProvider::storage(&provider))
        .unwrap()
        .build_with_new_signer(
            openmls_traits::OpenMlsProvider::rand(&provider),
            openmls_traits::OpenMlsProvider::crypto(&provider),
            &signer,
            renewed,
            |_| true,
        )
        .unwrap()
        .stage_commit(&provider)
        .unwrap();
    let at = group.own_leaf_index().u32();
    let (commit, ..) = bundle.into_messages();
    (at, tls_codec::Serialize::tls_serialize_detached(&commit).unwrap())
}

#[test]
fn a_leaf_changes_its_owner_only_when_the_one_before_has_signed_it() {
    let mut scene = Scene::new(55);
    scene.acquaint();
    let (old, next) = (scene.mallory.profile.own.current().clone(), InboxKey::generate(&mut scene.rng));
    let thief = InboxKey::generate(&mut scene.rng);
    let id = conversation(&scene.bob).id.0;
    let cases = [
        ("no word of the owner so far", None, false),
        ("somebody else's word", Some((old.public(), thief.sign_succession(&next.public()))), false),
        ("a word for another key", Some((old.public(), old.sign_succession(&thief.public()))), false),
        (
            "a word of somebody who never was in it",
            Some((thief.public(), thief.sign_succession(&next.public()))),
            false,
        ),
        ("the owner's word", Some((old.public(), old.sign_succession(&next.public()))), true),
    ];
    for (what, succeeds, counts) in cases {
        let (leaf, commit) = usurped(&scene.mallory, &next, succeeds.as_ref(), &mut scene.rng);
        let bob = &scene.bob;
        let transaction = bob.profile.db.unchecked_transaction().unwrap();
        let provider = provider(&bob.profile, &bob.crypto, &transaction);
        match commits_mls::apply(&provider, &bob.profile.own, &id, leaf, &commit) {
            Ok(Applied::On(led)) => {
                assert!(counts, "{what}");
                assert_eq!((led.moved, led.begun.others[0].inbox), (vec![leaf], next.public()));
            }
            Err(GroupError::Refused(why)) => assert!(!counts, "{what}: {why}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}
