//! The turn of documents and epochs: what packets are handled by, and what is counted an epoch, follows them.

use crate::io::counters::{Machine, Published};
use crate::io::host::Clock;
use crate::io::lateness::Lateness;
use crate::io::live_keys::LiveKeys;
use crate::keys::OfEpoch as _;
use crate::log_watch::LogWatch;
use crate::replay::{Fill, FillAlarm};
use crate::view::View;
use arc_swap::ArcSwapOption;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::Identity;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

type Consensus = watch::Receiver<Option<Arc<VerifiedConsensus>>>;

/// What happens when the consensus or the epoch changes.
#[derive(Clone)]
pub struct Turn {
    /// This node.
    pub me: Identity,
    /// Epochs.
    pub schedule: Schedule,
    /// Time.
    pub clock: Clock,
    /// The document that packets are handled by.
    pub consensus: Consensus,
    /// The one before it, for the grace time.
    pub before: Consensus,
    /// Where what follows from them is shown.
    pub view: Arc<ArcSwapOption<View>>,
    /// Counters with their snapshot of an epoch.
    pub published: Arc<Published>,
    /// Lateness with its snapshot.
    pub lateness: Arc<Lateness>,
    /// Keys with their replay sets.
    pub live_keys: Arc<LiveKeys>,
}

impl Turn {
    /// Runs until nobody brings documents any more.
    pub async fn run(mut self) {
        let (mut alarm, mut watch) = (FillAlarm::default(), LogWatch::default());
        let mut epoch = self.schedule.epoch_at(self.clock.wall());
        loop {
            let newest = self.consensus.borrow_and_update().clone();
            let before = self.before.borrow_and_update().clone();
            let before = before.as_deref().map(|before| &**before);
            let view = newest.and_then(|consensus| View::of(&consensus, before, &self.me));
            self.view.store(view.map(Arc::new));
            let now = self.clock.wall();
            if self.schedule.epoch_at(now) != epoch {
                epoch = self.schedule.epoch_at(now);
                self.published.epoch_ended(Machine::read(&self.live_keys));
                self.lateness.epoch_ended();
            }
            self.look_at_replay_sets(&mut alarm);
            self.look_at_replay_logs(&mut watch);
            let wait =
                self.schedule.start(epoch.plus(1)).since(now).clamp(Duration::from_millis(1), Duration::from_secs(1));
            tokio::select! {
                changed = self.consensus.changed() => if changed.is_err() { return },
                changed = self.before.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn look_at_replay_logs(&self, watch: &mut LogWatch) {
        let Some(failing) = watch.observe(self.published.log_failures(), self.clock.monotonic()) else { return };
        self.published.set_log_failing(failing);
        if failing {
            let next = "make room in the runtime directory; it goes on by itself";
            tracing::error!(next, "replay tags cannot be written: no packet leaves until they can");
        } else {
            tracing::info!("replay tags are written again");
        }
    }

    fn look_at_replay_sets(&self, alarm: &mut FillAlarm) {
        let keys = self.live_keys.all();
        for (epoch, fill) in alarm.observe(keys.iter().map(|key| (key.epoch(), key.fill_ratio()))) {
            let next = "raise limits.replay_capacity_packets, or run another node";
            match fill {
                Fill::Full => tracing::warn!(%epoch, next, "the replay set is full: packets of this epoch are refused"),
                Fill::Filling => tracing::warn!(%epoch, next, "the replay set is filled to 80 %"),
                Fill::Roomy => {}
            }
        }
    }
}
