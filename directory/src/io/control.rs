//! The control socket: one JSON line in, one out. Only the owner of the directory can open it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::failure::{Failure, Kind};
use super::now;
use super::server::Shared;

/// Longest command line, in bytes.
const COMMAND_MAX: u64 = 4096;
/// Longest answer: 2,048 nodes at about 400 bytes each, and room.
const ANSWER_MAX: u64 = 4 * 1024 * 1024;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    Status,
    Reload,
}

/// Opens the socket at `path`, with mode 0600, in place of one that a crash left behind. The caller holds the
/// directory's lock.
///
/// # Errors
/// The socket cannot be opened; a path is at most about 100 bytes long.
pub fn bind(path: &Path) -> Result<UnixListener, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::file("replaced", path, &error));
        }
        Ok(()) | Err(_) => {}
    }
    // the directory is 0700, so nobody else gets here before the mode is set
    UnixListener::bind(path)
        .and_then(|listener| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        })
        .map_err(|error| Failure::file("opened as a socket", path, &error))
}

/// Answers commands one after the other: they come from the operator's own shell.
pub async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match timeout(PATIENCE, answer(stream, &shared)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a control command was not answered"),
                Err(_) => tracing::debug!("a control command took too long"),
            },
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(COMMAND_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(Command::Status) => {
            let status = shared.authority().status(now(), true);
            serde_json::to_value(status).unwrap_or_else(|error| failed(&error.to_string()))
        }
        Ok(Command::Reload) => reload(shared),
        Err(error) => failed(&format!("not a command: {error}")),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await?;
    write.shutdown().await
}

/// Reads the operator's files again. One line in the log for what is in force now, and one for each file that was refused.
#[must_use]
pub fn reload(shared: &Shared) -> Value {
    let reloaded = shared.authority().reload();
    tracing::info!(
        admitted = reloaded.admitted,
        asks = reloaded.asks.join(", "),
        "the operator's files were read again"
    );
    for hint in &reloaded.moved {
        tracing::info!(authority = %hint.identity, "another authority is looked for at another address now");
    }
    for notice in &reloaded.notices {
        tracing::warn!("{notice}");
    }
    for problem in &reloaded.problems {
        tracing::error!(next = problem.next, "{problem}");
    }
    shared.stirred.notify_one();
    reloaded.to_json()
}

fn failed(message: &str) -> Value {
    Failure::new(Kind::Usage, message, "send {\"command\":\"status\"} or {\"command\":\"reload\"}").to_json()
}

/// Asks a running authority; `None` when none runs there.
///
/// # Errors
/// It runs but does not answer, or not with JSON.
pub async fn ask(path: &Path, command: &str) -> Result<Option<Value>, Failure> {
    let Ok(mut stream) = UnixStream::connect(path).await else { return Ok(None) };
    let exchange = async {
        stream.write_all(format!("{}\n", json!({ "command": command })).as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let hung = |problem: String| {
        Failure::new(Kind::Temporary, format!("{}: {problem}", path.display()), "look at the authority's log")
    };
    let answer = match timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(hung(error.to_string())),
        Err(_) => return Err(hung("no answer in 5 s".to_owned())),
    };
    serde_json::from_str(&answer).map(Some).map_err(|error| hung(error.to_string()))
}
