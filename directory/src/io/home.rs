//! An authority's directory, read into memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_protocol::Identity;
use shoal_protocol::authority::{AUTHORITY_SECRET_SIZE, AuthorityKey, AuthoritySecret, ML_DSA_PUBLIC_SIZE, hex_public};
use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::codec::is_reachable;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::toml_problem;
use zeroize::Zeroizing;

use super::failure::{Failure, Kind};
use super::files;
use crate::admission::AdmittedList;
use crate::config::{Config, files as names};
use crate::wishes::Wishes;

/// The layout of `authorities.toml`: as in the network file, and for a new one its address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedSet {
    authorities: Vec<Wanted>,
}

/// An [`AuthorityKey`], and where it is reached.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    identity: Identity,
    #[serde(with = "hex_public")]
    ml_dsa: [u8; ML_DSA_PUBLIC_SIZE],
    address: Option<SocketAddr>,
}

impl Wanted {
    fn key(self) -> AuthorityKey {
        AuthorityKey { identity: self.identity, ml_dsa: self.ml_dsa }
    }
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

    /// What the operator asks for beside the nodes he admits, `parameters.toml` and `authorities.toml`, both optional; and
    /// where authorities are reached: this one, `me`, by `authority.toml`.
    ///
    /// # Errors
    /// One of them is unreadable or wrong.
    pub fn wishes(&self, me: &Identity) -> Result<Wishes, Failure> {
        let parameters: Option<Parameters> = self.optional(names::PARAMETERS)?;
        if let Some(parameters) = &parameters {
            parameters.validate().map_err(|error| Failure::content(&self.path(names::PARAMETERS), &error))?;
        }
        let wanted: Option<WantedSet> = self.optional(names::AUTHORITIES)?;
        let wrong = |problem: &str| Err(Failure::content(&self.path(names::AUTHORITIES), &problem));
        if wanted.as_ref().is_some_and(|set| set.authorities.is_empty() || set.authorities.len() > MAX_AUTHORITIES) {
            return wrong("names no authority, or too many");
        }
        let named = wanted.iter().flat_map(|set| &set.authorities);
        let mut addresses: BTreeMap<Identity, SocketAddr> =
            named.filter_map(|wanted| Some((wanted.identity, wanted.address?))).collect();
        if !addresses.values().all(is_reachable) {
            return wrong("names an address nobody can be reached at");
        }
        addresses.remove(me);
        addresses.extend(self.config()?.address.map(|address| (*me, address)));
        let authorities = wanted.map(|set| {
            let mut authorities: Vec<AuthorityKey> = set.authorities.into_iter().map(Wanted::key).collect();
            authorities.sort_by_key(|key| key.identity);
            authorities
        });
        Ok(Wishes { parameters, authorities, addresses })
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
