//! A passphrase, from a file or from the terminal, where it is not shown.

use crate::failure::{Failure, Kind};
use crate::io::files;
use age::secrecy::SecretString;
use anyhow::{Context as _, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use zeroize::Zeroizing;

/// Longest passphrase, in bytes.
const LENGTH_MAX: u64 = 1_024;

/// The first line of a file.
pub fn from_file(path: &Path) -> Result<SecretString, Failure> {
    let bytes =
        files::read(path).map_err(|error| Failure::io(&error, "give a file with the passphrase in its first line"))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(text) if !text.is_empty() => Ok(SecretString::from(text.to_owned())),
        Ok(_) | Err(_) => Err(Failure::new(
            Kind::Configuration,
            format!("the first line of {} is no passphrase", path.display()),
            "write it into the first line, as text",
        )),
    }
}

/// Asks at the terminal; twice if it is a new one, so that a slip of the finger does not close a backup for ever.
pub fn from_terminal(new: bool) -> Result<SecretString, Failure> {
    let mut terminal = Terminal::open().map_err(|_| {
        Failure::new(
            Kind::Usage,
            "there is no terminal to ask for a passphrase at",
            if new {
                "give --passphrase-file FILE or --recipient age1…"
            } else {
                "give --passphrase-file FILE or --identity FILE"
            },
        )
    })?;
    let next = "try again, or give --passphrase-file FILE";
    let ask = |terminal: &mut Terminal, prompt| terminal.ask(prompt).map_err(|error| Failure::io(&error, next));
    let first = ask(&mut terminal, "passphrase of the backup: ")?;
    if first.is_empty() {
        return Err(Failure::new(Kind::Usage, "no passphrase was given", next));
    }
    if new && ask(&mut terminal, "once more: ")? != first {
        return Err(Failure::new(Kind::Usage, "these were two different passphrases", next));
    }
    Ok(SecretString::from(first.as_str().to_owned()))
}

/// The terminal of the process, with its echo off. What it was before comes back on drop.
struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&file)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&file, OptionalActions::Flush, &quiet)?;
        Ok(Self { file, before })
    }

    fn ask(&mut self, prompt: &str) -> Result<Zeroizing<String>> {
        self.file.write_all(prompt.as_bytes()).context("the terminal")?;
        let mut line = Zeroizing::new(String::with_capacity(LENGTH_MAX as usize));
        BufReader::new(&self.file).take(LENGTH_MAX).read_line(&mut line).context("the terminal")?;
        self.file.write_all(b"\n").context("the terminal")?;
        let end = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(end);
        Ok(line)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.file, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret as _;

    #[test]
    fn the_first_line_of_the_file_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("passphrase");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).expect("written");
            from_file(&path).map(|secret| secret.expose_secret().to_owned()).map_err(|failure| failure.kind)
        };
        assert_eq!(read(b"correct horse\nbattery").as_deref(), Ok("correct horse"));
        assert_eq!(read(b"correct horse\r\n").as_deref(), Ok("correct horse"));
        assert_eq!(read(b" spaces stay ").as_deref(), Ok(" spaces stay "));
        for nothing in [&b""[..], b"\nlate", b"\xff\xfe\n"] {
            assert_eq!(read(nothing), Err(Kind::Configuration), "{nothing:?}");
        }
    }
}
