//! What operators do by hand, and the mistakes they make: the real program on its files, and as processes.
#![expect(clippy::unwrap_used, reason = "a test fails where something is missing")]
#![expect(clippy::disallowed_methods, reason = "waits for processes, on the real clock")]

mod files;
mod running;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_protocol::network::NetworkFile;

const PROGRAM: &str = env!("CARGO_BIN_EXE_shoal-directory");
/// More than ten times what the slowest step takes: a dead link is noticed within 10 s.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// Exit code, and what was said. One that should be refused and runs instead is ended.
fn say(arguments: &[&str]) -> (i32, Value) {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .arg("--json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // an answer here is far below what a pipe holds
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{arguments:?} goes on and on");
        }
        std::thread::sleep(POLL / 10);
    }
    let output = child.wait_with_output().unwrap();
    let json =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"));
    (output.status.code().unwrap(), json)
}

fn fine(arguments: &[&str]) -> Value {
    let (code, json) = say(arguments);
    assert_eq!(code, 0, "{arguments:?}: {json}");
    json
}

/// The message and the next step of a refusal.
fn refused(code: i32, arguments: &[&str]) -> String {
    let (found, json) = say(arguments);
    assert_eq!(found, code, "{arguments:?}: {json}");
    let part = |name: &str| json["error"][name].as_str().unwrap().to_owned();
    format!("{} → {}", part("message"), part("next"))
}

fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|list| list.iter().map(|one| one.as_str().unwrap()).collect()).unwrap_or_default()
}

/// One operator's directory.
struct Operator {
    /// Holds the directory, and the log of its process beside it.
    root: tempfile::TempDir,
    path: String,
    address: SocketAddr,
    identity: String,
}

impl Operator {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (address, metrics) = (free_address(), free_address());
        let path = root.path().join("authority").to_str().unwrap().to_owned();
        let (listen, metrics) = (address.to_string(), metrics.to_string());
        let made = fine(&["init", "--dir", &path, "--key-only", "--listen", &listen, "--metrics", &metrics]);
        Self { address, identity: made["identity"].as_str().unwrap().to_owned(), root, path }
    }

    /// An empty directory for the same authority.
    fn twin(&self) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("authority").to_str().unwrap().to_owned();
        std::fs::create_dir(&path).unwrap();
        Self { address: self.address, identity: self.identity.clone(), root, path }
    }

    /// The key ceremony, with the parameters of a test network.
    fn ceremony(count: usize) -> Vec<Self> {
        let all: Vec<Self> = (0..count).map(|_| Self::new()).collect();
        let others: Vec<String> = all[1..].iter().map(|other| other.file("authority.pub")).collect();
        let mut arguments = vec!["--name", "reef", "--test-network", "--epoch", "10s"];
        for other in &others {
            arguments.extend(["--authority", other]);
        }
        fine(&all[0].command("init", &arguments));
        let network = all[0].file("network.toml");
        for other in &all[1..] {
            fine(&other.command("init", &["--network", &network]));
        }
        all
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }

    fn file(&self, name: &str) -> String {
        self.dir().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    fn network(&self) -> NetworkFile {
        NetworkFile::parse(&self.read("network.toml")).unwrap()
    }

    /// A command on this directory.
    fn command<'a>(&'a self, name: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        [&[name, "--dir", &self.path], arguments].concat()
    }

    fn fine(&self, name: &str, arguments: &[&str]) -> Value {
        fine(&self.command(name, arguments))
    }

    fn refused(&self, code: i32, name: &str, arguments: &[&str]) -> String {
        refused(code, &self.command(name, arguments))
    }

    fn run(&self) -> Process {
        Process::of(&self.dir(), self.root.path().join("log"))
    }

    /// Waits until `status` shows something.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.fine("status", &[]);
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "{what}: {status:#}");
            std::thread::sleep(POLL);
        }
    }
}

/// A running authority, with its log.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn of(dir: &Path, log: PathBuf) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(PROGRAM)
            .args(["run", "--dir"])
            .arg(dir)
            .env("SHOAL_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The first line of the log that holds all of `words`.
    fn logged(&self, words: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap();
            if let Some(line) = log.lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return line.to_owned();
            }
            assert!(begun.elapsed() < DEADLINE, "{words:?}:\n{log}");
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
