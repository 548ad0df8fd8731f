//! Opening the engine that `node.toml` names.

use super::disk::Folder;
use super::engine_postgres::PostgresEngine;
use super::engine_postgres_session::Place;
use super::engine_redb::RedbEngine;
use super::engine_redb_moving;
use super::files;
use crate::config_store::{EngineKind, PostgresConfig, StoreConfig};
use crate::engine::{BoxedEngine, Engine as _, EngineError, Limits};
use crate::engine_mark::Mark;
use std::path::Path;
use std::time::Duration;

/// Of an engine that is only looked at.
const LIMITS: Limits = Limits { retention: Duration::MAX, records_max: 0, append_bits: u8::MAX };

/// Opens the engine of the store with this identity key. A database that does not answer now is no reason not to start:
/// nothing is acknowledged until it does. One that must not be used is; so is a place that the store has left.
pub fn open(store: &StoreConfig, dir: &Path, identity: &[u8; 32], limits: Limits) -> Result<BoxedEngine, EngineError> {
    let mut engine = open_marked(store, dir, identity, limits)?;
    match engine.mark() {
        Ok(None) => Ok(engine),
        Ok(Some(mark)) => Err(EngineError::Refused(mark.refusal())),
        // whoever seats it asks again before it is used
        Err(EngineError::Unavailable(_)) => Ok(engine),
        Err(error @ (EngineError::Damaged { .. } | EngineError::InUse | EngineError::Refused(_))) => Err(error),
    }
}

/// Opens a place whatever mark it bears: the goal of a move, or what a move that is noted may have left.
pub fn open_marked(
    store: &StoreConfig,
    dir: &Path,
    identity: &[u8; 32],
    limits: Limits,
) -> Result<BoxedEngine, EngineError> {
    match (store.engine, &store.postgres) {
        (EngineKind::Redb, _) => {
            let path = store.path(dir);
            files::private_dir(&path).map_err(|error| EngineError::Unavailable(format!("{error:#}")))?;
            Ok(Box::new(RedbEngine::open(Box::new(Folder::new(path)), limits)?))
        }
        (EngineKind::Postgres, Some(postgres)) => {
            let place = Place::of(postgres, dir, identity)?;
            let mut engine = PostgresEngine::new(&place, *identity, limits)?;
            match engine.check() {
                // the engine's thread says so, and when it has changed
                Ok(()) | Err(EngineError::Unavailable(_)) => Ok(Box::new(engine)),
                Err(error @ (EngineError::Damaged { .. } | EngineError::InUse | EngineError::Refused(_))) => Err(error),
            }
        }
        (EngineKind::Postgres, None) => Err(EngineError::Refused("store.postgres is missing in node.toml".to_owned())),
    }
}

/// The mark of a place, without opening it for anything else.
pub fn mark(store: &StoreConfig, dir: &Path, identity: &[u8; 32]) -> Result<Option<Mark>, EngineError> {
    match store.engine {
        EngineKind::Redb => engine_redb_moving::mark(&Folder::new(store.path(dir))),
        EngineKind::Postgres => open_marked(store, dir, identity, LIMITS)?.mark(),
    }
}

/// A place in words, for its mark. Neither host nor user: a mark outlives both, and others may read it.
pub fn place(store: &StoreConfig, dir: &Path, identity: &[u8; 32]) -> String {
    match (store.engine, &store.postgres) {
        (EngineKind::Postgres, Some(postgres)) => format!("postgres, schema {}", postgres.schema_of(identity)),
        (kind, _) => format!("{kind}, folder {}", store.path(dir).display()),
    }
}

/// Says which store could not be opened.
pub fn describe(store: &StoreConfig, dir: &Path) -> String {
    match store.engine {
        EngineKind::Redb => format!("cannot open the store in {}", store.path(dir).display()),
        EngineKind::Postgres => "cannot open the store in its database".to_owned(),
    }
}

/// Where boxes are, for the operator: also those that a move has left behind, which nobody erases but the operator.
pub fn location(store: &StoreConfig, dir: &Path, identity: &[u8; 32]) -> Vec<String> {
    let files = store.path(dir).display().to_string();
    let schema =
        |postgres: &PostgresConfig| format!("schema {} of the database in node.toml", postgres.schema_of(identity));
    let mut places = Vec::new();
    match (store.engine, &store.postgres) {
        (EngineKind::Redb, postgres) => {
            places.push(files);
            if let Some(postgres) = postgres {
                places.push(format!("{}, if the store has left it and it was not dropped", schema(postgres)));
            }
        }
        (EngineKind::Postgres, postgres) => {
            if let Some(postgres) = postgres {
                places.push(schema(postgres));
                places.push("the write-ahead log of that server, until it is overwritten, and copies of it".to_owned());
            }
            let has_files = std::fs::read_dir(store.path(dir)).is_ok_and(|mut entries| entries.next().is_some());
            if has_files {
                places.push(format!("{files}: from before the store moved; not erased until you remove it"));
            }
        }
    }
    places
}
