use super::*;
use crate::engine::{BoxedEngine, Entry, Totals};
use crate::engine_mark::Mark;
use crate::io::engine_conformance::{LIMITS, NOW, Place, append, body, contents, fill, id, put};
use crate::io::torn_disk::TornDisk;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Steps until the end.
fn run(moving: &mut Moving, source: &mut dyn Engine) -> Step {
    for _ in 0..1_000 {
        match moving.step(source) {
            Step::On | Step::Waiting(_) => {}
            end @ (Step::Complete | Step::Failed(_)) => return end,
        }
    }
    panic!("does not end");
}

/// An engine that fails to take anything over while the flag is set.
struct Unwilling(BoxedEngine, Arc<AtomicBool>);

impl Engine for Unwilling {
    fn set_limits(&mut self, limits: Limits) {
        self.0.set_limits(limits);
    }
    fn write(&mut self, now: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError> {
        self.0.write(now, batch)
    }
    fn get(&mut self, id: &BoxId) -> Result<Option<BoxBody>, EngineError> {
        self.0.get(id)
    }
    fn read(&mut self, inbox: &BoxId, after: u64) -> Result<Option<Entry>, EngineError> {
        self.0.read(inbox, after)
    }
    fn expire(&mut self, now: UnixMillis) -> Result<usize, EngineError> {
        self.0.expire(now)
    }
    fn totals(&mut self) -> Totals {
        self.0.totals()
    }
    fn check(&mut self) -> Result<(), EngineError> {
        self.0.check()
    }
    fn buckets(&mut self) -> Result<Vec<Bucket>, EngineError> {
        self.0.buckets()
    }
    fn page(&mut self, bucket: Bucket, after: Option<Key>, count_max: usize) -> Result<Vec<Record>, EngineError> {
        self.0.page(bucket, after, count_max)
    }
    fn find(&mut self, writes: &[Write]) -> Result<Vec<Option<Record>>, EngineError> {
        self.0.find(writes)
    }
    fn import(&mut self, records: &[Record]) -> Result<(), EngineError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(EngineError::Unavailable("not now".to_owned()));
        }
        self.0.import(records)
    }
    fn place(&mut self) -> Result<String, EngineError> {
        self.0.place()
    }
    fn mark(&mut self) -> Result<Option<Mark>, EngineError> {
        self.0.mark()
    }
    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), EngineError> {
        self.0.set_mark(mark)
    }
    fn wipe(&mut self) -> Result<(), EngineError> {
        self.0.wipe()
    }
}

#[test]
fn everything_arrives_also_what_is_written_meanwhile() {
    let (mut source, disk) = (TornDisk::default().open(LIMITS), TornDisk::default());
    fill(&mut *source);
    source
        .write(NOW.plus(Duration::from_secs(210)), &(1_000..1_400).map(|n| put(n, n)).collect::<Vec<_>>())
        .expect("works");
    let refused = Arc::new(AtomicBool::new(false));
    let mut moving = Moving::new(Box::new(Unwilling(disk.open(LIMITS), Arc::clone(&refused))));
    let mut steps = 0;
    loop {
        match moving.step(&mut *source) {
            Step::On | Step::Waiting(_) => {}
            Step::Complete => break,
            Step::Failed(problem) => panic!("{problem}"),
        }
        steps += 1;
        // some of what comes meanwhile is not taken: then it is copied later
        refused.store((2..5).contains(&steps), Ordering::Relaxed);
        if steps < 20 {
            let now = NOW.plus(Duration::from_secs(215 + steps * 5));
            let batch = [put(5_000 + steps, steps), append(1, 5_000 + steps), put(3, 3), put(3, 999), append(0, 3)];
            let written = source.write(now, &batch).expect("works");
            moving.mirror(&mut *source, &batch, &written);
        }
    }
    let extent = moving.extent();
    assert_eq!(extent.buckets_done, extent.buckets);
    let mut target = moving.into_target();
    assert_eq!(contents(&mut *target, 100), contents(&mut *source, 100));
    assert_eq!(target.get(&id(5_003)).expect("works"), Some(body(3)));
}

#[test]
fn an_interrupted_move_goes_on() {
    let (mut source, disk) = (TornDisk::default().open(LIMITS), TornDisk::default());
    fill(&mut *source);
    source
        .write(NOW.plus(Duration::from_secs(210)), &(1_000..1_400).map(|n| put(n, n)).collect::<Vec<_>>())
        .expect("works");
    for steps in [1, 2, 3, 4] {
        let mut moving = Moving::new(disk.open(LIMITS));
        for _ in 0..steps {
            assert!(matches!(moving.step(&mut *source), Step::On));
        }
        // gone without a word; then something is acknowledged that the new place never hears of
        drop(moving);
        source.write(NOW.plus(Duration::from_secs(300)), &[put(2_000 + steps, 1), append(9, steps)]).expect("works");
    }
    let mut moving = Moving::new(disk.open(LIMITS));
    assert!(matches!(run(&mut moving, &mut *source), Step::Complete));
    assert_eq!(contents(&mut *moving.into_target(), 100), contents(&mut *source, 100));
}

#[test]
fn an_engine_that_does_not_work_is_waited_for() {
    let mut source = TornDisk::default().open(LIMITS);
    fill(&mut *source);
    let refused = Arc::new(AtomicBool::new(true));
    let mut moving = Moving::new(Box::new(Unwilling(TornDisk::default().open(LIMITS), Arc::clone(&refused))));
    assert!((0..50).all(|_| matches!(moving.step(&mut *source), Step::Waiting(_))));
    refused.store(false, Ordering::Relaxed);
    assert!(matches!(run(&mut moving, &mut *source), Step::Complete));
}

#[test]
fn a_place_with_other_records_is_refused() {
    let foreign = [
        // another body in a box, a box more, a bucket more
        vec![(NOW, put(3, 999))],
        vec![(NOW, put(777, 1))],
        vec![(NOW.plus(Duration::from_secs(5_000)), put(777, 1))],
    ];
    for writes in foreign {
        let mut source = TornDisk::default().open(LIMITS);
        fill(&mut *source);
        let disk = TornDisk::default();
        let mut target = disk.open(LIMITS);
        for (now, write) in &writes {
            target.write(*now, std::slice::from_ref(write)).expect("works");
        }
        let before = contents(&mut *source, 100);
        let mut moving = Moving::new(target);
        assert!(matches!(run(&mut moving, &mut *source), Step::Failed(_)));
        assert_eq!(contents(&mut *source, 100), before);
    }
}

#[test]
fn what_is_over_meanwhile_goes_in_both() {
    let mut source = TornDisk::default().open(LIMITS);
    fill(&mut *source);
    let mut moving = Moving::new(TornDisk::default().open(LIMITS));
    for _ in 0..2 {
        assert!(matches!(moving.step(&mut *source), Step::On));
    }
    let first = source.buckets().expect("works")[0];
    let over = UnixMillis(first.end).plus(LIMITS.retention);
    assert_eq!(source.expire(over).expect("works"), 1);
    assert_eq!(moving.expire(over).expect("works"), 1);
    assert!(matches!(run(&mut moving, &mut *source), Step::Complete));
    assert_eq!(contents(&mut *moving.into_target(), 100), contents(&mut *source, 100));
}
