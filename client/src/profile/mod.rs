//! A profile on disk: one folder (0700) with the key (0600), the database, the network file and received files.
//!
//! ```text
//! <dir>/profile.key    64 hexadecimal digits
//! <dir>/profile.lock   held as long as the profile is open
//! <dir>/profile.db     SQLite: WAL, synchronous=FULL, secure_delete; sealed
//! <dir>/network.toml   the network the profile belongs to
//! <dir>/files/         what arrived, one folder a message
//! <dir>/conflict/      evidence against the authorities, when there is any
//! ```

pub(crate) mod evidence;
pub(crate) mod rows;
mod schema;
mod schema_timeline;
mod vault;

pub use vault::{Entered, NotSealedHere, SealedJson, SealedJsonError, Vault};

use crate::mail::{MailError, RateClass};
use openmls_sqlite_storage::SqliteStorageProvider;
use rand::CryptoRng;
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::inbox::InboxKey;
use shoal_protocol::network::{Hints, NetworkFile};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const SETTING: &str = "setting";
const INBOX_KEY: &str = "mail.inbox_key";
const RATE_CLASS: &str = "mail.rate_class";
/// Longest value of a setting: the newest consensus with its certificate (400 KB at 1,000 nodes) fits several times.
pub const SETTING_SIZE_MAX: usize = 4 << 20;

/// An open profile. The lock is held until it is dropped.
pub struct Profile {
    dir: PathBuf,
    /// The database, for the tables' own modules.
    pub db: Connection,
    /// Seals what goes into it.
    pub vault: Vault,
    /// The person's key.
    pub inbox: InboxKey,
    network: NetworkFile,
    class: RateClass,
    // closed last: fields drop in order, and nobody may open the database while we write to it
    _lock: File,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Profile({})", self.dir.display())
    }
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> MailError + '_ {
    move |source| MailError::Io { path: path.to_path_buf(), source }
}

impl Profile {
    /// Makes a profile in `dir`, which is created if need be; opens and locks it.
    ///
    /// # Errors
    /// [`MailError::Exists`] if there is one already; what the file system or SQLite says.
    pub fn create(
        dir: &Path,
        network: &NetworkFile,
        class: RateClass,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, MailError> {
        make_private_dir(dir)?;
        let lock = lock(dir)?;
        let key_path = dir.join("profile.key");
        if key_path.exists() {
            return Err(MailError::Exists(dir.to_path_buf()));
        }
        // the key is written last: a folder without a key is no profile, and a broken attempt may be repeated
        for name in ["profile.db", "profile.db-wal", "profile.db-shm"] {
            let path = dir.join(name);
            if path.exists() {
                fs::remove_file(&path).map_err(io_error(&path))?;
            }
        }
        make_private_dir(&dir.join("files"))?;
        write_private(&dir.join("network.toml"), network.to_toml().as_bytes())?;
        let key = Vault::fresh_key(rng);
        let vault = Vault::new(&key);
        let inbox = InboxKey::generate(rng);
        let mut db = open_database(&dir.join("profile.db"))?;
        prepare(&mut db)?;
        let profile = Self { dir: dir.to_path_buf(), db, vault, inbox, network: network.clone(), class, _lock: lock };
        profile.set_setting(INBOX_KEY, profile.inbox.seed().as_slice())?;
        profile.set_setting(RATE_CLASS, class_name(class).as_bytes())?;
        write_private(&key_path, Zeroizing::new(hex::encode(*key)).as_bytes())?;
        sync_dir(dir)?;
        Ok(profile)
    }

    /// Opens and locks the profile in `dir`.
    ///
    /// # Errors
    /// [`MailError::Missing`], [`MailError::Locked`], [`MailError::Newer`], [`MailError::Damaged`], and what the file
    /// system or SQLite says.
    pub fn open(dir: &Path) -> Result<Self, MailError> {
        let key_path = dir.join("profile.key");
        if !key_path.exists() {
            return Err(MailError::Missing(dir.to_path_buf()));
        }
        let lock = lock(dir)?;
        let text = Zeroizing::new(fs::read_to_string(&key_path).map_err(io_error(&key_path))?);
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), &mut *key).map_err(|_| MailError::Damaged("profile.key is no key"))?;
        let vault = Vault::new(&key);
        let network_path = dir.join("network.toml");
        let network_text = fs::read_to_string(&network_path).map_err(io_error(&network_path))?;
        let network = NetworkFile::parse(&network_text).map_err(|error| MailError::Network(error.to_string()))?;
        let mut db = open_database(&dir.join("profile.db"))?;
        prepare(&mut db)?;
        let setting = |name| -> Result<Zeroizing<Vec<u8>>, MailError> {
            read_setting(&db, &vault, name)?.ok_or(MailError::Damaged("the profile has no key of its own"))
        };
        let seed: Zeroizing<[u8; 32]> =
            Zeroizing::new(setting(INBOX_KEY)?.as_slice().try_into().map_err(|_| MailError::Damaged("inbox key"))?);
        let class = match setting(RATE_CLASS)?.as_slice() {
            b"low" => RateClass::Low,
            _ => RateClass::Normal,
        };
        let inbox = InboxKey::from_seed(&seed);
        Ok(Self { dir: dir.to_path_buf(), db, vault, inbox, network, class, _lock: lock })
    }

    /// The profile's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// Where received files go.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }
    /// The network the profile belongs to.
    #[must_use]
    pub fn network(&self) -> &NetworkFile {
        &self.network
    }
    /// Replaces the hints of the network file; on disk when this returns.
    ///
    /// # Errors
    /// When the file cannot be written; it is then the old one.
    pub fn set_hints(&mut self, hints: Hints) -> Result<(), MailError> {
        let network = NetworkFile { hints, ..self.network.clone() };
        write_private(&self.dir.join("network.toml"), network.to_toml().as_bytes())?;
        self.network = network;
        Ok(())
    }
    /// The rate class it was made with.
    #[must_use]
    pub fn class(&self) -> RateClass {
        self.class
    }

    /// A stored value.
    ///
    /// # Errors
    /// When the database fails or the value does not open.
    pub fn setting(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, MailError> {
        read_setting(&self.db, &self.vault, name)
    }

    /// Stores a value, sealed; on disk when this returns.
    ///
    /// # Errors
    /// When the database fails or the value is longer than [`SETTING_SIZE_MAX`].
    pub fn set_setting(&self, name: &str, value: &[u8]) -> Result<(), MailError> {
        if value.len() > SETTING_SIZE_MAX {
            return Err(MailError::TooLong { length: value.len() as u64, limit: SETTING_SIZE_MAX as u64 });
        }
        self.db
            .prepare_cached(
                "INSERT INTO setting (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            )?
            .execute((name, self.vault.seal(SETTING, value)))?;
        Ok(())
    }

    /// Forgets a stored value.
    pub(crate) fn remove_setting(&self, name: &str) -> Result<(), MailError> {
        self.db.prepare_cached("DELETE FROM setting WHERE name = ?1")?.execute([name])?;
        Ok(())
    }
}

fn read_setting(db: &Connection, vault: &Vault, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, MailError> {
    let sealed: Option<Vec<u8>> = db
        .prepare_cached("SELECT value FROM setting WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    sealed
        .map(|sealed| vault.open(SETTING, &sealed).map_err(|_| MailError::Damaged("a setting does not open")))
        .transpose()
}

fn class_name(class: RateClass) -> &'static str {
    match class {
        RateClass::Normal => "normal",
        RateClass::Low => "low",
    }
}

fn open_database(path: &Path) -> Result<Connection, MailError> {
    // made by us with 0600 before SQLite sees it, which gives its -wal and -shm files the same mode
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io_error(path))?;
    let db = Connection::open(path)?;
    // before the first table, else it has no effect
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "journal_size_limit", 4 << 20)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "secure_delete", "ON")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.set_prepared_statement_cache_capacity(128);
    Ok(db)
}

/// Brings the database to the format of this version.
fn prepare(db: &mut Connection) -> Result<(), MailError> {
    let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > schema::FORMAT {
        return Err(MailError::Newer { found, known: schema::FORMAT });
    }
    if found != 0 && found < schema::FORMAT {
        return Err(MailError::Damaged("it was made by a version before the first release; make a new one"));
    }
    SqliteStorageProvider::<SealedJson, &mut Connection>::new(&mut *db)
        .run_migrations()
        .map_err(|error| MailError::Mls(error.to_string()))?;
    if found == 0 {
        let transaction = db.transaction()?;
        transaction.execute_batch(schema::TABLES)?;
        transaction.execute_batch(schema_timeline::TABLES)?;
        transaction.pragma_update(None, "user_version", schema::FORMAT)?;
        transaction.commit()?;
    }
    Ok(())
}

fn make_private_dir(dir: &Path) -> Result<(), MailError> {
    if dir.is_dir() {
        return fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io_error(dir));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))
}

fn lock(dir: &Path) -> Result<File, MailError> {
    let path = dir.join("profile.lock");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MailError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(MailError::Io { path, source }),
    }
}

/// Writes a file of mode 0600 so that it is either whole or not there, also after a crash.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), MailError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part).map_err(io_error(&part))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io_error(&part))?;
    fs::rename(&part, path).map_err(io_error(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes renames in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), MailError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(io_error(dir))
}

/// Makes a folder of mode 0700 inside the profile.
pub(crate) fn private_dir(dir: &Path) -> Result<(), MailError> {
    make_private_dir(dir)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An empty database of this format, in memory.
    pub(crate) fn database() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        prepare(&mut db).unwrap();
        db
    }
}
