//! How well the memory of this process, where the keys are, is kept from others ([`shoal_protocol::memory`] does it): no core
//! dump, no debugger of the same user, no swap. What could not be had is said in the log, by `secrets` and by `doctor`.

use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
use serde::{Deserialize, Serialize};
use std::fs;

/// What protects the memory of a process now, as the system tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// No other process of the same user may read it, and it is never dumped (`PR_SET_DUMPABLE` 0).
    pub undumpable: bool,
    /// The size of a core dump is limited to nothing.
    pub no_core: bool,
    /// Every page stays in memory.
    pub locked: bool,
    /// Whether pages that are not locked can go to a swap device; `None`: the system does not tell.
    pub swap: Option<bool>,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Whether keys can reach a disk or another process through it.
    pub is_open: bool,
    /// What was found.
    pub found: String,
    /// What to do.
    pub next: String,
}

impl Protection {
    /// Asks the system how this process is protected now.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            undumpable: dumpable_behavior() == Ok(DumpableBehavior::NotDumpable),
            no_core: getrlimit(Resource::Core).current == Some(0),
            locked: is_locked(&status),
            swap: swap(),
        }
    }

    /// What is missing; empty when the keys are kept in memory and from others.
    pub fn lacks(&self) -> Vec<Lack> {
        let lack = |is_open, found: &str, next: &str| Lack { is_open, found: found.to_owned(), next: next.to_owned() };
        let mut lacks = Vec::new();
        if !self.undumpable {
            lacks.push(lack(
                true,
                "other processes of the node's user can read its memory",
                "let the node call prctl(PR_SET_DUMPABLE): see what the container or the system call filter forbids",
            ));
        }
        if !self.undumpable && !self.no_core {
            lacks.push(lack(true, "a crash writes the node's memory to a core dump", "set LimitCORE=0 (ulimit -c 0)"));
        }
        const LOCK: &str = "set LimitMEMLOCK=infinity in the unit (ulimit -l unlimited); if it says so, the container or the \
                            host allows no more";
        match (self.locked, self.swap) {
            (true, _) => {}
            (false, Some(false)) => lacks.push(lack(
                false,
                "the memory is not locked; there is no swap now that keys could be written to",
                LOCK,
            )),
            (false, Some(true)) => lacks.push(lack(
                true,
                "the memory is not locked and swap is on: keys may be written to a disk",
                "set LimitMEMLOCK=infinity in the unit (ulimit -l unlimited), or MemorySwapMax=0, or turn swap off (swapoff -a)",
            )),
            (false, None) => lacks.push(lack(
                true,
                "the memory is not locked, and the system does not tell whether there is swap",
                LOCK,
            )),
        }
        lacks
    }
}

/// Whether what `/proc/self/status` says means that all pages are locked. A few kilobytes the system never counts.
fn is_locked(status: &str) -> bool {
    let kilobytes = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    match (kilobytes("VmLck:"), kilobytes("VmSize:")) {
        (Some(locked), Some(size)) => locked > 0 && locked >= size / 2,
        (None, _) | (_, None) => false,
    }
}

/// Whether the machine has a swap device; `None`: it does not tell.
pub fn swap_devices() -> Option<bool> {
    fs::read_to_string("/proc/swaps").ok().map(|text| text.lines().count() > 1)
}

/// Whether pages of this process can be swapped out: there is a swap device, and the process's group may use it.
fn swap() -> Option<bool> {
    let devices = swap_devices();
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let allowed = group.lines().find_map(|line| line.strip_prefix("0::/")).and_then(|group| {
        let limit = fs::read_to_string(format!("/sys/fs/cgroup/{group}/memory.swap.max")).ok()?;
        Some(limit.trim() != "0")
    });
    match (devices, allowed) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (devices, _) => devices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Protection = Protection { undumpable: true, no_core: true, locked: true, swap: Some(true) };

    #[test]
    #[cfg(target_os = "linux")]
    fn dumps_are_refused_and_the_process_still_sees_itself() {
        shoal_protocol::memory::refuse_dumps();
        let now = Protection::read();
        assert!(now.undumpable && now.no_core, "{now:?}");
        assert!(crate::io::process::ProcessState::read().open_fds > 2);
    }

    #[test]
    fn only_what_leads_to_a_disk_or_another_process_is_open() {
        assert_eq!(WHOLE.lacks(), []);
        let open = |protection: Protection| protection.lacks().iter().map(|lack| lack.is_open).collect::<Vec<_>>();
        assert_eq!(open(Protection { no_core: false, ..WHOLE }), [] as [bool; 0], "nothing is dumped all the same");
        assert_eq!(open(Protection { undumpable: false, ..WHOLE }), [true]);
        assert_eq!(open(Protection { undumpable: false, no_core: false, ..WHOLE }), [true, true]);
        for (swap, is_open) in [(Some(true), true), (None, true), (Some(false), false)] {
            assert_eq!(open(Protection { locked: false, swap, ..WHOLE }), [is_open], "{swap:?}");
        }
    }

    #[test]
    fn locked_is_what_the_system_counts() {
        assert!(is_locked("VmSize:\t  1000 kB\nVmLck:\t   990 kB\n"));
        assert!(!is_locked("VmSize:\t  1000 kB\nVmLck:\t     0 kB\n"));
        assert!(!is_locked("VmSize:\t  1000 kB\nVmLck:\t    64 kB\n"), "one buffer of a library");
        assert!(!is_locked(""));
    }
}
