//! What an authority shows of itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use shoal_protocol::authority::quorum;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Identity, Role, UnixMillis};

use super::Authority;
use crate::authority::PeerState;
use crate::io::peers::Reach;
use crate::io::snapshot::{AuthorityStatus, NodeStatus, Numbers, Status, role_label};
use crate::outlook::{Facts, Missing, Newest, Outlook};
use crate::wishes::advice::exchange;

/// Epochs of silence after which an authority that does not answer either is missing.
const SILENT_EPOCHS: u64 = 2;

/// Time in which the others are asked whether they are there, when this authority has just started: a link that does not
/// come about is given up after 10 s.
const ASKING: Duration = Duration::from_secs(15);

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Its role.
    pub role: Role,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Whether the newest document lists it; otherwise its descriptor is listed here.
    pub in_consensus: bool,
}

impl Authority {
    /// The parameters in force.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.chain.newest().map_or(self.network.parameters, |newest| newest.parameters)
    }

    /// Where the network file says that this authority is reached.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let own = self.secret.public().identity;
        self.network.hints.authorities.iter().find(|hint| hint.identity == own).map(|hint| hint.address)
    }

    /// Where others may look for this authority: by the newest document, `authority.pub` and the network file.
    #[must_use]
    pub fn known_at(&self) -> BTreeSet<SocketAddr> {
        let documented = self.chain.newest().and_then(|newest| newest.address_of(&self.identity()));
        documented.into_iter().chain(self.published).chain(self.address()).collect()
    }

    /// Where nodes and authorities are, by the newest document; authorities also by the network file.
    #[must_use]
    pub fn listed_addresses(&self) -> Vec<IpAddr> {
        let documented = self.chain.newest().into_iter().flat_map(|newest| newest.listed_addresses());
        let hinted = self.network.hints.authorities.iter().map(|hint| hint.address.ip());
        documented.chain(hinted).collect()
    }

    /// What the newest document, or else its descriptor, says of a node.
    #[must_use]
    pub fn known_node(&self, identity: &Identity) -> Option<KnownNode> {
        if let Some(entry) = self.chain.newest().and_then(|newest| newest.node(identity)) {
            return Some(KnownNode { role: entry.role, addresses: entry.addresses.clone(), in_consensus: true });
        }
        let descriptor = &self.listing.descriptors().get(identity)?.descriptor;
        Some(KnownNode { role: descriptor.role, addresses: descriptor.addresses.clone(), in_consensus: false })
    }

    /// Those of the others who are neither heard nor reached.
    fn missing(&self, now: UnixMillis) -> Vec<Missing> {
        let set = self.core.set().iter().zip(0_u16..).filter(|(_, index)| self.core.index() != Some(*index));
        let gone = set.filter(|(key, index)| {
            let heard = self.core.peers().get(index).and_then(|state| state.heard);
            self.is_missing(heard, &self.peers.reach(&key.identity), now)
        });
        gone.map(|(key, _)| Missing { identity: key.identity, address: self.peers.address(&key.identity) }).collect()
    }

    fn is_missing(&self, heard: Option<UnixMillis>, reach: &Reach, now: UnixMillis) -> bool {
        if let Some(since) = reach.failing_since {
            // one that is not reached from here, for example because it moved, may still be heard
            return heard.is_none_or(|heard| heard <= since);
        }
        let silence = Duration::from_millis(SILENT_EPOCHS * self.schedule.epoch_ms);
        match heard.max(reach.answered) {
            Some(last) => now.since(last) > silence,
            None => now.since(self.opened) > ASKING,
        }
    }

    /// The state at one glance.
    #[must_use]
    pub fn outlook(&self, now: UnixMillis, running: bool) -> Outlook {
        let missing = if running { self.missing(now) } else { Vec::new() };
        let advice = self.advice();
        let facts = Facts {
            now,
            epoch: self.schedule.epoch_at(now),
            newest: self.newest(now).map(|newest| Newest { epoch: newest.epoch, valid_until: newest.valid_until }),
            authorities: self.core.set().len(),
            member: self.core.index().is_some(),
            missing: &missing,
            clock_problem: self.core.clock_problem(),
            waiting_for: if running { self.waiting_for() } else { None },
            advice: &advice,
        };
        facts.outlook()
    }

    /// The numbers behind `/readyz` and `/metrics`.
    #[must_use]
    pub fn numbers(&self, now: UnixMillis) -> Numbers {
        let mut numbers = Numbers::default();
        for role in [Role::Gateway, Role::Mix, Role::Store] {
            numbers.listed.insert(role_label(role), self.listing.count(role));
            for state in ["active", "standby"] {
                numbers.in_consensus.insert((role_label(role), state), 0);
            }
        }
        if let Some(document) = self.newest(now) {
            numbers.ready = document.epoch >= self.schedule.epoch_at(now);
            numbers.epoch = document.epoch.0;
            numbers.valid_until = document.valid_until;
            numbers.signatures = document.signatures();
            for node in &document.nodes {
                let state = if node.standby { "standby" } else { "active" };
                *numbers.in_consensus.entry((role_label(node.role), state)).or_default() += 1;
            }
        }
        numbers.waiting_for = self.waiting_for().map(str::to_owned);
        if !numbers.ready && numbers.waiting_for.is_none() {
            numbers.waiting_for = self.outlook(now, true).next.into_iter().next();
        }
        numbers
    }

    /// Everything an operator asks.
    #[must_use]
    pub fn status(&self, now: UnixMillis, running: bool) -> Status {
        let newest = self.newest(now);
        let listed = self.listing.descriptors().values().map(|signed| &signed.descriptor);
        let nodes = listed.map(|descriptor| {
            let entry = newest.and_then(|newest| newest.node(&descriptor.identity));
            NodeStatus {
                identity: descriptor.identity,
                role: descriptor.role,
                published: descriptor.published,
                version: descriptor.version.clone(),
                in_consensus: entry.is_some(),
                layer: entry.and_then(|entry| entry.layer),
                standby: entry.is_some_and(|entry| entry.standby),
                suspect: newest.and_then(|newest| newest.suspect(&descriptor.identity)).cloned(),
                dropped: self.core.dropped().get(&descriptor.identity).map(ToString::to_string),
            }
        });
        let outlook = self.outlook(now, running);
        let missing = if running { self.missing(now) } else { Vec::new() };
        Status {
            running,
            identity: self.secret.public().identity,
            listen: self.config.listen,
            address: self.address(),
            documents: outlook.documents,
            next: outlook.next,
            needed: quorum(self.core.set().len()),
            missing: missing.iter().map(|missing| missing.identity).collect(),
            asks: self.asks(),
            name: self.network.name.clone(),
            network: self.id,
            fingerprint: self.network.fingerprint_words(),
            epoch: newest.map(|newest| newest.epoch),
            height: newest.map(|newest| newest.height),
            document: newest.map(|newest| newest.hash()),
            signatures: newest.map(|newest| newest.signatures()),
            valid_until: newest.map(|newest| newest.valid_until),
            ready: self.numbers(now).ready,
            waiting_for: self.waiting_for().map(str::to_owned),
            open: self.config.open,
            admitted: self.admitted.len(),
            authorities: self.authorities(now),
            nodes: nodes.collect(),
            refused: self.refusals.lately(self.schedule.epoch_at(now)).cloned().collect(),
        }
    }

    /// All authorities that certify the next document, this one among them.
    fn authorities(&self, now: UnixMillis) -> Vec<AuthorityStatus> {
        let me = self.core.index();
        let set = self.core.set().iter().zip(0_u16..);
        let in_force = serde_json::to_value(self.parameters()).unwrap_or_default();
        let status = set.map(|(key, index)| {
            let mut state = self.core.peers().get(&index).cloned().unwrap_or_default();
            // what its last list asked for may have come into force with the document made of it
            state.wants_other.retain(|other| in_force.get(&other.name) != Some(&other.wanted));
            let reach = self.peers.reach(&key.identity);
            let is_me = me == Some(index);
            let (address, remarks) = if is_me {
                (self.address(), self.core.clock_problem().map(str::to_owned).into_iter().collect())
            } else {
                (self.peers.address(&key.identity), self.remarks(&key.identity, &state, &reach))
            };
            AuthorityStatus {
                index,
                identity: key.identity,
                me: is_me,
                address,
                answered: reach.answered,
                missing: !is_me && self.is_missing(state.heard, &reach, now),
                state,
                remarks,
            }
        });
        status.collect()
    }

    /// In what another authority differs, and what is wrong with it.
    fn remarks(&self, identity: &Identity, state: &PeerState, reach: &Reach) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(problem) = &reach.problem {
            remarks.push(format!("not reached: {problem}"));
        }
        if self.peers.address(identity).is_none() {
            remarks
                .push(format!("its address is not known: shoal-directory network --add-authority {identity}@IP:PORT"));
        }
        let tolerance = i64::try_from(self.network.parameters.skew().as_millis()).unwrap_or(i64::MAX);
        if let Some(ahead) = state.clock_ahead_ms.filter(|ahead| ahead.abs() > tolerance) {
            let (apart, side) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
            remarks.push(format!("its clock is {apart} ms {side} ours, more than the tolerance of {tolerance} ms"));
        }
        for other in &state.wants_other {
            let here = match self.asked_value(&other.name) {
                Some(here) if here == other.wanted => "the same is wanted here".to_owned(),
                Some(here) if here != other.in_force => format!("{here} is wanted here"),
                Some(_) | None => "nothing else is wanted here".to_owned(),
            };
            remarks.push(format!("wants {} = {}; {} is in force, {here}", other.name, other.wanted, other.in_force));
        }
        if let Some(wanted) = &state.wanted_set {
            let same = if self.wishes.authorities.as_ref() == Some(wanted) { ", as is wanted here" } else { "" };
            remarks.push(format!(
                "wants another set of authorities: {}, {}{same}",
                wanted.len(),
                exchange(self.core.set(), wanted)
            ));
        }
        if state.contradicts_itself {
            remarks.push("signed two things that contradict each other".to_owned());
        }
        if let Some(reason) = &state.refused {
            remarks.push(format!("its list was refused: {reason}"));
        }
        remarks
    }

    /// The value that the operator's own file asks for.
    fn asked_value(&self, name: &str) -> Option<serde_json::Value> {
        let wanted = self.wishes.parameters.as_ref()?;
        serde_json::to_value(wanted).ok()?.get(name).cloned()
    }
}
