//! Cards: what a person publishes so that strangers can begin a conversation: a last-resort MLS key package and a
//! pointer key, on the card chain of one generation and period.
//!
//! Whoever knows an address can read its card and, colluding with a replica, could show a body that the owner never
//! wrote; therefore the card is signed by the inbox key as a whole, for its generation and period.

use crate::inbox_letter::{PointerKey, PointerPublic};
use minicbor::{Decode, Encode};
use rand::CryptoRng;
use shoal_protocol::boxes::{self, BoxBody, BoxId, ChainSecret, WriteKey, WritePublic};
use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;
use shoal_protocol::inbox::{InboxKey, InboxPublic, card_chain};
use shoal_protocol::{Identity, IdentityKey};

const SIGNATURE: &str = "shoal/1 card";
const VERSION: u8 = 1;
/// Longest card, bytes: key package 2,669 and extensions, pointer key 1,216, signature 64 make about 4,150.
const CARD_SIZE_MAX: usize = 4 * BOX_PLAINTEXT_SIZE - LENGTH_SIZE;
/// Most boxes of a card.
pub const CARD_BOXES_MAX: u64 = 4;
/// The first box begins with the card's length.
const LENGTH_SIZE: usize = 4;

/// A card as it was read and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// TLS encoding of the MLS key package, not yet validated.
    pub key_package: Vec<u8>,
    /// To whom letters are sealed.
    pub pointer: PointerPublic,
}

#[derive(Encode, Decode)]
struct Wire {
    #[n(0)]
    version: u8,
    #[cbor(n(1), with = "minicbor::bytes")]
    key_package: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    pointer: Vec<u8>,
    #[cbor(n(3), with = "minicbor::bytes")]
    signature: [u8; 64],
}

/// Names one card of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CardPlace {
    /// Generation of stores.
    pub generation: u32,
    /// Card period (`inbox::card_period`).
    pub period: u64,
}

/// Why bytes are no card of this person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no valid card: {0}")]
pub struct BadCard(pub &'static str);

fn signed(place: CardPlace, key_package: &[u8], pointer: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(20 + key_package.len() + pointer.len());
    message.extend_from_slice(&place.generation.to_be_bytes());
    message.extend_from_slice(&place.period.to_be_bytes());
    message.extend_from_slice(&(key_package.len() as u64).to_be_bytes());
    message.extend_from_slice(key_package);
    message.extend_from_slice(pointer);
    message
}

/// Signs a card and cuts it into the plaintexts of its boxes, in order.
///
/// # Errors
/// When the key package is so large that the card does not fit into [`CARD_BOXES_MAX`] boxes.
pub fn write(
    owner: &InboxKey,
    place: CardPlace,
    key_package: &[u8],
    pointer: &PointerKey,
) -> Result<Vec<Vec<u8>>, BadCard> {
    let pointer = pointer.public().to_bytes();
    let signature = IdentityKey::from_seed(&owner.seed()).sign(SIGNATURE, &signed(place, key_package, &pointer));
    let wire = Wire { version: VERSION, key_package: key_package.to_vec(), pointer, signature };
    cut(&minicbor::to_vec(&wire).map_err(|_| BadCard("does not encode"))?)
}

/// Cuts content into the plaintexts of boxes, the first of which begins with its length.
pub(crate) fn cut(content: &[u8]) -> Result<Vec<Vec<u8>>, BadCard> {
    if content.len() > CARD_SIZE_MAX {
        return Err(BadCard("too long"));
    }
    let length = u32::try_from(content.len()).map_err(|_| BadCard("too long"))?;
    let bytes = [length.to_be_bytes().as_slice(), content].concat();
    Ok(bytes.chunks(BOX_PLAINTEXT_SIZE).map(<[u8]>::to_vec).collect())
}

/// Puts together what [`cut`] made, and decodes it.
pub(crate) fn joined<T: for<'b> Decode<'b, ()>>(parts: &[Vec<u8>]) -> Result<T, BadCard> {
    let bytes = parts.concat();
    let (length, encoded) = bytes.split_first_chunk::<LENGTH_SIZE>().ok_or(BadCard("no length"))?;
    if u32::from_be_bytes(*length) as usize != encoded.len() {
        return Err(BadCard("another length than it says"));
    }
    let mut decoder = minicbor::Decoder::new(encoded);
    let content = decoder.decode().map_err(|_| BadCard("malformed"))?;
    if decoder.position() == encoded.len() { Ok(content) } else { Err(BadCard("bytes follow")) }
}

/// Number of boxes of the card whose first box says this.
///
/// # Errors
/// When the length is zero or too large.
pub fn boxes_of(first: &[u8]) -> Result<u64, BadCard> {
    let (length, _) = first.split_first_chunk::<LENGTH_SIZE>().ok_or(BadCard("no length"))?;
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 || length > CARD_SIZE_MAX {
        return Err(BadCard("length out of range"));
    }
    Ok((LENGTH_SIZE + length).div_ceil(BOX_PLAINTEXT_SIZE) as u64)
}

/// Puts the boxes' plaintexts together and verifies the owner's signature.
///
/// # Errors
/// Says what is wrong; the card is then as good as absent.
pub fn read(owner: &InboxPublic, place: CardPlace, parts: &[Vec<u8>]) -> Result<Card, BadCard> {
    let wire: Wire = joined(parts)?;
    if wire.version != VERSION {
        return Err(BadCard("another version"));
    }
    let message = signed(place, &wire.key_package, &wire.pointer);
    if !Identity::from_bytes(*owner.as_bytes()).verify(SIGNATURE, &message, &wire.signature) {
        return Err(BadCard("not signed by the address"));
    }
    let pointer = PointerPublic::parse(&wire.pointer).map_err(|_| BadCard("pointer key"))?;
    Ok(Card { key_package: wire.key_package, pointer })
}

/// Where the boxes of a person's card lie, or of what an invite offers.
#[derive(Clone, Debug)]
pub struct CardChain {
    writer: WritePublic,
    chain: ChainSecret,
}

impl CardChain {
    /// The card chain of a person at a place.
    #[must_use]
    pub fn new(owner: InboxPublic, place: CardPlace) -> Self {
        Self { writer: *owner.write_public(), chain: card_chain(&owner, place.generation, place.period) }
    }
    /// The chain of an invite, by its keys.
    #[must_use]
    pub fn of_invite(writer: &WriteKey, chain: ChainSecret) -> Self {
        Self { writer: writer.public(), chain }
    }
    /// Id of its box `index`.
    #[must_use]
    pub fn id(&self, index: u64) -> BoxId {
        boxes::id(&self.writer, &self.chain, index)
    }
    /// Seals the plaintext of box `index`; only the owner can sign it.
    ///
    /// # Errors
    /// When the plaintext is longer than a box.
    pub fn seal(&self, index: u64, plaintext: &[u8], rng: &mut impl CryptoRng) -> Result<BoxBody, boxes::BoxError> {
        boxes::seal(&self.chain, index, &self.id(index), plaintext, rng)
    }
    /// Opens the body of box `index`.
    ///
    /// # Errors
    /// When it was not sealed for this box.
    pub fn open(&self, index: u64, body: &BoxBody) -> Result<Vec<u8>, boxes::BoxError> {
        boxes::open(&self.chain, index, &self.id(index), body)
    }
    /// The chain secret, for the table of chains.
    #[must_use]
    pub fn secret(&self) -> &ChainSecret {
        &self.chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn cards_round_trip_and_are_bound_to_owner_and_place() {
        let mut rng = StdRng::seed_from_u64(1);
        let (owner, other) = (InboxKey::generate(&mut rng), InboxKey::generate(&mut rng));
        let pointer = PointerKey::generate(&mut rng);
        let place = CardPlace { generation: 1, period: 9 };
        let parts = write(&owner, place, &[7; 2_800], &pointer).unwrap();
        assert_eq!(boxes_of(&parts[0]), Ok(parts.len() as u64));
        let card = read(&owner.public(), place, &parts).unwrap();
        assert_eq!((card.key_package, card.pointer), (vec![7; 2_800], pointer.public()));
        assert_eq!(read(&other.public(), place, &parts), Err(BadCard("not signed by the address")));
        let later = CardPlace { period: 10, ..place };
        assert_eq!(read(&owner.public(), later, &parts), Err(BadCard("not signed by the address")));
        assert!(read(&owner.public(), place, &parts[..1]).is_err());
    }

    #[test]
    fn lengths_are_bounded() {
        let mut rng = StdRng::seed_from_u64(2);
        let (owner, pointer) = (InboxKey::generate(&mut rng), PointerKey::generate(&mut rng));
        let place = CardPlace { generation: 1, period: 1 };
        assert!(write(&owner, place, &vec![0; CARD_SIZE_MAX], &pointer).is_err());
        assert!(boxes_of(&u32::MAX.to_be_bytes()).is_err());
        assert!(boxes_of(&[0; 4]).is_err());
        assert!(boxes_of(&[1, 2]).is_err());
        let longest = u32::try_from(CARD_SIZE_MAX).unwrap();
        assert_eq!(boxes_of(&longest.to_be_bytes()), Ok(CARD_BOXES_MAX));
    }

    #[test]
    fn a_card_box_is_found_by_whoever_knows_the_address() {
        let mut rng = StdRng::seed_from_u64(3);
        let owner = InboxKey::generate(&mut rng);
        let place = CardPlace { generation: 2, period: 5 };
        let chain = CardChain::new(owner.public(), place);
        let body = chain.seal(0, b"part", &mut rng).unwrap();
        let signature = boxes::sign(owner.write_key(), chain.secret(), 0, &body);
        assert!(boxes::verify(&chain.id(0), &body, &signature));
        assert_eq!(CardChain::new(owner.public(), place).open(0, &body), Ok(b"part".to_vec()));
    }
}
