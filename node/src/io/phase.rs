//! The life cycle of the process, as every long-running task sees it.

use tokio::sync::watch;

/// Where in its life the process is. Phases only move forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal work.
    Running,
    /// Leaving the network: everything is served as before, and the last descriptor has no key for the next epoch.
    Draining,
    /// Finish what is in hand and return.
    Stopping,
}

/// Moves the phase forward; never back.
pub fn advance(sender: &watch::Sender<Phase>, to: Phase) {
    sender.send_if_modified(|phase| {
        let forward = *phase < to;
        if forward {
            *phase = to;
        }
        forward
    });
}

/// Waits until the process is in `phase` or beyond (or its end, if the sender is gone).
pub async fn reached(receiver: &mut watch::Receiver<Phase>, phase: Phase) {
    // an error means that the sender is gone: the process ends
    let _ = receiver.wait_for(|now| *now >= phase).await;
}
