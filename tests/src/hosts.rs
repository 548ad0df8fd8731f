//! A network whose parties each live on a host of their own, with a wire between them. Made as operators make one: every
//! authority its keys, one founds the network, every node takes the network file.

use crate::wire::{Wire, address_of};
use crate::{binary, until_every};
use serde_json::Value;
use shoal_protocol::network::{Hint, NetworkFile};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Health is asked for inside of the namespace, whose loopback is nobody else's.
const METRICS: &str = "127.0.0.1:4001";

/// Lines of each party's log that are shown when a test fails.
const LOG_LINES: usize = 12;
/// Pause between two questions that cost a process each.
pub const PAUSE: Duration = Duration::from_millis(250);

/// One party and where it lives.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its host on the wire.
    pub host: usize,
    /// Its folder.
    pub dir: PathBuf,
    program: &'static str,
}

/// The parties, running; ended when dropped.
#[derive(Debug)]
pub struct Hosts {
    /// File that a client is initialised with.
    pub network: PathBuf,
    /// The authorities; they live on the first hosts.
    pub authorities: Vec<Remote>,
    /// The nodes, on the hosts after them.
    pub nodes: Vec<Remote>,
    running: Vec<Child>,
}

impl Hosts {
    /// Makes and starts `authorities` authorities and one node for each of `roles`, each on a host of its own from 0 on.
    /// `parameters` are options of `shoal-directory init`.
    ///
    /// # Panics
    /// When a command fails.
    #[must_use]
    pub fn start(wire: &Wire, folder: &Path, authorities: usize, roles: &[&str], parameters: &[&str]) -> Self {
        let remote =
            |host: usize, name: &str, program| Remote { host, dir: folder.join(format!("{name}-{host}")), program };
        let authorities: Vec<Remote> =
            (0..authorities).map(|host| remote(host, "authority", "shoal-directory")).collect();
        let nodes: Vec<Remote> =
            roles.iter().zip(authorities.len()..).map(|(role, host)| remote(host, role, "shoal-node")).collect();
        let network = folder.join("network.toml");
        let count = |role: &str| roles.iter().filter(|of| **of == role).count().to_string();
        found(&authorities, &network, &count("gateway"), &count("store"), parameters);
        let mut file = NetworkFile::parse(&std::fs::read_to_string(&network).expect("is there")).expect("is a network");
        for (node, role) in nodes.iter().zip(roles) {
            let (address, mut init) = (address_of(node.host).to_string(), init(node));
            init.args(["--role", role, "--address", &address, "--listen", &address, "--metrics", METRICS]);
            let made = run(init.arg("--network").arg(&network));
            if *role == "gateway" {
                let identity = made["identity"].as_str().expect("an identity").parse().expect("hexadecimal");
                file.hints.gateways.push(Hint { identity, address: address_of(node.host) });
            }
        }
        std::fs::write(&network, file.to_toml()).expect("written");
        let mut hosts = Self { network, authorities, nodes, running: Vec::new() };
        for party in hosts.authorities.iter().chain(&hosts.nodes) {
            let log = std::fs::File::create(party.dir.join("log")).expect("log");
            let child = wire
                .command(party.host, &binary(party.program))
                .args([OsStr::new("run"), OsStr::new("--dir"), party.dir.as_os_str()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("the party starts");
            hosts.running.push(child);
        }
        hosts
    }

    /// Waits until every node is in the document that it holds.
    ///
    /// # Panics
    /// When that takes longer than `deadline`.
    pub fn until_ready(&self, deadline: Duration) {
        for node in &self.nodes {
            until_every(PAUSE, &format!("{} is listed", node.dir.display()), deadline, || {
                (self.status(node)?["in_consensus"] == true).then_some(())
            });
        }
    }

    /// kill -9 of a node, by its place in [`Hosts::nodes`].
    ///
    /// # Panics
    /// When it runs no more.
    pub fn kill(&mut self, node: usize) {
        let child = &mut self.running[self.authorities.len() + node];
        child.kill().expect("it runs");
        child.wait().expect("reaped");
    }

    /// What `status` says of a party; `None` while it cannot say it.
    #[must_use]
    pub fn status(&self, party: &Remote) -> Option<Value> {
        let mut command = Command::new(binary(party.program));
        let output = command.arg("status").arg("--dir").arg(&party.dir).arg("--json").stdin(Stdio::null()).output();
        let output = output.expect("the command runs");
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // the folder goes: what the parties said last is all that is left
            self.authorities.iter().chain(&self.nodes).for_each(show_log);
        }
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn show_log(party: &Remote) {
    let log = std::fs::read_to_string(party.dir.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.len().saturating_sub(LOG_LINES);
    eprintln!("{} said last:\n  {}", party.dir.display(), lines[last..].join("\n  "));
}

fn init(party: &Remote) -> Command {
    let mut command = Command::new(binary(party.program));
    command.arg("init").arg("--json").arg("--dir").arg(&party.dir);
    command
}

/// The key ceremony: everybody makes keys, the first founds the network, the others take its file.
fn found(authorities: &[Remote], network: &Path, gateways: &str, stores: &str, parameters: &[&str]) {
    let place = |party: &Remote| {
        let mut command = init(party);
        command.args(["--listen", &address_of(party.host).to_string(), "--metrics", METRICS, "--open"]);
        command.args(["--genesis-gateways", gateways, "--genesis-stores", stores]);
        command
    };
    let (founder, others) = authorities.split_first().expect("an authority");
    let mut founding = place(founder);
    founding.args(["--name", "wire", "--test-network"]).args(parameters);
    for other in others {
        run(place(other).arg("--key-only"));
        founding.arg("--authority").arg(other.dir.join("authority.pub"));
    }
    run(&mut founding);
    std::fs::copy(founder.dir.join("network.toml"), network).expect("copied");
    for other in others {
        run(init(other).arg("--network").arg(network));
    }
}

fn run(command: &mut Command) -> Value {
    let output = command.stdin(Stdio::null()).output().expect("the command runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}: {output:?}"))
}
