//! The node under test: its process, its files, what it says of itself.

use super::{Accounts, LOCAL, Neighbour, PATIENCE, Paper};
use crate::binary;
use serde_json::Value;
use shoal_node::io::control::{self, Command};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::quic::{FrameWriter, Link, Protocol};
use shoal_protocol::types::{Identity, Role};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// The node under test: a process.
pub struct Node {
    child: Child,
    dir: PathBuf,
    environment: Vec<(String, String)>,
    /// Own loops that it dropped before it was ready.
    own: AtomicU64,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its identity.
    pub identity: Identity,
    metrics: SocketAddr,
}

impl Node {
    /// Makes and starts a node of `role` in `dir`.
    pub fn start(paper: &Paper, role: Role, dir: &std::path::Path) -> Self {
        Self::start_with(paper, role, dir, &[], &[])
    }

    /// As [`Node::start`], with these environment variables and these lines under `[limits]` in its configuration.
    pub fn start_with(
        paper: &Paper,
        role: Role,
        dir: &std::path::Path,
        environment: &[(&str, &str)],
        limits: &[(&str, usize)],
    ) -> Self {
        let network = dir.join("network.toml");
        std::fs::write(&network, paper.network.to_toml()).expect("written");
        let (address, metrics) = (free_udp(), free_tcp());
        let made = Process::new(binary("shoal-node"))
            .args(["init", "--json", "--role", &role.to_string(), "--address", &address.to_string()])
            .args(["--metrics", &metrics.to_string(), "--network"])
            .arg(&network)
            .arg("--dir")
            .arg(dir.join("node"))
            .output()
            .expect("init runs");
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).expect("one line of JSON");
        let identity = made["identity"].as_str().expect("an identity").parse().expect("hexadecimal");
        let dir = dir.join("node");
        // all that a log can hold, also that of libraries if they were let
        let config = std::fs::read_to_string(dir.join("node.toml")).expect("read");
        let loud = "log = \"debug,quinn=trace,quinn_proto::connection=trace,rustls=trace\"";
        let mut config = config.replace("log = \"info\"", loud);
        for (name, value) in limits {
            // `init` writes all of them
            let (before, rest) = config.split_once(&format!("\n{name} = ")).expect("a limit of that name");
            let (_, after) = rest.split_once('\n').unwrap_or((rest, ""));
            config = format!("{before}\n{name} = {value}\n{after}");
        }
        std::fs::write(dir.join("node.toml"), config).expect("written");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { child: spawn(&dir, &environment), dir, environment, own: AtomicU64::new(0), address, identity, metrics }
    }

    /// Its directory.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("read")
    }

    /// Waits until the log satisfies `condition`.
    pub async fn wait_log(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let waiting = async {
            while !condition(&self.log()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}: {}", self.log());
    }

    /// Code and body of an answer on the metrics port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.metrics).await.expect("connected");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.metrics);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"), body.to_owned())
    }

    /// What a command of the operator prints for people.
    pub fn command(&self, name: &str) -> String {
        let output = Process::new(binary("shoal-node")).arg(name).arg("--dir").arg(&self.dir).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command of the operator prints for programs.
    pub fn command_json(&self, name: &str) -> String {
        let output =
            Process::new(binary("shoal-node")).args([name, "--json", "--dir"]).arg(&self.dir).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// kill -9, then start again in the same directory.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// Starts it again in the same directory.
    pub fn restart(&mut self) {
        // it counts from zero again
        self.own.store(0, Ordering::Relaxed);
        self.child = spawn(&self.dir, &self.environment);
    }

    /// Where its keys and logs are.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Names of the files of keys and of what was seen under them.
    pub fn key_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.runtime_dir()).expect("listed");
        let names = entries.filter_map(|entry| entry.expect("an entry").file_name().into_string().ok());
        names.filter(|name| name.starts_with("mix-")).collect()
    }

    /// What it says of itself; null while it is not there.
    pub async fn status(&self) -> Value {
        control::ask(&self.runtime_dir(), Command::Status).await.unwrap_or(Value::Null)
    }

    /// Waits until the status satisfies `condition`.
    pub async fn wait(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waiting = async {
            loop {
                last = self.status().await;
                if condition(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        assert!(found.is_ok(), "{what}: {last}");
        last
    }

    /// What became of the packets it has received since its start.
    pub async fn accounts(&self) -> Accounts {
        self.read(&self.status().await)
    }

    /// What a status says of its packets.
    pub fn read(&self, status: &Value) -> Accounts {
        Accounts::of(status).counted(self.own.load(Ordering::Relaxed))
    }

    /// Waits until it has received `count` packets since its start, none waits any more, and each of them is accounted
    /// for: forwarded or dropped.
    pub async fn settled(&self, count: u64) -> Accounts {
        let settled = |status: &Value| {
            let accounts = self.read(status);
            accounts.received >= count && accounts.is_settled()
        };
        self.read(&self.wait("every packet is accounted for", settled).await)
    }

    /// Resident memory, in bytes, as the system has it.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        self.own.store(0, Ordering::Relaxed);
        let status = self.wait("ready", |status| status["ready"] == Value::Bool(true)).await;
        self.own.store(Accounts::of(&status).own_now(), Ordering::Relaxed);
    }

    /// Waits until exactly `count` packets were dropped for `reason` since its start.
    pub async fn dropped(&self, reason: &str, count: u64) {
        self.wait(reason, |status| status["dropped"][reason].as_u64() == Some(count)).await;
    }

    /// A link from `peer`, with its stream of packets.
    pub async fn dial(&self, peer: &Neighbour) -> (Link, FrameWriter<PACKET_SIZE>) {
        let link = peer.endpoint.connect(self.address, &self.identity, Protocol::Mix).await.expect("a link");
        let frames = link.open_frames().await.expect("a stream");
        (link, frames)
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Process::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Sends a signal by name and waits for the end of the process.
    pub async fn end(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.ended().await
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> Option<i32> {
        // a drain takes up to an epoch and its grace time: 17 s
        const LONG: Duration = Duration::from_secs(180);
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("our child") {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, ended).await.expect("ends in time")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &std::path::Path, environment: &[(String, String)]) -> Child {
    Process::new(binary("shoal-node"))
        .args(["run", "--dir"])
        .arg(dir)
        .env_remove("SHOAL_LOG")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(std::fs::OpenOptions::new().append(true).create(true).open(dir.join("log")).expect("opened"))
        .spawn()
        .expect("starts")
}

fn free_udp() -> SocketAddr {
    std::net::UdpSocket::bind(LOCAL).and_then(|socket| socket.local_addr()).expect("a free port")
}

fn free_tcp() -> SocketAddr {
    std::net::TcpListener::bind(LOCAL).and_then(|listener| listener.local_addr()).expect("a free port")
}
