//! One UDP port: accepts links, dials links.

use quinn::{Incoming, TokioRuntime};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::error::{CloseReason, QuicError};
use super::gate::{Gate, Handshaking, Limits, Seat, TurnedAway, Verdict};
use super::link::Link;
use super::protocol::{DiallerKey, Protocol};
use super::tls::{self, TlsKey};
use super::transport;
use crate::types::{Identity, IdentityKey};

/// How long [`Endpoint::connect`] tries: four transmissions of a first flight that gets no answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long [`Arrival::admit`] waits for the dialler's part of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A UDP port with an optional identity. Clones are handles of the same port.
#[derive(Clone)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    key: Option<TlsKey>,
    gate: Arc<Gate>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("identified", &self.key.is_some()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Accepts the protocols of `accept` on `listen` and dials from the same port, with the default [`Limits`]. Needs a
    /// tokio runtime.
    pub fn bind(listen: SocketAddr, identity: &IdentityKey, accept: &[Protocol]) -> Result<Self, QuicError> {
        Self::bind_with(listen, identity, accept, Limits::default())
    }

    /// As [`Endpoint::bind`], with other caps.
    pub fn bind_with(
        listen: SocketAddr,
        identity: &IdentityKey,
        accept: &[Protocol],
        limits: Limits,
    ) -> Result<Self, QuicError> {
        let key = TlsKey::new(identity)?;
        let server = transport::accepting(tls::accepting(key.clone(), accept)?, accept)?;
        Self::open(listen, Some(identity), Some(key), Some(server), limits)
    }

    /// Dials only, from `bind` (usually port 0). Without an identity it can dial what asks for none. Needs a tokio
    /// runtime.
    pub fn dialler(identity: Option<&IdentityKey>, bind: SocketAddr) -> Result<Self, QuicError> {
        let key = identity.map(TlsKey::new).transpose()?;
        Self::open(bind, None, key, None, Limits::default())
    }

    /// `reset_for`: the identity whose old connections this port can end after a restart.
    fn open(
        address: SocketAddr,
        reset_for: Option<&IdentityKey>,
        key: Option<TlsKey>,
        server: Option<quinn::ServerConfig>,
        limits: Limits,
    ) -> Result<Self, QuicError> {
        Handle::try_current().map_err(|error| QuicError::Setup(error.to_string()))?;
        let socket = transport::socket(address)?;
        let config = transport::endpoint(reset_for, socket.local_addr()?.port())?;
        let quic = quinn::Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?;
        Ok(Self { quic, key, gate: Gate::new(limits) })
    }

    /// Keeps places for these identities where anybody may come without one: they do not count as guests. Replaces those
    /// named before.
    pub fn reserve(&self, identities: impl IntoIterator<Item = Identity>) {
        self.gate.reserve(identities);
    }

    /// Keeps half of the handshakes for these addresses, once they have proved to be there, and counts each by itself, not by its
    /// prefix: where nodes and authorities are. Replaces those named before. Says nothing of who may come: that is
    /// decided by identity.
    pub fn expect_from(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.gate.expect_from(addresses);
    }

    /// Where the port is, with the number that the system chose if none was asked for.
    pub fn local_addr(&self) -> Result<SocketAddr, QuicError> {
        Ok(self.quic.local_addr()?)
    }

    /// Waits for the next attempt that the caps let through; `None` when the endpoint is closed. Under load, addresses
    /// have to validate themselves first (QUIC Retry); beyond the caps they are turned away. Cancel safe.
    pub async fn accept(&self) -> Option<Arrival> {
        loop {
            let incoming = self.quic.accept().await?;
            let from = incoming.remote_address().ip();
            match self.gate.judge(from, incoming.remote_address_validated(), self.quic.open_connections()) {
                Verdict::Admit(seat, handshaking) => return Some(Arrival { incoming, seat, handshaking }),
                // an attempt that is not validated may always be asked to retry; else it is refused by its drop
                Verdict::Retry => drop(incoming.retry()),
                Verdict::Refuse => incoming.refuse(),
            }
        }
    }

    /// Dials `to` and speaks `protocol` with the holder of the identity `expect`, and nobody else. Our own identity is
    /// shown as the protocol has it ([`Protocol::dialler_key`]). Tries for at most [`CONNECT_TIMEOUT`].
    pub async fn connect(&self, to: SocketAddr, expect: &Identity, protocol: Protocol) -> Result<Link, QuicError> {
        let key = match protocol.dialler_key() {
            DiallerKey::Required => Some(self.key.clone().ok_or(QuicError::IdentityNeeded(protocol))?),
            DiallerKey::Optional => self.key.clone(),
            DiallerKey::Forbidden => None,
        };
        if !transport::has_route(to) {
            return Err(QuicError::Unreachable);
        }
        let (tls, mismatch) = tls::dialling(key, *expect, protocol)?;
        let connecting = self.quic.connect_with(transport::dialling(tls, protocol), to, tls::SERVER_NAME)?;
        let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(_)) if mismatch.load(Ordering::Acquire) => return Err(QuicError::WrongIdentity),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(QuicError::TimedOut),
        };
        // the verifier has checked it; that its word got here intact is checked once more
        let peer = tls::peer_identity(&connection);
        if peer != Some(*expect) {
            connection.close(CloseReason::NotAdmitted.code(), b"");
            return Err(QuicError::WrongIdentity);
        }
        if tls::agreed_protocol(&connection) != Some(protocol) {
            connection.close(CloseReason::NotAdmitted.code(), b"");
            return Err(QuicError::ProtocolRefused);
        }
        Ok(Link { protocol, peer, remote: to, connection, seat: None })
    }

    /// Closes all links with [`CloseReason::Leaving`] and accepts no more.
    pub fn close(&self) {
        self.quic.close(CloseReason::Leaving.code(), b"");
    }

    /// Waits until the peers of closed links have been told, at most about three round trips. Call it after
    /// [`Endpoint::close`] and before the process ends.
    pub async fn wait_idle(&self) {
        self.quic.wait_idle().await;
    }

    /// How many attempts [`Endpoint::accept`] has not let in.
    pub fn turned_away(&self) -> Arc<TurnedAway> {
        Arc::clone(self.gate.turned_away())
    }

    /// Connections now, handshakes included.
    pub fn connections(&self) -> usize {
        self.quic.open_connections()
    }
}

/// A connection attempt that the caps let through. Dropping it refuses it.
pub struct Arrival {
    incoming: Incoming,
    seat: Seat,
    handshaking: Handshaking,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").finish_non_exhaustive()
    }
}

impl Arrival {
    /// Runs the handshake, for at most [`HANDSHAKE_TIMEOUT`]; belongs into a task of its own. The link that comes of it
    /// has proved [`Link::peer`], but not that the peer may speak [`Link::protocol`]: look it up in the consensus, and
    /// [`Link::close`] with [`CloseReason::NotAdmitted`] if not.
    pub async fn admit(self) -> Result<Link, QuicError> {
        let Self { incoming, mut seat, handshaking } = self;
        let remote = incoming.remote_address();
        let connection = timeout(HANDSHAKE_TIMEOUT, incoming.accept()?).await.map_err(|_| QuicError::TimedOut)??;
        drop(handshaking);
        let refuse = |reason: CloseReason, error| {
            connection.close(reason.code(), b"");
            Err(error)
        };
        let Some(protocol) = tls::agreed_protocol(&connection) else {
            return refuse(CloseReason::NotAdmitted, QuicError::ProtocolRefused);
        };
        let peer = tls::peer_identity(&connection);
        match (protocol.dialler_key(), peer) {
            (DiallerKey::Required, None) => {
                return refuse(CloseReason::NotAdmitted, QuicError::IdentityNeeded(protocol));
            }
            (DiallerKey::Forbidden, Some(_)) => {
                return refuse(CloseReason::NotAdmitted, QuicError::IdentityForbidden(protocol));
            }
            (DiallerKey::Optional, Some(peer)) if seat.is_reserved(&peer) => {}
            (DiallerKey::Forbidden, None) | (DiallerKey::Optional, _) => {
                if !seat.seat_guest() {
                    return refuse(CloseReason::Busy, QuicError::Busy);
                }
            }
            (DiallerKey::Required, Some(_)) => {}
        }
        transport::grant(&connection, protocol);
        Ok(Link { protocol, peer, remote, connection, seat: Some(Arc::new(seat)) })
    }
}
