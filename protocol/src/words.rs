//! Pronounceable words, to compare bits over a telephone: a network's fingerprint, a safety number.

const CONSONANTS: [char; 16] = ['b', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'z'];
const VOWELS: [char; 4] = ['a', 'i', 'o', 'u'];
/// Letters of a word: how far its bits lie to the left, and which letters they choose from.
const LETTERS: [(u32, &[char]); 5] =
    [(12, &CONSONANTS), (10, &VOWELS), (6, &CONSONANTS), (4, &VOWELS), (0, &CONSONANTS)];

/// One word for every two bytes, with spaces between: consonant (4 bits), vowel (2), consonant (4), vowel (2), consonant
/// (4). A last single byte gives none.
pub fn write(bytes: &[u8]) -> String {
    let word = |pair: &[u8; 2]| {
        let bits = u16::from_be_bytes(*pair);
        let letter = |(shift, letters): &(u32, &[char])| {
            let index = usize::from(bits >> shift) & (letters.len() - 1);
            letters.get(index).copied()
        };
        LETTERS.iter().filter_map(letter).collect::<String>()
    };
    bytes.as_chunks().0.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The bytes of words, whatever case and white space they are written with. `None`: a word is none of ours.
pub fn read(text: &str) -> Option<Vec<u8>> {
    let word = |word: &str| {
        let word = word.to_ascii_lowercase();
        let mut bits = 0u16;
        let mut letters = word.chars();
        for (shift, choice) in LETTERS {
            let letter = letters.next()?;
            let index = choice.iter().position(|candidate| *candidate == letter)?;
            bits |= u16::try_from(index).ok()? << shift;
        }
        letters.next().is_none().then_some(bits.to_be_bytes())
    };
    text.split_whitespace().map(word).collect::<Option<Vec<[u8; 2]>>>().map(|pairs| pairs.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_stable() {
        assert_eq!(write(&[0; 12]), "babab babab babab babab babab babab");
        assert_eq!(write(&[0xff; 12]), "zuzuz zuzuz zuzuz zuzuz zuzuz zuzuz");
        assert_eq!(write(&[7]), "");
        for none in ["babax", "baba", "bababa", "babab,babab", "bebeb", "baba\u{300}b"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn words_say_their_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            bytes.truncate(bytes.len() & !1);
            let words = write(&bytes);
            prop_assert_eq!(read(&words), Some(bytes.clone()));
            prop_assert_eq!(read(&format!("\n {}\t", words.to_uppercase().replace(' ', "  "))), Some(bytes));
        }
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = read(&text);
        }
    }
}
