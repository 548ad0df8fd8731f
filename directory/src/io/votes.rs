//! The write-ahead log of the agreement: one file, the height under way. What it means is the agreement's
//! ([`crate::agreement`]); this room keeps the bytes and has them on the disk before anybody hears of them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::failure::{Failure, Kind};
use super::files;

/// Largest log: a height that goes through 13 rounds of 19 MiB proposals, or 128 of usual ones, fills 256 MiB. Beyond it nothing is signed any
/// more, until a document of this height is certified by others.
const LOG_MAX: u64 = 256 * 1024 * 1024;

/// The open log.
#[derive(Debug)]
pub struct VoteLog {
    path: PathBuf,
    file: File,
    length: u64,
}

impl VoteLog {
    /// Opens the log in `path`. Also returns what it holds, or `None` if there is no file: then what was signed is not
    /// known.
    ///
    /// # Errors
    /// The file cannot be read, or is larger than a log can be.
    pub fn open(path: &Path) -> Result<Option<(Self, Vec<u8>)>, Failure> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file("opened", path, &error)),
        };
        let mut bytes = Vec::new();
        let mut read = || {
            let length = (&mut file).take(LOG_MAX + 1).read_to_end(&mut bytes)? as u64;
            if length > LOG_MAX { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(length) }
        };
        let length = read().map_err(|error: std::io::Error| Failure::file("read", path, &error))?;
        Ok(Some((Self { path: path.to_owned(), file, length }, bytes)))
    }

    /// A log that was written elsewhere: what this authority signed is in another one, or nowhere.
    #[must_use]
    pub fn foreign(path: &Path) -> Failure {
        Failure::new(
            Kind::Configuration,
            format!(
                "{} is of another network or another authority: files of two directories are mixed here",
                path.display()
            ),
            "put back the directory's own files. If its own votes.log is gone, remove this one: the authority then watches \
             until there is a document that it cannot have voted on",
        )
    }

    /// Begins an empty log, durably, in the place of the one before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        files::replace(path, &[], files::SECRET, true)?;
        let open = || OpenOptions::new().read(true).write(true).mode(files::SECRET).open(path);
        let file = open().map_err(|error| Failure::file("opened", path, &error))?;
        Ok(Self { path: path.to_owned(), file, length: 0 })
    }

    /// Cuts off a torn end: what lies behind `length` was never acted upon.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn cut(&mut self, length: u64) -> Result<(), Failure> {
        let cut = || {
            self.file.set_len(length)?;
            self.file.sync_data()
        };
        cut().map_err(|error| Failure::file("cut", &self.path, &error))?;
        self.length = length;
        Ok(())
    }

    /// Appends an entry and returns when the disk has it. After an error the file ends where it ended before, or the
    /// next entry is refused as well: a hole is never written over.
    ///
    /// Returns whether there was room: a full log takes nothing more, and nothing that depends on the entry may leave.
    ///
    /// # Errors
    /// The disk does not take it: the same.
    pub fn append(&mut self, entry: &[u8]) -> Result<bool, Failure> {
        let end = self.length.saturating_add(entry.len() as u64);
        if end > LOG_MAX {
            return Ok(false);
        }
        let mut write = || {
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(entry)?;
            self.file.sync_data()
        };
        match write() {
            Ok(()) => {
                self.length = end;
                Ok(true)
            }
            Err(error) => {
                if self.file.set_len(self.length).is_err() {
                    self.length = LOG_MAX;
                }
                Err(Failure::file("written", &self.path, &error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_there_after_a_restart_and_a_torn_end_is_cut() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("votes.log");
        assert!(VoteLog::open(&path).expect("readable").is_none());
        let mut log = VoteLog::begin(&path).expect("written");
        assert_eq!(log.append(b"one"), Ok(true));
        assert_eq!(log.append(b"two"), Ok(true));
        log.length = LOG_MAX - 1;
        assert_eq!(log.append(b"xx"), Ok(false), "full");
        drop(log);
        let (mut log, bytes) = VoteLog::open(&path).expect("readable").expect("there");
        assert_eq!(bytes, b"onetwo");
        log.cut(3).expect("cut");
        log.append(b"drei").expect("written");
        let (_, bytes) = VoteLog::open(&path).expect("readable").expect("there");
        assert_eq!(bytes, b"onedrei");
        VoteLog::begin(&path).expect("written");
        assert_eq!(VoteLog::open(&path).expect("readable").map(|(_, bytes)| bytes), Some(Vec::new()));
    }
}
