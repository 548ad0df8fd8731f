//! One authenticated connection.

use quinn::{ConnectionError, RecvStream, SendStream};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::error::CloseReason;
use super::frames::{FrameError, FrameReader, FrameWriter};
use super::gate::Seat;
use super::protocol::Protocol;
use crate::types::Identity;

/// Priority of packets over pushed documents on one link: a document never delays a packet.
const FRAMES_PRIORITY: i32 = 1;

/// An authenticated connection that speaks one protocol. Clones are handles of the same connection; it closes when the
/// last handle and stream are dropped.
#[derive(Clone)]
pub struct Link {
    /// What is spoken.
    pub protocol: Protocol,
    /// Identity that the peer proved; `None`: it showed none (a client, an anonymous asker of a directory). On a
    /// dialled link always the identity that was dialled.
    pub peer: Option<Identity>,
    /// Where the peer was when the link began. Never to be logged.
    pub remote: SocketAddr,
    /// The connection itself.
    pub connection: quinn::Connection,
    /// Place in the counts of the accepting endpoint, given back with the last handle.
    pub(super) seat: Option<Arc<Seat>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // neither peer nor address: a link's Debug ends in logs
        f.debug_struct("Link").field("protocol", &self.protocol).field("accepted", &self.seat.is_some()).finish()
    }
}

impl Link {
    /// Opens the stream of frames to the peer; waits until the peer allows one more stream.
    pub async fn open_frames<const N: usize>(&self) -> Result<FrameWriter<N>, FrameError> {
        let stream = self.open_uni().await?;
        stream.set_priority(FRAMES_PRIORITY).map_err(|_| FrameError::Closed)?;
        Ok(FrameWriter::new(stream))
    }

    /// Waits for the peer's stream of frames. It arrives with the first frame.
    pub async fn accept_frames<const N: usize>(&self) -> Result<FrameReader<N>, FrameError> {
        Ok(FrameReader::new(self.accept_uni().await?))
    }

    /// Opens a plain unidirectional stream; waits until the peer allows one more stream.
    pub async fn open_uni(&self) -> Result<SendStream, FrameError> {
        self.connection.open_uni().await.map_err(|_| FrameError::Closed)
    }

    /// Waits for a plain unidirectional stream of the peer. Cancel safe.
    pub async fn accept_uni(&self) -> Result<RecvStream, FrameError> {
        self.connection.accept_uni().await.map_err(|_| FrameError::Closed)
    }

    /// Closes the link now; what is not acknowledged yet is lost. The peer learns the reason.
    pub fn close(&self, reason: CloseReason) {
        self.connection.close(reason.code(), b"");
    }

    /// Waits until the link has ended and returns the reason that the peer gave, if it gave one.
    pub async fn closed(&self) -> Option<CloseReason> {
        CloseReason::of_peer(&self.connection.closed().await)
    }

    /// Whether the link has not ended yet, as far as is known.
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether the peer was restarted and has said so.
    pub fn was_reset(&self) -> bool {
        matches!(self.connection.close_reason(), Some(ConnectionError::Reset))
    }
}
