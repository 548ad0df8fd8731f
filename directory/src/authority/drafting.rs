//! When this authority freezes its list, and the document it proposes.

use std::time::Duration;

use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::{Epoch, Hash, Identity, Role, UnixMillis};

use super::{Act, Authority, Genesis, Memory, needed};
use crate::agreement::Value;
use crate::document::most_are_back;
use crate::list_message::ListMessage;
use crate::lists::Listing;
use crate::proposal::VerifiedProposal;
use crate::randomness;
use crate::schedule::{after_outage, patience};
use crate::signed_list::List;

/// The list that was frozen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frozen {
    epoch: Epoch,
    at: UnixMillis,
    sent: UnixMillis,
    listing: Hash,
}

impl Authority {
    /// Freezes and sends this authority's list for `epoch` when enough nodes are on it, and begins to agree.
    pub(super) fn freeze_if_due(
        &mut self,
        epoch: Epoch,
        since: UnixMillis,
        listing: &Listing,
        now: UnixMillis,
    ) -> Vec<Act> {
        let Some(me) = self.index() else { return Vec::new() };
        let newest = self.newest().cloned();
        let wait = patience(&self.judge.genesis.schedule);
        let first = newest.is_none();
        let outage = after_outage(newest.as_ref().map(|newest| newest.epoch), epoch);
        if let Some(frozen) = &self.frozen {
            // for the first document and after an outage nodes are still coming: the list is renewed while they do
            let renew = (first || outage)
                && (frozen.at > now || now.since(frozen.at) >= wait)
                && listing.state() != frozen.listing;
            if frozen.epoch == epoch && !renew {
                let mut acts = self.send_again(me, wait, now);
                acts.extend(self.begin_if_silent(now));
                return acts;
            }
        }
        if let Some(shortage) = shortage(&self.judge.genesis, newest.as_deref(), listing) {
            self.waiting_for = Some(shortage);
            return Vec::new();
        }
        if outage
            && now.since(since) < wait
            && !most_are_back(
                &self.judge.genesis.rules(),
                newest.as_ref().map(|newest| &***newest),
                epoch,
                listing.descriptors(),
            )
        {
            self.waiting_for = Some("waiting for nodes to publish again after an outage of the directory".to_owned());
            return Vec::new();
        }
        let head = self.head(me, epoch, now);
        let message = match ListMessage::freeze(head, listing.descriptors(), &self.secret) {
            Ok(message) => message,
            Err(error) => {
                self.waiting_for = Some(format!("this authority's list: {error}"));
                return Vec::new();
            }
        };
        self.frozen = Some(Frozen { epoch, at: now, sent: now, listing: listing.state() });
        let bytes = message.to_bytes();
        self.gathering.keep_own(message);
        let mut acts = vec![Act::List(bytes)];
        acts.extend(self.begin_if_silent(now));
        acts
    }

    /// Whether nothing was sent yet for the next document, while the own clock is known to be wrong.
    pub(super) fn is_to_speak_early(&self) -> bool {
        self.clock_problem().is_some() && self.newest().is_some() && self.spoke_for != Some(self.height())
    }

    /// Sends a list once for each document although none is due by the own clock, which is far behind: the others learn
    /// whose clock it is. It holds what is listed here, as any list does, and nothing is signed for it.
    pub(super) fn speak_early(&mut self, listing: &Listing, now: UnixMillis) -> Vec<Act> {
        self.spoke_for = Some(self.height());
        let (Some(me), Some(newest)) = (self.index(), self.newest()) else { return Vec::new() };
        let head = self.head(me, newest.epoch.plus(1), now);
        // a list that cannot be made is not missed: it would only have told the time
        let message = ListMessage::freeze(head, listing.descriptors(), &self.secret);
        message.map(|message| vec![Act::List(message.to_bytes())]).unwrap_or_default()
    }

    /// A list that got lost, or came before its reader was there, is sent again while the document is still open.
    fn send_again(&mut self, me: u16, after: Duration, now: UnixMillis) -> Vec<Act> {
        let Some(frozen) = self.frozen.as_mut().filter(|frozen| frozen.sent > now || now.since(frozen.sent) >= after)
        else {
            return Vec::new();
        };
        frozen.sent = now;
        self.gathering.of(me).map(|message| vec![Act::List(message.to_bytes())]).unwrap_or_default()
    }

    pub(super) fn begin_if_silent(&mut self, now: UnixMillis) -> Vec<Act> {
        let height = self.height();
        let at = self.seat.as_ref().and_then(|seat| seat.agreement.height()).map(|(height, _)| height);
        let memory = if self.lost.is_some() { Memory::Lost } else { Memory::Fresh };
        if now >= self.silent_until && at != Some(height) { self.begin(memory, now) } else { Vec::new() }
    }

    /// What this authority says beside its nodes.
    fn head(&self, me: u16, epoch: Epoch, now: UnixMillis) -> List {
        let set = self.judge.place().authorities;
        let own = self.secret.public().identity;
        let is_to_be_said = |identity: &Identity| *identity == own || set.iter().all(|key| key.identity != *identity);
        let Genesis { network, parameters, .. } = self.judge.genesis;
        let newest = self.newest().map(|newest| &***newest);
        List {
            network,
            authority: me,
            height: self.height(),
            epoch,
            made_at: now,
            entries: Vec::new(),
            contribution: randomness::contribution(&self.secret, &network, newest, epoch),
            parameters: self.wishes.parameters.unwrap_or(newest.map_or(parameters, |newest| newest.parameters)),
            authorities: self.wishes.authorities.clone().filter(|wanted| *wanted != set),
            addresses: (self.wishes.addresses.iter())
                .filter(|(identity, _)| is_to_be_said(identity))
                .map(|(identity, address)| (*identity, *address))
                .take(MAX_AUTHORITIES)
                .collect(),
        }
    }

    /// Offers a document when this authority is asked to and the lists are there.
    pub(super) fn try_to_propose(&mut self, now: UnixMillis) -> Vec<Act> {
        let Some((height, round)) = self.seat.as_ref().and_then(|seat| seat.proposing) else { return Vec::new() };
        let Some(value) = self.value(now) else { return Vec::new() };
        let Some(seat) = &mut self.seat else { return Vec::new() };
        seat.proposing = None;
        let actions = seat.agreement.propose(height, round, value, now, &self.judge);
        self.carry_out(actions, now)
    }

    /// The document to propose, once the lists for it are there.
    pub(super) fn value(&mut self, now: UnixMillis) -> Option<Value> {
        let epoch = self.frozen.as_ref()?.epoch;
        let (all, enough) = {
            let place = self.judge.place();
            (place.authorities.len(), needed(place.authorities))
        };
        let patience: Duration = self.timing().base() / 2;
        if self.gathering.is_ripe(epoch, enough, all, patience, now).is_err() {
            let there = self.gathering.for_epoch(epoch).len();
            self.waiting_for = Some(format!("waiting for lists of other authorities: {there} of {enough} are here"));
            return None;
        }
        // asked at every message and look at the clock: what the same lists come to does not change
        let state = self.gathering.state(epoch);
        if self.fruitless == Some(state) {
            return None;
        }
        self.fruitless = Some(state);
        let proposal = VerifiedProposal::compose(&self.judge.place(), epoch, &self.gathering.for_epoch(epoch));
        let proposal = match proposal {
            Ok(proposal) => proposal,
            Err(error) => {
                self.waiting_for = Some(error.to_string());
                return None;
            }
        };
        match self.judge.draft(&proposal) {
            Some((document, _)) => {
                (self.waiting_for, self.fruitless) = (None, None);
                Some(Value { document, proposal: proposal.bytes().into() })
            }
            None => {
                self.waiting_for = Some("the lists of the authorities do not make a document yet".to_owned());
                None
            }
        }
    }
}

/// What the first document lacks, by this authority's own list.
fn shortage(genesis: &Genesis, newest: Option<&VerifiedConsensus>, listing: &Listing) -> Option<String> {
    if newest.is_some() {
        return None;
    }
    let mixes = 3 * usize::from(genesis.parameters.mixes_per_layer);
    let parts = [
        ("gateways", Role::Gateway, genesis.gateways.max(1)),
        ("mixes", Role::Mix, mixes),
        ("stores", Role::Store, genesis.stores),
    ];
    let short = parts.iter().any(|(_, role, needed)| listing.count(*role) < *needed);
    short.then(|| {
        let each = parts.map(|(name, role, needed)| format!("{} of {needed} {name}", listing.count(role).min(needed)));
        format!("waiting for nodes: {}", each.join(", "))
    })
}
