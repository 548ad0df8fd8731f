//! What all handlers share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};

use super::setup::Setup;
use crate::io::clock::Clock;
use crate::io::daemon::Daemon;
use crate::io::failure::{Exit, Failure};
use crate::io::system_rng;
use crate::web::own::Own;
use crate::web::sessions::Sessions;

/// Files that are taken in at a time: each lies in memory as a whole, 64 MiB at most.
const UPLOADS_MAX: usize = 2;
/// Streams of events at a time: one a session, and some that a browser has not closed yet. Each holds a connection.
const STREAMS_MAX: usize = 20;

/// What is behind the page.
pub(super) enum Backend {
    /// Nothing yet: the daemon is being started.
    Starting,
    /// No profile: the page may make one.
    Setup(Arc<Setup>),
    /// A daemon, which ends when it wants: a page that is open does not hold it.
    Daemon(Weak<Daemon>),
}

pub(super) struct House {
    pub(super) own: Own,
    sessions: Mutex<Sessions>,
    backend: Mutex<Backend>,
    clock: Clock,
    pub(super) uploads: Semaphore,
    pub(super) streams: Arc<Semaphore>,
    /// Turns true when the page ends.
    pub(super) stop: watch::Receiver<bool>,
}

/// What a panic left behind is still a list of secrets, or a choice of three.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl House {
    pub(super) fn new(address: SocketAddr, stop: watch::Receiver<bool>) -> Self {
        Self {
            own: Own::at(address),
            sessions: Mutex::default(),
            backend: Mutex::new(Backend::Starting),
            clock: Clock::start(),
            uploads: Semaphore::new(UPLOADS_MAX),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            stop,
        }
    }

    pub(super) fn put(&self, backend: Backend) {
        *lock(&self.backend) = backend;
    }

    pub(super) fn link(&self) -> String {
        let token = lock(&self.sessions).link(self.clock.now(), &mut system_rng());
        format!("{}#{token}", self.own.url())
    }

    pub(super) fn exchange(&self, token: &str) -> Option<String> {
        lock(&self.sessions).exchange(token, self.clock.now(), &mut system_rng())
    }

    /// Whether the session is open; it is used by that.
    pub(super) fn used(&self, session: &str) -> bool {
        lock(&self.sessions).used(session, self.clock.now())
    }

    pub(super) fn end(&self, session: &str) {
        lock(&self.sessions).end(session);
    }

    /// The daemon behind the page.
    pub(super) fn daemon(&self) -> Result<Arc<Daemon>, Failure> {
        let daemon = match &*lock(&self.backend) {
            Backend::Daemon(daemon) => daemon.upgrade(),
            Backend::Starting => None,
            Backend::Setup(_) => {
                let next = "make one on the page, or with shoal init --network FILE";
                return Err(Failure::new(Exit::Temporary, "no_profile", "there is no profile yet", next));
            }
        };
        let stopped =
            || Failure::new(Exit::Temporary, "starting", "the daemon starts or stops", "ask again in a moment");
        daemon.ok_or_else(stopped)
    }

    /// The making of a profile, while there is none.
    pub(super) fn setup(&self) -> Option<Arc<Setup>> {
        match &*lock(&self.backend) {
            Backend::Setup(setup) => Some(Arc::clone(setup)),
            Backend::Starting | Backend::Daemon(_) => None,
        }
    }
}
