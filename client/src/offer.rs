//! What lies in the boxes of an invite: first what is offered, a key package for one use; then the claim of whoever uses it,
//! the write key of the box in which its pointer to the Welcome will lie.
//!
//! Who holds the invite can write both; the first write of a box stays. The key package is certified by the inbox key that the
//! invite names, so nobody else can offer one.

use crate::card::{self, BadCard};
use minicbor::{Decode, Encode};
use shoal_protocol::boxes::WritePublic;
use shoal_protocol::invite::OFFER_BOXES_MAX;

const VERSION: u8 = 1;

#[derive(Encode, Decode)]
struct Wire {
    #[n(0)]
    version: u8,
    #[cbor(n(1), with = "minicbor::bytes")]
    key_package: Vec<u8>,
}

/// Cuts an offer into the plaintexts of its boxes, in order.
///
/// # Errors
/// When the key package does not fit.
pub(crate) fn write(key_package: &[u8]) -> Result<Vec<Vec<u8>>, BadCard> {
    let wire = Wire { version: VERSION, key_package: key_package.to_vec() };
    let parts = card::cut(&minicbor::to_vec(&wire).map_err(|_| BadCard("does not encode"))?)?;
    if parts.len() as u64 > OFFER_BOXES_MAX { Err(BadCard("too long")) } else { Ok(parts) }
}

/// The TLS encoding of the key package of an offer, not yet validated.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn read(parts: &[Vec<u8>]) -> Result<Vec<u8>, BadCard> {
    let wire: Wire = card::joined(parts)?;
    if wire.version == VERSION { Ok(wire.key_package) } else { Err(BadCard("another version")) }
}

/// The write key that a claim names.
///
/// # Errors
/// When there is none.
pub(crate) fn read_claim(plaintext: &[u8]) -> Result<WritePublic, BadCard> {
    let key = plaintext.try_into().map_err(|_| BadCard("no claim"))?;
    WritePublic::parse(key).map_err(|_| BadCard("no write key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::boxes::WriteKey;

    #[test]
    fn offers_round_trip_and_are_bounded() {
        let parts = write(&[7; 2_900]).unwrap();
        assert_eq!(card::boxes_of(&parts[0]), Ok(parts.len() as u64));
        assert_eq!(read(&parts), Ok(vec![7; 2_900]));
        assert!(read(&parts[..1]).is_err());
        assert!(write(&vec![7; 10_000]).is_err());
        let newer = card::cut(&minicbor::to_vec(Wire { version: 2, key_package: vec![1] }).unwrap()).unwrap();
        assert_eq!(read(&newer), Err(BadCard("another version")));
    }

    #[test]
    fn a_claim_is_one_usable_key() {
        let key = WriteKey::generate(&mut StdRng::seed_from_u64(1)).public();
        assert_eq!(read_claim(key.as_bytes()), Ok(key));
        assert!(read_claim(&key.as_bytes()[1..]).is_err());
        assert!(read_claim(&[0; 32]).is_err());
    }
}
