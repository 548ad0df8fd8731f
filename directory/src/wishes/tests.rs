//! Tests of what lists want.

use super::*;
use crate::testing::{Cast, Council, parameters as short_epochs, published};
use shoal_protocol::consensus::VerifiedConsensus;

/// A network with an anonymity floor, and its first document, of epoch 5.
fn with_floor() -> (Council, Cast) {
    let cast = Cast::new(1, 6, 3);
    let genesis = Parameters { retention_ms: 3_600_000, draw_epochs: 504, ..Parameters::production() };
    let mut council = Council::new(4, 0, Parameters { epoch_ms: crate::testing::EPOCH_MS, ..genesis });
    // a floor with the epochs of the test network: the sizes that depend on each other shrink with them
    council.parameters.skew_ms = 2_000;
    council.parameters.mean_delay_max_ms = 400;
    council.parameters.mean_delay_ms = 200;
    council.calm(5, &cast.all());
    (council, cast)
}

fn wanting(council: &Council, cast: &Cast, wish: Parameters) -> Vec<SignedList> {
    let nodes = published(&cast.all(), 5);
    let message = |at| council.message_with(at, 6, &nodes, |list| list.parameters = wish).list().clone();
    (0..4).map(message).collect()
}

fn newest(council: &Council) -> &VerifiedConsensus {
    council.chain.last().expect("made")
}

#[test]
fn what_is_fixed_at_genesis_stays() {
    let cast = Cast::new(1, 6, 3);
    let mut council = Council::new(4, 0, short_epochs(500));
    council.calm(5, &cast.all());
    let now = council.parameters;
    for wish in [
        Parameters { epoch_ms: 30_000, ..now },
        Parameters { mean_delay_max_ms: 21, ..now },
        Parameters { anonymity_floor: 8, ..now },
        Parameters { service_ms: 1, ..now },
    ] {
        let lists = wanting(&council, &cast, Parameters { append_bits: 11, ..wish });
        assert_eq!(parameters(newest(&council), Epoch(6), &lists, true), (now, Epoch(5)));
    }
    // everything else is taken as it is wanted, in a test network also the mean delay
    let wish = Parameters { mean_delay_ms: 7, append_bits: 11, draw_epochs: 300, ..now };
    let lists = wanting(&council, &cast, wish);
    assert_eq!(parameters(newest(&council), Epoch(6), &lists, false), (wish, Epoch(6)));
}

#[test]
fn the_width_changes_with_a_draw_only() {
    let cast = Cast::new(1, 9, 3);
    let mut council = Council::new(4, 0, short_epochs(2));
    council.calm(5, &cast.all());
    let wish = Parameters { mixes_per_layer: 3, append_bits: 11, ..council.parameters };
    for (epoch, width, seated) in [(6, 2, 6), (7, 3, 9), (8, 3, 9)] {
        let nodes = published(&cast.all(), epoch - 1);
        let message = |at| council.message_with(at, epoch, &nodes, |list| list.parameters = wish);
        let messages: Vec<_> = (0..4).map(message).collect();
        let document = council.advance(epoch, &messages);
        assert_eq!((document.parameters.append_bits, document.parameters.mixes_per_layer), (11, width));
        assert_eq!(document.nodes.iter().filter(|node| node.layer.is_some()).count(), seated);
    }
}

#[test]
fn the_mean_delay_moves_by_a_quarter_a_day() {
    let (council, cast) = with_floor();
    let (before, now) = (newest(&council), council.parameters);
    assert_eq!((now.mean_delay_ms, before.mean_delay_since), (200, Epoch(5)));
    let a_day = 24 * 3_600_000 / crate::testing::EPOCH_MS;
    let longer = wanting(&council, &cast, Parameters { mean_delay_ms: 400, append_bits: 11, ..now });
    let soon = parameters(before, Epoch(5 + a_day - 1), &longer, false);
    assert_eq!((soon.0.mean_delay_ms, soon.0.append_bits, soon.1), (200, 11, Epoch(5)), "the rest does not wait");
    let in_time = parameters(before, Epoch(5 + a_day), &longer, false);
    assert_eq!((in_time.0.mean_delay_ms, in_time.1), (250, Epoch(5 + a_day)));
    let little = wanting(&council, &cast, Parameters { mean_delay_ms: 210, ..now });
    assert_eq!(parameters(before, Epoch(5 + a_day), &little, false).0.mean_delay_ms, 210);
    let shorter = wanting(&council, &cast, Parameters { mean_delay_ms: 199, append_bits: 11, ..now });
    assert_eq!(parameters(before, Epoch(5 + a_day), &shorter, false), (now, Epoch(5)), "below 500 ms");
    let off = wanting(&council, &cast, Parameters { anonymity_floor: 0, append_bits: 11, ..now });
    assert_eq!(parameters(before, Epoch(5 + a_day), &off, false), (now, Epoch(5)), "the floor is not switched off");
}

#[test]
fn dissent_is_told_even_when_nobody_agrees() {
    let (council, cast) = with_floor();
    let nodes = published(&cast.all(), 5);
    let lists: Vec<SignedList> = (0..4)
        .map(|at| {
            let change = |list: &mut crate::signed_list::List| {
                list.parameters.append_bits += u8::try_from(at / 2).expect("few");
                if at == 1 {
                    list.authorities = Some(council.genesis[..1].to_vec());
                }
            };
            council.message_with(at, 6, &nodes, change).list().clone()
        })
        .collect();
    let expected = Dissent { parameters: vec![2, 3], authorities: vec![1] };
    assert_eq!(dissent(council.current(), &council.parameters, &lists), expected);
    assert_eq!(authorities(council.current(), &lists), council.genesis);
    assert_eq!(dissent(council.current(), &council.parameters, &lists[..1]), Dissent::default());
}
