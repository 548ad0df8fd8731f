//! A second reader and writer of the messages, from `protocol/spec/agreement.md` alone: a difference to the first one is a
//! failure of these tests.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use shoal_directory::agreement::scheme::{Ballot, DocumentId, Headline, Scheme, VoteKind, payload_hash};
use shoal_protocol::authority::HybridSignature;
use shoal_protocol::{Epoch, Hash};

/// A message as bytes mean it.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Proposal { headline: Headline, bytes: Vec<u8>, signature: HybridSignature },
    Vote(Ballot, HybridSignature),
    Quorum { kind: VoteKind, height: u64, round: u32, document: DocumentId, signatures: Vec<(u16, HybridSignature)> },
    Round { height: u64, round: u32, over: bool, votes: Vec<(Ballot, HybridSignature)> },
}

fn document(decoder: &mut Decoder<'_>) -> Option<DocumentId> {
    decoder.array().ok()??;
    let epoch = Epoch(decoder.u64().ok()?);
    Some(DocumentId { epoch, hash: Hash::from_bytes(decoder.bytes().ok()?.try_into().ok()?) })
}

fn write_document(e: &mut Encoder<Vec<u8>>, document: &DocumentId) {
    e.array(2).unwrap().u64(document.epoch.0).unwrap().bytes(document.hash.as_bytes()).unwrap();
}

fn or_null<T>(decoder: &mut Decoder<'_>, read: impl FnOnce(&mut Decoder<'_>) -> Option<T>) -> Option<Option<T>> {
    if decoder.datatype().ok()? == Type::Null {
        decoder.null().ok()?;
        return Some(None);
    }
    read(decoder).map(Some)
}

fn signature(decoder: &mut Decoder<'_>) -> Option<HybridSignature> {
    HybridSignature::from_slice(decoder.bytes().ok()?).ok()
}

fn vote(decoder: &mut Decoder<'_>, height: u64, round: u32) -> Option<(Ballot, HybridSignature)> {
    let kind = if decoder.u8().ok()? == 0 { VoteKind::Prevote } else { VoteKind::Precommit };
    let document = or_null(decoder, document)?;
    let authority = decoder.u16().ok()?;
    Some((Ballot { kind, height, round, document, authority }, signature(decoder)?))
}

impl Wire {
    pub(crate) fn read(bytes: &[u8], count: u64) -> Option<Self> {
        let mut d = Decoder::new(bytes);
        d.array().ok()??;
        let code = d.u8().ok()?;
        let (height, round) = (d.u64().ok()?, d.u32().ok()?);
        Some(match code {
            0 => {
                let lock_round = or_null(&mut d, |d| d.u32().ok())?;
                let document = document(&mut d)?;
                let bytes = d.bytes().ok()?.to_vec();
                let authority = u16::try_from((height + u64::from(round)) % count).ok()?;
                let payload = payload_hash(&bytes);
                let headline = Headline { height, round, lock_round, document, payload, authority };
                Self::Proposal { headline, bytes, signature: signature(&mut d)? }
            }
            1 => {
                let (ballot, signature) = vote(&mut d, height, round)?;
                Self::Vote(ballot, signature)
            }
            2 | 4 => {
                let kind = if code == 2 { VoteKind::Prevote } else { VoteKind::Precommit };
                let document = document(&mut d)?;
                let mut signatures = Vec::new();
                for _ in 0..d.array().ok()?? {
                    d.array().ok()??;
                    signatures.push((d.u16().ok()?, signature(&mut d)?));
                }
                Self::Quorum { kind, height, round, document, signatures }
            }
            3 => {
                let over = d.u8().ok()? == 1;
                let mut votes = Vec::new();
                for _ in 0..d.array().ok()?? {
                    d.array().ok()??;
                    votes.push(vote(&mut d, height, round)?);
                }
                Self::Round { height, round, over, votes }
            }
            _ => return None,
        })
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        match self {
            Self::Proposal { headline, bytes, signature } => {
                e.array(7).unwrap().u8(0).unwrap().u64(headline.height).unwrap().u32(headline.round).unwrap();
                match headline.lock_round {
                    Some(round) => e.u32(round).unwrap(),
                    None => e.null().unwrap(),
                };
                write_document(&mut e, &headline.document);
                e.bytes(bytes).unwrap().bytes(signature.as_bytes()).unwrap();
            }
            Self::Vote(ballot, signature) => {
                e.array(7).unwrap().u8(1).unwrap().u64(ballot.height).unwrap().u32(ballot.round).unwrap();
                write_vote(&mut e, ballot, signature);
            }
            Self::Quorum { kind, height, round, document, signatures } => {
                e.array(5).unwrap().u8(if *kind == VoteKind::Prevote { 2 } else { 4 }).unwrap();
                e.u64(*height).unwrap().u32(*round).unwrap();
                write_document(&mut e, document);
                e.array(signatures.len() as u64).unwrap();
                for (authority, signature) in signatures {
                    e.array(2).unwrap().u16(*authority).unwrap().bytes(signature.as_bytes()).unwrap();
                }
            }
            Self::Round { height, round, over, votes } => {
                e.array(5).unwrap().u8(3).unwrap().u64(*height).unwrap().u32(*round).unwrap();
                e.u8(u8::from(*over)).unwrap().array(votes.len() as u64).unwrap();
                for (ballot, signature) in votes {
                    e.array(4).unwrap();
                    write_vote(&mut e, ballot, signature);
                }
            }
        }
        e.into_writer()
    }

    pub(crate) fn place(&self) -> (u64, u32) {
        match self {
            Self::Proposal { headline, .. } => (headline.height, headline.round),
            Self::Vote(ballot, _) => (ballot.height, ballot.round),
            Self::Quorum { height, round, .. } | Self::Round { height, round, .. } => (*height, *round),
        }
    }
}

fn write_vote(e: &mut Encoder<Vec<u8>>, ballot: &Ballot, signature: &HybridSignature) {
    e.u8(u8::from(ballot.kind == VoteKind::Precommit)).unwrap();
    match &ballot.document {
        Some(document) => write_document(e, document),
        None => {
            e.null().unwrap();
        }
    }
    e.u16(ballot.authority).unwrap().bytes(signature.as_bytes()).unwrap();
}

/// A vote signed by whoever owns `scheme`.
pub(crate) fn sign_vote(scheme: &impl Scheme, network: &Hash, ballot: Ballot) -> Wire {
    let (context, message) = ballot.signed(network);
    Wire::Vote(ballot, scheme.sign(context, &message))
}

/// A proposal signed by whoever owns `scheme`.
pub(crate) fn sign_proposal(scheme: &impl Scheme, network: &Hash, headline: Headline, bytes: &[u8]) -> Wire {
    let (context, message) = headline.signed(network);
    Wire::Proposal { headline, bytes: bytes.to_vec(), signature: scheme.sign(context, &message) }
}
