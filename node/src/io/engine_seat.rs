//! Where the engine in force sits, and beside it the one that is to take its place.

use super::engine_moving::{Moving, Step};
use super::mover::{Move, Mover};
use crate::engine::{BoxedEngine, EngineError, Entry, Limits, Totals, Write, Written};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::sync::Arc;
use tracing::{info, warn};

/// The engine in force and, during a move, its successor.
pub struct Seat {
    engine: BoxedEngine,
    moving: Option<(Moving, Move)>,
    limits: Option<Limits>,
    mover: Arc<Mover>,
    waiting: bool,
}

impl Seat {
    /// Seats an engine; `mover` tells when another is to take its place.
    pub fn new(engine: BoxedEngine, mover: Arc<Mover>) -> Self {
        Self { engine, moving: None, limits: None, mover, waiting: false }
    }

    /// As [`crate::engine::Engine::check`].
    pub fn check(&mut self) -> Result<(), EngineError> {
        self.engine.check()
    }

    /// As [`crate::engine::Engine::write`]. What is acknowledged goes to the successor too.
    pub fn write(&mut self, now: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError> {
        let written = self.engine.write(now, batch)?;
        if let Some((moving, _)) = &mut self.moving {
            moving.mirror(&mut *self.engine, batch, &written);
        }
        Ok(written)
    }

    /// As [`crate::engine::Engine::get_all`].
    pub fn get_all(&mut self, ids: &[BoxId]) -> Result<Vec<Option<BoxBody>>, EngineError> {
        self.engine.get_all(ids)
    }

    /// As [`crate::engine::Engine::read_all`].
    pub fn read_all(&mut self, wanted: &[(BoxId, u64)]) -> Result<Vec<Option<Entry>>, EngineError> {
        self.engine.read_all(wanted)
    }

    /// Sets limits and erases what is over, in both; begins a move that was asked for.
    pub fn tend(&mut self, now: UnixMillis, limits: Limits) -> Result<usize, EngineError> {
        self.limits = Some(limits);
        self.engine.set_limits(limits);
        let erased = self.engine.expire(now);
        self.admit();
        if let Some((moving, _)) = &mut self.moving {
            moving.set_limits(limits);
            // it is asked again in five seconds
            if let Err(error) = moving.expire(now) {
                tracing::debug!(%error, "the new place of the store");
            }
        }
        erased
    }

    /// As [`crate::engine::Engine::totals`].
    pub fn totals(&mut self) -> Totals {
        self.engine.totals()
    }

    /// Whether there is something to copy.
    pub fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    fn admit(&mut self) {
        if self.moving.is_some() && self.mover.is_cancelled() {
            self.moving = None;
            info!("the move of the store was called off");
        }
        if let Some(mut asked) = self.mover.take().filter(|_| self.moving.is_none()) {
            let Some(mut target) = asked.target.take() else { return };
            if let Some(limits) = self.limits {
                target.set_limits(limits);
            }
            info!(to = %asked.to, "the store moves to another engine, and serves meanwhile");
            self.moving = Some((Moving::new(target), asked));
        }
    }

    /// A page of a move. At its end the successor takes the seat: from then on it decides, and the old engine's records stay
    /// where they are.
    pub fn step(&mut self) {
        let Some((moving, _)) = &mut self.moving else { return };
        let step = moving.step(&mut *self.engine);
        let extent = moving.extent();
        match step {
            Step::On => {
                self.waiting = false;
                self.mover.copying(extent);
            }
            Step::Waiting(error) => {
                if !self.waiting {
                    self.waiting = true;
                    warn!(%error, "the move of the store waits");
                }
                self.mover.waiting(extent, &error.to_string());
            }
            Step::Failed(problem) => {
                self.moving = None;
                warn!(problem, "the store stays where it is");
                self.mover.failed(&problem);
            }
            Step::Complete => self.change(),
        }
    }

    fn change(&mut self) {
        let Some((moving, asked)) = self.moving.take() else { return };
        // from this line of node.toml on it is the new one that a start opens
        match (asked.finish)() {
            Ok(()) => {
                let (extent, hash) = (moving.extent(), moving.hash());
                self.engine = moving.into_target();
                info!(to = %asked.to, records = extent.records, "the store has moved; what the old engine holds stays until its operator removes it");
                self.mover.done(extent, &hash.to_hex());
            }
            Err(error) => {
                let problem = format!("{error:#}");
                warn!(problem, "the store stays where it is: node.toml cannot be written");
                self.mover.failed(&problem);
            }
        }
    }
}
