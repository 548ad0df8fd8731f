//! The second storage engine: a PostgreSQL database, for operators who outgrow one machine.
//!
//! Each store has a schema of its own, so many stores share a cluster. A bucket of arrival time is one partition of each
//! table; what is over is dropped with its files. A batch is one transaction ([`batch`]). The engine's thread is
//! synchronous: it drives a runtime of its own, which runs only while a call waits for the database.
//!
//! A database that is down, or slow, or starting is no reason to stop: calls fail, nothing is acknowledged, and after a
//! pause that grows to 5 s the next one tries anew. Every call has a deadline, so that the queue before it is worked off,
//! with errors if need be: replicas answer after `answer_ms` and forget what comes later (decision 0002).

use super::engine_postgres_batch as batch;
use super::engine_postgres_lookup::{get_all, read_all};
use super::engine_postgres_moving as moving;
use super::engine_postgres_schema::{self as schema, Made};
use super::engine_postgres_session::{self as session, CONNECT_MAX, Fault, FaultKind, Place};
use super::engine_postgres_upkeep as upkeep;
use super::host::{Clock, generator};
use crate::engine::{Bucket, Engine, EngineError, Entry, Key, Limits, Record, Totals, Write, Written};
use crate::engine_mark::Mark;
use deadpool_postgres::{Object, Pool};
use rand::RngExt as _;
use rand::rngs::StdRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::time::Duration;
use tokio::runtime::Runtime;
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
            None => Err(ended()),
        };
        match result {
            Ok(value) => {
                self.failure = None;
                Ok(value)
            }
            Err(fault) => Err(self.fail(fault)),
        }
    }

    /// From now on calls fail, for a pause.
    fn fail(&mut self, fault: Fault) -> EngineError {
        self.is_ready = false;
        let pause = self.failure.as_ref().map_or(PAUSE_MIN, |failure| (failure.pause * 2).min(PAUSE_MAX));
        let until = self.clock.monotonic() + pause.mul_f64(self.rng.random_range(0.5..1.0));
        self.failure = Some(Failure { fault: fault.clone(), pause, until });
        fault.into()
    }

    /// Carries out a piece of upkeep on one connection. It is not done while calls fail, and what it fails with is its own: calls
    /// go on. Only a database that is silent is so for everybody.
    fn aside<T>(&mut self, work: impl AsyncFn(&Object) -> Result<T, Fault>) -> Result<T, EngineError> {
        if !self.is_ready {
            self.check()?;
        }
        let Self { pool, runtime, .. } = self;
        let Some(runtime) = runtime else { return Err(ended().into()) };
        let done = runtime.block_on(async {
            let once = async || connected(pool, async |client| work(client).await).await;
            let done = timeout(SELDOM_MAX, twice(pool, once)).await;
            match &done {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => settle().await,
                // its connection went back with a transaction in it
                Err(_) => {
                    let _ = pool.retain(|_, _| false);
                    settle().await;
                }
            }
            done
        });
        match done {
            Ok(done) => Ok(done?),
            Err(_) => Err(self.fail(silent(SELDOM_MAX))),
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
async fn attempt<T>(pool: &Pool, within: Duration, once: impl AsyncFnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let result = timeout(within, twice(pool, once)).await.unwrap_or_else(|_| Err(silent(within)));
    if result.is_err() {
        let _ = pool.retain(|_, _| false);
        settle().await;
    }
    result
}

async fn twice<T>(pool: &Pool, mut once: impl AsyncFnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    match once().await {
        Err(Fault { kind: FaultKind::Again, .. }) => {
            // the other connections of a server that went away are as dead as this one
            let _ = pool.retain(|_, _| false);
            once().await
        }
        result => result,
    }
}

/// What drives a connection runs on this thread only: lets it close what was given up, and with it the transaction.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn ended() -> Fault {
    Fault::later("the engine has ended")
}

fn silent(within: Duration) -> Fault {
    Fault::later(format!("the database does not answer within {within:?}"))
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
        if let Err(error) = self.aside(upkeep::make_ahead) {
            // a bucket that begins without makes its own
            tracing::debug!(%error, "partitions ahead");
        }
        self.aside(async |client| upkeep::expire(client, now, retention).await)
    }

    fn totals(&mut self) -> Totals {
        if let Ok(totals) = self.aside(upkeep::totals) {
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

    fn place(&mut self) -> Result<String, EngineError> {
        // reached: by then it is known which it is
        self.check()?;
        self.made.as_ref().map(|made| format!("database {made}")).ok_or_else(|| ended().into())
    }

    fn mark(&mut self) -> Result<Option<Mark>, EngineError> {
        self.call(CALL_MAX, async |pool| connected(pool, moving::mark).await)
    }

    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), EngineError> {
        self.call(SELDOM_MAX, async |pool| connected(pool, async |client| moving::set_mark(client, mark).await).await)
    }

    fn wipe(&mut self) -> Result<(), EngineError> {
        self.call(SELDOM_MAX, async |pool| connected(pool, upkeep::wipe).await)
    }
}

#[cfg(test)]
mod tests;
