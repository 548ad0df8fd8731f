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
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        // without the right to raise it the limit stays what it was
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let locked = getrlimit(Resource::Memlock).current.is_none() && mlockall(all).is_ok();
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
