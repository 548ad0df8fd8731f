//! Formats, the log, the guard, and single situations of one authority. Whole networks run in `tests/agreement`.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::authority::{AuthorityKey, AuthoritySecret, HYBRID_SIGNATURE_SIZE, HybridSignature};
use shoal_protocol::certificate::Certificate;
use shoal_protocol::{Epoch, Hash, UnixMillis};

use super::evidence::Evidence;
use super::guard::{Guard, Refused};
use super::log::{self, Damaged, Framer, Record};
use super::message::{
    MAX_MESSAGE, MAX_PAYLOAD, MAX_SMALL_MESSAGE, Message, Quorum, RoundProof, RoundReason, SignedBallot,
};
use super::scheme::{Ballot, DocumentId, Headline, Keyring, Scheme as _, Sig, VoteKind, payload_hash};
use super::{Action, Agreement, Judge, Memory, Setup, Value, Verdict};

const NETWORK: Hash = Hash::from_bytes([7; 32]);
const ELSEWHERE: Hash = Hash::from_bytes([8; 32]);
const PAYLOAD: Hash = Hash::from_bytes([6; 32]);
const DOCUMENT: DocumentId = DocumentId { epoch: Epoch(7), hash: Hash::from_bytes([9; 32]) };
const OTHER: DocumentId = DocumentId { epoch: Epoch(7), hash: ELSEWHERE };
/// The same bytes, said to be of another epoch than they say: another document.
const LATER: DocumentId = DocumentId { epoch: Epoch(8), hash: DOCUMENT.hash };

fn sig(byte: u8) -> Sig {
    Sig::new(HybridSignature::from_slice(&[byte; HYBRID_SIGNATURE_SIZE]).expect("length"))
}

fn ballot(kind: VoteKind, round: u32, document: Option<DocumentId>, authority: u16) -> Ballot {
    Ballot { kind, height: 5, round, document, authority }
}

fn keyrings(count: usize) -> (Arc<[AuthorityKey]>, Vec<Keyring>) {
    let mut rng = StdRng::seed_from_u64(1);
    let secrets: Vec<_> = (0..count).map(|_| Arc::new(AuthoritySecret::generate(&mut rng))).collect();
    let public: Arc<[AuthorityKey]> = secrets.iter().map(|secret| secret.public().clone()).collect();
    let rings = secrets.into_iter().map(|secret| Keyring::new(public.clone(), secret)).collect();
    (public, rings)
}

struct Always(Verdict);

impl Judge for Always {
    fn judge(&self, _: u64, _: &Value, _: bool) -> Verdict {
        self.0
    }
}

const YES: Always = Always(Verdict::Valid);

fn authority(rings: &[Keyring], me: u16) -> Agreement {
    let setup = Setup { network: NETWORK, scheme: rings[usize::from(me)].clone(), me, epoch: Duration::from_secs(20) };
    Agreement::new(setup).expect("setup")
}

fn signed(ring: &Keyring, ballot: Ballot) -> SignedBallot {
    let (context, message) = ballot.signed(&NETWORK);
    SignedBallot { ballot, signature: Sig::new(ring.sign(context, &message)) }
}

fn proposal(ring: &Keyring, round: u32, authority: u16, bytes: &[u8]) -> Message {
    let payload = payload_hash(bytes);
    let headline = Headline { height: 5, round, lock_round: None, document: DOCUMENT, payload, authority };
    let (context, message) = headline.signed(&NETWORK);
    Message::Proposal { headline, bytes: bytes.into(), signature: Sig::new(ring.sign(context, &message)) }
}

fn samples() -> Vec<Message> {
    let headline = Headline {
        height: 5,
        round: 1,
        lock_round: Some(0),
        document: DOCUMENT,
        payload: payload_hash(b"lists"),
        authority: 2,
    };
    let vote = |authority| SignedBallot {
        ballot: ballot(VoteKind::Precommit, 3, (authority == 1).then_some(DOCUMENT), authority),
        signature: sig(4),
    };
    vec![
        Message::Proposal { headline, bytes: b"lists"[..].into(), signature: sig(3) },
        Message::Vote(vote(1)),
        Message::Quorum(Quorum {
            kind: VoteKind::Prevote,
            height: 5,
            round: 2,
            document: DOCUMENT,
            signatures: vec![(0, sig(1)), (3, sig(2))],
        }),
        Message::Round(RoundProof { height: 5, round: 3, reason: RoundReason::Over, votes: vec![vote(0), vote(1)] }),
    ]
}

fn decode(bytes: &[u8]) -> Result<Message, &'static str> {
    Message::decode(bytes, |height, round| super::proposer(height, round, 4))
}

#[test]
fn golden_messages() {
    let hashes: Vec<String> =
        samples().iter().map(|m| hex::encode(&blake3::hash(&m.encode()).as_bytes()[..8])).collect();
    assert_eq!(hashes, GOLDEN);
    let vote = samples()[1].encode();
    let expected = format!("8701050301820758{}{}01590{:x}", "20", "09".repeat(32), HYBRID_SIGNATURE_SIZE);
    assert_eq!(hex::encode(&vote[..vote.len() - HYBRID_SIGNATURE_SIZE]), expected);
}

/// First bytes of the BLAKE3 hash of each sample.
const GOLDEN: [&str; 4] = ["8c4f480087a0ff31", "da7e68c1bcc94371", "581cde3ccd90eb1e", "7a717c84e3ffaa70"];

#[test]
fn signatures_of_different_kinds_cover_different_things() {
    let mut seen = std::collections::BTreeSet::new();
    for kind in [VoteKind::Prevote, VoteKind::Precommit] {
        for document in [None, Some(DOCUMENT), Some(OTHER), Some(LATER)] {
            for round in 0..2 {
                assert!(seen.insert(ballot(kind, round, document, 1).signed(&NETWORK)));
                assert!(seen.insert(ballot(kind, round, document, 1).signed(&ELSEWHERE)));
            }
        }
    }
    let headline =
        Headline { height: 5, round: 1, lock_round: None, document: DOCUMENT, payload: PAYLOAD, authority: 1 };
    for other in [
        headline,
        Headline { height: 6, ..headline },
        Headline { round: 2, ..headline },
        Headline { lock_round: Some(0), ..headline },
        Headline { document: OTHER, ..headline },
        Headline { document: LATER, ..headline },
        Headline { payload: ELSEWHERE, ..headline },
        Headline { authority: 2, ..headline },
    ] {
        assert!(seen.insert(other.signed(&NETWORK)));
    }
}

#[test]
fn precommits_are_the_signatures_of_a_certificate() {
    let (public, rings) = keyrings(4);
    let votes: Vec<_> = (0..3_u16)
        .map(|me| (me, signed(&rings[usize::from(me)], ballot(VoteKind::Precommit, 2, Some(DOCUMENT), me))))
        .collect();
    let signatures = votes
        .into_iter()
        .map(|(authority, vote)| shoal_protocol::certificate::CommitSignature {
            authority,
            signature: vote.signature.get().clone(),
        })
        .collect();
    let certificate = Certificate { height: 5, epoch: DOCUMENT.epoch, round: 2, document: DOCUMENT.hash, signatures };
    assert_eq!(certificate.verify(&NETWORK, &public), Ok(()));
}

#[test]
fn lengths_are_bounded() {
    let headline =
        Headline { height: 5, round: 1, lock_round: None, document: DOCUMENT, payload: PAYLOAD, authority: 2 };
    let of = |length: usize| {
        let bytes = vec![0; length];
        let headline = Headline { payload: payload_hash(&bytes), ..headline };
        Message::Proposal { headline, bytes: bytes.into(), signature: sig(3) }.encode()
    };
    let largest = of(MAX_PAYLOAD);
    assert!(largest.len() <= MAX_MESSAGE && decode(&largest).is_ok());
    assert!(decode(&of(MAX_PAYLOAD + 1)).is_err());
    let votes = (0..64)
        .map(|authority| SignedBallot {
            ballot: Ballot {
                kind: VoteKind::Precommit,
                height: u64::MAX,
                round: u32::MAX,
                document: Some(DocumentId { epoch: Epoch(u64::MAX), ..DOCUMENT }),
                authority,
            },
            signature: sig(1),
        })
        .collect();
    let largest = Message::Round(RoundProof { height: u64::MAX, round: u32::MAX, reason: RoundReason::Over, votes });
    assert!(largest.encode().len() <= MAX_SMALL_MESSAGE);
    assert_eq!(decode(&largest.encode()), Ok(largest));
}

#[test]
fn nobody_signs_twice_in_a_certificate() {
    let twice = Quorum {
        kind: VoteKind::Prevote,
        height: 5,
        round: 2,
        document: DOCUMENT,
        signatures: vec![(1, sig(1)), (1, sig(2))],
    };
    assert!(decode(&Message::Quorum(twice).encode()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decoders_survive_anything(junk in prop::collection::vec(any::<u8>(), 0..400), which in 0..4_usize,
        position: prop::sample::Index, bit in 0..8_u32, cut: prop::sample::Index) {
        prop_assert!(decode(&junk).is_err());
        prop_assert!(Evidence::decode(&junk).is_err());
        let message = &samples()[which];
        let bytes = message.encode();
        let decoded = decode(&bytes);
        prop_assert_eq!(decoded.as_ref(), Ok(message));
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        let mut bent = bytes.clone();
        bent[position.index(bytes.len())] ^= 1 << bit;
        if let Ok(other) = decode(&bent) {
            prop_assert_eq!(other.encode(), bent);
        }
    }

    #[test]
    fn a_log_cut_anywhere_is_a_shorter_log(cut: prop::sample::Index, rubbish in prop::collection::vec(any::<u8>(), 0..80)) {
        let (bytes, ends) = log_of(&records());
        let cut = cut.index(bytes.len() + 1);
        let mut torn = bytes[..cut].to_vec();
        torn.extend_from_slice(&rubbish);
        let recovered = log::read(&torn, &NETWORK, 1, 5).expect("a torn tail is no damage");
        let whole = ends.iter().filter(|end| **end <= cut).count();
        prop_assert_eq!(recovered.entries.len(), whole);
        prop_assert_eq!(recovered.length, whole.checked_sub(1).map_or(0, |last| ends[last]));
    }

    #[test]
    fn damage_in_the_middle_of_a_log_is_found(position: prop::sample::Index, bit in 0..8_u32) {
        let (mut bytes, ends) = log_of(&records());
        let before_last = ends[ends.len() - 2];
        bytes[position.index(before_last)] ^= 1 << bit;
        prop_assert!(log::read(&bytes, &NETWORK, 1, 5).is_err());
    }
}

fn records() -> Vec<Record> {
    let Message::Quorum(polka) = samples()[2].clone() else { panic!("the third sample is a polka") };
    let headline =
        Headline { height: 5, round: 1, lock_round: None, document: DOCUMENT, payload: PAYLOAD, authority: 2 };
    let vote = SignedBallot { ballot: ballot(VoteKind::Prevote, 0, None, 1), signature: sig(5) };
    let valid = Some(b"lists"[..].into());
    vec![
        Record::Opening { network: NETWORK, authority: 1 },
        Record::Vote(vote),
        Record::Proposal(headline, sig(6)),
        Record::Verdict { round: 1, lock_round: Some(0), document: DOCUMENT, bytes: valid },
        Record::Verdict { round: 1, lock_round: None, document: OTHER, bytes: None },
        Record::Polka(polka),
        Record::Timeout(arc_malachitebft_core_types::TimeoutKind::Prevote, 3),
    ]
}

fn log_of(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
    let mut framer = Framer::new(5, 0);
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for record in records {
        bytes.extend_from_slice(&framer.frame(&record.encode()));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn a_log_says_what_was_written() {
    let (bytes, _) = log_of(&records());
    let recovered = log::read(&bytes, &NETWORK, 1, 5).expect("whole");
    assert_eq!(recovered.entries.into_iter().map(|entry| entry.0).collect::<Vec<_>>(), records());
    assert_eq!(log::read(&bytes, &ELSEWHERE, 1, 5), Err(Damaged::Foreign { what: "network" }));
    assert_eq!(log::read(&bytes, &NETWORK, 2, 5), Err(Damaged::Foreign { what: "authority" }));
    assert_eq!(log::read(&bytes, &NETWORK, 1, 6), Err(Damaged::Foreign { what: "height" }));
    let (headless, _) = log_of(&records()[1..]);
    assert!(matches!(log::read(&headless, &NETWORK, 1, 5), Err(Damaged::Broken { offset: 0 })));
    let mut framer = Framer::new(5, 0);
    let mut gap = framer.frame(&records()[0].encode());
    framer.frame(&records()[1].encode());
    let at = gap.len();
    gap.extend(framer.frame(&records()[2].encode()));
    assert_eq!(log::read(&gap, &NETWORK, 1, 5), Err(Damaged::Broken { offset: at }));
    assert!(log::read(&[], &NETWORK, 1, 5).expect("empty").entries.is_empty());
}

#[test]
fn the_guard_signs_one_thing_in_one_place() {
    let (_, rings) = keyrings(1);
    let mut guard = Guard::default();
    let vote = ballot(VoteKind::Prevote, 0, Some(DOCUMENT), 0);
    let first = guard.sign_vote(&rings[0], &NETWORK, vote).expect("first");
    let again = guard.sign_vote(&rings[0], &NETWORK, vote).expect("the same again");
    assert!(first.fresh && !again.fresh && first.signature == again.signature);
    for document in [None, Some(OTHER), Some(LATER)] {
        let other = Ballot { document, ..vote };
        assert_eq!(guard.sign_vote(&rings[0], &NETWORK, other).err(), Some(Refused));
        assert_eq!(guard.restore_vote(other, sig(1)), Err(Refused));
    }
    assert!(guard.sign_vote(&rings[0], &NETWORK, Ballot { round: 1, ..vote }).is_ok());
    assert!(guard.sign_vote(&rings[0], &NETWORK, Ballot { kind: VoteKind::Precommit, ..vote }).is_ok());
    let headline =
        Headline { height: 5, round: 0, lock_round: None, document: DOCUMENT, payload: PAYLOAD, authority: 0 };
    assert!(guard.sign_proposal(&rings[0], &NETWORK, headline).is_ok());
    for other in [Headline { document: OTHER, ..headline }, Headline { payload: ELSEWHERE, ..headline }] {
        assert_eq!(guard.sign_proposal(&rings[0], &NETWORK, other).err(), Some(Refused));
    }
}

#[test]
fn evidence_stands_alone() {
    let (_, rings) = keyrings(4);
    let vote = |document, authority: u16| {
        signed(&rings[usize::from(authority)], ballot(VoteKind::Precommit, 1, document, authority))
    };
    assert!(Evidence::of_votes(vote(None, 1), vote(None, 1)).is_none());
    assert!(Evidence::of_votes(vote(None, 1), vote(Some(DOCUMENT), 2)).is_none());
    let evidence = Evidence::of_votes(vote(None, 1), vote(Some(DOCUMENT), 1)).expect("a contradiction");
    let read = Evidence::decode(&evidence.encode()).expect("its own bytes");
    assert!(read == evidence && read.verify(&NETWORK, &rings[0]) && !read.verify(&ELSEWHERE, &rings[0]));
    assert_eq!((read.authority(), read.height()), (1, 5));
    let two_epochs = Evidence::of_votes(vote(Some(LATER), 1), vote(Some(DOCUMENT), 1)).expect("a contradiction");
    assert!(Evidence::decode(&two_epochs.encode()).is_ok_and(|read| read.verify(&NETWORK, &rings[0])));
    let forged = Evidence::of_votes(vote(None, 1), SignedBallot { signature: sig(1), ..vote(Some(OTHER), 1) });
    assert!(!forged.expect("a contradiction").verify(&NETWORK, &rings[0]));
}

fn decided(actions: &[Action]) -> Option<&Certificate> {
    actions.iter().find_map(
        |action| {
            if let Action::Decided { certificate, .. } = action { Some(certificate) } else { None }
        },
    )
}

fn broadcasts(actions: &[Action]) -> Vec<Message> {
    let bytes =
        actions.iter().filter_map(|action| if let Action::Broadcast(bytes) = action { Some(bytes) } else { None });
    bytes.map(|bytes| decode(bytes).expect("our own message")).collect()
}

fn value() -> Value {
    Value { document: DOCUMENT, proposal: b"lists"[..].into() }
}

#[test]
fn one_authority_decides_alone_and_at_once() {
    let (public, rings) = keyrings(1);
    let mut alone = authority(&rings, 0);
    let began = alone.start(5, Memory::Fresh, UnixMillis(1), &YES);
    assert!(began.contains(&Action::Propose { height: 5, round: 0 }), "{began:?}");
    let actions = alone.propose(5, 0, value(), UnixMillis(1), &YES);
    assert_eq!(decided(&actions).expect("decided").verify(&NETWORK, &public), Ok(()));
    // From its log it comes to the same, and signs nothing new.
    let log: Vec<u8> = began
        .into_iter()
        .chain(actions)
        .filter_map(|action| if let Action::Log(bytes) = action { Some(bytes) } else { None })
        .flatten()
        .collect();
    let recovered = log::read(&log, &NETWORK, 0, 5).expect("whole");
    let again = authority(&rings, 0).start(5, Memory::Log(&recovered.entries), UnixMillis(9), &YES);
    assert!(decided(&again).is_some() && !again.iter().any(|action| matches!(action, Action::Log(_))), "{again:?}");
}

/// A proposer crashed twice with a document in its log and no signature, and proposed a third one. When it read its log
/// after the next crash there was no room for the third: it came to another vote, and its guard silenced it for the rest
/// of the height.
#[test]
fn a_proposer_that_crashes_again_and_again_stays_in() {
    let (_, rings) = keyrings(4);
    let attempt = |byte: u8| DocumentId { hash: Hash::from_bytes([byte; 32]), ..DOCUMENT };
    let verdict = |byte: u8| Record::Verdict {
        round: 0,
        lock_round: None,
        document: attempt(byte),
        bytes: Some([byte][..].into()),
    };
    let payload = payload_hash(&[3]);
    // (5 + 0) mod 4: authority 1 proposes
    let headline = Headline { height: 5, round: 0, lock_round: None, document: attempt(3), payload, authority: 1 };
    let (context, message) = headline.signed(&NETWORK);
    let signature = Sig::new(rings[1].sign(context, &message));
    let prevote = |me: u16| signed(&rings[usize::from(me)], ballot(VoteKind::Prevote, 0, Some(attempt(3)), me));
    let entries = [
        Record::Opening { network: NETWORK, authority: 1 },
        verdict(1),
        verdict(2),
        verdict(3),
        Record::Proposal(headline, signature.clone()),
        Record::Vote(prevote(1)),
    ]
    .map(log::Entry);
    let mut again = authority(&rings, 1);
    let mut actions = again.start(5, Memory::Log(&entries), UnixMillis(9), &YES);
    let proposed = Message::Proposal { headline, bytes: [3][..].into(), signature };
    assert!(broadcasts(&actions).contains(&proposed), "{actions:?}");
    for me in [0, 2] {
        actions.extend(again.receive(me, &Message::Vote(prevote(me)).encode(), UnixMillis(10), &YES));
    }
    assert!(!actions.iter().any(|action| matches!(action, Action::Muted { .. })), "{actions:?}");
    let precommit = signed(&rings[1], ballot(VoteKind::Precommit, 0, Some(attempt(3)), 1));
    assert!(broadcasts(&actions).contains(&Message::Vote(precommit)), "it goes on");
}

#[test]
fn who_has_decided_comes_to_the_lowest_signatures_and_takes_nothing_else() {
    let (public, rings) = keyrings(4);
    let mut honest = authority(&rings, 3);
    let mut actions = honest.start(5, Memory::Fresh, UnixMillis(1), &YES);
    actions.extend(honest.receive(1, &proposal(&rings[1], 0, 1, b"lists").encode(), UnixMillis(2), &YES));
    let vote = |kind, document, me: u16| signed(&rings[usize::from(me)], ballot(kind, 0, document, me));
    let mut take =
        |vote: SignedBallot| honest.receive(vote.ballot.authority, &Message::Vote(vote).encode(), UnixMillis(3), &YES);
    for me in [1, 2] {
        actions.extend(take(vote(VoteKind::Prevote, Some(DOCUMENT), me)));
    }
    for me in [2, 1] {
        actions.extend(take(vote(VoteKind::Precommit, Some(DOCUMENT), me)));
    }
    let signers = |certificate: &Certificate| certificate.signatures.iter().map(|s| s.authority).collect::<Vec<_>>();
    assert_eq!(signers(decided(&actions).expect("decided")), [1, 2, 3]);
    let late = vote(VoteKind::Precommit, Some(DOCUMENT), 0);
    for nothing in [
        vote(VoteKind::Prevote, Some(DOCUMENT), 0),
        vote(VoteKind::Precommit, None, 0),
        vote(VoteKind::Precommit, Some(LATER), 0),
        SignedBallot { signature: sig(1), ..late.clone() },
        signed(&rings[0], Ballot { round: 1, ..late.ballot }),
    ] {
        assert_eq!(take(nothing), []);
    }
    let [Action::Completed(completed)] = &take(late.clone())[..] else { panic!("completed") };
    assert_eq!((signers(completed), completed.verify(&NETWORK, &public)), (vec![0, 1, 2], Ok(())));
    assert_eq!(take(late), [], "once");
}

#[test]
fn an_observer_learns_and_says_nothing() {
    let (public, rings) = keyrings(4);
    let mut observer = authority(&rings, 3);
    let mut actions = observer.start(5, Memory::Lost, UnixMillis(1), &YES);
    // (5 + 0) mod 4: authority 1 proposes.
    actions.extend(observer.receive(1, &proposal(&rings[1], 0, 1, b"lists").encode(), UnixMillis(2), &YES));
    for kind in [VoteKind::Prevote, VoteKind::Precommit] {
        for me in 0..3_u16 {
            let vote = signed(&rings[usize::from(me)], ballot(kind, 0, Some(DOCUMENT), me));
            actions.extend(observer.receive(me, &Message::Vote(vote).encode(), UnixMillis(3), &YES));
        }
    }
    assert_eq!(decided(&actions).expect("decided").verify(&NETWORK, &public), Ok(()));
    assert!(broadcasts(&actions).is_empty(), "{actions:?}");
}

#[test]
fn a_certificate_that_pretends_moves_nobody() {
    let (_, rings) = keyrings(4);
    let mut honest = authority(&rings, 0);
    honest.start(5, Memory::Fresh, UnixMillis(1), &YES);
    let real = |kind, me: u16| signed(&rings[usize::from(me)], ballot(kind, 7, Some(DOCUMENT), me));
    let quorum =
        |kind, signatures| Message::Quorum(Quorum { kind, height: 5, round: 7, document: DOCUMENT, signatures });
    let by = |kind, count: u16| (1..=count).map(|me| (me, real(kind, me).signature)).collect::<Vec<_>>();
    let round = |votes| Message::Round(RoundProof { height: 5, round: 7, reason: RoundReason::Skip, votes });
    let (prevote, precommit) = (VoteKind::Prevote, VoteKind::Precommit);
    let mut pretends = by(prevote, 2);
    pretends.push((3, pretends[0].1.clone()));
    let forged = SignedBallot { signature: sig(1), ..real(prevote, 2) };
    for message in [
        quorum(prevote, by(prevote, 2)),
        quorum(prevote, pretends),
        quorum(prevote, by(precommit, 3)),
        quorum(precommit, by(prevote, 3)),
        quorum(precommit, by(precommit, 2)),
        round(vec![real(prevote, 1)]),
        round(vec![real(prevote, 1), forged]),
    ] {
        let actions = honest.receive(1, &message.encode(), UnixMillis(2), &YES);
        assert_eq!((actions, honest.round()), (vec![], Some(0)), "{message:?}");
    }
    honest.receive(1, &round(vec![real(prevote, 1), real(precommit, 2)]).encode(), UnixMillis(2), &YES);
    assert_eq!(honest.round(), Some(7), "f+1 real votes do");
    let polka = Quorum { kind: prevote, height: 5, round: 9, document: DOCUMENT, signatures: vec![] };
    let signatures: Vec<_> = (1..4_u16)
        .map(|me| (me, signed(&rings[usize::from(me)], ballot(prevote, 9, Some(DOCUMENT), me)).signature))
        .collect();
    honest.receive(2, &Message::Quorum(Quorum { signatures, ..polka }).encode(), UnixMillis(3), &YES);
    assert_eq!(honest.round(), Some(9), "and 2f+1 prevotes do");
}

#[test]
fn bytes_that_are_not_the_documents_do_not_poison_it() {
    let (_, rings) = keyrings(4);
    struct Careful;
    impl Judge for Careful {
        fn judge(&self, _: u64, value: &Value, _: bool) -> Verdict {
            if *value.proposal == b"lists"[..] { Verdict::Valid } else { Verdict::Invalid }
        }
    }
    let mut honest = authority(&rings, 0);
    honest.start(5, Memory::Fresh, UnixMillis(1), &Careful);
    let refused = honest.receive(1, &proposal(&rings[1], 0, 1, b"rubbish").encode(), UnixMillis(2), &Careful);
    let prevote = |actions: &[Action]| {
        let votes = broadcasts(actions)
            .into_iter()
            .filter_map(|message| if let Message::Vote(vote) = message { Some(vote.ballot) } else { None });
        votes.filter(|vote| vote.kind == VoteKind::Prevote).map(|vote| vote.document).collect::<Vec<_>>()
    };
    assert_eq!(prevote(&refused), [None]);
    // Round 1, and the same document with the right bytes.
    let votes = [1, 2].map(|me: u16| signed(&rings[usize::from(me)], ballot(VoteKind::Prevote, 1, None, me)));
    let skip = Message::Round(RoundProof { height: 5, round: 1, reason: RoundReason::Skip, votes: votes.into() });
    honest.receive(2, &skip.encode(), UnixMillis(3), &Careful);
    let taken = honest.receive(2, &proposal(&rings[2], 1, 2, b"lists").encode(), UnixMillis(4), &Careful);
    assert_eq!(prevote(&taken), [Some(DOCUMENT)]);
}

#[test]
fn a_flood_costs_a_bounded_number_of_checks() {
    let (_, rings) = keyrings(4);
    let mut honest = authority(&rings, 0);
    honest.start(5, Memory::Fresh, UnixMillis(1), &YES);
    let mut logged = 0;
    for round in 0..10_000 {
        let vote = SignedBallot { ballot: ballot(VoteKind::Prevote, round % 10, Some(OTHER), 1), signature: sig(1) };
        logged += honest.receive(1, &Message::Vote(vote).encode(), UnixMillis(2), &YES).len();
    }
    assert_eq!(logged, 0);
    let real = signed(&rings[1], ballot(VoteKind::Prevote, 0, Some(OTHER), 1));
    assert!(honest.receive(1, &Message::Vote(real.clone()).encode(), UnixMillis(3), &YES).is_empty(), "spent");
    assert!(!honest.receive(1, &Message::Vote(real).encode(), UnixMillis(500), &YES).is_empty(), "and gained");
}
