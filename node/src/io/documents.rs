//! The documents of a node at its start: what it knows already, who fetches new ones, and where they are shown.

use crate::io::asking::Authorities;
use crate::io::changes::{Changes, Keeper};
use crate::io::directory::{CONSENSUS_FILE, ConsensusTask};
use crate::io::drain::Newest;
use crate::io::fetch_state::FetchState;
use crate::io::files;
use crate::io::host::Clock;
use crate::roster::Roster;
use anyhow::Result;
use shoal_protocol::consensus::{Follower, VerifiedConsensus};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::Endpoint;
use shoal_protocol::types::Identity;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Documents and who is asked for them.
pub struct Documents {
    /// Who is asked.
    pub authorities: Arc<Authorities>,
    /// Fetches; to be run.
    pub task: ConsensusTask,
    /// The newest in force.
    pub newest: Newest,
    /// How fetching goes.
    pub fetch: watch::Receiver<FetchState>,
    /// Those that changed the set of authorities.
    pub changes: watch::Receiver<Arc<Changes>>,
    /// What packets are handled by: the newest, but while the node drains.
    pub serving: watch::Sender<Option<Arc<VerifiedConsensus>>>,
    /// The one before it, for the grace time.
    pub before: watch::Sender<Option<Arc<VerifiedConsensus>>>,
}

/// Where the node in `dir` stands: at the document that it kept, or at the network file.
pub fn kept(dir: &Path, mut follower: Follower) -> (Follower, Option<Arc<VerifiedConsensus>>) {
    let bytes = files::read_optional(&dir.join(CONSENSUS_FILE)).ok().flatten();
    let own = bytes.and_then(|bytes| follower.resume(&bytes).ok());
    (follower, own.map(Arc::new))
}

impl Documents {
    /// Takes up what lies in the node's directory.
    pub fn open(
        me: Identity,
        endpoint: &Arc<Endpoint>,
        network: &NetworkFile,
        dir: &Path,
        clock: Clock,
    ) -> Result<Self> {
        let (consensus, newest) = watch::channel(None);
        let (state, fetch) = watch::channel(FetchState::default());
        let authorities = Arc::new(Authorities::new(Arc::clone(endpoint), network));
        let keeper = Keeper::open(dir, &network.trust_anchor())?;
        let changes = keeper.subscribe();
        let mut task = ConsensusTask {
            me,
            authorities: Arc::clone(&authorities),
            follower: Follower::new(network.trust_anchor()),
            changes: keeper,
            known: None,
            seen: None,
            roster: Roster::default(),
            schedule: network.schedule(),
            dir: dir.to_owned(),
            clock,
            consensus,
            state,
            stale: false,
            quiet_until: Duration::ZERO,
        };
        task.load()?;
        let serving = watch::Sender::new(newest.borrow().clone());
        Ok(Self { authorities, task, newest, fetch, changes, serving, before: watch::Sender::new(None) })
    }
}
