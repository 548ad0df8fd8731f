//! Network namespaces: hosts of their own on this machine, made with `ip` and gone afterwards.
//!
//! The name of a namespace says which test process made it, so that the next start can remove what a killed one left.

use std::path::Path;
use std::process::{Command, Stdio};

/// What all names begin with; the process id and the host's number follow.
const PREFIX: &str = "shoal-test-";

/// Some namespaces, each with its loopback; removed when dropped, with all processes in them.
#[derive(Debug)]
pub struct Namespaces {
    names: Vec<String>,
}

impl Namespaces {
    /// Makes `count` namespaces, after removing those of tests that are no more.
    ///
    /// # Panics
    /// When they cannot be made: it needs root and `ip` (Debian package iproute2).
    #[must_use]
    pub fn new(count: usize) -> Self {
        remove_leftovers();
        // dropped, and so removed, from here on, whatever goes wrong below
        let mut namespaces = Self { names: Vec::new() };
        for number in 0..count {
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            ip(&["netns", "add", &name]);
            namespaces.names.push(name.clone());
            ip(&["-n", &name, "link", "set", "lo", "up"]);
        }
        namespaces
    }

    /// Name of the namespace of a host.
    #[must_use]
    pub fn name(&self, host: usize) -> &str {
        &self.names[host]
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// A command that will run in the namespace of `host`.
    #[must_use]
    pub fn command(&self, host: usize, program: &Path) -> Command {
        in_namespace(self.name(host), program)
    }
}

/// A command that will run in a namespace, as the process that is spawned: `ip` becomes it.
#[must_use]
pub fn in_namespace(name: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(program);
    command
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| remove(name));
    }
}

/// Runs `ip`.
///
/// # Panics
/// When it fails; its own words say why.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("ip runs: ops/test installs it (Debian package iproute2)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said} (namespaces and TUN devices need root)", arguments.join(" "));
}

/// Ends what runs in a namespace and removes it. Nothing but a test's own parties runs there.
fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace() {
        // it may have ended meanwhile
        let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

fn remove_leftovers() {
    let listed = Command::new("ip").args(["netns", "list"]).output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // lines are "NAME" or "NAME (id: N)"
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !is_a_test(pid)) {
            eprintln!("removing the namespace {name}, left by a test that was killed");
            remove(name);
        }
    }
}

/// Whether this process lives and is a test: a process id may belong to somebody else by now.
fn is_a_test(pid: &str) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let own = std::env::current_exe().unwrap_or_default();
    program.file_name() == own.file_name() || program.parent().is_some_and(|folder| folder.ends_with("deps"))
}
