//! The node's side of the directory: fetches the consensus and keeps the newest on disk.
//!
//! Authorities are asked first, and when none of them has the document of the current epoch, gateways: nobody is believed,
//! so anybody may be asked. Who does not answer soon is overtaken by the next one.

use crate::io::asking::{Authorities, Found, NotFound};
use crate::io::changes;
use crate::io::evidence::Evidence;
use crate::io::fetch_state::FetchState;
use crate::io::files;
use crate::io::host::{Clock, generator};
use crate::io::phase::{self, Phase};
use crate::roster::{Roster, USELESS_MAX};
use anyhow::{Context as _, Result, anyhow, bail};
use rand::RngExt as _;
use shoal_protocol::consensus::{DocumentError, Follower, Offered, UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::network::Hint;
use shoal_protocol::types::Identity;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Shortest step between two questions for the newest document.
const STEP_MIN: Duration = Duration::from_millis(250);
/// How long the last server asked may take: 1 MiB at 600 kbit/s.
pub const SERVER_PATIENCE: Duration = Duration::from_secs(15);
/// How long one server may take before the next one is asked as well: a fortieth of an epoch, within these. So seven
/// silent authorities cost 14 s of an epoch of 20 minutes.
const HEAD_START: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// File with the newest certified document, in the node's directory.
pub const CONSENSUS_FILE: &str = "consensus";

/// Fetches and keeps the newest consensus.
pub struct ConsensusTask {
    /// This node: it does not ask itself.
    pub me: Identity,
    /// Whom to ask.
    pub authorities: Arc<Authorities>,
    /// Whom to believe now, and the newest document ever seen: nothing older and nothing of another chain is accepted.
    pub follower: Follower,
    /// Keeps the documents that changed the set of authorities.
    pub changes: changes::Keeper,
    /// The newest document ever held, in force or not: it may name gateways to ask.
    pub known: Option<Arc<VerifiedConsensus>>,
    /// The newest document of the chain, in use or not: what contradicts the next one is proven with it. At the end of a
    /// skip chain it is the last change.
    pub seen: Option<Arc<VerifiedConsensus>>,
    /// What is remembered of those who are asked.
    pub roster: Roster,
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
                let document = Arc::new(document);
                self.know(&document);
                if self.in_force(&document) {
                    self.consensus.send_replace(Some(document));
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
            self.show_again();
            self.say_if_stale();
            let problem = self.fetch(&mut rng).await.err().map(|error| format!("{error:#}"));
            self.say(problem);
            // who has seen one waits for the next as everybody does: a thousand nodes must not hold up authorities that heal
            let wait = if self.known.is_some() { step } else { STEP_MIN };
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

    fn in_force(&self, document: &VerifiedConsensus) -> bool {
        let (now, skew) = (self.clock.wall(), document.parameters.skew());
        now.plus(skew) >= document.valid_from && now <= document.valid_until.plus(skew)
    }

    /// A clock that was wrong for a while had the newest document dropped; nobody has a newer one before its time.
    fn show_again(&self) {
        if let Some(known) = self.known.as_ref().filter(|known| self.in_force(known)) {
            self.consensus.send_if_modified(|held| {
                let gone = held.is_none();
                held.get_or_insert_with(|| Arc::clone(known));
                gone
            });
        }
    }

    /// Asks one server after the other until the document of the current epoch is here, each with a head start before the
    /// next. A slow, dead or lying one costs this head start, and is asked last the next time.
    async fn fetch(&mut self, rng: &mut impl rand::CryptoRng) -> Result<()> {
        let mut servers = self.servers(rng);
        if servers.is_empty() && self.authorities.asked().is_empty() {
            bail!("the network file names no authority to ask (hints.authorities)");
        }
        if servers.is_empty() {
            bail!(
                "everybody who can be asked has given {USELESS_MAX} documents of no use; asked again in the next epoch"
            );
        }
        let head_start = (self.epoch() / 40).clamp(HEAD_START.0, HEAD_START.1);
        // dropped with all that is still under way
        let mut asked: JoinSet<(Identity, Result<Option<Found>, NotFound>)> = JoinSet::new();
        let mut open = BTreeSet::new();
        let mut problem = None;
        loop {
            // asking may take long, and what is held may be over meanwhile
            self.drop_expired();
            if let Some(server) = servers.pop_front() {
                open.insert(server.identity);
                asked.spawn(self.asking(server));
            }
            let wait = if servers.is_empty() { SERVER_PATIENCE } else { head_start };
            match timeout(wait, asked.join_next()).await {
                Ok(Some(Ok((server, found)))) => {
                    open.remove(&server);
                    match self.take_answer(server, found) {
                        Ok(()) => self.roster.served(&server),
                        Err(error) => {
                            problem.get_or_insert(error);
                            self.roster.failed([server]);
                        }
                    }
                }
                // a task that panicked: as good as no answer
                Ok(Some(Err(_))) => {}
                Ok(None) => open.clear(),
                Err(_) if servers.is_empty() => {
                    problem.get_or_insert_with(|| anyhow!("{} of those asked do not answer in time", open.len()));
                    self.roster.failed(std::mem::take(&mut open));
                }
                Err(_) => {}
            }
            if self.is_current() {
                // whoever was overtaken is slow, or was asked a moment ago: then it is asked again next time or the time after
                self.roster.failed(open);
                return Ok(());
            }
            if self.state.borrow().contradiction.is_some() || (servers.is_empty() && open.is_empty()) {
                return problem.map_or(Ok(()), Err);
            }
        }
    }

    /// Uses what a server had. A document that is not newer than what is here counts against it.
    fn take_answer(&mut self, server: Identity, found: Result<Option<Found>, NotFound>) -> Result<()> {
        let epoch = self.schedule.epoch_at(self.clock.wall());
        let before = self.follower.newest();
        let came = matches!(found, Ok(Some(_)) | Err(NotFound::Useless(_)));
        let taken = match found {
            Ok(Some(found)) => self.take_found(&found),
            Ok(None) => Ok(()),
            Err(NotFound::NotYet(reason)) => Err(anyhow!("no consensus yet: {reason}")),
            Err(NotFound::Silent(error) | NotFound::Useless(error)) => Err(error),
        };
        if came && self.follower.newest() == before {
            self.roster.gave_useless(server, epoch);
        }
        taken
    }

    fn asking(
        &self,
        server: Hint,
    ) -> impl Future<Output = (Identity, Result<Option<Found>, NotFound>)> + Send + 'static {
        let (authorities, follower, now) = (Arc::clone(&self.authorities), self.follower.clone(), self.clock.wall());
        let held = self.known.clone();
        async move { (server.identity, authorities.find(&server, follower, held, now).await) }
    }

    /// Authorities, and gateways that the newest document names, or the network file if there is none.
    fn servers(&self, rng: &mut impl rand::CryptoRng) -> VecDeque<Hint> {
        let gateways = match &self.known {
            Some(known) => {
                let others = known.gateways().filter(|gateway| gateway.identity != self.me);
                let hint = others.filter_map(|gateway| {
                    Some(Hint { identity: gateway.identity, address: *gateway.addresses.first()? })
                });
                hint.collect()
            }
            None => self.authorities.gateways().to_vec(),
        };
        let epoch = self.schedule.epoch_at(self.clock.wall());
        self.roster.order(self.authorities.asked(), gateways, epoch, rng)
    }

    /// Whether the document of the current epoch is here.
    fn is_current(&self) -> bool {
        let current = self.schedule.epoch_at(self.clock.wall());
        self.consensus.borrow().as_ref().is_some_and(|held| held.epoch >= current)
    }

    fn take_found(&mut self, found: &Found) -> Result<()> {
        for change in &found.changes {
            let led = match self.follower.advance(&[change]) {
                Err(error @ DocumentError::Conflict { .. }) => return self.contradiction(change, error),
                led => led?,
            };
            if led > 0 {
                // its form was checked, and by whom it was certified
                let kept = UnverifiedConsensus::parse(change)?;
                let kept = kept.dangerously_trust_own_copy(&self.follower.anchor().network)?;
                self.seen = Some(Arc::new(kept.clone()));
                self.changes.keep(kept);
            }
        }
        self.take(&found.document)
    }

    /// Keeps the proof, the two that were verified, and stops, also when it cannot be kept.
    fn contradiction(&self, other: &[u8], error: DocumentError) -> Result<()> {
        let evidence = Evidence::of(&self.dir);
        let kept = match &self.seen {
            Some(first) => evidence.keep(first.bytes(), other),
            // nothing contradicts a chain of which nothing was seen
            None => Err(anyhow!("the document seen first is not here")),
        };
        self.stop(evidence.explain());
        kept.context("the proof of the contradiction could not be kept")?;
        Err(error.into())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let set_before = self.follower.set();
        let document = match self.follower.offer(bytes, self.clock.wall()) {
            Ok(Offered::Newer(document)) => *document,
            Ok(Offered::Known) => return Ok(()),
            // made ahead of its epoch: asked for again at the next step
            Err(DocumentError::NotYetValid { in_ms, .. }) if Duration::from_millis(in_ms) <= self.epoch() => {
                return Ok(());
            }
            Err(error @ DocumentError::Conflict { .. }) => return self.contradiction(bytes, error),
            Err(error) => return Err(error.into()),
        };
        // remembered before it is used: an older one must not pass after a crash. A disk that fails does not stop the node:
        // until the next document is kept, only this process remembers this one
        if let Err(error) = files::write_private(&self.dir.join(CONSENSUS_FILE), document.bytes()) {
            tracing::error!(error = format!("{error:#}"), "the newest consensus cannot be kept for a restart");
        }
        tracing::info!(epoch = %document.epoch, height = document.height, nodes = document.nodes.len(), "new consensus");
        if self.follower.set() != set_before {
            self.changes.keep(document.clone());
        }
        let document = Arc::new(document);
        self.know(&document);
        self.consensus.send_replace(Some(document));
        Ok(())
    }

    fn know(&mut self, document: &Arc<VerifiedConsensus>) {
        let over = document.valid_until.plus(document.parameters.skew());
        self.state.send_modify(|state| state.last = Some((document.epoch, over)));
        self.known = Some(Arc::clone(document));
        self.seen = Some(Arc::clone(document));
        self.authorities.follow(Arc::clone(document));
    }
}

#[cfg(test)]
mod tests;
