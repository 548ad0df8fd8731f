//! The engine on a disk that fails at any point in any way, beside a model of what was acknowledged.
//!
//! One story is a dozen steps of writing, reading, waiting and restarting, with one fault at one point of it. Whatever
//! happens: what was acknowledged is there with its own content, also after a power cut; nothing is there that nobody wrote;
//! and when the disk is well again, the engine works again without anybody's help.

use super::*;
use crate::engine::bucket_length;
use crate::io::engine_conformance::{LIMITS, NOW, append, body, id, put};
use crate::io::torn_disk::{Fault, TornDisk};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::time::Duration;

const STEPS: u32 = 14;
const INBOX: u64 = 5;

/// A record that somebody wrote or tried to write.
#[derive(Debug, Default)]
struct Record {
    /// Every content that was ever handed to the engine, and when.
    tried: BTreeMap<u64, Vec<UnixMillis>>,
    /// The one that was acknowledged, and since when it may have been there: a write that failed may have been done, and
    /// one that repeats it is acknowledged without renewing its time.
    acknowledged: Option<(u64, UnixMillis)>,
}

impl Record {
    /// Since when a content that is acknowledged at `now` may have been there.
    fn since(&self, content: u64, now: UnixMillis) -> UnixMillis {
        let kept = LIMITS.retention + bucket_length(LIMITS.retention);
        let tries = self.tried.get(&content).into_iter().flatten();
        tries.copied().find(|tried| tried.plus(kept) > now).unwrap_or(now)
    }
}

#[derive(Debug, Default)]
struct Model {
    boxes: BTreeMap<u64, Record>,
    /// Of entries the name is the content.
    entries: BTreeMap<u64, Record>,
}

fn lives(since: UnixMillis, now: UnixMillis) -> bool {
    since.plus(LIMITS.retention) > now
}

impl Model {
    /// Takes what the engine said of one write.
    fn take(&mut self, write: Item, written: Written, now: UnixMillis) {
        let record = match write {
            Item::Box(name, _) => self.boxes.entry(name).or_default(),
            Item::Entry(content) => self.entries.entry(content).or_default(),
        };
        let content = write.content();
        let held = record.acknowledged.filter(|(_, since)| lives(*since, now));
        match (written, held) {
            (Written::Stored, Some((held, _))) => assert_eq!(held, content, "two contents acknowledged for one box"),
            (Written::Stored, None) => record.acknowledged = Some((content, record.since(content, now))),
            (Written::Taken, held) => {
                assert!(record.tried.keys().any(|tried| *tried != content), "taken by nobody");
                assert!(held.is_none_or(|(held, _)| held != content), "taken from itself");
            }
            (Written::Full | Written::Absent | Written::TooLittleWork { .. }, _) => panic!("{written:?}"),
        }
    }

    /// Everything that was acknowledged is there, and nothing that nobody wrote.
    fn verify(&self, engine: &mut RedbEngine, now: UnixMillis) -> Result<(), EngineError> {
        for (name, record) in &self.boxes {
            let found = engine.get(&id(*name))?;
            if let Some((content, _)) = record.acknowledged.filter(|(_, since)| lives(*since, now)) {
                assert_eq!(found, Some(body(content)), "box {name}: an acknowledged write is lost");
            }
            let known = |found: &BoxBody| record.tried.keys().any(|content| body(*content) == *found);
            assert!(found.as_ref().is_none_or(known), "box {name}: invented");
        }
        let mut found = Vec::new();
        let mut after = 0;
        while let Some(entry) = engine.read(&id(INBOX), after)? {
            assert!(entry.number > after, "numbers rise");
            after = entry.number;
            found.push(entry.body);
        }
        let acknowledged = self.entries.values().filter_map(|record| record.acknowledged);
        for (content, _) in acknowledged.filter(|(_, since)| lives(*since, now)) {
            assert!(found.contains(&body(content)), "entry {content}: an acknowledged letter is lost");
        }
        let tried: Vec<BoxBody> = self.entries.keys().map(|content| body(*content)).collect();
        assert!(found.iter().all(|body| tried.contains(body)), "an entry was invented");
        assert_eq!(engine.get(&id(u64::MAX))?, None);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Item {
    Box(u64, u64),
    Entry(u64),
}

impl Item {
    fn content(self) -> u64 {
        match self {
            Self::Box(_, content) | Self::Entry(content) => content,
        }
    }
    fn write(self) -> Write {
        match self {
            Self::Box(name, content) => put(name, content),
            Self::Entry(content) => append(INBOX, content),
        }
    }
}

struct Story {
    rng: StdRng,
    disk: TornDisk,
    engine: Option<RedbEngine>,
    model: Model,
    now: UnixMillis,
    /// What was not acknowledged yet: its writers repeat it.
    waiting: Vec<Item>,
    next: u64,
    /// For the message of a failing test.
    last_error: String,
}

impl Story {
    fn engine(&mut self) -> Option<&mut RedbEngine> {
        if self.engine.is_none() {
            let opened = RedbEngine::open(Box::new(self.disk.clone()), LIMITS);
            self.engine = opened.inspect_err(|error| self.last_error = error.to_string()).ok();
        }
        self.engine.as_mut()
    }

    fn write(&mut self) {
        let mut batch: Vec<Item> = Vec::new();
        for _ in 0..self.rng.random_range(1..6) {
            self.next += 1;
            let item = match self.rng.random_range(0..10) {
                // one that waits, or was acknowledged long ago
                0..3 if !self.waiting.is_empty() => self.waiting[self.rng.random_range(0..self.waiting.len())],
                3 => Item::Box(self.rng.random_range(0..=self.next), self.next),
                4..8 => Item::Box(self.next, self.next),
                _ => Item::Entry(self.next),
            };
            batch.push(item);
        }
        self.hand_over(&batch);
    }

    /// Writes a batch; what is not acknowledged waits.
    fn hand_over(&mut self, batch: &[Item]) -> bool {
        let now = self.now;
        for item in batch {
            let record = match item {
                Item::Box(name, _) => self.model.boxes.entry(*name).or_default(),
                Item::Entry(content) => self.model.entries.entry(*content).or_default(),
            };
            record.tried.entry(item.content()).or_default().push(now);
        }
        let writes: Vec<Write> = batch.iter().map(|item| item.write()).collect();
        let written = match self.engine().map(|engine| engine.write(now, &writes)) {
            Some(Ok(written)) => Some(written),
            Some(Err(error)) => {
                self.last_error = error.to_string();
                None
            }
            None => None,
        };
        let Some(written) = written else {
            self.waiting.extend(batch);
            return false;
        };
        for (item, written) in batch.iter().zip(written) {
            self.model.take(*item, written, now);
        }
        true
    }

    fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..12 => self.write(),
            12..14 => self.now = self.now.plus(Duration::from_secs(self.rng.random_range(0..80))),
            14 => self.now = self.now.plus(Duration::from_secs(self.rng.random_range(0..900))),
            15 => {
                let now = self.now;
                if let Some(engine) = self.engine() {
                    // what fails is tried again by the next call
                    let _ = engine.expire(now);
                }
            }
            16 => self.engine = None,
            _ => {
                let (model, now) = (std::mem::take(&mut self.model), self.now);
                if let Some(engine) = self.engine() {
                    // what cannot be read now is no lie
                    let _ = model.verify(engine, now);
                }
                self.model = model;
            }
        }
    }

    fn power_cut(&mut self) {
        self.engine = None;
        self.disk.crash(&mut self.rng);
    }

    /// The disk is well: everything works, at the second attempt at the latest, because the first one may find out that
    /// something broke meanwhile.
    fn must_work(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let probe = Item::Box(1_000_000 + self.next, 1);
        let batch: Vec<Item> = waiting.into_iter().chain([probe]).collect();
        // every few seconds what is over is erased, also what could not be before
        let now = self.now;
        let _ = self.engine().map(|engine| engine.expire(now));
        if !self.hand_over(&batch) {
            self.waiting.clear();
            assert!(self.hand_over(&batch), "it does not recover by itself: {}", self.last_error);
        }
        let model = std::mem::take(&mut self.model);
        model.verify(self.engine().expect("opens"), now).expect("reads");
        self.model = model;
    }
}

/// Tells a story; says how many operations the disk made and whether the fault struck.
fn tell(seed: u64, fault: Option<(Fault, u64)>) -> (u64, bool) {
    let mut story = Story {
        rng: StdRng::seed_from_u64(seed),
        disk: TornDisk::default(),
        engine: None,
        model: Model::default(),
        now: NOW,
        waiting: Vec::new(),
        next: 0,
        last_error: String::new(),
    };
    if let Some((fault, at)) = fault {
        story.disk.fault_in(fault, at);
    }
    let mut steps_left = STEPS;
    // a fault that lasts is lived with for a few steps
    let mut patience = 3;
    while steps_left > 0 {
        steps_left -= 1;
        story.step();
        if story.disk.struck() > 0 {
            patience -= 1;
            if patience == 0 {
                match fault {
                    Some((Fault::Dies, _)) => story.power_cut(),
                    _ => story.disk.heal(),
                }
                story.must_work();
            }
        }
    }
    let (operations, struck) = (story.disk.operations(), story.disk.struck() > 0);
    story.disk.heal();
    story.must_work();
    story.power_cut();
    story.must_work();
    (operations, struck)
}

/// `SHOAL_FAULTS=10000 cargo test -p shoal-node --lib faults` is the full size; `SHOAL_SEED` tells one story again.
#[test]
fn nothing_acknowledged_is_lost_and_nothing_invented_wherever_the_disk_fails() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let points = number("SHOAL_FAULTS").unwrap_or(700);
    let seeds: Vec<u64> = number("SHOAL_SEED").map_or_else(|| (0..points).collect(), |seed| vec![seed]);
    let mut struck: BTreeMap<String, u64> = BTreeMap::new();
    for seed in seeds {
        let fault = Fault::ALL[usize::try_from(seed).expect("small") % Fault::ALL.len()];
        // the same story without a fault says how long it is
        let (whole, _) = tell(seed, None);
        let at = StdRng::seed_from_u64(!seed).random_range(0..whole.max(1));
        let told = catch_unwind(|| tell(seed, Some((fault, at))));
        let (_, hit) = told.unwrap_or_else(|_| panic!("SHOAL_SEED={seed}: {fault:?} after {at} of {whole} operations"));
        *struck.entry(format!("{fault:?}")).or_default() += u64::from(hit);
    }
    eprintln!("faults that struck: {struck:?}");
    if points >= 100 && number("SHOAL_SEED").is_none() {
        assert_eq!(struck.len(), Fault::ALL.len());
        assert!(struck.values().sum::<u64>() >= points / 2, "too few faults were met: {struck:?}");
    }
}
