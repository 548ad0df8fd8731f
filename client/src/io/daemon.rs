//! The daemon: a running client behind a Unix socket that only its owner may use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;

use super::client::Client;
use super::control::{Call, Page, PageEntry, Reply, Request};
use super::failure::{Exit, Failure};
use super::lines::{ContactLine, ConversationLine, EventLine, Parts, SentLine};
use super::mailroom::{Desk, MailRoom, Stopped};
use super::snapshot::{DisputeLine, Snapshot, Status, WaitingLine};
use super::socket;
use shoal_protocol::UnixMillis;

use crate::mail::{ContactInfo, Event, MailError, MessageId};

/// Longest line of a request: a text of 2 MiB in which every byte is escaped.
const LINE_MAX: usize = 16 << 20;
/// Connections at a time. Each may hold one line: 64 × 16 MiB would be too much, but only the owner can connect.
const CONNECTIONS_MAX: usize = 64;
/// Messages of one page, and roughly how many bytes of text; a page has at least one message.
const PAGE_MESSAGES: usize = 64;
const PAGE_TEXT: usize = 1 << 20;
/// Largest file that is read into memory to be sent; the profile may allow less.
const FILE_MAX: u64 = 64 << 20;

/// A client that is being served.
struct Daemon {
    snapshot: watch::Receiver<Snapshot>,
    mail: MailRoom,
    events: broadcast::Sender<Event>,
    owner: u32,
    /// Takes the connection that asked for the end; it stays open until the client has stopped.
    shutdown: mpsc::Sender<UnixStream>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Daemon")
    }
}

/// Serves `client` on the socket of `profile` until somebody calls `shutdown` there or `stopped` resolves; then stops the
/// client, removes the socket and returns. Call it only with the client whose profile it is: the profile's lock is what
/// allows to replace a socket that lies there. `ready` is called when the socket answers.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(
    client: Client,
    profile: &Path,
    ready: impl FnOnce(),
    stopped: impl Future<Output = ()>,
) -> io::Result<()> {
    let Some(mail) = client.mail_room() else {
        return Err(io::Error::other("a client without a profile has nothing to serve"));
    };
    let owner = socket::owner(profile)?;
    let listener = socket::bind(profile)?;
    let (shutdown, mut shut_down) = mpsc::channel(1);
    let events = mail.announcer();
    let daemon = Arc::new(Daemon { snapshot: client.watch(), mail, events, owner, shutdown });
    ready();
    let mut connections = JoinSet::new();
    let last = tokio::select! {
        () = accept(&listener, &daemon, &mut connections) => None,
        last = shut_down.recv() => last,
        () = stopped => None,
    };
    // the socket goes first: who comes now starts a new daemon, which waits for the profile's lock
    drop(listener);
    let _ = std::fs::remove_file(socket::socket_path(profile));
    // commands that have begun take effect on the mail thread, whoever still listens
    connections.shutdown().await;
    drop(daemon);
    client.stop().await;
    drop(last);
    Ok(())
}

async fn accept(listener: &UnixListener, daemon: &Arc<Daemon>, connections: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket could not accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        // the mode of folder and socket keeps others out; this is the second lock (root may still enter)
        let uid = stream.peer_cred().map(|peer| peer.uid());
        if !matches!(uid, Ok(uid) if uid == daemon.owner || uid == 0) {
            tracing::warn!("another user tried the control socket");
            continue;
        }
        let daemon = Arc::clone(daemon);
        connections.spawn(async move {
            converse(&daemon, stream).await;
            drop(place);
        });
    }
}

/// Serves one connection: calls in order, events in between once subscribed.
async fn converse(daemon: &Daemon, stream: UnixStream) {
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

impl From<Stopped> for Failure {
    fn from(error: Stopped) -> Self {
        Self::new(Exit::Unreachable, "stopped", error.to_string(), "run the command again")
    }
}

fn value(of: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of)
        .map_err(|error| Failure::new(Exit::Io, "encoding", error.to_string(), "report this as a fault"))
}

impl Daemon {
    /// A command on the profile.
    async fn mail<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Desk<'_>) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        self.mail.run(command).await?
    }

    async fn call(&self, call: Call) -> Result<Value, Failure> {
        match call {
            Call::Address => self.mail(|desk| Ok(json!({ "address": desk.mail.address() }))).await,
            Call::Add { name, address } => {
                value(self.mail(move |desk| Ok(ContactLine::from(desk.mail.add(&name, &address, desk.now)?))).await?)
            }
            Call::Contacts => {
                let (contacts, waiting) =
                    self.mail(|desk| Ok((desk.mail.contacts()?, desk.mail.waiting_for_cards()?))).await?;
                let line = |contact: ContactInfo| {
                    let waits = waiting.iter().find(|(waiting, _)| waiting.address == contact.address);
                    ContactLine { waiting_since: waits.map(|(_, since)| since.0), ..contact.into() }
                };
                value(contacts.into_iter().map(line).collect::<Vec<_>>())
            }
            Call::Conversations => {
                let conversations = self.mail(|desk| Ok(desk.mail.conversations()?)).await?;
                value(conversations.into_iter().map(ConversationLine::from).collect::<Vec<_>>())
            }
            Call::Accept { who } => {
                let accept = move |desk: &mut Desk<'_>| Ok(desk.mail.accept(&who, desk.now, desk.rng)?);
                value(ContactLine::from(self.mail(accept).await?))
            }
            Call::Block { who } => {
                value(ContactLine::from(self.mail(move |desk| Ok(desk.mail.block(&who, desk.now)?)).await?))
            }
            Call::Send { to, text } => {
                let send = move |desk: &mut Desk<'_>| {
                    let id = desk.mail.send(&to, &text, desk.now, desk.rng)?;
                    Ok(SentLine::from(desk.mail.state(id)?))
                };
                value(self.mail(send).await?)
            }
            Call::SendFile { to, path } => {
                let (name, content) = read_file(path).await?;
                let send = move |desk: &mut Desk<'_>| {
                    let mime = media_type(&name);
                    let id = desk.mail.send_file(&to, &name, mime, &content, desk.now, desk.rng)?;
                    Ok(SentLine::from(desk.mail.state(id)?))
                };
                value(self.mail(send).await?)
            }
            Call::Read { since, after } => value(self.mail(move |desk| page(desk, since.as_deref(), after)).await?),
            Call::ReadDone { cursor } => {
                self.mail(move |desk| Ok(desk.mail.set_read_cursor(cursor)?)).await?;
                Ok(json!({}))
            }
            Call::State { id } => {
                let id: MessageId = id.parse()?;
                let line = move |desk: &mut Desk<'_>| {
                    let parts = desk.mail.parts(id)?.map(|(written, all)| Parts { written, all });
                    Ok(SentLine { parts, ..desk.mail.state(id)?.into() })
                };
                value(self.mail(line).await?)
            }
            Call::Status => {
                let asked = |desk: &mut Desk<'_>| {
                    let older_copy = desk.mail.rolled_back().map(|conversation| conversation.to_string());
                    let disputes: Vec<DisputeLine> = desk.mail.disputes()?.into_iter().map(DisputeLine::from).collect();
                    Ok((desk.mail.queue_length()?, desk.mail.waiting_for_cards()?, older_copy, disputes))
                };
                let (queue, waiting, older_copy, disputes) = self.mail(asked).await?;
                let line =
                    |(contact, since): (ContactInfo, UnixMillis)| WaitingLine { name: contact.name, since: since.0 };
                let waiting = waiting.into_iter().map(line).collect();
                let status = Status { waiting, older_copy, ..self.snapshot.borrow().status(queue) };
                value(status.with(disputes))
            }
            // both need the connection and are handled where it is
            Call::Subscribe | Call::Shutdown => Ok(json!({})),
        }
    }
}

fn page(desk: &mut Desk<'_>, since: Option<&str>, after: Option<u64>) -> Result<Page, Failure> {
    let after = match (since, after) {
        (Some(id), _) => desk.mail.cursor_of(id.parse::<MessageId>()?)?,
        (None, Some(cursor)) => cursor,
        (None, None) => desk.mail.read_cursor()?,
    };
    let mut text = 0;
    let mut entries = Vec::new();
    for message in desk.mail.messages(after, PAGE_MESSAGES)? {
        text += message.text.len();
        if text > PAGE_TEXT && !entries.is_empty() {
            break;
        }
        entries.push(PageEntry { cursor: message.cursor, message: message.into() });
    }
    Ok(Page { entries })
}

async fn read_file(path: PathBuf) -> Result<(String, Vec<u8>), Failure> {
    let failed = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Io };
        Failure::new(exit, "file", format!("{}: {error}", path.display()), "check the path")
    };
    let metadata = tokio::fs::metadata(&path).await.map_err(failed)?;
    if !metadata.is_file() {
        let next = "name a file; put a folder into an archive first";
        return Err(Failure::new(Exit::Usage, "not_a_file", format!("{} is not a file", path.display()), next));
    }
    if metadata.len() > FILE_MAX {
        return Err(MailError::TooLong { length: metadata.len(), limit: FILE_MAX }.into());
    }
    let file = tokio::fs::File::open(&path).await.map_err(failed)?;
    let content = bounded(file, FILE_MAX).await.map_err(failed)?.ok_or_else(|| {
        // it grew while it was read, or never told its size
        Failure::from(MailError::TooLong { length: FILE_MAX + 1, limit: FILE_MAX })
    })?;
    let name = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((name, content))
}

/// Reads to the end; `None`: there is more than `limit`.
async fn bounded(reader: impl AsyncRead + Unpin, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut content).await?;
    Ok((content.len() as u64 <= limit).then_some(content))
}

/// A hint for the reader, by the file's ending; nobody trusts it.
fn media_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("webp") => "image/webp",
        Some("pdf") => "application/pdf",
        Some("txt" | "md") => "text/plain",
        Some(_) | None => "application/octet-stream",
    }
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

    #[tokio::test]
    async fn a_file_that_does_not_end_is_not_read_to_its_end() {
        assert_eq!(bounded(tokio::io::repeat(7), 1_000).await.unwrap(), None);
        assert_eq!(bounded(&[7; 1_001][..], 1_000).await.unwrap(), None);
        assert_eq!(bounded(&[7; 1_000][..], 1_000).await.unwrap(), Some(vec![7; 1_000]));
    }

    #[test]
    fn media_types_are_hints() {
        assert_eq!(media_type("a.PNG"), "image/png");
        assert_eq!(media_type("Makefile"), "application/octet-stream");
    }
}
