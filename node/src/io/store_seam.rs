//! What the store part of a node is given when it starts: the seam between the relay's shell and courier and replica.
//!
//! The shell unwraps packets, keeps links to L1, accepts links of other stores and looks after keys; [`super::store`]
//! does everything that has to do with requests, boxes and the constant-rate links between stores.

use crate::drops::Drops;
use crate::io::links::LinkSender;
pub use crate::io::phase::Phase;
use crate::keys::{EpochKeys, KeyWindow, in_order};
use arc_swap::ArcSwap;
use shoal_protocol::X25519Secret;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::quic::{Endpoint, Link};
use shoal_protocol::types::{Epoch, IdentityKey, UnixMillis};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};

/// Everything [`super::store::run`] needs. It returns when `phase` becomes [`Phase::Stopping`] or on an error that only
/// a restart can help.
pub struct StoreContext {
    /// This node's identity key (dials other stores with it).
    pub identity: Arc<IdentityKey>,
    /// The newest valid consensus; `None` while there is none.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// Plaintexts (`PLAINTEXT_SIZE` bytes) of packets whose final hop this node is and which are not its own loops.
    /// Payloads that were tampered with are counted and never get here: the courier's answer to them is silence.
    pub requests: mpsc::Receiver<Vec<u8>>,
    /// Accepted `shoal-store/1` links, already checked to be from another store of the consensus. A link whose peer
    /// leaves the consensus is closed by the shell.
    pub arrivals: mpsc::Receiver<Link>,
    /// The endpoint to dial other stores from.
    pub endpoint: Arc<Endpoint>,
    /// Links to the first layer, for replies.
    pub outgoing: LinkSender,
    /// The envelope keys accepted now.
    pub envelope_keys: Arc<EnvelopeKeys>,
    /// Directory of the store's files; exists, mode 0700.
    pub dir: PathBuf,
    /// Drop counters, shared with the rest of the node.
    pub drops: Arc<Drops>,
    /// What the store reports for readiness, status and metrics.
    pub report: Arc<StoreReport>,
    /// Life cycle of the process.
    pub phase: watch::Receiver<Phase>,
}

/// Envelope keys by epoch, kept and erased together with the mix keys of the same epochs.
#[derive(Debug, Default)]
pub struct EnvelopeKeys(ArcSwap<Vec<KeyWindow>>);

impl EnvelopeKeys {
    /// Replaces the keys (the key task does so at every change).
    pub fn replace(&self, windows: Vec<KeyWindow>) {
        self.0.store(Arc::new(windows));
    }

    /// Keys accepted at `now`, in the order in which to try them: the current epoch's first, then the grace key, then
    /// the next one. Hold the result for one envelope only: a key that is erased must not live on in a copy.
    pub fn accepted(&self, now: UnixMillis, current: Epoch) -> Vec<Arc<EpochKeys>> {
        in_order(current, self.0.load().iter().filter(|timed| timed.window.contains(now)))
            .into_iter()
            .map(|timed| Arc::clone(&timed.keys))
            .collect()
    }

    /// Whether the keys of an epoch exist at all, accepted now or not: what protects them from replay must live as long.
    pub fn holds(&self, epoch: Epoch) -> bool {
        self.0.load().iter().any(|timed| timed.keys.epoch == epoch)
    }

    /// The envelope key of one epoch, if it is accepted at `now`.
    pub fn of(&self, epoch: Epoch, now: UnixMillis) -> Option<X25519Secret> {
        self.0
            .load()
            .iter()
            .find(|timed| timed.keys.epoch == epoch && timed.window.contains(now))
            .and_then(|timed| timed.keys.envelope.clone())
    }
}

/// What the store part tells the shell. Plain numbers, written by the store, read by `/readyz`, `status` and metrics.
#[derive(Debug, Default)]
pub struct StoreReport {
    open: AtomicBool,
    links_wanted: AtomicU64,
    links_up: AtomicU64,
    boxes: AtomicU64,
    bytes: AtomicU64,
}

impl StoreReport {
    /// The database is open and answers (or not any more).
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
    /// Outgoing links to other stores: how many the consensus asks for and how many are up.
    pub fn set_links(&self, wanted: u64, up: u64) {
        self.links_wanted.store(wanted, Ordering::Relaxed);
        self.links_up.store(up, Ordering::Relaxed);
    }
    /// Records kept and bytes on disk; rounded by the shell before anyone sees them.
    pub fn set_size(&self, boxes: u64, bytes: u64) {
        self.boxes.store(boxes, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
    /// Whether the database is open.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
    /// Links to other stores: wanted, up.
    pub fn links(&self) -> (u64, u64) {
        (self.links_wanted.load(Ordering::Relaxed), self.links_up.load(Ordering::Relaxed))
    }
    /// Records kept, bytes on disk.
    pub fn size(&self) -> (u64, u64) {
        (self.boxes.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
