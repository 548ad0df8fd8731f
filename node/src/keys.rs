//! The key ring: mix keys and, at a store, envelope keys, one pair an epoch.
//!
//! A ring holds the keys of epochs *e* to *e*+3, so that a descriptor can offer what the document of the next epoch
//! needs, and of earlier epochs until their grace time is over. Which keys a packet is tried against, and in which
//! order, is decided here; so is the moment of erasure. The ring knows no files: see `io::key_files`.

use rand::CryptoRng;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::{Epoch, Hash, UnixMillis};
use shoal_protocol::{X25519Public, X25519Secret};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use zeroize::{Zeroize as _, Zeroizing};

/// Epochs ahead for which keys exist: the document of epoch e+1 is made during e and carries e+1 to e+3.
pub const EPOCHS_AHEAD: u64 = 3;
/// Keys further ahead than these are destroyed: only a clock that was wrong can have made them, and every time it is
/// wrong would leave four more. Twice what is made, so that a clock that is set back a little destroys nothing.
const EPOCHS_AHEAD_MAX: u64 = 2 * EPOCHS_AHEAD;

/// The secrets of one epoch. Zeroized on drop; `Debug` shows the epoch only.
#[derive(Debug)]
pub struct EpochKeys {
    /// The epoch they are for.
    pub epoch: Epoch,
    /// Sphinx key.
    pub mix: X25519Secret,
    /// Envelope key; stores only.
    pub envelope: Option<X25519Secret>,
}

/// When the keys of one epoch are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First instant: start of the epoch minus the skew tolerance.
    pub from: UnixMillis,
    /// First instant no more: end of the epoch plus the grace time; the keys are erased then.
    pub until: UnixMillis,
}

impl Window {
    /// The window of `epoch`.
    pub fn of(epoch: Epoch, schedule: &Schedule, grace: Duration, skew: Duration) -> Self {
        Self { from: schedule.start(epoch).minus(skew), until: schedule.start(epoch.plus(1)).plus(grace) }
    }
    /// Whether `now` lies inside.
    pub fn contains(&self, now: UnixMillis) -> bool {
        self.from <= now && now < self.until
    }
}

/// A thing that belongs to an epoch.
pub trait OfEpoch {
    /// The epoch.
    fn epoch(&self) -> Epoch;
}

/// Puts keys into the order in which a packet is tried: the current epoch's, then earlier ones (grace), newest first,
/// then later ones (inside the skew window), nearest first.
pub fn in_order<'a, T: OfEpoch>(current: Epoch, keys: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut ordered: Vec<&T> = keys.collect();
    ordered.sort_by_key(|key| {
        let epoch = key.epoch();
        (epoch > current, epoch.0.abs_diff(current.0))
    });
    ordered
}

/// Whether the time of an epoch's keys is over at `now`, or so far ahead that only a wrong clock can have made them.
pub fn is_over(epoch: Epoch, now: UnixMillis, schedule: &Schedule, grace: Duration) -> bool {
    schedule.start(epoch.plus(1)).plus(grace) <= now || epoch > schedule.epoch_at(now).plus(EPOCHS_AHEAD_MAX)
}

/// All keys a node holds.
#[derive(Debug)]
pub struct KeyRing {
    keys: BTreeMap<Epoch, Arc<EpochKeys>>,
    with_envelope: bool,
}

impl KeyRing {
    /// An empty ring; `with_envelope` at a store.
    pub fn new(with_envelope: bool) -> Self {
        Self { keys: BTreeMap::new(), with_envelope }
    }

    /// Takes keys back from a file. Refused (and dropped) when they lack an envelope key that this node needs.
    pub fn restore(&mut self, keys: EpochKeys) -> bool {
        let usable = keys.envelope.is_some() == self.with_envelope;
        if usable {
            self.keys.insert(keys.epoch, Arc::new(keys));
        }
        usable
    }

    /// Makes the keys that are missing for `current` to `current + 3` and returns them, so that the shell writes them
    /// before they are published.
    pub fn fill(&mut self, current: Epoch, rng: &mut impl CryptoRng) -> Vec<Arc<EpochKeys>> {
        let mut made = Vec::new();
        for ahead in 0..=EPOCHS_AHEAD {
            let epoch = current.plus(ahead);
            if !self.keys.contains_key(&epoch) {
                let keys = Arc::new(EpochKeys {
                    epoch,
                    mix: X25519Secret::generate(rng),
                    envelope: self.with_envelope.then(|| X25519Secret::generate(rng)),
                });
                self.keys.insert(epoch, Arc::clone(&keys));
                made.push(keys);
            }
        }
        made
    }

    /// Takes out all keys whose time is over at `now`, or so far ahead that only a wrong clock can have made them; the
    /// shell erases their files and replay sets with them. A ring so never holds more than those of the past in their
    /// grace time and seven.
    pub fn expire(&mut self, now: UnixMillis, schedule: &Schedule, grace: Duration) -> Vec<Epoch> {
        let over: Vec<Epoch> =
            self.keys.keys().copied().filter(|epoch| is_over(*epoch, now, schedule, grace)).collect();
        for epoch in &over {
            self.keys.remove(epoch);
        }
        over
    }

    /// Takes one epoch's keys out (its replay log is lost or torn).
    pub fn destroy(&mut self, epoch: Epoch) -> bool {
        self.keys.remove(&epoch).is_some()
    }

    /// The keys of one epoch.
    pub fn get(&self, epoch: Epoch) -> Option<&Arc<EpochKeys>> {
        self.keys.get(&epoch)
    }

    /// All keys, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<EpochKeys>> {
        self.keys.values()
    }

    /// What a descriptor published in epoch `current` offers: mix keys of `current` to `current + 3`, strictly
    /// increasing.
    pub fn public_mix(&self, current: Epoch) -> Vec<(Epoch, X25519Public)> {
        self.offered(current).map(|keys| (keys.epoch, keys.mix.public())).collect()
    }

    /// The same for envelope keys; empty unless this is a store.
    pub fn public_envelope(&self, current: Epoch) -> Vec<(Epoch, X25519Public)> {
        self.offered(current)
            .filter_map(|keys| keys.envelope.as_ref().map(|envelope| (keys.epoch, envelope.public())))
            .collect()
    }

    fn offered(&self, current: Epoch) -> impl Iterator<Item = &Arc<EpochKeys>> {
        self.keys.range(current..=current.plus(EPOCHS_AHEAD)).map(|(_, keys)| keys)
    }
}

/// First bytes of a key file; the digit is the format's version.
const MAGIC: &[u8; 8] = b"SHOALMK1";
/// Magic 8, network 32, boot 16, epoch 8, mix key 32, flag 1, envelope key 32, checksum 16.
const STORED_SIZE: usize = 8 + 32 + 16 + 8 + 32 + 1 + 32 + 16;
const CHECK_CONTEXT: &str = "shoal node key file 1 checksum";

/// Why a stored key is not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoredKeyError {
    /// Not a key file of this version, torn or damaged.
    #[error("the key file is torn or damaged")]
    Damaged,
    /// Made for another network.
    #[error("the key file belongs to another network")]
    OtherNetwork,
    /// Written before the machine was last started: its replay log may lack its end.
    #[error("the key file was written before the last reboot")]
    OtherBoot,
}

impl EpochKeys {
    /// The bytes of a key file. `boot` names the run of the machine: after a reboot the end of the replay log may be
    /// missing even where the runtime directory is not in memory, so keys of another boot are never used again.
    pub fn to_stored(&self, network: &Hash, boot: &[u8; 16]) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(STORED_SIZE));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(network.as_bytes());
        bytes.extend_from_slice(boot);
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&*self.mix.to_bytes());
        bytes.push(u8::from(self.envelope.is_some()));
        match &self.envelope {
            Some(envelope) => bytes.extend_from_slice(&*envelope.to_bytes()),
            None => bytes.extend_from_slice(&[0; 32]),
        }
        let check = Hash::of(CHECK_CONTEXT, &bytes);
        bytes.extend(check.as_bytes().iter().take(16));
        bytes
    }

    /// Reads [`EpochKeys::to_stored`] back.
    pub fn from_stored(bytes: &[u8], network: &Hash, boot: &[u8; 16]) -> Result<Self, StoredKeyError> {
        if bytes.len() != STORED_SIZE {
            return Err(StoredKeyError::Damaged);
        }
        let (content, check) = bytes.split_at(STORED_SIZE - 16);
        if Hash::of(CHECK_CONTEXT, content).as_bytes().get(..16) != Some(check) {
            return Err(StoredKeyError::Damaged);
        }
        let mut rest = content;
        if &take::<8>(&mut rest)? != MAGIC {
            return Err(StoredKeyError::Damaged);
        }
        if &take::<32>(&mut rest)? != network.as_bytes() {
            return Err(StoredKeyError::OtherNetwork);
        }
        if &take::<16>(&mut rest)? != boot {
            return Err(StoredKeyError::OtherBoot);
        }
        let epoch = Epoch(u64::from_be_bytes(take(&mut rest)?));
        let mix = X25519Secret::from_bytes(&Zeroizing::new(take(&mut rest)?));
        let [has_envelope] = take::<1>(&mut rest)?;
        let envelope = Zeroizing::new(take::<32>(&mut rest)?);
        let envelope = (has_envelope == 1).then(|| X25519Secret::from_bytes(&envelope));
        Ok(Self { epoch, mix, envelope })
    }

    /// Key of the replay tags of this epoch, derived from the mix key: tags read back from the log mean the same, and
    /// mean nothing once the key is gone.
    pub fn tag_key(&self) -> Zeroizing<[u8; 32]> {
        derived("shoal/1 node replay tag key", &self.mix)
    }

    /// The same for the ephemeral keys seen under the envelope key; stores only.
    pub fn seen_key(&self) -> Option<Zeroizing<[u8; 32]>> {
        self.envelope.as_ref().map(|envelope| derived("shoal/1 node seen tag key", envelope))
    }
}

/// A key derived from another one. The hasher had that in its buffer, and is erased.
fn derived(context: &'static str, from: &X25519Secret) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(&*from.to_bytes());
    let key = Zeroizing::new(*hasher.finalize().as_bytes());
    hasher.zeroize();
    key
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], StoredKeyError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(StoredKeyError::Damaged)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    const NETWORK: Hash = Hash::from_bytes([7; 32]);
    const BOOT: [u8; 16] = [3; 16];

    fn schedule() -> Schedule {
        Schedule { genesis: UnixMillis(1_000_000), epoch_ms: 20_000 }
    }

    #[test]
    fn a_ring_offers_four_epochs_and_keeps_what_it_has() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut ring = KeyRing::new(true);
        assert_eq!(ring.fill(Epoch(5), &mut rng).len(), 4);
        let before = ring.public_mix(Epoch(6));
        assert_eq!(ring.fill(Epoch(6), &mut rng).len(), 1);
        let after = ring.public_mix(Epoch(6));
        assert_eq!(after.iter().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [6, 7, 8, 9]);
        assert_eq!(after.get(..3), Some(before.as_slice()));
        assert_eq!(ring.public_envelope(Epoch(6)).len(), 4);
    }

    #[test]
    fn keys_expire_when_the_grace_time_ends_and_not_before() {
        let mut ring = KeyRing::new(false);
        ring.fill(Epoch(5), &mut StdRng::seed_from_u64(2));
        let grace = Duration::from_millis(2_800);
        let end = schedule().start(Epoch(6)).plus(grace);
        assert!(ring.expire(UnixMillis(end.0 - 1), &schedule(), grace).is_empty());
        assert_eq!(ring.expire(end, &schedule(), grace), [Epoch(5)]);
        assert!(ring.get(Epoch(5)).is_none());
        assert!(ring.public_envelope(Epoch(6)).is_empty());
    }

    #[test]
    fn windows_and_order() {
        struct Only(Epoch);
        impl OfEpoch for Only {
            fn epoch(&self) -> Epoch {
                self.0
            }
        }
        let (grace, skew) = (Duration::from_secs(3), Duration::from_secs(2));
        let window = Window::of(Epoch(5), &schedule(), grace, skew);
        let (start, end) = (schedule().start(Epoch(5)), schedule().start(Epoch(6)));
        assert!(!window.contains(UnixMillis(start.0 - 2_001)));
        assert!(window.contains(UnixMillis(start.0 - 2_000)));
        assert!(window.contains(UnixMillis(end.0 + 2_999)));
        assert!(!window.contains(UnixMillis(end.0 + 3_000)));
        let keys = [Only(Epoch(6)), Only(Epoch(3)), Only(Epoch(4)), Only(Epoch(5)), Only(Epoch(7))];
        let order: Vec<u64> = in_order(Epoch(5), keys.iter()).iter().map(|key| key.0.0).collect();
        assert_eq!(order, [5, 4, 3, 6, 7]);
    }

    #[test]
    fn stored_keys_return_unless_damaged_foreign_or_from_another_boot() {
        let mut rng = StdRng::seed_from_u64(3);
        for with_envelope in [false, true] {
            let mut ring = KeyRing::new(with_envelope);
            let made = ring.fill(Epoch(9), &mut rng);
            let keys = made.first().expect("four were made");
            let stored = keys.to_stored(&NETWORK, &BOOT);
            let read = EpochKeys::from_stored(&stored, &NETWORK, &BOOT).expect("reads back");
            assert_eq!(read.epoch, keys.epoch);
            assert_eq!(read.mix.public(), keys.mix.public());
            assert_eq!(read.tag_key(), keys.tag_key());
            assert!(KeyRing::new(with_envelope).restore(read));
            let other = EpochKeys::from_stored(&stored, &NETWORK, &BOOT).expect("reads back");
            assert!(!KeyRing::new(!with_envelope).restore(other));
            for at in 0..stored.len() {
                let mut damaged = stored.clone();
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 1;
                }
                assert!(EpochKeys::from_stored(&damaged, &NETWORK, &BOOT).is_err());
            }
            let foreign = EpochKeys::from_stored(&stored, &Hash::from_bytes([8; 32]), &BOOT);
            assert_eq!(foreign.err(), Some(StoredKeyError::OtherNetwork));
            let rebooted = EpochKeys::from_stored(&stored, &NETWORK, &[4; 16]);
            assert_eq!(rebooted.err(), Some(StoredKeyError::OtherBoot));
            assert!(EpochKeys::from_stored(stored.get(1..).unwrap_or_default(), &NETWORK, &BOOT).is_err());
        }
    }
}
