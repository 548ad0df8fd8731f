//! The storage engine of a replica as everybody else sees it, and the rules that every engine keeps.
//!
//! An engine stores boxes (write-once records under an id) and inbox entries (numbered records under an inbox id). The
//! rules are here as pure functions, so that two engines cannot disagree about them:
//!
//! - **First valid write wins.** The same body again is `Stored`, another body is `Taken`. This holds across every file
//!   or table an engine may spread its records over.
//! - **Acknowledged means durable.** [`Engine::write`] returns only after everything it reports as `Stored` would
//!   survive a crash and a power cut. On an error nothing of the batch is acknowledged, though part of it may be found
//!   later; every operation may be repeated, so the writer repeats it.
//! - **Nothing acknowledged is evicted.** What does not fit is refused as `Full`; records go only when their retention
//!   is over, a whole bucket at a time.
//!
//! Signatures are checked before an engine sees a write: an engine knows ids and bodies, no keys.

use crate::engine_mark::Mark;
use crate::inbox;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::time::Duration;

/// A write whose authority has been checked.
#[derive(Clone, PartialEq, Eq)]
pub enum Write {
    /// Fill a box.
    Put {
        /// The box.
        id: BoxId,
        /// Its content for good.
        body: BoxBody,
    },
    /// Say what a box holds, as if this body were written, but write nothing new: an ordered write that came without
    /// the first replica's receipt.
    Confirm {
        /// The box.
        id: BoxId,
        /// What its writer wants in it.
        body: BoxBody,
    },
    /// Put an entry into an inbox.
    Append {
        /// The inbox.
        inbox: BoxId,
        /// The entry.
        body: BoxBody,
        /// How many leading zero bits the entry's hashcash shows; how many are needed depends on how full the inbox is.
        work_bits: u8,
    },
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put { .. } => "Put(redacted)",
            Self::Confirm { .. } => "Confirm(redacted)",
            Self::Append { .. } => "Append(redacted)",
        })
    }
}

/// What became of a [`Write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The body is stored durably, now or since before.
    Stored,
    /// The box holds another body.
    Taken,
    /// No room, in the store or in this inbox.
    Full,
    /// The box is empty; only of [`Write::Confirm`].
    Absent,
    /// The entry shows too little work for an inbox as full as this one.
    TooLittleWork {
        /// Leading zero bits that it takes now.
        required: u8,
    },
}

/// An inbox entry as its owner reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number at this replica: rising, with gaps, never reused.
    pub number: u64,
    /// What was appended.
    pub body: BoxBody,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({}, body redacted)", self.number)
    }
}

/// One thing a replica asks of its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Write, durably.
    Write(Write),
    /// The body of a box.
    Get(BoxId),
    /// The entry of an inbox after a number.
    Read {
        /// The inbox.
        inbox: BoxId,
        /// Number of the last entry its owner has.
        after: u64,
    },
}

/// What became of a [`Task`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Task::Write`].
    Written(Written),
    /// Of [`Task::Get`].
    Got(Option<BoxBody>),
    /// Of [`Task::Read`].
    Entry(Option<Entry>),
    /// The engine could not do it; nothing is acknowledged.
    Failed,
}

/// What an engine must keep to; changes with the consensus and the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a record stays readable at least. It is erased at most one [`bucket_length`] later.
    pub retention: Duration,
    /// Records (boxes and entries together) that the store holds at most.
    pub records_max: u64,
    /// Hashcash bits that an append to an empty inbox must show.
    pub append_bits: u8,
}

/// How much an engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Boxes and inbox entries.
    pub records: u64,
    /// Bytes on disk, files and their slack included.
    pub bytes: u64,
}

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The disk or database failed or is full. Nothing was acknowledged; the engine tries to recover at the next call.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// A file is not what the engine wrote. It will not get better by itself.
    #[error(
        "{file} is damaged ({cause}); stop the node, put the file back or away, and start it again: without the file \
             it goes on without the records of that time, which the other replica of each still has"
    )]
    Damaged {
        /// Name of the file.
        file: String,
        /// What the engine found.
        cause: String,
    },
    /// Another process uses the store.
    #[error("the store is in use by another process")]
    InUse,
    /// The engine must not be used as it is: it would lose what it acknowledged, belongs to another store, or is of a newer
    /// program. Only its operator can change that.
    #[error("{0}")]
    Refused(String),
}

/// Where a record lies inside its bucket: boxes before entries, each in the order of their names. Two engines go through
/// their records in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A box.
    Box(BoxId),
    /// An inbox entry.
    Entry {
        /// The inbox.
        inbox: BoxId,
        /// Its number there.
        number: u64,
    },
}

/// A record with everything that must stay as it is when another engine takes it over: an owner's cursor counts on the
/// number, the time of erasure on the bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// When it came.
    pub bucket: Bucket,
    /// What it is.
    pub key: Key,
    /// What it holds.
    pub body: BoxBody,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Record(redacted)")
    }
}

/// A storage engine. One thread owns it and calls it with batches.
///
/// Contract: `write` is atomic and durable per call; `get` and `read` see everything that an earlier `write` reported;
/// `expire` may be called at any time and as often as one likes. Time only decides into which bucket a record goes and
/// which buckets are over; the caller bounds it by what the consensus allows, so that a wrong clock erases nothing.
pub trait Engine: Send {
    /// Takes new limits; they hold from the next call on.
    fn set_limits(&mut self, limits: Limits);
    /// Applies the writes in their order, as if each saw the ones before it, and makes them durable together. One
    /// result a write, in the same order.
    fn write(&mut self, now: UnixMillis, batch: &[Write]) -> Result<Vec<Written>, EngineError>;
    /// The body of a box, if it was written.
    fn get(&mut self, id: &BoxId) -> Result<Option<BoxBody>, EngineError>;
    /// The entry of an inbox with the lowest number above `after`.
    fn read(&mut self, inbox: &BoxId, after: u64) -> Result<Option<Entry>, EngineError>;
    /// Erases what is over at `now`; says how many buckets went.
    fn expire(&mut self, now: UnixMillis) -> Result<usize, EngineError>;
    /// How much is held; of an engine that cannot say, what it held when it last could.
    fn totals(&mut self) -> Totals;

    /// Whether it works now. Changes nothing that is kept.
    fn check(&mut self) -> Result<(), EngineError>;
    /// [`Engine::get`] of several boxes, in their order, with as few round trips as the engine can.
    fn get_all(&mut self, ids: &[BoxId]) -> Result<Vec<Option<BoxBody>>, EngineError> {
        ids.iter().map(|id| self.get(id)).collect()
    }
    /// [`Engine::read`] of several inboxes, each after a number, in their order.
    fn read_all(&mut self, wanted: &[(BoxId, u64)]) -> Result<Vec<Option<Entry>>, EngineError> {
        wanted.iter().map(|(inbox, after)| self.read(inbox, *after)).collect()
    }

    /// The buckets that hold records, oldest first.
    fn buckets(&mut self) -> Result<Vec<Bucket>, EngineError>;
    /// At most `count_max` records of a bucket, in the order of their keys, from the first after `after` on.
    fn page(&mut self, bucket: Bucket, after: Option<Key>, count_max: usize) -> Result<Vec<Record>, EngineError>;
    /// The records that answer these writes, for those that are held: the same box or the same entry. In their order.
    fn find(&mut self, writes: &[Write]) -> Result<Vec<Option<Record>>, EngineError>;
    /// Takes over records of another engine as they are, and makes them durable together. Quotas do not hold: they were
    /// acknowledged. One that is there already stays as it is.
    fn import(&mut self, records: &[Record]) -> Result<(), EngineError>;

    /// Which place records are kept in: the same text of two engines means one place, by whatever name it was opened.
    fn place(&mut self) -> Result<String, EngineError>;
    /// The mark of the place, if it is not the one in force. An engine keeps it and does not go by it: who opens one does.
    fn mark(&mut self) -> Result<Option<Mark>, EngineError>;
    /// Sets the mark, or takes it away; durable when it returns. On an error it is as before or as it was to be.
    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), EngineError>;
    /// Erases every record, and not the mark. On an error some may be gone.
    fn wipe(&mut self) -> Result<(), EngineError>;
}

/// An engine of whichever kind.
pub type BoxedEngine = Box<dyn Engine>;

/// What a write leads to before it is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Insert the record, then report `Stored`; for an inbox entry, under this number.
    Insert(u64),
    /// Nothing to insert; report this.
    Report(Written),
}

/// What an engine knows of a box before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No such box.
    Nothing,
    /// The same body, durably.
    Same,
    /// The same body, but in a file whose last flush failed: it must be written once more before it is acknowledged.
    SameInDoubt,
    /// Another body.
    Other,
}

/// The rule of `PUT`. The same body again does not renew the time until it is erased: whoever has seen a signed write could
/// else keep it for ever, and every retry would cost a write (requests.md).
pub fn decide_put(held: Held, room: bool) -> Decision {
    match held {
        Held::Same => Decision::Report(Written::Stored),
        Held::Other => Decision::Report(Written::Taken),
        Held::Nothing | Held::SameInDoubt if !room => Decision::Report(Written::Full),
        Held::Nothing | Held::SameInDoubt => Decision::Insert(0),
    }
}

/// The rule of [`Write::Confirm`].
pub fn decide_confirm(held: Held, room: bool) -> Decision {
    match held {
        Held::Nothing => Decision::Report(Written::Absent),
        Held::Same | Held::SameInDoubt | Held::Other => decide_put(held, room),
    }
}

/// The rule of `APPEND`. An entry that is already there costs nothing and is not stored twice: a writer whose
/// acknowledgement was lost repeats it.
pub fn decide_append(
    state: inbox::State,
    known: Held,
    work_bits: u8,
    limits: &Limits,
    room: bool,
    bucket: Bucket,
) -> Decision {
    let required = inbox::required_bits(limits.append_bits, state.entries);
    if known == Held::Same {
        Decision::Report(Written::Stored)
    } else if state.entries >= inbox::ENTRIES_MAX {
        Decision::Report(Written::Full)
    } else if work_bits < required {
        Decision::Report(Written::TooLittleWork { required })
    } else if !room {
        Decision::Report(Written::Full)
    } else {
        Decision::Insert(inbox::next_number(state, bucket))
    }
}

/// A span of arrival times whose records are kept, and erased, together. Half open, in ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// First arrival time that belongs to it.
    pub start: u64,
    /// First arrival time that does not.
    pub end: u64,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Shorter buckets would make more files than a test network's records are worth.
const BUCKET_MIN: Duration = Duration::from_secs(10);

/// Length of a bucket: an eighth of the retention, at least 10 s, at most a day. So a store has at most 15 live buckets
/// at the default of 14 days, and never more than 366 (a year, the longest retention allowed).
pub fn bucket_length(retention: Duration) -> Duration {
    (retention / 8).clamp(BUCKET_MIN, DAY)
}

impl Bucket {
    /// The bucket of an arrival at `now`.
    pub fn at(now: UnixMillis, retention: Duration) -> Self {
        // at most a day by `bucket_length`, so it fits
        let length = u64::try_from(bucket_length(retention).as_millis()).unwrap_or(u64::MAX);
        let start = now.0 - now.0 % length;
        Self { start, end: start.saturating_add(length) }
    }
    /// The bucket of an arrival at `now` that comes after everything of this one. Where the retention has changed, and with
    /// it the length, it begins no sooner than this one ends: buckets never overlap, so that each has a name of its own.
    pub fn next(&self, now: UnixMillis, retention: Duration) -> Self {
        let at = Self::at(now, retention);
        Self { start: at.start.max(self.end), ..at }
    }
    /// Whether an arrival at `now` belongs to it.
    pub fn contains(&self, now: UnixMillis) -> bool {
        (self.start..self.end).contains(&now.0)
    }
    /// Whether the retention of its last record is over.
    pub fn is_over(&self, now: UnixMillis, retention: Duration) -> bool {
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        self.end.saturating_add(retention) <= now.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { retention: Duration::from_secs(600), records_max: 10, append_bits: 8 };

    #[test]
    fn the_rule_of_put() {
        assert_eq!(decide_put(Held::Nothing, true), Decision::Insert(0));
        assert_eq!(decide_put(Held::Nothing, false), Decision::Report(Written::Full));
        for room in [true, false] {
            assert_eq!(decide_put(Held::Same, room), Decision::Report(Written::Stored));
            assert_eq!(decide_put(Held::Other, room), Decision::Report(Written::Taken));
        }
        assert_eq!(decide_confirm(Held::Nothing, true), Decision::Report(Written::Absent));
        assert_eq!(decide_confirm(Held::Same, true), Decision::Report(Written::Stored));
        assert_eq!(decide_confirm(Held::Other, true), Decision::Report(Written::Taken));
        assert_eq!(decide_confirm(Held::SameInDoubt, true), Decision::Insert(0));
        assert_eq!(decide_put(Held::SameInDoubt, true), Decision::Insert(0));
        assert_eq!(decide_put(Held::SameInDoubt, false), Decision::Report(Written::Full));
    }

    #[test]
    fn the_rule_of_append() {
        let bucket = Bucket { start: 1_000, end: 2_000 };
        let empty = inbox::State { entries: 0, last: 0 };
        let decide = |state, known, bits, room| decide_append(state, known, bits, &LIMITS, room, bucket);
        assert_eq!(decide(empty, Held::Nothing, 8, true), Decision::Insert(1_000));
        assert_eq!(decide(empty, Held::Nothing, 7, true), Decision::Report(Written::TooLittleWork { required: 8 }));
        assert_eq!(decide(empty, Held::Nothing, 8, false), Decision::Report(Written::Full));
        let full = inbox::State { entries: inbox::ENTRIES_MAX, last: 9_999 };
        assert_eq!(decide(full, Held::Nothing, 63, true), Decision::Report(Written::Full));
        // a repetition is acknowledged whatever else holds
        assert_eq!(decide(full, Held::Same, 0, false), Decision::Report(Written::Stored));
    }

    #[test]
    fn buckets_tile_time_and_end_after_the_retention() {
        for (retention_s, length_s) in [(600, 75), (40, 10), (14 * 86_400, 86_400), (365 * 86_400, 86_400)] {
            let retention = Duration::from_secs(retention_s);
            assert_eq!(bucket_length(retention), Duration::from_secs(length_s));
            let bucket = Bucket::at(UnixMillis(1_700_000_000_123), retention);
            assert!(bucket.contains(UnixMillis(1_700_000_000_123)));
            assert_eq!(Bucket::at(UnixMillis(bucket.end), retention).start, bucket.end);
            assert!(!bucket.is_over(UnixMillis(bucket.end + retention_s * 1_000 - 1), retention));
            assert!(bucket.is_over(UnixMillis(bucket.end + retention_s * 1_000), retention));
        }
        // a longer retention makes longer buckets, which begin where the shorter ones end
        let short = Bucket { start: 100_000, end: 110_000 };
        let next = short.next(UnixMillis(112_000), Duration::from_secs(600));
        assert_eq!(next, Bucket { start: 110_000, end: 150_000 });
        assert_eq!(next.next(UnixMillis(150_000), Duration::from_secs(600)), Bucket { start: 150_000, end: 225_000 });
        // extremes neither panic nor wrap
        let last = Bucket::at(UnixMillis(u64::MAX), Duration::MAX);
        assert!(!last.is_over(UnixMillis(u64::MAX - 1), Duration::from_secs(1)));
    }
}
