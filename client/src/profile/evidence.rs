//! Proof that the authorities contradicted themselves, kept as files in `conflict/` inside the profile's folder. As long
//! as the folder is there, no message leaves.
//!
//! ```text
//! conflict/held-EPOCH-HASH                  the certified document that this client had verified
//! conflict/other-EPOCH-HASH                 the one that cannot lie on its chain, as a gateway handed it over
//! conflict/held-certificate-HEIGHT-HASH     the certificate of a document held here
//! conflict/other-certificate-HEIGHT-HASH    one that contradicts it, as a contact sent it
//! ```
//!
//! The hashes in the names can be compared with others'. The files are what the network publishes; they say nothing about
//! the profile, and can be shown to anybody.
//!
//! What a contact proved is noted in the database first, in the transaction that brought it: a crash between the two
//! leaves the files to be written at the next start.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use shoal_protocol::{Epoch, Hash};

use super::{Profile, io_error};
use crate::mail::MailError;

/// Name of the folder inside the profile.
const FOLDER: &str = "conflict";
/// Setting: evidence whose files may not be written yet.
const NOTED: &str = "mail.conflict";

/// What a piece of evidence is, and where in the chain it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Kind {
    /// A certified document of this epoch.
    #[n(0)]
    Document(#[n(0)] Epoch),
    /// The certificate of a document of this height.
    #[n(1)]
    Certificate(#[n(0)] u64),
}

/// One of the two that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Exhibit {
    #[n(0)]
    pub(crate) kind: Kind,
    /// Hash of the document.
    #[n(1)]
    pub(crate) hash: Hash,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) bytes: Vec<u8>,
}

impl Exhibit {
    fn name(&self, which: &str) -> String {
        let hash = self.hash;
        match self.kind {
            Kind::Document(epoch) => format!("{which}-{epoch}-{hash}"),
            Kind::Certificate(height) => format!("{which}-certificate-{height}-{hash}"),
        }
    }
}

/// Where the evidence lies, if it does.
pub(crate) fn folder(profile: &Path) -> PathBuf {
    profile.join(FOLDER)
}

/// The folder of the evidence, if there is any.
pub(crate) fn kept(profile: &Path) -> Option<PathBuf> {
    Some(folder(profile)).filter(|folder| folder.exists())
}

/// The files of the evidence, in a fixed order.
pub(super) fn files(profile: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(folder) = kept(profile) else { return Ok(Vec::new()) };
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// Writes both, the one that was held first; on disk when it returns.
pub(crate) fn keep(profile: &Path, [held, other]: &[Exhibit; 2]) -> io::Result<()> {
    let folder = folder(profile);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    for (which, exhibit) in [("held", held), ("other", other)] {
        let path = folder.join(exhibit.name(which));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&exhibit.bytes)?;
        file.sync_all()?;
    }
    fs::File::open(&folder)?.sync_all()?;
    fs::File::open(profile)?.sync_all()
}

/// Notes evidence in the database, in the transaction that is open: [`keep_noted`] after its commit.
pub(crate) fn note(profile: &Profile, evidence: &[Exhibit; 2]) -> Result<(), MailError> {
    // writing to a Vec cannot fail
    profile.set_setting(NOTED, &minicbor::to_vec(evidence).unwrap_or_default())
}

/// Writes the files of what is noted.
pub(crate) fn keep_noted(profile: &Profile) -> Result<(), MailError> {
    let Some(noted) = profile.setting(NOTED)? else { return Ok(()) };
    let evidence = minicbor::decode(&noted).map_err(|_| MailError::Damaged("the evidence noted cannot be read"))?;
    keep(profile.dir(), &evidence).map_err(io_error(&folder(profile.dir())))?;
    profile.remove_setting(NOTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_kept_until_somebody_removes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()), None);
        let exhibit = |kind, byte: u8| Exhibit { kind, hash: Hash::from_bytes([byte; 32]), bytes: vec![byte] };
        let pairs = [
            [exhibit(Kind::Document(Epoch(40)), 1), exhibit(Kind::Document(Epoch(41)), 2)],
            [exhibit(Kind::Certificate(7), 3), exhibit(Kind::Certificate(9), 4)],
        ];
        for pair in &pairs {
            keep(dir.path(), pair).unwrap();
        }
        let at = kept(dir.path()).unwrap();
        for (name, content) in
            [("held-40", 1u8), ("other-41", 2), ("held-certificate-7", 3), ("other-certificate-9", 4)]
        {
            let path = at.join(format!("{name}-{}", Hash::from_bytes([content; 32])));
            assert_eq!(fs::read(path).unwrap(), [content]);
        }
        fs::remove_dir_all(at).unwrap();
        assert_eq!(kept(dir.path()), None);
    }
}
