//! A test network: `shoal-ops testnet` as a child, its JSON line parsed.

use crate::binary;
use serde::Deserialize;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The line that `testnet` prints when a message could be sent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// File that a client is initialised with.
    pub network: PathBuf,
    /// URL of the status page.
    pub status: String,
    /// The authorities.
    pub authorities: Vec<Party>,
    /// The nodes.
    pub nodes: Vec<Party>,
}

/// One process of the network.
#[derive(Clone, Debug, Deserialize)]
pub struct Party {
    /// Identity key in hex (nodes).
    pub identity: Option<String>,
    /// `gateway`, `mix` or `store` (nodes).
    pub role: Option<String>,
    /// `L1` to `L3` (mixes).
    pub layer: Option<String>,
    /// Process id at the start.
    pub pid: u32,
    /// Its folder; `run --dir` starts it again.
    pub dir: PathBuf,
    /// UDP address.
    pub addr: String,
    /// `http://…` or `host:port` of livez, readyz and metrics.
    pub metrics: String,
}

/// A running test network; stopped when dropped.
pub struct Testnet {
    child: Child,
    restarted: Vec<Child>,
    /// What it said of itself.
    pub ready: Ready,
    /// Holds the network's folder as long as the network lives.
    pub folder: tempfile::TempDir,
}

impl Testnet {
    /// Starts a network and waits until a message could be sent (expected within 20 s; ten times that is the deadline).
    ///
    /// # Panics
    /// When it does not come up; its own output says why.
    pub fn start(more: &[&str]) -> Self {
        Self::start_with(more, &[])
    }

    /// As [`Testnet::start`], with these environment variables for every party.
    ///
    /// # Panics
    /// As [`Testnet::start`].
    pub fn start_with(more: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut child = Command::new(binary("shoal-ops"))
            .arg("testnet")
            .arg("--dir")
            .arg(folder.path().join("net"))
            .args(more)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("shoal-ops starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let mut reader = BufReader::new(stdout);
            let _ = reader.read_line(&mut line);
            let _ = tell.send(line);
            // the pipe stays open, and anything more would break the contract
            let mut rest = String::new();
            let _ = std::io::Read::read_to_string(&mut reader, &mut rest);
            assert!(rest.is_empty(), "testnet wrote after its ready line: {rest}");
        });
        // stopped by Drop from here on, whatever goes wrong below
        let mut net = Self { child, restarted: Vec::new(), ready: Ready::default(), folder };
        let line = told.recv_timeout(Duration::from_secs(200)).expect("testnet is ready within 200 s");
        net.ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("ready line: {e}: {line:?}"));
        net
    }

    /// The nodes of a role (and layer).
    pub fn nodes(&self, role: &str, layer: Option<&str>) -> Vec<Party> {
        let wanted = |p: &&Party| p.role.as_deref() == Some(role) && (layer.is_none() || p.layer.as_deref() == layer);
        self.ready.nodes.iter().filter(wanted).cloned().collect()
    }

    /// kill -9.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn kill(&self, pid: u32) {
        let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -9 {pid}");
    }

    /// Starts a node again in its folder; returns its new process id.
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn run_again(&mut self, dir: &Path, program: &str) -> u32 {
        self.run_again_with(dir, program, &[])
    }

    /// As [`Testnet::run_again`], with these environment variables.
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn run_again_with(&mut self, dir: &Path, program: &str, environment: &[(&str, &str)]) -> u32 {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("again.log")).expect("log");
        let child = Command::new(binary(program))
            .arg("run")
            .arg("--dir")
            .arg(dir)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the party starts again");
        let pid = child.id();
        self.restarted.push(child);
        pid
    }

    /// kill -9 of a party that [`Testnet::run_again`] started, and waits for its end: its lock and ports are free.
    ///
    /// # Panics
    /// When there is no such party.
    pub fn kill_again(&mut self, pid: u32) {
        let at = self.restarted.iter().position(|child| child.id() == pid).expect("was started again");
        let mut child = self.restarted.remove(at);
        child.kill().expect("SIGKILL");
        child.wait().expect("reaped");
    }
}

impl Drop for Testnet {
    fn drop(&mut self) {
        for child in &mut self.restarted {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        for _ in 0..500 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
