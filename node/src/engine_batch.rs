//! A batch of writes decided in memory, for engines that ask for everything they need to know about it at once.
//!
//! The engine says what is held of the boxes, inboxes and entries that the batch names ([`Desk`] is filled), every write is
//! applied in its order, and what is to be inserted comes out. An engine that looks up each write on its own (redb) does
//! not need this; the rules are the same functions of [`crate::engine`].

use crate::engine::{Bucket, Decision, Held, Limits, Write, Written, decide_append, decide_confirm, decide_put};
use crate::inbox;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::collections::{BTreeMap, BTreeSet};

/// What is held of the things that a batch names, and what the batch adds to it. Holds at most the batch twice.
#[derive(Debug, Default)]
pub struct Desk {
    /// Boxes that are filled.
    pub boxes: BTreeMap<BoxId, BoxBody>,
    /// Inboxes that have entries.
    pub inboxes: BTreeMap<BoxId, inbox::State>,
    /// Entries that are there: inbox, and hash of the body.
    pub known: BTreeSet<(BoxId, [u8; 32])>,
    /// Records that the store holds.
    pub records: u64,
}

/// What a batch inserts, in the order of its writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inserts {
    /// Boxes.
    pub boxes: Vec<(BoxId, BoxBody)>,
    /// Entries.
    pub entries: Vec<NewEntry>,
}

/// An entry to insert.
#[derive(Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// The inbox.
    pub inbox: BoxId,
    /// Its number there.
    pub number: u64,
    /// Hash of its body.
    pub hash: [u8; 32],
    /// Its body.
    pub body: BoxBody,
}

impl Inserts {
    /// How many records.
    pub fn count(&self) -> usize {
        self.boxes.len() + self.entries.len()
    }
}

impl Desk {
    /// Decides every write, as if each saw the ones before it; `bucket` is where new records go.
    pub fn apply(&mut self, writes: &[Write], limits: &Limits, bucket: Bucket) -> (Vec<Written>, Inserts) {
        let mut inserts = Inserts::default();
        let written = writes.iter().map(|write| self.decide(write, limits, bucket, &mut inserts)).collect();
        (written, inserts)
    }

    fn decide(&mut self, write: &Write, limits: &Limits, bucket: Bucket, inserts: &mut Inserts) -> Written {
        let room = self.records < limits.records_max;
        let decision = match write {
            Write::Put { id, body } => decide_put(self.held(id, body), room),
            Write::Confirm { id, body } => decide_confirm(self.held(id, body), room),
            Write::Append { inbox, body, work_bits } => {
                let state = self.inboxes.get(inbox).copied().unwrap_or_default();
                let known = if self.known.contains(&(*inbox, body.hash())) { Held::Same } else { Held::Nothing };
                decide_append(state, known, *work_bits, limits, room, bucket)
            }
        };
        let number = match decision {
            Decision::Report(written) => return written,
            Decision::Insert(number) => number,
        };
        self.records = self.records.saturating_add(1);
        match write {
            Write::Put { id, body } | Write::Confirm { id, body } => {
                self.boxes.insert(*id, body.clone());
                inserts.boxes.push((*id, body.clone()));
            }
            Write::Append { inbox, body, .. } => {
                let state = self.inboxes.entry(*inbox).or_default();
                *state = inbox::State { entries: state.entries.saturating_add(1), last: number };
                let hash = body.hash();
                self.known.insert((*inbox, hash));
                inserts.entries.push(NewEntry { inbox: *inbox, number, hash, body: body.clone() });
            }
        }
        Written::Stored
    }

    fn held(&self, id: &BoxId, body: &BoxBody) -> Held {
        match self.boxes.get(id) {
            None => Held::Nothing,
            Some(held) if held == body => Held::Same,
            Some(_) => Held::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use std::time::Duration;

    const LIMITS: Limits = Limits { retention: Duration::from_secs(600), records_max: 4, append_bits: 8 };
    const BUCKET: Bucket = Bucket { start: 1_000, end: 2_000 };

    fn body(n: u64) -> BoxBody {
        BoxBody::random(&mut StdRng::seed_from_u64(n))
    }

    #[test]
    fn a_batch_sees_itself() {
        let (a, b, inbox) = (BoxId::from_bytes([1; 32]), BoxId::from_bytes([2; 32]), BoxId::from_bytes([3; 32]));
        let put = |id, n| Write::Put { id, body: body(n) };
        let append = |n| Write::Append { inbox, body: body(n), work_bits: 8 };
        let batch = [put(a, 1), put(a, 2), put(a, 1), append(1), append(1), append(2), put(b, 3), append(4)];
        let mut desk = Desk { records: 0, ..Desk::default() };
        let (written, inserts) = desk.apply(&batch, &LIMITS, BUCKET);
        use Written::{Full, Stored, Taken};
        assert_eq!(written, [Stored, Taken, Stored, Stored, Stored, Stored, Stored, Full]);
        assert_eq!(inserts.count(), 4);
        assert_eq!(inserts.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1_000, 1_001]);
        assert_eq!(desk.records, 4);
    }

    #[test]
    fn what_is_held_counts() {
        let (id, inbox) = (BoxId::from_bytes([1; 32]), BoxId::from_bytes([3; 32]));
        let mut desk = Desk {
            boxes: BTreeMap::from([(id, body(1))]),
            inboxes: BTreeMap::from([(inbox, inbox::State { entries: 64, last: 5_000 })]),
            known: BTreeSet::from([(inbox, body(7).hash())]),
            records: 3,
        };
        let batch = [
            Write::Confirm { id, body: body(1) },
            Write::Confirm { id, body: body(2) },
            Write::Confirm { id: inbox, body: body(2) },
            Write::Append { inbox, body: body(7), work_bits: 0 },
            Write::Append { inbox, body: body(8), work_bits: 8 },
            Write::Append { inbox, body: body(8), work_bits: 9 },
        ];
        let (written, inserts) = desk.apply(&batch, &LIMITS, BUCKET);
        use Written::{Absent, Stored, Taken, TooLittleWork};
        assert_eq!(written, [Stored, Taken, Absent, Stored, TooLittleWork { required: 9 }, Stored]);
        assert_eq!(inserts.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [5_001]);
    }
}
