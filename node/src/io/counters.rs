//! What a node counts, and who may see it when.
//!
//! A mix or a store shows its counters as they are. A gateway shows those of the end of the last epoch: at a finer
//! resolution they would say what a client does, or when one comes. That goes for everything that a client's packets,
//! handshakes or buffers can move: memory, CPU time, open files, the fill of the replay set, losses of own loops.

use crate::alarm::Spot;
use crate::drops::{DropReason, Drops};
use crate::heartbeat::Hearts;
use crate::io::live_keys::LiveKeys;
use crate::io::process::ProcessState;
use crate::loops::{LoopCounts, Loops};
use shoal_protocol::quic::TurnedAway;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Labels of attempts that the caps of the endpoint did not let in: beyond them, and those that had to prove their address
/// first (who did came again, so the link may have come about after all).
pub const TURNED_AWAY_LABELS: [&str; 2] = ["refused", "asked_to_retry"];

/// Counters of the packet path. Shared by all threads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets that arrived on links.
    pub received: AtomicU64,
    /// Packets of others that left the delay queue for the link to another node. Not counted: what this node makes
    /// itself (its loops, a store's replies) and what a gateway hands to its clients.
    pub forwarded: AtomicU64,
    /// Packets waiting in the delay queue now.
    pub delay_queue: AtomicU64,
    /// Drops by reason.
    pub drops: Arc<Drops>,
    /// Loops of this node, and where they are lost.
    loops: Mutex<(LoopCounts, Vec<Spot>)>,
    /// Panics that were contained.
    pub panics: AtomicU64,
    /// Whether the threads that packets depend on turn.
    pub hearts: Hearts,
    /// Links that did not come about, by reason: one entry for each label of the program.
    handshake_failures: Mutex<BTreeMap<&'static str, u64>>,
    /// What the endpoint counts itself, once it is open.
    pub turned_away: OnceLock<Arc<TurnedAway>>,
}

/// What is read from the machine when somebody asks, not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Machine {
    /// The process.
    pub process: ProcessState,
    /// Fill of the fullest replay set, 0 to 1.
    pub replay_fill: f64,
}

impl Machine {
    /// Reads it now.
    pub fn read(keys: &LiveKeys) -> Self {
        let replay_fill = keys.all().iter().map(|key| key.fill_ratio()).fold(0.0, f64::max);
        Self { process: ProcessState::read(), replay_fill }
    }
}

/// Everything that traffic moves, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traffic {
    /// Packets that arrived on links.
    pub received: u64,
    /// Packets of others handed to the link to another node.
    pub forwarded: u64,
    /// Packets waiting in the delay queue.
    pub delay_queue: u64,
    /// Drops, every reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Loops of this node.
    pub loops: LoopCounts,
    /// Where they are lost.
    pub losing: Vec<Spot>,
    /// Panics that were contained.
    pub panics: u64,
    /// Links that did not come about, by reason; only reasons that were seen.
    pub handshake_failures: BTreeMap<&'static str, u64>,
    /// The machine.
    pub machine: Machine,
}

impl Counters {
    /// Counts a link that did not come about. `reason` is a label of the program, never anything a peer chose.
    pub fn handshake_failed(&self, reason: &'static str) {
        *self.handshake_failures.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Takes over what became of loops so far.
    pub fn set_loops(&self, loops: &Loops) {
        *self.loops.lock().unwrap_or_else(PoisonError::into_inner) = (loops.total(), loops.losing());
    }

    fn losing(&self) -> Vec<Spot> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn handshake_failures(&self) -> BTreeMap<&'static str, u64> {
        let mut failures = self.handshake_failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(turned_away) = self.turned_away.get() {
            failures.extend(TURNED_AWAY_LABELS.into_iter().zip([turned_away.refused(), turned_away.asked_to_retry()]));
        }
        failures
    }

    fn read(&self, machine: Machine) -> Traffic {
        let (loops, losing) = self.loops.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Traffic {
            received: self.received.load(Ordering::Relaxed),
            forwarded: self.forwarded.load(Ordering::Relaxed),
            delay_queue: self.delay_queue.load(Ordering::Relaxed),
            drops: self.drops.snapshot(),
            loops,
            losing,
            panics: self.panics.load(Ordering::Relaxed),
            handshake_failures: self.handshake_failures(),
            machine,
        }
    }
}

/// The counters as others may see them.
#[derive(Debug)]
pub struct Published {
    counters: Arc<Counters>,
    /// A gateway's snapshot of the last epoch.
    frozen: Option<Mutex<Traffic>>,
    log_failing: AtomicBool,
}

impl Published {
    /// `by_epoch` at a gateway, which shows `machine` until its first epoch ends.
    pub fn new(counters: Arc<Counters>, by_epoch: bool, machine: Machine) -> Self {
        let nothing = Traffic { drops: Drops::default().snapshot(), machine, ..Traffic::default() };
        Self { counters, frozen: by_epoch.then(|| Mutex::new(nothing)), log_failing: AtomicBool::new(false) }
    }

    /// An epoch has ended.
    pub fn epoch_ended(&self, machine: Machine) {
        if let Some(frozen) = &self.frozen {
            *frozen.lock().unwrap_or_else(PoisonError::into_inner) = self.counters.read(machine);
        }
    }

    /// Packets dropped until now because their tags could not be written.
    pub fn log_failures(&self) -> u64 {
        self.counters.drops.of(DropReason::ReplayLogFailed)
    }

    /// Replay tags cannot be written (or can again). Clients have no part in that, so a gateway says it at once.
    pub fn set_log_failing(&self, failing: bool) {
        self.log_failing.store(failing, Ordering::Relaxed);
    }

    /// Whether replay tags cannot be written.
    pub fn is_log_failing(&self) -> bool {
        self.log_failing.load(Ordering::Relaxed)
    }

    /// What may be shown now. `machine` is asked only if it may be shown.
    pub fn read(&self, machine: impl FnOnce() -> Machine) -> Traffic {
        match &self.frozen {
            Some(frozen) => frozen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.counters.read(machine()),
        }
    }

    /// Where loops are lost, as it may be shown now.
    pub fn losing(&self) -> Vec<Spot> {
        match &self.frozen {
            Some(frozen) => frozen.lock().unwrap_or_else(PoisonError::into_inner).losing.clone(),
            None => self.counters.losing(),
        }
    }

    /// A thread that hangs at `now` (monotonic), if there is one.
    pub fn hung(&self, now: Duration) -> Option<&'static str> {
        self.counters.hearts.silent(now)
    }

    /// Whether these are snapshots by epoch.
    pub fn is_by_epoch(&self) -> bool {
        self.frozen.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(resident: u64) -> Machine {
        Machine { process: ProcessState { resident, ..ProcessState::default() }, replay_fill: 0.5 }
    }

    #[test]
    fn a_gateway_shows_nothing_newer_than_the_last_epoch() {
        let counters = Arc::new(Counters::default());
        let gateway = Published::new(Arc::clone(&counters), true, machine(1));
        let mix = Published::new(Arc::clone(&counters), false, machine(1));
        counters.received.store(5, Ordering::Relaxed);
        counters.drops.count(DropReason::Replayed);
        counters.handshake_failed("tls");
        counters.panics.store(1, Ordering::Relaxed);
        let now = || machine(9);
        assert_eq!((gateway.read(now).received, mix.read(now).received), (0, 5));
        assert_eq!(gateway.read(now).drops.len(), DropReason::ALL.len());
        assert_eq!((gateway.read(now).panics, gateway.read(now).handshake_failures.len()), (0, 0));
        assert_eq!((gateway.read(now).machine, mix.read(now).machine), (machine(1), machine(9)));
        gateway.epoch_ended(machine(7));
        let frozen = gateway.read(now);
        counters.received.store(6, Ordering::Relaxed);
        counters.handshake_failed("tls");
        assert_eq!(gateway.read(now), frozen);
        assert_eq!((frozen.received, frozen.machine, frozen.handshake_failures.get("tls")), (5, machine(7), Some(&1)));
        assert_eq!(mix.read(now).handshake_failures.get("tls"), Some(&2));
    }
}
