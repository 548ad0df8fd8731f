//! Long-running tasks under supervision: a panic ends one task, is counted, and the task begins anew or the node stops.

use crate::io::phase::{self, Phase};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

/// Pause before a task that panicked begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts tasks and watches them.
#[derive(Clone)]
pub struct Supervisor {
    /// Called at every contained panic.
    pub on_panic: Arc<dyn Fn() + Send + Sync>,
    /// Life cycle.
    pub phase: watch::Sender<Phase>,
    /// Set when a task without which the node is none has ended: the process ends with an error, for the service
    /// manager to start it again.
    pub failed: Arc<AtomicBool>,
}

impl Supervisor {
    /// Watches a task that cannot begin anew. If it panics or fails, the node stops.
    pub fn essential<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let this = self.clone();
        tokio::spawn(async move {
            let ended = tokio::spawn(task).await;
            let stopping = *this.phase.borrow() >= Phase::Stopping;
            match ended {
                Ok(Ok(())) if stopping => return,
                Ok(Ok(())) => tracing::error!(task = name, "ended before its time; the node stops"),
                Ok(Err(error)) => tracing::error!(task = name, error = format!("{error:#}"), "failed; the node stops"),
                Err(error) => this.panicked(name, &error),
            }
            this.failed.store(true, Ordering::Relaxed);
            phase::advance(&this.phase, Phase::Stopping);
        })
    }

    /// Runs a task again and again until the process stops: a panic is counted and costs one second.
    pub fn renewed<M, F>(&self, name: &'static str, make: M) -> JoinHandle<()>
    where
        M: Fn() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let this = self.clone();
        tokio::spawn(async move {
            let mut phase = this.phase.subscribe();
            loop {
                if let Err(error) = tokio::spawn(make()).await {
                    this.panicked(name, &error);
                }
                let stopping = tokio::time::timeout(PAUSE, phase::reached(&mut phase, Phase::Stopping));
                if stopping.await.is_ok() {
                    return;
                }
            }
        })
    }

    fn panicked(&self, name: &'static str, error: &JoinError) {
        if error.is_panic() {
            (self.on_panic)();
            tracing::error!(task = name, "panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn supervisor() -> (Supervisor, Arc<AtomicU32>) {
        let panics = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&panics);
        let on_panic = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let (phase, _) = watch::channel(Phase::Running);
        (Supervisor { on_panic, phase, failed: Arc::default() }, panics)
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_contained_counted_and_the_task_begins_anew() {
        let (supervisor, panics) = supervisor();
        let turns = Arc::new(AtomicU32::new(0));
        let phase = supervisor.phase.clone();
        let task = supervisor.renewed("test", move || {
            let (turns, phase) = (Arc::clone(&turns), phase.clone());
            async move {
                if turns.fetch_add(1, Ordering::Relaxed) < 2 {
                    panic!("on purpose");
                }
                phase::advance(&phase, Phase::Stopping);
            }
        });
        task.await.expect("the supervisor itself does not panic");
        assert_eq!(panics.load(Ordering::Relaxed), 2);
        assert!(!supervisor.failed.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn the_end_of_an_essential_task_stops_the_node() {
        let (supervisor, panics) = supervisor();
        let task = supervisor.essential("test", async { panic!("on purpose") });
        task.await.expect("the supervisor itself does not panic");
        assert_eq!(panics.load(Ordering::Relaxed), 1);
        assert_eq!(*supervisor.phase.borrow(), Phase::Stopping);
        assert!(supervisor.failed.load(Ordering::Relaxed));
    }
}
