//! The mark that a profile lives elsewhere now: `moved` in its folder. As long as it is there, the profile is not opened.
//!
//! The state of a conversation must never be used in two places. Therefore the mark is durable before the exported file can
//! be opened by anybody: what is lacking in that file lies in the mark until it has been put there.

use super::disk::{io_error, write_private};
use crate::mail::MailError;
use minicbor::{Decode, Encode};
use shoal_protocol::UnixMillis;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Name of the file in the profile's folder.
pub(crate) const MARK: &str = "moved";
const VERSION: u8 = 1;
/// Longest mark: a path of 4,096 bytes, the withheld beginning, and their frame.
const MARK_SIZE_MAX: u64 = 8 << 10;

/// Says where a profile went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When it was exported.
    pub at: UnixMillis,
    /// The file that it was exported to. Empty: the mark cannot be read.
    pub to: PathBuf,
    /// The beginning of that file, which may lack it still.
    pub(super) withheld: Option<Vec<u8>>,
}

#[derive(Encode, Decode)]
struct Wire {
    #[n(0)]
    version: u8,
    #[n(1)]
    at: u64,
    #[cbor(n(2), with = "minicbor::bytes")]
    to: Vec<u8>,
    #[cbor(n(3), with = "minicbor::bytes")]
    withheld: Option<Vec<u8>>,
}

impl Moved {
    /// Whether the exported file may still lack its beginning.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.withheld.is_some()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let Wire { version, at, to, withheld } = decoder.decode().ok()?;
        let is_known = version == VERSION && decoder.position() == bytes.len();
        is_known.then(|| Self { at: UnixMillis(at), to: PathBuf::from(OsStr::from_bytes(&to)), withheld })
    }

    fn encode(&self) -> Vec<u8> {
        let to = self.to.as_os_str().as_bytes().to_vec();
        let wire = Wire { version: VERSION, at: self.at.0, to, withheld: self.withheld.clone() };
        // writing to a Vec cannot fail
        minicbor::to_vec(wire).unwrap_or_default()
    }

    /// The mark of the profile in `dir`, if it has one. One that cannot be understood is a mark all the same.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub fn read(dir: &Path) -> Result<Option<Self>, MailError> {
        let path = dir.join(MARK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(MARK_SIZE_MAX).read_to_end(&mut bytes).map_err(io_error(&path))?;
        let unclear = Self { at: UnixMillis::default(), to: PathBuf::new(), withheld: None };
        Ok(Some(Self::parse(&bytes).unwrap_or(unclear)))
    }

    /// Refuses a profile that has the mark.
    ///
    /// # Errors
    /// [`MailError::Moved`].
    pub fn refuse(dir: &Path) -> Result<(), MailError> {
        match Self::read(dir)? {
            Some(moved) => Err(MailError::Moved { profile: dir.to_owned(), moved: Box::new(moved) }),
            None => Ok(()),
        }
    }

    /// Puts the mark there; durable when this returns.
    pub(super) fn write(&self, dir: &Path) -> Result<(), MailError> {
        write_private(&dir.join(MARK), &self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn whatever_lies_there_is_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Moved::read(dir.path()).unwrap(), None);
        Moved::refuse(dir.path()).unwrap();
        for content in [&b""[..], b"rubbish", &[0xff; 20_000]] {
            fs::write(dir.path().join(MARK), content).unwrap();
            assert!(Moved::refuse(dir.path()).is_err());
        }
    }

    proptest! {
        #[test]
        fn marks_round_trip(at: u64, to in "[^\0]{0,40}", withheld: Option<Vec<u8>>, bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            let moved = Moved { at: UnixMillis(at), to: to.into(), withheld };
            moved.write(dir.path()).unwrap();
            prop_assert_eq!(Moved::read(dir.path()).unwrap(), Some(moved));
            let _ = Moved::parse(&bytes);
        }
    }
}
