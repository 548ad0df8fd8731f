//! Between the core's messages and the project's.

use std::collections::BTreeMap;

use arc_malachitebft_core_types as core;
use core::{Round, RoundCertificate, RoundCertificateType};
use shoal_protocol::certificate::{Certificate, CommitSignature};

use super::context::{Context, Height, Seat, document_of, kind_of};
use super::message::{Message, Quorum, RoundProof, RoundReason, SignedBallot};
use super::scheme::{Ballot, DocumentId, Headline, Sig, VoteKind};
use super::values::Values;

pub(crate) fn headline_of(values: &Values, proposal: &core::SignedProposal<Context>) -> Option<(Headline, Sig)> {
    let message = &proposal.message;
    values.headline(message.round.as_u32()?, message.lock_round.as_u32(), &message.document.0).cloned()
}

pub(crate) fn proposal_message(values: &Values, proposal: &core::SignedProposal<Context>) -> Option<Message> {
    let (headline, signature) = headline_of(values, proposal)?;
    let bytes = values.bytes_of(&headline)?;
    Some(Message::Proposal { headline, bytes, signature })
}

/// Signatures by authority: sorted, one each. `None` for the round before the first.
fn gather(
    kind: VoteKind,
    height: Height,
    round: Round,
    document: DocumentId,
    signatures: impl Iterator<Item = (u16, Sig)>,
) -> Option<Quorum> {
    let signatures: BTreeMap<u16, Sig> = signatures.collect();
    let signatures = signatures.into_iter().collect();
    Some(Quorum { kind, height: height.0, round: round.as_u32()?, document, signatures })
}

pub(crate) fn quorum_of(polka: &core::PolkaCertificate<Context>) -> Option<Quorum> {
    let signatures = polka.polka_signatures.iter().map(|s| (s.address.0, s.signature.clone()));
    gather(VoteKind::Prevote, polka.height, polka.round, polka.value_id, signatures)
}

pub(crate) fn commit_of(commit: &core::CommitCertificate<Context>) -> Option<Quorum> {
    let signatures = commit.commit_signatures.iter().map(|s| (s.address.0, s.signature.clone()));
    gather(VoteKind::Precommit, commit.height, commit.round, commit.value_id, signatures)
}

pub(crate) fn polka_certificate(quorum: Quorum) -> core::PolkaCertificate<Context> {
    core::PolkaCertificate {
        height: Height(quorum.height),
        round: Round::new(quorum.round),
        value_id: quorum.document,
        polka_signatures: quorum
            .signatures
            .into_iter()
            .map(|(authority, signature)| core::PolkaSignature::new(Seat(authority), signature))
            .collect(),
    }
}

pub(crate) fn round_proof_of(certificate: &RoundCertificate<Context>) -> Option<RoundProof> {
    let (height, round) = (certificate.height.0, certificate.round.as_u32()?);
    let votes: BTreeMap<u16, SignedBallot> = certificate
        .round_signatures
        .iter()
        .map(|signature| {
            let ballot = Ballot {
                kind: kind_of(signature.vote_type),
                height,
                round,
                document: document_of(&signature.value_id),
                authority: signature.address.0,
            };
            (signature.address.0, SignedBallot { ballot, signature: signature.signature.clone() })
        })
        .collect();
    let reason = match certificate.cert_type {
        RoundCertificateType::Skip => RoundReason::Skip,
        RoundCertificateType::Precommit => RoundReason::Over,
    };
    Some(RoundProof { height, round, reason, votes: votes.into_values().collect() })
}

/// The certificate that the project knows.
pub(crate) fn certificate_of(commit: &Quorum) -> Certificate {
    Certificate {
        height: commit.height,
        epoch: commit.document.epoch,
        round: commit.round,
        document: commit.document.hash,
        signatures: commit
            .signatures
            .iter()
            .map(|(authority, signature)| CommitSignature { authority: *authority, signature: signature.get().clone() })
            .collect(),
    }
}
