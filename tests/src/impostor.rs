//! A node of the test network whose key was taken: the test reads the network's documents and speaks with its identity.

use crate::testnet::{Party, Testnet};
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::{Identity, IdentityKey, UnixMillis};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock.
///
/// # Panics
/// Before 1970.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    UnixMillis(u64::try_from(since.as_millis()).expect("before the year 584 million"))
}

/// A party's identity key, out of its folder.
///
/// # Panics
/// When it is not there.
pub fn key_of(party: &Party) -> IdentityKey {
    let text = std::fs::read_to_string(party.dir.join("identity.key")).expect("identity.key");
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).expect("hex seed");
    IdentityKey::from_seed(&seed)
}

/// A party's identity.
///
/// # Panics
/// When it is no node's.
pub fn identity_of(party: &Party) -> Identity {
    party.identity.as_deref().expect("a node's identity").parse().expect("hex")
}

/// The network file of a test network.
///
/// # Panics
/// When it cannot be read.
pub fn network_of(net: &Testnet) -> NetworkFile {
    let text = std::fs::read_to_string(&net.ready.network).expect("network file");
    NetworkFile::parse(&text).expect("network file")
}

/// The newest document, from an authority.
///
/// # Panics
/// When there is none in force.
pub async fn consensus(net: &Testnet) -> VerifiedConsensus {
    let network = network_of(net);
    let hint = network.hints.authorities.first().expect("an authority");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::dialler(None, any).expect("endpoint");
    let link = endpoint.connect(hint.address, &hint.identity, Protocol::Directory).await.expect("authority answers");
    let question = DirectoryQuestion::Newest { have: None }.to_bytes();
    let answer = ask(&link, &question, ANSWER_SIZE_MAX).await.expect("an answer");
    let DirectoryAnswer::Document(bytes) = DirectoryAnswer::from_bytes(&answer).expect("CBOR") else {
        panic!("a document exists");
    };
    UnverifiedConsensus::parse(&bytes)
        .expect("well-formed")
        .verify(&network.trust_anchor(), now(), None)
        .expect("certified and current")
}

/// A port that speaks with the key of `party`, which does not run any more, and a mix link from it to `to`.
///
/// # Panics
/// When the other side does not take it.
pub async fn link_as(party: &Party, to: &Party) -> (Endpoint, Link) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::bind(any, &key_of(party), &[Protocol::Mix]).expect("endpoint");
    let address = to.addr.parse().expect("an address");
    let link = endpoint.connect(address, &identity_of(to), Protocol::Mix).await.expect("the topology allows it");
    (endpoint, link)
}
