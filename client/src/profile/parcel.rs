//! What an exported profile holds inside its encryption: a head, then one file after the other.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `shoal profile`, three zero bytes |
//! | 1 | version, 1 |
//! | 4 | length of the head |
//! | … | head: CBOR array of time made, genesis hash, key file, format of the database, number of files, sum of their lengths, key that the keyring kept or null |
//! | | for each file: length of its name 2, name, length 8, content |
//! | 8 | `the end.` |
//!
//! Whoever reads it is given paths from a fixed list only, and never more bytes than the head says.

use super::key_file::{KEY_FILE_SIZE, KeyFile};
use crate::mail::MailError;
use minicbor::{Decode, Encode};
use shoal_protocol::{Hash, UnixMillis};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use zeroize::{Zeroize, Zeroizing};

/// Newest version of the layout.
const VERSION: u8 = 1;
const MAGIC: &[u8; 16] = b"shoal profile\0\0\0";
const END: &[u8; 8] = b"the end.";
const HEAD_SIZE_MAX: u32 = 4 << 10;
/// Longest name of a file: four components of 255 bytes.
const NAME_SIZE_MAX: usize = 1_024;
/// Most files, and most bytes of all of them: a million, 1 TiB.
pub(super) const FILES_MAX: u32 = 1_000_000;
pub(super) const BYTES_MAX: u64 = 1 << 40;
/// Read and written at a time.
const CHUNK: usize = 64 << 10;

/// The database, the network file, and the folders that may be there.
pub(super) const DATABASE: &str = "profile.db";
pub(super) const NETWORK: &str = "network.toml";
const FOLDERS: [&str; 2] = ["files", "conflict"];

/// What is said of a profile before its files.
#[derive(Encode, Decode)]
pub(super) struct Head {
    #[n(0)]
    pub(super) made: u64,
    #[n(1)]
    pub(super) network: Hash,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(super) key_file: [u8; KEY_FILE_SIZE],
    #[n(3)]
    pub(super) format: u32,
    #[n(4)]
    pub(super) files: u32,
    #[n(5)]
    pub(super) bytes: u64,
    #[cbor(n(6), with = "minicbor::bytes")]
    pub(super) wrapping: Option<[u8; 32]>,
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("format", &self.format).field("files", &self.files).finish_non_exhaustive()
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.key_file.zeroize();
        self.wrapping.zeroize();
    }
}

impl Head {
    /// When it was made.
    pub(super) fn made(&self) -> UnixMillis {
        UnixMillis(self.made)
    }
}

/// Why bytes are no exported profile, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum BadParcel {
    /// It holds something else.
    #[error("it holds no profile")]
    NotAProfile,
    /// A newer version made it.
    #[error("it has version {0}, this shoal knows up to {VERSION}")]
    Newer(u8),
    /// It contradicts itself.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It cannot be read, or does not decrypt.
    #[error("it ends too early, or was changed ({0})")]
    Read(io::Error),
    /// What was in it cannot be written.
    #[error(transparent)]
    Written(#[from] MailError),
}

/// The path of a file inside a profile, from those that a profile may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName(String);

impl FileName {
    /// Takes a name as it is written, with `/` between its components.
    pub(super) fn parse(name: &str) -> Result<Self, BadParcel> {
        let parts: Vec<&str> = name.split('/').collect();
        let is_component = |part: &&str| {
            !part.is_empty() && part.len() <= 255 && *part != "." && *part != ".." && !part.contains('\0')
        };
        let is_known = match parts.as_slice() {
            [one] => [DATABASE, NETWORK].contains(one),
            [first, rest @ ..] => FOLDERS.contains(first) && rest.len() <= 3 && rest.iter().all(is_component),
            [] => false,
        };
        if !is_known || name.len() > NAME_SIZE_MAX {
            return Err(BadParcel::Damaged("a file has a name that no profile has"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The path below the profile's folder.
    pub(super) fn path(&self) -> PathBuf {
        self.0.split('/').collect()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Writes the head.
pub(super) fn write_head(to: &mut impl Write, head: &Head) -> io::Result<()> {
    let mut encoded = Zeroizing::new(Vec::with_capacity(HEAD_SIZE_MAX as usize));
    minicbor::encode(head, &mut *encoded).map_err(|error| io::Error::other(error.to_string()))?;
    let length = u32::try_from(encoded.len()).map_err(io::Error::other)?;
    to.write_all(MAGIC)?;
    to.write_all(&[VERSION])?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&encoded)
}

/// Writes a file of exactly `length` bytes.
pub(super) fn write_file(
    to: &mut impl Write,
    name: &FileName,
    length: u64,
    from: &mut impl Read,
    mut progress: impl FnMut(u64),
) -> io::Result<()> {
    let size = u16::try_from(name.0.len()).map_err(io::Error::other)?;
    to.write_all(&size.to_be_bytes())?;
    to.write_all(name.0.as_bytes())?;
    to.write_all(&length.to_be_bytes())?;
    let mut left = length;
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    while left > 0 {
        let room = chunk.get_mut(..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)).unwrap_or_default();
        from.read_exact(room)?;
        to.write_all(room)?;
        left -= room.len() as u64;
        progress(room.len() as u64);
    }
    // one byte more would mean that it grew while it was read
    if from.read(&mut [0])? > 0 {
        return Err(io::Error::other(format!("{} changed while it was read", name.0)));
    }
    Ok(())
}

/// Writes what comes after the last file.
pub(super) fn write_end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(END)
}

/// Reads a parcel, piece by piece.
pub(super) struct Parcel<R> {
    from: R,
    files_left: u32,
    bytes_left: u64,
}

impl<R: Read> Parcel<R> {
    /// Reads the head.
    pub(super) fn open(mut from: R) -> Result<(Head, KeyFile, Self), BadParcel> {
        let magic: [u8; 16] = take(&mut from)?;
        if magic != *MAGIC {
            return Err(BadParcel::NotAProfile);
        }
        match take(&mut from)? {
            [VERSION] => {}
            [version] if version > VERSION => return Err(BadParcel::Newer(version)),
            [_] => return Err(BadParcel::NotAProfile),
        }
        let length = u32::from_be_bytes(take(&mut from)?);
        if length > HEAD_SIZE_MAX {
            return Err(BadParcel::Damaged("its head is too long"));
        }
        let mut encoded = Zeroizing::new(vec![0; length as usize]);
        from.read_exact(&mut encoded).map_err(BadParcel::Read)?;
        let mut decoder = minicbor::Decoder::new(&encoded);
        let head: Head = decoder.decode().map_err(|_| BadParcel::Damaged("its head cannot be read"))?;
        if decoder.position() != encoded.len() || head.files > FILES_MAX || head.bytes > BYTES_MAX {
            return Err(BadParcel::Damaged("its head is out of bounds"));
        }
        let key_file = KeyFile::parse(&head.key_file).map_err(|_| BadParcel::Damaged("its key file"))?;
        let parcel = Self { from, files_left: head.files, bytes_left: head.bytes };
        Ok((head, key_file, parcel))
    }

    /// Name and length of the next file; [`Parcel::copy`] must follow. `None` after the last: everything was read, and
    /// nothing follows.
    pub(super) fn next(&mut self) -> Result<Option<(FileName, u64)>, BadParcel> {
        if self.files_left == 0 {
            let end: [u8; 8] = take(&mut self.from)?;
            // the cipher checks its own end when there is no more to read
            let follows = self.from.read(&mut [0]).map_err(BadParcel::Read)?;
            let is_whole = end == *END && follows == 0 && self.bytes_left == 0;
            return if is_whole { Ok(None) } else { Err(BadParcel::Damaged("it does not end where it says")) };
        }
        self.files_left -= 1;
        let size = usize::from(u16::from_be_bytes(take(&mut self.from)?));
        if size > NAME_SIZE_MAX {
            return Err(BadParcel::Damaged("a name is too long"));
        }
        let mut name = vec![0; size];
        self.from.read_exact(&mut name).map_err(BadParcel::Read)?;
        let name = String::from_utf8(name).map_err(|_| BadParcel::Damaged("a name is no text"))?;
        let length = u64::from_be_bytes(take(&mut self.from)?);
        self.bytes_left =
            self.bytes_left.checked_sub(length).ok_or(BadParcel::Damaged("its files are longer than it says"))?;
        Ok(Some((FileName::parse(&name)?, length)))
    }

    /// Hands the content of that file over, piece by piece.
    pub(super) fn copy(
        &mut self,
        length: u64,
        mut to: impl FnMut(&[u8]) -> Result<(), MailError>,
    ) -> Result<(), BadParcel> {
        let mut left = length;
        let mut chunk = Zeroizing::new(vec![0; CHUNK]);
        while left > 0 {
            let room = chunk.get_mut(..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)).unwrap_or_default();
            self.from.read_exact(room).map_err(BadParcel::Read)?;
            to(room)?;
            left -= room.len() as u64;
        }
        Ok(())
    }
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N], BadParcel> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(BadParcel::Read)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::key_file::{ProfileId, Protector};
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn head(files: &[(&str, &[u8])]) -> Head {
        let mut rng = StdRng::seed_from_u64(1);
        let id = ProfileId::random(&mut rng);
        let key_file = KeyFile::create(id, &[7; 32], &Protector::File, &mut rng).unwrap();
        Head {
            made: 5,
            network: Hash::from_bytes([3; 32]),
            key_file: key_file.bytes().try_into().unwrap(),
            format: 4,
            files: u32::try_from(files.len()).unwrap(),
            bytes: files.iter().map(|(_, content)| content.len() as u64).sum(),
            wrapping: None,
        }
    }

    fn packed(head: &Head, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_head(&mut bytes, head).unwrap();
        for (name, content) in files {
            let mut from = *content;
            write_file(&mut bytes, &FileName((*name).to_owned()), content.len() as u64, &mut from, |_| {}).unwrap();
        }
        write_end(&mut bytes).unwrap();
        bytes
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, BadParcel> {
        let (_, _, mut parcel) = Parcel::open(bytes)?;
        let mut files = Vec::new();
        while let Some((name, length)) = parcel.next()? {
            let mut content = Vec::new();
            parcel.copy(length, |piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            files.push((name.0, content));
        }
        Ok(files)
    }

    #[test]
    fn names_lead_to_known_places_only() {
        for name in ["profile.db", "network.toml", "files/a/b/c d", "files/sealed/0a", "conflict/held-1-00"] {
            assert_eq!(FileName::parse(name).unwrap().path(), PathBuf::from(name));
        }
        for name in [
            "",
            "/",
            "profile.key",
            "moved",
            "control.sock",
            "files",
            "files/",
            "files//a",
            "files/../profile.key",
            "/files/a",
            "files/a/b/c/d",
            "files/./a",
            "elsewhere/a",
            "files/a\0b",
            "..",
        ] {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn lies_about_lengths_are_noticed() {
        let files: &[(&str, &[u8])] = &[("profile.db", b"0123"), ("network.toml", b"")];
        assert_eq!(unpacked(&packed(&head(files), files)).unwrap().len(), 2);
        for (count, bytes) in [(2, 3), (2, 5), (1, 4), (3, 4)] {
            let mut wrong = head(files);
            (wrong.files, wrong.bytes) = (count, bytes);
            assert!(unpacked(&packed(&wrong, files)).is_err(), "{count} files, {bytes} bytes");
        }
        let mut newer = packed(&head(files), files);
        newer[16] = 2;
        assert!(matches!(unpacked(&newer), Err(BadParcel::Newer(2))));
        let followed = [packed(&head(files), files), vec![0]].concat();
        assert!(unpacked(&followed).is_err());
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked_and_nothing_of_what_was_torn(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            cut: prop::sample::Index,
        ) {
            let names: Vec<String> = (0..contents.len()).map(|n| format!("files/{n}")).collect();
            let files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
            let bytes = packed(&head(&files), &files);
            let expected: Vec<(String, Vec<u8>)> = names.iter().cloned().zip(contents.iter().cloned()).collect();
            prop_assert_eq!(unpacked(&bytes).unwrap(), expected);
            prop_assert!(unpacked(&bytes[..cut.index(bytes.len())]).is_err());
        }
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, at: prop::sample::Index, piece: [u8; 6]) {
            let _ = unpacked(&bytes);
            let files: &[(&str, &[u8])] = &[("profile.db", b"0123")];
            let mut whole = packed(&head(files), files);
            let at = at.index(whole.len() - 6);
            whole[at..at + 6].copy_from_slice(&piece);
            let _ = unpacked(&whole);
        }
    }
}
