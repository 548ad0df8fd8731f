//! How records leave the database, and come into it, when a store changes its engine.

use super::engine_postgres_batch::{BUCKETS_MAX, Rows, body, id};
use super::engine_postgres_schema::{self as schema, BUCKETS, Shelf, shelves, signed};
use super::engine_postgres_session::Fault;
use crate::engine::{Bucket, Key, Record, Write};
use crate::engine_batch::{Inserts, NewEntry};
use crate::engine_mark::Mark;
use deadpool_postgres::Object;
use shoal_protocol::boxes::BoxId;
use std::collections::BTreeMap;
use tokio_postgres::Row;

const BOXES: &str = "SELECT id, body FROM boxes WHERE bucket = $1 AND id > $2 ORDER BY id LIMIT $3";
const ENTRIES: &str = "SELECT inbox, number, body FROM entries WHERE bucket = $1 AND (inbox, number) > ($2, $3) \
                       ORDER BY inbox, number LIMIT $4";
const FIND_BOXES: &str = "SELECT b.starts, b.ends, x.id, x.body FROM boxes x JOIN buckets b ON b.id = x.bucket \
                          WHERE x.id = ANY($1) ORDER BY b.starts, b.ends";
const FIND_ENTRIES: &str = "SELECT b.starts, b.ends, e.inbox, e.hash, e.number, e.body \
                            FROM unnest($1::bytea[], $2::bytea[]) AS q(inbox, hash) \
                            JOIN entries e ON e.inbox = q.inbox AND e.hash = q.hash \
                            JOIN buckets b ON b.id = e.bucket";

/// The schema's mark.
pub async fn mark(client: &Object) -> Result<Option<Mark>, Fault> {
    let row = client.query_one("SELECT mark FROM state", &[]).await?;
    let text: Option<&str> = row.try_get(0)?;
    text.map(|text| Mark::parse(text).map_err(|error| Fault::refused(error.to_string()))).transpose()
}

/// Sets the schema's mark, or takes it away. Behind every write that is under way, whoever makes it.
pub async fn set_mark(client: &Object, mark: Option<&Mark>) -> Result<(), Fault> {
    let text = mark.map(Mark::to_text).transpose().map_err(|error| Fault::refused(error.to_string()))?;
    client.batch_execute(schema::BEGIN).await?;
    client.execute("UPDATE state SET mark = $1", &[&text]).await?;
    Ok(client.batch_execute("COMMIT").await?)
}

/// The buckets, oldest first.
pub async fn buckets(client: &Object) -> Result<Vec<Bucket>, Fault> {
    let mut buckets: Vec<Bucket> = all(client).await?.iter().map(|shelf| shelf.bucket).collect();
    buckets.sort();
    Ok(buckets)
}

async fn all(client: &Object) -> Result<Vec<Shelf>, Fault> {
    let statement = client.prepare_cached(BUCKETS).await?;
    shelves(&client.query(&statement, &[]).await?)
}

fn number(row: &Row, column: usize) -> Result<u64, Fault> {
    u64::try_from(row.try_get::<_, i64>(column)?).map_err(|_| Fault::later("a table holds a negative number"))
}

/// Records of a bucket in the order of their keys.
pub async fn page(client: &Object, bucket: Bucket, after: Option<Key>, count_max: usize) -> Result<Vec<Record>, Fault> {
    let Some(shelf) = all(client).await?.into_iter().find(|shelf| shelf.bucket == bucket) else {
        return Ok(Vec::new());
    };
    let mut records = Vec::new();
    let mut entries_after: (&[u8], i64) = (&[], 0);
    let boxes_after: Option<&[u8]> = match &after {
        None => Some(&[]),
        Some(Key::Box(id)) => Some(id.as_bytes()),
        Some(Key::Entry { inbox, number }) => {
            entries_after = (inbox.as_bytes(), signed(*number)?);
            None
        }
    };
    let left = |records: &Vec<Record>| i64::try_from(count_max.saturating_sub(records.len())).unwrap_or(i64::MAX);
    if let Some(after) = boxes_after {
        let statement = client.prepare_cached(BOXES).await?;
        for row in client.query(&statement, &[&shelf.id, &after, &left(&records)]).await? {
            records.push(Record { bucket, key: Key::Box(id(row.try_get(0)?)?), body: body(row.try_get(1)?)? });
        }
    }
    if records.len() < count_max {
        let (inbox, after) = entries_after;
        let statement = client.prepare_cached(ENTRIES).await?;
        for row in client.query(&statement, &[&shelf.id, &inbox, &after, &left(&records)]).await? {
            let key = Key::Entry { inbox: id(row.try_get(0)?)?, number: number(&row, 1)? };
            records.push(Record { bucket, key, body: body(row.try_get(2)?)? });
        }
    }
    Ok(records)
}

/// The records that answer writes.
pub async fn find(client: &Object, writes: &[Write]) -> Result<Vec<Option<Record>>, Fault> {
    let (mut ids, mut inboxes, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for write in writes {
        match write {
            Write::Put { id, .. } | Write::Confirm { id, .. } => ids.push(id.as_bytes().as_slice()),
            Write::Append { inbox, body, .. } => {
                inboxes.push(inbox.as_bytes().as_slice());
                hashes.push(body.hash());
            }
        }
    }
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let mut boxes: BTreeMap<BoxId, Record> = BTreeMap::new();
    let mut entries: BTreeMap<(BoxId, [u8; 32]), Record> = BTreeMap::new();
    let bucket = |row: &Row| -> Result<Bucket, Fault> { Ok(Bucket { start: number(row, 0)?, end: number(row, 1)? }) };
    let statement = client.prepare_cached(FIND_BOXES).await?;
    for row in client.query(&statement, &[&ids]).await? {
        let id = id(row.try_get(2)?)?;
        boxes.insert(id, Record { bucket: bucket(&row)?, key: Key::Box(id), body: body(row.try_get(3)?)? });
    }
    let statement = client.prepare_cached(FIND_ENTRIES).await?;
    for row in client.query(&statement, &[&inboxes, &hashes]).await? {
        let (inbox, hash) = (id(row.try_get(2)?)?, *id(row.try_get(3)?)?.as_bytes());
        let key = Key::Entry { inbox, number: number(&row, 4)? };
        entries.insert((inbox, hash), Record { bucket: bucket(&row)?, key, body: body(row.try_get(5)?)? });
    }
    let found = writes.iter().map(|write| match write {
        Write::Put { id, .. } | Write::Confirm { id, .. } => boxes.get(id).cloned(),
        Write::Append { inbox, body, .. } => entries.get(&(*inbox, body.hash())).cloned(),
    });
    Ok(found.collect())
}

/// Takes records over.
pub async fn import(client: &Object, records: &[Record]) -> Result<(), Fault> {
    let mut by_bucket: BTreeMap<Bucket, Inserts> = BTreeMap::new();
    for Record { bucket, key, body } in records {
        let inserts = by_bucket.entry(*bucket).or_default();
        match key {
            Key::Box(id) => inserts.boxes.push((*id, body.clone())),
            Key::Entry { inbox, number } => {
                let entry = NewEntry { inbox: *inbox, number: *number, hash: body.hash(), body: body.clone() };
                inserts.entries.push(entry);
            }
        }
    }
    client.batch_execute(schema::BEGIN).await?;
    let shelves = all(client).await?;
    let mut count = shelves.len();
    for (bucket, inserts) in by_bucket {
        let shelf = match shelves.iter().find(|shelf| shelf.bucket == bucket) {
            Some(shelf) => *shelf,
            None if count >= BUCKETS_MAX => return Err(Fault::refused(format!("more than {BUCKETS_MAX} buckets"))),
            None => {
                count += 1;
                schema::make(client, bucket).await?
            }
        };
        Rows::of(&inserts)?.insert(client, shelf).await?;
    }
    Ok(client.batch_execute("COMMIT").await?)
}
