//! Proposals as the specification writes them, also such as no honest authority would make.

use shoal_directory::proposal::VerifiedProposal;
use shoal_protocol::consensus::codec::{self, Put as _};
use shoal_protocol::{Epoch, Hash};

/// A proposal in its parts.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) height: u64,
    pub(crate) epoch: Epoch,
    pub(crate) previous: Hash,
    pub(crate) lists: Vec<Vec<u8>>,
    pub(crate) descriptors: Vec<Vec<u8>>,
}

impl Parts {
    pub(crate) fn of(proposal: &VerifiedProposal) -> Self {
        Self {
            height: proposal.height(),
            epoch: proposal.epoch(),
            previous: proposal.previous(),
            lists: proposal.lists().iter().map(|list| list.bytes().to_vec()).collect(),
            descriptors: proposal.descriptors().values().map(|signed| signed.bytes.clone()).collect(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(6);
            writer.put_uint(1);
            writer.put_uint(self.height);
            writer.put_uint(self.epoch.0);
            writer.put_bytes(self.previous.as_bytes());
            for part in [&self.lists, &self.descriptors] {
                writer.put_array(part.len());
                for bytes in part {
                    writer.put_bytes(bytes);
                }
            }
        })
    }
}
