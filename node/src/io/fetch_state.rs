//! What is said about the fetching of documents.

use crate::freshness::{self, Freshness};
use crate::io::directory::ConsensusTask;
use shoal_protocol::types::{Epoch, UnixMillis};
use std::time::Duration;
use tokio::sync::watch;

/// Pause between two lines of the log about the same trouble.
const QUIET: Duration = Duration::from_secs(60);

/// What the consensus task says about its work, for status and doctor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchState {
    /// Why there is no newer document, as far as it is known.
    pub problem: Option<String>,
    /// Epoch of the newest document ever held, and when it is over, skew tolerance included.
    pub last: Option<(Epoch, UnixMillis)>,
    /// The authorities contradict themselves: what that means and what to do. Set once, until the process ends.
    pub contradiction: Option<String>,
}

/// Waits until the authorities contradict themselves; for ever, if they do not.
pub async fn contradicted(mut fetch: watch::Receiver<FetchState>) {
    if fetch.wait_for(|state| state.contradiction.is_some()).await.is_err() {
        // the consensus task is gone: the process ends
        std::future::pending::<()>().await;
    }
}

impl ConsensusTask {
    /// Once per freeze, and once when it is over.
    pub(super) fn say_if_stale(&mut self) {
        let Some(held) = self.consensus.borrow().as_ref().map(|document| document.epoch) else { return };
        match freshness::judge(&self.schedule, held, self.clock.wall()) {
            Freshness::Stale { missed } if !self.stale => {
                self.stale = true;
                tracing::warn!(
                    newest = %held,
                    missed,
                    "no new consensus: the authorities are down, or somebody keeps their documents from this node; \
                     traffic goes on until the newest one runs out"
                );
            }
            Freshness::Fresh if self.stale => {
                self.stale = false;
                tracing::info!(newest = %held, "there is a new consensus again");
            }
            Freshness::Stale { .. } | Freshness::Fresh => {}
        }
    }

    pub(super) fn say(&mut self, problem: Option<String>) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.problem != problem;
            state.problem.clone_from(&problem);
            changed
        });
        // once per change and minute: neither an unreachable authority nor one that words its answer anew at every
        // question fills the log; status has the newest
        let now = self.clock.monotonic();
        match problem {
            Some(problem) if changed && now >= self.quiet_until => {
                self.quiet_until = now + QUIET;
                tracing::warn!(%problem, "no newer consensus");
            }
            Some(_) | None => {}
        }
    }
}
