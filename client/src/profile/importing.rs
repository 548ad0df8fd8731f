//! `shoal import`: an exported file becomes a profile on this machine.
//!
//! Everything is unpacked into a hidden folder beside the profile's place, checked, and put there by one rename, the key
//! file last of all. Whatever interrupts it: the place holds a whole profile, or what it held before.

use super::disk::{io_error, private_dir, sync_dir};
use super::exporting::WITHHELD;
use super::key_file::{
    KEY_FILE, KeyFile, KeyringEntry, NotOpened, Opener, ProfileId, Protection, Protector, WrappingKey,
};
use super::parcel::{BadParcel, DATABASE, Head, NETWORK, Parcel};
use super::passphrase::Passphrase;
use super::{Profile, schema};
use crate::mail::MailError;
use age::secrecy::SecretString;
use age::stream::StreamReader;
use age::{DecryptError, Decryptor, scrypt};
use rand::CryptoRng;
use rusqlite::Connection;
use shoal_protocol::UnixMillis;
use shoal_protocol::network::NetworkFile;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Most work that opening a file may ask for: 2^20 rounds of scrypt, 1 GiB of memory; an export asks for 2^18.
const WORK_MAX: u8 = 20;

/// Why a file could not be imported. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The disk failed, there is a profile already, or what is in the file is of a newer version.
    #[error(transparent)]
    Profile(#[from] MailError),
    /// Where the profile should be is a folder with other things in it.
    #[error("{0} is not empty")]
    Occupied(PathBuf),
    /// Another process imports to the same place.
    #[error("another process is importing into {0}")]
    Busy(PathBuf),
    /// No file that `shoal export` made.
    #[error("{0} is no exported profile")]
    NotExported(PathBuf),
    /// It was imported before, or its export was interrupted.
    #[error("{0} was used up by an import, or never finished")]
    UsedUp(PathBuf),
    /// The passphrase is wrong, or the file was changed.
    #[error("{0} does not open with this passphrase")]
    Passphrase(PathBuf),
    /// It asks for more work than any export does.
    #[error("opening it takes 2^{0} rounds of work")]
    Work(u8),
    /// It opens, and is not what it should be.
    #[error("{path}: {why}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: BadParcel,
    },
}

/// An exported profile whose passphrase was right.
pub struct Import {
    from: PathBuf,
    head: Head,
    key_file: KeyFile,
    parcel: Parcel<StreamReader<BufReader<File>>>,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("from", &self.from).field("head", &self.head).finish_non_exhaustive()
    }
}

impl Import {
    /// Opens an exported file. Takes about a second and up to 1 GiB of memory.
    ///
    /// # Errors
    /// Says what is wrong with file or passphrase.
    pub fn open(from: &Path, passphrase: &Passphrase) -> Result<Self, ImportError> {
        let mut file = File::open(from).map_err(io_error(from))?;
        let mut beginning = [0; 22];
        match file.read_exact(&mut beginning) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(ImportError::NotExported(from.to_owned()));
            }
            read => read.map_err(io_error(from))?,
        }
        if beginning == [0; 22] {
            return Err(ImportError::UsedUp(from.to_owned()));
        }
        if beginning != *b"age-encryption.org/v1\n" {
            return Err(ImportError::NotExported(from.to_owned()));
        }
        io::Seek::rewind(&mut file).map_err(io_error(from))?;
        let mut identity = scrypt::Identity::new(SecretString::from(passphrase.reveal().to_owned()));
        identity.set_max_work_factor(WORK_MAX);
        let reader = Decryptor::new_buffered(BufReader::new(file))
            .and_then(|decryptor| decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)))
            .map_err(|error| explain(from, error))?;
        let bad = |why| ImportError::Bad { path: from.to_owned(), why };
        let (head, key_file, parcel) = Parcel::open(reader).map_err(bad)?;
        if head.format > schema::FORMAT {
            return Err(MailError::Newer { found: head.format, known: schema::FORMAT }.into());
        }
        Ok(Self { from: from.to_owned(), head, key_file, parcel })
    }

    /// When it was exported.
    #[must_use]
    pub fn made(&self) -> UnixMillis {
        self.head.made()
    }
    /// What protected the profile where it came from.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.key_file.protection()
    }
    /// What a keyring has to keep before the profile can be used as it was protected.
    #[must_use]
    pub fn keyring(&self) -> Option<(ProfileId, KeyringEntry, WrappingKey)> {
        let wrapping = WrappingKey::from_bytes(&self.head.wrapping?);
        Some((self.key_file.id(), self.key_file.keyring_entry()?, wrapping))
    }

    /// Makes the profile `dir` of it. `instead`: protects it from now on in place of a keyring. `progress` hears bytes done
    /// and bytes in all.
    ///
    /// # Errors
    /// Nothing was changed then.
    pub fn unpack(
        mut self,
        dir: &Path,
        instead: Option<&Protector>,
        rng: &mut impl CryptoRng,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), ImportError> {
        vacant(dir)?;
        let key_file = match (instead, self.keyring()) {
            (Some(protector), Some((_, _, wrapping))) => {
                let key = Profile::key(dir, &self.key_file, &Opener::Keyring(wrapping))?;
                self.key_file.rewrapped(&key, protector, rng).map_err(|error| match error {
                    NotOpened::Memory | NotOpened::Wrong | NotOpened::Protection(_) => MailError::NoMemory,
                })?
            }
            _ => self.key_file.clone(),
        };
        let place = Staging::claim(dir)?;
        let unpacked = self.fill(&place.folder, progress).and_then(|()| {
            key_file.write(&place.folder)?;
            fs::rename(&place.folder, dir).map_err(io_error(dir))?;
            Ok(sync_dir(parent(dir))?)
        });
        if unpacked.is_err() {
            // what cannot be removed has no key in it
            let _ = fs::remove_dir_all(&place.folder);
        }
        unpacked
    }

    /// Unpacks everything but the key file, and checks it.
    fn fill(&mut self, folder: &Path, mut progress: impl FnMut(u64, u64)) -> Result<(), ImportError> {
        let bad = |why| ImportError::Bad { path: self.from.clone(), why };
        let all = self.head.bytes;
        let (mut done, mut names) = (0, BTreeSet::new());
        progress(0, all);
        while let Some((name, length)) = self.parcel.next().map_err(bad)? {
            let path = folder.join(name.path());
            if !names.insert(name) {
                return Err(bad(BadParcel::Damaged("it has a file twice")));
            }
            private_dir(parent(&path))?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io_error(&path))?;
            let copied = self.parcel.copy(length, |piece| {
                file.write_all(piece).map_err(io_error(&path))?;
                done += piece.len() as u64;
                progress(done, all);
                Ok(())
            });
            copied.map_err(|why| if let BadParcel::Written(error) = why { error.into() } else { bad(why) })?;
            file.sync_all().map_err(io_error(&path))?;
            sync_dir(parent(&path))?;
        }
        for name in [DATABASE, NETWORK] {
            if !names.iter().any(|found| found.as_str() == name) {
                return Err(bad(BadParcel::Damaged("its database or its network file is missing")));
            }
        }
        self.check(folder)
    }

    fn check(&self, folder: &Path) -> Result<(), ImportError> {
        let bad = |why| ImportError::Bad { path: self.from.clone(), why: BadParcel::Damaged(why) };
        let path = folder.join(NETWORK);
        let network = fs::read_to_string(&path).map_err(io_error(&path))?;
        let network = NetworkFile::parse(&network).map_err(|error| MailError::Network(error.to_string()))?;
        if network.genesis_hash() != self.head.network {
            return Err(bad("its network file is of another network"));
        }
        let check = || -> Result<bool, rusqlite::Error> {
            let db = Connection::open(folder.join(DATABASE))?;
            let format: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            db.close().map_err(|(_, error)| error)?;
            Ok(format == self.head.format && sound == "ok")
        };
        match check() {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(bad("its database")),
        }
    }
}

/// Makes an exported file unusable, so that nobody imports it a second time; `false` if that cannot be done.
pub fn use_up(from: &Path) -> bool {
    let erase = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(from)?;
        file.write_all(&[0; WITHHELD])?;
        file.sync_all()
    };
    erase().is_ok()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Refuses a place where something is.
fn vacant(dir: &Path) -> Result<(), ImportError> {
    if dir.join(KEY_FILE).exists() {
        return Err(MailError::Exists(dir.to_owned()).into());
    }
    match fs::read_dir(dir).map(|mut listed| listed.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ImportError::Occupied(dir.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(ImportError::Occupied(dir.to_owned())),
        Err(error) => Err(MailError::from_io(dir, error).into()),
    }
}

/// The hidden folder beside the profile's place.
struct Staging {
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    /// Makes it, empty; what an interrupted import left there is gone.
    fn claim(dir: &Path) -> Result<Self, ImportError> {
        let mut name = std::ffi::OsString::from(".");
        name.push(dir.file_name().unwrap_or_default());
        name.push(".importing");
        let folder = dir.with_file_name(name);
        private_dir(&folder)?;
        let lock = File::open(&folder).map_err(io_error(&folder))?;
        if lock.try_lock().is_err() {
            return Err(ImportError::Busy(dir.to_owned()));
        }
        for entry in fs::read_dir(&folder).map_err(io_error(&folder))? {
            let path = entry.map_err(io_error(&folder))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(io_error(&path))?;
        }
        Ok(Self { folder, _lock: lock })
    }
}

fn explain(from: &Path, error: DecryptError) -> ImportError {
    let from = from.to_owned();
    match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => ImportError::Passphrase(from),
        DecryptError::ExcessiveWork { required, .. } => ImportError::Work(required),
        DecryptError::NoMatchingKeys | DecryptError::UnknownFormat => ImportError::NotExported(from),
        DecryptError::InvalidHeader | DecryptError::InvalidMac => {
            ImportError::Bad { path: from, why: BadParcel::Damaged("its beginning was changed") }
        }
        DecryptError::Io(error) => ImportError::Bad { path: from, why: BadParcel::Read(error) },
    }
}
