//! One connection to the control socket: calls in order, events in between.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use super::Daemon;
use crate::io::control::Call;
use crate::io::lines::EventLine;
use crate::io::rpc::{Ask, Incoming, Refusal, Reply};
use crate::mail::Event;

/// Longest line of a request: a text of 2 MiB in which every byte is escaped.
const LINE_MAX: usize = 16 << 20;

/// What a connection has become.
struct Connection {
    daemon: Arc<Daemon>,
    events: Option<broadcast::Receiver<Event>>,
}

/// Serves one connection: calls in order, events in between once subscribed. What is no call is refused and loses
/// nothing: neither the calls behind it nor events.
pub(super) async fn converse(daemon: &Arc<Daemon>, stream: UnixStream) {
    let mut connection = Connection { daemon: Arc::clone(daemon), events: None };
    let mut lines = Lines::new(BufReader::new(stream));
    loop {
        let reply = tokio::select! {
            event = next_event(&mut connection.events) => Some(Reply::event(event)),
            read = lines.next() => match read {
                Ok(Line::Whole(line)) => match Incoming::parse(&line) {
                    Incoming::One(Ask { id, call: Ok(Call::Shutdown) }) => {
                        if let Some(id) = id {
                            let _ = write_line(&mut lines.stream, &Reply::to(id, Ok(json!({})))).await;
                        }
                        // a second one comes too late to be waited for
                        let _ = daemon.shutdown.try_send(lines.stream.into_inner());
                        return;
                    }
                    Incoming::One(ask) => connection.answer(ask).await,
                    Incoming::Batch(asks) => connection.answer_all(asks).await,
                },
                Ok(Line::TooLong) => Some(Reply::to(Value::Null, Err(Refusal::too_long(LINE_MAX)))),
                Ok(Line::End) | Err(_) => return,
            },
        };
        if let Some(reply) = reply
            && write_line(&mut lines.stream, &reply).await.is_err()
        {
            return;
        }
    }
}

impl Connection {
    /// Carries one call out. A call without an id takes effect and has no answer.
    async fn answer(&mut self, Ask { id, call }: Ask) -> Option<Reply> {
        let result = match call {
            Ok(Call::Shutdown) => Err(Refusal::alone()),
            Ok(Call::Subscribe) => {
                self.events = Some(self.daemon.events.subscribe());
                Ok(json!({}))
            }
            Ok(call) => self.daemon.call(call).await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        id.map(|id| Reply::to(id, result))
    }

    /// One after the other: the order of a batch is the order in which its calls take effect.
    async fn answer_all(&mut self, asks: Vec<Ask>) -> Option<Reply> {
        let mut answers = Vec::new();
        for ask in asks {
            answers.extend(self.answer(ask).await);
        }
        (!answers.is_empty()).then_some(Reply::Batch(answers))
    }
}

/// Never resolves before the connection has subscribed.
async fn next_event(events: &mut Option<broadcast::Receiver<Event>>) -> EventLine {
    let Some(receiver) = events else { return std::future::pending().await };
    match receiver.recv().await {
        Ok(event) => event.into(),
        Err(broadcast::error::RecvError::Lagged(missed)) => EventLine::Missed(missed),
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(Vec<u8>),
    /// It was longer than [`LINE_MAX`] and is gone, to its end.
    TooLong,
    End,
}

/// Lines of a stream, bounded.
struct Lines<S> {
    stream: S,
    line: Vec<u8>,
    /// Of the line that is being read, everything is passed over.
    over: bool,
}

impl<S: AsyncBufRead + Unpin> Lines<S> {
    fn new(stream: S) -> Self {
        Self { stream, line: Vec::new(), over: false }
    }

    /// The next line. Cancel safe: what was read of it is kept.
    async fn next(&mut self) -> io::Result<Line> {
        loop {
            let chunk = self.stream.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(Line::End);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            if self.over || self.line.len() + taken > LINE_MAX {
                self.over = true;
                // the memory of a huge line is not kept for as long as the connection lives
                self.line = Vec::new();
            } else {
                self.line.extend(chunk.iter().take(taken));
            }
            self.stream.consume(end.map_or(taken, |end| end + 1));
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                let over = std::mem::take(&mut self.over);
                return Ok(if over { Line::TooLong } else { Line::Whole(line) });
            }
        }
    }
}

async fn write_line(stream: &mut BufReader<UnixStream>, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_whole_and_bounded() {
        let mut lines = Lines::new(&b"one\ntwo\nrest"[..]);
        assert_eq!(lines.next().await.unwrap(), Line::Whole(b"one".to_vec()));
        assert_eq!(lines.next().await.unwrap(), Line::Whole(b"two".to_vec()));
        assert_eq!(lines.next().await.unwrap(), Line::End);
        let mut endless = vec![b'x'; LINE_MAX + 1];
        endless.extend(b"\nnext\n");
        let mut lines = Lines::new(endless.as_slice());
        assert_eq!(lines.next().await.unwrap(), Line::TooLong);
        assert_eq!(lines.next().await.unwrap(), Line::Whole(b"next".to_vec()), "what comes behind it is not lost");
    }
}
