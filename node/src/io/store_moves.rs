//! Moves of the store inside of the running node: asked for over the control socket, noted in the node's directory so that a
//! restart goes on with them, and written into `node.toml` when they are done.

use super::config_file;
use super::host::generator;
use super::mover::{Move, Mover, Record};
use super::store_engine;
use super::store_note::Note;
use crate::config_store::StoreConfig;
use crate::engine::{BoxedEngine, EngineError, Limits};
use crate::engine_mark::MoveId;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::warn;

/// What holds until the store's task says otherwise: nothing may be erased, nothing is written.
const LIMITS: Limits = Limits { retention: Duration::MAX, records_max: 0, append_bits: u8::MAX };

/// Moves of one store.
#[derive(Debug)]
pub struct StoreMoves {
    shared: Arc<Shared>,
    identity: [u8; 32],
    mover: Arc<Mover>,
}

/// What the engine's thread needs of it, too.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// What is in force. Held also while the note is changed.
    store: Mutex<StoreConfig>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, StoreConfig> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the note. One that stays does no harm: a start finds that the move has ended, or that nothing came of it.
    fn forget(&self, id: &MoveId) {
        let _store = self.store();
        if let Err(error) = Note::remove(&self.dir, id) {
            warn!(error = format!("{error:#}"), "the note of a move that has ended stays");
        }
    }
}

/// Writes `store` into `node.toml`; says whether the file says so then, and is on the disk. An error behind which it says so all
/// the same, as after a directory that could not be flushed, is none: what a start reads decides.
pub fn record(dir: &Path, store: &StoreConfig) -> Result<bool> {
    let Err(error) = config_file::record_store(dir, store) else { return Ok(true) };
    let said = config_file::read(dir).map_err(|failure| anyhow::anyhow!("{failure}"));
    if said.is_ok_and(|read| read.config.store == *store) {
        warn!(
            error = format!("{error:#}"),
            "node.toml says where the store is now, but its folder could not be flushed"
        );
        return Ok(false);
    }
    Err(error)
}

/// Ends of one move.
struct Ending {
    shared: Arc<Shared>,
    note: Note,
}

impl Record for Ending {
    fn changed(&mut self) -> Result<()> {
        // in force whatever becomes of the file: its place says so
        self.shared.store().clone_from(&self.note.store);
        if record(&self.shared.dir, &self.note.store)? {
            self.shared.forget(&self.note.id);
        }
        Ok(())
    }

    fn failed(&mut self) {
        self.shared.forget(&self.note.id);
    }
}

impl StoreMoves {
    /// Moves of the store in `dir`, which is kept as `store` says now.
    pub fn new(dir: PathBuf, identity: [u8; 32], store: StoreConfig, mover: Arc<Mover>) -> Self {
        Self { shared: Arc::new(Shared { dir, store: Mutex::new(store) }), identity, mover }
    }

    /// Where boxes are, for the operator.
    pub fn location(&self) -> Vec<String> {
        store_engine::location(&self.now(), &self.shared.dir, &self.identity)
    }

    /// What is in force.
    pub fn now(&self) -> StoreConfig {
        self.shared.store().clone()
    }

    /// What is said of moves.
    pub fn mover(&self) -> &Mover {
        &self.mover
    }

    /// Goes on with a move that the last process did not end. One that cannot go on is over, and the store serves from where
    /// it is; an error only if it has left there.
    pub fn resume(&self) -> Result<()> {
        let dir = &self.shared.dir;
        let note = match Note::read(dir) {
            Ok(Some(note)) => note,
            Ok(None) => return Ok(()),
            Err(error) => {
                warn!(error = format!("{error:#}"), "a move of the store is noted, and not gone on with");
                return Ok(());
            }
        };
        let now = self.now();
        if note.store == now {
            // it had ended
            self.shared.forget(&note.id);
            return Ok(());
        }
        match self.open(&note.store) {
            Ok(target) => {
                self.mover.reserve(&note.id, note.store.engine);
                self.ask(note, target);
                Ok(())
            }
            Err(error) => {
                let mark = store_engine::mark(&now, dir, &self.identity);
                if mark.is_ok_and(|mark| mark.is_some_and(|mark| mark.is_left_by(&note.id))) {
                    return Err(error).with_context(|| {
                        let to = store_engine::describe(&note.store, dir);
                        format!("the store has moved, and the place where it is now does not open: {to}")
                    });
                }
                warn!(%error, "the move of the store that was under way cannot go on; the store stays where it is");
                self.mover.reserve(&note.id, note.store.engine);
                self.shared.forget(&note.id);
                self.mover.failed(&note.id, &error.to_string());
                Ok(())
            }
        }
    }

    /// Begins a move. May block: the new place is opened, and has to answer.
    pub fn begin(&self, to: StoreConfig) -> Result<()> {
        to.check().map_err(|(key, problem)| anyhow::anyhow!("{key}: {problem}"))?;
        ensure!(to != self.now(), "the store is kept there already");
        let note = Note { id: MoveId::draw(&mut generator()), store: to };
        ensure!(self.mover.reserve(&note.id, note.store.engine), "the store is moving already");
        self.begin_reserved(&note).inspect_err(|error| {
            self.mover.failed(&note.id, &format!("{error:#}"));
        })
    }

    fn begin_reserved(&self, note: &Note) -> Result<()> {
        // what cannot be reached now is told at once, not noted for the next start
        let mut target = self.open(&note.store)?;
        target.check()?;
        {
            let _store = self.shared.store();
            note.write(&self.shared.dir)?;
        }
        if !self.ask(note.clone(), target) {
            self.shared.forget(&note.id);
            bail!("the move was called off");
        }
        Ok(())
    }

    /// Calls a move off.
    pub fn cancel(&self) -> Result<()> {
        let id = self.mover.cancel()?;
        let _store = self.shared.store();
        // a note that stays would be gone on with by the next start
        Note::remove(&self.shared.dir, &id).context("the move is called off, but the next start would go on with it")
    }

    fn open(&self, to: &StoreConfig) -> Result<BoxedEngine, EngineError> {
        store_engine::open_marked(to, &self.shared.dir, &self.identity, LIMITS)
    }

    fn ask(&self, note: Note, target: BoxedEngine) -> bool {
        let to = note.store.engine;
        let place = store_engine::place(&note.store, &self.shared.dir, &self.identity);
        let id = note.id.clone();
        let record = Box::new(Ending { shared: Arc::clone(&self.shared), note });
        self.mover.ask(Move { id, target, to, place, record })
    }
}

#[cfg(test)]
mod tests;
