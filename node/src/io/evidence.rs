//! What a node keeps when the authorities contradict themselves, and how it stays stopped.
//!
//! Two certified documents of one height or epoch mean that a quorum of authorities shows different networks to different
//! people. The two documents prove it by themselves, to anybody who has the network file. They are kept byte for byte,
//! one pair at most (2 × 1 MiB), and as long as a file of the pair lies there the node does not work: what it would do
//! next depends on which of the two networks it was shown. Only a person can clear this, by deleting the files.

use crate::io::files;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The document that the node used.
pub const FIRST: &str = "evidence-first";
/// The document that contradicts it.
pub const SECOND: &str = "evidence-second";

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

    fn paths(&self) -> [PathBuf; 2] {
        [FIRST, SECOND].map(|name| self.dir.join(name))
    }

    /// Keeps both documents. A pair that is there already stays: it proves enough.
    pub fn keep(&self, first: &[u8], second: &[u8]) -> Result<()> {
        if self.paths().iter().all(|path| path.exists()) {
            return Ok(());
        }
        let [of_first, of_second] = self.paths();
        files::write_private(&of_first, first)?;
        files::write_private(&of_second, second)
    }

    /// What is wrong and what to do, if there is evidence. One file of the two is enough: a crash may have come between
    /// them, and a file whose state cannot be read is taken for one that is there.
    pub fn found(&self) -> Option<String> {
        self.paths().iter().any(|path| path.try_exists().unwrap_or(true)).then(|| self.explain())
    }

    /// What is wrong and what to do.
    pub fn explain(&self) -> String {
        let [first, second] = self.paths();
        format!(
            "the authorities contradict themselves: they certified two different documents for one epoch. This node uses \
             neither and forwards nothing. The proof is {} (the document in use until then) and {}. Send both to the \
             operators of other nodes and of the authorities; when it is settled which document is right, delete both \
             files (and the file `consensus` beside them, if the first was wrong) and start the node again",
            first.display(),
            second.display()
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
        evidence.keep(b"one", b"other").expect("kept");
        evidence.keep(b"two", b"third").expect("the first pair stays");
        for (name, bytes) in [(FIRST, b"one".as_slice()), (SECOND, b"other")] {
            let path = dir.path().join(name);
            assert_eq!(files::read(&path).expect("read").as_slice(), bytes);
            assert!(!files::is_exposed(&path).expect("looks"));
            assert!(evidence.found().is_some_and(|text| text.contains(name)));
        }
        std::fs::remove_file(dir.path().join(FIRST)).expect("removed");
        assert!(evidence.found().is_some(), "half a pair still stops");
        std::fs::remove_file(dir.path().join(SECOND)).expect("removed");
        assert_eq!(evidence.found(), None);
    }
}
