//! The engine's own thread: gathers what comes within 2 ms into one durable batch.
//!
//! A flush to the disk takes 0.2 to 5 ms however much it covers, so writes that arrive together are committed together.
//! Nobody is told that a write is stored before its batch is committed, and nothing is read while one is being
//! committed, so a reader never sees what might still be lost.

use super::host::Clock;
use super::store_seam::StoreReport;
use crate::engine::{Engine, EngineError, Limits, Outcome, Task, Write};
use crate::replica::Job;
use shoal_protocol::UnixMillis;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// How long the first write of a batch waits for others.
const GATHER: Duration = Duration::from_millis(2);
/// Tasks of one batch at most. 256 × 1.9 kB = 0.5 MB; larger batches are no faster (18,000 boxes/s from 64 on).
const BATCH_MAX: usize = 256;
/// Tasks that wait for the thread. 1,024 × 1.9 kB = 2 MB; a disk that needs 5 ms a commit works them off in four
/// batches, 20 ms. What finds the queue full is answered `unavailable`.
const QUEUE: usize = 1_024;

enum Message {
    Do { job: Job, task: Task, now: UnixMillis },
    Tend { now: UnixMillis, limits: Limits },
}

/// What came of a task.
#[derive(Debug)]
pub struct Done {
    /// Its name.
    pub job: Job,
    /// What came of it.
    pub outcome: Outcome,
}

/// The way to the engine's thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct EngineClient {
    messages: SyncSender<Message>,
}

impl EngineClient {
    /// Starts the thread. Outcomes go to `done`; how the engine does goes to `report`.
    pub fn start(
        engine: Box<dyn Engine>,
        done: mpsc::Sender<Done>,
        report: Arc<StoreReport>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (messages, received) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store-engine".to_owned())
            .spawn(move || Worker { engine, clock: Clock::start(), done, report, failing: false }.run(&received))?;
        Ok((Self { messages }, thread))
    }

    /// Hands a task over; `false` if the queue is full or the thread has ended. `now` decides into which bucket a write
    /// goes.
    pub fn submit(&self, job: Job, task: Task, now: UnixMillis) -> bool {
        self.messages.try_send(Message::Do { job, task, now }).is_ok()
    }

    /// Sets limits, erases what is over and reports the size; `false` if the thread has ended.
    pub fn tend(&self, now: UnixMillis, limits: Limits) -> bool {
        // a full queue means a busy engine, not a dead one: the next call will do
        !matches!(self.messages.try_send(Message::Tend { now, limits }), Err(TrySendError::Disconnected(_)))
    }
}

struct Worker {
    engine: Box<dyn Engine>,
    clock: Clock,
    done: mpsc::Sender<Done>,
    report: Arc<StoreReport>,
    failing: bool,
}

impl Worker {
    fn run(mut self, received: &Receiver<Message>) {
        self.report.set_open(true);
        self.report_size();
        while let Ok(first) = received.recv() {
            let mut batch = Vec::new();
            let mut next = Some(first);
            let deadline = self.clock.monotonic() + GATHER;
            while let Some(message) = next.take() {
                match message {
                    Message::Do { job, task, now } => batch.push((job, task, now)),
                    Message::Tend { now, limits } => self.tend(now, limits),
                }
                if batch.len() < BATCH_MAX {
                    next = received.recv_timeout(deadline.saturating_sub(self.clock.monotonic())).ok();
                }
            }
            if !self.execute(batch) {
                break;
            }
        }
        self.report.set_open(false);
    }

    /// Writes first, then reads; `false` if nobody takes outcomes any more.
    fn execute(&mut self, batch: Vec<(Job, Task, UnixMillis)>) -> bool {
        let Some(now) = batch.iter().map(|(_, _, now)| *now).max() else { return true };
        let mut jobs: Vec<Job> = Vec::new();
        let mut writes: Vec<Write> = Vec::new();
        let mut reads: Vec<(Job, Task)> = Vec::new();
        for (job, task, _) in batch {
            match task {
                Task::Write(write) => {
                    jobs.push(job);
                    writes.push(write);
                }
                Task::Get(_) | Task::Read { .. } => reads.push((job, task)),
            }
        }
        let written = self.engine.write(now, &writes);
        let outcomes: Vec<Outcome> = match self.noted(written) {
            Some(written) => written.into_iter().map(Outcome::Written).collect(),
            None => vec![Outcome::Failed; writes.len()],
        };
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            if self.done.blocking_send(Done { job, outcome }).is_err() {
                return false;
            }
        }
        for (job, task) in reads {
            let outcome = match task {
                Task::Get(id) => self.engine.get(&id).map(Outcome::Got),
                Task::Read { inbox, after } => self.engine.read(&inbox, after).map(Outcome::Entry),
                // sorted out above
                Task::Write(_) => Ok(Outcome::Failed),
            };
            let outcome = self.noted(outcome).unwrap_or(Outcome::Failed);
            if self.done.blocking_send(Done { job, outcome }).is_err() {
                return false;
            }
        }
        true
    }

    fn tend(&mut self, now: UnixMillis, limits: Limits) {
        self.engine.set_limits(limits);
        let expired = self.engine.expire(now);
        if let Some(erased @ 1..) = self.noted(expired) {
            info!(erased, "erased buckets whose retention is over");
        }
        self.report_size();
    }

    fn report_size(&mut self) {
        let totals = self.engine.totals();
        self.report.set_size(totals.records, totals.bytes);
    }

    /// Logs and reports when the engine begins to fail and when it works again, not every failure.
    fn noted<T>(&mut self, result: Result<T, EngineError>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.failing {
                    self.failing = false;
                    self.report.set_open(true);
                    info!("the store works again");
                }
                Some(value)
            }
            Err(error) => {
                if !self.failing {
                    self.failing = true;
                    self.report.set_open(false);
                    warn!(%error, "the store fails; nothing is acknowledged until it works again");
                }
                None
            }
        }
    }
}
