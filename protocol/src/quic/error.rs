//! Why a link did not come about or ended, by what the caller can do about it.

use quinn::{ConnectError, ConnectionError, TransportErrorCode, VarInt};
use rustls::{AlertDescription, PeerIncompatible};

use super::protocol::Protocol;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The UDP socket could not be opened.
    #[error("cannot open the UDP socket: {0}")]
    Bind(#[from] std::io::Error),
    /// An endpoint was asked for that cannot exist, such as one that accepts nothing.
    #[error("cannot set up the endpoint: {0}")]
    Setup(String),
    /// The address cannot be dialled from this endpoint (address family, port 0, endpoint closed).
    #[error("the address cannot be reached from this endpoint")]
    Unreachable,
    /// Nothing answered in time.
    #[error("no answer in time")]
    TimedOut,
    /// The peer holds another identity key than the one dialled.
    #[error("the peer has another identity than expected")]
    WrongIdentity,
    /// The peer does not share our one key exchange: it is classical only.
    #[error("the peer offers no post-quantum key exchange (X25519MLKEM768)")]
    NoCommonKeyExchange,
    /// The two sides share no protocol: a peer of another role or version.
    #[error("the peer does not speak this protocol")]
    ProtocolRefused,
    /// The protocol wants an identity key of the dialler, and there is none.
    #[error("{0} needs an identity key of the dialler")]
    IdentityNeeded(Protocol),
    /// The protocol forbids the identity key that the dialler showed.
    #[error("{0} is spoken without an identity key")]
    IdentityForbidden(Protocol),
    /// The accepting side, peer or ourselves, takes no more connections for now.
    #[error("no more connections are taken for now")]
    Busy,
    /// The handshake failed in another way: a peer that is no party of this network, or a broken one.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// The connection ended during the handshake: closed by either side, or reset.
    #[error("the connection was closed")]
    Closed,
}

/// Why one side closed a link; the application error code on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing more to say.
    Done,
    /// The consensus lists no such peer for this protocol.
    NotAdmitted,
    /// A frame or message of a form that the protocol does not have.
    Malformed,
    /// Too many connections or too fast.
    Busy,
    /// The closing side is shutting down; try again or go elsewhere.
    Leaving,
}

impl CloseReason {
    /// Every reason with its code.
    const CODES: [(Self, u32); 5] =
        [(Self::Done, 0), (Self::NotAdmitted, 1), (Self::Malformed, 2), (Self::Busy, 3), (Self::Leaving, 4)];

    pub(super) fn code(self) -> VarInt {
        let code = Self::CODES.iter().find(|(reason, _)| *reason == self).map_or(0, |(_, code)| *code);
        VarInt::from_u32(code)
    }

    /// The reason that the peer gave, if the connection ended that way and the reason is known.
    pub fn of_peer(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ApplicationClosed(close) = error else { return None };
        let code = u64::from(close.error_code);
        Self::CODES.iter().find(|(_, known)| u64::from(*known) == code).map(|(reason, _)| *reason)
    }
}

impl From<ConnectError> for QuicError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::EndpointStopping | ConnectError::InvalidRemoteAddress(_) | ConnectError::CidsExhausted => {
                Self::Unreachable
            }
            ConnectError::InvalidServerName(_)
            | ConnectError::NoDefaultClientConfig
            | ConnectError::UnsupportedVersion => Self::Setup(error.to_string()),
        }
    }
}

impl From<ConnectionError> for QuicError {
    /// Sorts what ended a handshake. Alerts are told by their code on both sides; what our own TLS found is told by
    /// rustls' own words for it, because several causes share an alert.
    fn from(error: ConnectionError) -> Self {
        let alert = |alert: AlertDescription| TransportErrorCode::crypto(alert.into());
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::TransportError(ours) => {
                if ours.code == alert(AlertDescription::NoApplicationProtocol) {
                    Self::ProtocolRefused
                } else if ours.reason == no_common_group() {
                    Self::NoCommonKeyExchange
                } else {
                    Self::Tls(ours.to_string())
                }
            }
            ConnectionError::ConnectionClosed(theirs) => {
                if theirs.error_code == alert(AlertDescription::NoApplicationProtocol) {
                    Self::ProtocolRefused
                } else if theirs.error_code == alert(AlertDescription::HandshakeFailure) {
                    // "no acceptable parameters": all that we fix is the group; we offer every TLS 1.3 cipher suite
                    Self::NoCommonKeyExchange
                } else if theirs.error_code == TransportErrorCode::CONNECTION_REFUSED {
                    Self::Busy
                } else if u64::from(theirs.error_code) & !0xff == 0x100 {
                    // the code only: the text is the peer's and does not belong into our log
                    Self::Tls(format!("alert {} from the peer", u64::from(theirs.error_code) & 0xff))
                } else {
                    Self::Closed
                }
            }
            ConnectionError::VersionMismatch => Self::Tls("no common QUIC version".to_owned()),
            ConnectionError::CidsExhausted => Self::Unreachable,
            ConnectionError::ApplicationClosed(_) | ConnectionError::Reset | ConnectionError::LocallyClosed => {
                Self::Closed
            }
        }
    }
}

/// How rustls words that the peer shares none of our key exchange groups.
fn no_common_group() -> String {
    rustls::Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_reasons_have_codes_of_their_own() {
        for (index, (reason, code)) in CloseReason::CODES.into_iter().enumerate() {
            assert_eq!(reason.code(), VarInt::from_u32(code));
            assert_eq!(u32::try_from(index), Ok(code));
        }
    }
}
