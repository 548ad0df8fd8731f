//! Sends the node's own loops, counts those that do not return, and says when losses are sustained.

use crate::alarm_log::AlarmLog;
use crate::io::counters::{Counters, Published};
use crate::io::host::{Clock, generator};
use crate::io::links::LinkSender;
use crate::io::phase::{self, Phase};
use crate::loops::Loops;
use crate::view::first_hops;
use rand::CryptoRng;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::route::loop_route;
use shoal_protocol::sphinx::build;
use shoal_protocol::topology::Place;
use shoal_protocol::types::Identity;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often losses are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// What the loop task works with.
pub struct LoopTask {
    /// This node.
    pub me: Identity,
    /// The loops, shared with the workers, who see them return.
    pub loops: Arc<Mutex<Loops>>,
    /// The newest consensus.
    pub consensus: watch::Receiver<Option<Arc<VerifiedConsensus>>>,
    /// Epochs.
    pub schedule: Schedule,
    /// Time.
    pub clock: Clock,
    /// Where loops leave.
    pub links: LinkSender,
    /// Counters.
    pub counters: Arc<Counters>,
    /// What of them is shown: the log says nothing before `status` does.
    pub published: Arc<Published>,
    /// Life cycle.
    pub phase: watch::Receiver<Phase>,
}

impl LoopTask {
    fn loops(&self) -> MutexGuard<'_, Loops> {
        // every operation on the loops is one step
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until the process stops.
    pub async fn run(&mut self) {
        let mut rng = generator();
        let mut log = AlarmLog::default();
        loop {
            let due = self.loops().next().saturating_sub(self.clock.monotonic());
            // without a consensus no loop can be made, so the next one stays due
            let idle = self.consensus.borrow().is_none();
            let wait = if idle { LOOK } else { due.min(LOOK) };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = self.consensus.changed() => if changed.is_err() { return },
                () = phase::reached(&mut self.phase, Phase::Stopping) => return,
            }
            let consensus = self.consensus.borrow_and_update().clone();
            if let Some(consensus) = consensus {
                self.turn(&consensus, &mut rng);
            }
            let now = self.clock.monotonic();
            {
                let mut loops = self.loops();
                loops.expire(now);
                self.counters.set_loops(&loops);
            }
            match log.observe(now, self.published.losing().len()) {
                Some(0) => tracing::info!("own loops return again from everywhere"),
                Some(places) => tracing::warn!(
                    places,
                    next = "`shoal-node status` names them",
                    "own loops are lost: something drops packets there"
                ),
                None => {}
            }
        }
    }

    fn turn(&self, consensus: &VerifiedConsensus, rng: &mut impl CryptoRng) {
        let now = self.clock.monotonic();
        let due = {
            let mut loops = self.loops();
            loops.set_mean_gap(consensus.parameters.lambda_m.mean_gap(), now, rng);
            loops.retain(|node| {
                consensus.node(&Identity::from_bytes(*node)).is_some_and(|node| Place::of(node).is_some())
            });
            loops.due(now, rng)
        };
        if !due {
            return;
        }
        let epoch = self.schedule.epoch_at(self.clock.wall());
        let wanted = first_hops(consensus, epoch, &self.me);
        let Some(first) = self.loops().first_hop(&wanted, rng) else { return };
        // a network that cannot route a loop yet has nothing to measure
        let Ok(hops) = loop_route(consensus, epoch, &self.me, &first, rng) else { return };
        let identifier = Loops::identifier(rng);
        let (Some(first), Ok(packet)) = (hops.first().map(|hop| hop.address), build(&[], &hops, identifier, rng))
        else {
            return;
        };
        // registered first: it may return before this thread goes on
        self.loops().sent(now, identifier, &hops);
        // a loop that finds its link down is lost like a packet would be; the drop is counted there
        let _ = self.links.send(first, packet);
    }
}
