//! What time does: the list that is due, the document that is late, and when to look again.

use std::time::Duration;

use shoal_protocol::UnixMillis;

use super::{Act, Authority, Genesis};
use crate::lists::Listing;
use crate::schedule::{Due, due, patience};

impl Authority {
    /// Lets time pass.
    pub fn wake(&mut self, listing: &Listing, now: UnixMillis) -> Vec<Act> {
        self.judge.now = now;
        let mut acts = Vec::new();
        if let Some(seat) = &mut self.seat {
            let actions = seat.agreement.wake(now, &self.judge);
            acts.extend(self.carry_out(actions, now));
        }
        match due(&self.judge.genesis.schedule, self.newest().map(|newest| newest.epoch), now) {
            Due::Document(epoch) => {
                let since = *self.due_since.get_or_insert(now);
                acts.extend(self.freeze_if_due(epoch, since, listing, now));
                acts.extend(self.try_to_propose(now));
                if now.since(since) >= self.ask_after()
                    && self.asked_at.is_none_or(|at| at > now || now.since(at) >= self.ask_after())
                {
                    acts.extend(self.ask(now));
                }
            }
            Due::Wait(_) => {
                self.due_since = None;
                if self.is_to_speak_early() {
                    acts.extend(self.speak_early(listing, now));
                }
            }
        }
        acts
    }

    /// When [`Self::wake`] wants to be called, at the latest. A shell that looks at the clock more often does no harm.
    #[must_use]
    pub fn next_wake(&self, now: UnixMillis) -> UnixMillis {
        let agreement = self.seat.as_ref().and_then(|seat| seat.agreement.next_wake());
        let due = match due(&self.judge.genesis.schedule, self.newest().map(|newest| newest.epoch), now) {
            Due::Wait(_) if self.is_to_speak_early() => now,
            Due::Wait(until) => until,
            Due::Document(_) => now.plus(self.timing().base() / 4),
        };
        agreement.map_or(due, |wake| wake.min(due))
    }

    /// How long a due document is waited for before others are asked whether they have it.
    fn ask_after(&self) -> Duration {
        patience(&self.judge.genesis.schedule)
    }

    pub(super) fn ask(&mut self, now: UnixMillis) -> Vec<Act> {
        self.asked_at = Some(now);
        vec![Act::Ask]
    }

    /// Whether a document is due, by a clock that may be ahead of ours by the tolerance.
    pub(super) fn is_nearly_due(&self, now: UnixMillis) -> bool {
        let Genesis { schedule, parameters, .. } = &self.judge.genesis;
        let newest = self.newest().map(|newest| newest.epoch);
        matches!(due(schedule, newest, now.plus(parameters.skew())), Due::Document(_))
    }
}
