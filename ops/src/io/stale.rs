//! Finds the parties of a test network that still run although nobody watches over them: left by a testnet that was
//! killed, or started again by hand.

use std::{fs, path::PathBuf, time::Duration};

use super::signals;
use crate::plan::runs_party;

/// How long processes get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(20);

/// The processes that run a party living in one of these directories. Only their command lines are believed: a process
/// id written down earlier may belong to somebody else by now.
pub(crate) fn running(dirs: &[PathBuf]) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let runs = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|cmdline| runs_party(&cmdline, dirs));
    pids.filter(runs).collect()
}

/// Ends them: asks, asks again (the second request cuts a drain short), then kills. Returns how many there were.
pub(crate) async fn end(dirs: &[PathBuf]) -> usize {
    let found = running(dirs);
    for signal in [signals::terminate, signals::terminate, signals::kill] {
        let left: Vec<u32> = running(dirs);
        if left.is_empty() {
            break;
        }
        left.iter().copied().for_each(signal);
        let gone = async {
            while left.iter().any(|pid| signals::exists(*pid)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // who has not ended by then gets the next signal
        let _ = tokio::time::timeout(PATIENCE, gone).await;
    }
    found.len()
}
