//! Two certified documents that contradict each other, kept as files: `conflict/held-EPOCH-HASH` and
//! `conflict/other-EPOCH-HASH` in the profile's folder, so that the hashes can be compared with others'. As long as the folder is there, no message leaves. The files are certified documents as the
//! network publishes them; they say nothing about the profile, and can be shown to anybody.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use shoal_protocol::{Epoch, Hash};

/// Name of the folder inside the profile.
const FOLDER: &str = "conflict";

/// Where the evidence lies, if it does.
pub(super) fn folder(profile: &Path) -> PathBuf {
    profile.join(FOLDER)
}

/// The folder of the evidence, if there is any.
pub(super) fn kept(profile: &Path) -> Option<PathBuf> {
    Some(folder(profile)).filter(|folder| folder.exists())
}

/// Writes both documents, each with its hash; on disk when it returns.
pub(super) fn keep(profile: &Path, epoch: Epoch, held: (Hash, &[u8]), other: (Hash, &[u8])) -> io::Result<()> {
    let folder = folder(profile);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    for (which, (hash, bytes)) in [("held", held), ("other", other)] {
        let path = folder.join(format!("{which}-{epoch}-{hash}"));
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
        keep(dir.path(), Epoch(40), (one, b"one"), (two, b"two")).unwrap();
        let at = kept(dir.path()).unwrap();
        assert_eq!(fs::read(at.join(format!("held-40-{one}"))).unwrap(), b"one");
        assert_eq!(fs::read(at.join(format!("other-40-{two}"))).unwrap(), b"two");
        fs::remove_dir_all(at).unwrap();
        assert_eq!(kept(dir.path()), None);
    }
}
