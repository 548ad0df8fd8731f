//! Which links a node accepts: protocol, identity of the peer and its role in the consensus decide, nothing else.
//!
//! Asked right after the handshake, and again for every open link at every new consensus.

use shoal_protocol::consensus::Consensus;
use shoal_protocol::quic::Protocol;
use shoal_protocol::topology::{Place, allowed_step};
use shoal_protocol::types::{Identity, Role};

/// Why a link is refused. The label is the value of `reason` in `shoal_handshake_failures_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node does not know the network yet.
    #[error("no consensus yet")]
    NoConsensus,
    /// This node itself has no place in the consensus.
    #[error("this node is not in the consensus")]
    NotInConsensus,
    /// Node protocols need an identity.
    #[error("the peer shows no identity")]
    Anonymous,
    /// A client must not show a lasting key.
    #[error("a client must not show a key")]
    NotAnonymous,
    /// The peer is not in the consensus.
    #[error("the peer is not in the consensus")]
    Unlisted,
    /// The topology has no step from the peer to this node.
    #[error("the topology has no such link")]
    Forbidden,
    /// This node does not speak the protocol in its role.
    #[error("not a protocol of this role")]
    WrongProtocol,
    /// The authorities contradict themselves: this node takes no link.
    #[error("the authorities contradict themselves")]
    Contradiction,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 8] = [
        Self::NoConsensus,
        Self::NotInConsensus,
        Self::Anonymous,
        Self::NotAnonymous,
        Self::Unlisted,
        Self::Forbidden,
        Self::WrongProtocol,
        Self::Contradiction,
    ];

    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoConsensus => "no_consensus",
            Self::NotInConsensus => "not_in_consensus",
            Self::Anonymous => "anonymous",
            Self::NotAnonymous => "not_anonymous",
            Self::Unlisted => "unlisted",
            Self::Forbidden => "forbidden",
            Self::WrongProtocol => "wrong_protocol",
            Self::Contradiction => "contradiction",
        }
    }
}

/// What an admitted link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Packets from another node.
    Mix(Identity),
    /// Frames from another store.
    Store(Identity),
    /// A client of this gateway.
    Client,
    /// Somebody who asks this gateway for documents. Anybody may: there is nothing in them to hide, and a node that has
    /// missed many is in no document itself.
    Asker,
}

/// Decides about a link that was made with `protocol` by `peer` (`None`: no key shown) to node `me` of role `role`.
pub fn decide(
    protocol: Protocol,
    peer: Option<&Identity>,
    consensus: Option<&Consensus>,
    me: &Identity,
    role: Role,
) -> Result<Admission, Refusal> {
    match protocol {
        Protocol::Client => match (role, peer) {
            (Role::Gateway, None) => Ok(Admission::Client),
            (Role::Gateway, Some(_)) => Err(Refusal::NotAnonymous),
            (Role::Mix | Role::Store, _) => Err(Refusal::WrongProtocol),
        },
        Protocol::Mix => {
            let (peer, from, to) = places(peer, consensus, me)?;
            if allowed_step(from, to) { Ok(Admission::Mix(peer)) } else { Err(Refusal::Forbidden) }
        }
        Protocol::Store => {
            if role != Role::Store {
                return Err(Refusal::WrongProtocol);
            }
            let (peer, from, to) = places(peer, consensus, me)?;
            let both_stores = (from, to) == (Place::Store, Place::Store) && peer != *me;
            if both_stores { Ok(Admission::Store(peer)) } else { Err(Refusal::Forbidden) }
        }
        Protocol::Directory => match role {
            Role::Gateway => Ok(Admission::Asker),
            Role::Mix | Role::Store => Err(Refusal::WrongProtocol),
        },
    }
}

fn places(
    peer: Option<&Identity>,
    consensus: Option<&Consensus>,
    me: &Identity,
) -> Result<(Identity, Place, Place), Refusal> {
    let peer = peer.ok_or(Refusal::Anonymous)?;
    let consensus = consensus.ok_or(Refusal::NoConsensus)?;
    let to = consensus.node(me).and_then(Place::of).ok_or(Refusal::NotInConsensus)?;
    let from = consensus.node(peer).ok_or(Refusal::Unlisted)?;
    Ok((*peer, Place::of(from).ok_or(Refusal::Forbidden)?, to))
}
