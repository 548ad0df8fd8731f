//! Files that only this node may read: written whole or not at all, 0600 in directories 0700.

use crate::io::host;
use anyhow::{Context as _, Result};
use rand::Rng as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use zeroize::Zeroizing;

/// Largest file read into memory here: a consensus of 1,000 nodes is 400 kB.
const READ_MAX: u64 = 4 << 20;
/// Bytes that the standard library wants free to find the end of a file without a larger buffer; it asks for 32.
const PROBE: usize = 64;

/// Makes a directory with mode 0700, and its parents, unless it exists.
pub fn private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Replaces a file atomically: a crash leaves the old or the new content.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let describe = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(describe)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(describe)?;
    rename(&temporary, path)
}

/// Gives a file or directory another name in the same directory; on disk when it returns.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let describe = || format!("cannot write {}", to.display());
    fs::rename(from, to).with_context(describe)?;
    if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent).and_then(|directory| directory.sync_all()).with_context(describe)?;
    }
    Ok(())
}

/// Reads a file; `None` if there is none.
pub fn read_optional(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let describe = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(describe),
    };
    let length = file.metadata().with_context(describe)?.len().min(READ_MAX);
    // room for all of it and for the probe of its end: a buffer that grows leaves pieces of a key where it was before
    let room = usize::try_from(length).unwrap_or(0) + PROBE;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(READ_MAX).read_to_end(&mut bytes).with_context(describe)?;
    Ok(Some(bytes))
}

/// Reads a file that must exist.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    read_optional(path)?.with_context(|| format!("{} does not exist", path.display()))
}

/// Whether others than the owner may read a file.
pub fn is_exposed(path: &Path) -> Result<bool> {
    let mode = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.permissions().mode();
    Ok(mode & 0o077 != 0)
}

/// Overwrites a file with zeros and removes it. On memory (tmpfs) that erases it; on a disk a copy may survive in the
/// medium, which is why the runtime directory belongs on memory.
pub fn erase(path: &Path) -> Result<()> {
    let describe = || format!("cannot erase {}", path.display());
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(describe),
    };
    let length = file.metadata().with_context(describe)?.len();
    let zeros = [0u8; 4_096];
    let overwrite = |file: &mut File| {
        file.seek(SeekFrom::Start(0))?;
        let mut left = length;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all(zeros.get(..step).unwrap_or(&zeros))?;
            left -= step as u64;
        }
        file.sync_data()
    };
    // removed even if the disk is full: a name that stays would be taken for a key
    let overwritten = overwrite(&mut file);
    fs::remove_file(path).with_context(describe)?;
    overwritten.with_context(describe)
}

/// Name of this run of the machine; changes at every reboot. Random where the system does not tell: then no key survives a
/// restart, because nobody knows whether its log, which is not flushed, survived a power cut.
pub fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut id = [0; 16];
    if hex::decode_to_slice(digits, &mut id).is_err() {
        host::generator().fill_bytes(&mut id);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_key_moves_no_buffer() {
        let dir = tempfile::tempdir().expect("a directory");
        for length in [0, 1, 65, 145, 4_096, 100_000] {
            let path = dir.path().join(length.to_string());
            write_private(&path, &vec![7; length]).expect("written");
            let read = read(&path).expect("read");
            assert_eq!((read.len(), read.capacity()), (length, length + PROBE), "it has the room that it began with");
        }
    }

    #[test]
    fn files_are_private_replaced_whole_and_erased() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("inner/secret");
        private_dir(path.parent().expect("has a parent")).expect("made");
        assert!(read_optional(&path).expect("looks").is_none());
        write_private(&path, b"first").expect("written");
        write_private(&path, b"second").expect("replaced");
        assert_eq!(read(&path).expect("read").as_slice(), b"second");
        assert!(!is_exposed(&path).expect("looks"));
        erase(&path).expect("erased");
        erase(&path).expect("erasing nothing is no error");
        assert!(read(&path).is_err());
    }
}
