//! What the system says about this process.

use std::fs;

/// A reading of `/proc/self`; zeros where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessState {
    /// User and system CPU time, in hundredths of a second.
    pub cpu_centiseconds: u64,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Virtual memory, in bytes.
    pub virtual_memory: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Start of the process, in seconds since 1970.
    pub start_seconds: f64,
}

/// Bytes a page; every platform we build for has 4 KiB pages in `/proc/self/statm`'s unit except some ARM kernels, where
/// the figure is then too small.
const PAGE: u64 = 4_096;
/// Ticks per second of `/proc/self/stat` (USER_HZ is 100 on Linux for every architecture).
const TICKS: f64 = 100.0;

impl ProcessState {
    /// Reads it now.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // the second field, the name, may hold spaces: fields are counted behind its bracket
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number).copied().unwrap_or(0);
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: Vec<u64> = statm.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let pages = |number: usize| pages.get(number).copied().unwrap_or(0) * PAGE;
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot: f64 = boot
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|seconds| seconds.trim().parse().ok())
            .unwrap_or(0.0);
        Self {
            // utime and stime are fields 14 and 15 of stat, starttime is field 22; field 4 comes first here
            cpu_centiseconds: field(10) + field(11),
            resident: pages(1),
            virtual_memory: pages(0),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            start_seconds: boot + field(18) as f64 / TICKS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        let state = ProcessState::read();
        assert!(state.resident > 1 << 20 && state.virtual_memory >= state.resident);
        assert!(state.open_fds > 2);
        assert!(state.start_seconds > 1.5e9);
    }
}
