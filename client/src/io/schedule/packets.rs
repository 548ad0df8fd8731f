//! What fills a packet, and what becomes of it: wants of the mail thread, loops that measure.

use shoal_protocol::request::Answers;

use super::{Outgoing, Schedule};
use crate::io::mailroom::Desk;
use crate::io::snapshot::LoopReport;
use crate::mail::Event;
use crate::requests::{Ask, Ended, LoopFate, Surroundings};
use crate::want::Ticket;
use std::time::Duration;

impl Schedule {
    /// Makes the packet; a want that cannot be asked now goes back unanswered.
    pub(super) fn make(&mut self, ask: Ask, departs: Duration) -> Option<Outgoing> {
        let ticket = if let Ask::Want(want) = &ask { Some(want.ticket) } else { None };
        let measured = matches!(ask, Ask::Loop) || self.mail.is_none();
        if let (Some((consensus, epoch)), Some(gateway)) = (self.view.in_force(self.clock.unix()), &self.linked) {
            let around = Surroundings { consensus, epoch, gateway, now: self.clock.unix() };
            match self.requests.make(ask, around, &mut self.session, departs, &mut self.rng) {
                Ok(packet) => return Some(Outgoing { packet, measured, ticket }),
                Err(error) => {
                    // a network in which no loop can be built carries nothing, as one that loses it
                    if measured {
                        self.snapshot.loops.sent();
                        self.snapshot.loops.lost();
                    }
                    self.complain(&format!("no request can be made: {error}"));
                }
            }
        }
        if let Some(ticket) = ticket {
            self.answer(ticket, None);
        }
        None
    }

    /// Asks the mail thread for a want.
    pub(super) fn ask(&mut self) {
        let (Some(mail), Some(consensus)) = (&self.mail, self.view.held().cloned()) else {
            return self.emission.wanted(None);
        };
        let (wants, stopped) = (self.wants_in.clone(), self.stopped.clone());
        let asked = mail.submit(move |desk: &mut Desk<'_>| {
            let want = desk.mail.next_want(desk.now, &consensus, desk.rng).unwrap_or_else(|error| {
                tracing::warn!(%error, "the profile gave no want");
                None
            });
            stopped.note(desk.mail);
            // one question is out at a time and its answer is always taken: the channel of one has room
            let _ = wants.try_send(want);
        });
        if asked.is_err() {
            self.emission.wanted(None);
        }
    }

    pub(super) fn on_ended(&mut self, ended: Ended) {
        match ended {
            Ended::Want { ticket, answers } => self.answer(ticket, answers),
            Ended::Decoy => {}
            Ended::Loop { fate, nodes } => {
                let round_trip = match fate {
                    LoopFate::Returned(round_trip) => {
                        self.snapshot.loops.returned(round_trip);
                        Some(round_trip)
                    }
                    LoopFate::Lost => {
                        self.snapshot.loops.lost();
                        None
                    }
                    LoopFate::Void => return self.snapshot.loops.void(),
                };
                if !nodes.is_empty() {
                    // nobody may be listening
                    let _ = self.reports.send(LoopReport { nodes, ended_at: self.clock.unix(), round_trip });
                }
            }
        }
    }

    pub(super) fn answer(&self, ticket: Ticket, answers: Option<Answers>) {
        let (Some(mail), Some(consensus)) = (&self.mail, self.view.held().cloned()) else { return };
        let (events, stopped) = (mail.announcer(), self.stopped.clone());
        let submitted = mail.submit(move |desk: &mut Desk<'_>| {
            match desk.mail.answered(ticket, answers.as_ref(), desk.now, &consensus, desk.rng) {
                Ok(happened) => happened.into_iter().for_each(|event| drop(events.send(event))),
                Err(error) => {
                    tracing::warn!(%error, "the profile could not take an answer");
                    let warning = Event::Warning { code: "profile", message: error.to_string() };
                    drop(events.send(warning));
                }
            }
            stopped.note(desk.mail);
        });
        if submitted.is_err() {
            tracing::error!("the mail thread is gone or does not keep up");
        }
    }

    /// The packet of a want went onto the gateway link.
    pub(super) fn departed(&self, ticket: Ticket) {
        let Some(mail) = &self.mail else { return };
        let submitted = mail.submit(move |desk: &mut Desk<'_>| {
            if let Err(error) = desk.mail.departed(ticket) {
                tracing::warn!(%error, "the profile could not note a departure");
            }
        });
        if submitted.is_err() {
            tracing::error!("the mail thread is gone or does not keep up");
        }
    }
}
