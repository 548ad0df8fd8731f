//! `authority.toml`: what the operator of an authority sets. Network-wide values are in the network file only.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoal_protocol::consensus::codec::is_reachable;
use shoal_protocol::toml_problem;
use thiserror::Error;

/// Version of `authority.toml`.
pub const CONFIG_VERSION: u32 = 1;

/// Names of the files in an authority's directory.
pub mod files {
    /// What the operator sets.
    pub const CONFIG: &str = "authority.toml";
    /// Secret keys: 128 hexadecimal digits, mode 0600.
    pub const KEY: &str = "authority.key";
    /// Public keys and address, for the founder of the network.
    pub const PUBLIC: &str = "authority.pub";
    /// What was signed and seen at the height under way.
    pub const VOTES: &str = "votes.log";
    /// A certified document that contradicts this authority's own.
    pub const CONFLICT: &str = "conflicting.consensus";
    /// Network-wide parameters that the operator wants; optional.
    pub const PARAMETERS: &str = "parameters.toml";
    /// Authorities that the operator wants; optional.
    pub const AUTHORITIES: &str = "authorities.toml";
    /// The network.
    pub const NETWORK: &str = "network.toml";
    /// Admitted nodes.
    pub const ADMITTED: &str = "admitted.toml";
    /// Certified documents.
    pub const DOCUMENTS: &str = "documents";
    /// Collected descriptors.
    pub const DESCRIPTORS: &str = "descriptors";
    /// Held by a running authority.
    pub const LOCK: &str = "lock";
    /// Where a running authority is asked for its status.
    pub const CONTROL: &str = "control.sock";
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of the layout, [`CONFIG_VERSION`].
    pub config_version: u32,
    /// UDP address that nodes and gateways ask.
    pub listen: SocketAddr,
    /// UDP address that others reach this authority at: documents name it. Without it documents do not, and whoever has no
    /// hint in his network file does not find this authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Loopback TCP address of `/livez`, `/readyz` and `/metrics`.
    pub metrics: SocketAddr,
    /// Lists every node that publishes a good descriptor, without admission. For test networks: whoever can reach the
    /// authority can fill its list.
    #[serde(default)]
    pub open: bool,
}

/// Why the file is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Not TOML, a key unknown or missing, a value of the wrong kind.
    #[error("{0}")]
    Toml(String),
    /// Another version.
    #[error("config_version is {0}; this program reads {CONFIG_VERSION}")]
    Version(u32),
    /// Health would be shown to the world.
    #[error("metrics = \"{0}\" is not a loopback address; health is served to this machine only")]
    PublicMetrics(SocketAddr),
    /// Documents would name an address that is none.
    #[error("nobody can be reached at address = \"{0}\"; name the public address, or leave it out")]
    Unreachable(SocketAddr),
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Toml(toml_problem(text, &error)))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what [`Self::parse`] would refuse.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.config_version != CONFIG_VERSION {
            return Err(ConfigError::Version(self.config_version));
        }
        if !self.metrics.ip().is_loopback() {
            return Err(ConfigError::PublicMetrics(self.metrics));
        }
        if let Some(address) = self.address.filter(|address| !is_reachable(address)) {
            return Err(ConfigError::Unreachable(address));
        }
        Ok(())
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings, integers and booleans all have a TOML form")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "config_version = 1\nlisten = \"0.0.0.0:4000\"\nmetrics = \"127.0.0.1:4001\"\n";

    #[test]
    fn defaults_and_round_trip() {
        let config = Config::parse(MINIMAL).expect("parses");
        assert!(!config.open && config.address.is_none());
        assert_eq!(Config::parse(&config.to_toml()), Ok(config));
    }

    #[test]
    fn wrong_files_are_refused() {
        assert_eq!(Config::parse(&MINIMAL.replace('1', "2")).map(|_| ()), Err(ConfigError::Version(2)));
        assert!(matches!(Config::parse(&format!("{MINIMAL}speed = 1\n")), Err(ConfigError::Toml(_))));
        for nowhere in ["0.0.0.0:4000", "203.0.113.7:0"] {
            let said = Config::parse(&format!("{MINIMAL}address = \"{nowhere}\"\n"));
            assert!(matches!(said, Err(ConfigError::Unreachable(_))), "{said:?}");
        }
        let named = Config::parse(&format!("{MINIMAL}address = \"203.0.113.7:4000\"\n")).expect("parses");
        assert_eq!(Config::parse(&named.to_toml()), Ok(named));
        assert!(matches!(Config::parse(&MINIMAL.replace("127.0.0.1", "10.0.0.1")), Err(ConfigError::PublicMetrics(_))));
    }
}
