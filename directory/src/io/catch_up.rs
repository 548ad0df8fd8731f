//! Asks the other authorities for their newest document, when this one may have missed some.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::Hint;
use shoal_protocol::quic::{Endpoint, Protocol, ask};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::now;
use super::server::Shared;

/// How long one authority gets. The others are asked at the same time, so a slow one costs nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks whenever the authority wants to know.
pub async fn serve(endpoint: Endpoint, shared: Arc<Shared>) {
    loop {
        shared.asked.notified().await;
        let (peers, have) = {
            let authority = shared.authority();
            (authority.peers().clone(), authority.newest_certified().map(|newest| newest.hash()))
        };
        let question: Arc<[u8]> = DirectoryQuestion::Newest { have }.to_bytes().into();
        let mut asked = JoinSet::new();
        for peer in peers.list() {
            let (endpoint, question, peer) = (endpoint.clone(), Arc::clone(&question), *peer);
            asked.spawn(async move { timeout(PATIENCE, ask_one(&endpoint, &peer, &question)).await.ok().flatten() });
        }
        while let Some(answer) = asked.join_next().await {
            let Ok(Some(document)) = answer else { continue };
            let worker = Arc::clone(&shared);
            // verifies signatures and waits for the disk
            let adopted = tokio::task::spawn_blocking(move || worker.authority().adopt(&document, now())).await;
            if let Ok(Err(error)) = adopted {
                tracing::debug!(%error, "another authority's newest document is not taken");
            }
            shared.stirred.notify_one();
        }
    }
}

async fn ask_one(endpoint: &Endpoint, peer: &Hint, question: &[u8]) -> Option<Vec<u8>> {
    let link = endpoint.connect(peer.address, &peer.identity, Protocol::Directory).await.ok()?;
    match DirectoryAnswer::from_bytes(&ask(&link, question, ANSWER_SIZE_MAX).await.ok()?) {
        Ok(DirectoryAnswer::Document(bytes)) => Some(bytes),
        Ok(_) | Err(_) => None,
    }
}
