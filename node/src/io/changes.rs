//! The documents that changed the set of authorities: kept by every node, for whoever was away while it changed.

use crate::io::files;
use anyhow::{Context as _, Result};
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::consensus::{TrustAnchor, UnverifiedConsensus, VerifiedConsensus, set_hash};
use shoal_protocol::types::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Changes kept. Each is a document, of 200 kB with 1,000 nodes and at most 1 MiB: 13 MB on disk and 40 MB in memory, at
/// most 64 MiB and 160 MiB. A change takes a quorum of operators; once a month, these are five years. Beyond it the oldest
/// goes, and who needs it is led by what an authority answers: those keep all.
pub const KEPT_MAX: usize = 64;

/// Folder in the node's directory, one file a document, named by its height.
const FOLDER: &str = "changes";

/// Sets before those, of which the hash alone is kept: 32 kB. What leads on from them only authorities know.
const OLDER_MAX: usize = 1_024;
/// File with these hashes, one after the other, in the node's directory.
const OLDER: &str = "changes.older";

/// The end of the chain of changes, without gaps.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The set from which the first one leads on; `None` if it is not known.
    base: Option<Hash>,
    documents: Vec<Arc<VerifiedConsensus>>,
    /// The set that each of them names.
    sets: Vec<Hash>,
    /// Sets of this chain before `base`.
    older: Vec<Hash>,
}

impl Changes {
    fn new(genesis: &[AuthorityKey], older: Vec<Hash>) -> Self {
        Self { base: Some(set_hash(genesis)), older, ..Self::default() }
    }

    /// Those that lead on from a set; `None` if it is not one that they lead from or to. Where a set was in force twice,
    /// from its last time. Costs as many comparisons as there are changes: anybody may ask.
    pub fn after(&self, set: &Hash) -> Option<&[Arc<VerifiedConsensus>]> {
        match self.sets.iter().rposition(|named| named == set) {
            Some(at) => self.documents.get(at + 1..),
            None => (self.base.as_ref() == Some(set)).then_some(&self.documents),
        }
    }

    /// Whether a set was in force before those of [`Changes::after`]. Of any other nobody honest can know more.
    pub fn is_older(&self, set: &Hash) -> bool {
        self.older.contains(set)
    }

    /// How many of some documents lead on from a set, by what is known here: the first names the set that followed it, the
    /// second the one that followed that, and so on. `named` are the sets that they name. Nobody's signature is looked at.
    pub fn led(&self, set: &Hash, named: impl IntoIterator<Item = Hash>) -> usize {
        let line: Vec<&Hash> = self.older.iter().chain(&self.base).chain(&self.sets).collect();
        let mut at = *set;
        // a set that was in force twice is in there twice
        let leads = |next: &Hash| {
            let follows = line.array_windows().any(|[before, after]| **before == at && *after == next);
            at = *next;
            follows
        };
        named.into_iter().take_while(leads).count()
    }

    /// Adds the next one. Returns the one that has to go.
    fn push(&mut self, document: Arc<VerifiedConsensus>) -> Option<Arc<VerifiedConsensus>> {
        self.sets.push(set_hash(&document.authorities));
        self.documents.push(document);
        if self.documents.len() <= KEPT_MAX {
            return None;
        }
        let gone = self.documents.remove(0);
        let named = self.sets.remove(0);
        let base = self.base.replace(named);
        // also one that was in force before: what followed it then is asked for as well
        self.older.extend(base);
        self.forget();
        Some(gone)
    }

    /// Begins anew behind a gap. What was before it is older.
    fn gap(&mut self) {
        let before: Vec<Hash> = self.base.take().into_iter().chain(self.sets.drain(..)).collect();
        self.documents.clear();
        self.remember(before);
    }

    fn remember(&mut self, sets: impl IntoIterator<Item = Hash>) {
        for set in sets {
            if !self.older.contains(&set) {
                self.older.push(set);
            }
        }
        self.forget();
    }

    fn forget(&mut self) {
        let surplus = self.older.len().saturating_sub(OLDER_MAX);
        self.older.drain(..surplus);
    }

    fn last_height(&self) -> u64 {
        self.documents.last().map_or(0, |document| document.height)
    }
}

/// Keeps changes on disk and shows them to who hands them out.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    older: PathBuf,
    shown: watch::Sender<Arc<Changes>>,
}

impl Keeper {
    /// Takes up what lies in the node's directory. Where a file is missing or damaged, only what comes after it is used.
    pub fn open(dir: &Path, anchor: &TrustAnchor) -> Result<Self> {
        let (dir, older) = (dir.join(FOLDER), dir.join(OLDER));
        files::private_dir(&dir)?;
        let mut heights = Vec::new();
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let name = entry.with_context(|| format!("cannot list {}", dir.display()))?.file_name();
            heights.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        heights.sort_unstable();
        // a broken end of the file is left out: whoever needs it takes another gateway
        let noted = files::read_optional(&older)?.map_or_else(Vec::new, |bytes| bytes.to_vec());
        let hashes = noted.as_chunks::<32>().0.iter().take(OLDER_MAX).map(|hash| Hash::from_bytes(*hash)).collect();
        let mut changes = Changes::new(&anchor.authorities, hashes);
        let mut set = Some(anchor.authorities.clone());
        for height in heights {
            let bytes = files::read(&path(&dir, height))?;
            let Ok(parsed) = UnverifiedConsensus::parse(&bytes) else {
                tracing::warn!(height, "a kept change of the authorities is damaged");
                set = None;
                continue;
            };
            let linked = set.take().is_some_and(|authorities| {
                let anchor = TrustAnchor { network: anchor.network, authorities };
                parsed.clone().verify_any_time(&anchor).is_ok()
            });
            let Ok(document) = parsed.dangerously_trust_own_copy(&anchor.network) else { continue };
            if !linked {
                changes.gap();
            }
            set = Some(document.authorities.clone());
            changes.push(Arc::new(document));
        }
        Ok(Self { dir, older, shown: watch::Sender::new(Arc::new(changes)) })
    }

    /// Where the changes are shown.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Changes>> {
        self.shown.subscribe()
    }

    /// Keeps a document that changed the set, certified by the set before. That it cannot be kept is said and no reason to
    /// stop: this process still hands it out.
    pub fn keep(&self, document: VerifiedConsensus) {
        let height = document.height;
        if height <= self.shown.borrow().last_height() {
            return;
        }
        if let Err(error) = files::write_private(&path(&self.dir, height), document.bytes()) {
            tracing::error!(error = format!("{error:#}"), "a change of the authorities cannot be kept for a restart");
        }
        let mut changes = Changes::clone(&self.shown.borrow());
        let gone = changes.push(Arc::new(document));
        // with the set from which the first one kept leads on: after a restart nothing else tells which one that is
        let older: Vec<u8> = changes.older.iter().chain(&changes.base).flat_map(|set| *set.as_bytes()).collect();
        self.shown.send_replace(Arc::new(changes));
        if let Some(gone) = gone {
            if let Err(error) = files::write_private(&self.older, &older) {
                tracing::warn!(error = format!("{error:#}"), "an old set of authorities cannot be noted for a restart");
            }
            if let Err(error) = std::fs::remove_file(path(&self.dir, gone.height)) {
                tracing::warn!(%error, "an old change of the authorities cannot be removed");
            }
        }
    }
}

fn path(dir: &Path, height: u64) -> PathBuf {
    dir.join(format!("{height:012}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{certified, content};
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::authority::AuthoritySecret;
    use shoal_protocol::consensus::{Consensus, Follower};
    use shoal_protocol::types::UnixMillis;

    /// A network of one authority, and so many documents of which each names another one.
    fn changing_chain(count: usize) -> (TrustAnchor, Vec<VerifiedConsensus>) {
        let network = Hash::from_bytes([1; 32]);
        let mut rng = StdRng::seed_from_u64(1);
        let mut secret = AuthoritySecret::generate(&mut rng);
        let first = TrustAnchor { network, authorities: vec![secret.public().clone()] };
        let (mut previous, mut chain) = (network, Vec::new());
        for height in 1..=count as u64 {
            let next = AuthoritySecret::generate(&mut rng);
            let start = UnixMillis(1_750_000_000_000 + height * 20_000);
            let named = vec![next.public().clone()];
            let verified = certified(&Consensus { previous, authorities: named, ..content(height, start) }, &secret);
            previous = verified.hash();
            chain.push(verified);
            secret = next;
        }
        (first, chain)
    }

    #[test]
    fn changes_survive_a_restart_and_the_oldest_goes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let (anchor, chain) = changing_chain(KEPT_MAX + 2);
        let hashes: Vec<_> = chain.iter().map(|document| set_hash(&document.authorities)).collect();
        let keeper = Keeper::open(dir.path(), &anchor).expect("empty");
        assert_eq!(keeper.subscribe().borrow().after(&set_hash(&anchor.authorities)).map(<[_]>::len), Some(0));
        for document in &chain[..KEPT_MAX] {
            keeper.keep(document.clone());
            keeper.keep(document.clone());
        }
        let keeper = Keeper::open(dir.path(), &anchor).expect("readable");
        let shown = keeper.subscribe();
        let all = Arc::clone(&shown.borrow());
        assert_eq!(all.after(&set_hash(&anchor.authorities)).map(<[_]>::len), Some(KEPT_MAX));
        assert!(all.after(&hashes[KEPT_MAX]).is_none(), "not known yet");
        // they lead a reader of the network file to the end
        let mut follower = Follower::new(anchor.clone());
        let bytes: Vec<_> =
            all.after(&follower.set()).expect("known").iter().map(|document| document.bytes()).collect();
        assert_eq!(follower.advance(&bytes), Ok(KEPT_MAX));
        assert_eq!(follower.set(), hashes[KEPT_MAX - 1]);

        for document in &chain[KEPT_MAX..] {
            keeper.keep(document.clone());
        }
        // of those that had to go it is known where they led
        assert_eq!(shown.borrow().led(&set_hash(&anchor.authorities), hashes.iter().copied()), hashes.len());
        for changes in [Arc::clone(&shown.borrow()), {
            let reopened = Keeper::open(dir.path(), &anchor).expect("readable");
            let shown = reopened.subscribe();
            Arc::clone(&shown.borrow())
        }] {
            assert_eq!(changes.documents.len(), KEPT_MAX);
            assert!(changes.after(&set_hash(&anchor.authorities)).is_none(), "its change is gone");
            assert!(changes.is_older(&set_hash(&anchor.authorities)) && changes.is_older(&hashes[0]));
            assert!(changes.after(&hashes[1]).is_some() || changes.is_older(&hashes[1]), "after a restart");
            assert!(!changes.is_older(&Hash::from_bytes([9; 32])), "never seen");
            assert!(changes.after(&Hash::from_bytes([9; 32])).is_none());
            assert_eq!(changes.after(&hashes[2]).map(<[_]>::len), Some(KEPT_MAX - 1));
        }
        assert_eq!(std::fs::read_dir(dir.path().join(FOLDER)).expect("listed").count(), KEPT_MAX);
    }

    #[test]
    fn what_others_say_leads_on_from_set_to_set() {
        let hash = |n: u8| Hash::from_bytes([n; 32]);
        let all = |numbers: &[u8]| numbers.iter().map(|n| hash(*n)).collect::<Vec<_>>();
        // 2 was in force twice
        let changes = Changes { older: all(&[1, 2, 3, 2]), base: Some(hash(4)), sets: all(&[5]), ..Changes::default() };
        let led = |from: u8, named: &[u8]| changes.led(&hash(from), all(named));
        assert_eq!(led(1, &[2, 3, 2, 4, 5]), 5);
        assert_eq!(led(2, &[4]), 1, "from its last time");
        assert_eq!(led(3, &[2, 4, 9, 5]), 2, "as far as it leads");
        for (from, named) in [(1, [3, 2]), (1, [9, 2]), (1, [1, 2]), (9, [1, 2]), (5, [6, 7])] {
            assert_eq!(led(from, &named), 0, "{from}: {named:?}");
        }
        assert_eq!(led(1, &[]), 0);
    }

    #[test]
    fn what_comes_before_a_gap_is_not_handed_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (anchor, chain) = changing_chain(4);
        let keeper = Keeper::open(dir.path(), &anchor).expect("empty");
        chain.iter().for_each(|document| keeper.keep(document.clone()));
        std::fs::write(path(&dir.path().join(FOLDER), chain[1].height), b"damaged").expect("written");
        let keeper = Keeper::open(dir.path(), &anchor).expect("readable");
        let shown = keeper.subscribe();
        let changes = shown.borrow();
        assert!(changes.after(&set_hash(&anchor.authorities)).is_none());
        assert!(changes.is_older(&set_hash(&anchor.authorities)), "authorities may lead from there");
        assert_eq!(changes.after(&set_hash(&chain[2].authorities)).map(<[_]>::len), Some(1));
    }
}
