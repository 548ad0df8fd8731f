//! Which nodes the operator of the authority admits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_protocol::descriptor::Descriptor;
use shoal_protocol::{Identity, Role, toml_problem};
use thiserror::Error;

mod line;

pub use line::{parse_line, parse_whom};

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

/// What putting a node on the list changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    New,
    /// It was there, with another address or with none.
    Moved {
        /// The address before.
        before: Option<String>,
    },
    /// It was there like this.
    Same,
}

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
    /// An identity that is not one.
    #[error("'{found}' is not an identity: 64 hexadecimal digits, these are {length} characters")]
    BadIdentity {
        /// The word.
        found: String,
        /// Its characters.
        length: usize,
    },
    /// A role that is not one.
    #[error("'{0}' is not a role (gateway, mix or store)")]
    BadRole(String),
    /// An address that cannot be one.
    #[error(
        "'{0}' is not an address HOST:PORT, with a name, an IPv4 address or [an IPv6 address], and a port from 1 to 65535"
    )]
    BadAddress(String),
    /// A word that is nothing of what a line has.
    #[error("'{0}' is neither an identity (64 hexadecimal digits), a role, an address HOST:PORT nor family=…")]
    BadWord(String),
    /// The family is not one.
    #[error("the admission line's family is not 64 hexadecimal digits")]
    BadFamily,
    /// The file has the node twice.
    #[error("{identity} is there twice: keep one of the two blocks")]
    Twice {
        /// The node.
        identity: Identity,
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
        let layout: Layout = toml::from_str(text).map_err(|error| AdmissionError::Toml(toml_problem(text, &error)))?;
        if layout.config_version != ADMITTED_VERSION {
            return Err(AdmissionError::Version(layout.config_version));
        }
        let mut list = Self::default();
        for node in layout.nodes {
            let identity = node.identity;
            if list.admit(node)? != Change::New {
                return Err(AdmissionError::Twice { identity });
            }
        }
        Ok(list)
    }

    /// The text of `admitted.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let layout = Layout { config_version: ADMITTED_VERSION, nodes: self.0.values().cloned().collect() };
        toml::to_string(&layout).expect("strings, integers and arrays of tables all have a TOML form")
    }

    /// Puts a node on the list. A node that is there gets the address of the new line, if it names one.
    ///
    /// # Errors
    /// The list is full, or has the node with another role or family.
    pub fn admit(&mut self, node: Admitted) -> Result<Change, AdmissionError> {
        if let Some(before) = self.0.get_mut(&node.identity) {
            if before.role != node.role {
                return Err(AdmissionError::OtherRole { identity: node.identity, was: before.role });
            }
            if before.family != node.family {
                return Err(AdmissionError::OtherFamily { identity: node.identity });
            }
            if node.address.is_some() && before.address != node.address {
                return Ok(Change::Moved { before: std::mem::replace(&mut before.address, node.address) });
            }
            return Ok(Change::Same);
        }
        if self.0.len() >= MAX_ADMITTED {
            return Err(AdmissionError::Full);
        }
        self.0.insert(node.identity, node);
        Ok(Change::New)
    }

    /// Takes a node off the list; `None` when it was not there.
    pub fn remove(&mut self, identity: &Identity) -> Option<Admitted> {
        self.0.remove(identity)
    }

    /// The nodes, by identity.
    pub fn nodes(&self) -> impl Iterator<Item = &Admitted> {
        self.0.values()
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
    fn the_list_round_trips_and_keeps_roles() {
        let mut list = AdmittedList::default();
        assert_eq!(list.admit(node(1, Role::Store)), Ok(Change::New));
        assert_eq!(list.admit(node(1, Role::Store)), Ok(Change::Same));
        assert!(matches!(list.admit(node(1, Role::Mix)), Err(AdmissionError::OtherRole { was: Role::Store, .. })));
        assert_eq!(list.admit(Admitted { address: Some("h:1".into()), ..node(2, Role::Mix) }), Ok(Change::New));
        assert_eq!(list.admit(node(2, Role::Mix)), Ok(Change::Same), "a line without an address changes none");
        let moved = Admitted { address: Some("h:2".into()), ..node(2, Role::Mix) };
        assert_eq!(list.admit(moved), Ok(Change::Moved { before: Some("h:1".into()) }));
        assert_eq!(AdmittedList::parse(&list.to_toml()), Ok(list.clone()));
        assert_eq!((list.len(), list.get(&Identity::from_bytes([1; 32]))), (2, Some(&node(1, Role::Store))));
        let named = Admitted { family: Some([9; 32]), ..node(3, Role::Mix) };
        assert_eq!(list.admit(named.clone()), Ok(Change::New));
        assert_eq!(AdmittedList::parse(&list.to_toml()), Ok(list.clone()));
        assert!(matches!(list.admit(node(3, Role::Mix)), Err(AdmissionError::OtherFamily { .. })));
        let twice = list.to_toml().replace(&hex(2), &hex(1)).replace("mix", "store");
        assert!(matches!(AdmittedList::parse(&twice), Err(AdmissionError::Twice { .. })));
        assert!(AdmittedList::parse(&list.to_toml().replace(&hex(9), "xy")).is_err());
        assert!(AdmittedList::parse("config_version = 2").is_err());
        assert!(AdmittedList::parse("config_version = 1\ncolour = 1").is_err());
        assert!(AdmittedList::parse("config_version = 1").is_ok_and(|list| list.is_empty()));
    }
}
