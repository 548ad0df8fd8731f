//! Blobs on their way out and in: which parts are still to be written or read.

use super::flight::Attempt;
use crate::blobs::{BlobKeys, Manifest};
use crate::blobs_store::{Incoming, Observed, Outgoing};
use crate::want::Rank;
use rand::{CryptoRng, RngExt as _};
use shoal_protocol::UnixMillis;
use shoal_protocol::parameters::Parameters;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Answers without a part, one after the other, after which a blob waits until nothing is written: so much may one cost that was
/// never written. Of a file of which its writer has written a twentieth one answer of 20 brings something: so many in a row bring
/// nothing once in 500 times.
const BARREN_MAX: u32 = 120;

/// Parts of a blob that are still to be written or read, handed out in random order.
#[derive(Clone, Debug, Default)]
pub(super) struct PartQueue {
    ready: Vec<u64>,
    later: BTreeSet<(UnixMillis, u64)>,
    tries: BTreeMap<u64, u32>,
    /// Not done yet.
    open: BTreeSet<u64>,
    /// Not done yet, but one replica has it.
    held: BTreeSet<u64>,
}

impl PartQueue {
    pub(super) fn new(parts: Vec<u64>) -> Self {
        Self { open: parts.iter().copied().collect(), ready: parts, ..Self::default() }
    }
    /// Parts to be written, each with whether one replica has it already.
    pub(super) fn of_writer(parts: &[(u64, bool)]) -> Self {
        let held = parts.iter().filter(|(_, held)| *held).map(|(j, _)| *j).collect();
        Self { held, ..Self::new(parts.iter().map(|(j, _)| *j).collect()) }
    }
    /// One replica has the part.
    pub(super) fn hold(&mut self, j: u64) {
        if self.open.contains(&j) {
            self.held.insert(j);
        }
    }
    /// Whether a reader would find every part at one replica at least.
    pub(super) fn readable(&self) -> bool {
        self.missing() == 0
    }
    /// Parts that no replica has.
    pub(super) fn missing(&self) -> usize {
        self.open.len() - self.held.len()
    }
    /// Parts that are not done.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }
    pub(super) fn has_ready(&self, now: UnixMillis) -> bool {
        !self.ready.is_empty() || self.later.first().is_some_and(|(due, _)| *due <= now)
    }
    /// One part that may be asked for now.
    pub(super) fn take(&mut self, now: UnixMillis, rng: &mut impl CryptoRng) -> Option<u64> {
        while let Some((due, j)) = self.later.first().copied() {
            if due > now {
                break;
            }
            self.later.pop_first();
            self.ready.push(j);
        }
        self.ready.retain(|j| self.open.contains(j));
        if self.ready.is_empty() {
            return None;
        }
        let at = rng.random_range(0..self.ready.len());
        Some(self.ready.swap_remove(at))
    }
    pub(super) fn later(
        &mut self,
        j: u64,
        slowest: Rank,
        now: UnixMillis,
        parameters: &Parameters,
        rng: &mut impl CryptoRng,
    ) {
        if self.open.contains(&j) {
            let tries = self.tries.entry(j).or_default();
            let mut attempt = Attempt::after(*tries);
            attempt.later(slowest, now, parameters, rng);
            *tries = attempt.tries();
            self.later.insert((attempt.due, j));
        }
    }
    /// The part is done; `false` if it was before.
    pub(super) fn done(&mut self, j: u64) -> bool {
        self.tries.remove(&j);
        self.held.remove(&j);
        self.open.remove(&j)
    }
}

/// A blob that is being written.
pub(super) struct BlobOut {
    pub(super) keys: BlobKeys,
    pub(super) generation: u32,
    pub(super) queue: PartQueue,
}

impl BlobOut {
    pub(super) fn new(outgoing: &Outgoing) -> Self {
        let queue = PartQueue::of_writer(&outgoing.parts);
        Self { keys: outgoing.manifest.keys(), generation: outgoing.generation, queue }
    }
}

/// Where a Welcome brings us that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brings {
    pub(super) conversation: i64,
    /// Who brings us there.
    pub(super) contact: i64,
    /// The first epoch in which we would be in it.
    pub(super) epoch: u64,
}

/// A blob that is being read.
pub(super) struct BlobIn {
    pub(super) incoming: Incoming,
    pub(super) keys: BlobKeys,
    pub(super) queue: PartQueue,
    /// Bodies that opened and were not what the manifest says: its writer lies.
    pub(super) lies: u32,
    /// The reading of which it was last given, to take turns.
    pub(super) served: u64,
    /// Others of its writer go first.
    pub(super) waits: bool,
    /// A Welcome that waits.
    pub(super) brings: Option<Brings>,
    /// That replicas answer when parts of it are asked for, since memory began.
    pub(super) asked: Option<Observed>,
    /// Answers in a row that brought nothing.
    pub(super) barren: u32,
    /// A replica said of a part that it is not there; else those that should know said nothing.
    pub(super) empty_seen: bool,
    /// What the disk knows of when parts were seen not to be there.
    absent_kept: Option<Observed>,
    /// Own failures with it, and before when it is left alone because of them.
    pub(super) failures: u32,
    pub(super) resting: UnixMillis,
}

impl BlobIn {
    pub(super) fn new(incoming: Incoming, here: &[u64]) -> Self {
        let here: BTreeSet<u64> = here.iter().copied().collect();
        let queue = PartQueue::new((0..incoming.manifest.boxes()).filter(|j| !here.contains(j)).collect());
        Self {
            keys: incoming.manifest.keys(),
            absent_kept: incoming.absent,
            incoming,
            queue,
            lies: 0,
            served: 0,
            waits: false,
            brings: None,
            asked: None,
            barren: 0,
            empty_seen: false,
            failures: 0,
            resting: UnixMillis::default(),
        }
    }
    /// The same blob as it was before memory was rebuilt: what was learnt of it counts on.
    pub(super) fn continuing(self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        let incoming = Incoming { absent: before.incoming.absent, ..self.incoming };
        Self {
            incoming,
            brings: before.brings,
            asked: before.asked,
            barren: before.barren,
            empty_seen: before.empty_seen,
            failures: before.failures,
            resting: before.resting,
            ..self
        }
    }
    /// Whether somebody of those whom the user wants waits for it, and it comes: then it need not wait until all is written.
    pub(super) fn owed(&self) -> bool {
        self.barren < BARREN_MAX && !self.incoming.stranger
    }
    /// Whether any of it is here.
    pub(super) fn begun(&self) -> bool {
        (self.queue.open() as u64) < self.manifest().boxes()
    }
    /// What was seen of parts that are not there. Says whether the disk is to know: not of every time that it is seen again.
    pub(super) fn absence(&mut self, seen: Option<Observed>, now: UnixMillis, step: Duration) -> bool {
        self.incoming.absent = seen;
        let news = match (self.absent_kept, seen) {
            (Some(kept), Some(seen)) => kept.since != seen.since || kept.seen.plus(step) < now,
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        if news {
            self.absent_kept = seen;
        }
        news
    }
    pub(super) fn manifest(&self) -> &Manifest {
        &self.incoming.manifest
    }
}
