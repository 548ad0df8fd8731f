//! What the status page shows, as data: made from the consensus, the daemons' health answers and the prober's loops.
//! `/status.json` is this, and the page is drawn from it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;
use shoal_protocol::{
    consensus::Consensus,
    types::{Identity, Layer, Role, UnixMillis},
};

use crate::{
    findings::{Finding, findings},
    history::{LoopHistory, Passed, Point, Summary},
    samples::Samples,
};

/// A party whose health can be asked for, because it runs beside this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its name in the test network, such as `mix-4`.
    pub(crate) name: String,
    /// The node's identity; `None` for an authority.
    pub(crate) identity: Option<Identity>,
    /// Its health address.
    pub(crate) metrics: SocketAddr,
}

/// What a party answered when it was last asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Health {
    /// `None`: no connection. Else: whether `/readyz` said 200, and the first line of what it said.
    pub(crate) ready: Option<(bool, String)>,
    /// Its metrics; empty when it gave none.
    pub(crate) samples: Samples,
}

/// The newest certified document, with what can be told of it only by whoever verified it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    /// The document's content.
    pub(crate) consensus: Consensus,
    /// Its hash, as hexadecimal digits.
    pub(crate) hash: String,
    /// How many authorities signed it.
    pub(crate) signatures: usize,
}

/// How a party is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its health address says so.
    Ready,
    /// It answers, and says that it is not ready.
    Waiting,
    /// It does not answer.
    Down,
    /// In the consensus; this page has no way to ask it.
    Listed,
}

impl State {
    /// The word shown.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting => "not ready",
            Self::Down => "no answer",
            Self::Listed => "listed",
        }
    }
}

/// A column of the drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Column {
    /// Gateways.
    Gateways,
    /// Mixes of the first layer.
    L1,
    /// Mixes of the second layer.
    L2,
    /// Mixes of the third layer.
    L3,
    /// Stores.
    Stores,
    /// Mixes without a layer: admitted, and waiting for a place.
    Standby,
    /// Directory authorities.
    Authorities,
}

/// One node or authority.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Party {
    /// Its name in a test network, else the first eight digits of its identity.
    pub(crate) name: String,
    /// Its identity.
    pub(crate) identity: String,
    /// Where it stands.
    pub(crate) column: Column,
    /// How it is doing.
    pub(crate) state: State,
    /// What `/readyz` says when it is not ready; empty otherwise.
    pub(crate) reason: String,
    /// Whether the newest document lists it.
    pub(crate) in_consensus: bool,
    /// Packets it took in, as its metrics say.
    pub(crate) packets_received: Option<u64>,
    /// Packets it dropped, by reason, those that occurred.
    pub(crate) dropped: Vec<(String, u64)>,
    /// Packets that wait in its delay queue now.
    pub(crate) queue: Option<u64>,
    /// Its own loops: sent and returned.
    pub(crate) loops: Option<(u64, u64)>,
    /// Boxes it keeps (stores; rounded by the store itself).
    pub(crate) boxes: Option<u64>,
    /// The prober's loops that were to pass it.
    pub(crate) probed: Option<Passed>,
}

/// The certified document in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Certificate {
    /// The document's epoch.
    pub(crate) epoch: u64,
    /// Its place in the chain of documents.
    pub(crate) height: u64,
    /// Its hash.
    pub(crate) hash: String,
    /// The hash of the document before it.
    pub(crate) previous: String,
    /// Signatures on it.
    pub(crate) signatures: usize,
    /// Signatures it needs: 2f+1.
    pub(crate) needed: usize,
    /// Authorities of the network: 3f+1.
    pub(crate) authorities: usize,
    /// From when it is valid.
    pub(crate) valid_from_ms: u64,
    /// Until when it is valid.
    pub(crate) valid_until_ms: u64,
    /// Number of the current store generation.
    pub(crate) generation: Option<u32>,
}

/// What the probing client knows of its own position.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Probing {
    /// Whether a prober runs at all.
    pub(crate) running: bool,
    /// Whether it is connected to a gateway.
    pub(crate) connected: bool,
    /// Anonymity that a client has now, at most so many bits.
    pub(crate) anonymity_bits: Option<f64>,
    /// The same as a number of clients.
    pub(crate) hiding_among: Option<u64>,
    /// Why there is no connection, in words.
    pub(crate) trouble: Option<String>,
}

/// Everything the page shows at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct View {
    /// The network's name.
    pub(crate) network: String,
    /// The words of its fingerprint.
    pub(crate) fingerprint: String,
    /// When this was made.
    pub(crate) now_ms: u64,
    /// Length of an epoch.
    pub(crate) epoch_ms: u64,
    /// The newest document; `None` before the first.
    pub(crate) certificate: Option<Certificate>,
    /// Every party, sorted by column and name.
    pub(crate) parties: Vec<Party>,
    /// Loops since the start.
    pub(crate) loops: Summary,
    /// Length of a bucket of the series.
    pub(crate) bucket_ms: u64,
    /// Loops over time, oldest first.
    pub(crate) series: Vec<Point>,
    /// The prober's own state.
    pub(crate) probing: Probing,
    /// What there is to say, the worst first.
    pub(crate) findings: Vec<Finding>,
}

/// The unchanging part of a view.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Network {
    /// Its name.
    pub(crate) name: String,
    /// The words of its fingerprint.
    pub(crate) fingerprint: String,
    /// Length of an epoch.
    pub(crate) epoch_ms: u64,
    /// Identities of the authorities, in the network file's order.
    pub(crate) authorities: Vec<Identity>,
}

/// Puts together what is known now. `health` is by the name of the party.
pub(crate) fn view(
    network: &Network,
    document: Option<&Document>,
    known: &[Known],
    health: &BTreeMap<String, Health>,
    history: &LoopHistory,
    probing: &Probing,
    now: UnixMillis,
) -> View {
    let mut parties = nodes(document, known, health);
    parties.extend(authorities(network, known, health));
    for party in &mut parties {
        party.probed = party.identity.parse().ok().and_then(|identity| history.passed(&identity));
    }
    parties.sort_by(|a, b| (a.column, &a.name).cmp(&(b.column, &b.name)));
    let certificate = document.map(certificate);
    let loops = history.summary(now);
    let findings = findings(certificate.as_ref(), &parties, &loops, probing, network.epoch_ms, now);
    View {
        network: network.name.clone(),
        fingerprint: network.fingerprint.clone(),
        now_ms: now.0,
        epoch_ms: network.epoch_ms,
        certificate,
        parties,
        loops,
        bucket_ms: u64::try_from(history.bucket().as_millis()).unwrap_or(u64::MAX),
        series: history.series(now),
        probing: probing.clone(),
        findings,
    }
}

fn certificate(document: &Document) -> Certificate {
    let consensus = &document.consensus;
    let authorities = consensus.authorities.len();
    Certificate {
        epoch: consensus.epoch.0,
        height: consensus.height,
        hash: document.hash.clone(),
        previous: consensus.previous.to_string(),
        signatures: document.signatures,
        needed: authorities - authorities.saturating_sub(1) / 3,
        authorities,
        valid_from_ms: consensus.valid_from.0,
        valid_until_ms: consensus.valid_until.0,
        generation: consensus.current_generation().map(|generation| generation.number),
    }
}

/// The nodes of the document, and those that run here and are not in it.
fn nodes(document: Option<&Document>, known: &[Known], health: &BTreeMap<String, Health>) -> Vec<Party> {
    let known_as = |identity: &Identity| known.iter().find(|known| known.identity.as_ref() == Some(identity));
    let listed = document.map(|document| document.consensus.nodes.as_slice()).unwrap_or_default();
    let mut parties: Vec<Party> = listed
        .iter()
        .map(|entry| {
            let column = match (entry.role, entry.layer) {
                (Role::Gateway, _) => Column::Gateways,
                (Role::Store, _) => Column::Stores,
                (Role::Mix, Some(Layer::L1)) => Column::L1,
                (Role::Mix, Some(Layer::L2)) => Column::L2,
                (Role::Mix, Some(Layer::L3)) => Column::L3,
                (Role::Mix, None) => Column::Standby,
            };
            let identity = entry.identity.to_string();
            match known_as(&entry.identity) {
                Some(known) => party(known.name.clone(), identity, column, health.get(&known.name), true),
                None => {
                    let name = identity.chars().take(8).collect();
                    Party { state: State::Listed, ..party(name, identity, column, None, true) }
                }
            }
        })
        .collect();
    let absent = known.iter().filter_map(|known| {
        let identity = known.identity?;
        let missing = !listed.iter().any(|entry| entry.identity == identity);
        let column = match known.name.split('-').next() {
            Some("gateway") => Column::Gateways,
            Some("store") => Column::Stores,
            _ => Column::Standby,
        };
        missing.then(|| party(known.name.clone(), identity.to_string(), column, health.get(&known.name), false))
    });
    parties.extend(absent);
    parties
}

fn authorities(network: &Network, known: &[Known], health: &BTreeMap<String, Health>) -> Vec<Party> {
    let mut running = known.iter().filter(|known| known.identity.is_none());
    network
        .authorities
        .iter()
        .map(|identity| {
            let identity = identity.to_string();
            match running.next() {
                Some(known) => party(known.name.clone(), identity, Column::Authorities, health.get(&known.name), true),
                None => {
                    let name = identity.chars().take(8).collect();
                    Party { state: State::Listed, ..party(name, identity, Column::Authorities, None, true) }
                }
            }
        })
        .collect()
}

fn party(name: String, identity: String, column: Column, health: Option<&Health>, in_consensus: bool) -> Party {
    let (state, reason) = match health.and_then(|health| health.ready.as_ref()) {
        Some((true, _)) => (State::Ready, String::new()),
        Some((false, reason)) => (State::Waiting, reason.clone()),
        None => (State::Down, String::new()),
    };
    let samples = health.map(|health| &health.samples);
    let count = |name: &str| samples.and_then(|samples| samples.sum(name)).map(whole);
    let loops = count("shoal_loops_sent_total").zip(count("shoal_loops_returned_total"));
    let dropped = samples.map(|samples| samples.by_label("shoal_packets_dropped_total", "reason")).unwrap_or_default();
    Party {
        name,
        identity,
        column,
        state,
        reason,
        in_consensus,
        packets_received: count("shoal_packets_received_total"),
        dropped: dropped.into_iter().map(|(reason, value)| (reason, whole(value))).collect(),
        queue: count("shoal_delay_queue_packets"),
        loops,
        boxes: count("shoal_store_boxes"),
        probed: None,
    }
}

/// A sample as a whole number; what is negative or not a number becomes zero.
fn whole(value: f64) -> u64 {
    // a float-to-integer cast saturates, and takes what is not a number to zero
    value.round() as u64
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
