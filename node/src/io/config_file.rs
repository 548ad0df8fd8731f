//! `node.toml` on the disk. A file of an older version is understood by every command; `run` alone writes it anew, and keeps
//! the old one beside it.

use crate::config::{CONFIG_VERSION, Config, FILE_NAME};
use crate::config_store::StoreConfig;
use crate::config_versions::{Upgraded, upgrade, with_store};
use crate::failure::{Failure, Kind};
use crate::io::files;
use anyhow::{Context as _, Result, anyhow};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Kept files of one version at most: one is the rule; more are those of an operator who went back.
const KEPT_MAX: usize = 100;

/// A file as it was read.
#[derive(Debug)]
pub struct Read {
    /// What it says.
    pub config: Config,
    /// What it should be, if it is of an older version.
    pub upgrade: Option<Upgraded>,
}

fn text(dir: &Path) -> Result<String, Failure> {
    let path = dir.join(FILE_NAME);
    let next = "make a node with `shoal-node init`, or give its directory with --dir";
    let bytes = files::read(&path).map_err(|error| Failure::io(&error, next))?;
    let text = std::str::from_utf8(&bytes);
    text.map(str::to_owned)
        .map_err(|_| Failure::new(Kind::Configuration, format!("{} is not text", path.display()), "restore the file"))
}

/// Reads the file of a node's directory.
pub fn read(dir: &Path) -> Result<Read, Failure> {
    let text = text(dir)?;
    let refused = |note: &str, error: &dyn std::fmt::Display| {
        let message = format!("{}{note}: {error}", dir.join(FILE_NAME).display());
        Failure::new(Kind::Configuration, message, "correct the file, then see `shoal-node check-config`")
    };
    let upgrade = upgrade(&text).map_err(|error| refused("", &error))?;
    let (current, note) = match &upgrade {
        Some(upgraded) => (&upgraded.text, format!(" (as version {CONFIG_VERSION})")),
        None => (&text, String::new()),
    };
    let config = Config::parse(current).map_err(|error| refused(&note, &error))?;
    Ok(Read { config, upgrade })
}

/// Writes the file anew if it is of an older version; says so in one line of the log. The caller holds the directory's lock.
pub fn bring_up_to_date(dir: &Path) -> Result<(), Failure> {
    let Some(upgraded) = read(dir)?.upgrade else { return Ok(()) };
    let retry = "check the node's directory and its owner";
    let replaced = || -> Result<PathBuf> {
        let path = dir.join(FILE_NAME);
        let kept = keep(&path, upgraded.from)?;
        files::write_private(&path, upgraded.text.as_bytes())?;
        Ok(kept)
    };
    let kept = replaced().map_err(|error| Failure::io(&error, retry))?;
    let changes = upgraded.changes.join("; ");
    tracing::info!(from = upgraded.from, to = CONFIG_VERSION, kept = %kept.display(), changes, "node.toml is of this version now");
    Ok(())
}

/// Keeps the file under the name of its version, on the disk when it returns. What is kept already is never overwritten.
fn keep(path: &Path, version: u32) -> Result<PathBuf> {
    let bytes = files::read(path)?;
    for number in 0..KEPT_MAX {
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        let kept = path.with_extension(format!("toml.v{version}{suffix}"));
        let describe = || format!("cannot write {}", kept.display());
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&kept) {
            Ok(mut file) => {
                file.write_all(&bytes).and_then(|()| file.sync_all()).with_context(describe)?;
                let folder = kept.parent().context("has a folder")?;
                File::open(folder).and_then(|folder| folder.sync_all()).with_context(describe)?;
                return Ok(kept);
            }
            // an attempt that was cut off after this, or a file that was put back
            Err(error) if error.kind() == ErrorKind::AlreadyExists && files::read(&kept)? == bytes => return Ok(kept),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(describe),
        }
    }
    Err(anyhow!("{} has been kept {KEPT_MAX} times already", path.display()))
}

/// Records that the store is kept elsewhere from now on. Whole or not at all: the file names one engine at any moment.
pub fn record_store(dir: &Path, store: &StoreConfig) -> Result<()> {
    let path = dir.join(FILE_NAME);
    let text = text(dir).map_err(|failure| anyhow!("{failure}"))?;
    let changed = with_store(&text, store)?;
    let written = Config::parse(&changed)?;
    anyhow::ensure!(written.store == *store, "{} would not say what it should", path.display());
    files::write_private(&path, changed.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ONE: &str = "config_version = 1\nrole = \"store\"\nlisten = \"127.0.0.1:4433\"\naddress = \"127.0.0.1:4433\"\n\
                       metrics = \"127.0.0.1:9464\"\nstore_dir = \"boxes\"\n";

    #[test]
    fn an_old_file_is_understood_and_only_run_rewrites_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, ONE).expect("writes");
        let found = read(dir.path()).expect("understood");
        assert_eq!(found.config.store.dir, Path::new("boxes"));
        assert!(found.upgrade.is_some());
        assert_eq!(fs::read_to_string(&path).expect("reads"), ONE, "reading changes nothing");
        bring_up_to_date(dir.path()).expect("rewritten");
        assert_eq!(fs::read_to_string(dir.path().join("node.toml.v1")).expect("kept"), ONE);
        let found_now = read(dir.path()).expect("understood");
        assert!(found_now.upgrade.is_none());
        assert_eq!(found_now.config, found.config);
        bring_up_to_date(dir.path()).expect("nothing to do");
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 2);
    }

    #[test]
    fn a_kept_file_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let second = ONE.replace("boxes", "other");
        for text in [ONE, ONE, &second] {
            fs::write(&path, text).expect("writes");
            bring_up_to_date(dir.path()).expect("rewritten");
        }
        assert_eq!(fs::read_to_string(dir.path().join("node.toml.v1")).expect("kept"), ONE);
        assert_eq!(fs::read_to_string(dir.path().join("node.toml.v1.1")).expect("kept"), second);
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 3);
    }

    #[test]
    fn a_newer_file_is_refused_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let newer = ONE.replace("config_version = 1", "config_version = 9");
        fs::write(dir.path().join(FILE_NAME), &newer).expect("writes");
        let failure = read(dir.path()).expect_err("refused");
        assert_eq!(failure.kind, Kind::Configuration);
        assert!(failure.message.contains("newer"), "{failure}");
        assert!(bring_up_to_date(dir.path()).is_err());
        assert_eq!(fs::read_to_string(dir.path().join(FILE_NAME)).expect("reads"), newer);
    }

    #[test]
    fn another_engine_is_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE_NAME), ONE).expect("writes");
        bring_up_to_date(dir.path()).expect("rewritten");
        let store = StoreConfig { records: 77, ..read(dir.path()).expect("understood").config.store };
        record_store(dir.path(), &store).expect("recorded");
        assert_eq!(read(dir.path()).expect("understood").config.store, store);
    }
}
