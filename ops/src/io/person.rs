//! A person of the demonstration: the real `shoal` command on a profile of its own, and an ear at its daemon.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use shoal_client::io::{Call, Caller, EventLine, SentLine};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::{clock::Stopwatch, parties, signals};

/// How long a command of `shoal` may take that does not wait for the network.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long `shoal up` may take until it is ready.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// How long the daemon gets to end by itself.
const DOWN_LIMIT: Duration = Duration::from_secs(5);

/// Something that a daemon told.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Whose daemon.
    pub(crate) person: &'static str,
    /// When, on the stopwatch of the conversation.
    pub(crate) at: Duration,
    /// What.
    pub(crate) event: EventLine,
}

/// A person with a running daemon.
#[derive(Debug)]
pub(crate) struct Person {
    /// What the others call this person.
    pub(crate) name: &'static str,
    /// The `shoal1…` address.
    pub(crate) address: String,
    profile: PathBuf,
    binary: PathBuf,
    log: PathBuf,
    daemon: Child,
    ear: JoinHandle<()>,
}

impl Person {
    /// Makes a profile in `dir`, starts its daemon and listens to it: what it tells goes to `heard`, with the time on
    /// `watch`.
    pub(crate) async fn start(
        name: &'static str,
        dir: &Path,
        network: &Path,
        watch: Stopwatch,
        heard: mpsc::Sender<Heard>,
    ) -> anyhow::Result<Self> {
        let binary = parties::binary("shoal")?;
        let profile = dir.join(name.to_lowercase());
        let network = network.display().to_string();
        let made = shoal(&binary, &profile, &["init", "--network", &network]).await?;
        let address = text_of(&made, "address")?;

        let log = dir.join(format!("{}.log", name.to_lowercase()));
        let (daemon, ear) = wake(name, &binary, &profile, &log, watch, heard).await?;
        Ok(Self { name, address, profile, binary, log, daemon, ear })
    }

    /// Kills the daemon from one instruction to the next, and starts it again.
    pub(crate) async fn kill_and_start(&mut self, watch: Stopwatch, heard: mpsc::Sender<Heard>) -> anyhow::Result<()> {
        self.daemon.kill().await.with_context(|| format!("{}'s daemon cannot be killed", self.name))?;
        (self.daemon, self.ear) = wake(self.name, &self.binary, &self.profile, &self.log, watch, heard).await?;
        Ok(())
    }

    /// How many boxes of an own file are written, and how many it has.
    pub(crate) async fn parts(&self, id: &str) -> anyhow::Result<(u64, u64)> {
        let mut caller = Caller::connect(&self.profile).with_context(|| format!("{}'s daemon", self.name))?;
        let state: SentLine = caller.call(Call::State { id: id.to_owned() }).await?;
        state.parts.map(|parts| (parts.written, parts.all)).context("the message is no file")
    }

    /// The process of the daemon.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.daemon.id()
    }

    /// Adds a contact.
    pub(crate) async fn add(&self, name: &str, address: &str) -> anyhow::Result<()> {
        self.shoal(&["add", name, address]).await.map(|_| ())
    }

    /// Sends a text; returns the message's id and state.
    pub(crate) async fn send(&self, to: &str, text: &str) -> anyhow::Result<(String, String)> {
        let sent = self.shoal(&["send", to, text]).await?;
        Ok((text_of(&sent, "id")?, text_of(&sent, "state")?))
    }

    /// Sends a file; returns the message's id and state.
    pub(crate) async fn send_file(&self, to: &str, path: &Path) -> anyhow::Result<(String, String)> {
        let sent = self.shoal(&["send-file", to, &path.display().to_string()]).await?;
        Ok((text_of(&sent, "id")?, text_of(&sent, "state")?))
    }

    /// Everything that others wrote and that was not read yet.
    pub(crate) async fn read(&self) -> anyhow::Result<Vec<Value>> {
        let output = run(&self.binary, &self.profile, &["read"]).await?;
        output.lines().map(|line| serde_json::from_str(line).context("read printed no JSON")).collect()
    }

    /// What `status` says.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        self.shoal(&["status"]).await
    }

    /// Stops the daemon.
    pub(crate) async fn stop(mut self) {
        self.ear.abort();
        if let Some(pid) = self.daemon.id() {
            signals::terminate(pid);
        }
        if timeout(DOWN_LIMIT, self.daemon.wait()).await.is_err() {
            // it may end in this very moment
            let _ = self.daemon.kill().await;
        }
    }

    async fn shoal(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        shoal(&self.binary, &self.profile, arguments).await
    }
}

/// Starts a daemon, waits until it is ready, and listens to it.
async fn wake(
    name: &'static str,
    binary: &Path,
    profile: &Path,
    log_path: &Path,
    watch: Stopwatch,
    heard: mpsc::Sender<Heard>,
) -> anyhow::Result<(Child, JoinHandle<()>)> {
    let log = File::options().create(true).append(true).open(log_path);
    let log = log.with_context(|| format!("cannot open {}", log_path.display()))?;
    let mut daemon = Command::new(binary)
        .arg("--profile")
        .arg(profile)
        .args(["up", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let stdout = daemon.stdout.take().context("the daemon has no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let ready = timeout(UP_LIMIT, lines.next_line()).await;
    let ready = ready.with_context(|| format!("{name}'s daemon is not ready after {} s", UP_LIMIT.as_secs()))??;
    if !ready.as_deref().is_some_and(|line| line.contains("\"ready\":true")) {
        let log = fs::read_to_string(log_path).unwrap_or_default();
        bail!("{name}'s daemon did not become ready: {}{}", ready.unwrap_or_default(), log.trim());
    }
    let mut caller = Caller::connect(profile).with_context(|| format!("{name}'s daemon cannot be reached"))?;
    caller.call::<Value>(Call::Subscribe).await.with_context(|| format!("{name}'s daemon tells nothing"))?;
    let ear = tokio::spawn(async move {
        // ends with the daemon, or with the conversation
        while let Ok(event) = caller.event().await {
            if heard.send(Heard { person: name, at: watch.elapsed(), event }).await.is_err() {
                return;
            }
        }
    });
    Ok((daemon, ear))
}

/// Runs a command of `shoal` that prints one JSON object.
async fn shoal(binary: &Path, profile: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = run(binary, profile, arguments).await?;
    let what = arguments.first().copied().unwrap_or_default();
    serde_json::from_str(output.trim()).with_context(|| format!("shoal {what} printed no JSON: {}", output.trim()))
}

async fn run(binary: &Path, profile: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut all = vec!["--profile".to_owned(), profile.display().to_string()];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    all.push("--json".to_owned());
    parties::finish(binary, &all, COMMAND_LIMIT).await
}

fn text_of(value: &Value, key: &str) -> anyhow::Result<String> {
    let text = value.get(key).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("shoal printed no {key}: {value}"))
}
