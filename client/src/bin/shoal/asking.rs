//! Passphrases: from a file, or from the person at the terminal, where they are not shown. Never from an argument or the
//! environment, which other processes can read.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use shoal_client::io::{Exit, Failure, fetch_from_keyring};
use shoal_client::mail::MailError;
use shoal_client::profile::{KeyFile, Moved, Opener, PASSPHRASE_SIZE_MAX, Passphrase, Protection};
use zeroize::Zeroizing;

use crate::output::Out;

/// Names a file with the passphrase, for programs that cannot pass the option.
const VARIABLE: &str = "SHOAL_PASSPHRASE_FILE";
/// How often a person may try.
pub(crate) const TRIES: u32 = 3;

/// What opens a profile.
pub(crate) struct Opening {
    pub(crate) opener: Opener,
    /// A person typed it, and may have slipped.
    pub(crate) typed: bool,
}

/// What opens the profile, from wherever it is to be had.
pub(crate) async fn opening(profile: &Path, out: &Out) -> Result<Opening, Failure> {
    Moved::refuse(profile)?;
    let key_file = KeyFile::read(profile)?;
    let opening = |opener, typed| Ok(Opening { opener, typed });
    match (key_file.protection(), key_file.keyring_entry()) {
        (Protection::Keyring, Some(entry)) => {
            opening(Opener::Keyring(fetch_from_keyring(key_file.id(), entry).await?), false)
        }
        (Protection::File | Protection::Keyring, _) => opening(Opener::File, false),
        (Protection::Passphrase, _) => {
            if let Some(passphrase) = given(out)? {
                return opening(Opener::Passphrase(passphrase), false);
            }
            if !can_ask(out) {
                return Err(
                    MailError::Sealed { profile: profile.to_owned(), protection: Protection::Passphrase }.into()
                );
            }
            let typed = ask(&format!("Passphrase of {}: ", profile.display()))?;
            opening(Opener::Passphrase(typed), true)
        }
    }
}

/// The passphrase in the file that the command or the environment names.
pub(crate) fn given(out: &Out) -> Result<Option<Passphrase>, Failure> {
    let named = out.passphrase_file.map(Path::to_owned);
    let file = named.or_else(|| std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from));
    file.map(|file| from_file(&file)).transpose()
}

/// The first line of a file.
pub(crate) fn from_file(path: &Path) -> Result<Passphrase, Failure> {
    let failed = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Io };
        let next = "give a file with the passphrase in its first line";
        Failure::new(exit, "passphrase_file", format!("{}: {error}", path.display()), next)
    };
    from_reader(File::open(path).map_err(failed)?, &path.display().to_string())
}

/// The first line of what a command hands to the daemon that it starts.
pub(crate) fn from_standard_input() -> Result<Passphrase, Failure> {
    from_reader(io::stdin().lock(), "standard input")
}

fn from_reader(from: impl Read, name: &str) -> Result<Passphrase, Failure> {
    let bad = |what: String| {
        let next = "write the passphrase into its first line, as text";
        Failure::new(Exit::Configuration, "bad_passphrase_file", format!("{name}: {what}"), next)
    };
    // room for all of it: a buffer that grows leaves pieces of the passphrase where it was before
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 * PASSPHRASE_SIZE_MAX));
    let limit = 2 * PASSPHRASE_SIZE_MAX as u64;
    from.take(limit).read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?;
    Passphrase::first_line(&bytes).map_err(|error| bad(error.to_string()))
}

/// Whether there is a person who sees a question.
pub(crate) fn can_ask(out: &Out) -> bool {
    !out.json && io::stderr().is_terminal() && File::open("/dev/tty").is_ok()
}

/// Asks at the terminal.
pub(crate) fn ask(question: &str) -> Result<Passphrase, Failure> {
    let typed = rpassword::prompt_password(question).map(Zeroizing::new).map_err(|error| {
        let next = "try again, or give --passphrase-file FILE";
        Failure::new(Exit::Usage, "no_passphrase", format!("no passphrase was typed: {error}"), next)
    })?;
    Passphrase::first_line(typed.as_bytes())
        .map_err(|error| Failure::new(Exit::Usage, "no_passphrase", error.to_string(), "try again"))
}

/// A new passphrase: from the file given, or asked for twice, so that a slip of the finger closes nothing for ever.
/// `option` names the file.
pub(crate) fn new(file: Option<Passphrase>, what: &str, option: &str, out: &Out) -> Result<Passphrase, Failure> {
    if let Some(passphrase) = file {
        return Ok(passphrase);
    }
    if !can_ask(out) {
        let message = format!("{what} is needed, and there is nobody to ask");
        let next = format!("give {option} FILE, or run it in a terminal without --json");
        return Err(Failure::new(Exit::Permission, "passphrase_needed", message, next));
    }
    let first = ask(&format!("{what}: "))?;
    if first == ask("Once more: ")? {
        return Ok(first);
    }
    Err(Failure::new(Exit::Usage, "no_passphrase", "these were two different passphrases", "try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_first_line_and_bounded() {
        let read = |bytes: &[u8]| from_reader(bytes, "it").map(|passphrase| passphrase.reveal().to_owned());
        assert_eq!(read(b"correct horse\nbattery").unwrap(), "correct horse");
        for bad in [&b""[..], b"\n", b"\xff\n"] {
            assert_eq!(read(bad).unwrap_err().code, "bad_passphrase_file");
        }
        assert!(from_reader(io::repeat(b'x'), "it").is_err());
        let missing = from_file(Path::new("/nowhere/passphrase")).unwrap_err();
        assert_eq!((missing.code.as_str(), missing.exit), ("passphrase_file", Some(Exit::Io)));
    }

    #[test]
    fn programs_are_never_asked() {
        assert!(!can_ask(&Out::new(true)));
        let failure = new(None, "A passphrase", "--passphrase-file", &Out::new(true)).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("passphrase_needed", Some(Exit::Permission)));
    }
}
