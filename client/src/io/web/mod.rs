//! The local web page: the calls of the socket over HTTP, for one person's browser on this machine.
//!
//! Whoever may use a loopback port is not whoever owns the profile: any user of the machine can connect, and any page
//! in the browser can make it ask. So nothing but the empty page is given without a session, whose secret begins with a
//! link that only the owner's daemon makes; and what another page asks for is refused by its headers (`gate`). Calls go
//! to the same dispatcher as those of the socket (`calls`); there is no second one.

mod calls;
mod downloads;
mod events;
mod gate;
mod house;
mod refusal;
mod routes;
mod setup;
mod uploads;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use shoal_protocol::pages;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::daemon::Daemon;
use super::failure::{Exit, Failure};
use crate::mail::Mail;
use house::{Backend, House};
use setup::Setup;

/// Where the page is served unless said otherwise: a port that the system chooses.
pub const WEB_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// How long what is being answered may take when the daemon stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Only this machine may ask.
    #[error("{0} is not a loopback address; the page is for this machine only")]
    NotLoopback(SocketAddr),
    /// The address is taken, or the port is not ours to bind.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<WebError> for Failure {
    fn from(error: WebError) -> Self {
        let exit = match &error {
            WebError::NotLoopback(_) => Exit::Usage,
            WebError::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Exit::Permission,
            WebError::Bind { .. } => Exit::Temporary,
        };
        Self::new(exit, "web", error.to_string(), "choose another address, such as 127.0.0.1:0")
    }
}

/// The page being served. It answers before there is a daemon behind it, and says so.
pub struct Web {
    house: Arc<House>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Web({})", self.address)
    }
}

impl Web {
    /// Begins to serve the page. [`super::serve_with`] puts a daemon behind it.
    ///
    /// # Errors
    /// The address is not loopback or cannot be bound.
    pub async fn open(address: SocketAddr) -> Result<Self, WebError> {
        if !address.ip().is_loopback() {
            return Err(WebError::NotLoopback(address));
        }
        let bind = |source| WebError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (stop, mut stopped) = watch::channel(false);
        let house = Arc::new(House::new(address, stop.subscribe()));
        let router = routes::router(Arc::clone(&house));
        let task = tokio::spawn(async move {
            let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
            if let Err(error) = pages::serve(listener, router, stop).await {
                tracing::error!(%error, "the web page's server ended");
            }
        });
        tracing::info!(%address, "serving the web page; shoal web prints a link");
        Ok(Self { house, address, stop, task })
    }

    /// Where it is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A link that opens the page once, within ten minutes. Who has it can read and write everything: it is for the
    /// owner.
    #[must_use]
    pub fn link(&self) -> String {
        self.house.link()
    }

    /// Lets the page make a profile in `dir`, and waits until it has: how somebody begins who has none.
    pub async fn make_profile(&self, dir: &Path) -> Mail {
        let (made, is_made) = oneshot::channel();
        self.house.put(Backend::Setup(Arc::new(Setup::new(dir, made))));
        match is_made.await {
            Ok(mail) => {
                self.house.put(Backend::Starting);
                mail
            }
            // the sender is in the house, which this holds: it goes only with a profile
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn put(&self, daemon: Weak<Daemon>) {
        self.house.put(Backend::Daemon(daemon));
    }

    /// Ends it: streams first, then what is being answered.
    pub(super) async fn close(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}
