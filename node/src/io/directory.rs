//! The node's side of the directory: fetches the consensus, keeps the newest on disk, and publishes the descriptor.

use crate::io::files;
use crate::io::host::{Clock, generator};
use crate::io::phase::{self, Phase};
use anyhow::{Context as _, Result, anyhow, bail};
use rand::RngExt as _;
use shoal_protocol::consensus::{DocumentError, Mark, TrustAnchor, UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::types::{Hash, Identity};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Shortest step between two questions for the newest document.
const STEP_MIN: Duration = Duration::from_millis(250);
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

    /// Asks one authority.
    pub async fn ask(&self, hint: &Hint, question: &DirectoryQuestion) -> Result<DirectoryAnswer> {
        let kept = self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&hint.identity).cloned();
        let link = match kept.filter(Link::is_open) {
            Some(link) => link,
            None => {
                let link = self
                    .endpoint
                    .connect(hint.address, &hint.identity, Protocol::Directory)
                    .await
                    .with_context(|| format!("authority {} at {}", hint.identity, hint.address))?;
                let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                links.insert(hint.identity, link.clone());
                link
            }
        };
        let answer = ask(&link, &question.to_bytes(), ANSWER_SIZE_MAX)
            .await
            .with_context(|| format!("authority {} at {}", hint.identity, hint.address))?;
        DirectoryAnswer::from_bytes(&answer).context("an authority's answer")
    }
}

/// What the consensus task says about its work, for status and doctor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchState {
    /// Why there is no newer document, as far as it is known.
    pub problem: Option<String>,
}

/// Fetches and keeps the newest consensus.
pub struct ConsensusTask {
    /// Whom to ask.
    pub authorities: Arc<Authorities>,
    /// What to trust.
    pub anchor: TrustAnchor,
    /// Length of an epoch.
    pub epoch: Duration,
    /// Directory of the consensus file.
    pub dir: PathBuf,
    /// Time.
    pub clock: Clock,
    /// Where the newest valid consensus is shown; `None` while there is none.
    pub consensus: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    /// What is said about the work.
    pub state: watch::Sender<FetchState>,
    /// Newest document ever seen: nothing older and nothing of another chain is accepted.
    pub newest: Option<Mark>,
}

impl ConsensusTask {
    /// Takes the document of an earlier run, if it is still valid, and remembers it against rollback in any case.
    pub fn load(&mut self) -> Result<()> {
        let Some(bytes) = files::read_optional(&self.dir.join(CONSENSUS_FILE))? else { return Ok(()) };
        let parsed = UnverifiedConsensus::parse(&bytes).and_then(|document| {
            let mark = document.clone().verify_any_time(&self.anchor)?.mark();
            Ok((mark, document.verify(&self.anchor, self.clock.wall(), Some(mark))))
        });
        match parsed {
            Ok((mark, valid)) => {
                self.newest = Some(mark);
                if let Ok(document) = valid {
                    self.consensus.send_replace(Some(Arc::new(document)));
                }
            }
            Err(error) => tracing::warn!(%error, "the stored consensus is not usable; fetching a new one"),
        }
        Ok(())
    }

    /// Runs until the process stops.
    pub async fn run(&mut self, mut phase: watch::Receiver<Phase>) {
        let step = (self.epoch / 20).max(STEP_MIN);
        let mut rng = generator();
        loop {
            self.drop_expired();
            let problem = self.fetch(&mut rng).await.err().map(|error| format!("{error:#}"));
            self.say(problem);
            let wait = if self.consensus.borrow().is_some() { step } else { STEP_MIN };
            tokio::select! {
                () = tokio::time::sleep(wait.mul_f64(rng.random_range(0.8..1.2))) => {}
                () = phase::reached(&mut phase, Phase::Stopping) => return,
            }
        }
    }

    fn say(&self, problem: Option<String>) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.problem != problem;
            state.problem.clone_from(&problem);
            changed
        });
        // once per change, so that an unreachable authority does not fill the log
        match problem {
            Some(problem) if changed => tracing::warn!(%problem, "no newer consensus"),
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

    async fn fetch(&mut self, rng: &mut impl rand::CryptoRng) -> Result<()> {
        let hints = self.authorities.hints();
        if hints.is_empty() {
            bail!("the network file names no authority to ask (hints.authorities)");
        }
        let hint = *hints.get(rng.random_range(0..hints.len())).context("an authority")?;
        let have = self.consensus.borrow().as_ref().map(|document| document.hash());
        match self.authorities.ask(&hint, &DirectoryQuestion::Newest { have }).await? {
            DirectoryAnswer::UpToDate => Ok(()),
            DirectoryAnswer::Document(bytes) => self.take(&bytes),
            DirectoryAnswer::NotYet(reason) => bail!("no consensus yet: {reason}"),
            DirectoryAnswer::Accepted
            | DirectoryAnswer::Refused(_)
            | DirectoryAnswer::BadQuestion
            | DirectoryAnswer::Changes(_) => {
                Err(anyhow!("authority {} does not answer the question asked", hint.identity))
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let parsed = UnverifiedConsensus::parse(bytes)?;
        let document = match parsed.verify(&self.anchor, self.clock.wall(), self.newest) {
            Ok(document) => document,
            // made ahead of its epoch: asked for again at the next step
            Err(DocumentError::NotYetValid { in_ms, .. }) if Duration::from_millis(in_ms) <= self.epoch => {
                return Ok(());
            }
            Err(error @ DocumentError::Conflict { .. }) => {
                let evidence = self.dir.join(format!("evidence-{}", Hash::of("shoal node evidence 1", bytes)));
                files::write_private(&evidence, bytes)?;
                self.consensus.send_replace(None);
                return Err(error)
                    .context("the authorities contradict themselves; the second document is kept as evidence");
            }
            Err(error) => return Err(error.into()),
        };
        if self.newest == Some(document.mark()) && self.consensus.borrow().is_some() {
            return Ok(());
        }
        // remembered before it is used: an older one must not pass after a crash
        files::write_private(&self.dir.join(CONSENSUS_FILE), document.bytes())?;
        self.newest = Some(document.mark());
        tracing::info!(epoch = %document.epoch, height = document.height, nodes = document.nodes.len(), "new consensus");
        self.consensus.send_replace(Some(Arc::new(document)));
        Ok(())
    }
}
