//! Tests of differences: every pair of documents leads from one to the other, and nothing bent does.

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::consensus::testing::{self, after, chain, held};
use crate::consensus::{AbsentNode, NodeEntry, Reveal, UnverifiedConsensus};
use crate::types::Role;
use crate::x25519::X25519Secret;

/// One of the things that happen to a network between two documents.
fn happen(document: &mut Consensus, what: u8, rng: &mut StdRng) {
    let at = rng.random_range(0..document.nodes.len());
    match what % 11 {
        0 => {
            let gone = document.nodes.remove(at);
            if gone.role != Role::Gateway {
                document.absent.push(AbsentNode {
                    identity: gone.identity,
                    role: gone.role,
                    layer: gone.layer,
                    store_index: gone.store_index,
                    since: gone.since,
                });
                document.absent.sort_by_key(|node| node.identity);
            }
        }
        1 => {
            let number = rng.random_range(2_000..60_000);
            let mut entry: NodeEntry = testing::entry(Role::Gateway, 0, &mut StdRng::seed_from_u64(number));
            entry.mix_keys = document.nodes[at].mix_keys.clone();
            document.nodes.push(entry);
            document.nodes.sort_by_key(|node| node.identity);
            document.nodes.dedup_by_key(|node| node.identity);
        }
        2 => document.nodes[at].addresses[0].set_port(rng.random_range(1..9_999)),
        3 => document.nodes[at].family = rng.random(),
        // it publishes no more keys: it leaves
        4 => {
            document.nodes[at].mix_keys.truncate(1);
            document.nodes[at].envelope_keys.truncate(1);
        }
        // its keys were lost, and all are new
        5 => document.nodes[at].mix_keys.iter_mut().for_each(|(_, key)| *key = X25519Secret::generate(rng).public()),
        6 => document.randomness = rng.random(),
        7 => document.reveals = vec![Reveal { authority: 0, value: rng.random() }],
        8 => document.addresses.iter_mut().for_each(|entry| entry.address.set_port(rng.random_range(1..9_999))),
        // nothing is said of it any more
        9 => document.addresses.clear(),
        _ => document.previous_mean_delay_ms = rng.random_range(1..5_000),
    }
}

fn leads(old: &VerifiedConsensus, new: &VerifiedConsensus) -> usize {
    let difference = difference(old, new).expect("smaller than the whole");
    assert_eq!(old.apply(&difference).as_deref(), Ok(new.bytes()));
    assert_eq!(leads_from(&difference), Some(old.hash()));
    difference.len()
}

#[test]
fn a_document_of_a_thousand_nodes_costs_its_new_keys_and_its_certificate() {
    let old = held(&testing::consensus(20, 310, 50));
    assert_eq!(old.nodes.len(), 1_000);
    let new = held(&after(&old, &mut StdRng::seed_from_u64(4)));
    let size = leads(&old, &new);
    let incompressible = 1_050 * 32 + new.certificate().encode().len() + 32;
    // against copying from the bytes of the old document as they are
    let plain: usize = steps(&old.encode(), &new.encode()).iter().map(|step| 6 + step.insert.len()).sum();
    println!(
        "whole {}, expected and copied {size}, copied only {plain}, cannot be told {incompressible}",
        new.bytes().len()
    );
    assert!(size < incompressible + 300, "{size} bytes; {incompressible} cannot be told");
    assert!(plain > size + 5_000);
}

#[test]
fn a_difference_leads_from_its_own_document_only() {
    let documents = chain(3);
    let step = difference(&documents[0], &documents[1]).expect("smaller");
    assert_eq!(documents[1].apply(&step), Err(DifferenceError::OtherDocument));
    assert_eq!(documents[0].apply(&[]), Err(DifferenceError::Malformed("difference")));
    assert_eq!(
        documents[0].apply(&vec![0; MAX_CONSENSUS_SIZE + 1]),
        Err(DifferenceError::TooLarge(MAX_CONSENSUS_SIZE + 1))
    );
    assert_eq!(difference(&documents[1], &documents[1]), None, "no later epoch");
    assert_eq!(difference(&documents[1], &documents[0]), None);
    assert!(difference(&documents[0], &documents[2]).is_some(), "an epoch may be left out");
}

#[test]
fn documents_that_share_nothing_are_handed_over_whole() {
    let old = held(&testing::consensus(1, 1, 3));
    let mut rng = StdRng::seed_from_u64(9);
    let mut strange = testing::consensus_of(40, 1, 3, 77);
    strange.epoch = old.epoch.plus(1);
    strange.valid_from.0 += old.parameters.epoch_ms;
    strange.valid_until.0 += old.parameters.epoch_ms;
    for node in &mut strange.nodes {
        node.mix_keys.iter_mut().chain(&mut node.envelope_keys).for_each(|(epoch, key)| {
            *epoch = epoch.plus(1);
            *key = X25519Secret::generate(&mut rng).public();
        });
    }
    let strange = held(&strange);
    if let Some(difference) = difference(&old, &strange) {
        assert!(difference.len() < strange.bytes().len());
        assert_eq!(old.apply(&difference).as_deref(), Ok(strange.bytes()));
    }
}

/// A difference with a head that is right and these steps.
fn forged(old: &VerifiedConsensus, length: u64, steps: &[(i64, u64, &[u8])]) -> Vec<u8> {
    codec::encode(|writer| {
        writer.put_array(8);
        writer.put_uint(1);
        writer.put_bytes(old.hash().as_bytes());
        writer.put_bytes(&[7; 32]);
        writer.put_uint(0);
        writer.put_bytes(&[]);
        writer.put_uint(length);
        writer.put_array(steps.len());
        for (jump, copy, insert) in steps {
            writer.put_array(3);
            writer.put_int(*jump);
            writer.put_uint(*copy);
            writer.put_bytes(insert);
        }
        writer.put_bytes(&[]);
    })
}

#[test]
fn no_difference_makes_more_than_a_document() {
    let old = &chain(1)[0];
    let refused = |length, steps: &[(i64, u64, &[u8])]| match old.apply(&forged(old, length, steps)) {
        Err(DifferenceError::Malformed(what)) => what,
        other => panic!("{other:?}"),
    };
    let size = old.encode().len() as u64;
    // copies of copies: 2,000 × the document would be 5 MB
    let bomb = vec![(-i64::try_from(size).unwrap_or_default(), size, b"".as_slice()); 2_000];
    let first = [(0, size, b"".as_slice())];
    let bomb = [first.as_slice(), &bomb].concat();
    assert_eq!(refused(MAX_CONSENSUS_SIZE as u64, &bomb), "steps (make more than the length says)");
    assert_eq!(refused(MAX_CONSENSUS_SIZE as u64 + 1, &first), "length (more than any document has)");
    assert_eq!(refused(u64::MAX, &first), "length (more than any document has)");
    assert_eq!(refused(size - 1, &first), "steps (make more than the length says)");
    assert_eq!(refused(size + 1, &first), "steps (make less than the length says)");
    assert_eq!(refused(size, &[(0, size + 1, b"")]), "copy (out of the document)");
    assert_eq!(refused(size, &[(0, u64::MAX, b"")]), "copy (out of the document)");
    assert_eq!(refused(size, &[(-1, 1, b"")]), "jump (out of the document)");
    assert_eq!(refused(size, &[(i64::MIN, 1, b"")]), "jump (out of the document)");
    assert_eq!(refused(size, &[(i64::MAX, 1, b"")]), "copy (out of the document)");
    assert_eq!(refused(size, &[(0, 0, b"")]), "step (makes nothing)");
    assert_eq!(refused(size, &first), "new document (another one than is named)");
}

#[test]
fn epochs_without_end_are_taken_like_others() {
    let old = &chain(1)[0];
    for (epochs, keys) in
        [(u64::MAX, 0), (u64::MAX, 13 * 32), (u64::MAX - 41, 39 * 32), (1, 0), (1, 32), (1, 14 * 32 + 1)]
    {
        let difference = codec::encode(|writer| {
            writer.put_array(8);
            writer.put_uint(1);
            writer.put_bytes(old.hash().as_bytes());
            writer.put_bytes(&[7; 32]);
            writer.put_uint(epochs);
            writer.put_bytes(&vec![1; keys]);
            writer.put_uint(10);
            writer.put_array(0);
            writer.put_bytes(&[]);
        });
        assert!(matches!(old.apply(&difference), Err(DifferenceError::Malformed(_))), "{epochs} epochs, {keys} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_document_leads_to_every_later_one(
        seed: u64,
        left_out in 0usize..3,
        events in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let old = held(&testing::consensus(3, 3, 4));
        let mut new = after(&old, &mut rng);
        for _ in 0..left_out {
            new = after(&held(&new), &mut rng);
        }
        for what in events {
            happen(&mut new, what, &mut rng);
        }
        let new = held(&new);
        let difference = difference(&old, &new).expect("smaller than the whole");
        prop_assert_eq!(old.apply(&difference), Ok(new.bytes().to_vec()));
    }

    #[test]
    fn nothing_bent_leads_to_anything_else(at: prop::sample::Index, bit in 0u8..8) {
        let documents = chain(2);
        let mut bytes = difference(&documents[0], &documents[1]).expect("smaller");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // the certificate travels as it is: what is bent there is for the verifier
        if let Ok(result) = documents[0].apply(&bytes) {
            prop_assert!(result.len() <= MAX_CONSENSUS_SIZE);
            prop_assert!(UnverifiedConsensus::parse(&result).is_err() || result != documents[1].bytes());
        }
    }

    #[test]
    fn no_bytes_panic_or_allocate_more_than_a_document(
        body in proptest::collection::vec(any::<u8>(), 0..400),
        length in any::<u32>(),
        epochs in 0u64..5,
    ) {
        let old = &chain(1)[0];
        let _ = old.apply(&body);
        // a head that is right, then anything
        let mut bytes = codec::encode(|writer| {
            writer.put_array(8);
            writer.put_uint(1);
            writer.put_bytes(old.hash().as_bytes());
            writer.put_bytes(&[7; 32]);
            writer.put_uint(epochs);
            writer.put_bytes(&[]);
            writer.put_uint(length.into());
        });
        bytes.extend_from_slice(&body);
        prop_assert!(old.apply(&bytes).is_err());
    }
}
