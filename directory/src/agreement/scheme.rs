//! What is signed under which context, and by whom it is checked.

use std::fmt;
use std::sync::Arc;

use shoal_protocol::authority::{AuthorityKey, AuthoritySecret, HybridSignature};
use shoal_protocol::certificate::{COMMIT_CONTEXT, commit_message};
use shoal_protocol::consensus::Mark;
use shoal_protocol::{Epoch, Hash};

/// Domain of a prevote.
const PREVOTE: &str = "shoal/1 prevote";
/// Domain of a precommit for nil. A precommit for a document has the domain of a certificate.
const PRECOMMIT_NIL: &str = "shoal/1 precommit nil";
/// Domain of a proposal.
const PROPOSAL: &str = "shoal/1 proposal";
/// Domain of the hash under which a proposal's bytes are signed.
const PAYLOAD: &str = "shoal/1 proposal payload";

/// One signature, shared instead of copied.
#[derive(Clone, PartialEq, Eq)]
pub struct Sig(Arc<HybridSignature>);

impl Sig {
    /// Wraps a signature.
    #[must_use]
    pub fn new(signature: HybridSignature) -> Self {
        Self(Arc::new(signature))
    }

    /// The signature.
    #[must_use]
    pub fn get(&self) -> &HybridSignature {
        &self.0
    }
}

impl fmt::Debug for Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sig(..)")
    }
}

impl PartialOrd for Sig {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sig {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

/// Prevote or precommit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VoteKind {
    /// The first vote of a round.
    Prevote,
    /// The second; 2f+1 for one document are its certificate.
    Precommit,
}

/// What votes and proposals name: a document of the height, by its hash, and the epoch that it must say. With the epoch in
/// every signature two certificates show a fork that jumps heights. Two of one hash and different epochs are two documents,
/// of which no judge finds more than one good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId {
    /// The document's epoch.
    pub epoch: Epoch,
    /// Hash of its exact bytes.
    pub hash: Hash,
}

impl DocumentId {
    /// Its place in the chain, if it is the document of `height`.
    #[must_use]
    pub fn mark(&self, height: u64) -> Mark {
        Mark { height, epoch: self.epoch, hash: self.hash }
    }

    /// epoch (8, big endian) ‖ hash (32).
    fn append_to(&self, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.epoch.0.to_be_bytes());
        message.extend_from_slice(self.hash.as_bytes());
    }
}

impl From<Mark> for DocumentId {
    fn from(mark: Mark) -> Self {
        Self { epoch: mark.epoch, hash: mark.hash }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of epoch {}", self.hash, self.epoch)
    }
}

impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One vote without its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    /// Prevote or precommit.
    pub kind: VoteKind,
    /// Height it is for.
    pub height: u64,
    /// Round it is for.
    pub round: u32,
    /// The document; `None` is nil.
    pub document: Option<DocumentId>,
    /// Who votes: index into the authority list.
    pub authority: u16,
}

impl Ballot {
    /// Context and message of the signature.
    #[must_use]
    pub fn signed(&self, network: &Hash) -> (&'static str, Vec<u8>) {
        match (self.kind, &self.document) {
            (VoteKind::Precommit, Some(document)) => {
                (COMMIT_CONTEXT, commit_message(network, document.mark(self.height), self.round))
            }
            (kind, document) => {
                let mut message = place(network, self.height, self.round, self.authority);
                if let Some(document) = document {
                    document.append_to(&mut message);
                }
                (if kind == VoteKind::Prevote { PREVOTE } else { PRECOMMIT_NIL }, message)
            }
        }
    }
}

/// One proposal without its bytes and signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headline {
    /// Height it is for.
    pub height: u64,
    /// Round it is for.
    pub round: u32,
    /// Round in which 2f+1 prevoted the document, when it is proposed again because of that.
    pub lock_round: Option<u32>,
    /// The document.
    pub document: DocumentId,
    /// Hash of the bytes that come with it.
    pub payload: Hash,
    /// Who proposes.
    pub authority: u16,
}

impl Headline {
    /// Context and message of the signature.
    #[must_use]
    pub fn signed(&self, network: &Hash) -> (&'static str, Vec<u8>) {
        let mut message = place(network, self.height, self.round, self.authority);
        match self.lock_round {
            None => message.push(0),
            Some(round) => {
                message.push(1);
                message.extend_from_slice(&round.to_be_bytes());
            }
        }
        self.document.append_to(&mut message);
        message.extend_from_slice(self.payload.as_bytes());
        (PROPOSAL, message)
    }
}

/// The hash that stands for a proposal's bytes in its signature.
#[must_use]
pub fn payload_hash(bytes: &[u8]) -> Hash {
    Hash::of(PAYLOAD, bytes)
}

/// network (32) ‖ height (8, big endian) ‖ round (4) ‖ authority (2).
fn place(network: &Hash, height: u64, round: u32, authority: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(128);
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&height.to_be_bytes());
    message.extend_from_slice(&round.to_be_bytes());
    message.extend_from_slice(&authority.to_be_bytes());
    message
}

/// Signs for this authority and checks the signatures of all. [`Keyring`] is the real one; simulations of very many
/// schedules use a cheap one.
pub trait Scheme: fmt::Debug {
    /// How many authorities there are.
    fn count(&self) -> usize;
    /// This authority's signature.
    fn sign(&self, context: &'static str, message: &[u8]) -> HybridSignature;
    /// Whether `authority` signed.
    fn verify(&self, authority: u16, context: &'static str, message: &[u8], signature: &HybridSignature) -> bool;
}

/// The keys of all authorities and the secret of this one.
#[derive(Clone)]
pub struct Keyring {
    authorities: Arc<[AuthorityKey]>,
    secret: Arc<AuthoritySecret>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} authorities, secret redacted)", self.authorities.len())
    }
}

impl Keyring {
    /// Keys in the order of the authority list that verifies the height's certificate.
    #[must_use]
    pub fn new(authorities: Arc<[AuthorityKey]>, secret: Arc<AuthoritySecret>) -> Self {
        Self { authorities, secret }
    }
}

impl Scheme for Keyring {
    fn count(&self) -> usize {
        self.authorities.len()
    }

    fn sign(&self, context: &'static str, message: &[u8]) -> HybridSignature {
        self.secret.sign(context, message)
    }

    fn verify(&self, authority: u16, context: &'static str, message: &[u8], signature: &HybridSignature) -> bool {
        self.authorities.get(usize::from(authority)).is_some_and(|key| key.verify(context, message, signature))
    }
}
