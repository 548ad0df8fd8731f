//! Leaving the network: the node is served by the last document that lists it until nobody needs it any more, then it
//! erases its keys.

use crate::io::counters::Counters;
use crate::io::host::Clock;
use crate::io::key_files::KeyFiles;
use crate::io::phase::Phase;
use crate::leaving::Leaving;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::Identity;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The newest document.
pub type Newest = watch::Receiver<Option<Arc<VerifiedConsensus>>>;

/// Passes the newest document on to those who handle packets. While the node drains, the last one that lists it stays:
/// what is under way must still find its next hop, and the links it leaves on.
#[derive(Clone)]
pub struct Hold {
    /// This node.
    pub me: Identity,
    /// The newest document.
    pub newest: Newest,
    /// The document that packets are handled by.
    pub serving: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl Hold {
    /// Runs until nobody brings documents any more.
    pub async fn run(mut self) {
        loop {
            let newest = self.newest.borrow_and_update().clone();
            let lists_me = |document: &Option<Arc<VerifiedConsensus>>| {
                document.as_ref().is_some_and(|document| document.node(&self.me).is_some())
            };
            let draining = *self.phase.borrow() >= Phase::Draining;
            // one that expired or was withdrawn is not held: nothing may be forwarded then
            let hold = draining && newest.is_some() && !lists_me(&newest) && lists_me(&self.serving.borrow());
            if !hold {
                self.serving.send_replace(newest);
            }
            if self.newest.changed().await.is_err() {
                return;
            }
        }
    }
}

/// When a draining node may stop.
pub struct Drain {
    /// This node.
    pub me: Identity,
    /// Epochs.
    pub schedule: Schedule,
    /// Grace time of a key.
    pub grace: Duration,
    /// Time.
    pub clock: Clock,
    /// The newest document.
    pub newest: Newest,
    /// Where the length of the delay queue stands.
    pub counters: Arc<Counters>,
    /// What is erased at the end.
    pub files: KeyFiles,
}

impl Drain {
    /// Serves as long as anybody may need this node (see [`crate::leaving`]), then until the delay queue is empty.
    pub async fn run(&mut self) {
        // the wall clock may step
        const LOOK: Duration = Duration::from_millis(500);
        let mut leaving = Leaving::new(self.me, self.schedule, self.grace, self.clock.wall());
        loop {
            let until = leaving.serve_until(self.newest.borrow_and_update().as_deref().map(|document| &**document));
            let left = until.since(self.clock.wall());
            if left.is_zero() {
                break;
            }
            tokio::select! {
                changed = self.newest.changed() => if changed.is_err() { break },
                () = sleep(left.min(LOOK)) => {}
            }
        }
        let cap = self.newest.borrow().as_ref().map_or(Duration::ZERO, |document| document.delay_cap());
        let flushed = async {
            while self.counters.delay_queue.load(Ordering::Relaxed) > 0 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(cap, flushed).await.is_err() {
            tracing::warn!("packets were left in the delay queue");
        }
    }

    /// Erases all keys and logs. Only for a node that has drained to the end and uses none of them any more.
    pub fn erase(&self) {
        match self.files.erase_all() {
            Ok(()) => tracing::info!("drained: all mix keys and replay logs are erased"),
            Err(error) => {
                let next = "remove the files mix-* in the runtime directory by hand";
                tracing::error!(error = format!("{error:#}"), next, "drained, but keys could not be erased");
            }
        }
    }
}
