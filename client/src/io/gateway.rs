//! The link to the gateway: one connection without any key of the client, packets up on one stream, packets and
//! consensus documents down. It reconnects by itself, with a jittered pause that doubles, and never queues: what
//! cannot be sent now is not sent, and the request runs into its deadline.
//!
//! The client says nothing about the documents it has: the gateway pushes, first the whole document and then what is new,
//! and what it pushed before on this link is kept here to make the next one of it. Only where the set of authorities is
//! one that the client does not know, it asks for the changes, and tells with it which set it knows.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use quinn::RecvStream;
use rand::{RngExt as _, rngs::StdRng};
use shoal_protocol::consensus::{MAX_CONSENSUS_SIZE, UnverifiedConsensus};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{
    ANSWER_SIZE_MAX, Attach, DirectoryAnswer, DirectoryQuestion, STREAM_CONSENSUS, STREAM_DIFFERENCE, STREAM_PACKETS,
};
use shoal_protocol::quic::{CloseReason, Endpoint, FrameReader, FrameWriter, Link, Protocol, ask};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::{Hash, Identity};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::want::Ticket;

/// Packets on their way to the writer: the schedule sends a handful a second, so 16 is seconds of a link that stands
/// still. More would leave as a burst when it moves again.
const PACKETS_UP_MAX: usize = 16;
/// Events on their way to the schedule: 256 packets of 2.8 kB.
const EVENTS_MAX: usize = 256;
/// A gateway that has a document pushes it at once; one that has begun none by then is of no use.
const FIRST_DOCUMENT: Duration = Duration::from_secs(15);
/// A document must be whole this long after its stream began: 1 MiB at 140 kbit/s.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// As long may the answer to a question for changes take.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(40);
/// Streams that are read at a time: packets, and a document or two. The transport allows the peer few more.
const STREAMS_MAX: usize = 4;
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
    /// The gateway could not be reached, turned the client away, or hands over what is of no use; the link, if it stood, is
    /// gone.
    Failed(Identity, String),
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
        let said = match &ended {
            Some(Ended::Useless(reason)) => Some(LinkEvent::Failed(target.gateway, reason.clone())),
            Some(Ended::Broke(_)) | None if stood => Some(LinkEvent::Down(target.gateway)),
            Some(Ended::Broke(reason)) => Some(LinkEvent::Failed(target.gateway, reason.clone())),
            None => None,
        };
        if let Some(said) = said
            && events.send(said).await.is_err()
        {
            return;
        }
        let given_up = matches!(ended, Some(Ended::Useless(_)) | None);
        hasty = if stood && given_up && began.elapsed() < STEADY { hasty.saturating_add(1) } else { 0 };
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
        Err(reason) => return Ended::Broke(reason),
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
        Ended::Broke(_) => {}
    }
    ended
}

/// Tries the addresses in turn, each from a fresh port: a client that changed its network must not hang on an old one.
async fn connect(target: &Target) -> Result<Link, String> {
    let mut reason = "the gateway has no address".to_owned();
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
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => reason = "the gateway did not answer in time".to_owned(),
        }
    }
    Err(reason)
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

/// One question after the other; the gateway must have an answer that may lead on.
async fn asking(
    link: &Link,
    gateway: Identity,
    questions: &mut mpsc::Receiver<Hash>,
    events: &mpsc::Sender<LinkEvent>,
) -> Ended {
    while let Some(after) = questions.recv().await {
        let question = DirectoryQuestion::Changes { after }.to_bytes();
        let answer = match timeout(CHANGES_TIMEOUT, ask(link, &question, ANSWER_SIZE_MAX)).await {
            Ok(Ok(answer)) => answer,
            // said by who watches the link
            Ok(Err(_)) if !link.is_open() => return std::future::pending().await,
            Ok(Err(error)) => return Ended::Useless(format!("the gateway does not answer: {error}")),
            Err(_) => return Ended::Useless("the gateway does not answer in time".to_owned()),
        };
        match DirectoryAnswer::from_bytes(&answer) {
            Ok(DirectoryAnswer::Changes(changes)) if !changes.is_empty() => {
                let changes = changes.into_iter().map(Vec::from).collect();
                if events.send(LinkEvent::Changes(gateway, changes)).await.is_err() {
                    break;
                }
            }
            Ok(_) | Err(_) => {
                let reason = "the gateway does not know how the authorities changed since this client was here";
                return Ended::Useless(reason.to_owned());
            }
        }
    }
    Ended::Broke("stopped".to_owned())
}

/// Everything that comes down: one stream of packets, and documents one after the other.
async fn downward(link: &Link, events: &mpsc::Sender<LinkEvent>) -> Ended {
    let (to_read, documents) = mpsc::channel(STREAMS_MAX);
    let mut reading: JoinSet<Result<(), String>> = JoinSet::new();
    reading.spawn(read_documents(documents, events.clone()));
    loop {
        let mut next = std::pin::pin!(next_stream(link));
        let (kind, stream) = loop {
            tokio::select! {
                next = &mut next => match next {
                    Some(next) => break next,
                    None => return Ended::Broke("the connection ended".to_owned()),
                },
                Some(ended) = reading.join_next() => match ended {
                    Ok(Ok(())) => {}
                    // what broke off because the link did
                    Ok(Err(reason)) if !link.is_open() => return Ended::Broke(reason),
                    Ok(Err(reason)) => return Ended::Useless(reason),
                    Err(error) => return Ended::Broke(error.to_string()),
                },
            }
        };
        match kind {
            // one for packets, one for documents: the transport allows the peer few streams, and these live long
            STREAM_PACKETS if reading.len() < 2 => drop(reading.spawn(read_packets(stream, events.clone()))),
            STREAM_CONSENSUS | STREAM_DIFFERENCE => {
                if to_read.try_send((kind, stream)).is_err() {
                    return Ended::Useless("the gateway opens one document after the other and sends none".to_owned());
                }
            }
            _ => return Ended::Useless("the gateway opened a stream of an unknown kind".to_owned()),
        }
    }
}

/// The gateway's next stream and its first byte; `None`: the link is gone.
async fn next_stream(link: &Link) -> Option<(u8, RecvStream)> {
    loop {
        let mut stream = link.accept_uni().await.ok()?;
        let mut kind = [0; 1];
        match stream.read_exact(&mut kind).await {
            Ok(()) => return Some((kind[0], stream)),
            Err(_) if link.is_open() => {}
            Err(_) => return None,
        }
    }
}

async fn read_packets(stream: RecvStream, events: mpsc::Sender<LinkEvent>) -> Result<(), String> {
    let mut frames = FrameReader::<PACKET_SIZE>::new(stream);
    while let Some(frame) = frames.next().await.map_err(|error| error.to_string())? {
        if events.send(LinkEvent::Packet(Packet::from_array(frame))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads documents in the order in which the gateway opened their streams: each difference leads on from the one before.
async fn read_documents(
    mut streams: mpsc::Receiver<(u8, RecvStream)>,
    events: mpsc::Sender<LinkEvent>,
) -> Result<(), String> {
    let mut last: Option<UnverifiedConsensus> = None;
    loop {
        let next = match &last {
            Some(_) => streams.recv().await,
            None => timeout(FIRST_DOCUMENT, streams.recv())
                .await
                .map_err(|_| "the gateway hands over no consensus".to_owned())?,
        };
        let Some((kind, mut stream)) = next else { return Ok(()) };
        let read = timeout(DOCUMENT_TIMEOUT, stream.read_to_end(MAX_CONSENSUS_SIZE)).await;
        let bytes = read
            .map_err(|_| "the gateway's consensus does not come in time".to_owned())?
            .map_err(|error| format!("the gateway's consensus broke off: {error}"))?;
        let document = match (kind, &last) {
            (STREAM_DIFFERENCE, Some(last)) => last.apply(&bytes).map_err(|error| error.to_string())?,
            (STREAM_DIFFERENCE, None) => return Err("the gateway sends a difference to nothing".to_owned()),
            (_, _) => bytes,
        };
        last = Some(UnverifiedConsensus::parse(&document).map_err(|error| error.to_string())?);
        if events.send(LinkEvent::Document(document)).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
