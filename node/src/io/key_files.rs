//! Mix keys and their replay logs on disk: they live and die together.
//!
//! One epoch is two files in the runtime directory, `mix-<epoch>.key` and `mix-<epoch>.replay`. The log is made before
//! the key and erased after it, so that a key without its log is never a leftover of ours but a loss; such a key is
//! destroyed, as is one whose log is torn: without its log a key would let every packet of its epoch pass again.

use crate::io::files;
use crate::keys::{EpochKeys, KeyRing, StoredKeyError};
use crate::replay::{Insertion, ReplaySet, TAG_SIZE, Tag};
use anyhow::{Context as _, Result, bail};
use shoal_protocol::types::{Epoch, Hash};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// First bytes of a log; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SHOALRL1";
/// Magic, then which mix key the log belongs to.
const HEADER_SIZE: usize = 8 + 32;

/// Where the keys of one node are kept.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    dir: PathBuf,
    network: Hash,
    boot: [u8; 16],
    capacity: usize,
}

/// An open replay log.
#[derive(Debug)]
pub struct ReplayLog {
    file: File,
    /// Bytes that are known to be whole.
    length: u64,
    torn: bool,
}

/// The log could not take the tags; their packets must not leave.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing was written; the next attempt may succeed.
    #[error("the replay log could not be written: {0}")]
    Unwritten(std::io::Error),
    /// A part may have been written and could not be taken back: the key has to be destroyed.
    #[error("the replay log is torn")]
    Torn,
}

/// The keys of one epoch as they came back from disk.
#[derive(Debug)]
pub struct Restored {
    /// Their epoch.
    pub epoch: Epoch,
    /// What was seen under the mix key.
    pub set: ReplaySet,
    /// Where to go on writing.
    pub log: ReplayLog,
}

fn key_id(keys: &EpochKeys) -> Hash {
    Hash::of("shoal/1 node replay log of key", keys.mix.public().as_bytes())
}

impl KeyFiles {
    /// Files in `dir`, for one network; replay sets take `capacity` packets.
    pub fn new(dir: &Path, network: Hash, capacity: usize) -> Self {
        Self { dir: dir.to_owned(), network, boot: files::boot_id(), capacity }
    }

    fn key_path(&self, epoch: Epoch) -> PathBuf {
        self.dir.join(format!("mix-{epoch}.key"))
    }

    fn log_path(&self, epoch: Epoch) -> PathBuf {
        self.dir.join(format!("mix-{epoch}.replay"))
    }

    /// Every epoch that has a key file or a log.
    pub fn epochs(&self) -> Result<Vec<Epoch>> {
        let mut epochs = Vec::new();
        for entry in fs::read_dir(&self.dir).with_context(|| format!("cannot list {}", self.dir.display()))? {
            let name = entry?.file_name();
            let epoch = name
                .to_str()
                .and_then(|name| name.strip_prefix("mix-"))
                .and_then(|name| name.strip_suffix(".key").or_else(|| name.strip_suffix(".replay")))
                .and_then(|number| number.parse().ok());
            epochs.extend(epoch.map(Epoch));
        }
        epochs.sort_unstable();
        epochs.dedup();
        Ok(epochs)
    }

    /// Reads everything back into the ring. What cannot be used (torn, of another network or boot, without its log) is
    /// erased.
    pub fn restore(&self, ring: &mut KeyRing) -> Result<Vec<Restored>> {
        let mut restored = Vec::new();
        for epoch in self.epochs()? {
            match self.restore_epoch(epoch) {
                Ok((keys, set, log)) => {
                    if ring.restore(keys) {
                        restored.push(Restored { epoch, set, log });
                    } else {
                        self.erase(epoch)?;
                    }
                }
                Err(error) => {
                    tracing::warn!(%epoch, reason = %error, "a mix key is destroyed and made anew");
                    self.erase(epoch)?;
                }
            }
        }
        Ok(restored)
    }

    fn restore_epoch(&self, epoch: Epoch) -> Result<(EpochKeys, ReplaySet, ReplayLog)> {
        let stored = files::read(&self.key_path(epoch))?;
        let keys = EpochKeys::from_stored(&stored, &self.network, &self.boot)?;
        if keys.epoch != epoch {
            bail!(StoredKeyError::Damaged);
        }
        let mut set = ReplaySet::new(keys.tag_key(), self.capacity);
        let log = ReplayLog::reopen(&self.log_path(epoch), &key_id(&keys), &mut set)?;
        Ok((keys, set, log))
    }

    /// Writes fresh keys: log first, then the key.
    pub fn create(&self, keys: &EpochKeys) -> Result<(ReplaySet, ReplayLog)> {
        let log = ReplayLog::create(&self.log_path(keys.epoch), &key_id(keys))?;
        files::write_private(&self.key_path(keys.epoch), &keys.to_stored(&self.network, &self.boot))?;
        Ok((ReplaySet::new(keys.tag_key(), self.capacity), log))
    }

    /// Erases an epoch: key first, then the log.
    pub fn erase(&self, epoch: Epoch) -> Result<()> {
        let key = files::erase(&self.key_path(epoch));
        let log = files::erase(&self.log_path(epoch));
        key.and(log)
    }
}

impl ReplayLog {
    fn create(path: &Path, id: &Hash) -> Result<Self> {
        let describe = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).with_context(describe)?;
        file.set_len(0).with_context(describe)?;
        let mut header = [0; HEADER_SIZE];
        header.iter_mut().zip(MAGIC.iter().chain(id.as_bytes())).for_each(|(to, from)| *to = *from);
        file.write_all(&header).with_context(describe)?;
        Ok(Self { file, length: HEADER_SIZE as u64, torn: false })
    }

    fn reopen(path: &Path, id: &Hash, set: &mut ReplaySet) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .with_context(|| format!("no log {}", path.display()))?;
        let length = file.metadata()?.len();
        if length < HEADER_SIZE as u64 || !(length - HEADER_SIZE as u64).is_multiple_of(TAG_SIZE as u64) {
            bail!("the replay log is torn");
        }
        let mut header = [0; HEADER_SIZE];
        file.read_exact(&mut header)?;
        if !header.iter().eq(MAGIC.iter().chain(id.as_bytes())) {
            bail!("the replay log belongs to another key");
        }
        // 64 KiB at a time
        let mut chunk = vec![0; 4_096 * TAG_SIZE];
        let mut left = length - HEADER_SIZE as u64;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..step).unwrap_or_default();
            file.read_exact(part)?;
            for tag in part.as_chunks::<TAG_SIZE>().0 {
                if set.insert(Tag::from_bytes(*tag)) == Insertion::Full {
                    bail!("the replay log is longer than replay_capacity_packets");
                }
            }
            left -= step as u64;
        }
        Ok(Self { file, length, torn: false })
    }

    /// Appends tags in one write. Only after `Ok` may their packets leave.
    pub fn append(&mut self, tags: &[Tag]) -> Result<(), LogError> {
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
mod tests;
