//! What somebody holds who has seized a machine: the whole memory of a process, and every file below a folder. And a search
//! for known bytes in it, at every offset.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Longest needle.
const NEEDLE_MAX: usize = 64;
/// Bytes of a needle that are looked up first.
const HEAD: usize = 8;

/// Known byte strings, each with what it is.
#[derive(Debug, Default)]
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

impl<L: Clone> Needles<L> {
    /// None yet.
    pub fn new() -> Self {
        Self { by_head: HashMap::new(), beginnings: vec![0; (1 << 24) / 64] }
    }

    /// Adds one.
    ///
    /// # Panics
    /// When it is shorter than 8 bytes or longer than 64.
    pub fn add(&mut self, bytes: &[u8], what: L) {
        assert!((HEAD..=NEEDLE_MAX).contains(&bytes.len()), "{} bytes", bytes.len());
        let at = beginning(bytes);
        self.beginnings[at / 64] |= 1 << (at % 64);
        let head = bytes[..HEAD].try_into().expect("eight bytes");
        self.by_head.entry(head).or_default().push((bytes.to_vec(), what));
    }

    /// Looks at every offset of `bytes` below `end`.
    fn search(&self, bytes: &[u8], end: usize, mut found: impl FnMut(&L)) {
        for at in 0..end.min(bytes.len().saturating_sub(HEAD - 1)) {
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

/// Reads the whole memory of a process, chunk by chunk with [`NEEDLE_MAX`] bytes of the next one at the end. `look` gets the
/// kind of memory, the bytes, and how many of them are no repetition. Returns the bytes read.
///
/// # Panics
/// When the memory cannot be read: only root may, of a process that forbids dumps.
pub fn read_memory(pid: u32, mut look: impl FnMut(&str, &[u8], usize)) -> u64 {
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).expect("memory (run as root)");
    let mut total = 0;
    let mut buffer = vec![0; CHUNK + NEEDLE_MAX];
    for region in regions(pid) {
        let mut at = region.start;
        while at < region.end {
            let left = usize::try_from(region.end - at).unwrap_or(usize::MAX);
            let (step, want) = (left.min(CHUNK), left.min(CHUNK + NEEDLE_MAX));
            // what is mapped beyond the end of a file cannot be read
            let read = memory.seek(SeekFrom::Start(at)).and_then(|_| memory.read_exact(&mut buffer[..want]));
            if read.is_ok() {
                look(&region.name, &buffer[..want], step);
                total += step as u64;
            }
            at += step as u64;
        }
    }
    assert!(total > 1 << 20, "a process has more than {total} bytes");
    total
}

/// Searches the memory of a process. Stopped while it is read, it cannot move anything past the search.
///
/// # Panics
/// As [`read_memory`].
pub fn search_memory<L: Clone>(pid: u32, needles: &Needles<L>) -> (u64, Vec<Found<L>>) {
    let mut found = Vec::new();
    let total = read_memory(pid, |place, bytes, end| {
        needles.search(bytes, end, |what| found.push(Found { what: what.clone(), place: place.to_owned() }));
    });
    (total, found)
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

/// Searches every file below a folder.
///
/// # Panics
/// As [`files`]; a file that vanishes meanwhile is passed over.
pub fn search_files<L: Clone>(folder: &Path, needles: &Needles<L>) -> (u64, Vec<Found<L>>) {
    let (mut total, mut found) = (0, Vec::new());
    for path in files(folder) {
        let Ok(bytes) = fs::read(&path) else { continue };
        total += bytes.len() as u64;
        needles.search(&bytes, bytes.len(), |what| {
            found.push(Found { what: what.clone(), place: path.display().to_string() });
        });
    }
    (total, found)
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
        let (total, found) = search_files(folder.path(), &needles);
        assert_eq!((total, found.len(), found[0].what), (1_000_035, 1, "held"));
        if Path::new("/proc/self/mem").exists() {
            assert!(search_memory(std::process::id(), &needles).1.iter().any(|found| found.what == "held"));
        }
    }
}
