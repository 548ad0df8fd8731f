//! What the node says about itself: `status`, readiness and metrics. Reads, never acts.

use crate::freshness::{self, Freshness};
use crate::io::accept::NodeLinks;
use crate::io::counters::{Machine, Published, Traffic};
use crate::io::delay_thread::Lateness;
use crate::io::directory::FetchState;
use crate::io::host::Clock;
use crate::io::links::LinkSender;
use crate::io::live_keys::{KeySnapshot, LiveKeys};
use crate::io::metrics::{Gauges, Metrics};
use crate::io::phase::Phase;
use crate::io::publish::PublishState;
use crate::io::store_seam::StoreReport;
use anyhow::Result;
use serde_json::{Map, Value, json};
use shoal_protocol::consensus::{NodeEntry, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::{Epoch, Identity, Role};
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
    /// Store directory.
    pub store_dir: PathBuf,
}

impl Status {
    fn held(&self) -> Option<Arc<VerifiedConsensus>> {
        self.consensus.borrow().clone()
    }

    /// What does not keep the node from serving, but somebody should look at.
    pub fn warnings(&self) -> Vec<String> {
        let Some(consensus) = self.held() else { return Vec::new() };
        match freshness::judge(&self.schedule, consensus.epoch, self.clock.wall()) {
            Freshness::Fresh => Vec::new(),
            Freshness::Stale { missed } => {
                let left = consensus.valid_until.since(self.clock.wall()).as_secs();
                vec![format!(
                    "stale: no consensus since that of epoch {}, {missed} missed; traffic goes on for another {left} s",
                    consensus.epoch
                )]
            }
        }
    }

    fn contradiction(&self) -> Option<String> {
        self.fetch.borrow().contradiction.clone()
    }

    /// Why the node is not ready; empty when it is.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(contradiction) = self.contradiction() {
            return vec![contradiction];
        }
        match *self.phase.borrow() {
            Phase::Running => {}
            Phase::Draining => reasons.push("draining".to_owned()),
            Phase::Stopping => reasons.push("stopping".to_owned()),
        }
        let Some(consensus) = self.held() else {
            let problem = self.fetch.borrow().problem.clone().unwrap_or_else(|| "not fetched yet".to_owned());
            reasons.push(format!("no current consensus: {problem}"));
            return reasons;
        };
        let Some(me) = consensus.node(&self.identity) else {
            reasons.push(self.why_not_listed());
            return reasons;
        };
        if !self.keys_match(me) {
            let until = self.out_until(me).map_or("a later epoch".to_owned(), |epoch| format!("epoch {epoch}"));
            reasons.push(format!("the consensus lists keys that this node no longer holds; out until {until}"));
        }
        if me.standby {
            // nothing is asked of a node that stands by
            return reasons;
        }
        // links of the document before stay up for the grace time; nobody misses one that is down
        let wanted = crate::view::next_hops(&consensus, &self.identity);
        let mut states = self.links.states();
        states.retain(|(peer, _)| wanted.contains(peer));
        let down = states.iter().filter(|(_, up)| !up).count();
        if states.is_empty() && !wanted.is_empty() {
            reasons.push("no link is up yet".to_owned());
        }
        if down > 0 {
            reasons.push(format!("{down} of {} links to next hops are down", states.len()));
        }
        if let Some(store) = &self.store {
            let (wanted, up) = store.links();
            let others = consensus.stores().filter(|node| node.identity != self.identity).count() as u64;
            if !store.is_open() {
                reasons.push("the store is not open".to_owned());
            }
            if wanted < others || up < wanted {
                reasons.push(format!("{up} of {others} links to other stores are up"));
            }
        }
        reasons
    }

    fn why_not_listed(&self) -> String {
        let publish = self.publish.borrow();
        let answers: Vec<&str> = publish.refusals.values().map(String::as_str).collect();
        let (accepted, authorities) = (publish.accepted, publish.authorities);
        if answers.is_empty() {
            format!(
                "not in the consensus; accepted by {accepted} of {authorities} authorities, waiting for the next document"
            )
        } else {
            format!("not in the consensus; accepted by {accepted} of {authorities} authorities: {}", answers.join("; "))
        }
    }

    fn keys_match(&self, me: &NodeEntry) -> bool {
        let current = self.schedule.epoch_at(self.clock.wall());
        // the next document is here a little before its epoch, and lists no key for this one
        let of = me.mix_keys.first().map_or(current, |(first, _)| current.max(*first));
        let keys = self.keys.borrow();
        me.mix_key(of).is_some_and(|key| keys.mix.get(&of) == Some(key))
    }

    /// First epoch from which the listed keys are ours again.
    fn out_until(&self, me: &NodeEntry) -> Option<Epoch> {
        let keys = self.keys.borrow();
        let current = self.schedule.epoch_at(self.clock.wall());
        let listed = me.mix_keys.iter().filter(|(epoch, _)| *epoch >= current);
        let matching = listed.filter(|(epoch, key)| keys.mix.get(epoch) == Some(key)).map(|(epoch, _)| *epoch);
        // a document made after the newest descriptor lists the new keys
        matching.min().or_else(|| me.mix_keys.last().map(|(epoch, _)| epoch.plus(1)))
    }

    fn traffic(&self) -> Traffic {
        self.published.read(|| Machine::read(&self.live_keys))
    }

    /// `shoal-node status --json`.
    pub fn to_json(&self) -> Value {
        let traffic = self.traffic();
        let consensus = self.held();
        let me = consensus.as_deref().and_then(|consensus| consensus.node(&self.identity));
        let reasons = self.not_ready();
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
            "ready": reasons.is_empty(),
            "problems": reasons,
            "stale": !self.warnings().is_empty(),
            "warnings": self.warnings(),
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
            "by_epoch": self.published.is_by_epoch(),
            "descriptor": {
                "published_ms": publish.published.0,
                "covers_epoch": publish.covers.0,
                "accepted_by": publish.accepted,
                "authorities": publish.authorities,
                "refusals": publish.refusals,
            },
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
                json!({"open": store.is_open(), "links_wanted": wanted, "links_up": up, "boxes": round(boxes), "bytes": round(bytes)}),
            );
        }
        if let (Some(fields), false) = (status.as_object_mut(), self.published.is_by_epoch()) {
            fields.insert("worst_lateness_ms".into(), json!(self.lateness.worst().as_secs_f64() * 1_000.0));
        }
        status
    }

    /// The descriptor published last.
    pub fn descriptor(&self) -> Value {
        let publish = self.publish.borrow();
        json!({
            "descriptor": hex::encode(&publish.descriptor),
            "published_ms": publish.published.0,
            "covers_epoch": publish.covers.0,
            "accepted_by": publish.accepted,
            "authorities": publish.authorities,
        })
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
            stale: !self.warnings().is_empty(),
            contradiction: self.contradiction().is_some(),
            store: self.store.as_ref().map_or((0, 0), |store| store.size()),
        };
        drop(keys);
        self.metrics.render(&traffic, &gauges)
    }
}
