//! One connection to the control socket: calls in order, events in between.

use std::io;

use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use super::Daemon;
use crate::io::control::{Call, Reply, Request};
use crate::io::failure::{Exit, Failure};
use crate::io::lines::EventLine;
use crate::mail::Event;

/// Longest line of a request: a text of 2 MiB in which every byte is escaped.
const LINE_MAX: usize = 16 << 20;

/// Serves one connection: calls in order, events in between once subscribed.
pub(super) async fn converse(daemon: &Daemon, stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut events: Option<broadcast::Receiver<Event>> = None;
    let mut line = Vec::new();
    loop {
        let reply = tokio::select! {
            event = next_event(&mut events) => Reply::Event { event },
            read = read_line(&mut stream, &mut line) => match read {
                Ok(true) => {
                    let request = serde_json::from_slice::<Request>(&line);
                    line.clear();
                    match request {
                        Ok(Request { id, call: Call::Shutdown }) => {
                            let _ = write_line(&mut stream, &Reply::Result { id, result: json!({}) }).await;
                            // a second one comes too late to be waited for
                            let _ = daemon.shutdown.try_send(stream.into_inner());
                            return;
                        }
                        Ok(Request { id, call: Call::Subscribe }) => {
                            events = Some(daemon.events.subscribe());
                            Reply::Result { id, result: json!({}) }
                        }
                        Ok(Request { id, call }) => match daemon.call(call).await {
                            Ok(result) => Reply::Result { id, result },
                            Err(error) => Reply::Error { id: Some(id), error },
                        },
                        Err(error) => Reply::Error { id: None, error: bad_request(&error.to_string()) },
                    }
                }
                Ok(false) => return,
                Err(error) => {
                    let _ = write_line(&mut stream, &Reply::Error { id: None, error: bad_request(&error.to_string()) }).await;
                    return;
                }
            },
        };
        if write_line(&mut stream, &reply).await.is_err() {
            return;
        }
    }
}

fn bad_request(what: &str) -> Failure {
    Failure::new(Exit::Usage, "bad_request", format!("not a request: {what}"), "see client/README.md")
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

/// Reads up to a newline into `line`; `false` at the end. Cancel safe: what was read stays in `line`.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let chunk = stream.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(false);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        line.extend(chunk.iter().take(taken));
        stream.consume(end.map_or(taken, |end| end + 1));
        if line.len() > LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
        if end.is_some() {
            return Ok(true);
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
        let mut line = Vec::new();
        let mut stream: &[u8] = b"one\ntwo\nrest";
        assert!(read_line(&mut stream, &mut line).await.unwrap());
        assert_eq!(line, b"one");
        line.clear();
        assert!(read_line(&mut stream, &mut line).await.unwrap());
        assert_eq!(line, b"two");
        line.clear();
        assert!(!read_line(&mut stream, &mut line).await.unwrap());
        let endless = vec![b'x'; LINE_MAX + 1];
        assert!(read_line(&mut endless.as_slice(), &mut Vec::new()).await.is_err());
    }
}
