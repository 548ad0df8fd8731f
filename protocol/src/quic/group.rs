//! Which addresses have their caps together: a prefix, what a provider has, and each listed address by itself.

use std::net::IpAddr;

use super::gate::Limits;

/// A provider's connections and handshakes ÷ those of a prefix.
const WIDE_CONNECTIONS: usize = 4;
const WIDE_HANDSHAKES: usize = 2;

/// What a group of addresses has at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) connections: usize,
    pub(super) handshakes: usize,
}

/// Addresses that have their caps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    /// /24 of IPv4.
    V4([u8; 3]),
    /// /16 of IPv4.
    V4Wide([u8; 2]),
    /// /48 of IPv6.
    V6([u8; 6]),
    /// /32 of IPv6.
    V6Wide([u8; 4]),
    /// A listed address, which has proved itself.
    Listed(IpAddr),
}

impl Group {
    /// What it may have.
    pub(super) fn caps(self, limits: &Limits) -> Held {
        let (connections, handshakes) = match self {
            Self::V4(_) | Self::V6(_) | Self::Listed(_) => (1, 1),
            Self::V4Wide(_) | Self::V6Wide(_) => (WIDE_CONNECTIONS, WIDE_HANDSHAKES),
        };
        Held {
            connections: limits.per_prefix.saturating_mul(connections),
            handshakes: limits.handshakes_per_prefix.saturating_mul(handshakes),
        }
    }
}

/// The groups of an address: its prefix and its provider's, or what is listed; none where a test network is.
pub(super) type Groups = [Option<Group>; 2];

pub(super) fn groups(address: IpAddr, listed: bool) -> Groups {
    match address.to_canonical() {
        IpAddr::V4(v4) if matches!(v4.octets(), [127, 0, 0, _]) => [None, None],
        IpAddr::V6(v6) if v6.is_loopback() => [None, None],
        address if listed => [Some(Group::Listed(address)), None],
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [Some(Group::V4([a, b, c])), Some(Group::V4Wide([a, b]))]
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, ..] = v6.octets();
            [Some(Group::V6([a, b, c, d, e, f])), Some(Group::V6Wide([a, b, c, d]))]
        }
    }
}
