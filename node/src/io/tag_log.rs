//! What was seen under one key, in memory and in a log on disk that shares the key's fate.
//!
//! A log is a header that names the key, says how many tags follow and what they hash to, then the tags, 16 bytes each.
//! First the tags are appended, then the header is written, then what they stand for is acted upon. So what lies behind
//! the counted tags was never acted upon and is cut off; a log that lacks one of them, or holds another, or is missing, or
//! belongs to another key, is an error, and its key must go.

use crate::portions::{Parties, Party, Portions};
use crate::replay::{Insertion, ReplaySet, TAG_SIZE, Tag};
use anyhow::{Context as _, Result, bail, ensure};
use shoal_protocol::types::Hash;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// First bytes of a log; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SHOALRL2";
/// Magic, then which key the log belongs to.
const NAME_SIZE: usize = 8 + 32;
/// Number of tags (little endian), then the chain over them.
const STATE_SIZE: usize = 8 + 32;
const HEADER_SIZE: usize = NAME_SIZE + STATE_SIZE;

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
    /// Held for the look at a number, never while the set grows.
    portions: Mutex<Portions>,
    log: Mutex<TagLog>,
}

impl Memory {
    /// An empty memory with a fresh log at `path` for the key named `id`.
    pub fn create(path: &Path, id: &Hash, set: ReplaySet) -> Result<Self> {
        Ok(Self::of(set, TagLog::create(path, id)?))
    }

    /// The memory that the log at `path` holds, read into the empty `set`.
    pub fn reopen(path: &Path, id: &Hash, set: ReplaySet) -> Result<Self> {
        let log = TagLog::reopen(path, id, &set)?;
        Ok(Self::of(set, log))
    }

    fn of(set: ReplaySet, log: TagLog) -> Self {
        let portions = Mutex::new(Portions::new(set.capacity(), set.len()));
        Self { set, portions, log: Mutex::new(log) }
    }

    fn portions(&self) -> MutexGuard<'_, Portions> {
        // every operation on the portions is one step
        self.portions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `party` may bring anything more.
    pub fn has_room_for(&self, party: Party, among: Parties) -> bool {
        self.portions().may(party, among).is_some()
    }

    /// As [`Memory::insert`], of what `party` brought, if it has not had its portion.
    pub fn insert_from(&self, party: Party, among: Parties, name: &[u8; 32]) -> (Insertion, Tag) {
        let Some(taken) = self.portions().take(party, among) else {
            return (Insertion::PortionTaken, self.set.tag(name));
        };
        let (insertion, tag) = self.insert(name);
        if insertion != Insertion::Fresh {
            self.portions().give_back(party, taken);
        }
        (insertion, tag)
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

/// Which tags a log holds: how many, and a hash of them all in their order. It begins with the key's name, and each tag is
/// hashed under what the tags before it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    tags: u64,
    chain: [u8; 32],
}

impl State {
    const fn empty(id: &Hash) -> Self {
        Self { tags: 0, chain: *id.as_bytes() }
    }

    fn with(self, tag: Tag) -> Self {
        Self { tags: self.tags + 1, chain: *blake3::keyed_hash(&self.chain, tag.as_bytes()).as_bytes() }
    }

    /// Where the next tag goes.
    const fn end(&self) -> u64 {
        HEADER_SIZE as u64 + self.tags * TAG_SIZE as u64
    }

    fn to_bytes(self) -> [u8; STATE_SIZE] {
        let mut bytes = [0; STATE_SIZE];
        bytes.iter_mut().zip(self.tags.to_le_bytes().iter().chain(&self.chain)).for_each(|(to, from)| *to = *from);
        bytes
    }

    fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Self {
        let (mut tags, mut chain) = ([0; 8], [0; 32]);
        tags.iter_mut().chain(&mut chain).zip(bytes).for_each(|(to, from)| *to = *from);
        Self { tags: u64::from_le_bytes(tags), chain }
    }
}

/// An open log.
#[derive(Debug)]
struct TagLog {
    file: File,
    /// What the header says.
    state: State,
    torn: bool,
}

impl TagLog {
    fn create(path: &Path, id: &Hash) -> Result<Self> {
        let describe = || format!("cannot write {}", path.display());
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.with_context(describe)?;
        let state = State::empty(id);
        let header = [&MAGIC[..], id.as_bytes(), &state.to_bytes()].concat();
        file.write_all_at(&header, 0).with_context(describe)?;
        Ok(Self { file, state, torn: false })
    }

    fn reopen(path: &Path, id: &Hash, set: &ReplaySet) -> Result<Self> {
        let describe = || format!("the log {}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path).with_context(describe)?;
        let mut reader = BufReader::with_capacity(4_096 * TAG_SIZE, &file);
        let (mut name, mut counted) = ([0; NAME_SIZE], [0; STATE_SIZE]);
        reader.read_exact(&mut name).and_then(|()| reader.read_exact(&mut counted)).with_context(describe)?;
        if !name.iter().eq(MAGIC.iter().chain(id.as_bytes())) {
            bail!("{} belongs to another key", describe());
        }
        let counted = State::from_bytes(&counted);
        let mut state = State::empty(id);
        while state.tags < counted.tags {
            let mut tag = [0; TAG_SIZE];
            reader.read_exact(&mut tag).with_context(|| format!("{} lacks its end", describe()))?;
            let tag = Tag::from_bytes(tag);
            state = state.with(tag);
            if set.insert(tag) == Insertion::Full {
                bail!("{} is longer than its capacity allows", describe());
            }
        }
        ensure!(state == counted, "{} was changed", describe());
        file.set_len(state.end()).with_context(describe)?;
        Ok(Self { file, state, torn: false })
    }

    fn append(&mut self, tags: &[Tag]) -> Result<(), LogError> {
        if self.torn {
            return Err(LogError::Torn);
        }
        let bytes: Vec<u8> = tags.iter().flat_map(|tag| *tag.as_bytes()).collect();
        let state = tags.iter().fold(self.state, |state, tag| state.with(*tag));
        let written = self.file.write_all_at(&bytes, self.state.end());
        match written.and_then(|()| self.file.write_all_at(&state.to_bytes(), NAME_SIZE as u64)) {
            Ok(()) => {
                self.state = state;
                Ok(())
            }
            Err(error) => {
                // take back what a full disk let through, so that the log stays whole
                let header = self.file.write_all_at(&self.state.to_bytes(), NAME_SIZE as u64);
                self.torn = header.and_then(|()| self.file.set_len(self.state.end())).is_err();
                Err(if self.torn { LogError::Torn } else { LogError::Unwritten(error) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;
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
        fs::write(&path, MAGIC).expect("written");
        assert!(Memory::reopen(&path, &ID, set()).is_err(), "no header");
    }

    #[test]
    fn a_log_that_lacks_a_tag_or_has_a_changed_bit_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        drop(memory(&path));
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            fs::write(&path, whole.get(..length).expect("shorter")).expect("written");
            assert!(Memory::reopen(&path, &ID, set()).is_err(), "{length} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            *changed.get_mut(bit / 8).expect("inside") ^= 1 << (bit % 8);
            fs::write(&path, changed).expect("written");
            assert!(Memory::reopen(&path, &ID, set()).is_err(), "bit {bit}");
        }
        fs::write(&path, &whole).expect("written");
        assert_eq!(Memory::reopen(&path, &ID, set()).expect("reopened").fill().0, 2);
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
