//! `profile.key`: the key of the profile, wrapped by another one, and where that one is.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `shoal key file`, two zero bytes |
//! | 1 | version, 1 |
//! | 16 | id of the profile: random, names its entries in a keyring |
//! | 1 | protector: 0 file, 1 passphrase, 2 keyring |
//! | 32 | file: the wrapping key. Passphrase: salt 16, memory in KiB 4, passes 4, lanes 4, zeros 4. Keyring: entry 16, zeros 16 |
//! | 24 | nonce |
//! | 48 | the profile's key under the wrapping key: XChaCha20-Poly1305, with all bytes before the nonce as associated data |
//!
//! One length, 138 bytes, and no choice of encodings. With the protector `file` the wrapping key lies beside what it wraps:
//! that protects against damage, not against thieves.

use super::disk::{io_error, write_private};
use super::passphrase::{Cost, CostOutOfRange, Passphrase, SALT_SIZE};
use crate::mail::MailError;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use zeroize::Zeroizing;

/// Name of the file in the profile's folder.
pub(crate) const KEY_FILE: &str = "profile.key";
/// Newest version of the file.
const VERSION: u8 = 1;
const MAGIC: &[u8; 16] = b"shoal key file\0\0";
const FIELD_SIZE: usize = 32;
const HEAD_SIZE: usize = 16 + 1 + 16 + 1 + FIELD_SIZE;
const NONCE_SIZE: usize = 24;
const SEALED_SIZE: usize = 32 + 16;
/// Length of the file, bytes.
pub(super) const KEY_FILE_SIZE: usize = HEAD_SIZE + NONCE_SIZE + SEALED_SIZE;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh one.
            pub fn random(rng: &mut impl CryptoRng) -> Self {
                let mut id = [0; 16];
                rng.fill_bytes(&mut id);
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
id! {
    /// Names a profile on its machine and says nothing about its owner: 16 random bytes, shown as hex.
    ProfileId
}
id! {
    /// Names one entry of a keyring: 16 random bytes, shown as hex.
    KeyringEntry
}

/// What the key of a profile is protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// The mode of the file, and nothing else.
    File,
    /// A passphrase.
    Passphrase,
    /// The keyring of the desktop session.
    Keyring,
}

/// A key that wraps the profile's key. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct WrappingKey(Zeroizing<[u8; 32]>);

impl WrappingKey {
    /// A fresh one.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *key);
        Self(key)
    }
    /// One that a keyring or an exported profile kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
    /// Its bytes, for a keyring or an exported profile to keep.
    #[must_use]
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(redacted)")
    }
}

/// What opens a profile.
#[derive(Clone, Debug)]
pub enum Opener {
    /// Nothing more than its folder.
    File,
    /// Its passphrase.
    Passphrase(Passphrase),
    /// What the keyring kept for it.
    Keyring(WrappingKey),
}

impl Opener {
    /// What kind of protection it is for.
    #[must_use]
    pub fn protection(&self) -> Protection {
        match self {
            Self::File => Protection::File,
            Self::Passphrase(_) => Protection::Passphrase,
            Self::Keyring(_) => Protection::Keyring,
        }
    }
}

/// What shall protect a profile from now on.
#[derive(Clone, Debug)]
pub enum Protector {
    /// The mode of its file, for machines without people.
    File,
    /// A passphrase, at this cost.
    Passphrase(Passphrase, Cost),
    /// A keyring, which keeps this key under that entry already.
    Keyring(KeyringEntry, WrappingKey),
}

impl Protector {
    /// A keyring: an entry and a key that it is to keep before it protects anything.
    pub fn fresh_keyring(rng: &mut impl CryptoRng) -> (KeyringEntry, WrappingKey) {
        (KeyringEntry::random(rng), WrappingKey::random(rng))
    }
    /// What opens the profile again.
    #[must_use]
    pub fn opener(&self) -> Opener {
        match self {
            Self::File => Opener::File,
            Self::Passphrase(passphrase, _) => Opener::Passphrase(passphrase.clone()),
            Self::Keyring(_, key) => Opener::Keyring(key.clone()),
        }
    }
}

/// Why bytes are no key file of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyFile {
    /// Another length or beginning.
    #[error("profile.key is no key file of this version of shoal, or torn")]
    NotAKeyFile,
    /// Made by a newer version.
    #[error("profile.key has version {0}, this shoal knows up to {VERSION}")]
    Newer(u8),
    /// A protector that this version has not.
    #[error("profile.key names a protector that this shoal does not know")]
    Protector,
    /// Work that nobody asks for.
    #[error("profile.key: {0}")]
    Cost(#[from] CostOutOfRange),
}

/// Why a key file did not give the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// It is protected in another way than the opener is for.
    #[error("another kind of protection")]
    Protection(Protection),
    /// The passphrase or the keyring's key is wrong, or the file was changed.
    #[error("wrong passphrase or key, or the file was changed")]
    Wrong,
    /// The memory for the passphrase's work cannot be had.
    #[error("not enough memory")]
    Memory,
}

/// Where the wrapping key is.
#[derive(Clone, Debug)]
enum Kept {
    Here(WrappingKey),
    Passphrase { salt: [u8; SALT_SIZE], cost: Cost },
    Keyring(KeyringEntry),
}

/// A key file. Its secrets are zeroized on drop and never printed.
#[derive(Clone)]
pub struct KeyFile {
    id: ProfileId,
    kept: Kept,
    /// Exactly as it lies on disk.
    bytes: Zeroizing<[u8; KEY_FILE_SIZE]>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("id", &self.id).field("protection", &self.protection()).finish()
    }
}

impl KeyFile {
    /// Wraps the key of a new profile.
    ///
    /// # Errors
    /// [`NotOpened::Memory`].
    pub fn create(
        id: ProfileId,
        key: &[u8; 32],
        protector: &Protector,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, NotOpened> {
        Self::seal(id, key, protector, rng)
    }

    /// Wraps the key of a profile for another protector.
    ///
    /// # Errors
    /// [`NotOpened::Memory`].
    pub fn rewrapped(
        &self,
        key: &[u8; 32],
        protector: &Protector,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, NotOpened> {
        Self::seal(self.id, key, protector, rng)
    }

    fn seal(id: ProfileId, key: &[u8; 32], protector: &Protector, rng: &mut impl CryptoRng) -> Result<Self, NotOpened> {
        let (kept, wrapping) = match protector {
            Protector::File => {
                let wrapping = WrappingKey::random(rng);
                (Kept::Here(wrapping.clone()), wrapping)
            }
            Protector::Passphrase(passphrase, cost) => {
                let mut salt = [0; SALT_SIZE];
                rng.fill_bytes(&mut salt);
                let wrapping = cost.derive(passphrase, &salt).ok_or(NotOpened::Memory)?;
                (Kept::Passphrase { salt, cost: *cost }, WrappingKey(wrapping))
            }
            Protector::Keyring(entry, wrapping) => (Kept::Keyring(*entry), wrapping.clone()),
        };
        let mut bytes = Zeroizing::new([0; KEY_FILE_SIZE]);
        let (head, rest) = bytes.split_at_mut(HEAD_SIZE);
        write_head(head, id, &kept);
        let (nonce, sealed) = rest.split_at_mut(NONCE_SIZE);
        let mut fresh = [0; NONCE_SIZE];
        rng.fill_bytes(&mut fresh);
        nonce.copy_from_slice(&fresh);
        let ciphertext = XChaCha20Poly1305::new(&(*wrapping.0).into())
            .encrypt(&XNonce::from(fresh), Payload { msg: key, aad: head })
            .expect("XChaCha20-Poly1305 refuses only above 256 GiB");
        sealed.copy_from_slice(&ciphertext);
        Ok(Self { id, kept, bytes })
    }

    /// Takes the bytes of a key file.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadKeyFile> {
        let (magic, rest) = bytes.split_first_chunk::<16>().ok_or(BadKeyFile::NotAKeyFile)?;
        let (version, _) = rest.split_first().ok_or(BadKeyFile::NotAKeyFile)?;
        if magic != MAGIC {
            return Err(BadKeyFile::NotAKeyFile);
        }
        if *version != VERSION {
            return Err(if *version > VERSION { BadKeyFile::Newer(*version) } else { BadKeyFile::NotAKeyFile });
        }
        let bytes: Zeroizing<[u8; KEY_FILE_SIZE]> =
            Zeroizing::new(bytes.try_into().map_err(|_| BadKeyFile::NotAKeyFile)?);
        let (_, rest) = bytes.split_at(MAGIC.len() + 1);
        let (id, rest) = rest.split_first_chunk::<16>().ok_or(BadKeyFile::NotAKeyFile)?;
        let (protector, rest) = rest.split_first().ok_or(BadKeyFile::NotAKeyFile)?;
        let (field, _) = rest.split_first_chunk::<FIELD_SIZE>().ok_or(BadKeyFile::NotAKeyFile)?;
        let kept = read_field(*protector, field)?;
        Ok(Self { id: ProfileId(*id), kept, bytes })
    }

    /// Reads the key file of a profile.
    ///
    /// # Errors
    /// [`MailError::Missing`]; [`MailError::Newer`]; [`MailError::BadKey`]; what the disk says.
    pub fn read(profile: &Path) -> Result<Self, MailError> {
        let path = profile.join(KEY_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(MailError::Missing(profile.to_owned())),
            Err(error) => return Err(io_error(&path)(error)),
        };
        // room for all of it: a buffer that grows leaves pieces of a key where it was before
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 * KEY_FILE_SIZE));
        file.take(KEY_FILE_SIZE as u64 + 1).read_to_end(&mut bytes).map_err(io_error(&path))?;
        Self::parse(&bytes).map_err(|error| match error {
            BadKeyFile::Newer(found) => MailError::Newer { found: found.into(), known: VERSION.into() },
            BadKeyFile::NotAKeyFile | BadKeyFile::Protector | BadKeyFile::Cost(_) => {
                MailError::BadKey { profile: profile.to_owned(), why: error }
            }
        })
    }

    /// Replaces the key file of a profile: a crash leaves the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, profile: &Path) -> Result<(), MailError> {
        write_private(&profile.join(KEY_FILE), self.bytes())
    }

    /// Its bytes as they lie on disk.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &*self.bytes
    }

    /// The profile that it belongs to.
    #[must_use]
    pub fn id(&self) -> ProfileId {
        self.id
    }

    /// What the key is protected by.
    #[must_use]
    pub fn protection(&self) -> Protection {
        match self.kept {
            Kept::Here(_) => Protection::File,
            Kept::Passphrase { .. } => Protection::Passphrase,
            Kept::Keyring(_) => Protection::Keyring,
        }
    }

    /// The keyring's entry that keeps the wrapping key, if that is where it is.
    #[must_use]
    pub fn keyring_entry(&self) -> Option<KeyringEntry> {
        match self.kept {
            Kept::Keyring(entry) => Some(entry),
            Kept::Here(_) | Kept::Passphrase { .. } => None,
        }
    }

    /// The profile's key. With a passphrase it takes about a second and [`Cost`]'s memory.
    ///
    /// # Errors
    /// Says why it does not open.
    pub fn open(&self, opener: &Opener) -> Result<Zeroizing<[u8; 32]>, NotOpened> {
        let wrapping = match (&self.kept, opener) {
            (Kept::Here(key), _) => key.clone(),
            (Kept::Passphrase { salt, cost }, Opener::Passphrase(passphrase)) => {
                WrappingKey(cost.derive(passphrase, salt).ok_or(NotOpened::Memory)?)
            }
            (Kept::Keyring(_), Opener::Keyring(key)) => key.clone(),
            (Kept::Passphrase { .. } | Kept::Keyring(_), _) => return Err(NotOpened::Protection(self.protection())),
        };
        let (head, rest) = self.bytes.split_at(HEAD_SIZE);
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_SIZE>().ok_or(NotOpened::Wrong)?;
        let opened = XChaCha20Poly1305::new(&(*wrapping.0).into())
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: head })
            .map(Zeroizing::new)
            .map_err(|_| NotOpened::Wrong)?;
        let key = opened.as_slice().try_into().map_err(|_| NotOpened::Wrong)?;
        Ok(Zeroizing::new(key))
    }
}

/// Fills the bytes before the nonce.
fn write_head(head: &mut [u8], id: ProfileId, kept: &Kept) {
    let (magic, rest) = head.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    let (version, rest) = rest.split_at_mut(1);
    version.fill(VERSION);
    let (profile, rest) = rest.split_at_mut(16);
    profile.copy_from_slice(&id.0);
    let (protector, field) = rest.split_at_mut(1);
    match kept {
        Kept::Here(key) => field.copy_from_slice(&*key.0),
        Kept::Passphrase { salt, cost } => {
            protector.fill(1);
            let numbers = cost.numbers().map(u32::to_be_bytes);
            let parts = salt.iter().chain(numbers.as_flattened());
            field.iter_mut().zip(parts).for_each(|(place, byte)| *place = *byte);
        }
        Kept::Keyring(entry) => {
            protector.fill(2);
            field.split_at_mut(16).0.copy_from_slice(&entry.0);
        }
    }
}

fn read_field(protector: u8, field: &[u8; FIELD_SIZE]) -> Result<Kept, BadKeyFile> {
    let (first, rest) = field.split_first_chunk::<16>().ok_or(BadKeyFile::NotAKeyFile)?;
    match protector {
        0 => Ok(Kept::Here(WrappingKey::from_bytes(field))),
        1 => {
            let number = |at: usize| rest.as_chunks().0.get(at).map_or(0, |bytes| u32::from_be_bytes(*bytes));
            if number(3) != 0 {
                return Err(BadKeyFile::Protector);
            }
            Ok(Kept::Passphrase { salt: *first, cost: Cost::new(number(0), number(1), number(2))? })
        }
        2 if rest.iter().all(|byte| *byte == 0) => Ok(Kept::Keyring(KeyringEntry(*first))),
        _ => Err(BadKeyFile::Protector),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    pub(in crate::profile) fn passphrase(text: &str) -> Passphrase {
        Passphrase::first_line(text.as_bytes()).unwrap()
    }

    /// One of each kind, for the key of 32 bytes 7.
    pub(in crate::profile) fn protectors() -> Vec<Protector> {
        let mut rng = StdRng::seed_from_u64(2);
        let (entry, key) = Protector::fresh_keyring(&mut rng);
        vec![
            Protector::File,
            Protector::Passphrase(passphrase("correct horse"), Cost::LEAST),
            Protector::Keyring(entry, key),
        ]
    }

    fn sealed(protector: &Protector) -> KeyFile {
        let mut rng = StdRng::seed_from_u64(1);
        KeyFile::create(ProfileId::random(&mut rng), &[7; 32], protector, &mut rng).unwrap()
    }

    #[test]
    fn a_key_file_opens_with_what_protects_it_and_with_nothing_else() {
        let all = protectors();
        for protector in &all {
            let file = sealed(protector);
            assert_eq!(file.bytes().len(), KEY_FILE_SIZE);
            let again = KeyFile::parse(file.bytes()).unwrap();
            assert_eq!((again.id(), again.protection()), (file.id(), protector.opener().protection()));
            for other in &all {
                let opened = again.open(&other.opener());
                let should = protector.opener().protection() == Protection::File
                    || protector.opener().protection() == other.opener().protection();
                assert_eq!(opened.is_ok_and(|key| *key == [7; 32]), should, "{protector:?} {other:?}");
            }
        }
        let file = sealed(&all[1]);
        assert_eq!(file.open(&Opener::Passphrase(passphrase("Correct horse"))).unwrap_err(), NotOpened::Wrong);
        assert_eq!(file.open(&Opener::File).unwrap_err(), NotOpened::Protection(Protection::Passphrase));
        let stranger = Opener::Keyring(WrappingKey::from_bytes(&[9; 32]));
        assert_eq!(sealed(&all[2]).open(&stranger).unwrap_err(), NotOpened::Wrong);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for protector in protectors().into_iter().filter(|one| !matches!(one, Protector::Passphrase(..))) {
            let file = sealed(&protector);
            for position in 0..KEY_FILE_SIZE {
                let mut changed = file.bytes().to_vec();
                changed[position] ^= 1;
                let opened = KeyFile::parse(&changed).ok().and_then(|file| file.open(&protector.opener()).ok());
                assert!(opened.is_none(), "byte {position} of {protector:?}");
            }
        }
        // with a passphrase each attempt costs a hash: one byte of every field
        let protector = &protectors()[1];
        for position in [0, 16, 17, 33, 34, 50, 54, 58, 62, 66, 90, 137] {
            let mut changed = sealed(protector).bytes().to_vec();
            changed[position] ^= 1;
            let opened = KeyFile::parse(&changed).ok().and_then(|file| file.open(&protector.opener()).ok());
            assert!(opened.is_none(), "byte {position}");
        }
    }

    #[test]
    fn what_is_no_key_file_says_why() {
        let file = sealed(&protectors()[1]);
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = file.bytes().to_vec();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            KeyFile::parse(&changed).unwrap_err()
        };
        // what versions before the first release wrote
        assert_eq!(KeyFile::parse(&[b'a'; 64]).unwrap_err(), BadKeyFile::NotAKeyFile);
        assert_eq!(with(16, &[2]), BadKeyFile::Newer(2));
        assert_eq!(with(16, &[0]), BadKeyFile::NotAKeyFile);
        assert_eq!(with(33, &[3]), BadKeyFile::Protector);
        assert!(matches!(with(50, &[0xff; 4]), BadKeyFile::Cost(_)), "4 TiB of memory");
        assert!(matches!(with(54, &[0xff; 4]), BadKeyFile::Cost(_)), "4 billion passes");
        assert!(matches!(with(50, &[0; 4]), BadKeyFile::Cost(_)), "no memory at all");
    }

    #[test]
    fn secrets_are_not_printed() {
        for protector in protectors() {
            let text = format!("{protector:?} {:?} {:?}", protector.opener(), sealed(&protector));
            assert!(!text.contains("horse") && !text.contains("0x") && !text.contains("[7"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, piece: [u8; 4]) {
            let _ = KeyFile::parse(&bytes);
            let mut file = sealed(&Protector::File).bytes().to_vec();
            let at = at.index(file.len() - 4);
            file[at..at + 4].copy_from_slice(&piece);
            if let Ok(parsed) = KeyFile::parse(&file) {
                prop_assert_eq!(parsed.bytes(), &file[..]);
            }
        }
    }
}
