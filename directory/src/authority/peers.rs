//! What is known of the other authorities, for `status`: who was heard, whose clock and whose wishes differ.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, UnixMillis};

use crate::signed_list::List;
use crate::wishes::advice::{Difference, differences};

/// One other authority, as far as its messages tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerState {
    /// When a message of it came last, in ms since 1970.
    pub heard: Option<UnixMillis>,
    /// How far its clock is ahead of ours, in ms, as its lists say. The way here, and a wait until a list got through, make
    /// it less: it is the larger difference of the last two lists.
    pub clock_ahead_ms: Option<i64>,
    /// The last list's own time and its difference.
    #[serde(skip)]
    last_list: Option<(UnixMillis, i64)>,
    /// Epoch of its last list.
    pub list_epoch: Option<Epoch>,
    /// Nodes on its last list.
    pub lists: usize,
    /// Parameters that it wants otherwise than the document in force has them.
    pub wants_other: Vec<Difference>,
    /// Whether it wants another set of authorities.
    pub wants_other_set: bool,
    /// That set.
    #[serde(skip)]
    pub wanted_set: Option<Vec<AuthorityKey>>,
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
        // a list that is sent again says the same time later
        if self.last_list.is_none_or(|(made_at, _)| made_at != list.made_at) {
            let ahead = difference(list.made_at, now);
            self.clock_ahead_ms = Some(self.last_list.map_or(ahead, |(_, before)| before.max(ahead)));
            self.last_list = Some((list.made_at, ahead));
        }
        self.list_epoch = Some(list.epoch);
        self.lists = list.entries.len();
        self.wants_other = differences(in_force, &list.parameters);
        self.wants_other_set = list.authorities.is_some();
        self.wanted_set.clone_from(&list.authorities);
        self.refused = None;
    }
}

/// What is wrong with this machine's clock, if at least `witnesses` others are ahead of it, or behind it, by more than
/// `tolerance`.
pub(super) fn clock_problem(peers: &PeerStates, tolerance: Duration, witnesses: usize) -> Option<String> {
    let tolerance = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
    let differences: Vec<i64> = peers.values().filter_map(|peer| peer.clock_ahead_ms).collect();
    let ahead = differences.iter().filter(|ahead| **ahead > tolerance).count();
    let behind = differences.iter().filter(|ahead| **ahead < -tolerance).count();
    let (count, how, by) = if ahead >= behind {
        (ahead, "behind", differences.iter().max()?)
    } else {
        (behind, "ahead of", differences.iter().min()?)
    };
    (count >= witnesses).then(|| {
        format!(
            "this machine's clock is {how} those of {count} other authorities, by up to {} ms; more than {tolerance} ms are \
             not tolerated: set it right",
            by.unsigned_abs()
        )
    })
}

fn difference(theirs: UnixMillis, ours: UnixMillis) -> i64 {
    i64::try_from(i128::from(theirs.0) - i128::from(ours.0)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_its_sign() {
        assert_eq!(difference(UnixMillis(5), UnixMillis(3_600_005)), -3_600_000);
    }

    #[test]
    fn a_wrong_clock_is_ours_when_enough_others_say_so() {
        let skew = Duration::from_secs(2);
        let peers = |differences: &[i64]| -> PeerStates {
            let state = |ms: &i64| PeerState { clock_ahead_ms: Some(*ms), ..PeerState::default() };
            (0..).zip(differences.iter().map(state)).collect()
        };
        assert_eq!(clock_problem(&peers(&[]), skew, 2), None);
        assert_eq!(clock_problem(&peers(&[5, 2_000, -2_000]), skew, 2), None);
        assert_eq!(clock_problem(&peers(&[5, 9_000, -9_000]), skew, 2), None, "one each way");
        let said = clock_problem(&peers(&[4_000, 9_000, 0]), skew, 2).expect("two of them");
        assert!(said.contains("is behind those of 2") && said.contains("9000 ms"), "{said}");
        let said = clock_problem(&peers(&[-4_000, -9_000, -3_000]), skew, 2).expect("all");
        assert!(said.contains("is ahead of those of 3"), "{said}");
    }
}
