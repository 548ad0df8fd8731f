//! What entries the chosen descriptors make, and who is left out.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::consensus::{Consensus, EPOCHS_COVERED, NodeEntry};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::{Epoch, Identity, Role, X25519Public};
use thiserror::Error;

use super::{Rules, Standing, known, renewed, standing};
use crate::proposal::VerifiedProposal;

/// Why a node that the lists name is not in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Dropped {
    /// Fewer than f + 1 authorities list it.
    #[error("listed by {listed} authorities, {needed} are needed; has it been admitted by enough of them?")]
    TooFewLists {
        /// Authorities that list it.
        listed: usize,
        /// f + 1.
        needed: usize,
    },
    /// Authorities list it in different roles or families.
    #[error("the authorities list it with different roles or families; was it admitted by all with the same line?")]
    Disputed,
    /// It has no mix key for the document's epoch.
    #[error("no mix key for epoch {0}: the node published too long ago, or its clock is wrong")]
    NoKey(Epoch),
    /// It was not renewed for two epochs.
    #[error("the descriptor was not renewed for two epochs: the node was taken for dead")]
    NotRenewed,
    /// Made after the document's epoch.
    #[error("the descriptor was made after the end of the epoch: the node's clock is wrong")]
    FromFuture,
    /// The node is known in another role.
    #[error("the identity is known as a {0}; another role needs another identity")]
    OtherRole(Role),
    /// All store indices were given out.
    #[error("all 65,535 store indices were given out")]
    NoIndexLeft,
    /// The document is full.
    #[error("the document has no room for more nodes")]
    Full,
}

/// Most bytes of all entries together, by [`weight`]. The rest of a document, at its largest, is 64 authorities of 1,352 bytes
/// (87 kB), 1,024 absent nodes of 52 (53 kB), 64 generations of 512 stores (104 kB), 128 suspects of 58 (7 kB) and 8 kB
/// more: below 256 KiB. Both are
/// the 768 KiB that a document may have beside its certificate.
pub(super) const WEIGHT_MAX: usize = 512 * 1024;
/// What newcomers may fill it up to. A listed node grows by at most 344 / 278, when it names four addresses instead of one:
/// who is in is never pushed out by others that grow.
const WEIGHT_OF_NEWCOMERS: usize = WEIGHT_MAX / 5 * 4;

/// Entries without seats, sorted by identity, and who was left out.
pub(super) fn entries(
    rules: &Rules<'_>,
    before: Option<&Consensus>,
    proposal: &VerifiedProposal,
) -> (Vec<NodeEntry>, BTreeMap<Identity, Dropped>) {
    let mut nodes = Vec::new();
    let mut dropped = proposal.choice().dropped.clone();
    for (identity, signed) in proposal.descriptors() {
        match entry(rules, before, proposal.epoch(), &signed.descriptor) {
            Ok(entry) => nodes.push(entry),
            Err(reason) => {
                dropped.insert(*identity, reason);
            }
        }
    }
    keep_to_bounds(before, &mut nodes, &mut dropped);
    (nodes, dropped)
}

/// Bytes that an entry may take, whatever is in it: identity 34, role, layer and marks 5, family 34, `since` 9, three keys of
/// 44 and their length, an address 22; a store has its index and as many keys again. A round number above that, because
/// everybody must come to the same.
pub(super) fn weight(node: &NodeEntry) -> usize {
    256 + 22 * node.addresses.len() + if node.role == Role::Store { 136 } else { 0 }
}

/// A document has room for [`WEIGHT_MAX`] bytes of nodes and for the store indices that are left. Who is known goes before
/// who is new.
fn keep_to_bounds(before: Option<&Consensus>, nodes: &mut Vec<NodeEntry>, dropped: &mut BTreeMap<Identity, Dropped>) {
    let mut fresh_indices_left = u16::MAX - before.map_or(0, |before| before.next_store_index);
    nodes.retain(|node| {
        let fresh = node.role == Role::Store && node.store_index.is_none();
        if fresh && fresh_indices_left == 0 {
            dropped.insert(node.identity, Dropped::NoIndexLeft);
            return false;
        }
        fresh_indices_left -= u16::from(fresh);
        true
    });
    let mut order: Vec<(Standing, Identity, usize)> =
        nodes.iter().map(|node| (standing(before, &node.identity), node.identity, weight(node))).collect();
    order.sort_unstable();
    let mut total = 0;
    let mut over = BTreeSet::new();
    for (standing, identity, weight) in order {
        let limit = if standing == Standing::New { WEIGHT_OF_NEWCOMERS } else { WEIGHT_MAX };
        if total + weight > limit {
            over.insert(identity);
        } else {
            total += weight;
        }
    }
    nodes.retain(|node| !over.contains(&node.identity));
    dropped.extend(over.into_iter().map(|identity| (identity, Dropped::Full)));
}

/// The entry that one descriptor makes, without a seat.
pub(super) fn entry(
    rules: &Rules<'_>,
    before: Option<&Consensus>,
    epoch: Epoch,
    descriptor: &Descriptor,
) -> Result<NodeEntry, Dropped> {
    let identity = descriptor.identity;
    let known = before.and_then(|before| known(before, &identity));
    if let Some(known) = known.as_ref().filter(|known| known.role != descriptor.role) {
        return Err(Dropped::OtherRole(known.role));
    }
    if descriptor.published > rules.schedule.end(epoch) {
        return Err(Dropped::FromFuture);
    }
    let mix_keys = covered(&descriptor.mix_keys, epoch);
    if mix_keys.first().map(|(of, _)| *of) != Some(epoch) {
        return Err(Dropped::NoKey(epoch));
    }
    if !renewed(&rules.schedule, epoch, descriptor.published) {
        return Err(Dropped::NotRenewed);
    }
    Ok(NodeEntry {
        identity,
        role: descriptor.role,
        layer: None,
        family: descriptor.family.unwrap_or(*identity.as_bytes()),
        addresses: descriptor.addresses.clone(),
        store_index: known.as_ref().and_then(|known| known.store_index),
        envelope_keys: covered(&descriptor.envelope_keys, epoch),
        mix_keys,
        since: known.map_or(epoch, |known| known.since),
        standby: false,
    })
}

/// The keys of the epochs that the document covers.
fn covered(keys: &[(Epoch, X25519Public)], epoch: Epoch) -> Vec<(Epoch, X25519Public)> {
    keys.iter().filter(|(of, _)| (epoch..epoch.plus(EPOCHS_COVERED)).contains(of)).copied().collect()
}
