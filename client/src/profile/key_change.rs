//! Another protector for a profile: only the key is wrapped anew, in one rename.

use super::disk::{io_error, lock};
use super::key_file::{KEY_FILE, KeyFile, Opener, Protection, Protector};
use super::received_files::ReceivedFiles;
use super::{Moved, Profile, Vault};
use crate::mail::MailError;
use rand::CryptoRng;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Has `protector` protect the profile in `dir`, which nobody may have open, from now on, and brings its received files into
/// the form that goes with it. `progress` hears files done and files in all. A keyring's key must be in the keyring before.
/// Returns the key file that was replaced.
///
/// A crash leaves the old protector or the new one; in the second case the next start goes on with the files.
///
/// # Errors
/// As [`Profile::open`]; nothing is changed when the opener is wrong.
pub fn change_protector(
    dir: &Path,
    opener: &Opener,
    protector: &Protector,
    rng: &mut impl CryptoRng,
    progress: impl FnMut(u64, u64),
) -> Result<KeyFile, MailError> {
    let before = KeyFile::read(dir)?;
    Moved::refuse(dir)?;
    let _lock = lock(dir)?;
    let key = Profile::key(dir, &before, opener)?;
    let after = before.rewrapped(&key, protector, rng).map_err(|_| MailError::NoMemory)?;
    let path = dir.join(KEY_FILE);
    let replaced = OpenOptions::new().write(true).open(&path).map_err(io_error(&path))?;
    after.write(dir)?;
    if let Err(error) = overwrite(replaced) {
        tracing::warn!(%error, "the old key file could not be overwritten");
    }
    ReceivedFiles::open(dir, after.protection() != Protection::File)?.settle(&Vault::new(&key), progress)?;
    Ok(before)
}

/// Overwrites what was the key file: it may have opened without the passphrase. File systems that write elsewhere, and
/// disks that remap, keep the old one all the same; a hard link is somebody's copy and is left alone.
fn overwrite(mut replaced: File) -> io::Result<()> {
    let metadata = replaced.metadata()?;
    if metadata.nlink() > 0 {
        return Ok(());
    }
    let length = usize::try_from(metadata.len()).unwrap_or(0);
    replaced.write_all(&vec![0; length])?;
    replaced.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::key_file::tests::{passphrase, protectors};
    use super::*;
    use crate::mail::{Mail, RateClass};
    use crate::profile::{Cost, WrappingKey};
    use rand::{SeedableRng as _, rngs::StdRng};
    use std::fs;

    fn profile(dir: &Path, protector: &Protector) -> String {
        let mut rng = StdRng::seed_from_u64(3);
        let network = crate::testing::network();
        Mail::create_with(dir, &network, RateClass::Normal, protector, &mut rng).unwrap().address()
    }

    #[test]
    fn every_protector_gives_way_to_every_other_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ann");
        let all = protectors();
        let address = profile(&dir, &all[0]);
        let id = KeyFile::read(&dir).unwrap().id();
        let mut before = &all[0];
        for after in [&all[1], &all[2], &all[0], &all[2], &all[1], &all[1], &all[0]] {
            let rng = &mut StdRng::seed_from_u64(4);
            let wrong = Opener::Keyring(WrappingKey::from_bytes(&[3; 32]));
            if before.opener().protection() != Protection::File {
                assert!(change_protector(&dir, &wrong, after, rng, |_, _| {}).is_err());
            }
            change_protector(&dir, &before.opener(), after, rng, |_, _| {}).unwrap();
            assert_eq!(KeyFile::read(&dir).unwrap().id(), id);
            assert_eq!(Mail::open_with(&dir, &after.opener()).unwrap().address(), address);
            if after.opener().protection() != Protection::File {
                assert!(matches!(Mail::open(&dir), Err(MailError::Sealed { .. })));
            }
            before = after;
        }
    }

    #[test]
    fn a_crash_leaves_the_old_protector_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ann");
        let old = Protector::File;
        let address = profile(&dir, &old);
        let part = dir.join("profile.key.part");
        let new = Protector::Passphrase(passphrase("correct horse"), Cost::LEAST);
        let rng = &mut StdRng::seed_from_u64(5);
        let before = KeyFile::read(&dir).unwrap();
        let key = before.open(&Opener::File).unwrap();
        let after = before.rewrapped(&key, &new, rng).unwrap();
        // before the rename, however much of the new file was written
        for written in [0, 1, 70, after.bytes().len()] {
            fs::write(&part, &after.bytes()[..written]).unwrap();
            assert_eq!(Mail::open(&dir).unwrap().address(), address);
        }
        // after it
        fs::rename(&part, dir.join(KEY_FILE)).unwrap();
        assert_eq!(Mail::open_with(&dir, &new.opener()).unwrap().address(), address);
        // what lies there does not hinder the next change
        fs::write(&part, b"rubbish").unwrap();
        change_protector(&dir, &new.opener(), &old, rng, |_, _| {}).unwrap();
        assert_eq!(Mail::open(&dir).unwrap().address(), address);
    }

    #[test]
    fn the_old_key_file_is_overwritten_unless_somebody_linked_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ann");
        profile(&dir, &Protector::File);
        let old = File::open(dir.join(KEY_FILE)).unwrap();
        let (linked, rng) = (folder.path().join("link"), &mut StdRng::seed_from_u64(6));
        let new = Protector::Passphrase(passphrase("correct horse"), Cost::LEAST);
        change_protector(&dir, &Opener::File, &new, rng, |_, _| {}).unwrap();
        assert!(io::read_to_string(&old).unwrap().bytes().all(|byte| byte == 0));
        fs::hard_link(dir.join(KEY_FILE), &linked).unwrap();
        change_protector(&dir, &new.opener(), &Protector::File, rng, |_, _| {}).unwrap();
        KeyFile::parse(&fs::read(linked).unwrap()).unwrap();
    }

    #[test]
    fn a_profile_that_is_open_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ann");
        profile(&dir, &Protector::File);
        let open = Mail::open(&dir).unwrap();
        let rng = &mut StdRng::seed_from_u64(7);
        let change = change_protector(&dir, &Opener::File, &Protector::File, rng, |_, _| {});
        assert!(matches!(change, Err(MailError::Locked(_))));
        drop(open);
    }
}
