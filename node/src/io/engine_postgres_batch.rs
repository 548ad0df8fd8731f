//! One batch of writes in one transaction and two flights: everything that is known about its boxes, inboxes and entries in
//! the first, everything that is new and the commit in the second.
//!
//! Transactions that write to one store follow one another ([`schema::BEGIN`]), whichever process they come from, so what
//! the first flight says still holds in the second. The unique indices stand behind it: a row that is there already makes the
//! whole batch fail, and the next attempt finds it.

use super::engine_postgres_schema::{self as schema, BUCKETS, Shelf, shelves, signed};
use super::engine_postgres_session::{Fault, FaultKind};
use crate::engine::{Bucket, Limits, Write, Written};
use crate::engine_batch::{Desk, Inserts};
use crate::inbox;
use deadpool_postgres::Object;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Buckets at most: a year in days, and room for a retention that was changed.
pub const BUCKETS_MAX: usize = 400;

const HELD: &str = "SELECT id, body FROM boxes WHERE id = ANY($1)";
const STATES: &str = "SELECT inbox, count(*), max(number) FROM entries WHERE inbox = ANY($1) GROUP BY inbox";
const KNOWN: &str = "SELECT q.inbox, q.hash FROM unnest($1::bytea[], $2::bytea[]) AS q(inbox, hash) \
                     WHERE EXISTS (SELECT 1 FROM entries e WHERE e.inbox = q.inbox AND e.hash = q.hash)";
/// Inserts boxes and entries into one bucket and counts what was new.
const INSERT: &str = "\
    WITH put AS (INSERT INTO boxes (bucket, id, body) \
                 SELECT $1, * FROM unnest($2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING RETURNING 1), \
    appended AS (INSERT INTO entries (bucket, inbox, number, hash, body) \
                 SELECT $1, * FROM unnest($4::bytea[], $5::bigint[], $6::bytea[], $7::bytea[]) \
                 ON CONFLICT DO NOTHING RETURNING 1), \
    new AS (SELECT (SELECT count(*) FROM put) + (SELECT count(*) FROM appended) AS count) \
    UPDATE buckets SET records = records + new.count FROM new WHERE id = $1 RETURNING new.count";

/// A body as it came out of a table.
pub fn body(bytes: &[u8]) -> Result<BoxBody, Fault> {
    BoxBody::from_slice(bytes)
        .map_err(|_| Fault::refused(format!("a table holds a record of {} bytes: somebody else wrote it", bytes.len())))
}

/// An id as it came out of a table.
pub fn id(bytes: &[u8]) -> Result<BoxId, Fault> {
    let bytes =
        bytes.try_into().map_err(|_| Fault::refused("a table holds an id that is none: somebody else wrote it"))?;
    Ok(BoxId::from_bytes(bytes))
}

/// Runs a prepared query; one with nothing to ask for is not sent.
async fn ask(
    client: &Object,
    sql: &'static str,
    nothing: bool,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Fault> {
    if nothing {
        return Ok(Vec::new());
    }
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, parameters).await?)
}

/// What the writes of a batch name.
struct Named<'a> {
    boxes: Vec<&'a [u8]>,
    inboxes: Vec<&'a [u8]>,
    hashes: Vec<[u8; 32]>,
}

fn named(writes: &[Write]) -> Named<'_> {
    let mut named = Named { boxes: Vec::new(), inboxes: Vec::new(), hashes: Vec::new() };
    for write in writes {
        match write {
            Write::Put { id, .. } | Write::Confirm { id, .. } => named.boxes.push(id.as_bytes()),
            Write::Append { inbox, body, .. } => {
                named.inboxes.push(inbox.as_bytes());
                named.hashes.push(body.hash());
            }
        }
    }
    named
}

/// Makes sure that no statement of a batch costs a round trip of its own.
async fn prepare(client: &Object) -> Result<(), Fault> {
    for sql in [BUCKETS, HELD, STATES, KNOWN, INSERT] {
        client.prepare_cached(sql).await?;
    }
    Ok(())
}

/// Applies a batch and commits it. After an error the connection must be given up: its transaction may be open.
pub async fn write(client: &Object, now: UnixMillis, limits: &Limits, writes: &[Write]) -> Result<Vec<Written>, Fault> {
    prepare(client).await?;
    let (shelves, mut desk) = look(client, writes).await?;
    let shelf = match shelves.first() {
        // a clock that went back writes on into the newest bucket
        Some(newest) if now.0 < newest.bucket.end => *newest,
        Some(_) | None if shelves.len() >= BUCKETS_MAX => {
            return Err(Fault::later(format!("more than {BUCKETS_MAX} buckets; does the clock jump?")));
        }
        Some(_) | None => schema::make(client, Bucket::at(now, limits.retention)).await?,
    };
    let (written, inserts) = desk.apply(writes, limits, shelf.bucket);
    insert(client, shelf, &inserts).await?;
    Ok(written)
}

/// The first flight.
async fn look(client: &Object, writes: &[Write]) -> Result<(Vec<Shelf>, Desk), Fault> {
    let Named { boxes, inboxes, hashes } = named(writes);
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let (of_boxes, of_inboxes): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&boxes], [&inboxes]);
    let of_entries: [&(dyn ToSql + Sync); 2] = [&inboxes, &hashes];
    // sent in this order, without waiting in between
    let (begun, buckets, held, states, known) = tokio::join!(
        biased;
        client.batch_execute(schema::BEGIN),
        ask(client, BUCKETS, false, &[]),
        ask(client, HELD, boxes.is_empty(), &of_boxes),
        ask(client, STATES, inboxes.is_empty(), &of_inboxes),
        ask(client, KNOWN, inboxes.is_empty(), &of_entries),
    );
    begun?;
    let shelves = shelves(&buckets?)?;
    let mut desk = Desk {
        boxes: BTreeMap::new(),
        inboxes: BTreeMap::new(),
        known: BTreeSet::new(),
        records: shelves.iter().map(|shelf| shelf.records).sum(),
    };
    for row in held? {
        desk.boxes.insert(id(row.try_get(0)?)?, body(row.try_get(1)?)?);
    }
    for row in states? {
        let number = |column| -> Result<u64, Fault> { Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0)) };
        desk.inboxes.insert(id(row.try_get(0)?)?, inbox::State { entries: number(1)?, last: number(2)? });
    }
    for row in known? {
        desk.known.insert((id(row.try_get(0)?)?, *id(row.try_get(1)?)?.as_bytes()));
    }
    Ok((shelves, desk))
}

/// The second flight. If the insert fails the server answers the commit with a rollback; the error of the insert is told.
async fn insert(client: &Object, shelf: Shelf, inserts: &Inserts) -> Result<(), Fault> {
    let rows = Rows::of(inserts)?;
    let (new, committed) = tokio::join!(biased; rows.insert(client, shelf), client.batch_execute("COMMIT"));
    let new = new?;
    committed?;
    if new == inserts.count() as u64 {
        return Ok(());
    }
    let text = "a record came in between; somebody writes to the tables without the lock".to_owned();
    Err(Fault { kind: FaultKind::Again, text })
}

/// What is inserted, as the database takes it.
pub struct Rows<'a> {
    ids: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
    inboxes: Vec<&'a [u8]>,
    numbers: Vec<i64>,
    hashes: Vec<&'a [u8]>,
    entries: Vec<&'a [u8]>,
}

impl<'a> Rows<'a> {
    /// The rows of `inserts`.
    pub fn of(inserts: &'a Inserts) -> Result<Self, Fault> {
        Ok(Self {
            ids: inserts.boxes.iter().map(|(id, _)| id.as_bytes().as_slice()).collect(),
            bodies: inserts.boxes.iter().map(|(_, body)| body.as_bytes().as_slice()).collect(),
            inboxes: inserts.entries.iter().map(|entry| entry.inbox.as_bytes().as_slice()).collect(),
            numbers: inserts.entries.iter().map(|entry| signed(entry.number)).collect::<Result<_, _>>()?,
            hashes: inserts.entries.iter().map(|entry| entry.hash.as_slice()).collect(),
            entries: inserts.entries.iter().map(|entry| entry.body.as_bytes().as_slice()).collect(),
        })
    }

    /// Inserts them into a bucket, inside of a transaction; says how many were not there. None is not sent.
    pub async fn insert(&self, client: &Object, shelf: Shelf) -> Result<u64, Fault> {
        let Self { ids, bodies, inboxes, numbers, hashes, entries } = self;
        let nothing = ids.is_empty() && inboxes.is_empty();
        let rows = ask(client, INSERT, nothing, &[&shelf.id, ids, bodies, inboxes, numbers, hashes, entries]).await?;
        let new = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
        Ok(u64::try_from(new).unwrap_or(0))
    }
}
