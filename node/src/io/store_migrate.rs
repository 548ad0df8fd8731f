//! `shoal-node store migrate`: asks the running node to move its store, or moves it here if the node does not run, and shows
//! how far it is.

use super::config_file;
use super::control::{self, Command};
use super::engine_transfer::{Transfer, Turn};
use super::host::{Clock, generator};
use super::mover::{Progress, Stand};
use super::runtime_dir;
use super::setup::{self, Setup};
use super::store_engine;
use super::store_moves::record;
use super::store_note::Note;
use crate::config_store::{DatabaseUrl, EngineKind, PostgresConfig, StoreConfig};
use crate::engine::{EngineError, Limits};
use crate::engine_mark::MoveId;
use crate::failure::{Failure, Kind};
use serde_json::{Value, json};
use shoal_protocol::types::Role;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// How often a running node is asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a running node may be silent: it may be restarting, and goes on by itself.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Nothing is written or erased by the command itself.
const LIMITS: Limits = Limits { retention: Duration::MAX, records_max: 0, append_bits: u8::MAX };
/// How long an engine that does not work is waited for when the node does not run.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// What to do about a move that nothing came of.
const STAYS: &str = "see ops/runbooks/store.md; the store stays where it was";
/// What to do about one that is decided and not written down.
const AGAIN: &str =
    "the store has left its old place: run this command again, or start the node, and it goes on from there";

/// Where to.
#[derive(Debug, clap::Args)]
pub struct MigrateOptions {
    /// What boxes are to be kept in: redb or postgres.
    #[arg(long, value_parser = engine, required_unless_present = "cancel")]
    pub to: Option<EngineKind>,
    /// The database, without a password: postgres://USER@/DATABASE?host=/run/postgresql. Default: what `[store.postgres]` in
    /// node.toml says.
    #[arg(long)]
    pub url: Option<String>,
    /// The store's own schema there. Default: named after its identity.
    #[arg(long)]
    pub schema: Option<String>,
    /// File with the password, of mode 0600.
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// PEM file with the certificates that vouch for the server; needed over a network.
    #[arg(long)]
    pub ca_file: Option<PathBuf>,
    /// Connections to the database at most.
    #[arg(long)]
    pub connections: Option<usize>,
    /// Folder of the files of redb. Default: what node.toml says.
    #[arg(long)]
    pub store_dir: Option<PathBuf>,
    /// Call a move off. The store stays where it is; what was copied stays in the new place.
    #[arg(long, conflicts_with = "to")]
    pub cancel: bool,
}

fn engine(text: &str) -> Result<EngineKind, String> {
    match text {
        "redb" => Ok(EngineKind::Redb),
        "postgres" => Ok(EngineKind::Postgres),
        _ => Err("expected redb or postgres".to_owned()),
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message, "see `shoal-node store migrate --help` and ops/runbooks/store.md")
}

/// The `[store]` table that the options lead to.
fn destination(now: &StoreConfig, options: &MigrateOptions) -> Result<StoreConfig, Failure> {
    let MigrateOptions { to, url, schema, password_file, ca_file, connections, store_dir, .. } = options;
    let engine = to.ok_or_else(|| usage("--to is missing"))?;
    let mut store = StoreConfig { engine, ..now.clone() };
    if let Some(store_dir) = store_dir {
        store.dir.clone_from(store_dir);
    }
    if let Some(url) = url {
        let fresh = PostgresConfig {
            url: DatabaseUrl(url.clone()),
            schema: None,
            password_file: None,
            ca_file: None,
            connections: 4,
        };
        let connection = fresh.connection().map_err(|(_, problem)| usage(format!("--url: {problem}")))?;
        if connection.get_password().is_some() {
            return Err(usage(
                "--url holds a password, which everybody on this machine can read there; use --password-file",
            ));
        }
        store.postgres = Some(fresh);
    }
    if let Some(postgres) = &mut store.postgres {
        postgres.schema = schema.clone().or_else(|| postgres.schema.take());
        postgres.password_file = password_file.clone().or_else(|| postgres.password_file.take());
        postgres.ca_file = ca_file.clone().or_else(|| postgres.ca_file.take());
        postgres.connections = connections.unwrap_or(postgres.connections);
    }
    store.check().map_err(|(key, problem)| usage(format!("{key}: {problem}")))?;
    Ok(store)
}

/// Says something while it works: an object a line for programs, a line for people.
pub trait Tell {
    /// How far it is.
    fn progress(&mut self, progress: &Value);
}

/// Moves the store of the node in `dir`; returns what to say at the end.
pub async fn migrate(dir: &Path, options: &MigrateOptions, tell: &mut dyn Tell) -> Result<Value, Failure> {
    let Setup { config, identity, .. } = setup::load(dir)?;
    if config.role != Role::Store {
        return Err(usage(format!("{} holds a {}, which keeps no boxes", dir.display(), config.role)));
    }
    let runtime = config.runtime_path(dir);
    runtime_dir::is_mine(&runtime, &identity.identity())?;
    let runs = control::ask(&runtime, Command::Moving).await.is_ok();
    match (runs, options.cancel) {
        (true, true) => asked(control::ask(&runtime, Command::Stay).await),
        (false, true) => called_off(dir).await,
        (true, false) => {
            let to = destination(&config.store, options)?;
            refuse_same(&config.store, &to)?;
            asked(control::ask_with(&runtime, Command::Move, Some(to.clone())).await)?;
            follow(dir, &runtime, &to, tell).await
        }
        (false, false) => alone(dir, options, tell).await,
    }
}

fn refuse_same(now: &StoreConfig, to: &StoreConfig) -> Result<(), Failure> {
    if now == to { Err(usage(format!("the store is kept there already ({})", to.engine))) } else { Ok(()) }
}

fn refused(error: &anyhow::Error) -> Failure {
    Failure::io(error, "check the node's directory and its owner")
}

/// Calls off the move that a node which does not run has noted.
async fn called_off(dir: &Path) -> Result<Value, Failure> {
    let (_lock, Setup { config, identity, .. }) = setup::load_locked(dir).await?;
    let note = Note::read(dir).map_err(|error| refused(&error))?;
    let Some(note) = note.filter(|note| note.store != config.store) else {
        return Err(usage("the store is not moving"));
    };
    let (dir_owned, store) = (dir.to_owned(), config.store.clone());
    let identity = *identity.identity().as_bytes();
    let mark = tokio::task::spawn_blocking(move || store_engine::mark(&store, &dir_owned, &identity)).await;
    let mark = mark.unwrap_or_else(|_| Err(EngineError::Unavailable("it was cut off".to_owned())));
    match mark {
        Ok(mark) if !mark.as_ref().is_some_and(|mark| mark.is_left_by(&note.id)) => {}
        Ok(_) => {
            let next =
                "start the node, which goes on from where the store is now; to have it where it was, move it back";
            return Err(Failure::new(Kind::Temporary, "it is too late: the store has left its old place", next));
        }
        Err(error) => {
            let message = format!("whether it is too late cannot be seen: {error}");
            return Err(Failure::new(Kind::Temporary, message, "try again when the store's place can be reached"));
        }
    }
    Note::remove(dir, &note.id).map_err(|error| refused(&error))?;
    Ok(json!(Progress::default()))
}

/// The answer of the node, or the failure that it is.
fn asked(answer: anyhow::Result<Value>) -> Result<Value, Failure> {
    let answer = answer
        .map_err(|error| Failure::new(Kind::Unreachable, format!("{error:#}"), "ask again when the node runs"))?;
    let Some(error) = answer.get("error") else { return Ok(answer) };
    let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Err(Failure::new(Kind::Temporary, text("message"), text("next")))
}

fn ended(to: &str, progress: &Value) -> Value {
    let field = |key| progress.get(key).cloned().unwrap_or(Value::Null);
    json!({"migrated": true, "to": to, "records": field("records"), "hash": field("hash")})
}

/// Watches a node that moves its store to `to`.
async fn follow(dir: &Path, runtime: &Path, to: &StoreConfig, tell: &mut dyn Tell) -> Result<Value, Failure> {
    let mut silent = Duration::ZERO;
    loop {
        sleep(LOOK_EVERY).await;
        let progress = match control::ask(runtime, Command::Moving).await {
            Ok(progress) => progress,
            Err(error) if silent > SILENCE_MAX => {
                let next = "start the node: it goes on with the move by itself; then run this command again";
                return Err(Failure::new(Kind::Unreachable, format!("{error:#}"), next));
            }
            Err(_) => {
                silent += LOOK_EVERY;
                continue;
            }
        };
        silent = Duration::ZERO;
        let state = progress.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
        if state == json!(Stand::Done) || state == json!(Stand::Idle) {
            // a node that was restarted at the very end has forgotten the move, but not where the store is
            if setup::load_config(dir)?.store == *to {
                return Ok(ended(&to.engine.to_string(), &progress));
            }
            if Note::read(dir).ok().flatten().is_none() {
                return Err(Failure::new(Kind::Temporary, "the move was called off", "run the command again"));
            }
        } else if state == json!(Stand::Failed) {
            let problem = progress.get("problem").and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(Failure::new(Kind::Temporary, problem, STAYS));
        }
        tell.progress(&progress);
    }
}

/// Moves the store of a node that does not run. What `node.toml` says is read under the lock: a node that was just ending may
/// have moved the store.
async fn alone(dir: &Path, options: &MigrateOptions, tell: &mut dyn Tell) -> Result<Value, Failure> {
    let (_lock, _) = setup::load_locked(dir).await?;
    config_file::bring_up_to_date(dir)?;
    let Setup { config, identity, .. } = setup::load(dir)?;
    let to = destination(&config.store, options)?;
    refuse_same(&config.store, &to)?;
    let noted = Note::read(dir).map_err(|error| Failure::io(&error, STAYS))?;
    let noted = noted.filter(|note| note.store == to);
    let note = noted.unwrap_or_else(|| Note { id: MoveId::draw(&mut generator()), store: to });
    let alone = Alone { dir: dir.to_owned(), from: config.store, note, identity: *identity.identity().as_bytes() };
    let (lines, mut said) = tokio::sync::mpsc::channel::<Value>(1);
    let work = tokio::task::spawn_blocking(move || alone.run(&lines));
    let clock = Clock::start();
    let mut next = Duration::ZERO;
    while let Some(line) = said.recv().await {
        if clock.monotonic() >= next {
            tell.progress(&line);
            next = clock.monotonic() + LOOK_EVERY;
        }
    }
    work.await.unwrap_or_else(|_| Err(Failure::new(Kind::Temporary, "the move was cut off", AGAIN)))
}

/// A move that the command carries out by itself.
struct Alone {
    dir: PathBuf,
    identity: [u8; 32],
    from: StoreConfig,
    note: Note,
}

impl Alone {
    fn run(self, lines: &tokio::sync::mpsc::Sender<Value>) -> Result<Value, Failure> {
        let Self { dir, identity, from, note } = self;
        let open = |store: &StoreConfig| {
            store_engine::open_marked(store, &dir, &identity, LIMITS).map_err(|e| failed(e, STAYS))
        };
        let mut source = open(&from)?;
        let mut target = open(&note.store)?;
        target.check().map_err(|error| failed(error, STAYS))?;
        // a place that was left stays so, and the note of who left it is needed
        match source.mark().map_err(|error| failed(error, STAYS))? {
            Some(mark) if !mark.is_left_by(&note.id) => {
                return Err(Failure::new(Kind::Configuration, mark.refusal(), STAYS));
            }
            Some(_) | None => {}
        }
        note.write(&dir).map_err(|error| Failure::io(&error, STAYS))?;
        let place = store_engine::place(&note.store, &dir, &identity);
        let mut transfer = Transfer::new(note.id.clone(), place, target);
        let to = note.store.engine.to_string();
        let clock = Clock::start();
        let mut worked = clock.monotonic();
        loop {
            match transfer.step(&mut *source, clock.wall(), || true) {
                Turn::On => worked = clock.monotonic(),
                Turn::Waiting(error) if clock.monotonic() > worked + WAIT_MAX => {
                    if transfer.is_decided() {
                        return Err(failed(error, AGAIN));
                    }
                    forget(&dir, &note.id);
                    return Err(failed(error, STAYS));
                }
                Turn::Waiting(_) => std::thread::sleep(Duration::from_millis(100)),
                Turn::Failed(problem) => {
                    forget(&dir, &note.id);
                    return Err(Failure::new(Kind::Temporary, problem, STAYS));
                }
                // nobody but this process can call it off
                Turn::Over | Turn::CalledOff => break,
            }
            let extent = transfer.extent();
            // who looks slower than we copy misses a line
            let _ = lines.try_send(json!({"state": "copying", "to": to,
                "buckets_done": extent.buckets_done, "buckets": extent.buckets, "records": extent.records}));
        }
        if record(&dir, &note.store).map_err(|error| Failure::io(&error, AGAIN))? {
            forget(&dir, &note.id);
        }
        let (extent, hash) = (transfer.extent(), transfer.hash());
        Ok(ended(&to, &json!({"records": extent.records, "hash": hash.to_hex().as_str()})))
    }
}

/// Removes the note of a move that has ended. One that stays does no harm: a start finds that out.
fn forget(dir: &Path, id: &MoveId) {
    if let Err(error) = Note::remove(dir, id) {
        tracing::warn!(error = format!("{error:#}"), "the note of a move that has ended stays");
    }
}

fn failed(error: EngineError, next: &str) -> Failure {
    match error {
        EngineError::Refused(text) => Failure::new(Kind::Configuration, text, next),
        error @ (EngineError::Unavailable(_) | EngineError::Damaged { .. } | EngineError::InUse) => {
            Failure::new(Kind::Temporary, error.to_string(), next)
        }
    }
}

#[cfg(test)]
mod tests;
