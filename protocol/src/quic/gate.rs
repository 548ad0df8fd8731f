//! Who gets in when many knock: caps on connections, on handshakes and per address prefix, and when an unvalidated
//! address has to prove itself by QUIC Retry. Pure: it is told what knocks and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::Identity;

/// Caps of an accepting endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, handshakes included. The default leaves 1,024 for nodes when clients and handshakes are
    /// at their caps: nobody can shut the nodes out by being many.
    pub connections: usize,
    /// Links at a time whose protocol asks for no identity: clients, and who asks a directory. About 100 KB each of
    /// QUIC state and half-filled windows: 400 MB.
    pub guests: usize,
    /// Handshakes at a time. One costs about 1 ms of CPU: 1,024 are a second of a core.
    pub handshakes: usize,
    /// Handshakes at a time from which on every new address must validate itself first.
    pub retry_above: usize,
    /// Connections at a time per prefix: /24 of IPv4, /48 of IPv6. Loopback is not counted. Beyond half of it, an
    /// address must validate itself, so that nobody can fill a prefix that is not his.
    pub per_prefix: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 6_144, guests: 4_096, handshakes: 1_024, retry_above: 64, per_prefix: 256 }
    }
}

/// How many attempts did not get in at once, since the start. Says nothing of whose they were.
#[derive(Debug, Default)]
pub struct TurnedAway {
    asked_to_retry: AtomicU64,
    refused: AtomicU64,
}

impl TurnedAway {
    /// Attempts whose address had to prove itself first; those that did come again and are judged anew.
    pub fn asked_to_retry(&self) -> u64 {
        self.asked_to_retry.load(Ordering::Relaxed)
    }
    /// Attempts beyond the caps.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// What is done with a connection attempt.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Let it in; the seat and the handshake's place are given back on drop.
    Admit(Seat, Handshaking),
    /// Ask it to come back with a token that proves its address.
    Retry,
    /// Turn it away.
    Refuse,
}

/// The caps and what is counted against them.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    counts: Mutex<Counts>,
    /// Identities that are no guests where an identity is optional. At most 64 authorities.
    reserved: Mutex<BTreeSet<Identity>>,
    turned_away: Arc<TurnedAway>,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: usize,
    guests: usize,
    /// At most one entry per open connection, so `Limits::connections` entries of some 30 bytes.
    per_prefix: BTreeMap<Prefix, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4([u8; 3]),
    V6([u8; 6]),
}

fn prefix(address: IpAddr) -> Option<Prefix> {
    let address = address.to_canonical();
    if address.is_loopback() {
        return None;
    }
    Some(match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Prefix::V4([a, b, c])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, ..] = v6.octets();
            Prefix::V6([a, b, c, d, e, f])
        }
    })
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default(), reserved: Mutex::default(), turned_away: Arc::default() })
    }

    pub(super) fn turned_away(&self) -> &Arc<TurnedAway> {
        &self.turned_away
    }

    pub(super) fn reserve(&self, identities: impl IntoIterator<Item = Identity>) {
        let identities = identities.into_iter().collect();
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = identities;
    }

    pub(super) fn is_reserved(&self, identity: &Identity) -> bool {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).contains(identity)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // counters stay consistent even if a holder panicked: every change is one step
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about an attempt from `from`; `validated`: the address has proved itself; `open`: connections the
    /// endpoint holds now.
    pub(super) fn judge(self: &Arc<Self>, from: IpAddr, validated: bool, open: usize) -> Verdict {
        let verdict = self.decide(from, validated, open);
        match verdict {
            Verdict::Admit(..) => {}
            Verdict::Retry => drop(self.turned_away.asked_to_retry.fetch_add(1, Ordering::Relaxed)),
            Verdict::Refuse => drop(self.turned_away.refused.fetch_add(1, Ordering::Relaxed)),
        }
        verdict
    }

    fn decide(self: &Arc<Self>, from: IpAddr, validated: bool, open: usize) -> Verdict {
        let limits = self.limits;
        let prefix = prefix(from);
        let mut counts = self.counts();
        if open >= limits.connections || counts.handshakes >= limits.handshakes {
            return Verdict::Refuse;
        }
        let near = prefix.and_then(|prefix| counts.per_prefix.get(&prefix).copied()).unwrap_or(0);
        let loaded = counts.handshakes >= limits.retry_above
            || open.saturating_mul(4) >= limits.connections.saturating_mul(3)
            || (prefix.is_some() && near.saturating_mul(2) >= limits.per_prefix);
        if loaded && !validated {
            return Verdict::Retry;
        }
        if prefix.is_some() && near >= limits.per_prefix {
            return Verdict::Refuse;
        }
        counts.handshakes += 1;
        if let Some(prefix) = prefix {
            *counts.per_prefix.entry(prefix).or_default() += 1;
        }
        Verdict::Admit(Seat { gate: self.clone(), prefix, guest: false }, Handshaking { gate: self.clone() })
    }
}

/// One connection's place in the count of its prefix, and of the guests if it is one.
#[derive(Debug)]
pub(super) struct Seat {
    gate: Arc<Gate>,
    prefix: Option<Prefix>,
    guest: bool,
}

impl Seat {
    /// Whether places are kept for this identity.
    pub(super) fn is_reserved(&self, identity: &Identity) -> bool {
        self.gate.is_reserved(identity)
    }

    /// Counts the connection among the guests; `false`: there are enough of them.
    pub(super) fn seat_guest(&mut self) -> bool {
        let mut counts = self.gate.counts();
        if !self.guest && counts.guests < self.gate.limits.guests {
            counts.guests += 1;
            self.guest = true;
        }
        self.guest
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        if self.guest {
            counts.guests = counts.guests.saturating_sub(1);
        }
        let Some(prefix) = self.prefix else { return };
        if let Some(count) = counts.per_prefix.get_mut(&prefix) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.per_prefix.remove(&prefix);
            }
        }
    }
}

/// One handshake's place in their count.
#[derive(Debug)]
pub(super) struct Handshaking {
    gate: Arc<Gate>,
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.handshakes = counts.handshakes.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LIMITS: Limits = Limits { connections: 100, guests: 2, handshakes: 10, retry_above: 5, per_prefix: 8 };

    fn address(a: u8, d: u8) -> IpAddr {
        Ipv4Addr::new(a, 0, 0, d).into()
    }

    fn admit(gate: &Arc<Gate>, from: IpAddr, validated: bool, open: usize) -> Option<(Seat, Handshaking)> {
        match gate.judge(from, validated, open) {
            Verdict::Admit(seat, handshaking) => Some((seat, handshaking)),
            Verdict::Retry | Verdict::Refuse => None,
        }
    }

    #[test]
    fn a_quiet_gate_admits_and_a_full_one_refuses() {
        let gate = Gate::new(LIMITS);
        assert!(matches!(gate.judge(address(10, 1), false, 0), Verdict::Admit(..)));
        assert!(matches!(gate.judge(address(10, 1), true, 100), Verdict::Refuse));
    }

    #[test]
    fn many_handshakes_demand_validation_and_then_refuse() {
        let gate = Gate::new(LIMITS);
        let mut held = Vec::new();
        for n in 0..5 {
            held.push(admit(&gate, address(n, 1), false, 0).expect("below the mark"));
        }
        assert!(matches!(gate.judge(address(99, 1), false, 0), Verdict::Retry));
        for n in 5..10 {
            held.push(admit(&gate, address(n, 1), true, 0).expect("validated"));
        }
        assert!(matches!(gate.judge(address(99, 1), true, 0), Verdict::Refuse));
        assert_eq!((gate.turned_away().asked_to_retry(), gate.turned_away().refused()), (1, 1));
        held.clear();
        assert!(matches!(gate.judge(address(99, 1), false, 0), Verdict::Admit(..)));
    }

    #[test]
    fn a_prefix_has_its_share_and_nobody_fills_it_without_validation() {
        let gate = Gate::new(LIMITS);
        let mut seats = Vec::new();
        for n in 0..4 {
            seats.push(admit(&gate, address(10, n), false, 0).expect("below half").0);
        }
        assert!(matches!(gate.judge(address(10, 9), false, 0), Verdict::Retry));
        for n in 4..8 {
            seats.push(admit(&gate, address(10, n), true, 0).expect("validated").0);
        }
        assert!(matches!(gate.judge(address(10, 9), true, 0), Verdict::Refuse));
        assert!(matches!(gate.judge(address(11, 9), false, 0), Verdict::Admit(..)));
        seats.clear();
        assert!(gate.counts().per_prefix.is_empty());
    }

    #[test]
    fn guests_have_a_cap_of_their_own() {
        let gate = Gate::new(LIMITS);
        let mut seats: Vec<_> = (0..3).map(|n| admit(&gate, address(n, 1), false, 0).expect("quiet").0).collect();
        assert!(seats[0].seat_guest() && seats[0].seat_guest() && seats[1].seat_guest());
        assert!(!seats[2].seat_guest());
        drop(seats.remove(0));
        assert!(seats[1].seat_guest());
    }

    #[test]
    fn loopback_is_not_counted_and_mapped_addresses_are_the_same() {
        assert_eq!(prefix(Ipv4Addr::LOCALHOST.into()), None);
        let plain: IpAddr = Ipv4Addr::new(192, 0, 2, 7).into();
        let mapped: IpAddr = Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped().into();
        assert_eq!(prefix(plain), prefix(mapped));
    }
}
