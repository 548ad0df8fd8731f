//! The node's side of the directory: fetches the consensus and keeps the newest on disk.
//!
//! Authorities are asked first, and when none of them has the document of the current epoch, gateways: nobody is believed,
//! so anybody may be asked. Who does not answer soon is overtaken by the next one.

use crate::freshness::{self, Freshness};
use crate::io::changes;
use crate::io::evidence::Evidence;
use crate::io::files;
use crate::io::host::{Clock, generator};
use crate::io::phase::{self, Phase};
use anyhow::{Context as _, Result, anyhow, bail};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use shoal_protocol::consensus::{
    DocumentError, Follower, Offered, UnverifiedConsensus, VerifiedConsensus, authorities_reached, documents_reached,
};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::types::{Identity, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
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
/// Gateways asked in one turn, when no authority has the document of the epoch.
const GATEWAYS_ASKED: usize = 3;
/// Pause between two lines of the log about the same trouble.
const QUIET: Duration = Duration::from_secs(60);
/// File with the newest certified document, in the node's directory.
pub const CONSENSUS_FILE: &str = "consensus";

/// Asks authorities and gateways, over one link each that is kept while it is open. Authorities are where the newest
/// document says, else where the network file hints.
pub struct Authorities {
    endpoint: Arc<Endpoint>,
    hints: Vec<Hint>,
    newest: Mutex<Option<Arc<VerifiedConsensus>>>,
    gateways: Vec<Hint>,
    links: Mutex<BTreeMap<Identity, Link>>,
}

impl Authorities {
    /// Asks the authorities that the network file names.
    pub fn new(endpoint: Arc<Endpoint>, network: &NetworkFile) -> Self {
        let hints = network.hints.clone();
        let (newest, links) = (Mutex::default(), Mutex::default());
        Self { endpoint, hints: hints.authorities, newest, gateways: hints.gateways, links }
    }

    /// From now on the authorities are those that `newest` names.
    pub fn follow(&self, newest: Arc<VerifiedConsensus>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest);
    }

    fn newest(&self) -> Option<Arc<VerifiedConsensus>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gateways that the network file names.
    pub fn gateways(&self) -> &[Hint] {
        &self.gateways
    }

    /// The authorities that make the next document: they are told of this node.
    pub fn reached(&self) -> Vec<Hint> {
        authorities_reached(self.newest().as_ref().map(|newest| &***newest), &self.hints)
    }

    /// All authorities that may have a document.
    pub fn asked(&self) -> Vec<Hint> {
        documents_reached(self.newest().as_ref().map(|newest| &***newest), &self.hints)
    }

    /// What a server is called in messages.
    fn name(&self, server: &Hint) -> String {
        let newest = self.newest();
        let gateway = newest.is_some_and(|newest| newest.gateways().any(|node| node.identity == server.identity))
            || self.gateways.iter().any(|hint| hint.identity == server.identity);
        let kind = if gateway { "gateway" } else { "authority" };
        format!("{kind} {}", server.identity)
    }

    /// Asks one server. The error names it without its address, because errors end in logs.
    pub async fn ask(&self, hint: &Hint, question: &DirectoryQuestion) -> Result<DirectoryAnswer> {
        let kept = self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&hint.identity).cloned();
        let link = match kept.filter(Link::is_open) {
            Some(link) => link,
            None => {
                let link = self
                    .endpoint
                    .connect(hint.address, &hint.identity, Protocol::Directory)
                    .await
                    .with_context(|| self.name(hint))?;
                let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                // gateways come and go
                links.retain(|_, link| link.is_open());
                links.insert(hint.identity, link.clone());
                link
            }
        };
        let answer = ask(&link, &question.to_bytes(), ANSWER_SIZE_MAX).await.with_context(|| self.name(hint))?;
        DirectoryAnswer::from_bytes(&answer).with_context(|| self.name(hint))
    }

    /// What one server has for a reader who stands where `follower` stands and holds `held`. What comes back is verified by
    /// a follower that is thrown away; whoever uses it offers it to his own.
    async fn find(
        &self,
        server: &Hint,
        mut follower: Follower,
        held: Option<Arc<VerifiedConsensus>>,
        now: UnixMillis,
    ) -> Result<Option<Found>> {
        let have = held.as_ref().map(|held| held.hash());
        let unexpected = || Err(anyhow!("{} does not answer the question asked", self.name(server)));
        let document = match (self.ask(server, &DirectoryQuestion::Newest { have }).await?, held) {
            (DirectoryAnswer::UpToDate, Some(_)) => return Ok(None),
            (DirectoryAnswer::Document(bytes), _) => bytes,
            (DirectoryAnswer::Difference(difference), Some(held)) => {
                held.apply(&difference).with_context(|| self.name(server))?
            }
            (DirectoryAnswer::NotYet(reason), _) => bail!("no consensus yet: {}", printable(&reason)),
            (
                DirectoryAnswer::UpToDate
                | DirectoryAnswer::Difference(_)
                | DirectoryAnswer::Accepted
                | DirectoryAnswer::Refused(_)
                | DirectoryAnswer::BadQuestion
                | DirectoryAnswer::Changes(_),
                _,
            ) => return unexpected(),
        };
        let mut led: Vec<Vec<u8>> = Vec::new();
        // the authorities may have changed while this node was away. Every turn leads further, or is the last
        while let Err(error) = follower.clone().offer(&document, now)
            && error.may_be_another_set()
        {
            let question = DirectoryQuestion::Changes { after: follower.set() };
            let DirectoryAnswer::Changes(changes) = self.ask(server, &question).await? else { return unexpected() };
            let changes: Vec<Vec<u8>> = changes.into_iter().map(Vec::from).collect();
            match follower.advance(&changes) {
                Ok(0) => return Err(error).with_context(|| self.name(server)),
                Ok(_) => led.extend(changes),
                // for whoever keeps the evidence
                Err(DocumentError::Conflict { .. }) => {
                    led.extend(changes);
                    break;
                }
                Err(error) => return Err(error).with_context(|| self.name(server)),
            }
        }
        Ok(Some(Found { changes: led, document }))
    }
}

/// What a server had.
struct Found {
    /// Documents that changed the set of authorities, in order; needed before the document can be offered.
    changes: Vec<Vec<u8>>,
    document: Vec<u8>,
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
    /// Servers that did not do what was asked when they were asked last: asked last. At most 64 authorities and 2,048
    /// gateways.
    pub failing: BTreeSet<Identity>,
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
                let in_force = now <= document.valid_until.plus(skew) && now.plus(skew) >= document.valid_from;
                let document = Arc::new(document);
                self.known = Some(Arc::clone(&document));
                self.authorities.follow(Arc::clone(&document));
                if in_force {
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

    /// A clock that was wrong for a while had the newest document dropped; nobody has a newer one before its time.
    fn show_again(&self) {
        let now = self.clock.wall();
        let in_force = |document: &VerifiedConsensus| {
            let skew = document.parameters.skew();
            now.plus(skew) >= document.valid_from && now <= document.valid_until.plus(skew)
        };
        if let Some(known) = self.known.as_ref().filter(|known| in_force(known)) {
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
        if servers.is_empty() {
            bail!("the network file names no authority to ask (hints.authorities)");
        }
        let head_start = (self.epoch() / 40).clamp(HEAD_START.0, HEAD_START.1);
        // dropped with all that is still under way
        let mut asked: JoinSet<(Identity, Result<Option<Found>>)> = JoinSet::new();
        let mut open = BTreeSet::new();
        let mut problem = None;
        loop {
            if let Some(server) = servers.pop_front() {
                open.insert(server.identity);
                asked.spawn(self.asking(server));
            }
            let wait = if servers.is_empty() { SERVER_PATIENCE } else { head_start };
            match timeout(wait, asked.join_next()).await {
                Ok(Some(Ok((server, found)))) => {
                    open.remove(&server);
                    match found.and_then(|found| found.map_or(Ok(()), |found| self.take_found(&found))) {
                        Ok(()) => self.failing.remove(&server),
                        Err(error) => {
                            problem.get_or_insert(error);
                            self.failing.insert(server)
                        }
                    };
                }
                // a task that panicked: as good as no answer
                Ok(Some(Err(_))) => {}
                Ok(None) => open.clear(),
                Err(_) if servers.is_empty() => {
                    problem.get_or_insert_with(|| anyhow!("{} of those asked do not answer in time", open.len()));
                    self.failing.append(&mut open);
                }
                Err(_) => {}
            }
            if self.is_current() {
                // whoever was overtaken is slow, or was asked a moment ago: then it is asked again next time or the time after
                self.failing.append(&mut open);
                return Ok(());
            }
            if self.state.borrow().contradiction.is_some() || (servers.is_empty() && open.is_empty()) {
                return problem.map_or(Ok(()), Err);
            }
        }
    }

    fn asking(&self, server: Hint) -> impl Future<Output = (Identity, Result<Option<Found>>)> + Send + 'static {
        let (authorities, follower, now) = (Arc::clone(&self.authorities), self.follower.clone(), self.clock.wall());
        let held = self.known.clone();
        async move { (server.identity, authorities.find(&server, follower, held, now).await) }
    }

    /// Authorities, then some gateways, each in random order with those that failed last at the end.
    fn servers(&self, rng: &mut impl rand::CryptoRng) -> VecDeque<Hint> {
        let mut authorities = self.authorities.asked();
        let mut gateways = match &self.known {
            Some(known) => {
                let others = known.gateways().filter(|gateway| gateway.identity != self.me);
                let hint = others.filter_map(|gateway| {
                    Some(Hint { identity: gateway.identity, address: *gateway.addresses.first()? })
                });
                hint.collect()
            }
            None => self.authorities.gateways().to_vec(),
        };
        for servers in [&mut authorities, &mut gateways] {
            servers.shuffle(rng);
            servers.sort_by_key(|server| self.failing.contains(&server.identity));
        }
        gateways.truncate(GATEWAYS_ASKED);
        authorities.into_iter().chain(gateways).collect()
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
                self.changes.keep(kept.dangerously_trust_own_copy(&self.follower.anchor().network)?);
            }
        }
        self.take(&found.document)
    }

    /// The bytes of the newest document accepted. It was on disk before it was used.
    fn in_use(&self) -> Result<Vec<u8>> {
        let held = self.consensus.borrow().as_ref().map(|document| document.bytes().to_vec());
        match held {
            Some(bytes) => Ok(bytes),
            None => Ok(files::read(&self.dir.join(CONSENSUS_FILE))?.to_vec()),
        }
    }

    /// Keeps the proof and stops, also when it cannot be kept.
    fn contradiction(&self, other: &[u8], error: DocumentError) -> Result<()> {
        let evidence = Evidence::of(&self.dir);
        let kept = self.in_use().and_then(|first| evidence.keep(&first, other));
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
        self.known = Some(Arc::clone(&document));
        self.authorities.follow(Arc::clone(&document));
        self.consensus.send_replace(Some(document));
        Ok(())
    }
}

/// A server's text, as it may go to a log and a terminal: one short line without control characters.
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
