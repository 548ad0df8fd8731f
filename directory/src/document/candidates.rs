//! Which nodes that the lists name become entries of the document, and by which of their descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_protocol::consensus::{Consensus, EPOCHS_COVERED, MAX_NODES, NodeEntry};
use shoal_protocol::descriptor::{Descriptor, SignedDescriptor};
use shoal_protocol::{Epoch, Hash, Identity, Role, X25519Public};
use thiserror::Error;

use super::{Rules, known, renewed};
use crate::lists::precedence;
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
    #[error("the document already lists {MAX_NODES} nodes")]
    Full,
}

/// What lists say about one node.
#[derive(Default)]
struct Named<'a> {
    /// Lists that name it.
    lists: usize,
    /// Its descriptors.
    descriptors: BTreeMap<Hash, &'a Arc<SignedDescriptor>>,
    /// Lists that name it in a role and family. An honest authority lists a node only as it was admitted, so f + 1 equal
    /// ones cannot be made up by the node and f authorities together.
    vouched: BTreeMap<(Role, Option<[u8; 32]>), usize>,
}

/// Entries without seats, sorted by identity, and who was left out.
pub(super) fn entries(
    rules: &Rules<'_>,
    before: Option<&Consensus>,
    proposal: &VerifiedProposal,
) -> (Vec<NodeEntry>, BTreeMap<Identity, Dropped>) {
    let mut named: BTreeMap<Identity, Named<'_>> = BTreeMap::new();
    for entry in proposal.lists().iter().flat_map(|list| &list.entries) {
        let node = named.entry(entry.identity).or_default();
        node.lists += 1;
        // descriptors travel only of nodes that enough lists name
        if let Some(signed) = proposal.descriptor(&entry.identity, &entry.descriptor) {
            node.descriptors.insert(entry.descriptor, signed);
            *node.vouched.entry((signed.descriptor.role, signed.descriptor.family)).or_default() += 1;
        }
    }
    let mut nodes = Vec::new();
    let mut dropped = BTreeMap::new();
    for (identity, node) in &named {
        match node.best(rules, before, proposal) {
            Ok(entry) => nodes.push(entry),
            Err(reason) => {
                dropped.insert(*identity, reason);
            }
        }
    }
    keep_to_bounds(before, &mut nodes, &mut dropped);
    (nodes, dropped)
}

impl Named<'_> {
    /// The entry by the latest of its descriptors that can be used; what is wrong with the latest if none can.
    fn best(
        &self,
        rules: &Rules<'_>,
        before: Option<&Consensus>,
        proposal: &VerifiedProposal,
    ) -> Result<NodeEntry, Dropped> {
        let needed = proposal.witnesses();
        if self.lists < needed {
            return Err(Dropped::TooFewLists { listed: self.lists, needed });
        }
        let mut latest_first: Vec<(&Hash, &Descriptor)> =
            self.descriptors.iter().map(|(hash, signed)| (hash, &signed.descriptor)).collect();
        latest_first.sort_by_key(|(hash, descriptor)| precedence(descriptor.published, **hash));
        let mut reason = None;
        for (_, descriptor) in latest_first {
            let vouched = self.vouched.get(&(descriptor.role, descriptor.family)).is_some_and(|lists| *lists >= needed);
            let judged =
                if vouched { entry(rules, before, proposal.epoch(), descriptor) } else { Err(Dropped::Disputed) };
            match judged {
                Ok(entry) => return Ok(entry),
                Err(why) => {
                    reason.get_or_insert(why);
                }
            }
        }
        Err(reason.unwrap_or(Dropped::Disputed))
    }
}

/// A document has room for [`MAX_NODES`] nodes and for the store indices that are left. Who is known goes before who is
/// new.
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
    if nodes.len() > MAX_NODES {
        let mut order: Vec<(bool, Identity)> = nodes
            .iter()
            .map(|node| (before.is_none_or(|before| known(before, &node.identity).is_none()), node.identity))
            .collect();
        order.sort_unstable();
        let over: BTreeSet<Identity> = order.split_off(MAX_NODES).into_iter().map(|(_, identity)| identity).collect();
        nodes.retain(|node| !over.contains(&node.identity));
        dropped.extend(over.into_iter().map(|identity| (identity, Dropped::Full)));
    }
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
    if !renewed(rules, epoch, descriptor.published) {
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
