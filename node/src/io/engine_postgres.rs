//! The second storage engine: a PostgreSQL database, for operators who outgrow one machine.
//!
//! Each store has a schema of its own, so many stores share a cluster. A bucket of arrival time is one partition of each
//! table; what is over is dropped with its files. A batch is one transaction ([`batch`]). The engine's thread is
//! synchronous: it drives a runtime of its own, which runs only while a call waits for the database.
//!
//! A database that is down, or slow, or starting is no reason to stop: calls fail, nothing is acknowledged, and after a
//! pause that grows to 5 s the next one tries anew. Every call has a deadline, so that the queue before it is worked off,
//! with errors if need be: replicas answer after `answer_ms` and forget what comes later (decision 0002).

use super::engine_postgres_batch::{self as batch, body};
use super::engine_postgres_moving as moving;
use super::engine_postgres_schema::{self as schema, BUCKETS, Made, Shelf, shelves};
use super::engine_postgres_session::{self as session, CONNECT_MAX, Fault, FaultKind, Place};
use super::host::{Clock, generator};
use crate::engine::{Bucket, Engine, EngineError, Entry, Key, Limits, Record, Totals, Write, Written};
use deadpool_postgres::{Object, Pool};
use rand::RngExt as _;
use rand::rngs::StdRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long one call may wait for the database. The engine's thread works for nobody else meanwhile: 1,024 tasks that
/// wait are four batches, and after the first has failed the others fail at once.
const CALL_MAX: Duration = Duration::from_millis(1_500);
/// The same for what is done seldom and may take longer: making or dropping tables, counting bytes.
const SELDOM_MAX: Duration = Duration::from_secs(5);
/// The same for the first call, which may have to lay out tables.
const FIRST_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed call; doubles with each, up to the longest. Half of it is drawn: stores of one cluster that comes
/// back do not ask at one moment.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Look-ups that are worth a connection of their own.
const CHUNK: usize = 32;

const GET: &str = "SELECT id, body FROM boxes WHERE id = ANY($1)";
const READ: &str = "SELECT q.place, e.number, e.body \
                    FROM unnest($1::bytea[], $2::bigint[]) WITH ORDINALITY AS q(inbox, after, place), \
                    LATERAL (SELECT number, body FROM entries WHERE entries.inbox = q.inbox AND entries.number > q.after \
                             ORDER BY number LIMIT 1) AS e";
const TOTALS: &str = "SELECT (SELECT coalesce(sum(records), 0)::bigint FROM buckets), \
                      (SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits \
                       WHERE inhparent IN ('boxes'::regclass, 'entries'::regclass))";

/// Boxes and inboxes in a database. Not shared: one thread owns it.
pub struct PostgresEngine {
    pool: Pool,
    /// There until the end: dropped in its own way.
    runtime: Option<Runtime>,
    schema: String,
    identity: [u8; 32],
    limits: Limits,
    clock: Clock,
    rng: StdRng,
    /// The schema's life, from the first time that it was reached.
    made: Option<Made>,
    /// Tables are looked after: since the last failure.
    is_ready: bool,
    failure: Option<Failure>,
    totals: Totals,
}

/// Why calls fail now, and until when they do without asking the database.
struct Failure {
    fault: Fault,
    pause: Duration,
    until: Duration,
}

impl PostgresEngine {
    /// An engine for the store with this identity key. Connects to nothing yet: see [`Engine::check`].
    pub fn new(place: &Place, identity: [u8; 32], limits: Limits) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| EngineError::Unavailable(format!("no runtime for the database: {error}")))?;
        Ok(Self {
            pool: session::pool(place)?,
            runtime: Some(runtime),
            schema: place.schema.clone(),
            identity,
            limits,
            clock: Clock::start(),
            rng: generator(),
            made: None,
            is_ready: false,
            failure: None,
            totals: Totals::default(),
        })
    }

    /// Carries out a call within a time: twice if it fails for a reason that the second time may not have, not at all
    /// while the pause after a failure lasts. Every call may be repeated, also one whose commit was not answered.
    fn call<T>(&mut self, within: Duration, work: impl AsyncFn(&Pool) -> Result<T, Fault>) -> Result<T, EngineError> {
        let now = self.clock.monotonic();
        if let Some(failure) = self.failure.as_ref().filter(|failure| now < failure.until) {
            return Err(failure.fault.clone().into());
        }
        let Self { pool, runtime, schema, identity, made, is_ready, .. } = self;
        let within = if *is_ready { within } else { within.max(if made.is_none() { FIRST_MAX } else { SELDOM_MAX }) };
        let once = async || {
            if !*is_ready {
                *made = Some(
                    connected(pool, async |client| schema::prepare(client, schema, identity, made.as_ref()).await)
                        .await?,
                );
                *is_ready = true;
            }
            work(pool).await
        };
        let result = match runtime {
            Some(runtime) => runtime.block_on(attempt(pool, within, once)),
            None => Err(Fault::later("the engine has ended")),
        };
        match result {
            Ok(value) => {
                self.failure = None;
                Ok(value)
            }
            Err(fault) => {
                self.is_ready = false;
                let pause = self.failure.as_ref().map_or(PAUSE_MIN, |failure| (failure.pause * 2).min(PAUSE_MAX));
                let until = self.clock.monotonic() + pause.mul_f64(self.rng.random_range(0.5..1.0));
                self.failure = Some(Failure { fault: fault.clone(), pause, until });
                Err(fault.into())
            }
        }
    }
}

impl Drop for PostgresEngine {
    fn drop(&mut self) {
        // also where another runtime runs, in which this one must not wait
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Tries once, and once more if that may help; gives up every connection after a failure.
async fn attempt<T>(
    pool: &Pool,
    within: Duration,
    mut once: impl AsyncFnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let both = async {
        match once().await {
            Err(Fault { kind: FaultKind::Again, .. }) => {
                // the other connections of a server that went away are as dead as this one
                let _ = pool.retain(|_, _| false);
                once().await
            }
            result => result,
        }
    };
    let result = timeout(within, both)
        .await
        .unwrap_or_else(|_| Err(Fault::later(format!("the database does not answer within {within:?}"))));
    if result.is_err() {
        let _ = pool.retain(|_, _| false);
        // what drives a connection runs on this thread only: let it close what was given up, and with it the transaction
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    result
}

/// Works on one connection, which is given up unless all went well.
pub async fn connected<T>(pool: &Pool, work: impl AsyncFnOnce(&Object) -> Result<T, Fault>) -> Result<T, Fault> {
    let client = pool.get().await?;
    let result = work(&client).await;
    if result.is_err() {
        session::discard(client);
    }
    result
}

/// Looks boxes up on one connection.
async fn get(pool: Pool, ids: Vec<BoxId>) -> Result<BTreeMap<BoxId, BoxBody>, Fault> {
    connected(&pool, async |client| {
        let names: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let statement = client.prepare_cached(GET).await?;
        let rows = client.query(&statement, &[&names]).await?;
        rows.iter().map(|row| Ok((batch::id(row.try_get(0)?)?, body(row.try_get(1)?)?))).collect()
    })
    .await
}

/// Looks boxes up on as many connections as are worth it.
async fn get_all(pool: &Pool, ids: &[BoxId], connections: usize) -> Result<BTreeMap<BoxId, BoxBody>, Fault> {
    let chunk = ids.len().div_ceil(connections.max(1)).max(CHUNK);
    if ids.len() <= chunk {
        return get(pool.clone(), ids.to_vec()).await;
    }
    let mut looking = JoinSet::new();
    for ids in ids.chunks(chunk) {
        looking.spawn(get(pool.clone(), ids.to_vec()));
    }
    let mut found = BTreeMap::new();
    while let Some(result) = looking.join_next().await {
        found.extend(result.map_err(|_| Fault::later("a look-up was cut off"))??);
    }
    Ok(found)
}

async fn read_all(client: &Object, wanted: &[(BoxId, u64)]) -> Result<Vec<Option<Entry>>, Fault> {
    let inboxes: Vec<&[u8]> = wanted.iter().map(|(inbox, _)| inbox.as_bytes().as_slice()).collect();
    // no number is above the largest that the database holds
    let after: Vec<i64> = wanted.iter().map(|(_, after)| i64::try_from(*after).unwrap_or(i64::MAX)).collect();
    let statement = client.prepare_cached(READ).await?;
    let mut entries = vec![None; wanted.len()];
    for row in client.query(&statement, &[&inboxes, &after]).await? {
        let place = usize::try_from(row.try_get::<_, i64>(0)?).ok().and_then(|place| place.checked_sub(1));
        let number = u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0);
        if let Some(entry) = place.and_then(|place| entries.get_mut(place)) {
            *entry = Some(Entry { number, body: body(row.try_get(2)?)? });
        }
    }
    Ok(entries)
}

/// Drops what is over. Looks first, because there is something to drop only once a bucket.
async fn expire(client: &Object, now: UnixMillis, retention: Duration) -> Result<usize, Fault> {
    let over = async || -> Result<Vec<Shelf>, Fault> {
        let statement = client.prepare_cached(BUCKETS).await?;
        let mut shelves = shelves(&client.query(&statement, &[]).await?)?;
        shelves.retain(|shelf| shelf.bucket.is_over(now, retention));
        Ok(shelves)
    };
    if over().await?.is_empty() {
        return Ok(0);
    }
    client.batch_execute(schema::BEGIN).await?;
    let shelves = over().await?;
    schema::drop_buckets(client, &shelves).await?;
    client.batch_execute("COMMIT").await?;
    Ok(shelves.len())
}

async fn totals(client: &Object) -> Result<Totals, Fault> {
    let statement = client.prepare_cached(TOTALS).await?;
    let row = client.query_one(&statement, &[]).await?;
    let number = |column| -> Result<u64, Fault> { Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0)) };
    Ok(Totals { records: number(0)?, bytes: number(1)? })
}

impl Engine for PostgresEngine {
    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    fn write(&mut self, now: UnixMillis, writes: &[Write]) -> Result<Vec<Written>, EngineError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let limits = self.limits;
        self.call(CALL_MAX, async |pool| {
            connected(pool, async |client| batch::write(client, now, &limits, writes).await).await
        })
    }

    fn get(&mut self, id: &BoxId) -> Result<Option<BoxBody>, EngineError> {
        self.get_all(&[*id]).map(|mut found| found.pop().flatten())
    }

    fn read(&mut self, inbox: &BoxId, after: u64) -> Result<Option<Entry>, EngineError> {
        self.read_all(&[(*inbox, after)]).map(|mut found| found.pop().flatten())
    }

    fn expire(&mut self, now: UnixMillis) -> Result<usize, EngineError> {
        let retention = self.limits.retention;
        self.call(SELDOM_MAX, async |pool| connected(pool, async |client| expire(client, now, retention).await).await)
    }

    fn totals(&mut self) -> Totals {
        let counted = self.call(SELDOM_MAX, async |pool| connected(pool, totals).await);
        if let Ok(totals) = counted {
            self.totals = totals;
        }
        self.totals
    }

    fn check(&mut self) -> Result<(), EngineError> {
        self.call(CONNECT_MAX, async |pool| {
            connected(pool, async |client| Ok(client.batch_execute("SELECT 1 FROM state").await?)).await
        })
    }

    fn get_all(&mut self, ids: &[BoxId]) -> Result<Vec<Option<BoxBody>>, EngineError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let connections = self.pool.status().max_size;
        let found = self.call(CALL_MAX, async |pool| get_all(pool, ids, connections).await)?;
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    fn read_all(&mut self, wanted: &[(BoxId, u64)]) -> Result<Vec<Option<Entry>>, EngineError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.call(CALL_MAX, async |pool| connected(pool, async |client| read_all(client, wanted).await).await)
    }

    fn buckets(&mut self) -> Result<Vec<Bucket>, EngineError> {
        self.call(CALL_MAX, async |pool| connected(pool, moving::buckets).await)
    }

    fn page(&mut self, bucket: Bucket, after: Option<Key>, count_max: usize) -> Result<Vec<Record>, EngineError> {
        self.call(CALL_MAX, async |pool| {
            connected(pool, async |client| moving::page(client, bucket, after, count_max).await).await
        })
    }

    fn find(&mut self, writes: &[Write]) -> Result<Vec<Option<Record>>, EngineError> {
        self.call(CALL_MAX, async |pool| connected(pool, async |client| moving::find(client, writes).await).await)
    }

    fn import(&mut self, records: &[Record]) -> Result<(), EngineError> {
        self.call(SELDOM_MAX, async |pool| connected(pool, async |client| moving::import(client, records).await).await)
    }
}

#[cfg(test)]
mod tests;
