//! The machine that measures: its name, its cores, and who works on which.

use anyhow::{Context as _, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

use crate::failure::{ExitKind, Failure};

/// The processor's name, as the system tells it.
pub(super) fn name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", name.map_or("unknown processor", str::trim))
}

/// One core for what is measured, the others for what measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    measured: CpuSet,
    measuring: CpuSet,
}

impl Cores {
    /// Divides the cores that this process may use.
    pub(super) fn divide() -> anyhow::Result<Self> {
        let all = sched_getaffinity(None).context("the system does not tell which cores may be used")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
        let (Some((measured, measuring)), true) = (cores.split_last(), cores.len() > 1) else {
            bail!(Failure::new(
                ExitKind::Failed,
                "a node is measured on a core of its own, and this process may use one only".to_owned(),
                "run it on a machine with two cores, or leave this part out: --part directory",
            ));
        };
        let set = |cores: &[usize]| {
            let mut set = CpuSet::new();
            cores.iter().for_each(|core| set.set(*core));
            set
        };
        Ok(Self { measured: set(&[*measured]), measuring: set(measuring) })
    }

    /// Runs `work` on a thread on the core that is measured; processes it starts stay there.
    pub(super) fn on_measured<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        on(&self.measured, work)
    }

    /// Runs `work` on a thread on the cores that measure; threads it starts stay there.
    pub(super) fn on_measuring<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        on(&self.measuring, work)
    }
}

fn on<T: Send>(cores: &CpuSet, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sched_setaffinity(None, cores).context("the system does not let a thread choose its core")?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// CPU time that this thread has used.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
