//! The authority's links: nodes, gateways and other authorities ask, the authority answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::{Handout, Shelf, VerifiedConsensus};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, QUESTION_SIZE_MAX};
use shoal_protocol::quic::{
    AskError, CloseReason, Endpoint, Link, PEER_QUESTION_TIMEOUT, Pieces, QUESTION_TIMEOUT, read_question,
};
use shoal_protocol::{Hash, UnixMillis};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use super::authority::Authority;
use super::metrics::Metrics;
use super::now;
use super::reach::Reached;
use crate::agreement::MAX_MESSAGE;
use crate::lists::Examined;

/// Longest reason sent to a node, in bytes.
const REASON_MAX: usize = 200;
/// Longest question of another authority: a list or a proposal, and framing.
const PEER_QUESTION_MAX: usize = MAX_MESSAGE + 64 * 1024;
/// Questions of guests that are worked on at a time: a descriptor costs a signature. Authorities are never held up by them.
const GUESTS_AT_A_TIME: usize = 4;
/// Links of one other authority at a time: its messages, a question, and those of a process that has just ended. Each may
/// hold a question of 19 MiB: 228 MiB with four authorities that are all dishonest.
const LINKS_OF_AN_AUTHORITY: usize = 4;
/// Answers on their way to another authority at a time, on one link: as many as questions may be on theirs. All but
/// documents are short: 32 MiB for an authority that takes none of them.
const ANSWERS_TO_AN_AUTHORITY: usize = 8;
/// Nodes that are dialled at a time to prove that they can be reached, each for some seconds.
const DIALS_AT_A_TIME: usize = 64;

/// What the tasks of a running authority share.
#[derive(Debug)]
pub struct Shared {
    authority: Mutex<Authority>,
    /// What is handed to guests, made once for all of them.
    shelf: Mutex<Arc<Shelf>>,
    /// Counted for `/metrics`.
    pub metrics: Metrics,
    /// Told when something came that may change when to act next.
    pub stirred: Notify,
    /// Told when the others are to be asked for their newest document.
    pub asked: Notify,
    reached: Reached,
    places: Vec<Semaphore>,
    guests: Semaphore,
    dials: Semaphore,
}

impl Shared {
    /// Shares `authority` among tasks.
    #[must_use]
    pub fn new(authority: Authority, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            authority: Mutex::new(authority),
            shelf: Mutex::default(),
            metrics,
            stirred: Notify::new(),
            asked: Notify::new(),
            reached: Reached::default(),
            places: (0..MAX_AUTHORITIES).map(|_| Semaphore::new(LINKS_OF_AN_AUTHORITY)).collect(),
            guests: Semaphore::new(GUESTS_AT_A_TIME),
            dials: Semaphore::new(DIALS_AT_A_TIME),
        })
    }

    /// The authority, for one short step. Never held across an await. A step that panicked leaves no half-made document:
    /// a document counts only when it was written and shown.
    pub fn authority(&self) -> MutexGuard<'_, Authority> {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shelf on which `newest` is the newest document. Whoever comes first after a new one makes it.
    fn shelf(&self, newest: &Arc<VerifiedConsensus>) -> Arc<Shelf> {
        // one at a time: who comes second finds it made
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.newest().is_none_or(|held| held.height < newest.height) {
            *shelf = Arc::new(shelf.with(newest));
        }
        Arc::clone(&shelf)
    }
}

/// Accepts links until the endpoint is closed. Tasks are bounded by the endpoint's limits: one a link.
pub async fn serve(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(arrival) = endpoint.accept().await {
        let (shared, endpoint) = (Arc::clone(&shared), endpoint.clone());
        tokio::spawn(async move {
            match arrival.admit().await {
                Ok(link) => {
                    let open = shared.metrics.link_opened();
                    answer_all(&link, &endpoint, &shared).await;
                    drop(open);
                }
                Err(error) => {
                    shared.metrics.handshake_failed(&error);
                    tracing::trace!(%error, "a link did not come about");
                }
            }
        });
    }
}

/// Answers one question after the other until the link ends.
async fn answer_all(link: &Link, endpoint: &Endpoint, shared: &Arc<Shared>) {
    // links between authorities are kept alive, and outlive the set: an authority's index is looked up for each question
    let index = || link.peer.and_then(|peer| shared.authority().index_of(&peer));
    let mut place: Option<(u16, SemaphorePermit<'_>)> = None;
    // its answers go out while its next questions are read: on a long way they would otherwise come once a round trip
    let mut answering = JoinSet::new();
    loop {
        while answering.try_join_next().is_some() {}
        if answering.len() >= ANSWERS_TO_AN_AUTHORITY {
            answering.join_next().await;
        }
        let authority = index();
        if place.as_ref().map(|(of, _)| *of) != authority {
            place = None;
            if let Some(from) = authority {
                match shared.places.get(usize::from(from)).map(Semaphore::try_acquire) {
                    Some(Ok(permit)) => place = Some((from, permit)),
                    Some(Err(_)) | None => {
                        link.close(CloseReason::Busy);
                        return;
                    }
                }
            }
        }
        let (longest, within) = match authority {
            Some(_) => (PEER_QUESTION_MAX, PEER_QUESTION_TIMEOUT),
            None => (QUESTION_SIZE_MAX, QUESTION_TIMEOUT),
        };
        match read_question(link, longest, within).await {
            Ok(Some((question, answerer))) => {
                let authority = index();
                let answer = match authority {
                    Some(from) => answer_authority(from, question, shared).await,
                    None => answer_guest(question, endpoint, shared).await,
                };
                let Some((kind, label, answer)) = answer else {
                    link.close(CloseReason::Leaving);
                    return;
                };
                shared.metrics.answered(kind, label);
                let (link, theirs) = (link.clone(), Arc::clone(shared));
                let sending = async move {
                    let sent = answerer.answer(answer).await;
                    if sent.is_err() {
                        theirs.metrics.answered("any", "unanswered");
                    }
                    // who does not read holds on to what was written; anybody else took back the question
                    if matches!(sent, Err(AskError::TimedOut)) {
                        link.close(CloseReason::Malformed);
                    }
                };
                match authority {
                    Some(_) => {
                        answering.spawn(sending);
                    }
                    None => sending.await,
                }
            }
            Ok(None) | Err(AskError::Closed) => return,
            Err(AskError::TooLarge | AskError::TimedOut) => {
                shared.metrics.answered("unreadable", "bad_question");
                link.close(CloseReason::Malformed);
                return;
            }
        }
    }
}

/// Kind of question, kind of answer, answer.
type Kinds = (&'static str, &'static str, Pieces);
type Answered = Option<Kinds>;

fn short(question: &'static str, kind: &'static str, answer: &DirectoryAnswer) -> Kinds {
    (question, kind, answer.into())
}

/// Runs a step that verifies signatures or waits for the disk. `None`: it panicked, and the process ends: what was signed
/// in it may not be in the log.
async fn step<T: Send + 'static>(shared: &Arc<Shared>, work: impl FnOnce(&Shared) -> T + Send + 'static) -> Option<T> {
    let worker = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || work(&worker)).await;
    if let Err(error) = &done {
        shared.authority().fail(&format!("a step of the authority failed: {error}"));
        shared.stirred.notify_one();
    }
    done.ok()
}

async fn answer_authority(from: u16, question: Vec<u8>, shared: &Arc<Shared>) -> Answered {
    let answer = step(shared, move |shared| {
        let now = now();
        match DirectoryQuestion::from_bytes(&question) {
            Ok(DirectoryQuestion::Agree(message)) => {
                shared.authority().receive(from, &message, now);
                short("agree", "accepted", &DirectoryAnswer::Accepted)
            }
            Ok(DirectoryQuestion::List(message)) => match shared.authority().take_list(from, &message, now) {
                Ok(()) => short("list", "accepted", &DirectoryAnswer::Accepted),
                Err(reason) => short("list", "refused", &DirectoryAnswer::Refused(shorten(&reason))),
            },
            // an authority may have a document before it is handed out to others
            Ok(DirectoryQuestion::Newest { have }) => {
                let newest = shared.authority().newest_certified().map(Arc::clone);
                match newest {
                    Some(document) if have == Some(document.hash()) => newest_is(Handout::UpToDate),
                    Some(document) => newest_is(Handout::Whole(document)),
                    None => short("newest", "not_yet", &DirectoryAnswer::NotYet(String::new())),
                }
            }
            Ok(other) => answer_anybody(other, shared, now),
            Err(_) => short("unreadable", "bad_question", &DirectoryAnswer::BadQuestion),
        }
    })
    .await?;
    shared.stirred.notify_one();
    if shared.authority().take_ask() {
        shared.asked.notify_one();
    }
    Some(answer)
}

async fn answer_guest(question: Vec<u8>, endpoint: &Endpoint, shared: &Arc<Shared>) -> Answered {
    // closed never: it lives as long as the process
    let _permit = shared.guests.acquire().await.ok()?;
    match DirectoryQuestion::from_bytes(&question) {
        Ok(DirectoryQuestion::Publish(descriptor)) => {
            drop(_permit);
            publish(descriptor, endpoint, shared).await
        }
        Ok(other) => step(shared, move |shared| answer_anybody(other, shared, now())).await,
        Err(_) => Some(short("unreadable", "bad_question", &DirectoryAnswer::BadQuestion)),
    }
}

/// Verifies, dials the node if it was not reached lately, and lists it.
async fn publish(bytes: Vec<u8>, endpoint: &Endpoint, shared: &Arc<Shared>) -> Answered {
    let accepted = || Some(short("publish", "accepted", &DirectoryAnswer::Accepted));
    let refused = |reason: &str| Some(short("publish", "refused", &DirectoryAnswer::Refused(shorten(reason))));
    let now = now();
    let permit = shared.guests.acquire().await.ok()?;
    let (examined, bytes) = step(shared, move |shared| (shared.authority().examine(&bytes, now), bytes)).await?;
    drop(permit);
    let signed = match examined {
        Ok(Examined::New(signed)) => signed,
        Ok(Examined::Known(_)) => return accepted(),
        Err(refusal) => {
            shared.authority().refuse(refusal.to_string(), now);
            return refused(&refusal.to_string());
        }
    };
    let (identity, addresses) = (signed.descriptor.identity, signed.descriptor.addresses);
    let epoch_ms = shared.authority().epoch_ms();
    if !shared.reached.lately(&identity, &addresses, now, epoch_ms) {
        // one at a time for each node, so that none of them takes all the places
        let Some(_turn) = shared.reached.turn(identity) else {
            return refused("this node is being dialled already; try again in some seconds");
        };
        let _dial = shared.dials.acquire().await.ok()?;
        if let Err(reason) = shared.reached.prove(endpoint, &identity, &addresses, now, epoch_ms).await {
            shared.authority().refuse(format!("{identity}: {reason}"), now);
            return refused(&reason);
        }
    }
    let _permit = shared.guests.acquire().await.ok()?;
    let offered = step(shared, move |shared| shared.authority().offer(&bytes, now)).await?;
    match offered {
        Ok(_) => {
            shared.stirred.notify_one();
            accepted()
        }
        Err(refusal) => refused(&refusal.to_string()),
    }
}

fn answer_anybody(question: DirectoryQuestion, shared: &Shared, now: UnixMillis) -> Kinds {
    match question {
        DirectoryQuestion::Newest { have } => {
            let (newest, waiting_for) = {
                let authority = shared.authority();
                (authority.newest(now).map(Arc::clone), authority.waiting_for().map(shorten))
            };
            match newest.and_then(|newest| shared.shelf(&newest).for_holder_of(have.as_ref())) {
                Some(handout) => newest_is(handout),
                None => short("newest", "not_yet", &DirectoryAnswer::NotYet(waiting_for.unwrap_or_default())),
            }
        }
        DirectoryQuestion::Changes { after } => ("changes", "changes", changes(shared, &after)),
        DirectoryQuestion::Publish(_) | DirectoryQuestion::Agree(_) | DirectoryQuestion::List(_) => {
            short("forbidden", "bad_question", &DirectoryAnswer::BadQuestion)
        }
    }
}

fn newest_is(handout: Handout) -> Kinds {
    let kind = match handout {
        Handout::UpToDate => "up_to_date",
        Handout::Whole(_) => "document",
        Handout::Difference(_) => "difference",
    };
    ("newest", kind, handout.into())
}

/// Documents that lead on from the set with this hash; none if this chain does not know it.
fn changes(shared: &Shared, after: &Hash) -> Pieces {
    let changes = shared.authority().changes_from(after);
    Pieces::changes(&changes)
}

/// Cuts a reason at a character boundary.
fn shorten(reason: &str) -> String {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        let long = "ü".repeat(150);
        assert_eq!(shorten(&long).len(), 200);
        assert_eq!(shorten(&format!("x{long}")).len(), 199);
    }
}
