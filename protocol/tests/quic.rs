//! Links over real UDP sockets on loopback: who gets in, who does not and with which error, and what frames survive.
#![cfg(feature = "quic")]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use shoal_protocol::IdentityKey;
use shoal_protocol::quic::{
    AskError, CloseReason, Endpoint, FrameError, FrameReader, FrameWriter, Limits, Link, Protocol, QUESTION_TIMEOUT,
    QuicError, ask, read_question,
};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const SIZE: usize = shoal_protocol::geometry::PACKET_SIZE;

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn key(seed: u8) -> IdentityKey {
    IdentityKey::from_seed(&[seed; 32])
}

fn node(seed: u8, accept: &[Protocol]) -> (Endpoint, SocketAddr) {
    let endpoint = Endpoint::bind(loopback(), &key(seed), accept).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

/// No test waits longer than this for something that should happen at once.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("happens in time")
}

async fn admit_one(endpoint: &Endpoint) -> Result<Link, QuicError> {
    soon(endpoint.accept()).await.expect("endpoint is open").admit().await
}

/// Both ends of a link from `from` to a new node that accepts `protocol`.
async fn pair(from: &Endpoint, protocol: Protocol) -> (Link, Link, Endpoint) {
    let (server, address) = node(1, &[protocol]);
    let expected = key(1).identity();
    let (dialled, accepted) =
        soon(async { tokio::join!(from.connect(address, &expected, protocol), admit_one(&server)) }).await;
    (dialled.unwrap(), accepted.unwrap(), server)
}

fn frame(n: u32) -> Box<[u8; SIZE]> {
    let mut frame = Box::new([u8::try_from(n % 251).unwrap(); SIZE]);
    frame[..4].copy_from_slice(&n.to_be_bytes());
    frame[SIZE - 4..].copy_from_slice(&n.to_be_bytes());
    frame
}

#[tokio::test]
async fn nodes_prove_their_identities_to_each_other() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    for protocol in [Protocol::Mix, Protocol::Store, Protocol::Directory] {
        let (dialled, accepted, _server) = pair(&dialler, protocol).await;
        assert_eq!(dialled.protocol, protocol);
        assert_eq!(accepted.protocol, protocol);
        assert_eq!(dialled.peer, Some(key(1).identity()));
        assert_eq!(accepted.peer, Some(key(2).identity()));
    }
}

#[tokio::test]
async fn a_client_shows_no_key_even_if_it_has_one() {
    for identity in [None, Some(key(2))] {
        let client = Endpoint::dialler(identity.as_ref(), loopback()).unwrap();
        let (dialled, accepted, _server) = pair(&client, Protocol::Client).await;
        assert_eq!(dialled.peer, Some(key(1).identity()));
        assert_eq!(accepted.peer, None);
    }
}

#[tokio::test]
async fn a_directory_may_be_asked_anonymously_but_a_mix_may_not_be_dialled_so() {
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let (_, accepted, _server) = pair(&client, Protocol::Directory).await;
    assert_eq!(accepted.peer, None);
    let (_mix, address) = node(3, &[Protocol::Mix]);
    let refused = client.connect(address, &key(3).identity(), Protocol::Mix).await;
    assert!(matches!(refused, Err(QuicError::IdentityNeeded(Protocol::Mix))), "{refused:?}");
}

#[tokio::test]
async fn another_identity_than_the_pinned_one_is_refused() {
    let (server, address) = node(1, &[Protocol::Mix]);
    let (dialler, _) = node(2, &[Protocol::Mix]);
    let expected = key(9).identity();
    let (dialled, accepted) =
        soon(async { tokio::join!(dialler.connect(address, &expected, Protocol::Mix), admit_one(&server)) }).await;
    assert!(matches!(dialled, Err(QuicError::WrongIdentity)), "{dialled:?}");
    assert!(accepted.is_err(), "{accepted:?}");
}

#[tokio::test]
async fn a_protocol_that_is_not_accepted_is_refused() {
    let (server, address) = node(1, &[Protocol::Mix, Protocol::Client]);
    let (dialler, _) = node(2, &[Protocol::Store]);
    let expected = key(1).identity();
    let (dialled, accepted) =
        soon(async { tokio::join!(dialler.connect(address, &expected, Protocol::Store), admit_one(&server)) }).await;
    assert!(matches!(dialled, Err(QuicError::ProtocolRefused)), "{dialled:?}");
    assert!(matches!(accepted, Err(QuicError::ProtocolRefused)), "{accepted:?}");
}

#[tokio::test]
async fn an_endpoint_that_accepts_nothing_is_no_endpoint() {
    assert!(matches!(Endpoint::bind(loopback(), &key(1), &[]), Err(QuicError::Setup(_))));
}

// ---- peers that are not ours ----------------------------------------------------------------------------------------

fn provider(groups: &[&'static dyn rustls::crypto::SupportedKxGroup]) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups.to_vec();
    Arc::new(provider)
}

#[derive(Debug)]
struct AcceptAll;
impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn foreign_key(seed: u8) -> Arc<CertifiedKey> {
    let document = SigningKey::from_bytes(&[seed; 32]).to_pkcs8_der().unwrap();
    let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(document.as_bytes())).unwrap();
    let public = CertificateDer::from(key.public_key().unwrap().to_vec());
    Arc::new(CertifiedKey::new(vec![public], key))
}

#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);
impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// A dialler with other TLS parameters than ours.
fn foreign_dialler(provider: Arc<CryptoProvider>, alpn: &[&[u8]], key: Option<u8>) -> quinn::Endpoint {
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAll));
    let mut config = builder.with_client_cert_resolver(Arc::new(Shown(key.map(foreign_key))));
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    let mut endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let config = QuicClientConfig::try_from(config).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint
}

#[tokio::test]
async fn a_classical_dialler_is_refused() {
    let (server, address) = node(1, &[Protocol::Client]);
    let foreign = foreign_dialler(provider(&[aws_lc_rs::kx_group::X25519]), &[b"shoal-client/1"], None);
    let dialling = foreign.connect(address, "shoal.invalid").unwrap();
    let (dialled, accepted) = soon(async { tokio::join!(dialling, admit_one(&server)) }).await;
    assert!(dialled.is_err());
    assert!(matches!(accepted, Err(QuicError::NoCommonKeyExchange)), "{accepted:?}");
}

#[tokio::test]
async fn a_classical_server_is_refused() {
    let mut config = rustls::ServerConfig::builder_with_provider(provider(&[aws_lc_rs::kx_group::X25519]))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(foreign_key(1))));
    config.alpn_protocols = vec![b"shoal-client/1".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    let foreign = quinn::Endpoint::server(config, loopback()).unwrap();
    let address = foreign.local_addr().unwrap();
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let expected = key(1).identity();
    let accepting = async { foreign.accept().await.unwrap().await };
    let (dialled, accepted) =
        soon(async { tokio::join!(client.connect(address, &expected, Protocol::Client), accepting) }).await;
    assert!(matches!(dialled, Err(QuicError::NoCommonKeyExchange)), "{dialled:?}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_foreign_protocol_is_refused() {
    let (server, address) = node(1, &[Protocol::Client]);
    for alpn in [&[b"shoal-client/2".as_slice()] as &[_], &[]] {
        let foreign = foreign_dialler(provider(&[aws_lc_rs::kx_group::X25519MLKEM768]), alpn, None);
        let dialling = foreign.connect(address, "shoal.invalid").unwrap();
        let (_, accepted) = soon(async { tokio::join!(dialling, admit_one(&server)) }).await;
        assert!(matches!(accepted, Err(QuicError::ProtocolRefused)), "{accepted:?}");
    }
}

#[tokio::test]
async fn a_dialler_whose_key_does_not_fit_the_protocol_is_refused() {
    let (server, address) = node(1, &[Protocol::Client, Protocol::Mix]);
    for (alpn, seed) in [(b"shoal-client/1".as_slice(), Some(2)), (b"shoal-mix/1", None)] {
        let foreign = foreign_dialler(provider(&[aws_lc_rs::kx_group::X25519MLKEM768]), &[alpn], seed);
        let dialling = foreign.connect(address, "shoal.invalid").unwrap();
        let (_dialled, accepted) = soon(async { tokio::join!(dialling, admit_one(&server)) }).await;
        match seed {
            Some(_) => assert!(matches!(accepted, Err(QuicError::IdentityForbidden(Protocol::Client))), "{accepted:?}"),
            None => assert!(matches!(accepted, Err(QuicError::IdentityNeeded(Protocol::Mix))), "{accepted:?}"),
        }
    }
}

// ---- load -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn under_load_addresses_validate_themselves_and_a_full_endpoint_says_so() {
    let limits =
        Limits { connections: 2, guests: 2, handshakes: 8, retry_above: 0, per_prefix: 8, handshakes_per_prefix: 8 };
    let server = Endpoint::bind_with(loopback(), &key(1), &[Protocol::Client], limits).unwrap();
    let address = server.local_addr().unwrap();
    let accepting = tokio::spawn({
        let server = server.clone();
        async move {
            let mut links = Vec::new();
            while let Some(arrival) = server.accept().await {
                links.push(arrival.admit().await.unwrap());
            }
            links.len()
        }
    });
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let expected = key(1).identity();
    let first = soon(client.connect(address, &expected, Protocol::Client)).await.unwrap();
    let _second = soon(client.connect(address, &expected, Protocol::Client)).await.unwrap();
    let third = soon(client.connect(address, &expected, Protocol::Client)).await;
    assert!(matches!(third, Err(QuicError::Busy)), "{third:?}");
    server.close();
    assert_eq!(soon(first.closed()).await, Some(CloseReason::Leaving));
    assert_eq!(soon(accepting).await.unwrap(), 2);
}

#[tokio::test]
async fn clients_beyond_their_cap_are_sent_away_while_nodes_still_get_in() {
    let limits = Limits { guests: 1, ..Limits::default() };
    let server = Endpoint::bind_with(loopback(), &key(1), &[Protocol::Client, Protocol::Mix], limits).unwrap();
    let address = server.local_addr().unwrap();
    let expected = key(1).identity();
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let (node, _) = node(2, &[Protocol::Mix]);
    soon(async {
        let (_first, held) = tokio::join!(client.connect(address, &expected, Protocol::Client), admit_one(&server));
        let (second, refused) = tokio::join!(client.connect(address, &expected, Protocol::Client), admit_one(&server));
        assert!(matches!(refused, Err(QuicError::Busy)), "{refused:?}");
        if let Ok(second) = second {
            assert_eq!(second.closed().await, Some(CloseReason::Busy));
        }
        let (mix, admitted) = tokio::join!(node.connect(address, &expected, Protocol::Mix), admit_one(&server));
        assert!(mix.is_ok() && admitted.is_ok());
        drop(held);
        let (_third, held) = tokio::join!(client.connect(address, &expected, Protocol::Client), admit_one(&server));
        assert!(held.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_dropped_arrival_is_refused() {
    let (server, address) = node(1, &[Protocol::Client]);
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let expected = key(1).identity();
    let dropping = async { drop(server.accept().await) };
    let (dialled, ()) =
        soon(async { tokio::join!(client.connect(address, &expected, Protocol::Client), dropping) }).await;
    assert!(matches!(dialled, Err(QuicError::Busy)), "{dialled:?}");
}

#[tokio::test]
async fn a_peer_that_is_not_admitted_learns_so() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    let (dialled, accepted, _server) = pair(&dialler, Protocol::Mix).await;
    accepted.close(CloseReason::NotAdmitted);
    assert_eq!(soon(dialled.closed()).await, Some(CloseReason::NotAdmitted));
    assert!(!dialled.is_open());
    assert_eq!(dialled.open_frames::<SIZE>().await.err(), Some(FrameError::Closed));
}

#[test]
fn a_node_that_died_tells_its_old_links_when_it_is_back() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (here, there) = (runtime(), runtime());
    let (server, address) = there.block_on(async { node(1, &[Protocol::Mix]) });
    let accepting = there.spawn({
        let server = server.clone();
        async move { admit_one(&server).await.unwrap() }
    });
    let (_dialler, link) = here.block_on(async {
        let (dialler, _) = node(2, &[Protocol::Mix]);
        let link = dialler.connect(address, &key(1).identity(), Protocol::Mix).await.unwrap();
        (dialler, link)
    });
    let accepted = there.block_on(accepting).unwrap();
    // like a killed process: nothing is sent any more, and the port is free
    there.shutdown_timeout(Duration::from_secs(5));
    drop((accepted, server));
    here.block_on(async {
        let again = Endpoint::bind(address, &key(1), &[Protocol::Mix]).unwrap();
        // anything the link sends is answered so: this frame, or a path probe that went out before it
        if let Ok(mut writer) = link.open_frames::<SIZE>().await {
            let _ = writer.write(&frame(1)).await;
        }
        soon(link.closed()).await;
        assert!(link.was_reset(), "{:?}", link.connection.close_reason());
        drop(again);
    });
}

// ---- frames ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn ten_thousand_frames_arrive_whole_and_in_order() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    let (dialled, accepted, _server) = pair(&dialler, Protocol::Mix).await;
    let writing = tokio::spawn(async move {
        let mut writer = dialled.open_frames::<SIZE>().await.unwrap();
        for first in (0..10_000).step_by(16) {
            writer.write_batch((first..10_000.min(first + 16)).map(frame).collect()).await.unwrap();
        }
        writer.finish().await.unwrap();
        dialled
    });
    soon(async {
        let mut reader: FrameReader<SIZE> = accepted.accept_frames().await.unwrap();
        let mut expected = 0;
        while let Some(first) = reader.next().await.unwrap() {
            let mut got = Some(first);
            while let Some(one) = got {
                assert_eq!(one, frame(expected));
                expected += 1;
                got = reader.ready();
            }
        }
        assert_eq!(expected, 10_000);
        assert_eq!(reader.next().await, Ok(None));
    })
    .await;
    writing.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_found_out() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    for surplus in [1, SIZE - 1] {
        let (dialled, accepted, _server) = pair(&dialler, Protocol::Mix).await;
        let mut stream = dialled.open_uni().await.unwrap();
        stream.write_all(&vec![7; 2 * SIZE + surplus]).await.unwrap();
        stream.finish().unwrap();
        let mut reader: FrameReader<SIZE> = soon(accepted.accept_frames()).await.unwrap();
        assert!(soon(reader.next()).await.unwrap().is_some());
        assert!(soon(reader.next()).await.unwrap().is_some());
        assert_eq!(soon(reader.next()).await, Err(FrameError::WrongLength));
        assert_eq!(soon(reader.next()).await, Err(FrameError::WrongLength));
    }
}

#[tokio::test]
async fn a_lost_link_ends_reading_and_writing() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    let (dialled, accepted, _server) = pair(&dialler, Protocol::Mix).await;
    let mut writer: FrameWriter<SIZE> = dialled.open_frames().await.unwrap();
    writer.write(&frame(0)).await.unwrap();
    let mut reader: FrameReader<SIZE> = soon(accepted.accept_frames()).await.unwrap();
    assert_eq!(soon(reader.next()).await.unwrap(), Some(frame(0)));
    accepted.close(CloseReason::Done);
    assert_eq!(soon(reader.next()).await, Err(FrameError::Closed));
    soon(dialled.closed()).await;
    assert_eq!(writer.write(&frame(1)).await, Err(FrameError::Closed));
}

#[tokio::test]
async fn a_cancelled_write_tears_no_frame() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    let (dialled, accepted, _server) = pair(&dialler, Protocol::Mix).await;
    let mut writer: FrameWriter<SIZE> = dialled.open_frames().await.unwrap();
    // far more than the windows hold while nobody reads: this write cannot end
    let many: Vec<_> = (0..6_000).map(frame).collect();
    let cancelled = tokio::time::timeout(Duration::from_millis(300), writer.write_batch(many)).await;
    assert!(cancelled.is_err());
    let writing = tokio::spawn(async move {
        writer.write(&frame(6_000)).await.unwrap();
        writer.finish().await.unwrap();
        dialled
    });
    soon(async {
        let mut reader: FrameReader<SIZE> = accepted.accept_frames().await.unwrap();
        for n in 0..=6_000 {
            assert_eq!(reader.next().await.unwrap(), Some(frame(n)));
        }
        assert_eq!(reader.next().await, Ok(None));
    })
    .await;
    writing.await.unwrap();
}

#[tokio::test]
async fn a_gateway_pushes_documents_beside_packets() {
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let (dialled, accepted, _server) = pair(&client, Protocol::Client).await;
    let document = vec![5; 700_000];
    let pushing = {
        let document = document.clone();
        tokio::spawn(async move {
            let mut push = accepted.open_uni().await.unwrap();
            push.write_all(&document).await.unwrap();
            push.finish().unwrap();
            let mut packets = accepted.open_frames::<SIZE>().await.unwrap();
            packets.write(&frame(3)).await.unwrap();
            accepted
        })
    };
    let mut push = soon(dialled.accept_uni()).await.unwrap();
    assert_eq!(soon(push.read_to_end(1 << 20)).await.unwrap(), document);
    let mut packets: FrameReader<SIZE> = soon(dialled.accept_frames()).await.unwrap();
    assert_eq!(soon(packets.next()).await.unwrap(), Some(frame(3)));
    soon(pushing).await.unwrap();
}

// ---- questions ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn questions_are_answered_within_their_limits() {
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let (dialled, accepted, _server) = pair(&client, Protocol::Directory).await;
    let answering = tokio::spawn(async move {
        let mut refused = 0;
        loop {
            match read_question(&accepted, 100, QUESTION_TIMEOUT).await {
                Ok(Some((question, answerer))) if question == b"silence" => drop(answerer),
                Ok(Some((question, answerer))) => {
                    let size = usize::from(question[0]) * 1_000;
                    let _ = answerer.answer(vec![question[0]; size]).await;
                }
                Ok(None) => return refused,
                Err(AskError::TooLarge) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    });
    soon(async {
        assert_eq!(ask(&dialled, &[3], 10_000).await.unwrap(), vec![3; 3_000]);
        assert_eq!(ask(&dialled, &[0], 10_000).await.unwrap(), Vec::<u8>::new());
        assert_eq!(ask(&dialled, &[200], 10_000).await, Err(AskError::TooLarge));
        assert_eq!(ask(&dialled, &[1; 101], 10_000).await, Err(AskError::Closed));
        assert_eq!(ask(&dialled, b"silence", 10_000).await, Err(AskError::Closed));
        let many = (1..=20).map(|n| {
            let link = dialled.clone();
            tokio::spawn(async move { ask(&link, &[n], 100_000).await.unwrap().len() })
        });
        for (index, answer) in many.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), (index + 1) * 1_000);
        }
    })
    .await;
    dialled.close(CloseReason::Done);
    assert_eq!(soon(answering).await.unwrap(), 1);
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_not_waited_for() {
    let client = Endpoint::dialler(None, loopback()).unwrap();
    let (dialled, accepted, _server) = pair(&client, Protocol::Directory).await;
    // the asker's side takes 2 MiB unread: two answers are in its memory, the third stays with us
    let mut unread = Vec::new();
    for _ in 0..3 {
        let (mut send, receive) = soon(dialled.connection.open_bi()).await.unwrap();
        send.write_all(&[1]).await.unwrap();
        send.finish().unwrap();
        unread.push(receive);
    }
    let mut sent = Vec::new();
    for _ in 0..3 {
        let (_, answerer) = soon(read_question(&accepted, 100, QUESTION_TIMEOUT)).await.unwrap().unwrap();
        sent.push(soon(answerer.answer_within(vec![7; 1 << 20], Duration::from_secs(2))).await);
    }
    assert_eq!(sent, [Ok(()), Ok(()), Err(AskError::TimedOut)]);
    // the third was taken back: no half answer looks whole
    let mut whole = 0;
    for mut receive in unread {
        whole += usize::from(soon(receive.read_to_end(1 << 20)).await.is_ok());
    }
    assert_eq!(whole, 2);
    assert!(dialled.is_open());
}

#[tokio::test]
async fn nothing_but_the_streams_of_the_protocol_can_be_opened() {
    let (dialler, _) = node(2, &[Protocol::Mix]);
    let (dialled, accepted, _server) = pair(&dialler, Protocol::Mix).await;
    let mut first: FrameWriter<SIZE> = soon(dialled.open_frames()).await.unwrap();
    first.write(&frame(0)).await.unwrap();
    let mut reader: FrameReader<SIZE> = soon(accepted.accept_frames()).await.unwrap();
    assert!(soon(reader.next()).await.unwrap().is_some());
    // the peer allows one stream: a second stays closed, and so does every other kind and direction
    let wait = Duration::from_millis(100);
    assert!(tokio::time::timeout(wait, dialled.open_uni()).await.is_err());
    assert!(tokio::time::timeout(wait, dialled.connection.open_bi()).await.is_err());
    assert!(tokio::time::timeout(wait, accepted.open_uni()).await.is_err());
    assert_eq!(dialled.connection.max_datagram_size(), None);
}
