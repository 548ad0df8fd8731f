//! What arrived, in `files/` of the profile.
//!
//! ```text
//! files/CONVERSATION/MESSAGE/NAME   as it is: the profile's key lies beside it, and sealing would be for show
//! files/sealed/PLACE                sealed: a passphrase or a keyring protects the profile
//! ```
//!
//! PLACE is a keyed hash of the three names. What is sealed is handed out as a copy, on demand and one at a time, in a
//! folder that is emptied when the profile is opened and when it is closed.

use super::disk::{io_error, private_dir, write_private};
use super::vault::Vault;
use crate::mail::{ConversationId, MailError, MessageId};
use minicbor::{Decode, Encode};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the folder in the profile.
pub(crate) const FOLDER: &str = "files";
/// Inside it: what is sealed.
const SEALED: &str = "sealed";
/// Name of the profile's folder for copies, if no better place is known.
pub(crate) const COPIES: &str = "open";
/// Contexts of the vault.
const PLACE: &str = "file.place";
const CONTENT: &str = "file";
/// Bytes of the keyed hash that names a sealed file: the nonce with which its place is sealed.
const NAME_SIZE: usize = 24;
/// Longest description of a place: two ids and a name of 200 bytes.
const HEAD_SIZE_MAX: usize = 512;

/// Which file of which message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) conversation: ConversationId,
    pub(crate) message: MessageId,
    /// A single component of a path.
    pub(crate) name: String,
}

#[derive(Encode, Decode)]
struct Head {
    #[cbor(n(0), with = "minicbor::bytes")]
    conversation: [u8; 16],
    #[cbor(n(1), with = "minicbor::bytes")]
    message: [u8; 16],
    #[n(2)]
    name: String,
}

impl Place {
    fn below(&self, folder: &Path) -> PathBuf {
        folder.join(self.conversation.to_string()).join(self.message.to_string()).join(&self.name)
    }

    fn encode(&self) -> Vec<u8> {
        let Self { conversation, message, name } = self;
        let head = Head { conversation: conversation.0, message: message.0, name: name.clone() };
        // writing to a Vec cannot fail
        minicbor::to_vec(&head).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let Head { conversation, message, name } = minicbor::decode(bytes).ok()?;
        let is_component = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        is_component.then_some(Self { conversation: ConversationId(conversation), message: MessageId(message), name })
    }

    fn sealed(&self, files: &Path, vault: &Vault) -> PathBuf {
        let sealed = vault.seal(PLACE, &self.encode());
        let (name, _) = sealed.split_at(NAME_SIZE.min(sealed.len()));
        files.join(SEALED).join(hex::encode(name))
    }
}

/// The files of an open profile.
#[derive(Debug)]
pub(crate) struct ReceivedFiles {
    files: PathBuf,
    copies: PathBuf,
    /// Inside the profile: takes the copies for which there is no room elsewhere.
    spare: PathBuf,
    /// Whether what arrives from now on is sealed.
    seals: bool,
}

impl ReceivedFiles {
    /// Those of the profile in `dir`; copies that an earlier process left are gone when this returns.
    pub(crate) fn open(dir: &Path, seals: bool) -> Result<Self, MailError> {
        let files = Self { files: dir.join(FOLDER), copies: dir.join(COPIES), spare: dir.join(COPIES), seals };
        files.forget_copies()?;
        Ok(files)
    }

    /// Has the copies made in another folder, which must be nobody else's; what lies there is removed.
    pub(crate) fn set_copies(&mut self, copies: PathBuf) -> Result<(), MailError> {
        self.forget_copies()?;
        self.copies = copies;
        self.forget_copies()
    }

    fn forget_copies(&self) -> Result<(), MailError> {
        for folder in [&self.copies, &self.spare] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(folder)(error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Keeps a file; whole on disk when this returns, also after a crash.
    pub(crate) fn keep(&self, place: &Place, vault: &Vault, content: &[u8]) -> Result<(), MailError> {
        if self.seals {
            keep_sealed(&self.files, place, vault, content)
        } else {
            keep_plain(&self.files, place, content)
        }
    }

    /// Where the file is, or will be after [`Self::hand_out`].
    pub(crate) fn path(&self, place: &Place) -> PathBuf {
        let plain = place.below(&self.files);
        if plain.exists() {
            return plain;
        }
        let copies = [&self.copies, &self.spare].map(|folder| place.below(folder));
        let copied = copies.iter().find(|copy| copy.exists()).cloned();
        let [copy, _] = copies;
        copied.unwrap_or(if self.seals { copy } else { plain })
    }

    /// Makes sure that the file is at the path that this returns, as long as the profile is open.
    pub(crate) fn hand_out(&self, place: &Place, vault: &Vault) -> Result<PathBuf, MailError> {
        let path = self.path(place);
        // written by one rename: what is there is whole
        if path.exists() {
            return Ok(path);
        }
        let sealed = place.sealed(&self.files, vault);
        let (found, content) = open_sealed(&sealed, vault)?;
        if found != *place {
            return Err(MailError::Damaged("a received file is another than its name says"));
        }
        let copied = write_below(&self.copies, place, &content);
        // memory may be too small for it where the disk is not
        if copied.is_err() && self.copies != self.spare {
            return write_below(&self.spare, place, &content);
        }
        copied
    }

    /// Brings all files into the form that the profile's protection asks for. After a crash in between it goes on where it
    /// was: a file is removed in one form when it lies in the other.
    pub(crate) fn settle(&self, vault: &Vault, mut progress: impl FnMut(u64, u64)) -> Result<(), MailError> {
        let moving = if self.seals { plain_files(&self.files)? } else { sealed_files(&self.files)? };
        let all = moving.len() as u64;
        for (done, path) in (0..).zip(&moving) {
            progress(done, all);
            if self.seals {
                self.seal_one(path, vault)?;
            } else {
                let (place, content) = open_sealed(path, vault)?;
                keep_plain(&self.files, &place, &content)?;
                fs::remove_file(path).map_err(io_error(path))?;
            }
        }
        if all > 0 {
            progress(all, all);
        }
        Ok(())
    }

    fn seal_one(&self, path: &Path, vault: &Vault) -> Result<(), MailError> {
        let Some(place) = place_of(path) else { return Ok(()) };
        let content = Zeroizing::new(fs::read(path).map_err(io_error(path))?);
        keep_sealed(&self.files, &place, vault, &content)?;
        fs::remove_file(path).map_err(io_error(path))?;
        // the folders of the message and of the conversation, when they are empty now
        for folder in path.ancestors().skip(1).take(2) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for ReceivedFiles {
    fn drop(&mut self) {
        // what cannot be removed now is when the profile is opened again
        let _ = self.forget_copies();
    }
}

fn keep_plain(files: &Path, place: &Place, content: &[u8]) -> Result<(), MailError> {
    write_below(files, place, content).map(drop)
}

fn write_below(folder: &Path, place: &Place, content: &[u8]) -> Result<PathBuf, MailError> {
    let path = place.below(folder);
    private_dir(path.parent().unwrap_or(folder))?;
    write_private(&path, content)?;
    Ok(path)
}

fn keep_sealed(files: &Path, place: &Place, vault: &Vault, content: &[u8]) -> Result<(), MailError> {
    let head = place.encode();
    let length = u16::try_from(head.len()).map_err(|_| MailError::Damaged("a file's name is too long"))?;
    let whole = Zeroizing::new([&length.to_be_bytes(), head.as_slice(), content].concat());
    private_dir(&files.join(SEALED))?;
    write_private(&place.sealed(files, vault), &vault.seal(CONTENT, &whole))
}

fn open_sealed(path: &Path, vault: &Vault) -> Result<(Place, Zeroizing<Vec<u8>>), MailError> {
    const DAMAGED: MailError = MailError::Damaged("a received file does not open");
    let sealed = fs::read(path).map_err(io_error(path))?;
    let mut whole = vault.open(CONTENT, &sealed).map_err(|_| DAMAGED)?;
    let (length, rest) = whole.split_first_chunk::<2>().ok_or(DAMAGED)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let head = rest.get(..length).filter(|_| length <= HEAD_SIZE_MAX).ok_or(DAMAGED)?;
    let place = Place::decode(head).ok_or(DAMAGED)?;
    whole.drain(..2 + length);
    Ok((place, whole))
}

/// The place that a plain file's path names; `None`: it is none of ours.
fn place_of(path: &Path) -> Option<Place> {
    let mut parts = path.iter().rev().map(|part| part.to_str());
    let name = parts.next()??.to_owned();
    let message = parts.next()??.parse().ok()?;
    let conversation = parts.next()??.parse().ok()?;
    Some(Place { conversation, message, name })
}

fn plain_files(files: &Path) -> Result<Vec<PathBuf>, MailError> {
    let mut found = Vec::new();
    for conversation in entries(files)? {
        for message in entries(&conversation)? {
            found.extend(entries(&message)?.into_iter().filter(|path| path.is_file() && place_of(path).is_some()));
        }
    }
    Ok(found)
}

fn sealed_files(files: &Path) -> Result<Vec<PathBuf>, MailError> {
    // what a crash left half written has a name of another length
    let is_whole = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 2 * NAME_SIZE);
    Ok(entries(&files.join(SEALED))?.into_iter().filter(is_whole).collect())
}

/// All files of the profile in `dir`, in whichever form.
pub(super) fn all(dir: &Path) -> Result<Vec<PathBuf>, MailError> {
    let files = dir.join(FOLDER);
    let mut found = plain_files(&files)?;
    found.extend(sealed_files(&files)?);
    Ok(found)
}

/// What is in a folder, in a fixed order; nothing, if it is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, MailError> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(io_error(folder)(error)),
    };
    let mut paths =
        listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(io_error(folder))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(message: u8, name: &str) -> Place {
        Place { conversation: ConversationId([1; 16]), message: MessageId([message; 16]), name: name.to_owned() }
    }

    fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for path in entries(folder).unwrap() {
            if path.is_dir() {
                found.extend(everything(&path));
            } else {
                let content = fs::read(&path).unwrap();
                found.push((path, content));
            }
        }
        found
    }

    #[test]
    fn sealed_files_show_nothing_and_are_handed_out_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(&[1; 32]);
        let files = ReceivedFiles::open(dir.path(), true).unwrap();
        for (message, name) in [(2, "will.pdf"), (3, "will.pdf"), (4, "photo.jpg")] {
            files.keep(&place(message, name), &vault, format!("content of {message}").as_bytes()).unwrap();
        }
        for (path, content) in everything(dir.path()) {
            let shown = format!("{} {}", path.display(), String::from_utf8_lossy(&content));
            for secret in ["will", "photo", "content", &ConversationId([1; 16]).to_string()] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
        let path = files.hand_out(&place(3, "will.pdf"), &vault).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), path.clone()),
            (b"content of 3".to_vec(), files.path(&place(3, "will.pdf")))
        );
        assert_eq!(everything(&dir.path().join(COPIES)).len(), 1);
        assert!(files.hand_out(&place(5, "none"), &vault).is_err());
        assert!(files.hand_out(&place(4, "photo.jpg"), &Vault::new(&[2; 32])).is_err(), "another profile's");
        // one that was put into another's place is noticed
        let [one, other] =
            [place(2, "will.pdf"), place(4, "photo.jpg")].map(|place| place.sealed(&files.files, &vault));
        fs::rename(one, other).unwrap();
        assert!(files.hand_out(&place(4, "photo.jpg"), &vault).is_err());
        drop(files);
        assert!(!path.exists(), "copies go when the profile is closed");
    }

    #[test]
    fn copies_that_a_killed_process_left_go_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(&[1; 32]);
        let files = ReceivedFiles::open(dir.path(), true).unwrap();
        files.keep(&place(2, "a"), &vault, b"x").unwrap();
        let path = files.hand_out(&place(2, "a"), &vault).unwrap();
        std::mem::forget(files);
        assert!(path.exists());
        let again = ReceivedFiles::open(dir.path(), true).unwrap();
        assert!(!path.exists());
        assert!(again.hand_out(&place(2, "a"), &vault).unwrap().exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn files_change_their_form_and_nothing_else_also_across_a_crash(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
            crash in 0usize..6,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let vault = Vault::new(&[1; 32]);
            let places: Vec<Place> = (0u8..).take(contents.len()).map(|n| place(n, &format!("name {n}.part"))).collect();
            let mut files = ReceivedFiles::open(dir.path(), false).unwrap();
            for (place, content) in places.iter().zip(&contents) {
                files.keep(place, &vault, content).unwrap();
            }
            let before = everything(dir.path());
            files.seals = true;
            // a crash after so many files were sealed, and one of them not yet removed
            for place in places.iter().take(crash) {
                let path = place.below(&files.files);
                let content = fs::read(&path).unwrap();
                keep_sealed(&files.files, place, &vault, &content).unwrap();
                if place.message.0[0] as usize + 1 < crash {
                    fs::remove_file(path).unwrap();
                }
            }
            files.settle(&vault, |_, _| {}).unwrap();
            prop_assert_eq!(plain_files(&files.files).unwrap().len(), 0);
            for (place, content) in places.iter().zip(&contents) {
                prop_assert_eq!(&fs::read(files.hand_out(place, &vault).unwrap()).unwrap(), content);
            }
            files.forget_copies().unwrap();
            files.seals = false;
            files.settle(&vault, |_, _| {}).unwrap();
            prop_assert_eq!(everything(dir.path()), before);
        }

        #[test]
        fn no_description_of_a_place_panics_or_leads_out_of_the_folder(bytes in prop::collection::vec(any::<u8>(), 0..80), name in ".{0,12}") {
            let _ = Place::decode(&bytes);
            let head = Head { conversation: [1; 16], message: [2; 16], name };
            if let Some(place) = Place::decode(&minicbor::to_vec(&head).unwrap()) {
                prop_assert_eq!(place.below(Path::new("/files")).iter().count(), 5);
            }
        }
    }
}
