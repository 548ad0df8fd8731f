//! The other end of the daemon's socket: how commands and programs talk to a daemon that runs.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::control::Call;
use super::failure::Failure;
use super::lines::EventLine;
use super::rpc::{Reply, Request};
use super::socket;

/// Events that come while a reply is awaited are kept; a caller that subscribes and then calls for minutes loses the
/// oldest.
const EVENTS_MAX: usize = 1_024;

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// The daemon refused, and says why.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The connection broke: the daemon has ended.
    #[error("the connection to the daemon broke: {0}")]
    Broken(#[from] io::Error),
    /// The daemon said something that this version does not understand.
    #[error("the daemon speaks another version: {0}")]
    Version(#[from] serde_json::Error),
}

/// A connection to a daemon. One call at a time.
#[derive(Debug)]
pub struct Caller {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
    next_id: u64,
    events: VecDeque<EventLine>,
}

impl Caller {
    /// Connects to the daemon of a profile.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused`: no daemon runs.
    pub fn connect(profile: &Path) -> io::Result<Self> {
        let stream = BufReader::new(socket::connect(profile)?);
        Ok(Self { stream, line: Vec::new(), next_id: 1, events: VecDeque::new() })
    }

    /// Calls and waits for the result.
    ///
    /// # Errors
    /// The daemon refused, ended, or speaks another version.
    pub async fn call<R: DeserializeOwned>(&mut self, call: Call) -> Result<R, CallerError> {
        self.exchange(|id| serde_json::to_vec(&Request::new(id, call))).await
    }

    /// As [`Caller::call`], by the name of the method: for what one version knows and another does not.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub async fn call_named<R: DeserializeOwned>(&mut self, method: &str, params: Value) -> Result<R, CallerError> {
        self.exchange(|id| {
            serde_json::to_vec(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
        })
        .await
    }

    async fn exchange<R: DeserializeOwned>(
        &mut self,
        request: impl FnOnce(u64) -> serde_json::Result<Vec<u8>>,
    ) -> Result<R, CallerError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = request(id)?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        loop {
            match self.receive().await? {
                Reply::Result { id: of, result, .. } if of == id => return Ok(serde_json::from_value(result)?),
                // what the daemon could not even read has no id
                Reply::Error { id: of, error, .. } if of == id || of.is_null() => {
                    return Err(Failure::from(error).into());
                }
                Reply::Event { params, .. } => {
                    if self.events.len() >= EVENTS_MAX {
                        self.events.pop_front();
                    }
                    self.events.push_back(params);
                }
                // the reply to a call whose caller gave up; batches are not asked for
                Reply::Result { .. } | Reply::Error { .. } | Reply::Batch(_) => {}
            }
        }
    }

    /// Waits for the next event; only after [`Call::Subscribe`]. Cancel safe.
    ///
    /// # Errors
    /// The daemon ended, or speaks another version.
    pub async fn event(&mut self) -> Result<EventLine, CallerError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let Reply::Event { params, .. } = self.receive().await? {
                return Ok(params);
            }
        }
    }

    /// Waits until the daemon has closed the connection: after [`Call::Shutdown`], until it has stopped.
    pub async fn closed(mut self) {
        while let Ok(chunk) = self.stream.fill_buf().await {
            let length = chunk.len();
            if length == 0 {
                return;
            }
            self.stream.consume(length);
        }
    }

    /// Cancel safe: `read_until` keeps what it has read in `line`.
    async fn receive(&mut self) -> Result<Reply, CallerError> {
        self.stream.read_until(b'\n', &mut self.line).await?;
        if self.line.last() != Some(&b'\n') {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let reply = serde_json::from_slice(&self.line);
        self.line.clear();
        Ok(reply?)
    }
}
