//! The node's side of the directory: fetches the consensus, keeps the newest on disk, and publishes the descriptor.

use crate::freshness::{self, Freshness};
use crate::io::evidence::Evidence;
use crate::io::files;
use crate::io::host::{Clock, generator};
use crate::io::phase::{self, Phase};
use anyhow::{Context as _, Result, anyhow, bail};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use shoal_protocol::consensus::{DocumentError, Follower, Offered, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::types::Identity;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Shortest step between two questions for the newest document.
const STEP_MIN: Duration = Duration::from_millis(250);
/// How long one authority may take before the next one is asked.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two lines of the log about the same trouble.
const QUIET: Duration = Duration::from_secs(60);
/// File with the newest certified document, in the node's directory.
pub const CONSENSUS_FILE: &str = "consensus";

/// Asks authorities, over one link each that is kept while it is open.
pub struct Authorities {
    endpoint: Arc<Endpoint>,
    hints: Vec<Hint>,
    links: Mutex<BTreeMap<Identity, Link>>,
}

impl Authorities {
    /// Asks the authorities that the network file names.
    pub fn new(endpoint: Arc<Endpoint>, network: &NetworkFile) -> Self {
        Self { endpoint, hints: network.hints.authorities.clone(), links: Mutex::default() }
    }

    /// The authorities.
    pub fn hints(&self) -> &[Hint] {
        &self.hints
    }

    /// Asks one authority. The error names it without its address, because errors end in logs.
    pub async fn ask(&self, hint: &Hint, question: &DirectoryQuestion) -> Result<DirectoryAnswer> {
        let kept = self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&hint.identity).cloned();
        let link = match kept.filter(Link::is_open) {
            Some(link) => link,
            None => {
                let link = self
                    .endpoint
                    .connect(hint.address, &hint.identity, Protocol::Directory)
                    .await
                    .with_context(|| format!("authority {}", hint.identity))?;
                let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                links.insert(hint.identity, link.clone());
                link
            }
        };
        let answer = ask(&link, &question.to_bytes(), ANSWER_SIZE_MAX)
            .await
            .with_context(|| format!("authority {}", hint.identity))?;
        DirectoryAnswer::from_bytes(&answer).context("an authority's answer")
    }
}

/// What the consensus task says about its work, for status and doctor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchState {
    /// Why there is no newer document, as far as it is known.
    pub problem: Option<String>,
    /// The authorities contradict themselves: what that means and what to do. Set once, until the process ends.
    pub contradiction: Option<String>,
}

/// Waits until the authorities contradict themselves; for ever, if they do not.
pub async fn contradicted(mut fetch: watch::Receiver<FetchState>) {
    if fetch.wait_for(|state| state.contradiction.is_some()).await.is_err() {
        // the consensus task is gone: the process ends
        std::future::pending::<()>().await;
    }
}

/// Fetches and keeps the newest consensus.
pub struct ConsensusTask {
    /// Whom to ask.
    pub authorities: Arc<Authorities>,
    /// Whom to believe now, and the newest document ever seen: nothing older and nothing of another chain is accepted.
    pub follower: Follower,
    /// Epochs.
    pub schedule: Schedule,
    /// Directory of the consensus file and of evidence.
    pub dir: PathBuf,
    /// Time.
    pub clock: Clock,
    /// Where the newest valid consensus is shown; `None` while there is none.
    pub consensus: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    /// What is said about the work.
    pub state: watch::Sender<FetchState>,
    /// Whether the newest document was found stale, and said to be.
    pub stale: bool,
    /// Monotonic time from which on the log may hold the next problem.
    pub quiet_until: Duration,
}

impl ConsensusTask {
    /// Takes the document of an earlier run, if it is still valid, and remembers it against rollback in any case. Takes
    /// none while evidence of a contradiction lies in the directory.
    pub fn load(&mut self) -> Result<()> {
        if let Some(contradiction) = Evidence::of(&self.dir).found() {
            self.stop(contradiction);
            return Ok(());
        }
        let Some(bytes) = files::read_optional(&self.dir.join(CONSENSUS_FILE))? else { return Ok(()) };
        match self.follower.resume(&bytes) {
            Ok(document) => {
                let (now, skew) = (self.clock.wall(), document.parameters.skew());
                if now <= document.valid_until.plus(skew) && now.plus(skew) >= document.valid_from {
                    self.consensus.send_replace(Some(Arc::new(document)));
                }
            }
            Err(error) => tracing::warn!(%error, "the stored consensus is not usable; fetching a new one"),
        }
        Ok(())
    }

    /// Runs until the process stops.
    pub async fn run(&mut self, mut phase: watch::Receiver<Phase>) {
        let step = (self.epoch() / 20).max(STEP_MIN);
        let mut rng = generator();
        loop {
            if self.state.borrow().contradiction.is_some() {
                // nothing that this network says now is to be used
                return phase::reached(&mut phase, Phase::Stopping).await;
            }
            self.drop_expired();
            self.say_if_stale();
            let problem = self.fetch(&mut rng).await.err().map(|error| format!("{error:#}"));
            self.say(problem);
            let wait = if self.consensus.borrow().is_some() { step } else { STEP_MIN };
            tokio::select! {
                () = tokio::time::sleep(wait.mul_f64(rng.random_range(0.8..1.2))) => {}
                () = phase::reached(&mut phase, Phase::Stopping) => return,
            }
        }
    }

    fn epoch(&self) -> Duration {
        Duration::from_millis(self.schedule.epoch_ms)
    }

    fn stop(&self, contradiction: String) {
        tracing::error!("{contradiction}");
        self.state.send_modify(|state| state.contradiction = Some(contradiction));
        self.consensus.send_replace(None);
    }

    /// Once per freeze, and once when it is over.
    fn say_if_stale(&mut self) {
        let Some(held) = self.consensus.borrow().as_ref().map(|document| document.epoch) else { return };
        match freshness::judge(&self.schedule, held, self.clock.wall()) {
            Freshness::Stale { missed } if !self.stale => {
                self.stale = true;
                tracing::warn!(
                    newest = %held,
                    missed,
                    "no new consensus: the authorities are down, or somebody keeps their documents from this node; \
                     traffic goes on until the newest one runs out"
                );
            }
            Freshness::Fresh if self.stale => {
                self.stale = false;
                tracing::info!(newest = %held, "there is a new consensus again");
            }
            Freshness::Stale { .. } | Freshness::Fresh => {}
        }
    }

    fn say(&mut self, problem: Option<String>) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.problem != problem;
            state.problem.clone_from(&problem);
            changed
        });
        // once per change and minute: neither an unreachable authority nor one that words its answer anew at every
        // question fills the log; status has the newest
        let now = self.clock.monotonic();
        match problem {
            Some(problem) if changed && now >= self.quiet_until => {
                self.quiet_until = now + QUIET;
                tracing::warn!(%problem, "no newer consensus");
            }
            Some(_) | None => {}
        }
    }

    fn drop_expired(&self) {
        let now = self.clock.wall();
        self.consensus.send_if_modified(|held| {
            let expired =
                held.as_ref().is_some_and(|document| now > document.valid_until.plus(document.parameters.skew()));
            if expired {
                tracing::error!("the consensus has expired: nothing is forwarded until a newer one arrives");
                *held = None;
            }
            expired
        });
    }

    /// Asks one authority; others as well when it cannot give the document of the current epoch. A slow, dead or lying one
    /// costs seconds.
    async fn fetch(&mut self, rng: &mut impl rand::CryptoRng) -> Result<()> {
        let mut hints = self.authorities.hints().to_vec();
        if hints.is_empty() {
            bail!("the network file names no authority to ask (hints.authorities)");
        }
        hints.shuffle(rng);
        let mut result = Ok(());
        for hint in hints {
            let asked = timeout(SERVER_PATIENCE, self.fetch_from(&hint)).await;
            let asked = asked.unwrap_or_else(|_| Err(anyhow!("authority {} does not answer in time", hint.identity)));
            if self.is_current() || self.state.borrow().contradiction.is_some() {
                return asked;
            }
            if asked.is_err() {
                result = asked;
            }
        }
        result
    }

    /// Whether the document of the current epoch is here.
    fn is_current(&self) -> bool {
        let current = self.schedule.epoch_at(self.clock.wall());
        self.consensus.borrow().as_ref().is_some_and(|held| held.epoch >= current)
    }

    async fn fetch_from(&mut self, hint: &Hint) -> Result<()> {
        let have = self.consensus.borrow().as_ref().map(|document| document.hash());
        let unexpected = || Err(anyhow!("authority {} does not answer the question asked", hint.identity));
        match self.authorities.ask(hint, &DirectoryQuestion::Newest { have }).await? {
            DirectoryAnswer::UpToDate => Ok(()),
            DirectoryAnswer::Document(bytes) => match self.take(&bytes) {
                Err(error) if error.downcast_ref().is_some_and(DocumentError::may_be_another_set) => {
                    // the authorities may have changed while this node was away
                    let after_height = self.follower.height();
                    match self.authorities.ask(hint, &DirectoryQuestion::Changes { after_height }).await? {
                        DirectoryAnswer::Changes(changes) if !changes.is_empty() => {
                            let changes: Vec<&[u8]> = changes.iter().map(|bytes| bytes.as_slice()).collect();
                            self.follower.advance(&changes)?;
                            self.take(&bytes)
                        }
                        DirectoryAnswer::Changes(_) => Err(error),
                        DirectoryAnswer::UpToDate
                        | DirectoryAnswer::Document(_)
                        | DirectoryAnswer::NotYet(_)
                        | DirectoryAnswer::Accepted
                        | DirectoryAnswer::Refused(_)
                        | DirectoryAnswer::BadQuestion => unexpected(),
                    }
                }
                taken => taken,
            },
            DirectoryAnswer::NotYet(reason) => bail!("no consensus yet: {}", printable(&reason)),
            DirectoryAnswer::Accepted
            | DirectoryAnswer::Refused(_)
            | DirectoryAnswer::BadQuestion
            | DirectoryAnswer::Changes(_) => unexpected(),
        }
    }

    /// The bytes of the newest document accepted. It was on disk before it was used.
    fn in_use(&self) -> Result<Vec<u8>> {
        let held = self.consensus.borrow().as_ref().map(|document| document.bytes().to_vec());
        match held {
            Some(bytes) => Ok(bytes),
            None => Ok(files::read(&self.dir.join(CONSENSUS_FILE))?.to_vec()),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let document = match self.follower.offer(bytes, self.clock.wall()) {
            Ok(Offered::Newer(document)) => *document,
            Ok(Offered::Known) => return Ok(()),
            // made ahead of its epoch: asked for again at the next step
            Err(DocumentError::NotYetValid { in_ms, .. }) if Duration::from_millis(in_ms) <= self.epoch() => {
                return Ok(());
            }
            Err(error @ DocumentError::Conflict { .. }) => {
                let evidence = Evidence::of(&self.dir);
                let kept = self.in_use().and_then(|first| evidence.keep(&first, bytes));
                // stopped also when the proof cannot be kept
                self.stop(evidence.explain());
                kept.context("the proof of the contradiction could not be kept")?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        // remembered before it is used: an older one must not pass after a crash. A disk that fails does not stop the node:
        // until the next document is kept, only this process remembers this one
        if let Err(error) = files::write_private(&self.dir.join(CONSENSUS_FILE), document.bytes()) {
            tracing::error!(error = format!("{error:#}"), "the newest consensus cannot be kept for a restart");
        }
        tracing::info!(epoch = %document.epoch, height = document.height, nodes = document.nodes.len(), "new consensus");
        self.consensus.send_replace(Some(Arc::new(document)));
        Ok(())
    }
}

/// An authority's text, as it may go to a log and a terminal: one short line without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authoritys_text_cannot_forge_a_log() {
        let hostile = format!("wait\n2026-01-01 ERROR all is lost\u{1b}[2J{}", "x".repeat(100_000));
        let text = printable(&hostile);
        assert!(text.starts_with("wait2026") && !text.contains(char::is_control) && text.len() == 400);
    }
}
