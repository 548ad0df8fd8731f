//! A move of a store from its first step to its last: what is marked when, so that at any moment one place can be opened and
//! it has everything that was acknowledged. The table in [`crate::engine_mark`] shows the steps; each may be repeated, and the
//! process may end between any two of them.

use super::engine_moving::{Extent, Moving, Step};
use crate::engine::{BoxedEngine, Engine, EngineError, Limits, Write, Written};
use crate::engine_mark::{Mark, MoveId};
use shoal_protocol::UnixMillis;

/// What a step led to.
#[derive(Debug)]
pub enum Turn {
    /// On the way.
    On,
    /// One of the engines does not work now; the next step may.
    Waiting(EngineError),
    /// It cannot be done; the store stays where it was.
    Failed(String),
    /// Somebody called it off before the store had left its place.
    CalledOff,
    /// The new engine is in force, whatever `node.toml` says.
    Over,
}

/// Where a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Neither place has been looked at.
    Looking,
    /// Pages are copied.
    Copying,
    /// Everything is copied; the old place is to be marked. Whether it is already nobody knows after an error.
    Leaving,
    /// The old place is marked; the new one is to lose its mark.
    Arriving,
}

/// A move under way.
pub struct Transfer {
    id: MoveId,
    /// The new place, for people.
    to: String,
    moving: Moving,
    stage: Stage,
}

impl Transfer {
    /// The move `id` into `target`, which people know as `to`. Goes on where an earlier one with this id ended.
    pub fn new(id: MoveId, to: String, target: BoxedEngine) -> Self {
        Self { id, to, moving: Moving::new(target), stage: Stage::Looking }
    }

    /// The new engine, for good.
    pub fn into_target(self) -> BoxedEngine {
        self.moving.into_target()
    }

    /// How far it is.
    pub fn extent(&self) -> Extent {
        self.moving.extent()
    }

    /// As [`Moving::hash`].
    pub fn hash(&self) -> blake3::Hash {
        self.moving.hash()
    }

    /// Whether it cannot be called off any more. Until the end the old engine acknowledges nothing.
    pub fn is_decided(&self) -> bool {
        matches!(self.stage, Stage::Leaving | Stage::Arriving)
    }

    /// As [`Moving::set_limits`].
    pub fn set_limits(&mut self, limits: Limits) {
        self.moving.set_limits(limits);
    }

    /// As [`Moving::expire`].
    pub fn expire(&mut self, now: UnixMillis) -> Result<usize, EngineError> {
        match self.stage {
            // what is there may be no copy, or it may be the store already
            Stage::Looking | Stage::Arriving => Ok(0),
            Stage::Copying | Stage::Leaving => self.moving.expire(now),
        }
    }

    /// What the old engine did with a batch: as [`Moving::mirror`], and [`Moving::doubt`] if it failed.
    pub fn mirror(&mut self, source: &mut dyn Engine, writes: &[Write], written: Result<&Vec<Written>, &EngineError>) {
        match written {
            _ if self.stage != Stage::Copying => {}
            Ok(written) => self.moving.mirror(source, writes, written),
            Err(_) => self.moving.doubt(),
        }
    }

    /// Does a piece of it. `may_leave` is asked once, when everything is copied; from a yes on there is no way back.
    pub fn step(&mut self, source: &mut dyn Engine, now: UnixMillis, may_leave: impl FnOnce() -> bool) -> Turn {
        let done = match self.stage {
            Stage::Looking => self.look(source),
            Stage::Copying => match self.moving.step(source) {
                Step::On => Ok(Turn::On),
                Step::Waiting(error) => Err(error),
                Step::Failed(problem) => Ok(Turn::Failed(problem)),
                Step::Complete => {
                    if may_leave() {
                        self.stage = Stage::Leaving;
                        // in the same breath: nothing may be acknowledged in between
                        self.leave(source, now)
                    } else {
                        Ok(Turn::CalledOff)
                    }
                }
            },
            Stage::Leaving => self.leave(source, now),
            Stage::Arriving => self.arrive(),
        };
        match done {
            Ok(turn) => turn,
            // what was decided is not given up: whatever the old place says, it may bear the mark already
            Err(error) if self.is_decided() => Turn::Waiting(error),
            Err(EngineError::Damaged { file, cause }) => Turn::Failed(format!("{file} is damaged: {cause}")),
            Err(EngineError::Refused(text)) => Turn::Failed(text),
            Err(error @ (EngineError::Unavailable(_) | EngineError::InUse)) => Turn::Waiting(error),
        }
    }

    /// Looks at both places and readies the new one.
    fn look(&mut self, source: &mut dyn Engine) -> Result<Turn, EngineError> {
        match source.mark()? {
            Some(mark) if mark.is_left_by(&self.id) => {
                self.stage = Stage::Arriving;
                return self.arrive();
            }
            Some(mark) => return Ok(Turn::Failed(mark.refusal())),
            None => {}
        }
        let target = self.moving.target();
        if source.place()? == target.place()? {
            let problem = "the new place is the old one under another name; nothing has to be moved: write that name into \
                           node.toml while the node is stopped";
            return Ok(Turn::Failed(problem.to_owned()));
        }
        match target.mark()? {
            Some(mark) if mark.is_filled_by(&self.id) => {}
            None if !target.buckets()?.is_empty() => {
                let problem = "the new place holds records, and nothing says that they are an old copy; empty it, or take \
                               another place";
                return Ok(Turn::Failed(problem.to_owned()));
            }
            mark => {
                // an older copy: it may hold what is over since. Emptied under its mark, so that no half of it is opened
                if mark.is_some() {
                    target.wipe()?;
                }
                target.set_mark(Some(&Mark::Filling { id: self.id.clone() }))?;
            }
        }
        self.stage = Stage::Copying;
        Ok(Turn::On)
    }

    fn leave(&mut self, source: &mut dyn Engine, now: UnixMillis) -> Result<Turn, EngineError> {
        source.set_mark(Some(&Mark::Left { id: self.id.clone(), to: self.to.clone(), at_ms: now.0 }))?;
        self.stage = Stage::Arriving;
        self.arrive()
    }

    fn arrive(&mut self) -> Result<Turn, EngineError> {
        let target = self.moving.target();
        match target.mark()? {
            None => {}
            Some(mark) if mark.is_filled_by(&self.id) => target.set_mark(None)?,
            // it was moved on from there
            Some(mark) => return Ok(Turn::Failed(mark.refusal())),
        }
        Ok(Turn::Over)
    }
}

#[cfg(test)]
mod tests;
