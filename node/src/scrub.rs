//! What calls that handled a key leave behind below them on the stack: values that were moved, and what libraries worked
//! with, which nobody overwrites when a function returns.

use zeroize::Zeroize as _;

/// Bytes of the stack that are overwritten: more than what makes, reads or derives a key needs; a thread has 2 MiB.
const DEPTH: usize = 64 << 10;

/// Overwrites what earlier calls of this thread have left on the stack. To be called by the function that called those which
/// had the key; what itself still holds is above and stays. Costs about two microseconds.
#[inline(never)]
pub fn stack() {
    let mut area = [0u8; DEPTH];
    // the compiler takes neither this for useless nor the area for unused
    area.zeroize();
    std::hint::black_box(&area);
}
