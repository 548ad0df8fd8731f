//! An authority's directory, read into memory.

use std::path::{Path, PathBuf};

use shoal_protocol::authority::{AUTHORITY_SECRET_SIZE, AuthoritySecret};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::toml_problem;
use zeroize::Zeroizing;

use super::failure::{Failure, Kind};
use super::files;
use crate::admission::AdmittedList;
use crate::config::{Config, PublicHalf, files as names};
use crate::wishes::Wishes;
use crate::wishes::set::{self, WantedSet};

/// Where an authority keeps what it has.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// The directory `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// A file or directory in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `authority.toml`.
    ///
    /// # Errors
    /// Missing or wrong.
    pub fn config(&self) -> Result<Config, Failure> {
        let path = self.path(names::CONFIG);
        Config::parse(&files::read_text(&path)?).map_err(|error| Failure::content(&path, &error))
    }

    /// Writes `authority.toml`.
    ///
    /// # Errors
    /// The settings contradict each other, or the file cannot be written.
    pub fn write_config(&self, config: &Config) -> Result<(), Failure> {
        let path = self.path(names::CONFIG);
        config.validate().map_err(|error| Failure::content(&path, &error))?;
        files::replace(&path, config.to_toml().as_bytes(), files::PUBLIC, true)
    }

    /// `authority.pub`.
    ///
    /// # Errors
    /// Missing or wrong.
    pub fn public(&self) -> Result<PublicHalf, Failure> {
        let path = self.path(names::PUBLIC);
        PublicHalf::parse(&files::read_text(&path)?).map_err(|error| Failure::content(&path, &error))
    }

    /// Writes `authority.pub`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_public(&self, public: &PublicHalf) -> Result<(), Failure> {
        files::replace(&self.path(names::PUBLIC), public.to_toml().as_bytes(), files::PUBLIC, true)
    }

    /// `network.toml`.
    ///
    /// # Errors
    /// Missing or wrong.
    pub fn network(&self) -> Result<NetworkFile, Failure> {
        let path = self.path(names::NETWORK);
        NetworkFile::parse(&files::read_text(&path)?).map_err(|error| Failure::content(&path, &error))
    }

    /// Writes `network.toml`.
    ///
    /// # Errors
    /// The network is not valid, or the file cannot be written.
    pub fn write_network(&self, network: &NetworkFile) -> Result<(), Failure> {
        let path = self.path(names::NETWORK);
        network.validate().map_err(|error| Failure::content(&path, &error))?;
        files::replace(&path, network.to_toml().as_bytes(), files::PUBLIC, true)
    }

    /// `admitted.toml`; nobody is admitted when there is none.
    ///
    /// # Errors
    /// Unreadable or wrong.
    pub fn admitted(&self) -> Result<AdmittedList, Failure> {
        let path = self.path(names::ADMITTED);
        if !path.exists() {
            return Ok(AdmittedList::default());
        }
        AdmittedList::parse(&files::read_text(&path)?).map_err(|error| Failure::content(&path, &error))
    }

    /// Writes `admitted.toml`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_admitted(&self, list: &AdmittedList) -> Result<(), Failure> {
        files::replace(&self.path(names::ADMITTED), list.to_toml().as_bytes(), files::PUBLIC, true)
    }

    /// What the operator asks for beside the nodes he admits: `parameters.toml` and `authorities.toml`, both optional; and
    /// where this authority is reached, by `authority.pub`.
    ///
    /// # Errors
    /// One of them is unreadable or wrong.
    pub fn wishes(&self) -> Result<Wishes, Failure> {
        let mut wishes = Wishes { parameters: self.wanted_parameters()?, ..Wishes::default() };
        wishes.want(self.wanted_authorities()?, self.public().ok().as_ref());
        Ok(wishes)
    }

    /// `parameters.toml`; `None` when there is none.
    ///
    /// # Errors
    /// Unreadable or wrong: the message has file and line.
    pub fn wanted_parameters(&self) -> Result<Option<Parameters>, Failure> {
        let path = self.path(names::PARAMETERS);
        let Some(text) = optional(&path)? else { return Ok(None) };
        let parameters: Parameters =
            toml::from_str(&text).map_err(|error| Failure::content(&path, &toml_problem(&text, &error)))?;
        parameters.validate().map_err(|error| {
            let problem = error.to_string();
            match line_of(&text, &problem) {
                Some(line) => Failure::content(&path, &format!("line {line}: {problem}")),
                None => Failure::content(&path, &problem),
            }
        })?;
        Ok(Some(parameters))
    }

    /// `authorities.toml`; `None` when there is none.
    ///
    /// # Errors
    /// Unreadable or wrong: the message has file and line.
    pub fn wanted_authorities(&self) -> Result<Option<WantedSet>, Failure> {
        let path = self.path(names::AUTHORITIES);
        let Some(text) = optional(&path)? else { return Ok(None) };
        set::parse(&text).map(Some).map_err(|error| Failure::content(&path, &error))
    }

    /// `authority.key`.
    ///
    /// # Errors
    /// Missing or wrong.
    pub fn secret(&self) -> Result<AuthoritySecret, Failure> {
        let path = self.path(names::KEY);
        let text = Zeroizing::new(files::read_text(&path)?);
        if files::is_exposed(&path)? {
            return Err(Failure::new(
                Kind::Permission,
                format!("{} can be read by other users of this machine", path.display()),
                format!("make it private: chmod 600 {}", path.display()),
            ));
        }
        let mut seeds = Zeroizing::new([0; AUTHORITY_SECRET_SIZE]);
        hex::decode_to_slice(text.trim(), &mut *seeds).map_err(|_| {
            Failure::content(&path, &format!("expected {} hexadecimal digits", 2 * AUTHORITY_SECRET_SIZE))
        })?;
        Ok(AuthoritySecret::from_bytes(&seeds))
    }

    /// Writes `authority.key`, unless there is one.
    ///
    /// # Errors
    /// There is one, or the file cannot be written.
    pub fn write_secret(&self, secret: &AuthoritySecret) -> Result<(), Failure> {
        let path = self.path(names::KEY);
        if path.exists() {
            return Err(Failure::new(
                Kind::Configuration,
                format!("{} exists: this directory holds an authority already", path.display()),
                "a key is never overwritten: go on with this authority, or name an empty --dir for another one",
            ));
        }
        let text = Zeroizing::new(hex::encode(*secret.to_bytes()) + "\n");
        files::replace(&path, text.as_bytes(), files::SECRET, true)
    }
}

/// A file that need not be there.
fn optional(path: &Path) -> Result<Option<String>, Failure> {
    if path.exists() { files::read_text(path).map(Some) } else { Ok(None) }
}

/// The line that sets the first key which `problem` names.
fn line_of(text: &str, problem: &str) -> Option<usize> {
    let named = |name: &str| problem.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
    let sets = |line: &str| line.split_once('=').is_some_and(|(name, _)| named(name.trim()));
    text.lines().position(sets).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_parameter_is_named_with_file_and_line() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let home = Home::new(dir.path());
        assert_eq!(home.wishes(), Ok(Wishes::default()));
        let good = toml::to_string(&Parameters::test_network()).expect("numbers");
        let path = home.path(names::PARAMETERS);
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("written");
            home.wishes().expect_err("refused").message
        };
        let line = 1 + good.lines().position(|line| line.starts_with("epoch_ms")).expect("a line");
        let old = good.lines().nth(line - 1).expect("a line");
        let said = refused(&good.replace(old, "epoch_ms = 1"));
        assert!(said.contains("parameters.toml") && said.contains(&format!("line {line}:")), "{said}");
        let said = refused(&good.replace(old, "epoch_ms = soon"));
        assert!(said.contains("parameters.toml") && said.contains(&format!("line {line}:")), "{said}");
        std::fs::write(&path, &good).expect("written");
        assert_eq!(home.wishes().map(|wishes| wishes.parameters), Ok(Some(Parameters::test_network())));
        std::fs::write(home.path(names::AUTHORITIES), "[[authorities]]\nidentity = \"ab\"\n").expect("written");
        let said = home.wishes().expect_err("no key").message;
        assert!(said.contains("authorities.toml") && said.contains("line "), "{said}");
    }
}
