//! What the node says about itself: `status`, `secrets`, readiness and metrics. Reads, never acts.

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
use crate::report;
use anyhow::Result;
use serde_json::{Map, Value, json};
use shoal_protocol::consensus::{NodeEntry, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::{Epoch, Identity, Role, UnixMillis};
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

    /// `shoal-node secrets --json`: every secret held now, where it is, when it is erased, what it would tell.
    pub fn secrets(&self) -> Value {
        let keys = self.keys.borrow();
        let run = &self.runtime_dir;
        let mut secrets = vec![json!({
            "secret": "identity key",
            "where": [self.identity_file.display().to_string(), "memory"],
            "erased": "never, until the operator deletes it",
            "tells": "who holds it can pose as this node from now on; it opens no packet of the past",
        })];
        for (epoch, erased) in &keys.erased_at {
            let at = describe(*erased);
            let file = run.join(format!("mix-{epoch}.key")).display().to_string();
            secrets.push(json!({
                "secret": format!("mix key of epoch {epoch}"),
                "where": [file, "memory"],
                "erased": at, "erased_at_ms": erased.0,
                "tells": "one layer of the packets of that epoch that someone recorded on this node's links: their next hop and delay; not sender, content or receiver",
            }));
            if keys.envelope.contains_key(epoch) {
                secrets.push(json!({
                    "secret": format!("tags of the envelopes of epoch {epoch}"),
                    "where": [run.join(format!("mix-{epoch}.seen")).display().to_string(), "memory"],
                    "erased": at, "erased_at_ms": erased.0,
                    "tells": "how many envelopes came; with the envelope key, whether a given envelope was among them",
                }));
                secrets.push(json!({
                    "secret": format!("envelope key of epoch {epoch}"),
                    "where": [run.join(format!("mix-{epoch}.key")).display().to_string(), "memory"],
                    "erased": at, "erased_at_ms": erased.0,
                    "tells": "the box ids and operations in recorded envelopes of that epoch sealed to this store; bodies stay sealed",
                }));
            }
            secrets.push(json!({
                "secret": format!("replay tags of epoch {epoch}"),
                "where": [run.join(format!("mix-{epoch}.replay")).display().to_string(), "memory"],
                "erased": at, "erased_at_ms": erased.0,
                "tells": "how many packets came; with the mix key, whether a given packet was among them",
            }));
        }
        let per_role = match self.role {
            Role::Gateway => vec![json!({
                "secret": "sessions of connected clients", "where": ["memory"],
                "erased": "when the client's link ends; its session number some seconds later, when the allowance it may send is full again",
                "tells": "which addresses are connected now; not what they do",
            })],
            Role::Mix => vec![json!({
                "secret": "packets in the delay queue", "where": ["memory"], "erased": "within seconds, when they leave",
                "tells": "order of arrival of the packets that wait at that moment",
            })],
            Role::Store => vec![
                json!({
                    "secret": "boxes and inboxes", "where": [self.store_dir.display().to_string()],
                    "erased": "after the retention time",
                    "tells": "random-looking ids and bodies; nothing about who wrote or reads them",
                }),
                json!({
                    "secret": "SURBs of the requests in hand", "where": ["memory"],
                    "erased": "one service time after the request came, when its reply leaves",
                    "tells": "of the requests of that moment: the first mix of each reply's way, and the means to send that one reply; not who waits for it",
                }),
                json!({
                    "secret": "envelopes being answered", "where": ["memory"],
                    "erased": "one answer time after they came, when the answer leaves",
                    "tells": "which boxes are written and read at that moment, through which courier; not by whom",
                }),
            ],
        };
        secrets.extend(per_role);
        secrets.push(json!({
            "secret": "TLS session keys of open links", "where": ["memory"], "erased": "when the link ends",
            "tells": "packets on that link, which are themselves encrypted",
        }));
        json!({ "secrets": secrets })
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

fn describe(at: UnixMillis) -> String {
    format!("at {}, when the grace time of its epoch is over", report::utc(at))
}
