//! Tests of a reader that follows a chain whose authorities change.

use super::*;
use crate::authority::AuthoritySecret;
use crate::certificate::MAX_AUTHORITIES;
use crate::consensus::testing::{self, NETWORK};
use crate::consensus::{Consensus, certify, changes_after};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

fn secrets(seeds: std::ops::Range<u64>) -> Vec<AuthoritySecret> {
    let mut secrets: Vec<_> = seeds.map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))).collect();
    secrets.sort_by_key(|secret| secret.public().identity);
    secrets
}

fn keys(secrets: &[AuthoritySecret]) -> Vec<AuthorityKey> {
    secrets.iter().map(|secret| secret.public().clone()).collect()
}

/// The document of `height` after the one with hash `previous`, certified by `by`; `next` certifies the one after.
fn document(height: u64, previous: Hash, by: &[AuthoritySecret], next: &[AuthoritySecret]) -> (Vec<u8>, Consensus) {
    let mut document = testing::consensus(1, 1, 3);
    document.height = height;
    document.previous = previous;
    document.authorities = keys(next);
    // the same keys in every epoch: only the chain matters here
    let later = height - 1;
    let shift = later * document.parameters.epoch_ms;
    document.epoch = document.epoch.plus(later);
    document.valid_from.0 += shift;
    document.valid_until.0 += shift;
    for node in &mut document.nodes {
        node.mix_keys.iter_mut().chain(&mut node.envelope_keys).for_each(|(epoch, _)| *epoch = epoch.plus(later));
    }
    let signers: Vec<_> = (0..).zip(by).collect();
    (certify(&document, 0, &signers), document)
}

/// Six documents; the set changes in the second and in the fourth.
struct Chain {
    documents: Vec<(Vec<u8>, Consensus)>,
    sets: [Vec<AuthoritySecret>; 3],
}

impl Chain {
    fn new() -> Self {
        let sets = [secrets(0..4), secrets(2..6), secrets(10..11)];
        let [a, b, c] = &sets;
        let mut documents: Vec<(Vec<u8>, Consensus)> = Vec::new();
        for (by, next) in [(a, a), (a, b), (b, b), (b, c), (c, c), (c, c)] {
            let previous = documents.last().map_or(NETWORK, |(_, document)| document.hash());
            documents.push(document(documents.len() as u64 + 1, previous, by, next));
        }
        Self { documents, sets }
    }

    fn follower(&self) -> Follower {
        Follower::new(TrustAnchor { network: NETWORK, authorities: keys(&self.sets[0]) })
    }

    fn offer(&self, follower: &mut Follower, height: usize) -> Result<Offered, DocumentError> {
        let (bytes, document) = &self.documents[height - 1];
        follower.offer(bytes, document.valid_from)
    }

    fn bytes(&self, heights: &[usize]) -> Vec<Vec<u8>> {
        heights.iter().map(|height| self.documents[height - 1].0.clone()).collect()
    }
}

#[test]
fn who_takes_every_document_follows_every_change() {
    let chain = Chain::new();
    let mut follower = chain.follower();
    assert_eq!(follower.height(), 0);
    for height in 1..=6 {
        assert!(matches!(chain.offer(&mut follower, height), Ok(Offered::Newer(_))), "height {height}");
        assert_eq!(chain.offer(&mut follower, height), Ok(Offered::Known), "also where the set changed");
        assert_eq!(follower.height(), height as u64);
    }
    assert_eq!(follower.anchor().authorities, keys(&chain.sets[2]));
    assert!(chain.offer(&mut follower, 5).is_err());
}

#[test]
fn who_was_away_is_led_by_the_changes() {
    let chain = Chain::new();
    for from in 0..=3 {
        let mut follower = chain.follower();
        for height in 1..=from {
            chain.offer(&mut follower, height).expect("follows");
        }
        let refused = chain.offer(&mut follower, 6).expect_err("an unknown set");
        assert!(refused.may_be_another_set(), "{refused}");
        let changes = chain.bytes(&[2, 4]);
        let led = follower.advance(&changes).map_err(|error| error.to_string());
        match from {
            0 | 1 => assert_eq!(led, Ok(2)),
            2 => assert_eq!(led, Ok(1), "the second is known"),
            // it asked for what comes after height 3
            _ => assert_eq!(follower.advance(&changes[1..]), Ok(1)),
        }
        assert_eq!(follower.height(), 4);
        assert!(matches!(chain.offer(&mut follower, 6), Ok(Offered::Newer(_))), "from {from}");
    }
}

#[test]
fn the_set_believed_says_which_changes_lead_on() {
    let chain = Chain::new();
    let mut everything = chain.follower();
    let documents: Vec<_> = (1..=6)
        .map(|height| match chain.offer(&mut everything, height) {
            Ok(Offered::Newer(document)) => std::sync::Arc::new(*document),
            other => panic!("{other:?}"),
        })
        .collect();
    let changes = [documents[1].clone(), documents[3].clone()];
    let genesis = keys(&chain.sets[0]);
    for (from, expected) in [(0, 2), (1, 2), (2, 1), (3, 1), (4, 0), (5, 0)] {
        let mut follower = chain.follower();
        for height in 1..=from {
            chain.offer(&mut follower, height).expect("follows");
        }
        let leading = changes_after(&genesis, &changes, &follower.set()).expect("a set of this chain");
        assert_eq!(leading.len(), expected, "from {from}");
        let leading: Vec<_> = leading.iter().map(|document| document.bytes()).collect();
        assert_eq!(follower.advance(&leading), Ok(expected));
        assert!(matches!(chain.offer(&mut follower, 6), Ok(Offered::Newer(_))), "from {from}");
    }
    assert!(changes_after(&genesis, &changes, &set_hash(&keys(&secrets(7..9)))).is_none());
    // a set that is in force again leads on from its last time: the shorter way, and good for both
    let back = |by, next| document(7, documents[5].hash(), by, next);
    let (bytes, _) = back(&chain.sets[2], &chain.sets[0]);
    let Ok(parsed) = UnverifiedConsensus::parse(&bytes) else { panic!("a document") };
    let back = parsed.verify_any_time(&everything.anchor()).expect("certified");
    let changes = [changes.as_slice(), &[std::sync::Arc::new(back)]].concat();
    assert_eq!(changes_after(&genesis, &changes, &set_hash(&genesis)).map(<[_]>::len), Some(0));
    assert_eq!(changes_after(&genesis, &changes, &set_hash(&keys(&chain.sets[1]))).map(<[_]>::len), Some(2));
}

#[test]
fn a_change_that_is_the_newest_can_still_be_taken() {
    let chain = Chain::new();
    let mut follower = chain.follower();
    chain.offer(&mut follower, 1).expect("follows");
    assert_eq!(follower.advance(&chain.bytes(&[2, 4])), Ok(2));
    assert!(matches!(chain.offer(&mut follower, 4), Ok(Offered::Newer(_))), "seen is not taken");
    assert_eq!(chain.offer(&mut follower, 4), Ok(Offered::Known));
}

#[test]
fn forged_skip_chains_lead_nowhere() {
    let chain = Chain::new();
    let [a, b, c] = &chain.sets;
    let mut follower = chain.follower();
    chain.offer(&mut follower, 1).expect("follows");
    let before = follower.newest();
    let first = chain.documents[0].1.hash();
    let refused = |changes: &[Vec<u8>]| {
        let mut follower = follower.clone();
        let refused = follower.advance(changes).is_err();
        assert_eq!(follower.newest(), before);
        refused
    };
    assert!(refused(&chain.bytes(&[4])), "not certified by the set known");
    assert!(refused(&[document(2, first, &a[..2], c).0]), "by too few of it");
    assert!(refused(&[document(2, first, b, c).0]), "by others");
    assert!(refused(&[document(3, first, c, c).0]), "by itself");
    assert!(refused(&[document(2, NETWORK, a, c).0]), "after another document");
    assert!(refused(&[document(1, NETWORK, a, c).0]), "a second first one");
    assert!(refused(&[document(2, first, a, a).0]), "changes nothing");
    assert!(refused(&[b"junk".to_vec()]));
    // a true step followed by a false one leads as far as it is true
    let half = [chain.bytes(&[2]), vec![document(4, first, c, c).0]].concat();
    assert!(follower.advance(&half).is_err());
    assert_eq!(follower.height(), 2);
    assert_eq!(follower.anchor().authorities, keys(b));
}

#[test]
fn two_documents_of_one_height_are_a_conflict_also_where_the_set_changes() {
    let chain = Chain::new();
    let [a, b, _] = &chain.sets;
    let mut follower = chain.follower();
    chain.offer(&mut follower, 1).expect("follows");
    chain.offer(&mut follower, 2).expect("follows");
    let (fork, twin) = document(2, NETWORK, a, b);
    assert!(matches!(follower.offer(&fork, twin.valid_from), Err(DocumentError::Conflict { .. })));
    let (fork, twin) = document(3, NETWORK, b, b);
    assert!(matches!(follower.offer(&fork, twin.valid_from), Err(DocumentError::Conflict { .. })));
    assert!(matches!(follower.advance(&[document(2, NETWORK, a, b).0]), Err(DocumentError::Conflict { .. })));
}

/// Anybody can write a document that contradicts the newest; that nobody certified it, or strangers did, is said first:
/// who is told of a contradiction stops, and keeps it as evidence against the authorities.
#[test]
fn what_nobody_certified_is_no_conflict() {
    let chain = Chain::new();
    let [a, b, c] = &chain.sets;
    for held in 1..=4 {
        let mut follower = chain.follower();
        for height in 1..=held {
            chain.offer(&mut follower, height).expect("follows");
        }
        let mut unsigned = chain.documents[held - 1].1.clone();
        unsigned.previous = Hash::from_bytes([7; 32]);
        let height = held as u64;
        for next in [&unsigned, &Consensus { height: height + 1, ..unsigned.clone() }] {
            let said = follower.advance(&[certify(next, 0, &[])]);
            assert!(matches!(said, Err(DocumentError::Unsigned)), "held {held}: {said:?}");
        }
        for signers in [a, b, c] {
            let (forged, _) = document(height, Hash::from_bytes([7; 32]), &signers[..1], a);
            let said = follower.advance(&[forged]);
            assert!(!matches!(said, Ok(_) | Err(DocumentError::Conflict { .. })), "held {held}: {said:?}");
        }
        assert_eq!(follower.height(), height);
    }
}

#[test]
fn an_own_copy_guards_after_a_restart() {
    let chain = Chain::new();
    for height in 1..=5 {
        let mut follower = chain.follower();
        let own = &chain.documents[height - 1].0;
        assert_eq!(follower.resume(own).map(|document| document.height), Ok(height as u64));
        assert_eq!(chain.offer(&mut follower, height), Ok(Offered::Known));
        assert!(matches!(chain.offer(&mut follower, height + 1), Ok(Offered::Newer(_))), "height {height}");
        assert!(chain.offer(&mut follower, height).is_err());
    }
    let mut follower = chain.follower();
    assert!(follower.resume(b"rubbish").is_err());
    let mut elsewhere = Follower::new(TrustAnchor { network: Hash::from_bytes([9; 32]), ..chain.follower().anchor() });
    assert!(matches!(elsewhere.resume(&chain.documents[0].0), Err(DocumentError::WrongNetwork { .. })));
    assert_eq!((follower.height(), elsewhere.height()), (0, 0));
}

#[test]
fn an_answer_has_room_for_a_change_of_the_largest_set() {
    // a change with 64 authorities and their certificate, over a document of 1,000 nodes: below half an answer
    let change = crate::authority::HYBRID_SIGNATURE_SIZE * MAX_AUTHORITIES + 1352 * MAX_AUTHORITIES + 400_000;
    assert!(change < crate::link::ANSWER_SIZE_MAX, "{change}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_bent_leads_on(at: prop::sample::Index, bit in 0u8..8) {
        let chain = Chain::new();
        let mut follower = chain.follower();
        let mut bytes = chain.documents[1].0.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(follower.advance(&[bytes.as_slice()]).is_err());
        prop_assert!(follower.offer(&bytes, chain.documents[1].1.valid_from).is_err());
        prop_assert_eq!(follower.height(), 0);
    }
}
