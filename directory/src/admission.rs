//! Which nodes the operator of the authority admits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::{Identity, Role, toml_problem};
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
    /// Its operator's family, if it has one. Routes visit a family at most once, so a family that strangers could claim would
    /// keep its owner's nodes out of routes: only what is admitted counts.
    #[serde(default, with = "hex_family", skip_serializing_if = "Option::is_none")]
    pub family: Option<[u8; 32]>,
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
    /// The node is on the list with another family.
    #[error("{identity} is admitted with another family, or without one; remove it first to admit it with this one")]
    OtherFamily {
        /// The node.
        identity: Identity,
    },
    /// The family is not one.
    #[error("the admission line's family is not 64 hexadecimal digits")]
    BadFamily,
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
        let layout: Layout = toml::from_str(text).map_err(|error| AdmissionError::Toml(toml_problem(text, &error)))?;
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
    /// The list is full, or has the node with another role or family.
    pub fn admit(&mut self, node: Admitted) -> Result<bool, AdmissionError> {
        if let Some(before) = self.0.get(&node.identity) {
            if before.role != node.role {
                return Err(AdmissionError::OtherRole { identity: node.identity, was: before.role });
            }
            if before.family != node.family {
                return Err(AdmissionError::OtherFamily { identity: node.identity });
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

    /// What a node is admitted as.
    #[must_use]
    pub fn get(&self, identity: &Identity) -> Option<&Admitted> {
        self.0.get(identity)
    }

    /// Whether the node is admitted as its descriptor says: in this role and family.
    #[must_use]
    pub fn allows(&self, descriptor: &Descriptor) -> bool {
        let admitted = self.get(&descriptor.identity);
        admitted.is_some_and(|node| node.role == descriptor.role && node.family == descriptor.family)
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

/// Reads the line that `shoal-node init` prints: an identity, a role, `family=…` if the node has one, and usually an
/// address, in any order and between any other words.
///
/// # Errors
/// What the line lacks.
pub fn parse_line(line: &str) -> Result<Admitted, AdmissionError> {
    let line = line.trim();
    if line.is_empty() || line.len() > MAX_LINE || line.contains('\n') {
        return Err(AdmissionError::NotALine);
    }
    let (mut identity, mut role, mut family, mut address) = (None, None, None, None);
    for word in line.split_whitespace() {
        if let Some(digits) = word.strip_prefix("family=") {
            let mut found = [0; 32];
            hex::decode_to_slice(digits, &mut found).map_err(|_| AdmissionError::BadFamily)?;
            if family.replace(found).is_some() {
                return Err(AdmissionError::Ambiguous("families"));
            }
            continue;
        }
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
        family,
        address,
    })
}

/// Hex in TOML.
mod hex_family {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(family: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        family.map(hex::encode).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let mut family = [0; 32];
        hex::decode_to_slice(digits, &mut family)
            .map_err(|_| D::Error::custom("family: expected 64 hexadecimal digits"))?;
        Ok(Some(family))
    }
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
        Admitted { identity: Identity::from_bytes([byte; 32]), role, family: None, address: None }
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
    fn a_line_names_a_family_by_its_word_only() {
        let expected = Admitted { family: Some([9; 32]), ..node(7, Role::Mix) };
        assert_eq!(parse_line(&format!("shoal-node-1 mix {} family={}", hex(7), hex(9))), Ok(expected.clone()));
        assert_eq!(parse_line(&format!("family={} mix identity={}", hex(9), hex(7))), Ok(expected));
        let twice = format!("mix {} family={} family={}", hex(7), hex(9), hex(8));
        assert_eq!(parse_line(&twice), Err(AdmissionError::Ambiguous("families")));
        assert_eq!(parse_line(&format!("mix {} family=home", hex(7))), Err(AdmissionError::BadFamily));
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
        assert_eq!((list.len(), list.get(&Identity::from_bytes([1; 32]))), (2, Some(&node(1, Role::Store))));
        let named = Admitted { family: Some([9; 32]), ..node(3, Role::Mix) };
        assert_eq!(list.admit(named.clone()), Ok(true));
        assert_eq!(AdmittedList::parse(&list.to_toml()), Ok(list.clone()));
        assert!(matches!(list.admit(node(3, Role::Mix)), Err(AdmissionError::OtherFamily { .. })));
        assert!(AdmittedList::parse(&list.to_toml().replace(&hex(9), "xy")).is_err());
        assert!(AdmittedList::parse("config_version = 2").is_err());
        assert!(AdmittedList::parse("config_version = 1\ncolour = 1").is_err());
        assert!(AdmittedList::parse("config_version = 1").is_ok_and(|list| list.is_empty()));
    }
}
