//! Everything that a store's task wakes for.

use super::engine_thread::Done;
use super::host::Clock;
use super::phase::{Phase, reached};
use super::store_links::Incoming;
use super::store_seam::Request;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::quic::Link;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, sleep_until};

/// What the task wakes for.
pub enum Event {
    /// Something is due.
    Time,
    /// The engine has done a job.
    Outcome(Done),
    /// There is another document, or none any more.
    Consensus(Option<Arc<VerifiedConsensus>>),
    /// The process stops.
    Stop,
    /// Sizes and links are to be reported.
    Tick,
    /// Another store's frame.
    Frame(Incoming),
    /// A client's request.
    Request(Request),
    /// Another store's link.
    Arrival(Link),
}

/// Everything that arrives. Each channel is bounded where it is made.
pub struct Inputs {
    /// What the engine has done.
    pub outcomes: mpsc::Receiver<Done>,
    /// The newest document.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
    /// Time to report.
    pub ticks: Interval,
    /// From other stores.
    pub frames: mpsc::Receiver<Incoming>,
    /// From the mixes.
    pub requests: mpsc::Receiver<Request>,
    /// Links of other stores.
    pub arrivals: mpsc::Receiver<Link>,
}

impl Inputs {
    /// The next event. Of several that are there one is drawn at random: none can wait for ever. While `stopping` no new
    /// requests are taken. Cancel safe: nothing is lost with a call that is dropped.
    pub async fn next(&mut self, stopping: bool) -> Event {
        tokio::select! {
            Some(done) = self.outcomes.recv() => Event::Outcome(done),
            changed = self.consensus.changed(), if !stopping => match changed {
                Ok(()) => Event::Consensus(self.consensus.borrow_and_update().clone()),
                // nobody brings documents any more: the process ends
                Err(_) => Event::Stop,
            },
            () = reached(&mut self.phase, Phase::Stopping), if !stopping => Event::Stop,
            _ = self.ticks.tick() => Event::Tick,
            Some(frame) = self.frames.recv() => Event::Frame(frame),
            Some(request) = self.requests.recv(), if !stopping => Event::Request(request),
            Some(link) = self.arrivals.recv() => Event::Arrival(link),
        }
    }
}

/// Waits until a monotonic time; for ever if there is none.
pub async fn wait_until(clock: &Clock, at: Option<Duration>) {
    match at {
        Some(at) => sleep_until(clock.timer(at)).await,
        None => std::future::pending().await,
    }
}
