//! The files of a store as the redb engine needs them: a small seam, so that tests can put a disk underneath that tears
//! writes, loses what was not flushed and fails on demand.

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flat folder of database files. Whatever changes the folder is durable when the call returns.
pub trait Disk: Send {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; an old one of the same name is gone.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>>;
    /// An existing file, with everything in it flushed: what an earlier process wrote but never flushed is durable
    /// before anyone relies on having found it.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>>;
    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Length of a file, in bytes.
    fn size(&self, name: &str) -> io::Result<u64>;
}

/// A folder of the file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which must exist and be readable by its owner only.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn flush(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // a name that is not UTF-8 is none of ours
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path.join(name))?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        file.sync_all()?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.flush()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        self.flush()
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }
}

/// A backend that remembers whether a flush ever failed. After a failed flush the kernel may count pages as clean that
/// never reached the disk, so a later flush that succeeds proves nothing about them: the file is in doubt for good.
#[derive(Debug)]
pub struct Watched {
    inner: Box<dyn StorageBackend>,
    flush_failed: Arc<AtomicBool>,
}

impl Watched {
    /// Watches `inner`; the flag becomes true at its first failed flush.
    pub fn new(inner: Box<dyn StorageBackend>) -> (Self, Arc<AtomicBool>) {
        let flush_failed = Arc::new(AtomicBool::new(false));
        (Self { inner, flush_failed: Arc::clone(&flush_failed) }, flush_failed)
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data().inspect_err(|_| self.flush_failed.store(true, Ordering::SeqCst))
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
