//! What the schedule makes of the documents that its gateway hands over: taken, refused, proof against the authorities.

use std::sync::Arc;

use shoal_protocol::Identity;
use shoal_protocol::consensus::{DocumentError, VerifiedConsensus};

use super::{CONSENSUS_SETTING, Schedule};
use crate::io::mailroom::Desk;
use crate::lack::Moment;
use crate::mail::Event;
use crate::profile::evidence::{self, Exhibit, Kind};
use crate::view::Offer;
use crate::witness::Evidence;

impl Schedule {
    pub(super) fn on_document(&mut self, bytes: Vec<u8>) {
        match self.view.offer(bytes, self.clock.unix()) {
            Ok(Offer::Newer(consensus)) => {
                self.is_of_use();
                self.on_newer(&consensus);
            }
            Ok(Offer::Known) => {
                self.is_of_use();
                self.offers.taken();
            }
            Ok(Offer::Early { in_ms }) => {
                self.is_of_use();
                self.offers.early(in_ms, self.network.parameters.epoch(), self.clock.unix());
            }
            Err(error) if error.may_be_another_set() => {
                self.note_refused(&error);
                // asked only now, and of the gateway that has the document: it learns which set this client knows
                self.link.ask_changes(self.view.set());
                self.complain(&format!("a consensus of authorities that are not known here, or forged: {error}"));
            }
            Err(error) => self.refuse(error),
        }
    }

    /// The gateway showed a document that this client believes.
    pub(super) fn is_of_use(&mut self) {
        if let Some(gateway) = &self.linked {
            self.guards.reached(gateway);
        }
    }

    /// The gateway's way from the authorities that this client knows to those of the newest document.
    pub(super) fn on_changes(&mut self, gateway: &Identity, changes: Vec<Vec<u8>>) {
        let mut led = false;
        for change in changes {
            match self.view.advance(&change) {
                Ok(further) => led |= further,
                Err(error) => {
                    self.refuse(error);
                    // what was true of it stays; another gateway may know the rest
                    return self.leave(gateway, "the gateway does not lead to its own consensus".to_owned());
                }
            }
        }
        if !led {
            return self.leave(gateway, "the gateway does not lead to its own consensus".to_owned());
        }
        if let Some(unproved) = self.view.unproved() {
            self.on_document(unproved);
        }
    }

    fn note_refused(&mut self, error: &DocumentError) {
        let moment = Moment {
            gateway: self.linked,
            at: self.clock.now(),
            unix: self.clock.unix(),
            epoch: self.network.parameters.epoch(),
        };
        self.offers.refused(error, self.view.held().map(|held| held.epoch), moment);
    }

    /// What is made of a document that the view does not take.
    pub(super) fn refuse(&mut self, error: DocumentError) {
        if !matches!(error, DocumentError::Conflict { .. }) {
            // the one before the newest is no old one: gateways take up the next one at different moments
            self.snapshot.rolled_back |=
                matches!(error, DocumentError::Rollback { found, newest } if found.plus(1) < newest);
            self.note_refused(&error);
            self.complain(&format!("the gateway handed over a consensus that is refused: {error}"));
            // one that is over is no lie: the authorities make none, or this clock is wrong, and others have no other
            let is_over = matches!(error, DocumentError::Expired { .. });
            if let Some(gateway) = self.linked
                && !is_over
                && self.view.in_force(self.clock.unix()).is_none()
            {
                self.leave(&gateway, format!("the gateway's consensus is refused: {error}"));
            }
            return;
        }
        tracing::error!(%error, "the authorities contradict themselves; payload stops");
        let evidence = self.view.evidence();
        // the first two are the evidence: what comes later does not displace them
        if self.snapshot.conflict.is_none() {
            if let Some(Evidence { held, other }) = evidence {
                self.keep_evidence([held, other].map(|shown| Exhibit {
                    kind: Kind::Document(shown.mark().epoch),
                    hash: shown.mark().hash,
                    bytes: shown.into_bytes(),
                }));
            }
            self.snapshot.conflict = Some(evidence::folder(&self.profile.clone().unwrap_or_default()));
        }
        self.publish();
        if let Some(mail) = &self.mail {
            let warning = Event::Warning { code: "conflict", message: error.to_string() };
            drop(mail.announcer().send(warning));
        }
    }

    pub(super) fn on_newer(&mut self, consensus: &Arc<VerifiedConsensus>) {
        tracing::debug!(epoch = consensus.epoch.0, "a newer consensus");
        self.hold(Arc::clone(consensus));
        self.keep(CONSENSUS_SETTING, consensus.bytes().to_vec());
        self.emission.traffic().set_parameters(&consensus.parameters, self.clock.now());
        self.snapshot.consensus = Some(Arc::clone(consensus));
        self.offers.taken();
        self.attempts = 0;
        self.aim();
        self.publish();
    }

    /// The mail thread names the newest document to contacts.
    pub(super) fn hold(&self, consensus: Arc<VerifiedConsensus>) {
        let Some(mail) = &self.mail else { return };
        let held = mail.submit(move |desk: &mut Desk<'_>| {
            if let Err(error) = desk.mail.held(&consensus, desk.now) {
                tracing::warn!(%error, "the profile could not note a document");
            }
        });
        if held.is_err() {
            tracing::error!("the mail thread is gone or does not keep up");
        }
    }

    /// After a restart nothing may leave either.
    fn keep_evidence(&self, evidence: [Exhibit; 2]) {
        let Some(mail) = &self.mail else { return };
        let stopped = self.stopped.clone();
        let kept = mail.submit(move |desk: &mut Desk<'_>| {
            if let Err(error) = desk.mail.shown_two(&evidence) {
                tracing::error!(%error, "the evidence against the authorities could not be kept");
            }
            stopped.note(desk.mail);
        });
        if kept.is_err() {
            tracing::error!("the mail thread is gone or does not keep up");
        }
    }
}
