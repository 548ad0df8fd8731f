//! Refused descriptors, as `status` shows them: the last ones, with their time, and not for ever.

use std::collections::VecDeque;

use serde::Serialize;
use shoal_protocol::{Epoch, Identity, UnixMillis};

/// Refusals remembered, each below 300 bytes.
const KEPT: usize = 32;
/// Epochs after which one is forgotten. A node that is still refused says so every epoch.
const EPOCHS_KEPT: u64 = 3;

/// A refused descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// When it was last refused, in ms since 1970.
    pub at: UnixMillis,
    /// The epoch of that.
    pub epoch: Epoch,
    /// How often since it was remembered.
    pub count: u64,
    /// What its operator was told.
    pub reason: String,
}

/// The last refusals.
#[derive(Clone, Debug, Default)]
pub struct Refusals(VecDeque<Refused>);

impl Refusals {
    /// Takes note of one.
    pub fn note(&mut self, reason: String, now: UnixMillis, epoch: Epoch) {
        let before = self.0.iter().position(|before| before.reason == reason).and_then(|at| self.0.remove(at));
        let count = 1 + before.as_ref().map_or(0, |before| before.count);
        while self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Refused { at: now, epoch, count, reason });
    }

    /// Forgets what was said about a node: it is listed now.
    pub fn settle(&mut self, identity: &Identity) {
        let name = identity.to_string();
        self.0.retain(|refused| !refused.reason.contains(&name));
    }

    /// Those that are not too old in `epoch`, newest last.
    pub fn lately(&self, epoch: Epoch) -> impl Iterator<Item = &Refused> {
        self.0.iter().filter(move |refused| epoch.0.saturating_sub(refused.epoch.0) < EPOCHS_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_a_time_and_go_after_some_epochs() {
        let mut refusals = Refusals::default();
        for (reason, at, epoch) in [("a: not admitted", 1, 5), ("b: not admitted", 2, 5), ("a: not admitted", 3, 6)] {
            refusals.note(reason.to_owned(), UnixMillis(at), Epoch(epoch));
        }
        let lately = |epoch| refusals.lately(Epoch(epoch)).map(|one| (one.at.0, one.count)).collect::<Vec<_>>();
        assert_eq!(lately(6), [(2, 1), (3, 2)]);
        assert_eq!(lately(8), [(3, 2)], "b was refused three epochs ago");
        assert_eq!(lately(9), []);
    }

    #[test]
    fn who_is_listed_is_not_shown_as_refused() {
        let (one, other) = (Identity::from_bytes([1; 32]), Identity::from_bytes([2; 32]));
        let mut refusals = Refusals::default();
        for identity in [one, other] {
            refusals.note(format!("{identity} is not admitted here"), UnixMillis(1), Epoch(1));
        }
        refusals.settle(&one);
        let left: Vec<_> = refusals.lately(Epoch(1)).map(|refused| refused.reason.clone()).collect();
        assert_eq!(left, [format!("{other} is not admitted here")]);
    }

    #[test]
    fn strangers_cannot_fill_it() {
        let mut refusals = Refusals::default();
        for number in 0..100 {
            refusals.note(number.to_string(), UnixMillis(number), Epoch(1));
        }
        assert_eq!(refusals.lately(Epoch(1)).count(), KEPT);
    }
}
