//! The thread with a real engine on a disk that fails, and with engines that wait or panic.

use super::*;
use crate::engine::{Bucket, Engine, Entry, Key, Record, Totals, Written};
use crate::engine_mark::Mark;
use crate::io::engine_conformance::{LIMITS, NOW, body, id, put};
use crate::io::engine_redb::RedbEngine;
use crate::io::torn_disk::{Fault, TornDisk};
use crate::replay::ReplaySet;
use shoal_protocol::boxes::{BoxBody, BoxId};
use shoal_protocol::types::Hash;
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Longer than any wait that a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    client: EngineClient,
    thread: JoinHandle<()>,
    outcomes: mpsc::Receiver<Done>,
    report: Arc<StoreReport>,
    clock: Clock,
    memory: Arc<Memory>,
    next: u64,
    _dir: TempDir,
}

fn start(engine: Box<dyn Engine>, outcomes: usize) -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let set = ReplaySet::new(Zeroizing::new([5; 32]), 100_000);
    let memory = Memory::create(&dir.path().join("log"), &Hash::from_bytes([7; 32]), set).expect("created");
    let (done, outcomes) = mpsc::channel(outcomes);
    let (report, clock) = (Arc::new(StoreReport::default()), Clock::start());
    let (client, thread) = EngineClient::start(
        Seat::new(engine, Arc::default()),
        clock,
        done,
        Arc::clone(&report),
        Arc::default(),
        Arc::default(),
    )
    .expect("starts");
    Fixture { client, thread, outcomes, report, clock, memory: Arc::new(memory), next: 0, _dir: dir }
}

fn on(disk: &TornDisk) -> Box<dyn Engine> {
    Box::new(RedbEngine::open(Box::new(disk.clone()), LIMITS).expect("opens"))
}

impl Fixture {
    /// Hands a task over, whose answer leaves after `patience`.
    fn submit(&mut self, task: Task, patience: Duration) -> Job {
        self.next += 1;
        let mut name = [0; 32];
        name[..8].copy_from_slice(&self.next.to_be_bytes());
        let (_, tag) = self.memory.insert(&name);
        let job = (self.clock.monotonic() + patience, self.next);
        let memory = Arc::clone(&self.memory);
        assert!(self.client.submit(Opened { epoch: Epoch(1), memory, tag, task: Some((job, task)) }, NOW));
        job
    }

    fn ask(&mut self, task: Task) -> Outcome {
        let job = self.submit(task, PATIENCE);
        let done = self.outcomes.blocking_recv().expect("an outcome");
        assert_eq!(done.job, job);
        done.outcome
    }

    fn tend(&self) -> bool {
        self.client.tend(NOW, LIMITS)
    }

    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = self.clock.monotonic() + PATIENCE;
        while !condition(self) {
            assert!(self.clock.monotonic() < deadline, "{what}");
            thread::yield_now();
        }
    }
}

fn write(name: u64) -> Task {
    Task::Write(put(name, name))
}

#[test]
fn reading_does_not_hide_that_nothing_can_be_written() {
    let disk = TornDisk::default();
    let mut store = start(on(&disk), 16);
    let stored = Outcome::Written(Written::Stored);
    assert_eq!(store.ask(write(0)), stored);
    disk.fault_in(Fault::FullAtGrowth, 0);
    let mut name = 0;
    while store.ask(write(name + 1)) == stored {
        name += 1;
        assert!(name < 10_000, "the disk never was full");
    }
    for _ in 0..20 {
        assert_eq!(store.ask(Task::Get(id(0))), Outcome::Got(Some(body(0))));
        assert!(!store.report.is_open());
        assert_eq!(store.ask(write(name + 1)), Outcome::Failed);
    }
    assert!(store.report.problem().is_some_and(|problem| problem.contains("not open: storage is unavailable")));
    disk.heal();
    assert_eq!(store.ask(write(name + 1)), stored);
    assert!(store.report.is_open() && store.report.problem().is_none());
    for name in 0..=name + 1 {
        assert_eq!(store.ask(Task::Get(id(name))), Outcome::Got(Some(body(name))));
    }
}

#[test]
fn lines_about_failing_and_working_in_turn_are_few() {
    let mut works = Works::default();
    let mut lines = 0;
    for n in 0..1_000u64 {
        let failure = n.is_multiple_of(2).then(|| "full".to_owned());
        if works.observe(Doing::Write, failure).is_some() {
            lines += u32::from(works.may_say(Duration::from_millis(n * 10)));
        }
        // reading works all the time, and says nothing about writing
        assert_eq!(works.observe(Doing::Read, None), None);
    }
    assert_eq!(lines, 1, "a thousand changes in ten seconds");
}

#[test]
fn outcomes_that_nobody_takes_make_the_thread_wait_and_are_not_lost() {
    let disk = TornDisk::default();
    let mut store = start(on(&disk), 1);
    let jobs: Vec<Job> = (0..600).map(|name| store.submit(write(name), PATIENCE)).collect();
    for job in jobs {
        let done = store.outcomes.blocking_recv().expect("an outcome");
        assert_eq!((done.job, done.outcome), (job, Outcome::Written(Written::Stored)));
    }
    let Fixture { client, thread, .. } = store;
    drop(client);
    thread.join().expect("it ends without a panic");
}

#[test]
fn a_slow_engine_is_told_and_does_no_reads_that_nobody_waits_for() {
    let disk = TornDisk::default();
    let mut store = start(on(&disk), 16);
    assert_eq!(store.ask(write(1)), Outcome::Written(Written::Stored));
    for name in 2..10 {
        // its answer has left already: the write is done for the next attempt, the read is not done
        store.submit(write(name), Duration::ZERO);
        let done = store.outcomes.blocking_recv().expect("an outcome");
        assert_eq!(done.outcome, Outcome::Written(Written::Stored));
        store.submit(Task::Get(id(1)), Duration::ZERO);
        assert_eq!(store.outcomes.blocking_recv().expect("an outcome").outcome, Outcome::Failed);
    }
    assert!(store.tend());
    store.until("slowness is told", |store| store.report.problem().is_some_and(|problem| problem.contains("too slow")));
    assert!(store.report.is_open());
    for _ in 0..20 {
        assert_eq!(store.ask(Task::Get(id(9))), Outcome::Got(Some(body(9))));
    }
    assert!(store.tend());
    store.until("it is over", |store| store.report.problem().is_none());
}

/// Waits in every write until it is let go on, or panics.
struct Gate(Receiver<()>);

impl Engine for Gate {
    fn set_limits(&mut self, _: Limits) {}
    fn write(&mut self, _: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError> {
        self.0.recv().expect("the gate is open or shut, never gone");
        Ok(vec![Written::Stored; batch.len()])
    }
    fn get(&mut self, _: &BoxId) -> Result<Option<BoxBody>, EngineError> {
        Ok(None)
    }
    fn read(&mut self, _: &BoxId, _: u64) -> Result<Option<Entry>, EngineError> {
        Ok(None)
    }
    fn expire(&mut self, _: UnixMillis) -> Result<usize, EngineError> {
        Ok(0)
    }
    fn totals(&mut self) -> Totals {
        Totals::default()
    }
    fn check(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    fn buckets(&mut self) -> Result<Vec<Bucket>, EngineError> {
        Ok(Vec::new())
    }
    fn page(&mut self, _: Bucket, _: Option<Key>, _: usize) -> Result<Vec<Record>, EngineError> {
        Ok(Vec::new())
    }
    fn find(&mut self, writes: &[Write]) -> Result<Vec<Option<Record>>, EngineError> {
        Ok(vec![None; writes.len()])
    }
    fn import(&mut self, _: &[Record]) -> Result<(), EngineError> {
        Ok(())
    }
    fn place(&mut self) -> Result<String, EngineError> {
        Ok("gate".to_owned())
    }
    fn mark(&mut self) -> Result<Option<Mark>, EngineError> {
        Ok(None)
    }
    fn set_mark(&mut self, _: Option<&Mark>) -> Result<(), EngineError> {
        Ok(())
    }
    fn wipe(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[test]
fn an_engine_that_hangs_fills_the_queue_and_refuses_what_comes_then() {
    let (open, gate) = sync_channel(2 * QUEUE);
    let mut store = start(Box::new(Gate(gate)), 16);
    let task = |store: &mut Fixture| {
        store.next += 1;
        let mut name = [0; 32];
        name[..8].copy_from_slice(&store.next.to_be_bytes());
        let (_, tag) = store.memory.insert(&name);
        let job = (store.clock.monotonic() + PATIENCE, store.next);
        let memory = Arc::clone(&store.memory);
        store.client.submit(Opened { epoch: Epoch(1), memory, tag, task: Some((job, write(store.next))) }, NOW)
    };
    let mut taken = 0;
    while task(&mut store) {
        taken += 1;
        assert!(taken <= QUEUE + BATCH_MAX, "the queue has no end");
    }
    assert!(store.tend(), "busy is not dead");
    for _ in 0..taken {
        open.send(()).expect("it waits");
    }
    for _ in 0..taken {
        store.outcomes.blocking_recv().expect("an outcome");
    }
}

#[test]
fn a_panic_closes_the_store_and_is_told_at_the_next_call() {
    let (open, gate) = sync_channel(2 * QUEUE);
    let mut store = start(Box::new(Gate(gate)), 16);
    open.send(()).expect("it waits");
    assert_eq!(store.ask(write(1)), Outcome::Written(Written::Stored));
    assert!(store.report.is_open());
    drop(open);
    store.submit(write(2), PATIENCE);
    assert!(store.outcomes.blocking_recv().is_none(), "nothing is acknowledged");
    store.until("it is closed", |store| !store.report.is_open());
    store.until("the next call says so", |store| !store.tend());
    assert!(store.thread.join().is_err());
}
