//! One question, one answer: a bidirectional stream of a directory link for each.

use quinn::{ReadToEndError, RecvStream, SendStream};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

use super::error::CloseReason;
use super::link::Link;
use super::pieces::Pieces;

/// How long an asker waits for a whole answer: 1 MiB takes 34 s at 256 kbit/s.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answering side waits for a whole question of a guest after its first byte: 16 KiB at most.
pub const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for a whole question of another authority: 4 MiB take 60 s at 560 kbit/s.
pub const PEER_QUESTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer, or no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The message is larger than the reader takes.
    #[error("the message is too large")]
    TooLarge,
    /// The message did not arrive in time.
    #[error("no message in time")]
    TimedOut,
    /// The link is gone, or the peer dropped this question.
    #[error("the link is closed")]
    Closed,
}

impl From<ReadToEndError> for AskError {
    fn from(error: ReadToEndError) -> Self {
        match error {
            ReadToEndError::TooLong => Self::TooLarge,
            ReadToEndError::Read(_) => Self::Closed,
        }
    }
}

/// Asks and waits for the answer, of at most `max_answer` bytes, for at most [`ANSWER_TIMEOUT`].
pub async fn ask(link: &Link, question: &[u8], max_answer: usize) -> Result<Vec<u8>, AskError> {
    let exchange = async {
        let (mut send, mut receive) = link.connection.open_bi().await.map_err(|_| AskError::Closed)?;
        // a peer that answers before it has read all may stop the stream; what counts is its answer
        if send.write_all(question).await.is_ok() {
            let _ = send.finish();
        }
        match receive.read_to_end(max_answer).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // it may have ended by itself
                let _ = receive.stop(CloseReason::Malformed.code());
                Err(error.into())
            }
        }
    };
    timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(AskError::TimedOut))
}

/// Waits for the peer's next question, of at most `max` bytes, that must be whole `within` this time after its first
/// byte. `None`: the link has ended. After an error that is not [`AskError::Closed`] the link still works; the question is
/// dropped and its asker told.
///
/// One after the other: a slow question delays only those of its own link. Not cancel safe: a question whose stream has
/// been taken is dropped with the call.
pub async fn read_question(link: &Link, max: usize, within: Duration) -> Result<Option<(Vec<u8>, Answerer)>, AskError> {
    let Ok((send, mut receive)) = link.connection.accept_bi().await else { return Ok(None) };
    let answerer = Answerer { stream: send, answered: false };
    let read = timeout(within, receive.read_to_end(max)).await;
    let error = match read {
        Ok(Ok(question)) => return Ok(Some((question, answerer))),
        Ok(Err(error)) => error.into(),
        Err(_) => AskError::TimedOut,
    };
    stop(receive);
    Err(error)
}

fn stop(mut stream: RecvStream) {
    // it may have ended by itself
    let _ = stream.stop(CloseReason::Malformed.code());
}

/// Where the answer to one question goes. Dropped without an answer, it tells the asker that there is none.
pub struct Answerer {
    stream: SendStream,
    answered: bool,
}

impl fmt::Debug for Answerer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answerer").finish_non_exhaustive()
    }
}

impl Answerer {
    /// Sends the answer and waits, for at most [`ANSWER_TIMEOUT`], until the asker has all of it: after that the link may
    /// be closed. [`AskError::TimedOut`]: the asker does not read; close the link, or it holds on to what was written.
    pub async fn answer(self, answer: impl Into<Pieces>) -> Result<(), AskError> {
        self.answer_within(answer, ANSWER_TIMEOUT).await
    }

    /// As [`Answerer::answer`], with another patience.
    pub async fn answer_within(mut self, answer: impl Into<Pieces>, patience: Duration) -> Result<(), AskError> {
        let mut pieces = answer.into().into_bytes();
        let sending = async {
            self.stream.write_all_chunks(&mut pieces).await.map_err(|_| AskError::Closed)?;
            self.stream.finish().map_err(|_| AskError::Closed)?;
            match self.stream.stopped().await {
                Ok(None) => Ok(()),
                Ok(Some(_)) | Err(_) => Err(AskError::Closed),
            }
        };
        let sent = timeout(patience, sending).await.unwrap_or(Err(AskError::TimedOut));
        self.answered = sent.is_ok();
        sent
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if !self.answered {
            // quinn would end the stream, and half an answer would look whole
            let _ = self.stream.reset(CloseReason::Malformed.code());
        }
    }
}
