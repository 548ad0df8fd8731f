//! What the mail thread tells the schedule of a client that has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::mail::Mail;

/// Shared with the jobs on the mail thread. The mail stops before it says so, and owes last words only when it has stopped:
/// whatever the schedule reads here, nothing but last words is asked for.
#[derive(Clone, Default)]
pub(super) struct Stopped {
    forked: Arc<AtomicBool>,
    owes: Arc<AtomicBool>,
}

impl Stopped {
    pub(super) fn new(forked: bool, owes: bool) -> Self {
        let stopped = Self::default();
        stopped.forked.store(forked, Ordering::Relaxed);
        stopped.owes.store(owes, Ordering::Relaxed);
        stopped
    }

    /// On the mail thread, after whatever may have changed it.
    pub(super) fn note(&self, mail: &Mail) {
        self.forked.store(mail.network_forked(), Ordering::Relaxed);
        self.owes.store(mail.owes_last_words(), Ordering::Relaxed);
    }

    /// It is proven that the authorities contradicted themselves.
    pub(super) fn forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed)
    }

    /// The proof is still owed to somebody.
    pub(super) fn owes(&self) -> bool {
        self.owes.load(Ordering::Relaxed)
    }
}
