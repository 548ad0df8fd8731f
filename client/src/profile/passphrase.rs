//! Passphrases, and the key that Argon2id (RFC 9106) makes of one.

use argon2::{Algorithm, Argon2, Params, Version};
use std::fmt;
use zeroize::Zeroizing;

/// Longest passphrase, bytes of UTF-8.
pub const PASSPHRASE_SIZE_MAX: usize = 1_024;
/// Bytes of the salt.
pub(super) const SALT_SIZE: usize = 16;

/// What a person remembers. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

/// Why a text is no passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a passphrase is one line of text with 1 to {PASSPHRASE_SIZE_MAX} bytes")]
pub struct NoPassphrase;

impl Passphrase {
    /// Takes the first line of what was typed or lies in a file. Spaces count.
    ///
    /// # Errors
    /// When the line is empty, too long or no UTF-8.
    pub fn first_line(bytes: &[u8]) -> Result<Self, NoPassphrase> {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.len() > PASSPHRASE_SIZE_MAX {
            return Err(NoPassphrase);
        }
        let text = std::str::from_utf8(line).map_err(|_| NoPassphrase)?;
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text, for what opens or closes with it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        // two that the same person typed: how long the comparison takes tells nobody anything
        *self.0 == *other.0
    }
}

/// What a guess costs. Kept beside what it protects, so that a later version may ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, KiB.
    memory_kib: u32,
    /// Passes over that memory.
    passes: u32,
    /// Lanes that could be computed side by side; this implementation takes one after the other.
    lanes: u32,
}

/// Numbers that no `shoal` writes: far too little, or so much that a changed file could exhaust the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its passphrase asks for {memory_kib} KiB, {passes} passes and {lanes} lanes, which is out of range")]
pub struct CostOutOfRange {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// What a new passphrase costs: 256 MiB, three passes. Measured in `client/README.md`.
    pub const NEW: Self = Self { memory_kib: 256 << 10, passes: 3, lanes: 1 };
    /// The least that is accepted, for tests: 64 MiB, one pass.
    pub const LEAST: Self = Self { memory_kib: Self::MEMORY_KIB_MIN, passes: 1, lanes: 1 };
    const MEMORY_KIB_MIN: u32 = 64 << 10;
    /// 1 GiB; with 16 passes about 20 s of work on a machine on which [`Cost::NEW`] takes one.
    const MEMORY_KIB_MAX: u32 = 1 << 20;
    const PASSES_MAX: u32 = 16;
    const LANES_MAX: u32 = 4;

    /// Takes numbers that lay in a file.
    ///
    /// # Errors
    /// When they are out of range.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CostOutOfRange> {
        let is_in_range = (Self::MEMORY_KIB_MIN..=Self::MEMORY_KIB_MAX).contains(&memory_kib)
            && (1..=Self::PASSES_MAX).contains(&passes)
            && (1..=Self::LANES_MAX).contains(&lanes);
        if is_in_range {
            Ok(Self { memory_kib, passes, lanes })
        } else {
            Err(CostOutOfRange { memory_kib, passes, lanes })
        }
    }

    /// Memory in KiB, passes, lanes: what [`Cost::new`] takes.
    #[must_use]
    pub fn numbers(&self) -> [u32; 3] {
        [self.memory_kib, self.passes, self.lanes]
    }

    /// The key of a passphrase. `None`: the memory for it cannot be had.
    pub(super) fn derive(&self, passphrase: &Passphrase, salt: &[u8; SALT_SIZE]) -> Option<Zeroizing<[u8; 32]>> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()?;
        let mut blocks = Vec::new();
        // asked for first: a machine without it gets an answer and not an abort
        blocks.try_reserve_exact(params.block_count()).ok()?;
        blocks.resize(params.block_count(), argon2::Block::default());
        let mut blocks = Zeroizing::new(blocks);
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(passphrase.reveal().as_bytes(), salt, &mut *key, &mut *blocks)
            .ok()?;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_line_counts() {
        let read = |bytes: &[u8]| Passphrase::first_line(bytes).map(|passphrase| passphrase.reveal().to_owned());
        assert_eq!(read(b"correct horse\nbattery").as_deref(), Ok("correct horse"));
        assert_eq!(read(b"correct horse\r\n").as_deref(), Ok("correct horse"));
        assert_eq!(read(b" spaces stay ").as_deref(), Ok(" spaces stay "));
        for nothing in [&b""[..], b"\nlate", b"\r\n", b"\xff\xfe\n", &[b'x'; PASSPHRASE_SIZE_MAX + 1]] {
            assert_eq!(read(nothing), Err(NoPassphrase), "{nothing:?}");
        }
    }

    #[test]
    fn a_key_depends_on_passphrase_salt_and_cost() {
        let key = |text: &str, salt: u8, cost: Cost| {
            *cost.derive(&Passphrase::first_line(text.as_bytes()).unwrap(), &[salt; SALT_SIZE]).unwrap()
        };
        let one = key("horse", 1, Cost::LEAST);
        assert_eq!(one, key("horse", 1, Cost::LEAST));
        for other in [
            key("Horse", 1, Cost::LEAST),
            key("horse", 2, Cost::LEAST),
            key("horse", 1, Cost { passes: 2, ..Cost::LEAST }),
        ] {
            assert_ne!(one, other);
        }
        // computed by the reference implementation: argon2id, 64 MiB, t=1, p=1, salt of 16 bytes 01
        assert_eq!(hex::encode(one), REFERENCE);
    }

    const REFERENCE: &str = "92c1fabab27ba727d3c06b43606f79a0d401c2e2443d84c8cbb24dd08d6c6f9b";

    proptest! {
        #[test]
        fn costs_are_bounded(memory_kib: u32, passes in 0u32..40, lanes in 0u32..9) {
            if let Ok(cost) = Cost::new(memory_kib, passes, lanes) {
                let [memory_kib, passes, lanes] = cost.numbers();
                prop_assert!((65_536..=1_048_576).contains(&memory_kib) && passes <= 16 && lanes <= 4);
                prop_assert_eq!(Cost::new(memory_kib, passes, lanes), Ok(cost));
            }
        }
    }
}
