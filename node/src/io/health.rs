//! Where a node stands, why it is not ready, and what somebody should look at: read from everything that runs, judged by
//! [`Standing`].

use crate::answers;
use crate::freshness::{self, Freshness};
use crate::hindrance::{Hindrance, Listed};
use crate::io::phase::Phase;
use crate::io::status::Status;
use crate::losses;
use crate::standing::{Document, Facts, Standing};
use shoal_protocol::consensus::{NodeEntry, VerifiedConsensus};
use shoal_protocol::types::Epoch;
use std::sync::Arc;

/// What is said of a node at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// In one word.
    pub standing: Standing,
    /// Why it is not ready; empty exactly when it is.
    pub problems: Vec<String>,
    /// What does not keep it from serving, but somebody should look at.
    pub warnings: Vec<String>,
    /// What a listed node is missing.
    pub hindrances: Vec<Hindrance>,
}

impl Status {
    /// The document that is in force now. One that has run out may still be shown for a moment.
    pub(super) fn held(&self) -> Option<Arc<VerifiedConsensus>> {
        let now = self.clock.wall();
        let held = self.consensus.borrow().clone();
        held.filter(|document| now <= document.valid_until.plus(document.parameters.skew()))
    }

    pub(super) fn contradiction(&self) -> Option<String> {
        self.fetch.borrow().contradiction.clone()
    }

    /// Looks at everything.
    pub fn health(&self) -> Health {
        let held = self.held();
        let me = held.as_deref().and_then(|consensus| consensus.node(&self.identity));
        let hindrances = held.as_deref().zip(me).map_or_else(Vec::new, |(held, me)| self.hindrances(held, me));
        let stale = held.as_deref().and_then(|held| self.stale(held));
        let phase = *self.phase.borrow();
        let facts = Facts {
            contradicted: self.fetch.borrow().contradiction.is_some(),
            stopping: phase == Phase::Stopping,
            draining: phase == Phase::Draining,
            document: match held {
                Some(_) => Document::InForce { stale: stale.is_some(), listed: me.map(|me| me.standby) },
                None if self.fetch.borrow().last.is_some() => Document::Over,
                None => Document::None,
            },
            hindered: !hindrances.is_empty(),
        };
        let standing = Standing::of(&facts);
        let problems = match standing {
            Standing::Contradicted => self.contradiction().into_iter().collect(),
            Standing::Stopping => vec!["stopping".to_owned()],
            Standing::Draining => {
                vec!["draining: it leaves the network, serves until nobody needs it, and stops".to_owned()]
            }
            Standing::Starting => vec![format!("no consensus yet: {}", self.why_none())],
            Standing::Over => vec![self.why_over()],
            Standing::Unlisted => vec![self.why_not_listed(held.as_deref())],
            Standing::Hindered => hindrances.iter().map(|hindrance| hindrance.text()).collect(),
            Standing::Stale | Standing::Standby | Standing::Serving => Vec::new(),
        };
        let unpublished = self.publish.borrow().problem.clone();
        let unpublished = unpublished.map(|problem| format!("no new descriptor can be made: {problem}"));
        let suspected = self.suspect().as_ref().map(losses::warning_of_suspect);
        // who serves nothing loses its loops for a reason that is said already
        let losing = if standing.is_ready() { self.published.losing() } else { Vec::new() };
        let losing = losses::warnings(&losing, &self.next_hops());
        let warnings = stale.into_iter().chain(unpublished).chain(suspected).chain(losing).collect();
        Health { standing, problems, warnings, hindrances }
    }

    fn stale(&self, held: &VerifiedConsensus) -> Option<String> {
        match freshness::judge(&self.schedule, held.epoch, self.clock.wall()) {
            Freshness::Fresh => None,
            Freshness::Stale { missed } => {
                let until = held.valid_until.plus(held.parameters.skew());
                let left = until.since(self.clock.wall()).as_secs();
                Some(format!(
                    "stale: no consensus since that of epoch {}, {missed} missed; traffic goes on for another {left} s",
                    held.epoch
                ))
            }
        }
    }

    fn why_none(&self) -> String {
        self.fetch.borrow().problem.clone().unwrap_or_else(|| "not fetched yet".to_owned())
    }

    fn why_over(&self) -> String {
        let last = self.fetch.borrow().last;
        let Some((epoch, until)) = last else { return self.why_none() };
        let now = self.clock.wall();
        if now < until {
            return format!("the clock went back: the newest consensus, of epoch {epoch}, has not begun by it");
        }
        let ago = now.since(until).as_secs();
        format!(
            "the newest consensus, of epoch {epoch}, is over since {ago} s: nothing is forwarded until there is another \
             one ({})",
            self.why_none()
        )
    }

    /// What a listed node is missing.
    fn hindrances(&self, consensus: &VerifiedConsensus, me: &NodeEntry) -> Vec<Hindrance> {
        let mut reasons = Vec::new();
        reasons.extend(Hindrance::of_keys(&self.listed_keys(me)));
        if self.published.is_log_failing() {
            reasons.push(Hindrance::ReplayLog);
        }
        if me.standby {
            // nothing is asked of a node that stands by
            return reasons;
        }
        // links of the document before stay up for the grace time; nobody misses one that is down
        let wanted = crate::view::next_hops(consensus, &self.identity);
        let mut states = self.links.states();
        states.retain(|(peer, _)| wanted.contains(peer));
        let down = states.iter().filter(|(_, up)| !up).count();
        if states.is_empty() && !wanted.is_empty() {
            reasons.push(Hindrance::NoLink);
        }
        if down > 0 {
            reasons.push(Hindrance::LinksDown { down, of: states.len() });
        }
        if let Some(store) = &self.store {
            let (wanted, up) = store.links();
            let others = consensus.stores().filter(|node| node.identity != self.identity).count() as u64;
            reasons.extend(match store.problem() {
                Some(why) if store.is_open() => Some(Hindrance::StoreSlow(why)),
                Some(why) => Some(Hindrance::StoreClosed(why)),
                None => None,
            });
            if wanted < others || up < wanted {
                reasons.push(Hindrance::StoreLinks { up, of: others });
            }
        }
        reasons
    }

    fn why_not_listed(&self, held: Option<&VerifiedConsensus>) -> String {
        let authorities = self.authorities(held);
        let publish = self.publish.borrow();
        let (accepted, needed) = (answers::accepted(&publish.answers), answers::needed(authorities));
        let listed =
            format!("not in the consensus; {accepted} of {authorities} authorities list it, {needed} are needed");
        if accepted >= needed {
            return format!("{listed}: the next document will have it");
        }
        let reasons = publish.answers.iter().filter_map(|(who, answer)| Some(format!("{who}: {}", answer.reason()?)));
        let reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() {
            format!("{listed}; none has answered yet")
        } else {
            format!("{listed}. {}", reasons.join("; "))
        }
    }

    /// How many authorities decide about the next document.
    pub(super) fn authorities(&self, held: Option<&VerifiedConsensus>) -> usize {
        held.map_or_else(|| self.publish.borrow().authorities, |held| held.authorities.len())
    }

    pub(super) fn keys_match(&self, me: &NodeEntry) -> bool {
        let current = self.schedule.epoch_at(self.clock.wall());
        // the next document is here a little before its epoch, and lists no key for this one
        let of = me.mix_keys.first().map_or(current, |(first, _)| current.max(*first));
        let keys = self.keys.borrow();
        me.mix_key(of).is_some_and(|key| keys.mix.get(&of) == Some(key))
    }

    fn listed_keys(&self, me: &NodeEntry) -> Listed {
        let keys = self.keys.borrow();
        let any = me.mix_keys.iter().any(|(epoch, key)| keys.mix.get(epoch) == Some(key));
        drop(keys);
        let up_ms = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        Listed {
            current: self.keys_match(me),
            any,
            epochs_up: up_ms / self.schedule.epoch_ms.max(1),
            out_until: self.out_until(me),
        }
    }

    /// First epoch from which the listed keys are ours again.
    pub(super) fn out_until(&self, me: &NodeEntry) -> Option<Epoch> {
        let keys = self.keys.borrow();
        let current = self.schedule.epoch_at(self.clock.wall());
        let listed = me.mix_keys.iter().filter(|(epoch, _)| *epoch >= current);
        let matching = listed.filter(|(epoch, key)| keys.mix.get(epoch) == Some(key)).map(|(epoch, _)| *epoch);
        // a document made after the newest descriptor lists the new keys
        matching.min().or_else(|| me.mix_keys.last().map(|(epoch, _)| epoch.plus(1)))
    }
}
