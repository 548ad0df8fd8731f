//! The loop that turns ticks into packets: it sleeps, asks the pure rooms what to do, and does it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use shoal_protocol::Identity;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::sphinx::Packet;
use tokio::sync::{broadcast, mpsc, watch};

use super::clock::Clock;
use super::gateway::GatewayLink;
use super::mailroom::{Desk, MailRoom};
use super::snapshot::{LoopReport, Snapshot};
use crate::decoys::DecoyChains;
use crate::emission::{Emission, Gate, Step};
use crate::guard::Guards;
use crate::loops::{Health, Silence};
use crate::mail::{Event, RateClass};
use crate::profile::evidence;
use crate::requests::{Ask, Ended, LoopFate, Requests, Surroundings};
use crate::session::Session;
use crate::traffic::Traffic;
use crate::view::View;
use crate::want::{Ticket, Want};

mod documents;
mod link;

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
    /// When the gateway is left if it has shown no document that is in force until then.
    leave_at: Option<Duration>,
    decoys_kept: Duration,
    complained: Option<Duration>,
    /// Set by the mail thread: a contact proved that the authorities contradicted themselves.
    forked: Arc<AtomicBool>,
    /// Until when a client that stopped for that may still send what proves it.
    last_words_until: Duration,
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
}

impl Schedule {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { clock, network, class, kept, mail, profile, published, reports } = setup;
        let Kept { consensus, guards, decoys, conflict } = kept;
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
            first_hint: rng.random_range(0..network.hints.gateways.len().max(1)),
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
            leave_at: None,
            decoys_kept: now,
            complained: None,
            forked: Arc::default(),
            last_words_until: Duration::ZERO,
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
        if self.forked.load(Ordering::Relaxed) && self.snapshot.conflict.is_none() {
            tracing::error!("a contact has proved that the authorities contradicted themselves; payload stops");
            self.snapshot.conflict = Some(evidence::folder(&self.profile.clone().unwrap_or_default()));
            self.last_words_until = now.saturating_add(self.network.parameters.epoch());
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
                && (self.snapshot.conflict.is_none() || self.clock.now() < self.last_words_until),
        }
    }

    /// Makes the packet; a want that cannot be asked now goes back unanswered.
    fn make(&mut self, ask: Ask, departs: Duration) -> Option<Outgoing> {
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
    fn ask(&mut self) {
        let (Some(mail), Some(consensus)) = (&self.mail, self.view.held().cloned()) else {
            return self.emission.wanted(None);
        };
        let wants = self.wants_in.clone();
        let asked = mail.submit(move |desk: &mut Desk<'_>| {
            let want = desk.mail.next_want(desk.now, &consensus, desk.rng).unwrap_or_else(|error| {
                tracing::warn!(%error, "the profile gave no want");
                None
            });
            // one question is out at a time and its answer is always taken: the channel of one has room
            let _ = wants.try_send(want);
        });
        if asked.is_err() {
            self.emission.wanted(None);
        }
    }

    // ---- replies -----------------------------------------------------------------------------------------------------

    fn on_ended(&mut self, ended: Ended) {
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

    fn answer(&self, ticket: Ticket, answers: Option<shoal_protocol::request::Answers>) {
        let (Some(mail), Some(consensus)) = (&self.mail, self.view.held().cloned()) else { return };
        let (events, forked) = (mail.announcer(), Arc::clone(&self.forked));
        let submitted = mail.submit(move |desk: &mut Desk<'_>| {
            match desk.mail.answered(ticket, answers.as_ref(), desk.now, &consensus, desk.rng) {
                Ok(happened) => happened.into_iter().for_each(|event| drop(events.send(event))),
                Err(error) => {
                    tracing::warn!(%error, "the profile could not take an answer");
                    let warning = Event::Warning { code: "profile", message: error.to_string() };
                    drop(events.send(warning));
                }
            }
            forked.store(desk.mail.network_forked(), Ordering::Relaxed);
        });
        if submitted.is_err() {
            tracing::error!("the mail thread is gone or does not keep up");
        }
    }

    /// The packet of a want went onto the gateway link.
    fn departed(&self, ticket: Ticket) {
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
