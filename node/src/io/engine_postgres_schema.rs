//! Tables of a store in the database: what they are, how an older layout becomes the newest one, and the partitions that
//! are one bucket of arrival time each.

use super::engine_postgres_session::Fault;
use crate::engine::Bucket;
use deadpool_postgres::Object;
use tokio_postgres::Row;

/// Layouts in their order; number n of the table `versions` is after the n-th. One that was released is never changed: the
/// next one is added.
const LAYOUTS: [&str; 2] = [
    // `STORAGE PLAIN`: bodies are random bytes, which neither shrink nor belong into another table.
    // A box is looked for in all buckets, so the id comes first in its index.
    "CREATE TABLE state (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        identity bytea NOT NULL,
        made uuid NOT NULL DEFAULT gen_random_uuid()
     );
     CREATE TABLE buckets (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        starts bigint NOT NULL,
        ends bigint NOT NULL CHECK (starts < ends),
        records bigint NOT NULL DEFAULT 0 CHECK (records >= 0),
        UNIQUE (starts, ends)
     );
     CREATE TABLE boxes (
        bucket integer NOT NULL,
        id bytea NOT NULL CHECK (octet_length(id) = 32),
        body bytea NOT NULL,
        PRIMARY KEY (id, bucket)
     ) PARTITION BY LIST (bucket);
     ALTER TABLE boxes ALTER COLUMN body SET STORAGE PLAIN;
     CREATE TABLE entries (
        bucket integer NOT NULL,
        inbox bytea NOT NULL CHECK (octet_length(inbox) = 32),
        number bigint NOT NULL,
        hash bytea NOT NULL CHECK (octet_length(hash) = 32),
        body bytea NOT NULL,
        PRIMARY KEY (inbox, number, bucket),
        UNIQUE (inbox, hash, bucket)
     ) PARTITION BY LIST (bucket);
     ALTER TABLE entries ALTER COLUMN body SET STORAGE PLAIN;",
    // `mark`: see `engine_mark.rs`. `spares`: partitions that no bucket has begun in.
    "ALTER TABLE state ADD COLUMN mark text;
     CREATE TABLE spares (id integer PRIMARY KEY);",
];

/// Begins a transaction that nobody else who writes to this store works beside. The next statement sees everything that
/// was committed before; readers go on.
pub const BEGIN: &str = "BEGIN; LOCK TABLE state IN EXCLUSIVE MODE";

/// Buckets, newest first.
pub const BUCKETS: &str = "SELECT id, starts, ends, records FROM buckets ORDER BY starts DESC, ends DESC";

/// A bucket as the database holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shelf {
    /// Number of its partitions.
    pub id: i32,
    /// The arrival times it holds.
    pub bucket: Bucket,
    /// Boxes and entries in it.
    pub records: u64,
}

/// Reads the rows of [`BUCKETS`].
pub fn shelves(rows: &[Row]) -> Result<Vec<Shelf>, Fault> {
    let number = |row: &Row, column| -> Result<u64, Fault> {
        u64::try_from(row.try_get::<_, i64>(column)?).map_err(|_| Fault::later("table buckets: a negative number"))
    };
    let shelf = |row: &Row| {
        let bucket = Bucket { start: number(row, 1)?, end: number(row, 2)? };
        Ok(Shelf { id: row.try_get(0)?, bucket, records: number(row, 3)? })
    };
    rows.iter().map(shelf).collect()
}

/// A time or number as the database keeps it.
pub fn signed(number: u64) -> Result<i64, Fault> {
    i64::try_from(number).map_err(|_| Fault::later("a time beyond what the database can hold; is the clock right?"))
}

/// Which of its lives a schema is in: made anew, it is another.
pub type Made = String;

/// Brings the tables to the newest layout and checks that they are this store's. `before` is what an earlier call of this
/// process gave: then nothing is made anew, because a schema that has gone took with it what was acknowledged.
pub async fn prepare(client: &Object, schema: &str, identity: &[u8; 32], before: Option<&Made>) -> Result<Made, Fault> {
    client.batch_execute("BEGIN; SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '30s'").await?;
    // two processes that start at once do not both make tables
    client.query("SELECT pg_advisory_xact_lock(hashtextextended('shoal store ' || $1, 0))", &[&schema]).await?;
    let exists = client.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema]).await?.is_some();
    let has_tables = client.query_one("SELECT to_regclass('versions') IS NOT NULL", &[]).await?.try_get(0)?;
    if before.is_some() && !(exists && has_tables) {
        return Err(Fault::refused(format!(
            "the tables in schema {schema} are gone; restore the database, or start the store anew without what it held"
        )));
    }
    if !exists {
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    if !has_tables {
        client
            .batch_execute("CREATE TABLE versions (version integer PRIMARY KEY, applied timestamptz DEFAULT now())")
            .await?;
    }
    let version: i32 = client.query_one("SELECT coalesce(max(version), 0) FROM versions", &[]).await?.try_get(0)?;
    let known = LAYOUTS.len();
    let applied = usize::try_from(version).ok().filter(|applied| *applied <= known).ok_or_else(|| {
        Fault::refused(format!(
            "the tables in schema {schema} have layout {version}; this program knows {known}: update shoal-node"
        ))
    })?;
    for (number, layout) in (1_i32..).zip(LAYOUTS).skip(applied) {
        client.batch_execute(layout).await?;
        client.execute("INSERT INTO versions (version) VALUES ($1)", &[&number]).await?;
    }
    let mine: &[u8] = identity;
    client.execute("INSERT INTO state (identity) VALUES ($1) ON CONFLICT DO NOTHING", &[&mine]).await?;
    let row = client.query_one("SELECT identity, made::text FROM state", &[]).await?;
    let (owner, made): (&[u8], Made) = (row.try_get(0)?, row.try_get(1)?);
    if owner != mine {
        return Err(Fault::refused(format!(
            "schema {schema} belongs to the store {}; give this store a schema of its own (store.postgres.schema)",
            hex::encode(owner)
        )));
    }
    if before.is_some_and(|before| *before != made) {
        return Err(Fault::refused(format!(
            "schema {schema} was made anew behind the back of this store; restart it if that is meant"
        )));
    }
    client.batch_execute("COMMIT").await?;
    Ok(made)
}

/// Begins a bucket, inside of a transaction: in partitions that were made ahead, so that it needs no lock on the tables, or in
/// new ones.
pub async fn make(client: &Object, bucket: Bucket) -> Result<Shelf, Fault> {
    const SPARE: &str = "DELETE FROM spares WHERE id = (SELECT min(id) FROM spares) RETURNING id";
    const INSERT: &str = "INSERT INTO buckets (id, starts, ends) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3)";
    let id = match client.query_opt(SPARE, &[]).await? {
        Some(row) => row.try_get(0)?,
        None => partitions(client).await?,
    };
    client.execute(INSERT, &[&id, &signed(bucket.start)?, &signed(bucket.end)?]).await?;
    Ok(Shelf { id, bucket, records: 0 })
}

/// Makes partitions for a bucket that may begin later, inside of a transaction; says their number. As tables of their own that
/// are attached then: `CREATE TABLE … PARTITION OF` would wait for everybody who reads, and keep everybody waiting who comes.
pub async fn partitions(client: &Object) -> Result<i32, Fault> {
    const NEXT: &str = "SELECT nextval(pg_get_serial_sequence('buckets', 'id')::regclass)::integer";
    let id: i32 = client.query_one(NEXT, &[]).await?.try_get(0)?;
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name}_{id} (LIKE {name} INCLUDING ALL); \
             ALTER TABLE {name} ATTACH PARTITION {name}_{id} FOR VALUES IN ({id}); "
        )
    };
    client.batch_execute(&(table("boxes") + &table("entries"))).await?;
    Ok(id)
}

/// Drops a bucket with everything in it, inside of a transaction. The files go when that is committed, not when somebody
/// cleans up. Waits for everybody who reads the tables.
pub async fn drop_bucket(client: &Object, id: i32) -> Result<(), Fault> {
    let sql = format!("DROP TABLE IF EXISTS boxes_{id}, entries_{id}; DELETE FROM buckets WHERE id = {id}");
    Ok(client.batch_execute(&sql).await?)
}
