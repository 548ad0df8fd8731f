//! Names that people give to contacts and groups.

use crate::mail::{ConversationId, MailError};
use std::str::FromStr;

/// Longest name, bytes of UTF-8.
pub const NAME_SIZE_MAX: usize = 128;

/// A name: one line that shows what it is, can be typed after a command, and is nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = MailError;

    fn from_str(name: &str) -> Result<Self, MailError> {
        let refuse = |why| Err(MailError::Name(name.to_owned(), why));
        if name.is_empty() || name != name.trim() {
            return refuse("it is empty, or begins or ends with a space");
        }
        if name.len() > NAME_SIZE_MAX {
            return refuse("it is longer than 128 bytes");
        }
        if name.chars().any(|letter| letter.is_control() || unseen(letter)) {
            return refuse("it has characters that cannot be seen, or that turn the direction of writing");
        }
        if name.contains(['/', '\\']) {
            return refuse("it has a slash");
        }
        if name.starts_with('-') {
            return refuse("it begins with a dash and would be taken for an option");
        }
        let lower = name.to_lowercase();
        if lower.starts_with("shoal1") || lower.starts_with("shoal-invite") {
            return refuse("it reads as an address");
        }
        if name.parse::<ConversationId>().is_ok() {
            return refuse("it reads as a conversation");
        }
        Ok(Self(name.to_owned()))
    }
}

/// Separators of lines, marks of direction, and letters of no width but the two joiners, which words and emoji need.
fn unseen(letter: char) -> bool {
    matches!(letter, '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shoal_protocol::address::Address;

    #[test]
    fn names_are_what_they_look_like() {
        for name in ["bob", "Ann Lee", "שרה", "نامه\u{200c}ها", "👩\u{200d}🚀", "o'neill", "a.b@c", "7"] {
            assert_eq!(name.parse::<Name>().unwrap().0, name);
        }
        let long = "x".repeat(NAME_SIZE_MAX + 1);
        let conversation = "0123456789abcdef0123456789ABCDEF";
        for name in [
            "",
            " ",
            " bob",
            "bob ",
            "al/ice",
            "al\\ice",
            "bob\n",
            "b\u{1b}[31mob",
            "b\u{202e}ob",
            "b\u{200b}ob",
            "b\u{2028}ob",
            "-bob",
            "--json",
            "shoal1bob",
            "SHOAL1BOB",
            "shoal-invite1x",
            conversation,
            &long,
        ] {
            assert!(matches!(name.parse::<Name>(), Err(MailError::Name(..))), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_line_and_one_word_to_the_command_line(name in "\\PC{0,20}|.{0,20}") {
            if let Ok(Name(name)) = name.parse::<Name>() {
                prop_assert!(!name.chars().any(char::is_control) && !name.starts_with('-') && name.parse::<Address>().is_err());
            }
        }
    }
}
