//! Operations: what a client asks of replicas.

use crate::boxes::{BoxBody, BoxId};
use crate::geometry::{BOX_SIZE, OPERATION_SIZE};
use crate::types::Epoch;
use zeroize::Zeroizing;

/// What a client asks of the two replicas of a box or an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write a box; the first valid write wins.
    Put {
        /// The box.
        id: BoxId,
        /// The writer's signature under the id.
        signature: [u8; 64],
        /// What to keep.
        body: BoxBody,
    },
    /// Write a box where one write must win over both replicas: the second accepts only with the first one's receipt.
    PutOrdered {
        /// The box.
        id: BoxId,
        /// The writer's signature under the id.
        signature: [u8; 64],
        /// What to keep.
        body: BoxBody,
    },
    /// Read a box.
    Get {
        /// The box.
        id: BoxId,
    },
    /// Append an entry to an inbox.
    Append {
        /// The inbox.
        id: BoxId,
        /// Hashcash (see [`crate::inbox::append_work`]).
        nonce: [u8; 64],
        /// What to keep.
        body: BoxBody,
    },
    /// Read the first entry of an inbox after a number, in the replica's own numbering.
    Read {
        /// The inbox.
        id: BoxId,
        /// The owner's signature under the id.
        signature: [u8; 64],
        /// Number of the last entry already read from this replica; 0 before the first.
        after: u64,
        /// Epoch in which the question was made.
        epoch: Epoch,
    },
}

/// An operation that no version of Shoal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown operation or malformed fields")]
pub struct BadOperation;

impl Operation {
    /// The box or inbox it concerns.
    pub const fn id(&self) -> &BoxId {
        match self {
            Self::Put { id, .. }
            | Self::PutOrdered { id, .. }
            | Self::Get { id }
            | Self::Append { id, .. }
            | Self::Read { id, .. } => id,
        }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let zeros = [0; BOX_SIZE];
        let mut counters = [0; BOX_SIZE];
        let (kind, signature, body): (u8, &[u8; 64], &[u8; BOX_SIZE]) = match self {
            Self::Put { signature, body, .. } => (1, signature, body.as_bytes()),
            Self::PutOrdered { signature, body, .. } => (2, signature, body.as_bytes()),
            Self::Get { .. } => (3, &[0; 64], &zeros),
            Self::Append { nonce, body, .. } => (4, nonce, body.as_bytes()),
            Self::Read { signature, after, epoch, .. } => {
                let fields = [after.to_be_bytes(), epoch.0.to_be_bytes()].concat();
                counters.iter_mut().zip(&fields).for_each(|(to, from)| *to = *from);
                (5, signature, &counters)
            }
        };
        let mut out = Zeroizing::new(Vec::with_capacity(OPERATION_SIZE));
        out.push(kind);
        out.extend_from_slice(self.id().as_bytes());
        out.extend_from_slice(signature);
        out.extend_from_slice(body);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadOperation> {
        let (kind, rest) = bytes.split_first().ok_or(BadOperation)?;
        let (id, rest) = rest.split_first_chunk::<32>().ok_or(BadOperation)?;
        let (signature, rest) = rest.split_first_chunk::<64>().ok_or(BadOperation)?;
        let body = BoxBody::from_slice(rest).map_err(|_| BadOperation)?;
        let (id, signature) = (BoxId::from_bytes(*id), *signature);
        match kind {
            1 => Ok(Self::Put { id, signature, body }),
            2 => Ok(Self::PutOrdered { id, signature, body }),
            3 if signature == [0; 64] && rest.iter().all(|b| *b == 0) => Ok(Self::Get { id }),
            4 => Ok(Self::Append { id, nonce: signature, body }),
            5 => {
                let (after, rest) = rest.split_first_chunk::<8>().ok_or(BadOperation)?;
                let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(BadOperation)?;
                if rest.iter().any(|b| *b != 0) {
                    return Err(BadOperation);
                }
                let (after, epoch) = (u64::from_be_bytes(*after), Epoch(u64::from_be_bytes(*epoch)));
                Ok(Self::Read { id, signature, after, epoch })
            }
            _ => Err(BadOperation),
        }
    }
}
