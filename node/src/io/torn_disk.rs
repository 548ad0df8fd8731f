//! A disk for tests that behaves like the worst one allowed: what was not flushed is lost in any part and any order, a
//! failed flush loses what it covered for good although reads still show it, and from a chosen operation on everything
//! fails.

use super::disk::Disk;
use rand::RngExt as _;
use rand::rngs::StdRng;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Writes are torn at multiples of this.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What reads see.
    seen: Vec<u8>,
    /// What survives a power cut.
    durable: Vec<u8>,
    /// What was changed since the last flush.
    pending: Vec<Change>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Bytes(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<File>>>,
    /// Operations that change something, until now.
    operations: u64,
    /// From this operation on, everything fails.
    dies_at: Option<u64>,
    /// This one flush fails, the rest works.
    flush_fails_at: Option<u64>,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct TornDisk(Arc<Mutex<State>>);

impl TornDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while holding it")
    }

    /// Lets everything fail from `operations` more changes on.
    pub(crate) fn die_in(&self, operations: u64) {
        let mut state = self.state();
        state.dies_at = Some(state.operations + operations);
    }

    /// Lets the first flush fail that comes after `operations` more changes.
    pub(crate) fn fail_a_flush_in(&self, operations: u64) {
        let mut state = self.state();
        state.flush_fails_at = Some(state.operations + operations);
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Power cut: of what was not flushed, any part may have reached the disk; then the machine starts anew.
    pub(crate) fn crash(&self, rng: &mut StdRng) {
        let mut state = self.state();
        state.dies_at = None;
        state.flush_fails_at = None;
        for file in state.files.values() {
            let mut file = file.lock().expect("no test panics while holding it");
            let mut survived = std::mem::take(&mut file.durable);
            for change in std::mem::take(&mut file.pending) {
                match change {
                    Change::Bytes(at, data) => {
                        for (sector, piece) in data.chunks(SECTOR).enumerate() {
                            if rng.random::<bool>() {
                                apply(&mut survived, &Change::Bytes(at + sector * SECTOR, piece.to_vec()));
                            }
                        }
                    }
                    length @ Change::Length(_) => {
                        if rng.random::<bool>() {
                            apply(&mut survived, &length);
                        }
                    }
                }
            }
            file.seen.clone_from(&survived);
            file.durable = survived;
        }
    }

    fn change(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operations += 1;
        match state.dies_at {
            Some(at) if state.operations > at => Err(io::Error::other("the disk died")),
            Some(_) | None => Ok(()),
        }
    }

    fn flush_fails(&self) -> bool {
        let mut state = self.state();
        let fails = state.flush_fails_at.is_some_and(|at| state.operations > at);
        if fails {
            state.flush_fails_at = None;
        }
        fails
    }

    fn backend(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = self.state().files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(TornFile { disk: self.clone(), file }))
    }
}

impl Disk for TornDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        self.change()?;
        self.state().files.insert(name.to_owned(), Arc::default());
        self.backend(name)
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        self.change()?;
        let backend = self.backend(name)?;
        backend.sync_data()?;
        Ok(backend)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        let mut state = self.state();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.change()?;
        self.state().files.remove(name);
        Ok(())
    }
    fn size(&self, name: &str) -> io::Result<u64> {
        self.backend(name)?.len()
    }
}

#[derive(Debug)]
struct TornFile {
    disk: TornDisk,
    file: Arc<Mutex<File>>,
}

impl TornFile {
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().expect("no test panics while holding it")
    }
    fn note(&self, change: Change) {
        let mut file = self.file();
        apply(&mut file.seen, &change);
        file.pending.push(change);
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a small file")
}

impl StorageBackend for TornFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file().seen.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.file();
        let bytes = file.seen.get(at(offset)..at(offset) + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.note(Change::Length(at(len)));
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.change()?;
        self.note(Change::Bytes(at(offset), data.to_vec()));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.change()?;
        let fails = self.disk.flush_fails();
        let mut file = self.file();
        let pending = std::mem::take(&mut file.pending);
        if fails {
            // the kernel reports the loss once and then takes the pages for clean
            return Err(io::Error::other("the flush failed"));
        }
        let File { durable, .. } = &mut *file;
        pending.iter().for_each(|change| apply(durable, change));
        Ok(())
    }
}
