//! An authority with its files: applies the pure rooms to disk and clock, one step at a time.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_protocol::authority::{AuthorityKey, AuthoritySecret};
use shoal_protocol::consensus::{DocumentError, VerifiedConsensus, documents_reached, set_hash};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::{Epoch, Hash, Identity, UnixMillis};

use super::chain::Chain;
use super::failure::{Failure, Kind};
use super::files;
use super::home::Home;
use super::peers::Peers;
use super::snapshot::RefusedStatus;
use super::votes::VoteLog;
use crate::admission::AdmittedList;
use crate::agreement::log;
use crate::authority::{self as core, Act, Beginning, Genesis};
use crate::config::{Config, files as names};
use crate::document::known_role;
use crate::lists::{Examined, Judge, Listing, Offered, Refusal};
use crate::schedule::released_at;
use shoal_protocol::link::DirectoryQuestion;

mod showing;

/// Refusals remembered for `status`.
const REFUSALS_KEPT: usize = 32;

/// One authority of a network.
#[derive(Debug)]
pub struct Authority {
    home: Home,
    config: Config,
    network: NetworkFile,
    id: Hash,
    schedule: Schedule,
    secret: Arc<AuthoritySecret>,
    admitted: AdmittedList,
    listing: Listing,
    chain: Chain,
    core: core::Authority,
    /// `None` while it is not known what was signed.
    votes: Option<VoteLog>,
    peers: Peers,
    refused: VecDeque<RefusedStatus>,
    /// The epoch in which the list was last rid of who is not to be on it; `None` when that is to be done now.
    pruned: Option<Epoch>,
    /// Whether the others are to be asked for their newest document.
    ask: bool,
    /// Why this process must end.
    failed: Option<Failure>,
}

impl Authority {
    /// Reads the directory and continues where it stopped. Only looks: nothing is written.
    ///
    /// # Errors
    /// A file is missing, wrong, or contradicts another.
    pub fn open(home: Home, now: UnixMillis) -> Result<Self, Failure> {
        let (config, network, secret) = (home.config()?, home.network()?, Arc::new(home.secret()?));
        let id = network.genesis_hash();
        let chain = Chain::open(&home.path(names::DOCUMENTS), &id, &network.authorities)?;
        let genesis = Genesis {
            network: id,
            schedule: network.schedule(),
            parameters: network.parameters,
            authorities: network.authorities.clone(),
            stores: network.founding.stores.into(),
            gateways: network.founding.gateways.into(),
        };
        let core = core::Authority::new(Beginning {
            genesis,
            secret: Arc::clone(&secret),
            wishes: home.wishes(&secret.public().identity)?,
            newest: chain.newest().cloned(),
        });
        let mut authority = Self {
            peers: Peers::default(),
            admitted: home.admitted()?,
            schedule: network.schedule(),
            listing: Listing::default(),
            refused: VecDeque::new(),
            votes: None,
            pruned: None,
            ask: false,
            failed: None,
            home,
            config,
            network,
            id,
            secret,
            chain,
            core,
        };
        if authority.core.index().is_none() {
            tracing::warn!("this key is not among those who certify the next document: the authority only watches");
        }
        authority.find_peers();
        authority.load_descriptors(now)?;
        Ok(authority)
    }

    /// The other authorities are where the newest document says, else where the network file hints.
    fn find_peers(&self) {
        let newest = self.chain.newest().map(|newest| &***newest);
        let me = self.secret.public().identity;
        let mut others = documents_reached(newest, &self.network.hints.authorities);
        others.retain(|hint| hint.identity != me);
        self.peers.follow(&others);
    }

    /// Takes up the votes of the document under way. Called once, by the process that holds the directory's lock.
    ///
    /// # Errors
    /// The vote log cannot be read or written.
    pub fn resume(&mut self, now: UnixMillis) -> Result<(), Failure> {
        files::create_dir(&self.home.path(names::DESCRIPTORS))?;
        let path = self.home.path(names::VOTES);
        let height = self.core.height();
        let me = self.core.index().unwrap_or_default();
        let entries = match VoteLog::open(&path)? {
            None => Err("there is no votes.log".to_owned()),
            Some((mut votes, bytes)) => match log::resume(&bytes, &self.id, me, height) {
                Ok(recovered) => {
                    votes.cut(recovered.length as u64)?;
                    self.votes = Some(votes);
                    Ok(recovered.entries)
                }
                Err(damage) => Err(damage.to_string()),
            },
        };
        if let Err(problem) = &entries {
            tracing::warn!(
                problem,
                "what was signed is not known: this authority watches until there is a new document"
            );
        }
        let acts = self.core.resume(entries.ok().as_deref(), now);
        self.carry_out(acts, now);
        Ok(())
    }

    /// The operator's settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The secrets, for the links.
    #[must_use]
    pub fn secret(&self) -> &AuthoritySecret {
        &self.secret
    }

    /// Length of an epoch, in ms.
    #[must_use]
    pub fn epoch_ms(&self) -> u64 {
        self.schedule.epoch_ms
    }

    /// The other authorities.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Index of another authority in the set that certifies the next document.
    #[must_use]
    pub fn index_of(&self, identity: &Identity) -> Option<u16> {
        let set = self.core.set();
        set.iter().position(|key| key.identity == *identity).and_then(|at| u16::try_from(at).ok())
    }

    /// Verifies a descriptor and says whether it would be listed, before anybody dials its node.
    ///
    /// # Errors
    /// What its operator has to know.
    pub fn examine(&self, bytes: &[u8], now: UnixMillis) -> Result<Examined, Refusal> {
        let newest = self.chain.newest();
        let known = |identity: &Identity| newest.and_then(|newest| known_role(newest, identity));
        self.listing.examine(bytes, now, &self.judge(), known)
    }

    fn judge(&self) -> Judge<'_> {
        Judge {
            network: self.id,
            schedule: self.schedule,
            skew: self.network.parameters.skew(),
            admitted: (!self.config.open).then_some(&self.admitted),
        }
    }

    /// Takes a descriptor, or says why not. A listed one is kept across a restart.
    ///
    /// # Errors
    /// What its operator has to know.
    pub fn offer(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Offered, Refusal> {
        let result = self.offer_quietly(bytes, now);
        match &result {
            Ok(Offered::Listed(identity)) => {
                // not fsynced: a lost descriptor comes again within an epoch
                if let Err(failure) = files::replace(&self.descriptor_path(identity), bytes, files::PUBLIC, false) {
                    tracing::warn!(error = %failure, "a descriptor is listed but not kept for a restart");
                }
            }
            Ok(Offered::Known(_)) => {}
            Err(refusal) => self.refuse(refusal.to_string(), now),
        }
        result
    }

    fn offer_quietly(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Offered, Refusal> {
        let judge = Judge {
            network: self.id,
            schedule: self.schedule,
            skew: self.network.parameters.skew(),
            admitted: (!self.config.open).then_some(&self.admitted),
        };
        let newest = self.chain.newest();
        self.listing.offer(bytes, now, &judge, |identity| newest.and_then(|newest| known_role(newest, identity)))
    }

    /// Takes a message of the agreement.
    pub fn receive(&mut self, from: u16, bytes: &[u8], now: UnixMillis) {
        let acts = self.core.receive(from, bytes, now);
        self.carry_out(acts, now);
    }

    /// Takes another authority's list.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn take_list(&mut self, from: u16, bytes: &[u8], now: UnixMillis) -> Result<(), String> {
        let acts = self.core.take_list(from, bytes, now)?;
        self.carry_out(acts, now);
        Ok(())
    }

    /// Takes a certified document of another authority.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn adopt(&mut self, bytes: &[u8], now: UnixMillis) -> Result<(), DocumentError> {
        match self.core.adopt(bytes, now) {
            Ok(acts) => {
                self.carry_out(acts, now);
                Ok(())
            }
            Err(error @ DocumentError::Conflict { .. }) => {
                self.keep_evidence(bytes, &error);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Does what is due. Returns when to look again.
    pub fn tick(&mut self, now: UnixMillis) -> UnixMillis {
        self.prune(now);
        let acts = self.core.wake(&self.listing, now);
        self.carry_out(acts, now);
        self.core.next_wake(now)
    }

    /// Ends this process at the next tick.
    pub fn fail(&mut self, problem: &str) {
        let failure =
            || Failure::new(Kind::Temporary, problem, "report this; the authority continues when it is started again");
        self.failed.get_or_insert_with(failure);
    }

    /// Who certifies the next document.
    #[must_use]
    pub fn set(&self) -> Vec<Identity> {
        self.core.set().iter().map(|key| key.identity).collect()
    }

    /// Why this process must end, if it must.
    #[must_use]
    pub fn failed(&self) -> Option<&Failure> {
        self.failed.as_ref()
    }

    /// Whether the others are to be asked for their newest document; once.
    pub fn take_ask(&mut self) -> bool {
        std::mem::take(&mut self.ask)
    }

    fn carry_out(&mut self, acts: Vec<Act>, now: UnixMillis) {
        for act in acts {
            if self.failed.is_some() {
                return;
            }
            let done = match act {
                Act::Log(entry) => match self.votes.as_mut().map_or(Ok(true), |votes| votes.append(&entry)) {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        tracing::error!("the vote log is full: this authority watches until there is a new document");
                        self.votes = None;
                        self.core.watch(now);
                        return;
                    }
                    Err(failure) => Err(failure),
                },
                Act::Agree(message) => self.broadcast(&DirectoryQuestion::Agree(message)),
                Act::List(message) => self.broadcast(&DirectoryQuestion::List(message)),
                Act::Certified(document) => self.keep(document),
                Act::Completed(document) => {
                    if let Err(failure) = self.chain.complete(document) {
                        tracing::warn!(error = %failure, "the certificate that all authorities come to is not kept");
                    }
                    Ok(())
                }
                // the document is kept: until here the log before is known to be over
                Act::BeginLog => VoteLog::begin(&self.home.path(names::VOTES)).map(|votes| self.votes = Some(votes)),
                Act::Ask => {
                    self.ask = true;
                    Ok(())
                }
                Act::Misbehaviour(evidence) => {
                    let authority = evidence.authority();
                    tracing::error!(
                        authority,
                        "an authority signed two things that contradict each other: evidence kept"
                    );
                    let bytes = evidence.encode();
                    let name = format!("misbehaviour-{}", Hash::of("shoal evidence file", &bytes));
                    // the network goes on without it
                    let _ = files::replace(&self.home.path(&name), &bytes, files::PUBLIC, true);
                    Ok(())
                }
            };
            if let Err(failure) = done {
                self.failed = Some(failure);
            }
        }
    }

    fn broadcast(&self, message: &DirectoryQuestion) -> Result<(), Failure> {
        self.peers.broadcast(message, self.core.set());
        Ok(())
    }

    fn keep(&mut self, document: Arc<VerifiedConsensus>) -> Result<(), Failure> {
        let (epoch, height, nodes) = (document.epoch.0, document.height, document.nodes.len());
        tracing::info!(epoch, height, nodes, signatures = document.signatures(), "a document is certified");
        self.chain.append(document)?;
        self.find_peers();
        Ok(())
    }

    fn keep_evidence(&mut self, bytes: &[u8], error: &DocumentError) {
        let path = self.home.path(names::CONFLICT);
        tracing::error!(%error, file = %path.display(), "the authorities contradict themselves");
        let kept = files::replace(&path, bytes, files::PUBLIC, true);
        self.failed = Some(Failure::new(
            Kind::Configuration,
            format!("{error}; the other document is kept in {}", path.display()),
            "more than f authorities are dishonest or were copied: compare with their operators before you run again",
        ));
        if let Err(failure) = kept {
            tracing::error!(error = %failure, "the other document cannot be kept");
        }
    }

    /// The newest document that may be handed out at `now`.
    #[must_use]
    pub fn newest(&self, now: UnixMillis) -> Option<&Arc<VerifiedConsensus>> {
        self.chain
            .newest_where(|document| now >= released_at(&self.schedule, document.epoch, document.parameters.skew()))
    }

    /// The newest document, handed out or not: for other authorities.
    #[must_use]
    pub fn newest_certified(&self) -> Option<&Arc<VerifiedConsensus>> {
        self.chain.newest()
    }

    /// Documents after `height` at which the set of authorities changed, oldest first.
    #[must_use]
    pub fn changes_after(&self, height: u64) -> Vec<Arc<VerifiedConsensus>> {
        self.chain.changes_after(height)
    }

    /// The set that certifies the first document.
    #[must_use]
    pub fn genesis(&self) -> &[AuthorityKey] {
        &self.network.authorities
    }

    /// Hash of the set that certifies the next document.
    #[must_use]
    pub fn set_hash(&self) -> Hash {
        set_hash(self.core.set())
    }

    /// What the first document, or an overdue one, waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Option<&str> {
        self.core.waiting_for()
    }

    /// Reads `admitted.toml` and what the operator wishes again. Nodes no longer admitted are left out of the next list.
    ///
    /// # Errors
    /// A file is unreadable or wrong; what is in force stays.
    pub fn reload(&mut self) -> Result<usize, Failure> {
        let (admitted, wishes) = (self.home.admitted()?, self.home.wishes(&self.secret.public().identity)?);
        self.admitted = admitted;
        self.pruned = None;
        self.core.wish(wishes);
        Ok(self.admitted.len())
    }

    /// Keys run out with an epoch, and who is admitted changes with a reload.
    fn prune(&mut self, now: UnixMillis) {
        let epoch = self.schedule.epoch_at(now);
        if self.pruned == Some(epoch) {
            return;
        }
        self.pruned = Some(epoch);
        let admitted = (!self.config.open).then_some(&self.admitted);
        for identity in self.listing.prune(epoch, admitted) {
            if let Err(error) = std::fs::remove_file(self.descriptor_path(&identity)) {
                tracing::debug!(%identity, %error, "a descriptor's file cannot be removed");
            }
        }
    }

    /// Lists what was listed before the restart and still verifies.
    fn load_descriptors(&mut self, now: UnixMillis) -> Result<(), Failure> {
        let dir = self.home.path(names::DESCRIPTORS);
        if !dir.exists() {
            return Ok(());
        }
        let entries = std::fs::read_dir(&dir).map_err(|error| Failure::file("read", &dir, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| Failure::file("read", &dir, &error))?.path();
            let loaded = files::read(&path)
                .map_err(|failure| failure.to_string())
                .and_then(|bytes| self.offer_quietly(&bytes, now).map_err(|refusal| refusal.to_string()));
            if let Err(problem) = loaded {
                tracing::info!(file = %path.display(), problem, "a kept descriptor is not listed again");
            }
        }
        Ok(())
    }

    fn descriptor_path(&self, identity: &Identity) -> PathBuf {
        self.home.path(names::DESCRIPTORS).join(identity.to_string())
    }

    /// Remembers a refusal for `status`.
    pub fn refuse(&mut self, reason: String, now: UnixMillis) {
        let count = match self.refused.iter().position(|before| before.reason == reason) {
            Some(at) => self.refused.remove(at).map_or(0, |before| before.count),
            None => {
                // whoever reaches the port can cause one: status shows the last ones, the log stays quiet
                tracing::debug!(reason, "a descriptor is refused");
                0
            }
        };
        while self.refused.len() >= REFUSALS_KEPT {
            self.refused.pop_front();
        }
        self.refused.push_back(RefusedStatus { at: now, count: count + 1, reason });
    }
}

/// Reads the directory of an authority; for commands that only look.
///
/// # Errors
/// A file is missing or wrong.
pub fn look(home: &Home, now: UnixMillis) -> Result<Authority, Failure> {
    Authority::open(home.clone(), now).map_err(|failure| match failure.kind {
        Kind::Usage | Kind::Unreachable | Kind::InputOutput | Kind::Temporary | Kind::Permission => failure,
        Kind::Configuration => Failure { next: "check --dir and the file".to_owned(), ..failure },
    })
}
