//! The types under which the agreement core knows authorities, documents, votes and proposals.
//!
//! The core sees a document as epoch and hash only. The bytes from which the document is recomputed, and the verdict on them,
//! are kept in [`super::values`].

use std::fmt;

use arc_malachitebft_core_types as core;
use core::{NilOrVal, Round, SignedExtension, VoteType};
use shoal_protocol::authority::{HybridSignature, WrongSignatureLength};

use super::scheme::{Ballot, DocumentId, Sig, VoteKind};

/// A height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Height(pub(crate) u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// An authority's index in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat(pub(crate) u16);

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Address for Seat {}

/// A document, by what votes name of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Document(pub(crate) DocumentId);

impl core::Value for Document {
    type Id = DocumentId;

    fn id(&self) -> DocumentId {
        self.0
    }
}

/// Keys are not the core's business: an authority is its seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoKeys;

impl core::SigningScheme for NoKeys {
    type DecodingError = WrongSignatureLength;
    type Signature = Sig;
    type PublicKey = ();
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Sig, WrongSignatureLength> {
        HybridSignature::from_slice(bytes).map(Sig::new)
    }

    fn encode_signature(signature: &Sig) -> Vec<u8> {
        signature.get().as_bytes().to_vec()
    }

    fn decode_public_key(_: &[u8]) -> Result<(), WrongSignatureLength> {
        Ok(())
    }

    fn encode_public_key((): &()) -> Vec<u8> {
        Vec::new()
    }
}

/// One authority, with one vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member(Seat);

impl core::Validator<Context> for Member {
    fn address(&self) -> &Seat {
        &self.0
    }

    fn public_key(&self) -> &() {
        &()
    }

    fn voting_power(&self) -> u64 {
        1
    }
}

/// All authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members(Vec<Member>);

impl Members {
    pub(crate) fn new(count: u16) -> Self {
        Self((0..count).map(|seat| Member(Seat(seat))).collect())
    }
}

impl core::ValidatorSet<Context> for Members {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.0.len() as u64
    }

    fn get_by_address(&self, seat: &Seat) -> Option<&Member> {
        self.0.get(usize::from(seat.0))
    }

    fn get_by_index(&self, index: usize) -> Option<&Member> {
        self.0.get(index)
    }
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) height: Height,
    pub(crate) round: Round,
    pub(crate) value: NilOrVal<DocumentId>,
    pub(crate) kind: VoteType,
    pub(crate) seat: Seat,
}

impl Vote {
    pub(crate) fn of(ballot: &Ballot) -> Self {
        Self {
            height: Height(ballot.height),
            round: Round::new(ballot.round),
            value: ballot.document.map_or(NilOrVal::Nil, NilOrVal::Val),
            kind: match ballot.kind {
                VoteKind::Prevote => VoteType::Prevote,
                VoteKind::Precommit => VoteType::Precommit,
            },
            seat: Seat(ballot.authority),
        }
    }

    /// `None` for the round before the first, in which nobody votes.
    pub(crate) fn ballot(&self) -> Option<Ballot> {
        Some(Ballot {
            kind: kind_of(self.kind),
            height: self.height.0,
            round: self.round.as_u32()?,
            document: document_of(&self.value),
            authority: self.seat.0,
        })
    }
}

/// The project's word for the core's.
pub(crate) fn kind_of(kind: VoteType) -> VoteKind {
    match kind {
        VoteType::Prevote => VoteKind::Prevote,
        VoteType::Precommit => VoteKind::Precommit,
    }
}

/// Nil is `None`.
pub(crate) fn document_of(value: &NilOrVal<DocumentId>) -> Option<DocumentId> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(document) => Some(*document),
    }
}

impl core::Vote<Context> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<DocumentId> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<DocumentId> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Seat {
        &self.seat
    }

    fn extension(&self) -> Option<&SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Context>> {
        None
    }

    fn extend(self, _: SignedExtension<Context>) -> Self {
        self
    }
}

/// A proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) height: Height,
    pub(crate) round: Round,
    pub(crate) document: Document,
    pub(crate) lock_round: Round,
    pub(crate) seat: Seat,
}

impl core::Proposal<Context> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Document {
        &self.document
    }

    fn take_value(self) -> Document {
        self.document
    }

    fn pol_round(&self) -> Round {
        self.lock_round
    }

    fn validator_address(&self) -> &Seat {
        &self.seat
    }
}

/// Proposals travel whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoParts;

impl core::ProposalPart<Context> for NoParts {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// Ties the types together.
#[derive(Clone, Debug)]
pub(crate) struct Context;

/// Who proposes: (height + round) mod n.
pub(crate) fn proposer(height: u64, round: u32, count: usize) -> u16 {
    let count = count.max(1) as u64;
    let seat = (height % count + u64::from(round) % count) % count;
    u16::try_from(seat).unwrap_or(0) // below `count`, which is at most 64
}

impl core::Context for Context {
    type Address = Seat;
    type Height = Height;
    type ProposalPart = NoParts;
    type Proposal = Proposal;
    type Validator = Member;
    type ValidatorSet = Members;
    type Timeouts = core::LinearTimeouts;
    type Value = Document;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = NoKeys;

    fn select_proposer<'a>(&self, members: &'a Members, height: Height, round: Round) -> &'a Member {
        &members.0[usize::from(proposer(height.0, round.as_u32().unwrap_or(0), members.0.len()))]
    }

    fn new_proposal(&self, height: Height, round: Round, document: Document, lock: Round, seat: Seat) -> Proposal {
        Proposal { height, round, document, lock_round: lock, seat }
    }

    fn new_prevote(&self, height: Height, round: Round, value: NilOrVal<DocumentId>, seat: Seat) -> Vote {
        Vote { height, round, value, kind: VoteType::Prevote, seat }
    }

    fn new_precommit(&self, height: Height, round: Round, value: NilOrVal<DocumentId>, seat: Seat) -> Vote {
        Vote { height, round, value, kind: VoteType::Precommit, seat }
    }
}
