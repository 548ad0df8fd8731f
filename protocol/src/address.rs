//! Addresses: what a person gives to others. `shoal1…`, bech32m (BIP-350) over one version byte and the inbox key.

use crate::inbox::InboxPublic;
use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError};
use bech32::{Bech32m, Hrp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Version of the content; another one is refused with a hint to update.
const VERSION: u8 = 1;
/// Human-readable part.
const PREFIX: &str = "shoal";
/// No address is longer: prefix 5, separator 1, 33 bytes in 53 letters, checksum 6.
const LENGTH: usize = 65;

/// The address of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(InboxPublic);

/// Why a text is no address, said for the person who typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another prefix or length, or letters that bech32 does not have.
    #[error("an address begins with {PREFIX}1 and has {LENGTH} letters and digits; copy it again as a whole")]
    NotAnAddress,
    /// The checksum does not fit.
    #[error("the address has a typing error: its checksum does not fit; copy it again")]
    Checksum,
    /// Made by a newer version of Shoal.
    #[error("the address is of version {0}, this program knows version {VERSION}: update Shoal")]
    Version(u8),
    /// The key inside is not a usable point.
    #[error("the address holds no valid key; ask for it again")]
    Key,
}

impl Address {
    /// The address of an inbox key.
    pub const fn new(inbox: InboxPublic) -> Self {
        Self(inbox)
    }
    /// The inbox key.
    pub const fn inbox(&self) -> &InboxPublic {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = vec![VERSION];
        data.extend_from_slice(self.0.as_bytes());
        bech32::encode_lower_to_fmt::<Bech32m, _>(f, Hrp::parse_unchecked(PREFIX), &data).map_err(|_| fmt::Error)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.len() != LENGTH || !text.is_ascii() {
            return Err(AddressError::NotAnAddress);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|error| {
            let typo = matches!(error, CheckedHrpstringError::Checksum(_));
            if typo { AddressError::Checksum } else { AddressError::NotAnAddress }
        })?;
        if checked.hrp().to_lowercase() != PREFIX {
            return Err(AddressError::NotAnAddress);
        }
        let data: Vec<u8> = checked.byte_iter().collect();
        match data.as_slice() {
            [VERSION, key @ ..] => {
                let key = key.try_into().map_err(|_| AddressError::NotAnAddress)?;
                InboxPublic::parse(key).map(Self).map_err(|_| AddressError::Key)
            }
            [version, ..] => Err(AddressError::Version(*version)),
            [] => Err(AddressError::NotAnAddress),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::InboxKey;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn address(seed: u64) -> Address {
        Address::new(InboxKey::generate(&mut StdRng::seed_from_u64(seed)).public())
    }

    #[test]
    fn texts_round_trip() {
        for seed in 0..50 {
            let text = address(seed).to_string();
            assert_eq!((text.len(), text.starts_with("shoal1")), (LENGTH, true));
            assert_eq!(text.parse(), Ok(address(seed)));
            assert_eq!(format!("  {}\n", text.to_uppercase()).parse(), Ok(address(seed)));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let text = address(1).to_string();
        assert_eq!("".parse::<Address>(), Err(AddressError::NotAnAddress));
        assert_eq!(text.replace("shoal1", "whale1").parse::<Address>(), Err(AddressError::Checksum));
        let mut typo = text.clone();
        let letter = if typo.pop() == Some('q') { 'p' } else { 'q' };
        typo.push(letter);
        assert_eq!(typo.parse::<Address>(), Err(AddressError::Checksum));
        let newer: Vec<u8> = std::iter::once(9).chain(*address(1).inbox().as_bytes()).collect();
        let newer = bech32::encode_lower::<Bech32m>(Hrp::parse_unchecked("shoal"), &newer).unwrap();
        assert_eq!(newer.parse::<Address>(), Err(AddressError::Version(9)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<Address>();
        }
        #[test]
        fn one_wrong_letter_is_always_found(seed in 0u64..1_000, position in 6..LENGTH, letter in "[a-z0-9]") {
            let text = address(seed).to_string();
            let mut wrong = text.clone();
            wrong.replace_range(position..=position, &letter);
            prop_assume!(wrong != text);
            prop_assert!(wrong.parse::<Address>().is_err());
        }
    }
}
