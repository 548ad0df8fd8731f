//! One word for how a client is doing, and what its user can do about it.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_protocol::{UnixMillis, duration};

use crate::lack::Lack;
use crate::loops::Health;
use crate::reach::Reach;
use crate::view::Freshness;

/// How a client is doing, the worst that is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The authorities contradicted themselves: no message leaves.
    Stopped,
    /// No link, or no document to send by: nothing goes, no cover either.
    Offline,
    /// Most loops are lost: messages wait, cover goes on.
    Pause,
    /// Many loops are lost, or a contact's network differs: messages go. Or this profile is an older copy: it only reads.
    Warn,
    /// Connected; no loop has been decided yet, so nobody knows whether packets come through.
    Starting,
    /// Connected, and loops come back.
    Good,
}

/// What the condition is judged by.
pub(super) struct Facts<'a> {
    pub(super) reach: Reach,
    /// What the last gateway said or did, while there is no link.
    pub(super) trouble: Option<&'a str>,
    pub(super) document: Freshness,
    /// Why no document is in force, when none is.
    pub(super) lack: Lack,
    pub(super) health: Health,
    /// At least one loop was decided.
    pub(super) measured: bool,
    /// Where the evidence against the authorities lies.
    pub(super) conflict: Option<&'a Path>,
    /// Name and fingerprint words of the profile's network.
    pub(super) network: (&'a str, &'a str),
    pub(super) now: UnixMillis,
}

/// The condition, why it is no better (a word for programs), and what to do next. Of what is good the last two are empty;
/// of all else neither is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) condition: Condition,
    pub(super) cause: Option<&'static str>,
    pub(super) next: String,
}

impl Judgement {
    fn new(condition: Condition, cause: &'static str, next: impl Into<String>) -> Self {
        Self { condition, cause: Some(cause), next: next.into() }
    }
}

impl Facts<'_> {
    pub(super) fn judge(&self) -> Judgement {
        if let Some(folder) = self.conflict {
            let next = format!(
                "the authorities signed two documents for one place in the chain; the proof is in {}. Compare the hashes in \
                 its names with a friend's and ask who runs the network. To go on: shoal down, move that folder away, any command",
                folder.display()
            );
            return Judgement::new(Condition::Stopped, "conflict", next);
        }
        let in_force = matches!(self.document, Freshness::Current | Freshness::Stale);
        if !in_force && let Some((cause, next)) = self.for_want_of_a_document() {
            return Judgement::new(Condition::Offline, cause, next);
        }
        match (self.reach, in_force) {
            (Reach::Linked, true) => self.in_service(),
            (Reach::Linked, false) => Judgement::new(
                Condition::Offline,
                "no_document",
                "the gateway has sent no document yet: wait for the next epoch",
            ),
            (Reach::NoGateway | Reach::Silent | Reach::SomeSilent | Reach::Refused | Reach::Trying, _) => {
                let (cause, next) = self.for_want_of_a_link(in_force);
                Judgement::new(Condition::Offline, cause, next)
            }
        }
    }

    /// What the documents that were handed over, or were held, say; nothing if there were none.
    fn for_want_of_a_document(&self) -> Option<(&'static str, String)> {
        let span = |span: Duration| duration::short(Duration::from_secs(span.as_secs()));
        // what was handed over says nothing of today when nobody can be reached
        let reached = matches!(self.reach, Reach::Linked | Reach::Trying);
        Some(match self.lack {
            Lack::Nothing => return None,
            Lack::OtherNetwork => ("other_network", format!("the gateway serves another network: {}", self.another_network())),
            Lack::ClockBehind(by) => (
                "clock_behind",
                format!(
                    "this machine's clock is behind by {} or more: the network's newest document is of a time that is yet to \
                     come. Set the clock (date -u shows it)",
                    span(by)
                ),
            ),
            Lack::ClockAhead(by) => (
                "clock_ahead",
                format!(
                    "this machine's clock is ahead by {} or more, if two gateways are to be believed: both go on with the \
                     network's documents, and each is over before it comes. Compare with another clock (date -u shows this \
                     one). Set the clock by that one, not by what is said here",
                    span(by)
                ),
            ),
            Lack::UnknownAuthorities => (
                "unknown_authorities",
                "the documents handed over are not certified by authorities that this profile knows, and no gateway shows how \
                 those gave their seats to others: they changed while this client was away, or the documents are forged. Other \
                 gateways are tried; if it stays so, ask who runs the network for the newest network file: shoal network update \
                 FILE"
                    .to_owned(),
            ),
            Lack::Early { begins } if reached => (
                "early",
                format!("the newest document serves in {}, by this machine's clock: wait", span(begins.since(self.now))),
            ),
            Lack::Refused if reached => (
                "refused_document",
                "the gateway's document is refused: another gateway is tried; shoal doctor says more".to_owned(),
            ),
            Lack::Standstill { epoch, ended } if reached => (
                "standstill",
                format!(
                    "the network stands still, or the gateways asked are behind: none has a newer document than that of epoch \
                     {epoch}, over since {} by this machine's clock. Others are tried. It goes on by itself when the authorities \
                     do; ask who runs the network",
                    span(self.now.since(ended))
                ),
            ),
            Lack::Refused | Lack::Standstill { .. } | Lack::Early { .. } => return None,
        })
    }

    fn for_want_of_a_link(&self, in_force: bool) -> (&'static str, String) {
        match self.reach {
            Reach::NoGateway => (
                "no_gateway",
                "the profile's network file names no gateway: ask who runs the network for the file for users, then shoal \
                 network update FILE"
                    .to_owned(),
            ),
            Reach::Silent if in_force => (
                "no_answer",
                "no gateway answers: check that UDP leaves this network; it goes on being tried".to_owned(),
            ),
            Reach::Silent => (
                "no_answer",
                format!(
                    "no gateway answers: check that UDP leaves this network. Else the gateways may have moved: shoal network \
                     update FILE with a newer network file. Else: {}",
                    self.another_network()
                ),
            ),
            Reach::Refused => (
                "refused",
                format!(
                    "gateways answer, but no link lasts ({}): it goes on being tried",
                    self.trouble.unwrap_or("no reason is known")
                ),
            ),
            Reach::SomeSilent => ("connecting", "a gateway does not answer: the next one is tried".to_owned()),
            Reach::Trying | Reach::Linked => ("connecting", "the link is being made: look again in a moment".to_owned()),
        }
    }

    fn another_network(&self) -> String {
        let (name, words) = self.network;
        format!(
            "this profile belongs to network {name} ({words}); if that network was made anew, make a profile for the new \
             one: shoal --profile OTHER_DIR init --network FILE"
        )
    }

    /// Linked, with a document in force: what the loops say.
    fn in_service(&self) -> Judgement {
        match self.health {
            Health::Pause => {
                let next = "packets get lost in the network: messages wait and leave by themselves when it is over";
                Judgement::new(Condition::Pause, "loss", next)
            }
            Health::Warn => {
                let next = "nodes may be out, or somebody drops packets: wait for the next epoch";
                Judgement::new(Condition::Warn, "loss", next)
            }
            Health::Good if !self.measured => {
                let next = "the first test loops are under way: look again in a moment";
                Judgement::new(Condition::Starting, "unmeasured", next)
            }
            Health::Good => Judgement { condition: Condition::Good, cause: None, next: String::new() },
        }
    }
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
