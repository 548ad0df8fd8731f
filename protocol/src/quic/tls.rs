//! TLS 1.3 with one key exchange and raw Ed25519 public keys on both sides.

use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::QuicError;
use super::protocol::Protocol;
use crate::types::{Identity, IdentityKey};

/// Name that TLS wants for a dialled peer. It is never sent: server names are off, keys are the names.
pub(super) const SERVER_NAME: &str = "shoal.invalid";

/// SubjectPublicKeyInfo of Ed25519 in DER (RFC 8410 §4), before the 32 bytes of the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The identity in a raw public key, if it has the one form we send.
fn identity_of(key: &[u8]) -> Option<Identity> {
    let raw = key.strip_prefix(&SPKI_PREFIX)?;
    Some(Identity::from_bytes(raw.try_into().ok()?))
}

/// The identity a peer proved in the handshake; `None` if it showed no key.
pub(super) fn peer_identity(connection: &quinn::Connection) -> Option<Identity> {
    let keys = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    identity_of(keys.first()?)
}

/// The protocol that a handshake agreed on.
pub(super) fn agreed_protocol(connection: &quinn::Connection) -> Option<Protocol> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Protocol::from_alpn(data.protocol.as_deref()?)
}

/// X25519MLKEM768 and nothing else; the cipher suites of TLS 1.3.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    Arc::new(provider)
}

/// Own identity in the form TLS signs with.
#[derive(Clone)]
pub(super) struct TlsKey(Arc<CertifiedKey>);

impl TlsKey {
    pub(super) fn new(identity: &IdentityKey) -> Result<Self, QuicError> {
        // the document is zeroized on drop, and the key is read from it in place
        let document = identity.signing_key().to_pkcs8_der().map_err(|error| QuicError::Setup(error.to_string()))?;
        let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(document.as_bytes()))
            .map_err(|error| QuicError::Setup(error.to_string()))?;
        let mut public = SPKI_PREFIX.to_vec();
        public.extend_from_slice(identity.identity().as_bytes());
        Ok(Self(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key))))
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsKey(redacted)")
    }
}

/// Shows the key, or none.
#[derive(Debug)]
struct Shown(Option<TlsKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().map(|key| key.0.clone())
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().map(|key| key.0.clone())
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

/// What both directions check alike: an Ed25519 key in its one form, and its signature over the handshake.
#[derive(Debug)]
struct RawKeys(Arc<CryptoProvider>);

impl RawKeys {
    fn identity(&self, key: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<Identity, Error> {
        if !chain.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        identity_of(key).ok_or_else(|| CertificateError::BadEncoding.into())
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0.signature_verification_algorithms)
    }
}

/// The dialler's check: exactly the pinned identity.
#[derive(Debug)]
struct Pinned {
    keys: RawKeys,
    expected: Identity,
    /// Set when the peer showed another identity: the alert alone would not tell.
    mismatch: Arc<AtomicBool>,
}

/// The accepting side's check: any identity, or none. Whether it may speak is decided after the handshake.
#[derive(Debug)]
struct Anyone(RawKeys);

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("only TLS 1.3 is spoken".to_owned()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.keys.identity(key, chain)? == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            self.mismatch.store(true, Ordering::Release);
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.keys.signature(message, key, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Anyone {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.identity(key, chain)?;
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signature(message, key, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn setup(error: impl fmt::Display) -> QuicError {
    QuicError::Setup(error.to_string())
}

/// TLS of an accepting endpoint.
pub(super) fn accepting(key: TlsKey, accept: &[Protocol]) -> Result<QuicServerConfig, QuicError> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(Arc::new(Anyone(RawKeys(provider))))
        .with_cert_resolver(Arc::new(Shown(Some(key))));
    config.alpn_protocols = accept.iter().map(|protocol| protocol.alpn().to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(setup)
}

/// TLS of one dialled connection, and the flag that is set when the peer shows another identity than `expected`.
pub(super) fn dialling(
    key: Option<TlsKey>,
    expected: Identity,
    protocol: Protocol,
) -> Result<(QuicClientConfig, Arc<AtomicBool>), QuicError> {
    let provider = provider();
    let mismatch = Arc::new(AtomicBool::new(false));
    let verifier = Pinned { keys: RawKeys(provider.clone()), expected, mismatch: mismatch.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Shown(key)));
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok((QuicClientConfig::try_from(config).map_err(setup)?, mismatch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_form_of_a_key_is_an_identity() {
        let mut key = SPKI_PREFIX.to_vec();
        key.extend_from_slice(&[7; 32]);
        assert_eq!(identity_of(&key), Some(Identity::from_bytes([7; 32])));
        assert_eq!(identity_of(&key[..43]), None);
        key.push(0);
        assert_eq!(identity_of(&key), None);
        key.pop();
        key[8] = 0x6e; // X25519
        assert_eq!(identity_of(&key), None);
    }

    #[test]
    fn the_key_shown_is_the_identity() {
        let identity = IdentityKey::from_seed(&[3; 32]);
        let key = TlsKey::new(&identity).unwrap();
        assert_eq!(identity_of(&key.0.cert[0]), Some(identity.identity()));
        assert_eq!(key.0.key.public_key().unwrap().as_ref(), key.0.cert[0].as_ref());
    }

    #[test]
    fn there_is_one_key_exchange() {
        let provider = provider();
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::X25519MLKEM768]);
    }
}
