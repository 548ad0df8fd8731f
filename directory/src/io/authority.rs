//! An authority with its files: applies the pure rooms to disk and clock, one step at a time.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{DocumentError, VerifiedConsensus, documents_reached, set_hash};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::{Epoch, Hash, Identity, UnixMillis};

use super::chain::Chain;
use super::failure::{Failure, Kind};
use super::files;
use super::home::Home;
use super::peers::Peers;
use super::votes::VoteLog;
use crate::admission::AdmittedList;
use crate::agreement::log;
use crate::authority::{self as core, Beginning, Genesis};
use crate::config::{Config, files as names};
use crate::lists::Listing;
use crate::refusals::Refusals;
use crate::schedule::released_at;
use crate::wishes::Wishes;

mod acting;
mod belonging;
mod descriptors;
mod reloading;
mod showing;

pub use reloading::Reloaded;
pub use showing::KnownNode;

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
    /// What the operator asks for.
    wishes: Wishes,
    /// The address in `authority.pub`, which the operator gave to the others.
    published: Option<SocketAddr>,
    listing: Listing,
    chain: Chain,
    core: core::Authority,
    /// `None` while it is not known what was signed.
    votes: Option<VoteLog>,
    peers: Peers,
    refusals: Refusals,
    /// The epoch in which the list was last rid of who is not to be on it; `None` when that is to be done now.
    pruned: Option<Epoch>,
    /// Whether the others are to be asked for their newest document.
    ask: bool,
    /// Why this process must end.
    failed: Option<Failure>,
    opened: UnixMillis,
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
        let wishes = home.wishes()?;
        let core = core::Authority::new(Beginning {
            genesis,
            secret: Arc::clone(&secret),
            wishes: wishes.clone(),
            newest: chain.newest().cloned(),
        });
        let mut authority = Self {
            peers: Peers::default(),
            wishes,
            published: home.public().ok().map(|public| public.address),
            admitted: home.admitted()?,
            schedule: network.schedule(),
            listing: Listing::default(),
            refusals: Refusals::default(),
            votes: None,
            pruned: None,
            ask: false,
            failed: None,
            opened: now,
            home,
            config,
            network,
            id,
            secret,
            chain,
            core,
        };
        authority.find_peers();
        authority.load_descriptors(now)?;
        Ok(authority)
    }

    /// The other authorities are where the newest document says, or where the network file hints: an address in a document
    /// may be old or wrong, and no later one comes while too many have such. Returns who is new, or somewhere else.
    fn find_peers(&self) -> Vec<Hint> {
        let newest = self.chain.newest().map(|newest| &***newest);
        let hints = &self.network.hints.authorities;
        let mut others = documents_reached(newest, hints);
        others.extend(hints);
        let me = self.identity();
        others.retain(|hint| hint.identity != me);
        self.peers.set(others)
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
            Some((_, bytes)) if log::network(&bytes).is_some_and(|network| network != self.id) => {
                return Err(VoteLog::foreign(&path));
            }
            Some((mut votes, bytes)) => match log::resume(&bytes, &self.id, me, height) {
                Ok(recovered) => {
                    votes.cut(recovered.length as u64)?;
                    self.votes = Some(votes);
                    Ok(recovered.entries)
                }
                Err(log::Damaged::Foreign { what: "authority" }) => return Err(VoteLog::foreign(&path)),
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

    /// Its identity key.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.secret.public().identity
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
        self.say_missed(now);
        self.prune(now);
        let acts = self.core.wake(&self.listing, now);
        self.carry_out(acts, now);
        self.core.next_wake(now)
    }

    /// One line in the log for each epoch that begins without its document.
    fn say_missed(&self, now: UnixMillis) {
        let epoch = self.schedule.epoch_at(now);
        let began = self.pruned.is_some_and(|before| before != epoch);
        if began && self.chain.newest().is_some_and(|newest| newest.epoch < epoch) {
            let next = self.outlook(now, true).next.into_iter().next().unwrap_or_default();
            tracing::warn!(%epoch, next, "an epoch begins without its document");
        }
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

    /// Documents that lead on from the last set with this hash, oldest first; none if this chain never had it.
    #[must_use]
    pub fn changes_from(&self, set: &Hash) -> Vec<Arc<VerifiedConsensus>> {
        self.chain.changes_from(set).unwrap_or_default()
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
