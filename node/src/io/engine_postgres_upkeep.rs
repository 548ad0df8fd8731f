//! What is done for the tables of a store beside its work: partitions are made ahead, what is over is dropped, sizes are counted.
//!
//! Nobody waits for any of it, and it may meet somebody who holds a table for long: a dump, a session that was left open. So it
//! waits for a lock for a moment only, and what it fails with says nothing about whether the store works; it is tried again.
//! Dropping needs the tables for itself; nothing else does.

use super::engine_postgres_schema::{self as schema, BUCKETS, Shelf, shelves};
use super::engine_postgres_session::Fault;
use crate::engine::Totals;
use deadpool_postgres::Object;
use shoal_protocol::UnixMillis;
use std::time::Duration;

/// As [`schema::BEGIN`], for who gives way. Who waits for a table for himself keeps everybody else from it meanwhile: this is
/// what a reader may be late by, once in five seconds, while somebody holds the tables.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '50ms'; LOCK TABLE state IN EXCLUSIVE MODE";
const SPARES: &str = "SELECT 1 FROM spares LIMIT 1";
const TOTALS: &str = "SELECT coalesce(sum(records), 0)::bigint, \
                      coalesce(sum(coalesce(pg_total_relation_size(to_regclass('boxes_' || id)), 0) \
                                 + coalesce(pg_total_relation_size(to_regclass('entries_' || id)), 0)), 0)::bigint \
                      FROM buckets";

/// Makes partitions for the bucket that begins next, unless there are some.
pub async fn make_ahead(client: &Object) -> Result<(), Fault> {
    let statement = client.prepare_cached(SPARES).await?;
    if client.query_opt(&statement, &[]).await?.is_some() {
        return Ok(());
    }
    client.batch_execute(BEGIN).await?;
    // another process may have been faster
    if client.query_opt(&statement, &[]).await?.is_none() {
        let id = schema::partitions(client).await?;
        client.execute("INSERT INTO spares (id) VALUES ($1)", &[&id]).await?;
    }
    Ok(client.batch_execute("COMMIT").await?)
}

/// Drops what is over, a bucket a transaction: one that somebody holds keeps none that went before it.
pub async fn expire(client: &Object, now: UnixMillis, retention: Duration) -> Result<usize, Fault> {
    let mut erased = 0;
    for shelf in all(client).await? {
        if shelf.bucket.is_over(now, retention) {
            client.batch_execute(BEGIN).await?;
            schema::drop_bucket(client, shelf.id).await?;
            client.batch_execute("COMMIT").await?;
            erased += 1;
        }
    }
    Ok(erased)
}

/// Drops every bucket. Here somebody waits: a move, into a place that holds an older copy.
pub async fn wipe(client: &Object) -> Result<(), Fault> {
    for shelf in all(client).await? {
        client.batch_execute(schema::BEGIN).await?;
        schema::drop_bucket(client, shelf.id).await?;
        client.batch_execute("COMMIT").await?;
    }
    Ok(())
}

/// Oldest first.
async fn all(client: &Object) -> Result<Vec<Shelf>, Fault> {
    let statement = client.prepare_cached(BUCKETS).await?;
    let mut all = shelves(&client.query(&statement, &[]).await?)?;
    all.reverse();
    Ok(all)
}

/// How much is held. Partitions that no bucket has begun in do not count.
pub async fn totals(client: &Object) -> Result<Totals, Fault> {
    let statement = client.prepare_cached(TOTALS).await?;
    let row = client.query_one(&statement, &[]).await?;
    let number = |column| -> Result<u64, Fault> { Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0)) };
    Ok(Totals { records: number(0)?, bytes: number(1)? })
}
