//! The life of a node's process: start, signals, drain, and the order in which its parts end.

use crate::failure::{Failure, Kind};
use crate::heartbeat::LOOK;
use crate::io::assemble::assemble;
use crate::io::backlog::Backlog;
use crate::io::config_file;
use crate::io::counters::Counters;
use crate::io::doctor_machine;
use crate::io::documents::kept;
use crate::io::drain::{self, Drain};
use crate::io::host::Clock;
use crate::io::logging::SetFilter;
use crate::io::phase::{self, Phase};
use crate::io::protection::Protection;
use crate::io::reload::Reload;
use crate::io::runtime_dir;
use crate::io::setup::{DirectoryLock, Setup};
use shoal_protocol::consensus::Follower;
use shoal_protocol::quic::Endpoint;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long peers of closed links are waited for.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a node until it is told to stop. `setup` was read under `lock`; `set_filter` changes the log when the configuration is
/// read again; `backlog` is that of the runtime it runs on.
pub async fn run(setup: Setup, lock: DirectoryLock, set_filter: SetFilter, backlog: Backlog) -> Result<(), Failure> {
    let _lock = lock;
    let runtime_dir = setup.config.runtime_path(&setup.dir);
    let _claim = runtime_dir::claim(&runtime_dir, &setup.identity.identity())?;
    let memory = doctor_machine::runtime_dir(&runtime_dir);
    if !memory.ok {
        tracing::warn!(found = memory.found, next = memory.next, "mix keys do not live in memory only");
    }
    if let Some(small) = doctor_machine::replay_set(&setup).filter(|finding| !finding.ok) {
        tracing::warn!(found = small.found, next = small.next, "limits in node.toml do not fit together");
    }
    for lack in Protection::read().lacks() {
        if lack.is_open {
            tracing::warn!(found = lack.found, next = lack.next, "keys are not as safe as they could be");
        } else {
            tracing::info!(found = lack.found, next = lack.next, "keys could be safer still");
        }
    }
    as_listed(&setup)?;
    config_file::bring_up_to_date(&setup.dir)?;
    let failed = Arc::new(AtomicBool::new(false));
    let started = assemble(setup, set_filter, backlog, Arc::clone(&failed)).await;
    let node = started
        .map_err(|error| Failure::io(&error, "see the message; `shoal-node doctor` checks what a node needs"))?;
    node.until_stopped().await;
    if failed.load(Ordering::Relaxed) {
        let next = "see the log; start it again (a service manager does so by itself)";
        return Err(Failure::new(Kind::Temporary, "a part of the node failed and it stopped", next));
    }
    // whoever starts it after it was told to stop wants it to serve; one that failed goes on where it was
    drain::note(&runtime_dir, false);
    Ok(())
}

/// Refuses a role that is not the one under which the newest document lists this identity: nobody would take the node for
/// what it is, and it would destroy the keys of the one it was.
///
/// # Errors
/// The roles differ.
pub fn as_listed(setup: &Setup) -> Result<(), Failure> {
    let (_, document) = kept(&setup.dir, Follower::new(setup.network.trust_anchor()));
    let listed = document.and_then(|document| Some(document.node(&setup.identity.identity())?.role));
    let Some(listed) = listed.filter(|listed| *listed != setup.config.role) else { return Ok(()) };
    let message = format!("node.toml says {}, and the network lists this identity as a {listed}", setup.config.role);
    let next = format!(
        "set role = \"{listed}\"; a {} is a node of its own, with an identity of its own: `shoal-node init` in another directory",
        setup.config.role
    );
    Err(Failure::new(Kind::Configuration, message, next))
}

/// A running node.
pub struct Running {
    /// Life cycle.
    pub phase: watch::Sender<Phase>,
    /// Its port.
    pub endpoint: Arc<Endpoint>,
    /// Carried out when it leaves.
    pub drain: Drain,
    /// Carried out at SIGHUP.
    pub reload: Reload,
    /// Where it notes that it leaves.
    pub runtime_dir: PathBuf,
    /// Tasks in the order in which they are waited for.
    pub ending: Vec<(&'static str, JoinHandle<()>, Duration)>,
}

impl Running {
    async fn until_stopped(self) {
        let Self { phase, endpoint, mut drain, reload, runtime_dir, ending } = self;
        notify(&[sd_notify::NotifyState::Ready]);
        tokio::spawn(watchdog(Arc::clone(&drain.counters), drain.clock));
        tokio::spawn(signals(phase.clone(), reload, runtime_dir.clone()));
        if runtime_dir::is_leaving(&runtime_dir) {
            tracing::info!("the last process ended while the node was leaving the network: it goes on leaving");
            drain::begin(&phase, &runtime_dir);
        }
        let mut phases = phase.subscribe();
        phase::reached(&mut phases, Phase::Draining).await;
        let mut drained = false;
        if *phases.borrow() == Phase::Draining {
            tracing::info!("draining: serving until the consensus lets this node go; a second signal stops now");
            tokio::select! {
                // when the process stops, documents end, and with them the drain: then it was not carried out
                () = drain.run() => drained = *phase.borrow() == Phase::Draining,
                () = phase::reached(&mut phases, Phase::Stopping) => {}
            }
        }
        notify(&[sd_notify::NotifyState::Stopping]);
        phase::advance(&phase, Phase::Stopping);
        // the store finishes what it acknowledged, then the links send what they hold, then they close
        for (name, task, patience) in ending {
            if timeout(patience, task).await.is_err() {
                tracing::warn!(task = name, "did not end in time");
            }
        }
        endpoint.close();
        // peers that do not answer notice by themselves
        let _ = timeout(CLOSE_PATIENCE, endpoint.wait_idle()).await;
        // one that was stopped before may be started again soon, and needs its keys then
        if drained {
            drain.erase();
        }
        tracing::info!("stopped");
    }
}

/// SIGTERM drains, a second one stops now; SIGINT (a terminal's Ctrl-C) stops now; SIGHUP reads the configuration again.
async fn signals(phase: watch::Sender<Phase>, mut reload: Reload, runtime_dir: PathBuf) {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = streams else {
        tracing::error!("signals cannot be received; use `shoal-node drain`");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                let running = *phase.borrow() == Phase::Running;
                if running {
                    drain::begin(&phase, &runtime_dir);
                } else {
                    phase::advance(&phase, Phase::Stopping);
                }
            }
            _ = interrupt.recv() => phase::advance(&phase, Phase::Stopping),
            _ = hangup.recv() => reload_told(&mut reload),
        }
    }
}

/// Reads the configuration again, and tells the service manager when that begins and ends.
fn reload_told(reload: &mut Reload) {
    let mut begun = vec![sd_notify::NotifyState::Reloading];
    // without the time a service manager that asks for it takes the reload for failed, and nothing else
    begun.extend(sd_notify::NotifyState::monotonic_usec_now());
    notify(&begun);
    reload.again();
    notify(&[sd_notify::NotifyState::Ready]);
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Tells the service manager's watchdog that the node works: that the runtime turns, which runs this, and the threads that
/// packets depend on. When one of them hangs, the service manager ends the process and starts it again.
async fn watchdog(counters: Arc<Counters>, clock: Clock) {
    let interval = sd_notify::watchdog_enabled();
    let pause = interval.map_or(LOOK, |interval| (interval / 4).min(LOOK));
    let (mut seen, mut said) = (None, None);
    loop {
        // a process that was stopped as a whole finds all of them silent at first: the second look counts
        let silent = counters.hearts.silent(clock.monotonic());
        let hung = silent.filter(|_| seen == silent);
        seen = silent;
        match hung {
            Some(thread) if said != hung => tracing::error!(thread, "hangs; packets are not handled"),
            None if said.is_some() => tracing::info!("all threads turn again"),
            Some(_) | None => {}
        }
        said = hung;
        if interval.is_some() && hung.is_none() {
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
        tokio::time::sleep(pause).await;
    }
}
