//! What travels on links beside packets: attach frames, store frames, directory messages.

use crate::Packet;
use crate::geometry::{
    ENVELOPE_SIZE, FULL_ANSWER_SIZE, PACKET_SIZE, RECEIPT_SIZE, SHORT_ANSWER_SIZE, STORE_FRAME_SIZE,
};
use crate::request::{Envelope, SealedAnswer};
use crate::types::Hash;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rand::CryptoRng;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

const SESSION: &str = "shoal/1 session address";

/// First byte of a gateway's unidirectional stream to a client that carries packets until the link closes.
pub const STREAM_PACKETS: u8 = 0;
/// First byte of a gateway's unidirectional stream to a client that carries one certified consensus.
pub const STREAM_CONSENSUS: u8 = 1;
/// First byte of a gateway's unidirectional stream to a client that carries the difference to the newest consensus from the
/// one that the gateway pushed before on the same link.
pub const STREAM_DIFFERENCE: u8 = 2;
/// Longest question to an authority: a descriptor of 2,688 bytes and framing, with room to grow.
pub const QUESTION_SIZE_MAX: usize = 16 * 1024;
/// Longest answer of an authority: a certified consensus of 1,000 nodes is below 400 KB; 1 MiB leaves room.
pub const ANSWER_SIZE_MAX: usize = 1024 * 1024;

/// First frame of a client on its gateway link: a random secret that only the client and its gateway know. The session
/// address is derived from it, so that a client that reconnects is found again without any state at the gateway.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Attach([u8; 32]);

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attach(redacted)")
    }
}

/// Where a gateway delivers replies: last address of a client's SURBs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionAddress([u8; 32]);

impl fmt::Debug for SessionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionAddress(…)")
    }
}

impl SessionAddress {
    /// Any 32 bytes, as they stand in a packet.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Attach {
    /// A fresh secret.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self(secret)
    }
    /// The secret of stored bytes.
    pub const fn from_bytes(secret: [u8; 32]) -> Self {
        Self(secret)
    }
    /// The bytes, for the profile.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// The session's address.
    pub fn address(&self) -> SessionAddress {
        SessionAddress(blake3::derive_key(SESSION, &self.0))
    }
    /// The frame, as long as a packet: secret, then random bytes.
    pub fn to_frame(&self, rng: &mut impl CryptoRng) -> Packet {
        let mut frame = Box::new([0; PACKET_SIZE]);
        rng.fill_bytes(frame.as_mut_slice());
        frame.iter_mut().zip(&self.0).for_each(|(to, from)| *to = *from);
        Packet::from_array(frame)
    }
    /// Reads the first frame of a link. Every frame is an attach; a secret that nobody chose attaches a session that
    /// nobody answers to.
    pub fn from_frame(frame: &Packet) -> Self {
        let mut secret = [0; 32];
        secret.copy_from_slice(frame.as_bytes().split_at(32).0);
        Self(secret)
    }
}

/// A frame between courier and replica. All kinds have [`STORE_FRAME_SIZE`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFrame {
    /// Sent when there is nothing to send, so that the link's rate is constant.
    Dummy,
    /// Courier to replica.
    Request {
        /// The courier's own number for this question; the answer repeats it.
        ticket: u64,
        /// The client's envelope.
        envelope: Envelope,
        /// The first replica's sealed receipt, or random bytes.
        receipt: [u8; RECEIPT_SIZE],
    },
    /// Replica to courier.
    Answer {
        /// The question's number.
        ticket: u64,
        /// The sealed answer.
        answer: SealedAnswer,
    },
}

/// A frame of an unknown kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of store frame")]
pub struct BadFrame;

impl StoreFrame {
    /// The bytes; unused ones are zero (the link encrypts them).
    pub fn to_bytes(&self) -> Box<[u8; STORE_FRAME_SIZE]> {
        let mut out = Vec::with_capacity(STORE_FRAME_SIZE);
        match self {
            Self::Dummy => out.push(0),
            Self::Request { ticket, envelope, receipt } => {
                out.push(1);
                out.extend_from_slice(&ticket.to_be_bytes());
                out.extend_from_slice(envelope.as_bytes());
                out.extend_from_slice(receipt);
            }
            Self::Answer { ticket, answer } => {
                out.push(2);
                out.extend_from_slice(&ticket.to_be_bytes());
                out.extend_from_slice(answer.full.as_slice());
                out.extend_from_slice(&answer.short);
                out.extend_from_slice(&answer.receipt);
            }
        }
        let mut frame = Box::new([0; STORE_FRAME_SIZE]);
        frame.iter_mut().zip(&out).for_each(|(to, from)| *to = *from);
        frame
    }

    /// Reads a frame.
    pub fn from_bytes(frame: &[u8; STORE_FRAME_SIZE]) -> Result<Self, BadFrame> {
        let (kind, rest) = frame.split_first().ok_or(BadFrame)?;
        let (ticket, rest) = rest.split_first_chunk::<8>().ok_or(BadFrame)?;
        let ticket = u64::from_be_bytes(*ticket);
        match kind {
            0 => Ok(Self::Dummy),
            1 => {
                let (envelope, rest) = rest.split_first_chunk::<ENVELOPE_SIZE>().ok_or(BadFrame)?;
                let (receipt, _) = rest.split_first_chunk::<RECEIPT_SIZE>().ok_or(BadFrame)?;
                let envelope = Envelope::from_slice(envelope).map_err(|_| BadFrame)?;
                Ok(Self::Request { ticket, envelope, receipt: *receipt })
            }
            2 => {
                let (full, rest) = rest.split_first_chunk::<FULL_ANSWER_SIZE>().ok_or(BadFrame)?;
                let (short, rest) = rest.split_first_chunk::<SHORT_ANSWER_SIZE>().ok_or(BadFrame)?;
                let (receipt, _) = rest.split_first_chunk::<RECEIPT_SIZE>().ok_or(BadFrame)?;
                let answer = SealedAnswer { full: Box::new(*full), short: *short, receipt: *receipt };
                Ok(Self::Answer { ticket, answer })
            }
            _ => Err(BadFrame),
        }
    }
}

/// A question to an authority; one bidirectional stream each, at most [`QUESTION_SIZE_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryQuestion {
    /// Take this signed descriptor.
    #[n(0)]
    Publish(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Give the newest certified consensus, unless it has this hash. Not its height: who holds another document of the
    /// same height must not be told that all is well.
    #[n(1)]
    Newest {
        /// Hash of the newest document held.
        #[n(0)]
        have: Option<Hash>,
    },
    /// Give the documents that changed the set of authorities since it was this one, oldest first. The only question that
    /// a client asks its gateway.
    #[n(2)]
    Changes {
        /// Hash of the set that the asker believes.
        #[n(0)]
        after: Hash,
    },
    /// Between authorities: a message of the agreement.
    #[n(3)]
    Agree(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Between authorities: the sender's list for the next document, with its descriptors.
    #[n(4)]
    List(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

/// An authority's answer; at most [`ANSWER_SIZE_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryAnswer {
    /// The descriptor is listed.
    #[n(0)]
    Accepted,
    /// The descriptor is not listed; the reason is for the operator.
    #[n(1)]
    Refused(#[n(0)] String),
    /// The certified bytes of the newest document.
    #[n(2)]
    Document(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The asker holds the newest.
    #[n(3)]
    UpToDate,
    /// No document exists yet; the reason says what is awaited.
    #[n(4)]
    NotYet(#[n(0)] String),
    /// The question could not be read.
    #[n(5)]
    BadQuestion,
    /// Certified bytes of documents at which the set of authorities changed, oldest first; as many as fit in an answer,
    /// none when there are no more or the set is not known. Ask again with the set of the last one.
    #[n(6)]
    Changes(#[n(0)] Vec<ByteVec>),
    /// What leads to the newest document from the one that the asker holds.
    #[n(7)]
    Difference(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

/// A directory message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed directory message")]
pub struct BadMessage;

macro_rules! cbor_message {
    ($name:ident) => {
        impl $name {
            /// The bytes on the stream.
            pub fn to_bytes(&self) -> Vec<u8> {
                // writing into a Vec cannot fail; an empty message would be refused by the reader
                minicbor::to_vec(self).unwrap_or_default()
            }
            /// Reads a whole message; nothing may follow it.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadMessage> {
                let mut decoder = minicbor::Decoder::new(bytes);
                let message = decoder.decode().map_err(|_| BadMessage)?;
                if decoder.position() == bytes.len() { Ok(message) } else { Err(BadMessage) }
            }
        }
    };
}
cbor_message!(DirectoryQuestion);
cbor_message!(DirectoryAnswer);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Operation, seal_envelope};
    use crate::{StoreIndex, X25519Secret};
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn attach_frames_name_their_session() {
        let mut rng = StdRng::seed_from_u64(1);
        let attach = Attach::generate(&mut rng);
        let frame = attach.to_frame(&mut rng);
        assert_eq!(Attach::from_frame(&frame), attach);
        assert_ne!(attach.address().as_bytes(), attach.as_bytes());
    }

    #[test]
    fn store_frames_round_trip() {
        let mut rng = StdRng::seed_from_u64(2);
        let key = X25519Secret::generate(&mut rng).public();
        let get = Operation::Get { id: crate::boxes::BoxId::from_bytes([1; 32]) };
        let (envelope, _) = seal_envelope(&get, [(StoreIndex(1), key), (StoreIndex(2), key)], &mut rng);
        for frame in [
            StoreFrame::Dummy,
            StoreFrame::Request { ticket: u64::MAX, envelope, receipt: [3; RECEIPT_SIZE] },
            StoreFrame::Answer { ticket: 5, answer: SealedAnswer::random(&mut rng) },
        ] {
            assert_eq!(StoreFrame::from_bytes(&frame.to_bytes()), Ok(frame));
        }
        assert_eq!(StoreFrame::from_bytes(&[9; STORE_FRAME_SIZE]), Err(BadFrame));
    }

    #[test]
    fn directory_messages_round_trip() {
        for question in [
            DirectoryQuestion::Publish(vec![1, 2, 3]),
            DirectoryQuestion::Newest { have: None },
            DirectoryQuestion::Newest { have: Some(Hash::from_bytes([7; 32])) },
            DirectoryQuestion::Changes { after: Hash::from_bytes([8; 32]) },
            DirectoryQuestion::Agree(vec![1; 9]),
            DirectoryQuestion::List(vec![2; 9]),
        ] {
            let mut bytes = question.to_bytes();
            assert_eq!(DirectoryQuestion::from_bytes(&bytes), Ok(question));
            bytes.push(0);
            assert_eq!(DirectoryQuestion::from_bytes(&bytes), Err(BadMessage));
        }
        for answer in [
            DirectoryAnswer::Accepted,
            DirectoryAnswer::Refused("why".into()),
            DirectoryAnswer::Document(vec![0; 100]),
            DirectoryAnswer::UpToDate,
            DirectoryAnswer::NotYet("2 of 3 stores".into()),
            DirectoryAnswer::BadQuestion,
            DirectoryAnswer::Changes(Vec::new()),
            DirectoryAnswer::Changes(vec![vec![1; 40].into(), vec![2; 3].into()]),
            DirectoryAnswer::Difference(vec![3; 300]),
        ] {
            assert_eq!(DirectoryAnswer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = DirectoryQuestion::from_bytes(&bytes);
            let _ = DirectoryAnswer::from_bytes(&bytes);
        }
        #[test]
        fn no_frame_panics(start in proptest::collection::vec(any::<u8>(), 16)) {
            let mut frame = [0x5a; STORE_FRAME_SIZE];
            frame.iter_mut().zip(&start).for_each(|(to, from)| *to = *from);
            let _ = StoreFrame::from_bytes(&frame);
        }
    }
    const _: () = assert!(FULL_ANSWER_SIZE + SHORT_ANSWER_SIZE + RECEIPT_SIZE + 9 <= STORE_FRAME_SIZE);
}
