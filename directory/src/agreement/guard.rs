//! What this authority signed at the current height: the last line of defence against signing two contradictory things,
//! whatever the agreement core asks for and whatever its replay comes to.

use std::collections::BTreeMap;

use shoal_protocol::Hash;
use thiserror::Error;

use super::scheme::{Ballot, Headline, Scheme, Sig, VoteKind};

/// A second, different message was asked for in a place where one is signed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("another message is signed already for this height, round and kind")]
pub(crate) struct Refused;

/// Where at most one message is signed at a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Proposal(u32),
    Vote(VoteKind, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Proposal(Headline),
    Vote(Ballot),
}

impl Content {
    fn place(&self) -> Place {
        match self {
            Self::Proposal(headline) => Place::Proposal(headline.round),
            Self::Vote(ballot) => Place::Vote(ballot.kind, ballot.round),
        }
    }

    fn signed(&self, network: &Hash) -> (&'static str, Vec<u8>) {
        match self {
            Self::Proposal(headline) => headline.signed(network),
            Self::Vote(ballot) => ballot.signed(network),
        }
    }
}

/// One height's signatures of this authority. Three a round, 2.6 kB each.
#[derive(Debug, Default)]
pub(crate) struct Guard(BTreeMap<Place, (Content, Sig)>);

/// A signature, and whether it was made just now (then it must be logged before it leaves).
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) signature: Sig,
    pub(crate) fresh: bool,
}

impl Guard {
    /// Takes over a vote from the log.
    pub(crate) fn restore_vote(&mut self, ballot: Ballot, signature: Sig) -> Result<(), Refused> {
        self.restore(Content::Vote(ballot), signature)
    }

    /// Takes over a proposal from the log.
    pub(crate) fn restore_proposal(&mut self, headline: Headline, signature: Sig) -> Result<(), Refused> {
        self.restore(Content::Proposal(headline), signature)
    }

    fn restore(&mut self, content: Content, signature: Sig) -> Result<(), Refused> {
        match self.0.get(&content.place()) {
            Some((earlier, _)) if *earlier != content => Err(Refused),
            Some(_) => Ok(()),
            None => {
                self.0.insert(content.place(), (content, signature));
                Ok(())
            }
        }
    }

    /// Signs a vote, or answers with the signature of the same vote.
    pub(crate) fn sign_vote(&mut self, s: &impl Scheme, network: &Hash, ballot: Ballot) -> Result<Signed, Refused> {
        self.sign(s, network, Content::Vote(ballot))
    }

    /// Signs a proposal, or answers with the signature of the same proposal.
    pub(crate) fn sign_proposal(&mut self, s: &impl Scheme, network: &Hash, h: Headline) -> Result<Signed, Refused> {
        self.sign(s, network, Content::Proposal(h))
    }

    fn sign(&mut self, scheme: &impl Scheme, network: &Hash, content: Content) -> Result<Signed, Refused> {
        if let Some((earlier, signature)) = self.0.get(&content.place()) {
            return if *earlier == content {
                Ok(Signed { signature: signature.clone(), fresh: false })
            } else {
                Err(Refused)
            };
        }
        let (context, message) = content.signed(network);
        let signature = Sig::new(scheme.sign(context, &message));
        self.0.insert(content.place(), (content, signature.clone()));
        Ok(Signed { signature, fresh: true })
    }
}
