//! Replay protection: an exact set of the tags seen under one mix key.
//!
//! A tag is the first 16 bytes of a keyed hash of the packet's Sphinx replay tag: uniformly distributed, so that it is
//! its own hash-table index and nobody without the mix key can choose where it falls. The set is exact: no false
//! positive, nothing is ever evicted. At its capacity it refuses. Long before, at 80 %, [`FillAlarm`] says so: a line in
//! the log, once for each key and level, beside the metric.
//!
//! The set is cut into shards, each with a lock and a table of its own: workers that insert at the same time hardly ever
//! meet, and what grows at a time is one shard of about 8,192 tags, some 0.1 ms, never the whole set, which at a few
//! million tags would stand still for longer than packets may be late.
//!
//! Memory: each table is a power of two of 16-byte slots, filled to at most 7/8 and at least 7/16 after growing: 18.3 to
//! 36.6 bytes a packet, below the 40 that are promised, whatever the traffic. A table at full size from the start would
//! cost a quiet node a page of memory for every packet (decision 0004).

use shoal_protocol::types::Epoch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Share of the capacity from which on somebody has to act before packets are refused.
const FILLING: f64 = 0.8;

/// Bytes of a stored tag.
pub const TAG_SIZE: usize = 16;
/// Tags of a full shard, about: what is moved when it grows.
const SHARD_TAGS: usize = 8_192;
/// Shards at most: 65,536 × 64 bytes = 4 MB.
const SHARDS_MAX: usize = 1 << 16;
/// Slots of a shard with its first tag: 256 bytes.
const SLOTS_MIN: usize = 16;

/// A keyed, shortened replay tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag([u8; TAG_SIZE]);

impl Tag {
    /// The bytes, as the log keeps them.
    pub const fn as_bytes(&self) -> &[u8; TAG_SIZE] {
        &self.0
    }
    /// A tag read back from the log.
    pub const fn from_bytes(bytes: [u8; TAG_SIZE]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tag(redacted)")
    }
}

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// Never seen before; it is in the set now.
    Fresh,
    /// Seen before: the packet is a replay.
    Repeated,
    /// The set is at its capacity and did not take it.
    Full,
    /// Who brought it has had its portion of the set ([`crate::portions`]); not asked whether it was seen before.
    PortionTaken,
}

/// The set of one mix key. Shared by all workers.
pub struct ReplaySet {
    shards: Box<[Mutex<Shard>]>,
    len: AtomicUsize,
    capacity: usize,
    /// On the heap: where the set is moved, no copy is left behind.
    tag_key: Box<Zeroizing<[u8; 32]>>,
}

impl std::fmt::Debug for ReplaySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplaySet").field("len", &self.len()).field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl ReplaySet {
    /// An empty set that takes `capacity` packets, with the tag key of its mix key.
    pub fn new(tag_key: Zeroizing<[u8; 32]>, capacity: usize) -> Self {
        let count = (capacity / SHARD_TAGS).next_power_of_two().min(SHARDS_MAX);
        let shards = (0..count).map(|_| Mutex::new(Shard::default())).collect();
        Self { shards, len: AtomicUsize::new(0), capacity, tag_key: Box::new(tag_key) }
    }

    /// The tag of a packet with this Sphinx replay tag.
    pub fn tag(&self, replay_tag: &[u8; 32]) -> Tag {
        let hash = blake3::keyed_hash(&self.tag_key, replay_tag);
        Tag(hash.as_bytes().first_chunk().copied().unwrap_or_default())
    }

    /// Inserts a tag: of two that are equal exactly one is fresh, whichever threads bring them. A packet may go on only
    /// if this returns [`Insertion::Fresh`], and may leave only after the tag is in the log.
    pub fn insert(&self, tag: Tag) -> Insertion {
        // the table's index comes from the tag's first half, so the shard comes from the second
        let [_, half] = halves(&tag.0);
        let Some(shard) = self.shards.get(half as usize & (self.shards.len() - 1)) else { return Insertion::Full };
        lock(shard).insert(tag, || {
            let room = |len: usize| (len < self.capacity).then_some(len + 1);
            self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
        })
    }

    /// Packets seen.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether no packet was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets it takes.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Packets seen ÷ capacity, 0 to 1.
    pub fn fill_ratio(&self) -> f64 {
        if self.capacity == 0 { 1.0 } else { self.len() as f64 / self.capacity as f64 }
    }

    /// Bytes the tables take now.
    pub fn memory_bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).slots.len() * TAG_SIZE + size_of::<Mutex<Shard>>()).sum()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // an insertion leaves the table usable wherever it stops
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn halves(tag: &[u8; TAG_SIZE]) -> [u64; 2] {
    let (halves, _) = tag.as_chunks::<8>();
    [0, 1].map(|n| halves.get(n).map_or(0, |half| u64::from_le_bytes(*half)))
}

/// A part of the set.
#[derive(Default)]
struct Shard {
    slots: Vec<[u8; TAG_SIZE]>,
    taken: usize,
    /// The all-zero tag marks an empty slot in `slots`, so it is kept apart.
    zero_seen: bool,
}

impl Shard {
    /// `reserve` is asked before anything new goes in: whether the whole set has room.
    fn insert(&mut self, tag: Tag, reserve: impl FnOnce() -> bool) -> Insertion {
        if tag.0 == [0; TAG_SIZE] {
            return if self.zero_seen {
                Insertion::Repeated
            } else if reserve() {
                self.zero_seen = true;
                Insertion::Fresh
            } else {
                Insertion::Full
            };
        }
        if !self.slots.is_empty() && find(&self.slots, &tag.0).is_err() {
            return Insertion::Repeated;
        }
        if !reserve() {
            return Insertion::Full;
        }
        if (self.taken + 1).saturating_mul(8) > self.slots.len().saturating_mul(7) {
            self.grow();
        }
        if let Ok(index) = find(&self.slots, &tag.0)
            && let Some(slot) = self.slots.get_mut(index)
        {
            *slot = tag.0;
            self.taken += 1;
        }
        Insertion::Fresh
    }

    fn grow(&mut self) {
        let mut larger = vec![[0; TAG_SIZE]; self.slots.len().saturating_mul(2).max(SLOTS_MIN)];
        for tag in self.slots.iter().filter(|tag| **tag != [0; TAG_SIZE]) {
            if let Ok(index) = find(&larger, tag)
                && let Some(slot) = larger.get_mut(index)
            {
                *slot = *tag;
            }
        }
        self.slots = larger;
    }
}

/// Linear probing in a table that has slots: `Ok(free slot)` where the tag would go, `Err(slot)` where it already is. The
/// table always has free slots (at most 7/8 are taken), so the probe ends.
fn find(slots: &[[u8; TAG_SIZE]], tag: &[u8; TAG_SIZE]) -> Result<usize, usize> {
    let mask = slots.len() - 1;
    let [start, _] = halves(tag);
    let mut index = start as usize & mask;
    loop {
        match slots.get(index) {
            Some(slot) if *slot == [0; TAG_SIZE] => return Ok(index),
            Some(slot) if slot == tag => return Err(index),
            _ => index = (index + 1) & mask,
        }
    }
}

/// How full a replay set is, as far as somebody has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// Nothing to do.
    Roomy,
    /// At least 80 %.
    Filling,
    /// At its capacity: packets under this key are refused.
    Full,
}

impl Fill {
    fn of(ratio: f64) -> Self {
        if ratio >= 1.0 {
            Self::Full
        } else if ratio >= FILLING {
            Self::Filling
        } else {
            Self::Roomy
        }
    }
}

/// Says once for each key when its set fills up, and once when it is full.
#[derive(Debug, Default)]
pub struct FillAlarm {
    /// Worst that was said, for the keys held now.
    said: BTreeMap<Epoch, Fill>,
}

impl FillAlarm {
    /// Takes the fill of every key held; returns what is to be said now. A key that is not named is forgotten.
    pub fn observe(&mut self, fills: impl IntoIterator<Item = (Epoch, f64)>) -> Vec<(Epoch, Fill)> {
        let mut alarms = Vec::new();
        let before = std::mem::take(&mut self.said);
        for (epoch, ratio) in fills {
            let said = before.get(&epoch).copied().unwrap_or(Fill::Roomy);
            let now = Fill::of(ratio).max(said);
            if now > said {
                alarms.push((epoch, now));
            }
            self.said.insert(epoch, now);
        }
        alarms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use std::collections::BTreeSet;

    fn set(capacity: usize) -> ReplaySet {
        ReplaySet::new(Zeroizing::new([5; 32]), capacity)
    }

    #[test]
    fn a_tag_is_fresh_once() {
        let set = set(10);
        let tag = set.tag(&[1; 32]);
        assert_eq!(set.insert(tag), Insertion::Fresh);
        assert_eq!(set.insert(tag), Insertion::Repeated);
        assert_eq!(set.insert(set.tag(&[2; 32])), Insertion::Fresh);
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn tags_depend_on_the_key() {
        let other = ReplaySet::new(Zeroizing::new([6; 32]), 10);
        assert_ne!(set(10).tag(&[1; 32]), other.tag(&[1; 32]));
    }

    #[test]
    fn the_zero_tag_is_a_tag_like_others() {
        let set = set(10);
        assert_eq!(set.insert(Tag::from_bytes([0; 16])), Insertion::Fresh);
        assert_eq!(set.insert(Tag::from_bytes([0; 16])), Insertion::Repeated);
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_full_set_refuses_new_and_still_knows_old() {
        let set = set(3);
        let tags: Vec<Tag> = (0..4u8).map(|n| set.tag(&[n; 32])).collect();
        let results: Vec<Insertion> = tags.iter().map(|tag| set.insert(*tag)).collect();
        assert_eq!(results, [Insertion::Fresh, Insertion::Fresh, Insertion::Fresh, Insertion::Full]);
        assert_eq!(set.insert(*tags.first().expect("there are four")), Insertion::Repeated);
        assert!((set.fill_ratio() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn of_many_threads_exactly_one_finds_a_tag_fresh_and_the_capacity_holds() {
        const THREADS: u64 = 4;
        let (set, tags, capacity) = (set(30_000), 40_000u64, 30_000);
        let insert_all = || {
            let mut rng = StdRng::seed_from_u64(7);
            let tags = (0..tags).map(|_| Tag::from_bytes(rng.random()));
            tags.filter(|tag| set.insert(*tag) == Insertion::Fresh).count()
        };
        let fresh: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(insert_all)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((fresh, set.len()), (capacity, capacity));
    }

    #[test]
    fn the_alarm_is_raised_once_at_eighty_percent_and_once_when_full() {
        let mut alarm = FillAlarm::default();
        let set = set(10);
        let mut alarms = Vec::new();
        for n in 0..12u8 {
            set.insert(set.tag(&[n; 32]));
            alarms.extend(alarm.observe([(Epoch(4), set.fill_ratio())]).into_iter().map(|alarm| (n + 1, alarm)));
        }
        assert_eq!(alarms, [(8, (Epoch(4), Fill::Filling)), (10, (Epoch(4), Fill::Full))]);
        // another key has its own, and one that is gone is forgotten
        assert_eq!(alarm.observe([(Epoch(5), 1.0)]), [(Epoch(5), Fill::Full)]);
        assert_eq!(alarm.said.len(), 1);
    }

    #[test]
    fn at_most_forty_bytes_a_packet() {
        let mut rng = StdRng::seed_from_u64(1);
        let set = set(200_000);
        for n in 1..200_000usize {
            assert_eq!(set.insert(Tag::from_bytes(rng.random())), Insertion::Fresh);
            if n > 10_000 {
                assert!(set.memory_bytes() <= 40 * n, "{} bytes for {n}", set.memory_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(tags in proptest::collection::vec(any::<[u8; 2]>(), 0..3_000)) {
            // 64 shards
            let set = set(1 << 19);
            let mut model = BTreeSet::new();
            for [first, second] in tags {
                // few distinct values, equal first bytes: repetitions and long probes
                let mut bytes = [0; 16];
                bytes[0] = first & 3;
                bytes[15] = second;
                let expected = if model.insert(bytes) { Insertion::Fresh } else { Insertion::Repeated };
                prop_assert_eq!(set.insert(Tag::from_bytes(bytes)), expected);
            }
            prop_assert_eq!(set.len(), model.len());
        }
    }
}
