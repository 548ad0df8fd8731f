//! Keeping the memory of a process, where keys are, from others: no core dump, no debugger of the same user, no swap. Every
//! daemon does the same, before it reads a key.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Forbids dumps and debuggers from now on. What the system refuses can be asked for
/// ([`dumpable_behavior`](rustix::process::dumpable_behavior)).
pub fn refuse_dumps() {
    // each by itself: a kernel that knows one of them not has the other all the same
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Keeps every page in memory from now on, if the system allows it without a limit, and says whether it does. With a limit
/// it is not tried: beyond it the system would refuse memory to the process in the middle of its work. Pages are locked when
/// they are first touched, so that what is reserved and not used costs nothing.
pub fn lock_memory() -> bool {
    is_unlimited() && mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok()
}

/// Whether as much as is wanted may be locked: there is no limit, or none that counts for this process.
fn is_unlimited() -> bool {
    // raised as far as it may be
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
    let limit = getrlimit(Resource::Memlock);
    if limit.current.is_none() {
        return true;
    }
    // who may lock beyond a limit of nothing (CAP_IPC_LOCK, not that of a namespace) may lock beyond every one
    let _ = setrlimit(Resource::Memlock, Rlimit { current: Some(0), ..limit });
    let is_exempt = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).is_ok();
    let _ = setrlimit(Resource::Memlock, limit);
    is_exempt
}
