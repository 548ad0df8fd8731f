//! `doctor` asks every authority, as the running node does: from where it stands, over changes of the authorities.

use crate::advice::listing;
use crate::io::asking::{Authorities, NotFound};
use crate::io::doctor::{Finding, bad, dialler};
use crate::io::documents::kept;
use crate::io::host::Clock;
use crate::io::setup::Setup;
use crate::verdict::{self, Heard, Told};
use serde_json::Value;
use shoal_protocol::consensus::{Consensus, DocumentError, Follower, Offered, VerifiedConsensus};
use shoal_protocol::network::Hint;
use shoal_protocol::types::{Identity, UnixMillis};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long an authority may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const CHECK: &str = "authority";

/// Asks all of them at once, and concludes from all answers together.
pub async fn examine(setup: &Setup, status: Option<&Value>) -> Vec<Finding> {
    let endpoint = match dialler(setup) {
        Ok(endpoint) => Arc::new(endpoint),
        Err(error) => return vec![bad(CHECK, error.to_string(), "the system must allow UDP sockets")],
    };
    let authorities = Arc::new(Authorities::new(endpoint, &setup.network));
    let (follower, own) = kept(&setup.dir, Follower::new(setup.network.trust_anchor()));
    if let Some(own) = &own {
        authorities.follow(Arc::clone(own));
    }
    let hints = authorities.asked();
    if hints.is_empty() {
        return vec![bad(CHECK, "the network file names none", "get a network file with hints.authorities")];
    }
    let reader = Reader { follower, own, me: setup.identity.identity(), now: Clock::start().wall() };
    let n = reader.follower.anchor().authorities.len();
    let mut asked = JoinSet::new();
    for (at, hint) in hints.iter().copied().enumerate() {
        let (authorities, reader) = (Arc::clone(&authorities), reader.clone());
        asked.spawn(async move { (at, reader.hear(&authorities, &hint).await) });
    }
    let mut heard = asked.join_all().await;
    heard.sort_by_key(|(at, _)| *at);
    let heard: Vec<Heard> = heard.into_iter().map(|(_, heard)| heard).collect();

    let told = told(status);
    let clock = verdict::clock(&heard, &told, n);
    let mut findings = vec![Finding::of("clock", verdict::of_clock(clock))];
    for (hint, heard) in hints.iter().zip(&heard) {
        let (ok, found, next) = verdict::of_authority(heard, clock, &told);
        let found = format!("{} at {}: {found}", hint.identity, hint.address);
        findings.push(Finding::of(CHECK, (ok, found, next)));
    }
    findings
}

/// What the running node knows.
fn told(status: Option<&Value>) -> Told {
    const NOT_RUNNING: &str = "start the node; if an authority then refuses it, send the admission line to its operators \
                               (`shoal-node check-config` prints it)";
    let Some(status) = status else { return Told { unlisted: NOT_RUNNING.to_owned(), ..Told::default() } };
    let number = |pointer| {
        let number = status.pointer(pointer).and_then(Value::as_u64);
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
    };
    Told {
        accepted: number("/descriptor/accepted_by"),
        refused_for_clock: number("/descriptor/refused_for/clock"),
        leaves: matches!(status.get("phase").and_then(Value::as_str), Some("draining" | "stopping")),
        unlisted: listing(status).unwrap_or_else(|| "wait until the authorities have answered".to_owned()),
    }
}

#[derive(Clone)]
struct Reader {
    follower: Follower,
    own: Option<Arc<VerifiedConsensus>>,
    me: Identity,
    now: UnixMillis,
}

impl Reader {
    async fn hear(mut self, authorities: &Authorities, hint: &Hint) -> Heard {
        let asked = timeout(PATIENCE, authorities.find(hint, self.follower.clone(), None, self.now)).await;
        let found = match asked {
            Err(_) => return Heard::Silent("no answer in time".to_owned()),
            Ok(Err(NotFound::Silent(error))) => return Heard::Silent(format!("{error:#}")),
            Ok(Err(NotFound::NotYet(reason))) => return Heard::NotYet(reason),
            Ok(Err(NotFound::Useless(error))) => {
                let unknown = error.downcast_ref::<DocumentError>().is_some_and(DocumentError::may_be_another_set);
                return if unknown { Heard::UnknownSet } else { Heard::Unusable(format!("{error:#}")) };
            }
            Ok(Ok(found)) => found,
        };
        let Some(found) = found else { return Heard::Unusable("it does not answer the question asked".to_owned()) };
        let offered =
            self.follower.advance(&found.changes).and_then(|_| self.follower.offer(&found.document, self.now));
        match offered {
            Ok(Offered::Newer(document)) => self.judge(&document),
            Ok(Offered::Known) => match &self.own {
                Some(own) => self.judge(own),
                None => Heard::Unusable("it does not answer the question asked".to_owned()),
            },
            Err(DocumentError::Expired { ago_ms, .. }) => Heard::Over { ago: Duration::from_millis(ago_ms) },
            Err(DocumentError::NotYetValid { in_ms, .. }) => Heard::Ahead { by: Duration::from_millis(in_ms) },
            Err(error) if error.may_be_another_set() => Heard::UnknownSet,
            Err(error) => Heard::Unusable(error.to_string()),
        }
    }

    /// A document that is certified: whether it is in force now, which is not looked at again when it is known.
    fn judge(&self, document: &Consensus) -> Heard {
        let skew = document.parameters.skew();
        if self.now > document.valid_until.plus(skew) {
            Heard::Over { ago: self.now.since(document.valid_until) }
        } else if self.now.plus(skew) < document.valid_from {
            Heard::Ahead { by: document.valid_from.since(self.now) }
        } else {
            Heard::InForce { epoch: document.epoch.0, listed: document.node(&self.me).is_some() }
        }
    }
}
