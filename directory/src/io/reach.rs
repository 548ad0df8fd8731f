//! Proof of reachability: before a node is listed, the authority dials it and has it prove its identity.
//!
//! A handshake is all that is needed: whoever completes it holds the identity key and is there. What the node then makes of
//! the link does not matter.

use std::collections::BTreeMap;
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

/// Who was reached, where, and when.
#[derive(Debug, Default)]
pub struct Reached(Mutex<BTreeMap<Identity, (Vec<SocketAddr>, UnixMillis)>>);

impl Reached {
    /// Whether the node was reached at these addresses a short time ago.
    pub fn lately(&self, identity: &Identity, addresses: &[SocketAddr], now: UnixMillis, epoch_ms: u64) -> bool {
        let reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reached.get(identity).is_some_and(|(at_addresses, at)| {
            at_addresses == addresses && now.since(*at) < Duration::from_millis(HOLDS_FOR * epoch_ms)
        })
    }

    fn note(&self, identity: &Identity, addresses: &[SocketAddr], now: UnixMillis, epoch_ms: u64) {
        let mut reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
