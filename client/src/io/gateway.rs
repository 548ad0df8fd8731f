//! The link to the gateway: one connection without any key of the client, packets up on one stream, packets and
//! consensus documents down. It reconnects by itself, with a jittered pause that doubles, and never queues: what
//! cannot be sent now is not sent, and the request runs into its deadline.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use shoal_protocol::Identity;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{ANSWER_SIZE_MAX, Attach, STREAM_CONSENSUS, STREAM_PACKETS};
use shoal_protocol::quic::{CloseReason, Endpoint, FrameReader, FrameWriter, Link, Protocol};
use shoal_protocol::sphinx::Packet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::want::Ticket;

/// Packets on their way to the writer: the schedule sends a handful a second, so 16 is seconds of a link that stands
/// still. More would leave as a burst when it moves again.
const PACKETS_UP_MAX: usize = 16;
/// Events on their way to the schedule: 256 packets of 2.8 kB.
const EVENTS_MAX: usize = 256;
/// A document must be whole this long after its stream began.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
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
    /// The gateway could not be reached, or turned the client away.
    Failed(Identity, String),
    /// A packet was written to the link; with the want that it carries, if any. Said of every packet.
    Left(Option<Ticket>),
    /// A packet came down.
    Packet(Packet),
    /// A document came down, unverified.
    Document(Vec<u8>),
}

/// The link's other end, held by the schedule.
pub(super) struct GatewayLink {
    target: watch::Sender<Option<Target>>,
    packets: mpsc::Sender<Upward>,
    pub(super) events: mpsc::Receiver<LinkEvent>,
}

impl GatewayLink {
    /// Starts the task. `pause_max`: the longest mean pause between two attempts.
    pub(super) fn start(pause_max: Duration) -> Self {
        let (target, targets) = watch::channel(None);
        let (packets, queue) = mpsc::channel(PACKETS_UP_MAX);
        let (said, events) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(keep(targets, queue, said, pause_max));
        Self { target, packets, events }
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
}

/// Ends when the schedule has dropped its end.
async fn keep(
    mut targets: watch::Receiver<Option<Target>>,
    mut packets: mpsc::Receiver<Upward>,
    events: mpsc::Sender<LinkEvent>,
    pause_max: Duration,
) {
    let mut rng: StdRng = rand::make_rng();
    let mut failures = 0u32;
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
            ended = serve(&target, &mut packets, &events, &mut stood, &mut rng) => Some(ended),
            // dropping the future drops the link, which closes it
            changed = targets.changed() => if changed.is_err() { return } else { None },
        };
        if stood && events.send(LinkEvent::Down(target.gateway)).await.is_err() {
            return;
        }
        let Some(reason) = ended else {
            failures = 0;
            continue;
        };
        if !stood && events.send(LinkEvent::Failed(target.gateway, reason)).await.is_err() {
            return;
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
    packets: &mut mpsc::Receiver<Upward>,
    events: &mpsc::Sender<LinkEvent>,
    stood: &mut bool,
    rng: &mut StdRng,
) -> String {
    let link = match connect(target).await {
        Ok(link) => link,
        Err(reason) => return reason,
    };
    let mut writer: FrameWriter<PACKET_SIZE> = match link.open_frames().await {
        Ok(writer) => writer,
        Err(error) => return error.to_string(),
    };
    let attach = target.attach.to_frame(rng);
    if let Err(error) = writer.write_batch(vec![attach.into_array()]).await {
        return error.to_string();
    }
    // what was meant for an earlier link is late here
    while packets.try_recv().is_ok() {}
    *stood = true;
    if events.send(LinkEvent::Up(target.gateway)).await.is_err() {
        return "stopped".to_owned();
    }
    tokio::select! {
        reason = upward(&mut writer, packets, events) => reason,
        reason = downward(&link, events) => {
            link.close(CloseReason::Malformed);
            reason
        }
        reason = link.closed() => match reason {
            Some(CloseReason::Busy) => "the gateway is busy".to_owned(),
            Some(CloseReason::NotAdmitted) => "the gateway does not admit this client".to_owned(),
            Some(CloseReason::Leaving) => "the gateway is shutting down".to_owned(),
            Some(_) | None => "the connection ended".to_owned(),
        },
    }
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

async fn downward(link: &Link, events: &mpsc::Sender<LinkEvent>) -> String {
    let mut streams: JoinSet<Result<(), String>> = JoinSet::new();
    loop {
        tokio::select! {
            stream = link.accept_uni(), if streams.len() < STREAMS_MAX => match stream {
                Ok(stream) => { streams.spawn(read(stream, events.clone())); }
                Err(error) => return error.to_string(),
            },
            Some(ended) = streams.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return reason,
                Err(error) => return error.to_string(),
            },
        }
    }
}

async fn read(mut stream: quinn::RecvStream, events: mpsc::Sender<LinkEvent>) -> Result<(), String> {
    let mut kind = [0; 1];
    stream.read_exact(&mut kind).await.map_err(|_| "a stream ended before it began".to_owned())?;
    match kind {
        [STREAM_PACKETS] => {
            let mut frames = FrameReader::<PACKET_SIZE>::new(stream);
            while let Some(frame) = frames.next().await.map_err(|error| error.to_string())? {
                if events.send(LinkEvent::Packet(Packet::from_array(frame))).await.is_err() {
                    break;
                }
            }
            Ok(())
        }
        [STREAM_CONSENSUS] => {
            let document = timeout(DOCUMENT_TIMEOUT, stream.read_to_end(ANSWER_SIZE_MAX)).await;
            // a document that was cut short is sent again with the next epoch or link
            if let Ok(Ok(document)) = document {
                let _ = events.send(LinkEvent::Document(document)).await;
            }
            Ok(())
        }
        [_] => Err("the gateway opened a stream of an unknown kind".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use shoal_protocol::IdentityKey;

    #[test]
    fn pauses_double_are_jittered_and_end_at_the_longest() {
        let longest = Duration::from_secs(30);
        assert_eq!(pause(0, longest, 0.0), Duration::from_millis(125));
        assert_eq!(pause(0, longest, 1.0), Duration::from_millis(375));
        assert_eq!(pause(3, longest, 0.5), Duration::from_secs(2));
        for failures in [8, 16, 17, 1_000, u32::MAX] {
            assert_eq!(pause(failures, longest, 0.5), longest);
        }
    }
    #[tokio::test]
    async fn a_packet_has_left_when_it_was_written_to_a_link_that_stands() {
        let key = IdentityKey::generate(&mut StdRng::seed_from_u64(1));
        let server = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), &key, &[Protocol::Client]).unwrap();
        let addresses = vec![server.local_addr().unwrap()];
        let mut link = GatewayLink::start(Duration::from_secs(1));
        let packet = || Packet::from_array([7; PACKET_SIZE].into());
        // nobody is linked: it is thrown away, and nothing may be said of it
        assert!(link.send(packet(), Some(Ticket(1))));
        let mut rng = StdRng::seed_from_u64(2);
        link.aim(Target { gateway: key.identity(), addresses, attach: Attach::generate(&mut rng) });
        let gateway = tokio::spawn(async move {
            let link = server.accept().await.unwrap().admit().await.unwrap();
            let mut frames: FrameReader<PACKET_SIZE> = link.accept_frames().await.unwrap();
            let frames = [frames.next().await.unwrap().unwrap(), frames.next().await.unwrap().unwrap()];
            (server, link, frames[1][..] == [7; PACKET_SIZE])
        });
        assert!(matches!(link.events.recv().await, Some(LinkEvent::Up(_))));
        assert!(link.send(packet(), Some(Ticket(2))));
        assert!(matches!(link.events.recv().await, Some(LinkEvent::Left(Some(Ticket(2))))));
        let (_server, _link, came) = timeout(Duration::from_secs(60), gateway).await.unwrap().unwrap();
        assert!(came, "after the attach frame");
    }
}
