//! Answers: sealed by a replica for the client, packed by a courier that cannot tell one from another.

use super::envelope::OpenEnvelope;
use super::seal::{fill, hash_key, open_once, seal_once};
use crate::boxes::{BoxBody, BoxId};
use crate::geometry::{ANSWER_NONCE_SIZE, BOX_SIZE, FULL_ANSWER_SIZE, RECEIPT_SIZE, REPLY_SIZE, SHORT_ANSWER_SIZE};
use crate::types::StoreIndex;
use rand::CryptoRng;
use zeroize::Zeroizing;

const FULL: &str = "shoal/1 answer full key";
const SHORT: &str = "shoal/1 answer short key";
const RECEIPT: &str = "shoal/1 answer receipt key";

/// What a replica says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The write is on disk (committed and fsynced); the same body was there before counts too.
    Stored,
    /// Another body was first.
    Taken,
    /// Nothing under this id, or no further entry.
    Empty,
    /// Here is the body.
    Found,
    /// No room: nothing was stored, nothing was evicted.
    Full,
    /// Signature, hashcash or receipt is not valid.
    Refused,
    /// The replica cannot store or read at the moment; nothing was stored.
    Unavailable,
}

impl Status {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Stored => 1,
            Self::Taken => 2,
            Self::Empty => 3,
            Self::Found => 4,
            Self::Full => 5,
            Self::Refused => 6,
            Self::Unavailable => 7,
        }
    }
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Stored),
            2 => Some(Self::Taken),
            3 => Some(Self::Empty),
            4 => Some(Self::Found),
            5 => Some(Self::Full),
            6 => Some(Self::Refused),
            7 => Some(Self::Unavailable),
            _ => None,
        }
    }
}

/// One replica's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What came of the operation.
    pub status: Status,
    /// Number of the inbox entry found by a READ, or the hashcash bits now asked by an inbox that answers
    /// [`Status::Refused`] to an APPEND; else 0.
    pub number: u64,
    /// The body found; only in a full answer.
    pub body: Option<BoxBody>,
}

impl Answer {
    /// An answer without number and body.
    pub const fn plain(status: Status) -> Self {
        Self { status, number: 0, body: None }
    }
}

/// What a replica sends back to the courier for every envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedAnswer {
    /// Status, number and body.
    pub full: Box<[u8; FULL_ANSWER_SIZE]>,
    /// Status and number.
    pub short: [u8; SHORT_ANSWER_SIZE],
    /// For the other replica.
    pub receipt: [u8; RECEIPT_SIZE],
}

impl std::fmt::Debug for SealedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedAnswer(…)")
    }
}

impl SealedAnswer {
    /// Random bytes of the right shape: the answer to garbage, and what stands for an absent answer.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut answer =
            Self { full: Box::new([0; FULL_ANSWER_SIZE]), short: [0; SHORT_ANSWER_SIZE], receipt: [0; RECEIPT_SIZE] };
        rng.fill_bytes(answer.full.as_mut_slice());
        rng.fill_bytes(&mut answer.short);
        rng.fill_bytes(&mut answer.receipt);
        answer
    }
}

impl OpenEnvelope {
    /// Seals the answer to the client, and the receipt (a signature by this store's identity key over
    /// [`receipt_message`], or nothing) to the other replica. All sizes are fixed.
    pub fn seal_answer(&self, answer: &Answer, receipt: Option<&[u8; 64]>, rng: &mut impl CryptoRng) -> SealedAnswer {
        let index = self.me.0.to_be_bytes();
        let mut full_nonce = [0; ANSWER_NONCE_SIZE];
        let mut short_nonce = [0; ANSWER_NONCE_SIZE];
        rng.fill_bytes(&mut full_nonce);
        rng.fill_bytes(&mut short_nonce);
        let head: [u8; 9] = fill([&[answer.status.to_byte()], &answer.number.to_be_bytes()]);
        let zeros = [0; BOX_SIZE];
        let body = answer.body.as_ref().map_or(&zeros, BoxBody::as_bytes);
        let plain = Zeroizing::new([head.as_slice(), body].concat());
        let full = seal_once(&hash_key(FULL, &[&*self.content, &index, &full_nonce]), &[], &plain);
        let plain: [u8; 16] = fill([&head, &[0; 7]]);
        let short = seal_once(&hash_key(SHORT, &[&*self.content, &index, &short_nonce]), &[], &plain);
        let receipt_key = hash_key(RECEIPT, &[&*self.content, &index, &self.ephemeral]);
        let receipt = seal_once(&receipt_key, &[], receipt.unwrap_or(&[0; 64]));
        SealedAnswer {
            full: Box::new(fill([&full_nonce, &full])),
            short: fill([&short_nonce, &short]),
            receipt: fill([&receipt, &[]]),
        }
    }

    /// The first replica's signature, out of the receipt that the courier passed on; `None` if it is absent or not of
    /// this envelope.
    pub fn open_receipt(&self, first: StoreIndex, receipt: &[u8; RECEIPT_SIZE]) -> Option<[u8; 64]> {
        let key = hash_key(RECEIPT, &[&*self.content, &first.0.to_be_bytes(), &self.ephemeral]);
        let signature: [u8; 64] = open_once(&key, &[], receipt)?.as_slice().try_into().ok()?;
        (signature != [0; 64]).then_some(signature)
    }
}

/// Context of a receipt's signature (see [`crate::IdentityKey::sign`]).
pub const RECEIPT_CONTEXT: &str = "shoal/1 ordered write receipt";

/// What the first replica signs when it has stored an ordered write: id, then the hash of the body.
pub fn receipt_message(id: &BoxId, body: &BoxBody) -> [u8; 64] {
    fill([id.as_bytes(), &body.hash()])
}

/// What the client keeps of an envelope to read the reply. Zeroized on drop.
pub struct AnswerOpener {
    content: Zeroizing<[u8; 32]>,
    replicas: [StoreIndex; 2],
}

impl std::fmt::Debug for AnswerOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerOpener(redacted)")
    }
}

/// The answers of the two replicas, in the order in which the envelope named them. `None`: absent, late or garbage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The stores, in the envelope's order.
    pub replicas: [StoreIndex; 2],
    /// Their answers; at most one of them carries a body.
    pub by_replica: [Option<Answer>; 2],
}

impl AnswerOpener {
    pub(super) const fn new(content: Zeroizing<[u8; 32]>, replicas: [StoreIndex; 2]) -> Self {
        Self { content, replicas }
    }

    /// Opens a reply (at least [`REPLY_SIZE`] bytes; what follows is padding).
    pub fn open(&self, reply: &[u8]) -> Answers {
        let mut answers = Answers { replicas: self.replicas, by_replica: [None, None] };
        let Some((full, rest)) = reply.split_first_chunk::<FULL_ANSWER_SIZE>() else { return answers };
        let Some((short, _)) = rest.split_first_chunk::<SHORT_ANSWER_SIZE>() else { return answers };
        let [first, second] = &mut answers.by_replica;
        let [first_index, second_index] = self.replicas;
        *first = self.open_full(first_index, full);
        if first.is_some() {
            *second = self.open_short(second_index, short);
        } else {
            *second = self.open_full(second_index, full);
            *first = self.open_short(first_index, short);
        }
        answers
    }

    fn open_full(&self, index: StoreIndex, sealed: &[u8; FULL_ANSWER_SIZE]) -> Option<Answer> {
        let (nonce, sealed) = sealed.split_at(ANSWER_NONCE_SIZE);
        let plain = open_once(&hash_key(FULL, &[&*self.content, &index.0.to_be_bytes(), nonce]), &[], sealed)?;
        let (head, body) = plain.split_first_chunk::<9>()?;
        let mut answer = parse_head(head)?;
        if answer.status == Status::Found {
            answer.body = Some(BoxBody::from_slice(body).ok()?);
        }
        Some(answer)
    }

    fn open_short(&self, index: StoreIndex, sealed: &[u8; SHORT_ANSWER_SIZE]) -> Option<Answer> {
        let (nonce, sealed) = sealed.split_at(ANSWER_NONCE_SIZE);
        let plain = open_once(&hash_key(SHORT, &[&*self.content, &index.0.to_be_bytes(), nonce]), &[], sealed)?;
        parse_head(plain.split_first_chunk::<9>()?.0)
    }
}

fn parse_head(head: &[u8; 9]) -> Option<Answer> {
    let [status, number @ ..] = *head;
    Some(Answer { status: Status::from_byte(status)?, number: u64::from_be_bytes(number), body: None })
}

/// Packs the reply: the full answer of the first replica that answered, the short one of the other. The courier takes
/// random bytes for what is absent (see [`SealedAnswer::random`]).
pub fn pack_reply(full: &[u8; FULL_ANSWER_SIZE], short: &[u8; SHORT_ANSWER_SIZE]) -> [u8; REPLY_SIZE] {
    fill([full, short])
}
