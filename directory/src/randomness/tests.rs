//! Tests of draws: schedule, withholding, and that nobody chooses.

use super::*;
use crate::document::next_document;
use crate::list_message::ListMessage;
use crate::testing::{Cast, Council, NETWORK, parameters, published};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use shoal_protocol::consensus::VerifiedConsensus;
use std::collections::BTreeSet;

fn secrets(n: u64) -> Vec<AuthoritySecret> {
    (0..n).map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))).collect()
}

#[test]
fn reveals_depend_on_secret_network_and_number_only() {
    let [secret, other] = <[AuthoritySecret; 2]>::try_from(secrets(2)).expect("two");
    let again = AuthoritySecret::from_bytes(&secret.to_bytes());
    let value = reveal(&secret, &NETWORK, 1);
    assert_eq!(reveal(&again, &NETWORK, 1), value);
    assert_ne!(reveal(&secret, &NETWORK, 2), value);
    assert_ne!(reveal(&secret, &Hash::from_bytes([4; 32]), 1), value);
    assert_ne!(reveal(&other, &NETWORK, 1), value);
}

#[test]
fn every_input_changes_seed_and_commitment() {
    let [one, two] = [[1; 32], [2; 32]].map(Identity::from_bytes);
    let reveals = BTreeMap::from([(one, [1; 32])]);
    let base = seed(&NETWORK, 1, &[0; 32], &reveals);
    assert_ne!(seed(&NETWORK, 2, &[0; 32], &reveals), base);
    assert_ne!(seed(&NETWORK, 1, &[1; 32], &reveals), base);
    assert_ne!(seed(&NETWORK, 1, &[0; 32], &BTreeMap::new()), base);
    assert_ne!(seed(&NETWORK, 1, &[0; 32], &BTreeMap::from([(one, [2; 32])])), base);
    assert_ne!(seed(&NETWORK, 1, &[0; 32], &BTreeMap::from([(two, [1; 32])])), base);
    let base = commitment(&NETWORK, 1, &one, &[1; 32]);
    assert_ne!(commitment(&NETWORK, 1, &two, &[1; 32]), base, "nobody commits to another's value");
    assert_ne!(commitment(&NETWORK, 2, &one, &[1; 32]), base);
}

#[test]
fn a_weekly_draw_is_committed_to_a_day_ahead() {
    let plan = |draw_epochs, epoch_ms| {
        let parameters = Parameters { draw_epochs, epoch_ms, ..Parameters::production() };
        let plan = schedule(7, Epoch(1000), &parameters, Epoch(990), vec![2]);
        assert_eq!((plan.number, plan.revealed_from, plan.excluded.as_slice()), (7, Epoch(990), [2].as_slice()));
        [plan.commit_before, plan.reveal_from, plan.due].map(|epoch| epoch.0 - 1000)
    };
    assert_eq!(plan(504, 20 * 60_000), [429, 501, 504]);
    assert_eq!(plan(500, 20_000), [249, 497, 500]);
    assert_eq!(plan(4, 20_000), [1, 1, 4]);
    assert_eq!(plan(3, 20_000), [1, 1, 3]);
    assert_eq!(plan(2, 20_000), [1, 1, 2]);
    assert_eq!(plan(1, 20_000), [1, 1, 2], "one document commits and another reveals");
}

/// Four authorities, draws every `draw_epochs`, begun in epoch 5.
fn begun(draw_epochs: u32) -> (Council, Cast) {
    let cast = Cast::new(1, 6, 3);
    let mut council = Council::new(4, 0, parameters(draw_epochs));
    council.calm(5, &cast.all());
    (council, cast)
}

/// Everybody's lists for `epoch`; those of `silent` reveal nothing.
fn withholding(council: &Council, cast: &Cast, epoch: u64, silent: &[usize]) -> Vec<ListMessage> {
    let nodes = published(&cast.all(), epoch - 1);
    let n = council.current().len();
    let message = |at: usize| {
        council.message_with(at, epoch, &nodes, |list| {
            if silent.contains(&at) {
                list.contribution.reveal = None;
            }
        })
    };
    (0..n).map(message).collect()
}

fn authorities(commitments: &[Commitment]) -> Vec<u16> {
    commitments.iter().map(|entry| entry.authority).collect()
}

#[test]
fn commitments_are_fixed_once_and_reveals_must_match_them() {
    let (mut council, cast) = begun(8);
    let nodes = published(&cast.all(), 5);
    let fixed = council.chain[0].commitments.clone();
    assert_eq!(fixed.len(), 4);
    // another commitment now is too late
    let other: Vec<_> = (0..4)
        .map(|at| council.message_with(at, 6, &nodes, |list| list.contribution.commitment = Hash::from_bytes([1; 32])))
        .collect();
    assert_eq!(council.advance(6, &other).commitments, fixed);
    // values before their time do not count
    let early: Vec<_> = (0..4)
        .map(|at| {
            let value = reveal(council.secret(at), &NETWORK, 2);
            council.message_with(at, 7, &published(&cast.all(), 6), |list| list.contribution.reveal = Some(value))
        })
        .collect();
    assert!(council.advance(7, &early).reveals.is_empty());
    for epoch in 8..10 {
        council.calm(epoch, &cast.all());
    }
    // in the window: one right, one wrong, one of another draw, one silent
    let (right, later) = (reveal(council.secret(0), &NETWORK, 2), reveal(council.secret(2), &NETWORK, 3));
    let given = [Some(right), Some([9; 32]), Some(later), None];
    let nodes = published(&cast.all(), 9);
    let lists: Vec<_> =
        (0..4).map(|at| council.message_with(at, 10, &nodes, |list| list.contribution.reveal = given[at])).collect();
    assert_eq!(council.advance(10, &lists).reveals, vec![Reveal { authority: 0, value: right }]);
    // the next document adds to it
    let lists = withholding(&council, &cast, 11, &[0, 1, 2]);
    assert_eq!(council.advance(11, &lists).reveals.len(), 2);
}

#[test]
fn an_honest_authority_reveals_nothing_before_its_commitment_is_fixed() {
    let (mut council, cast) = begun(2);
    // its list is left out of the only document that takes commitments
    let three: Vec<_> = council.messages(6, &published(&cast.all(), 5)).into_iter().take(3).collect();
    council.advance(6, &three);
    let messages = council.messages(7, &published(&cast.all(), 6));
    let three: Vec<_> = messages.into_iter().take(3).collect();
    let drawn = council.advance(7, &three).clone();
    assert_eq!(authorities(&drawn.commitments), [0, 1, 2]);
    assert_eq!(drawn.draw.excluded, [3], "its value came in no document");
    let say = |at: usize| contribution(council.secret(at), &NETWORK, Some(&drawn), Epoch(8)).reveal.is_some();
    assert_eq!([0, 1, 2, 3].map(say), [true, true, true, false]);
    let early = contribution(council.secret(0), &NETWORK, Some(&drawn), Epoch(7));
    assert_eq!(early.reveal, None);
}

#[test]
fn who_withholds_is_left_out_and_out_of_the_next_draw() {
    let (mut council, cast) = begun(4);
    for epoch in 6..9 {
        let lists = withholding(&council, &cast, epoch, &[1]);
        council.advance(epoch, &lists);
    }
    let lists = withholding(&council, &cast, 9, &[1]);
    let drawn = council.advance(9, &lists).clone();
    assert_eq!((drawn.current_generation().map(|one| one.number), drawn.draw.excluded.clone()), (Some(2), vec![1]));
    assert_eq!(authorities(&drawn.commitments), [0, 2, 3]);
    for epoch in 10..13 {
        council.calm(epoch, &cast.all());
    }
    let again = council.calm(13, &cast.all());
    assert_eq!((again.draw.number, again.draw.excluded.len(), again.commitments.len()), (4, 0, 4), "and back again");
}

#[test]
fn a_draw_nobody_reveals_for_is_begun_anew_and_no_document_waits() {
    let (mut council, cast) = begun(2);
    let first = council.chain[0].randomness;
    for epoch in 6..9 {
        let lists = withholding(&council, &cast, epoch, &[0, 1, 2]);
        let document = council.advance(epoch, &lists);
        assert_eq!((document.draw.number, document.randomness), (2, first), "epoch {epoch}");
    }
    // due in 7, one document more was given; now new values, under a new number, and no one is accused
    let again = council.calm(9, &cast.all());
    assert_eq!((again.draw.number, again.reveals.len(), again.draw.excluded.len()), (3, 0, 0));
    assert_eq!((again.draw.reveal_from, again.draw.due, again.draw.revealed_from), (Epoch(10), Epoch(11), Epoch(6)));
    council.calm(10, &cast.all());
    let drawn = council.calm(11, &cast.all());
    assert_eq!(drawn.current_generation().map(|generation| generation.number), Some(3));
    assert_ne!(drawn.randomness, first);
}

#[test]
fn the_document_that_draws_leaves_its_proposer_no_choice() {
    let (mut council, cast) = begun(2);
    council.calm(6, &cast.all());
    let nodes = published(&cast.all(), 6);
    let full = council.messages(7, &nodes);
    let silent = withholding(&council, &cast, 7, &[0, 1, 2, 3]);
    let drawn = |messages: &[&ListMessage]| {
        let proposal = council.propose(7, messages);
        next_document(&council.rules(), council.chain.last(), &proposal).expect("possible").document.randomness
    };
    let seeds: BTreeSet<_> = [
        drawn(&[&full[0], &full[1], &full[2]]),
        drawn(&[&full[1], &full[2], &full[3]]),
        drawn(&[&silent[0], &silent[2], &silent[3]]),
        drawn(&full.iter().collect::<Vec<_>>()),
    ]
    .into();
    assert_eq!(seeds.len(), 1);
}

/// Row 21 of the attack table: up to f authorities withhold at random and proposers leave lists out, and there is a
/// document in every epoch. `SHOAL_EPOCHS=10000` is the full size.
#[test]
fn withheld_reveals_fail_no_epoch_and_choose_nothing() {
    let epochs = std::env::var("SHOAL_EPOCHS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let mut rng = StdRng::seed_from_u64(21);
    let cast = Cast::new(1, 6, 3);
    let mut council = Council::new(4, 0, parameters(2));
    council.calm(5, &cast.all());
    let watched = cast.mixes[0].identity();
    let (mut draws, mut in_first, mut latest) = (0_u64, 0_u64, council.chain[0].randomness);
    let mut late = 0_u64;
    for epoch in 6..6 + epochs {
        let silent = if rng.random_range(0..3) == 0 { vec![] } else { vec![rng.random_range(0..4)] };
        let mut lists = withholding(&council, &cast, epoch, &silent);
        if rng.random_range(0..2) == 0 {
            lists.remove(rng.random_range(0..4));
        }
        let document: VerifiedConsensus = council.advance(epoch, &lists).clone();
        let drew = document.randomness != latest;
        assert_eq!(drew, document.current_generation().is_some_and(|one| one.since == Epoch(epoch)));
        if drew {
            draws += 1;
            in_first += u64::from(document.node(&watched).and_then(|node| node.layer).is_some_and(|l| l.number() == 1));
            latest = document.randomness;
        }
        late = if document.draw.due < Epoch(epoch) { late + 1 } else { 0 };
        assert!(late <= 4, "epoch {epoch}: a draw waits {late} epochs");
        // what is not looked at again is let go
        let keep = council.chain.len().saturating_sub(2);
        council.chain.drain(..keep);
    }
    println!("{epochs} epochs, {draws} draws, watched mix in the first layer {in_first} times");
    assert!(draws * 3 >= epochs, "{draws} draws in {epochs} epochs");
    // a third of the draws, within five standard deviations: sqrt(n · 1/3 · 2/3)
    let (n, expected) = (draws as f64, draws as f64 / 3.0);
    assert!((in_first as f64 - expected).abs() <= 5.0 * (n * 2.0 / 9.0).sqrt(), "{in_first} of {draws}");
}

#[test]
fn a_coalition_of_f_chooses_between_two_seeds_and_pays_for_it() {
    // its only choice: reveal or not. Both outcomes are fixed before it sees any other value.
    let outcomes: Vec<_> = [vec![], vec![1_usize]]
        .into_iter()
        .map(|silent| {
            let (mut council, cast) = begun(2);
            for epoch in 6..8 {
                let lists = withholding(&council, &cast, epoch, &silent);
                council.advance(epoch, &lists);
            }
            let drawn = council.chain.last().expect("made");
            (drawn.randomness, drawn.draw.excluded.clone())
        })
        .collect();
    assert_ne!(outcomes[0].0, outcomes[1].0);
    assert_eq!((outcomes[0].1.as_slice(), outcomes[1].1.as_slice()), ([].as_slice(), [1].as_slice()));
}
