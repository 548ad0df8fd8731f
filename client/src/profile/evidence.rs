//! Proof that the authorities contradicted themselves, kept as files in `conflict/` inside the profile's folder. As long
//! as the folder is there, no message leaves.
//!
//! ```text
//! conflict/held-EPOCH-HASH                  the certified document held here
//! conflict/other-EPOCH-HASH                 the one that cannot lie on its chain, as a gateway handed it over
//! conflict/held-certificate-HEIGHT-HASH     the certificate of the document held here
//! conflict/other-certificate-HEIGHT-HASH    that of another document of its height, as a contact sent it
//! ```
//!
//! The hashes in the names can be compared with others'. The files are what the network publishes; they say nothing about
//! the profile, and can be shown to anybody.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use shoal_protocol::{Epoch, Hash};

/// Name of the folder inside the profile.
const FOLDER: &str = "conflict";

/// What the evidence consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhibit {
    /// Two certified documents, of which one is of this epoch.
    Documents(Epoch),
    /// Two certificates for this height.
    Certificates(u64),
}

/// Where the evidence lies, if it does.
pub(crate) fn folder(profile: &Path) -> PathBuf {
    profile.join(FOLDER)
}

/// The folder of the evidence, if there is any.
pub(crate) fn kept(profile: &Path) -> Option<PathBuf> {
    Some(folder(profile)).filter(|folder| folder.exists())
}

/// Writes both, each with the hash of its document; on disk when it returns.
pub(crate) fn keep(profile: &Path, what: Exhibit, held: (Hash, &[u8]), other: (Hash, &[u8])) -> io::Result<()> {
    let folder = folder(profile);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    for (which, (hash, bytes)) in [("held", held), ("other", other)] {
        let path = folder.join(match what {
            Exhibit::Documents(epoch) => format!("{which}-{epoch}-{hash}"),
            Exhibit::Certificates(height) => format!("{which}-certificate-{height}-{hash}"),
        });
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    fs::File::open(&folder)?.sync_all()?;
    fs::File::open(profile)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_kept_until_somebody_removes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()), None);
        let [one, two] = [1, 2].map(|byte| Hash::from_bytes([byte; 32]));
        keep(dir.path(), Exhibit::Documents(Epoch(40)), (one, b"one"), (two, b"two")).unwrap();
        keep(dir.path(), Exhibit::Certificates(7), (one, b"1"), (two, b"2")).unwrap();
        let at = kept(dir.path()).unwrap();
        assert_eq!(fs::read(at.join(format!("held-40-{one}"))).unwrap(), b"one");
        assert_eq!(fs::read(at.join(format!("other-40-{two}"))).unwrap(), b"two");
        assert_eq!(fs::read(at.join(format!("held-certificate-7-{one}"))).unwrap(), b"1");
        assert_eq!(fs::read(at.join(format!("other-certificate-7-{two}"))).unwrap(), b"2");
        fs::remove_dir_all(at).unwrap();
        assert_eq!(kept(dir.path()), None);
    }
}
