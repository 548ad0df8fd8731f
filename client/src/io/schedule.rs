//! The loop that turns ticks into packets: it sleeps, asks the pure rooms what to do, and does it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use shoal_protocol::consensus::{DocumentError, VerifiedConsensus};
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::{Epoch, Hash, Identity, UnixMillis};
use tokio::sync::{broadcast, mpsc, watch};

use super::clock::Clock;
use super::gateway::{GatewayLink, LinkEvent, Target};
use super::mailroom::{Desk, MailRoom};
use super::snapshot::{LoopReport, Snapshot};
use crate::decoys::DecoyChains;
use crate::emission::{Emission, Gate, Step};
use crate::guard::Guards;
use crate::loops::{Health, Silence};
use crate::mail::{Event, RateClass};
use crate::profile::evidence::{self, Exhibit};
use crate::requests::{Ask, Ended, LoopFate, Requests, Surroundings};
use crate::session::Session;
use crate::traffic::Traffic;
use crate::view::{Offer, View};
use crate::want::{Ticket, Want};

/// Name of the setting that holds the newest consensus, as certified bytes.
pub(super) const CONSENSUS_SETTING: &str = "consensus";
/// Name of the setting that holds the guard gateways.
pub(super) const GUARDS_SETTING: &str = "guards";
/// Name of the setting that holds the chains that decoys pretend to read.
pub(super) const DECOYS_SETTING: &str = "decoys";
/// How often the snapshot is renewed and early documents are looked at, when nothing else happens.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Shortest and longest patience with a gateway that has no document in force; an eighth of an epoch in between.
const EMPTY_HANDED: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(120));
/// A guard that failed is passed over for one epoch, but no longer than this.
const GUARD_PAUSE_MAX: Duration = Duration::from_secs(600);
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

    // ---- link and documents ------------------------------------------------------------------------------------------

    fn on_link(&mut self, event: LinkEvent) {
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
                self.silence.linked();
                self.publish();
            }
            // of a gateway that was left on purpose, this is no news
            LinkEvent::Down(gateway) if self.linked != Some(gateway) => {}
            LinkEvent::Down(_) => {
                self.cut(LoopFate::Void);
                self.snapshot.trouble = Some("the link to the gateway broke; it is being made again".to_owned());
                self.publish();
            }
            LinkEvent::Failed(gateway, reason) => self.leave(&gateway, reason),
        }
    }

    /// A gateway without a document that is in force is of no use, whether it has none or keeps it back. Not at once: the
    /// authorities may have made none, and then every other gateway shows this client's address to one more party.
    fn leave_if_it_has_nothing(&mut self, now: Duration) {
        let Some(gateway) = self.linked.filter(|_| self.view.in_force(self.clock.unix()).is_none()) else {
            self.leave_at = None;
            return;
        };
        let patience = (self.network.parameters.epoch() / 8).clamp(EMPTY_HANDED.0, EMPTY_HANDED.1);
        let jitter = self.rng.random_range(0.75..1.25);
        let at = *self.leave_at.get_or_insert_with(|| now.saturating_add(patience.mul_f64(jitter)));
        if now >= at {
            self.leave_at = None;
            self.leave(&gateway, "the gateway has no document that is in force".to_owned());
        }
    }

    /// The gateway cannot be reached or is of no use: on to the next guard, or to the same one anew if there is no other.
    /// Of one that was left already this is no news.
    fn leave(&mut self, gateway: &Identity, reason: String) {
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
    fn cut(&mut self, fate: LoopFate) {
        self.linked = None;
        for want in self.emission.cut() {
            self.answer(want.ticket, None);
        }
        while let Some(ended) = self.requests.cut(fate) {
            self.on_ended(ended);
        }
    }

    fn on_document(&mut self, bytes: Vec<u8>) {
        let kept = self.mail.is_some().then(|| bytes.clone());
        match self.view.offer(bytes, self.clock.unix()) {
            Ok(Offer::Newer(consensus)) => {
                self.is_of_use();
                self.on_newer(&consensus);
            }
            Ok(Offer::Known | Offer::Early) => {
                self.is_of_use();
                self.snapshot.other_network = false;
            }
            Err(error) if error.may_be_another_set() => {
                // asked only now, and of the gateway that has the document: it learns which set this client knows
                self.link.ask_changes(self.view.set());
                self.complain(&format!("a consensus of authorities that are not known here, or forged: {error}"));
            }
            Err(error) => self.refuse(error, kept),
        }
    }

    /// The gateway showed a document that this client believes.
    fn is_of_use(&mut self) {
        if let Some(gateway) = &self.linked {
            self.guards.reached(gateway);
        }
    }

    /// The gateway's way from the authorities that this client knows to those of the newest document.
    fn on_changes(&mut self, gateway: &Identity, changes: Vec<Vec<u8>>) {
        let mut led = false;
        for change in changes {
            match self.view.advance(&change) {
                Ok(further) => led |= further,
                Err(error) => {
                    self.refuse(error, self.mail.is_some().then_some(change));
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

    /// What is made of a document, with its bytes, that the view does not take.
    fn refuse(&mut self, error: DocumentError, bytes: Option<Vec<u8>>) {
        let DocumentError::Conflict { epoch, seen, found, .. } = error else {
            self.snapshot.rolled_back |= matches!(error, DocumentError::Rollback { .. });
            self.snapshot.other_network |= matches!(error, DocumentError::WrongNetwork { .. });
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
        };
        tracing::error!(%error, "the authorities contradict themselves; payload stops");
        // the first two are the evidence: what comes later does not displace them
        if self.snapshot.conflict.is_none() {
            let at = self.profile.clone().unwrap_or_default();
            if let (Some(bytes), Some(held)) = (bytes, self.view.held().cloned()) {
                self.keep_evidence(at.clone(), epoch, (seen, held.bytes().to_vec()), (found, bytes));
            }
            self.snapshot.conflict = Some(evidence::folder(&at));
        }
        self.publish();
        if let Some(mail) = &self.mail {
            let warning = Event::Warning { code: "conflict", message: error.to_string() };
            drop(mail.announcer().send(warning));
        }
    }

    fn on_newer(&mut self, consensus: &Arc<VerifiedConsensus>) {
        tracing::debug!(epoch = consensus.epoch.0, "a newer consensus");
        self.hold(Arc::clone(consensus));
        self.keep(CONSENSUS_SETTING, consensus.bytes().to_vec());
        self.emission.traffic().set_parameters(&consensus.parameters, self.clock.now());
        self.snapshot.consensus = Some(Arc::clone(consensus));
        self.snapshot.other_network = false;
        self.attempts = 0;
        self.aim();
        self.publish();
    }

    /// The mail thread names the newest document to contacts.
    fn hold(&self, consensus: Arc<VerifiedConsensus>) {
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

    /// After a restart nothing may leave either.
    fn keep_evidence(&self, profile: PathBuf, epoch: Epoch, held: (Hash, Vec<u8>), other: (Hash, Vec<u8>)) {
        let Some(mail) = &self.mail else { return };
        let kept = mail.submit(move |_: &mut Desk<'_>| {
            if let Err(error) =
                evidence::keep(&profile, Exhibit::Documents(epoch), (held.0, &held.1), (other.0, &other.1))
            {
                tracing::error!(%error, "the evidence against the authorities could not be kept");
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

    /// Decides which gateway to link to. Another gateway is another session.
    fn aim(&mut self) {
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

    fn choose(&mut self, unix: UnixMillis) -> Option<(Identity, Vec<SocketAddr>)> {
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
        let hints = self.network.hints.gateways.iter().map(|Hint { identity, address }| (*identity, *address));
        self.guards.without_consensus(&hints.collect::<Vec<_>>(), self.attempts, self.first_hint)
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
