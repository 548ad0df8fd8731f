//! What is known of the other authorities, for `status`: who was heard, whose clock and whose wishes differ.

use std::collections::BTreeMap;
use std::time::Duration;

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
    /// When it made its last list, by its own clock: one that is sent again tells nothing new of the clock.
    #[serde(skip)]
    made_at: Option<UnixMillis>,
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
        if self.made_at != Some(list.made_at) {
            self.clock_ahead_ms = Some(difference(list.made_at, now));
        }
        self.made_at = Some(list.made_at);
        self.list_epoch = Some(list.epoch);
        self.lists = list.entries.len();
        self.wants_other = differing(&list.parameters, in_force);
        self.wants_other_set = list.authorities.is_some();
        self.refused = None;
    }
}

/// How far the clocks of the others are ahead of ours, in ms, when it is ours that is wrong: the median of all clocks, ours
/// among them, is further away than the tolerance. With as many on our side as on theirs ours stands.
pub(super) fn own_clock_behind(peers: &PeerStates, tolerance: Duration) -> Option<i64> {
    let tolerance = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
    let mut ahead: Vec<i64> = peers.values().filter_map(|peer| peer.clock_ahead_ms).chain([0]).collect();
    ahead.sort_unstable();
    let (low, high) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
    let median = if low.unsigned_abs() < high.unsigned_abs() { low } else { high };
    (median.unsigned_abs() > tolerance.unsigned_abs()).then_some(median)
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
    fn a_clock_that_differs_from_most_is_the_wrong_one() {
        let behind = |others: &[i64]| {
            let peer = |ahead: &i64| PeerState { clock_ahead_ms: Some(*ahead), ..PeerState::default() };
            let peers = (0..).zip(others.iter().map(peer)).chain([(9, PeerState::default())]).collect();
            own_clock_behind(&peers, Duration::from_millis(1_000))
        };
        assert_eq!(behind(&[3_600_100, 3_600_000, 3_599_900]), Some(3_599_900), "the nearer of the two in the middle");
        assert_eq!(behind(&[-3_600_000, -3_600_000, 3_600_000]), None, "no more than two agree");
        assert_eq!(behind(&[3_600_000, 3_600_000]), Some(3_600_000));
        assert_eq!(behind(&[3_600_000]), None, "one against one");
        assert_eq!(behind(&[0, 10, 3_600_000]), None, "it is the other one");
        assert_eq!(behind(&[3_600_000, 3_600_000, 0]), None, "two against two");
        assert_eq!(behind(&[900, 900, 900]), None, "within the tolerance");
        assert_eq!(behind(&[]), None);
    }

    #[test]
    fn differing_parameters_are_named() {
        let one = Parameters::test_network();
        let other = Parameters { service_ms: one.service_ms + 1, ..one };
        assert_eq!(differing(&one, &one), Vec::<String>::new());
        assert_eq!(differing(&one, &other), ["service_ms"]);
        assert_eq!(difference(UnixMillis(5), UnixMillis(3_600_005)), -3_600_000);
    }
}
