//! The authority's state at one glance: whether documents are made, who is missing, and what the operator should do.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_protocol::authority::quorum;
use shoal_protocol::duration::short as time;
use shoal_protocol::{Epoch, Identity, UnixMillis};

use crate::wishes::advice::short;

/// Another authority that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Who.
    pub identity: Identity,
    /// Where it was looked for; `None` when the network file does not say.
    pub address: Option<SocketAddr>,
}

/// The newest document that is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Its epoch.
    pub epoch: Epoch,
    /// Until when it may be used.
    pub valid_until: UnixMillis,
}

/// What is known.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Now.
    pub now: UnixMillis,
    /// The epoch of now.
    pub epoch: Epoch,
    /// The newest document.
    pub newest: Option<Newest>,
    /// How many certify the next document.
    pub authorities: usize,
    /// Whether this authority is one of them.
    pub member: bool,
    /// Those of the others who are not there.
    pub missing: &'a [Missing],
    /// What is wrong with this machine's clock.
    pub clock_problem: Option<&'a str>,
    /// What the state machine waits for.
    pub waiting_for: Option<&'a str>,
    /// What else the operator has to know of his files.
    pub advice: &'a [String],
}

/// In sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Whether documents are made.
    pub documents: String,
    /// What the operator should do, the most urgent first; empty when there is nothing.
    pub next: Vec<String>,
}

impl Facts<'_> {
    /// What it comes to.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        Outlook { documents: self.documents(), next: self.next() }
    }

    /// Epochs without a document, this one included; `None` before the first document.
    fn missed(&self) -> Option<u64> {
        self.newest.map(|newest| self.epoch.0.saturating_sub(newest.epoch.0))
    }

    fn documents(&self) -> String {
        let Some(newest) = self.newest else { return "none was made yet".to_owned() };
        let left = newest.valid_until.since(self.now);
        let validity = if left > Duration::ZERO {
            format!("may be used for {} more", time(left))
        } else {
            format!("may not be used since {}: clients stand still", time(self.now.since(newest.valid_until)))
        };
        match self.missed() {
            Some(0) | None => format!("are made: that of epoch {} {validity}", newest.epoch),
            Some(missed) => format!(
                "ARE NOT MADE: it is epoch {}, the newest is of epoch {} ({missed} missed) and {validity}",
                self.epoch, newest.epoch
            ),
        }
    }

    fn next(&self) -> Vec<String> {
        let mut next: Vec<String> = self.clock_problem.map(str::to_owned).into_iter().collect();
        let (n, needed) = (self.authorities, quorum(self.authorities).max(1));
        let here = n - self.missing.len().min(n);
        if !self.missing.is_empty() {
            let them: Vec<_> = self.missing.iter().map(Missing::to_string).collect();
            let them = them.join(", ");
            next.push(if here < needed {
                format!(
                    "{} of {n} authorities are missing and {needed} must run, so no document is made. Their operators start \
                     them, or open the way to their UDP ports: {them}. The next document then comes by itself",
                    self.missing.len()
                )
            } else {
                let spare = here - needed;
                let rest = match spare {
                    0 => "nothing is missed, but none of the others may fail now".to_owned(),
                    spare => format!("nothing is missed, and {spare} more may fail"),
                };
                format!("{} of {n} authorities missing: {them}. {rest}; tell the operator", self.missing.len())
            });
        }
        if here >= needed && self.missed().is_some_and(|missed| missed > 0) && self.waiting_for.is_none() {
            next.push(
                "enough authorities are here, and yet no document: if that stays so for an epoch, look at what differs \
                 below, at the clocks, and at the log"
                    .to_owned(),
            );
        }
        // said already, in other words
        let said = |waiting: &&str| self.clock_problem != Some(*waiting) && here >= needed;
        next.extend(self.waiting_for.filter(said).map(|waiting| match waiting.starts_with("waiting for nodes") {
            true => format!("{waiting}: admit nodes (shoal-directory admit LINE); those that are refused are below"),
            false => waiting.to_owned(),
        }));
        if !self.member {
            next.push(
                "this authority is not one of those who certify: it watches. If it left it may be stopped; to be taken in, the \
                 others ask for it in their authorities.toml"
                    .to_owned(),
            );
        }
        next.extend(self.advice.iter().cloned());
        next
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} at {address}", short(&self.identity)),
            None => write!(
                f,
                "{} (its address is not known: shoal-directory network --add-authority IDENTITY@IP:PORT)",
                short(&self.identity)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(missing: &[Missing]) -> Facts<'_> {
        Facts {
            now: UnixMillis(1_000_000),
            epoch: Epoch(12),
            newest: Some(Newest { epoch: Epoch(12), valid_until: UnixMillis(1_060_000) }),
            authorities: 4,
            member: true,
            missing,
            clock_problem: None,
            waiting_for: None,
            advice: &[],
        }
    }

    fn gone(byte: u8) -> Missing {
        let address = Some(SocketAddr::from(([192, 0, 2, byte], 9001)));
        Missing { identity: Identity::from_bytes([byte; 32]), address }
    }

    #[test]
    fn all_is_well_and_nothing_is_asked_for() {
        let outlook = facts(&[]).outlook();
        assert_eq!(outlook.next, Vec::<String>::new());
        assert_eq!(outlook.documents, "are made: that of epoch 12 may be used for 1m more");
    }

    #[test]
    fn one_of_four_is_told_and_not_missed() {
        let missing = [gone(7)];
        let next = facts(&missing).outlook().next;
        assert_eq!(next.len(), 1);
        assert!(next[0].starts_with("1 of 4 authorities missing: 07070707… at 192.0.2.7:9001."), "{next:?}");
        assert!(next[0].contains("none of the others may fail"), "{next:?}");
        let seven = Facts { authorities: 7, ..facts(&missing) }.outlook().next;
        assert!(seven[0].contains("1 more may fail"), "{seven:?}");
    }

    #[test]
    fn two_of_four_stop_it_and_both_are_named_with_what_to_do() {
        let missing = [gone(7), Missing { address: None, ..gone(9) }];
        let stopped = Facts {
            newest: Some(Newest { epoch: Epoch(9), valid_until: UnixMillis(940_000) }),
            // what the proposer says; it follows from who is missing
            waiting_for: Some("waiting for lists of other authorities: 2 of 3 are here"),
            ..facts(&missing)
        };
        let Outlook { documents, next } = stopped.outlook();
        assert!(documents.contains("NOT MADE") && documents.contains("3 missed"), "{documents}");
        assert!(documents.contains("clients stand still"), "{documents}");
        assert_eq!(next.len(), 1, "{next:?}");
        assert!(next[0].contains("2 of 4 authorities are missing and 3 must run"), "{next:?}");
        assert!(next[0].contains("192.0.2.7:9001") && next[0].contains("--add-authority"), "{next:?}");
    }

    #[test]
    fn what_else_is_to_do_is_said() {
        let waits = Facts { newest: None, waiting_for: Some("waiting for nodes: 0 of 1 gateways"), ..facts(&[]) };
        assert_eq!(waits.outlook().documents, "none was made yet");
        assert!(waits.outlook().next[0].contains("shoal-directory admit"));
        let clock = Facts { clock_problem: Some("set it"), waiting_for: Some("set it"), ..facts(&[]) };
        assert_eq!(clock.outlook().next, ["set it"], "once");
        assert!(Facts { member: false, ..facts(&[]) }.outlook().next[0].contains("authorities.toml"));
        let late = Facts { epoch: Epoch(14), ..facts(&[]) };
        assert!(late.outlook().next[0].contains("enough authorities are here"));
    }
}
