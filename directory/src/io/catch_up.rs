//! Asks the other authorities for their newest document, when this one may have missed some.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::consensus::{DocumentError, VerifiedConsensus};
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::Hint;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::now;
use super::server::Shared;

/// Shortest and longest time that one authority gets.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Asks whenever the authority wants to know.
pub async fn serve(endpoint: Endpoint, shared: Arc<Shared>) {
    // others are asked at the same time, but the next turn waits for the slowest
    let patience = Duration::from_millis(shared.authority().epoch_ms() / 20).clamp(PATIENCE.0, PATIENCE.1);
    loop {
        shared.asked.notified().await;
        let (peers, have) = {
            let authority = shared.authority();
            (authority.peers().clone(), authority.newest_certified().map(Arc::clone))
        };
        let mut asked = JoinSet::new();
        for peer in peers.list() {
            let (endpoint, shared, have) = (endpoint.clone(), Arc::clone(&shared), have.clone());
            asked.spawn(async move { timeout(patience, follow(&endpoint, &shared, &peer, have)).await });
        }
        while asked.join_next().await.is_some() {}
        shared.stirred.notify_one();
    }
}

/// Takes over what one authority has, first the documents that changed the set of authorities if there were any.
async fn follow(
    endpoint: &Endpoint,
    shared: &Arc<Shared>,
    peer: &Hint,
    have: Option<Arc<VerifiedConsensus>>,
) -> Option<()> {
    let link = endpoint.connect(peer.address, &peer.identity, Protocol::Directory).await.ok()?;
    let newest = DirectoryQuestion::Newest { have: have.as_ref().map(|have| have.hash()) };
    let newest = match (question(&link, &newest).await?, have) {
        (DirectoryAnswer::Document(newest), _) => newest,
        // from one that does not know yet that this is an authority
        (DirectoryAnswer::Difference(difference), Some(have)) => have.apply(&difference).ok()?,
        _ => return None,
    };
    let Err(error) = adopt(shared, newest.clone()).await? else { return Some(()) };
    if !error.may_be_another_set() {
        tracing::debug!(%error, "another authority's newest document is not taken");
        return None;
    }
    let after = shared.authority().set_hash();
    let DirectoryAnswer::Changes(changes) = question(&link, &DirectoryQuestion::Changes { after }).await? else {
        return None;
    };
    for change in changes {
        adopt(shared, change.to_vec()).await?.ok()?;
    }
    adopt(shared, newest).await?.ok()
}

async fn question(link: &Link, question: &DirectoryQuestion) -> Option<DirectoryAnswer> {
    DirectoryAnswer::from_bytes(&ask(link, &question.to_bytes(), ANSWER_SIZE_MAX).await.ok()?).ok()
}

/// Verifies signatures and waits for the disk.
async fn adopt(shared: &Arc<Shared>, document: Vec<u8>) -> Option<Result<(), DocumentError>> {
    let worker = Arc::clone(shared);
    tokio::task::spawn_blocking(move || worker.authority().adopt(&document, now())).await.ok()
}
