//! The engine's own thread: gathers what comes within 2 ms into one durable batch.
//!
//! Nothing is done for an envelope before its tag is in the log of its key: the tags of a batch are written first, here,
//! where waiting for a disk makes nobody else wait.
//!
//! A flush to the disk takes 0.2 to 5 ms however much it covers, so writes that arrive together are committed together.
//! Nobody is told that a write is stored before its batch is committed, and nothing is read while one is being
//! committed, so a reader never sees what might still be lost.
//!
//! An engine that fails is asked again with every batch, and an engine that is too slow works off what waits: writes, so
//! that the writer's next attempt finds them done, but no reads whose answer has left without them.

use super::host::Clock;
use super::live_keys::LiveKeys;
use super::store_seam::StoreReport;
use super::tag_log::{LogError, Memory};
use crate::drops::{DropReason, Drops};
use crate::engine::{Engine, EngineError, Limits, Outcome, Task, Write, Written};
use crate::replay::Tag;
use crate::replica::Job;
use shoal_protocol::UnixMillis;
use shoal_protocol::types::Epoch;
use std::collections::BTreeMap;
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
/// Lines in the log about a store that fails and works again come no closer than this: one that does both in turn would
/// fill the disk that it has no room on.
const QUIET: Duration = Duration::from_secs(10);
/// Tasks that wait for the thread. 1,024 × 1.9 kB = 2 MB; a disk that needs 5 ms a commit works them off in four
/// batches, 20 ms. What finds the queue full is answered `unavailable`.
const QUEUE: usize = 1_024;

/// An envelope that was opened: what keeps it from being opened again, and what it asks of the engine.
#[derive(Debug)]
pub struct Opened {
    /// Epoch of the envelope key.
    pub epoch: Epoch,
    /// What was seen under it.
    pub memory: Arc<Memory>,
    /// This envelope in there.
    pub tag: Tag,
    /// What to do once the tag is written, and the name to give back with its outcome.
    pub task: Option<(Job, Task)>,
}

enum Message {
    Do { opened: Opened, now: UnixMillis },
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
    /// Starts the thread. `clock` is the one that jobs name their time by. Outcomes go to `done`; how the engine does goes
    /// to `report`; what is not done is counted in `drops`, and a log that is torn is reported to `keys`.
    pub fn start(
        engine: Box<dyn Engine>,
        clock: Clock,
        done: mpsc::Sender<Done>,
        report: Arc<StoreReport>,
        drops: Arc<Drops>,
        keys: Arc<LiveKeys>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (messages, received) = sync_channel(QUEUE);
        let (works, pace) = (Works::default(), Pace::default());
        let worker = Worker { engine, clock, done, report, drops, keys, works, pace };
        let thread = thread::Builder::new().name("store-engine".to_owned()).spawn(move || worker.run(&received))?;
        Ok((Self { messages }, thread))
    }

    /// Hands an envelope over; `false` if the queue is full or the thread has ended. `now` decides into which bucket a
    /// write goes.
    pub fn submit(&self, opened: Opened, now: UnixMillis) -> bool {
        self.messages.try_send(Message::Do { opened, now }).is_ok()
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
    drops: Arc<Drops>,
    keys: Arc<LiveKeys>,
    works: Works,
    pace: Pace,
}

/// What an engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Write,
    Read,
    Erase,
}

/// What works. One does not speak for the other: from a full disk one can read.
#[derive(Debug, Default)]
struct Works {
    /// Why not; `None`: it works, as far as anybody knows.
    failing: [Option<String>; 3],
    /// When the log was last written.
    said: Option<Duration>,
}

impl Works {
    /// Takes how something went; says whether everything works now if that has changed.
    fn observe(&mut self, doing: Doing, failure: Option<String>) -> Option<Result<(), String>> {
        let before = self.first();
        if let Some(slot) = self.failing.get_mut(doing as usize) {
            *slot = failure;
        }
        let now = self.first();
        (before.is_ok() != now.is_ok()).then_some(now)
    }

    fn first(&self) -> Result<(), String> {
        self.failing.iter().flatten().next().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Whether it may be said in the log now.
    fn may_say(&mut self, now: Duration) -> bool {
        let quiet = self.said.is_some_and(|said| now.saturating_sub(said) < QUIET);
        if !quiet {
            self.said = Some(now);
        }
        !quiet
    }
}

/// Whether outcomes come in time for their answers.
#[derive(Debug, Default)]
struct Pace {
    outcomes: u64,
    late: u64,
    slow: bool,
}

impl Pace {
    fn observe(&mut self, late: bool) {
        self.outcomes += 1;
        self.late += u64::from(late);
    }

    /// Judges what came since the last call: slow if at least half of it was late. `Some` if that has changed.
    fn judge(&mut self) -> Option<bool> {
        let Self { outcomes, late, slow } = std::mem::take(self);
        // who was asked nothing is as slow as before
        self.slow = if outcomes == 0 { slow } else { late * 2 >= outcomes };
        (self.slow != slow).then_some(self.slow)
    }
}

/// Says that the store is closed when the thread ends, however it ends.
struct Closing(Arc<StoreReport>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.set_open(false);
    }
}

impl Worker {
    fn run(mut self, received: &Receiver<Message>) {
        let _closing = Closing(Arc::clone(&self.report));
        self.report_size();
        self.report.set_open(true);
        while let Ok(first) = received.recv() {
            let mut batch = Vec::new();
            let mut next = Some(first);
            let deadline = self.clock.monotonic() + GATHER;
            while let Some(message) = next.take() {
                match message {
                    Message::Do { opened, now } => batch.push((opened, now)),
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
    }

    /// Tags first, then writes, then reads; `false` if nobody takes outcomes any more.
    fn execute(&mut self, batch: Vec<(Opened, UnixMillis)>) -> bool {
        let Some(now) = batch.iter().map(|(_, now)| *now).max() else { return true };
        let logged = self.log(&batch);
        let mut jobs: Vec<Job> = Vec::new();
        let mut writes: Vec<Write> = Vec::new();
        let mut reads: Vec<(Job, Task)> = Vec::new();
        for (opened, _) in batch {
            let is_logged = logged.get(&opened.epoch) == Some(&true);
            if !is_logged {
                self.drops.count(DropReason::ReplayLogFailed);
            }
            let Some((job, task)) = opened.task else { continue };
            if !is_logged {
                if self.done.blocking_send(Done { job, outcome: Outcome::Failed }).is_err() {
                    return false;
                }
                continue;
            }
            match task {
                Task::Write(write) => {
                    jobs.push(job);
                    writes.push(write);
                }
                Task::Get(_) | Task::Read { .. } => reads.push((job, task)),
            }
        }
        let written = if writes.is_empty() { Some(Vec::new()) } else { self.write(now, &writes) };
        let outcomes: Vec<Outcome> = match written {
            Some(written) => written.into_iter().map(Outcome::Written).collect(),
            None => vec![Outcome::Failed; writes.len()],
        };
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            self.pace.observe(self.is_late(job));
            if self.done.blocking_send(Done { job, outcome }).is_err() {
                return false;
            }
        }
        for (job, task) in reads {
            let late = self.is_late(job);
            self.pace.observe(late);
            let outcome = match task {
                Task::Get(_) | Task::Read { .. } if late => Some(Outcome::Failed),
                Task::Get(id) => {
                    let got = self.engine.get(&id).map(Outcome::Got);
                    self.noted(Doing::Read, got)
                }
                Task::Read { inbox, after } => {
                    let read = self.engine.read(&inbox, after).map(Outcome::Entry);
                    self.noted(Doing::Read, read)
                }
                // sorted out above
                Task::Write(_) => None,
            };
            let outcome = outcome.unwrap_or(Outcome::Failed);
            if self.done.blocking_send(Done { job, outcome }).is_err() {
                return false;
            }
        }
        true
    }

    fn write(&mut self, now: UnixMillis, writes: &[Write]) -> Option<Vec<Written>> {
        let written = self.engine.write(now, writes);
        self.noted(Doing::Write, written)
    }

    /// Whether the answer that a job is for has left without it.
    fn is_late(&self, job: Job) -> bool {
        job.0 <= self.clock.monotonic()
    }

    /// Writes the tags of a batch, those of one key in one go; says for each epoch whether they are in its log. Keys of at
    /// most three epochs are accepted at a time.
    fn log(&self, batch: &[(Opened, UnixMillis)]) -> BTreeMap<Epoch, bool> {
        let mut by_epoch: BTreeMap<Epoch, (&Memory, Vec<Tag>)> = BTreeMap::new();
        for (opened, _) in batch {
            by_epoch.entry(opened.epoch).or_insert_with(|| (&opened.memory, Vec::new())).1.push(opened.tag);
        }
        let write = |(epoch, (memory, tags)): (Epoch, (&Memory, Vec<Tag>))| match memory.log(&tags) {
            Ok(()) => (epoch, true),
            Err(LogError::Unwritten(_)) => (epoch, false),
            Err(LogError::Torn) => {
                self.keys.report_torn(epoch);
                (epoch, false)
            }
        };
        by_epoch.into_iter().map(write).collect()
    }

    fn tend(&mut self, now: UnixMillis, limits: Limits) {
        self.engine.set_limits(limits);
        let expired = self.engine.expire(now);
        if let Some(erased @ 1..) = self.noted(Doing::Erase, expired) {
            info!(erased, "erased buckets whose retention is over");
        }
        self.report_size();
        if let Some(slow) = self.pace.judge() {
            self.report.set_slow(slow);
            if slow && self.works.may_say(self.clock.monotonic()) {
                warn!("the store's disk is too slow: answers leave without what it did, and clients ask again");
            }
        }
    }

    fn report_size(&mut self) {
        let totals = self.engine.totals();
        self.report.set_size(totals.records, totals.bytes);
    }

    /// Logs and reports when the engine begins to fail and when it works again, not every failure.
    fn noted<T>(&mut self, doing: Doing, result: Result<T, EngineError>) -> Option<T> {
        let (value, failure) = match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error.to_string())),
        };
        match self.works.observe(doing, failure) {
            None => {}
            Some(Ok(())) => {
                self.report.set_open(true);
                if self.works.may_say(self.clock.monotonic()) {
                    info!("the store works again");
                }
            }
            Some(Err(error)) => {
                self.report.set_failed(&error);
                if self.works.may_say(self.clock.monotonic()) {
                    warn!(%error, "the store fails; nothing is acknowledged until it works again");
                }
            }
        }
        value
    }
}

#[cfg(test)]
mod tests;
