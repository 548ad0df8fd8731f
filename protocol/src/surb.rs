//! SURBs: how a courier answers a client it does not know. Version 260 only: an older version hands every hop's seed to
//! whoever holds the SURB, which links the reply to its receiver.

use crate::geometry::{HEADER_SIZE, HOPS, PAYLOAD_SIZE, PLAINTEXT_SIZE, SURB_IDENTIFIER_SIZE, SURB_SIZE};
use crate::sphinx::{BuildError, Hop, Packet, Payload, Tampered, VERSION, crate_route, initial_secret};
use rand::CryptoRng;
use sphinx_packet::route::{Destination, DestinationAddressBytes};
use sphinx_packet::surb::{SURB as RawSurb, SURBMaterial, SurbReplyRecovery};
use zeroize::Zeroize as _;

/// A SURB as it travels: header, address of the first hop, one payload seed. Zeroized on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Surb(Box<[u8; SURB_SIZE]>);

impl Drop for Surb {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

impl std::fmt::Debug for Surb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surb(redacted)")
    }
}

/// A SURB that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SurbError {
    /// The bytes are no SURB.
    #[error("malformed SURB")]
    Malformed,
    /// The reply does not fit into a packet.
    #[error("a reply of {0} bytes does not fit into a packet")]
    TooLong(usize),
}

impl Surb {
    /// Takes exactly [`SURB_SIZE`] bytes; whether they are a usable SURB shows when it is used.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SurbError> {
        let exact: [u8; SURB_SIZE] = bytes.try_into().map_err(|_| SurbError::Malformed)?;
        Ok(Self(Box::new(exact)))
    }
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; SURB_SIZE] {
        &self.0
    }
    /// Identity of the node to which the reply goes first.
    pub fn first_hop(&self) -> [u8; 32] {
        let mut address = [0; 32];
        // HEADER_SIZE + 32 < SURB_SIZE by geometry
        address.copy_from_slice(self.0.split_at(HEADER_SIZE).1.split_at(32).0);
        address
    }
    /// Wraps `plaintext` (padded with zeros to the full size) into the reply packet.
    pub fn reply(&self, plaintext: &[u8]) -> Result<([u8; 32], Packet), SurbError> {
        if plaintext.len() > PLAINTEXT_SIZE {
            return Err(SurbError::TooLong(plaintext.len()));
        }
        let mut padded = vec![0; PLAINTEXT_SIZE];
        padded.iter_mut().zip(plaintext).for_each(|(to, from)| *to = *from);
        let raw = RawSurb::from_bytes(self.0.as_slice()).map_err(|_| SurbError::Malformed)?;
        let (packet, first) = raw.use_surb(&padded, PAYLOAD_SIZE).map_err(|_| SurbError::Malformed)?;
        let packet = Packet::from_slice(&packet.to_bytes()).map_err(|_| SurbError::Malformed)?;
        Ok((first.to_bytes(), packet))
    }
}

/// What the creator of a SURB keeps to read the one reply. Zeroized on drop.
pub struct Recovery(SurbReplyRecovery);

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recovery(redacted)")
    }
}

impl Recovery {
    /// The reply's plaintext, [`PLAINTEXT_SIZE`] bytes. Consumes the material: a SURB answers once.
    pub fn open(self, payload: Payload) -> Result<Vec<u8>, Tampered> {
        self.0.recover_plaintext(payload.0).map_err(|_| Tampered)
    }
}

/// Builds a SURB along `hops`, the last of which is the client itself (its session address and session key).
/// `identifier` must be random and not all zero.
pub fn build(
    hops: &[Hop],
    identifier: [u8; SURB_IDENTIFIER_SIZE],
    rng: &mut impl CryptoRng,
) -> Result<(Surb, Recovery), BuildError> {
    if hops.is_empty() || hops.len() > HOPS {
        return Err(BuildError::BadRoute(hops.len()));
    }
    let (nodes, delays) = crate_route(hops);
    let destination = Destination::new(DestinationAddressBytes::from_bytes([0; 32]), identifier);
    let material = SURBMaterial::new(nodes, delays, destination, VERSION);
    let (surb, recovery) = RawSurb::new_recoverable(initial_secret(rng), material).map_err(|_| BuildError::Refused)?;
    let surb = Surb::from_slice(&surb.to_bytes()).map_err(|_| BuildError::Refused)?;
    Ok((surb, Recovery(recovery)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::X25519Secret;
    use crate::sphinx::{Unwrapped, open_header};
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
    use std::time::Duration;

    #[test]
    fn a_reply_reaches_its_creator_and_only_its_creator() {
        let mut rng = StdRng::seed_from_u64(1);
        let keys: Vec<X25519Secret> = (0..5).map(|_| X25519Secret::generate(&mut rng)).collect();
        let hops: Vec<Hop> = keys
            .iter()
            .zip(1u8..)
            .map(|(key, i)| Hop { address: [i; 32], key: key.public(), delay: Duration::from_millis(3) })
            .collect();
        let mut identifier = [0; 16];
        rng.fill_bytes(&mut identifier);
        let (surb, recovery) = build(&hops, identifier, &mut rng).unwrap();
        assert_eq!(surb.first_hop(), [1; 32]);
        let (first, mut packet) = surb.reply(b"an answer").unwrap();
        assert_eq!(first, [1; 32]);
        for key in &keys {
            match open_header(&packet, key).unwrap().finish().unwrap() {
                Unwrapped::Forward { packet: on, .. } => packet = on,
                Unwrapped::Final { identifier: got, payload } => {
                    assert_eq!(got, identifier);
                    let plaintext = recovery.open(payload).unwrap();
                    assert_eq!(&plaintext[..9], b"an answer");
                    assert_eq!(plaintext.len(), PLAINTEXT_SIZE);
                    return;
                }
            }
        }
        panic!("no last hop");
    }

    #[test]
    fn any_bytes_of_the_right_length_are_safe_to_use() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..64 {
            let mut bytes = [0; SURB_SIZE];
            rng.fill_bytes(&mut bytes);
            let _ = Surb::from_slice(&bytes).unwrap().reply(&[7; PLAINTEXT_SIZE]);
        }
        assert_eq!(Surb::from_slice(&[0; 3]), Err(SurbError::Malformed));
    }
}
