//! `shoal-node store migrate`: asks the running node to move its store, or moves it here if the node does not run, and shows
//! how far it is.

use super::config_file;
use super::control::{self, Command};
use super::engine_moving::{Moving, Step};
use super::host::Clock;
use super::mover::{Progress, Stand};
use super::setup;
use super::store_engine;
use super::store_moves::{noted, remove_note, write_note};
use crate::config::Config;
use crate::config_store::{DatabaseUrl, EngineKind, PostgresConfig, StoreConfig};
use crate::engine::{EngineError, Limits};
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
    let config = setup::load_config(dir)?;
    if config.role != Role::Store {
        return Err(usage(format!("{} holds a {}, which keeps no boxes", dir.display(), config.role)));
    }
    let runtime = config.runtime_path(dir);
    let runs = control::ask(&runtime, Command::Moving).await.is_ok();
    if options.cancel {
        return if runs { asked(control::ask(&runtime, Command::Stay).await) } else { called_off(dir) };
    }
    let to = destination(&config.store, options)?;
    if to == config.store {
        return Err(usage(format!("the store is kept there already ({})", to.engine)));
    }
    if runs {
        asked(control::ask_with(&runtime, Command::Move, Some(to.clone())).await)?;
        follow(dir, &runtime, &config, tell).await
    } else {
        alone(dir, &config, &to, tell).await
    }
}

fn called_off(dir: &Path) -> Result<Value, Failure> {
    remove_note(dir).map_err(|error| Failure::io(&error, "check the node's directory and its owner"))?;
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

/// Watches a node that moves its store.
async fn follow(dir: &Path, runtime: &Path, before: &Config, tell: &mut dyn Tell) -> Result<Value, Failure> {
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
            let now = setup::load_config(dir)?.store;
            if now != before.store {
                return Ok(ended(&now.engine.to_string(), &progress));
            }
            if noted(dir).ok().flatten().is_none() {
                return Err(Failure::new(Kind::Temporary, "the move was called off", "run the command again"));
            }
        } else if state == json!(Stand::Failed) {
            let problem = progress.get("problem").and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(Failure::new(
                Kind::Temporary,
                problem,
                "the store stays where it was; see ops/runbooks/store.md",
            ));
        }
        tell.progress(&progress);
    }
}

/// Moves the store of a node that does not run.
async fn alone(dir: &Path, config: &Config, to: &StoreConfig, tell: &mut dyn Tell) -> Result<Value, Failure> {
    let _lock = setup::lock(dir).await?;
    config_file::bring_up_to_date(dir)?;
    let (dir_owned, from, to_owned) = (dir.to_owned(), config.store.clone(), to.clone());
    let identity = *setup::load(dir)?.identity.identity().as_bytes();
    let retry = "see ops/runbooks/store.md; the store stays where it was";
    let failed = move |error: EngineError| match error {
        EngineError::Refused(text) => Failure::new(Kind::Configuration, text, retry),
        error @ (EngineError::Unavailable(_) | EngineError::Damaged { .. } | EngineError::InUse) => {
            Failure::new(Kind::Temporary, error.to_string(), retry)
        }
    };
    write_note(dir, to).map_err(|error| Failure::io(&error, retry))?;
    let (lines, mut said) = tokio::sync::mpsc::channel::<Value>(1);
    let work = tokio::task::spawn_blocking(move || -> Result<Value, Failure> {
        let mut source = store_engine::open(&from, &dir_owned, &identity, LIMITS).map_err(failed)?;
        let mut target = store_engine::open(&to_owned, &dir_owned, &identity, LIMITS).map_err(failed)?;
        target.check().map_err(failed)?;
        let mut moving = Moving::new(target);
        let clock = Clock::start();
        let mut worked = clock.monotonic();
        loop {
            match moving.step(&mut *source) {
                Step::On => worked = clock.monotonic(),
                Step::Waiting(error) if clock.monotonic() > worked + WAIT_MAX => return Err(failed(error)),
                Step::Waiting(_) => std::thread::sleep(Duration::from_millis(100)),
                Step::Failed(problem) => return Err(Failure::new(Kind::Temporary, problem, retry)),
                Step::Complete => break,
            }
            let extent = moving.extent();
            // who looks slower than we copy misses a line
            let _ = lines.try_send(json!({"state": "copying", "to": to_owned.engine.to_string(),
                "buckets_done": extent.buckets_done, "buckets": extent.buckets, "records": extent.records}));
        }
        config_file::record_store(&dir_owned, &to_owned).map_err(|error| Failure::io(&error, retry))?;
        remove_note(&dir_owned).map_err(|error| Failure::io(&error, retry))?;
        let (extent, hash) = (moving.extent(), moving.hash());
        Ok(ended(&to_owned.engine.to_string(), &json!({"records": extent.records, "hash": hash.to_hex().as_str()})))
    });
    let clock = Clock::start();
    let mut next = Duration::ZERO;
    while let Some(line) = said.recv().await {
        if clock.monotonic() >= next {
            tell.progress(&line);
            next = clock.monotonic() + LOOK_EVERY;
        }
    }
    work.await.unwrap_or_else(|_| Err(Failure::new(Kind::Temporary, "the move was cut off", retry)))
}
