//! One redb file: the records that arrived in one bucket of time.
//!
//! redb never shrinks a file and leaves deleted bodies in it, so records are not deleted: the whole file is unlinked
//! when its bucket is over.

use super::disk::{Disk, Troubles, Watched};
use crate::engine::{Bucket, EngineError};
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable,
    ReadableTableMetadata as _, StorageBackend, StorageError, Table, TableDefinition, WriteTransaction,
};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;

/// Box id → body.
pub const BOXES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("boxes");
/// Inbox id, entry number → body.
pub const ENTRIES: TableDefinition<'_, ([u8; 32], u64), &[u8]> = TableDefinition::new("entries");
/// Inbox id, hash of a body → its entry number; finds repetitions.
pub const KNOWN: TableDefinition<'_, ([u8; 32], [u8; 32]), u64> = TableDefinition::new("known");
/// Inbox id → entries in this file, highest number.
pub const INBOXES: TableDefinition<'_, [u8; 32], (u64, u64)> = TableDefinition::new("inboxes");

/// Page cache of all files together, filled only by use. Each file gets its share when it is opened: 16 MiB each at the 15
/// files of the default retention, 640 KiB at 400. What was opened when there were fewer keeps the larger share: with
/// files made one by one, 256 MiB × (1 + ln(400/16)) = 1.1 GB at most.
const CACHE_BYTES: usize = 256 << 20;
/// Fewer files than this share as if they were so many.
const CACHE_SHARES_MIN: usize = 16;
const SUFFIX: &str = ".redb";
const DOUBT: &str = "-doubt";

/// Name of a bucket's file: start and end of the bucket in ms, a series number (a new file for the same time after a
/// failed flush), and whether the file is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketName {
    /// The arrival times it holds.
    pub bucket: Bucket,
    /// 0, or one more than the file it replaces.
    pub series: u32,
    /// A flush of this file failed: it is read, but what it holds does not count as durable.
    pub in_doubt: bool,
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bucket { start, end } = self.bucket;
        write!(f, "boxes-{start}-{end}-{}{}{SUFFIX}", self.series, if self.in_doubt { DOUBT } else { "" })
    }
}

/// Not the name of a bucket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotABucket;

impl FromStr for BucketName {
    type Err = NotABucket;
    fn from_str(name: &str) -> Result<Self, NotABucket> {
        let stem = name.strip_suffix(SUFFIX).and_then(|stem| stem.strip_prefix("boxes-")).ok_or(NotABucket)?;
        let (stem, in_doubt) = stem.strip_suffix(DOUBT).map_or((stem, false), |stem| (stem, true));
        let numbers: Vec<u64> =
            stem.split('-').map(|number| number.parse().map_err(|_| NotABucket)).collect::<Result<_, _>>()?;
        let [start, end, series] = numbers.as_slice() else { return Err(NotABucket) };
        let series = u32::try_from(*series).map_err(|_| NotABucket)?;
        let parsed = Self { bucket: Bucket { start: *start, end: *end }, series, in_doubt };
        // exactly our spelling, so that two names never mean one bucket
        if start < end && parsed.to_string() == name { Ok(parsed) } else { Err(NotABucket) }
    }
}

/// Any failure of redb; `file` is named if the operator has to do something about it.
pub fn failed(file: &BucketName, error: impl Into<redb::Error>) -> EngineError {
    let error = error.into();
    if matches!(error, redb::Error::DatabaseAlreadyOpen) {
        return EngineError::InUse;
    }
    let damaged = matches!(error, redb::Error::Corrupted(_))
        || matches!(&error, redb::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof));
    if damaged {
        EngineError::Damaged { file: file.to_string(), cause: error.to_string() }
    } else if matches!(&error, redb::Error::Io(error) if error.kind() == io::ErrorKind::NotFound) {
        EngineError::Damaged { file: file.to_string(), cause: "it is gone".to_owned() }
    } else {
        EngineError::Unavailable(error.to_string())
    }
}

/// A bucket's file and, while it is usable, its open database.
pub struct BucketFile {
    /// Its name.
    pub name: BucketName,
    /// Records in it; right whenever the file is open.
    pub records: u64,
    open: Option<Open>,
    /// In doubt, though its name does not say so.
    distrusted: bool,
}

struct Open {
    database: Database,
    troubles: Arc<Troubles>,
}

/// The tables of a file for reading.
pub struct Shelf {
    /// See [`BOXES`].
    pub boxes: ReadOnlyTable<[u8; 32], &'static [u8]>,
    /// See [`ENTRIES`].
    pub entries: ReadOnlyTable<([u8; 32], u64), &'static [u8]>,
    /// See [`KNOWN`].
    pub known: ReadOnlyTable<([u8; 32], [u8; 32]), u64>,
    /// See [`INBOXES`].
    pub inboxes: ReadOnlyTable<[u8; 32], (u64, u64)>,
    /// See [`BucketName::in_doubt`].
    pub in_doubt: bool,
}

/// The tables of a file inside a write transaction.
pub struct Desk<'t> {
    /// See [`BOXES`].
    pub boxes: Table<'t, [u8; 32], &'static [u8]>,
    /// See [`ENTRIES`].
    pub entries: Table<'t, ([u8; 32], u64), &'static [u8]>,
    /// See [`KNOWN`].
    pub known: Table<'t, ([u8; 32], [u8; 32]), u64>,
    /// See [`INBOXES`].
    pub inboxes: Table<'t, [u8; 32], (u64, u64)>,
}

impl<'t> Desk<'t> {
    /// Opens all tables, which creates those that do not exist.
    pub fn of(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            boxes: transaction.open_table(BOXES)?,
            entries: transaction.open_table(ENTRIES)?,
            known: transaction.open_table(KNOWN)?,
            inboxes: transaction.open_table(INBOXES)?,
        })
    }
}

fn database(watched: Watched, files: usize) -> Result<Database, redb::Error> {
    let cache = CACHE_BYTES / files.max(CACHE_SHARES_MIN);
    // redb may panic on a file that something else has changed; that must not end the process without a word
    catch_unwind(AssertUnwindSafe(move || Database::builder().set_cache_size(cache).create_with_backend(watched)))
        .unwrap_or_else(|_| Err(DatabaseError::Storage(StorageError::Corrupted("its structure is broken".to_owned()))))
        .map_err(redb::Error::from)
}

/// A write transaction that is durable when its commit returns. Quick repair keeps the allocator's state in every
/// commit: a store opens at once after kill -9 however much it holds, for one more flush a commit.
fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

impl BucketFile {
    /// Makes a new file with empty tables. It gets its name when it is complete, so that a crash leaves either nothing
    /// or a good file. `files`: how many there are then.
    pub fn create(disk: &dyn Disk, name: BucketName, files: usize) -> Result<Self, EngineError> {
        let unfinished = format!("{name}{UNFINISHED}");
        let made =
            disk.create(&unfinished).map_err(|error| failed(&name, StorageError::Io(error))).and_then(|backend| {
                let (watched, troubles) = Watched::new(backend);
                let open = database(watched, files).map(|database| Open { database, troubles });
                let open = open.map_err(|error| failed(&name, error))?;
                let transaction = begin(&open.database).map_err(|error| failed(&name, error))?;
                Desk::of(&transaction).map_err(|error| failed(&name, error))?;
                transaction.commit().map_err(|error| failed(&name, error))?;
                disk.rename(&unfinished, &name.to_string()).map_err(|error| failed(&name, StorageError::Io(error)))?;
                Ok(Self { name, records: 0, open: Some(open), distrusted: false })
            });
        if made.is_err() {
            // best effort: what is left is removed at the next start
            let _ = disk.remove(&unfinished);
        }
        made
    }

    /// A file found on the disk, not yet open.
    pub fn found(name: BucketName) -> Self {
        Self { name, records: 0, open: None, distrusted: false }
    }

    /// Opens the file unless it is open. `files`: how many there are.
    pub fn ensure_open(&mut self, disk: &dyn Disk, files: usize) -> Result<(), EngineError> {
        if self.open.is_none() {
            self.open = Some(self.open_anew(disk, files)?);
            let shelf = self.shelf()?;
            let count = || Ok(shelf.boxes.len()?.saturating_add(shelf.entries.len()?));
            self.records = count().map_err(|error: StorageError| failed(&self.name, error))?;
        }
        Ok(())
    }

    fn open_anew(&mut self, disk: &dyn Disk, files: usize) -> Result<Open, EngineError> {
        let found = disk.open(&self.name.to_string()).or_else(|error| {
            // a renaming that failed may have been done all the same
            let doubtful = BucketName { in_doubt: true, ..self.name };
            let backend = disk.open(&doubtful.to_string()).map_err(|_| error)?;
            self.name = doubtful;
            Ok(backend)
        });
        let (watched, troubles) =
            Watched::new(found.map_err(|error: io::Error| failed(&self.name, StorageError::Io(error)))?);
        // what an earlier process wrote but never flushed is durable before anyone relies on having found it
        let flushed = watched.sync_data().map_err(|error| redb::Error::from(StorageError::Io(error)));
        match flushed.and_then(|()| database(watched, files)) {
            Ok(database) => Ok(Open { database, troubles }),
            Err(error) => {
                if troubles.flush() {
                    self.doubt(disk);
                }
                Err(failed(&self.name, error))
            }
        }
    }

    /// Whether it is open and something has failed since it was opened: it has to be opened anew.
    pub fn is_broken(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.troubles.any())
    }

    /// Closes the file, after which the next use opens it anew. If a flush has failed since it was opened, it is in doubt.
    pub fn close(&mut self, disk: &dyn Disk) {
        if let Some(Open { database, troubles }) = self.open.take() {
            // it writes a little when it is closed, and may find then that something else has changed the file
            let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
            if troubles.flush() {
                self.doubt(disk);
            }
        }
    }

    /// Marks the file as in doubt. If its renaming fails, the mark is at least kept as long as this process lives.
    fn doubt(&mut self, disk: &dyn Disk) {
        let doubtful = BucketName { in_doubt: true, ..self.name };
        if self.is_doubtful() {
            return;
        }
        match disk.rename(&self.name.to_string(), &doubtful.to_string()) {
            Ok(()) => self.name = doubtful,
            Err(_) => self.distrusted = true,
        }
    }

    /// Whether what it holds does not count as durable.
    pub fn is_doubtful(&self) -> bool {
        self.distrusted || self.name.in_doubt
    }

    fn opened(&self) -> Result<&Open, EngineError> {
        self.open.as_ref().ok_or_else(|| EngineError::Unavailable(format!("{} is not open", self.name)))
    }

    /// Its tables as of the last commit. The file must be open.
    pub fn shelf(&self) -> Result<Shelf, EngineError> {
        let open = self.opened()?;
        let read = || {
            let transaction = open.database.begin_read()?;
            Ok(Shelf {
                boxes: transaction.open_table(BOXES)?,
                entries: transaction.open_table(ENTRIES)?,
                known: transaction.open_table(KNOWN)?,
                inboxes: transaction.open_table(INBOXES)?,
                in_doubt: self.is_doubtful(),
            })
        };
        read().map_err(|error: redb::Error| failed(&self.name, error))
    }

    /// Begins a transaction that is durable when committed. The file must be open.
    pub fn begin(&self) -> Result<WriteTransaction, EngineError> {
        begin(&self.opened()?.database).map_err(|error| failed(&self.name, error))
    }
}

/// What a file's name ends with until the file is complete.
pub const UNFINISHED: &str = ".new";

/// Entries and highest number of an inbox in one file.
pub fn inbox_state(
    table: &impl ReadableTable<[u8; 32], (u64, u64)>,
    inbox: &[u8; 32],
) -> Result<(u64, u64), StorageError> {
    Ok(table.get(inbox)?.map_or((0, 0), |state| state.value()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_is_a_name() {
        for (series, in_doubt) in [(0, false), (3, true)] {
            let name = BucketName { bucket: Bucket { start: 75_000, end: 150_000 }, series, in_doubt };
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for other in [
            "",
            "boxes.redb",
            "boxes-1-2.redb",
            "boxes-2-1-0.redb",
            "boxes-1-2-0.redb.new",
            "boxes-01-2-0.redb",
            "boxes-1-2-0-doubt-doubt.redb",
            "boxes--1-2-0.redb",
            "boxes-1-2-4294967296.redb",
            "lost+found",
        ] {
            assert_eq!(other.parse::<BucketName>(), Err(NotABucket), "{other}");
        }
    }
}
