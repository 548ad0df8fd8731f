//! The default storage engine: embedded redb, one file a bucket of arrival time.

use super::bucket_file::{BucketFile, BucketName, Desk, Shelf, UNFINISHED, failed, inbox_state};
use super::disk::Disk;
use super::engine_redb_moving as moving;
use crate::engine::{
    Bucket, Decision, Engine, EngineError, Entry, Held, Key, Limits, Record, Totals, Write, Written, decide_append,
    decide_confirm, decide_put,
};
use crate::engine_mark::Mark;
use crate::inbox;
use redb::{ReadableTable as _, StorageError};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::cmp::Reverse;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Files at most. A year in days is 366; the rest is room for files that replace others after failed flushes. Each
/// costs a descriptor and its cache.
pub const FILES_MAX: usize = 400;

/// Boxes and inboxes in a folder of redb files, newest first. Not shared: one thread owns it.
pub struct RedbEngine {
    disk: Box<dyn Disk>,
    limits: Limits,
    files: Vec<BucketFile>,
}

impl RedbEngine {
    /// Opens every file of the folder; repairs what a crash left behind.
    pub fn open(disk: Box<dyn Disk>, limits: Limits) -> Result<Self, EngineError> {
        let mut names: Vec<BucketName> = Vec::new();
        for name in disk.list().map_err(unavailable)? {
            if name.ends_with(UNFINISHED) {
                disk.remove(&name).map_err(unavailable)?;
            } else if let Ok(name) = name.parse() {
                names.push(name);
            }
        }
        names.sort_unstable_by_key(|name| Reverse((name.bucket.end, *name)));
        let mut engine = Self { disk, limits, files: names.into_iter().map(BucketFile::found).collect() };
        engine.ensure_open()?;
        Ok(engine)
    }

    /// Opens what is closed. Every live file is needed for every answer: a box that cannot be looked for is not `empty`.
    fn ensure_open(&mut self) -> Result<(), EngineError> {
        let files = self.files.len();
        self.files.iter_mut().try_for_each(|file| file.ensure_open(&*self.disk, files))
    }

    /// After any failure: close what failed, so that the next call starts from what is on the disk, and never again write to
    /// a file whose flush failed. If no call of any file failed, it was the content of one of them: all are closed.
    fn recover(&mut self) {
        let known = self.files.iter().any(BucketFile::is_broken);
        for file in self.files.iter_mut().filter(|file| !known || file.is_broken()) {
            file.close(&*self.disk);
        }
    }

    /// Puts the file that arrivals at `now` go to in front of all others, making it if need be. A clock that went back
    /// writes on into the newest bucket: numbers and look-ups rely on the order of files.
    fn prepare(&mut self, now: UnixMillis) -> Result<(), EngineError> {
        let next = match self.files.first().map(|file| (file.name, file.is_doubtful())) {
            None => BucketName { bucket: Bucket::at(now, self.limits.retention), series: 0, in_doubt: false },
            Some((newest, _)) if now.0 >= newest.bucket.end => {
                BucketName { bucket: newest.bucket.next(now, self.limits.retention), series: 0, in_doubt: false }
            }
            Some((newest, true)) => BucketName { series: newest.series.saturating_add(1), in_doubt: false, ..newest },
            // somebody may have removed it: what is written to a file without a name is lost when it is closed
            Some((newest, false)) => {
                let there = self.disk.size(&newest.to_string());
                return there.map(|_| ()).map_err(|error| failed(&newest, StorageError::Io(error)));
            }
        };
        if self.files.len() >= FILES_MAX {
            return Err(EngineError::Unavailable(format!("more than {FILES_MAX} files; is the disk failing?")));
        }
        let file = BucketFile::create(&*self.disk, next, self.files.len() + 1)?;
        self.files.insert(0, file);
        Ok(())
    }

    fn try_write(&mut self, now: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError> {
        self.ensure_open()?;
        self.prepare(now)?;
        let mut records: u64 = self.files.iter().map(|file| file.records).sum();
        let Some((newest, older)) = self.files.split_first_mut() else {
            return Err(EngineError::Unavailable("no file to write to".to_owned()));
        };
        let older: Vec<Shelf> = older.iter().map(|file| file.shelf()).collect::<Result<_, _>>()?;
        let name = newest.name;
        let transaction = newest.begin()?;
        let before = records;
        let mut written = Vec::with_capacity(batch.len());
        {
            let mut desk = Desk::of(&transaction).map_err(|error| failed(&name, error))?;
            for write in batch {
                let room = records < self.limits.records_max;
                let (done, inserted) = apply(&mut desk, &older, write, &self.limits, room, name.bucket)
                    .map_err(|error| failed(&name, error))?;
                records = records.saturating_add(inserted);
                written.push(done);
            }
        }
        if records == before {
            // nothing new: what is reported as stored is durable already
            transaction.abort().map_err(|error| failed(&name, error))?;
        } else {
            transaction.commit().map_err(|error| failed(&name, error))?;
            newest.records = newest.records.saturating_add(records - before);
        }
        Ok(written)
    }

    fn try_get(&mut self, id: &BoxId) -> Result<Option<BoxBody>, EngineError> {
        self.ensure_open()?;
        for file in &self.files {
            let shelf = file.shelf()?;
            if let Some(found) = shelf.boxes.get(id.as_bytes()).map_err(|error| failed(&file.name, error))? {
                return body(found.value(), &file.name).map(Some);
            }
        }
        Ok(None)
    }

    fn try_read(&mut self, inbox: &BoxId, after: u64) -> Result<Option<Entry>, EngineError> {
        self.ensure_open()?;
        let Some(from) = after.checked_add(1) else { return Ok(None) };
        let mut next: Option<Entry> = None;
        // oldest first: numbers rise with time, so the first hit is nearly always the answer
        for file in self.files.iter().rev() {
            let shelf = file.shelf()?;
            let until = next.as_ref().map_or(u64::MAX, |entry| entry.number);
            let mut range = shelf
                .entries
                .range((*inbox.as_bytes(), from)..=(*inbox.as_bytes(), until))
                .map_err(|error| failed(&file.name, error))?;
            if let Some(found) = range.next() {
                let (key, value) = found.map_err(|error| failed(&file.name, error))?;
                let number = key.value().1;
                if next.as_ref().is_none_or(|entry| number < entry.number) {
                    next = Some(Entry { number, body: body(value.value(), &file.name)? });
                }
            }
        }
        Ok(next)
    }

    /// Runs `work`; after an error the engine is ready for the next call. redb may panic on pages that something else has
    /// changed: one record of many must not end the process, whoever asks for it.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let result = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            Err(EngineError::Unavailable("a file's structure is broken; restart the node to learn which".to_owned()))
        });
        if result.is_err() {
            self.recover();
        }
        result
    }
}

/// Applies one write inside the transaction; says what to report and how many records it added.
fn apply(
    desk: &mut Desk<'_>,
    older: &[Shelf],
    write: &Write,
    limits: &Limits,
    room: bool,
    bucket: Bucket,
) -> Result<(Written, u64), StorageError> {
    match write {
        Write::Put { id, body } | Write::Confirm { id, body } => {
            let held = held(desk, older, id, body)?;
            let decision =
                if matches!(write, Write::Put { .. }) { decide_put(held, room) } else { decide_confirm(held, room) };
            match decision {
                Decision::Report(written) => Ok((written, 0)),
                Decision::Insert(_) => {
                    desk.boxes.insert(*id.as_bytes(), body.as_bytes().as_slice())?;
                    Ok((Written::Stored, 1))
                }
            }
        }
        Write::Append { inbox, body, work_bits } => {
            let inbox = *inbox.as_bytes();
            let hash = body.hash();
            let here = inbox_state(&desk.inboxes, &inbox)?;
            let mut state = inbox::State { entries: here.0, last: here.1 };
            let mut known = if desk.known.get((inbox, hash))?.is_some() { Held::Same } else { Held::Nothing };
            for shelf in older {
                let (entries, last) = inbox_state(&shelf.inboxes, &inbox)?;
                state.entries = state.entries.saturating_add(entries);
                state.last = state.last.max(last);
                if known != Held::Same && entries > 0 && shelf.known.get((inbox, hash))?.is_some() {
                    known = if shelf.in_doubt { Held::SameInDoubt } else { Held::Same };
                }
            }
            match decide_append(state, known, *work_bits, limits, room, bucket) {
                Decision::Report(written) => Ok((written, 0)),
                Decision::Insert(number) => {
                    desk.entries.insert((inbox, number), body.as_bytes().as_slice())?;
                    desk.known.insert((inbox, hash), number)?;
                    desk.inboxes.insert(inbox, (here.0.saturating_add(1), number))?;
                    Ok((Written::Stored, 1))
                }
            }
        }
    }
}

/// What is held of a box, newest file first.
fn held(desk: &Desk<'_>, older: &[Shelf], id: &BoxId, body: &BoxBody) -> Result<Held, StorageError> {
    let wanted = body.as_bytes().as_slice();
    if let Some(found) = desk.boxes.get(id.as_bytes())? {
        return Ok(if found.value() == wanted { Held::Same } else { Held::Other });
    }
    let mut held = Held::Nothing;
    for shelf in older {
        match shelf.boxes.get(id.as_bytes())? {
            None => {}
            Some(found) if found.value() != wanted => return Ok(Held::Other),
            Some(_) if shelf.in_doubt => held = Held::SameInDoubt,
            Some(_) => return Ok(Held::Same),
        }
    }
    Ok(held)
}

/// A body as it lies in a file.
pub fn body(bytes: &[u8], file: &BucketName) -> Result<BoxBody, EngineError> {
    BoxBody::from_slice(bytes).map_err(|_| EngineError::Damaged {
        file: file.to_string(),
        cause: format!("a record of {} bytes", bytes.len()),
    })
}

impl Engine for RedbEngine {
    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    fn write(&mut self, now: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.guarded(|engine| engine.try_write(now, batch))
    }

    fn get(&mut self, id: &BoxId) -> Result<Option<BoxBody>, EngineError> {
        self.guarded(|engine| engine.try_get(id))
    }

    fn read(&mut self, inbox: &BoxId, after: u64) -> Result<Option<Entry>, EngineError> {
        self.guarded(|engine| engine.try_read(inbox, after))
    }

    fn expire(&mut self, now: UnixMillis) -> Result<usize, EngineError> {
        let retention = self.limits.retention;
        let mut erased = 0;
        while let Some(at) = self.files.iter().position(|file| file.name.bucket.is_over(now, retention)) {
            let mut file = self.files.remove(at);
            file.close(&*self.disk);
            if let Err(error) = self.disk.remove(&file.name.to_string()) {
                // still there: keep it in the list and try again at the next call
                self.files.insert(at, file);
                return Err(unavailable(error));
            }
            erased += 1;
        }
        Ok(erased)
    }

    fn totals(&mut self) -> Totals {
        let size = |file: &BucketFile| self.disk.size(&file.name.to_string()).unwrap_or(0);
        Totals { records: self.files.iter().map(|file| file.records).sum(), bytes: self.files.iter().map(size).sum() }
    }

    fn check(&mut self) -> Result<(), EngineError> {
        self.guarded(Self::ensure_open)
    }

    fn buckets(&mut self) -> Result<Vec<Bucket>, EngineError> {
        Ok(moving::buckets(&self.files))
    }

    fn page(&mut self, bucket: Bucket, after: Option<Key>, count_max: usize) -> Result<Vec<Record>, EngineError> {
        self.guarded(|engine| {
            engine.ensure_open()?;
            moving::page(&engine.files, bucket, after, count_max)
        })
    }

    fn find(&mut self, writes: &[Write]) -> Result<Vec<Option<Record>>, EngineError> {
        self.guarded(|engine| {
            engine.ensure_open()?;
            writes.iter().map(|write| moving::find(&engine.files, write)).collect()
        })
    }

    fn import(&mut self, records: &[Record]) -> Result<(), EngineError> {
        self.guarded(|engine| {
            engine.ensure_open()?;
            moving::import(&*engine.disk, &mut engine.files, records)
        })
    }

    fn place(&mut self) -> Result<String, EngineError> {
        self.disk.identity().map_err(unavailable)
    }

    fn mark(&mut self) -> Result<Option<Mark>, EngineError> {
        moving::mark(&*self.disk)
    }

    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), EngineError> {
        moving::set_mark(&*self.disk, mark)
    }

    fn wipe(&mut self) -> Result<(), EngineError> {
        while let Some(mut file) = self.files.pop() {
            file.close(&*self.disk);
            if let Err(error) = self.disk.remove(&file.name.to_string()) {
                self.files.push(file);
                return Err(unavailable(error));
            }
        }
        Ok(())
    }
}

fn unavailable(error: std::io::Error) -> EngineError {
    EngineError::Unavailable(error.to_string())
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
