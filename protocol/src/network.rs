//! The network file: what a node or client is initialised with, and all that it trusts at first.
//!
//! TOML. Name, genesis time, authority keys, genesis parameters and what the first document waits for are covered by the
//! genesis hash; addresses are hints.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::authority::AuthorityKey;
use crate::certificate::MAX_AUTHORITIES;
use crate::consensus::codec::{self, Put};
use crate::consensus::{MAX_NODES, TrustAnchor, put_authorities};
use crate::epoch::Schedule;
use crate::parameters::{ParameterError, Parameters};
use crate::toml_problem::toml_problem;
use crate::types::{Hash, Identity, UnixMillis};
use crate::words;

/// Version of the file's layout.
pub const NETWORK_FILE_VERSION: u32 = 1;
/// Longest network name, in bytes.
pub const MAX_NAME: usize = 64;
/// Words of a fingerprint: 6 × 16 = 96 bits.
const FINGERPRINT_WORDS: usize = 6;
/// Most hints of each kind.
pub const MAX_HINTS: usize = 256;

/// A network, as its founders describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    /// Name for people: 1 to 64 printable ASCII characters.
    pub name: String,
    /// Start of epoch 0.
    pub genesis_time: UnixMillis,
    /// Genesis authorities, strictly increasing by identity.
    pub authorities: Vec<AuthorityKey>,
    /// Genesis parameters.
    pub parameters: Parameters,
    /// Nodes that the first document waits for.
    pub founding: Founding,
    /// Where to ask first; not hashed, not believed.
    pub hints: Hints,
}

/// Nodes that the first document waits for, beside three full layers of mixes. Every authority computes that document, so
/// all must wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// Gateways, at least one.
    pub gateways: u16,
    /// Stores, at least three: a courier is never a replica of its request.
    pub stores: u16,
}

impl Default for Founding {
    fn default() -> Self {
        Self { gateways: 1, stores: 3 }
    }
}

/// Addresses to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hints {
    /// Authorities, for nodes.
    #[serde(default)]
    pub authorities: Vec<Hint>,
    /// Gateways, for clients.
    #[serde(default)]
    pub gateways: Vec<Hint>,
}

/// One party and where it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Its identity key, which the link must prove.
    pub identity: Identity,
    /// Its address.
    pub address: SocketAddr,
}

/// Why a network file is refused.
#[derive(Debug, Error)]
pub enum NetworkFileError {
    /// Not TOML, a key unknown or missing, a value of the wrong kind.
    #[error("the network file cannot be read: {0}")]
    Toml(String),
    /// Made for another version of the software.
    #[error("the network file has config_version {found}; this program reads {NETWORK_FILE_VERSION}")]
    Version {
        /// Version in the file.
        found: u32,
    },
    /// A value that cannot be.
    #[error("the network file is wrong: {0}")]
    Invalid(&'static str),
    /// Parameters out of range.
    #[error("the network file is wrong: {0}")]
    Parameters(#[from] ParameterError),
}

/// The file's layout.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    config_version: u32,
    name: String,
    genesis_time_ms: u64,
    parameters: Parameters,
    authorities: Vec<AuthorityKey>,
    #[serde(default)]
    founding: Founding,
    #[serde(default)]
    hints: Hints,
}

impl NetworkFile {
    /// Reads a network file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
        let layout: Layout =
            toml::from_str(text).map_err(|error| NetworkFileError::Toml(toml_problem(text, &error)))?;
        if layout.config_version != NETWORK_FILE_VERSION {
            return Err(NetworkFileError::Version { found: layout.config_version });
        }
        let network = Self {
            name: layout.name,
            genesis_time: UnixMillis(layout.genesis_time_ms),
            authorities: layout.authorities,
            parameters: layout.parameters,
            founding: layout.founding,
            hints: layout.hints,
        };
        network.validate()?;
        Ok(network)
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let layout = Layout {
            config_version: NETWORK_FILE_VERSION,
            name: self.name.clone(),
            genesis_time_ms: self.genesis_time.0,
            parameters: self.parameters,
            authorities: self.authorities.clone(),
            founding: self.founding,
            hints: self.hints.clone(),
        };
        toml::to_string(&layout).expect("strings, integers, tables and arrays of tables all have a TOML form")
    }

    /// Checks what [`Self::parse`] would refuse.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), NetworkFileError> {
        let printable = self.name.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if self.name.is_empty() || self.name.len() > MAX_NAME || !printable {
            return Err(NetworkFileError::Invalid("name must be 1 to 64 printable ASCII characters"));
        }
        // TOML integers are signed.
        if i64::try_from(self.genesis_time.0).is_err() {
            return Err(NetworkFileError::Invalid("genesis_time_ms is out of range"));
        }
        if self.authorities.is_empty() || self.authorities.len() > MAX_AUTHORITIES {
            return Err(NetworkFileError::Invalid("there must be 1 to 64 authorities"));
        }
        if !codec::strictly_sorted(&self.authorities, |key| key.identity) {
            return Err(NetworkFileError::Invalid("authorities must be sorted by identity, each once"));
        }
        if self.hints.authorities.len() > MAX_HINTS || self.hints.gateways.len() > MAX_HINTS {
            return Err(NetworkFileError::Invalid("there are more than 256 hints of one kind"));
        }
        let all = self.hints.authorities.iter().chain(&self.hints.gateways);
        if !all.into_iter().all(|hint| codec::is_reachable(&hint.address)) {
            return Err(NetworkFileError::Invalid("a hint has an address nobody can be reached at"));
        }
        let nodes = 1..=MAX_NODES;
        let Founding { gateways, stores } = self.founding;
        if !nodes.contains(&usize::from(gateways)) || !nodes.contains(&usize::from(stores)) || stores < 3 {
            return Err(NetworkFileError::Invalid(
                "founding must ask for a gateway and three stores, and at most 2,048",
            ));
        }
        self.parameters.validate()?;
        Ok(())
    }

    /// Hash of everything but the hints: names the network in every document, link and invite.
    #[must_use]
    pub fn genesis_hash(&self) -> Hash {
        let bytes = codec::encode(|writer| {
            writer.put_array(5);
            writer.put_text(&self.name);
            writer.put_uint(self.genesis_time.0);
            put_authorities(writer, &self.authorities);
            self.parameters.put(writer);
            writer.put_array(2);
            writer.put_uint(self.founding.gateways.into());
            writer.put_uint(self.founding.stores.into());
        });
        Hash::of("shoal/1 network", &bytes)
    }

    /// The first 96 bits of the genesis hash as six pronounceable words, to compare over a telephone.
    #[must_use]
    pub fn fingerprint_words(&self) -> String {
        let hash = self.genesis_hash();
        let (said, _) = hash.as_bytes().split_at(2 * FINGERPRINT_WORDS);
        words::write(said)
    }

    /// What to verify documents against before any authority-set change.
    #[must_use]
    pub fn trust_anchor(&self) -> TrustAnchor {
        TrustAnchor { network: self.genesis_hash(), authorities: self.authorities.clone() }
    }

    /// The network's epochs.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.genesis_time, &self.parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::AuthoritySecret;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn sample() -> NetworkFile {
        let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1)).public().clone();
        NetworkFile {
            name: "reef".into(),
            genesis_time: UnixMillis(1_750_000_000_000),
            hints: Hints {
                authorities: vec![Hint {
                    identity: authority.identity,
                    address: "127.0.0.1:9000".parse().expect("addr"),
                }],
                gateways: Vec::new(),
            },
            authorities: vec![authority],
            parameters: Parameters::test_network(),
            founding: Founding { gateways: 2, stores: 5 },
        }
    }

    #[test]
    fn text_round_trip() {
        let network = sample();
        assert_eq!(NetworkFile::parse(&network.to_toml()).expect("parses"), network);
    }

    #[test]
    fn hints_are_not_hashed_everything_else_is() {
        let network = sample();
        let hash = network.genesis_hash();
        assert_eq!(NetworkFile { hints: Hints::default(), ..network.clone() }.genesis_hash(), hash);
        let mut seen = vec![hash];
        for other in [
            NetworkFile { name: "rife".into(), ..network.clone() },
            NetworkFile { genesis_time: UnixMillis(1), ..network.clone() },
            NetworkFile { parameters: Parameters::production(), ..network.clone() },
            NetworkFile { founding: Founding { gateways: 1, ..network.founding }, ..network.clone() },
            NetworkFile { founding: Founding { stores: 3, ..network.founding }, ..network.clone() },
            NetworkFile {
                authorities: vec![AuthoritySecret::generate(&mut StdRng::seed_from_u64(2)).public().clone()],
                ..network.clone()
            },
        ] {
            assert!(!seen.contains(&other.genesis_hash()));
            seen.push(other.genesis_hash());
        }
    }

    #[test]
    fn wrong_files_are_refused_with_the_cause() {
        let text = sample().to_toml();
        let refused = |text: &str| NetworkFile::parse(text).expect_err("must be refused").to_string();
        assert!(refused(&text.replace("config_version = 1", "config_version = 2")).contains("config_version 2"));
        assert!(refused(&format!("colour = 1\n{text}")).contains("colour"));
        assert!(refused(&text.replace("epoch_ms = 20000", "epoch_ms = 1")).contains("epoch_ms"));
        assert!(refused(&text.replace("127.0.0.1:9000", "0.0.0.0:9000")).contains("hint"));
        assert!(refused(&text.replace("\"reef\"", "\"\"")).contains("name"));
        assert!(refused(&text.replace("stores = 5", "stores = 2")).contains("three stores"));
        assert!(refused("").contains("cannot be read"));
    }

    proptest! {
        #[test]
        fn no_text_panics(at: prop::sample::Index, piece in "[ -~]{0,20}") {
            let mut text = sample().to_toml();
            text.insert_str(at.index(text.len()), &piece);
            let _ = NetworkFile::parse(&text);
            let _ = NetworkFile::parse(&piece);
        }
    }
}
