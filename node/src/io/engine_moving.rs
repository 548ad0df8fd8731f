//! Moving a store from one engine to another while it serves.
//!
//! The old engine decides and answers until the end. What it acknowledges is put into the new one as well, with number and
//! bucket as they are; beside that, everything it holds is copied page by page, in the order of the keys. After each page
//! what both hold of that stretch is compared, read back from both. When the last bucket is through, both hold the same, and
//! the caller takes the new one for the old one.
//!
//! Nothing has to be remembered for an interruption: what is there already is compared and not copied again.

use crate::engine::{Bucket, Engine, EngineError, Key, Limits, Record, Write, Written};
use shoal_protocol::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};

/// Records of a page. 128 × 1.9 kB = 240 kB, read twice from each engine; 5 to 20 ms, in which nothing else is done.
const PAGE: usize = 128;

/// What a step led to.
#[derive(Debug)]
pub enum Step {
    /// A page more.
    On,
    /// One of the engines does not work now; the next step may.
    Waiting(EngineError),
    /// Both engines hold the same.
    Complete,
    /// It cannot be done; both engines stay as they are.
    Failed(String),
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Buckets that are through.
    pub buckets_done: usize,
    /// Buckets that the old engine holds.
    pub buckets: usize,
    /// Records that were compared.
    pub records: u64,
}

/// A move under way.
pub struct Moving {
    target: Box<dyn Engine>,
    /// Buckets that are through.
    done: BTreeSet<Bucket>,
    /// The bucket in hand, and up to where it is through.
    at: Option<(Bucket, Option<Key>)>,
    /// The newest bucket when last looked; what is written later goes there, or into a newer one.
    newest: Option<Bucket>,
    /// From this bucket on something was acknowledged that the new engine did not take.
    behind: Option<Bucket>,
    buckets: usize,
    records: u64,
    /// Of all compared records, in the order of the comparison: as the old engine gave them, as the new one did.
    hashes: [blake3::Hasher; 2],
}

/// Before all buckets.
const FIRST: Bucket = Bucket { start: 0, end: 0 };

impl Moving {
    /// Begins, or goes on, to move into `target`.
    pub fn new(target: Box<dyn Engine>) -> Self {
        Self {
            target,
            done: BTreeSet::new(),
            at: None,
            newest: None,
            behind: None,
            buckets: 0,
            records: 0,
            hashes: [blake3::Hasher::new(), blake3::Hasher::new()],
        }
    }

    /// The new engine, for good.
    pub fn into_target(self) -> Box<dyn Engine> {
        self.target
    }

    /// The new engine.
    pub fn target(&mut self) -> &mut dyn Engine {
        &mut *self.target
    }

    /// How far it is.
    pub fn extent(&self) -> Extent {
        Extent { buckets_done: self.done.len(), buckets: self.buckets, records: self.records }
    }

    /// Hash over everything that was compared: the same of both engines, or the move would have failed.
    pub fn hash(&self) -> blake3::Hash {
        let [old, _] = &self.hashes;
        old.finalize()
    }

    /// What holds for the old engine holds for the new one.
    pub fn set_limits(&mut self, limits: Limits) {
        self.target.set_limits(limits);
    }

    /// Erases in the new engine what was erased in the old one at `now`.
    pub fn expire(&mut self, now: UnixMillis) -> Result<usize, EngineError> {
        self.target.expire(now)
    }

    /// Puts into the new engine what the old one has just acknowledged. If that fails the acknowledgement stands, and those
    /// buckets are gone through once more.
    pub fn mirror(&mut self, source: &mut dyn Engine, writes: &[Write], written: &[Written]) {
        let stored = writes.iter().zip(written).filter(|(_, written)| **written == Written::Stored);
        let stored: Vec<Write> = stored.map(|(write, _)| write.clone()).collect();
        if stored.is_empty() {
            return;
        }
        let taken = source.find(&stored).and_then(|found| {
            let records: Vec<Record> = found.into_iter().flatten().collect();
            self.target.import(&records)
        });
        if taken.is_err() {
            self.doubt();
        }
    }

    /// The old engine may hold something that the new one did not take: of a batch that failed there part may be found later.
    pub fn doubt(&mut self) {
        let from = self.newest.unwrap_or(FIRST);
        self.behind = Some(self.behind.map_or(from, |behind| behind.min(from)));
    }

    /// Copies and compares a page.
    pub fn step(&mut self, source: &mut dyn Engine) -> Step {
        match self.try_step(source) {
            Ok(step) => step,
            Err(EngineError::Damaged { file, cause }) => Step::Failed(format!("{file} is damaged: {cause}")),
            Err(EngineError::Refused(text)) => Step::Failed(text),
            Err(error @ (EngineError::Unavailable(_) | EngineError::InUse)) => Step::Waiting(error),
        }
    }

    fn try_step(&mut self, source: &mut dyn Engine) -> Result<Step, EngineError> {
        if let Some(behind) = self.behind.take() {
            self.done.retain(|bucket| *bucket < behind);
            self.at = self.at.filter(|(bucket, _)| *bucket < behind);
        }
        let (bucket, after) = match self.at {
            Some(at) => at,
            None => match self.next(source)? {
                Ok(bucket) => (bucket, None),
                Err(end) => return Ok(end),
            },
        };
        self.at = Some((bucket, after));
        let page = source.page(bucket, after, PAGE)?;
        // a page that is not full reaches to the end
        let until = page.last().map(|record| record.key).filter(|_| page.len() >= PAGE);
        let mut held = self.held(bucket, after, until)?;
        match missing(&page, &held) {
            Err(problem) => return Ok(Step::Failed(problem)),
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                self.target.import(&missing)?;
                held = self.held(bucket, after, until)?;
            }
        }
        if held != page {
            return Ok(Step::Failed("what was copied does not read back as it was".to_owned()));
        }
        for (hasher, records) in self.hashes.iter_mut().zip([&page, &held]) {
            records.iter().for_each(|record| feed(hasher, record));
        }
        self.records = self.records.saturating_add(page.len() as u64);
        self.at = until.map(|until| (bucket, Some(until)));
        if until.is_none() {
            self.done.insert(bucket);
        }
        Ok(Step::On)
    }

    /// The next bucket, or what there is to say when there is none.
    fn next(&mut self, source: &mut dyn Engine) -> Result<Result<Bucket, Step>, EngineError> {
        let buckets = source.buckets()?;
        self.buckets = buckets.len();
        self.newest = buckets.last().copied();
        self.done.retain(|bucket| buckets.contains(bucket));
        if let Some(next) = buckets.iter().find(|bucket| !self.done.contains(bucket)) {
            return Ok(Ok(*next));
        }
        // what has just expired may go a moment later in the other engine, but must go
        if self.target.buckets()?.iter().any(|bucket| !buckets.contains(bucket)) {
            let problem =
                "the new place holds records that the old one does not; empty it, or wait until they are over";
            return Ok(Err(Step::Failed(problem.to_owned())));
        }
        let [old, new] = &self.hashes;
        let is_same = old.finalize() == new.finalize();
        Ok(Err(if is_same { Step::Complete } else { Step::Failed("the hashes of both contents differ".to_owned()) }))
    }

    /// What the new engine holds of a stretch.
    fn held(&mut self, bucket: Bucket, after: Option<Key>, until: Option<Key>) -> Result<Vec<Record>, EngineError> {
        let mut held = self.target.page(bucket, after, PAGE)?;
        held.retain(|record| until.is_none_or(|until| record.key <= until));
        Ok(held)
    }
}

/// What is on the page and not held. Anything else that differs cannot come from copying.
fn missing(page: &[Record], held: &[Record]) -> Result<Vec<Record>, String> {
    let mut by_key: BTreeMap<Key, &Record> = held.iter().map(|record| (record.key, record)).collect();
    let mut missing = Vec::new();
    for record in page {
        match by_key.remove(&record.key) {
            None => missing.push(record.clone()),
            Some(held) if held.body == record.body => {}
            Some(_) => return Err("the new place holds another body under the same name".to_owned()),
        }
    }
    if by_key.is_empty() {
        Ok(missing)
    } else {
        Err("the new place holds records that the old one does not".to_owned())
    }
}

fn feed(hasher: &mut blake3::Hasher, record: &Record) {
    let (kind, id, number) = match &record.key {
        Key::Box(id) => (0_u8, id, 0),
        Key::Entry { inbox, number } => (1, inbox, *number),
    };
    hasher.update(&record.bucket.start.to_be_bytes()).update(&record.bucket.end.to_be_bytes());
    hasher.update(&[kind]).update(id.as_bytes()).update(&number.to_be_bytes()).update(record.body.as_bytes());
}

#[cfg(test)]
mod tests;
