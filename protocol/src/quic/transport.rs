//! QUIC parameters and the UDP socket under them.

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, MtuDiscoveryConfig,
    NoneTokenStore, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt,
};
use rand::Rng as _;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use super::error::QuicError;
use super::protocol::{Budget, IDLE_TIMEOUT_MAX, Protocol};
use super::reset::ResetKey;
use crate::geometry::QUIC_DATAGRAM_SIZE;
use crate::types::IdentityKey;

/// Receive and send buffer of the UDP socket, in bytes. 4 MiB are 2,888 datagrams: 14 ms of a link at 100,000 packets a
/// second; more than the scheduler keeps us waiting. The kernel gives what it allows (`net.core.rmem_max`).
const SOCKET_BUFFER: usize = 4 << 20;

/// Largest UDP payload that is sent or taken, in bytes: fits an Ethernet frame with IPv6, and a packet fills two.
const DATAGRAM_MAX: u16 = QUIC_DATAGRAM_SIZE as u16;
const _: () = assert!(QUIC_DATAGRAM_SIZE == DATAGRAM_MAX as usize);

/// Connection id, in bytes: with 8, two datagrams hold a packet.
const CONNECTION_ID_SIZE: usize = 8;

/// Attempts that wait for [`Endpoint::accept`](super::Endpoint::accept), and bytes kept of what they send meanwhile:
/// 64 KiB each, 16 MiB together.
const WAITING_ATTEMPTS: usize = 1_024;
const WAITING_BYTES: u64 = 64 << 10;
const WAITING_BYTES_TOTAL: u64 = 16 << 20;

/// Connection ids that are random in every bit. quinn's own have 24 random bits, few enough to be asked through one by
/// one for the reset tokens of connections to come.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "IO shell: drawn inside QUIC, no room sees it")]
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_SIZE];
        rand::rng().fill_bytes(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_SIZE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport(budget: Budget, stream_window: u32, idle: Duration, keep_alive: Option<Duration>) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(budget.bidi.into())
        .max_concurrent_uni_streams(budget.uni.into())
        .stream_receive_window(stream_window.into())
        .receive_window(budget.receive.into())
        .send_window(budget.send.into())
        .max_idle_timeout(Some(VarInt::from_u32(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX)).into()))
        .keep_alive_interval(keep_alive)
        .mtu_discovery_config(Some(mtu))
        // a spinning bit would give every observer on the way the round trip time
        .allow_spin(false)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .enable_segmentation_offload(true);
    config
}

/// What an accepting endpoint grants before it knows the protocol: the least of all that it accepts, but for the stream
/// window, which cannot be changed later and is bounded by the connection's.
fn before_protocol(accept: &[Protocol]) -> Option<(Budget, u32)> {
    let budgets = || accept.iter().map(|protocol| protocol.accepting());
    let least = Budget {
        bidi: budgets().map(|budget| budget.bidi).min()?,
        uni: budgets().map(|budget| budget.uni).min()?,
        receive: budgets().map(|budget| budget.receive).min()?,
        send: budgets().map(|budget| budget.send).min()?,
    };
    Some((least, budgets().map(|budget| budget.receive).max()?))
}

/// Raises an accepted connection to what its protocol is granted.
pub(super) fn grant(connection: &quinn::Connection, protocol: Protocol) {
    let budget = protocol.accepting();
    connection.set_receive_window(budget.receive.into());
    connection.set_send_window(budget.send.into());
    connection.set_max_concurrent_uni_streams(budget.uni.into());
    connection.set_max_concurrent_bi_streams(budget.bidi.into());
}

/// QUIC of an accepting endpoint.
pub(super) fn accepting(tls: QuicServerConfig, accept: &[Protocol]) -> Result<ServerConfig, QuicError> {
    let (budget, stream_window) =
        before_protocol(accept).ok_or_else(|| QuicError::Setup("no protocol to accept".to_owned()))?;
    let mut tokens = ValidationTokenConfig::default();
    // a token kept from one connection to the next would link a client's connections
    tokens.sent(0);
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport(budget, stream_window, IDLE_TIMEOUT_MAX, None)))
        .validation_token_config(tokens)
        // a phone changes its address; a node does not
        .migration(accept.contains(&Protocol::Client))
        .max_incoming(WAITING_ATTEMPTS)
        .incoming_buffer_size(WAITING_BYTES)
        .incoming_buffer_size_total(WAITING_BYTES_TOTAL);
    Ok(config)
}

/// Datagrams that the acceptor of a link between nodes may take without acknowledging them, and for how long. A datagram
/// that only acknowledges costs both ends as much as one that carries half a packet: without this every packet had two of
/// them, one on each of its links.
const UNACKNOWLEDGED_MAX: u32 = 63;
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(5);

/// Congestion window that a link between nodes begins with, in bytes: 93 packets. What nodes send does not grow to fill a
/// line, it comes at the rates of the consensus; a window of ten datagrams would hold packets up until the first
/// acknowledgement, and because a sender that does not fill its window is not given a larger one, again at every burst.
const FIRST_WINDOW: u64 = 256 << 10;

/// QUIC of one dialled connection.
pub(super) fn dialling(tls: QuicClientConfig, protocol: Protocol) -> ClientConfig {
    let budget = protocol.dialling();
    let mut transport = transport(budget, budget.receive, protocol.idle_timeout(), protocol.keep_alive());
    if matches!(protocol, Protocol::Mix | Protocol::Store) {
        let mut acknowledging = AckFrequencyConfig::default();
        acknowledging.ack_eliciting_threshold(UNACKNOWLEDGED_MAX.into()).max_ack_delay(Some(ACKNOWLEDGE_WITHIN));
        let mut congestion = CubicConfig::default();
        congestion.initial_window(FIRST_WINDOW);
        transport.ack_frequency_config(Some(acknowledging)).congestion_controller_factory(Arc::new(congestion));
    }
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport)).token_store(Arc::new(NoneTokenStore));
    config
}

/// What all connections of an endpoint share. `identity`: of a node, whose resets then survive its restart.
pub(super) fn endpoint(identity: Option<&IdentityKey>, port: u16) -> Result<EndpointConfig, QuicError> {
    let mut config = EndpointConfig::default();
    if let Some(identity) = identity {
        config.reset_key(Arc::new(ResetKey::new(identity, port)));
    }
    config.cid_generator(|| Box::new(RandomIds));
    config.supported_versions(vec![1]);
    config.max_udp_payload_size(DATAGRAM_MAX).map_err(|error| QuicError::Setup(error.to_string()))?;
    Ok(config)
}

/// A UDP socket with large buffers; an IPv6 one takes IPv4 as well where the system allows it.
pub(super) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if address.is_ipv6() {
        // some systems have no dual-stack sockets; IPv6 alone still works there
        let _ = socket.set_only_v6(false);
    }
    // less than asked for costs throughput under bursts, nothing else
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether this machine has any way to an address. Nothing is sent. Where a peer has addresses of both families and this
/// machine one, the other one need not be waited for.
pub(super) fn has_route(to: SocketAddr) -> bool {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let error = match UdpSocket::bind(any).and_then(|socket| socket.connect(to)) {
        Ok(()) => return true,
        Err(error) => error,
    };
    // whatever else is wrong is found by the attempt itself
    !matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_machine_is_reached() {
        // what is not reached is seen in a network namespace without a way out (suite `ipv6`)
        assert!(has_route((Ipv4Addr::LOCALHOST, 9).into()));
    }

    #[test]
    fn nothing_is_granted_before_the_protocol_is_known_that_one_of_them_would_not() {
        let (budget, stream_window) = before_protocol(&[Protocol::Mix, Protocol::Client]).unwrap();
        assert_eq!((budget.bidi, budget.uni), (0, 1));
        assert_eq!(budget.receive, Protocol::Client.accepting().receive);
        assert_eq!(stream_window, Protocol::Mix.accepting().receive);
        let (budget, _) = before_protocol(&[Protocol::Mix, Protocol::Directory]).unwrap();
        assert_eq!((budget.bidi, budget.uni), (0, 0));
        assert!(before_protocol(&[]).is_none());
    }
}
