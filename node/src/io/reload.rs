//! SIGHUP: `node.toml` is read again, and what can be changed while the node runs is changed.

use crate::config::Config;
use crate::io::gateway_io::SessionSender;
use crate::io::logging::SetFilter;
use crate::io::setup;
use crate::io::store_moves::StoreMoves;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;

/// What a new configuration can reach.
pub struct Reload {
    /// The node's directory.
    pub dir: PathBuf,
    /// The configuration in force.
    pub config: Config,
    /// The log.
    pub set_filter: SetFilter,
    /// Sessions; gateways only.
    pub sessions: Option<SessionSender>,
    /// Packets waiting for one outgoing link, for links made from now on.
    pub link_queue_packets: Arc<AtomicUsize>,
    /// Whether the store is to go.
    pub leaving: Arc<AtomicBool>,
    /// Where the store is kept, which a move has changed in the file and in the node; stores only.
    pub moves: Option<Arc<StoreMoves>>,
    /// The public address, for the next descriptor.
    pub address: watch::Sender<String>,
}

impl Reload {
    /// Reads the file again. One that cannot be used changes nothing.
    pub fn again(&mut self) {
        let fresh = match setup::load_config(&self.dir) {
            Ok(fresh) => fresh,
            Err(failure) => {
                tracing::error!(error = %failure, next = failure.next, "the configuration stays as it was");
                return;
            }
        };
        if let Some(moves) = &self.moves {
            self.config.store = moves.now();
        }
        let changes = self.config.changes(&fresh);
        if fresh.log != self.config.log
            && let Err(error) = (self.set_filter)(&fresh.log)
        {
            tracing::warn!(error, "the log's filter stays as it was");
        }
        if let Some(sessions) = &self.sessions {
            sessions.set_capacity(fresh.limits.sessions);
        }
        self.link_queue_packets.store(fresh.limits.link_queue_packets, Ordering::Relaxed);
        self.leaving.store(fresh.leaving, Ordering::Relaxed);
        self.address.send_if_modified(|address| {
            let moved = *address != fresh.address;
            address.clone_from(&fresh.address);
            moved
        });
        tracing::info!(changed = changes.now.join(", "), "configuration read again");
        if !changes.at_start.is_empty() {
            tracing::warn!(keys = changes.at_start.join(", "), "these take effect at the next start only");
        }
        // what waits for a start is compared with what runs, at every reload
        self.config.take_over(&fresh);
    }
}
