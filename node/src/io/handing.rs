//! Handing out documents at a gateway: to clients on their link, to nodes and whoever else asks over `shoal-dir/1`.
//!
//! Nobody has to believe what comes from here, so nobody is asked who he is. Nothing is logged about an asker.

use crate::io::changes::Changes;
use crate::io::directory::{Authorities, SERVER_PATIENCE};
use crate::io::host::{Clock, generator};
use crate::io::phase::{self, Phase};
use rand::seq::SliceRandom as _;
use shoal_protocol::consensus::{Shelf, VerifiedConsensus};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::quic::{AskError, CloseReason, Link, Pieces, QUESTION_TIMEOUT, pushed, read_question};
use shoal_protocol::types::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::timeout;

/// Links of askers at a time, beside the clients. A node asks for a second or two an epoch, and only when its authorities
/// give it nothing.
const ASKERS_MAX: usize = 64;
/// Questions for changes on one link: the longest chain of changes has one document an answer.
const CHANGES_MAX: usize = crate::io::changes::KEPT_MAX + 16;
/// How long a client may take to receive a document: 1 MiB at 256 kbit/s.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(40);
/// Time between two questions to the authorities for changes that are not kept here.
const BEYOND_EVERY: Duration = Duration::from_secs(1);

/// What a gateway hands out. Clones share it.
#[derive(Clone)]
pub struct Handing {
    shelf: watch::Receiver<Arc<Shelf>>,
    changes: watch::Receiver<Arc<Changes>>,
    authorities: Arc<Authorities>,
    clock: Clock,
    askers: Arc<Semaphore>,
    /// When the authorities may be asked again. Held while they are, and while their answer is on its way: one copy of
    /// 1 MiB, whoever asks.
    beyond: Arc<Mutex<Duration>>,
}

impl Handing {
    /// Hands out what is shown there.
    pub fn new(
        shelf: watch::Receiver<Arc<Shelf>>,
        changes: watch::Receiver<Arc<Changes>>,
        authorities: Arc<Authorities>,
        clock: Clock,
    ) -> Self {
        let askers = Arc::new(Semaphore::new(ASKERS_MAX));
        Self { shelf, changes, authorities, clock, askers, beyond: Arc::default() }
    }

    /// Pushes the newest consensus when a client comes and what is new at each later one. Returns when the link breaks or
    /// the client does not take a document in time.
    pub async fn push(&self, link: &Link) {
        let mut shelf = self.shelf.clone();
        let mut given: Option<Hash> = None;
        loop {
            let now = Arc::clone(&shelf.borrow_and_update());
            if let Some(mut pieces) = now.for_holder_of(given.as_ref()).and_then(pushed) {
                let pushing = timeout(DOCUMENT_TIMEOUT, async {
                    let mut stream = link.open_uni().await.ok()?;
                    stream.write_all_chunks(&mut pieces).await.ok()?;
                    stream.finish().ok()
                });
                if !matches!(pushing.await, Ok(Some(()))) {
                    return;
                }
                given = now.newest().map(|document| document.hash());
            }
            if shelf.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers a client's questions for changes until its link ends or it does what no client does.
    pub async fn answer_client(&self, link: &Link) -> CloseReason {
        self.answer(link, |question| match question {
            DirectoryQuestion::Changes { after } => Some(Wanted::Changes(after)),
            DirectoryQuestion::Newest { .. }
            | DirectoryQuestion::Publish(_)
            | DirectoryQuestion::Agree(_)
            | DirectoryQuestion::List(_) => None,
        })
        .await
    }

    /// Answers whoever asks over `shoal-dir/1` until its link ends.
    pub async fn answer_asker(&self, link: &Link) -> CloseReason {
        let Ok(_place) = self.askers.try_acquire() else { return CloseReason::Busy };
        self.answer(link, |question| match question {
            DirectoryQuestion::Newest { have } => Some(Wanted::Newest(have)),
            DirectoryQuestion::Changes { after } => Some(Wanted::Changes(after)),
            DirectoryQuestion::Publish(_) | DirectoryQuestion::Agree(_) | DirectoryQuestion::List(_) => None,
        })
        .await
    }

    async fn answer(&self, link: &Link, wanted: impl Fn(DirectoryQuestion) -> Option<Wanted>) -> CloseReason {
        let mut changes = 0;
        loop {
            let (question, answerer) = match read_question(link, QUESTION_SIZE_MAX, QUESTION_TIMEOUT).await {
                Ok(Some(asked)) => asked,
                Ok(None) | Err(AskError::Closed) => return CloseReason::Done,
                Err(AskError::TooLarge | AskError::TimedOut) => return CloseReason::Malformed,
            };
            let Some(wanted) = DirectoryQuestion::from_bytes(&question).ok().and_then(&wanted) else {
                return CloseReason::Malformed;
            };
            let (pieces, _held) = match wanted {
                Wanted::Newest(have) => (self.newest(have.as_ref()), None),
                Wanted::Changes(_) if changes == CHANGES_MAX => return CloseReason::Busy,
                Wanted::Changes(after) => {
                    changes += 1;
                    self.changes(after).await
                }
            };
            match answerer.answer(pieces).await {
                Ok(()) | Err(AskError::Closed | AskError::TooLarge) => {}
                Err(AskError::TimedOut) => return CloseReason::Malformed,
            }
        }
    }

    fn newest(&self, have: Option<&Hash>) -> Pieces {
        match self.shelf.borrow().for_holder_of(have) {
            Some(handout) => handout.into(),
            None => (&DirectoryAnswer::NotYet("this gateway has no consensus in force".to_owned())).into(),
        }
    }

    /// The changes after a set, and what must be held while they are on their way.
    async fn changes(&self, after: Hash) -> (Pieces, Option<tokio::sync::OwnedMutexGuard<Duration>>) {
        let kept = self.changes.borrow().after(&after).map(Pieces::changes);
        match kept {
            Some(pieces) => (pieces, None),
            None => match self.ask_authorities(after).await {
                Some((pieces, held)) => (pieces, Some(held)),
                None => (Pieces::changes(&[]), None),
            },
        }
    }

    /// Passes on what an authority knows of a set that is not known here, unread: a reader believes none of us.
    async fn ask_authorities(&self, after: Hash) -> Option<(Pieces, tokio::sync::OwnedMutexGuard<Duration>)> {
        let mut next = Arc::clone(&self.beyond).try_lock_owned().ok()?;
        let now = self.clock.monotonic();
        if now < *next {
            return None;
        }
        *next = now.saturating_add(BEYOND_EVERY);
        let mut hints = self.authorities.asked();
        hints.shuffle(&mut generator());
        let question = DirectoryQuestion::Changes { after };
        for hint in hints {
            let asked = timeout(SERVER_PATIENCE, self.authorities.ask(&hint, &question)).await;
            if let Ok(Ok(DirectoryAnswer::Changes(changes))) = asked
                && !changes.is_empty()
            {
                return Some(((&DirectoryAnswer::Changes(changes)).into(), next));
            }
        }
        None
    }
}

enum Wanted {
    Newest(Option<Hash>),
    Changes(Hash),
}

/// Makes the shelf anew at each consensus, for all who will be handed something of it.
pub async fn keep_shelf(
    mut consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    shelf: watch::Sender<Arc<Shelf>>,
    mut phase: watch::Receiver<Phase>,
) {
    loop {
        let newest = consensus.borrow_and_update().clone();
        let before = Arc::clone(&shelf.borrow());
        let next = match newest {
            // some milliseconds for each difference; if it panics, the whole document goes out
            Some(document) => {
                let whole = Shelf::default();
                let made = tokio::task::spawn_blocking({
                    let document = Arc::clone(&document);
                    move || before.with(&document)
                });
                made.await.unwrap_or_else(|_| whole.with(&document))
            }
            // what is over is handed to nobody
            None => Shelf::default(),
        };
        shelf.send_replace(Arc::new(next));
        tokio::select! {
            changed = consensus.changed() => if changed.is_err() { return },
            () = phase::reached(&mut phase, Phase::Stopping) => return,
        }
    }
}
