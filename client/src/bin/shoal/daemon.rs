//! Reaching the daemon, starting it, stopping it.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use shoal_client::io::{Call, Caller, CallerError, Exit, Failure};
use shoal_client::mail::MailError;
use shoal_client::profile::{Moved, Opener, Protection};
use tokio::time::{Instant, sleep};

use crate::asking::{Opening, TRIES, opening};
use crate::output::{Out, Problem};

/// How long a daemon may take to answer: five seconds for a lock that is still held, and as much again.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a socket that is not there yet is tried.
const RETRY: Duration = Duration::from_millis(20);
/// How often it is looked for by who waits until somebody starts it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Where a daemon that was started in the background writes its log; begun anew at each start.
const LOG_NAME: &str = "daemon.log";

/// A connection to the profile's daemon, which is started if none runs.
pub(crate) async fn reach(profile: &Path, out: &Out) -> Result<Caller, Failure> {
    match Caller::connect(profile) {
        Ok(caller) => match living(caller).await {
            Some(caller) => Ok(caller),
            None => start(profile, out).await,
        },
        Err(error) if not_running(&error) => start(profile, out).await,
        Err(error) => Err(unreachable(profile, &error)),
    }
}

/// The connection, if somebody answers on it: a daemon that is being killed still takes connections for a moment.
async fn living(mut caller: Caller) -> Option<Caller> {
    // no method of any version: refused at once, without asking the profile, and a refusal is an answer
    let answer = caller.call_named::<Value>("lives", json!({})).await;
    (!matches!(answer, Err(CallerError::Broken(_)))).then_some(caller)
}

fn not_running(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn unreachable(profile: &Path, error: &io::Error) -> Failure {
    let message = format!("the daemon of {} cannot be reached: {error}", profile.display());
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Failure::new(Exit::Permission, "permission_denied", message, "run as the owner of the profile");
    }
    Failure::new(Exit::Unreachable, "daemon_unreachable", message, "try shoal up in another terminal")
}

/// A connection to the profile's daemon as soon as one runs again: whoever follows events waits for it, and starts none, for
/// the user may have stopped it.
pub(crate) async fn reach_again(profile: &Path) -> Result<Caller, Failure> {
    loop {
        sleep(LOOK_AGAIN).await;
        if !profile.is_dir() {
            return Err(MailError::Missing(profile.to_owned()).into());
        }
        Moved::refuse(profile)?;
        match Caller::connect(profile) {
            Ok(caller) => {
                if let Some(caller) = living(caller).await {
                    return Ok(caller);
                }
            }
            Err(error) if not_running(&error) => {}
            Err(error) => return Err(unreachable(profile, &error)),
        }
    }
}

async fn start(profile: &Path, out: &Out) -> Result<Caller, Failure> {
    if !profile.is_dir() {
        return Err(MailError::Missing(profile.to_owned()).into());
    }
    for left in (0..TRIES).rev() {
        let Opening { opener, typed } = opening(profile, out).await?;
        match launch(profile, &opener, out).await {
            Err(failure) if typed && left > 0 && failure.code == "wrong_passphrase" => {
                tracing::warn!("that was not the passphrase");
            }
            launched => return launched,
        }
    }
    Err(MailError::WrongKey { profile: profile.to_owned(), protection: Protection::Passphrase }.into())
}

/// Starts a daemon that was stopped for a moment.
pub(crate) async fn start_again(profile: &Path, opener: &Opener, out: &Out) -> Result<(), Failure> {
    launch(profile, opener, out).await.map(drop)
}

async fn launch(profile: &Path, opener: &Opener, out: &Out) -> Result<Caller, Failure> {
    let spinner = out.spinner("starting the daemon");
    let mut child = spawn(profile, opener)?;
    let deadline = Instant::now() + START_TIMEOUT;
    let mut ended = None;
    while Instant::now() < deadline {
        match Caller::connect(profile) {
            Ok(caller) => {
                spinner.finish_and_clear();
                return Ok(caller);
            }
            Err(error) if not_running(&error) => {}
            Err(error) => return Err(unreachable(profile, &error)),
        }
        if ended.is_none() && matches!(child.try_wait(), Ok(Some(_))) {
            let failure = last_words(&mut child, profile);
            // somebody else is starting or stopping one: theirs may answer soon
            if failure.exit != Some(Exit::Temporary) {
                return Err(failure);
            }
            ended = Some(failure);
        }
        sleep(RETRY).await;
    }
    Err(ended.unwrap_or_else(|| {
        let message = format!("the daemon did not answer within {} s", START_TIMEOUT.as_secs());
        Failure::new(Exit::Unreachable, "daemon_unreachable", message, log_hint(profile))
    }))
}

fn log_hint(profile: &Path) -> String {
    format!("see {}", profile.join(LOG_NAME).display())
}

/// Runs this program again as `up`, away from this terminal.
fn spawn(profile: &Path, opener: &Opener) -> Result<Child, Failure> {
    let failed = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Io };
        Failure::new(exit, "daemon_start", format!("the daemon cannot be started: {error}"), "try shoal up")
    };
    let log = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(profile.join(LOG_NAME));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["--json", "--profile"]).arg(profile).arg("up");
    let passphrase = match opener {
        Opener::Passphrase(passphrase) => {
            command.arg("--passphrase-stdin").stdin(Stdio::piped());
            Some(passphrase)
        }
        Opener::File | Opener::Keyring(_) => {
            command.stdin(Stdio::null());
            None
        }
    };
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(log.map_err(failed)?)
        // Ctrl-C in this terminal is not meant for it
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    if let (Some(passphrase), Some(mut pipe)) = (passphrase, child.stdin.take()) {
        // a pipe takes it at once; one that ended already says why itself
        let _ = pipe.write_all(passphrase.reveal().as_bytes()).and_then(|()| pipe.write_all(b"\n"));
    }
    Ok(child)
}

/// What a daemon that ended at once had to say.
fn last_words(child: &mut Child, profile: &Path) -> Failure {
    let mut text = String::new();
    if let Some(stdout) = &mut child.stdout {
        // it has ended: this does not wait; what cannot be read is not there
        let _ = stdout.read_to_string(&mut text);
    }
    let code = child.wait().ok().and_then(|status| status.code());
    let said = text.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let part = |name: &str| said.as_ref().and_then(|said| said["error"][name].as_str()).map(str::to_owned);
    let exits = [Exit::Usage, Exit::Io, Exit::Temporary, Exit::Permission, Exit::Configuration];
    let exit = exits.into_iter().find(|exit| code == Some(exit.code().into())).unwrap_or(Exit::Unreachable);
    Failure::new(
        exit,
        &part("code").unwrap_or_else(|| "daemon_start".to_owned()),
        part("message").unwrap_or_else(|| "the daemon ended at once".to_owned()),
        part("next").unwrap_or_else(|| log_hint(profile)),
    )
}

/// `shoal down`: when it returns, the profile is free. That none ran is no failure.
pub(crate) async fn down(profile: &Path, out: &Out) -> Result<(), Problem> {
    let stopped = stop(profile, out).await?;
    out.either(&json!({ "stopped": stopped }), || {
        if stopped { "stopped; no cover traffic is sent now".to_owned() } else { "no daemon was running".to_owned() }
    })
}

/// Stops the daemon, if one runs, and says whether one did. When it returns, the profile is free.
pub(crate) async fn stop(profile: &Path, out: &Out) -> Result<bool, Problem> {
    match Caller::connect(profile) {
        Ok(mut caller) => {
            let spinner = out.spinner("stopping the daemon");
            let _: Value = caller.call(Call::Shutdown).await?;
            if tokio::time::timeout(START_TIMEOUT, caller.closed()).await.is_err() {
                let message = "the daemon does not stop";
                return Err(Failure::new(Exit::Temporary, "daemon_stuck", message, log_hint(profile)).into());
            }
            spinner.finish_and_clear();
            Ok(true)
        }
        Err(error) if not_running(&error) => Ok(false),
        Err(error) => Err(unreachable(profile, &error).into()),
    }
}
