//! Making a node's directory out of a bundle: whole, or not at all. It is written and read beside its place first; only what
//! would start gets there.

use crate::bundle::{Bundle, NAMES};
use crate::config::{Config, FILE_NAME};
use crate::config_versions::with_network;
use crate::failure::{Failure, Kind};
use crate::io::files;
use crate::io::setup::{self, Setup};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The network file of a restored node. What `node.toml` called it on the other machine may not exist here.
const NETWORK: &str = "network.toml";

/// A node that has come back.
pub struct Restored {
    /// What it was made of.
    pub bundle: Bundle,
    /// As it was read.
    pub setup: Setup,
    /// What differs from the machine that the backup was made on, and what is still missing; for the operator.
    pub notes: Vec<String>,
}

/// Files that a configuration names and a bundle has no name for: each with its key. They are the database's, and lie where an
/// operator put them.
pub fn lacks(config: &Config) -> Vec<String> {
    let Some(postgres) = &config.store.postgres else { return Vec::new() };
    let named = [("password_file", &postgres.password_file), ("ca_file", &postgres.ca_file)];
    let named = named.into_iter().filter_map(|(key, path)| path.as_ref().map(|path| (key, path)));
    named.map(|(key, path)| format!("store.postgres.{key} ({})", path.display())).collect()
}

/// Makes the directory of a node out of a bundle that came from the file `from`.
pub fn restore(from: &Path, dir: &Path, bundle: Bundle) -> Result<Restored, Failure> {
    let place = "check the place, the disk and the owner, then import again";
    // a packaged directory is there already, and its owner may make nothing beside it
    let is_there = dir.exists();
    let beside = if is_there { dir.join(".restoring") } else { sibling(dir) };
    let made = clear(&beside)
        .map_err(|error| Failure::io(&error, place))
        .and_then(|()| fill(from, &beside, &bundle, place))
        .and_then(|(setup, notes)| {
            let placed = if is_there { move_in(&beside, dir) } else { move_there(&beside, dir) };
            placed.map_err(|error| Failure::io(&error, place))?;
            Ok((setup, notes))
        });
    let (setup, mut notes) = made.inspect_err(|_| {
        // half a node is none, and there is a key in it
        let _ = clear(&beside);
    })?;
    for lacking in lacks(&setup.config) {
        notes.push(format!("no backup holds the file of {lacking}: put it there before the node runs"));
    }
    Ok(Restored { bundle, setup: Setup { dir: dir.to_owned(), ..setup }, notes })
}

fn sibling(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    dir.with_file_name(name)
}

/// Removes what an earlier attempt left. Keys are overwritten first.
fn clear(beside: &Path) -> Result<()> {
    for name in NAMES {
        files::erase(&beside.join(name))?;
    }
    match fs::remove_dir_all(beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", beside.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes everything and reads it as a start does.
fn fill(from: &Path, beside: &Path, bundle: &Bundle, place: &str) -> Result<(Setup, Vec<String>), Failure> {
    let (node_toml, notes) = node_toml(from, bundle)?;
    write_all(beside, bundle, node_toml.as_bytes()).map_err(|error| Failure::io(&error, place))?;
    let setup = setup::load(beside).map_err(|failure| {
        let message = format!("{}: what is in it does not make a node: {failure}", from.display());
        Failure::new(Kind::Configuration, message, "use the shoal-node that made the backup, or one that is newer")
    })?;
    let differs = |what: &str| {
        let message = format!("{}: its {what} is not the one that it says it was made of", from.display());
        Failure::new(Kind::Configuration, message, "take another copy of the backup; this one was put together wrongly")
    };
    if setup.identity.identity() != bundle.identity {
        return Err(differs("identity key"));
    }
    if setup.network.genesis_hash() != bundle.network {
        return Err(differs("network file"));
    }
    if setup.config.role != bundle.role {
        return Err(differs("role"));
    }
    Ok((setup, notes))
}

/// `node.toml` as it is to be here, and what was changed in it.
fn node_toml(from: &Path, bundle: &Bundle) -> Result<(String, Vec<String>), Failure> {
    let refused = |error: &dyn std::fmt::Display| {
        let message = format!("{}: the node.toml in it: {error}", from.display());
        Failure::new(Kind::Configuration, message, "use the shoal-node that made the backup, or one that is newer")
    };
    let text = std::str::from_utf8(bundle.file(FILE_NAME).unwrap_or_default()).map_err(|error| refused(&error))?;
    match with_network(text, NETWORK).map_err(|error| refused(&error))? {
        None => Ok((text.to_owned(), Vec::new())),
        Some((changed, before)) => {
            Ok((changed, vec![format!("node.toml named its network file `{before}`; here it is `{NETWORK}`")]))
        }
    }
}

fn write_all(beside: &Path, bundle: &Bundle, node_toml: &[u8]) -> Result<()> {
    files::private_dir(beside)?;
    for name in NAMES {
        let content = if name == FILE_NAME { Some(node_toml) } else { bundle.file(name) };
        let Some(content) = content else { continue };
        let path = beside.join(name);
        if let Some(parent) = path.parent() {
            files::private_dir(parent)?;
        }
        files::write_private(&path, content)?;
    }
    Ok(())
}

fn move_there(beside: &Path, dir: &Path) -> Result<()> {
    files::rename(beside, dir)
}

/// Into a directory that is there. `node.toml` last: a directory without it is not a node yet.
fn move_in(beside: &Path, dir: &Path) -> Result<()> {
    let others = NAMES.into_iter().filter(|name| *name != FILE_NAME);
    for name in others.chain([FILE_NAME]) {
        let (here, there) = (beside.join(name), dir.join(name));
        if here.exists() {
            if let Some(parent) = there.parent() {
                files::private_dir(parent)?;
            }
            files::rename(&here, &there)?;
        }
    }
    clear(beside)
}
