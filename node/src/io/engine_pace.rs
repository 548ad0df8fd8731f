//! How a store's engine does: whether it works, whether its outcomes come in time for their answers, and when the log says so.

use std::time::Duration;

/// Lines in the log about a store that fails and works again come no closer than this: one that does both in turn would
/// fill the disk that it has no room on.
const QUIET: Duration = Duration::from_secs(10);

/// What an engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Answering at all.
    Answer,
    /// Writing.
    Write,
    /// Reading.
    Read,
}

/// What works. One does not speak for the other: from a full disk one can read.
#[derive(Debug, Default)]
pub struct Works {
    /// Why not; `None`: it works, as far as anybody knows.
    failing: [Option<String>; 3],
    /// What is over cannot be erased, which keeps nobody from being answered.
    unerased: bool,
    /// When the log was last written.
    said: Option<Duration>,
}

impl Works {
    /// Takes how something went; says whether everything works now if that has changed.
    pub fn observe(&mut self, doing: Doing, failure: Option<String>) -> Option<Result<(), String>> {
        let before = self.first();
        if failure.is_none() {
            // who does anything answers
            self.failing[Doing::Answer as usize] = None;
        }
        if let Some(slot) = self.failing.get_mut(doing as usize) {
            *slot = failure;
        }
        let now = self.first();
        (before.is_ok() != now.is_ok()).then_some(now)
    }

    /// Takes whether what is over could be erased; says so if that has changed.
    pub fn erased(&mut self, erased: bool) -> Option<bool> {
        let before = std::mem::replace(&mut self.unerased, !erased);
        (before == erased).then_some(erased)
    }

    fn first(&self) -> Result<(), String> {
        self.failing.iter().flatten().next().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Whether it may be said in the log now.
    pub fn may_say(&mut self, now: Duration) -> bool {
        let quiet = self.said.is_some_and(|said| now.saturating_sub(said) < QUIET);
        if !quiet {
            self.said = Some(now);
        }
        !quiet
    }
}

/// Whether outcomes come in time for their answers.
#[derive(Debug, Default)]
pub struct Pace {
    outcomes: u64,
    late: u64,
    slow: bool,
}

impl Pace {
    /// Takes whether the answer had left when an outcome came.
    pub fn observe(&mut self, late: bool) {
        self.outcomes += 1;
        self.late += u64::from(late);
    }

    /// Judges what came since the last call: slow if at least half of it was late. `Some` if that has changed.
    pub fn judge(&mut self) -> Option<bool> {
        let Self { outcomes, late, slow } = std::mem::take(self);
        // who was asked nothing is as slow as before
        self.slow = if outcomes == 0 { slow } else { late * 2 >= outcomes };
        (self.slow != slow).then_some(self.slow)
    }
}
