//! A running authority: opens everything, then keeps time until it is told to stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::UnixMillis;
use shoal_protocol::quic::{Endpoint, Limits, Protocol};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::authority::Authority;
use super::failure::{Failure, Kind};
use super::home::Home;
use super::metrics::Metrics;
use super::server::{self, Shared};
use super::{catch_up, control, files, http, now, twin};
use crate::config::files as names;

/// How long `run` waits for a lock that another process still holds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest sleep between two looks at the clock, so that a clock set forward is noticed.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest sleep: what comes in between is done together.
const STEP: Duration = Duration::from_millis(5);
/// Something that is waited for that long is worth a line in the log.
const WAITS_FOR_LONG: Duration = Duration::from_secs(5);
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
    let mut authority = Authority::open(home.clone(), now())?;
    if home.path(names::CONFLICT).exists() {
        return Err(Failure::new(
            Kind::Configuration,
            format!("{} holds a document that contradicts this authority's own", home.path(names::CONFLICT).display()),
            "compare with the other operators; remove the file only when you know what happened",
        ));
    }
    if let Some(failure) = authority.misplaced() {
        return Err(failure);
    }
    for notice in authority.advice() {
        tracing::warn!("{notice}");
    }
    let (listen, metrics_address) = (authority.config().listen, authority.config().metrics);
    let taken = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Kind::InputOutput, format!("{what}: {error}"), "choose a free address in authority.toml")
    };
    let own = authority.identity();
    // guests ask for documents; 4,096 would be more than all nodes of a network
    let bound = Endpoint::bind_with(
        listen,
        authority.secret().identity_key(),
        &[Protocol::Directory],
        Limits { connections: 4_096, guests: 2_048, ..Limits::default() },
    );
    let endpoint = match bound {
        Ok(endpoint) => endpoint,
        Err(error) => {
            // a copy of the directory, beside the first
            twin::refuse(&own, on_this_machine(listen)).await?;
            return Err(taken(&format!("listen = \"{listen}\""), &error));
        }
    };
    // nobody else can be where this process listens; nothing is accepted yet, so it is not this process that answers
    for address in authority.known_at().into_iter().filter(|address| *address != listen) {
        twin::refuse(&own, address).await?;
    }
    authority.resume(now())?;
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

/// Where this machine reaches what listens at `listen`.
fn on_this_machine(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, listen.port())),
        IpAddr::V4(_) | IpAddr::V6(_) => listen,
    }
}

impl Running {
    /// Where nodes ask, with the port that the system chose if none was named.
    ///
    /// # Errors
    /// The socket does not know.
    pub fn local_addr(&self) -> Result<SocketAddr, Failure> {
        self.endpoint.local_addr().map_err(|error| Failure::new(Kind::InputOutput, error.to_string(), "start again"))
    }

    /// Where health is asked for.
    ///
    /// # Errors
    /// The socket does not know.
    pub fn health_addr(&self) -> Result<SocketAddr, Failure> {
        self.health.local_addr().map_err(|error| Failure::new(Kind::InputOutput, error.to_string(), "start again"))
    }

    /// The state that the tasks share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Serves until `stop` resolves, then says farewell to peers.
    ///
    /// # Errors
    /// What it signs or certifies cannot be kept, or the authorities contradict themselves: it must not go on.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self { shared, endpoint, health, commands, control_path, _lock } = self;
        let (stopping, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(endpoint.clone(), Arc::clone(&shared)));
        tasks.spawn(control::serve(commands, Arc::clone(&shared)));
        tasks.spawn(catch_up::serve(endpoint.clone(), Arc::clone(&shared)));
        let peers = shared.authority().peers().clone();
        tasks.spawn(peers.run(endpoint.clone()));
        let mut clock = tokio::spawn(keep_time(Arc::clone(&shared), endpoint.clone()));
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
        let ended = tokio::select! {
            () = stop => Ok(()),
            failure = &mut clock => Err(failure.unwrap_or_else(|error| {
                Failure::new(Kind::Temporary, format!("the clock's task ended: {error}"), "start again")
            })),
        };
        clock.abort();
        tracing::info!("stopping");
        let _ = stopping.send(true);
        endpoint.close();
        // a peer that does not listen is not waited for
        let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
        tasks.shutdown().await;
        if let Err(error) = std::fs::remove_file(&control_path) {
            tracing::debug!(%error, "the control socket cannot be removed");
        }
        ended
    }
}

/// Does what is due, when it is due. Returns only when the process must end.
async fn keep_time(shared: Arc<Shared>, endpoint: Endpoint) -> Failure {
    let mut waiting_for: Option<(String, UnixMillis)> = None;
    let mut logged = false;
    loop {
        // authorities get in however many guests there are, and nodes however many others knock
        let (set, listed) = {
            let authority = shared.authority();
            (authority.set(), authority.listed_addresses())
        };
        endpoint.reserve(set);
        endpoint.expect_from(listed);
        let worker = Arc::clone(&shared);
        // verifies, signs, and waits for the disk
        let ticked = tokio::task::spawn_blocking(move || {
            let mut authority = worker.authority();
            let wake = authority.tick(now());
            if authority.take_ask() {
                worker.asked.notify_one();
            }
            (wake, authority.failed().cloned(), authority.waiting_for().map(str::to_owned))
        })
        .await;
        let wait = match ticked {
            Ok((_, Some(failure), _)) => return failure,
            Ok((wake, None, reason)) => {
                let at = now();
                match (reason, &waiting_for) {
                    (Some(reason), Some((before, since))) if reason == *before => {
                        // every document waits for something for a moment
                        if !logged && at.since(*since) >= WAITS_FOR_LONG {
                            tracing::info!("{reason}");
                            logged = true;
                        }
                    }
                    (reason, _) => {
                        waiting_for = reason.map(|reason| (reason, at));
                        logged = false;
                    }
                }
                wake.since(now())
            }
            // what was signed in it may not be in the log
            Err(error) => {
                return Failure::new(
                    Kind::Temporary,
                    format!("a step of the authority failed: {error}"),
                    "report this; the authority continues when it is started again",
                );
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait.clamp(STEP, LOOK)) => {}
            () = shared.stirred.notified() => {}
        }
    }
}
