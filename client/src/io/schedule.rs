//! The loop that turns ticks into packets: it sleeps, asks the pure rooms what to do, and does it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use shoal_protocol::Identity;
use shoal_protocol::network::{Hints, NetworkFile};
use shoal_protocol::sphinx::Packet;
use tokio::sync::{broadcast, mpsc, watch};

use super::clock::Clock;
use super::gateway::GatewayLink;
use super::mailroom::{Desk, MailRoom};
use super::snapshot::{LoopReport, Snapshot};
use crate::decoys::DecoyChains;
use crate::emission::{Emission, Gate, Step};
use crate::guard::Guards;
use crate::lack::Offers;
use crate::loops::Health;
use crate::mail::RateClass;
use crate::profile::evidence;
use crate::reach::Attempts;
use crate::requests::{LoopFate, Requests};
use crate::session::Session;
use crate::silence::Silence;
use crate::traffic::Traffic;
use crate::view::View;
use crate::want::{Ticket, Want};
use patience::Patience;
use stopped::Stopped;

mod documents;
mod link;
mod packets;
mod patience;
mod stopped;

/// Name of the setting that holds the newest consensus, as certified bytes.
pub(super) const CONSENSUS_SETTING: &str = "consensus";
/// Name of the setting that holds the guard gateways.
pub(super) const GUARDS_SETTING: &str = "guards";
/// Name of the setting that holds the chains that decoys pretend to read.
pub(super) const DECOYS_SETTING: &str = "decoys";
/// How often the snapshot is renewed and early documents are looked at, when nothing else happens.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the pretended chains are kept, if they changed: a crash forgets at most a minute of what never was.
const KEEP_DECOYS: Duration = Duration::from_secs(60);
/// A complaint that could repeat with every tick is logged this often at most.
const COMPLAINT_GAP: Duration = Duration::from_secs(60);

/// A packet on its way out, whether it is one of the loops that are counted, and the want it carries, if any.
struct Outgoing {
    packet: Packet,
    measured: bool,
    ticket: Option<Ticket>,
}

/// Everything the loop owns.
pub(super) struct Schedule {
    clock: Clock,
    rng: StdRng,
    network: NetworkFile,
    view: View,
    guards: Guards,
    emission: Emission<Outgoing>,
    session: Session,
    requests: Requests,
    link: GatewayLink,
    aimed: Option<(Identity, Vec<SocketAddr>)>,
    /// Attempts to reach a gateway that failed, while no document is in force.
    attempts: usize,
    /// With which hint of the network file this run begins, when it needs one.
    first_hint: usize,
    linked: Option<Identity>,
    silence: Silence,
    mail: Option<MailRoom>,
    profile: Option<PathBuf>,
    wants: mpsc::Receiver<Option<Want>>,
    wants_in: mpsc::Sender<Option<Want>>,
    snapshot: Snapshot,
    published: watch::Sender<Snapshot>,
    reports: broadcast::Sender<LoopReport>,
    housekeeping: Duration,
    patience: Patience,
    decoys_kept: Duration,
    complained: Option<Duration>,
    stopped: Stopped,
    /// What gateways handed over that could not be taken.
    offers: Offers,
    dialled: Attempts,
    /// Newer hints for the network file, from the user.
    hints: watch::Receiver<Hints>,
}

/// What the loop is started with.
pub(super) struct Setup {
    pub(super) clock: Clock,
    pub(super) network: NetworkFile,
    pub(super) class: RateClass,
    pub(super) kept: Kept,
    pub(super) mail: Option<MailRoom>,
    /// The profile's folder, if there is one.
    pub(super) profile: Option<PathBuf>,
    pub(super) published: watch::Sender<Snapshot>,
    pub(super) reports: broadcast::Sender<LoopReport>,
    /// Newer hints, when the user has some.
    pub(super) hints: watch::Receiver<Hints>,
}

/// What an earlier run kept in the profile.
#[derive(Default)]
pub(super) struct Kept {
    /// The newest consensus, as certified bytes.
    pub(super) consensus: Option<Vec<u8>>,
    /// The guards, as [`Guards::to_json`] wrote them.
    pub(super) guards: Option<Vec<u8>>,
    /// The chains that decoys pretend to read, as [`DecoyChains::to_bytes`] wrote them.
    pub(super) decoys: Option<Vec<u8>>,
    /// Where the evidence against the authorities lies, if there is any.
    pub(super) conflict: Option<PathBuf>,
    /// A client that has stopped still owes somebody the proof.
    pub(super) owes: bool,
}

impl Schedule {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { clock, network, class, kept, mail, profile, published, reports, hints } = setup;
        let Kept { consensus, guards, decoys, conflict, owes } = kept;
        let mut rng: StdRng = rand::make_rng();
        let now = clock.now();
        let mut view = View::new(network.trust_anchor());
        if let Some(bytes) = consensus {
            view.resume(&bytes);
        }
        let parameters = view.held().map_or(network.parameters, |held| held.parameters);
        let traffic = Traffic::new(class, &parameters, now, rng.random());
        let session = Session::new(&mut rng);
        let requests = if mail.is_some() {
            Requests::pretending(decoys.map(|bytes| DecoyChains::from_bytes(&bytes)).unwrap_or_default())
        } else {
            Requests::prober()
        };
        let snapshot = Snapshot::new(class, &network, clock.unix());
        // a public network: at most half a minute between two attempts; a test network: a quarter of its short epoch
        let pause_max = (parameters.epoch() / 4).clamp(Duration::from_secs(1), Duration::from_secs(30));
        let (wants_in, wants) = mpsc::channel(1);
        let mut schedule = Self {
            clock,
            attempts: 0,
            first_hint: first_hint(&network.hints, &mut rng),
            rng,
            network,
            view,
            guards: guards.map(|bytes| Guards::from_json(&bytes)).unwrap_or_default(),
            emission: Emission::new(traffic),
            session,
            requests,
            link: GatewayLink::start(pause_max),
            aimed: None,
            linked: None,
            silence: Silence::default(),
            mail,
            profile,
            wants,
            wants_in,
            snapshot,
            published,
            reports,
            housekeeping: now,
            patience: Patience::default(),
            decoys_kept: now,
            complained: None,
            stopped: Stopped::new(conflict.is_some(), owes),
            offers: Offers::default(),
            dialled: Attempts::default(),
            hints,
        };
        schedule.snapshot.consensus = schedule.view.held().cloned();
        if let Some(held) = schedule.view.held().cloned() {
            schedule.hold(held);
        }
        if let Some(at) = &conflict {
            tracing::error!(at = %at.display(), "the authorities have contradicted themselves; no payload is sent");
        }
        schedule.snapshot.conflict = conflict;
        schedule.aim();
        schedule
    }

    /// Runs until `stop` is set or its sender is gone.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let wake = self.clock.instant(self.next_wake());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return self.keep_decoys(),
                event = self.link.events.recv() => match event {
                    Some(event) => self.on_link(event),
                    None => return,
                },
                Some(want) = self.wants.recv() => self.emission.wanted(want),
                Ok(()) = self.hints.changed() => self.on_hints(),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.turn();
        }
    }

    fn next_wake(&self) -> Duration {
        let deadline = self.requests.next_deadline().unwrap_or(self.housekeeping);
        self.emission.next_wake().min(deadline).min(self.housekeeping)
    }

    /// Everything that is due.
    fn turn(&mut self) {
        while let Some(step) = self.emission.poll(self.clock.now(), self.gate()) {
            match step {
                Step::Make(ask, departs) => {
                    let made = self.make(ask, departs);
                    self.emission.made(made);
                }
                Step::AskForWant => self.ask(),
                Step::Depart(Outgoing { packet, measured, ticket }) => {
                    if self.link.send(packet, ticket) {
                        self.snapshot.packets_sent += 1;
                    }
                    if measured {
                        self.snapshot.loops.sent();
                    }
                }
                Step::GiveBack(want) => self.answer(want.ticket, None),
            }
        }
        let now = self.clock.now();
        if self.stopped.forked() && self.snapshot.conflict.is_none() {
            tracing::error!("a contact has proved that the authorities contradicted themselves; payload stops");
            self.snapshot.conflict = Some(evidence::folder(&self.profile.clone().unwrap_or_default()));
            self.publish();
        }
        while let Some(ended) = self.requests.expire(now) {
            self.silence.unanswered();
            self.on_ended(ended);
        }
        if let (Some(gateway), Some((_, epoch))) = (self.linked, self.view.in_force(self.clock.unix()))
            && self.silence.leave(epoch)
        {
            // no reply to what is out can come any more, and it was to come from there: lost, not void
            self.cut(LoopFate::Lost);
            self.linked = Some(gateway);
            self.snapshot.loops.left_in_silence();
            self.leave(&gateway, "the gateway answers nothing".to_owned());
        }
        if self.housekeeping <= now {
            self.housekeeping = now.saturating_add(HOUSEKEEPING);
            if let Some(early) = self.view.ripen() {
                self.on_document(early);
            }
            self.leave_if_it_has_nothing(now);
            if now.saturating_sub(self.decoys_kept) >= KEEP_DECOYS {
                self.decoys_kept = now;
                self.keep_decoys();
            }
            self.publish();
        }
    }

    // ---- packets -----------------------------------------------------------------------------------------------------

    fn gate(&self) -> Gate {
        Gate {
            open: self.linked.is_some() && self.view.in_force(self.clock.unix()).is_some(),
            payload: self.mail.is_some()
                && self.snapshot.loops.health() != Health::Pause
                && (self.snapshot.conflict.is_none() || self.stopped.owes()),
        }
    }

    // ---- the profile ---------------------------------------------------------------------------------------------------

    fn keep(&self, name: &'static str, value: Vec<u8>) {
        let Some(mail) = &self.mail else { return };
        let kept = mail.submit(move |desk: &mut Desk<'_>| {
            if let Err(error) = desk.mail.set_setting(name, &value) {
                tracing::warn!(%error, name, "the profile could not keep a setting");
            }
        });
        if kept.is_err() {
            tracing::error!("the mail thread is gone or does not keep up");
        }
    }

    fn keep_decoys(&mut self) {
        if self.mail.is_some()
            && let Some(bytes) = self.requests.decoys().to_bytes()
        {
            self.keep(DECOYS_SETTING, bytes.to_vec());
        }
    }

    // ---- reports -----------------------------------------------------------------------------------------------------

    fn publish(&mut self) {
        let now = self.clock.unix();
        let before = self.snapshot.connected();
        self.snapshot.gateway = self.linked;
        self.snapshot.in_force = self.view.in_force(now).is_some();
        self.snapshot.reach = self.dialled.reach(self.linked.is_some(), self.gateways_known());
        self.snapshot.lack = self.offers.lack(self.view.held().map(|held| &***held), now);
        self.snapshot.published = now;
        if self.snapshot.connected() != before {
            self.snapshot.since = now;
        }
        self.published.send_replace(self.snapshot.clone());
    }

    fn complain(&mut self, what: &str) {
        let now = self.clock.now();
        if self.complained.is_none_or(|last| now.saturating_sub(last) >= COMPLAINT_GAP) {
            self.complained = Some(now);
            tracing::warn!("{what}");
        }
    }
}

/// With which hint to begin: clients that begin alike must not all go to the first.
fn first_hint(hints: &Hints, rng: &mut StdRng) -> usize {
    rng.random_range(0..hints.gateways.len().max(1))
}
