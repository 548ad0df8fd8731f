//! `run`: the authority itself.

use std::sync::Arc;

use clap::Args;
use sd_notify::NotifyState;
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::server::Shared;
use shoal_directory::io::{control, protection, run};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Common;

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
}

impl Run {
    pub(super) async fn run(&self) -> Result<(), Failure> {
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let hangup = listen(SignalKind::hangup())?;
        for lack in protection::lock_memory() {
            tracing::warn!("{lack}");
        }
        let running = run::open(self.common.home()).await?;
        // not where it listens: no address in any log, not even our own
        tracing::info!("the authority serves");
        let reloading = tokio::spawn(reload_on(hangup, running.shared()));
        notify(NotifyState::Ready);
        let ended = running
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                notify(NotifyState::Stopping);
            })
            .await;
        reloading.abort();
        ended
    }
}

async fn reload_on(mut hangup: Signal, shared: Arc<Shared>) {
    while hangup.recv().await.is_some() {
        // what came of it is in the log
        let _ = control::reload(&shared);
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Kind::InputOutput, format!("signals: {error}"), "start again"))
}

/// Tells systemd, if it waits to be told.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
