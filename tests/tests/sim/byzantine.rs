//! Row 17: authorities that equivocate, withhold, censor and invent, with everything else that goes wrong.
//!
//! What must hold is asked while a schedule runs: a second document for a height, a node left out or invented, evidence
//! against somebody honest, or no document after healing ends it with its plan.

use crate::plan::Plan;
use crate::seeds;
use crate::world::Tally;

fn run_all(count: usize, bounded: u64) -> Tally {
    let mut sum = Tally::default();
    let mut ran = 0;
    for seed in seeds("SHOAL_DIRECTORIES", bounded) {
        let tally = Plan::of(count, seed).run();
        ran += 1;
        sum.messages += tally.messages;
        sum.documents += tally.documents;
        sum.crashes += tally.crashes;
        sum.convictions += tally.convictions;
        sum.lies += tally.lies;
        sum.recovery_ms = sum.recovery_ms.max(tally.recovery_ms);
    }
    println!("n = {count}, {ran} schedules: {sum:?}");
    sum
}

#[test]
fn up_to_one_of_four_lies() {
    let sum = run_all(4, 20);
    assert!(sum.documents > 0);
}

#[test]
fn up_to_two_of_seven_lie() {
    let sum = run_all(7, 10);
    assert!(sum.documents > 0);
}
