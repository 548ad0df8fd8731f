//! Packets: building, opening, forwarding. The only room that names the crate `sphinx-packet`.
//!
//! A node opens a packet in two steps, because the replay tag must be inserted between them (design: node side, in this
//! order and no other): [`open_header`] checks alpha, derives the shared secret and checks the header's MAC;
//! [`OpenHeader::finish`] takes one layer off the payload and checks the version. Danezis & Goldberg, "Sphinx" (2009);
//! the payload layer is LIONESS.

use crate::geometry::{HEADER_SIZE, HOPS, PACKET_SIZE, PAYLOAD_SIZE, PLAINTEXT_SIZE, SURB_IDENTIFIER_SIZE};
use crate::{X25519Public, X25519Secret};
use rand::CryptoRng;
use sphinx_packet::header::SphinxHeader;
use sphinx_packet::header::delays::Delay;
use sphinx_packet::header::shared_secret::ExpandedSharedSecret;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::payload::Payload as RawPayload;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::version::{SINGLE_SEED_SURB_VERSION, Version};
use sphinx_packet::{ProcessedPacketData, SphinxPacket};
use std::time::Duration;
use x25519_dalek::{PublicKey, StaticSecret};

/// The one version of Sphinx packets. A node drops every other: a second accepted version would let a sender split the
/// clients into two groups.
pub(crate) const VERSION: Version = SINGLE_SEED_SURB_VERSION;

/// Bytes of another length than [`PACKET_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet has {PACKET_SIZE} bytes, these are {0}")]
pub struct WrongLength(pub usize);

/// One packet: exactly [`PACKET_SIZE`] bytes, about which nothing else is known yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet(Box<[u8; PACKET_SIZE]>);

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packet(…)")
    }
}

impl Packet {
    /// Takes a slice of exactly the right length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, WrongLength> {
        let exact: [u8; PACKET_SIZE] = bytes.try_into().map_err(|_| WrongLength(bytes.len()))?;
        Ok(Self(Box::new(exact)))
    }
    /// Takes an owned array.
    pub fn from_array(bytes: Box<[u8; PACKET_SIZE]>) -> Self {
        Self(bytes)
    }
    /// The bytes as they go over a link.
    pub fn as_bytes(&self) -> &[u8; PACKET_SIZE] {
        &self.0
    }
    /// The bytes, without a copy.
    pub fn into_array(self) -> Box<[u8; PACKET_SIZE]> {
        self.0
    }
    /// The bytes as an owned slice, without a copy, as a link's batch takes them.
    pub fn into_boxed_slice(self) -> Box<[u8]> {
        self.0
    }

    fn from_crate(packet: &SphinxPacket) -> Result<Self, WrongLength> {
        Self::from_slice(&packet.to_bytes())
    }
}

/// One hop of a route as its sender chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Identity of the node, or a client's session address.
    pub address: [u8; 32],
    /// Mix key of the node for the packet's epoch, or a client's session key.
    pub key: X25519Public,
    /// How long the packet waits there; zero at the last hop.
    pub delay: Duration,
}

/// Why the header of a packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Alpha is not canonical or of low order.
    #[error("alpha is not a canonical point of large order")]
    BadAlpha,
    /// The MAC is not of this key: another key's packet, or a changed header.
    #[error("header MAC does not verify under this key")]
    BadMac,
}

/// Why a packet with a good header was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The routing information or the payload could not be processed.
    #[error("routing information or payload is malformed")]
    Malformed,
    /// A version other than 260.
    #[error("version is not 260")]
    WrongVersion,
}

/// A packet whose header is authentic under one of the node's keys, before its replay tag was checked.
pub struct OpenHeader {
    packet: SphinxPacket,
    /// In a box of its own, which is erased when it is dropped: where a header is moved, no copy is left behind.
    secret: Box<ExpandedSharedSecret>,
}

impl std::fmt::Debug for OpenHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenHeader(redacted)")
    }
}

/// Checks alpha, derives the shared secret under `key` and checks the header's MAC. A node tries its current, its grace
/// and its next key in turn; alpha is judged before any of them.
pub fn open_header(packet: &Packet, key: &X25519Secret) -> Result<OpenHeader, HeaderError> {
    let bytes = packet.as_bytes();
    let (header_bytes, payload_bytes) = bytes.split_at(HEADER_SIZE);
    let mut alpha = [0; 32];
    alpha.copy_from_slice(bytes.split_at(32).0);
    X25519Public::parse(alpha).map_err(|_| HeaderError::BadAlpha)?;
    let header = SphinxHeader::from_bytes(header_bytes).map_err(|_| HeaderError::BadMac)?;
    let secret = Box::new(header.compute_expanded_shared_secret(key.inner()));
    header.ensure_header_integrity(&secret).map_err(|_| HeaderError::BadMac)?;
    let payload = RawPayload::from_bytes(payload_bytes).map_err(|_| HeaderError::BadMac)?;
    Ok(OpenHeader { packet: SphinxPacket { header, payload }, secret })
}

/// What a node does with a packet after all checks that need no topology.
#[derive(Debug)]
pub enum Unwrapped {
    /// To be sent on after a delay.
    Forward {
        /// Identity of a node or a client's session address; to be looked up, never a socket address.
        next: [u8; 32],
        /// The delay the sender sampled for this hop; to be held against the cap.
        delay: Duration,
        /// What to send.
        packet: Packet,
    },
    /// This node was the last hop.
    Final {
        /// What the sender wrote beside the destination; a SURB's creator finds its recovery material by it.
        identifier: [u8; SURB_IDENTIFIER_SIZE],
        /// The payload with one layer taken off.
        payload: Payload,
    },
}

impl OpenHeader {
    /// The 32-byte replay tag, a function of the shared secret: equal for every encoding of alpha that gives the same
    /// secret.
    pub fn replay_tag(&self) -> [u8; 32] {
        *self.secret.replay_tag()
    }

    /// Takes this hop's layer off the payload and requires version 260.
    pub fn finish(self) -> Result<Unwrapped, UnwrapError> {
        let processed = self.packet.process_with_expanded_secret(&self.secret).map_err(|_| UnwrapError::Malformed)?;
        if processed.version != VERSION {
            return Err(UnwrapError::WrongVersion);
        }
        match processed.data {
            ProcessedPacketData::ForwardHop { next_hop_packet, next_hop_address, delay } => Ok(Unwrapped::Forward {
                next: next_hop_address.to_bytes(),
                delay: delay.to_duration(),
                packet: Packet::from_crate(&next_hop_packet).map_err(|_| UnwrapError::Malformed)?,
            }),
            ProcessedPacketData::FinalHop { identifier, payload, .. } => {
                Ok(Unwrapped::Final { identifier, payload: Payload(payload) })
            }
        }
    }
}

/// The payload at the last hop.
#[derive(Debug)]
pub struct Payload(pub(crate) RawPayload);

/// The payload is not what its sender wrote: some hop changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("payload was changed on its way")]
pub struct Tampered;

impl Payload {
    /// The sender's plaintext, if the payload arrived intact. The caller must not let the difference show: at a store an
    /// answer to a changed packet looks like silence (see the threat model on tagging).
    pub fn open(self) -> Result<Vec<u8>, Tampered> {
        self.0.recover_plaintext().map_err(|_| Tampered)
    }
}

/// Why a packet could not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// No hop, or more than five.
    #[error("a route has 1 to {HOPS} hops, this one {0}")]
    BadRoute(usize),
    /// The plaintext does not fit.
    #[error("plaintext of {0} bytes does not fit into {PLAINTEXT_SIZE}")]
    TooLong(usize),
    /// A hop's key or the packet could not be processed by the Sphinx crate.
    #[error("the Sphinx crate refused the route or the payload")]
    Refused,
}

/// Hops and delays as the crate takes them.
pub(crate) fn crate_route(hops: &[Hop]) -> (Vec<Node>, Vec<Delay>) {
    hops.iter()
        .map(|hop| {
            let node = Node::new(NodeAddressBytes::from_bytes(hop.address), PublicKey::from(*hop.key.as_bytes()));
            (node, Delay::new_from_nanos(u64::try_from(hop.delay.as_nanos()).unwrap_or(u64::MAX)))
        })
        .unzip()
}

/// A fresh initial secret of a header.
pub(crate) fn initial_secret(rng: &mut impl CryptoRng) -> StaticSecret {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *bytes);
    StaticSecret::from(*bytes)
}

/// Builds a packet that carries `plaintext` (at most [`PLAINTEXT_SIZE`] bytes) along `hops`. `identifier` is read by
/// the last hop only. The header's filler comes from the crate's own generator, so the bytes are not reproducible from
/// `rng`.
pub fn build(
    plaintext: &[u8],
    hops: &[Hop],
    identifier: [u8; SURB_IDENTIFIER_SIZE],
    rng: &mut impl CryptoRng,
) -> Result<Packet, BuildError> {
    build_with_version(plaintext, hops, identifier, VERSION, rng)
}

fn build_with_version(
    plaintext: &[u8],
    hops: &[Hop],
    identifier: [u8; SURB_IDENTIFIER_SIZE],
    version: Version,
    rng: &mut impl CryptoRng,
) -> Result<Packet, BuildError> {
    if hops.is_empty() || hops.len() > HOPS {
        return Err(BuildError::BadRoute(hops.len()));
    }
    if plaintext.len() > PLAINTEXT_SIZE {
        return Err(BuildError::TooLong(plaintext.len()));
    }
    // always the full plaintext, so that the payload's end marker says nothing about the content
    let mut padded = zeroize::Zeroizing::new(vec![0; PLAINTEXT_SIZE]);
    padded.iter_mut().zip(plaintext).for_each(|(to, from)| *to = *from);
    let (nodes, delays) = crate_route(hops);
    let secret = initial_secret(rng);
    let destination = Destination::new(DestinationAddressBytes::from_bytes([0; 32]), identifier);
    let packet = SphinxPacketBuilder::new()
        .with_payload_size(PAYLOAD_SIZE)
        .with_version(version)
        .with_initial_secret(&secret)
        .build_packet(padded.as_slice(), &nodes, &destination, &delays)
        .map_err(|_| BuildError::Refused)?;
    Packet::from_crate(&packet).map_err(|_| BuildError::Refused)
}

/// A packet as the crate alone takes it, for benches: what its own processing costs is what ours is measured against.
pub struct RawPacket(SphinxPacket);

impl std::fmt::Debug for RawPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawPacket(…)")
    }
}

impl RawPacket {
    /// Parses a packet.
    pub fn parse(packet: &Packet) -> Result<Self, UnwrapError> {
        SphinxPacket::from_bytes(packet.as_bytes()).map(Self).map_err(|_| UnwrapError::Malformed)
    }

    /// The crate's `process`, with nothing of ours: no check of alpha, no replay tag, no bytes to send. Whether it is a
    /// packet to be sent on.
    pub fn process(self, key: &X25519Secret) -> Result<bool, UnwrapError> {
        let processed = self.0.process(key.inner()).map_err(|_| UnwrapError::Malformed)?;
        Ok(matches!(processed.data, ProcessedPacketData::ForwardHop { .. }))
    }
}

/// Packets that no honest sender makes, for tests of nodes.
pub mod hostile {
    use super::{BuildError, CryptoRng, Hop, Packet, SURB_IDENTIFIER_SIZE, Version, build_with_version};

    /// A packet of another Sphinx version, else like [`super::build`].
    pub fn build_other_version(
        version: u16,
        plaintext: &[u8],
        hops: &[Hop],
        rng: &mut impl CryptoRng,
    ) -> Result<Packet, BuildError> {
        build_with_version(plaintext, hops, [1; SURB_IDENTIFIER_SIZE], Version::new(version), rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn route(rng: &mut StdRng) -> (Vec<X25519Secret>, Vec<Hop>) {
        (1..=5u8)
            .map(|i| {
                let key = X25519Secret::generate(rng);
                let hop =
                    Hop { address: [i; 32], key: key.public(), delay: Duration::from_millis(u64::from(5 - i) * 7) };
                (key, hop)
            })
            .unzip()
    }

    #[test]
    fn a_packet_crosses_five_hops() {
        let mut rng = StdRng::seed_from_u64(1);
        let (keys, hops) = route(&mut rng);
        let plaintext = vec![0xa5; 100];
        let mut packet = build(&plaintext, &hops, [9; 16], &mut rng).unwrap();
        for (i, key) in keys.iter().enumerate() {
            // the crate's own processing agrees on the whole packet
            let theirs = SphinxPacket::from_bytes(packet.as_bytes()).unwrap().process(key.inner()).unwrap();
            match (open_header(&packet, key).unwrap().finish().unwrap(), theirs.data) {
                (
                    Unwrapped::Forward { next, delay, packet: on },
                    ProcessedPacketData::ForwardHop { next_hop_packet, .. },
                ) => {
                    assert_eq!(next, [u8::try_from(i).unwrap() + 2; 32]);
                    assert_eq!(delay, hops[i].delay);
                    assert_eq!(on.as_bytes().as_slice(), next_hop_packet.to_bytes());
                    packet = on;
                }
                (Unwrapped::Final { identifier, payload }, ProcessedPacketData::FinalHop { .. }) => {
                    assert_eq!((i, identifier), (4, [9; 16]));
                    let mut padded = plaintext.clone();
                    padded.resize(PLAINTEXT_SIZE, 0);
                    assert_eq!(payload.open().unwrap(), padded);
                }
                _ => panic!("crate and unwrap disagree at hop {i}"),
            }
        }
    }

    #[test]
    fn every_header_bit_is_protected() {
        let mut rng = StdRng::seed_from_u64(2);
        let (keys, hops) = route(&mut rng);
        let packet = build(b"x", &hops, [1; 16], &mut rng).unwrap();
        for bit in 0..HEADER_SIZE * 8 {
            let mut bytes = *packet.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = Packet::from_slice(&bytes).unwrap();
            let outcome = open_header(&flipped, &keys[0]);
            assert!(outcome.is_err(), "bit {bit}");
            if bit == 255 {
                assert_eq!(outcome.err(), Some(HeaderError::BadAlpha), "bit 255 of alpha is a second encoding");
            }
        }
    }

    #[test]
    fn a_changed_payload_travels_on_and_is_refused_at_the_end() {
        let mut rng = StdRng::seed_from_u64(3);
        let (keys, hops) = route(&mut rng);
        let mut bytes = *build(b"x", &hops, [1; 16], &mut rng).unwrap().as_bytes();
        bytes[PACKET_SIZE - 1] ^= 1;
        let mut packet = Packet::from_slice(&bytes).unwrap();
        for key in &keys {
            match open_header(&packet, key).unwrap().finish().unwrap() {
                Unwrapped::Forward { packet: on, .. } => packet = on,
                Unwrapped::Final { payload, .. } => {
                    assert_eq!(payload.open(), Err(Tampered));
                    return;
                }
            }
        }
        panic!("no last hop");
    }

    #[test]
    fn other_versions_are_refused() {
        let mut rng = StdRng::seed_from_u64(4);
        let (keys, hops) = route(&mut rng);
        for version in [1, 257, 258, 259, 261, 0xffff] {
            let packet = hostile::build_other_version(version, b"x", &hops, &mut rng).unwrap();
            let refused = open_header(&packet, &keys[0]).unwrap().finish();
            assert_eq!(refused.err(), Some(UnwrapError::WrongVersion), "{version}");
        }
    }

    /// Keys of the header at one hop: stream cipher, MAC (HKDF-SHA256 with an empty salt, first block).
    fn header_keys(key: &X25519Secret, packet: &Packet) -> ([u8; 16], [u8; 16]) {
        use sphinx_packet::constants::{EXPANDED_SHARED_SECRET_HKDF_INFO, HeaderIntegrityHmacAlgorithm};
        use sphinx_packet::crypto::compute_keyed_hmac;
        let alpha: [u8; 32] = packet.as_bytes()[..32].try_into().unwrap();
        let shared = key.inner().diffie_hellman(&PublicKey::from(alpha));
        let hmac = |key: &[u8], data: &[u8]| {
            compute_keyed_hmac::<HeaderIntegrityHmacAlgorithm>(key, data).unwrap().into_bytes()
        };
        let block = hmac(&hmac(&[], shared.as_bytes()), &[EXPANDED_SHARED_SECRET_HKDF_INFO, &[1]].concat());
        (block[..16].try_into().unwrap(), block[16..32].try_into().unwrap())
    }

    #[test]
    fn the_first_version_byte_changes_nothing_at_any_hop() {
        use sphinx_packet::constants::HeaderIntegrityHmacAlgorithm;
        use sphinx_packet::crypto::{STREAM_CIPHER_INIT_VECTOR, compute_keyed_hmac, generate_pseudorandom_bytes};
        let mut rng = StdRng::seed_from_u64(6);
        let (keys, hops) = route(&mut rng);
        let honest = build(b"x", &hops, [1; 16], &mut rng).unwrap();
        let (stream_key, mac_key) = header_keys(&keys[0], &honest);
        let stream = generate_pseudorandom_bytes(&stream_key, &STREAM_CIPHER_INIT_VECTOR, 4);
        // alpha 32, MAC 16, then the flag of the hop and three version bytes
        let clear: Vec<u8> = honest.as_bytes()[48..52].iter().zip(&stream).map(|(byte, pad)| byte ^ pad).collect();
        assert_eq!(clear, [1, 0, 1, 4]);
        for first in [1, 0x80, 0xff] {
            let mut bytes = *honest.as_bytes();
            bytes[49] ^= first;
            let mac = compute_keyed_hmac::<HeaderIntegrityHmacAlgorithm>(&mac_key, &bytes[48..HEADER_SIZE]).unwrap();
            bytes[32..48].copy_from_slice(&mac.into_bytes()[..16]);
            let outcomes = [honest.clone(), Packet::from_slice(&bytes).unwrap()]
                .map(|packet| open_header(&packet, &keys[0]).unwrap().finish().unwrap());
            let [
                Unwrapped::Forward { next, delay, packet },
                Unwrapped::Forward { next: other_next, delay: other_delay, packet: other_packet },
            ] = outcomes
            else {
                panic!("both go on")
            };
            assert!((next, delay, packet) == (other_next, other_delay, other_packet), "{first}");
        }
    }

    #[test]
    fn a_packet_for_the_secret_zero_is_refused_for_its_alpha_and_for_nothing_else() {
        let mut rng = StdRng::seed_from_u64(7);
        let (keys, mut hops) = route(&mut rng);
        hops[0].key = X25519Public::from_bytes([0; 32]);
        let mut bytes = *build(b"x", &hops, [1; 16], &mut rng).unwrap().as_bytes();
        for small in [0, 1] {
            bytes[..32].fill(0);
            bytes[0] = small;
            for key in &keys {
                let packet = Packet::from_slice(&bytes).unwrap();
                assert!(SphinxPacket::from_bytes(&bytes).unwrap().process(key.inner()).is_ok(), "the crate takes it");
                assert_eq!(open_header(&packet, key).err(), Some(HeaderError::BadAlpha));
            }
        }
    }

    #[test]
    fn replay_tags_are_stable_and_differ() {
        let mut rng = StdRng::seed_from_u64(5);
        let (keys, hops) = route(&mut rng);
        let tag = |packet: &Packet| open_header(packet, &keys[0]).unwrap().replay_tag();
        let (a, b) = (build(b"", &hops, [1; 16], &mut rng).unwrap(), build(b"", &hops, [1; 16], &mut rng).unwrap());
        assert_eq!(tag(&a), tag(&a));
        assert_ne!(tag(&a), tag(&b));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for length in [0, 1, PACKET_SIZE - 1, PACKET_SIZE + 1] {
            assert_eq!(Packet::from_slice(&vec![0; length]), Err(WrongLength(length)));
        }
    }
}
