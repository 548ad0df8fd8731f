//! What the control socket and the engine's thread say to each other about a move of the store.
//!
//! Each move has an id, and everything that is said of a move is said under this desk's lock: who was called off, or has ended,
//! speaks no more, and cannot be taken for the one that was asked for after it.

use super::engine_moving::Extent;
use crate::config_store::EngineKind;
use crate::engine::BoxedEngine;
use crate::engine_mark::MoveId;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the rest of the node keeps which engine is in force.
pub trait Record: Send {
    /// Writes down that the new engine is in force, where a start looks. May be tried again.
    fn changed(&mut self) -> anyhow::Result<()>;
    /// The move has failed: a start is not to go on with it.
    fn failed(&mut self);
}

/// A move that was asked for.
pub struct Move {
    /// Which.
    pub id: MoveId,
    /// The engine that is to take over.
    pub target: BoxedEngine,
    /// What it is.
    pub to: EngineKind,
    /// Where it is, for people.
    pub place: String,
    /// Told when it ends.
    pub record: Box<dyn Record>,
}

/// Where a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stand {
    /// Nobody asked for one since the node started, or it was called off.
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

/// Why a move cannot be called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLate {
    /// There is none.
    #[error("the store is not moving")]
    NotMoving,
    /// The store has left its place.
    #[error("it is too late: everything was copied, and the store is changing over")]
    Decided,
    /// It has ended.
    #[error("it is too late: the store has moved; to have it where it was, move it back")]
    Done,
}

#[derive(Default)]
struct State {
    /// The move that is asked for or under way.
    current: Option<MoveId>,
    /// Handed over until the engine's thread takes it.
    asked: Option<Move>,
    /// The current one can not be called off any more.
    decided: bool,
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

    /// Keeps the place for a move that will be asked for; `false` while there is one.
    pub fn reserve(&self, id: &MoveId, to: EngineKind) -> bool {
        let mut state = self.state();
        if state.current.is_some() {
            return false;
        }
        let progress = Progress { state: Stand::Copying, to: Some(to.to_string()), ..Progress::default() };
        *state = State { current: Some(id.clone()), progress, ..State::default() };
        true
    }

    /// Asks for the move that the place was kept for; `false` if it was called off meanwhile.
    pub fn ask(&self, asked: Move) -> bool {
        let mut state = self.state();
        let is_current = state.current.as_ref() == Some(&asked.id);
        if is_current {
            state.asked = Some(asked);
        }
        is_current
    }

    /// Calls the move off; what was copied stays in the new place. Says which it was.
    pub fn cancel(&self) -> Result<MoveId, TooLate> {
        let mut state = self.state();
        if state.progress.state == Stand::Done {
            return Err(TooLate::Done);
        }
        if state.decided {
            return Err(TooLate::Decided);
        }
        let id = state.current.take().ok_or(TooLate::NotMoving)?;
        *state = State::default();
        Ok(id)
    }

    /// Whether this is the move in hand. One that was called off is not.
    pub fn is_current(&self, id: &MoveId) -> bool {
        self.state().current.as_ref() == Some(id)
    }

    /// Whether there is a move in hand.
    pub fn is_moving(&self) -> bool {
        self.state().current.is_some()
    }

    /// The move that was asked for, once. Only who moves nothing takes one.
    pub fn take(&self) -> Option<Move> {
        self.state().asked.take()
    }

    /// Everything is copied: from a `true` on the move cannot be called off. `false` if it was.
    pub fn decide(&self, id: &MoveId) -> bool {
        let mut state = self.state();
        let is_current = state.current.as_ref() == Some(id);
        state.decided |= is_current;
        is_current
    }

    /// What is to be said.
    pub fn progress(&self) -> Progress {
        self.state().progress.clone()
    }

    /// Changes what is said of the move `id`; `false`, and nothing is said, if it is not the one in hand.
    fn say(&self, id: &MoveId, extent: Option<Extent>, stand: Stand, problem: Option<&str>) -> bool {
        let mut state = self.state();
        if state.current.as_ref() != Some(id) {
            return false;
        }
        state.progress.state = stand;
        state.progress.problem = problem.map(str::to_owned);
        if let Some(Extent { buckets_done, buckets, records }) = extent {
            let progress = &mut state.progress;
            (progress.buckets_done, progress.buckets, progress.records) = (buckets_done, buckets, records);
        }
        if matches!(stand, Stand::Done | Stand::Failed) {
            (state.current, state.decided) = (None, false);
        }
        true
    }

    /// A page more.
    pub fn copying(&self, id: &MoveId, extent: Extent) {
        self.say(id, Some(extent), Stand::Copying, None);
    }
    /// Something does not work at the moment.
    pub fn waiting(&self, id: &MoveId, extent: Extent, problem: &str) {
        self.say(id, Some(extent), Stand::Waiting, Some(problem));
    }
    /// The old engine stays. `false` if the move was called off before.
    pub fn failed(&self, id: &MoveId, problem: &str) -> bool {
        self.say(id, None, Stand::Failed, Some(problem))
    }
    /// The new engine is in force.
    pub fn done(&self, id: &MoveId, extent: Extent, hash: &str) {
        let mut state = self.state();
        if state.current.as_ref() == Some(id) {
            // before the state: whoever sees that it is done looks no more
            state.progress.hash = Some(hash.to_owned());
            drop(state);
            self.say(id, Some(extent), Stand::Done, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::engine_conformance::LIMITS;
    use crate::io::engine_redb::RedbEngine;
    use crate::io::torn_disk::TornDisk;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    struct Nobody;

    impl Record for Nobody {
        fn changed(&mut self) -> anyhow::Result<()> {
            Ok(())
        }
        fn failed(&mut self) {}
    }

    fn asked(id: &MoveId) -> Move {
        let target = RedbEngine::open(Box::new(TornDisk::default()), LIMITS).expect("opens");
        let (target, record) = (Box::new(target), Box::new(Nobody));
        Move { id: id.clone(), target, to: EngineKind::Redb, place: "elsewhere".to_owned(), record }
    }

    #[test]
    fn who_was_called_off_speaks_no_more() {
        let mut rng = StdRng::seed_from_u64(1);
        let (first, second) = (MoveId::draw(&mut rng), MoveId::draw(&mut rng));
        let mover = Mover::default();
        assert_eq!(mover.cancel(), Err(TooLate::NotMoving));
        assert!(mover.reserve(&first, EngineKind::Redb) && !mover.reserve(&second, EngineKind::Redb));
        assert!(mover.ask(asked(&first)));
        assert_eq!(mover.cancel(), Ok(first.clone()));
        // not even one that nobody had taken yet
        assert!(mover.take().is_none() && !mover.decide(&first));
        assert!(mover.reserve(&second, EngineKind::Postgres) && mover.ask(asked(&second)));
        assert!(!mover.ask(asked(&first)), "the place was kept for another");
        mover.copying(&first, Extent { buckets_done: 9, buckets: 9, records: 9 });
        assert!(!mover.failed(&first, "nobody hears it"));
        mover.done(&first, Extent::default(), "hash");
        let said = mover.progress();
        assert_eq!((said.state, said.to.as_deref(), said.records), (Stand::Copying, Some("postgres"), 0));
        assert_eq!(mover.take().map(|asked| asked.id), Some(second.clone()));
        assert!(mover.decide(&second));
        assert_eq!(mover.cancel(), Err(TooLate::Decided));
        mover.done(&second, Extent::default(), "hash");
        assert_eq!(mover.cancel(), Err(TooLate::Done));
        assert!(!mover.is_moving() && mover.reserve(&first, EngineKind::Redb));
    }
}
