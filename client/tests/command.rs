//! The command `shoal` as a process, without a network: what somebody new types.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use shoal_protocol::UnixMillis;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use tempfile::TempDir;

/// A network that nobody runs.
fn nowhere() -> NetworkFile {
    let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
    // the discard port: nobody answers there
    let gateway = Hint { identity: authority.public().identity, address: "127.0.0.1:9".parse().unwrap() };
    NetworkFile {
        founding: shoal_protocol::network::Founding::default(),
        name: "nowhere".to_owned(),
        genesis_time: UnixMillis(1_750_000_000_000),
        authorities: vec![authority.public().clone()],
        parameters: Parameters::test_network(),
        hints: Hints { authorities: Vec::new(), gateways: vec![gateway] },
    }
}

/// A profile of that network.
struct Somebody {
    profile: PathBuf,
    daemon: Option<Child>,
    folder: TempDir,
}

impl Somebody {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network.toml");
        std::fs::write(&file, nowhere().to_toml()).unwrap();
        let somebody = Self { profile: folder.path().join("somebody"), daemon: None, folder };
        assert!(somebody.run(&["init", "--network", file.to_str().unwrap()]).status.success());
        somebody
    }

    /// Writes a network file; its path.
    fn file(&self, network: &NetworkFile) -> String {
        let path = self.folder.path().join("other.toml");
        std::fs::write(&path, network.to_toml()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn prints(&self, arguments: &[&str]) -> Value {
        let output = self.command().arg("--json").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_shoal")));
        command.arg("--profile").arg(&self.profile).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// The exit code, and what was printed as JSON.
    fn fails(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.command().arg("--json").args(arguments).output().unwrap();
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Starts the daemon and returns when it serves.
    fn up(&mut self) {
        let mut child =
            self.command().args(["up", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), r#"{"ready":true}"#);
        self.daemon = Some(child);
    }
}

impl Drop for Somebody {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn a_second_daemon_says_at_once_that_one_runs_and_the_first_goes_on() {
    let mut somebody = Somebody::new();
    somebody.up();
    let (code, failure) = somebody.fails(&["up"]);
    assert_eq!((code, failure["error"]["code"].as_str()), (75, Some("already_running")), "{failure}");
    assert!(failure["error"]["next"].as_str().unwrap().contains("shoal down"));
    // it did not wait for its turn: whoever is told to stop is the last one
    assert!(somebody.run(&["down"]).status.success());
    assert!(somebody.daemon.take().unwrap().wait().unwrap().success());
    let down = somebody.run(&["down", "--json"]);
    assert_eq!(String::from_utf8_lossy(&down.stdout).trim(), r#"{"stopped":false}"#);
    // one that is killed leaves a socket behind and no lock: the next one begins
    somebody.up();
    let mut killed = somebody.daemon.take().unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    somebody.up();
}

#[test]
fn names_and_times_are_understood_or_refused_with_a_way_out() {
    let somebody = Somebody::new();
    let other = Somebody::new();
    let address = String::from_utf8(other.run(&["address"]).stdout).unwrap();
    assert!(other.run(&["down"]).status.success());
    for name in ["al/ice", "shoal1xyz", " ann", "a\u{202e}b", ""] {
        let (code, failure) = somebody.fails(&["add", name, address.trim()]);
        assert_eq!((code, failure["error"]["code"].as_str()), (64, Some("bad_name")), "{name:?}: {failure}");
    }
    assert!(somebody.run(&["add", "ann", address.trim()]).status.success());
    let (code, failure) = somebody.fails(&["accept", "nobody"]);
    assert_eq!(code, 64);
    assert!(failure["error"]["next"].as_str().unwrap().contains("shoal contacts"), "{failure}");
    // a plain number is seconds: it is the network that is missing, not the unit
    let (code, failure) = somebody.fails(&["send", "ann", "hello", "--wait", "stored", "--timeout", "1"]);
    assert_eq!(code, 69, "{failure}");
    assert_eq!(failure["state"], "queued");
    assert!(somebody.run(&["down"]).status.success());
}

#[test]
fn a_network_file_that_leads_nowhere_is_refused_when_the_profile_is_made() {
    let somebody = Somebody::new();
    let empty = somebody.file(&NetworkFile { hints: Hints::default(), ..nowhere() });
    let other = somebody.folder.path().join("another");
    let output = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(["--json", "--profile", other.to_str().unwrap(), "init", "--network", &empty])
        .output()
        .unwrap();
    let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), failure["error"]["code"].as_str()), (Some(78), Some("no_gateway")), "{failure}");
    let [message, next] = ["message", "next"].map(|part| failure["error"][part].as_str().unwrap());
    assert!(message.contains(&empty) && message.contains("hints.gateways") && next.contains("ask"), "{failure}");
    assert!(!other.exists(), "nothing is left behind");
}

#[test]
fn a_newer_network_file_of_the_same_network_is_taken_up() {
    let somebody = Somebody::new();
    let shown = somebody.prints(&["network"]);
    assert_eq!((shown["network"].as_str(), &shown["gateways"][0]["address"]), (Some("nowhere"), &"127.0.0.1:9".into()));
    let mut newer = nowhere();
    newer.hints.gateways[0].address = "127.0.0.1:10".parse().unwrap();
    let path = somebody.file(&newer);
    // who tries init is told of the way
    let (code, failure) = somebody.fails(&["init", "--network", &path]);
    assert_eq!((code, failure["error"]["code"].as_str()), (78, Some("profile_exists")));
    assert!(failure["error"]["next"].as_str().unwrap().contains("shoal network update"), "{failure}");

    let updated = somebody.prints(&["network", "update", &path]);
    assert_eq!((&updated["changed"], &updated["gateways"][0]["address"]), (&true.into(), &"127.0.0.1:10".into()));
    assert_eq!(somebody.prints(&["network", "update", &path])["changed"], false);
    assert!(somebody.run(&["down"]).status.success());
    assert_eq!(somebody.prints(&["network", "show"])["gateways"], updated["gateways"], "after a restart");

    for (wrong, code) in [
        (NetworkFile { name: "elsewhere".to_owned(), ..newer.clone() }, "other_network"),
        (NetworkFile { hints: Hints::default(), ..newer.clone() }, "no_gateway"),
    ] {
        let (exit, failure) = somebody.fails(&["network", "update", &somebody.file(&wrong)]);
        assert_eq!((exit, failure["error"]["code"].as_str()), (78, Some(code)), "{failure}");
    }
    assert_eq!(somebody.prints(&["network"])["gateways"], updated["gateways"], "what is refused changes nothing");
    assert!(somebody.run(&["down"]).status.success());
}
