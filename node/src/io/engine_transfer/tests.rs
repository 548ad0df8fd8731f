use super::*;
use crate::io::engine_conformance::{LIMITS, NOW, Place as _, body, contents, id, put};
use crate::io::host::generator;
use crate::io::torn_disk::{Fault, TornDisk};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::time::Duration;

/// Steps of a move of a few records, and some more.
const STEPS_MAX: u64 = 60;
const STEP: Duration = Duration::from_secs(40);

fn left(id: &MoveId) -> Mark {
    Mark::Left { id: id.clone(), to: "elsewhere".to_owned(), at_ms: 5 }
}

/// A store in `here` that moves back to `there`, which it left long ago.
struct Store {
    here: TornDisk,
    there: TornDisk,
    id: MoveId,
    acknowledged: Vec<u64>,
    next: u64,
}

impl Store {
    fn new() -> Self {
        let (here, there) = (TornDisk::default(), TornDisk::default());
        let mut old = there.open(LIMITS);
        // what is over by now, and a box that was another one then
        old.write(NOW, &[put(900, 1), put(0, 77)]).expect("works");
        old.set_mark(Some(&left(&MoveId::draw(&mut generator())))).expect("works");
        let mut store = Self { here, there, id: MoveId::draw(&mut generator()), acknowledged: Vec::new(), next: 0 };
        let mut engine = store.here.open(LIMITS);
        for _ in 0..3 {
            store.write(&mut *engine, None);
        }
        store
    }

    fn transfer(&self, target: BoxedEngine) -> Transfer {
        Transfer::new(self.id.clone(), "there".to_owned(), target)
    }

    /// As the seat does it.
    fn write(&mut self, engine: &mut dyn Engine, transfer: Option<&mut Transfer>) {
        if transfer.as_ref().is_some_and(|transfer| transfer.is_decided()) {
            return;
        }
        let batch = [put(self.next, self.next)];
        self.next += 1;
        let now = NOW.plus(STEP * u32::try_from(self.next).expect("few"));
        let written = engine.write(now, &batch);
        if let Some(transfer) = transfer {
            transfer.mirror(engine, &batch, written.as_ref());
        }
        if let Ok(written) = written {
            assert_eq!(written, [Written::Stored]);
            self.acknowledged.push(self.next - 1);
        }
    }

    fn has_all(&self, engine: &mut dyn Engine, when: &str) {
        for n in &self.acknowledged {
            assert_eq!(engine.get(&id(*n)).expect("works"), Some(body(*n)), "{when}: box {n}");
        }
    }

    /// Steps until it is over, or until `enough`; writes in between.
    fn go(&mut self, source: &mut dyn Engine, transfer: &mut Transfer, enough: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            match transfer.step(source, NOW, || true) {
                Turn::On | Turn::Waiting(_) => {}
                Turn::Over => return true,
                end @ (Turn::Failed(_) | Turn::CalledOff) => panic!("{end:?}"),
            }
            if enough(self) {
                return false;
            }
            if self.next < 8 {
                self.write(source, Some(transfer));
            }
        }
        panic!("does not end");
    }

    /// After the process is gone: exactly one place may be opened, or the move that is noted leads to it; it has everything.
    fn one_place_has_everything(&self, when: &str) {
        let (mut here, mut there) = (self.here.open(LIMITS), self.there.open(LIMITS));
        let marks = (here.mark().expect("works"), there.mark().expect("works"));
        match marks {
            (None, Some(_)) => self.has_all(&mut *here, when),
            (Some(mark), there_mark) if mark.is_left_by(&self.id) => {
                assert!(there_mark.is_none_or(|mark| mark.is_filled_by(&self.id)), "{when}");
                self.has_all(&mut *there, when);
            }
            other => panic!("{when}: {other:?}"),
        }
    }
}

#[test]
fn whenever_it_ends_one_place_has_everything_and_the_next_start_goes_on() {
    for fault in [Fault::Dies, Fault::Fails, Fault::DoneButDenied] {
        for (in_source, crash) in [(true, true), (true, false), (false, true), (false, false)] {
            for operations in 0.. {
                let when = format!("{fault:?}, source {in_source}, crash {crash}, after {operations}");
                let mut store = Store::new();
                let (mut source, target) = (store.here.open(LIMITS), store.there.open(LIMITS));
                let struck = |store: &Store| if in_source { store.here.struck() } else { store.there.struck() } > 0;
                let mut transfer = store.transfer(target);
                let disk = if in_source { store.here.clone() } else { store.there.clone() };
                disk.fault_in(fault, operations);
                let over = store.go(&mut *source, &mut transfer, struck);
                let has_struck = struck(&store);
                disk.heal();
                if crash || over {
                    drop((source, transfer));
                    let mut rng = StdRng::seed_from_u64(operations);
                    store.here.crash(&mut rng);
                    store.there.crash(&mut rng);
                    store.one_place_has_everything(&when);
                    source = store.here.open(LIMITS);
                    transfer = store.transfer(store.there.open(LIMITS));
                }
                assert!(store.go(&mut *source, &mut transfer, |_| false), "{when}");
                let mut target = transfer.into_target();
                store.has_all(&mut *target, &when);
                assert_eq!(target.mark().expect("works"), None, "{when}");
                assert!(source.mark().expect("works").is_some_and(|mark| mark.is_left_by(&store.id)), "{when}");
                // nothing of the older copy came back
                assert_eq!(contents(&mut *target, 100), contents(&mut *source, 100), "{when}");
                if !has_struck {
                    assert!(operations > 5, "{when}: something was hit");
                    break;
                }
            }
        }
    }
}

#[test]
fn what_is_called_off_at_the_end_leaves_nothing_behind_that_opens() {
    let mut store = Store::new();
    let mut source = store.here.open(LIMITS);
    let mut transfer = store.transfer(store.there.open(LIMITS));
    loop {
        match transfer.step(&mut *source, NOW, || false) {
            Turn::On => {}
            Turn::CalledOff => break,
            other @ (Turn::Waiting(_) | Turn::Failed(_) | Turn::Over) => panic!("{other:?}"),
        }
    }
    assert!(!transfer.is_decided());
    drop((transfer, source));
    store.one_place_has_everything("called off");
    let mut source = store.here.open(LIMITS);
    store.write(&mut *source, None);
    // the next move takes what lies there for what it is: an older copy
    store.id = MoveId::draw(&mut generator());
    let mut transfer = store.transfer(store.there.open(LIMITS));
    assert!(store.go(&mut *source, &mut transfer, |_| false));
    store.has_all(&mut *transfer.into_target(), "moved");
}

#[test]
fn places_that_are_no_goal_are_refused_and_left_as_they_are() {
    let said = |source: &mut dyn Engine, target: BoxedEngine, id: &MoveId| {
        let mut transfer = Transfer::new(id.clone(), "there".to_owned(), target);
        match transfer.step(source, NOW, || panic!("not so far")) {
            Turn::Failed(problem) => problem,
            other @ (Turn::On | Turn::Waiting(_) | Turn::CalledOff | Turn::Over) => panic!("{other:?}"),
        }
    };
    let id = MoveId::draw(&mut generator());
    let (here, foreign) = (TornDisk::default(), TornDisk::default());
    let mut source = here.open(LIMITS);
    assert!(said(&mut *source, here.open(LIMITS), &id).contains("under another name"));
    foreign.open(LIMITS).write(NOW, &[put(1, 1)]).expect("works");
    assert!(said(&mut *source, foreign.open(LIMITS), &id).contains("holds records"));
    let mut kept = foreign.open(LIMITS);
    assert_eq!((kept.mark().expect("works"), contents(&mut *kept, 9).len()), (None, 1));
    // a place that was left is no source, and a note of another move does not make it one
    source.set_mark(Some(&left(&MoveId::draw(&mut generator())))).expect("works");
    assert!(said(&mut *source, TornDisk::default().open(LIMITS), &id).contains("left this place"));
    // the store moved on from there: an old note of the first move leads nowhere
    source.set_mark(Some(&left(&id))).expect("works");
    kept.set_mark(Some(&left(&MoveId::draw(&mut generator())))).expect("works");
    assert!(said(&mut *source, kept, &id).contains("left this place"));
}
