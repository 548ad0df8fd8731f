//! What a running client says about itself, for `status`, metrics and probers.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::{Identity, UnixMillis};

use crate::anonymity::{self, Anonymity};
use crate::loops::{Health, LoopStatistics, Percentiles};
use crate::mail::RateClass;

/// The client's state at one moment; republished when something changes and about once a second.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The gateway that the client is linked to.
    pub gateway: Option<Identity>,
    /// Why the last attempt to reach a gateway failed, while there is no link.
    pub trouble: Option<String>,
    /// The newest consensus held.
    pub consensus: Option<Arc<VerifiedConsensus>>,
    /// Whether that consensus may be used now.
    pub in_force: bool,
    /// The measuring decoys.
    pub loops: LoopStatistics,
    /// The rate class.
    pub class: RateClass,
    /// Packets given to the link since the start, whatever they carried.
    pub packets_sent: u64,
    /// Packets that came down since the start, whatever they were.
    pub packets_received: u64,
    /// The authorities certified two documents for one epoch: payload has stopped.
    pub conflict: bool,
    /// A gateway handed over a document older than the one held; that it did is all that happened.
    pub rolled_back: bool,
}

impl Snapshot {
    pub(super) fn new(class: RateClass) -> Self {
        Self {
            gateway: None,
            trouble: None,
            consensus: None,
            in_force: false,
            loops: LoopStatistics::default(),
            class,
            packets_sent: 0,
            packets_received: 0,
            conflict: false,
            rolled_back: false,
        }
    }

    /// Whether packets go: a link stands and a consensus is in force.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.gateway.is_some() && self.in_force
    }

    /// The anonymity now; `None` while nothing is known about the network.
    #[must_use]
    pub fn anonymity(&self) -> Option<Anonymity> {
        self.consensus.as_ref().map(|consensus| anonymity::now(consensus, self.class, None))
    }

    /// The JSON of `status`. `queue`: own messages that are not stored yet.
    #[must_use]
    pub fn status(&self, queue: u64) -> Status {
        let anonymity = self.anonymity();
        let milliseconds = |of: fn(&Percentiles) -> Duration| {
            self.loops.percentiles().map(|all| u64::try_from(of(&all).as_millis()).unwrap_or(u64::MAX))
        };
        Status {
            connected: self.connected(),
            gateway: self.gateway,
            epoch: self.consensus.as_ref().map(|consensus| consensus.epoch.0),
            anonymity_bits: anonymity.map(|anonymity| anonymity.bits),
            hiding_among: anonymity.map(|anonymity| anonymity.hiding_among),
            loop_survival: self.loops.survival(),
            queue,
            state: self.loops.health(),
            class: self.class,
            loops_sent: self.loops.sent_total(),
            loops_returned: self.loops.returned_total(),
            round_trip_p50_ms: milliseconds(|all| all.p50),
            round_trip_p90_ms: milliseconds(|all| all.p90),
            round_trip_p99_ms: milliseconds(|all| all.p99),
            consensus_valid_until: self.consensus.as_ref().map(|consensus| consensus.valid_until.0),
            consensus_signatures: self.consensus.as_ref().map(|consensus| consensus.signatures()),
            trouble: self.trouble.clone(),
            conflict: self.conflict,
            rolled_back: self.rolled_back,
        }
    }
}

/// `status --json`.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct Status {
    /// Whether packets go: a link stands and a consensus is in force.
    pub connected: bool,
    /// Identity of the gateway the client is linked to.
    pub gateway: Option<Identity>,
    /// Epoch of the newest consensus held.
    pub epoch: Option<u64>,
    /// At most so many bits of sender anonymity now.
    pub anonymity_bits: Option<f64>,
    /// At most about so many senders to hide among.
    pub hiding_among: Option<u64>,
    /// Share of the recent measuring decoys that came back, 0 to 1.
    pub loop_survival: Option<f64>,
    /// Own messages that are not stored yet.
    pub queue: u64,
    /// `good`, `warn` or `pause`.
    pub state: Health,
    /// `normal` or `low`.
    pub class: RateClass,
    /// Measuring decoys sent since the start.
    pub loops_sent: u64,
    /// Measuring decoys that came back since the start.
    pub loops_returned: u64,
    /// Half of the recent round trips were faster, in ms.
    pub round_trip_p50_ms: Option<u64>,
    /// Nine of ten were faster, in ms.
    pub round_trip_p90_ms: Option<u64>,
    /// 99 of 100 were faster, in ms.
    pub round_trip_p99_ms: Option<u64>,
    /// Until when the consensus held may be used, in Unix ms.
    pub consensus_valid_until: Option<u64>,
    /// How many authorities certified it.
    pub consensus_signatures: Option<usize>,
    /// Why there is no link, in words.
    pub trouble: Option<String>,
    /// The authorities certified two documents for one epoch: payload has stopped, for good. Both are kept.
    #[serde(default)]
    pub conflict: bool,
    /// Since the start, a gateway handed over a certified document older than the one held. It was refused.
    #[serde(default)]
    pub rolled_back: bool,
}

/// How one measured decoy of a prober fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoopReport {
    /// The nodes it was to pass: gateway, L1, L2, L3, courier, L1, L2, L3, gateway.
    pub nodes: Vec<Identity>,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Round trip from departure; `None`: it did not come back by its deadline.
    pub round_trip: Option<Duration>,
}
