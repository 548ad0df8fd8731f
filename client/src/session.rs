//! A client's session with one gateway, and the table of replies it waits for (design §3.3).
//!
//! The session is a random secret: whoever shows it on a link receives what is addressed to it, so a client that
//! reconnects goes on where it was and the gateway keeps nothing. A second session, with other keys, begins with every
//! other gateway: two gateways never see one session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rand::CryptoRng;
use shoal_protocol::geometry::SURB_IDENTIFIER_SIZE;
use shoal_protocol::link::{Attach, SessionAddress};
use shoal_protocol::{Epoch, X25519Secret};

/// How many replies may be awaited. λ_P + λ_L is at most 12/s in any shipped parameter set and a reply has a deadline
/// of tens of seconds at most: 12 × 100 s = 1,200. At about 2 kB an entry the table stays below 10 MB.
pub const AWAITED_MAX: usize = 4_096;

/// Random, non-zero name of one SURB; only its creator can read it.
pub type SurbIdentifier = [u8; SURB_IDENTIFIER_SIZE];

/// Secret, address and keys of one session. Never kept on disk: replies to a client that restarted cannot be opened
/// anyway, and a new secret links nothing to the old one.
pub struct Session {
    attach: Attach,
    address: SessionAddress,
    /// One X25519 key per epoch, the fifth hop of all SURBs made in it; shown to nobody, not even to the gateway.
    keys: BTreeMap<Epoch, X25519Secret>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(redacted)")
    }
}

impl Session {
    /// A new session under a fresh random secret.
    #[must_use]
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        let attach = Attach::generate(rng);
        let address = attach.address();
        Self { attach, address, keys: BTreeMap::new() }
    }

    /// The first frame on every link of this session.
    #[must_use]
    pub fn attach(&self) -> &Attach {
        &self.attach
    }

    /// The last address of this session's SURBs.
    #[must_use]
    pub fn address(&self) -> &SessionAddress {
        &self.address
    }

    /// The key for SURBs made in `epoch`; made on first use. Keys older than the epoch before are erased: every reply
    /// to them is past its deadline, which is shorter than an epoch.
    pub fn key(&mut self, epoch: Epoch, rng: &mut impl CryptoRng) -> &X25519Secret {
        let oldest = epoch.minus(1);
        self.keys.retain(|of, _| *of >= oldest);
        self.keys.entry(epoch).or_insert_with(|| X25519Secret::generate(rng))
    }

    /// The keys a reply may be for, newest first: at most those of two epochs, and of a third after a clock that was
    /// ahead stepped back.
    pub fn keys(&self) -> impl Iterator<Item = &X25519Secret> {
        self.keys.values().rev()
    }
}

/// Replies that are awaited: SURB identifier → what belongs to it. Every entry is taken once; what comes twice, late or
/// unasked finds nothing.
#[derive(Debug)]
pub struct SurbTable<T> {
    entries: BTreeMap<SurbIdentifier, (Duration, T)>,
    deadlines: BTreeSet<(Duration, SurbIdentifier)>,
}

impl<T> Default for SurbTable<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<T> SurbTable<T> {
    /// Awaits the reply to `identifier` until `deadline`. Returns what had to make room: the entry closest to its
    /// deadline when [`AWAITED_MAX`] are awaited (the caller treats it as expired), or `entry` itself when the
    /// identifier is in use.
    pub fn insert(&mut self, identifier: SurbIdentifier, deadline: Duration, entry: T) -> Option<T> {
        if self.entries.contains_key(&identifier) {
            return Some(entry);
        }
        let displaced = if self.entries.len() >= AWAITED_MAX { self.pop_first() } else { None };
        self.entries.insert(identifier, (deadline, entry));
        self.deadlines.insert((deadline, identifier));
        displaced
    }

    /// Takes the entry of a reply that came; `None` when nothing is awaited under `identifier` (any more).
    pub fn take(&mut self, identifier: &SurbIdentifier) -> Option<T> {
        let (deadline, entry) = self.entries.remove(identifier)?;
        self.deadlines.remove(&(deadline, *identifier));
        Some(entry)
    }

    /// Takes one entry whose deadline has passed. Call until `None`.
    pub fn expire(&mut self, now: Duration) -> Option<T> {
        (self.next_deadline()? <= now).then(|| self.pop_first()).flatten()
    }

    /// The earliest deadline; worth asking again after every other call.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes any entry, earliest deadline first. Used when the link is gone and nothing will be answered.
    pub fn pop_first(&mut self) -> Option<T> {
        let (_, identifier) = self.deadlines.pop_first()?;
        self.entries.remove(&identifier).map(|(_, entry)| entry)
    }

    /// How many replies are awaited.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn identifier(n: u64) -> SurbIdentifier {
        let mut identifier = [1; 16];
        identifier[..8].copy_from_slice(&n.to_le_bytes());
        identifier
    }

    #[test]
    fn an_entry_is_used_once() {
        let mut table = SurbTable::default();
        assert!(table.insert(identifier(1), Duration::from_secs(1), "a").is_none());
        assert_eq!(table.insert(identifier(1), Duration::from_secs(9), "b"), Some("b"));
        assert_eq!(table.take(&identifier(1)), Some("a"));
        assert_eq!(table.take(&identifier(1)), None);
        assert!(table.is_empty());
        assert_eq!(table.expire(Duration::from_secs(10)), None);
    }

    #[test]
    fn what_is_late_expires_once_and_is_not_found_afterwards() {
        let mut table = SurbTable::default();
        for n in 1..=3 {
            table.insert(identifier(n), Duration::from_secs(n), n);
        }
        assert_eq!(table.next_deadline(), Some(Duration::from_secs(1)));
        assert_eq!(table.expire(Duration::from_millis(999)), None);
        assert_eq!(table.expire(Duration::from_secs(2)), Some(1));
        assert_eq!(table.expire(Duration::from_secs(2)), Some(2));
        assert_eq!(table.expire(Duration::from_secs(2)), None);
        assert_eq!(table.take(&identifier(2)), None);
        assert_eq!(table.take(&identifier(3)), Some(3));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = SurbTable::default();
        let mut displaced = Vec::new();
        for n in 0..AWAITED_MAX as u64 + 10 {
            displaced.extend(table.insert(identifier(n), Duration::from_secs(n), n));
        }
        assert_eq!(table.len(), AWAITED_MAX);
        assert_eq!(displaced, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn keys_are_made_per_epoch_and_erased() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut session = Session::new(&mut rng);
        let first = session.key(Epoch(5), &mut rng).public();
        assert_eq!(session.key(Epoch(5), &mut rng).public(), first);
        assert_ne!(session.key(Epoch(6), &mut rng).public(), first);
        assert_eq!(session.keys().count(), 2);
        session.key(Epoch(7), &mut rng);
        assert_eq!(session.keys().count(), 2);
        assert!(session.keys().all(|key| key.public() != first));
        assert_ne!(Session::new(&mut rng).address().as_bytes(), session.address().as_bytes());
    }

    proptest! {
        /// Against a plain map: whatever is inserted leaves exactly once, by take or by expiry, never both.
        #[test]
        fn every_entry_leaves_exactly_once(steps in proptest::collection::vec((0u8..3, 0u64..40, 0u64..50), 0..300)) {
            let mut table = SurbTable::default();
            let mut model: BTreeMap<SurbIdentifier, (Duration, usize)> = BTreeMap::new();
            for (serial, (what, name, time)) in steps.into_iter().enumerate() {
                let (name, time) = (identifier(name), Duration::from_secs(time));
                match what {
                    0 => {
                        let refused = table.insert(name, time, serial);
                        prop_assert_eq!(refused.is_some(), model.contains_key(&name));
                        model.entry(name).or_insert((time, serial));
                    }
                    1 => prop_assert_eq!(table.take(&name), model.remove(&name).map(|(_, serial)| serial)),
                    _ => while let Some(serial) = table.expire(time) {
                        let key = *model.iter().find(|(_, entry)| entry.1 == serial).unwrap().0;
                        prop_assert!(model.remove(&key).unwrap().0 <= time);
                    },
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.next_deadline(), model.values().map(|entry| entry.0).min());
            }
        }
    }
}
