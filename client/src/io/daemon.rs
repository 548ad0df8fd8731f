//! The daemon: a running client behind a Unix socket that only its owner may use.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;

use super::client::Client;
use super::control::{Call, Page, PageEntry};
use super::failure::{Exit, Failure};
use super::lines::{
    AcceptedLine, ContactLine, ConversationLine, InviteLine, Parts, PathLine, RateLine, SentLine, VerifyLine,
};
use super::mailroom::{Desk, MailRoom, Stopped};
use super::network_file::{self, NetworkLine};
use super::snapshot::{DisputeLine, NoticeLine, Snapshot, Status, WaitingLine};
use super::socket;
use super::web::{WEB_ADDRESS, Web};
use crate::mail::{ContactInfo, Event, MessageId};
use connection::converse;
use files::read_file;
use shoal_protocol::UnixMillis;
use shoal_protocol::network::Hints;
use shoal_protocol::safety_number::Claimed;

mod connection;
mod files;
mod screen;

/// Connections at a time. Each may hold one line: 64 × 16 MiB would be too much, but only the owner can connect.
const CONNECTIONS_MAX: usize = 64;
/// Messages of one page, and roughly how many bytes of text; a page has at least one message.
const PAGE_MESSAGES: usize = 64;
const PAGE_TEXT: usize = 1 << 20;

/// A client that is being served.
pub(super) struct Daemon {
    snapshot: watch::Receiver<Snapshot>,
    mail: MailRoom,
    events: broadcast::Sender<Event>,
    hints: watch::Sender<Hints>,
    owner: u32,
    /// Takes the connection that asked for the end; it stays open until the client has stopped.
    shutdown: mpsc::Sender<UnixStream>,
    /// The web page, once somebody wanted it.
    web: Mutex<Option<Web>>,
    /// For the page, which must not hold the daemon.
    own: Weak<Self>,
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
    serve_with(None, client, profile, ready, stopped).await
}

/// As [`serve`], with a web page that was opened before.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    web: Option<Web>,
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
    let daemon = Arc::new_cyclic(|own| {
        web.iter().for_each(|web| web.put(Weak::clone(own)));
        let (snapshot, hints) = (client.watch(), client.hints());
        Daemon { snapshot, mail, events, hints, owner, shutdown, web: Mutex::new(web), own: Weak::clone(own) }
    });
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
    let web = daemon.web.lock().await.take();
    drop(daemon);
    if let Some(web) = web {
        web.close().await;
    }
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

    /// A link to the page, which is served from now on if it was not.
    async fn web_link(&self, address: Option<SocketAddr>) -> Result<String, Failure> {
        let mut web = self.web.lock().await;
        if let Some(web) = &*web {
            return Ok(web.link());
        }
        let opened = Web::open(address.unwrap_or(WEB_ADDRESS)).await?;
        opened.put(Weak::clone(&self.own));
        Ok(web.insert(opened).link())
    }

    pub(super) async fn call(&self, call: Call) -> Result<Value, Failure> {
        match call {
            Call::Address => self.mail(own_address).await,
            Call::NewAddress => {
                self.mail(|desk| {
                    desk.mail.new_address(desk.now, desk.rng)?;
                    own_address(desk)
                })
                .await
            }
            Call::Add { name, address } => {
                let add = move |desk: &mut Desk<'_>| {
                    let before = desk.mail.name_of(&address)?;
                    let contact = ContactLine::from(desk.mail.add(&name, &address, desk.now, desk.rng)?);
                    Ok(ContactLine { was: before.filter(|before| *before != contact.name), ..contact })
                };
                value(self.mail(add).await?)
            }
            Call::Invite { name } => {
                let invite = move |desk: &mut Desk<'_>| Ok(desk.mail.invite(name.as_deref(), desk.now, desk.rng)?);
                value(InviteLine::from(self.mail(invite).await?))
            }
            Call::Invites => {
                let invites = self.mail(|desk| Ok(desk.mail.invites(desk.now)?)).await?;
                value(invites.into_iter().map(InviteLine::from).collect::<Vec<_>>())
            }
            Call::Withdraw { number } => {
                self.mail(move |desk| Ok(desk.mail.withdraw(number, desk.rng)?)).await?;
                Ok(json!({}))
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
                value(AcceptedLine::from(self.mail(accept).await?))
            }
            Call::Block { who } => {
                let block = move |desk: &mut Desk<'_>| Ok(desk.mail.block(&who, desk.now, desk.rng)?);
                value(AcceptedLine::from(self.mail(block).await?))
            }
            Call::GroupCreate { name } => {
                let create = move |desk: &mut Desk<'_>| Ok(desk.mail.group_create(&name, desk.now, desk.rng)?);
                value(ConversationLine::from(self.mail(create).await?))
            }
            Call::GroupAdd { conversation, who } => {
                let add = move |desk: &mut Desk<'_>| Ok(desk.mail.group_add(&conversation, &who, desk.now)?);
                value(ConversationLine::from(self.mail(add).await?))
            }
            Call::GroupRemove { conversation, who } => {
                let remove = move |desk: &mut Desk<'_>| Ok(desk.mail.group_remove(&conversation, &who)?);
                value(ConversationLine::from(self.mail(remove).await?))
            }
            Call::GroupLeave { conversation } => {
                let leave = move |desk: &mut Desk<'_>| Ok(desk.mail.group_leave(&conversation, desk.rng)?);
                value(ConversationLine::from(self.mail(leave).await?))
            }
            Call::GroupRename { conversation, name } => {
                let rename = move |desk: &mut Desk<'_>| Ok(desk.mail.group_rename(&conversation, &name)?);
                value(ConversationLine::from(self.mail(rename).await?))
            }
            Call::Verify { who, code, confirm } => {
                value(self.mail(move |desk| verify(desk, &who, code, confirm)).await?)
            }
            Call::OpenFile { id } => {
                let id: MessageId = id.parse()?;
                value(self.mail(move |desk| Ok(PathLine { path: desk.mail.open_file(id)? })).await?)
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
                self.send_content(to, name, content).await
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
            Call::Cancel { id } => {
                let id: MessageId = id.parse()?;
                value(self.mail(move |desk| Ok(SentLine::from(desk.mail.cancel(id)?))).await?)
            }
            Call::Timeline { conversation, before, after, limit } => {
                value(self.timeline(conversation, (before, after), limit).await?)
            }
            Call::Overview => value(self.overview().await?),
            Call::Seen { conversation, cursor } => {
                self.seen(conversation, cursor).await?;
                Ok(json!({}))
            }
            Call::Estimate { conversation, bytes } => value(self.estimate(conversation, bytes).await?),
            Call::WebLink { address } => Ok(json!({ "url": self.web_link(address).await? })),
            Call::Status => {
                let asked = |desk: &mut Desk<'_>| {
                    let older_copy = desk.mail.rolled_back().map(|conversation| conversation.to_string());
                    let disputes: Vec<DisputeLine> = desk.mail.disputes()?.into_iter().map(DisputeLine::from).collect();
                    let notices: Vec<NoticeLine> = desk.mail.notices()?.into_iter().map(NoticeLine::from).collect();
                    let lengths = (desk.mail.queue_length()?, desk.mail.requests()?);
                    Ok((lengths, desk.mail.waiting_for_cards()?, older_copy, disputes, notices))
                };
                let ((queue, requests), waiting, older_copy, disputes, notices) = self.mail(asked).await?;
                let line =
                    |(contact, since): (ContactInfo, UnixMillis)| WaitingLine { name: contact.name, since: since.0 };
                let waiting = waiting.into_iter().map(line).collect();
                let status = Status { waiting, requests, ..self.snapshot.borrow().status(queue) };
                value(Status { notices, ..status.with(disputes, older_copy) })
            }
            Call::NoticesSeen { number } => {
                self.mail(move |desk| Ok(desk.mail.notices_seen(number)?)).await?;
                Ok(json!({}))
            }
            Call::Rate => {
                let rate = |desk: &mut Desk<'_>| Ok(RateLine::new(desk.mail.rate_class(), desk.mail.network()));
                value(self.mail(rate).await?)
            }
            Call::Network => value(self.mail(|desk| Ok(NetworkLine::from(desk.mail.network()))).await?),
            Call::NetworkUpdate { file } => {
                let newer = network_file::parse(&file)?;
                let update = move |desk: &mut Desk<'_>| {
                    let hints = network_file::newer_hints(desk.mail.network(), newer)?;
                    let changed = desk.mail.network().hints != hints;
                    desk.mail.set_hints(hints)?;
                    let now = desk.mail.network();
                    Ok((NetworkLine { changed: Some(changed), ..now.into() }, now.hints.clone()))
                };
                let (line, hints) = self.mail(update).await?;
                self.hints.send_replace(hints);
                value(line)
            }
            // both need the connection and are handled where it is
            Call::Subscribe | Call::Shutdown => Ok(json!({})),
        }
    }
}

fn own_address(desk: &mut Desk<'_>) -> Result<Value, Failure> {
    Ok(json!({ "address": desk.mail.address(), "moving": desk.mail.moving()? }))
}

fn verify(desk: &mut Desk<'_>, who: &str, code: Option<String>, confirm: bool) -> Result<VerifyLine, Failure> {
    let claimed = code.map(|code| code.parse::<Claimed>()).transpose()?;
    let found =
        if confirm { desk.mail.verify(who, claimed.as_ref())? } else { desk.mail.compare(who, claimed.as_ref())? };
    Ok(VerifyLine::new(found, claimed.is_some()))
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
