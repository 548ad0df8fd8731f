//! Proof of reachability: before a node is listed, the authority dials it and has it prove its identity.
//!
//! A handshake is all that is needed: whoever completes it holds the identity key and is there. What the node then makes of
//! the link does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_protocol::consensus::MAX_NODES;
use shoal_protocol::quic::{Endpoint, Protocol};
use shoal_protocol::{Identity, UnixMillis};
use tokio::time::timeout;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Epochs for which a proof of the same addresses holds.
const HOLDS_FOR: u64 = 4;

/// Who was reached, where, and when; and who is being dialled.
#[derive(Debug, Default)]
pub struct Reached {
    lately: Mutex<BTreeMap<Identity, (Vec<SocketAddr>, UnixMillis)>>,
    /// One entry a dial under way.
    dialling: Mutex<BTreeSet<Identity>>,
}

/// A node's turn to be dialled; over when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    of: &'a Reached,
    identity: Identity,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.dialling.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.identity);
    }
}

impl Reached {
    /// The right to dial a node; `None` while somebody else has it.
    pub fn turn(&self, identity: Identity) -> Option<Turn<'_>> {
        let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
        dialling.insert(identity).then(|| Turn { of: self, identity })
    }

    /// Whether the node was reached at these addresses a short time ago.
    pub fn lately(&self, identity: &Identity, addresses: &[SocketAddr], now: UnixMillis, epoch_ms: u64) -> bool {
        let reached = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        reached.get(identity).is_some_and(|(at_addresses, at)| {
            at_addresses == addresses && now.since(*at) < Duration::from_millis(HOLDS_FOR * epoch_ms)
        })
    }

    fn note(&self, identity: &Identity, addresses: &[SocketAddr], now: UnixMillis, epoch_ms: u64) {
        let mut reached = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.len() >= MAX_NODES {
            reached.retain(|_, (_, at)| now.since(*at) < Duration::from_millis(HOLDS_FOR * epoch_ms));
        }
        // as many as a document lists; beyond that a proof is made anew each time
        if reached.len() < MAX_NODES {
            reached.insert(*identity, (addresses.to_vec(), now));
        }
    }

    /// Dials the node at its addresses, one after the other, until one answers with its identity.
    ///
    /// # Errors
    /// What its operator has to know.
    pub async fn prove(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        addresses: &[SocketAddr],
        now: UnixMillis,
        epoch_ms: u64,
    ) -> Result<(), String> {
        let mut problems = Vec::new();
        for address in addresses {
            match timeout(PATIENCE, endpoint.connect(*address, identity, Protocol::Mix)).await {
                Ok(Ok(_link)) => {
                    self.note(identity, addresses, now, epoch_ms);
                    return Ok(());
                }
                Ok(Err(error)) => problems.push(format!("{address}: {error}")),
                Err(_) => problems.push(format!("{address}: no answer within {} s", PATIENCE.as_secs())),
            }
        }
        Err(format!(
            "this authority cannot reach the node at the address it names ({}); open the UDP port, check --address",
            problems.join("; ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_these_addresses_and_some_epochs() {
        let reached = Reached::default();
        let (node, here) = (Identity::from_bytes([1; 32]), ["192.0.2.1:4000".parse().expect("an address")]);
        let at = UnixMillis(1_000_000);
        reached.note(&node, &here, at, 20_000);
        assert!(reached.lately(&node, &here, at.plus(Duration::from_secs(79)), 20_000));
        assert!(!reached.lately(&node, &here, at.plus(Duration::from_secs(80)), 20_000));
        assert!(!reached.lately(&node, &["192.0.2.2:4000".parse().expect("an address")], at, 20_000));
    }

    #[test]
    fn a_node_is_dialled_once_at_a_time() {
        let reached = Reached::default();
        let node = Identity::from_bytes([1; 32]);
        let turn = reached.turn(node).expect("free");
        assert!(reached.turn(node).is_none());
        assert!(reached.turn(Identity::from_bytes([2; 32])).is_some());
        drop(turn);
        assert!(reached.turn(node).is_some());
    }
}
