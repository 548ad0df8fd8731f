//! The authority: applies the pure rooms to files and clock, one step at a time.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{TrustAnchor, VerifiedConsensus, certify};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::{Epoch, Identity, Role, UnixMillis};

use super::chain::Chain;
use super::failure::{Failure, Kind};
use super::files;
use super::home::Home;
use super::snapshot::{NodeStatus, Numbers, RefusedStatus, Status, role_label};
use crate::admission::AdmittedList;
use crate::config::{Config, files as names};
use crate::document::{self, Dropped, NotYet, Rules, known_role};
use crate::list_message::ListMessage;
use crate::lists::{Judge, Listing, Offered, Refusal};
use crate::proposal::VerifiedProposal;
use crate::randomness;
use crate::schedule::{Due, RETRY, after_outage, due, patience, released_at};
use crate::signed_list::{List, Place};

/// Refusals remembered for `status`.
const REFUSALS_KEPT: usize = 32;

/// What a step of [`Authority::tick`] did.
#[derive(Clone, Debug)]
pub enum Tick {
    /// A document was certified and written.
    Certified(Arc<VerifiedConsensus>),
    /// Nothing to do before this instant.
    Wait(UnixMillis),
}

/// One authority of a network of one.
#[derive(Debug)]
pub struct Authority {
    home: Home,
    config: Config,
    network: NetworkFile,
    anchor: TrustAnchor,
    schedule: Schedule,
    secret: AuthoritySecret,
    admitted: AdmittedList,
    listing: Listing,
    chain: Chain,
    waiting_for: Option<String>,
    /// When the first document after an outage could first have been made.
    overdue_since: Option<UnixMillis>,
    dropped: BTreeMap<Identity, Dropped>,
    refused: VecDeque<RefusedStatus>,
}

impl Authority {
    /// Reads the directory and continues where it stopped.
    ///
    /// # Errors
    /// A file is missing, wrong, or contradicts another.
    pub fn open(home: Home, now: UnixMillis) -> Result<Self, Failure> {
        let (config, network, secret) = (home.config()?, home.network()?, home.secret()?);
        if network.authorities != [secret.public().clone()] {
            let several = network.authorities.len() > 1;
            let problem = if several {
                "names several authorities; agreement between authorities is not part of this version"
            } else {
                "names another authority than authority.key"
            };
            return Err(Failure::content(&home.path(names::NETWORK), &problem));
        }
        let anchor = network.trust_anchor();
        let chain = Chain::open(&home.path(names::DOCUMENTS), &anchor)?;
        let mut authority = Self {
            admitted: home.admitted()?,
            schedule: network.schedule(),
            listing: Listing::default(),
            waiting_for: None,
            overdue_since: None,
            dropped: BTreeMap::new(),
            refused: VecDeque::new(),
            home,
            config,
            network,
            anchor,
            secret,
            chain,
        };
        authority.load_descriptors(now)?;
        Ok(authority)
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
            Err(refusal) => self.remember_refusal(refusal.to_string(), now),
        }
        result
    }

    fn offer_quietly(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Offered, Refusal> {
        let judge = Judge {
            network: self.anchor.network,
            schedule: self.schedule,
            skew: self.network.parameters.skew(),
            admitted: (!self.config.open).then_some(&self.admitted),
        };
        let newest = self.chain.newest();
        self.listing.offer(bytes, now, &judge, |identity| newest.and_then(|newest| known_role(newest, identity)))
    }

    /// Makes the document that is due, if one is. Call again at the instant it names, and, while there is no document,
    /// whenever a descriptor was listed.
    ///
    /// # Errors
    /// The document could not be written: nothing was shown to anybody.
    pub fn tick(&mut self, now: UnixMillis) -> Result<Tick, Failure> {
        let newest = self.chain.newest().map(|newest| newest.epoch);
        match due(&self.schedule, newest, now) {
            Due::Wait(until) => Ok(Tick::Wait(until)),
            Due::Document(epoch) => {
                self.prune(epoch);
                match self.make(epoch, now) {
                    Ok(document) => {
                        self.waiting_for = None;
                        self.overdue_since = None;
                        document.map(Tick::Certified)
                    }
                    Err(reason) => {
                        self.waiting_for = Some(reason.to_string());
                        Ok(Tick::Wait(now.plus(RETRY)))
                    }
                }
            }
        }
    }

    fn make(&mut self, epoch: Epoch, now: UnixMillis) -> Result<Result<Arc<VerifiedConsensus>, Failure>, NotYet> {
        let previous = self.chain.newest().map(Arc::clone);
        let before = previous.as_ref().map(|previous| &***previous);
        let network = self.anchor.network;
        let rules = Rules {
            network,
            schedule: self.schedule,
            parameters: self.network.parameters,
            authorities: &self.network.authorities,
            genesis_stores: self.config.genesis_stores,
            genesis_gateways: self.config.genesis_gateways,
        };
        let descriptors = self.listing.descriptors();
        if after_outage(before.map(|before| before.epoch), epoch) {
            let since = *self.overdue_since.get_or_insert(now);
            let patient = now < since.plus(patience(&self.schedule));
            if patient && !document::most_are_back(&rules, before, epoch, descriptors) {
                return Err(NotYet::Returning);
            }
        }
        let place = Place::after(&rules, previous.as_deref());
        let head = List {
            network,
            authority: 0,
            height: place.height,
            epoch,
            made_at: now,
            entries: Vec::new(),
            contribution: randomness::contribution(&self.secret, &network, before, epoch),
            parameters: self.network.parameters,
            authorities: None,
        };
        let message = ListMessage::freeze(head, descriptors, &self.secret)?;
        let proposal = VerifiedProposal::compose(&place, epoch, &[&message])?;
        let draft = document::next_document(&rules, previous.as_deref(), &proposal)?;
        let certified = certify(&draft.document, 0, &[(0, &self.secret)]);
        let appended = self.chain.append(&certified, &self.anchor);
        if appended.is_ok() {
            self.dropped = draft.dropped;
        }
        Ok(appended)
    }

    /// The newest document that may be handed out at `now`.
    #[must_use]
    pub fn newest(&self, now: UnixMillis) -> Option<&Arc<VerifiedConsensus>> {
        self.chain
            .newest_where(|document| now >= released_at(&self.schedule, document.epoch, document.parameters.skew()))
    }

    /// What the first document, or an overdue one, waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Option<&str> {
        self.waiting_for.as_deref()
    }

    /// Reads `admitted.toml` again. Nodes no longer on it are left out of the next document.
    ///
    /// # Errors
    /// The file is unreadable or wrong; the list in force stays.
    pub fn reload(&mut self) -> Result<usize, Failure> {
        self.admitted = self.home.admitted()?;
        Ok(self.admitted.len())
    }

    /// The numbers behind `/readyz` and `/metrics`.
    #[must_use]
    pub fn numbers(&self, now: UnixMillis) -> Numbers {
        let mut numbers = Numbers { waiting_for: self.waiting_for.clone(), ..Numbers::default() };
        for role in [Role::Gateway, Role::Mix, Role::Store] {
            numbers.listed.insert(role_label(role), self.listing.count(role));
            for state in ["active", "standby"] {
                numbers.in_consensus.insert((role_label(role), state), 0);
            }
        }
        if let Some(document) = self.newest(now) {
            numbers.ready = document.epoch >= self.schedule.epoch_at(now);
            numbers.epoch = document.epoch.0;
            numbers.valid_until = document.valid_until;
            numbers.signatures = document.signatures();
            for node in &document.nodes {
                let state = if node.standby { "standby" } else { "active" };
                *numbers.in_consensus.entry((role_label(node.role), state)).or_default() += 1;
            }
        }
        numbers
    }

    /// Everything an operator asks.
    #[must_use]
    pub fn status(&self, now: UnixMillis, running: bool) -> Status {
        let newest = self.newest(now);
        let listed = self.listing.descriptors().values().map(|signed| &signed.descriptor);
        let nodes = listed.map(|descriptor| {
            let entry = newest.and_then(|newest| newest.node(&descriptor.identity));
            NodeStatus {
                identity: descriptor.identity,
                role: descriptor.role,
                published: descriptor.published,
                version: descriptor.version.clone(),
                in_consensus: entry.is_some(),
                layer: entry.and_then(|entry| entry.layer),
                standby: entry.is_some_and(|entry| entry.standby),
                dropped: self.dropped.get(&descriptor.identity).map(ToString::to_string),
            }
        });
        Status {
            running,
            identity: self.secret.public().identity,
            name: self.network.name.clone(),
            network: self.anchor.network,
            fingerprint: self.network.fingerprint_words(),
            epoch: newest.map(|newest| newest.epoch),
            height: newest.map(|newest| newest.height),
            document: newest.map(|newest| newest.hash()),
            signatures: newest.map(|newest| newest.signatures()),
            valid_until: newest.map(|newest| newest.valid_until),
            ready: self.numbers(now).ready,
            waiting_for: self.waiting_for.clone(),
            open: self.config.open,
            admitted: self.admitted.len(),
            nodes: nodes.collect(),
            refused: self.refused.iter().cloned().collect(),
        }
    }

    fn prune(&mut self, epoch: Epoch) {
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
        files::create_dir(&dir)?;
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

    fn remember_refusal(&mut self, reason: String, now: UnixMillis) {
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
