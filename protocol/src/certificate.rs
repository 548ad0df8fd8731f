//! Certificates: the proof that a quorum of authorities agreed on a document.
//!
//! A signature covers network, height, epoch, round and document hash: exactly what a Tendermint precommit commits to, so
//! that the commit certificate of the agreement is the proof that clients verify. Height and epoch are both in it, so that
//! two certificates alone show every fork, also one that jumps heights: [`Certificate::contradicts`].

use crate::authority::{AuthorityKey, AuthoritySecret, HYBRID_SIGNATURE_SIZE, HybridSignature, quorum};
use crate::consensus::codec::{self, Parsed, Put, Reader};
use crate::consensus::{DocumentError, Mark};
use crate::types::{Epoch, Hash};

/// Most authorities a network may have; a certificate of 2f+1 = 43 signatures is 107 kB.
pub const MAX_AUTHORITIES: usize = 64;

/// Domain of a commit signature, which is also the signature of a precommit for a document (`agreement.md`).
pub const COMMIT_CONTEXT: &str = "shoal/1 commit";

/// One authority's signature under a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSignature {
    /// Index into the authority list that verifies the certificate.
    pub authority: u16,
    /// Its signature over the commit.
    pub signature: HybridSignature,
}

/// Height, epoch, round and hash, and who signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Gapless sequence number of the document, from 1.
    pub height: u64,
    /// Epoch of the document.
    pub epoch: Epoch,
    /// Round in which the authorities agreed; 0 when the first proposal passed.
    pub round: u32,
    /// Hash of the exact document bytes.
    pub document: Hash,
    /// Signatures, strictly increasing by authority.
    pub signatures: Vec<CommitSignature>,
}

impl Certificate {
    /// A certificate of the document with this `mark`, signed by `signers`, each with its index in the authority list.
    #[must_use]
    pub fn sign(network: &Hash, mark: Mark, round: u32, signers: &[(u16, &AuthoritySecret)]) -> Self {
        let Mark { height, epoch, hash: document } = mark;
        let message = commit_message(network, mark, round);
        let mut signatures: Vec<_> = signers
            .iter()
            .map(|(authority, secret)| CommitSignature {
                authority: *authority,
                signature: secret.sign(COMMIT_CONTEXT, &message),
            })
            .collect();
        signatures.sort_by_key(|signature| signature.authority);
        Self { height, epoch, round, document, signatures }
    }

    /// Checks every signature against `authorities` and that a quorum signed. One bad signature spoils the certificate:
    /// no honest party ever passes one on.
    ///
    /// # Errors
    /// Says whether signatures are missing, from strangers, or wrong.
    pub fn verify(&self, network: &Hash, authorities: &[AuthorityKey]) -> Result<(), DocumentError> {
        let needed = quorum(authorities.len()).max(1);
        if self.signatures.is_empty() {
            return Err(DocumentError::Unsigned);
        }
        if self.signatures.len() < needed {
            return Err(DocumentError::TooFewSignatures { valid: self.signatures.len(), needed });
        }
        let message = commit_message(network, self.mark(), self.round);
        for CommitSignature { authority, signature } in &self.signatures {
            let key = authorities
                .get(usize::from(*authority))
                .ok_or(DocumentError::UnknownAuthority { authority: *authority })?;
            if !key.verify(COMMIT_CONTEXT, &message, signature) {
                return Err(DocumentError::BadSignature { authority: *authority });
            }
        }
        Ok(())
    }

    /// The document that it certifies.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { height: self.height, epoch: self.epoch, hash: self.document }
    }

    /// Whether no chain holds the documents of both ([`Mark::contradicts`]). Both must have been verified, each by the set of
    /// authorities of its height; then the two alone prove that more than f of the authorities of one height lied. With at
    /// most f liars in every set there are no two such certificates:
    ///
    /// - *One height, two documents* (or one document said to be of two epochs, which the agreement takes for two): safety of
    ///   the agreement, whose quorums of 2f+1 of 3f+1 share an honest authority, across rounds by its locks.
    /// - *Heights h < k, and epochs d ≥ e, or the same hash.* f+1 honest authorities voted for the document of k. Each found
    ///   it good: it has the height and the epoch that it is voted for by, its height is one above that of the document
    ///   certified before, which that authority holds, and its epoch is higher. So a document of height k − 1 and an epoch
    ///   below e is certified, by the same argument one of k − 2, and so on down to one of height h with an epoch below e ≤
    ///   d. By the first point it is the one of the other certificate, which is of epoch d: a contradiction. And a hash is of
    ///   one height, as the height is in the bytes that are hashed.
    ///
    /// The set of authorities may change in between: every step needs honest ones of one height only.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        self.mark().contradicts(&other.mark())
    }

    /// The exact bytes of a certificate.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(5);
            writer.put_uint(self.height);
            writer.put_uint(self.epoch.0);
            writer.put_uint(self.round.into());
            writer.put_bytes(self.document.as_bytes());
            writer.put_array(self.signatures.len());
            for CommitSignature { authority, signature } in &self.signatures {
                writer.put_array(2);
                writer.put_uint((*authority).into());
                writer.put_bytes(signature.as_bytes());
            }
        })
    }

    /// Reads a certificate; no signature is checked.
    ///
    /// # Errors
    /// Which field was malformed.
    pub fn decode(bytes: &[u8]) -> Parsed<Self> {
        const FIELD: &str = "certificate";
        let mut reader = Reader::new(bytes);
        reader.array(5, FIELD)?;
        let height = reader.u64(FIELD)?;
        let epoch = Epoch(reader.u64(FIELD)?);
        let round = reader.u32(FIELD)?;
        let document = Hash::from_bytes(reader.bytes_of(FIELD)?);
        let signatures = reader.list(0, MAX_AUTHORITIES, "certificate signatures", |reader| {
            reader.array(2, FIELD)?;
            let authority = reader.u16(FIELD)?;
            let signature = reader.bytes_of::<HYBRID_SIGNATURE_SIZE>(FIELD)?;
            let signature = HybridSignature::from_slice(&signature).map_err(|_| FIELD)?;
            Ok(CommitSignature { authority, signature })
        })?;
        reader.end("bytes after the certificate")?;
        if !codec::strictly_sorted(&signatures, |signature| signature.authority) {
            return Err("certificate signatures (not sorted, or one authority twice)");
        }
        let certificate = Self { height, epoch, round, document, signatures };
        if certificate.encode() == bytes { Ok(certificate) } else { Err("certificate (not in canonical form)") }
    }
}

/// What a commit signature covers: network (32) ‖ height (8, big endian) ‖ epoch (8) ‖ round (4) ‖ document hash (32).
#[must_use]
pub fn commit_message(network: &Hash, mark: Mark, round: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(84);
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&mark.height.to_be_bytes());
    message.extend_from_slice(&mark.epoch.0.to_be_bytes());
    message.extend_from_slice(&round.to_be_bytes());
    message.extend_from_slice(mark.hash.as_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    const NETWORK: Hash = Hash::from_bytes([7; 32]);
    const DOCUMENT: Hash = Hash::from_bytes([9; 32]);
    const MARK: Mark = Mark { height: 3, epoch: Epoch(7), hash: DOCUMENT };

    fn secrets(n: usize) -> Vec<AuthoritySecret> {
        let mut rng = StdRng::seed_from_u64(5);
        (0..n).map(|_| AuthoritySecret::generate(&mut rng)).collect()
    }

    fn keys(secrets: &[AuthoritySecret]) -> Vec<AuthorityKey> {
        secrets.iter().map(|secret| secret.public().clone()).collect()
    }

    #[test]
    fn a_quorum_of_four_is_three() {
        let secrets = secrets(4);
        let keys = keys(&secrets);
        let signed = |who: &[u16]| {
            let signers: Vec<_> = who.iter().map(|index| (*index, &secrets[usize::from(*index)])).collect();
            Certificate::sign(&NETWORK, MARK, 1, &signers)
        };
        assert_eq!(signed(&[3, 0, 2]).verify(&NETWORK, &keys), Ok(()));
        assert_eq!(
            signed(&[0, 1]).verify(&NETWORK, &keys),
            Err(DocumentError::TooFewSignatures { valid: 2, needed: 3 })
        );
        assert_eq!(signed(&[]).verify(&NETWORK, &keys), Err(DocumentError::Unsigned));
        let certificate = signed(&[0, 1, 2]);
        for bent in [
            Certificate { height: 4, ..certificate.clone() },
            Certificate { epoch: Epoch(8), ..certificate.clone() },
            Certificate { round: 0, ..certificate.clone() },
            Certificate { document: Hash::from_bytes([8; 32]), ..certificate.clone() },
        ] {
            assert_eq!(bent.verify(&NETWORK, &keys), Err(DocumentError::BadSignature { authority: 0 }));
        }
        assert!(certificate.verify(&DOCUMENT, &keys).is_err(), "another network");
        assert_eq!(certificate.verify(&NETWORK, &keys[..1]), Err(DocumentError::UnknownAuthority { authority: 1 }));
    }

    #[test]
    fn two_certificates_alone_show_every_fork() {
        let secrets = secrets(1);
        let of = |height, epoch, hash, round| {
            let mark = Mark { height, epoch: Epoch(epoch), hash: Hash::from_bytes([hash; 32]) };
            Certificate::sign(&NETWORK, mark, round, &[(0, &secrets[0])])
        };
        let held = of(5, 50, 1, 0);
        for (other, contradicts, what) in [
            (of(5, 50, 1, 0), false, "the same"),
            (of(5, 50, 1, 3), false, "of another round"),
            (of(6, 51, 2, 0), false, "the next"),
            (of(9, 99, 2, 0), false, "a later one"),
            (of(4, 49, 2, 0), false, "the one before"),
            (of(5, 50, 2, 0), true, "another of this height and epoch"),
            (of(5, 51, 2, 0), true, "another of this height"),
            (of(5, 51, 1, 0), true, "the same in another epoch"),
            (of(6, 50, 2, 0), true, "a higher one of this epoch"),
            (of(4, 50, 2, 0), true, "a lower one of this epoch"),
            (of(6, 49, 2, 0), true, "a higher one of an earlier epoch"),
            (of(4, 51, 2, 0), true, "a lower one of a later epoch"),
            (of(6, 51, 1, 0), true, "the same in another place"),
        ] {
            assert_eq!(held.contradicts(&other), contradicts, "{what}");
            assert_eq!(other.contradicts(&held), contradicts, "{what}, the other way round");
        }
    }

    #[test]
    fn one_authority_cannot_count_twice() {
        let secrets = secrets(1);
        let signers = [(0, &secrets[0]), (0, &secrets[0])];
        let bytes = Certificate::sign(&NETWORK, MARK, 0, &signers).encode();
        assert!(Certificate::decode(&bytes).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn codec_round_trips_and_survives_anything(height: u64, epoch: u64, round: u32, cut: prop::sample::Index,
            junk in prop::collection::vec(any::<u8>(), 0..300)) {
            let secrets = secrets(1);
            let certificate = Certificate::sign(&NETWORK, Mark { height, epoch: Epoch(epoch), hash: DOCUMENT }, round, &[(0, &secrets[0])]);
            let bytes = certificate.encode();
            prop_assert_eq!(Certificate::decode(&bytes), Ok(certificate));
            prop_assert!(Certificate::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(Certificate::decode(&junk).is_err());
        }
    }
}
