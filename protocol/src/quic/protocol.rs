//! The four protocols of a node's UDP port, and what each may cost its receiver.

use std::fmt;
use std::time::Duration;

/// What is spoken on a link; one ALPN each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Packets from node to node, one way: from the dialler.
    Mix,
    /// A client and its gateway: packets both ways, consensus documents to the client.
    Client,
    /// Courier and replica: constant-rate frames, one way: from the dialler.
    Store,
    /// Questions to an authority and their answers.
    Directory,
}

/// Whether the dialler of a protocol shows an identity key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiallerKey {
    /// Always: nodes among themselves.
    Required,
    /// If it has one: whoever asks a directory.
    Optional,
    /// Never: a client shows no lasting key, not even by mistake.
    Forbidden,
}

/// What one side of a link lets its peer do, in streams and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Bidirectional streams the peer may have open.
    pub(super) bidi: u32,
    /// Unidirectional streams the peer may have open.
    pub(super) uni: u32,
    /// Bytes the peer may send before they are read: the most that a silent reader makes us hold.
    pub(super) receive: u32,
    /// Bytes of ours that may wait for the peer's acknowledgement.
    pub(super) send: u32,
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::Mix, Self::Client, Self::Store, Self::Directory];

    /// The ALPN identifier.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Mix => b"shoal-mix/1",
            Self::Client => b"shoal-client/1",
            Self::Store => b"shoal-store/1",
            Self::Directory => b"shoal-dir/1",
        }
    }

    /// The protocol of an ALPN identifier.
    pub fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.alpn() == alpn)
    }

    /// Whether the dialler shows an identity key.
    pub const fn dialler_key(self) -> DiallerKey {
        match self {
            Self::Mix | Self::Store => DiallerKey::Required,
            Self::Directory => DiallerKey::Optional,
            Self::Client => DiallerKey::Forbidden,
        }
    }

    /// What the accepting side grants.
    ///
    /// - Mix: 4 MiB are 1,489 packets: 14,890 packets a second at a round trip of 100 ms, on each link. Only nodes that
    ///   the consensus lists get this far; 1,000 of them that all lie in wait could make us hold 4 GiB, but a reader
    ///   never waits: it takes a packet and drops it if the node is full.
    /// - Client: one question at a time, for the changes of the authorities; 256 KiB are 93 packets, more than the 64 that a client's token bucket lets through at once. To the
    ///   client 512 KiB: a consensus of 1,000 nodes (400 KB) and 40 packets. 1,024 clients that acknowledge nothing
    ///   could hold 512 MiB, for one idle timeout.
    /// - Store: 1 MiB are 491 frames, more than a second of the link's rate (400/s).
    /// - Directory: eight questions of 16 KiB are 128 KiB, and room for flow control to be generous; an answer is at
    ///   most 1 MiB.
    pub(super) const fn accepting(self) -> Budget {
        match self {
            Self::Mix => Budget { bidi: 0, uni: 1, receive: 4 * MIB, send: 64 * KIB },
            Self::Client => Budget { bidi: 1, uni: 1, receive: 256 * KIB, send: 512 * KIB },
            Self::Store => Budget { bidi: 0, uni: 1, receive: MIB, send: 64 * KIB },
            Self::Directory => Budget { bidi: 8, uni: 0, receive: 256 * KIB, send: MIB },
        }
    }

    /// What the dialling side grants: the mirror of [`Protocol::accepting`].
    ///
    /// A client takes four streams: one of packets, and pushed documents, of which a slow one may still be arriving
    /// when the next begins; 2 MiB hold the largest document (1 MiB) and packets beside it.
    pub(super) const fn dialling(self) -> Budget {
        match self {
            Self::Mix => Budget { bidi: 0, uni: 0, receive: 64 * KIB, send: 4 * MIB },
            Self::Client => Budget { bidi: 0, uni: 4, receive: 2 * MIB, send: 256 * KIB },
            Self::Store => Budget { bidi: 0, uni: 0, receive: 64 * KIB, send: MIB },
            Self::Directory => Budget { bidi: 0, uni: 0, receive: 2 * MIB, send: 256 * KIB },
        }
    }

    /// Silence after which a link is given up. Nodes notice a dead neighbour within an epoch of a test network; a phone
    /// may lose its network for a moment.
    pub(super) const fn idle_timeout(self) -> Duration {
        match self {
            Self::Mix | Self::Store => Duration::from_secs(12),
            Self::Client => IDLE_TIMEOUT_MAX,
            Self::Directory => Duration::from_secs(15),
        }
    }

    /// Silence after which the dialler sends a keep-alive; `None`: the link may end. It depends on nothing but the
    /// times of datagrams that an observer has seen. A client's costs 70 bytes per 10 s, 18 MB a month.
    pub(super) const fn keep_alive(self) -> Option<Duration> {
        match self {
            Self::Mix | Self::Store => Some(Duration::from_secs(4)),
            Self::Client => Some(Duration::from_secs(10)),
            Self::Directory => None,
        }
    }
}

/// Longest [`Protocol::idle_timeout`]: what an accepting side offers before it knows the protocol. The shorter of both
/// sides' values counts.
pub(super) const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(30);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mix => "shoal-mix/1",
            Self::Client => "shoal-client/1",
            Self::Store => "shoal-store/1",
            Self::Directory => "shoal-dir/1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alpn_names_its_protocol() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_alpn(protocol.alpn()), Some(protocol));
            assert_eq!(protocol.to_string().as_bytes(), protocol.alpn());
        }
        assert_eq!(Protocol::from_alpn(b"shoal-mix/2"), None);
    }

    #[test]
    fn keep_alives_come_at_least_twice_before_the_link_is_given_up() {
        for protocol in Protocol::ALL {
            if let Some(every) = protocol.keep_alive() {
                assert!(every * 2 < protocol.idle_timeout(), "{protocol}");
            }
            assert!(protocol.idle_timeout() <= IDLE_TIMEOUT_MAX);
        }
    }
}
