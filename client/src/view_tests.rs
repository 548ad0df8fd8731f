use super::*;
use crate::testing::{START, consensus};
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Consensus, certify};

fn authority() -> AuthoritySecret {
    AuthoritySecret::generate(&mut StdRng::seed_from_u64(77))
}

fn document(epochs_later: u64, previous: u8) -> Consensus {
    let (mut document, _) = consensus(1, 2, 3);
    let shift = epochs_later * document.parameters.epoch_ms;
    document.authorities = vec![authority().public().clone()];
    document.epoch = document.epoch.plus(epochs_later);
    document.height += epochs_later;
    document.previous = Hash::from_bytes([previous; 32]);
    document.valid_from.0 += shift;
    document.valid_until.0 += shift;
    for node in &mut document.nodes {
        node.mix_keys.iter_mut().chain(&mut node.envelope_keys).for_each(|(epoch, _)| *epoch = document.epoch);
    }
    document
}

fn certified(document: &Consensus) -> Vec<u8> {
    certify(document, 0, &[(0, &authority())])
}

fn view() -> View {
    let first = document(0, 2);
    View::new(TrustAnchor { network: first.network, authorities: first.authorities })
}

#[test]
fn newer_documents_are_taken_and_older_ones_never() {
    let mut view = view();
    let first = certified(&document(0, 2));
    assert!(view.in_force(START).is_none());
    assert!(matches!(view.offer(first.clone(), START), Ok(Offer::Newer(_))));
    assert_eq!(view.offer(first.clone(), START), Ok(Offer::Known));
    let second = Consensus { previous: view.held().unwrap().hash(), ..document(1, 2) };
    let later = second.valid_from;
    assert!(matches!(view.offer(certified(&second), later), Ok(Offer::Newer(_))));
    assert!(matches!(view.offer(first, later), Err(DocumentError::Rollback { .. })));
    assert_eq!(view.held().unwrap().epoch, second.epoch);
}

#[test]
fn a_next_document_of_another_chain_is_a_conflict() {
    let mut view = view();
    view.offer(certified(&document(0, 2)), START).unwrap();
    let stranger = document(1, 2);
    let offered = view.offer(certified(&stranger), stranger.valid_from);
    assert!(matches!(offered, Err(DocumentError::Conflict { .. })));
    let later = document(2, 2);
    assert!(matches!(view.offer(certified(&later), later.valid_from), Ok(Offer::Newer(_))), "one was missed");
}

#[test]
fn two_documents_of_one_epoch_are_a_conflict() {
    let mut view = view();
    view.offer(certified(&document(0, 2)), START).unwrap();
    assert!(matches!(view.offer(certified(&document(0, 3)), START), Err(DocumentError::Conflict { .. })));
}

#[test]
fn an_early_document_waits_for_its_epoch() {
    let mut view = view();
    let bytes = certified(&document(1, 2));
    assert_eq!(view.offer(bytes, UnixMillis(START.0 - 60_000)), Ok(Offer::Early { in_ms: 80_000 }));
    let early = view.ripen().unwrap();
    assert_eq!(view.offer(early, UnixMillis(START.0 - 50_000)), Ok(Offer::Early { in_ms: 70_000 }));
    assert!(view.held().is_none());
    let early = view.ripen().unwrap();
    assert!(matches!(view.offer(early, document(1, 2).valid_from), Ok(Offer::Newer(_))));
    assert!(view.ripen().is_none());
}

#[test]
fn an_early_document_can_turn_out_to_contradict() {
    let mut view = view();
    view.offer(certified(&document(1, 3)), UnixMillis(START.0 - 60_000)).unwrap();
    let (first, second) = (certified(&document(1, 3)), certified(&document(1, 2)));
    let offered = view.offer(second.clone(), document(1, 2).valid_from);
    assert!(matches!(offered, Err(DocumentError::Conflict { .. })), "at once, not when it begins");
    assert_eq!(pair(&mut view), Some((first.clone(), second.clone())));
    assert_eq!(view.held().unwrap().bytes(), second, "the one in its time serves on, for cover");
    let early = view.ripen().unwrap();
    assert!(matches!(view.offer(early, document(1, 2).valid_from), Err(DocumentError::Conflict { .. })));
    assert_eq!(pair(&mut view), Some((second, first)));
}

/// The evidence, as bytes: what was verified first, and what contradicts it.
fn pair(view: &mut View) -> Option<(Vec<u8>, Vec<u8>)> {
    view.evidence().map(|evidence| (evidence.held.into_bytes(), evidence.other.into_bytes()))
}

#[test]
fn whoever_begins_keeps_evidence_too() {
    // two sources, and neither document is in its time: one network has no two documents all the same
    for at in [UnixMillis(START.0 - 60_000), UnixMillis(document(0, 2).valid_until.0 + 60_000)] {
        let mut view = view();
        let (one, two) = (certified(&document(0, 2)), certified(&document(0, 3)));
        assert!(!matches!(view.offer(one.clone(), at), Err(DocumentError::Conflict { .. })));
        assert!(!matches!(view.offer(one.clone(), at), Err(DocumentError::Conflict { .. })), "the same again");
        assert!(view.evidence().is_none());
        assert!(matches!(view.offer(two.clone(), at), Err(DocumentError::Conflict { .. })));
        assert_eq!(pair(&mut view), Some((one, two)));
        assert!(view.held().is_none());
    }
    // one in force, and an old one of a chain that jumped ahead of it
    let mut view = view();
    let old = Consensus { height: 900, ..document(0, 3) };
    let now = UnixMillis(old.valid_until.0 + 60_000);
    assert!(matches!(view.offer(certified(&old), now), Err(DocumentError::Expired { .. })));
    let newest = document(4, 2);
    assert!(matches!(view.offer(certified(&newest), now), Err(DocumentError::Conflict { .. })));
    assert_eq!(pair(&mut view), Some((certified(&old), certified(&newest))));
}

/// Of the same heights and epochs as a chain, but the later one names another document before it.
#[test]
fn a_next_document_that_names_another_one_before_it_is_evidence_whatever_its_time() {
    let first = document(0, 2);
    let next = |previous: Hash| Consensus { previous, ..document(1, 2) };
    let (follows, stranger) = (certified(&next(first.hash())), certified(&next(Hash::from_bytes([2; 32]))));
    let first = certified(&first);
    let (early, over) = (UnixMillis(START.0 - 60_000), UnixMillis(document(1, 2).valid_until.0 + 60_000));
    for at in [early, over] {
        for (one, two) in [(&first, &stranger), (&stranger, &first)] {
            let mut view = view();
            assert!(!matches!(view.offer(one.clone(), at), Err(DocumentError::Conflict { .. })));
            assert!(matches!(view.offer(two.clone(), at), Err(DocumentError::Conflict { .. })));
            assert_eq!(pair(&mut view), Some((one.clone(), two.clone())));
        }
        let mut view = view();
        for honest in [&first, &follows, &first] {
            assert!(!matches!(view.offer(honest.clone(), at), Err(DocumentError::Conflict { .. })));
        }
        assert_eq!(pair(&mut view), None);
    }
    // the one that came too early stands before one that comes in its time
    let mut view = view();
    assert!(matches!(view.offer(stranger.clone(), UnixMillis(START.0 - 10_000)), Ok(Offer::Early { .. })));
    assert!(matches!(view.offer(first.clone(), START), Err(DocumentError::Conflict { .. })));
    assert_eq!(pair(&mut view), Some((stranger, first)));
}

/// Anybody can write what would contradict the document held.
#[test]
fn what_nobody_certified_is_no_evidence() {
    let mut view = view();
    view.offer(certified(&document(0, 2)), START).unwrap();
    let known = view.set();
    let mallory = AuthoritySecret::generate(&mut StdRng::seed_from_u64(78));
    for epochs_later in [0, 1] {
        let mut other = document(epochs_later, 3);
        other.authorities = vec![mallory.public().clone()];
        for forged in [certify(&other, 0, &[]), certify(&other, 0, &[(0, &mallory)])] {
            for at in [START, UnixMillis(START.0 - 100_000), UnixMillis(other.valid_until.0 + 60_000)] {
                let offered = view.offer(forged.clone(), at);
                assert!(!matches!(offered, Ok(_) | Err(DocumentError::Conflict { .. })), "{offered:?}");
            }
            let led = view.advance(&forged);
            assert!(!matches!(led, Ok(_) | Err(DocumentError::Conflict { .. })), "{led:?}");
        }
    }
    assert_eq!((pair(&mut view), view.set()), (None, known));
}

#[test]
fn after_a_skip_chain_the_evidence_is_what_was_verified() {
    let second = AuthoritySecret::generate(&mut StdRng::seed_from_u64(80));
    let change = |twist: u8| {
        let to = Consensus { authorities: vec![second.public().clone()], randomness: [twist; 32], ..document(3, 7) };
        certify(&to, 0, &[(0, &authority())])
    };
    let newest = |twist: u8| {
        let mut document = document(8, 7);
        document.authorities = vec![second.public().clone()];
        document.randomness = [twist; 32];
        certify(&document, 0, &[(0, &second)])
    };
    let now = document(8, 7).valid_from;
    for held_before in [false, true] {
        // two changes that contradict each other, whatever is in use
        let mut view = view();
        if held_before {
            view.offer(certified(&document(0, 2)), START).unwrap();
        }
        assert_eq!(view.advance(&change(1)), Ok(true));
        assert!(matches!(view.advance(&change(2)), Err(DocumentError::Conflict { .. })));
        assert_eq!(pair(&mut view), Some((change(1), change(2))), "not the one in use: {held_before}");
        // and two documents at their end
        view.offer(newest(1), now).unwrap();
        assert!(matches!(view.offer(newest(2), now), Err(DocumentError::Conflict { .. })));
        assert_eq!(pair(&mut view), Some((newest(1), newest(2))));
        assert_eq!(pair(&mut view), None);
    }
}

#[test]
fn who_was_away_is_led_by_the_changes() {
    let mut view = view();
    view.offer(certified(&document(0, 2)), START).unwrap();
    let mut sets: Vec<_> = (80..82).map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))).collect();
    let (second, third) = (sets.remove(0), sets.remove(0));
    let to = |mut document: Consensus, next: &AuthoritySecret, by: &AuthoritySecret| {
        document.authorities = vec![next.public().clone()];
        (certify(&document, 0, &[(0, by)]), document)
    };
    let (first_change, _) = to(document(3, 7), &second, &authority());
    let (second_change, _) = to(document(5, 7), &third, &second);
    let (newest, content) = to(document(8, 7), &third, &third);
    let now = content.valid_from;
    let known = view.set();
    assert!(view.offer(newest.clone(), now).is_err_and(|error| error.may_be_another_set()));
    assert!(view.advance(&second_change).is_err(), "not without the first");
    assert_eq!(view.set(), known);
    assert_eq!((view.advance(&first_change), view.advance(&first_change)), (Ok(true), Ok(false)));
    assert_eq!(view.advance(&second_change), Ok(true));
    assert_ne!(view.set(), known);
    assert_eq!(view.unproved(), Some(newest.clone()), "kept until then");
    assert!(matches!(view.offer(newest, now), Ok(Offer::Newer(_))));
    assert_eq!(view.unproved(), None);
}

#[test]
fn strangers_documents_are_refused() {
    let mut view = view();
    let unsigned = certify(&document(0, 2), 0, &[]);
    assert_eq!(view.offer(unsigned, START), Err(DocumentError::Unsigned));
    let mallory = AuthoritySecret::generate(&mut StdRng::seed_from_u64(78));
    let forged = certify(&document(0, 2), 0, &[(0, &mallory)]);
    assert!(matches!(view.offer(forged, START), Err(DocumentError::BadSignature { .. })));
    let mut elsewhere = document(0, 2);
    elsewhere.network = Hash::from_bytes([9; 32]);
    assert!(matches!(view.offer(certified(&elsewhere), START), Err(DocumentError::WrongNetwork { .. })));
    let over = UnixMillis(document(0, 2).valid_until.0 + 60_000);
    assert!(matches!(view.offer(certified(&document(0, 2)), over), Err(DocumentError::Expired { .. })));
    assert!(view.held().is_none());
}

#[test]
fn a_document_serves_for_three_epochs_and_guards_after_a_restart() {
    let mut first = view();
    let bytes = certified(&document(0, 2));
    first.offer(bytes.clone(), START).unwrap();
    let epoch = document(0, 2).epoch;
    let epoch_ms = document(0, 2).parameters.epoch_ms;
    for (later, expected) in [(0, 0), (1, 1), (2, 2)] {
        let now = UnixMillis(START.0 + later * epoch_ms + 10);
        assert_eq!(first.in_force(now).map(|(_, epoch)| epoch), Some(epoch.plus(expected)));
        let fresh = if later == 0 { Freshness::Current } else { Freshness::Stale };
        let later_still = UnixMillis(now.0 + document(0, 2).parameters.skew_ms);
        assert_eq!(Freshness::of(first.held().map(|held| &**held), later_still), fresh, "epoch {later}");
    }
    let over = UnixMillis(START.0 + 4 * epoch_ms);
    assert!(first.in_force(over).is_none());
    assert_eq!(Freshness::of(first.held().map(|held| &**held), over), Freshness::Expired);
    assert_eq!(Freshness::of(None, over), Freshness::None);

    let mut resumed = view();
    resumed.resume(b"rubbish");
    assert!(resumed.held().is_none());
    resumed.resume(&bytes);
    assert!(resumed.held().is_some());
    assert!(matches!(resumed.offer(certified(&document(0, 3)), START), Err(DocumentError::Conflict { .. })));
}
