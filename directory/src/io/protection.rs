//! What keeps the memory of an authority, where its keys are, from others: no core dump, no debugger of the same user, and
//! no swap where the system lets a process lock its memory.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Forbids dumps and debuggers from now on.
pub fn refuse_dumps() {
    // each by itself; what the system refuses is said by `lacks`
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Keeps every page in memory from now on, if the system allows it without a limit: beyond one it would refuse memory in the
/// middle of the work. Pages are locked when they are first touched. Returns what the operator should know.
#[must_use]
pub fn lock_memory() -> Vec<&'static str> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let locked = is_unlimited() && mlockall(all).is_ok();
    let mut lacks = Vec::new();
    if !locked {
        lacks
            .push("the memory is not locked: set LimitMEMLOCK=infinity, or have no swap, or keys may be written to it");
    }
    if dumpable_behavior() != Ok(DumpableBehavior::NotDumpable) {
        lacks.push("other processes of this user can read the authority's memory: prctl(PR_SET_DUMPABLE) is refused");
    }
    lacks
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
