//! Descriptors: what a node publishes about itself, signed by its identity key.
//!
//! On the wire a descriptor is its CBOR bytes followed by a 64-byte signature over exactly these bytes. Nothing is ever
//! encoded again after signing.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::consensus::codec::{self, Parsed, Put, Reader};
use crate::types::{Epoch, Hash, Identity, IdentityKey, Role, UnixMillis};
use crate::x25519::X25519Public;

/// Largest descriptor with its signature, in bytes. Four addresses (4 × 22), eight keys (8 × 45), 40 loop reports
/// (40 × 46), and 300 bytes of other fields and signature come to 2.6 kB. Authorities carry one of every node in each
/// proposal: 2,048 of them are 5.5 MB.
pub const MAX_DESCRIPTOR_SIZE: usize = 2688;
/// Most addresses a node may be reached at.
pub const MAX_ADDRESSES: usize = 4;
/// Most epochs a descriptor may carry keys for.
pub const MAX_KEY_EPOCHS: usize = 4;
/// Most loop reports in one descriptor.
pub const MAX_LOOPS: usize = 40;
/// Longest version text, in bytes.
pub const MAX_VERSION: usize = 32;

const CONTEXT: &str = "shoal/1 descriptor";
const FORMAT: u8 = 1;

/// What a node says of a neighbour: how many of its own loops across it came back, since the descriptor before, which is about
/// an epoch. Neighbours are the nodes that it sends to and those that send to it. Counted are the loops that went on over the
/// better half of the ways behind the neighbour, and of those that did not return only the ones of which the node does not
/// know another place that lost them (documents.md, *Evidence*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopEvidence {
    /// The neighbour.
    pub peer: Identity,
    /// Loops across it that count.
    pub sent: u32,
    /// How many of them returned in time.
    pub returned: u32,
}

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Genesis hash of the network it wants to be listed in.
    pub network: Hash,
    /// Its identity key.
    pub identity: Identity,
    /// What it does.
    pub role: Role,
    /// Where it is reached; 1 to 4, no duplicates.
    pub addresses: Vec<SocketAddr>,
    /// Its operator, if that operator runs several nodes: routes visit a family at most once.
    pub family: Option<[u8; 32]>,
    /// When it was made.
    pub published: UnixMillis,
    /// Version of the software, at most 32 bytes of printable ASCII.
    pub version: String,
    /// Mix keys, strictly increasing by epoch; 1 to 4.
    pub mix_keys: Vec<(Epoch, X25519Public)>,
    /// Envelope keys of a store, for the same epochs; empty for other roles.
    pub envelope_keys: Vec<(Epoch, X25519Public)>,
    /// Loss evidence, strictly increasing by peer; may be empty.
    pub loops: Vec<LoopEvidence>,
    /// A store that is to go: no generation drawn from now on names it, and it serves those that do until they are over.
    pub leaving: bool,
}

/// Why a descriptor is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DescriptorError {
    /// Longer than [`MAX_DESCRIPTOR_SIZE`].
    #[error("the descriptor is {0} bytes long; at most {MAX_DESCRIPTOR_SIZE} are accepted")]
    TooLarge(usize),
    /// A field is missing, malformed or contradicts another.
    #[error("the descriptor is malformed: {0}")]
    Malformed(&'static str),
    /// Made for another network.
    #[error("the descriptor is for network {found}, this is network {expected}")]
    WrongNetwork {
        /// Network in the descriptor.
        found: Hash,
        /// Network of whoever verifies.
        expected: Hash,
    },
    /// The signature is not that of the identity in it.
    #[error("the descriptor's signature is not by its identity key")]
    BadSignature,
    /// Made in the future, beyond the skew tolerance.
    #[error("the descriptor was made {ahead_ms} ms in the future; check the node's clock")]
    FromFuture {
        /// How far ahead, in ms.
        ahead_ms: u64,
    },
}

impl Descriptor {
    /// The exact bytes followed by their signature.
    #[must_use]
    pub fn sign(&self, key: &IdentityKey) -> Vec<u8> {
        let mut bytes = self.encode();
        let signature = key.sign(CONTEXT, &bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }

    fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| {
            writer.put_array(12);
            writer.put_uint(FORMAT.into());
            writer.put_bytes(self.network.as_bytes());
            writer.put_bytes(self.identity.as_bytes());
            writer.put_uint(codec::role_code(self.role));
            writer.put_array(self.addresses.len());
            for address in &self.addresses {
                codec::put_address(writer, address);
            }
            match &self.family {
                Some(family) => writer.put_bytes(family),
                None => writer.put_null(),
            }
            writer.put_uint(self.published.0);
            writer.put_text(&self.version);
            codec::put_keys(writer, &self.mix_keys);
            codec::put_keys(writer, &self.envelope_keys);
            writer.put_array(self.loops.len());
            for LoopEvidence { peer, sent, returned } in &self.loops {
                writer.put_array(3);
                writer.put_bytes(peer.as_bytes());
                writer.put_uint((*sent).into());
                writer.put_uint((*returned).into());
            }
            writer.put_bool(self.leaving);
        })
    }

    fn decode(bytes: &[u8]) -> Parsed<Self> {
        let mut reader = Reader::new(bytes);
        reader.array(12, "fields")?;
        if reader.u8("format")? != FORMAT {
            return Err("format (made by another version of the protocol)");
        }
        let descriptor = Self {
            network: Hash::from_bytes(reader.bytes_of("network")?),
            identity: codec::read_identity(&mut reader, "identity")?,
            role: codec::read_role(&mut reader)?,
            addresses: reader.list(1, MAX_ADDRESSES, "addresses", codec::read_address)?,
            family: reader.optional("family", |reader| reader.bytes_of("family"))?,
            published: UnixMillis(reader.u64("published")?),
            version: reader.text("version")?.to_owned(),
            mix_keys: codec::read_keys(&mut reader, 1, MAX_KEY_EPOCHS, "mix keys")?,
            envelope_keys: codec::read_keys(&mut reader, 0, MAX_KEY_EPOCHS, "envelope keys")?,
            loops: reader.list(0, MAX_LOOPS, "loops", |reader| {
                reader.array(3, "loops")?;
                Ok(LoopEvidence {
                    peer: codec::read_identity(reader, "loops")?,
                    sent: reader.u32("loops")?,
                    returned: reader.u32("loops")?,
                })
            })?,
            leaving: reader.bool("leaving")?,
        };
        reader.end("bytes after the last field")?;
        descriptor.check()?;
        if descriptor.encode() == bytes { Ok(descriptor) } else { Err("not in canonical form") }
    }

    /// Relations between fields.
    fn check(&self) -> Parsed<()> {
        if self.addresses.iter().enumerate().any(|(i, address)| self.addresses[..i].contains(address)) {
            return Err("addresses (one appears twice)");
        }
        if self.version.is_empty()
            || self.version.len() > MAX_VERSION
            || !self.version.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err("version");
        }
        let epochs_match = match self.role {
            Role::Store => {
                self.envelope_keys.iter().map(|(epoch, _)| epoch).eq(self.mix_keys.iter().map(|(epoch, _)| epoch))
            }
            Role::Gateway | Role::Mix => self.envelope_keys.is_empty(),
        };
        if !epochs_match {
            return Err("envelope keys (a store has one per mix key, other roles none)");
        }
        if self.leaving && self.role != Role::Store {
            return Err("leaving (only a store says so; others just go)");
        }
        if !codec::strictly_sorted(&self.loops, |evidence| evidence.peer) {
            return Err("loops (not sorted, or one peer twice)");
        }
        if self.loops.iter().any(|evidence| evidence.returned > evidence.sent) {
            return Err("loops (more returned than sent)");
        }
        Ok(())
    }
}

/// A parsed descriptor whose signature, network and time nobody has checked yet; its content is out of reach.
#[derive(Clone, Debug)]
pub struct UnverifiedDescriptor {
    descriptor: Descriptor,
    signature: [u8; 64],
    bytes: Vec<u8>,
}

impl UnverifiedDescriptor {
    /// Reads a descriptor and its signature.
    ///
    /// # Errors
    /// Too large or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > MAX_DESCRIPTOR_SIZE {
            return Err(DescriptorError::TooLarge(bytes.len()));
        }
        let (document, signature) =
            bytes.split_last_chunk::<64>().ok_or(DescriptorError::Malformed("shorter than its signature"))?;
        let descriptor = Descriptor::decode(document).map_err(DescriptorError::Malformed)?;
        Ok(Self { descriptor, signature: *signature, bytes: bytes.to_vec() })
    }

    /// Checks network, signature and that it was not made in the future.
    ///
    /// # Errors
    /// Which of the three failed.
    pub fn verify(self, network: &Hash, now: UnixMillis, skew: Duration) -> Result<SignedDescriptor, DescriptorError> {
        let Self { descriptor, signature, bytes } = self;
        if descriptor.network != *network {
            return Err(DescriptorError::WrongNetwork { found: descriptor.network, expected: *network });
        }
        let signed = bytes.get(..bytes.len() - 64).unwrap_or_default();
        if !descriptor.identity.verify(CONTEXT, signed, &signature) {
            return Err(DescriptorError::BadSignature);
        }
        let latest = now.plus(skew);
        if descriptor.published > latest {
            return Err(DescriptorError::FromFuture { ahead_ms: descriptor.published.0 - now.0 });
        }
        Ok(SignedDescriptor { descriptor, bytes })
    }
}

/// A descriptor that verified, with the exact bytes that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDescriptor {
    /// The content.
    pub descriptor: Descriptor,
    /// The bytes and signature, to store and pass on.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x25519::X25519Secret;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    const NETWORK: Hash = Hash::from_bytes([1; 32]);
    const NOW: UnixMillis = UnixMillis(1_000_000);
    const SKEW: Duration = Duration::from_secs(2);

    fn keys(first: u64, count: u64, rng: &mut StdRng) -> Vec<(Epoch, X25519Public)> {
        (first..first + count).map(|epoch| (Epoch(epoch), X25519Secret::generate(rng).public())).collect()
    }

    fn sample(role: Role, seed: u64) -> (Descriptor, IdentityKey) {
        let mut rng = StdRng::seed_from_u64(seed);
        let key = IdentityKey::generate(&mut rng);
        let descriptor = Descriptor {
            network: NETWORK,
            identity: key.identity(),
            role,
            addresses: vec!["127.0.0.1:4000".parse().expect("address"), "[::1]:4001".parse().expect("address")],
            family: seed.is_multiple_of(2).then_some([3; 32]),
            published: NOW,
            version: "0.1.0".into(),
            mix_keys: keys(seed, 4, &mut rng),
            envelope_keys: if role == Role::Store { keys(seed, 4, &mut rng) } else { Vec::new() },
            loops: vec![LoopEvidence { peer: Identity::from_bytes([5; 32]), sent: 20, returned: 19 }],
            leaving: role == Role::Store && seed.is_multiple_of(4),
        };
        (descriptor, key)
    }

    fn open(bytes: &[u8]) -> Result<SignedDescriptor, DescriptorError> {
        UnverifiedDescriptor::parse(bytes)?.verify(&NETWORK, NOW, SKEW)
    }

    #[test]
    fn round_trip_keeps_the_exact_bytes() {
        for role in [Role::Gateway, Role::Mix, Role::Store] {
            let (descriptor, key) = sample(role, 8);
            let bytes = descriptor.sign(&key);
            let signed = open(&bytes).expect("verifies");
            assert_eq!((signed.descriptor, signed.bytes), (descriptor, bytes));
        }
    }

    #[test]
    fn refusals_name_their_cause() {
        let (descriptor, key) = sample(Role::Mix, 4);
        let stranger = IdentityKey::from_seed(&[9; 32]);
        assert_eq!(open(&descriptor.sign(&stranger)), Err(DescriptorError::BadSignature));

        let elsewhere = Descriptor { network: Hash::from_bytes([2; 32]), ..descriptor.clone() };
        assert!(matches!(open(&elsewhere.sign(&key)), Err(DescriptorError::WrongNetwork { .. })));

        let early = Descriptor { published: NOW.plus(SKEW * 2), ..descriptor.clone() };
        assert_eq!(open(&early.sign(&key)), Err(DescriptorError::FromFuture { ahead_ms: 4000 }));

        assert_eq!(open(&vec![0; MAX_DESCRIPTOR_SIZE + 1]), Err(DescriptorError::TooLarge(MAX_DESCRIPTOR_SIZE + 1)));
        assert!(matches!(open(&[0; 10]), Err(DescriptorError::Malformed(_))));

        let mut trailing = descriptor.encode();
        trailing.push(0);
        trailing.extend_from_slice(&[0; 64]);
        assert!(matches!(open(&trailing), Err(DescriptorError::Malformed(_))));
    }

    #[test]
    fn contradictory_fields_are_malformed() {
        let (good, key) = sample(Role::Store, 4);
        let mut rng = StdRng::seed_from_u64(1);
        let unreachable = "0.0.0.0:1".parse().expect("address");
        for (what, bad) in [
            ("no addresses", Descriptor { addresses: Vec::new(), ..good.clone() }),
            ("address twice", Descriptor { addresses: vec![good.addresses[0]; 2], ..good.clone() }),
            ("five addresses", Descriptor { addresses: vec![good.addresses[0]; 5], ..good.clone() }),
            ("unspecified address", Descriptor { addresses: vec![unreachable], ..good.clone() }),
            ("no keys", Descriptor { mix_keys: Vec::new(), ..good.clone() }),
            ("five keys", Descriptor { mix_keys: keys(4, 5, &mut rng), ..good.clone() }),
            ("other epochs", Descriptor { envelope_keys: keys(5, 4, &mut rng), ..good.clone() }),
            ("no envelope keys", Descriptor { envelope_keys: Vec::new(), ..good.clone() }),
            ("long version", Descriptor { version: "1".repeat(33), ..good.clone() }),
            ("empty version", Descriptor { version: String::new(), ..good.clone() }),
            ("peer twice", Descriptor { loops: vec![good.loops[0]; 2], ..good.clone() }),
            ("lies", Descriptor { loops: vec![LoopEvidence { returned: 21, ..good.loops[0] }], ..good.clone() }),
            (
                "leaves as a gateway",
                Descriptor { leaving: true, role: Role::Gateway, envelope_keys: Vec::new(), ..good.clone() },
            ),
            ("keys in a mix", Descriptor { role: Role::Mix, ..good.clone() }),
        ] {
            assert!(matches!(open(&bad.sign(&key)), Err(DescriptorError::Malformed(_))), "{what}");
        }
    }

    #[test]
    fn a_key_of_low_order_is_malformed() {
        let (mut descriptor, key) = sample(Role::Mix, 4);
        descriptor.mix_keys[0].1 = X25519Public::from_bytes([0; 32]);
        assert!(matches!(open(&descriptor.sign(&key)), Err(DescriptorError::Malformed("mix keys"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn anything_bent_is_refused(seed in 1u64..1000, role in 0usize..3, at: prop::sample::Index, bit in 0u8..8) {
            let (descriptor, key) = sample([Role::Gateway, Role::Mix, Role::Store][role], seed);
            let bytes = descriptor.sign(&key);
            prop_assert_eq!(open(&bytes).map(|signed| signed.descriptor), Ok(descriptor));
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(open(&flipped).is_err());
            prop_assert!(open(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(open(&junk).is_err());
        }
    }
}
