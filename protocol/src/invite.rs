//! Invites: what a person gives to one other person, once. `shoal-invite1…`, bech32m (BIP-350) over
//!
//! ```text
//! version 1 ‖ inbox key 32 ‖ seed 32 ‖ generation 4 ‖ end 4 ‖ network 8    = 81 bytes, 149 letters
//! ```
//!
//! The seed leads to a chain that nobody else can find ([`boxes::invite_keys`]): in its first boxes lies a key package for one
//! use, in box [`CLAIM_BOX`] the claim of whoever uses it. Unlike an address, an invite leaves nothing in an inbox, asks for no
//! work, and says nothing of other invites of the same person.

use crate::address::{Address, AddressError};
use crate::boxes;
use crate::inbox::InboxPublic;
use crate::types::{Hash, UnixMillis};
use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError};
use bech32::{Bech32m, Hrp};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Boxes of the chain of an invite in which its key package may lie.
pub const OFFER_BOXES_MAX: u64 = 4;
/// Box of the chain in which whoever uses the invite says so: the first one there has it.
pub const CLAIM_BOX: u64 = 4;
/// Box, under the write key that the claim names, with the pointer to the Welcome.
pub const WELCOME_BOX: u64 = 5;

const VERSION: u8 = 1;
const PREFIX: &str = "shoal-invite";
/// Bytes before the text.
const SIZE: usize = 1 + 32 + 32 + 4 + 4 + 8;
/// Letters of the text: prefix 12, separator 1, 81 bytes in 130 letters, checksum 6.
const LENGTH: usize = 149;
const MINUTE_MS: u64 = 60_000;

/// One invite. Whoever holds it can use it; never printed but by [`Invite::text`].
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    inbox: InboxPublic,
    seed: Zeroizing<[u8; 32]>,
    generation: u32,
    /// Minutes since 1970.
    end: u32,
    network: [u8; 8],
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invite(redacted)")
    }
}

/// Why a text is no invite, said for the person who pasted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Another prefix or length, or letters that bech32 does not have.
    #[error("an invite begins with {PREFIX}1 and has {LENGTH} letters and digits; copy it again as a whole")]
    NotAnInvite,
    /// The checksum does not fit.
    #[error("the invite has a typing error: its checksum does not fit; copy it again")]
    Checksum,
    /// Made by a newer version of Shoal.
    #[error("the invite is of version {0}, this program knows version {VERSION}: update Shoal")]
    Version(u8),
    /// The key inside is not a usable point.
    #[error("the invite holds no valid key; ask for another one")]
    Key,
}

impl Invite {
    /// An invite of a person (`inbox`) to the network of this genesis hash. `end` is cut to the minute.
    #[must_use]
    pub fn new(
        inbox: InboxPublic,
        seed: Zeroizing<[u8; 32]>,
        generation: u32,
        end: UnixMillis,
        network: &Hash,
    ) -> Self {
        // the year 10136 is the last that fits
        let end = u32::try_from(end.0 / MINUTE_MS).unwrap_or(u32::MAX);
        Self { inbox, seed, generation, end, network: network_of(network) }
    }
    /// Who invites.
    #[must_use]
    pub const fn inbox(&self) -> &InboxPublic {
        &self.inbox
    }
    /// What its keys follow from ([`boxes::invite_keys`]).
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }
    /// Generation of stores on which its boxes lie.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }
    /// From then on it is over.
    #[must_use]
    pub fn end(&self) -> UnixMillis {
        UnixMillis(u64::from(self.end).saturating_mul(MINUTE_MS))
    }
    /// Whether it leads to this network: against mistakes, not against attacks, hence eight bytes.
    #[must_use]
    pub fn is_of(&self, network: &Hash) -> bool {
        self.network == network_of(network)
    }
    /// Keys of its chain.
    #[must_use]
    pub fn keys(&self) -> (boxes::WriteKey, boxes::ChainSecret) {
        boxes::invite_keys(&self.seed)
    }
    /// `shoal-invite1…`: a secret until it is used.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut data = Zeroizing::new(Vec::with_capacity(SIZE));
        data.push(VERSION);
        data.extend_from_slice(self.inbox.as_bytes());
        data.extend_from_slice(self.seed.as_slice());
        data.extend_from_slice(&self.generation.to_be_bytes());
        data.extend_from_slice(&self.end.to_be_bytes());
        data.extend_from_slice(&self.network);
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        // cannot fail: a string takes everything, and bech32m has room for 1,023 letters
        let _ = bech32::encode_lower_to_fmt::<Bech32m, _>(&mut *text, Hrp::parse_unchecked(PREFIX), &data);
        text
    }
}

fn network_of(network: &Hash) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&network.as_bytes()[..8]);
    bytes
}

impl FromStr for Invite {
    type Err = InviteError;
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        if text.len() != LENGTH || !text.is_ascii() {
            return Err(InviteError::NotAnInvite);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|error| {
            let typo = matches!(error, CheckedHrpstringError::Checksum(_));
            if typo { InviteError::Checksum } else { InviteError::NotAnInvite }
        })?;
        if checked.hrp().to_lowercase() != PREFIX {
            return Err(InviteError::NotAnInvite);
        }
        let data: Zeroizing<Vec<u8>> = Zeroizing::new(checked.byte_iter().collect());
        let (version, rest) = data.split_first().ok_or(InviteError::NotAnInvite)?;
        if *version != VERSION {
            return Err(InviteError::Version(*version));
        }
        parse(rest).ok_or(InviteError::NotAnInvite)?
    }
}

/// The fields after the version; `None` when there are more or fewer bytes.
fn parse(bytes: &[u8]) -> Option<Result<Invite, InviteError>> {
    let (inbox, rest) = bytes.split_first_chunk::<32>()?;
    let (seed, rest) = rest.split_first_chunk::<32>()?;
    let (generation, rest) = rest.split_first_chunk::<4>()?;
    let (end, network) = rest.split_first_chunk::<4>()?;
    let network = network.try_into().ok()?;
    let Ok(inbox) = InboxPublic::parse(*inbox) else { return Some(Err(InviteError::Key)) };
    Some(Ok(Invite {
        inbox,
        seed: Zeroizing::new(*seed),
        generation: u32::from_be_bytes(*generation),
        end: u32::from_be_bytes(*end),
        network,
    }))
}

/// What a person pastes to name another: an address, or an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Introduction {
    /// `shoal1…`.
    Address(Address),
    /// `shoal-invite1…`.
    Invite(Invite),
}

/// Why a text is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntroductionError {
    /// It looks like an address, or like nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It looks like an invite.
    #[error(transparent)]
    Invite(#[from] InviteError),
}

impl FromStr for Introduction {
    type Err = IntroductionError;
    fn from_str(text: &str) -> Result<Self, IntroductionError> {
        let start = text.trim().get(..PREFIX.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)) {
            Ok(Self::Invite(text.parse()?))
        } else {
            Ok(Self::Address(text.parse()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::InboxKey;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn invite(seed: u8) -> Invite {
        let inbox = InboxKey::generate(&mut StdRng::seed_from_u64(u64::from(seed))).public();
        let network = Hash::of("test", &[seed]);
        Invite::new(inbox, Zeroizing::new([seed; 32]), 7, UnixMillis(1_700_000_012_345), &network)
    }

    #[test]
    fn texts_round_trip() {
        for seed in 0..50 {
            let text = invite(seed).text();
            assert_eq!((text.len(), text.starts_with("shoal-invite1")), (LENGTH, true));
            assert_eq!(text.parse(), Ok(invite(seed)));
            assert_eq!(format!(" {}\n", text.to_uppercase()).parse(), Ok(Introduction::Invite(invite(seed))));
        }
        let read: Invite = invite(3).text().parse().unwrap();
        assert_eq!(read.end(), UnixMillis(1_700_000_012_345 / 60_000 * 60_000));
        assert!(read.is_of(&Hash::of("test", &[3])) && !read.is_of(&Hash::of("test", &[4])));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let text = invite(1).text();
        assert_eq!("".parse::<Invite>(), Err(InviteError::NotAnInvite));
        let shorter: String = text.chars().take(LENGTH - 1).collect();
        assert_eq!(shorter.parse::<Invite>(), Err(InviteError::NotAnInvite));
        assert!(matches!(shorter.parse::<Introduction>(), Err(IntroductionError::Invite(_))));
        assert!(matches!("shoal".parse::<Introduction>(), Err(IntroductionError::Address(_))));
        let encode = |data: &[u8]| bech32::encode_lower::<Bech32m>(Hrp::parse_unchecked(PREFIX), data).unwrap();
        let mut data = vec![9; SIZE];
        assert_eq!(encode(&data).parse::<Invite>(), Err(InviteError::Version(9)));
        data[0] = VERSION;
        data[1..33].fill(0);
        assert_eq!(encode(&data).parse::<Invite>(), Err(InviteError::Key));
        assert_eq!(format!("{:?}", invite(1)), "Invite(redacted)");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,160}") {
            let _ = text.parse::<Introduction>();
        }
        #[test]
        fn one_wrong_letter_is_found(seed: u8, position in 13..LENGTH, letter in "[a-z0-9]") {
            let text = invite(seed).text();
            let mut wrong = text.to_string();
            wrong.replace_range(position..=position, &letter);
            prop_assume!(wrong != *text);
            prop_assert!(wrong.parse::<Invite>().is_err());
        }
    }
}
