//! What an authority shows of itself.

use shoal_protocol::{Role, UnixMillis};

use super::Authority;
use crate::io::snapshot::{AuthorityStatus, NodeStatus, Numbers, Status, role_label};

impl Authority {
    /// The numbers behind `/readyz` and `/metrics`.
    #[must_use]
    pub fn numbers(&self, now: UnixMillis) -> Numbers {
        let waiting_for = self.waiting_for().map(str::to_owned);
        let mut numbers = Numbers { waiting_for, ..Numbers::default() };
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
                dropped: self.core.dropped().get(&descriptor.identity).map(ToString::to_string),
            }
        });
        Status {
            running,
            identity: self.secret.public().identity,
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
            refused: self.refused.iter().cloned().collect(),
        }
    }

    /// All authorities that certify the next document, this one among them.
    fn authorities(&self, now: UnixMillis) -> Vec<AuthorityStatus> {
        let tolerance = i64::try_from(self.network.parameters.skew().as_millis()).unwrap_or(i64::MAX);
        let silence = std::time::Duration::from_millis(2 * self.schedule.epoch_ms);
        let me = self.core.index();
        let set = self.core.set().iter().zip(0_u16..);
        let status = set.map(|(key, index)| {
            let state = self.core.peers().get(&index).cloned().unwrap_or_default();
            let mut remarks = Vec::new();
            if me == Some(index) {
                remarks.extend(self.core.clock_problem().map(str::to_owned));
            } else {
                match state.heard {
                    None => remarks.push("not heard since this authority started".to_owned()),
                    Some(heard) if now.since(heard) > silence => remarks.push("not heard for two epochs".to_owned()),
                    Some(_) => {}
                }
                if let Some(problem) = self.peers.problem(&key.identity) {
                    remarks.push(format!("not reached: {problem}"));
                }
                if let Some(ahead) = state.clock_ahead_ms.filter(|ahead| ahead.abs() > tolerance) {
                    let (apart, side) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
                    remarks.push(format!(
                        "its clock is {apart} ms {side} ours, more than the tolerance of {tolerance} ms"
                    ));
                }
                if !state.wants_other.is_empty() {
                    remarks.push(format!("wants other parameters: {}", state.wants_other.join(", ")));
                }
                if state.wants_other_set {
                    remarks.push("wants another set of authorities".to_owned());
                }
                if state.contradicts_itself {
                    remarks.push("signed two things that contradict each other".to_owned());
                }
                if let Some(reason) = &state.refused {
                    remarks.push(format!("its list was refused: {reason}"));
                }
            }
            AuthorityStatus { index, identity: key.identity, me: me == Some(index), state, remarks }
        });
        status.collect()
    }
}
