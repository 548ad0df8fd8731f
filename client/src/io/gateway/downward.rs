//! What comes down a link: packets, documents one after the other, answers to questions for changes. A gateway that sends
//! what no honest one sends, or nothing, is of no use.

use std::time::Duration;

use quinn::RecvStream;
use shoal_protocol::consensus::{MAX_CONSENSUS_SIZE, UnverifiedConsensus};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{
    ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion, STREAM_CONSENSUS, STREAM_DIFFERENCE, STREAM_PACKETS,
};
use shoal_protocol::quic::{FrameReader, Link, ask};
use shoal_protocol::sphinx::Packet;
use shoal_protocol::{Hash, Identity};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Ended, LinkEvent};

/// A gateway that has a document pushes it at once; one that has begun none by then is of no use.
pub(super) const FIRST_DOCUMENT: Duration = Duration::from_secs(15);
/// A document must be whole this long after its stream began: 1 MiB at 140 kbit/s.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// As long may the answer to a question for changes take.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(40);
/// Streams that are read at a time: packets, and a document or two. The transport allows the peer few more.
const STREAMS_MAX: usize = 4;

/// One question after the other; the gateway must have an answer that may lead on.
pub(super) async fn asking(
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
pub(super) async fn downward(link: &Link, events: &mpsc::Sender<LinkEvent>) -> Ended {
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
