//! Handing out documents at a gateway: to clients on their link, to nodes and whoever else asks over `shoal-dir/1`.
//!
//! Nobody has to believe what comes from here, so nobody is asked who he is. Nothing is logged about an asker.

use crate::allowance::{Account, DOCUMENTS_OF_LINK, Ledger};
use crate::io::changes::Changes;
use crate::io::host::Clock;
use crate::io::older::Older;
use crate::io::phase::{self, Phase};
use crate::places::{Places, Prefix, Shares};
use shoal_protocol::consensus::{Handout, Shelf, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::quic::{AskError, CloseReason, Link, Pieces, QUESTION_TIMEOUT, pushed, read_question};
use shoal_protocol::types::{Epoch, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Links of askers at a time, beside the clients. A node asks for a second or two an epoch, and only when its authorities
/// give it nothing. Each may hold a question of 16 KiB and an answer that is shared with the others.
const ASKERS: Shares = Shares { all: 64, prefix: 16, provider: 32 };
/// How long an asker may take until a whole question of his is there, the first one or the next: as long as a silent link
/// lives ([`Protocol::Directory`](shoal_protocol::quic::Protocol)), also for one that keeps his alive.
const ASKER_QUESTION: Duration = Duration::from_secs(15);
/// How long he may take to receive the answer: 1 MiB at 420 kbit/s. So one who does not read has a place for
/// 35 s, and 20 s more where authorities had to be asked first.
const ASKER_ANSWER: Duration = Duration::from_secs(20);
/// Questions on one link in an epoch. A node asks some 25 times.
const QUESTIONS_MAX: u32 = 256;
/// Questions for changes on one link in an epoch: the longest chain of changes has one document an answer.
const CHANGES_MAX: u32 = crate::io::changes::KEPT_MAX as u32 + 16;
/// How long a client may take to receive a document: 1 MiB at 210 kbit/s.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(40);

/// What a gateway hands out. Clones share it.
#[derive(Clone)]
pub struct Handing {
    shelf: watch::Receiver<Arc<Shelf>>,
    changes: watch::Receiver<Arc<Changes>>,
    older: Arc<Older>,
    schedule: Schedule,
    clock: Clock,
    askers: Arc<Mutex<Places<Link>>>,
    // apart: who only asks must not take what clients need
    to_askers: Arc<Mutex<Ledger>>,
    to_clients: Arc<Mutex<Ledger>>,
}

/// How much a link is asked and given.
struct Counts<'h> {
    prefix: Prefix,
    of_prefix: &'h Mutex<Ledger>,
    documents: Account,
    questions: Account,
    changes: Account,
}

impl<'h> Counts<'h> {
    /// The address counts where the link began: a phone may move meanwhile.
    fn of(link: &Link, of_prefix: &'h Mutex<Ledger>) -> Self {
        let none = Account::default();
        let prefix = Prefix::of(link.remote.ip());
        Self { prefix, of_prefix, documents: none, questions: none, changes: none }
    }

    /// Whether one more document may go to this link.
    fn link_takes(&mut self, epoch: Epoch) -> bool {
        self.documents.take(epoch, DOCUMENTS_OF_LINK)
    }

    /// Whether one more answer with documents may go to this prefix.
    fn prefix_takes(&self, epoch: Epoch) -> bool {
        // every operation on the ledger is one step
        self.of_prefix.lock().unwrap_or_else(PoisonError::into_inner).take(epoch, self.prefix)
    }
}

/// How one kind of reader is served.
struct Service<'s> {
    wanted: &'s (dyn Fn(DirectoryQuestion) -> Option<Wanted> + Sync),
    question: Option<Duration>,
    answer: Duration,
    /// Whether the link lasts when an answer is given up. It has been paid for, and the next one costs as much again.
    lasts: bool,
    /// Told when a whole question is there (`true`) and when its answer has been taken; `false`: the link must go.
    works: &'s (dyn Fn(bool) -> bool + Sync),
}

impl Handing {
    /// Hands out what is shown there.
    pub fn new(
        shelf: watch::Receiver<Arc<Shelf>>,
        changes: watch::Receiver<Arc<Changes>>,
        older: Older,
        schedule: Schedule,
        clock: Clock,
    ) -> Self {
        let askers = Arc::new(Mutex::new(Places::new(ASKERS)));
        let (to_askers, to_clients) = (Arc::default(), Arc::default());
        Self { shelf, changes, older: Arc::new(older), schedule, clock, askers, to_askers, to_clients }
    }

    /// The epoch whose allowance is used now: that of the newest document, which is here up to the skew tolerance before its
    /// epoch begins, or the current one, when no newer document comes. Else a document would be
    /// handed out on two allowances around the beginning of its epoch.
    fn epoch(&self) -> Epoch {
        let now = self.schedule.epoch_at(self.clock.wall());
        self.shelf.borrow().newest().map_or(now, |newest| newest.epoch.max(now))
    }

    /// Pushes the newest consensus when a client comes and what is new at each later one. Returns when the link breaks, the
    /// client does not take a document in time, or has had as many as anybody needs. One whose prefix has had them waits for
    /// the next document: its neighbours must not cost it its link.
    pub async fn push(&self, link: &Link) -> CloseReason {
        let mut shelf = self.shelf.clone();
        let mut counts = Counts::of(link, &self.to_clients);
        let mut given: Option<Hash> = None;
        loop {
            let now = Arc::clone(&shelf.borrow_and_update());
            if let Some(mut pieces) = now.for_holder_of(given.as_ref()).and_then(pushed) {
                let epoch = self.epoch();
                if !counts.link_takes(epoch) {
                    return CloseReason::Busy;
                }
                if counts.prefix_takes(epoch) {
                    let pushing = timeout(DOCUMENT_TIMEOUT, async {
                        let mut stream = link.open_uni().await.ok()?;
                        stream.write_all_chunks(&mut pieces).await.ok()?;
                        stream.finish().ok()
                    });
                    if !matches!(pushing.await, Ok(Some(()))) {
                        return CloseReason::Done;
                    }
                    given = now.newest().map(|document| document.hash());
                }
            }
            if shelf.changed().await.is_err() {
                return CloseReason::Done;
            }
        }
    }

    /// Answers a client's questions for changes until its link ends or it does what no client does.
    pub async fn answer_client(&self, link: &Link) -> CloseReason {
        let wanted = |question| match question {
            DirectoryQuestion::Changes { after } => Some(Wanted::Changes(after)),
            DirectoryQuestion::Newest { .. }
            | DirectoryQuestion::Publish(_)
            | DirectoryQuestion::Agree(_)
            | DirectoryQuestion::List(_) => None,
        };
        // its link is there for its packets, and it may never ask
        let (question, answer) = (None, DOCUMENT_TIMEOUT);
        let service = Service { wanted: &wanted, question, answer, lasts: true, works: &|_| true };
        self.answer(link, Counts::of(link, &self.to_clients), service).await
    }

    /// Answers whoever asks over `shoal-dir/1` until its link ends, it asks nothing for too long, or its place is given to
    /// somebody else.
    pub async fn answer_asker(&self, link: &Link) -> CloseReason {
        let entered = self.askers().enter(Prefix::of(link.remote.ip()), link.clone(), self.clock.monotonic());
        let Some((number, gone)) = entered else { return CloseReason::Busy };
        if let Some(gone) = gone {
            gone.close(CloseReason::Busy);
        }
        let _place = Place { handing: self, number };
        let wanted = |question| match question {
            DirectoryQuestion::Newest { have } => Some(Wanted::Newest(have)),
            DirectoryQuestion::Changes { after } => Some(Wanted::Changes(after)),
            DirectoryQuestion::Publish(_) | DirectoryQuestion::Agree(_) | DirectoryQuestion::List(_) => None,
        };
        let works = |at_work| {
            let now = self.clock.monotonic();
            if at_work { self.askers().works(number, now) } else { self.askers().rests(number, now) }
        };
        let (question, answer) = (Some(ASKER_QUESTION), ASKER_ANSWER);
        let service = Service { wanted: &wanted, question, answer, lasts: false, works: &works };
        self.answer(link, Counts::of(link, &self.to_askers), service).await
    }

    fn askers(&self) -> MutexGuard<'_, Places<Link>> {
        // every operation on the table is one step
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, link: &Link, mut counts: Counts<'_>, service: Service<'_>) -> CloseReason {
        loop {
            let reading = read_question(link, QUESTION_SIZE_MAX, QUESTION_TIMEOUT);
            let read = match service.question {
                Some(within) => match timeout(within, reading).await {
                    Ok(read) => read,
                    Err(_) => return CloseReason::Done,
                },
                None => reading.await,
            };
            let (question, answerer) = match read {
                Ok(Some(asked)) => asked,
                Ok(None) | Err(AskError::Closed) => return CloseReason::Done,
                Err(AskError::TooLarge | AskError::TimedOut) => return CloseReason::Malformed,
            };
            let Some(wanted) = DirectoryQuestion::from_bytes(&question).ok().and_then(service.wanted) else {
                return CloseReason::Malformed;
            };
            let epoch = self.epoch();
            let spent = !counts.questions.take(epoch, QUESTIONS_MAX)
                || (matches!(wanted, Wanted::Changes(_)) && !counts.changes.take(epoch, CHANGES_MAX));
            if spent || !(service.works)(true) {
                return CloseReason::Busy;
            }
            let pieces = match wanted {
                Wanted::Newest(have) => self.newest(have.as_ref(), &mut counts),
                Wanted::Changes(after) => self.changes(after, &counts).await,
            };
            match answerer.answer_within(pieces, service.answer).await {
                Ok(()) => {}
                Err(AskError::Closed | AskError::TooLarge) if service.lasts => {}
                Err(AskError::Closed | AskError::TooLarge) => return CloseReason::Done,
                Err(AskError::TimedOut) => return CloseReason::Malformed,
            }
            if !(service.works)(false) {
                return CloseReason::Busy;
            }
        }
    }

    fn newest(&self, have: Option<&Hash>, counts: &mut Counts<'_>) -> Pieces {
        let handout = self.shelf.borrow().for_holder_of(have);
        match handout {
            Some(Handout::UpToDate) => Handout::UpToDate.into(),
            Some(handout @ (Handout::Whole(_) | Handout::Difference(_))) => {
                let epoch = self.epoch();
                if counts.link_takes(epoch) && counts.prefix_takes(epoch) { handout.into() } else { not_yet(ENOUGH) }
            }
            None => not_yet("this gateway has no consensus in force"),
        }
    }

    /// The changes after a set. One that was never in force costs a look at what is kept here, and nobody's time.
    async fn changes(&self, after: Hash, counts: &Counts<'_>) -> Pieces {
        let changes = Arc::clone(&self.changes.borrow());
        let kept = changes.after(&after);
        let none = kept.map_or(!changes.is_older(&after), <[_]>::is_empty);
        if none {
            return Pieces::changes(&[]);
        }
        if !counts.prefix_takes(self.epoch()) {
            return not_yet(ENOUGH);
        }
        match kept {
            Some(kept) => Pieces::changes(kept),
            None => self.older.after(after).await.unwrap_or_else(|| {
                not_yet("this gateway is asking the authorities for others; ask again in some seconds")
            }),
        }
    }
}

/// What is said to those who have had enough.
const ENOUGH: &str = "this gateway has given you as many documents as an epoch can need; ask in the next one";

fn not_yet(reason: &str) -> Pieces {
    (&DirectoryAnswer::NotYet(reason.to_owned())).into()
}

/// Gives an asker's place back.
struct Place<'a> {
    handing: &'a Handing,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.handing.askers().leave(self.number);
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

#[cfg(test)]
mod tests;
