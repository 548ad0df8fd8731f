//! Leaving the network: the node is served by the last document that lists it until nobody needs it any more, then it
//! erases its keys.

use crate::io::counters::Counters;
use crate::io::host::Clock;
use crate::io::key_files::KeyFiles;
use crate::io::phase::{self, Phase};
use crate::io::runtime_dir;
use crate::leaving::Leaving;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::Identity;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The newest document.
pub type Newest = watch::Receiver<Option<Arc<VerifiedConsensus>>>;

/// Passes the newest document on to those who handle packets, and for the grace time after it the one before: what was built
/// under that is still under way, over steps that the newest may not have. While the node drains, the last document that
/// lists it stays: what is under way must still find its next hop, and the links it leaves on.
#[derive(Clone)]
pub struct Hold {
    /// This node.
    pub me: Identity,
    /// The newest document.
    pub newest: Newest,
    /// The document that packets are handled by.
    pub serving: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    /// The one before it, as long as packets built under it may be under way.
    pub before: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    /// Time.
    pub clock: Clock,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl Hold {
    /// Runs until nobody brings documents any more.
    pub async fn run(mut self) {
        // of one that is shown already, if this task begins anew, the time begins anew as well
        let shown = self.before.borrow().as_ref().map(|before| before.parameters.grace());
        let mut over = shown.map(|grace| self.clock.monotonic() + grace);
        loop {
            let newest = self.newest.borrow_and_update().clone();
            let lists_me = |document: &Option<Arc<VerifiedConsensus>>| {
                document.as_ref().is_some_and(|document| document.node(&self.me).is_some())
            };
            let draining = *self.phase.borrow() >= Phase::Draining;
            // one that expired or was withdrawn is not held: nothing may be forwarded then
            let hold = draining && newest.is_some() && !lists_me(&newest) && lists_me(&self.serving.borrow());
            if !hold {
                let serving = self.serving.borrow().clone();
                match (serving, &newest) {
                    (Some(old), Some(new)) if old.hash() != new.hash() => {
                        let ahead = new.valid_from.since(self.clock.wall());
                        over = Some(self.clock.monotonic() + ahead + new.parameters.grace());
                        // first, or links that only the old one allows are closed in between
                        self.before.send_replace(Some(old));
                    }
                    (_, None) => self.forget(&mut over),
                    (_, Some(_)) => {}
                }
                self.serving.send_replace(newest);
            }
            let left = over.map_or(Duration::MAX, |over| over.saturating_sub(self.clock.monotonic()));
            tokio::select! {
                changed = self.newest.changed() => if changed.is_err() { return },
                () = sleep(left), if over.is_some() => self.forget(&mut over),
            }
        }
    }

    fn forget(&self, over: &mut Option<Duration>) {
        *over = None;
        self.before.send_replace(None);
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

/// Begins to leave the network. It is noted first: from whoever was told that the node leaves, a crash does not bring it
/// back.
pub fn begin(phase: &watch::Sender<Phase>, runtime_dir: &Path) {
    if *phase.borrow() == Phase::Running {
        note(runtime_dir, true);
    }
    phase::advance(phase, Phase::Draining);
}

/// Notes whether the node is leaving.
pub fn note(runtime_dir: &Path, leaving: bool) {
    if let Err(error) = runtime_dir::note_leaving(runtime_dir, leaving) {
        let error = format!("{error:#}");
        tracing::warn!(error, leaving, "after a crash the node will not know whether it was leaving");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::document;

    /// The next value.
    async fn shown<T: Clone>(receiver: &mut watch::Receiver<T>) -> T {
        timeout(Duration::from_secs(600), receiver.changed()).await.expect("in time").expect("the task runs");
        receiver.borrow_and_update().clone()
    }

    #[expect(clippy::disallowed_methods, reason = "reads the paused clock of the test")]
    #[tokio::test(start_paused = true)]
    async fn the_document_before_counts_for_the_grace_time_and_not_longer() {
        let clock = Clock::start();
        let me = Identity::from_bytes([1; 32]);
        let [first, second] = [1, 2].map(|height| Arc::new(document(height, clock.wall())));
        let (newest_in, newest) = watch::channel(Some(Arc::clone(&first)));
        let (serving, before) = (watch::Sender::new(None), watch::Sender::new(None));
        let (mut serving_out, mut before_out) = (serving.subscribe(), before.subscribe());
        let (_phase, phase) = watch::channel(Phase::Running);
        tokio::spawn(Hold { me, newest, serving, before, clock, phase }.run());
        assert_eq!(shown(&mut serving_out).await, Some(Arc::clone(&first)));
        assert!(before_out.borrow().is_none(), "there was none before");

        newest_in.send_replace(Some(Arc::clone(&second)));
        assert_eq!(shown(&mut serving_out).await, Some(Arc::clone(&second)));
        // shown first: no link is judged by the newest alone in between
        assert_eq!(*before_out.borrow_and_update(), Some(Arc::clone(&first)));
        let began = tokio::time::Instant::now();
        assert_eq!(shown(&mut before_out).await, None);
        let (took, grace) = (began.elapsed(), second.parameters.grace());
        assert!(took + Duration::from_millis(500) >= grace && took <= grace * 2, "{took:?} of {grace:?}");

        // what was withdrawn counts no more at all
        newest_in.send_replace(Some(first));
        assert!(shown(&mut before_out).await.is_some());
        newest_in.send_replace(None);
        assert_eq!(shown(&mut before_out).await, None);
    }
}
