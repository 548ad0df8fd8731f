//! `shoal export`: a profile becomes one encrypted file, and stays behind as a place that was left.
//!
//! | step | on disk afterwards | a crash then |
//! |---|---|---|
//! | 1 | `FILE.part`, whole but for its first 256 bytes, which are zeros | the profile works, the file opens for nobody |
//! | 2 | the mark `moved`, with those 256 bytes | the profile is not opened any more; `shoal export FILE` goes on |
//! | 3 | the bytes are in `FILE.part`, and it is called `FILE` | as before |
//! | 4 | the mark without them | done |
//!
//! Each step is on disk before the next begins. The first 256 bytes of an age file are its head, in which the key of all
//! the rest lies wrapped: without them the rest is noise. So there is no moment at which the state could be used twice, and
//! none at which it is lost.

use super::Profile;
use super::disk::{self, io_error, sync_dir};
use super::key_file::{KeyFile, Opener, Protection, WrappingKey};
use super::moved::Moved;
use super::parcel::{self, BYTES_MAX, DATABASE, FILES_MAX, FileName, Head, NETWORK};
use super::passphrase::Passphrase;
use super::{evidence, received_files};
use crate::mail::MailError;
use age::secrecy::SecretString;
use age::{Encryptor, scrypt};
use rusqlite::{Connection, OpenFlags};
use shoal_protocol::UnixMillis;
use shoal_protocol::network::NetworkFile;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are withheld until the profile is marked: age's head, which is 150 bytes with a passphrase, and its nonce.
pub(super) const WITHHELD: usize = 256;

/// Work of a guess at the passphrase: 2^18 rounds of scrypt, 256 MiB, about a second. Tests open hundreds of files.
const WORK: u8 = if cfg!(test) { 10 } else { 18 };

/// Why a profile could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The profile cannot be used, or the disk failed.
    #[error(transparent)]
    Profile(#[from] MailError),
    /// There is a file already; nothing is overwritten.
    #[error("{0} exists; nothing is overwritten")]
    Exists(PathBuf),
    /// The file would lie in the folder that is left behind.
    #[error("{0} lies inside the profile's own folder")]
    Inside(PathBuf),
    /// An export to this file was interrupted: that one has to be finished.
    #[error("the profile was exported to {0} before, and that was interrupted")]
    Other(PathBuf),
    /// More than an exported file may hold.
    #[error("the profile has {files} files with {bytes} bytes; at most {FILES_MAX} with {BYTES_MAX} can be exported")]
    TooMuch {
        /// Files.
        files: u64,
        /// Bytes of all of them.
        bytes: u64,
    },
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Where it is.
    pub to: PathBuf,
    /// Length of that file, bytes.
    pub size: u64,
}

/// Step 1 is done: the profile can still be used.
struct Written {
    profile: PathBuf,
    to: PathBuf,
    withheld: Vec<u8>,
    _lock: File,
}

/// Step 2 is done: the profile was left.
struct Marked {
    profile: PathBuf,
    moved: Moved,
    withheld: Vec<u8>,
    _lock: File,
}

/// Exports the profile in `dir`, which nobody may have open, into the new file `to`. `keyring` is the key that its keyring
/// keeps, if that protects it. `progress` hears bytes done and bytes in all.
///
/// # Errors
/// The profile is then as usable as before, unless its mark says that it was left.
pub fn export(
    dir: &Path,
    to: &Path,
    passphrase: &Passphrase,
    keyring: Option<&WrappingKey>,
    now: UnixMillis,
    progress: impl FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    write(dir, to, passphrase, keyring, now, progress)?.mark(now)?.finish()
}

/// Finishes an export to `to` that was interrupted after the profile was marked. `None`: there was none.
///
/// # Errors
/// When it was to another file, or the disk fails.
pub fn finish_export(dir: &Path, to: &Path) -> Result<Option<Exported>, ExportError> {
    let Some(moved) = Moved::read(dir)? else { return Ok(None) };
    let lock = disk::lock(dir)?;
    match &moved.withheld {
        None => Err(MailError::Moved { profile: dir.to_owned(), moved: Box::new(moved) }.into()),
        Some(_) if moved.to != to => Err(ExportError::Other(moved.to)),
        Some(withheld) => {
            let withheld = withheld.clone();
            Marked { profile: dir.to_owned(), moved, withheld, _lock: lock }.finish().map(Some)
        }
    }
}

/// Where the file lies as long as it is not whole.
fn part_of(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    to.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Step 1.
fn write(
    dir: &Path,
    to: &Path,
    passphrase: &Passphrase,
    keyring: Option<&WrappingKey>,
    now: UnixMillis,
    progress: impl FnMut(u64, u64),
) -> Result<Written, ExportError> {
    let key_file = KeyFile::read(dir)?;
    Moved::refuse(dir)?;
    let lock = disk::lock(dir)?;
    if key_file.protection() == Protection::Keyring {
        let Some(key) = keyring else {
            return Err(MailError::Sealed { profile: dir.to_owned(), protection: Protection::Keyring }.into());
        };
        // a key that does not open would be found out where it is too late
        Profile::key(dir, &key_file, &Opener::Keyring(key.clone()))?;
    }
    if to.exists() {
        return Err(ExportError::Exists(to.to_owned()));
    }
    let is_inside = || Some(parent(to).canonicalize().ok()?.starts_with(dir.canonicalize().ok()?));
    if is_inside() == Some(true) {
        return Err(ExportError::Inside(to.to_owned()));
    }
    let format = rest_database(dir)?;
    let files = gather(dir)?;
    let bytes = files.iter().map(|(_, length)| length).sum();
    let (Ok(count), true) = (u32::try_from(files.len()), bytes <= BYTES_MAX && files.len() <= FILES_MAX as usize)
    else {
        return Err(ExportError::TooMuch { files: files.len() as u64, bytes });
    };
    let network_path = dir.join(NETWORK);
    let network = fs::read_to_string(&network_path).map_err(io_error(&network_path))?;
    let network = NetworkFile::parse(&network).map_err(|error| MailError::Network(error.to_string()))?;
    let head = Head {
        made: now.0,
        network: network.genesis_hash(),
        key_file: key_file.bytes().try_into().map_err(|_| MailError::Damaged("profile.key"))?,
        format,
        files: count,
        bytes,
        wrapping: keyring.filter(|_| key_file.keyring_entry().is_some()).map(|key| *key.reveal()),
    };
    let part = part_of(to);
    let file = new_part(&part)?;
    let written = pack(dir, file, passphrase, &head, &files, progress).map_err(io_error(&part)).and_then(|withheld| {
        sync_dir(parent(to))?;
        Ok(withheld)
    });
    match written {
        Ok(withheld) => Ok(Written { profile: dir.to_owned(), to: to.to_owned(), withheld, _lock: lock }),
        Err(error) => {
            // it opens for nobody, but it takes room
            let _ = fs::remove_file(&part);
            Err(error.into())
        }
    }
}

/// A new file, or one in which an export broke off before its profile was marked: such a one begins with zeros.
fn new_part(part: &Path) -> Result<File, ExportError> {
    let open = |new: bool| OpenOptions::new().read(true).write(true).create_new(new).mode(0o600).open(part);
    match open(true) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(MailError::from_io(part, error).into()),
    }
    let file = open(false).map_err(io_error(part))?;
    let mut beginning = Vec::new();
    (&file).take(WITHHELD as u64).read_to_end(&mut beginning).map_err(io_error(part))?;
    if beginning.iter().any(|byte| *byte != 0) {
        return Err(ExportError::Exists(part.to_owned()));
    }
    file.set_len(0).and_then(|()| (&file).rewind()).map_err(io_error(part))?;
    Ok(file)
}

/// Writes everything but the first [`WITHHELD`] bytes, which it returns, and has it on disk.
fn pack(
    dir: &Path,
    file: File,
    passphrase: &Passphrase,
    head: &Head,
    files: &[(FileName, u64)],
    mut progress: impl FnMut(u64, u64),
) -> io::Result<Vec<u8>> {
    let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.reveal().to_owned()));
    // age would measure what takes a second now: little, on a machine that is busy
    recipient.set_work_factor(WORK);
    let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .map_err(|error| io::Error::other(error.to_string()))?;
    let target = Withholding { to: BufWriter::new(file), withheld: Vec::with_capacity(WITHHELD) };
    let mut target = encryptor.wrap_output(target)?;
    parcel::write_head(&mut target, head)?;
    let mut done = 0;
    progress(0, head.bytes);
    for (name, length) in files {
        let mut from = BufReader::new(File::open(dir.join(name.path()))?);
        parcel::write_file(&mut target, name, *length, &mut from, |more| {
            done += more;
            progress(done, head.bytes);
        })?;
    }
    parcel::write_end(&mut target)?;
    let Withholding { to, withheld } = target.finish()?;
    to.into_inner()?.sync_all()?;
    Ok(withheld)
}

/// Writes zeros in place of the first bytes, and keeps those.
struct Withholding<W> {
    to: W,
    withheld: Vec<u8>,
}

impl<W: Write> Write for Withholding<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = WITHHELD - self.withheld.len();
        if room == 0 {
            return self.to.write(bytes);
        }
        let first = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.to.write_all(&vec![0; first.len()])?;
        self.withheld.extend_from_slice(first);
        Ok(first.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Brings all of the database into its one file, and says its format. The lock is held: nobody writes to it.
fn rest_database(dir: &Path) -> Result<u32, MailError> {
    let db = Connection::open_with_flags(dir.join(DATABASE), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        return Err(MailError::Locked(dir.to_owned()));
    }
    let format = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    db.close().map_err(|(_, error)| error)?;
    Ok(format)
}

/// All files but the key file, with their lengths.
fn gather(dir: &Path) -> Result<Vec<(FileName, u64)>, MailError> {
    let mut paths = vec![dir.join(NETWORK), dir.join(DATABASE)];
    paths.extend(received_files::all(dir)?);
    paths.extend(evidence::files(dir).map_err(io_error(&evidence::folder(dir)))?);
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let length = fs::metadata(&path).map_err(io_error(&path))?.len();
        let name = path.strip_prefix(dir).ok().and_then(Path::to_str).and_then(|name| FileName::parse(name).ok());
        files.push((name.ok_or(MailError::Damaged("a file in the profile has a strange name"))?, length));
    }
    Ok(files)
}

impl Written {
    /// Step 2.
    fn mark(self, now: UnixMillis) -> Result<Marked, ExportError> {
        let Self { profile, to, withheld, _lock } = self;
        let moved = Moved { at: now, to, withheld: Some(withheld.clone()) };
        if let Err(error) = moved.write(&profile) {
            if matches!(Moved::read(&profile), Ok(None)) {
                let _ = fs::remove_file(part_of(&moved.to));
            }
            return Err(error.into());
        }
        Ok(Marked { profile, moved, withheld, _lock })
    }
}

impl Marked {
    /// Steps 3 and 4. Each may be repeated.
    fn finish(self) -> Result<Exported, ExportError> {
        let exported = self.release()?;
        Moved { withheld: None, ..self.moved }.write(&self.profile)?;
        Ok(exported)
    }

    /// Step 3.
    fn release(&self) -> Result<Exported, ExportError> {
        let (to, part) = (&self.moved.to, part_of(&self.moved.to));
        // it may have been renamed already
        let at = if part.exists() { &part } else { to };
        let mut file = OpenOptions::new().write(true).open(at).map_err(io_error(at))?;
        file.write_all(&self.withheld).and_then(|()| file.sync_all()).map_err(io_error(at))?;
        let size = file.metadata().map_err(io_error(at))?.len();
        if *at == part {
            fs::rename(&part, to).map_err(io_error(to))?;
        }
        sync_dir(parent(to))?;
        Ok(Exported { to: to.clone(), size })
    }
}

#[cfg(test)]
mod tests;
