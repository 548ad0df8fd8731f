//! `shoal-ops bench --part store`: both engines of a store side by side, on one disk, in one run. Each is driven as the engine's
//! thread of a store drives it; each write is on the disk before it counts.

use std::{
    path::Path,
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use shoal_node::{
    config_store::{DatabaseUrl, EngineKind, PostgresConfig, StoreConfig},
    engine::{BoxedEngine, Limits, Write, Written},
    io::store_engine,
};
use shoal_protocol::{
    boxes::{BoxBody, BoxId},
    types::UnixMillis,
};

use crate::io::{clock::Stopwatch, postgres::Postgres, progress::Progress};

/// What the thread of a store gathers at most, and for how long.
const BATCH: usize = 256;
/// What a store holds before is put there in larger batches, by the order of the ids, for it is not what is timed: a batch of a
/// database's engine has to be done in a second ...
const FILLING_BATCH: u64 = 65_536;
const FILLING_BATCH_POSTGRES: u64 = 2_048;
/// ... but for the last so many.
const FILLED_IN_TIME: u64 = 100_000;
/// A database that is busy with itself is asked again, as a store's clients do: so often, after so long.
const TRIES: u32 = 60;
const AGAIN: Duration = Duration::from_secs(1);
const GATHER: Duration = Duration::from_millis(2);
/// A moderate load, writes a second: a hundredth of what files take in batches.
const LOAD_PER_S: f64 = 200.0;
/// Writes that are timed under it. The hundred slowest are beyond the 99th percentile by a tenth of that each.
const TIMED: usize = 2_000;
/// Look-ups that are timed, in batches as a busy store has them.
const LOOKED_UP: usize = 20_000;
const LOOK_UP_BATCH: usize = 64;
/// The default retention: 15 buckets.
const RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// When the first box came.
const BEGIN: u64 = 1_700_000_000_000;
const LIMITS: Limits = Limits { retention: RETENTION, records_max: u64::MAX, append_bits: 18 };
const IDENTITY: [u8; 32] = [7; 32];

/// What one engine costs.
#[derive(Debug, Serialize)]
struct EngineFigures {
    boxes: u64,
    /// Boxes acknowledged per second, in batches of 256 that follow one another: the last 100,000.
    acknowledged_per_s: f64,
    /// From arrival to acknowledgement under [`LOAD_PER_S`], gathering included.
    acknowledged_p50_ms: f64,
    acknowledged_p99_ms: f64,
    /// Boxes found per second, in batches of 64, over all 15 buckets.
    found_per_s: f64,
    /// Files or tables with their indices, and their slack.
    bytes_per_box: f64,
    /// What the database's write-ahead log takes beside that.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_bytes: Option<u64>,
    /// From opening to the first answer, after an ordinary end, with a warm page cache.
    start_ms: f64,
    /// The same after kill -9 of the database server, its own recovery included.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_after_kill_ms: Option<f64>,
}

/// Both engines.
#[derive(Debug, Serialize)]
pub(crate) struct StoreFigures {
    load_per_s: f64,
    redb: EngineFigures,
    /// Missing where there is no PostgreSQL.
    postgres: Option<EngineFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The n-th box. Ids are as scattered as real ones.
fn name(n: u64) -> BoxId {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(n).fill(&mut bytes);
    BoxId::from_bytes(bytes)
}

/// Arrival of the n-th of so many boxes: evenly over the retention.
fn arrival(n: u64, boxes: u64) -> UnixMillis {
    let span = RETENTION.as_millis() as u64;
    UnixMillis(BEGIN + (u128::from(n) * u128::from(span) / u128::from(boxes.max(1))) as u64)
}

/// A store under measurement.
struct Place<'a> {
    config: StoreConfig,
    dir: &'a Path,
}

impl Place<'_> {
    fn open(&self) -> anyhow::Result<BoxedEngine> {
        let mut engine = store_engine::open(&self.config, self.dir, &IDENTITY, LIMITS)?;
        engine.check()?;
        Ok(engine)
    }

    /// Opens the store and has it answer.
    fn start(&self) -> anyhow::Result<Duration> {
        let watch = Stopwatch::start();
        let mut engine = self.open()?;
        ensure!(engine.get(&name(0))?.is_some(), "the first box is not found");
        Ok(watch.elapsed())
    }

    fn measure(&self, boxes: u64, progress: Progress) -> anyhow::Result<EngineFigures> {
        let kind = self.config.engine;
        let mut engine = self.open()?;
        let step = progress.step(&format!("{kind}: filling"), boxes);
        let mut rng = StdRng::seed_from_u64(1);
        let mut spent = Duration::ZERO;
        let timed_from = boxes.saturating_sub(FILLED_IN_TIME);
        let filling = match kind {
            EngineKind::Redb => FILLING_BATCH,
            EngineKind::Postgres => FILLING_BATCH_POSTGRES,
        };
        let mut asked_again = 0u32;
        let mut n = 0;
        while n < boxes {
            let end = match n < timed_from {
                true => timed_from.min(n + filling),
                false => boxes.min(n + BATCH as u64),
            };
            let now = arrival(n, boxes);
            let mut ids: Vec<BoxId> = (n..end).map(name).collect();
            if n < timed_from {
                ids.sort_unstable();
            }
            let batch: Vec<Write> =
                ids.into_iter().map(|id| Write::Put { id, body: BoxBody::random(&mut rng) }).collect();
            let watch = Stopwatch::start();
            let mut tries = 0;
            let written = loop {
                match engine.write(now, &batch) {
                    Ok(written) => break written,
                    Err(_) if tries < TRIES => {
                        tries += 1;
                        asked_again += 1;
                        std::thread::sleep(AGAIN);
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            if n >= timed_from {
                spent += watch.elapsed();
            }
            ensure!(written.iter().all(|written| *written == Written::Stored), "a box was refused");
            n = end;
            step.at(usize::try_from(n).unwrap_or(usize::MAX));
        }
        step.done(&match asked_again {
            0 => format!("{boxes} boxes"),
            some => format!("{boxes} boxes, {some} batches asked again"),
        });
        let bytes = engine.totals().bytes;
        let mut times = under_load(&mut engine, boxes)?;
        times.sort_unstable();
        let found_per_s = look_up(&mut engine, boxes)?;
        drop(engine);
        Ok(EngineFigures {
            boxes,
            acknowledged_per_s: ((boxes - timed_from) as f64 / spent.as_secs_f64()).round(),
            acknowledged_p50_ms: percentile(&times, 50)?,
            acknowledged_p99_ms: percentile(&times, 99)?,
            found_per_s,
            bytes_per_box: (bytes as f64 / boxes as f64).round(),
            log_bytes: None,
            start_ms: ms(self.start()?),
            start_after_kill_ms: None,
        })
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

fn percentile(sorted: &[Duration], percent: usize) -> anyhow::Result<f64> {
    sorted.get(sorted.len() * percent / 100).map(|time| ms(*time)).context("nothing was timed")
}

/// Times acknowledgements of writes that come by chance, gathered as a store gathers them.
fn under_load(engine: &mut BoxedEngine, boxes: u64) -> anyhow::Result<Vec<Duration>> {
    let watch = Stopwatch::start();
    let (sender, arrived) = sync_channel::<(Duration, Write)>(1_024);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut rng = StdRng::seed_from_u64(2);
            let mut due = watch.elapsed();
            for n in 0..TIMED as u64 {
                // exponential gaps
                due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / LOAD_PER_S);
                let write = Write::Put { id: name(boxes + n), body: BoxBody::random(&mut rng) };
                std::thread::sleep(due.saturating_sub(watch.elapsed()));
                if sender.send((due, write)).is_err() {
                    return;
                }
            }
        });
        acknowledge(engine, &arrived, watch, arrival(boxes - 1, boxes))
    })
}

fn acknowledge(
    engine: &mut BoxedEngine,
    arrived: &Receiver<(Duration, Write)>,
    watch: Stopwatch,
    now: UnixMillis,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(TIMED);
    while let Ok(first) = arrived.recv() {
        let until = watch.elapsed() + GATHER;
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let Ok(next) = arrived.recv_timeout(until.saturating_sub(watch.elapsed())) else { break };
            batch.push(next);
        }
        let (due, writes): (Vec<Duration>, Vec<Write>) = batch.into_iter().unzip();
        let written = engine.write(now, &writes)?;
        ensure!(written.iter().all(|written| *written == Written::Stored), "a box was refused");
        times.extend(due.into_iter().map(|due| watch.elapsed().saturating_sub(due)));
    }
    Ok(times)
}

fn look_up(engine: &mut BoxedEngine, boxes: u64) -> anyhow::Result<f64> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut spent = Duration::ZERO;
    let mut count = 0;
    while count < LOOKED_UP {
        let ids: Vec<BoxId> = (0..LOOK_UP_BATCH).map(|_| name(rng.random_range(0..boxes))).collect();
        let watch = Stopwatch::start();
        let found = engine.get_all(&ids)?;
        spent += watch.elapsed();
        ensure!(found.iter().all(Option::is_some), "a box is gone");
        count += ids.len();
    }
    Ok((count as f64 / spent.as_secs_f64()).round())
}

/// Bytes of all files in a folder.
fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

fn measure_postgres(mut server: Postgres, dir: &Path, boxes: u64, progress: Progress) -> anyhow::Result<EngineFigures> {
    let postgres = PostgresConfig {
        url: DatabaseUrl(server.url()),
        schema: None,
        password_file: None,
        ca_file: None,
        connections: 4,
    };
    let config = StoreConfig { engine: EngineKind::Postgres, postgres: Some(postgres), ..StoreConfig::default() };
    let place = Place { config, dir };
    let mut figures = place.measure(boxes, progress)?;
    figures.log_bytes = Some(size(&server.data().join("pg_wal"))?);
    server.kill();
    let watch = Stopwatch::start();
    server.run()?;
    place.start()?;
    figures.start_after_kill_ms = Some(ms(watch.elapsed()));
    Ok(figures)
}

/// Measures both engines. They run on a thread of their own, because a database's engine brings its own runtime.
pub(crate) fn measure(boxes: u64, progress: Progress) -> anyhow::Result<StoreFigures> {
    ensure!(boxes >= 1_000, "fewer than 1000 boxes cost nothing worth measuring");
    let both = || -> anyhow::Result<StoreFigures> {
        let dir = tempfile::tempdir()?;
        let redb = Place { config: StoreConfig::default(), dir: dir.path() }.measure(boxes, progress)?;
        // its space is needed
        std::fs::remove_dir_all(StoreConfig::default().path(dir.path()))?;
        let (postgres, problem) = match Postgres::start(&["max_wal_size=1GB"]) {
            // what was measured of the other engine, for an hour perhaps, is not lost with it
            Ok(server) => match measure_postgres(server, dir.path(), boxes, progress) {
                Ok(figures) => (Some(figures), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            },
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(StoreFigures { load_per_s: LOAD_PER_S, redb, postgres, problem })
    };
    std::thread::scope(|scope| scope.spawn(both).join()).map_err(|_| anyhow::anyhow!("the measurement was cut off"))?
}

impl StoreFigures {
    /// For people.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("a store, at {} writes a second where times are given", self.load_per_s);
        for (name, of) in [("redb", Some(&self.redb)), ("postgres", self.postgres.as_ref())] {
            let Some(of) = of else {
                let problem = self.problem.as_deref().unwrap_or_default();
                text.push_str(&format!("\n  {name}: not measured: {problem}"));
                continue;
            };
            text.push_str(&format!(
                "\n  {name}, {} boxes: {:.0} acknowledged a second in batches of {BATCH}, \
                 p50 {:.2} ms, p99 {:.2} ms; {:.0} found a second; {:.0} bytes a box; starts in {:.1} ms",
                of.boxes,
                of.acknowledged_per_s,
                of.acknowledged_p50_ms,
                of.acknowledged_p99_ms,
                of.found_per_s,
                of.bytes_per_box,
                of.start_ms
            ));
            if let Some(after) = of.start_after_kill_ms {
                text.push_str(&format!(", {after:.0} ms after kill -9 of the server"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_are_measured_side_by_side() {
        let figures = measure(1_000, Progress::new()).expect("measured");
        let postgres = figures.postgres.as_ref().expect("a PostgreSQL server; `ops/test ops` installs what it needs");
        for of in [&figures.redb, postgres] {
            assert_eq!(of.boxes, 1_000);
            assert!(of.acknowledged_per_s > 10.0 && of.found_per_s > 10.0, "{of:?}");
            assert!(of.acknowledged_p99_ms >= of.acknowledged_p50_ms && of.acknowledged_p50_ms > 0.0, "{of:?}");
            assert!(of.bytes_per_box > 1_800.0, "{of:?}");
        }
        assert!(figures.describe().lines().count() == 3);
    }
}
