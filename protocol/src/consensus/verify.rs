//! From bytes to a consensus that may be used.

use std::ops::Deref;

use minicbor::{Decode, Encode};
use thiserror::Error;

use super::codec::{self, Put, Reader};
use super::difference::{self, DifferenceError};
use super::{Consensus, MAX_CONSENSUS_SIZE};
use crate::authority::{AuthorityKey, AuthoritySecret};
use crate::certificate::Certificate;
use crate::types::{Epoch, Hash, UnixMillis};

/// Domain of a document's hash.
const DOCUMENT: &str = "shoal/1 consensus";

/// Why a consensus is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Longer than [`MAX_CONSENSUS_SIZE`].
    #[error("the consensus is {0} bytes long; at most {MAX_CONSENSUS_SIZE} are accepted")]
    TooLarge(usize),
    /// A field is missing, malformed or contradicts another.
    #[error("the consensus is malformed: {0}")]
    Malformed(&'static str),
    /// The certificate is for other bytes or another height.
    #[error("the certificate does not belong to this consensus")]
    OtherCertificate,
    /// The authorities certified the document for another epoch than it says.
    #[error("the consensus says epoch {found}, its certificate epoch {certified}")]
    OtherEpoch {
        /// Epoch of the certificate.
        certified: Epoch,
        /// Epoch of the document.
        found: Epoch,
    },
    /// Made by the authorities of another network.
    #[error("the consensus is of network {found}, expected {expected}")]
    WrongNetwork {
        /// Network in the document.
        found: Hash,
        /// The network of whoever verifies.
        expected: Hash,
    },
    /// No signature at all.
    #[error("the consensus carries no signature")]
    Unsigned,
    /// Fewer signatures than a quorum.
    #[error("the consensus carries {valid} signatures; {needed} are needed")]
    TooFewSignatures {
        /// Signatures present.
        valid: usize,
        /// The quorum, 2f+1.
        needed: usize,
    },
    /// A signature by an authority that is not in the set.
    #[error("the consensus is signed by authority {authority}, which is not in the set")]
    UnknownAuthority {
        /// Index named by the certificate.
        authority: u16,
    },
    /// A signature that does not verify.
    #[error("the signature of authority {authority} is wrong")]
    BadSignature {
        /// Index named by the certificate.
        authority: u16,
    },
    /// Its last epoch is over.
    #[error("the consensus of epoch {epoch} ended {ago_ms} ms ago")]
    Expired {
        /// Epoch of the document.
        epoch: Epoch,
        /// How long ago it ended, in ms.
        ago_ms: u64,
    },
    /// Its epoch has not begun.
    #[error("the consensus of epoch {epoch} begins in {in_ms} ms; if that is wrong, check the clock")]
    NotYetValid {
        /// Epoch of the document.
        epoch: Epoch,
        /// Until it begins, in ms.
        in_ms: u64,
    },
    /// Older than one already seen.
    #[error("the consensus is of epoch {found}; epoch {newest} was already seen")]
    Rollback {
        /// Epoch of the document.
        found: Epoch,
        /// Newest epoch seen.
        newest: Epoch,
    },
    /// Two certified documents that cannot both lie on one chain: evidence against the authorities.
    #[error(
        "two certified documents contradict each other, {seen} and {found} (height {height}, epoch {epoch}): keep both \
         and stop"
    )]
    Conflict {
        /// Height of this one.
        height: u64,
        /// Epoch of this one.
        epoch: Epoch,
        /// Hash of the document seen first.
        seen: Hash,
        /// Hash of this one.
        found: Hash,
    },
}

impl DocumentError {
    /// Whether the cause may be that another set of authorities certified the document than the reader knows: then the
    /// documents that changed the set lead there ([`super::Follower::advance`]).
    #[must_use]
    pub fn may_be_another_set(&self) -> bool {
        matches!(self, Self::TooFewSignatures { .. } | Self::UnknownAuthority { .. } | Self::BadSignature { .. })
    }
}

/// What is remembered of the newest document ever seen, against rollback and forks; members of a conversation tell each
/// other theirs (`conversations.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// Its place in the chain.
    #[n(0)]
    pub height: u64,
    /// Its epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// Its hash.
    #[n(2)]
    pub hash: Hash,
}

impl Mark {
    /// Whether no chain holds both documents: heights have no gaps and epochs grow with them, so of two documents the one of
    /// the larger height is of the later epoch, and nothing else of them is equal. What follows for the authorities who
    /// certified both: [`Certificate::contradicts`].
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        let (heights, epochs) = (self.height.cmp(&other.height), self.epoch.cmp(&other.epoch));
        self != other && (heights != epochs || heights.is_eq() || self.hash == other.hash)
    }
}

/// What a party trusts before it has any document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustAnchor {
    /// Genesis hash of the network.
    pub network: Hash,
    /// Authorities whose quorum certifies, strictly increasing by identity.
    pub authorities: Vec<AuthorityKey>,
}

/// A parsed consensus that nobody has verified; its content is out of reach.
#[derive(Clone, Debug)]
pub struct UnverifiedConsensus {
    content: Consensus,
    certificate: Certificate,
    hash: Hash,
    bytes: Vec<u8>,
}

impl UnverifiedConsensus {
    /// Reads certified bytes: `[document, certificate]`.
    ///
    /// # Errors
    /// Too large, malformed, or document and certificate that do not belong together.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_CONSENSUS_SIZE {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let (document, certificate) = split(bytes).map_err(DocumentError::Malformed)?;
        let content = Consensus::decode(document).map_err(DocumentError::Malformed)?;
        let certificate = Certificate::decode(certificate).map_err(DocumentError::Malformed)?;
        let hash = Hash::of(DOCUMENT, document);
        if certificate.document != hash || certificate.height != content.height {
            return Err(DocumentError::OtherCertificate);
        }
        if certificate.epoch != content.epoch {
            return Err(DocumentError::OtherEpoch { certified: certificate.epoch, found: content.epoch });
        }
        Ok(Self { content, certificate, hash, bytes: bytes.to_vec() })
    }

    /// Checks network, certificate, time, and that it is `newest`, the newest document ever seen, or a later one on the
    /// same chain as far as the two tell: one that contradicts it ([`Mark::contradicts`]), or a next one that names another
    /// predecessor, is a [`DocumentError::Conflict`].
    ///
    /// # Errors
    /// Which of them failed, and how.
    pub fn verify(
        self,
        anchor: &TrustAnchor,
        now: UnixMillis,
        newest: Option<Mark>,
    ) -> Result<VerifiedConsensus, DocumentError> {
        let epoch = self.content.epoch;
        self.check_certificate(anchor)?;
        let skew = self.content.parameters.skew();
        if now > self.content.valid_until.plus(skew) {
            return Err(DocumentError::Expired { epoch, ago_ms: now.0 - self.content.valid_until.0 });
        }
        if now.plus(skew) < self.content.valid_from {
            return Err(DocumentError::NotYetValid { epoch, in_ms: self.content.valid_from.0 - now.0 });
        }
        if let Some(newest) = newest {
            self.check_follows(&newest)?;
        }
        Ok(self.into_verified())
    }

    /// The height that it claims.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.content.height
    }

    /// Checks network, certificate, and that it is `newest` or follows it, but not the time: for an authority that takes
    /// over what the others have agreed on while it was away.
    ///
    /// # Errors
    /// Which of them failed, and how.
    pub fn verify_after(self, anchor: &TrustAnchor, newest: Option<Mark>) -> Result<VerifiedConsensus, DocumentError> {
        self.check_certificate(anchor)?;
        if let Some(newest) = newest {
            self.check_follows(&newest)?;
        }
        Ok(self.into_verified())
    }

    fn check_follows(&self, newest: &Mark) -> Result<(), DocumentError> {
        let mark = self.mark();
        let Mark { height, epoch, hash: found } = mark;
        let follows_another = newest.height.checked_add(1) == Some(height) && self.content.previous != newest.hash;
        if mark.contradicts(newest) || follows_another {
            return Err(DocumentError::Conflict { height, epoch, seen: newest.hash, found });
        }
        if height < newest.height {
            return Err(DocumentError::Rollback { found: epoch, newest: newest.epoch });
        }
        Ok(())
    }

    /// Checks network and certificate only: for an authority that reads its own chain, and for tools that look at old
    /// documents. Never a reason to use a document on the network.
    ///
    /// # Errors
    /// Wrong network or certificate.
    pub fn verify_any_time(self, anchor: &TrustAnchor) -> Result<VerifiedConsensus, DocumentError> {
        self.check_certificate(anchor)?;
        Ok(self.into_verified())
    }

    /// Takes the document as verified because whoever calls has verified it before and kept its bytes itself. Only
    /// network and form are checked: the set that certified it may be long gone from memory.
    ///
    /// # Errors
    /// A document of another network.
    pub fn dangerously_trust_own_copy(self, network: &Hash) -> Result<VerifiedConsensus, DocumentError> {
        if self.content.network != *network {
            return Err(DocumentError::WrongNetwork { found: self.content.network, expected: *network });
        }
        Ok(self.into_verified())
    }

    /// The certified bytes, as they came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that a difference makes of this document; they are as little verified as the difference.
    ///
    /// # Errors
    /// It leads from another document, or to none.
    pub fn apply(&self, difference: &[u8]) -> Result<Vec<u8>, DifferenceError> {
        difference::apply(&self.content, self.hash, difference)
    }

    /// Its place in the chain, as it claims.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { height: self.content.height, epoch: self.content.epoch, hash: self.hash }
    }

    /// Hash of the set that it claims certifies the next one.
    #[must_use]
    pub fn set(&self) -> Hash {
        super::set_hash(&self.content.authorities)
    }

    fn check_certificate(&self, anchor: &TrustAnchor) -> Result<(), DocumentError> {
        if self.content.network != anchor.network {
            return Err(DocumentError::WrongNetwork { found: self.content.network, expected: anchor.network });
        }
        self.certificate.verify(&anchor.network, &anchor.authorities)
    }

    fn into_verified(self) -> VerifiedConsensus {
        let Self { content, certificate, hash, bytes } = self;
        VerifiedConsensus { content, certificate, hash, bytes }
    }
}

/// A consensus that verified, with the exact bytes that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedConsensus {
    content: Consensus,
    certificate: Certificate,
    hash: Hash,
    bytes: Vec<u8>,
}

impl Deref for VerifiedConsensus {
    type Target = Consensus;

    fn deref(&self) -> &Consensus {
        &self.content
    }
}

impl VerifiedConsensus {
    /// Hash of the document: what certificates and the next document's `previous` name.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The certified bytes, as they are stored and passed on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As [`UnverifiedConsensus::apply`].
    ///
    /// # Errors
    /// It leads from another document, or to none.
    pub fn apply(&self, difference: &[u8]) -> Result<Vec<u8>, DifferenceError> {
        difference::apply(&self.content, self.hash, difference)
    }

    /// How many authorities signed.
    #[must_use]
    pub fn signatures(&self) -> usize {
        self.certificate.signatures.len()
    }

    /// The certificate that verified.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What to remember against rollback and forks.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { height: self.content.height, epoch: self.content.epoch, hash: self.hash }
    }
}

impl Consensus {
    /// Hash of the document's exact bytes: what certificates and the next document's `previous` name.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(DOCUMENT, &self.encode())
    }

    /// What authorities certify.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { height: self.height, epoch: self.epoch, hash: self.hash() }
    }
}

/// The certified bytes of `document` under a certificate that others' signatures make up.
#[must_use]
pub fn assemble(document: &Consensus, certificate: &Certificate) -> Vec<u8> {
    join(&document.encode(), &certificate.encode())
}

/// Certifies `document`: its bytes and the signatures of `signers`, each with its index in the authority list.
#[must_use]
pub fn certify(document: &Consensus, round: u32, signers: &[(u16, &AuthoritySecret)]) -> Vec<u8> {
    let bytes = document.encode();
    let mark = Mark { height: document.height, epoch: document.epoch, hash: document_hash(&bytes) };
    let certificate = Certificate::sign(&document.network, mark, round, signers);
    join(&bytes, &certificate.encode())
}

/// Hash of a document's exact bytes.
pub(super) fn document_hash(document: &[u8]) -> Hash {
    Hash::of(DOCUMENT, document)
}

/// `[bytes, bytes]`.
pub(super) fn join(document: &[u8], certificate: &[u8]) -> Vec<u8> {
    codec::encode(|writer| {
        writer.put_array(2);
        writer.put_bytes(document);
        writer.put_bytes(certificate);
    })
}

/// Document and certificate of certified bytes.
pub(super) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let mut reader = Reader::new(bytes);
    reader.array(2, "certified document")?;
    let document = reader.bytes("document")?;
    let certificate = reader.bytes("certificate")?;
    reader.end("bytes after the certificate")?;
    if join(document, certificate) == bytes {
        Ok((document, certificate))
    } else {
        Err("certified document (not in canonical form)")
    }
}
