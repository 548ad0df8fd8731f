//! A person at a shell: one profile, the real `shoal` command.

use crate::binary;
use crate::netns::in_namespace;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

/// One profile.
pub struct Person {
    /// For messages of failing tests.
    pub name: &'static str,
    /// The profile's folder.
    pub profile: PathBuf,
    /// `shoal1…`.
    pub address: String,
    /// Network namespace in which all commands run; `None`: the machine's own network.
    namespace: Option<String>,
    /// What `SHOAL_LOG` is set to.
    level: Option<&'static str>,
    daemon: Option<Child>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// JSON lines of standard output.
    pub lines: Vec<Value>,
    /// Standard error, for messages of failing tests.
    pub stderr: String,
}

impl Person {
    /// Makes a profile and starts its daemon; returns when the daemon says ready.
    ///
    /// # Panics
    /// When either fails.
    pub fn new(name: &'static str, folder: &Path, network: &Path) -> Self {
        Self::inside(None, name, folder, network)
    }

    /// As [`Person::new`], for somebody who lives in a network namespace.
    ///
    /// # Panics
    /// When either fails.
    pub fn inside(namespace: Option<&str>, name: &'static str, folder: &Path, network: &Path) -> Self {
        Self::make(namespace, None, name, folder, network)
    }

    /// As [`Person::new`], with another level of the daemon's log, which is beside the profile.
    ///
    /// # Panics
    /// When either fails.
    pub fn logging(level: &'static str, name: &'static str, folder: &Path, network: &Path) -> Self {
        Self::make(None, Some(level), name, folder, network)
    }

    fn make(
        namespace: Option<&str>,
        level: Option<&'static str>,
        name: &'static str,
        folder: &Path,
        network: &Path,
    ) -> Self {
        let (profile, namespace) = (folder.join(name), namespace.map(str::to_owned));
        let mut person = Self { name, profile, address: String::new(), namespace, level, daemon: None };
        let made = person.run([OsStr::new("init"), OsStr::new("--network"), network.as_os_str()]);
        assert_eq!(made.code, 0, "{name}: init: {}", made.stderr);
        person.address = made.lines[0]["address"].as_str().expect("init prints an address").to_owned();
        person.up();
        person
    }

    /// Starts the daemon in the foreground of a child and waits for its ready line.
    ///
    /// # Panics
    /// When it does not start.
    pub fn up(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.profile.with_extension("log"))
            .expect("log");
        let mut child = self
            .command()
            .args(["up", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("shoal up starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
        assert_eq!(line.trim(), r#"{"ready":true}"#, "{}: up", self.name);
        self.daemon = Some(child);
    }

    /// `shoal --profile …`, where the person lives.
    fn command(&self) -> Command {
        let program = binary("shoal");
        let mut command = match &self.namespace {
            Some(namespace) => in_namespace(namespace, &program),
            None => Command::new(program),
        };
        command.arg("--profile").arg(&self.profile);
        command.envs(self.level.map(|level| ("SHOAL_LOG", level)));
        command
    }

    /// Process id of the daemon.
    ///
    /// # Panics
    /// When there is none.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("daemon runs").id()
    }

    /// kill -9 of the daemon.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("daemon runs");
        daemon.kill().expect("SIGKILL");
        daemon.wait().expect("reaped");
    }

    /// Starts a subcommand with `--json` that goes on, and hands over the lines that it prints.
    ///
    /// # Panics
    /// When the command cannot be started.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> (Child, Receiver<String>) {
        let mut command = self.command();
        command.args(arguments).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("shoal starts");
        let stdout = std::io::BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (heard, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // nobody listens any more when the test is over
            let _ = std::io::BufRead::lines(stdout).map_while(Result::ok).try_for_each(|line| heard.send(line));
        });
        (child, lines)
    }

    /// Runs a subcommand with `--json`.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        self.run_with_input(arguments, b"")
    }

    /// Runs a subcommand with `--json` and something on standard input.
    ///
    /// # Panics
    /// When the command cannot be started or prints what is no JSON.
    pub fn run_with_input<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, input: &[u8]) -> Ended {
        let mut child = self
            .command()
            .args(arguments)
            .arg("--json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("shoal starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let owned = input.to_vec();
        let feeder = std::thread::spawn(move || {
            let _ = stdin.write_all(&owned);
        });
        let output = child.wait_with_output().expect("shoal ends");
        let _ = feeder.join();
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        let lines = stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line:?}", self.name)))
            .collect();
        Ended {
            code: output.status.code().unwrap_or(-1),
            lines,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `send TO TEXT`; returns the message's id.
    ///
    /// # Panics
    /// When the command fails.
    pub fn send(&self, to: &str, text: &str) -> String {
        let ended = if text.len() > 10_000 {
            self.run_with_input(["send", to, "-"], text.as_bytes())
        } else {
            self.run(["send", to, text])
        };
        assert_eq!(ended.code, 0, "{}: send: {ended:?}", self.name);
        ended.lines[0]["id"].as_str().expect("send prints an id").to_owned()
    }

    /// What `status` says.
    ///
    /// # Panics
    /// When the command fails.
    pub fn status(&self) -> Value {
        let mut ended = self.run(["status"]);
        assert_eq!(ended.code, 0, "{}: status: {ended:?}", self.name);
        ended.lines.remove(0)
    }

    /// `send --wait STATE`; returns the state reached.
    ///
    /// # Panics
    /// When the command fails.
    pub fn send_and_wait(&self, to: &str, text: &str, state: &str) -> String {
        let ended = self.run(["send", to, text, "--wait", state, "--timeout", "120s"]);
        assert_eq!(ended.code, 0, "{}: send --wait: {ended:?}", self.name);
        ended.lines[0]["state"].as_str().expect("a state").to_owned()
    }

    /// Everything new, once.
    ///
    /// # Panics
    /// When the command fails.
    pub fn read(&self) -> Vec<Value> {
        let ended = self.run(["read"]);
        assert_eq!(ended.code, 0, "{}: read: {ended:?}", self.name);
        ended.lines
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
