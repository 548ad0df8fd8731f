//! A profile on disk: one folder (0700) with the key (0600), the database, the network file and received files.
//!
//! ```text
//! <dir>/profile.key    the key, wrapped: `key_file`
//! <dir>/profile.lock   held as long as the profile is open
//! <dir>/profile.db     SQLite: WAL, synchronous=FULL, secure_delete; sealed
//! <dir>/network.toml   the network the profile belongs to
//! <dir>/files/         what arrived: `received_files`
//! <dir>/open/          copies of sealed files, as long as the profile is open and no better place is known
//! <dir>/conflict/      evidence against the authorities, when there is any
//! <dir>/moved          the profile was exported and lives elsewhere: `moved`
//! ```

mod disk;
pub(crate) mod evidence;
mod exporting;
mod importing;
mod key_change;
mod key_file;
mod moved;
mod parcel;
mod passphrase;
mod protector;
pub(crate) mod received_files;
pub(crate) mod rows;
mod schema;
mod schema_timeline;
mod vault;

pub(crate) use disk::{io_error, private_dir};
pub use exporting::{ExportError, Exported, export, finish_export};
pub use importing::{Import, ImportError, use_up};
pub use key_change::change_protector;
pub use key_file::{BadKeyFile, KeyFile, NotOpened};
pub use moved::Moved;
pub use parcel::BadParcel;
pub use passphrase::{Cost, CostOutOfRange, NoPassphrase, PASSPHRASE_SIZE_MAX, Passphrase};
pub use protector::{KeyringEntry, Opener, ProfileId, Protection, Protector, WrappingKey};
pub use vault::{Entered, NotSealedHere, SealedCbor, SealedCborError, Vault};

use crate::mail::{MailError, RateClass};
use crate::own_keys::{self, OwnKeys};
use disk::{lock, sync_dir, write_private};
use openmls_sqlite_storage::SqliteStorageProvider;
use rand::CryptoRng;
use received_files::ReceivedFiles;
use rusqlite::{Connection, OptionalExtension as _};
use shoal_protocol::UnixMillis;
use shoal_protocol::inbox::InboxKey;
use shoal_protocol::network::{Hints, NetworkFile};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const SETTING: &str = "setting";
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
    /// The person's keys.
    pub own: OwnKeys,
    /// What arrived.
    pub(crate) files: ReceivedFiles,
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

impl Profile {
    /// Makes a profile in `dir`, which is created if need be; opens and locks it.
    ///
    /// # Errors
    /// [`MailError::Exists`] if there is one already; what the file system or SQLite says.
    pub fn create(
        dir: &Path,
        network: &NetworkFile,
        class: RateClass,
        id: ProfileId,
        protector: &Protector,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, MailError> {
        private_dir(dir)?;
        let lock = lock(dir)?;
        if dir.join(key_file::KEY_FILE).exists() {
            return Err(MailError::Exists(dir.to_path_buf()));
        }
        // the key is written last: a folder without a key is no profile, and a broken attempt may be repeated
        for name in ["profile.db", "profile.db-wal", "profile.db-shm", moved::MARK] {
            let path = dir.join(name);
            if path.exists() {
                fs::remove_file(&path).map_err(io_error(&path))?;
            }
        }
        private_dir(&dir.join(received_files::FOLDER))?;
        write_private(&dir.join("network.toml"), network.to_toml().as_bytes())?;
        let key = Vault::fresh_key(rng);
        let key_file = KeyFile::create(id, &key, protector, rng).map_err(|_| MailError::NoMemory)?;
        let vault = Vault::new(&key);
        let mut db = open_database(&dir.join("profile.db"))?;
        prepare(&mut db)?;
        own_keys::insert(&db, &vault, &InboxKey::generate(rng), UnixMillis(0))?;
        let own = own_keys::load(&db, &vault)?;
        let files = ReceivedFiles::open(dir, key_file.protection() != Protection::File)?;
        let dir = dir.to_path_buf();
        let profile = Self { dir, db, vault, own, files, network: network.clone(), class, _lock: lock };
        profile.set_setting(RATE_CLASS, class_name(class).as_bytes())?;
        key_file.write(&profile.dir)?;
        sync_dir(&profile.dir)?;
        Ok(profile)
    }

    /// Opens and locks the profile in `dir`. With a passphrase this takes about a second.
    ///
    /// # Errors
    /// [`MailError::Missing`], [`MailError::Moved`], [`MailError::Locked`], [`MailError::Sealed`],
    /// [`MailError::WrongKey`], [`MailError::Newer`], [`MailError::Damaged`], and what the file system or SQLite says.
    pub fn open(dir: &Path, opener: &Opener) -> Result<Self, MailError> {
        if !dir.join(key_file::KEY_FILE).exists() {
            return Err(MailError::Missing(dir.to_path_buf()));
        }
        Moved::refuse(dir)?;
        let lock = lock(dir)?;
        // again: it may have been left while the lock was waited for
        Moved::refuse(dir)?;
        let key_file = KeyFile::read(dir)?;
        let vault = Vault::new(&*Self::key(dir, &key_file, opener)?);
        let network_path = dir.join("network.toml");
        let network_text = fs::read_to_string(&network_path).map_err(io_error(&network_path))?;
        let network = NetworkFile::parse(&network_text).map_err(|error| MailError::Network(error.to_string()))?;
        let mut db = open_database(&dir.join("profile.db"))?;
        prepare(&mut db)?;
        let own = own_keys::load(&db, &vault)?;
        let class =
            read_setting(&db, &vault, RATE_CLASS)?.ok_or(MailError::Damaged("the profile has no rate class"))?;
        let class = match class.as_slice() {
            b"low" => RateClass::Low,
            _ => RateClass::Normal,
        };
        let files = ReceivedFiles::open(dir, key_file.protection() != Protection::File)?;
        // a change of the protection that was interrupted is completed
        files.settle(&vault, |_, _| {})?;
        Ok(Self { dir: dir.to_path_buf(), db, vault, own, files, network, class, _lock: lock })
    }

    /// The key in a key file, or why it does not open.
    fn key(dir: &Path, key_file: &KeyFile, opener: &Opener) -> Result<Zeroizing<[u8; 32]>, MailError> {
        key_file.open(opener).map_err(|error| match (error, key_file.protection()) {
            (NotOpened::Wrong, Protection::File) => MailError::Damaged("profile.key was changed"),
            (NotOpened::Wrong, protection) => MailError::WrongKey { profile: dir.to_owned(), protection },
            (NotOpened::Protection(protection), _) => MailError::Sealed { profile: dir.to_owned(), protection },
            (NotOpened::Memory, _) => MailError::NoMemory,
        })
    }

    /// The profile's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
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
    /// From the next opening on the client sends at the rate of this class.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn set_class(&mut self, class: RateClass) -> Result<(), MailError> {
        self.set_setting(RATE_CLASS, class_name(class).as_bytes())?;
        self.class = class;
        Ok(())
    }
    /// The rate class.
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
    SqliteStorageProvider::<SealedCbor, &mut Connection>::new(&mut *db)
        .run_migrations()
        .map_err(|error| MailError::Mls(error.to_string()))?;
    if found == 0 {
        let transaction = db.transaction()?;
        transaction.execute_batch(schema::TABLES)?;
        transaction.execute_batch(schema_timeline::TABLES)?;
        transaction.execute_batch(schema::VERIFIED)?;
        transaction.pragma_update(None, "user_version", schema::FORMAT)?;
        transaction.commit()?;
    }
    Ok(())
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
