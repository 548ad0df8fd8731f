//! What a member may claim of its documents, and what that must not do.

use super::malice::{Scene, text};
use super::*;
use crate::conversations_mls;
use crate::marks_heard::Heard;
use crate::records::{Content, NO_MARK, PROOF_PART_SIZE, PROOF_PARTS_MAX, Record, Seen};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::boxes;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{Mark, UnverifiedConsensus, VerifiedConsensus, certify};
use shoal_protocol::{Epoch, Hash};

pub(super) fn document(scene: &Scene, height: u64, twist: u8) -> VerifiedConsensus {
    of_epoch(scene, height, height + 28, twist)
}

fn of_epoch(scene: &Scene, height: u64, epoch: u64, twist: u8) -> VerifiedConsensus {
    let mut document = scene.consensus.clone();
    document.height = height;
    document.epoch = Epoch(epoch);
    document.nodes.clear();
    document.randomness = [twist; 32];
    let bytes = certify(&document, 0, &[(0, &scene.authority)]);
    let anchor = scene.bob.network().trust_anchor();
    UnverifiedConsensus::parse(&bytes).unwrap().verify_any_time(&anchor).unwrap()
}

fn hold(scene: &mut Scene, height: u64) -> Mark {
    let document = document(scene, height, 0);
    scene.bob.held(&document, scene.now).unwrap();
    document.mark()
}

pub(super) fn says(scene: &mut Scene, mark: Mark, content: Content) {
    let box_ = scene.write_under(mark, Seen::default(), content);
    scene.read(&box_);
}

pub(super) fn send(scene: &mut Scene, mark: Mark, certificate: &[u8]) {
    let parts: Vec<Vec<u8>> = certificate.chunks(PROOF_PART_SIZE).map(<[u8]>::to_vec).collect();
    let count = u8::try_from(parts.len()).unwrap();
    for (number, part) in (0..).zip(parts) {
        says(scene, mark, Content::Proof { number, parts: count, part });
    }
}

/// Bob and Mallory, whom he has accepted, and documents 12 and 13.
pub(super) fn accepted(seed: u64) -> (Scene, Mark) {
    let mut scene = Scene::new(seed);
    scene.acquaint();
    let mallory = scene.mallory.address();
    scene.bob.accept(&mallory, scene.now, &mut scene.rng).unwrap();
    hold(&mut scene, 12);
    let newest = hold(&mut scene, 13);
    scene.bob.take_events();
    (scene, newest)
}

#[test]
fn a_word_without_proof_warns_and_stops_nobody() {
    let (mut scene, newest) = accepted(81);
    let lie = Mark { hash: Hash::from_bytes([66; 32]), ..newest };
    says(&mut scene, lie, text(1, 0));
    assert!(scene.warned("network_differs"));
    says(&mut scene, lie, text(2, 0));
    assert!(!scene.warned("network_differs"), "once is enough");
    assert!(!scene.bob.network_forked());
    assert_eq!(scene.bob.messages(0, 10).unwrap().len(), 2, "the conversation lives on");
    let dispute = scene.bob.disputes().unwrap().remove(0);
    assert_eq!((dispute.height, dispute.theirs, dispute.ours), (13, lie.hash, Some(newest.hash)));
    scene.ticks(20);
    let sealed = |scene: &Scene| chains::unstored(&scene.bob.profile.db).unwrap().len();
    let first = sealed(&scene);
    // lies go on: no more certificates, no growth
    for n in 3..20 {
        says(&mut scene, lie, text(n, 0));
    }
    scene.ticks(20);
    assert!(sealed(&scene) <= first + 4, "receipts only: {first}, then {}", sealed(&scene));
    // it lasts over a restart
    scene.bob.reload().unwrap();
    assert_eq!(scene.bob.disputes().unwrap().len(), 1);
    // an older document that agrees explains nothing, a later one does
    let older = document(&scene, 12, 0).mark();
    says(&mut scene, older, text(20, 0));
    assert_eq!(scene.bob.disputes().unwrap().len(), 1);
    let later = hold(&mut scene, 14);
    says(&mut scene, later, text(21, 0));
    assert!(scene.warned("network_agrees"));
    assert!(scene.bob.disputes().unwrap().is_empty());
    // a blocked contact is no concern any more
    says(&mut scene, Mark { hash: lie.hash, ..later }, text(22, 0));
    assert_eq!(scene.bob.disputes().unwrap().len(), 1);
    let mallory = scene.mallory.address();
    scene.bob.block(&mallory, scene.now, &mut scene.rng).unwrap();
    assert!(scene.bob.disputes().unwrap().is_empty());
}

#[test]
fn a_fork_that_jumps_heights_is_proved() {
    // documents 12 and 13 of epochs 40 and 41 are held; whose place does the other chain's document take?
    for (seed, (height, epoch, against)) in
        (90..).zip([(1_000, 41, 13), (1_000, 40, 12), (2, 41, 13), (1_000, 39, 13), (12, 41, 12)])
    {
        let (mut scene, newest) = accepted(seed);
        let other = of_epoch(&scene, height, epoch, 9);
        says(&mut scene, other.mark(), text(1, 0));
        assert!(scene.warned("network_differs"), "{height} {epoch}");
        let held = document(&scene, against, 0);
        let dispute = scene.bob.disputes().unwrap().remove(0);
        assert_eq!((dispute.height, dispute.ours), (height, Some(held.hash())), "{epoch}");
        let owed: Vec<u64> = scene.bob.memory.owed.values().map(|owed| owed.height).collect();
        assert_eq!(owed, [against], "the certificate that shows it: {height} {epoch}");
        assert!(!scene.bob.network_forked(), "a word stops nobody");
        send(&mut scene, newest, &other.certificate().encode());
        assert!(scene.bob.network_forked() && scene.warned("conflict"), "{height} {epoch}");
        let conflict = scene.bob.dir().join("conflict");
        let kept = |name: String| Certificate::decode(&std::fs::read(conflict.join(name)).unwrap()).unwrap();
        let pair = [
            kept(format!("held-certificate-{against}-{}", held.hash())),
            kept(format!("other-certificate-{height}-{}", other.hash())),
        ];
        assert!(pair[0].contradicts(&pair[1]));
        let keys = &scene.bob.network().authorities;
        pair.iter().for_each(|certificate| certificate.verify(&scene.consensus.network, keys).unwrap());
    }
    // one that jumped and contradicts nothing so far
    let (mut scene, newest) = accepted(89);
    let later = of_epoch(&scene, 1_000, 42, 9);
    send(&mut scene, newest, &later.certificate().encode());
    says(&mut scene, later.mark(), text(1, 0));
    assert!(!scene.bob.network_forked() && scene.bob.disputes().unwrap().is_empty());
    // until a document of that epoch is held
    hold(&mut scene, 14);
    assert_eq!(scene.bob.disputes().unwrap().len(), 1);
    send(&mut scene, newest, &later.certificate().encode());
    assert!(scene.bob.network_forked());
}

#[test]
fn a_false_proof_is_refused_and_the_conversation_survives() {
    let (mut scene, newest) = accepted(82);
    let (network, lie) = (scene.consensus.network, Mark { hash: Hash::from_bytes([66; 32]), ..newest });
    let mallory = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
    let forged = Certificate::sign(&network, lie, 0, &[(0, &mallory)]).encode();
    let mut rubbish = vec![0; 5_000];
    StdRng::seed_from_u64(2).fill_bytes(&mut rubbish);
    let unsigned = Certificate::sign(&network, lie, 0, &[]).encode();
    for bytes in [&forged, &rubbish, &unsigned] {
        send(&mut scene, newest, bytes);
        assert!(scene.warned("proof_refused"));
    }
    // certificates that prove nothing
    let own = document(&scene, 13, 0).certificate().encode();
    let unknown = document(&scene, 40, 7).certificate().encode();
    for bytes in [&own, &unknown] {
        send(&mut scene, newest, bytes);
        assert!(!scene.warned("proof_refused"));
    }
    assert!(!scene.bob.network_forked() && scene.bob.disputes().unwrap().is_empty());
    assert!(!scene.bob.dir().join("conflict").exists());
    says(&mut scene, newest, text(1, 0));
    assert_eq!(scene.bob.messages(0, 10).unwrap().len(), 1);
}

#[test]
fn parts_count_in_their_order_only_and_do_not_pile_up() {
    let (mut scene, newest) = accepted(83);
    let parts = |scene: &Scene| -> u64 {
        scene.bob.profile.db.query_row("SELECT count(*) FROM proof_in", [], |row| row.get(0)).unwrap()
    };
    for round in 0..3 {
        for number in 0..PROOF_PARTS_MAX - 1 {
            let content = Content::Proof { number, parts: PROOF_PARTS_MAX, part: vec![round; PROOF_PART_SIZE] };
            says(&mut scene, newest, content);
        }
        assert_eq!(parts(&scene), u64::from(PROOF_PARTS_MAX) - 1);
    }
    says(&mut scene, newest, Content::Proof { number: 5, parts: 6, part: vec![1] });
    assert_eq!(parts(&scene), 0, "what does not follow ends what was");
    // a real proof with a part missing is none; the same one whole is
    let real = document(&scene, 13, 9).certificate().encode();
    let pieces: Vec<&[u8]> = real.chunks(PROOF_PART_SIZE).collect();
    assert!(pieces.len() >= 2);
    let count = u8::try_from(pieces.len()).unwrap();
    for number in [1, 0, 0] {
        let part = pieces[usize::from(number)].to_vec();
        says(&mut scene, newest, Content::Proof { number, parts: count, part });
    }
    assert!(!scene.bob.network_forked());
    send(&mut scene, newest, &real);
    assert!(scene.bob.network_forked() && scene.warned("conflict"));
    assert!(scene.bob.dir().join("conflict").exists());
}

#[test]
fn a_stranger_may_say_what_it_likes() {
    let mut scene = Scene::new(84);
    scene.acquaint();
    let newest = hold(&mut scene, 12);
    says(&mut scene, Mark { hash: Hash::from_bytes([66; 32]), ..newest }, text(1, 0));
    let real = document(&scene, 12, 9).certificate().encode();
    send(&mut scene, newest, &real);
    assert!(!scene.bob.network_forked() && scene.bob.disputes().unwrap().is_empty());
    assert_eq!(marks_heard::load_heard(&scene.bob.profile.db, &scene.bob.profile.vault).unwrap().len(), 0);
    assert!(scene.bob.memory.heard.values().all(|heard| *heard == Heard::default()));
    assert_eq!(scene.bob.messages(0, 10).unwrap().len(), 1);
}

/// The mark in the last record that Bob has sealed, as Mallory reads it.
fn last_mark(scene: &mut Scene) -> Mark {
    let (bob, mallory) = (&scene.bob.profile, &scene.mallory.profile);
    let theirs = conversations::all(&bob.db, &bob.vault).unwrap().remove(0);
    let transaction = bob.db.unchecked_transaction().unwrap();
    let own = chains::writing(&transaction, &bob.vault, theirs.row).unwrap();
    let rng = &mut scene.rng;
    scene.bob.seal_record(&transaction, &theirs, &own, Content::Receipt, None, rng).unwrap();
    transaction.commit().unwrap();
    let last = "SELECT max(box) FROM box_out WHERE chain = ?1";
    let row: i64 = bob.db.query_row(last, [own.row], |row| row.get(0)).unwrap();
    let out = chains::out_box(&bob.db, row).unwrap().unwrap();
    let sealed = boxes::open(&own.secret, out.j, &own.id(out.j), &out.body).unwrap();
    let provider = provider(mallory, &scene.mallory.crypto, &mallory.db);
    let opened = conversations_mls::open(&provider, &theirs.id.0, own.leaf, &sealed).unwrap();
    Record::from_bytes(&opened).unwrap().mark
}

#[test]
fn what_is_sealed_before_acceptance_says_nothing_of_when() {
    let mut scene = Scene::new(85);
    scene.acquaint();
    let newest = hold(&mut scene, 12);
    assert_eq!(last_mark(&mut scene), NO_MARK);
    let mallory = scene.mallory.address();
    scene.bob.accept(&mallory, scene.now, &mut scene.rng).unwrap();
    assert_eq!(last_mark(&mut scene), newest);
}
