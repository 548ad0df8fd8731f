//! How layers are taken off packets: the seam between the order of checks ([`crate::unwrap`]) and the arithmetic.
//!
//! An onion opens headers and finishes packets several at a time, because the arithmetic of several X25519 operations at
//! once costs far less than that of one after the other where the processor can do it. The order of checks, the keys in
//! which a packet is tried, and what is done with it do not depend on how many there are.

use shoal_protocol::X25519Secret;
use shoal_protocol::sphinx::{HeaderError, OpenHeader, Packet, UnwrapError, Unwrapped, open_header};

/// Takes layers off packets.
pub trait Onion {
    /// A packet whose header is authentic, before its replay tag was checked.
    type Opened;

    /// Packets that are best given at a time. A caller may give fewer or more.
    const WIDTH: usize;

    /// Steps 2 to 4 of the way through a node for each packet under one key: alpha, shared secret, header MAC. One result a
    /// packet, in the same order.
    fn open(&self, packets: &[&Packet], key: &X25519Secret) -> Vec<Result<Self::Opened, HeaderError>>;

    /// The replay tag: equal for all encodings of a packet that give the same shared secret.
    fn replay_tag(opened: &Self::Opened) -> [u8; 32];

    /// Steps 6 and 7: one layer off the payload, the version. One result a packet, in the same order.
    fn finish(&self, opened: Vec<Self::Opened>) -> Vec<Result<Unwrapped, UnwrapError>>;
}

/// One packet after the other, with the Sphinx crate's own arithmetic.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneByOne;

impl Onion for OneByOne {
    type Opened = OpenHeader;

    const WIDTH: usize = 1;

    fn open(&self, packets: &[&Packet], key: &X25519Secret) -> Vec<Result<OpenHeader, HeaderError>> {
        packets.iter().map(|packet| open_header(packet, key)).collect()
    }

    fn replay_tag(opened: &OpenHeader) -> [u8; 32] {
        opened.replay_tag()
    }

    fn finish(&self, opened: Vec<OpenHeader>) -> Vec<Result<Unwrapped, UnwrapError>> {
        opened.into_iter().map(OpenHeader::finish).collect()
    }
}
