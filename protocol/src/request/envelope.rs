//! Envelopes: an operation sealed to two replicas; all a courier sees of it are two store indices.

use super::answer::AnswerOpener;
use super::operation::{BadOperation, Operation};
use super::seal::{hash_key, open_once, seal_once};
use crate::geometry::{ENVELOPE_HEADER_SIZE, ENVELOPE_SIZE};
use crate::types::StoreIndex;
use crate::{X25519Public, X25519Secret};
use rand::CryptoRng;
use zeroize::Zeroizing;

const WRAP: &str = "shoal/1 envelope wrap key";
const CONTENT: &str = "shoal/1 envelope content key";

/// Why an envelope was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not [`ENVELOPE_SIZE`] bytes.
    #[error("an envelope has {ENVELOPE_SIZE} bytes, this one {0}")]
    WrongLength(usize),
    /// This store is not one of the two named.
    #[error("the envelope names other stores")]
    NotForMe,
    /// It names one store twice.
    #[error("the envelope names one store twice")]
    SameStoreTwice,
    /// It does not open under this key.
    #[error("the envelope does not open under this key")]
    Sealed,
}

/// A sealed operation, as the courier passes it on.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope(Box<[u8; ENVELOPE_SIZE]>);

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Envelope(…)")
    }
}

fn wrap_key(
    shared: &[u8; 32],
    ephemeral: &X25519Public,
    replica: &X25519Public,
    index: StoreIndex,
) -> Zeroizing<[u8; 32]> {
    hash_key(WRAP, &[shared, ephemeral.as_bytes(), replica.as_bytes(), &index.0.to_be_bytes()])
}

/// Seals an operation to two replicas, in the order in which the courier shall ask them. Each is named by index and
/// envelope key of the request's epoch.
pub fn seal_envelope(
    operation: &Operation,
    replicas: [(StoreIndex, X25519Public); 2],
    rng: &mut impl CryptoRng,
) -> (Envelope, AnswerOpener) {
    let ephemeral = X25519Secret::generate(rng);
    let mut content = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *content);
    let mut bytes = Vec::with_capacity(ENVELOPE_SIZE);
    for (index, _) in &replicas {
        bytes.extend_from_slice(&index.0.to_be_bytes());
    }
    let public = ephemeral.public();
    bytes.extend_from_slice(public.as_bytes());
    let named = bytes.clone();
    for (index, key) in &replicas {
        // a low-order envelope key is refused where descriptors are parsed; zeros make an envelope that does not open
        let shared = ephemeral.diffie_hellman(key).unwrap_or_default();
        bytes.extend_from_slice(&seal_once(&wrap_key(&shared, &public, key, *index), &named, &*content));
    }
    let key = hash_key(CONTENT, &[&*content]);
    let sealed = seal_once(&key, &bytes, &operation.encode());
    bytes.extend_from_slice(&sealed);
    let mut envelope = Box::new([0; ENVELOPE_SIZE]);
    envelope.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
    let opener = AnswerOpener::new(content, replicas.map(|(index, _)| index));
    (Envelope(envelope), opener)
}

impl Envelope {
    /// Takes exactly [`ENVELOPE_SIZE`] bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let exact: [u8; ENVELOPE_SIZE] = bytes.try_into().map_err(|_| EnvelopeError::WrongLength(bytes.len()))?;
        Ok(Self(Box::new(exact)))
    }
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; ENVELOPE_SIZE] {
        &self.0
    }
    /// The two stores, in the order in which they are to be asked: all a courier learns.
    pub fn replicas(&self) -> [StoreIndex; 2] {
        let [a, b, c, d, ..] = *self.0;
        [StoreIndex(u16::from_be_bytes([a, b])), StoreIndex(u16::from_be_bytes([c, d]))]
    }

    /// Opens the envelope as the store `me` with one of its envelope keys.
    pub fn open(&self, me: StoreIndex, key: &X25519Secret) -> Result<OpenEnvelope, EnvelopeError> {
        let [first, second] = self.replicas();
        if first == second {
            return Err(EnvelopeError::SameStoreTwice);
        }
        let position = if me == first {
            0
        } else if me == second {
            1
        } else {
            return Err(EnvelopeError::NotForMe);
        };
        let (header, sealed) = self.0.split_at(ENVELOPE_HEADER_SIZE);
        let (named, wrapped) = header.split_at(4 + 32);
        let mut ephemeral = [0; 32];
        ephemeral.copy_from_slice(named.split_at(4).1);
        let public = X25519Public::parse(ephemeral).map_err(|_| EnvelopeError::Sealed)?;
        let shared = key.diffie_hellman(&public).ok_or(EnvelopeError::Sealed)?;
        let (for_first, for_second) = wrapped.split_at(wrapped.len() / 2);
        let mine = if position == 0 { for_first } else { for_second };
        let wrap = wrap_key(&shared, &public, &key.public(), me);
        let unwrapped = open_once(&wrap, named, mine).ok_or(EnvelopeError::Sealed)?;
        let content: Zeroizing<[u8; 32]> =
            Zeroizing::new(unwrapped.as_slice().try_into().map_err(|_| EnvelopeError::Sealed)?);
        let operation = open_once(&hash_key(CONTENT, &[&*content]), header, sealed).ok_or(EnvelopeError::Sealed)?;
        Ok(OpenEnvelope { me, position, ephemeral, operation: Operation::decode(&operation), content })
    }
}

/// An envelope that one of its two replicas has opened.
pub struct OpenEnvelope {
    pub(super) me: StoreIndex,
    /// 0 if this store is asked first, 1 if second.
    pub position: usize,
    /// The ephemeral key; a replica refuses one it has seen before under the same envelope key.
    pub ephemeral: [u8; 32],
    /// What is asked.
    pub operation: Result<Operation, BadOperation>,
    pub(super) content: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for OpenEnvelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenEnvelope(redacted)")
    }
}
