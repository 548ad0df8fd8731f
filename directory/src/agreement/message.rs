//! Messages between authorities (`protocol/spec/agreement.md`).

use std::sync::Arc;

use shoal_protocol::authority::HYBRID_SIGNATURE_SIZE;
use shoal_protocol::certificate::MAX_AUTHORITIES;

use super::codec::{self, Parsed, Reader, Writer};
use super::scheme::{Ballot, DocumentId, Headline, Sig, VoteKind, payload_hash};

/// Most bytes that may come with a proposal ([`crate::proposal::MAX_PROPOSAL_SIZE`]).
pub const MAX_PAYLOAD: usize = crate::proposal::MAX_PROPOSAL_SIZE;
/// Most bytes of a message with a proposal: the payload, and below 4 kB of hashes, numbers and signature.
pub const MAX_MESSAGE: usize = MAX_PAYLOAD + 4096;
/// Most bytes of any other message: a round certificate of 64 authorities with 2,484 + 64 bytes each is 163,072.
pub const MAX_SMALL_MESSAGE: usize = MAX_AUTHORITIES * (HYBRID_SIGNATURE_SIZE + 64) + 1024;

/// Codes of the kinds, the first element of a message.
const PROPOSAL: u32 = 0;
const VOTE: u32 = 1;
const POLKA: u32 = 2;
const ROUND: u32 = 3;
const COMMIT: u32 = 4;

/// Why a round certificate lets its reader enter a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundReason {
    /// f+1 authorities voted in that round: enter it.
    Skip,
    /// 2f+1 precommits of any kind in that round: it is over, enter the next.
    Over,
}

/// A vote and its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedBallot {
    pub(crate) ballot: Ballot,
    pub(crate) signature: Sig,
}

/// Signatures of one kind of vote for one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    pub(crate) kind: VoteKind,
    pub(crate) height: u64,
    pub(crate) round: u32,
    pub(crate) document: DocumentId,
    /// Strictly increasing by authority.
    pub(crate) signatures: Vec<(u16, Sig)>,
}

impl Quorum {
    pub(crate) fn ballot(&self, authority: u16) -> Ballot {
        let Self { kind, height, round, document, .. } = self;
        Ballot { kind: *kind, height: *height, round: *round, document: Some(*document), authority }
    }

    pub(crate) fn votes(&self) -> impl Iterator<Item = SignedBallot> + '_ {
        self.signatures.iter().map(|(authority, signature)| SignedBallot {
            ballot: self.ballot(*authority),
            signature: signature.clone(),
        })
    }
}

/// Votes of one round that let everybody enter a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoundProof {
    pub(crate) height: u64,
    pub(crate) round: u32,
    pub(crate) reason: RoundReason,
    /// Strictly increasing by authority.
    pub(crate) votes: Vec<SignedBallot>,
}

/// What authorities send each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Proposal {
        headline: Headline,
        bytes: Arc<[u8]>,
        signature: Sig,
    },
    Vote(SignedBallot),
    /// 2f+1 prevotes, or the certificate of a decision.
    Quorum(Quorum),
    Round(RoundProof),
}

impl Message {
    pub(crate) fn height(&self) -> u64 {
        match self {
            Self::Proposal { headline, .. } => headline.height,
            Self::Vote(vote) => vote.ballot.height,
            Self::Quorum(quorum) => quorum.height,
            Self::Round(proof) => proof.height,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| match self {
            Self::Proposal { headline, bytes, signature } => {
                writer.array(7);
                writer.uint(PROPOSAL);
                writer.uint(headline.height);
                writer.uint(headline.round);
                writer.optional_round(headline.lock_round);
                writer.document(&headline.document);
                writer.bytes(bytes);
                writer.signature(signature);
            }
            Self::Vote(vote) => {
                writer.array(7);
                writer.uint(VOTE);
                writer.uint(vote.ballot.height);
                writer.uint(vote.ballot.round);
                put_vote(writer, vote);
            }
            Self::Quorum(quorum) => {
                writer.array(5);
                writer.uint(if quorum.kind == VoteKind::Prevote { POLKA } else { COMMIT });
                writer.uint(quorum.height);
                writer.uint(quorum.round);
                writer.document(&quorum.document);
                writer.array(quorum.signatures.len());
                for (authority, signature) in &quorum.signatures {
                    writer.array(2);
                    writer.uint(*authority);
                    writer.signature(signature);
                }
            }
            Self::Round(proof) => {
                writer.array(5);
                writer.uint(ROUND);
                writer.uint(proof.height);
                writer.uint(proof.round);
                writer.uint(u32::from(proof.reason == RoundReason::Over));
                writer.array(proof.votes.len());
                for vote in &proof.votes {
                    writer.array(4);
                    put_vote(writer, vote);
                }
            }
        })
    }

    /// Reads one message of a network whose proposer of (height, round) is `proposer(height, round)`. No signature is
    /// checked.
    pub(crate) fn decode(bytes: &[u8], proposer: impl Fn(u64, u32) -> u16) -> Parsed<Self> {
        const FIELD: &str = "agreement message";
        if bytes.len() > MAX_MESSAGE {
            return Err("agreement message (too long)");
        }
        let mut reader = Reader::new(bytes);
        let len = reader.array_len(FIELD)?;
        let code = reader.u32(FIELD)?;
        if code != PROPOSAL && bytes.len() > MAX_SMALL_MESSAGE {
            return Err("agreement message (too long)");
        }
        let height = reader.u64("height")?;
        let round = reader.u32("round")?;
        let message = match (code, len) {
            (PROPOSAL, 7) => {
                let lock_round = reader.optional_round("lock round")?;
                let document = reader.document("document")?;
                let payload = reader.bytes("proposal")?;
                if payload.len() > MAX_PAYLOAD {
                    return Err("proposal (too long)");
                }
                let signature = reader.signature("signature")?;
                let authority = proposer(height, round);
                let headline =
                    Headline { height, round, lock_round, document, payload: payload_hash(payload), authority };
                Self::Proposal { headline, bytes: payload.into(), signature }
            }
            (VOTE, 7) => Self::Vote(read_vote(&mut reader, height, round)?),
            (POLKA | COMMIT, 5) => {
                let kind = if code == POLKA { VoteKind::Prevote } else { VoteKind::Precommit };
                let document = reader.document("document")?;
                let signatures = reader.list(MAX_AUTHORITIES, "signatures", |reader| {
                    reader.array(2, "signatures")?;
                    Ok((reader.u16("authority")?, reader.signature("signature")?))
                })?;
                sorted(&signatures, |(authority, _)| *authority)?;
                Self::Quorum(Quorum { kind, height, round, document, signatures })
            }
            (ROUND, 5) => {
                let reason = match reader.u32("reason")? {
                    0 => RoundReason::Skip,
                    1 => RoundReason::Over,
                    _ => return Err("reason"),
                };
                let votes = reader.list(MAX_AUTHORITIES, "votes", |reader| {
                    reader.array(4, "votes")?;
                    read_vote(reader, height, round)
                })?;
                sorted(&votes, |vote| vote.ballot.authority)?;
                Self::Round(RoundProof { height, round, reason, votes })
            }
            _ => return Err("agreement message (unknown kind)"),
        };
        reader.end("bytes after the message")?;
        if message.encode() == bytes { Ok(message) } else { Err("agreement message (not in canonical form)") }
    }
}

/// kind, document or null, authority, signature.
pub(crate) fn put_vote(writer: &mut Writer, vote: &SignedBallot) {
    writer.uint(u32::from(vote.ballot.kind == VoteKind::Precommit));
    writer.optional_document(vote.ballot.document.as_ref());
    writer.uint(vote.ballot.authority);
    writer.signature(&vote.signature);
}

/// The reverse of [`put_vote`].
pub(crate) fn read_vote(reader: &mut Reader<'_>, height: u64, round: u32) -> Parsed<SignedBallot> {
    let kind = match reader.u32("vote kind")? {
        0 => VoteKind::Prevote,
        1 => VoteKind::Precommit,
        _ => return Err("vote kind"),
    };
    let document = reader.optional_document("document")?;
    let authority = reader.u16("authority")?;
    let signature = reader.signature("signature")?;
    Ok(SignedBallot { ballot: Ballot { kind, height, round, document, authority }, signature })
}

/// Strictly increasing: sorted, nobody twice.
fn sorted<T>(items: &[T], key: impl Fn(&T) -> u16) -> Parsed<()> {
    if items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])) {
        Ok(())
    } else {
        Err("signatures (not sorted, or one authority twice)")
    }
}
