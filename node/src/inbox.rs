//! The rules of an inbox at one replica: numbers, filling, how much work an entry must show.
//!
//! An inbox is public: anyone may append, so filling one must cost more the fuller it is, and one inbox must not crowd
//! out the rest of the store.

use crate::engine::Bucket;

/// Live entries of one inbox at most. 4,096 × 1.8 kB = 7.4 MB: a flood of one inbox costs a store no more than that,
/// and by then every further entry needs [`GROWTH_MAX`] bits more than the first. At 18 bits for an empty inbox, filling
/// one takes 64·2¹⁸ + 64·2¹⁹ + 128·2²⁰ + … + 2,048·2²⁴ = 4.6·10¹⁰ hashes: half a day of one core. From then on nobody
/// else's letter is taken until entries go; the owner has invites for that.
pub const ENTRIES_MAX: u64 = 4_096;

/// Entries up to which an inbox counts as empty: more first contacts than a person gets within a retention time.
const FREE_ENTRIES: u64 = 64;

/// Bits that filling adds at most: log2(4,096 / 64).
pub const GROWTH_MAX: u8 = 6;

/// What a replica knows of an inbox before an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Live entries.
    pub entries: u64,
    /// The highest number among the live entries; 0 when there is none.
    pub last: u64,
}

/// Leading zero bits that the next entry must show: `base` for an inbox with fewer than 64 entries, one more with each
/// doubling. The sender does not know the filling: it starts with `base`, and a refusal names what is needed.
pub fn required_bits(base: u8, entries: u64) -> u8 {
    let doublings = (entries / FREE_ENTRIES).checked_ilog2().map_or(0, |log| log + 1);
    // checked_ilog2 of a u64 is at most 63
    base.saturating_add(u8::try_from(doublings).unwrap_or(u8::MAX).min(GROWTH_MAX))
}

/// The number of the next entry: above every live one, and not below the start of the bucket it goes to. Time gives the
/// floor so that numbers keep rising after all entries of an inbox have expired, without a counter that outlives them:
/// an owner's cursor stays valid. An inbox takes at most [`ENTRIES_MAX`] entries in a bucket and a bucket lasts at least
/// 10,000 ms, so a number never runs ahead of the next bucket's start.
pub fn next_number(state: State, bucket: Bucket) -> u64 {
    state.last.saturating_add(1).max(bucket.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_grows_with_filling() {
        let needed: Vec<u8> =
            [0, 63, 64, 127, 128, 255, 256, 2_047, 2_048, 4_095].map(|entries| required_bits(18, entries)).to_vec();
        assert_eq!(needed, [18, 18, 19, 19, 20, 20, 21, 23, 24, 24]);
        assert_eq!(required_bits(u8::MAX, u64::MAX), u8::MAX);
    }

    #[test]
    fn numbers_rise_across_expiry() {
        let first = next_number(State::default(), Bucket { start: 10_000, end: 20_000 });
        let second = next_number(State { entries: 1, last: first }, Bucket { start: 10_000, end: 20_000 });
        assert!(second > first);
        // everything expired: the owner's cursor still lies below what comes
        let later = next_number(State::default(), Bucket { start: 80_000, end: 90_000 });
        assert!(later > second);
    }

    #[test]
    fn a_full_bucket_of_one_inbox_stays_below_the_next() {
        let bucket = Bucket { start: 10_000, end: 20_000 };
        let mut state = State::default();
        for _ in 0..ENTRIES_MAX {
            state = State { entries: state.entries + 1, last: next_number(state, bucket) };
        }
        assert!(state.last < bucket.end);
    }
}
