//! The handle by which a program holds a running client.

use std::path::PathBuf;

use rand::rngs::StdRng;
use shoal_protocol::network::{Hints, NetworkFile};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::mailroom::{Desk, MailRoom, Stopped};
use super::schedule::{CONSENSUS_SETTING, DECOYS_SETTING, GUARDS_SETTING, Kept, Schedule, Setup};
use super::snapshot::{LoopReport, Snapshot};
use crate::mail::{Event, Mail, MailError, RateClass};
use crate::profile::evidence;

/// Loop reports a slow listener may be behind: at 12 a second more than a minute.
const REPORTS_MAX: usize = 1_024;

/// Why a client could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The profile cannot be read.
    #[error(transparent)]
    Profile(#[from] MailError),
    /// The thread for the profile could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running client: it keeps the link and the emission schedule until it is stopped or dropped. Needs a tokio runtime.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = shoal_client::mail::Mail::open(std::path::Path::new("/home/ann/.local/share/shoal"))?;
/// let client = shoal_client::io::Client::start(mail)?;
/// let id = client.mail(|desk| desk.mail.send("bob", "hello", desk.now, desk.rng)).await??;
/// let mut events = client.events();
/// println!("{id} is on its way; next: {:?}", events.recv().await?);
/// # Ok(())
/// # }
/// ```
pub struct Client {
    snapshot: watch::Receiver<Snapshot>,
    reports: broadcast::Sender<LoopReport>,
    mail: Option<MailRoom>,
    events: Option<broadcast::Sender<Event>>,
    hints: watch::Sender<Hints>,
    stop: watch::Sender<bool>,
    schedule: JoinHandle<()>,
    closed: Option<oneshot::Receiver<()>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("with_profile", &self.mail.is_some()).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts the client of a person: traffic, requests and the profile `mail`.
    ///
    /// # Errors
    /// The profile cannot be read, or no thread can be had.
    pub fn start(mail: Mail) -> Result<Self, StartError> {
        let (network, class) = (mail.network().clone(), mail.rate_class());
        let kept = Kept {
            consensus: mail.get_setting(CONSENSUS_SETTING)?,
            guards: mail.get_setting(GUARDS_SETTING)?,
            decoys: mail.get_setting(DECOYS_SETTING)?,
            conflict: evidence::kept(mail.dir()),
            owes: mail.owes_last_words(),
        };
        let clock = Clock::start();
        let dir = mail.dir().to_owned();
        let (room, closed) = MailRoom::open(mail, clock)?;
        Ok(Self::run(clock, network, class, kept, Some((dir, room, closed))))
    }

    /// Starts a client without a profile, of the normal class: it carries nothing for anybody, and all its packets
    /// measure. No node can tell it from a person's client. [`Client::reports`] says how each of its loops fared.
    #[must_use]
    pub fn prober(network: NetworkFile) -> Self {
        Self::run(Clock::start(), network, RateClass::Normal, Kept::default(), None)
    }

    fn run(
        clock: Clock,
        network: NetworkFile,
        class: RateClass,
        kept: Kept,
        mail: Option<(PathBuf, MailRoom, oneshot::Receiver<()>)>,
    ) -> Self {
        let (published, snapshot) = watch::channel(Snapshot::new(class, &network, clock.unix()));
        let (reports, _) = broadcast::channel(REPORTS_MAX);
        let (stop, stopped) = watch::channel(false);
        let (profile, mail, closed) = match mail {
            Some((profile, mail, closed)) => (Some(profile), Some(mail), Some(closed)),
            None => (None, None, None),
        };
        let reports_out = reports.clone();
        let (hints, newer) = watch::channel(network.hints.clone());
        let setup = Setup {
            clock,
            network,
            class,
            kept,
            mail: mail.clone(),
            profile,
            published,
            reports: reports_out,
            hints: newer,
        };
        let schedule = tokio::spawn(Schedule::new(setup).run(stopped));
        let events = mail.as_ref().map(MailRoom::announcer);
        Self { snapshot, reports, mail, events, hints, stop, schedule, closed }
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// The state, and a way to wait for its next change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// How the loops of a prober fare from now on; silent for a client with a profile.
    #[must_use]
    pub fn reports(&self) -> broadcast::Receiver<LoopReport> {
        self.reports.subscribe()
    }

    /// What happens to messages and contacts from now on; silent without a profile.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        match &self.events {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Runs a command on the profile, after the commands given before it.
    ///
    /// # Errors
    /// The client has stopped, or has no profile.
    pub async fn mail<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Desk<'_>) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        match &self.mail {
            Some(mail) => mail.run(command).await,
            None => Err(Stopped),
        }
    }

    /// The queue of the profile, for servers that outlive a borrow of the client.
    #[must_use]
    pub fn mail_room(&self) -> Option<MailRoom> {
        self.mail.clone()
    }

    /// Where to tell the client of newer hints than those that it was started with.
    pub(super) fn hints(&self) -> watch::Sender<Hints> {
        self.hints.clone()
    }

    /// Waits until packets can go: a link stands and a consensus is in force. Put a timeout around it.
    pub async fn connected(&self) {
        // the sender lives in the schedule: an error means that it ended, and nothing will ever connect
        if self.snapshot.clone().wait_for(Snapshot::connected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops the traffic, closes the link, and waits until the profile is closed. Other handles of the mail queue must
    /// be gone by then, else they keep the profile open.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // it can only have ended already
        let _ = (&mut self.schedule).await;
        self.mail = None;
        if let Some(closed) = self.closed.take() {
            // an error means that the thread is gone, which is what is waited for
            let _ = closed.await;
        }
    }
}

/// A generator seeded by the system, for programs around the client.
#[must_use]
pub fn system_rng() -> StdRng {
    rand::make_rng()
}
