//! What an authority shows of itself: `status`, and the numbers behind `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use shoal_protocol::consensus::Suspect;
use shoal_protocol::{Epoch, Hash, Identity, Layer, Role, UnixMillis};

use crate::authority::PeerState;
use crate::refusals::Refused;

/// The answer to `shoal-directory status --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether a running authority answered; otherwise the rest is what its files say.
    pub running: bool,
    /// Its identity key.
    pub identity: Identity,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the network file says that it is reached.
    pub address: Option<SocketAddr>,
    /// Name of the network.
    pub name: String,
    /// Genesis hash.
    pub network: Hash,
    /// The genesis hash as words.
    pub fingerprint: String,
    /// Epoch of the newest document; `null` before the first.
    pub epoch: Option<Epoch>,
    /// Height of the newest document.
    pub height: Option<u64>,
    /// Hash of the newest document.
    pub document: Option<Hash>,
    /// Signatures under it.
    pub signatures: Option<usize>,
    /// Until when it may be used, in ms since 1970.
    pub valid_until: Option<UnixMillis>,
    /// Whether a document of the current epoch is certified.
    pub ready: bool,
    /// Whether documents are made, in a sentence.
    pub documents: String,
    /// What the operator should do, the most urgent first; empty when there is nothing.
    pub next: Vec<String>,
    /// How many authorities must run for a document.
    pub needed: usize,
    /// Authorities that are not there.
    pub missing: Vec<Identity>,
    /// What the operator's files ask for otherwise than it is in force.
    pub asks: Vec<String>,
    /// What the next document waits for, if it cannot be made.
    pub waiting_for: Option<String>,
    /// Whether every node is admitted.
    pub open: bool,
    /// Nodes on the admission list.
    pub admitted: usize,
    /// Authorities that certify the next document.
    pub authorities: Vec<AuthorityStatus>,
    /// Listed nodes.
    pub nodes: Vec<NodeStatus>,
    /// Refusals of the last epochs, newest last.
    pub refused: Vec<Refused>,
}

/// One authority, as this one sees it.
#[derive(Clone, Debug, Serialize)]
pub struct AuthorityStatus {
    /// Its index in the set.
    pub index: u16,
    /// Its identity key.
    pub identity: Identity,
    /// Whether it is this one.
    pub me: bool,
    /// Where it is looked for; `null` when the network file does not say.
    pub address: Option<SocketAddr>,
    /// When it last answered, in ms since 1970.
    pub answered: Option<UnixMillis>,
    /// Whether it is neither heard nor reached.
    pub missing: bool,
    /// What its messages tell.
    #[serde(flatten)]
    pub state: PeerState,
    /// What its operator should look at; empty when all is well.
    pub remarks: Vec<String>,
}

/// One listed node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its identity key.
    pub identity: Identity,
    /// Its role.
    pub role: Role,
    /// When its newest descriptor was made, in ms since 1970.
    pub published: UnixMillis,
    /// Version of its software.
    pub version: String,
    /// Whether the newest document lists it.
    pub in_consensus: bool,
    /// Its layer.
    pub layer: Option<Layer>,
    /// Whether it stands by.
    pub standby: bool,
    /// What the newest document remembers of losses at it.
    pub suspect: Option<Suspect>,
    /// Why the newest document does not list it.
    pub dropped: Option<String>,
}

/// The numbers behind `/readyz` and `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Whether a document of the current epoch is certified.
    pub ready: bool,
    /// What is awaited.
    pub waiting_for: Option<String>,
    /// Epoch of the newest document.
    pub epoch: u64,
    /// Until when it may be used.
    pub valid_until: UnixMillis,
    /// Signatures under it.
    pub signatures: usize,
    /// Listed nodes by role.
    pub listed: BTreeMap<&'static str, usize>,
    /// Nodes of the newest document by (role, active or standby).
    pub in_consensus: BTreeMap<(&'static str, &'static str), usize>,
}

/// The role as a label.
#[must_use]
pub fn role_label(role: Role) -> &'static str {
    match role {
        Role::Gateway => "gateway",
        Role::Mix => "mix",
        Role::Store => "store",
    }
}
