//! The control socket: a Unix socket only its owner can open. One JSON line in, one JSON line out.

use crate::config_store::StoreConfig;
use crate::io::drain;
use crate::io::files;
use crate::io::phase::{self, Phase};
use crate::io::status::Status;
use crate::io::store_moves::StoreMoves;
use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Longest question.
const QUESTION_MAX: u64 = 4_096;
/// Longest answer: the status of a node with 2,048 links.
const ANSWER_MAX: u64 = 1 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions at a time.
const CONNECTIONS: usize = 16;
/// How often it is looked whether the socket still has its name.
const LOOK: Duration = Duration::from_secs(5);
/// Longest path a Unix socket can have on Linux is 107 bytes.
const PATH_MAX: usize = 107;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// What the node does.
    Status,
    /// Which secrets it holds.
    Secrets,
    /// Its published descriptor.
    Descriptor,
    /// Leave the network and stop.
    Drain,
    /// Keep the store in another engine from now on.
    Move,
    /// How far the store's move is.
    Moving,
    /// Call the store's move off.
    Stay,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    command: Command,
    /// Of [`Command::Move`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<StoreConfig>,
}

/// Where the socket of a runtime directory is.
pub fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("control.sock")
}

/// Opens the socket. The caller holds the runtime directory, so a socket that is there is a leftover.
pub fn bind(runtime_dir: &Path) -> Result<UnixListener> {
    let path = socket_path(runtime_dir);
    let describe = || format!("cannot open the control socket {}", path.display());
    if path.as_os_str().len() > PATH_MAX {
        return Err(anyhow!("the path is longer than {PATH_MAX} bytes; choose a shorter runtime_dir"))
            .with_context(describe);
    }
    files::private_dir(runtime_dir)?;
    if path.exists() {
        std::fs::remove_file(&path).with_context(describe)?;
    }
    let listener = UnixListener::bind(&path).with_context(describe)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).with_context(describe)?;
    Ok(listener)
}

/// Answers until the process stops. If somebody removes the socket, or the whole runtime directory, it is made anew: the
/// operator must be able to ask.
pub async fn serve(mut listener: Arc<UnixListener>, status: Arc<Status>, phase: watch::Sender<Phase>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut stopping = phase.subscribe();
    let path = socket_path(&status.runtime_dir);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let stream = tokio::select! {
            _ = looks.tick() => {
                if !path.exists() {
                    match bind(&status.runtime_dir) {
                        Ok(made) => listener = Arc::new(made),
                        Err(error) => tracing::warn!(error = format!("{error:#}"), "the control socket is gone"),
                    }
                }
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = phase::reached(&mut stopping, Phase::Stopping) => return,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (status, phase) = (Arc::clone(&status), phase.clone());
        tokio::spawn(async move {
            // whoever asks and goes away gets no answer
            let _ = timeout(PATIENCE, answer(stream, &status, &phase)).await;
            drop(place);
        });
    }
}

async fn answer(stream: UnixStream, status: &Status, phase: &watch::Sender<Phase>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(QUESTION_MAX).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Question>(&line) {
        Ok(Question { command: Command::Status, .. }) => status.to_json(),
        Ok(Question { command: Command::Secrets, .. }) => status.secrets(),
        Ok(Question { command: Command::Descriptor, .. }) => status.descriptor(),
        Ok(Question { command: Command::Drain, .. }) => {
            drain::begin(phase, &status.runtime_dir);
            json!({"draining": true})
        }
        Ok(Question { command: Command::Move, store }) => {
            moving(status, move |moves| match store {
                Some(store) => moves.begin(store),
                None => Err(anyhow!("no store is named")),
            })
            .await
        }
        Ok(Question { command: Command::Moving, .. }) => moving(status, |_| Ok(())).await,
        Ok(Question { command: Command::Stay, .. }) => moving(status, StoreMoves::cancel).await,
        Err(error) => json!({"error": {
            "code": "bad_command",
            "message": error.to_string(),
            "next": "send one line such as {\"command\":\"status\"}; commands: status, secrets, descriptor, drain, move, moving, stay",
        }}),
    };
    stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(())
}

/// Does something about the store's move, on a thread that may block, and says how far it is.
async fn moving(status: &Status, what: impl FnOnce(&StoreMoves) -> Result<()> + Send + 'static) -> Value {
    let failed = |message: String, next: &str| json!({"error": {"code": "store", "message": message, "next": next}});
    let Some(moves) = status.moves.clone() else {
        return failed("this node is no store".to_owned(), "ask the node that keeps boxes");
    };
    let done = tokio::task::spawn_blocking(move || what(&moves).map(|()| json!(moves.mover().progress()))).await;
    match done {
        Ok(Ok(progress)) => progress,
        Ok(Err(error)) => failed(format!("{error:#}"), "see ops/runbooks/store.md"),
        Err(_) => failed("the node is ending".to_owned(), "ask again when it runs"),
    }
}

/// Asks a running node. An error means that none runs there.
pub async fn ask(runtime_dir: &Path, command: Command) -> Result<Value> {
    ask_with(runtime_dir, command, None).await
}

/// As [`ask`], with the store of [`Command::Move`].
pub async fn ask_with(runtime_dir: &Path, command: Command, store: Option<StoreConfig>) -> Result<Value> {
    let path = socket_path(runtime_dir);
    let exchange = async {
        let mut stream =
            UnixStream::connect(&path).await.with_context(|| format!("no node answers at {}", path.display()))?;
        stream.write_all(format!("{}\n", serde_json::to_string(&Question { command, store })?).as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).take(ANSWER_MAX).read_line(&mut line).await?;
        serde_json::from_str(&line).context("the node's answer")
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(anyhow!("the node at {} does not answer", path.display())))
}
