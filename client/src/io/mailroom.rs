//! The thread that owns the [`Mail`]: its transactions wait for the disk, and the emission schedule must not.
//!
//! Everything that touches the profile is a job on one bounded queue, taken in order: that is what makes commands on one
//! conversation take effect in the order given.

use std::sync::Arc;

use rand::rngs::StdRng;
use shoal_protocol::UnixMillis;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

use super::clock::Clock;
use crate::mail::{Event, Mail};

/// Jobs that may wait. The schedule has at most one question, 64 departures and 64 answers out (the window of the
/// [`Mail`]) and a handful of settings, commands at most [`COMMANDS_MAX`]: 1 + 128 + 128 and room for the settings; so
/// the schedule never finds the queue full.
const JOBS_MAX: usize = 320;
/// Commands that may wait or run at a time.
const COMMANDS_MAX: usize = 128;
/// Events that a slow listener may be behind before it loses the oldest (and is told so).
const EVENTS_MAX: usize = 1_024;

/// The thread is gone: the client was stopped, or the thread panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has stopped")]
pub struct Stopped;

/// What a job works with.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The state.
    pub mail: &'a mut Mail,
    /// The time at which the job began.
    pub now: UnixMillis,
    /// Randomness of the mail thread.
    pub rng: &'a mut StdRng,
}

type Job = Box<dyn FnOnce(&mut Desk<'_>) + Send>;

/// Handle of the mail thread. The thread ends, and the profile is closed, when the last handle is gone.
#[derive(Clone)]
pub struct MailRoom {
    jobs: mpsc::Sender<Job>,
    commands: Arc<Semaphore>,
    events: broadcast::Sender<Event>,
}

impl std::fmt::Debug for MailRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MailRoom")
    }
}

impl MailRoom {
    /// Starts the thread. The receiver resolves when it has ended and the profile is closed.
    pub(super) fn open(mut mail: Mail, clock: Clock) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let announce = events.clone();
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("shoal-mail".to_owned()).spawn(move || {
            let mut rng: StdRng = rand::make_rng();
            while let Some(job) = queue.blocking_recv() {
                job(&mut Desk { mail: &mut mail, now: clock.unix(), rng: &mut rng });
                // an error means that nobody listens; whatever an event says can be read from the profile
                mail.take_events().into_iter().for_each(|event| drop(announce.send(event)));
            }
            drop(mail);
            // nobody may be waiting for the end any more
            let _ = ended.send(());
        })?;
        Ok((Self { jobs, commands: Arc::new(Semaphore::new(COMMANDS_MAX)), events }, end))
    }

    /// Runs a command on the state and waits for what it returns.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn run<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Desk<'_>) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let _permit = self.commands.acquire().await.map_err(|_| Stopped)?;
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |desk| {
            // the caller may have given up waiting; the command has taken effect all the same
            let _ = done.send(command(desk));
        });
        self.jobs.send(job).await.map_err(|_| Stopped)?;
        result.await.map_err(|_| Stopped)
    }

    /// Puts a job of the schedule on the queue without waiting.
    pub(super) fn submit(&self, job: impl FnOnce(&mut Desk<'_>) + Send + 'static) -> Result<(), Stopped> {
        self.jobs.try_send(Box::new(job)).map_err(|_| Stopped)
    }

    /// What happens to messages and contacts from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Where the schedule's jobs announce events.
    pub(super) fn announcer(&self) -> broadcast::Sender<Event> {
        self.events.clone()
    }
}
