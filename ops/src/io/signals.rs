//! Signals, given and taken.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// The signals that end this program: from the keyboard, from a supervisor, from a closed terminal.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Stream,
    terminate: Stream,
    hangup: Stream,
}

impl Stop {
    /// From now on these signals are taken instead of ending the process.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Asks a process to end. Nothing happens when it is gone.
pub(crate) fn terminate(pid: u32) {
    if let Some(pid) = pid_of(pid) {
        // the only failure is that the process has ended, or is not ours to end
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Ends a process now.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = pid_of(pid) {
        // the only failure is that the process has ended, or is not ours to end
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Whether a process exists.
pub(crate) fn exists(pid: u32) -> bool {
    pid_of(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}
