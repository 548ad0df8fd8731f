//! The keys of each epoch and their replay logs on disk: they live and die together.
//!
//! One epoch is two files in the runtime directory, `mix-<epoch>.key` and `mix-<epoch>.replay`, at a store a third,
//! `mix-<epoch>.seen`: the ephemeral keys seen under the envelope key. The logs are made before the key and erased after
//! it, so that a key without its logs is never a leftover of ours but a loss; such keys are destroyed: without its log a
//! key would let everything of its epoch pass again.

use crate::io::files;
use crate::io::tag_log::Memory;
use crate::keys::{EpochKeys, KeyRing, StoredKeyError};
use crate::replay::ReplaySet;
use crate::replica::SEEN_MAX;
use anyhow::{Context as _, Result, bail};
use shoal_protocol::types::{Epoch, Hash};
use std::fs;
use std::path::{Path, PathBuf};

/// What the name of a file ends with. In the order in which they are erased: what holds a key first; `new` is a key file
/// that a crash kept from getting its name.
const KINDS: [&str; 4] = [NEW, KEY, REPLAY, SEEN];
const NEW: &str = "new";
const KEY: &str = "key";
const REPLAY: &str = "replay";
const SEEN: &str = "seen";

/// Where the keys of one node are kept.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    dir: PathBuf,
    network: Hash,
    boot: [u8; 16],
    capacity: usize,
}

/// What was seen under the keys of one epoch.
#[derive(Debug)]
pub struct Memories {
    /// Packets, under the mix key.
    pub replay: Memory,
    /// Envelopes, under the envelope key; stores only.
    pub seen: Option<Memory>,
}

/// The keys of one epoch as they came back from disk.
#[derive(Debug)]
pub struct Restored {
    /// Their epoch.
    pub epoch: Epoch,
    /// What was seen under them.
    pub memories: Memories,
}

impl KeyFiles {
    /// Files in `dir`, for one network; replay sets take `capacity` packets.
    pub fn new(dir: &Path, network: Hash, capacity: usize) -> Self {
        Self { dir: dir.to_owned(), network, boot: files::boot_id(), capacity }
    }

    fn path(&self, epoch: Epoch, kind: &str) -> PathBuf {
        self.dir.join(format!("mix-{epoch}.{kind}"))
    }

    /// Every epoch that has a file.
    pub fn epochs(&self) -> Result<Vec<Epoch>> {
        let mut epochs = Vec::new();
        for entry in fs::read_dir(&self.dir).with_context(|| format!("cannot list {}", self.dir.display()))? {
            let name = entry?.file_name();
            let epoch = name
                .to_str()
                .and_then(|name| name.strip_prefix("mix-")?.split_once('.'))
                .filter(|(_, kind)| KINDS.contains(kind))
                .and_then(|(number, _)| number.parse().ok());
            epochs.extend(epoch.map(Epoch));
        }
        epochs.sort_unstable();
        epochs.dedup();
        Ok(epochs)
    }

    /// Reads everything back into the ring. What cannot be used (torn, of another network or boot, without its logs) is
    /// erased. An error names the first that could not be erased, after the others were.
    pub fn restore(&self, ring: &mut KeyRing) -> Result<Vec<Restored>> {
        let mut restored = Vec::new();
        let mut failed = None;
        for epoch in self.epochs()? {
            let leftover = files::erase(&self.path(epoch, NEW));
            let erased = match self.restore_epoch(epoch) {
                Ok((keys, memories)) => {
                    if ring.restore(keys) {
                        restored.push(Restored { epoch, memories });
                        Ok(())
                    } else {
                        self.erase(epoch)
                    }
                }
                Err(error) => {
                    tracing::warn!(%epoch, reason = format!("{error:#}"), "a mix key is destroyed and made anew");
                    self.erase(epoch)
                }
            };
            failed = failed.or(leftover.and(erased).err());
        }
        failed.map_or(Ok(restored), Err)
    }

    fn restore_epoch(&self, epoch: Epoch) -> Result<(EpochKeys, Memories)> {
        let stored = files::read(&self.path(epoch, KEY))?;
        let keys = EpochKeys::from_stored(&stored, &self.network, &self.boot)?;
        if keys.epoch != epoch {
            bail!(StoredKeyError::Damaged);
        }
        let memories = self.memories(&keys, Memory::reopen)?;
        Ok((keys, memories))
    }

    /// Writes fresh keys: logs first, then the key. The directory is made anew if somebody removed it. What could not be
    /// written whole is erased.
    pub fn create(&self, keys: &EpochKeys) -> Result<Memories> {
        let write = || {
            files::private_dir(&self.dir)?;
            let memories = self.memories(keys, Memory::create)?;
            files::write_private(&self.path(keys.epoch, KEY), &keys.to_stored(&self.network, &self.boot))?;
            Ok(memories)
        };
        write().inspect_err(|_| {
            // what stays is erased at the next start
            let _ = self.erase(keys.epoch);
        })
    }

    fn memories(&self, keys: &EpochKeys, open: fn(&Path, &Hash, ReplaySet) -> Result<Memory>) -> Result<Memories> {
        let mix = Hash::of("shoal/1 node replay log of key", keys.mix.public().as_bytes());
        let replay = open(&self.path(keys.epoch, REPLAY), &mix, ReplaySet::new(keys.tag_key(), self.capacity))?;
        let seen = match (&keys.envelope, keys.seen_key()) {
            (Some(envelope), Some(seen_key)) => {
                let id = Hash::of("shoal/1 node seen log of key", envelope.public().as_bytes());
                Some(open(&self.path(keys.epoch, SEEN), &id, ReplaySet::new(seen_key, SEEN_MAX))?)
            }
            _ => None,
        };
        Ok(Memories { replay, seen })
    }

    /// Erases an epoch: key first, then the logs. What cannot be erased keeps none of the others.
    pub fn erase(&self, epoch: Epoch) -> Result<()> {
        // map is eager on an array: every file is tried
        KINDS.map(|kind| files::erase(&self.path(epoch, kind))).into_iter().collect()
    }

    /// Erases every epoch: the node has left the network, nobody will send anything under these keys any more.
    pub fn erase_all(&self) -> Result<()> {
        let erased: Vec<Result<()>> = self.epochs()?.into_iter().map(|epoch| self.erase(epoch)).collect();
        erased.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
