//! What the operator of an authority should know about how its memory, where its keys are, is kept from others.

use rustix::process::{DumpableBehavior, dumpable_behavior};

/// Locks the memory where the system allows it; returns what the operator should know.
#[must_use]
pub fn lock_memory() -> Vec<&'static str> {
    let locked = shoal_protocol::memory::lock_memory();
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
