//! Safety numbers: what two people compare, over another way than Shoal, to know that each has the other's true address on
//! the same network. Described in `protocol/spec/conversations.md`.

use crate::inbox::InboxPublic;
use crate::types::Hash;
use crate::words;
use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError};
use bech32::{Bech32m, Hrp};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq as _;

/// Context of the hash.
const CONTEXT: &str = "shoal/1 safety number";
/// Human-readable part of the code.
const PREFIX: &str = "shoal-verify";
/// Version of the code's content.
const VERSION: u8 = 1;
/// Digits: 64 × log2(10) = 212.6 bits.
pub const DIGITS: usize = 64;
/// Digits of one group.
pub const GROUP: usize = 4;
/// Words: 13 × 16 = 208 bits.
pub const WORDS: usize = 13;
/// Longest text that is looked at: 64 digits with as many separators, and twice that.
const TEXT_MAX: usize = 256;

/// The safety number of two people on one network: the same whoever of them computes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SafetyNumber([u8; 32]);

impl fmt::Debug for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // it tells who knows whom to whoever knows both addresses
        f.write_str("SafetyNumber(redacted)")
    }
}

/// Why a text is no safety number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SafetyNumberError {
    /// Neither digits nor words nor a code.
    #[error("a safety number is {DIGITS} digits, {WORDS} words, or a code that begins with {PREFIX}1")]
    NotANumber,
    /// A code whose checksum does not fit.
    #[error("the code has a typing error: its checksum does not fit; copy it again")]
    Checksum,
    /// A code of a newer version of Shoal.
    #[error("the code is of version {0}, this program knows version {VERSION}: update Shoal")]
    Version(u8),
}

/// What somebody read out, typed or scanned: a safety number in one of its forms.
#[derive(Clone, PartialEq, Eq)]
pub struct Claimed(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    Digits(String),
    Words(Vec<u8>),
    Whole([u8; 32]),
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claimed(redacted)")
    }
}

impl SafetyNumber {
    /// The number of two inbox keys, in whichever order, on the network of this genesis hash.
    pub fn of(one: &InboxPublic, other: &InboxPublic, network: &Hash) -> Self {
        let (one, other) = (one.as_bytes(), other.as_bytes());
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let message = [network.as_bytes().as_slice(), low, high].concat();
        Self(*Hash::of(CONTEXT, &message).as_bytes())
    }

    /// The whole of it, 256 bits.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The number modulo 10^64, in 16 groups of four digits.
    pub fn digits(&self) -> String {
        let groups = self.groups().map(|group| format!("{group:0GROUP$}"));
        groups.join(" ")
    }

    /// Its groups, the most significant first: the remainders of 16 divisions by 10,000, from the last to the first.
    fn groups(&self) -> [u32; DIGITS / GROUP] {
        const BASE: u32 = 10_u32.pow(GROUP as u32);
        let mut number = self.0;
        let mut groups = [0; DIGITS / GROUP];
        for group in groups.iter_mut().rev() {
            let mut remainder = 0;
            for byte in &mut number {
                let dividend = remainder << 8 | u32::from(*byte);
                // below 256, as the remainder before is below the base
                *byte = (dividend / BASE) as u8;
                remainder = dividend % BASE;
            }
            *group = remainder;
        }
        groups
    }

    /// The first 208 bits as 13 words.
    pub fn words(&self) -> String {
        let (said, _) = self.0.split_at(2 * WORDS);
        words::write(said)
    }

    /// All of it with a checksum, for a QR code or to be copied: `shoal-verify1…`, 72 letters and digits.
    pub fn code(&self) -> String {
        let data: Vec<u8> = std::iter::once(VERSION).chain(self.0).collect();
        // a prefix and data of these lengths always encode
        bech32::encode_lower::<Bech32m>(Hrp::parse_unchecked(PREFIX), &data).unwrap_or_default()
    }

    /// Whether somebody else has the same number.
    pub fn matches(&self, claimed: &Claimed) -> bool {
        match &claimed.0 {
            Form::Digits(digits) => {
                let own: String = self.digits().split(' ').collect();
                own.as_bytes().ct_eq(digits.as_bytes()).into()
            }
            Form::Words(bytes) => self.0.split_at(2 * WORDS).0.ct_eq(bytes).into(),
            Form::Whole(bytes) => self.0.ct_eq(bytes).into(),
        }
    }
}

impl FromStr for Claimed {
    type Err = SafetyNumberError;

    fn from_str(text: &str) -> Result<Self, SafetyNumberError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(SafetyNumberError::NotANumber);
        }
        if text.to_ascii_lowercase().starts_with(PREFIX) {
            return whole(text).map(Form::Whole).map(Self);
        }
        // people write digits with spaces, dashes and line breaks between the groups
        let dense: String = text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-').collect();
        if dense.len() == DIGITS && dense.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self(Form::Digits(dense)));
        }
        words::read(text)
            .filter(|bytes| bytes.len() == 2 * WORDS)
            .map(|bytes| Self(Form::Words(bytes)))
            .ok_or(SafetyNumberError::NotANumber)
    }
}

fn whole(text: &str) -> Result<[u8; 32], SafetyNumberError> {
    let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|error| {
        let typo = matches!(error, CheckedHrpstringError::Checksum(_));
        if typo { SafetyNumberError::Checksum } else { SafetyNumberError::NotANumber }
    })?;
    if checked.hrp().to_lowercase() != PREFIX {
        return Err(SafetyNumberError::NotANumber);
    }
    let data: Vec<u8> = checked.byte_iter().collect();
    match data.as_slice() {
        [VERSION, number @ ..] => number.try_into().map_err(|_| SafetyNumberError::NotANumber),
        [version, ..] => Err(SafetyNumberError::Version(*version)),
        [] => Err(SafetyNumberError::NotANumber),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::InboxKey;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key(seed: u64) -> InboxPublic {
        InboxKey::generate(&mut StdRng::seed_from_u64(seed)).public()
    }

    fn number(one: u64, other: u64, network: u8) -> SafetyNumber {
        SafetyNumber::of(&key(one), &key(other), &Hash::from_bytes([network; 32]))
    }

    fn claimed(text: &str) -> Claimed {
        text.parse().expect("a safety number")
    }

    #[test]
    fn both_sides_compute_the_same_number_and_nobody_else_does() {
        let mine = number(1, 2, 9);
        assert_eq!(mine, number(2, 1, 9));
        for other in [number(1, 3, 9), number(3, 2, 9), number(1, 2, 8), number(1, 1, 9)] {
            for text in [other.digits(), other.words(), other.code()] {
                assert!(!mine.matches(&claimed(&text)), "{text}");
            }
        }
    }

    #[test]
    fn digits_are_the_number_in_decimal() {
        assert_eq!(SafetyNumber([0; 32]).digits(), ["0000"; 16].join(" "));
        let mut seven = [0; 32];
        seven[31] = 7;
        assert!(SafetyNumber(seven).digits().ends_with("0000 0007"));
        // 2^256 − 1 is 115792089237316195423570985008687907853269984665640564039457584007913129639935
        assert_eq!(
            SafetyNumber([0xff; 32]).digits(),
            "6195 4235 7098 5008 6879 0785 3269 9846 6564 0564 0394 5758 4007 9131 2963 9935"
        );
    }

    #[test]
    fn texts_that_are_no_safety_number_are_refused() {
        let code = number(1, 2, 9).code();
        assert_eq!(code.len(), 72);
        let mut typo = code.clone();
        let letter = if typo.pop() == Some('q') { 'p' } else { 'q' };
        typo.push(letter);
        let newer: Vec<u8> = std::iter::once(9).chain([0; 32]).collect();
        let newer = bech32::encode_lower::<Bech32m>(Hrp::parse_unchecked(PREFIX), &newer).expect("encodes");
        let long = "1".repeat(TEXT_MAX + 1);
        for (text, error) in [
            ("", SafetyNumberError::NotANumber),
            ("1234 5678", SafetyNumberError::NotANumber),
            ("babab babab", SafetyNumberError::NotANumber),
            (&typo, SafetyNumberError::Checksum),
            (&newer, SafetyNumberError::Version(9)),
            (&long, SafetyNumberError::NotANumber),
        ] {
            assert_eq!(text.parse::<Claimed>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_form_is_understood_however_it_is_written(one: u8, other: u8) {
            let number = number(one.into(), other.into(), 3);
            let digits = number.digits();
            for text in [
                digits.clone(), digits.replace(' ', ""), digits.replace(' ', "-"), digits.replace(' ', "\n"),
                number.words(), number.words().to_uppercase(), number.code(), number.code().to_uppercase(),
            ] {
                prop_assert!(number.matches(&claimed(&format!(" {text}\n"))), "{}", text);
            }
        }
        #[test]
        fn no_text_panics(text in ".{0,90}", digits in "[0-9 ]{60,80}") {
            let _ = text.parse::<Claimed>();
            let _ = digits.parse::<Claimed>();
            let _ = format!("shoal-verify1{text}").parse::<Claimed>();
        }
        #[test]
        fn a_changed_digit_is_noticed(position in 0..DIGITS, digit in 0u8..10) {
            let number = number(1, 2, 9);
            let mut digits: Vec<u8> = number.digits().bytes().filter(|byte| *byte != b' ').collect();
            let same = digits[position] == b'0' + digit;
            digits[position] = b'0' + digit;
            let text = String::from_utf8(digits).expect("digits");
            prop_assert_eq!(number.matches(&claimed(&text)), same);
        }
    }
}
