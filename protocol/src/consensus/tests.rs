//! Tests of the document: codec, relations, certificate, time, rollback.

use super::codec::{Put as _, Reader};
use super::testing::{EPOCH, GENESIS, NETWORK};
use super::*;
use crate::authority::AuthoritySecret;
use crate::certificate::Certificate;
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

fn authority() -> AuthoritySecret {
    testing::authority()
}

/// One gateway, three mixes and a standby mix, three stores and an absent one, a retired generation.
fn sample(seed: u64) -> Consensus {
    let mut document = testing::consensus_of(1, 1, 3, seed);
    let mut standby = testing::entry(Role::Mix, 99, &mut StdRng::seed_from_u64(seed ^ 0xff));
    standby.standby = true;
    document.nodes.push(standby);
    document.nodes.sort_by_key(|node| node.identity);
    document.nodes[0].family = [9; 32];
    document.absent = vec![AbsentNode {
        identity: Identity::from_bytes([4; 32]),
        role: Role::Store,
        layer: None,
        store_index: Some(StoreIndex(3)),
        since: Epoch(3),
    }];
    let suspect = |identity, demoted_until| Suspect {
        identity,
        strikes: 2,
        before: Share { losing: 2, of: 3 },
        behind: Share { losing: 1, of: 1 },
        demoted_until,
    };
    let seated = document.layer(Layer::L2).next().expect("a mix").identity;
    let standing_by = document.nodes.iter().find(|node| node.standby).expect("a mix").identity;
    document.suspects = vec![suspect(seated, None), suspect(standing_by, Some(EPOCH.plus(1)))];
    document.suspects.sort_by_key(|suspect| suspect.identity);
    document.next_store_index = 4;
    document.generations.insert(
        0,
        Generation {
            number: 1,
            since: Epoch(3),
            retired: Some(Epoch(33)),
            seed: [5; 32],
            stores: (0..4).map(StoreIndex).collect(),
        },
    );
    document.reveals = vec![Reveal { authority: 0, value: [8; 32] }];
    document
}

fn anchor() -> TrustAnchor {
    TrustAnchor { network: NETWORK, authorities: vec![authority().public().clone()] }
}

fn certified(document: &Consensus) -> Vec<u8> {
    certify(document, 0, &[(0, &authority())])
}

fn open_at(bytes: &[u8], now: UnixMillis, newest: Option<Mark>) -> Result<VerifiedConsensus, DocumentError> {
    UnverifiedConsensus::parse(bytes)?.verify(&anchor(), now, newest)
}

fn open(bytes: &[u8]) -> Result<VerifiedConsensus, DocumentError> {
    open_at(bytes, sample(1).valid_from, None)
}

#[test]
fn round_trip_keeps_the_exact_bytes() {
    let document = sample(1);
    let bytes = certified(&document);
    let verified = open(&bytes).expect("verifies");
    assert_eq!(*verified, document);
    assert_eq!(verified.bytes(), bytes);
    assert_eq!(verified.signatures(), 1);
    assert_eq!(verified.schedule(), Schedule { genesis: GENESIS, epoch_ms: 20_000 });
}

#[test]
fn lookups() {
    let document = sample(1);
    assert_eq!(document.gateways().count(), 1);
    assert_eq!(document.stores().count(), 3);
    for layer in Layer::ALL {
        assert_eq!(document.layer(layer).count(), 1);
    }
    let store = document.store(StoreIndex(1)).expect("listed");
    assert_eq!(document.node(&store.identity), Some(store));
    assert!(document.store(StoreIndex(3)).is_none(), "absent");
    assert!(store.mix_key(EPOCH).is_some() && store.envelope_key(EPOCH.plus(2)).is_some());
    assert!(store.mix_key(EPOCH.plus(3)).is_none());
    assert_eq!(document.current_generation().map(|generation| generation.number), Some(2));
    assert_eq!(document.generation(1).and_then(|generation| generation.retired), Some(Epoch(33)));
    assert!(document.generation(3).is_none());
}

#[test]
fn certificates_must_fit() {
    let document = sample(1);
    let stranger = AuthoritySecret::generate(&mut StdRng::seed_from_u64(78));
    assert_eq!(open(&certify(&document, 0, &[])), Err(DocumentError::Unsigned));
    assert_eq!(open(&certify(&document, 0, &[(0, &stranger)])), Err(DocumentError::BadSignature { authority: 0 }));
    assert_eq!(
        open(&certify(&document, 0, &[(1, &authority())])),
        Err(DocumentError::UnknownAuthority { authority: 1 })
    );
    let elsewhere = Consensus { network: Hash::from_bytes([3; 32]), ..document.clone() };
    assert!(matches!(open(&certified(&elsewhere)), Err(DocumentError::WrongNetwork { .. })));

    let four: Vec<_> = (0..4).map(|n| AuthoritySecret::generate(&mut StdRng::seed_from_u64(n))).collect();
    let anchor = TrustAnchor { network: NETWORK, authorities: four.iter().map(|s| s.public().clone()).collect() };
    let two = certify(&document, 0, &[(0, &four[0]), (2, &four[2])]);
    assert_eq!(
        UnverifiedConsensus::parse(&two).expect("parses").verify(&anchor, document.valid_from, None),
        Err(DocumentError::TooFewSignatures { valid: 2, needed: 3 })
    );
}

#[test]
fn time_is_checked_with_the_skew_tolerance() {
    let document = sample(1);
    let bytes = certified(&document);
    let skew = document.parameters.skew();
    let millisecond = std::time::Duration::from_millis(1);
    assert!(open_at(&bytes, document.valid_from.minus(skew), None).is_ok());
    assert!(open_at(&bytes, document.valid_until.plus(skew), None).is_ok());
    assert_eq!(
        open_at(&bytes, document.valid_from.minus(skew).minus(millisecond), None),
        Err(DocumentError::NotYetValid { epoch: EPOCH, in_ms: 2001 })
    );
    assert_eq!(
        open_at(&bytes, document.valid_until.plus(skew).plus(millisecond), None),
        Err(DocumentError::Expired { epoch: EPOCH, ago_ms: 2001 })
    );
    let parsed = UnverifiedConsensus::parse(&bytes).expect("parses");
    assert!(parsed.verify_any_time(&anchor()).is_ok());
}

#[test]
fn older_and_conflicting_documents_are_refused() {
    let document = sample(1);
    let bytes = certified(&document);
    let mark = open(&bytes).expect("verifies").mark();
    let after = |newest: Mark| open_at(&bytes, document.valid_from, Some(newest)).map(|_| ());
    assert_eq!(after(mark), Ok(()), "the same again");
    let seen = Hash::from_bytes([0xee; 32]);
    // (height, epoch) of the newest document seen, against 12 and 40 of this one
    let newest = |height, epoch| Mark { height, epoch: Epoch(epoch), hash: seen };
    let conflict = Err(DocumentError::Conflict { height: 12, epoch: EPOCH, seen, found: mark.hash });
    assert_eq!(after(newest(13, 41)), Err(DocumentError::Rollback { found: EPOCH, newest: Epoch(41) }));
    assert_eq!(after(newest(10, 39)), Ok(()), "some were missed: nothing to compare");
    assert_eq!(after(Mark { hash: document.previous, ..newest(11, 39) }), Ok(()), "the next one");
    assert_eq!(after(newest(11, 39)), conflict, "the next one, of another chain");
    assert_eq!(after(newest(12, 40)), conflict, "the same height and epoch");
    assert_eq!(after(newest(12, 39)), conflict, "the same height");
    assert_eq!(after(newest(12, 41)), conflict, "the same height, an older epoch");
    assert_eq!(after(newest(11, 40)), conflict, "the same epoch");
    assert_eq!(after(newest(13, 40)), conflict, "the same epoch, an older height");
    assert_eq!(after(newest(13, 39)), conflict, "an older height with a later epoch");
    assert_eq!(after(newest(11, 41)), conflict, "a later height with an older epoch");
}

#[test]
fn contradictions_are_malformed() {
    let good = sample(1);
    let bend = |what: &str, change: &dyn Fn(&mut Consensus)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(matches!(open(&certified(&bad)), Err(DocumentError::Malformed(_))), "{what}");
    };
    let at = |role| good.nodes.iter().position(|node| node.role == role).expect("sample has every role");
    let (gateway, store) = (at(Role::Gateway), at(Role::Store));
    bend("version", &|bad| bad.version = 2);
    bend("height", &|bad| bad.height = 0);
    bend("validity", &|bad| bad.valid_until = bad.valid_from);
    bend("validity overflow", &|bad| bad.epoch = Epoch(u64::MAX));
    bend("parameters", &|bad| bad.parameters.lambda_p.0 = 0);
    bend("no authorities", &|bad| bad.authorities.clear());
    bend("authority twice", &|bad| bad.authorities = vec![bad.authorities[0].clone(); 2]);
    bend("unsorted nodes", &|bad| bad.nodes.reverse());
    bend("node twice", &|bad| bad.nodes.insert(0, good.nodes[0].clone()));
    bend("gateway in a layer", &|bad| bad.nodes[gateway].layer = Some(Layer::L1));
    bend("gateway standing by", &|bad| bad.nodes[gateway].standby = true);
    bend("store without index", &|bad| bad.nodes[store].store_index = None);
    bend("store standing by in a generation", &|bad| bad.nodes[store].standby = true);
    let demoted = good.suspects.iter().position(|suspect| suspect.demoted_until.is_some()).expect("one is");
    bend("suspect without a strike", &|bad| bad.suspects[0].strikes = 0);
    bend("suspects unsorted", &|bad| bad.suspects.reverse());
    bend("more operators than there are", &|bad| bad.suspects[0].behind.losing = 2);
    bend("demoted for a time that is over", &|bad| bad.suspects[demoted].demoted_until = Some(EPOCH));
    bend("demoted and seated", &|bad| bad.suspects[1 - demoted].demoted_until = Some(EPOCH.plus(1)));
    bend("a gateway as a suspect", &|bad| {
        bad.suspects[1].identity = bad.nodes[gateway].identity;
        bad.suspects.sort_by_key(|suspect| suspect.identity);
    });
    bend("index twice", &|bad| bad.absent[0].store_index = bad.nodes[store].store_index);
    bend("index beyond the next", &|bad| bad.next_store_index = 3);
    bend("listed and absent", &|bad| bad.absent[0].identity = bad.nodes[0].identity);
    bend("absent gateway", &|bad| bad.absent[0].role = Role::Gateway);
    bend("key of another epoch", &|bad| bad.nodes[0].mix_keys[0].0 = Epoch(39));
    bend("no key for the epoch", &|bad| bad.nodes[gateway].mix_keys = bad.nodes[gateway].mix_keys.split_off(1));
    bend("envelope keys of a gateway", &|bad| bad.nodes[gateway].envelope_keys = bad.nodes[gateway].mix_keys.clone());
    bend("from the future", &|bad| bad.nodes[0].since = Epoch(41));
    bend("two current generations", &|bad| bad.generations[0].retired = None);
    bend("no current generation", &|bad| bad.generations[1].retired = Some(EPOCH));
    bend("generation order", &|bad| bad.generations.reverse());
    bend("two stores", &|bad| bad.generations[1].stores.truncate(2));
    bend("unsorted stores", &|bad| bad.generations[1].stores.reverse());
    bend("unknown store", &|bad| bad.generations[0].stores.push(StoreIndex(4)));
    bend("reveal twice", &|bad| bad.reveals.push(bad.reveals[0].clone()));
    bend("reveal without commitment", &|bad| bad.commitments.clear());
    bend("commitment of nobody", &|bad| bad.commitments[0].authority = 1);
    bend("excluded and committed", &|bad| bad.draw.excluded = vec![0]);
    bend("excluded nobody", &|bad| bad.draw.excluded = vec![1]);
    bend("commitments after reveals", &|bad| bad.draw.commit_before = bad.draw.reveal_from.plus(1));
    bend("drawn before revealed", &|bad| bad.draw.due = bad.draw.reveal_from);
    bend("revealed in the future", &|bad| bad.draw.revealed_from = EPOCH.plus(2));
    bend("mean delay from the future", &|bad| bad.mean_delay_since = EPOCH.plus(1));
    bend("authority twice", &|bad| bad.authorities.push(bad.authorities[0].clone()));
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(
        UnverifiedConsensus::parse(&vec![0; MAX_CONSENSUS_SIZE + 1]).map(|_| ()),
        Err(DocumentError::TooLarge(MAX_CONSENSUS_SIZE + 1))
    );
    let mut many = sample(1);
    many.lists = (0..=64).map(|authority| ListHash { authority, hash: NETWORK }).collect();
    assert_eq!(open(&certified(&many)), Err(DocumentError::Malformed("lists")));
}

#[test]
fn a_thousand_nodes_stay_below_400_kb_under_seven_authorities() {
    let mut secrets: Vec<_> = (0..7).map(|n| AuthoritySecret::generate(&mut StdRng::seed_from_u64(n))).collect();
    secrets.sort_by_key(|secret| secret.public().identity);
    let mut document = testing::consensus(20, 310, 50);
    document.authorities = secrets.iter().map(|secret| secret.public().clone()).collect();
    document.commitments = (0..7).map(|authority| Commitment { authority, hash: Hash::from_bytes([7; 32]) }).collect();
    document.reveals = (0..7).map(|authority| Reveal { authority, value: [8; 32] }).collect();
    document.lists = (0..7).map(|authority| ListHash { authority, hash: Hash::from_bytes([9; 32]) }).collect();
    assert_eq!(document.nodes.len(), 1000);
    let bytes = certify(&document, 0, &(0..).zip(&secrets).collect::<Vec<_>>());
    println!("{} bytes", bytes.len());
    assert!(bytes.len() <= 400_000, "{} bytes", bytes.len());
    let anchor = TrustAnchor { network: NETWORK, authorities: document.authorities.clone() };
    let opened = UnverifiedConsensus::parse(&bytes).expect("well-formed").verify(&anchor, document.valid_from, None);
    assert_eq!(opened.map(|verified| verified.signatures()), Ok(7));
}

#[test]
fn a_foreign_certificate_is_refused() {
    let (one, two) = (certified(&sample(1)), certified(&sample(2)));
    let (document, _) = split_for_test(&one);
    let (_, certificate) = split_for_test(&two);
    let mixed = codec::encode(|writer| {
        writer.put_array(2);
        writer.put_bytes(document);
        writer.put_bytes(certificate);
    });
    assert_eq!(open(&mixed), Err(DocumentError::OtherCertificate));
    // of this document, but for an epoch that it does not say
    let real = sample(1);
    let mark = Mark { epoch: real.epoch.plus(1), ..real.mark() };
    let certificate = Certificate::sign(&NETWORK, mark, 0, &[(0, &authority())]);
    assert_eq!(
        open(&assemble(&real, &certificate)),
        Err(DocumentError::OtherEpoch { certified: mark.epoch, found: real.epoch })
    );
}

fn split_for_test(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut reader = Reader::new(bytes);
    reader.array(2, "outer").expect("array");
    (reader.bytes("document").expect("document"), reader.bytes("certificate").expect("certificate"))
}

#[test]
fn a_longer_encoding_of_the_same_value_is_refused() {
    let document = sample(1).encode();
    // The first field is the format, one byte 0x01 after the two-byte... array header: write it as a two-byte integer.
    assert_eq!(document[..2], [0x96, 0x01]);
    let mut longer = vec![0x96, 0x18, 0x01];
    longer.extend_from_slice(&document[2..]);
    assert_eq!(Consensus::decode(&longer), Err("not in canonical form"));
}

#[test]
fn json_shows_hex() {
    let json = serde_json::to_value(sample(1)).expect("encodes");
    assert_eq!(json["network"], "01".repeat(32));
    assert_eq!(json["generations"][1]["seed"], "06".repeat(32));
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(8));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn anything_bent_is_refused(seed in 1u64..1000, at: prop::sample::Index, bit in 0u8..8) {
        let document = sample(seed);
        let bytes = certified(&document);
        prop_assert_eq!(open(&bytes).map(|verified| verified.content_for_test()), Ok(document));
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(open(&flipped).is_err());
        prop_assert!(open(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..4000)) {
        prop_assert!(open(&junk).is_err());
        prop_assert!(Consensus::decode(&junk).is_err());
    }

    #[test]
    fn a_bent_document_never_panics_the_reader(seed in 1u64..1000, at: prop::sample::Index, byte: u8) {
        let mut bytes = sample(seed).encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Consensus::decode(&bytes);
        let _ = Consensus::decode(&bytes[..at]);
    }
}

impl VerifiedConsensus {
    fn content_for_test(&self) -> Consensus {
        Consensus::clone(self)
    }
}
