//! From what the agreement decides to the next document, and what begins behind it.

use std::sync::Arc;

use shoal_protocol::UnixMillis;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus, assemble};

use super::{Act, Authority, EVIDENCE_KEPT, LOST};
use crate::agreement::Action;
use crate::schedule::released_at;

impl Authority {
    /// What follows from what the agreement wants.
    pub(super) fn carry_out(&mut self, actions: Vec<Action>, now: UnixMillis) -> Vec<Act> {
        let mut acts = Vec::new();
        for action in actions {
            // the next log has begun: what is still said about the height before belongs into none
            let over = acts.iter().any(|act| matches!(act, Act::Certified(_)));
            match action {
                Action::Log(_) if over => {}
                Action::Log(entry) => acts.push(Act::Log(entry)),
                Action::Broadcast(message) => acts.push(Act::Agree(message)),
                Action::Propose { height, round } => {
                    if let Some(seat) = &mut self.seat {
                        seat.proposing = Some((height, round));
                    }
                }
                Action::Decided { certificate, value } => {
                    if let Some(draft) = self.judge.document(&value) {
                        let certified = assemble(&draft.document, &certificate);
                        self.dropped.clone_from(&draft.dropped);
                        match self.adopt(&certified, now) {
                            Ok(more) => acts.extend(more),
                            Err(error) => tracing::error!(%error, "what was decided does not verify"),
                        }
                    }
                }
                Action::Completed(certificate) => acts.extend(self.complete(&certificate, now)),
                Action::Misbehaviour(evidence) => {
                    self.peers.entry(evidence.authority()).or_default().contradicts_itself = true;
                    if self.evidence.len() < EVIDENCE_KEPT {
                        self.evidence.push_back(evidence.clone());
                        acts.push(Act::Misbehaviour(evidence));
                    }
                }
                Action::Muted { reason } => {
                    tracing::error!(reason, "this authority does not sign this document");
                    self.muted = Some(reason);
                }
            }
        }
        acts
    }

    /// Puts the certificate that everybody comes to under the newest document, while nobody has been handed it: what one
    /// server hands out does not change, and does not differ from what others do.
    fn complete(&mut self, certificate: &Certificate, now: UnixMillis) -> Option<Act> {
        let newest = self.newest()?;
        let released = released_at(&self.judge.genesis.schedule, newest.epoch, newest.parameters.skew());
        if newest.mark() != certificate.mark() || now >= released {
            return None;
        }
        // the seat at which it was agreed on is kept only while the set stays
        let anchor = self.anchor();
        let parsed = UnverifiedConsensus::parse(&assemble(newest, certificate)).ok()?;
        let document = Arc::new(parsed.verify_any_time(&anchor).ok()?);
        self.judge.previous = Some(Arc::clone(&document));
        Some(Act::Completed(document))
    }

    /// Moves behind a certified document.
    pub(super) fn certified(&mut self, document: Arc<VerifiedConsensus>, now: UnixMillis) -> Vec<Act> {
        let height = document.height;
        let same_set = self.judge.place().authorities == document.authorities.as_slice();
        self.judge.follow(Arc::clone(&document));
        self.gathering.clear();
        self.lost = self.lost.filter(|until| document.epoch <= *until);
        self.muted = self.lost.map(|_| LOST);
        (self.frozen, self.due_since, self.waiting_for, self.fruitless) = (None, None, None, None);
        self.silent_until = self.silent_until.min(now);
        match &mut self.seat {
            Some(seat) if same_set => {
                seat.proposing = None;
                // one that decided goes on telling the others; one that did not must not sign at an old height
                if seat.agreement.height() != Some((height, true)) {
                    seat.agreement.stop();
                }
            }
            Some(_) | None => {
                // others sit at these indices now
                self.peers.clear();
                self.take_seat();
            }
        }
        let mut acts = vec![Act::Certified(document)];
        if self.lost.is_none() {
            acts.push(Act::BeginLog);
        }
        acts
    }
}
