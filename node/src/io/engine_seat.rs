//! Where the engine in force sits, and beside it the one that is to take its place.

use super::engine_transfer::{Transfer, Turn};
use super::mover::{Move, Mover, Record};
use crate::config_store::EngineKind;
use crate::engine::{BoxedEngine, EngineError, Entry, Limits, Totals, Write, Written};
use crate::engine_mark::MoveId;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::sync::Arc;
use tracing::{info, warn};

/// The engine in force and, during a move, its successor.
pub struct Seat {
    engine: BoxedEngine,
    /// The place of the engine was found without a mark: it is the store.
    is_known: bool,
    moving: Option<(Transfer, Asked)>,
    /// A move that has ended and is not in `node.toml` yet.
    unrecorded: Option<(Transferred, Asked)>,
    limits: Option<Limits>,
    mover: Arc<Mover>,
    waiting: bool,
}

/// What is left of a [`Move`] whose engine has been taken.
struct Asked {
    id: MoveId,
    to: EngineKind,
    record: Box<dyn Record>,
}

/// What is said of a move that has ended.
struct Transferred {
    extent: super::engine_moving::Extent,
    hash: blake3::Hash,
}

impl Seat {
    /// Seats an engine; `mover` tells when another is to take its place.
    pub fn new(engine: BoxedEngine, mover: Arc<Mover>) -> Self {
        Self { engine, is_known: false, moving: None, unrecorded: None, limits: None, mover, waiting: false }
    }

    /// The engine, if it may acknowledge and answer: one that the store has left may hold less than was acknowledged.
    fn in_force(&mut self) -> Result<&mut BoxedEngine, EngineError> {
        if self.moving.as_ref().is_some_and(|(transfer, _)| transfer.is_decided()) {
            return Err(EngineError::Unavailable("the store is changing over to another engine".to_owned()));
        }
        if !self.is_known {
            if let Some(mark) = self.engine.mark()? {
                return Err(EngineError::Refused(mark.refusal()));
            }
            self.is_known = true;
        }
        Ok(&mut self.engine)
    }

    /// As [`crate::engine::Engine::check`].
    pub fn check(&mut self) -> Result<(), EngineError> {
        self.in_force()?.check()
    }

    /// As [`crate::engine::Engine::write`]. What is acknowledged goes to the successor too.
    pub fn write(&mut self, now: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError> {
        let written = self.in_force()?.write(now, batch);
        if let Some((transfer, _)) = &mut self.moving {
            transfer.mirror(&mut *self.engine, batch, written.as_ref());
        }
        written
    }

    /// As [`crate::engine::Engine::get_all`].
    pub fn get_all(&mut self, ids: &[BoxId]) -> Result<Vec<Option<BoxBody>>, EngineError> {
        self.in_force()?.get_all(ids)
    }

    /// As [`crate::engine::Engine::read_all`].
    pub fn read_all(&mut self, wanted: &[(BoxId, u64)]) -> Result<Vec<Option<Entry>>, EngineError> {
        self.in_force()?.read_all(wanted)
    }

    /// Sets limits and erases what is over, in both; begins a move that was asked for.
    pub fn tend(&mut self, now: UnixMillis, limits: Limits) -> Result<usize, EngineError> {
        self.limits = Some(limits);
        self.engine.set_limits(limits);
        let erased = self.in_force().and_then(|engine| engine.expire(now));
        self.record();
        self.admit();
        if let Some((transfer, _)) = &mut self.moving {
            transfer.set_limits(limits);
            // it is asked again in five seconds
            if let Err(error) = transfer.expire(now) {
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

    /// Lets go of a move that was called off.
    fn drop_called_off(&mut self) {
        let is_over =
            |(transfer, asked): &mut (Transfer, Asked)| !transfer.is_decided() && !self.mover.is_current(&asked.id);
        if self.moving.take_if(is_over).is_some() {
            info!("the move of the store was called off");
        }
    }

    fn admit(&mut self) {
        self.drop_called_off();
        if self.moving.is_some() {
            return;
        }
        let Some(Move { id, mut target, to, place, record }) = self.mover.take() else { return };
        if let Some(limits) = self.limits {
            target.set_limits(limits);
        }
        info!(%to, "the store moves to another engine, and serves meanwhile");
        self.waiting = false;
        self.moving = Some((Transfer::new(id.clone(), place, target), Asked { id, to, record }));
    }

    /// A page of a move. At its end the successor takes the seat: from then on it decides, and the old engine's records stay
    /// where they are.
    pub fn step(&mut self, wall: UnixMillis) {
        self.drop_called_off();
        let Some((transfer, asked)) = &mut self.moving else { return };
        let turn = transfer.step(&mut *self.engine, wall, || self.mover.decide(&asked.id));
        let extent = transfer.extent();
        match turn {
            Turn::On => {
                self.waiting = false;
                self.mover.copying(&asked.id, extent);
            }
            Turn::Waiting(error) => {
                if !self.waiting {
                    self.waiting = true;
                    warn!(%error, "the move of the store waits");
                }
                self.mover.waiting(&asked.id, extent, &error.to_string());
            }
            Turn::Failed(problem) => {
                warn!(problem, "the store stays where it is");
                // before it is said: whoever hears it may ask for the next one
                asked.record.failed();
                // the old place may bear a mark by now
                self.is_known &= !transfer.is_decided();
                self.mover.failed(&asked.id, &problem);
                self.moving = None;
            }
            Turn::CalledOff => self.drop_called_off(),
            Turn::Over => self.change(),
        }
    }

    /// The successor takes the seat. Its place says so already; `node.toml` is told.
    fn change(&mut self) {
        let Some((transfer, asked)) = self.moving.take() else { return };
        let ended = Transferred { extent: transfer.extent(), hash: transfer.hash() };
        self.engine = transfer.into_target();
        // its mark was just taken away
        self.is_known = true;
        info!(to = %asked.to, records = ended.extent.records, "the store has moved; what the old engine holds stays until its operator removes it");
        self.unrecorded = Some((ended, asked));
        self.record();
    }

    /// Writes down where the store is, if that is not done. Until it is, a start finds it by the marks and the note.
    fn record(&mut self) {
        let Some((Transferred { extent, hash }, asked)) = &mut self.unrecorded else { return };
        match asked.record.changed() {
            Ok(()) => {
                self.mover.done(&asked.id, *extent, &hash.to_hex());
                self.unrecorded = None;
            }
            Err(error) => {
                let problem = format!("the store has moved, but node.toml cannot be written: {error:#}");
                warn!(problem, "it is tried again");
                self.mover.waiting(&asked.id, *extent, &problem);
            }
        }
    }
}

#[cfg(test)]
mod tests;
