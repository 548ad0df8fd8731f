//! What the store part of a node is given when it starts: the seam between the relay's shell and courier and replica.
//!
//! The shell unwraps packets, keeps links to L1, accepts links of other stores and looks after keys; [`super::store`]
//! does everything that has to do with requests, boxes and the constant-rate links between stores.

use crate::config_store::StoreConfig;
use crate::drops::Drops;
use crate::io::host::Clock;
use crate::io::links::LinkSender;
use crate::io::live_keys::LiveKeys;
use crate::io::mover::Mover;
pub use crate::io::phase::Phase;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::quic::{Endpoint, Link};
use shoal_protocol::types::{Epoch, IdentityKey};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

/// A packet that ended here and is none of this node's own loops.
pub struct Request {
    /// `PLAINTEXT_SIZE` bytes: a SURB and an envelope, if it is a request.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// When the packet was read from its link, on the node's clock: the service time runs from here.
    pub arrived: Duration,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("arrived", &self.arrived).finish_non_exhaustive()
    }
}

/// Everything [`super::store::run`] needs. It returns when `phase` becomes [`Phase::Stopping`] or on an error that only
/// a restart can help.
pub struct StoreContext {
    /// This node's identity key (dials other stores with it).
    pub identity: Arc<IdentityKey>,
    /// The newest valid consensus; `None` while there is none.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// Packets whose final hop this node is. Payloads that were tampered with are counted and never get here: the courier's
    /// answer to them is silence.
    pub requests: mpsc::Receiver<Request>,
    /// Accepted `shoal-store/1` links, already checked to be from another store of the consensus. A link whose peer
    /// leaves the consensus is closed by the shell.
    pub arrivals: mpsc::Receiver<Link>,
    /// The endpoint to dial other stores from.
    pub endpoint: Arc<Endpoint>,
    /// Links to the first layer, for replies.
    pub outgoing: LinkSender,
    /// The envelope keys, each with the memory of the envelopes seen under it.
    pub keys: Arc<LiveKeys>,
    /// The node's directory.
    pub dir: PathBuf,
    /// Where boxes are kept.
    pub store: StoreConfig,
    /// Asks for another engine.
    pub mover: Arc<Mover>,
    /// The node's clock.
    pub clock: Clock,
    /// Drop counters, shared with the rest of the node.
    pub drops: Arc<Drops>,
    /// What the store reports for readiness, status and metrics.
    pub report: Arc<StoreReport>,
    /// Life cycle of the process.
    pub phase: watch::Receiver<Phase>,
}

/// What the store part tells the shell. Plain numbers, written by the store, read by `/readyz`, `status` and metrics.
#[derive(Debug, Default)]
pub struct StoreReport {
    open: AtomicBool,
    slow: AtomicBool,
    /// Why it is not open, if it was.
    failure: Mutex<Option<String>>,
    links_wanted: AtomicU64,
    links_up: AtomicU64,
    /// Records and bytes as they are.
    size: Mutex<(u64, u64)>,
    shown: Mutex<Shown>,
}

/// The sizes that anybody sees.
#[derive(Debug, Default)]
struct Shown {
    /// Epoch in which they were taken.
    epoch: Option<Epoch>,
    records: u64,
    bytes: u64,
}

/// Fewer records than this are not told apart: a single write must not show.
const RECORDS_STEP: u64 = 100;
/// The same of bytes: 100 records of 5.3 kB are 0.5 MB, and a file grows by more.
const BYTES_STEP: u64 = 1_000_000;

/// Rounds to the nearest multiple of `step`, and of the power of ten that leaves two digits.
fn coarse(n: u64, step: u64) -> u64 {
    let two_digits = 10u64.saturating_pow(n.checked_ilog10().unwrap_or(0).saturating_sub(1));
    let step = step.max(two_digits);
    (n.saturating_add(step / 2) / step).saturating_mul(step)
}

impl StoreReport {
    /// The database is open and answers (or not any more).
    pub fn set_open(&self, open: bool) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.open.store(open, Ordering::Relaxed);
    }
    /// The database fails, and why.
    pub fn set_failed(&self, why: &str) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        self.open.store(false, Ordering::Relaxed);
    }
    /// Half of what the database does, or more, comes too late for its answer (or not any more).
    pub fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }
    /// Outgoing links to other stores: how many the consensus asks for and how many are up.
    pub fn set_links(&self, wanted: u64, up: u64) {
        self.links_wanted.store(wanted, Ordering::Relaxed);
        self.links_up.store(up, Ordering::Relaxed);
    }
    /// Records kept and bytes on disk, as they are.
    pub fn set_size(&self, records: u64, bytes: u64) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = (records, bytes);
    }
    /// Lets the sizes be seen, once an epoch: who watched them more often would see what is written when.
    pub fn show_size(&self, epoch: Epoch) {
        let (records, bytes) = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.epoch != Some(epoch) {
            let (records, bytes) = (coarse(records, RECORDS_STEP), coarse(bytes, BYTES_STEP));
            *shown = Shown { epoch: Some(epoch), records, bytes };
        }
    }
    /// Whether the database is open.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
    /// What keeps the database from serving, for people; `None` while it serves.
    pub fn problem(&self) -> Option<String> {
        if !self.is_open() {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let why = failure.map_or_else(String::new, |why| format!(": {why}"));
            return Some(format!("the store is not open{why}"));
        }
        let slow = self.slow.load(Ordering::Relaxed);
        slow.then(|| "the store's disk is too slow: answers leave without what it did".to_owned())
    }
    /// Links to other stores: wanted, up.
    pub fn links(&self) -> (u64, u64) {
        (self.links_wanted.load(Ordering::Relaxed), self.links_up.load(Ordering::Relaxed))
    }
    /// Records kept, bytes on disk: rounded, and as they were when the epoch began.
    pub fn size(&self) -> (u64, u64) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        (shown.records, shown.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_coarse() {
        let records = [0, 49, 50, 149, 150, 999, 1_049, 1_050, 12_499, 12_500, 987_654, u64::MAX];
        let shown = records.map(|n| coarse(n, RECORDS_STEP));
        let two = 18_000_000_000_000_000_000;
        assert_eq!(shown, [0, 0, 100, 100, 200, 1_000, 1_000, 1_100, 12_000, 13_000, 990_000, two]);
        assert_eq!([4_096, 1_400_000, 44_400_000_000].map(|n| coarse(n, BYTES_STEP)), [0, 1_000_000, 44_000_000_000]);
    }

    #[test]
    fn no_single_write_shows_in_the_size() {
        let report = StoreReport::default();
        report.set_size(0, 0);
        report.show_size(Epoch(5));
        // a thousand writes within an epoch, watched at every step
        for records in 1..=1_000 {
            report.set_size(records, records * 5_300);
            report.show_size(Epoch(5));
            assert_eq!(report.size(), (0, 0));
        }
        report.show_size(Epoch(6));
        assert_eq!(report.size(), (1_000, 5_000_000));
        // and one more until the next
        report.set_size(1_001, 5_305_300);
        report.show_size(Epoch(7));
        assert_eq!(report.size(), (1_000, 5_000_000));
    }
}
