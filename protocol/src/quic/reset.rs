//! Stateless resets that survive a restart: a node that died tells its old links so as soon as it is back, instead of
//! letting them wait for their idle timeout.

use blake3::Hasher;
use quinn::crypto::{CryptoError, HmacKey};
use std::fmt;
use zeroize::Zeroizing;

use crate::types::IdentityKey;

/// Key of the reset tokens of one endpoint: BLAKE3 keyed by a secret of the identity key and the port. The port is in
/// it because two endpoints with one key could be made to betray each other's tokens (RFC 9000 §21.11).
pub(super) struct ResetKey(Zeroizing<[u8; 32]>);

impl ResetKey {
    pub(super) fn new(identity: &IdentityKey, port: u16) -> Self {
        let mut hasher = Hasher::new_derive_key("shoal/1 quic stateless reset key");
        hasher.update(&*identity.seed());
        hasher.update(&port.to_be_bytes());
        Self(Zeroizing::new(*hasher.finalize().as_bytes()))
    }

    fn token(&self, connection_id: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, connection_id)
    }
}

impl fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey(redacted)")
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        // quinn asks for signature_len() bytes; anything else is filled as far as it goes
        for (out, byte) in signature_out.iter_mut().zip(self.token(data).as_bytes()) {
            *out = *byte;
        }
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // blake3::Hash compares in constant time
        let signature = <[u8; 32]>::try_from(signature).map_err(|_| CryptoError)?;
        if self.token(data) == blake3::Hash::from_bytes(signature) { Ok(()) } else { Err(CryptoError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_by_key_port_and_connection() {
        let identity = IdentityKey::from_seed(&[1; 32]);
        let token = |key: &ResetKey, id: &[u8]| {
            let mut out = [0; 32];
            key.sign(id, &mut out);
            assert!(key.verify(id, &out).is_ok());
            out
        };
        let key = ResetKey::new(&identity, 4000);
        assert_eq!(token(&key, b"connection"), token(&ResetKey::new(&identity, 4000), b"connection"));
        assert_ne!(token(&key, b"connection"), token(&key, b"another"));
        assert_ne!(token(&key, b"connection"), token(&ResetKey::new(&identity, 4001), b"connection"));
        let other = ResetKey::new(&IdentityKey::from_seed(&[2; 32]), 4000);
        assert_ne!(token(&key, b"connection"), token(&other, b"connection"));
        assert!(key.verify(b"connection", &[0; 32]).is_err());
    }
}
