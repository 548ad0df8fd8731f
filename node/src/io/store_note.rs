//! The note of a move of the store, in the node's directory: where it leads to and which move it is, so that a restart goes on
//! with it, and knows what a place is marked for.

use super::files;
use crate::config_store::StoreConfig;
use crate::engine_mark::MoveId;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file.
const FILE: &str = "store-move.toml";

/// A move under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Which move.
    pub id: MoveId,
    /// The `[store]` table that it leads to.
    pub store: StoreConfig,
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

impl Note {
    /// Of a move that was cut off.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let Some(bytes) = files::read_optional(&path)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", path.display()))?;
        // what its parser says of it may show a password
        let parsed: Result<Self, toml::de::Error> = toml::from_str(text);
        parsed
            .map(Some)
            .map_err(|_| anyhow::anyhow!("{} cannot be understood; remove it, and begin the move anew", path.display()))
    }

    /// Writes it, on the disk when it returns. The caller holds the directory's lock, or is the node.
    pub fn write(&self, dir: &Path) -> Result<()> {
        files::write_private(&path(dir), toml::to_string(self)?.as_bytes())
    }

    /// Removes the note of that move, and of no other.
    pub fn remove(dir: &Path, id: &MoveId) -> Result<()> {
        if Self::read(dir)?.is_none_or(|note| note.id != *id) {
            return Ok(());
        }
        match std::fs::remove_file(path(dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path(dir).display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::host::generator;

    #[test]
    fn a_note_goes_with_its_own_move_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let (id, other) = (MoveId::draw(&mut generator()), MoveId::draw(&mut generator()));
        let note = Note { id: id.clone(), store: StoreConfig::default() };
        assert_eq!(Note::read(dir.path()).expect("reads"), None);
        note.write(dir.path()).expect("writes");
        Note::remove(dir.path(), &other).expect("nothing to do");
        assert_eq!(Note::read(dir.path()).expect("reads"), Some(note));
        Note::remove(dir.path(), &id).expect("removes");
        Note::remove(dir.path(), &id).expect("nothing to do");
        assert_eq!(Note::read(dir.path()).expect("reads"), None);
        std::fs::write(path(dir.path()), "engine = \"redb\"\n").expect("writes");
        let error = Note::read(dir.path()).expect_err("of another time");
        assert!(error.to_string().contains("store-move.toml"), "{error}");
    }
}
