//! What a node keeps when the authorities contradict themselves, and how it stays stopped.
//!
//! Two certified documents of one height or epoch mean that a quorum of authorities shows different networks to different
//! people. The two documents prove it by themselves, to anybody who has the network file. They are kept byte for byte,
//! one pair at most (2 × 1 MiB), in a folder that is there with both or not at all. As long as it is there the node does
//! not work: what it would do next depends on which of the two networks it was shown. Only a person can clear this, by
//! deleting the folder.

use crate::io::files;
use anyhow::{Context as _, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder in the node's directory.
const FOLDER: &str = "evidence";
/// Where it is made; what a crash leaves there proves nothing.
const BEGUN: &str = "evidence.new";
/// The document that was verified first, in use or not.
const FIRST: &str = "first";
/// The document that contradicts it.
const SECOND: &str = "second";

/// The pair in a node's directory.
#[derive(Debug, Clone)]
pub struct Evidence {
    dir: PathBuf,
}

impl Evidence {
    /// That of the node in `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.dir.join(FOLDER)
    }

    fn is_there(&self) -> bool {
        // what cannot be looked at is taken for something that is there
        self.folder().try_exists().unwrap_or(true)
    }

    /// Keeps both documents, or neither. A pair that is there already stays: it proves enough.
    pub fn keep(&self, first: &[u8], second: &[u8]) -> Result<()> {
        if self.is_there() {
            return Ok(());
        }
        let begun = self.dir.join(BEGUN);
        match fs::remove_dir_all(&begun) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", begun.display()));
            }
            Ok(()) | Err(_) => {}
        }
        files::private_dir(&begun)?;
        files::write_private(&begun.join(FIRST), first)?;
        files::write_private(&begun.join(SECOND), second)?;
        files::rename(&begun, &self.folder())
    }

    /// What is wrong and what to do, if there is evidence.
    pub fn found(&self) -> Option<String> {
        self.is_there().then(|| self.explain())
    }

    /// What is wrong and what to do.
    pub fn explain(&self) -> String {
        let folder = self.folder();
        let [first, second] = [FIRST, SECOND].map(|name| folder.join(name));
        format!(
            "the authorities contradict themselves: they certified two documents that one chain cannot hold. This node uses \
             neither and forwards nothing. The proof is {} (the document that it verified first) and {}. Send both to the \
             operators of other nodes and of the authorities; when it is settled which document is right, delete the folder \
             {} (and `consensus` and `changes` beside it, if the first was wrong) and start the node again",
            first.display(),
            second.display(),
            folder.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_private_pair_is_kept_until_a_person_deletes_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let evidence = Evidence::of(dir.path());
        assert_eq!(evidence.found(), None);
        // a crash came before both were there
        let begun = dir.path().join(BEGUN);
        files::private_dir(&begun).expect("made");
        files::write_private(&begun.join(FIRST), b"half").expect("written");
        assert_eq!(evidence.found(), None, "half a pair proves nothing");

        evidence.keep(b"one", b"other").expect("kept");
        assert!(!begun.exists());
        evidence.keep(b"two", b"third").expect("the first pair stays");
        let folder = dir.path().join(FOLDER);
        assert!(!files::is_exposed(&folder).expect("looks"));
        for (name, bytes) in [(FIRST, b"one".as_slice()), (SECOND, b"other")] {
            let path = folder.join(name);
            assert_eq!(files::read(&path).expect("read").as_slice(), bytes);
            assert!(!files::is_exposed(&path).expect("looks"));
            assert!(evidence.found().is_some_and(|text| text.contains(&path.display().to_string())));
        }
        assert_eq!(fs::read_dir(&folder).expect("listed").count(), 2);
        fs::remove_dir_all(&folder).expect("removed");
        assert_eq!(evidence.found(), None);
    }
}
