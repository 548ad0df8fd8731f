//! `shoal up`: the daemon itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use shoal_client::io::{Caller, Client, Exit, Failure, HealthError, StartError, Web, serve_health, serve_with};
use shoal_client::mail::{Mail, MailError};
use shoal_client::profile::{KeyFile, Opener, Protection};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::asking::{self, Opening};
use crate::output::{Out, Problem};

/// How long a lock that is still held is waited for: a daemon that is stopping.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// How long `ready` waits for the network. Commands are served before, and without a network too.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn up(
    profile: &Path,
    metrics: Option<SocketAddr>,
    web: Option<SocketAddr>,
    handed_over: bool,
    out: &Out,
) -> Result<(), Problem> {
    let web = match web {
        Some(address) => Some(Web::open(address).await.map_err(Failure::from)?),
        None => None,
    };
    let Some(mut mail) = open_or_make(profile, web.as_ref(), handed_over, out).await? else { return Ok(()) };
    if let Some(folder) = copies(profile)? {
        mail.set_copies(folder)?;
    }
    let client = Client::start(mail).map_err(|error| match error {
        StartError::Profile(error) => Failure::from(error),
        StartError::Thread(error) => Failure::new(Exit::Temporary, "resources", error.to_string(), "try again"),
    })?;
    let health = match metrics {
        Some(address) => Some(serve_health(address, client.watch()).await.map_err(metrics_refused)?),
        None => None,
    };
    if let Some((address, _)) = &health {
        tracing::info!(%address, "serving /livez, /readyz and /metrics");
    }
    let snapshot = client.watch();
    let out = *out;
    // made before anybody can ask for one: it is the first
    let mut word = json!({ "ready": true });
    if let (Some(web), Value::Object(word)) = (&web, &mut word) {
        word.insert("web".to_owned(), web.link().into());
    }
    let ready = move || {
        tokio::spawn(async move {
            let mut snapshot = snapshot;
            let connected = snapshot.wait_for(shoal_client::io::Snapshot::connected);
            // let go of before the word is written: as long as what is seen is held, the client cannot go on, and whoever
            // started this may be slow to read
            if timeout(NETWORK_TIMEOUT, connected).await.map(drop).is_err() {
                tracing::info!("no connection yet; it goes on being tried");
            }
            // whoever started this may be gone: then nobody waits for the word
            let _ = out.object(&word).and_then(|()| out.flush());
        });
    };
    let served = serve_with(web, client, profile, ready, interrupted()).await;
    if let Some((_, task)) = health {
        task.abort();
    }
    served.map_err(|error| {
        let message = format!("the control socket in {}: {error}", profile.display());
        Failure::new(Exit::Io, "control_socket", message, "check the profile's folder").into()
    })
}

/// The profile; where there is none and a page is served, the one that is made there. `None`: interrupted before that.
async fn open_or_make(
    profile: &Path,
    web: Option<&Web>,
    handed_over: bool,
    out: &Out,
) -> Result<Option<Mail>, Problem> {
    let missing = match (unlock(profile, handed_over, out).await, web) {
        (Ok(mail), _) => return Ok(Some(mail)),
        (Err(failure), Some(web)) if failure.code == "no_profile" => web,
        (Err(failure), _) => return Err(failure.into()),
    };
    out.object(&json!({ "ready": false, "web": missing.link() }))?;
    out.flush()?;
    tracing::info!("there is no profile in {}: open the link to make one", profile.display());
    tokio::select! {
        mail = missing.make_profile(profile) => Ok(Some(mail)),
        () = interrupted() => Ok(None),
    }
}

/// Opens the profile with whatever opens it.
async fn unlock(profile: &Path, handed_over: bool, out: &Out) -> Result<Mail, Failure> {
    if handed_over {
        return open(profile, &Opener::Passphrase(asking::from_standard_input()?)).await;
    }
    // nobody is asked for what is of no use
    if Caller::connect(profile).is_ok() {
        return open(profile, &Opener::File).await;
    }
    for left in (0..asking::TRIES).rev() {
        let Opening { opener, typed } = asking::opening(profile, out).await?;
        match open(profile, &opener).await {
            Err(failure) if typed && left > 0 && failure.code == "wrong_passphrase" => {
                tracing::warn!("that was not the passphrase");
            }
            opened => return opened,
        }
    }
    Err(MailError::WrongKey { profile: profile.to_owned(), protection: Protection::Passphrase }.into())
}

/// Where copies of sealed files are best: in memory, and gone when the person logs out.
fn copies(profile: &Path) -> Result<Option<PathBuf>, Failure> {
    let id = KeyFile::read(profile)?.id();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Ok(runtime.filter(|path| path.is_absolute() && path.is_dir()).map(|path| path.join("shoal").join(id.to_string())))
}

async fn open(profile: &Path, opener: &Opener) -> Result<Mail, Failure> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut said = false;
    loop {
        match Mail::open_with(profile, opener) {
            // one that answers does not stop by itself; one that is stopping has taken its socket away first
            Err(MailError::Locked(_)) if Caller::connect(profile).is_ok() => {
                let message = format!("a daemon runs for {} already", profile.display());
                let next = "nothing: every command uses it. To run it here: shoal down, then shoal up";
                return Err(Failure::new(Exit::Temporary, "already_running", message, next));
            }
            Err(MailError::Locked(_)) if Instant::now() < deadline => {
                if !said {
                    said = true;
                    let (at, seconds) = (profile.display(), LOCK_TIMEOUT.as_secs());
                    tracing::warn!("another process still holds the profile {at}: waiting up to {seconds} s for it");
                }
                sleep(LOCK_RETRY).await;
            }
            opened => return opened.map_err(Failure::from),
        }
    }
}

fn metrics_refused(error: HealthError) -> Failure {
    let exit = match &error {
        HealthError::NotLoopback(_) => Exit::Usage,
        HealthError::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Exit::Permission,
        HealthError::Bind { .. } => Exit::Temporary,
        HealthError::Metrics(_) => Exit::Io,
    };
    Failure::new(exit, "metrics", error.to_string(), "choose another address, such as 127.0.0.1:0")
}

/// Resolves on Ctrl-C or SIGTERM. SIGHUP means "read the configuration again", of which a client has none: its
/// parameters come from the consensus.
async fn interrupted() {
    let listen = |kind| signal(kind).ok();
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    let mut hangup = listen(SignalKind::hangup());
    loop {
        tokio::select! {
            () = received(&mut interrupt) => return,
            () = received(&mut terminate) => return,
            () = received(&mut hangup) => tracing::info!("nothing to read again"),
        }
    }
}

/// A signal that cannot be listened for keeps its default effect, which ends the process.
async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
