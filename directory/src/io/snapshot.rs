//! What an authority shows of itself: `status`, and the numbers behind `/readyz` and `/metrics`.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_protocol::{Epoch, Hash, Identity, Layer, Role, UnixMillis};

use crate::authority::PeerState;

/// The answer to `shoal-directory status --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether a running authority answered; otherwise the rest is what its files say.
    pub running: bool,
    /// Its identity key.
    pub identity: Identity,
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
    /// Last refusals, newest last.
    pub refused: Vec<RefusedStatus>,
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
    /// Why the newest document does not list it.
    pub dropped: Option<String>,
}

/// A refused descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedStatus {
    /// When it was last refused, in ms since 1970.
    pub at: UnixMillis,
    /// How often in a row.
    pub count: u64,
    /// What its operator was told.
    pub reason: String,
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
