//! The parties of a test network as processes: their binaries, their start, their end.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{process::Command, sync::mpsc, time::timeout};

use crate::{
    failure::{ExitKind, Failure},
    plan::{Party, PartyName},
};

/// How long an `init` may take: it makes keys and writes a few files.
const INIT_LIMIT: Duration = Duration::from_secs(20);

/// How much of the end of a log is shown when a party fails.
const LOG_TAIL_LINES: usize = 12;

/// A party's process has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Which party.
    pub(crate) name: PartyName,
    /// Its process.
    pub(crate) pid: u32,
    /// How it ended; `None` when the system did not say.
    pub(crate) status: Option<ExitStatus>,
}

/// The binary of this name beside the one that runs now.
pub(crate) fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let current = std::env::current_exe().context("cannot tell where this program is")?;
    let path = current.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    bail!(Failure::new(
        ExitKind::Configuration,
        format!("{name} is not beside {}", current.display()),
        "build all binaries: cargo build --release --bins",
    ))
}

/// Runs a command to its end and returns what it wrote to standard output.
pub(crate) async fn finish(program: &Path, arguments: &[String], limit: Duration) -> anyhow::Result<String> {
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let shown = || format!("{} {}", program.display(), arguments.join(" "));
    let output = timeout(limit, run).await.with_context(|| format!("{} did not end in time", shown()))?;
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("{} failed ({}): {}", shown(), output.status, format!("{stdout}{stderr}").trim())
}

/// Runs an `init` of a party.
pub(crate) async fn init(program: &Path, arguments: &[String]) -> anyhow::Result<String> {
    finish(program, arguments, INIT_LIMIT).await
}

/// Starts `run --dir` of a party, with its output in its log. When the process ends it is reaped and told to `ended`; it
/// is never started again from here.
pub(crate) fn start(program: &Path, party: &Party, ended: mpsc::Sender<Ended>) -> anyhow::Result<u32> {
    let log_path = party.log();
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.with_context(|| format!("cannot open {}", log_path.display()))?;
    let errors = log.try_clone().with_context(|| format!("cannot open {}", log_path.display()))?;
    let mut child = Command::new(program)
        .arg("run")
        .arg("--dir")
        .arg(&party.dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let pid = child.id().context("the process ended before it began")?;
    let name = party.name;
    tokio::spawn(async move {
        let status = child.wait().await.ok();
        // the receiver is gone only when everything is being stopped
        let _ = ended.send(Ended { name, pid, status }).await;
    });
    Ok(pid)
}

/// The last lines of a party's log, for an error message.
pub(crate) fn log_tail(party: &Party) -> String {
    let text = fs::read_to_string(party.log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}
