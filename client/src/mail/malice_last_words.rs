//! What a client that has stopped still says, wherever it crashes.

use super::malice::Scene;
use super::malice_forks::{accepted, document, says, send};
use super::*;
use crate::conversations_mls;
use crate::records::{Content, PROOF_PART_SIZE, Record};
use shoal_protocol::boxes::{self, BoxBody, BoxId};
use shoal_protocol::consensus::Mark;
use shoal_protocol::request::{Answer, Operation, Status};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the stores have; a box is written once.
type Stores = BTreeMap<BoxId, BoxBody>;

/// Where a crash comes, counted from the proof on.
struct Crash {
    after: usize,
    passed: usize,
}

impl Crash {
    /// Passes a point between two steps; says whether the client crashed there.
    fn may(&mut self, scene: &mut Scene) -> bool {
        let now = self.passed == self.after;
        self.passed += 1;
        if now {
            scene.crash();
        }
        now
    }
}

/// One tick of Bob's; both replicas take what is written.
fn tick(scene: &mut Scene, stores: &mut Stores, crash: &mut Crash) {
    // longer than any pause before a retry
    scene.now = scene.now.plus(Duration::from_secs(5));
    let want = scene.bob.next_want(scene.now, &scene.consensus, &mut scene.rng).unwrap();
    if crash.may(scene) {
        return;
    }
    let Some(want) = want else { return };
    let Operation::Put { id, body, .. } = &want.operation else { panic!("only last words: {want:?}") };
    assert_eq!(stores.entry(*id).or_insert_with(|| body.clone()), body, "a box is sealed once");
    scene.bob.departed(want.ticket).unwrap();
    if crash.may(scene) {
        return;
    }
    let by_replica = [(); 2].map(|()| Some(Answer::plain(Status::Stored)));
    let answers = Answers { replicas: want.replicas, by_replica };
    scene.bob.answered(want.ticket, Some(&answers), scene.now, &scene.consensus, &mut scene.rng).unwrap();
    crash.may(scene);
}

/// The certificate in Bob's boxes, as Mallory reads them.
fn read_by_mallory(scene: &Scene, stores: &Stores) -> Vec<u8> {
    let (bob, mallory) = (&scene.bob.profile, &scene.mallory.profile);
    let theirs = conversations::all(&bob.db, &bob.vault).unwrap().remove(0);
    let own = chains::writing(&bob.db, &bob.vault, theirs.row).unwrap();
    let provider = provider(mallory, &scene.mallory.crypto, &mallory.db);
    let mut certificate = Vec::new();
    for j in 0..own.next {
        let id = own.id(j);
        let sealed = boxes::open(&own.secret, j, &id, stores.get(&id).unwrap()).unwrap();
        let opened = conversations_mls::open(&provider, &theirs.id.0, own.leaf, &sealed).unwrap();
        if let Content::Proof { number, part, .. } = Record::from_bytes(&opened).unwrap().content {
            if number == 0 {
                certificate.clear();
            }
            certificate.extend(part);
        }
    }
    certificate
}

fn owed(scene: &Scene) -> u64 {
    scene.bob.profile.db.query_row("SELECT count(*) FROM proof_owed", [], |row| row.get(0)).unwrap()
}

#[test]
fn they_get_there_wherever_it_crashes() {
    for after in 0.. {
        let mut crash = Crash { after, passed: 0 };
        let (mut scene, newest) = accepted(101);
        let own = document(&scene, 13, 0).certificate().encode();
        let other = document(&scene, 13, 9).certificate().encode();
        send(&mut scene, newest, &other);
        crash.may(&mut scene);
        assert!(scene.bob.network_forked() && scene.bob.owes_last_words());
        let mut stores = Stores::new();
        let mut ticks = 0;
        while scene.bob.owes_last_words() {
            tick(&mut scene, &mut stores, &mut crash);
            ticks += 1;
            assert!(ticks < 200, "crash {after}: it never ends");
        }
        assert_eq!(read_by_mallory(&scene, &stores), own, "crash {after}");
        assert_eq!(owed(&scene), 0);
        // then there is silence, also after a restart
        for _ in 0..2 {
            for _ in 0..20 {
                scene.now = scene.now.plus(Duration::from_secs(5));
                assert!(scene.bob.next_want(scene.now, &scene.consensus, &mut scene.rng).unwrap().is_none());
            }
            scene.crash();
            assert!(scene.bob.network_forked() && !scene.bob.owes_last_words());
        }
        if crash.passed <= after {
            assert!(after > 5, "there were points to crash at: {after}");
            return;
        }
    }
}

#[test]
fn the_files_of_a_proof_are_written_at_the_next_start_if_need_be() {
    let (mut scene, newest) = accepted(102);
    let other = document(&scene, 13, 9).certificate().encode();
    let parts: Vec<_> = other.chunks(PROOF_PART_SIZE).map(<[u8]>::to_vec).collect();
    let count = u8::try_from(parts.len()).unwrap();
    let conflict = scene.bob.dir().join("conflict");
    for (number, part) in (0..).zip(parts) {
        let content = Content::Proof { number, parts: count, part };
        if number + 1 < count {
            says(&mut scene, newest, content);
            // what came of it so far is kept
            scene.crash();
            continue;
        }
        // no folder can be made here: as if the crash came after the commit and before the files
        std::fs::write(&conflict, b"").unwrap();
        let (j, body) = scene.write_under(newest, crate::records::Seen::default(), content);
        let chain = *scene.bob.memory.readers.keys().next().unwrap();
        let found = Answer { status: Status::Found, number: u64::MAX, body: Some(body) };
        let answers = Answers {
            replicas: [0, 1].map(shoal_protocol::StoreIndex),
            by_replica: [Some(found), Some(Answer::plain(Status::Empty))],
        };
        let (now, rng) = (scene.now, &mut scene.rng);
        assert!(scene.bob.box_read(chain, j, Some(&answers), now, &scene.consensus, rng).is_err());
        assert!(scene.bob.network_forked(), "it has stopped all the same");
        std::fs::remove_file(&conflict).unwrap();
    }
    scene.crash();
    assert_eq!(std::fs::read_dir(&conflict).unwrap().count(), 2);
    assert!(scene.bob.network_forked() && scene.bob.owes_last_words());
    // whoever moves the folder away goes on, and what was owed goes out with all else
    std::fs::remove_dir_all(&conflict).unwrap();
    scene.crash();
    assert!(!scene.bob.network_forked() && !conflict.exists());
    assert_eq!(owed(&scene), 1);
}

#[test]
fn nothing_is_owed_for_ever_nor_to_whom_nothing_may_be_said() {
    let stopped = |seed| {
        let (mut scene, newest) = accepted(seed);
        let other = document(&scene, 13, 9).certificate().encode();
        send(&mut scene, newest, &other);
        assert!(scene.bob.owes_last_words());
        scene
    };
    let silent = |scene: &mut Scene| {
        assert!(scene.bob.next_want(scene.now, &scene.consensus, &mut scene.rng).unwrap().is_none());
        assert_eq!((scene.bob.owes_last_words(), owed(scene)), (false, 0));
    };
    let mut scene = stopped(103);
    scene.now = scene.now.plus(scene.consensus.parameters.retention());
    silent(&mut scene);
    let mut scene = stopped(104);
    let mallory = scene.mallory.address();
    scene.bob.block(&mallory, scene.now, &mut scene.rng).unwrap();
    silent(&mut scene);
}

#[test]
fn a_difference_that_is_not_proved_is_owed_a_certificate_over_a_restart() {
    let (mut scene, newest) = accepted(105);
    let lie = Mark { hash: shoal_protocol::Hash::from_bytes([66; 32]), ..newest };
    says(&mut scene, lie, malice::text(1, 0));
    assert_eq!(owed(&scene), 1);
    scene.crash();
    assert!(!scene.bob.owes_last_words(), "it has not stopped");
    scene.ticks(20);
    let owed = scene.bob.memory.owed.values().next().copied().unwrap();
    assert!(owed.sealed.is_some_and(|end| end.boxes >= 2), "{owed:?}");
}
