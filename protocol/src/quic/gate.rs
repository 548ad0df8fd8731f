//! Who gets in when many knock: caps on connections, on handshakes and per address prefix, places kept for addresses that
//! the network lists, and when an unvalidated address has to prove itself by QUIC Retry. Pure: it is told what knocks and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::{Group, Groups, Held, groups};
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
    /// Handshakes at a time. One costs about 1 ms of CPU: 1,024 are a second of a core. Half of them are for addresses that
    /// are listed ([`super::Endpoint::expect_from`]) and have proved themselves: whoever fills the other half keeps out no
    /// node.
    pub handshakes: usize,
    /// Handshakes at a time from which on every new address must validate itself first.
    pub retry_above: usize,
    /// Connections at a time per prefix: /24 of IPv4, /48 of IPv6; and four times as many per /16 of IPv4 or /32 of IPv6,
    /// which is what a provider has. 127.0.0.0/24 and ::1 are not counted: a whole test network is there. A listed address that has proved
    /// itself counts by itself, whatever its neighbours do. Beyond half of it, an
    /// address must validate itself, so that nobody can fill a prefix that is not his.
    pub per_prefix: usize,
    /// As [`Limits::per_prefix`], of handshakes, and twice as many per /16 or /32. A stalled one holds its place for
    /// [`super::HANDSHAKE_TIMEOUT`], so to fill the half of 512 somebody has to have addresses of 16 providers. One that goes
    /// on takes two round trips: 16 at a time are 50 a second at a round trip of 160 ms.
    pub handshakes_per_prefix: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 6_144,
            guests: 4_096,
            handshakes: 1_024,
            retry_above: 64,
            per_prefix: 256,
            handshakes_per_prefix: 16,
        }
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
    /// Where nodes and authorities are. At most what documents list: some thousand addresses of 17 bytes.
    listed: Mutex<BTreeSet<IpAddr>>,
    turned_away: Arc<TurnedAway>,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: usize,
    /// Of these, those of addresses that are not listed, or have not proved themselves.
    unlisted: usize,
    guests: usize,
    /// At most two entries per open connection, so 2 × `Limits::connections` entries of some 50 bytes.
    groups: BTreeMap<Group, Held>,
}

impl Counts {
    /// Whether any of these groups has `share` of its caps, 1 ÷ `share`.
    fn reached(&self, groups: &Groups, limits: &Limits, share: usize) -> bool {
        groups.iter().flatten().any(|group| {
            let (held, caps) = (self.groups.get(group).copied().unwrap_or_default(), group.caps(limits));
            held.connections.saturating_mul(share) >= caps.connections
                || held.handshakes.saturating_mul(share) >= caps.handshakes
        })
    }

    fn change(&mut self, groups: &Groups, change: impl Fn(&mut Held)) {
        for group in groups.iter().flatten() {
            let held = self.groups.entry(*group).or_default();
            change(held);
            if *held == Held::default() {
                self.groups.remove(group);
            }
        }
    }
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            counts: Mutex::default(),
            reserved: Mutex::default(),
            listed: Mutex::default(),
            turned_away: Arc::default(),
        })
    }

    pub(super) fn turned_away(&self) -> &Arc<TurnedAway> {
        &self.turned_away
    }

    pub(super) fn reserve(&self, identities: impl IntoIterator<Item = Identity>) {
        let identities = identities.into_iter().collect();
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = identities;
    }

    pub(super) fn expect_from(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical()).collect();
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn is_listed(&self, address: IpAddr) -> bool {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).contains(&address.to_canonical())
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
        // who has not proved where it is may be anywhere
        let listed = validated && self.is_listed(from);
        let groups = groups(from, listed);
        let mut counts = self.counts();
        if open >= limits.connections || counts.handshakes >= limits.handshakes {
            return Verdict::Refuse;
        }
        let taken = counts.unlisted.saturating_mul(2) >= limits.handshakes;
        let loaded = counts.handshakes >= limits.retry_above
            || taken
            || open.saturating_mul(4) >= limits.connections.saturating_mul(3)
            || counts.reached(&groups, &limits, 2);
        if loaded && !validated {
            return Verdict::Retry;
        }
        if counts.reached(&groups, &limits, 1) || (taken && !listed) {
            return Verdict::Refuse;
        }
        counts.handshakes += 1;
        counts.unlisted += usize::from(!listed);
        counts.change(&groups, |held| {
            held.connections += 1;
            held.handshakes += 1;
        });
        let seat = Seat { gate: self.clone(), groups, guest: false };
        Verdict::Admit(seat, Handshaking { gate: self.clone(), groups, listed })
    }
}

/// One connection's place in the counts of its groups, and of the guests if it is one.
#[derive(Debug)]
pub(super) struct Seat {
    gate: Arc<Gate>,
    groups: Groups,
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
        counts.change(&self.groups, |held| held.connections = held.connections.saturating_sub(1));
    }
}

/// One handshake's place in their count.
#[derive(Debug)]
pub(super) struct Handshaking {
    gate: Arc<Gate>,
    groups: Groups,
    listed: bool,
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.handshakes = counts.handshakes.saturating_sub(1);
        counts.unlisted = counts.unlisted.saturating_sub(usize::from(!self.listed));
        counts.change(&self.groups, |held| held.handshakes = held.handshakes.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;
