//! Folders and files that only the profile's owner may use, written whole or not at all.

use crate::mail::MailError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Says of which path an error is.
pub(crate) fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> MailError + '_ {
    move |source| MailError::Io { path: path.to_path_buf(), source }
}

/// Makes a folder of mode 0700, or gives that mode to one that is there.
pub(crate) fn private_dir(dir: &Path) -> Result<(), MailError> {
    if dir.is_dir() {
        return fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io_error(dir));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))
}

/// Takes the lock of the profile in `dir`; it is held until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, MailError> {
    let path = dir.join("profile.lock");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MailError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(MailError::Io { path, source }),
    }
}

/// Writes a file of mode 0600 so that it is either whole or not there, also after a crash.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), MailError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part).map_err(io_error(&part))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io_error(&part))?;
    fs::rename(&part, path).map_err(io_error(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes renames in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), MailError> {
    // the parent of a bare name
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(io_error(dir))
}
