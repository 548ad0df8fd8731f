//! What `doctor` looks at on this machine: files, memory, disk, socket buffers, and how the keys in memory are protected. The
//! limits are those of the running node, which a service manager sets, not those of the shell that `doctor` runs in.

use crate::config_store::EngineKind;
use crate::io::doctor::{Finding, bad, good};
use crate::io::files;
use crate::io::host::cores;
use crate::io::protection::{Protection, swap_devices};
use crate::io::setup::{IDENTITY_FILE, Setup};
use crate::needs;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_protocol::types::Role;
use std::fs;
use std::path::Path;

/// What the system allows a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Files open at a time; `None`: any number.
    pub open_files: Option<u64>,
    /// Memory of the service (its control group), in bytes; `None`: as much as the machine has.
    pub memory: Option<u64>,
    /// What protects the memory.
    pub protection: Protection,
}

impl Allowed {
    /// What this process is allowed.
    pub fn read() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = |group: &str| fs::read_to_string(format!("/sys/fs/cgroup/{group}/memory.max")).ok();
        let memory = group.lines().find_map(|line| line.strip_prefix("0::/")).and_then(limit);
        Self {
            open_files: getrlimit(Resource::Nofile).current,
            memory: memory.and_then(|text| text.trim().parse().ok()),
            protection: Protection::read(),
        }
    }
}

/// Looks at the machine; `status`: what the running node says.
pub fn examine(setup: &Setup, status: Option<&Value>) -> Vec<Finding> {
    let told = status.and_then(|status| Allowed::deserialize(status.get("allowed")?).ok());
    let allowed = told.unwrap_or_else(Allowed::read);
    let Setup { dir, config, .. } = setup;
    let runtime = config.runtime_path(dir);
    let mut findings = vec![
        identity_file(setup),
        runtime_dir(&runtime),
        Finding::of("open files", needs::of_open_files(allowed.open_files)),
        memory(setup, &allowed),
        Finding::of("socket buffers", needs::of_socket_buffers(kernel("rmem_max"), kernel("wmem_max"))),
    ];
    findings.extend(replay_set(setup));
    match told {
        Some(told) => findings.extend(protection(&told.protection)),
        None => findings.push(good("keys in memory", "seen when the node runs")),
    }
    let logs = needs::logs(config.role, &config.limits);
    findings.push(disk("runtime directory", &runtime, logs));
    findings.push(disk("node directory", dir, 0));
    if config.role == Role::Store && config.store.engine == EngineKind::Redb {
        findings.push(disk("store", &config.store.path(dir), needs::boxes(&config.store)));
    }
    findings
}

fn identity_file(setup: &Setup) -> Finding {
    let path = setup.dir.join(IDENTITY_FILE);
    match files::is_exposed(&path) {
        Ok(false) => good("identity key", setup.identity.identity().to_string()),
        Ok(true) => bad("identity key", "other users can read it", format!("chmod 600 {}", path.display())),
        Err(error) => bad("identity key", format!("{error:#}"), "restore it from its backup (shoal-node keys import)"),
    }
}

/// Mix keys belong on memory: on a disk an erased key may survive in the medium.
pub fn runtime_dir(path: &Path) -> Finding {
    const CHECK: &str = "runtime directory";
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let holder = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(point, _, _)| absolute.starts_with(point))
        // of two on one point the later one is seen
        .max_by_key(|(point, _, _)| point.len());
    match holder {
        // its pages are nobody's while no node runs: that a node's own may not be swapped out does not help then
        Some((_, "tmpfs", options)) if swap_devices() != Some(false) && !options.split(',').any(|o| o == "noswap") => {
            bad(
                CHECK,
                format!("{} is in memory that can be written to a swap device", path.display()),
                "turn swap off (swapoff -a), or mount a tmpfs with the option noswap there (Linux 6.4 or newer)",
            )
        }
        Some((_, "tmpfs" | "ramfs", _)) => good(CHECK, format!("{} is in memory", path.display())),
        Some((_, kind, _)) => bad(
            CHECK,
            format!("{} is on {kind}: an erased mix key may survive on the medium", path.display()),
            "set runtime_dir to a directory in memory, such as /run/shoal (systemd: RuntimeDirectory=shoal, RuntimeDirectoryPreserve=yes)",
        ),
        None => bad(CHECK, "the system does not tell where it lies", "make sure that runtime_dir is in memory"),
    }
}

fn memory(setup: &Setup, allowed: &Allowed) -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1_024))
    };
    let machine = field("MemTotal:");
    let total = match (machine, allowed.memory) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    };
    let parts = needs::memory(setup.config.role, &setup.config.limits, cores());
    Finding::of("memory", needs::of_memory(&parts, total, field("MemAvailable:")))
}

/// Whether the replay set takes what clients may bring; gateways only.
pub fn replay_set(setup: &Setup) -> Option<Finding> {
    let verdict = needs::of_replay_set(setup.config.role, &setup.config.limits, &setup.network.parameters)?;
    Some(Finding::of("replay set", verdict))
}

fn kernel(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse().ok()
}

fn protection(protection: &Protection) -> Vec<Finding> {
    const CHECK: &str = "keys in memory";
    let lacks = protection.lacks();
    if lacks.is_empty() {
        return vec![good(CHECK, "not dumped, not shown to other processes, not swapped out")];
    }
    let finding = |lack: crate::io::protection::Lack| Finding {
        check: CHECK,
        ok: !lack.is_open,
        found: lack.found,
        next: lack.next,
    };
    lacks.into_iter().map(finding).collect()
}

fn disk(what: &str, path: &Path, needed: u64) -> Finding {
    // what is not made yet will be where the nearest folder is that is there
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let free = rustix::fs::statvfs(there).ok().map(|held| held.f_bavail.saturating_mul(held.f_frsize));
    let place = format!("{what} {}", path.display());
    Finding::of("disk", needs::of_disk(&place, free, needed, held(path)))
}

/// Bytes of the files of a folder, those of its own folders left out.
fn held(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let lengths = entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    lengths.map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells_what_is_looked_at() {
        let allowed = Allowed::read();
        let value = serde_json::to_value(allowed).expect("JSON");
        assert_eq!(Allowed::deserialize(&value).ok(), Some(allowed), "as `status` shows it");
        assert!(runtime_dir(Path::new("/proc/self")).found.contains("proc"));
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("file"), [0; 5_000]).expect("written");
        assert_eq!(held(dir.path()), 5_000);
        let finding = disk("here", dir.path(), 5_000);
        assert!(finding.found.contains("grow by 0 B"), "{finding:?}");
        assert!(disk("not made yet", &dir.path().join("none/at/all"), 1).found.contains("free"));
    }
}
