//! What was seen under one key, in memory and in a log on disk that shares the key's fate.
//!
//! A log is a header that names the key, then 16-byte tags. What was not wholly written was never acted upon, so a tail
//! that a crash cut short is cut off; a log that is missing or belongs to another key is an error, and its key must go.

use crate::replay::{Insertion, ReplaySet, TAG_SIZE, Tag};
use anyhow::{Context as _, Result, bail};
use shoal_protocol::types::Hash;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// First bytes of a log; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SHOALRL1";
/// Magic, then which key the log belongs to.
const HEADER_SIZE: usize = 8 + 32;

/// The log could not take the tags; what they stand for must not be acted upon.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing was written; the next attempt may succeed.
    #[error("the replay log could not be written: {0}")]
    Unwritten(std::io::Error),
    /// A part may have been written and could not be taken back: the key has to be destroyed.
    #[error("the replay log is torn")]
    Torn,
}

/// Everything seen under one key. The log has a lock of its own: looking a tag up never waits for the disk.
#[derive(Debug)]
pub struct Memory {
    set: ReplaySet,
    log: Mutex<TagLog>,
}

impl Memory {
    /// An empty memory with a fresh log at `path` for the key named `id`.
    pub fn create(path: &Path, id: &Hash, set: ReplaySet) -> Result<Self> {
        Ok(Self { set, log: Mutex::new(TagLog::create(path, id)?) })
    }

    /// The memory that the log at `path` holds, read into the empty `set`.
    pub fn reopen(path: &Path, id: &Hash, set: ReplaySet) -> Result<Self> {
        let log = TagLog::reopen(path, id, &set)?;
        Ok(Self { set, log: Mutex::new(log) })
    }

    /// Inserts what names a packet or an envelope for good. Atomic: of two that are equal exactly one is fresh.
    pub fn insert(&self, name: &[u8; 32]) -> (Insertion, Tag) {
        let tag = self.set.tag(name);
        (self.set.insert(tag), tag)
    }

    /// Writes the tags of what was fresh to the log, in one write; only then may it be acted upon. May block.
    pub fn log(&self, tags: &[Tag]) -> Result<(), LogError> {
        // an append leaves the log usable wherever it stops
        self.log.lock().unwrap_or_else(PoisonError::into_inner).append(tags)
    }

    /// How much was seen and the share of the capacity it takes.
    pub fn fill(&self) -> (usize, f64) {
        (self.set.len(), self.set.fill_ratio())
    }
}

/// An open log.
#[derive(Debug)]
struct TagLog {
    file: File,
    /// Bytes that are known to be whole.
    length: u64,
    torn: bool,
}

impl TagLog {
    fn create(path: &Path, id: &Hash) -> Result<Self> {
        let describe = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).with_context(describe)?;
        file.set_len(0).with_context(describe)?;
        let mut header = [0; HEADER_SIZE];
        header.iter_mut().zip(MAGIC.iter().chain(id.as_bytes())).for_each(|(to, from)| *to = *from);
        file.write_all(&header).with_context(describe)?;
        Ok(Self { file, length: HEADER_SIZE as u64, torn: false })
    }

    fn reopen(path: &Path, id: &Hash, set: &ReplaySet) -> Result<Self> {
        let describe = || format!("the log {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).open(path).with_context(describe)?;
        let found = file.metadata().with_context(describe)?.len();
        let Some(tags) = found.checked_sub(HEADER_SIZE as u64).map(|bytes| bytes / TAG_SIZE as u64) else {
            bail!("{} has no header", describe());
        };
        let mut header = [0; HEADER_SIZE];
        file.read_exact(&mut header).with_context(describe)?;
        if !header.iter().eq(MAGIC.iter().chain(id.as_bytes())) {
            bail!("{} belongs to another key", describe());
        }
        // 64 KiB at a time
        let mut chunk = vec![0; 4_096 * TAG_SIZE];
        let mut left = tags * TAG_SIZE as u64;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..step).unwrap_or_default();
            file.read_exact(part).with_context(describe)?;
            for tag in part.as_chunks::<TAG_SIZE>().0 {
                if set.insert(Tag::from_bytes(*tag)) == Insertion::Full {
                    bail!("{} is longer than its capacity allows", describe());
                }
            }
            left -= step as u64;
        }
        let length = HEADER_SIZE as u64 + tags * TAG_SIZE as u64;
        if found > length {
            file.set_len(length).with_context(describe)?;
        }
        Ok(Self { file, length, torn: false })
    }

    fn append(&mut self, tags: &[Tag]) -> Result<(), LogError> {
        if self.torn {
            return Err(LogError::Torn);
        }
        let bytes: Vec<u8> = tags.iter().flat_map(|tag| *tag.as_bytes()).collect();
        match self.file.write_all(&bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // take back what a full disk let through, so that the log stays whole
                self.torn = self.file.set_len(self.length).is_err();
                Err(if self.torn { LogError::Torn } else { LogError::Unwritten(error) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use zeroize::Zeroizing;

    const ID: Hash = Hash::from_bytes([7; 32]);

    fn set() -> ReplaySet {
        ReplaySet::new(Zeroizing::new([5; 32]), 100)
    }

    /// A log with two tags.
    fn memory(path: &Path) -> Memory {
        let memory = Memory::create(path, &ID, set()).expect("created");
        for name in [[1; 32], [2; 32]] {
            let (insertion, tag) = memory.insert(&name);
            assert_eq!(insertion, Insertion::Fresh);
            memory.log(&[tag]).expect("written");
        }
        memory
    }

    #[test]
    fn a_tail_cut_short_is_cut_off_and_the_log_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        drop(memory(&path));
        OpenOptions::new().append(true).open(&path).expect("opened").write_all(&[9; 7]).expect("written");

        let back = Memory::reopen(&path, &ID, set()).expect("reopened");
        assert_eq!(back.fill().0, 2);
        let (insertion, third) = back.insert(&[3; 32]);
        assert_eq!(insertion, Insertion::Fresh);
        back.log(&[third]).expect("written");
        drop(back);

        let again = Memory::reopen(&path, &ID, set()).expect("reopened");
        for name in [[1; 32], [2; 32], [3; 32]] {
            assert_eq!(again.insert(&name).0, Insertion::Repeated);
        }
        assert_eq!(fs::metadata(&path).expect("there").len(), (HEADER_SIZE + 3 * TAG_SIZE) as u64);
    }

    #[test]
    fn a_log_without_header_of_another_key_or_too_long_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        assert!(Memory::reopen(&path, &ID, set()).is_err(), "missing");
        drop(memory(&path));
        assert!(Memory::reopen(&path, &Hash::from_bytes([8; 32]), set()).is_err(), "of another key");
        let small = ReplaySet::new(Zeroizing::new([5; 32]), 1);
        assert!(Memory::reopen(&path, &ID, small).is_err(), "longer than the set");
        fs::write(&path, b"SHOALRL1").expect("written");
        assert!(Memory::reopen(&path, &ID, set()).is_err(), "no header");
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so_and_stays_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let broken = memory(&path);
        // opened for reading only: every write fails, as on a full disk
        broken.log.lock().expect("whole").file = File::open(&path).expect("opened");
        assert!(broken.log(&[Tag::from_bytes([1; 16])]).is_err());
        assert_eq!(Memory::reopen(&path, &ID, set()).expect("reopened").fill().0, 2);
    }
}
