//! What a running client says about itself, for `status`, metrics and probers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::{Hash, Identity, UnixMillis};

use super::condition::{Condition, Facts, Judgement};
use crate::anonymity::{self, Anonymity};
use crate::lack::Lack;
use crate::loops::{LoopStatistics, Percentiles};
use crate::mail::{Dispute, Notice, RateClass};
use crate::reach::Reach;
use crate::view::Freshness;

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
    /// Since when the client is connected, or has been without a connection.
    pub since: UnixMillis,
    /// When this was published: times in it are relative to that.
    pub published: UnixMillis,
    /// Name and fingerprint words of the profile's network.
    pub network: (String, String),
    /// Whether gateways answer.
    pub reach: Reach,
    /// Why no document is in force, when none is.
    pub lack: Lack,
    /// Packets given to the link since the start, whatever they carried.
    pub packets_sent: u64,
    /// Packets that came down since the start, whatever they were.
    pub packets_received: u64,
    /// The authorities certified two documents for one epoch: payload has stopped. The folder that holds both.
    pub conflict: Option<PathBuf>,
    /// A gateway handed over a document older than the one held; that it did is all that happened.
    pub rolled_back: bool,
}

impl Snapshot {
    pub(super) fn new(class: RateClass, network: &NetworkFile, now: UnixMillis) -> Self {
        Self {
            since: now,
            published: now,
            network: (network.name.clone(), network.fingerprint_words()),
            reach: Reach::default(),
            lack: Lack::default(),
            gateway: None,
            trouble: None,
            consensus: None,
            in_force: false,
            loops: LoopStatistics::default(),
            class,
            packets_sent: 0,
            packets_received: 0,
            conflict: None,
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
        let document = Freshness::of(self.consensus.as_deref(), self.published);
        let facts = Facts {
            reach: self.reach,
            trouble: self.trouble.as_deref(),
            document,
            lack: self.lack,
            health: self.loops.health(),
            measured: self.loops.survival().is_some(),
            conflict: self.conflict.as_deref(),
            network: (&self.network.0, &self.network.1),
            now: self.published,
        };
        let Judgement { condition: state, cause, next } = facts.judge();
        let (network, fingerprint) = self.network.clone();
        Status {
            connected: self.connected(),
            since: self.since.0,
            document,
            cause: cause.map(str::to_owned),
            next,
            network,
            fingerprint,
            waiting: Vec::new(),
            older_copy: None,
            disputes: Vec::new(),
            notices: Vec::new(),
            test_network: self.consensus.as_ref().is_some_and(|held| held.parameters.anonymity_floor == 0),
            gateway: self.gateway,
            epoch: self.consensus.as_ref().map(|consensus| consensus.epoch.0),
            anonymity_bits: anonymity.map(|anonymity| anonymity.bits),
            hiding_among: anonymity.map(|anonymity| anonymity.hiding_among),
            loop_survival: self.loops.survival(),
            loops_lost_lately: self.loops.lost_lately(),
            requests: 0,
            queue,
            state,
            class: self.class,
            loops_sent: self.loops.sent_total(),
            loops_returned: self.loops.returned_total(),
            round_trip_p50_ms: milliseconds(|all| all.p50),
            round_trip_p90_ms: milliseconds(|all| all.p90),
            round_trip_p99_ms: milliseconds(|all| all.p99),
            consensus_valid_until: self.consensus.as_ref().map(|consensus| consensus.valid_until.0),
            consensus_signatures: self.consensus.as_ref().map(|consensus| consensus.signatures()),
            trouble: self.trouble.clone(),
            conflict: self.conflict.is_some(),
            conflict_files: self.conflict.clone(),
            rolled_back: self.rolled_back,
        }
    }
}

/// What the user of an older copy can do.
pub const OLDER_COPY_NEXT: &str =
    "use the newer one; if it is lost, make a new profile and ask your contacts to add it";

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
    /// How many of the newest test loops were lost, and of how many: what `state` says of loops is judged by these.
    #[serde(default)]
    pub loops_lost_lately: (usize, usize),
    /// Strangers and groups that wait to be accepted or blocked.
    #[serde(default)]
    pub requests: u64,
    /// Own messages that are not stored yet.
    pub queue: u64,
    /// One word for all of it.
    pub state: Condition,
    /// Since when it is connected, or has been without a connection, in Unix ms.
    pub since: u64,
    /// Whether the consensus held is of this epoch, of one before, over, or not there.
    pub document: Freshness,
    /// Why the state is not good, in a word for programs; `null` when it is.
    #[serde(default)]
    pub cause: Option<String>,
    /// What to do next, for people; empty when the state is good.
    pub next: String,
    /// Name of the profile's network.
    pub network: String,
    /// Its fingerprint words.
    pub fingerprint: String,
    /// Contacts whose card is looked for: messages to them wait.
    pub waiting: Vec<WaitingLine>,
    /// The conversation that proved this profile to be an older copy of one that went on: it sends nothing any more.
    pub older_copy: Option<String>,
    /// Contacts who hold documents of the consensus that no chain holds beside those held here.
    #[serde(default)]
    pub disputes: Vec<DisputeLine>,
    /// What the user was told and has not seen, oldest first.
    #[serde(default)]
    pub notices: Vec<NoticeLine>,
    /// The network has no anonymity floor: there is nobody to hide among, and nothing to measure.
    pub test_network: bool,
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
    /// The authorities certified two documents for one epoch or height: payload has stopped. The proof is kept.
    #[serde(default)]
    pub conflict: bool,
    /// The folder in which they lie, or `null`.
    pub conflict_files: Option<PathBuf>,
    /// Since the start, a gateway handed over a certified document older than the one held. It was refused.
    #[serde(default)]
    pub rolled_back: bool,
}

impl Status {
    /// With what the profile says: nothing is good while a contact's network differs, or when this profile is an older copy
    /// of one that went on.
    pub(super) fn with(self, disputes: Vec<DisputeLine>, older_copy: Option<String>) -> Self {
        let worse = match (&older_copy, disputes.first()) {
            (Some(_), _) => Some(("older_copy", OLDER_COPY_NEXT.to_owned())),
            (None, Some(first)) => Some(("contact_differs", first.advice().1)),
            (None, None) => None,
        };
        let status = Self { disputes, older_copy, ..self };
        match (status.state, worse) {
            (Condition::Starting | Condition::Good, Some((cause, next))) => {
                Self { state: Condition::Warn, cause: Some(cause.to_owned()), next, ..status }
            }
            _ => status,
        }
    }
}

impl From<Dispute> for DisputeLine {
    fn from(Dispute { with, height, theirs, ours, since }: Dispute) -> Self {
        Self { name: with, height, theirs, ours, since: since.0 }
    }
}

/// A contact whose card is not found yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct WaitingLine {
    /// The contact's name, else the address.
    pub name: String,
    /// Since when a message waits, in Unix ms.
    pub since: u64,
}

/// Something that the user was told and may have missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct NoticeLine {
    /// Its number, for the call `notices_seen`.
    pub number: u64,
    /// A word for programs, as of a warning.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// When it was said, in Unix ms.
    pub at: u64,
}

impl From<Notice> for NoticeLine {
    fn from(Notice { number, code, message, at }: Notice) -> Self {
        Self { number, code, message, at: at.0 }
    }
}

/// A contact whose network differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DisputeLine {
    /// The contact's name, else the address.
    pub name: String,
    /// Height of the contact's document.
    pub height: u64,
    /// Its hash.
    pub theirs: Hash,
    /// Hash of the document of that height held here, or `null` if none was.
    pub ours: Option<Hash>,
    /// Since when that is known, in Unix ms.
    pub since: u64,
}

impl DisputeLine {
    /// What is wrong, and what to do.
    #[must_use]
    pub fn advice(&self) -> (String, String) {
        let Self { name, height, theirs, ours, .. } = self;
        let ours = ours.map_or_else(|| "none".to_owned(), |hash| hash.to_string());
        let what = format!(
            "{name}'s network differs from yours at document {height} ({name}: {theirs}, you: {ours}): one of you is shown \
             a forged network, or {name} is not honest"
        );
        let next = format!(
            "call {name} and compare what both of you see here, and the words in shoal status; until it is explained, \
             write nothing that must stay hidden. The proof, if there is one, comes by itself and stops both"
        );
        (what, next)
    }
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
