//! A disk for tests that behaves like the worst one allowed: what was not flushed is lost in any part and any order, a
//! failed flush loses what it covered for good although reads still show it, and at a chosen operation one of the
//! [`Fault`]s begins.

use super::disk::Disk;
use rand::RngExt as _;
use rand::rngs::StdRng;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Writes are torn at multiples of this.
const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// From here on everything fails. Of a write that is hit any part may reach the disk.
    Dies,
    /// One flush fails and loses what it covered, although reads still show it.
    FlushLost,
    /// One change fails. Of a write the first half is done.
    Fails,
    /// One change of the folder is done and reported as failed.
    DoneButDenied,
    /// One read fails.
    ReadFails,
    /// No room: what is written where no file had anything is refused, behind the part that fits.
    Full,
    /// No room, and files cannot even be made longer.
    FullAtGrowth,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::Dies,
        Self::FlushLost,
        Self::Fails,
        Self::DoneButDenied,
        Self::ReadFails,
        Self::Full,
        Self::FullAtGrowth,
    ];

    /// Whether it lasts until [`TornDisk::heal`].
    pub(crate) fn lasts(self) -> bool {
        matches!(self, Self::Dies | Self::Full | Self::FullAtGrowth)
    }
}

/// What is done to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Folder,
    Growth,
    Write,
    Flush,
    Read,
}

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
    /// Behind this nothing was written yet: it takes room that may not be there.
    allocated: usize,
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
    /// What goes wrong, and after how many operations.
    fault: Option<(Fault, u64)>,
    /// How often it did.
    struck: u64,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct TornDisk(Arc<Mutex<State>>);

impl TornDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while holding it")
    }

    /// Lets a fault begin after `operations` more changes.
    pub(crate) fn fault_in(&self, fault: Fault, operations: u64) {
        let mut state = self.state();
        state.fault = Some((fault, state.operations + operations));
    }

    /// Ends a fault.
    pub(crate) fn heal(&self) {
        self.state().fault = None;
    }

    /// How often something went wrong until now.
    pub(crate) fn struck(&self) -> u64 {
        self.state().struck
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Overwrites one byte of a file behind everybody's back.
    pub(crate) fn damage(&self, name: &str, at: usize) {
        let file = self.state().files.get(name).cloned().expect("there is such a file");
        let mut file = file.lock().expect("no test panics while holding it");
        let File { seen, durable, .. } = &mut *file;
        for bytes in [seen, durable] {
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0xff);
        }
    }

    /// Power cut: of what was not flushed, any part may have reached the disk; then the machine starts anew.
    pub(crate) fn crash(&self, rng: &mut StdRng) {
        let mut state = self.state();
        state.fault = None;
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

    /// Counts an operation; says what befalls it.
    fn befalls(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.state();
        if operation != Operation::Read {
            state.operations += 1;
        }
        let (fault, at) = state.fault?;
        let meant = match fault {
            Fault::Dies => true,
            Fault::Fails => operation != Operation::Read,
            Fault::FlushLost => operation == Operation::Flush,
            Fault::DoneButDenied => operation == Operation::Folder,
            Fault::ReadFails => operation == Operation::Read,
            Fault::Full => operation == Operation::Write,
            Fault::FullAtGrowth => matches!(operation, Operation::Write | Operation::Growth),
        };
        if !meant || state.operations <= at {
            return None;
        }
        if !fault.lasts() {
            state.fault = None;
        }
        state.struck += 1;
        Some(fault)
    }

    /// A change of the folder.
    fn folder(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        match self.befalls(Operation::Folder) {
            None => change(&mut self.state()),
            Some(Fault::DoneButDenied) => change(&mut self.state()).and(Err(broken("flushing the folder failed"))),
            Some(_) => Err(broken("the folder cannot be changed")),
        }
    }

    fn backend(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = self.state().files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(TornFile { disk: self.clone(), file }))
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl Disk for TornDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        self.folder(|state| {
            state.files.insert(name.to_owned(), Arc::default());
            Ok(())
        })?;
        self.backend(name)
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        self.folder(|_| Ok(()))?;
        self.backend(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder(|state| {
            let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.files.insert(to.to_owned(), file);
            Ok(())
        })
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder(|state| {
            state.files.remove(name);
            Ok(())
        })
    }
    fn size(&self, name: &str) -> io::Result<u64> {
        self.backend(name)?.len()
    }
    fn identity(&self) -> io::Result<String> {
        Ok(format!("disk at {:p}", Arc::as_ptr(&self.0)))
    }
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = self.state().files.get(name).cloned();
        Ok(file.map(|file| file.lock().expect("no test panics while holding it").seen.clone()))
    }
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.folder(|state| {
            let file = File { seen: bytes.to_vec(), durable: bytes.to_vec(), ..File::default() };
            state.files.insert(name.to_owned(), Arc::new(Mutex::new(file)));
            Ok(())
        })
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
        match &change {
            Change::Length(length) => file.allocated = file.allocated.min(*length),
            Change::Bytes(at, data) => file.allocated = file.allocated.max(at + data.len()),
        }
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
        if self.disk.befalls(Operation::Read).is_some() {
            return Err(broken("the sector cannot be read"));
        }
        let file = self.file();
        let bytes = file.seen.get(at(offset)..at(offset) + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let grows = at(len) > self.file().seen.len();
        let operation = if grows { Operation::Growth } else { Operation::Write };
        match self.disk.befalls(operation) {
            None => {}
            // what gets shorter needs no room
            Some(Fault::Full | Fault::FullAtGrowth) if !grows => {}
            Some(Fault::Full | Fault::FullAtGrowth) => return Err(io::ErrorKind::StorageFull.into()),
            Some(_) => return Err(broken("the length cannot be changed")),
        }
        self.note(Change::Length(at(len)));
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = at(offset);
        let (done, error) = match self.disk.befalls(Operation::Write) {
            None => (data.len(), None),
            Some(Fault::Full | Fault::FullAtGrowth) => {
                let room = self.file().allocated.saturating_sub(start).min(data.len());
                (room, (room < data.len()).then(|| io::ErrorKind::StorageFull.into()))
            }
            // any part of it is kept or lost at the power cut
            Some(Fault::Dies) => (data.len(), Some(broken("the disk died"))),
            Some(_) => (data.len() / 2, Some(broken("the write failed"))),
        };
        if done > 0 {
            self.note(Change::Bytes(start, data[..done].to_vec()));
        }
        error.map_or(Ok(()), Err)
    }
    fn sync_data(&self) -> io::Result<()> {
        let fault = self.disk.befalls(Operation::Flush);
        let mut file = self.file();
        match fault {
            None => {
                let pending = std::mem::take(&mut file.pending);
                let File { durable, .. } = &mut *file;
                pending.iter().for_each(|change| apply(durable, change));
                Ok(())
            }
            Some(Fault::FlushLost) => {
                // the kernel reports the loss once and then takes the pages for clean
                file.pending.clear();
                Err(broken("the flush failed"))
            }
            Some(_) => Err(broken("the flush failed")),
        }
    }
}
