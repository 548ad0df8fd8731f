//! A daemon with its page.

use serde_json::Value;
use shoal_tests::binary;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// `shoal up --web` in the foreground of a child.
pub(crate) struct Page {
    pub(crate) profile: PathBuf,
    daemon: Child,
    lines: Receiver<Value>,
}

impl Page {
    /// Starts it; there may be no profile yet.
    pub(crate) fn up(profile: &Path) -> Self {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(profile.with_extension("log")).expect("log");
        let mut daemon = Command::new(binary("shoal"))
            .arg("--profile")
            .arg(profile)
            .args(["up", "--web", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("shoal up starts");
        let stdout = BufReader::new(daemon.stdout.take().expect("stdout is piped"));
        let (tell, lines) = sync_channel(16);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
            }
        });
        Self { profile: profile.to_owned(), daemon, lines }
    }

    /// The next line that it says: whether it is ready, and a link.
    pub(crate) fn said(&self) -> (bool, String) {
        let line = self.lines.recv_timeout(Duration::from_secs(60)).expect("up says something");
        (line["ready"].as_bool().expect("ready"), line["web"].as_str().expect("a link").to_owned())
    }

    /// A command of the profile's owner, which succeeds; its first line.
    pub(crate) fn run(&self, arguments: &[&str]) -> Value {
        let shoal =
            Command::new(binary("shoal")).arg("--profile").arg(&self.profile).args(arguments).arg("--json").output();
        let output = shoal.expect("shoal runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default()).expect("JSON")
    }

    /// A fresh link.
    pub(crate) fn link(&self) -> String {
        self.run(&["web"])["url"].as_str().expect("a link").to_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
