//! Which nodes the operator of the authority admits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_protocol::{Identity, Role};
use thiserror::Error;

/// Version of `admitted.toml`.
pub const ADMITTED_VERSION: u32 = 1;
/// Most nodes on the list: what a document can list.
pub const MAX_ADMITTED: usize = shoal_protocol::consensus::MAX_NODES;
/// Longest admission line, in bytes.
pub const MAX_LINE: usize = 1024;

/// One admitted node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admitted {
    /// Its identity key.
    pub identity: Identity,
    /// The role it was admitted for.
    pub role: Role,
    /// The address its operator named; for people, not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The list of admitted nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmittedList(BTreeMap<Identity, Admitted>);

/// Why a node cannot be put on the list, or the list cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// The line does not say which node.
    #[error("the admission line names no identity (64 hexadecimal digits)")]
    NoIdentity,
    /// The line does not say what the node does.
    #[error("the admission line names no role (gateway, mix or store)")]
    NoRole,
    /// The line says two things at once.
    #[error("the admission line names two {0}")]
    Ambiguous(&'static str),
    /// More than one line, or an absurd one.
    #[error("an admission line is one line of at most {MAX_LINE} bytes")]
    NotALine,
    /// The node is on the list with another role.
    #[error("{identity} is admitted as {was}; a node keeps its role, another role needs another identity")]
    OtherRole {
        /// The node.
        identity: Identity,
        /// Role on the list.
        was: Role,
    },
    /// The list is full.
    #[error("the list holds {MAX_ADMITTED} nodes already")]
    Full,
    /// The file cannot be read.
    #[error("{0}")]
    Toml(String),
    /// The file is of another version.
    #[error("config_version {0} is not {ADMITTED_VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    config_version: u32,
    #[serde(default)]
    nodes: Vec<Admitted>,
}

impl AdmittedList {
    /// Reads `admitted.toml`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn parse(text: &str) -> Result<Self, AdmissionError> {
        let layout: Layout = toml::from_str(text).map_err(|error| AdmissionError::Toml(error.to_string()))?;
        if layout.config_version != ADMITTED_VERSION {
            return Err(AdmissionError::Version(layout.config_version));
        }
        let mut list = Self::default();
        for node in layout.nodes {
            list.admit(node)?;
        }
        Ok(list)
    }

    /// The text of `admitted.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let layout = Layout { config_version: ADMITTED_VERSION, nodes: self.0.values().cloned().collect() };
        toml::to_string(&layout).expect("strings, integers and arrays of tables all have a TOML form")
    }

    /// Puts a node on the list; `false` when it was there already.
    ///
    /// # Errors
    /// The list is full, or has the node with another role.
    pub fn admit(&mut self, node: Admitted) -> Result<bool, AdmissionError> {
        if let Some(before) = self.0.get(&node.identity) {
            if before.role != node.role {
                return Err(AdmissionError::OtherRole { identity: node.identity, was: before.role });
            }
            return Ok(false);
        }
        if self.0.len() >= MAX_ADMITTED {
            return Err(AdmissionError::Full);
        }
        self.0.insert(node.identity, node);
        Ok(true)
    }

    /// Takes a node off the list; `false` when it was not there.
    pub fn remove(&mut self, identity: &Identity) -> bool {
        self.0.remove(identity).is_some()
    }

    /// The role a node is admitted for.
    #[must_use]
    pub fn role(&self, identity: &Identity) -> Option<Role> {
        self.0.get(identity).map(|node| node.role)
    }

    /// How many nodes are admitted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is admitted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads the line that `shoal-node init` prints: an identity, a role and usually an address, in any order and between
/// any other words.
///
/// # Errors
/// What the line lacks.
pub fn parse_line(line: &str) -> Result<Admitted, AdmissionError> {
    let line = line.trim();
    if line.is_empty() || line.len() > MAX_LINE || line.contains('\n') {
        return Err(AdmissionError::NotALine);
    }
    let (mut identity, mut role, mut address) = (None, None, None);
    for word in line.split_whitespace() {
        let word = word.rsplit_once('=').map_or(word, |(_, value)| value);
        if let Ok(found) = word.parse::<Identity>() {
            if identity.replace(found).is_some() {
                return Err(AdmissionError::Ambiguous("identities"));
            }
        } else if let Ok(found) = word.parse::<Role>() {
            if role.replace(found).is_some() {
                return Err(AdmissionError::Ambiguous("roles"));
            }
        } else if is_address(word) && address.is_none() {
            address = Some(word.to_owned());
        }
    }
    Ok(Admitted {
        identity: identity.ok_or(AdmissionError::NoIdentity)?,
        role: role.ok_or(AdmissionError::NoRole)?,
        address,
    })
}

/// `HOST:PORT`.
fn is_address(word: &str) -> bool {
    word.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(byte: u8) -> String {
        hex::encode([byte; 32])
    }

    fn node(byte: u8, role: Role) -> Admitted {
        Admitted { identity: Identity::from_bytes([byte; 32]), role, address: None }
    }

    #[test]
    fn lines_are_read_in_any_order() {
        let expected = Admitted { address: Some("node.example:4000".into()), ..node(7, Role::Mix) };
        for line in [
            format!("shoal-node-1 mix {} node.example:4000", hex(7)),
            format!("mix node.example:4000 {}\n", hex(7)),
            format!("role=mix identity={} address=node.example:4000", hex(7)),
        ] {
            assert_eq!(parse_line(&line), Ok(expected.clone()), "{line}");
        }
        assert_eq!(parse_line(&format!("{} store", hex(7))), Ok(node(7, Role::Store)));
    }

    #[test]
    fn what_a_line_lacks_is_said() {
        assert_eq!(parse_line("mix a:1"), Err(AdmissionError::NoIdentity));
        assert_eq!(parse_line(&hex(1)), Err(AdmissionError::NoRole));
        assert_eq!(parse_line(&format!("{} mix store", hex(1))), Err(AdmissionError::Ambiguous("roles")));
        assert_eq!(parse_line(&format!("{} {} mix", hex(1), hex(2))), Err(AdmissionError::Ambiguous("identities")));
        assert_eq!(parse_line(""), Err(AdmissionError::NotALine));
        assert_eq!(parse_line(&format!("{} mix\n{} mix", hex(1), hex(2))), Err(AdmissionError::NotALine));
    }

    #[test]
    fn the_list_round_trips_and_keeps_roles() {
        let mut list = AdmittedList::default();
        assert_eq!(list.admit(node(1, Role::Store)), Ok(true));
        assert_eq!(list.admit(node(1, Role::Store)), Ok(false));
        assert!(matches!(list.admit(node(1, Role::Mix)), Err(AdmissionError::OtherRole { was: Role::Store, .. })));
        assert_eq!(list.admit(Admitted { address: Some("h:1".into()), ..node(2, Role::Mix) }), Ok(true));
        assert_eq!(AdmittedList::parse(&list.to_toml()), Ok(list.clone()));
        assert_eq!((list.len(), list.role(&Identity::from_bytes([1; 32]))), (2, Some(Role::Store)));
        assert!(AdmittedList::parse("config_version = 2").is_err());
        assert!(AdmittedList::parse("config_version = 1\ncolour = 1").is_err());
        assert!(AdmittedList::parse("config_version = 1").is_ok_and(|list| list.is_empty()));
    }
}
