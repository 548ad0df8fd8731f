//! Where the daemon's socket is, and how to bind or reach it however long the profile's path is.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Name of the socket inside the profile.
pub const SOCKET_NAME: &str = "control.sock";
/// A Unix socket's path has at most 108 bytes, the final zero included.
const PATH_MAX: usize = 107;

/// The socket of a profile.
#[must_use]
pub fn socket_path(profile: &Path) -> PathBuf {
    profile.join(SOCKET_NAME)
}

/// Runs `with` on a path that is short enough: a long one is taken by way of the open folder.
fn short<T>(profile: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = socket_path(profile);
    if path.as_os_str().as_bytes().len() <= PATH_MAX {
        return with(&path);
    }
    let folder = File::open(profile)?;
    with(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd())))
}

/// Binds the socket, mode 0600, in place of one that a dead daemon left. Only for the process that holds the profile's
/// lock: it alone may know that the old one is dead.
pub(super) fn bind(profile: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket_path(profile)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // until the mode is set the profile's folder (0700) keeps others out
    let listener = short(profile, |path| UnixListener::bind(path))?;
    std::fs::set_permissions(socket_path(profile), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the socket. A Unix socket connects at once or not at all.
pub(super) fn connect(profile: &Path) -> io::Result<UnixStream> {
    let stream = short(profile, |path| std::os::unix::net::UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Who owns the profile: nobody else is served.
pub(super) fn owner(profile: &Path) -> io::Result<u32> {
    Ok(std::fs::metadata(profile)?.uid())
}
