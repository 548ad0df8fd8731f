//! The connection to the daemon: calls one after the other, events as they come, and another connection when it breaks.
//!
//! A daemon that ends is not started again by itself: somebody may have stopped it, and its cover traffic, on purpose.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_client::io::{Caller, CallerError, EventLine, Exit, Failure};
use tokio::sync::{Semaphore, mpsc};

use super::ask::{Ask, Input, Tag};
use crate::daemon::reach;
use crate::output::Out;

/// Orders and news that wait at a time; who fills the one waits for the other.
pub(super) const QUEUE: usize = 64;
/// How often a daemon that ended is looked for.
const RETRY: Duration = Duration::from_millis(500);
/// Calls that take long at a time, each on a connection of its own.
const SLOW_MAX: usize = 4;

/// What the link is told.
#[derive(Debug)]
pub(super) enum Errand {
    Ask(Ask),
    Start,
}

/// Works until nobody listens any more.
pub(super) async fn run(profile: PathBuf, mut errands: mpsc::Receiver<Errand>, news: mpsc::Sender<Input>) {
    let slow = Arc::new(Semaphore::new(SLOW_MAX));
    let mut start = true;
    loop {
        let connected = match connect(&profile, start).await {
            Ok(connected) => connected,
            Err(failure) => {
                // said when it ended, and when starting it failed; between the two it is only looked for
                if start && news.send(Input::Lost(failure)).await.is_err() {
                    return;
                }
                let Some(wanted) = pause(&mut errands, &news).await else { return };
                start = wanted;
                continue;
            }
        };
        start = false;
        if news.send(Input::Linked).await.is_err() {
            return;
        }
        if serve(&profile, connected, &mut errands, &news, &slow).await.is_none() {
            return;
        }
        let failure = Failure::new(Exit::Unreachable, "daemon_gone", "the daemon has ended", "");
        if news.send(Input::Lost(failure)).await.is_err() {
            return;
        }
    }
}

/// Calls and events have a connection each: neither waits for the other.
struct Connected {
    calls: Caller,
    events: Caller,
}

async fn connect(profile: &Path, start: bool) -> Result<Connected, Failure> {
    let gone = |error: std::io::Error| Failure::new(Exit::Unreachable, "daemon_gone", error.to_string(), "");
    // its spinner would be drawn over the screen
    let silent = Out::new(true);
    let calls = if start { reach(profile, &silent).await? } else { Caller::connect(profile).map_err(gone)? };
    let mut events = Caller::connect(profile).map_err(gone)?;
    let _: Value = events.call_named("subscribe", json!({})).await.map_err(failure)?;
    Ok(Connected { calls, events })
}

/// A moment without a daemon: calls are refused. Whether it is to be started; `None`: nobody listens.
async fn pause(errands: &mut mpsc::Receiver<Errand>, news: &mpsc::Sender<Input>) -> Option<bool> {
    let over = tokio::time::sleep(RETRY);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return Some(false),
            errand = errands.recv() => match errand? {
                Errand::Start => return Some(true),
                Errand::Ask(ask) => {
                    let next = "Ctrl+R starts it";
                    let failure = Failure::new(Exit::Unreachable, "daemon_gone", "the daemon does not run", next);
                    news.send(Input::Answer(ask.tag, Err(failure))).await.ok()?;
                }
            },
        }
    }
}

/// Until the connection breaks. `None`: nobody listens.
async fn serve(
    profile: &Path,
    mut connected: Connected,
    errands: &mut mpsc::Receiver<Errand>,
    news: &mpsc::Sender<Input>,
    slow: &Arc<Semaphore>,
) -> Option<()> {
    loop {
        tokio::select! {
            event = connected.events.event() => match event {
                Ok(event) => news.send(Input::Event(event)).await.ok()?,
                // of another version: what it was about is asked for anew
                Err(CallerError::Version(_)) => news.send(Input::Event(EventLine::Missed(1))).await.ok()?,
                Err(CallerError::Broken(_) | CallerError::Refused(_)) => return Some(()),
            },
            errand = errands.recv() => match errand? {
                Errand::Start => {}
                Errand::Ask(ask) if ask.slow => {
                    let (profile, news, slow) = (profile.to_owned(), news.clone(), Arc::clone(slow));
                    tokio::spawn(async move {
                        let result = apart(&profile, &ask, &slow).await;
                        // the answer is for nobody when the screen is gone
                        let _ = news.send(Input::Answer(ask.tag, result)).await;
                    });
                }
                Errand::Ask(Ask { tag, method, params, .. }) => {
                    let result = connected.calls.call_named(method, params).await;
                    let broken = matches!(&result, Err(CallerError::Broken(_)));
                    let result = result.map_err(|error| if broken { perhaps(&tag) } else { failure(error) });
                    news.send(Input::Answer(tag, result)).await.ok()?;
                    if broken {
                        return Some(());
                    }
                }
            },
        }
    }
}

async fn apart(profile: &Path, ask: &Ask, slow: &Semaphore) -> Result<Value, Failure> {
    let Ok(_place) = slow.try_acquire() else {
        let next = "wait until one of them is done";
        return Err(Failure::new(Exit::Temporary, "busy", "too many things at a time", next));
    };
    let mut params = ask.params.clone();
    if let Some(path) = params.get("path").and_then(Value::as_str) {
        params["path"] = absolute(path)?.into();
    }
    let broken = |error: std::io::Error| failure(CallerError::Broken(error));
    Caller::connect(profile).map_err(broken)?.call_named(ask.method, params).await.map_err(failure)
}

/// A path as people type it, for the daemon, which has another working folder.
fn absolute(path: &str) -> Result<String, Failure> {
    let home = path.strip_prefix("~/").and_then(|rest| Some(PathBuf::from(std::env::var_os("HOME")?).join(rest)));
    let path = home.unwrap_or_else(|| PathBuf::from(path));
    let wrong =
        |error: String| Failure::new(Exit::Usage, "file", format!("{}: {error}", path.display()), "check the path");
    let absolute = std::path::absolute(&path).map_err(|error| wrong(error.to_string()))?;
    absolute.into_os_string().into_string().map_err(|_| wrong("the path is not UTF-8".into()))
}

fn failure(error: CallerError) -> Failure {
    match error {
        CallerError::Refused(failure) => failure,
        error @ CallerError::Broken(_) => {
            Failure::new(Exit::Unreachable, "daemon_gone", error.to_string(), "Ctrl+R starts it")
        }
        error @ CallerError::Version(_) => {
            let next = "stop the old daemon (shoal down) and begin anew";
            Failure::new(Exit::Unreachable, "daemon_version", error.to_string(), next)
        }
    }
}

/// The daemon was lost while it took something: nobody here knows whether it did.
fn perhaps(tag: &Tag) -> Failure {
    let next = if matches!(tag, Tag::Sent { .. }) {
        "the message may be queued already: look at the conversation before you send it again"
    } else {
        "Ctrl+R starts it"
    };
    Failure::new(Exit::Unreachable, "daemon_gone", "the daemon ended in the middle of it", next)
}
