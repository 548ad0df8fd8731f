//! What is known of the other authorities, for `status`: who was heard, whose clock and whose wishes differ.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, UnixMillis};

use crate::signed_list::List;

/// One other authority, as far as its messages tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerState {
    /// When a message of it came last, in ms since 1970.
    pub heard: Option<UnixMillis>,
    /// How far its clock is ahead of ours, in ms, as its last list says; the way here is part of it.
    pub clock_ahead_ms: Option<i64>,
    /// Epoch of its last list.
    pub list_epoch: Option<Epoch>,
    /// Nodes on its last list.
    pub lists: usize,
    /// Names of parameters that it wants otherwise than the document in force has them.
    pub wants_other: Vec<String>,
    /// Whether it wants another set of authorities.
    pub wants_other_set: bool,
    /// Contradicting signatures of it were seen: its operator must explain.
    pub contradicts_itself: bool,
    /// Why its last list was refused.
    pub refused: Option<String>,
}

/// All others, by index; at most 64.
pub type PeerStates = BTreeMap<u16, PeerState>;

impl PeerState {
    /// Takes note of a list that verified.
    pub(super) fn note(&mut self, list: &List, in_force: &Parameters, now: UnixMillis) {
        self.clock_ahead_ms = Some(difference(list.made_at, now));
        self.list_epoch = Some(list.epoch);
        self.lists = list.entries.len();
        self.wants_other = differing(&list.parameters, in_force);
        self.wants_other_set = list.authorities.is_some();
        self.refused = None;
    }
}

fn difference(theirs: UnixMillis, ours: UnixMillis) -> i64 {
    i64::try_from(i128::from(theirs.0) - i128::from(ours.0)).unwrap_or(i64::MAX)
}

/// Names of the fields in which two sets of parameters differ.
pub(super) fn differing(one: &Parameters, other: &Parameters) -> Vec<String> {
    let fields = |parameters: &Parameters| match serde_json::to_value(parameters) {
        Ok(serde_json::Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let other = fields(other);
    let differs = |(name, value): &(String, serde_json::Value)| other.get(name) != Some(value);
    fields(one).into_iter().filter(differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_parameters_are_named() {
        let one = Parameters::test_network();
        let other = Parameters { service_ms: one.service_ms + 1, ..one };
        assert_eq!(differing(&one, &one), Vec::<String>::new());
        assert_eq!(differing(&one, &other), ["service_ms"]);
        assert_eq!(difference(UnixMillis(5), UnixMillis(3_600_005)), -3_600_000);
    }
}
