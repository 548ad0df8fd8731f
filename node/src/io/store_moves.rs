//! A move of the store inside of the running node: asked for over the control socket, noted in the node's directory so that a
//! restart goes on with it, and written into `node.toml` when it is done.

use super::config_file;
use super::files;
use super::mover::{Move, Mover, Stand};
use super::store_engine;
use crate::config_store::StoreConfig;
use crate::engine::{EngineError, Limits};
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Holds the `[store]` table that a move under way leads to.
const NOTE: &str = "store-move.toml";

/// What holds until the store's task says otherwise: nothing may be erased, nothing is written.
const LIMITS: Limits = Limits { retention: Duration::MAX, records_max: 0, append_bits: u8::MAX };

/// Moves of one store.
#[derive(Debug)]
pub struct StoreMoves {
    dir: PathBuf,
    identity: [u8; 32],
    /// What is in force.
    store: Arc<Mutex<StoreConfig>>,
    mover: Arc<Mover>,
}

fn note(dir: &Path) -> PathBuf {
    dir.join(NOTE)
}

/// Where a move that was cut off leads to.
pub fn noted(dir: &Path) -> Result<Option<StoreConfig>> {
    let path = note(dir);
    let Some(bytes) = files::read_optional(&path)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", path.display()))?;
    toml::from_str(text).map(Some).with_context(|| format!("{} cannot be understood", path.display()))
}

/// Notes where a move leads to.
pub fn write_note(dir: &Path, to: &StoreConfig) -> Result<()> {
    files::write_private(&note(dir), toml::to_string(to)?.as_bytes())
}

/// Removes the note of a move that has ended.
pub fn remove_note(dir: &Path) -> Result<()> {
    match std::fs::remove_file(note(dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("removing store-move.toml"),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl StoreMoves {
    /// Moves of the store in `dir`, which is kept as `store` says now.
    pub fn new(dir: PathBuf, identity: [u8; 32], store: StoreConfig, mover: Arc<Mover>) -> Self {
        Self { dir, identity, store: Arc::new(Mutex::new(store)), mover }
    }

    /// Where boxes are, for the operator.
    pub fn location(&self) -> Vec<String> {
        store_engine::location(&self.now(), &self.dir, &self.identity)
    }

    /// What is in force.
    pub fn now(&self) -> StoreConfig {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is said of moves.
    pub fn mover(&self) -> &Mover {
        &self.mover
    }

    /// Goes on with a move that the last process did not end.
    pub fn resume(&self) -> Result<()> {
        let Some(to) = noted(&self.dir)? else { return Ok(()) };
        if to == self.now() {
            // it had ended
            return remove_note(&self.dir);
        }
        self.ask(to)
    }

    /// Begins a move. May block: the new place is opened, and has to answer.
    pub fn begin(&self, to: StoreConfig) -> Result<()> {
        to.check().map_err(|(key, problem)| anyhow::anyhow!("{key}: {problem}"))?;
        ensure!(to != self.now(), "the store is kept there already");
        let under_way = matches!(self.mover.progress().state, Stand::Copying | Stand::Waiting);
        ensure!(!under_way, "the store is moving already");
        // what cannot be reached now is told at once, not noted for the next start
        let mut target = self.open(&to)?;
        target.check()?;
        drop(target);
        write_note(&self.dir, &to)?;
        self.ask(to)
    }

    /// Calls a move off.
    pub fn cancel(&self) -> Result<()> {
        self.mover.cancel();
        remove_note(&self.dir)
    }

    fn open(&self, to: &StoreConfig) -> Result<crate::engine::BoxedEngine, EngineError> {
        store_engine::open(to, &self.dir, &self.identity, LIMITS)
    }

    fn ask(&self, to: StoreConfig) -> Result<()> {
        let target = self.open(&to)?;
        let kind = to.engine;
        let (dir, store) = (self.dir.clone(), Arc::clone(&self.store));
        let finish = Box::new(move || {
            config_file::record_store(&dir, &to)?;
            *store.lock().unwrap_or_else(PoisonError::into_inner) = to;
            remove_note(&dir)
        });
        ensure!(self.mover.ask(Move { target: Some(target), to: kind, finish }), "the store is moving already");
        Ok(())
    }
}
