//! Every size of the protocol, derived in one place (design: geometry; the same table is in `spec/geometry.md`).
//!
//! All lengths are in bytes. A size that does not follow from the others is given with the reason for its value; the
//! `const` assertions at the end stop the build when a sum no longer fits.

/// Sphinx header: alpha 32, MAC 16, encrypted routing information of five hops 300 (crate `sphinx-packet`).
pub const HEADER_SIZE: usize = 348;
/// What the Sphinx payload adds to its plaintext: 16 zero bytes in front, one byte that ends it.
pub const PAYLOAD_OVERHEAD: usize = 17;
/// Longest Sphinx route; requests and replies both use all of it.
pub const HOPS: usize = 5;
/// Plaintext of a box body that the store sees as uniformly random.
pub const BOX_SIZE: usize = 1_800;
/// XChaCha20 nonce in front of a box body.
pub const BOX_NONCE_SIZE: usize = 24;
/// Poly1305 tag, everywhere.
pub const TAG_SIZE: usize = 16;
/// What one box carries for its reader: body minus nonce, tag and the two-byte length.
pub const BOX_PLAINTEXT_SIZE: usize = BOX_SIZE - BOX_NONCE_SIZE - TAG_SIZE - 2;
/// A SURB of version 260: header, address of the first hop 32, one payload seed 16.
pub const SURB_SIZE: usize = HEADER_SIZE + 32 + 16;
/// Random non-zero name of a SURB, read by its creator only.
pub const SURB_IDENTIFIER_SIZE: usize = 16;

/// Operation 1, box id 32, signature (or hashcash nonce) 64, body.
pub const OPERATION_SIZE: usize = 1 + 32 + 64 + BOX_SIZE;
/// Two store indices 4, ephemeral key 32, the content key wrapped for each replica 2 × 48.
pub const ENVELOPE_HEADER_SIZE: usize = 4 + 32 + 2 * (32 + TAG_SIZE);
/// An envelope as the courier sees it.
pub const ENVELOPE_SIZE: usize = ENVELOPE_HEADER_SIZE + OPERATION_SIZE + TAG_SIZE;
/// What a request carries: a SURB and an envelope.
pub const REQUEST_SIZE: usize = SURB_SIZE + ENVELOPE_SIZE;
/// Bytes of a packet's plaintext that nothing uses yet; always zero.
pub const SPARE_SIZE: usize = 10;
/// Plaintext of one packet.
pub const PLAINTEXT_SIZE: usize = REQUEST_SIZE + SPARE_SIZE;
/// Sphinx payload of one packet.
pub const PAYLOAD_SIZE: usize = PLAINTEXT_SIZE + PAYLOAD_OVERHEAD;
/// One packet, whatever it carries, on every link.
pub const PACKET_SIZE: usize = HEADER_SIZE + PAYLOAD_SIZE;

/// Nonce of a sealed answer; the answer's key is derived from it, so it may not repeat under one content key.
pub const ANSWER_NONCE_SIZE: usize = 16;
/// Nonce, then sealed: status 1, entry number 8, body.
pub const FULL_ANSWER_SIZE: usize = ANSWER_NONCE_SIZE + 1 + 8 + BOX_SIZE + TAG_SIZE;
/// Nonce, then sealed: status 1, entry number 8, zeros 7.
pub const SHORT_ANSWER_SIZE: usize = ANSWER_NONCE_SIZE + 16 + TAG_SIZE;
/// A sealed signature of the first replica, or sealed zeros.
pub const RECEIPT_SIZE: usize = 64 + TAG_SIZE;
/// Plaintext of every reply: one full answer, one short answer.
pub const REPLY_SIZE: usize = FULL_ANSWER_SIZE + SHORT_ANSWER_SIZE;

/// A frame between courier and replica, either way: kind 1, ticket 8, then the larger of the two contents.
pub const STORE_FRAME_SIZE: usize = 1 + 8 + ENVELOPE_SIZE + RECEIPT_SIZE;

/// What one QUIC datagram of the usual path MTU carries of a stream after its own framing (measured, crate quinn).
pub const QUIC_DATAGRAM_SIZE: usize = 1_452;

const _: () = {
    assert!(PACKET_SIZE == 2_816);
    assert!(PAYLOAD_SIZE == 2_468);
    assert!(PLAINTEXT_SIZE == 2_451);
    assert!(SURB_SIZE == 396);
    assert!(ENVELOPE_SIZE == 2_045);
    assert!(FULL_ANSWER_SIZE == 1_841);
    assert!(REPLY_SIZE <= PLAINTEXT_SIZE);
    assert!(FULL_ANSWER_SIZE + SHORT_ANSWER_SIZE + RECEIPT_SIZE <= ENVELOPE_SIZE + RECEIPT_SIZE);
    // two datagrams carry one packet: 40 bytes of each are QUIC's header, stream frame and tag
    assert!(PACKET_SIZE <= 2 * (QUIC_DATAGRAM_SIZE - 40));
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_agree_with_the_sphinx_crate() {
        assert_eq!(sphinx_packet::header::HEADER_SIZE, HEADER_SIZE);
        assert_eq!(sphinx_packet::payload::PAYLOAD_OVERHEAD_SIZE, PAYLOAD_OVERHEAD);
        assert_eq!(sphinx_packet::constants::MAX_PATH_LENGTH, HOPS);
    }
}
