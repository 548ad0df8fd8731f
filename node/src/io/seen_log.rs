//! The ephemeral keys a replica has seen, in files that outlive the process as the envelope keys do.
//!
//! One file an epoch, 16 bytes an envelope, appended before the envelope is acted on. Not flushed to the disk: what
//! kill -9 leaves in the system's cache is enough, because after a reboot the envelope keys are never used again.

use crate::replica::SEEN_MAX;
use shoal_protocol::types::Epoch;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const PREFIX: &str = "seen-";
const SUFFIX: &str = ".log";
/// Bytes of one entry.
const ENTRY: usize = 16;

/// What an earlier process has seen, by epoch.
pub type Seen = Vec<(Epoch, Vec<[u8; ENTRY]>)>;

/// The files of all epochs whose envelope keys are alive.
#[derive(Debug)]
pub struct SeenLog {
    dir: PathBuf,
    files: BTreeMap<Epoch, File>,
}

impl SeenLog {
    /// Opens the files in `dir` and reads what is in them. An entry that was cut short is of an envelope that nobody acted
    /// on.
    pub fn open(dir: &Path) -> io::Result<(Self, Seen)> {
        let mut log = Self { dir: dir.to_owned(), files: BTreeMap::new() };
        let mut seen = Seen::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            let Some(epoch) = number.and_then(|number| number.parse().ok()).map(Epoch) else { continue };
            let mut bytes = Vec::new();
            // never longer than the set it stands for: 64 MiB
            File::open(log.path(epoch))?.take((SEEN_MAX * ENTRY) as u64).read_to_end(&mut bytes)?;
            let (entries, rest) = bytes.as_chunks::<ENTRY>();
            seen.push((epoch, entries.to_vec()));
            let file = log.file(epoch)?;
            file.set_len((bytes.len() - rest.len()) as u64)?;
        }
        Ok((log, seen))
    }

    /// Appends an entry; on an error the envelope must not be acted on.
    pub fn append(&mut self, epoch: Epoch, seen: &[u8; ENTRY]) -> io::Result<()> {
        self.file(epoch)?.write_all(seen)
    }

    /// Removes the files of epochs for which `is_alive` says no.
    pub fn forget(&mut self, mut is_alive: impl FnMut(Epoch) -> bool) {
        let dead: Vec<Epoch> = self.files.keys().copied().filter(|epoch| !is_alive(*epoch)).collect();
        for epoch in dead {
            // what cannot be removed now is found again at the next start
            let _ = fs::remove_file(self.path(epoch));
            self.files.remove(&epoch);
        }
    }

    fn path(&self, epoch: Epoch) -> PathBuf {
        self.dir.join(format!("{PREFIX}{epoch}{SUFFIX}"))
    }

    fn file(&mut self, epoch: Epoch) -> io::Result<&mut File> {
        let path = self.path(epoch);
        match self.files.entry(epoch) {
            std::collections::btree_map::Entry::Occupied(file) => Ok(file.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
                Ok(place.insert(file))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_was_seen_is_read_back_until_its_key_is_erased() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut log, seen) = SeenLog::open(dir.path()).expect("opens");
        assert!(seen.is_empty());
        for n in 0..3 {
            log.append(Epoch(7), &[n; ENTRY]).expect("writes");
        }
        log.append(Epoch(8), &[9; ENTRY]).expect("writes");
        drop(log);
        // a process killed in the middle of an entry
        let path = dir.path().join("seen-7.log");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        OpenOptions::new().append(true).open(&path).expect("opens").write_all(&[5; 7]).expect("writes");
        fs::write(dir.path().join("seen-x.log"), b"not ours").expect("writes");

        let (mut log, mut seen) = SeenLog::open(dir.path()).expect("opens");
        seen.sort();
        let first = (0..3).map(|n| [n; ENTRY]).collect::<Vec<_>>();
        assert_eq!(seen, [(Epoch(7), first.clone()), (Epoch(8), vec![[9; ENTRY]])]);
        log.append(Epoch(7), &[3; ENTRY]).expect("writes");
        drop(log);

        let (mut log, mut seen) = SeenLog::open(dir.path()).expect("opens");
        seen.sort();
        assert_eq!(seen[0].1, [first, vec![[3; ENTRY]]].concat(), "the entry that was cut short is gone");
        log.forget(|epoch| epoch == Epoch(8));
        assert!(!path.exists());
        assert!(dir.path().join("seen-8.log").exists());
    }
}
