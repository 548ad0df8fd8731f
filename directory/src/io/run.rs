//! A running authority: opens everything, then keeps time until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::quic::{Endpoint, Limits, Protocol};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::authority::{Authority, Tick};
use super::failure::{Failure, Kind};
use super::home::Home;
use super::metrics::Metrics;
use super::server::{self, Shared};
use super::{control, files, http, now};
use crate::config::files as names;

/// How long `run` waits for a lock that another process still holds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest sleep between two looks at the clock, so that a clock set forward is noticed.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a document could not be written.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long peers are told that we leave.
const FAREWELL: Duration = Duration::from_secs(3);

/// An authority with its sockets open, about to serve.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    health: TcpListener,
    commands: UnixListener,
    control_path: std::path::PathBuf,
    _lock: std::fs::File,
}

/// Opens directory, lock and sockets.
///
/// # Errors
/// Whatever is missing, wrong or taken.
pub async fn open(home: Home) -> Result<Running, Failure> {
    // before the lock: a wrong --dir is told as such
    home.config()?;
    let lock = files::lock(&home.path(names::LOCK), LOCK_PATIENCE).await?;
    let authority = Authority::open(home.clone(), now())?;
    let (listen, metrics_address) = (authority.config().listen, authority.config().metrics);
    let taken = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Kind::InputOutput, format!("{what}: {error}"), "choose a free address in authority.toml")
    };
    // guests ask for documents; 4,096 would be more than all nodes of a network
    let endpoint = Endpoint::bind_with(
        listen,
        authority.secret().identity_key(),
        &[Protocol::Directory],
        Limits { connections: 4_096, guests: 2_048, ..Limits::default() },
    )
    .map_err(|error| taken(&format!("listen = \"{listen}\""), &error))?;
    let health = TcpListener::bind(metrics_address)
        .await
        .map_err(|error| taken(&format!("metrics = \"{metrics_address}\""), &error))?;
    let control_path = home.path(names::CONTROL);
    let commands = control::bind(&control_path)?;
    let metrics = Metrics::new().map_err(|error| {
        Failure::new(Kind::Configuration, error.to_string(), "report this: it is a mistake in the program")
    })?;
    let shared = Shared::new(authority, metrics);
    Ok(Running { shared, endpoint, health, commands, control_path, _lock: lock })
}

impl Running {
    /// Where nodes ask, with the port that the system chose if none was named.
    ///
    /// # Errors
    /// The socket does not know.
    pub fn local_addr(&self) -> Result<std::net::SocketAddr, Failure> {
        self.endpoint.local_addr().map_err(|error| Failure::new(Kind::InputOutput, error.to_string(), "start again"))
    }

    /// Where health is asked for.
    ///
    /// # Errors
    /// The socket does not know.
    pub fn health_addr(&self) -> Result<std::net::SocketAddr, Failure> {
        self.health.local_addr().map_err(|error| Failure::new(Kind::InputOutput, error.to_string(), "start again"))
    }

    /// The state that the tasks share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Serves until `stop` resolves, then says farewell to peers.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { shared, endpoint, health, commands, control_path, _lock } = self;
        let (stopping, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(endpoint.clone(), Arc::clone(&shared)));
        tasks.spawn(control::serve(commands, Arc::clone(&shared)));
        tasks.spawn(keep_time(Arc::clone(&shared)));
        let mut health_stop = stopped;
        let health_shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let until = async move {
                // the sender outlives the server; an error would mean that it is gone, which is a stop as well
                let _ = health_stop.wait_for(|stopping| *stopping).await;
            };
            if let Err(error) = http::serve(health, health_shared, until).await {
                tracing::error!(%error, "health is no longer served");
            }
        });
        stop.await;
        tracing::info!("stopping");
        let _ = stopping.send(true);
        endpoint.close();
        // a peer that does not listen is not waited for
        let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
        tasks.shutdown().await;
        if let Err(error) = std::fs::remove_file(&control_path) {
            tracing::debug!(%error, "the control socket cannot be removed");
        }
    }
}

/// Makes every document when it is due.
async fn keep_time(shared: Arc<Shared>) {
    let mut waiting_for = None;
    loop {
        let worker = Arc::clone(&shared);
        // signs, and waits for the disk
        let ticked = tokio::task::spawn_blocking(move || worker.authority().tick(now())).await;
        let wait = match ticked {
            Ok(Ok(Tick::Certified(document))) => {
                shared.metrics.voted(true);
                let (epoch, height, nodes) = (document.epoch.0, document.height, document.nodes.len());
                tracing::info!(epoch, height, nodes, hash = %document.hash(), "a document is certified");
                Duration::ZERO
            }
            Ok(Ok(Tick::Wait(until))) => until.since(now()),
            Ok(Err(failure)) => {
                shared.metrics.voted(false);
                tracing::error!(error = %failure, next = failure.next, "no document could be made");
                AFTER_FAILURE
            }
            Err(error) => {
                shared.metrics.voted(false);
                tracing::error!(%error, "a step of the authority failed");
                AFTER_FAILURE
            }
        };
        let now_waiting_for = shared.authority().waiting_for().map(str::to_owned);
        if now_waiting_for != waiting_for {
            if let Some(reason) = &now_waiting_for {
                tracing::info!("{reason}");
            }
            waiting_for = now_waiting_for;
        }
        tokio::select! {
            () = tokio::time::sleep(wait.min(LOOK)) => {}
            () = shared.listed.notified(), if waiting_for.is_some() => {}
        }
    }
}
