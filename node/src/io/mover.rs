//! What the control socket and the engine's thread say to each other about a move of the store.

use super::engine_moving::Extent;
use crate::config_store::EngineKind;
use crate::engine::BoxedEngine;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A move that was asked for.
pub struct Move {
    /// The engine that is to take over; taken out when the move begins.
    pub target: Option<BoxedEngine>,
    /// What it is.
    pub to: EngineKind,
    /// Records the change where a start looks; the move is carried out exactly if this succeeds.
    pub finish: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
}

/// Where a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stand {
    /// Nobody asked for one since the node started.
    #[default]
    Idle,
    /// Pages are copied.
    Copying,
    /// An engine does not work at the moment.
    Waiting,
    /// The new engine is in force.
    Done,
    /// The old engine stays in force.
    Failed,
}

/// What is said about a move.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Where it stands.
    pub state: Stand,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Buckets that are through, of those that there are.
    pub buckets_done: usize,
    /// Buckets that there are.
    pub buckets: usize,
    /// Records copied and compared.
    pub records: u64,
    /// Over all records, the same in both engines; when done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// What it waits for, or why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Default)]
struct State {
    asked: Option<Move>,
    cancelled: bool,
    progress: Progress,
}

/// The desk between both.
#[derive(Default)]
pub struct Mover(Mutex<State>);

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Mover").field(&self.progress()).finish()
    }
}

impl Mover {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a move; `false` while there is one.
    pub fn ask(&self, asked: Move) -> bool {
        let mut state = self.state();
        if matches!(state.progress.state, Stand::Copying | Stand::Waiting) {
            return false;
        }
        let progress = Progress { state: Stand::Copying, to: Some(asked.to.to_string()), ..Progress::default() };
        *state = State { asked: Some(asked), cancelled: false, progress };
        true
    }

    /// Calls a move off; what was copied stays in the new place.
    pub fn cancel(&self) {
        let mut state = self.state();
        state.asked = None;
        state.cancelled = true;
        state.progress = Progress::default();
    }

    /// Whether the move in hand is called off.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// The move that was asked for, once.
    pub fn take(&self) -> Option<Move> {
        self.state().asked.take()
    }

    /// What is to be said.
    pub fn progress(&self) -> Progress {
        self.state().progress.clone()
    }

    fn set(&self, extent: Option<Extent>, new: Stand, problem: Option<&str>) {
        let mut state = self.state();
        if state.cancelled {
            return;
        }
        let progress = &mut state.progress;
        progress.state = new;
        progress.problem = problem.map(str::to_owned);
        if let Some(Extent { buckets_done, buckets, records }) = extent {
            (progress.buckets_done, progress.buckets, progress.records) = (buckets_done, buckets, records);
        }
    }

    /// A page more.
    pub fn copying(&self, extent: Extent) {
        self.set(Some(extent), Stand::Copying, None);
    }
    /// An engine does not work at the moment.
    pub fn waiting(&self, extent: Extent, problem: &str) {
        self.set(Some(extent), Stand::Waiting, Some(problem));
    }
    /// The old engine stays.
    pub fn failed(&self, problem: &str) {
        self.set(None, Stand::Failed, Some(problem));
    }
    /// The new engine is in force.
    pub fn done(&self, extent: Extent, hash: &str) {
        // before the state: whoever sees that it is done looks no more
        self.state().progress.hash = Some(hash.to_owned());
        self.set(Some(extent), Stand::Done, None);
    }
}
