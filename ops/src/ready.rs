//! The line that `testnet` prints when a message could be sent, and the file in which it notes what it started.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// `{"ready":true,…}`: where everything is. Tools and tests rely on its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Always true.
    pub(crate) ready: bool,
    /// The network file that a client is initialised with.
    pub(crate) network: PathBuf,
    /// The status page.
    pub(crate) status: String,
    /// The directory authorities.
    pub(crate) authorities: Vec<AuthorityLine>,
    /// The nodes: gateways, stores, mixes.
    pub(crate) nodes: Vec<NodeLine>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuthorityLine {
    /// Its process.
    pub(crate) pid: u32,
    /// Its directory, which `run --dir` takes.
    pub(crate) dir: PathBuf,
    /// Where nodes ask it.
    pub(crate) addr: SocketAddr,
    /// Where its `/livez`, `/readyz` and `/metrics` are.
    pub(crate) metrics: SocketAddr,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeLine {
    /// Its identity, 64 hexadecimal digits.
    pub(crate) identity: String,
    /// `gateway`, `mix` or `store`.
    pub(crate) role: String,
    /// `L1`, `L2` or `L3` for a mix, else null.
    pub(crate) layer: Option<String>,
    /// Its process.
    pub(crate) pid: u32,
    /// Its directory, which `run --dir` takes.
    pub(crate) dir: PathBuf,
    /// Where packets reach it.
    pub(crate) addr: SocketAddr,
    /// Where its `/livez`, `/readyz` and `/metrics` are.
    pub(crate) metrics: SocketAddr,
}

/// What is written to `testnet.json`: enough to find and end the parties when this program was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The process of `shoal-ops testnet`.
    pub(crate) pid: u32,
    /// The parties' directories.
    pub(crate) parties: Vec<PathBuf>,
    /// The line printed, once it is.
    pub(crate) ready: Option<Ready>,
}

impl Note {
    /// The file's name inside the directory of a test network.
    pub(crate) const FILE: &'static str = "testnet.json";

    /// Reads a note. Directories outside of `dir` are left out: what a file says must not get another's data removed.
    pub(crate) fn parse(text: &str, dir: &Path) -> Result<Self, serde_json::Error> {
        let mut note: Self = serde_json::from_str(text)?;
        note.parties.retain(|party| party.parent() == Some(dir));
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_agreed_keys() {
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000));
        let ready = Ready {
            ready: true,
            network: "/net/network.toml".into(),
            status: "http://127.0.0.1:1".into(),
            authorities: vec![AuthorityLine {
                pid: 1,
                dir: "/net/authority-1".into(),
                addr: address,
                metrics: address,
            }],
            nodes: vec![NodeLine {
                identity: "ab".into(),
                role: "mix".into(),
                layer: Some("L1".into()),
                pid: 2,
                dir: "/net/mix-1".into(),
                addr: address,
                metrics: address,
            }],
        };
        let line = serde_json::to_string(&ready).expect("is JSON");
        assert_eq!(
            line,
            r#"{"ready":true,"network":"/net/network.toml","status":"http://127.0.0.1:1","authorities":[{"pid":1,"dir":"/net/authority-1","addr":"127.0.0.1:20000","metrics":"127.0.0.1:20000"}],"nodes":[{"identity":"ab","role":"mix","layer":"L1","pid":2,"dir":"/net/mix-1","addr":"127.0.0.1:20000","metrics":"127.0.0.1:20000"}]}"#
        );
    }

    #[test]
    fn a_note_names_only_what_lies_below() {
        let text = r#"{"pid":1,"parties":["/net/mix-1","/etc","/net/../etc","/net"],"ready":null}"#;
        let note = Note::parse(text, Path::new("/net")).expect("is a note");
        assert_eq!(note.parties, [PathBuf::from("/net/mix-1")]);
        assert!(Note::parse("{}", Path::new("/net")).is_err());
    }
}
