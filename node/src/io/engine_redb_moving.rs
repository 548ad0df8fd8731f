//! How records leave the files of the embedded engine, and come into them, when a store changes its engine.

use super::bucket_file::{BucketFile, BucketName, Desk, Shelf, failed, inbox_state};
use super::disk::Disk;
use super::engine_redb::{FILES_MAX, body};
use crate::engine::{Bucket, EngineError, Key, Record, Write};
use crate::engine_mark::Mark;
use redb::{ReadableTable as _, StorageError};
use shoal_protocol::boxes::BoxId;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The file with the mark of a folder that is not the one in force.
const MARK: &str = "moved.toml";

/// The folder's mark.
pub fn mark(disk: &dyn Disk) -> Result<Option<Mark>, EngineError> {
    let bytes = disk.read(MARK).map_err(|error| EngineError::Unavailable(format!("{MARK}: {error}")))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    Mark::parse(&text).map(Some).map_err(|error| EngineError::Refused(format!("{MARK}: {error}")))
}

/// Sets the folder's mark, or takes it away.
pub fn set_mark(disk: &dyn Disk, mark: Option<&Mark>) -> Result<(), EngineError> {
    let done = match mark {
        Some(mark) => {
            let text = mark.to_text().map_err(|error| EngineError::Refused(error.to_string()))?;
            disk.replace(MARK, text.as_bytes())
        }
        None => disk.remove(MARK),
    };
    done.map_err(|error| EngineError::Unavailable(format!("{MARK}: {error}")))
}

/// The buckets, oldest first. A bucket may have several files, after failed flushes.
pub fn buckets(files: &[BucketFile]) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = files.iter().map(|file| file.name.bucket).collect();
    buckets.sort();
    buckets.dedup();
    buckets
}

/// Records of a bucket in the order of their keys, out of all its files.
pub fn page(
    files: &[BucketFile],
    bucket: Bucket,
    after: Option<Key>,
    count_max: usize,
) -> Result<Vec<Record>, EngineError> {
    let mut found: BTreeMap<Key, Record> = BTreeMap::new();
    // newest first, as everywhere: what it says of a key counts
    for file in files.iter().filter(|file| file.name.bucket == bucket) {
        for record in page_of(&file.shelf()?, file.name, after, count_max)? {
            found.entry(record.key).or_insert(record);
        }
    }
    Ok(found.into_values().take(count_max).collect())
}

fn page_of(shelf: &Shelf, name: BucketName, after: Option<Key>, count_max: usize) -> Result<Vec<Record>, EngineError> {
    let lost = |error: StorageError| failed(&name, error);
    let mut records = Vec::new();
    let from = match after {
        None => Some(Bound::Unbounded),
        Some(Key::Box(id)) => Some(Bound::Excluded(*id.as_bytes())),
        Some(Key::Entry { .. }) => None,
    };
    if let Some(from) = from {
        for row in shelf.boxes.range::<[u8; 32]>((from, Bound::Unbounded)).map_err(lost)?.take(count_max) {
            let (id, found) = row.map_err(lost)?;
            let key = Key::Box(BoxId::from_bytes(id.value()));
            records.push(Record { bucket: name.bucket, key, body: body(found.value(), &name)? });
        }
    }
    let from = match after {
        None | Some(Key::Box(_)) => Bound::Unbounded,
        Some(Key::Entry { inbox, number }) => Bound::Excluded((*inbox.as_bytes(), number)),
    };
    let left = count_max.saturating_sub(records.len());
    for row in shelf.entries.range::<([u8; 32], u64)>((from, Bound::Unbounded)).map_err(lost)?.take(left) {
        let (key, found) = row.map_err(lost)?;
        let (inbox, number) = key.value();
        let key = Key::Entry { inbox: BoxId::from_bytes(inbox), number };
        records.push(Record { bucket: name.bucket, key, body: body(found.value(), &name)? });
    }
    Ok(records)
}

/// The record that answers a write.
pub fn find(files: &[BucketFile], write: &Write) -> Result<Option<Record>, EngineError> {
    for file in files {
        let (shelf, name) = (file.shelf()?, file.name);
        let lost = |error: StorageError| failed(&name, error);
        let (key, found) = match write {
            Write::Put { id, .. } | Write::Confirm { id, .. } => {
                (Key::Box(*id), shelf.boxes.get(id.as_bytes()).map_err(lost)?)
            }
            Write::Append { inbox, body, .. } => {
                let number = shelf.known.get((*inbox.as_bytes(), body.hash())).map_err(lost)?;
                let Some(number) = number.map(|number| number.value()) else { continue };
                let entry = shelf.entries.get((*inbox.as_bytes(), number)).map_err(lost)?;
                (Key::Entry { inbox: *inbox, number }, entry)
            }
        };
        if let Some(found) = found {
            return Ok(Some(Record { bucket: name.bucket, key, body: body(found.value(), &name)? }));
        }
    }
    Ok(None)
}

/// Takes records over: into the file of their bucket, which is made if need be. Durable, file by file.
pub fn import(disk: &dyn Disk, files: &mut Vec<BucketFile>, records: &[Record]) -> Result<(), EngineError> {
    let mut by_bucket: BTreeMap<Bucket, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_bucket.entry(record.bucket).or_default().push(record);
    }
    for (bucket, records) in by_bucket {
        let at = position(disk, files, bucket)?;
        if let Some(file) = files.get_mut(at) {
            let new = insert(file, &records)?;
            file.records = file.records.saturating_add(new);
        }
    }
    Ok(())
}

/// Where the file is that a bucket's records go to.
fn position(disk: &dyn Disk, files: &mut Vec<BucketFile>, bucket: Bucket) -> Result<usize, EngineError> {
    let of_bucket = || files.iter().filter(|file| file.name.bucket == bucket);
    if let Some(at) = files.iter().position(|file| file.name.bucket == bucket && !file.is_doubtful()) {
        return Ok(at);
    }
    if files.len() >= FILES_MAX {
        return Err(EngineError::Unavailable(format!("more than {FILES_MAX} files")));
    }
    let series = of_bucket().map(|file| file.name.series.saturating_add(1)).max().unwrap_or(0);
    let name = BucketName { bucket, series, in_doubt: false };
    let file = BucketFile::create(disk, name, files.len() + 1)?;
    let at = files.partition_point(|file| file.name > name);
    files.insert(at, file);
    Ok(at)
}

/// Inserts what is not there; says how many that were.
fn insert(file: &BucketFile, records: &[&Record]) -> Result<u64, EngineError> {
    let name = file.name;
    let transaction = file.begin()?;
    let mut new: u64 = 0;
    {
        let mut desk = Desk::of(&transaction).map_err(|error| failed(&name, error))?;
        for record in records {
            new = new.saturating_add(u64::from(put(&mut desk, record).map_err(|error| failed(&name, error))?));
        }
    }
    if new == 0 {
        transaction.abort().map_err(|error| failed(&name, error))?;
    } else {
        transaction.commit().map_err(|error| failed(&name, error))?;
    }
    Ok(new)
}

fn put(desk: &mut Desk<'_>, record: &Record) -> Result<bool, StorageError> {
    let body = record.body.as_bytes().as_slice();
    match record.key {
        Key::Box(id) => {
            if desk.boxes.get(id.as_bytes())?.is_some() {
                return Ok(false);
            }
            desk.boxes.insert(*id.as_bytes(), body)?;
        }
        Key::Entry { inbox, number } => {
            let inbox = *inbox.as_bytes();
            if desk.entries.get((inbox, number))?.is_some() {
                return Ok(false);
            }
            desk.entries.insert((inbox, number), body)?;
            desk.known.insert((inbox, record.body.hash()), number)?;
            let (entries, last) = inbox_state(&desk.inboxes, &inbox)?;
            desk.inboxes.insert(inbox, (entries.saturating_add(1), last.max(number)))?;
        }
    }
    Ok(true)
}
