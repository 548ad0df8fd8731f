//! The link to the gateway: one connection without any key of the client, packets up on one stream, packets and
//! consensus documents down. It reconnects by itself, with a jittered pause that doubles, and never queues: what
//! cannot be sent now is not sent, and the request runs into its deadline.
//!
//! The client says nothing about the documents it has: the gateway pushes, first the whole document and then what is new,
//! and what it pushed before on this link is kept here to make the next one of it. Only where the set of authorities is
//! one that the client does not know, it asks for the changes, and tells with it which set it knows.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::Attach;
use shoal_protocol::quic::{CloseReason, Endpoint, FrameWriter, Link, Protocol, QuicError};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::{Hash, Identity};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::want::Ticket;
use downward::{asking, downward};
use flaps::Flaps;

mod downward;
mod flaps;

/// Packets on their way to the writer: the schedule sends a handful a second, so 16 is seconds of a link that stands
/// still. More would leave as a burst when it moves again.
const PACKETS_UP_MAX: usize = 16;
/// Events on their way to the schedule: 256 packets of 2.8 kB.
const EVENTS_MAX: usize = 256;
/// How long one address is tried: three transmissions of a first flight. Longer only delays the next guard.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Mean of the first pause; doubled with each failure.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// A link that held this long was a good one: the next pause is the first again.
const STEADY: Duration = Duration::from_secs(10);

/// A packet on its way up, and the want that it carries.
type Upward = (Packet, Option<Ticket>);

/// Which gateway to keep a link to, and as which session.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) gateway: Identity,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) attach: Attach,
}

/// What the link says.
pub(super) enum LinkEvent {
    /// The link stands; packets may go.
    Up(Identity),
    /// The link that stood is gone.
    Down(Identity),
    /// The gateway could not be reached, turned the client away, hands over what is of no use, or ends one link after the
    /// other; the link, if it stood, is gone.
    Failed {
        gateway: Identity,
        reason: String,
        /// Something came back from there.
        answered: bool,
    },
    /// A packet was written to the link; with the want that it carries, if any. Said of every packet.
    Left(Option<Ticket>),
    /// A packet came down.
    Packet(Packet),
    /// A document came down, unverified.
    Document(Vec<u8>),
    /// What this gateway knows of changes of the authorities, after a question for them; unverified and not empty.
    Changes(Identity, Vec<Vec<u8>>),
}

/// The link's other end, held by the schedule.
pub(super) struct GatewayLink {
    target: watch::Sender<Option<Target>>,
    packets: mpsc::Sender<Upward>,
    questions: mpsc::Sender<Hash>,
    pub(super) events: mpsc::Receiver<LinkEvent>,
}

impl GatewayLink {
    /// Starts the task. `pause_max`: the longest mean pause between two attempts.
    pub(super) fn start(pause_max: Duration) -> Self {
        let (target, targets) = watch::channel(None);
        let (packets, queue) = mpsc::channel(PACKETS_UP_MAX);
        let (questions, asked) = mpsc::channel(1);
        let (said, events) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(keep(targets, Upwards { packets: queue, questions: asked }, said, pause_max));
        Self { target, packets, questions, events }
    }

    /// Leaves the present gateway, if it is another, and links to this one.
    pub(super) fn aim(&self, target: Target) {
        self.target.send_replace(Some(target));
    }

    /// Gives a packet to the link; `false`: the link stands still and the packet is lost. [`LinkEvent::Left`] follows
    /// when it was written to the link; if the link breaks before, nothing follows.
    pub(super) fn send(&self, packet: Packet, ticket: Option<Ticket>) -> bool {
        self.packets.try_send((packet, ticket)).is_ok()
    }

    /// Asks the gateway for the changes of the authorities after the set with this hash. [`LinkEvent::Changes`] follows, or
    /// [`LinkEvent::Failed`], or the link breaks. A question that waits already is enough.
    pub(super) fn ask_changes(&self, after: Hash) {
        let _ = self.questions.try_send(after);
    }
}

/// What goes up.
struct Upwards {
    packets: mpsc::Receiver<Upward>,
    questions: mpsc::Receiver<Hash>,
}

/// Why a link that stood, or did not come about, is gone.
enum Ended {
    /// Nothing came back from any of the addresses.
    Unanswered(String),
    /// It broke, or could not be made.
    Broke(String),
    /// The gateway sends what no honest one sends, or nothing.
    Useless(String),
}

/// Ends when the schedule has dropped its end.
async fn keep(
    mut targets: watch::Receiver<Option<Target>>,
    mut upwards: Upwards,
    events: mpsc::Sender<LinkEvent>,
    pause_max: Duration,
) {
    let mut rng: StdRng = rand::make_rng();
    let mut failures = 0u32;
    // links in a row that stood and were soon given up: by a gateway that lies they are, and several of them must not keep
    // the client dialling from one to the next. The first one costs nothing: a new client goes from a hint to its guard
    let mut hasty = 0u32;
    let mut flaps = Flaps::default();
    loop {
        let Some(target) = targets.borrow_and_update().clone() else {
            if targets.changed().await.is_err() {
                return;
            }
            continue;
        };
        let began = tokio::time::Instant::now();
        let mut stood = false;
        let ended = tokio::select! {
            ended = serve(&target, &mut upwards, &events, &mut stood, &mut rng) => Some(ended),
            // dropping the future drops the link, which closes it
            changed = targets.changed() => if changed.is_err() { return } else { None },
        };
        let soon = stood && began.elapsed() < STEADY;
        let flapped = stood && matches!(ended, Some(Ended::Broke(_))) && flaps.broke(target.gateway, began.elapsed());
        let failed = |reason: &String, answered| {
            Some(LinkEvent::Failed { gateway: target.gateway, reason: reason.clone(), answered })
        };
        let said = match &ended {
            Some(Ended::Useless(reason)) => failed(reason, true),
            Some(Ended::Broke(reason)) if flapped => failed(&format!("no link to the gateway lasts: {reason}"), true),
            Some(Ended::Broke(_)) | None if stood => Some(LinkEvent::Down(target.gateway)),
            Some(Ended::Broke(reason)) => failed(reason, true),
            Some(Ended::Unanswered(reason)) => failed(reason, false),
            None => None,
        };
        if let Some(said) = said
            && events.send(said).await.is_err()
        {
            return;
        }
        let given_up = flapped || matches!(ended, Some(Ended::Useless(_)) | None);
        // a link that breaks soon and is made again is no good one either
        hasty = if soon { hasty.saturating_add(given_up.into()) } else { 0 };
        if hasty > 1 {
            tokio::time::sleep(pause(hasty, pause_max, rng.random::<f64>())).await;
        }
        if ended.is_none() {
            failures = 0;
            continue;
        }
        failures = if stood && began.elapsed() >= STEADY { 0 } else { failures.saturating_add(1) };
        let pause = pause(failures, pause_max, rng.random::<f64>());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = targets.changed() => if changed.is_err() { return } else { failures = failures.min(1) },
        }
    }
}

/// The pause after `failures` failures in a row: 250 ms doubled each time, at most `longest`, times 0.5 to 1.5, so that
/// the clients of a gateway that comes back do not come all at once.
fn pause(failures: u32, longest: Duration, uniform: f64) -> Duration {
    let mean = PAUSE_FIRST.saturating_mul(1 << failures.min(16)).min(longest);
    mean.mul_f64(0.5 + uniform.clamp(0.0, 1.0))
}

/// Connects and carries until the link ends; says why it ended.
async fn serve(
    target: &Target,
    upwards: &mut Upwards,
    events: &mpsc::Sender<LinkEvent>,
    stood: &mut bool,
    rng: &mut StdRng,
) -> Ended {
    let link = match connect(target).await {
        Ok(link) => link,
        Err(ended) => return ended,
    };
    let mut writer: FrameWriter<PACKET_SIZE> = match link.open_frames().await {
        Ok(writer) => writer,
        Err(error) => return Ended::Broke(error.to_string()),
    };
    let attach = target.attach.to_frame(rng);
    if let Err(error) = writer.write_batch(vec![attach.into_array()]).await {
        return Ended::Broke(error.to_string());
    }
    // what was meant for an earlier link is late here
    while upwards.packets.try_recv().is_ok() {}
    while upwards.questions.try_recv().is_ok() {}
    *stood = true;
    if events.send(LinkEvent::Up(target.gateway)).await.is_err() {
        return Ended::Broke("stopped".to_owned());
    }
    let Upwards { packets, questions } = upwards;
    let ended = tokio::select! {
        reason = upward(&mut writer, packets, events) => Ended::Broke(reason),
        ended = downward(&link, events) => ended,
        ended = asking(&link, target.gateway, questions, events) => ended,
        reason = link.closed() => Ended::Broke(match reason {
            Some(CloseReason::Busy) => "the gateway is busy".to_owned(),
            Some(CloseReason::NotAdmitted) => "the gateway does not admit this client".to_owned(),
            Some(CloseReason::Leaving) => "the gateway is shutting down".to_owned(),
            Some(_) | None => "the connection ended".to_owned(),
        }),
    };
    match &ended {
        Ended::Useless(_) => link.close(CloseReason::Malformed),
        Ended::Broke(_) | Ended::Unanswered(_) => {}
    }
    ended
}

/// Tries the addresses in turn, each from a fresh port: a client that changed its network must not hang on an old one.
async fn connect(target: &Target) -> Result<Link, Ended> {
    let mut reason = "the gateway has no address".to_owned();
    let mut answered = false;
    for address in &target.addresses {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = match Endpoint::dialler(None, local) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                reason = error.to_string();
                continue;
            }
        };
        match timeout(CONNECT_TIMEOUT, endpoint.connect(*address, &target.gateway, Protocol::Client)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => {
                answered |= is_answer(&error);
                reason = error.to_string();
            }
            Err(_) => reason = "the gateway did not answer in time".to_owned(),
        }
    }
    Err(if answered { Ended::Broke(reason) } else { Ended::Unanswered(reason) })
}

/// Whether somebody answered at the address.
fn is_answer(error: &QuicError) -> bool {
    match error {
        QuicError::Bind(_) | QuicError::Setup(_) | QuicError::Unreachable | QuicError::TimedOut => false,
        QuicError::WrongIdentity
        | QuicError::NoCommonKeyExchange
        | QuicError::ProtocolRefused
        | QuicError::IdentityNeeded(_)
        | QuicError::IdentityForbidden(_)
        | QuicError::Busy
        | QuicError::Tls(_)
        | QuicError::Closed => true,
    }
}

async fn upward(
    writer: &mut FrameWriter<PACKET_SIZE>,
    packets: &mut mpsc::Receiver<Upward>,
    events: &mpsc::Sender<LinkEvent>,
) -> String {
    while let Some((packet, ticket)) = packets.recv().await {
        if let Err(error) = writer.write_batch(vec![packet.into_array()]).await {
            return error.to_string();
        }
        if events.send(LinkEvent::Left(ticket)).await.is_err() {
            break;
        }
    }
    "stopped".to_owned()
}

#[cfg(test)]
mod tests;
