use super::*;
use crate::engine_mark::Mark;
use crate::io::engine_conformance::{LIMITS, NOW, Place as _, body, id, put};
use crate::io::engine_redb_moving;
use crate::io::host::generator;
use crate::io::mover::{Stand, TooLate};
use crate::io::torn_disk::{Fault, TornDisk};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Remembers what it was told; refuses so many times first.
#[derive(Default)]
struct Told {
    refusals: AtomicU32,
    ends: Mutex<Vec<&'static str>>,
}

impl Record for Arc<Told> {
    fn changed(&mut self) -> anyhow::Result<()> {
        let left = self.refusals.load(Ordering::Relaxed);
        if left > 0 {
            self.refusals.store(left - 1, Ordering::Relaxed);
            anyhow::bail!("not now");
        }
        self.ends.lock().expect("no panic").push("changed");
        Ok(())
    }
    fn failed(&mut self) {
        self.ends.lock().expect("no panic").push("failed");
    }
}

struct Fixture {
    here: TornDisk,
    seat: Seat,
    mover: Arc<Mover>,
    told: Arc<Told>,
}

impl Fixture {
    fn new() -> Self {
        let (here, mover) = (TornDisk::default(), Arc::new(Mover::default()));
        let mut seat = Seat::new(here.open(LIMITS), Arc::clone(&mover));
        seat.write(NOW, &[put(1, 1), put(2, 2)]).expect("works");
        Self { here, seat, mover, told: Arc::default() }
    }

    fn ask(&self, target: &TornDisk) -> MoveId {
        let id = MoveId::draw(&mut generator());
        assert!(self.mover.reserve(&id, EngineKind::Redb));
        let record = Box::new(Arc::clone(&self.told));
        let asked =
            Move { id: id.clone(), target: target.open(LIMITS), to: EngineKind::Redb, place: "there".into(), record };
        assert!(self.mover.ask(asked));
        id
    }

    /// The process is gone; what it left is looked at.
    fn ended(self) -> TornDisk {
        self.here
    }

    fn tend(&mut self) {
        self.seat.tend(NOW, LIMITS).expect("works");
    }

    fn step_until(&mut self, stand: Stand) {
        for _ in 0..100 {
            if self.mover.progress().state == stand {
                return;
            }
            self.seat.step(NOW);
        }
        panic!("{stand:?} is not reached: {:?}", self.mover.progress());
    }
}

fn mark(disk: &TornDisk) -> Option<Mark> {
    engine_redb_moving::mark(disk).expect("reads")
}

/// Whether a place that nobody has open holds a box.
fn holds(disk: &TornDisk, n: u64) -> bool {
    disk.open(LIMITS).get(&id(n)).expect("works") == Some(body(n))
}

#[test]
fn a_move_that_was_called_off_is_not_carried_out_and_the_next_one_goes_where_it_should() {
    let mut node = Fixture::new();
    let (first, second) = (TornDisk::default(), TornDisk::default());
    node.ask(&first);
    node.tend();
    node.seat.step(NOW);
    assert!(node.seat.is_moving());
    node.mover.cancel().expect("in time");
    // asked for before the engine's thread has looked again
    node.ask(&second);
    node.seat.step(NOW);
    assert!(!node.seat.is_moving(), "the first one is dropped, not carried out");
    assert_eq!(node.mover.progress().state, Stand::Copying);
    node.tend();
    node.step_until(Stand::Done);
    node.seat.write(NOW, &[put(3, 3)]).expect("works");
    assert!(matches!(mark(&first), Some(Mark::Filling { .. })), "half a copy");
    assert!(matches!(mark(&node.here), Some(Mark::Left { .. })));
    assert_eq!(mark(&second), None);
    assert_eq!(node.mover.cancel(), Err(TooLate::Done));
    assert_eq!(*node.told.ends.lock().expect("no panic"), ["changed"]);
    node.ended();
    assert!(holds(&second, 3) && !holds(&first, 3));
}

#[test]
fn what_is_called_off_when_everything_is_copied_stays() {
    let mut node = Fixture::new();
    let target = TornDisk::default();
    node.ask(&target);
    node.tend();
    node.seat.step(NOW);
    node.mover.cancel().expect("in time");
    for _ in 0..20 {
        node.seat.step(NOW);
    }
    assert!(!node.seat.is_moving() && node.mover.progress().state == Stand::Idle);
    assert_eq!(mark(&node.here), None);
    node.seat.write(NOW, &[put(3, 3)]).expect("works");
    assert!(holds(&node.ended(), 3));
}

#[test]
fn a_store_that_has_moved_serves_from_there_though_it_cannot_be_written_down() {
    let mut node = Fixture::new();
    let target = TornDisk::default();
    node.told.refusals.store(2, Ordering::Relaxed);
    node.ask(&target);
    node.tend();
    node.step_until(Stand::Waiting);
    assert!(node.mover.progress().problem.is_some_and(|problem| problem.contains("node.toml")));
    assert_eq!(node.mover.cancel(), Err(TooLate::Decided));
    node.seat.write(NOW, &[put(3, 3)]).expect("works");
    node.tend();
    assert_eq!(node.mover.progress().state, Stand::Waiting);
    node.tend();
    assert_eq!(node.mover.progress().state, Stand::Done);
    assert!(!holds(&node.ended(), 3), "not into the place that was left");
    assert!(holds(&target, 3));
}

#[test]
fn nothing_is_acknowledged_while_nobody_knows_which_place_it_is() {
    let mut node = Fixture::new();
    let target = TornDisk::default();
    node.ask(&target);
    node.tend();
    // the mark is the first thing that changes the folder of the old place: done, and said to have failed
    node.here.fault_in(Fault::DoneButDenied, 0);
    node.step_until(Stand::Waiting);
    assert!(matches!(node.seat.write(NOW, &[put(3, 3)]), Err(EngineError::Unavailable(_))));
    assert!(node.seat.get_all(&[id(1)]).is_err());
    assert_eq!(node.mover.cancel(), Err(TooLate::Decided));
    node.step_until(Stand::Done);
    node.seat.write(NOW, &[put(3, 3)]).expect("works");
    assert!(!holds(&node.ended(), 3));
    assert!(holds(&target, 3));
}

#[test]
fn a_place_that_was_left_answers_nothing() {
    let disk = TornDisk::default();
    let left = Mark::Left { id: MoveId::draw(&mut generator()), to: "there".to_owned(), at_ms: 5 };
    disk.open(LIMITS).set_mark(Some(&left)).expect("works");
    let mut seat = Seat::new(disk.open(LIMITS), Arc::default());
    assert!(matches!(seat.write(NOW, &[put(1, 1)]), Err(EngineError::Refused(_))));
    assert!(matches!(seat.check(), Err(EngineError::Refused(_))));
    assert!(seat.get_all(&[id(1)]).is_err() && seat.read_all(&[(id(1), 0)]).is_err());
}

#[test]
fn a_move_that_failed_is_told_so_and_another_may_follow() {
    let mut node = Fixture::new();
    let foreign = TornDisk::default();
    foreign.open(LIMITS).write(NOW, &[put(9, 9)]).expect("works");
    node.ask(&foreign);
    node.tend();
    node.step_until(Stand::Failed);
    assert_eq!(*node.told.ends.lock().expect("no panic"), ["failed"]);
    assert!(!node.seat.is_moving());
    node.ask(&TornDisk::default());
    node.tend();
    node.step_until(Stand::Done);
}
