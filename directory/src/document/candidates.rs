//! Which listed descriptors become entries of the document.

use std::collections::BTreeMap;

use shoal_protocol::consensus::{EPOCHS_COVERED, NodeEntry};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::{Epoch, Identity, Role, X25519Public};
use thiserror::Error;

use super::{Ingredients, known, renewed};

/// Why a listed descriptor is not in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Dropped {
    /// It has no mix key for the document's epoch.
    #[error("no mix key for epoch {0}: the node published too long ago, or its clock is wrong")]
    NoKey(Epoch),
    /// It was not renewed for two epochs.
    #[error("the descriptor was not renewed for two epochs: the node was taken for dead")]
    NotRenewed,
    /// The node is known in another role.
    #[error("the identity is known as a {0}; another role needs another identity")]
    OtherRole(Role),
    /// All store indices were given out.
    #[error("all 65,535 store indices were given out")]
    NoIndexLeft,
}

/// Entries without seats, sorted by identity, and who was left out.
pub(super) fn entries(ingredients: &Ingredients<'_>) -> (Vec<NodeEntry>, BTreeMap<Identity, Dropped>) {
    let mut nodes = Vec::new();
    let mut dropped = BTreeMap::new();
    let before = ingredients.previous.map(|previous| &**previous);
    let mut fresh_indices_left = u16::MAX - before.map_or(0, |before| before.next_store_index);
    for (identity, signed) in ingredients.descriptors {
        match entry(ingredients, &signed.descriptor) {
            Ok(node) if node.role == Role::Store && node.store_index.is_none() && fresh_indices_left == 0 => {
                dropped.insert(*identity, Dropped::NoIndexLeft);
            }
            Ok(node) => {
                if node.role == Role::Store && node.store_index.is_none() {
                    fresh_indices_left -= 1;
                }
                nodes.push(node);
            }
            Err(reason) => {
                dropped.insert(*identity, reason);
            }
        }
    }
    (nodes, dropped)
}

fn entry(ingredients: &Ingredients<'_>, descriptor: &Descriptor) -> Result<NodeEntry, Dropped> {
    let Ingredients { rules, previous, epoch, .. } = *ingredients;
    let identity = descriptor.identity;
    let known = previous.and_then(|previous| known(previous, &identity));
    if let Some(known) = known.as_ref().filter(|known| known.role != descriptor.role) {
        return Err(Dropped::OtherRole(known.role));
    }
    let mix_keys = covered(&descriptor.mix_keys, epoch);
    if mix_keys.first().map(|(of, _)| *of) != Some(epoch) {
        return Err(Dropped::NoKey(epoch));
    }
    if !renewed(&rules, epoch, descriptor.published) {
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
