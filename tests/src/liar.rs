//! Parties gone bad that offer old documents: an authority whose key was stolen, and a gateway. They speak the real protocols
//! on loopback; only what they say is wrong.

use shoal_protocol::authority::{AUTHORITY_SECRET_SIZE, AuthoritySecret};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX, STREAM_CONSENSUS};
use shoal_protocol::quic::{Endpoint, Link, Protocol, QUESTION_TIMEOUT, read_question};
use shoal_protocol::types::{Identity, IdentityKey};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// Longest question of another authority that is read; what it says does not matter.
const PEER_QUESTION_MAX: usize = 8 << 20;

/// What was offered to whom: how many documents, in the order of the list and then again from its beginning. `None`: somebody
/// who showed no key.
type Offered = Arc<Mutex<BTreeMap<Option<Identity>, usize>>>;

/// One such party; gone when dropped.
#[derive(Debug)]
pub struct Liar {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whose key it has.
    pub identity: Identity,
    documents: usize,
    offered: Offered,
    _runtime: Runtime,
}

impl Liar {
    /// An authority: answers every question for the newest document with the next of `documents`.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn authority(listen: SocketAddr, key: &IdentityKey, documents: Vec<Vec<u8>>) -> Self {
        Self::start(listen, key, Protocol::Directory, documents)
    }

    /// A gateway: pushes all of `documents` to whoever links to it, and takes its packets to nowhere.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn gateway(listen: SocketAddr, key: &IdentityKey, documents: Vec<Vec<u8>>) -> Self {
        Self::start(listen, key, Protocol::Client, documents)
    }

    fn start(listen: SocketAddr, key: &IdentityKey, protocol: Protocol, documents: Vec<Vec<u8>>) -> Self {
        assert!(!documents.is_empty(), "there is something to offer");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let _inside = runtime.enter();
        let endpoint = Endpoint::bind(listen, key, &[protocol]).expect("the port is free");
        let address = endpoint.local_addr().expect("bound");
        let (offered, count) = (Offered::default(), documents.len());
        let (theirs, documents) = (Arc::clone(&offered), Arc::new(documents));
        runtime.spawn(async move {
            while let Some(arrival) = endpoint.accept().await {
                let (documents, offered) = (Arc::clone(&documents), Arc::clone(&theirs));
                tokio::spawn(async move {
                    let Ok(link) = arrival.admit().await else { return };
                    match protocol {
                        Protocol::Client => push(&link, &documents, &offered).await,
                        Protocol::Directory | Protocol::Mix | Protocol::Store => {
                            answer(&link, &documents, &offered).await
                        }
                    }
                });
            }
        });
        drop(_inside);
        Self { address, identity: key.identity(), documents: count, offered, _runtime: runtime }
    }

    /// How often the whole list was offered to a party.
    #[must_use]
    pub fn rounds(&self, to: Option<&Identity>) -> usize {
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        offered.get(&to.copied()).copied().unwrap_or(0) / self.documents
    }
}

/// The next document for this asker.
fn next<'a>(of: &'a [Vec<u8>], offered: &Offered, to: Option<Identity>) -> &'a [u8] {
    let mut offered = offered.lock().unwrap_or_else(PoisonError::into_inner);
    let count = offered.entry(to).or_default();
    *count += 1;
    &of[(*count - 1) % of.len()]
}

async fn answer(link: &Link, documents: &[Vec<u8>], offered: &Offered) {
    let longest = PEER_QUESTION_MAX.max(QUESTION_SIZE_MAX);
    while let Ok(Some((question, answerer))) = read_question(link, longest, QUESTION_TIMEOUT).await {
        let answer = match DirectoryQuestion::from_bytes(&question) {
            Ok(DirectoryQuestion::Newest { .. }) => {
                DirectoryAnswer::Document(next(documents, offered, link.peer).to_vec())
            }
            Ok(DirectoryQuestion::Changes { .. }) => DirectoryAnswer::Changes(Vec::new()),
            Ok(DirectoryQuestion::Publish(_) | DirectoryQuestion::Agree(_) | DirectoryQuestion::List(_)) => {
                DirectoryAnswer::Accepted
            }
            Err(_) => DirectoryAnswer::BadQuestion,
        };
        // an asker that was killed takes no answer
        let _ = answerer.answer(&answer).await;
    }
}

async fn push(link: &Link, documents: &[Vec<u8>], offered: &Offered) {
    for _ in documents {
        let Ok(mut stream) = link.open_uni().await else { return };
        let document = next(documents, offered, None);
        if stream.write_all(&[STREAM_CONSENSUS]).await.is_err() || stream.write_all(document).await.is_err() {
            return;
        }
        // until the client has all of it
        if stream.finish().is_err() || !matches!(stream.stopped().await, Ok(None)) {
            return;
        }
    }
    // the client's packets pile up unread until its link has had enough
    link.closed().await;
}

/// The key of the authority in `dir`, as a thief of its disk has it.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn authority_key(dir: &Path) -> AuthoritySecret {
    let text = std::fs::read_to_string(dir.join("authority.key")).expect("authority.key");
    let mut seeds = [0; AUTHORITY_SECRET_SIZE];
    hex::decode_to_slice(text.trim(), &mut seeds).expect("hexadecimal seeds");
    AuthoritySecret::from_bytes(&seeds)
}

/// The identity key of the node in `dir`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn node_key(dir: &Path) -> IdentityKey {
    let text = std::fs::read_to_string(dir.join("identity.key")).expect("identity.key");
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).expect("hexadecimal seed");
    IdentityKey::from_seed(&seed)
}
