//! Sealing under keys that serve one message.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use zeroize::Zeroizing;

/// Derives a key from the parts, which have fixed lengths.
pub(super) fn hash_key(context: &'static str, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    Zeroizing::new(*hasher.finalize().as_bytes())
}

/// Seals under a key that is used for this one message only, hence the constant nonce.
pub(super) fn seal_once(key: &[u8; 32], aad: &[u8], message: &[u8]) -> Vec<u8> {
    // the AEAD fails only beyond 256 GiB; an empty result would not open anywhere
    ChaCha20Poly1305::new(&(*key).into()).encrypt(&Nonce::default(), Payload { msg: message, aad }).unwrap_or_default()
}

/// Opens what [`seal_once`] sealed.
pub(super) fn open_once(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    ChaCha20Poly1305::new(&(*key).into())
        .decrypt(&Nonce::default(), Payload { msg: sealed, aad })
        .ok()
        .map(Zeroizing::new)
}

/// Two parts in an array of their common length.
pub(super) fn fill<const N: usize>(parts: [&[u8]; 2]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
    out
}
