//! What somebody holds who has seized a machine: the whole memory of a process, and every file below a folder. And a search
//! for known bytes in it, at every offset.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of a needle that are looked up first.
const HEAD: usize = 8;

/// Known byte strings, each with what it is.
#[derive(Debug)]
pub struct Needles<L> {
    by_head: HashMap<[u8; HEAD], Vec<(Vec<u8>, L)>>,
    /// One bit for every beginning of three bytes: nearly all places of a memory are passed over by it.
    beginnings: Vec<u64>,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<L> {
    /// What.
    pub what: L,
    /// Where: a kind of memory (`[heap]`, `[stack]`, `anonymous`, a file's name), or a path.
    pub place: String,
}

fn beginning(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) | usize::from(bytes[1]) << 8 | usize::from(bytes[2]) << 16
}

impl<L: Clone> Default for Needles<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Clone> Needles<L> {
    /// None yet.
    pub fn new() -> Self {
        Self { by_head: HashMap::new(), beginnings: vec![0; (1 << 24) / 64] }
    }

    /// Adds one.
    ///
    /// # Panics
    /// When it is shorter than 8 bytes.
    pub fn add(&mut self, bytes: &[u8], what: L) {
        assert!(bytes.len() >= HEAD, "{} bytes", bytes.len());
        let at = beginning(bytes);
        self.beginnings[at / 64] |= 1 << (at % 64);
        let head = bytes[..HEAD].try_into().expect("eight bytes");
        self.by_head.entry(head).or_default().push((bytes.to_vec(), what));
    }

    /// Looks at every offset of `bytes`.
    fn search(&self, bytes: &[u8], mut found: impl FnMut(&L)) {
        for at in 0..bytes.len().saturating_sub(HEAD - 1) {
            let key = beginning(&bytes[at..]);
            if self.beginnings[key / 64] & 1 << (key % 64) == 0 {
                continue;
            }
            let head: [u8; HEAD] = bytes[at..at + HEAD].try_into().expect("eight bytes");
            for (needle, what) in self.by_head.get(&head).into_iter().flatten() {
                if bytes[at..].starts_with(needle) {
                    found(what);
                }
            }
        }
    }
}

/// One mapping of a process.
#[derive(Debug, Clone)]
struct Region {
    start: u64,
    end: u64,
    name: String,
}

fn regions(pid: u32) -> Vec<Region> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps (run as root)");
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let readable = fields.next()?.starts_with('r');
            let name = fields.nth(3).unwrap_or("anonymous").to_owned();
            let address = |text| u64::from_str_radix(text, 16).ok();
            // these are the kernel's, not the process's
            let own = !["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"].contains(&name.as_str());
            (readable && own).then_some(Region { start: address(start)?, end: address(end)?, name })
        })
        .collect()
}

/// What was taken, in parts, each with where it was.
#[derive(Debug)]
pub struct Dump(pub Vec<(String, Vec<u8>)>);

impl Dump {
    /// The whole memory of a process. Of one that is stopped, nothing moves past the reader.
    ///
    /// # Panics
    /// When it cannot be read: only root may, of a process that forbids dumps.
    pub fn of_memory(pid: u32) -> Self {
        let mut memory = fs::File::open(format!("/proc/{pid}/mem")).expect("memory (run as root)");
        let mut parts = Vec::new();
        for region in regions(pid) {
            let length = usize::try_from(region.end - region.start).expect("fits");
            let mut bytes = vec![0; length];
            let read = memory.seek(SeekFrom::Start(region.start)).and_then(|_| memory.read_exact(&mut bytes));
            // what is mapped beyond the end of a file cannot be read
            if read.is_ok() {
                parts.push((region.name, bytes));
            }
        }
        let dump = Self(parts);
        assert!(dump.len() > 1 << 20, "a process has more than {} bytes", dump.len());
        dump
    }

    /// Every file below a folder; one that vanishes meanwhile is passed over.
    ///
    /// # Panics
    /// When it cannot be listed.
    pub fn of_folder(folder: &Path) -> Self {
        let read = |path: PathBuf| Some((path.display().to_string(), fs::read(&path).ok()?));
        Self(files(folder).into_iter().filter_map(read).collect())
    }

    /// Bytes of all parts.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks for the needles at every offset.
    pub fn search<L: Clone>(&self, needles: &Needles<L>) -> Vec<Found<L>> {
        let mut found = Vec::new();
        for (place, bytes) in &self.0 {
            needles.search(bytes, |what| found.push(Found { what: what.clone(), place: place.clone() }));
        }
        found
    }
}

/// Every file below a folder.
///
/// # Panics
/// When it cannot be listed.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its kind");
        if kind.is_dir() {
            files.extend(self::files(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_knows_is_found_in_it_and_what_it_does_not_know_is_not() {
        let held: Vec<u8> = (0..32u8).map(|byte| byte.wrapping_mul(37) ^ 0x5a).collect();
        let mut needles = Needles::new();
        needles.add(&held, "held");
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("deep")).expect("made");
        fs::write(folder.path().join("deep/file"), [&[1; 1_000_003], held.as_slice()].concat()).expect("written");
        let dump = Dump::of_folder(folder.path());
        let found = dump.search(&needles);
        assert_eq!((dump.len(), found.len(), found[0].what), (1_000_035, 1, "held"));
        if Path::new("/proc/self/mem").exists() {
            assert!(Dump::of_memory(std::process::id()).search(&needles).iter().any(|found| found.what == "held"));
        }
    }
}
