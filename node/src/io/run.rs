//! The life of a node's process: start, signals, drain, and the order in which its parts end.

use crate::failure::{Failure, Kind};
use crate::io::assemble::assemble;
use crate::io::config_file;
use crate::io::doctor;
use crate::io::drain::Drain;
use crate::io::files;
use crate::io::logging::SetFilter;
use crate::io::phase::{self, Phase};
use crate::io::reload::Reload;
use crate::io::setup::{self, Setup};
use shoal_protocol::quic::Endpoint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long peers of closed links are waited for.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a node until it is told to stop. `set_filter` changes the log when the configuration is read again.
pub async fn run(setup: Setup, set_filter: SetFilter) -> Result<(), Failure> {
    let runtime_dir = setup.config.runtime_path(&setup.dir);
    let retry = "check the node's directory and its owner";
    files::private_dir(&runtime_dir).map_err(|error| Failure::io(&error, retry))?;
    let memory = doctor::runtime_dir(&runtime_dir);
    if !memory.ok {
        tracing::warn!(found = memory.found, next = memory.next, "mix keys do not live in memory only");
    }
    let _lock = setup::lock(&setup.dir).await?;
    config_file::bring_up_to_date(&setup.dir)?;
    let failed = Arc::new(AtomicBool::new(false));
    let started = assemble(setup, set_filter, Arc::clone(&failed)).await;
    let node = started
        .map_err(|error| Failure::io(&error, "see the message; `shoal-node doctor` checks what a node needs"))?;
    node.until_stopped().await;
    if failed.load(Ordering::Relaxed) {
        let next = "see the log; start it again (a service manager does so by itself)";
        return Err(Failure::new(Kind::Temporary, "a part of the node failed and it stopped", next));
    }
    Ok(())
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
    /// Tasks in the order in which they are waited for.
    pub ending: Vec<(&'static str, JoinHandle<()>, Duration)>,
}

impl Running {
    async fn until_stopped(self) {
        let Self { phase, endpoint, mut drain, reload, ending } = self;
        notify(&[sd_notify::NotifyState::Ready]);
        tokio::spawn(watchdog());
        tokio::spawn(signals(phase.clone(), reload));
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
async fn signals(phase: watch::Sender<Phase>, mut reload: Reload) {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = streams else {
        tracing::error!("signals cannot be received; use `shoal-node drain`");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                let next = if *phase.borrow() == Phase::Running { Phase::Draining } else { Phase::Stopping };
                phase::advance(&phase, next);
            }
            _ = interrupt.recv() => phase::advance(&phase, Phase::Stopping),
            _ = hangup.recv() => reload.again(),
        }
    }
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Tells the service manager's watchdog that the runtime still turns.
async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(interval / 2).await;
    }
}
