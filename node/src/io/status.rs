//! What the node says about itself: `status`, readiness and metrics. Reads, never acts.

use crate::answers::{self, Why};
use crate::freshness::{self, Freshness};
use crate::io::accept::NodeLinks;
use crate::io::counters::{Machine, Published, Traffic};
use crate::io::doctor_machine::Allowed;
use crate::io::fetch_state::FetchState;
use crate::io::host::Clock;
use crate::io::lateness::Lateness;
use crate::io::links::LinkSender;
use crate::io::live_keys::{KeySnapshot, LiveKeys};
use crate::io::metrics::{Gauges, Metrics};
use crate::io::phase::Phase;
use crate::io::publish::PublishState;
use crate::io::store_moves::StoreMoves;
use crate::io::store_seam::StoreReport;
use crate::losses;
use anyhow::Result;
use serde_json::{Map, Value, json};
use shoal_protocol::consensus::{Suspect, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::{Identity, Role};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Everything the node can be asked about.
pub struct Status {
    /// This node.
    pub identity: Identity,
    /// Its role.
    pub role: Role,
    /// Whether the store is to go.
    pub leaving: Arc<AtomicBool>,
    /// Epochs.
    pub schedule: Schedule,
    /// Time.
    pub clock: Clock,
    /// The newest consensus.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// How fetching goes.
    pub fetch: watch::Receiver<FetchState>,
    /// How publishing goes.
    pub publish: watch::Receiver<PublishState>,
    /// Keys held.
    pub keys: watch::Receiver<KeySnapshot>,
    /// Keys with their replay sets.
    pub live_keys: Arc<LiveKeys>,
    /// Outgoing links.
    pub links: LinkSender,
    /// Incoming links.
    pub node_links: Arc<NodeLinks>,
    /// Counters.
    pub published: Arc<Published>,
    /// Lateness.
    pub lateness: Arc<Lateness>,
    /// The store part; stores only.
    pub store: Option<Arc<StoreReport>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
    /// Identity key file.
    pub identity_file: PathBuf,
    /// Runtime directory.
    pub runtime_dir: PathBuf,
    /// Where the store is kept, and whether it moves; stores only.
    pub moves: Option<Arc<StoreMoves>>,
}

impl Status {
    fn is_stale(&self) -> bool {
        let held = self.held();
        let judged = held.map(|held| freshness::judge(&self.schedule, held.epoch, self.clock.wall()));
        matches!(judged, Some(Freshness::Stale { .. }))
    }

    /// A thread that hangs, if there is one.
    pub fn hung(&self) -> Option<&'static str> {
        self.published.hung(self.clock.monotonic())
    }

    fn traffic(&self) -> Traffic {
        self.published.read(|| Machine::read(&self.live_keys))
    }

    /// The nodes that this one sends to.
    pub(super) fn next_hops(&self) -> BTreeSet<Identity> {
        self.held().map_or_else(BTreeSet::new, |held| crate::view::next_hops(&held, &self.identity))
    }

    /// What the newest document remembers of losses at this node.
    pub(super) fn suspect(&self) -> Option<Suspect> {
        self.held()?.suspect(&self.identity).cloned()
    }

    /// `shoal-node status --json`.
    pub fn to_json(&self) -> Value {
        let traffic = self.traffic();
        let consensus = self.held();
        let me = consensus.as_deref().and_then(|consensus| consensus.node(&self.identity));
        let health = self.health();
        let states = self.links.states();
        let dropped: Map<String, Value> =
            traffic.drops.iter().map(|(reason, count)| (reason.label().to_owned(), json!(count))).collect();
        let publish = self.publish.borrow().clone();
        // those that name this store: while there are any, somebody may ask it for a box
        let generations: Option<Vec<u32>> =
            consensus.as_deref().zip(me.and_then(|me| me.store_index)).map(|(held, index)| {
                let naming = held.generations.iter().filter(|generation| generation.stores.contains(&index));
                naming.map(|generation| generation.number).collect()
            });
        let mut status = json!({
            "identity": self.identity.to_string(),
            "role": self.role.to_string(),
            "layer": me.and_then(|me| me.layer).map(|layer| layer.to_string()),
            "epoch": consensus.as_deref().map(|consensus| consensus.epoch.0),
            "in_consensus": me.is_some(),
            "since_epoch": me.map(|me| me.since.0),
            "standby": me.is_some_and(|me| me.standby),
            "leaving": self.leaving.load(Ordering::Relaxed),
            "generations": generations,
            "standing": health.standing.label(),
            "ready": health.standing.is_ready(),
            "problems": health.problems,
            "hindered_by": health.hindrances.iter().map(|hindrance| hindrance.label()).collect::<Vec<_>>(),
            "stale": self.is_stale(),
            "warnings": health.warnings,
            "contradiction": self.contradiction(),
            "phase": format!("{:?}", *self.phase.borrow()).to_lowercase(),
            "links": {
                "outgoing": states.iter().map(|(peer, up)| json!({"identity": peer.to_string(), "up": up})).collect::<Vec<_>>(),
                "outgoing_up": states.iter().filter(|(_, up)| *up).count(),
                "outgoing_wanted": states.len(),
                "incoming": self.node_links.count(),
            },
            "queue": traffic.delay_queue,
            "received": traffic.received,
            "forwarded": traffic.forwarded,
            "dropped": dropped,
            "loops": {"sent": traffic.loops.sent, "returned": traffic.loops.returned, "lost": traffic.loops.lost},
            "losing": losses::to_json(&traffic.losing, &self.next_hops()),
            "demotion": self.suspect().as_ref().map(losses::suspect_to_json),
            "by_epoch": self.published.is_by_epoch(),
            "allowed": Allowed::read(),
            "descriptor": describe_descriptor(&publish, self.authorities(consensus.as_deref())),
            "consensus_problem": self.fetch.borrow().problem.clone(),
        });
        if let (Some(fields), Some(me)) = (status.as_object_mut(), me)
            && !self.keys_match(me)
        {
            fields.insert("out_until_epoch".into(), json!(self.out_until(me).map(|epoch| epoch.0)));
        }
        if let (Some(fields), Some(store)) = (status.as_object_mut(), &self.store) {
            let ((wanted, up), (boxes, bytes)) = (store.links(), store.size());
            let round = crate::io::metrics::two_digits;
            fields.insert(
                "store".into(),
                json!({
                    "open": store.is_open(), "links_wanted": wanted, "links_up": up, "boxes": round(boxes), "bytes": round(bytes),
                    "engine": self.moves.as_ref().map(|moves| moves.now().engine.to_string()),
                    "move": self.moves.as_ref().map(|moves| moves.mover().progress().state),
                }),
            );
        }
        if let (Some(fields), false) = (status.as_object_mut(), self.published.is_by_epoch()) {
            fields.insert("worst_lateness_ms".into(), json!(self.lateness.worst().as_secs_f64() * 1_000.0));
        }
        status
    }

    /// The descriptor published last.
    pub fn descriptor(&self) -> Value {
        let publish = self.publish.borrow().clone();
        let mut described = describe_descriptor(&publish, self.authorities(self.held().as_deref()));
        if let Some(fields) = described.as_object_mut() {
            fields.insert("descriptor".into(), json!(hex::encode(&publish.descriptor)));
        }
        described
    }

    /// `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        let traffic = self.traffic();
        let consensus = self.held();
        let keys = self.keys.borrow();
        let current = self.schedule.epoch_at(self.clock.wall());
        let states = self.links.states();
        let up = states.iter().filter(|(_, up)| *up).count();
        let gauges = Gauges {
            consensus_epoch: consensus.as_deref().map(|consensus| consensus.epoch.0),
            valid_until_ms: consensus.as_deref().map_or(0, |consensus| consensus.valid_until.0),
            signatures: consensus.as_deref().map_or(0, VerifiedConsensus::signatures),
            in_consensus: consensus.as_deref().is_some_and(|consensus| consensus.node(&self.identity).is_some()),
            outgoing: (up, states.len() - up),
            incoming: self.node_links.count(),
            key_expiry_ms: keys.erased_at.get(&current).map_or(0, |erased| erased.0),
            stale: self.is_stale(),
            contradiction: self.contradiction().is_some(),
            store: self.store.as_ref().map_or((0, 0), |store| store.size()),
        };
        drop(keys);
        self.metrics.render(&traffic, &gauges)
    }
}

/// Of the descriptor published last: where it says that the node is, and what authorities make of it.
fn describe_descriptor(publish: &PublishState, authorities: usize) -> Value {
    let reasons: Map<String, Value> = publish
        .answers
        .iter()
        .filter_map(|(authority, answer)| Some((authority.to_string(), json!(answer.reason()?))))
        .collect();
    let count = |why| answers::count(&publish.answers, why);
    json!({
        "published_ms": publish.published.0,
        "covers_epoch": publish.covers.0,
        "address": publish.address,
        "addresses": publish.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "problem": publish.problem,
        "accepted_by": answers::accepted(&publish.answers),
        "needed": answers::needed(authorities),
        "authorities": authorities,
        "refusals": reasons,
        "refused_for": {
            "unreached": count(Why::Unreached),
            "clock": count(Why::Clock),
            "not_admitted": count(Why::NotAdmitted),
            "silent": count(Why::Silent),
            "other": count(Why::Other),
        },
    })
}
