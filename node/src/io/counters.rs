//! What a node counts, and who may see it when.
//!
//! A mix or a store shows its counters as they are. A gateway shows those of the end of the last epoch: at a finer
//! resolution they would say what a client does.

use crate::drops::{DropReason, Drops};
use crate::loops::LinkLoops;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counters of the packet path. Shared by all threads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets that arrived on links.
    pub received: AtomicU64,
    /// Packets handed to an outgoing link.
    pub forwarded: AtomicU64,
    /// Packets waiting in the delay queue now.
    pub delay_queue: AtomicU64,
    /// Drops by reason.
    pub drops: Arc<Drops>,
    /// Loops of this node.
    pub loops: Mutex<LinkLoops>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that arrived on links.
    pub received: u64,
    /// Packets handed to an outgoing link.
    pub forwarded: u64,
    /// Packets waiting in the delay queue.
    pub delay_queue: u64,
    /// Drops, every reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Loops of this node.
    pub loops: LinkLoops,
    /// CPU time of the process, in hundredths of a second.
    pub cpu_centiseconds: u64,
}

impl Counters {
    fn read(&self, cpu_centiseconds: u64) -> Traffic {
        Traffic {
            received: self.received.load(Ordering::Relaxed),
            forwarded: self.forwarded.load(Ordering::Relaxed),
            delay_queue: self.delay_queue.load(Ordering::Relaxed),
            drops: self.drops.snapshot(),
            loops: *self.loops.lock().unwrap_or_else(PoisonError::into_inner),
            cpu_centiseconds,
        }
    }
}

/// The counters as others may see them.
#[derive(Debug)]
pub struct Published {
    counters: Arc<Counters>,
    /// A gateway's snapshot of the last epoch.
    frozen: Option<Mutex<Traffic>>,
}

impl Published {
    /// `by_epoch` at a gateway.
    pub fn new(counters: Arc<Counters>, by_epoch: bool) -> Self {
        let frozen = by_epoch.then(|| Mutex::new(Traffic { drops: Drops::default().snapshot(), ..Traffic::default() }));
        Self { counters, frozen }
    }

    /// An epoch has ended.
    pub fn epoch_ended(&self, cpu_centiseconds: u64) {
        if let Some(frozen) = &self.frozen {
            *frozen.lock().unwrap_or_else(PoisonError::into_inner) = self.counters.read(cpu_centiseconds);
        }
    }

    /// What may be shown now.
    pub fn read(&self, cpu_centiseconds: u64) -> Traffic {
        match &self.frozen {
            Some(frozen) => frozen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.counters.read(cpu_centiseconds),
        }
    }

    /// Whether these are snapshots by epoch.
    pub fn is_by_epoch(&self) -> bool {
        self.frozen.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_shows_nothing_newer_than_the_last_epoch() {
        let counters = Arc::new(Counters::default());
        let (gateway, mix) =
            (Published::new(Arc::clone(&counters), true), Published::new(Arc::clone(&counters), false));
        counters.received.store(5, Ordering::Relaxed);
        counters.drops.count(DropReason::Replayed);
        assert_eq!((gateway.read(9).received, mix.read(9).received), (0, 5));
        assert_eq!(gateway.read(9).drops.len(), DropReason::ALL.len());
        gateway.epoch_ended(7);
        counters.received.store(6, Ordering::Relaxed);
        assert_eq!((gateway.read(9).received, mix.read(9).received), (5, 6));
        assert_eq!(gateway.read(9).cpu_centiseconds, 7);
    }
}
