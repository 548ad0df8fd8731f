//! Why a packet or frame was dropped: a closed list, counted once, at the place of the drop.
//!
//! A reason says what was wrong with bytes or with this node, never whose they were.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+) => {
        /// Why something was dropped. The label is the value of `reason` in `shoal_packets_dropped_total`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Label in metrics and status: lower case, never changes once published.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

reasons! {
    /// Not exactly one packet long; the link it came on is closed.
    WrongLength => "wrong_length",
    /// Alpha is not the canonical encoding of a point of large order.
    BadAlpha => "bad_alpha",
    /// The header MAC fits none of the keys accepted now: damaged, not for this node, or too early or late.
    BadMac => "bad_mac",
    /// This node holds no key that is accepted now.
    NoMixKey => "no_mix_key",
    /// The replay tag was seen before under this mix key.
    Replayed => "replayed",
    /// The replay set of the mix key is at its capacity: nothing is evicted, new packets are refused.
    ReplaySetFull => "replay_set_full",
    /// The memory of the key is more than half full, and the neighbour the packet (or envelope) came from has had its portion.
    PortionTaken => "portion_taken",
    /// The replay tag could not be written to the log, so the packet must not leave.
    ReplayLogFailed => "replay_log_failed",
    /// The payload or the routing information could not be unwrapped.
    BadPayload => "bad_payload",
    /// A Sphinx version other than 260.
    WrongVersion => "wrong_version",
    /// A mixing delay above the cap.
    DelayOverCap => "delay_over_cap",
    /// There is no consensus to look the next hop up in.
    NoConsensus => "no_consensus",
    /// The next hop is not a node of the consensus.
    UnknownNextHop => "unknown_next_hop",
    /// The topology does not allow this step.
    ForbiddenNextHop => "forbidden_next_hop",
    /// A final packet at a node that is nobody's final hop, and not one of its own loops.
    UnexpectedFinal => "unexpected_final",
    /// The channel to the unwrap workers is full: more arrives than this machine can unwrap.
    WorkerQueueFull => "worker_queue_full",
    /// The delay queue is at its capacity.
    DelayQueueFull => "delay_queue_full",
    /// The queue of the outgoing link is full.
    LinkQueueFull => "link_queue_full",
    /// There is no link to the next hop at the moment.
    LinkDown => "link_down",
    /// No client of this gateway has the session a reply names.
    NoSession => "no_session",
    /// The queue to the client is full: it reads too slowly.
    SessionQueueFull => "session_queue_full",
    /// The payload's integrity check failed at the final hop.
    TamperedPayload => "tampered_payload",
    /// The courier's queue is full.
    CourierQueueFull => "courier_queue_full",
    /// The plaintext at the courier is no request.
    MalformedRequest => "malformed_request",
    /// The SURB of a request cannot be used.
    BadSurb => "bad_surb",
    /// The envelope names replicas that do not exist or does not open.
    BadEnvelope => "bad_envelope",
    /// An ephemeral key came a second time under one envelope key.
    RepeatedEnvelope => "repeated_envelope",
    /// A frame on a store link that is no store frame, or of the wrong length.
    BadStoreFrame => "bad_store_frame",
    /// The queue of a link to another store is full.
    StoreQueueFull => "store_queue_full",
    /// An answer from another store to no open ticket: too late, or never asked for.
    LateAnswer => "late_answer",
    /// This node is stopping.
    Stopping => "stopping",
    /// The code that handled it panicked; the panic was contained.
    Internal => "internal",
}

/// One counter a reason. Shared by all threads; counting never blocks.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    /// Counts one drop.
    pub fn count(&self, reason: DropReason) {
        self.count_many(reason, 1);
    }

    /// Counts `n` drops of one reason.
    pub fn count_many(&self, reason: DropReason, n: u64) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Drops of one reason since the start.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// All reasons with their counts, zeros included, in the order of declaration.
    pub fn snapshot(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL.iter().map(|reason| (*reason, self.of(*reason))).collect()
    }

    /// Drops of all reasons.
    pub fn total(&self) -> u64 {
        self.snapshot().iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_distinct_and_plain() {
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        assert!(labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }

    #[test]
    fn each_reason_has_its_own_counter() {
        let drops = Drops::default();
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            drops.count_many(*reason, n as u64);
        }
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(drops.of(*reason), n as u64);
        }
        drops.count(DropReason::WrongLength);
        assert_eq!(drops.of(DropReason::WrongLength), 1);
    }
}
