//! Row 5 once more, after an outage: a node that had no network for a minute blames itself. That hides no place that is dead when it
//! is back, nor several.
//!
//! Full size: `SHOAL_ALARMS=10000 cargo test -p shoal-tests --test sim loss_outage -- --nocapture`.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_node::alarm::Spot;

use crate::loss_world::{Fate, Net, Sender, by_chance};
use crate::size;

/// What honest loops lose.
const CALM: f64 = 0.003;

struct Named {
    /// Until all dead places were named, from when the first was dead.
    took: Duration,
    /// Nodes that were named wrongly when all were found, and are three times as long after that.
    wrong: (usize, usize),
    /// The node still blames itself then.
    own: bool,
}

/// A mix of L1 has a calm minute, one without a network, and dead `places` from then on.
fn after_an_outage(net: &Net, places: &[usize], most: Duration, seed: u64) -> Option<Named> {
    let mut rng = StdRng::seed_from_u64(seed);
    let calm: Fate<'_> = &|_, rng| by_chance(CALM, rng);
    let nothing: Fate<'_> = &|_, _| true;
    let dead: Fate<'_> = &|way, rng| way[1..4].iter().any(|node| places.contains(node)) || by_chance(CALM, rng);
    let mut sender = Sender::new(net, 0, &mut rng);
    for (until, fate) in [(60, calm), (120, nothing)] {
        while sender.now < Duration::from_secs(until) {
            sender.pass(fate, &mut rng);
        }
    }
    assert!(sender.loops.losing().contains(&Spot::Own), "an outage is noticed");
    let begun = sender.now;
    let culprits: Vec<Spot> = places.iter().map(|place| Spot::Node(*Net::identity(*place).as_bytes())).collect();
    while !culprits.iter().all(|culprit| sender.loops.losing().contains(culprit)) {
        if sender.now > begun + most {
            return None;
        }
        sender.pass(dead, &mut rng);
    }
    let wrong =
        |named: &[Spot]| named.iter().filter(|spot| matches!(spot, Spot::Node(_)) && !culprits.contains(spot)).count();
    let (took, at_once) = (sender.now - begun, wrong(&sender.loops.losing()));
    while sender.now < begun + 3 * most {
        sender.pass(dead, &mut rng);
    }
    let losing = sender.loops.losing();
    Some(Named { took, wrong: (at_once, wrong(&losing)), own: losing.contains(&Spot::Own) })
}

#[test]
fn dead_places_are_found_after_an_outage() {
    let runs = size("SHOAL_ALARMS", 400) / 4;
    for (width, holes) in [(2, 2), (8, 3), (20, 4)] {
        let net = Net::new(width, 2 * width);
        let step = |step: usize| net.step(step).start;
        let next_hops: Vec<usize> = match width {
            2 => vec![step(1), step(2)],
            _ => net.step(1).take(holes).collect(),
        };
        let row_5 = Duration::from_secs(28) * u32::try_from(width).expect("small");
        let cases =
            [("a next hop", vec![step(1)], 2), ("a mix behind it", vec![step(2)], 4), ("several", next_hops, 12)];
        for (what, places, bound) in cases {
            let named: Vec<Option<Named>> =
                (0..runs).map(|seed| after_an_outage(&net, &places, row_5 * bound, seed)).collect();
            let missed = named.iter().filter(|named| named.is_none()).count();
            let named: Vec<Named> = named.into_iter().flatten().collect();
            let latest = named.iter().map(|named| named.took).max().unwrap_or_default();
            let mean = named.iter().map(|named| named.took).sum::<Duration>().as_secs_f64() / named.len().max(1) as f64;
            let wrong = named.iter().filter(|named| named.wrong.0 > 0).count();
            let still = named.iter().filter(|named| named.wrong.1 > 0).count();
            let own = named.iter().filter(|named| named.own).count();
            println!(
                "width {width}, {what} dead after an outage: of {runs} {missed} not found within {:.0} s, else after {mean:.0} s on \
                 average, {:.0} s at most; another node named in {wrong}, later in {still}; blames itself later in {own}",
                (row_5 * bound).as_secs_f64(),
                latest.as_secs_f64(),
            );
            assert!(missed == 0 && wrong * 50 <= named.len() && still * 50 <= named.len());
        }
    }
}
