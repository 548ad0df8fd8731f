//! The authority's links: nodes and gateways ask, the authority answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::quic::{AskError, CloseReason, Endpoint, Link, read_question};
use tokio::sync::Notify;

use super::authority::Authority;
use super::metrics::Metrics;
use super::now;

/// Longest reason sent to a node, in bytes.
const REASON_MAX: usize = 200;

/// What the tasks of a running authority share.
#[derive(Debug)]
pub struct Shared {
    authority: Mutex<Authority>,
    /// Counted for `/metrics`.
    pub metrics: Metrics,
    /// Told when a descriptor was listed: the first document may be possible now.
    pub listed: Notify,
}

impl Shared {
    /// Shares `authority` among tasks.
    #[must_use]
    pub fn new(authority: Authority, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { authority: Mutex::new(authority), metrics, listed: Notify::new() })
    }

    /// The authority, for one short step. Never held across an await. A step that panicked leaves no half-made document:
    /// a document counts only when it was written and shown.
    pub fn authority(&self) -> MutexGuard<'_, Authority> {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts links until the endpoint is closed. Tasks are bounded by the endpoint's limits: one a link.
pub async fn serve(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(arrival) = endpoint.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            match arrival.admit().await {
                Ok(link) => {
                    let open = shared.metrics.link_opened();
                    answer_all(&link, &shared).await;
                    drop(open);
                }
                Err(error) => {
                    shared.metrics.handshake_failed(&error);
                    tracing::trace!(%error, "a link did not come about");
                }
            }
        });
    }
}

/// Answers one question after the other until the link ends.
async fn answer_all(link: &Link, shared: &Arc<Shared>) {
    loop {
        match read_question(link, QUESTION_SIZE_MAX).await {
            Ok(Some((question, answerer))) => {
                let worker = Arc::clone(shared);
                // verifies signatures and writes files
                let answered = tokio::task::spawn_blocking(move || answer(&question, &worker)).await;
                let Ok(bytes) = answered else {
                    link.close(CloseReason::Leaving);
                    return;
                };
                if answerer.answer(&bytes).await.is_err() {
                    shared.metrics.answered("any", "unanswered");
                }
            }
            Ok(None) | Err(AskError::Closed) => return,
            Err(AskError::TooLarge | AskError::TimedOut) => {
                shared.metrics.answered("unreadable", "bad_question");
                link.close(CloseReason::Malformed);
                return;
            }
        }
    }
}

/// The answer's bytes. A document's bytes are copied once, into the answer.
fn answer(question: &[u8], shared: &Shared) -> Vec<u8> {
    let now = now();
    let (kind, label, answer) = match DirectoryQuestion::from_bytes(question) {
        Ok(DirectoryQuestion::Publish(descriptor)) => match shared.authority().offer(&descriptor, now) {
            Ok(_) => {
                shared.listed.notify_one();
                ("publish", "accepted", DirectoryAnswer::Accepted)
            }
            Err(refusal) => ("publish", "refused", DirectoryAnswer::Refused(shorten(&refusal.to_string()))),
        },
        Ok(DirectoryQuestion::Newest { have }) => {
            let (newest, waiting_for) = {
                let authority = shared.authority();
                (authority.newest(now).map(Arc::clone), authority.waiting_for().map(shorten))
            };
            match newest {
                Some(document) if have == Some(document.hash()) => ("newest", "up_to_date", DirectoryAnswer::UpToDate),
                Some(document) => ("newest", "document", DirectoryAnswer::Document(document.bytes().to_vec())),
                None => ("newest", "not_yet", DirectoryAnswer::NotYet(waiting_for.unwrap_or_default())),
            }
        }
        // the set of authorities does not change yet
        Ok(DirectoryQuestion::Changes { .. }) => ("changes", "changes", DirectoryAnswer::Changes(Vec::new())),
        Err(_) => ("unreadable", "bad_question", DirectoryAnswer::BadQuestion),
    };
    shared.metrics.answered(kind, label);
    answer.to_bytes()
}

/// Cuts a reason at a character boundary.
fn shorten(reason: &str) -> String {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        let long = "ü".repeat(150);
        assert_eq!(shorten(&long).len(), 200);
        assert_eq!(shorten(&format!("x{long}")).len(), 199);
    }
}
