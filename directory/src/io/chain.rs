//! The certified documents of this authority, one file each.
//!
//! A document is on the disk, fsynced, before anybody else sees it: after a crash the authority continues the chain it
//! had shown, and never signs a second document for one height or epoch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_protocol::Hash;
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus, set_hash};

use super::failure::{Failure, Kind};
use super::files;

/// Documents kept. 1,024 × 400 kB (1,000 nodes) = 400 MB; two weeks of 20-minute epochs.
pub const DOCUMENTS_KEPT: u64 = 1024;

const SUFFIX: &str = "consensus";

/// Folder of the documents that changed the set of authorities: kept for ever, they lead whoever was away for long.
const CHANGES: &str = "changes";

/// The newest documents in memory, the others on disk.
#[derive(Debug)]
pub struct Chain {
    dir: PathBuf,
    genesis: Vec<AuthorityKey>,
    /// By height, each with the hash of the set that it began: readers ask by that, and a set of 64 takes 30 µs to hash.
    /// Changes are rare and agreed on by a quorum: 100 of 400 kB are 40 MB.
    changes: BTreeMap<u64, (Hash, Arc<VerifiedConsensus>)>,
    before: Option<Arc<VerifiedConsensus>>,
    newest: Option<Arc<VerifiedConsensus>>,
}

impl Chain {
    /// Opens the chain in `dir`. Its documents were verified before they were written, and nobody else writes there.
    ///
    /// # Errors
    /// A file cannot be read, or two do not belong together: then the authority must not sign, because what it signed is
    /// unclear.
    pub fn open(dir: &Path, network: &Hash, genesis: &[AuthorityKey]) -> Result<Self, Failure> {
        let changing = dir.join(CHANGES);
        files::create_dir(&changing)?;
        let mut changes = BTreeMap::new();
        for height in heights(&changing)? {
            let change = Arc::new(read(&changing, height, network)?);
            changes.insert(height, (set_hash(&change.authorities), change));
        }
        let heights = heights(dir)?;
        let mut last: Vec<Arc<VerifiedConsensus>> = Vec::new();
        for height in heights.iter().rev().take(2).rev() {
            let document = read(dir, *height, network)?;
            if let Some(before) = last.last() {
                check_link(before, &document).map_err(|problem| broken(dir, *height, problem))?;
            }
            last.push(Arc::new(document));
        }
        let newest = last.pop();
        Ok(Self { dir: dir.to_owned(), genesis: genesis.to_vec(), changes, before: last.pop(), newest })
    }

    /// The newest document, handed out or not.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<VerifiedConsensus>> {
        self.newest.as_ref()
    }

    /// The newest document for which `released` holds.
    #[must_use]
    pub fn newest_where(&self, released: impl Fn(&VerifiedConsensus) -> bool) -> Option<&Arc<VerifiedConsensus>> {
        self.newest.iter().chain(&self.before).find(|document| released(document))
    }

    /// Makes `document` the newest: writes it, fsyncs, and only then shows it.
    ///
    /// # Errors
    /// It does not follow the newest, or cannot be written. The chain is then as before.
    pub fn append(&mut self, document: Arc<VerifiedConsensus>) -> Result<(), Failure> {
        match &self.newest {
            Some(newest) => check_link(newest, &document),
            None if document.height > 1 || document.previous == document.network => Ok(()),
            None => Err("the first document must name the network as its predecessor"),
        }
        .map_err(|problem| broken(&self.dir, document.height, problem))?;
        let path = path(&self.dir, document.height);
        if path.exists() {
            return Err(broken(&self.dir, document.height, "a document of this height exists"));
        }
        let height = document.height;
        let set = self.newest.as_ref().map_or(&self.genesis, |newest| &newest.authorities);
        if *set != document.authorities {
            files::replace(&self::path(&self.dir.join(CHANGES), height), document.bytes(), files::PUBLIC, true)?;
            self.changes.insert(height, (set_hash(&document.authorities), Arc::clone(&document)));
        }
        files::replace(&path, document.bytes(), files::PUBLIC, true)?;
        self.before = self.newest.replace(document);
        self.forget_old(height);
        Ok(())
    }

    /// Keeps `document` in the place of the newest: the same one under another certificate.
    ///
    /// # Errors
    /// It is another one, or cannot be written. The chain is then as before.
    pub fn complete(&mut self, document: Arc<VerifiedConsensus>) -> Result<(), Failure> {
        let height = document.height;
        if self.newest.as_ref().is_none_or(|newest| newest.hash() != document.hash()) {
            return Err(broken(&self.dir, height, "it is not the newest document that is completed"));
        }
        files::replace(&path(&self.dir, height), document.bytes(), files::PUBLIC, true)?;
        self.newest = Some(document);
        Ok(())
    }

    /// Removes what is too old to be asked for. That it cannot be removed is no reason to stop.
    fn forget_old(&self, newest: u64) {
        if let Some(old) = newest.checked_sub(DOCUMENTS_KEPT)
            && let Err(error) = std::fs::remove_file(path(&self.dir, old))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(height = old, %error, "an old document cannot be removed");
        }
    }

    /// Documents after `height` at which the set of authorities changed, oldest first.
    #[must_use]
    pub fn changes_after(&self, height: u64) -> Vec<Arc<VerifiedConsensus>> {
        self.changes.range(height.saturating_add(1)..).map(|(_, (_, document))| Arc::clone(document)).collect()
    }

    /// Documents that lead on from the last set with this hash, oldest first; `None` if the chain never had it.
    #[must_use]
    pub fn changes_from(&self, set: &Hash) -> Option<Vec<Arc<VerifiedConsensus>>> {
        let began = self.changes.iter().rev().find(|(_, (began, _))| began == set).map(|(height, _)| *height);
        began.or_else(|| (set_hash(&self.genesis) == *set).then_some(0)).map(|height| self.changes_after(height))
    }
}

/// The documents that changed the set of authorities, in a chain's folder.
#[must_use]
pub fn changes_dir(dir: &Path) -> PathBuf {
    dir.join(CHANGES)
}

/// Heights on disk, increasing.
///
/// # Errors
/// The directory cannot be read.
pub fn heights(dir: &Path) -> Result<Vec<u64>, Failure> {
    let listed = std::fs::read_dir(dir).map_err(|error| Failure::file("read", dir, &error))?;
    let mut heights = Vec::new();
    for entry in listed {
        let path = entry.map_err(|error| Failure::file("read", dir, &error))?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && let Some(height) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        {
            heights.push(height);
        }
    }
    heights.sort_unstable();
    Ok(heights)
}

/// Reads the document of `height`, which was verified before it was written.
///
/// # Errors
/// It cannot be read, or is none of this network.
pub fn read(dir: &Path, height: u64, network: &Hash) -> Result<VerifiedConsensus, Failure> {
    let path = path(dir, height);
    let document = UnverifiedConsensus::parse(&files::read(&path)?)
        .and_then(|unverified| unverified.dangerously_trust_own_copy(network))
        .map_err(|error| broken(dir, height, &error.to_string()))?;
    if document.height == height { Ok(document) } else { Err(broken(dir, height, "the file holds another height")) }
}

/// Whether `document` comes after `before`. Some may lie between: an authority that was away takes the newest.
///
/// # Errors
/// What contradicts it.
pub fn check_link(before: &VerifiedConsensus, document: &VerifiedConsensus) -> Result<(), &'static str> {
    if document.height <= before.height {
        return Err("its height does not follow the document before it");
    }
    if document.height == before.height + 1 && document.previous != before.hash() {
        return Err("it names another predecessor than the document before it");
    }
    if document.epoch <= before.epoch {
        return Err("its epoch is not after that of the document before it");
    }
    Ok(())
}

fn path(dir: &Path, height: u64) -> PathBuf {
    dir.join(format!("{height:012}.{SUFFIX}"))
}

fn broken(dir: &Path, height: u64, problem: &str) -> Failure {
    Failure::new(
        Kind::Configuration,
        format!("{}: {problem}", path(dir, height).display()),
        "restore the directory from a copy made after the last document; never delete documents to make it start",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::certified_chain;

    #[test]
    fn a_chain_is_continued_after_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let documents = certified_chain(4, false);
        let (network, genesis) = (documents[0].network, documents[0].authorities.clone());
        let mut chain = Chain::open(dir.path(), &network, &genesis).expect("empty");
        assert!(chain.newest().is_none());
        for document in &documents[..2] {
            chain.append(Arc::clone(document)).expect("follows");
        }
        let mut chain = Chain::open(dir.path(), &network, &genesis).expect("readable");
        assert_eq!(chain.newest(), Some(&documents[1]));
        assert_eq!(chain.newest_where(|document| document.height == 1), Some(&documents[0]));
        // the third was missed
        chain.append(Arc::clone(&documents[3])).expect("follows");
        assert_eq!(heights(dir.path()), Ok(vec![1, 2, 4]));
        assert!(Chain::open(dir.path(), &network, &genesis).is_ok());
        assert!(Chain::open(dir.path(), &Hash::from_bytes([9; 32]), &genesis).is_err(), "another network's");
    }

    #[test]
    fn no_second_document_of_a_height_is_ever_taken() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (documents, others) = (certified_chain(2, false), certified_chain(2, true));
        let (network, genesis) = (documents[0].network, documents[0].authorities.clone());
        let mut chain = Chain::open(dir.path(), &network, &genesis).expect("empty");
        chain.append(Arc::clone(&documents[0])).expect("the first");
        for wrong in [&documents[0], &others[0], &others[1]] {
            assert!(chain.append(Arc::clone(wrong)).is_err());
        }
        // A file that memory does not know of, as after a copied directory: it is not overwritten.
        let ahead = path(dir.path(), 2);
        std::fs::write(&ahead, others[1].bytes()).expect("written");
        assert!(chain.append(Arc::clone(&documents[1])).is_err());
        assert_eq!(files::read(&ahead).as_deref(), Ok(others[1].bytes()));
        // And it does not follow what is there: the authority refuses to start.
        assert_eq!(
            Chain::open(dir.path(), &network, &genesis).map(|_| ()).map_err(|f| f.kind),
            Err(Kind::Configuration)
        );
    }

    #[test]
    fn a_change_of_the_set_is_kept_and_found_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let documents = certified_chain(3, false);
        // by another genesis, the first document changed the set
        let genesis = Vec::new();
        let mut chain = Chain::open(dir.path(), &documents[0].network, &genesis).expect("empty");
        for document in &documents {
            chain.append(Arc::clone(document)).expect("follows");
        }
        let chain = Chain::open(dir.path(), &documents[0].network, &genesis).expect("readable");
        assert_eq!(chain.changes_after(0), [Arc::clone(&documents[0])]);
        assert!(chain.changes_after(1).is_empty());
        assert_eq!(chain.changes_from(&set_hash(&documents[0].authorities)), Some(Vec::new()));
        assert_eq!(chain.changes_from(&Hash::from_bytes([9; 32])), None, "a set that never was");
        assert_eq!(heights(dir.path()), Ok(vec![1, 2, 3]));
    }
}
