//! What an authority shows of itself and of the others.

use std::collections::BTreeMap;

use shoal_protocol::Identity;

use super::{Authority, PeerStates, peers};
use crate::document::Dropped;

impl Authority {
    /// What the next document waits for, or what is wrong with this authority.
    #[must_use]
    pub fn waiting_for(&self) -> Option<&str> {
        self.clock_problem().or(self.waiting_for.as_deref()).or(self.muted)
    }

    /// That this machine's clock is wrong, if so many others say so that an honest one is among them.
    #[must_use]
    pub fn clock_problem(&self) -> Option<&str> {
        self.clock_problem.as_deref()
    }

    pub(super) fn judge_own_clock(&mut self) {
        let witnesses = crate::signed_list::witnesses(self.judge.place().authorities.len());
        let problem = peers::clock_problem(&self.peers, self.judge.genesis.parameters.skew(), witnesses);
        if problem.is_some() != self.clock_problem.is_some() {
            match &problem {
                Some(problem) => tracing::error!("{problem}"),
                None => tracing::info!("this machine's clock agrees with the other authorities' again"),
            }
        }
        self.clock_problem = problem;
    }

    /// What is known of the others.
    #[must_use]
    pub fn peers(&self) -> &PeerStates {
        &self.peers
    }

    /// Who was left out of the newest document, and why.
    #[must_use]
    pub fn dropped(&self) -> &BTreeMap<Identity, Dropped> {
        &self.dropped
    }

    /// The round of the agreement under way.
    #[must_use]
    pub fn round(&self) -> Option<u32> {
        self.seat.as_ref().and_then(|seat| seat.agreement.round())
    }
}
