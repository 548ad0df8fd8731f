//! The files of a store as the redb engine needs them: a small seam, so that tests can put a disk underneath that tears
//! writes, loses what was not flushed and fails on demand.

use super::files;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flat folder of database files. Whatever changes the folder is durable when the call returns.
pub trait Disk: Send {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; an old one of the same name is gone.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>>;
    /// An existing file.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>>;
    /// Gives a file another name. On an error it has one of the two.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. One that is gone already is removed: an earlier call may have failed after that.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Length of a file, in bytes.
    fn size(&self, name: &str) -> io::Result<u64>;
    /// Which folder it is, by whatever path it is reached.
    fn identity(&self) -> io::Result<String>;
    /// A small file's content; `None` if there is none.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a small file, whole or not at all. On an error it has one of the two contents.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
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
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.flush()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.flush()
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn identity(&self) -> io::Result<String> {
        let folder = fs::metadata(&self.path)?;
        Ok(format!("folder {} of device {}", folder.ino(), folder.dev()))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        files::write_private(&self.path.join(name), bytes).map_err(io::Error::other)
    }
}

/// What went wrong with a backend since it was opened.
#[derive(Debug, Default)]
pub struct Troubles {
    any: AtomicBool,
    flush: AtomicBool,
}

impl Troubles {
    /// Whether any call failed: the database on it refuses everything from then on.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Whether a flush failed. After that the kernel may count pages as clean that never reached the disk, so a later
    /// flush that succeeds proves nothing about them: the file is in doubt for good.
    pub fn flush(&self) -> bool {
        self.flush.load(Ordering::SeqCst)
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| self.any.store(true, Ordering::SeqCst))
    }
}

/// A backend that remembers what went wrong.
#[derive(Debug)]
pub struct Watched {
    inner: Box<dyn StorageBackend>,
    troubles: Arc<Troubles>,
}

impl Watched {
    /// Watches `inner`.
    pub fn new(inner: Box<dyn StorageBackend>) -> (Self, Arc<Troubles>) {
        let troubles = Arc::new(Troubles::default());
        (Self { inner, troubles: Arc::clone(&troubles) }, troubles)
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.troubles.note(self.inner.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.troubles.note(self.inner.read(offset, out))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.troubles.note(self.inner.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        let flushed = self.inner.sync_data().inspect_err(|_| self.troubles.flush.store(true, Ordering::SeqCst));
        self.troubles.note(flushed)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.troubles.note(self.inner.write(offset, data))
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
