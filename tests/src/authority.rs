//! Asking authorities: the real `shoal-directory` command on an authority's folder.

use crate::binary;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a subcommand says of the authority in `dir`. Reads its files and its control socket: the network is not needed.
///
/// # Panics
/// When it prints no JSON.
#[must_use]
pub fn directory(arguments: &[&str], dir: &Path) -> Value {
    answer("shoal-directory", arguments, dir)
}

/// What a subcommand says of the node in `dir`.
///
/// # Panics
/// When it prints no JSON.
#[must_use]
pub fn node(arguments: &[&str], dir: &Path) -> Value {
    answer("shoal-node", arguments, dir)
}

fn answer(program: &str, arguments: &[&str], dir: &Path) -> Value {
    let output = Command::new(binary(program))
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .expect("the command runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The documents that an authority keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many.
    pub count: u64,
    /// Epoch of the newest.
    pub newest: u64,
}

impl Kept {
    /// The documents in `dir`, every one verified from genesis on.
    ///
    /// # Panics
    /// When there is none, or one is wrong.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        let verified = directory(&["verify"], dir);
        let (first, newest) = (&verified["first"]["epoch"], &verified["newest"]["epoch"]);
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{}: {verified}", dir.display()));
        let (count, first, newest) = (number(&verified["documents"]), number(first), number(newest));
        assert!(count <= newest - first + 1, "at most one document an epoch: {verified}");
        Self { count, newest }
    }

    /// Epochs since `earlier` without a document.
    #[must_use]
    pub fn missed_since(&self, earlier: &Self) -> u64 {
        (self.newest - earlier.newest) - (self.count - earlier.count)
    }
}

/// What `status` remarks at the authority in `dir` about the authority of this identity.
///
/// # Panics
/// When it is not one of the set.
#[must_use]
pub fn remarks(dir: &Path, about: &Value) -> Vec<String> {
    let status = directory(&["status"], dir);
    let authorities = status["authorities"].as_array().expect("a list").clone();
    let found = authorities.iter().find(|authority| authority["identity"] == *about).expect("is in the set");
    found["remarks"].as_array().expect("a list").iter().map(|remark| remark.as_str().unwrap_or("").to_owned()).collect()
}
