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
//! that the writer's next attempt finds them done, but no reads whose answer has left without them ([`super::engine_pace`] says
//! so to operators).

use super::engine_pace::{Doing, Pace, Works};
use super::engine_seat::Seat;
use super::host::Clock;
use super::live_keys::LiveKeys;
use super::store_seam::StoreReport;
use super::tag_log::{LogError, Memory};
use crate::drops::{DropReason, Drops};
use crate::engine::{EngineError, Limits, Outcome, Task, Write};
use crate::replay::Tag;
use crate::replica::Job;
use shoal_protocol::UnixMillis;
use shoal_protocol::types::Epoch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
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
/// Shortest pause between two pages of a move: an engine that does not work fails at once, and is not asked all the time.
const REST_MIN: Duration = Duration::from_millis(2);

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
        seat: Seat,
        clock: Clock,
        done: mpsc::Sender<Done>,
        report: Arc<StoreReport>,
        drops: Arc<Drops>,
        keys: Arc<LiveKeys>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (messages, received) = sync_channel(QUEUE);
        let (works, pace) = (Works::default(), Pace::default());
        let worker = Worker { seat, clock, done, report, drops, keys, works, pace, rest: Duration::ZERO };
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

/// Look-ups of one kind and the jobs they are for.
struct Asked<T> {
    jobs: Vec<Job>,
    what: Vec<T>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { jobs: Vec::new(), what: Vec::new() }
    }
}

impl<T> Asked<T> {
    fn push(&mut self, job: Job, what: T) {
        self.jobs.push(job);
        self.what.push(what);
    }
}

struct Worker {
    seat: Seat,
    clock: Clock,
    done: mpsc::Sender<Done>,
    report: Arc<StoreReport>,
    drops: Arc<Drops>,
    keys: Arc<LiveKeys>,
    works: Works,
    pace: Pace,
    /// Pause before the next page of a move: as long as the last one took, so that it has half of the thread's time.
    rest: Duration,
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
        self.report.set_open(true);
        let works = self.seat.check();
        self.noted(Doing::Answer, works);
        self.report_size();
        while let Some(first) = self.next(received) {
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

    /// The next message; `None` if nobody can send any more. What is left of the time goes into a move.
    fn next(&mut self, received: &Receiver<Message>) -> Option<Message> {
        while self.seat.is_moving() {
            let begun = self.clock.monotonic();
            match received.recv_timeout(self.rest) {
                Ok(message) => {
                    // under load too a move gets its turns
                    self.rest = self.rest.saturating_sub(self.clock.monotonic().saturating_sub(begun));
                    if self.rest.is_zero() {
                        self.step();
                    }
                    return Some(message);
                }
                Err(RecvTimeoutError::Timeout) => self.step(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        received.recv().ok()
    }

    fn step(&mut self) {
        let begun = self.clock.monotonic();
        self.seat.step(self.clock.wall());
        self.rest = self.clock.monotonic().saturating_sub(begun).max(REST_MIN);
    }

    /// Tags first, then writes, then reads; `false` if nobody takes outcomes any more.
    fn execute(&mut self, batch: Vec<(Opened, UnixMillis)>) -> bool {
        let Some(now) = batch.iter().map(|(_, now)| *now).max() else { return true };
        let logged = self.log(&batch);
        let mut jobs: Vec<Job> = Vec::new();
        let mut writes: Vec<Write> = Vec::new();
        let (mut gets, mut reads) = (Asked::default(), Asked::default());
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
                Task::Get(id) => gets.push(job, id),
                Task::Read { inbox, after } => reads.push(job, (inbox, after)),
            }
        }
        // an engine that is asked for nothing succeeds, which says nothing about it
        if !jobs.is_empty() {
            let written = self.seat.write(now, &writes);
            let written = self.noted(Doing::Write, written);
            if !self.tell(jobs, written.map(|written| written.into_iter().map(Outcome::Written).collect())) {
                return false;
            }
        }
        let Some(gets) = self.in_time(gets) else { return false };
        if !gets.jobs.is_empty() {
            let got = self.seat.get_all(&gets.what);
            let got = self.noted(Doing::Read, got);
            if !self.tell(gets.jobs, got.map(|got| got.into_iter().map(Outcome::Got).collect())) {
                return false;
            }
        }
        let Some(reads) = self.in_time(reads) else { return false };
        if reads.jobs.is_empty() {
            return true;
        }
        let read = self.seat.read_all(&reads.what);
        let read = self.noted(Doing::Read, read);
        self.tell(reads.jobs, read.map(|read| read.into_iter().map(Outcome::Entry).collect()))
    }

    /// Whether the answer that a job is for has left without it.
    fn is_late(&self, job: Job) -> bool {
        job.0 <= self.clock.monotonic()
    }

    /// Those look-ups whose answers have not left; the others have failed. `None` if nobody takes outcomes any more.
    fn in_time<T>(&mut self, asked: Asked<T>) -> Option<Asked<T>> {
        let (mut left, mut late) = (Asked::default(), Vec::new());
        for (job, what) in asked.jobs.into_iter().zip(asked.what) {
            if self.is_late(job) {
                late.push(job);
            } else {
                left.push(job, what);
            }
        }
        self.tell(late, None).then_some(left)
    }

    /// Tells what came of jobs; all have failed if there are no outcomes. `false` if nobody takes them any more.
    fn tell(&mut self, jobs: Vec<Job>, outcomes: Option<Vec<Outcome>>) -> bool {
        let outcomes = outcomes.unwrap_or_else(|| vec![Outcome::Failed; jobs.len()]);
        jobs.into_iter().zip(outcomes).all(|(job, outcome)| {
            self.pace.observe(self.is_late(job));
            self.done.blocking_send(Done { job, outcome }).is_ok()
        })
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
        let works = self.seat.check();
        let answers = self.noted(Doing::Answer, works).is_some();
        let expired = self.seat.tend(now, limits);
        match &expired {
            Ok(0) => {}
            Ok(erased) => info!(erased, "erased buckets whose retention is over"),
            Err(_) => {}
        }
        // an engine that does not even answer has said so
        if answers {
            match self.works.erased(expired.is_ok()) {
                None => {}
                Some(true) => info!("what is over is erased again"),
                Some(false) => {
                    let error = expired.err().map(|error| error.to_string());
                    warn!(
                        error,
                        "what is over cannot be erased, and stays until it can; it is tried every few seconds"
                    );
                }
            }
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
        let totals = self.seat.totals();
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
