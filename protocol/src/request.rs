//! Requests and replies: operations, the envelope sealed to two replicas, the answers sealed to the client.
//!
//! Every request has one size and every reply has one size. The courier sees two store indices, a fresh key and
//! ciphertext; it cannot tell a read from a write, nor whether two answers agree.

mod answer;
mod envelope;
mod operation;
mod seal;

pub use answer::{Answer, AnswerOpener, Answers, RECEIPT_CONTEXT, SealedAnswer, Status, pack_reply, receipt_message};
pub use envelope::{Envelope, EnvelopeError, OpenEnvelope, seal_envelope};
pub use operation::{BadOperation, Operation};

use crate::geometry::{REQUEST_SIZE, SURB_SIZE};
use crate::surb::{Surb, SurbError};

/// The plaintext of a request: SURB, then envelope.
pub fn pack_request(surb: &Surb, envelope: &Envelope) -> Vec<u8> {
    [surb.as_bytes().as_slice(), envelope.as_bytes()].concat()
}

/// Why a request's plaintext was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Too short, or the spare bytes are not zero.
    #[error("malformed request")]
    Malformed,
    /// The SURB is not usable.
    #[error(transparent)]
    Surb(#[from] SurbError),
    /// The envelope is not usable.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// Parses the plaintext of a request at the courier.
pub fn parse_request(plaintext: &[u8]) -> Result<(Surb, Envelope), RequestError> {
    let (request, spare) = plaintext.split_at_checked(REQUEST_SIZE).ok_or(RequestError::Malformed)?;
    if spare.iter().any(|byte| *byte != 0) {
        return Err(RequestError::Malformed);
    }
    let (surb, envelope) = request.split_at(SURB_SIZE);
    Ok((Surb::from_slice(surb)?, Envelope::from_slice(envelope)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::{BoxBody, BoxId};
    use crate::geometry::{ENVELOPE_SIZE, OPERATION_SIZE};
    use crate::{Epoch, StoreIndex, X25519Public, X25519Secret};
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    struct Pair {
        keys: [X25519Secret; 2],
        replicas: [(StoreIndex, X25519Public); 2],
        rng: StdRng,
    }

    fn pair() -> Pair {
        let mut rng = StdRng::seed_from_u64(1);
        let keys = [X25519Secret::generate(&mut rng), X25519Secret::generate(&mut rng)];
        let replicas = [(StoreIndex(7), keys[0].public()), (StoreIndex(21), keys[1].public())];
        Pair { keys, replicas, rng }
    }

    fn operations(rng: &mut StdRng) -> Vec<Operation> {
        let (id, body) = (BoxId::from_bytes([3; 32]), BoxBody::random(rng));
        vec![
            Operation::Put { id, signature: [1; 64], body: body.clone() },
            Operation::PutOrdered { id, signature: [2; 64], body: body.clone() },
            Operation::Get { id },
            Operation::Append { id, nonce: [4; 64], body },
            Operation::Read { id, signature: [5; 64], after: u64::MAX, epoch: Epoch(99) },
        ]
    }

    #[test]
    fn both_replicas_open_every_operation_and_answer() {
        let Pair { keys, replicas, mut rng } = pair();
        for operation in operations(&mut rng) {
            let (envelope, opener) = seal_envelope(&operation, replicas, &mut rng);
            assert_eq!(envelope.replicas(), [StoreIndex(7), StoreIndex(21)]);
            let opened: Vec<OpenEnvelope> =
                keys.iter().zip(replicas).map(|(key, (index, _))| envelope.open(index, key).unwrap()).collect();
            for (position, open) in opened.iter().enumerate() {
                assert_eq!((open.position, open.operation.as_ref()), (position, Ok(&operation)));
            }
            let found = Answer { status: Status::Found, number: 12, body: Some(BoxBody::random(&mut rng)) };
            let a = opened[0].seal_answer(&Answer::plain(Status::Empty), None, &mut rng);
            let b = opened[1].seal_answer(&found, None, &mut rng);
            let mut short = found.clone();
            short.body = None;
            let reply = pack_reply(&a.full, &b.short);
            assert_eq!(opener.open(&reply).by_replica, [Some(Answer::plain(Status::Empty)), Some(short)]);
            let reply = pack_reply(&b.full, &a.short);
            assert_eq!(opener.open(&reply).by_replica, [Some(Answer::plain(Status::Empty)), Some(found)]);
            let silence = SealedAnswer::random(&mut rng);
            assert_eq!(opener.open(&pack_reply(&silence.full, &silence.short)).by_replica, [None, None]);
            assert_eq!(opener.open(&pack_reply(&a.full, &silence.short)).by_replica[1], None);
            assert_eq!(opener.open(&[]).by_replica, [None, None]);
        }
    }

    #[test]
    fn envelopes_open_only_for_the_named() {
        let Pair { keys, replicas, mut rng } = pair();
        let operation = Operation::Get { id: BoxId::from_bytes([1; 32]) };
        let (envelope, _) = seal_envelope(&operation, replicas, &mut rng);
        assert_eq!(envelope.open(StoreIndex(8), &keys[0]).err(), Some(EnvelopeError::NotForMe));
        assert_eq!(envelope.open(StoreIndex(7), &keys[1]).err(), Some(EnvelopeError::Sealed));
        let twice = [replicas[0], replicas[0]];
        let (envelope, _) = seal_envelope(&operation, twice, &mut rng);
        assert_eq!(envelope.open(StoreIndex(7), &keys[0]).err(), Some(EnvelopeError::SameStoreTwice));
    }

    #[test]
    fn a_receipt_is_read_by_the_other_replica_only() {
        let Pair { keys, replicas, mut rng } = pair();
        let operation = operations(&mut rng).remove(1);
        let (envelope, _) = seal_envelope(&operation, replicas, &mut rng);
        let first = envelope.open(StoreIndex(7), &keys[0]).unwrap();
        let second = envelope.open(StoreIndex(21), &keys[1]).unwrap();
        let answer = first.seal_answer(&Answer::plain(Status::Stored), Some(&[9; 64]), &mut rng);
        assert_eq!(second.open_receipt(StoreIndex(7), &answer.receipt), Some([9; 64]));
        let none = first.seal_answer(&Answer::plain(Status::Taken), None, &mut rng);
        assert_eq!(second.open_receipt(StoreIndex(7), &none.receipt), None);
        let (other, _) = seal_envelope(&operation, replicas, &mut rng);
        let other = other.open(StoreIndex(21), &keys[1]).unwrap();
        assert_eq!(other.open_receipt(StoreIndex(7), &answer.receipt), None);
    }

    #[test]
    fn requests_round_trip_and_garbage_is_refused() {
        let Pair { replicas, mut rng, .. } = pair();
        let (envelope, _) = seal_envelope(&Operation::Get { id: BoxId::from_bytes([1; 32]) }, replicas, &mut rng);
        let surb = Surb::from_slice(&[6; SURB_SIZE]).unwrap();
        let mut plaintext = pack_request(&surb, &envelope);
        plaintext.resize(crate::geometry::PLAINTEXT_SIZE, 0);
        assert_eq!(parse_request(&plaintext), Ok((surb, envelope)));
        *plaintext.last_mut().unwrap() = 1;
        assert_eq!(parse_request(&plaintext), Err(RequestError::Malformed));
        assert_eq!(parse_request(&[]), Err(RequestError::Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_flipped_byte_never_opens(position in 0..ENVELOPE_SIZE, mask in 1..=255u8) {
            let Pair { keys, replicas, mut rng } = pair();
            let (envelope, _) = seal_envelope(&Operation::Get { id: BoxId::from_bytes([1; 32]) }, replicas, &mut rng);
            let mut bytes = *envelope.as_bytes();
            bytes[position] ^= mask;
            let changed = Envelope::from_slice(&bytes).unwrap();
            // the wrapped key of the other replica is covered by the content's associated data
            prop_assert!(changed.open(StoreIndex(7), &keys[0]).is_err());
        }
        #[test]
        fn any_operation_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), OPERATION_SIZE)) {
            if let Ok(operation) = Operation::decode(&bytes) {
                let again = operation.encode();
                prop_assert_eq!(again.as_slice(), &bytes[..]);
            }
        }
    }
}
