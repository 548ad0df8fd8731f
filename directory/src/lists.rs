//! The descriptors an authority has collected: one a node, the newest wins, everything else is refused with a reason that
//! the node's operator understands.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::descriptor::{Descriptor, DescriptorError, SignedDescriptor, UnverifiedDescriptor};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::{Epoch, Hash, Identity, Role, UnixMillis};
use thiserror::Error;

use crate::admission::AdmittedList;

/// Most descriptors held: as many nodes as a document lists. 2,048 × 2.7 kB = 5.5 MB at most.
pub const MAX_DESCRIPTORS: usize = shoal_protocol::consensus::MAX_NODES;

/// Why a descriptor is not listed. The text reaches the node's operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It does not verify.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The operator of this authority has not admitted the node.
    #[error(
        "{identity} is not admitted here; send your admission line to the authority's operator, who runs: \
         shoal-directory admit LINE"
    )]
    NotAdmitted {
        /// The node.
        identity: Identity,
    },
    /// The node was admitted for, or was known in, another role.
    #[error(
        "this identity is known as a {was}, not as a {wants}; another role needs another identity (a new directory and \
         init)"
    )]
    OtherRole {
        /// The role it is known in.
        was: Role,
        /// The role in the descriptor.
        wants: Role,
    },
    /// The node was admitted as part of another family, or of none.
    #[error(
        "the descriptor's family is not the one the node was admitted with; send the admission line that `shoal-node \
         init` prints now to the authority's operator, who removes the node and admits it again"
    )]
    OtherFamily,
    /// A newer descriptor of the node is listed.
    #[error(
        "a descriptor made {newer_by_ms} ms later is listed; check the node's clock, and that no second copy of the \
         node runs"
    )]
    Older {
        /// How much newer the listed one is, in ms.
        newer_by_ms: u64,
    },
    /// Two descriptors of one instant: the one with the lower hash is kept.
    #[error("another descriptor of the same instant is listed; does a second copy of the node run?")]
    Twin,
    /// It holds no key that a document could use now.
    #[error("the descriptor has keys for epochs {first} to {last}, but it is epoch {now}; check the node's clock")]
    WrongEpochs {
        /// First epoch with a key.
        first: Epoch,
        /// Last epoch with a key.
        last: Epoch,
        /// The authority's epoch.
        now: Epoch,
    },
    /// The list is full.
    #[error("this authority already lists {MAX_DESCRIPTORS} nodes")]
    Full,
}

/// What became of an accepted descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is listed now.
    Listed(Identity),
    /// It was listed already, byte for byte.
    Known(Identity),
}

/// What would become of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// It would be listed.
    New(Box<SignedDescriptor>),
    /// It is listed already, byte for byte.
    Known(Identity),
}

/// What descriptors are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// Genesis hash.
    pub network: Hash,
    /// The network's epochs.
    pub schedule: Schedule,
    /// Skew tolerance.
    pub skew: Duration,
    /// Who is admitted, in which role and family; `None` in open mode (test networks), where everybody is and families are
    /// taken as they are claimed.
    pub admitted: Option<&'a AdmittedList>,
}

impl Judge<'_> {
    /// Whether the operator of this authority admits the node as it describes itself.
    ///
    /// # Errors
    /// What its operator has to know.
    pub fn admits(&self, descriptor: &Descriptor) -> Result<(), Refusal> {
        let Some(list) = self.admitted else { return Ok(()) };
        let Descriptor { identity, role, family, .. } = descriptor;
        let admitted = list.get(identity).ok_or(Refusal::NotAdmitted { identity: *identity })?;
        if admitted.role != *role {
            return Err(Refusal::OtherRole { was: admitted.role, wants: *role });
        }
        if admitted.family != *family {
            return Err(Refusal::OtherFamily);
        }
        Ok(())
    }
}

/// The collected descriptors, by identity.
#[derive(Clone, Debug, Default)]
pub struct Listing(BTreeMap<Identity, Arc<SignedDescriptor>>);

impl Listing {
    /// Whether a descriptor would be listed, without listing it. `known_role` is the role the node has in the newest
    /// document, if it is known there.
    ///
    /// # Errors
    /// Why it would not.
    pub fn examine(
        &self,
        bytes: &[u8],
        now: UnixMillis,
        judge: &Judge<'_>,
        known_role: impl Fn(&Identity) -> Option<Role>,
    ) -> Result<Examined, Refusal> {
        let signed = UnverifiedDescriptor::parse(bytes)?.verify(&judge.network, now, judge.skew)?;
        let (identity, role) = (signed.descriptor.identity, signed.descriptor.role);
        judge.admits(&signed.descriptor)?;
        if let Some(was) = known_role(&identity).filter(|was| *was != role) {
            return Err(Refusal::OtherRole { was, wants: role });
        }
        check_epochs(&signed, judge.schedule.epoch_at(now))?;
        if let Some(listed) = self.0.get(&identity) {
            if listed.bytes == signed.bytes {
                return Ok(Examined::Known(identity));
            }
            let (before, after) = (listed.descriptor.published, signed.descriptor.published);
            if before > after {
                return Err(Refusal::Older { newer_by_ms: before.0 - after.0 });
            }
            let order = |signed: &SignedDescriptor| precedence(after, descriptor_hash(&signed.bytes));
            if before == after && order(listed) < order(&signed) {
                return Err(Refusal::Twin);
            }
        } else if self.0.len() >= MAX_DESCRIPTORS {
            return Err(Refusal::Full);
        }
        Ok(Examined::New(Box::new(signed)))
    }

    /// Takes a descriptor's bytes if they verify, the node is admitted and the descriptor is its newest.
    ///
    /// # Errors
    /// Why it is not listed.
    pub fn offer(
        &mut self,
        bytes: &[u8],
        now: UnixMillis,
        judge: &Judge<'_>,
        known_role: impl Fn(&Identity) -> Option<Role>,
    ) -> Result<Offered, Refusal> {
        match self.examine(bytes, now, judge, known_role)? {
            Examined::Known(identity) => Ok(Offered::Known(identity)),
            Examined::New(signed) => {
                let identity = signed.descriptor.identity;
                self.0.insert(identity, Arc::new(*signed));
                Ok(Offered::Listed(identity))
            }
        }
    }

    /// Forgets descriptors without a key for `now` or later, and nodes that are no longer admitted. Returns who went.
    pub fn prune(&mut self, now: Epoch, admitted: Option<&AdmittedList>) -> Vec<Identity> {
        let stays = |signed: &Arc<SignedDescriptor>| {
            let alive = signed.descriptor.mix_keys.last().is_some_and(|(epoch, _)| *epoch >= now);
            alive && admitted.is_none_or(|list| list.allows(&signed.descriptor))
        };
        let gone: Vec<_> = self.0.iter().filter(|(_, signed)| !stays(signed)).map(|(identity, _)| *identity).collect();
        for identity in &gone {
            self.0.remove(identity);
        }
        gone
    }

    /// The descriptors by identity.
    #[must_use]
    pub fn descriptors(&self) -> &BTreeMap<Identity, Arc<SignedDescriptor>> {
        &self.0
    }

    /// The exact bytes of a node's listed descriptor.
    #[must_use]
    pub fn bytes_of(&self, identity: &Identity) -> Option<&[u8]> {
        self.0.get(identity).map(|signed| signed.bytes.as_slice())
    }

    /// Hash of what is listed: another one when anything changed.
    #[must_use]
    pub fn state(&self) -> Hash {
        let mut hashes = Vec::with_capacity(32 * self.0.len());
        for signed in self.0.values() {
            hashes.extend_from_slice(descriptor_hash(&signed.bytes).as_bytes());
        }
        Hash::of("shoal directory listing", &hashes)
    }

    /// How many nodes of `role` are listed.
    #[must_use]
    pub fn count(&self, role: Role) -> usize {
        self.0.values().filter(|signed| signed.descriptor.role == role).count()
    }

    /// How many nodes are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A document made now is for this epoch or the next: one of their keys must be there.
fn check_epochs(signed: &SignedDescriptor, now: Epoch) -> Result<(), Refusal> {
    let keys = &signed.descriptor.mix_keys;
    let usable = keys.iter().any(|(epoch, _)| *epoch == now || *epoch == now.plus(1));
    match (keys.first(), keys.last()) {
        (Some((first, _)), Some((last, _))) if !usable => Err(Refusal::WrongEpochs { first: *first, last: *last, now }),
        _ => Ok(()),
    }
}

/// Hash of a descriptor's exact bytes: lists name descriptors by it.
#[must_use]
pub fn descriptor_hash(bytes: &[u8]) -> Hash {
    Hash::of("shoal/1 descriptor hash", bytes)
}

/// Which of two descriptors of one node wins: the one that sorts first. The later one, or, of one instant, the one with the
/// lower hash.
pub(crate) fn precedence(published: UnixMillis, hash: Hash) -> (Reverse<UnixMillis>, Hash) {
    (Reverse(published), hash)
}

#[cfg(test)]
mod tests;
