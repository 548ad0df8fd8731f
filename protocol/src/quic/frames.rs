//! Frames of one exact size, back to back on a stream: no length, no type, nothing to tell one from another.

use bytes::{Buf as _, Bytes};
use quinn::{RecvStream, SendStream};
use std::fmt;

use super::error::CloseReason;

/// Pieces of a stream that are taken at a time: 32 datagrams are 16 packets.
const PIECES: usize = 32;

/// Why no further frame comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ended inside a frame: the peer sends frames of another length. Counted; closes the link.
    #[error("the stream ended inside a frame")]
    WrongLength,
    /// The link or the stream is gone.
    #[error("the link is closed")]
    Closed,
}

/// Reads frames of exactly `N` bytes.
pub struct FrameReader<const N: usize> {
    stream: RecvStream,
    /// Received and not yet in a frame: `pieces[next..end]`.
    pieces: [Bytes; PIECES],
    next: usize,
    end: usize,
    /// The frame in the making, and how much of it is there.
    frame: Box<[u8; N]>,
    filled: usize,
    ended: bool,
}

impl<const N: usize> fmt::Debug for FrameReader<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").field("frame_size", &N).finish_non_exhaustive()
    }
}

impl<const N: usize> FrameReader<N> {
    /// Reads frames from where `stream` stands.
    pub fn new(stream: RecvStream) -> Self {
        const { assert!(N > 0, "a frame has bytes") };
        Self {
            stream,
            pieces: [const { Bytes::new() }; PIECES],
            next: 0,
            end: 0,
            frame: Box::new([0; N]),
            filled: 0,
            ended: false,
        }
    }

    /// Waits for the next frame; `None`: the peer ended the stream between two frames. Cancel safe: a frame that has
    /// arrived in part is kept.
    pub async fn next(&mut self) -> Result<Option<Box<[u8; N]>>, FrameError> {
        loop {
            if let Some(frame) = self.ready() {
                return Ok(Some(frame));
            }
            if !self.ended {
                match self.stream.read_chunks(&mut self.pieces).await {
                    Ok(Some(read)) => {
                        (self.next, self.end) = (0, read);
                        continue;
                    }
                    Ok(None) => self.ended = true,
                    Err(_) => return Err(FrameError::Closed),
                }
            }
            return if self.filled == 0 { Ok(None) } else { Err(FrameError::WrongLength) };
        }
    }

    /// A frame that has already been taken from the stream, without waiting: after [`FrameReader::next`] has given one,
    /// this gives the others that came with it, so that they can be processed together.
    pub fn ready(&mut self) -> Option<Box<[u8; N]>> {
        while self.next < self.end {
            let piece = &mut self.pieces[self.next];
            let take = piece.len().min(N - self.filled);
            self.frame[self.filled..self.filled + take].copy_from_slice(&piece[..take]);
            piece.advance(take);
            self.filled += take;
            if piece.is_empty() {
                // gives the datagram's memory back
                *piece = Bytes::new();
                self.next += 1;
            }
            if self.filled == N {
                self.filled = 0;
                return Some(std::mem::replace(&mut self.frame, Box::new([0; N])));
            }
        }
        None
    }

    /// Takes no more: the peer's writer learns that the stream is closed.
    pub fn stop(mut self) {
        // an already finished stream has nothing to stop
        let _ = self.stream.stop(CloseReason::Done.code());
    }
}

/// Writes frames of exactly `N` bytes.
pub struct FrameWriter<const N: usize> {
    stream: SendStream,
    /// Frames of the batch in writing; those before `sent` are with QUIC. Never more than one batch.
    batch: Vec<Bytes>,
    sent: usize,
}

impl<const N: usize> fmt::Debug for FrameWriter<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter").field("frame_size", &N).finish_non_exhaustive()
    }
}

impl<const N: usize> FrameWriter<N> {
    /// Writes frames to where `stream` stands.
    pub fn new(stream: SendStream) -> Self {
        const { assert!(N > 0, "a frame has bytes") };
        Self { stream, batch: Vec::new(), sent: 0 }
    }

    /// Writes the frames in order, without copying them; returns when QUIC has taken them all, which takes as long as
    /// its send window is full. Sixteen at a time is the best rate (one lock and one burst of datagrams for all).
    ///
    /// When cancelled, frames are lost whole or kept and written by the next call; none is ever torn.
    pub async fn write_batch(&mut self, frames: Vec<Box<[u8; N]>>) -> Result<(), FrameError> {
        self.flush().await?;
        self.batch.extend(frames.into_iter().map(|frame| Bytes::from(frame as Box<[u8]>)));
        self.flush().await
    }

    /// Writes one frame, with a copy. As [`FrameWriter::write_batch`].
    pub async fn write(&mut self, frame: &[u8; N]) -> Result<(), FrameError> {
        self.flush().await?;
        self.batch.push(Bytes::copy_from_slice(frame));
        self.flush().await
    }

    /// Writes what a cancelled call left.
    async fn flush(&mut self) -> Result<(), FrameError> {
        while self.sent < self.batch.len() {
            match self.stream.write_chunks(&mut self.batch[self.sent..]).await {
                Ok(written) => self.sent += written.chunks,
                Err(_) => return Err(FrameError::Closed),
            }
        }
        self.batch.clear();
        self.sent = 0;
        Ok(())
    }

    /// Ends the stream behind the last frame.
    pub async fn finish(mut self) -> Result<(), FrameError> {
        self.flush().await?;
        self.stream.finish().map_err(|_| FrameError::Closed)
    }
}
