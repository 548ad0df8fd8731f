//! Which gateway the schedule is linked to, when it leaves it, and what comes of what was out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use shoal_protocol::network::Hint;
use shoal_protocol::{Identity, UnixMillis};

use super::{GUARDS_SETTING, Schedule};
use crate::io::gateway::{LinkEvent, Target};
use crate::reach::Attempts;
use crate::requests::LoopFate;
use crate::session::Session;

/// Shortest and longest patience with a gateway that has no document in force; an eighth of an epoch in between.
const EMPTY_HANDED: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(120));
/// A guard that failed is passed over for one epoch, but no longer than this.
const GUARD_PAUSE_MAX: Duration = Duration::from_secs(600);

impl Schedule {
    pub(super) fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Packet(packet) => {
                self.snapshot.packets_received += 1;
                self.silence.packet();
                if let Some(ended) = self.requests.reply(&packet, &self.session, self.clock.now()) {
                    self.on_ended(ended);
                }
            }
            LinkEvent::Left(ticket) => {
                if let Some(ticket) = ticket {
                    self.departed(ticket);
                }
            }
            LinkEvent::Document(bytes) => self.on_document(bytes),
            LinkEvent::Changes(gateway, changes) => self.on_changes(&gateway, changes),
            LinkEvent::Up(gateway) => {
                self.linked = self.aimed.as_ref().is_some_and(|(aimed, _)| *aimed == gateway).then_some(gateway);
                self.snapshot.trouble = None;
                self.dialled.linked();
                self.silence.linked();
                self.begin_patience();
                self.publish();
            }
            // of a gateway that was left on purpose, this is no news
            LinkEvent::Down(gateway) if self.linked != Some(gateway) => {}
            LinkEvent::Down(_) => {
                self.cut(LoopFate::Void);
                self.snapshot.trouble = Some("the link to the gateway broke; it is being made again".to_owned());
                self.publish();
            }
            LinkEvent::Failed { gateway, reason, answered } => {
                self.dialled.failed(answered);
                self.leave(&gateway, reason);
            }
        }
    }

    /// A gateway without a document that is in force is of no use, whether it has none or keeps it back. Not at once: the
    /// authorities may have made none, and then every other gateway shows this client's address to one more party.
    pub(super) fn leave_if_it_has_nothing(&mut self, now: Duration) {
        self.begin_patience();
        let aimed = self.aimed.as_ref().map(|(gateway, _)| *gateway);
        if let Some(gateway) = aimed.filter(|_| self.patience.is_over(aimed, now)) {
            self.leave(&gateway, "the gateway has no document that is in force".to_owned());
        }
    }

    /// Its time runs from when the link stands without a document in force.
    fn begin_patience(&mut self) {
        if self.view.in_force(self.clock.unix()).is_some() {
            self.patience.served();
        } else if let Some(gateway) = self.linked {
            let length = (self.network.parameters.epoch() / 8).clamp(EMPTY_HANDED.0, EMPTY_HANDED.1);
            let jitter = self.rng.random_range(0.75..1.25);
            self.patience.begin(gateway, self.clock.now(), length.mul_f64(jitter));
        }
    }

    /// The gateway cannot be reached or is of no use: on to the next guard, or to the same one anew if there is no other.
    /// Of one that was left already this is no news.
    pub(super) fn leave(&mut self, gateway: &Identity, reason: String) {
        if self.aimed.as_ref().is_none_or(|(aimed, _)| aimed != gateway) {
            return;
        }
        tracing::info!(reason, "trying another gateway");
        let pause = self.network.parameters.epoch().min(GUARD_PAUSE_MAX);
        self.guards.failed(gateway, self.clock.unix(), pause);
        if self.view.in_force(self.clock.unix()).is_none() {
            self.attempts = self.attempts.wrapping_add(1);
        }
        self.snapshot.trouble = Some(reason);
        if self.linked.take().is_some() {
            self.aimed = None;
            self.cut(LoopFate::Void);
        }
        self.aim();
        self.publish();
    }

    /// The link is gone: nothing that is out will be answered on it, and nothing that waits may leave. `fate`: what to
    /// make of the loops that were out.
    pub(super) fn cut(&mut self, fate: LoopFate) {
        self.linked = None;
        for want in self.emission.cut() {
            self.answer(want.ticket, None);
        }
        while let Some(ended) = self.requests.cut(fate) {
            self.on_ended(ended);
        }
    }

    /// The user has a newer network file: where to dial, when there is no better word.
    pub(super) fn on_hints(&mut self) {
        self.network.hints = self.hints.borrow_and_update().clone();
        self.first_hint = super::first_hint(&self.network.hints, &mut self.rng);
        self.dialled = Attempts::default();
        if self.linked.is_none() {
            self.aim();
        }
        self.publish();
    }

    /// How many gateways there are to go to.
    pub(super) fn gateways_known(&self) -> usize {
        match self.view.in_force(self.clock.unix()) {
            Some((consensus, _)) => consensus.gateways().count(),
            None => self.guards.known(&self.hinted()),
        }
    }

    fn hinted(&self) -> Vec<(Identity, SocketAddr)> {
        self.network.hints.gateways.iter().map(|Hint { identity, address }| (*identity, *address)).collect()
    }

    /// Decides which gateway to link to. Another gateway is another session.
    pub(super) fn aim(&mut self) {
        let unix = self.clock.unix();
        let Some((gateway, addresses)) = self.choose(unix) else { return };
        let changed = match &self.aimed {
            Some((aimed, known)) => *aimed != gateway || (self.linked.is_none() && *known != addresses),
            None => true,
        };
        if !changed {
            return;
        }
        if self.aimed.as_ref().is_none_or(|(aimed, _)| *aimed != gateway) {
            self.cut(LoopFate::Void);
            self.session = Session::new(&mut self.rng);
        }
        self.aimed = Some((gateway, addresses.clone()));
        self.link.aim(Target { gateway, addresses, attach: self.session.attach().clone() });
    }

    pub(super) fn choose(&mut self, unix: UnixMillis) -> Option<(Identity, Vec<SocketAddr>)> {
        if let Some((consensus, _)) = self.view.in_force(unix) {
            let consensus = Arc::clone(consensus);
            let (chosen, changed) = self.guards.choose(&consensus, unix, &mut self.rng);
            if changed {
                self.keep(GUARDS_SETTING, self.guards.to_json());
            }
            let entry = chosen.and_then(|identity| consensus.node(&identity));
            if let Some(entry) = entry {
                return Some((entry.identity, entry.addresses.clone()));
            }
        }
        self.guards.without_consensus(&self.hinted(), self.attempts, self.first_hint)
    }
}
