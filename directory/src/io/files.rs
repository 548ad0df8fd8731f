//! Files that are whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::failure::{Failure, Kind};

/// Largest file of our own: a certified document, 1 MiB; an admission list of 2,048 nodes is 400 kB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Mode of files that anybody may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of files with secrets.
pub const SECRET: u32 = 0o600;

/// Creates `dir`, with parents, readable by its owner only.
///
/// # Errors
/// The directory cannot be created.
pub fn create_dir(dir: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| Failure::file("created", dir, &error))
}

/// Replaces `path` by `bytes`: after a crash it holds the old content or the new, nothing else. With `durable`, returns
/// only when the disk has it.
///
/// # Errors
/// The file cannot be written.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<(), Failure> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) if durable => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|error| Failure::file("written", path, &error))
}

/// Reads a whole file of bounded size.
///
/// # Errors
/// The file cannot be read, or is too large to be ours.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut read = || -> std::io::Result<()> {
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE { Err(ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    };
    read().map_err(|error| Failure::file("read", path, &error))?;
    Ok(bytes)
}

/// Reads a whole text file.
///
/// # Errors
/// As [`read`], or the file is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?).map_err(|_| Failure::content(path, &"is not text"))
}

/// Whether others than the owner may read or write `path`.
///
/// # Errors
/// The file cannot be looked at.
pub fn is_exposed(path: &Path) -> Result<bool, Failure> {
    let metadata = fs::metadata(path).map_err(|error| Failure::file("looked at", path, &error))?;
    Ok(metadata.permissions().mode() & 0o077 != 0)
}

/// Locks `path` for this process until the file is dropped; tries for `patience`.
///
/// # Errors
/// Another process holds it, or the file cannot be opened.
pub async fn lock(path: &Path, patience: std::time::Duration) -> Result<File, Failure> {
    const STEP: std::time::Duration = std::time::Duration::from_millis(100);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SECRET)
        .open(path)
        .map_err(|error| Failure::file("opened", path, &error))?;
    let mut waited = std::time::Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(Failure::file("locked", path, &error)),
            Err(fs::TryLockError::WouldBlock) if waited >= patience => {
                return Err(Failure::new(
                    Kind::Temporary,
                    format!("{} is locked: another process runs this authority already", path.display()),
                    "see what it does with shoal-directory status --dir of the same directory; stop it before you start another",
                ));
            }
            Err(fs::TryLockError::WouldBlock) => {
                tokio::time::sleep(STEP).await;
                waited += STEP;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn replacing_keeps_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("authority.key");
        replace(&path, b"one", SECRET, true).expect("written");
        replace(&path, b"two", SECRET, true).expect("written");
        assert_eq!(read(&path), Ok(b"two".to_vec()));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
        assert_eq!(read(&dir.path().join("none")).map_err(|failure| failure.kind), Err(Kind::InputOutput));
    }

    #[tokio::test]
    async fn a_held_lock_is_waited_for_and_then_reported() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let held = lock(&path, Duration::ZERO).await.expect("free");
        let refused = lock(&path, Duration::ZERO).await.expect_err("held");
        assert_eq!(refused.kind, Kind::Temporary);
        let (second, ()) = tokio::join!(lock(&path, Duration::from_secs(5)), async { drop(held) });
        assert!(second.is_ok());
    }
}
