//! An authority's directory, read into memory.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_protocol::authority::{AUTHORITY_SECRET_SIZE, AuthorityKey, AuthoritySecret};
use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::toml_problem;
use zeroize::Zeroizing;

use super::failure::{Failure, Kind};
use super::files;
use crate::admission::AdmittedList;
use crate::config::{Config, files as names};
use crate::wishes::Wishes;

/// The layout of `authorities.toml`: as in the network file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedSet {
    authorities: Vec<AuthorityKey>,
}

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

    /// What the operator asks for beside the nodes he admits: `parameters.toml` and `authorities.toml`, both optional.
    ///
    /// # Errors
    /// One of them is unreadable or wrong.
    pub fn wishes(&self) -> Result<Wishes, Failure> {
        let parameters: Option<Parameters> = self.optional(names::PARAMETERS)?;
        if let Some(parameters) = &parameters {
            parameters.validate().map_err(|error| Failure::content(&self.path(names::PARAMETERS), &error))?;
        }
        let authorities = self.optional::<WantedSet>(names::AUTHORITIES)?.map(|set| {
            let mut authorities = set.authorities;
            authorities.sort_by_key(|key| key.identity);
            authorities
        });
        if authorities.as_ref().is_some_and(|set| set.is_empty() || set.len() > MAX_AUTHORITIES) {
            return Err(Failure::content(&self.path(names::AUTHORITIES), &"names no authority, or too many"));
        }
        Ok(Wishes { parameters, authorities })
    }

    fn optional<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_text(&path)?;
        toml::from_str(&text).map(Some).map_err(|error| Failure::content(&path, &toml_problem(&text, &error)))
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
                "use another --dir; a key is never overwritten",
            ));
        }
        let text = Zeroizing::new(hex::encode(*secret.to_bytes()) + "\n");
        files::replace(&path, text.as_bytes(), files::SECRET, true)
    }
}
