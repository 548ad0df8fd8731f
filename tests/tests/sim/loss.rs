//! Row 5 of the attacks: loss on a link is found, in time and at its place, and quiet days are quiet.
//!
//! Full size: `SHOAL_ALARMS=10000 SHOAL_QUIET_DAYS=7 cargo test -p shoal-tests --test sim loss -- --nocapture`.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_node::alarm::Spot;
use shoal_node::loops::SLACK;

use crate::loss_world::{Fate, MEAN_DELAY, Net, Sender, by_chance};
use crate::size;

const WIDTHS: [usize; 3] = [2, 8, 20];
/// What honest loops lose in a network that works: 3 in 1,000.
const CALM: f64 = 0.003;
/// And in one that works badly: what the test is made for.
const BAD: f64 = 0.01;

fn spot(node: usize) -> Spot {
    Spot::Node(*Net::identity(node).as_bytes())
}

/// The longest time until a lost loop is known to be lost, but for one in a million: three exponential delays of mean 1 exceed
/// 19.13 that rarely, e⁻ˣ(1 + x + x²/2).
fn timeout() -> Duration {
    SLACK + MEAN_DELAY.mul_f64(19.13) + Duration::from_millis(500)
}

#[test]
fn a_dead_link_is_found_within_28_s_times_width_and_the_timeout() {
    let runs = size("SHOAL_ALARMS", 400);
    for width in WIDTHS {
        let net = Net::new(width, 2 * width);
        let bound = Duration::from_secs(28) * u32::try_from(width).expect("small") + timeout();
        let (mut missed, mut misnamed, mut shared, mut latest, mut sum) = (0, 0, 0, Duration::ZERO, Duration::ZERO);
        for seed in 0..runs {
            let mut rng = StdRng::seed_from_u64(seed);
            let (me, culprit) = (0, net.step(1).start);
            let calm: Fate<'_> = &|_, rng| by_chance(CALM, rng);
            let dead: Fate<'_> = &|way, rng| way[1] == culprit || by_chance(CALM, rng);
            let mut sender = Sender::new(&net, me, &mut rng);
            while sender.now < Duration::from_secs(60) {
                sender.pass(calm, &mut rng);
            }
            let begun = sender.now;
            let mut wrong = false;
            while !sender.loops.losing().contains(&spot(culprit)) && sender.now < begun + bound * 2 {
                sender.pass(dead, &mut rng);
                wrong |= sender.loops.losing().iter().any(|at| *at != spot(culprit));
            }
            let took = sender.now - begun;
            missed += u64::from(took > bound);
            while sender.now < begun + bound {
                sender.pass(dead, &mut rng);
            }
            shared += u64::from(sender.loops.losing() != [spot(culprit)]);
            misnamed += u64::from(wrong);
            latest = latest.max(took);
            sum += took;
        }
        println!(
            "width {width}: {runs} dead links, found after {:.0} s on average, {:.0} s at most; bound {:.0} s, {missed} missed; \
             another place was named first, or with it, in {misnamed}, and still is at the end in {shared}",
            sum.as_secs_f64() / runs as f64,
            latest.as_secs_f64(),
            bound.as_secs_f64()
        );
        assert_eq!(missed, 0);
        assert!(shared * 50 <= runs);
    }
}

/// That runs of a few thousand show no miss says little about one in a million. With loops in turns, four go over a link
/// when 5 × width − 1 have left, wherever in the round it began (the first round may have had its turn already, and the
/// last one may come at its end); how many leave in a time is Poisson's.
#[test]
fn four_loops_over_a_link_are_there_in_time_but_for_one_case_in_a_million() {
    let poisson_below = |mean: f64, count: usize| {
        let mut term = (-mean).exp();
        let mut sum = 0.0;
        for n in 0..count {
            sum += term;
            term *= mean / (n + 1) as f64;
        }
        sum
    };
    for width in WIDTHS {
        // those that left by now are known to be lost after their own timeout, which is 2 + 1.5 s on average
        let seconds = 28.0 * width as f64 + timeout().as_secs_f64() - 3.5;
        let miss = poisson_below(seconds * 0.5, 5 * width - 1);
        println!("width {width}: fewer than {} loops in {seconds:.0} s with probability {miss:.1e}", 5 * width - 1);
        assert!(miss <= 1e-6);
    }
}

#[test]
fn a_loss_of_a_tenth_is_found_within_125_loops_of_the_link() {
    let runs = size("SHOAL_ALARMS", 400);
    for (width, chance) in WIDTHS.into_iter().flat_map(|width| [(width, CALM), (width, BAD)]) {
        let net = Net::new(width, 2 * width);
        let (me, culprit) = (0, net.step(1).start);
        let count = |fate: Fate<'_>, seed: u64, until: &dyn Fn(&[Spot]) -> bool| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut sender = Sender::new(&net, me, &mut rng);
            let mut over = 0;
            while over < 125 && !until(&sender.loops.losing()) {
                over += u64::from(sender.at_once(fate, &mut rng)[1] == culprit);
            }
            (sender.loops.losing(), over)
        };
        let (mut found, mut misnamed, mut falsely, mut sum) = (0, 0, 0, 0);
        for seed in 0..runs {
            let fate: Fate<'_> = &|way, rng| by_chance(chance, rng) || way[1] == culprit && by_chance(0.1, rng);
            let (losing, over) = count(fate, seed, &|losing| !losing.is_empty());
            found += u64::from(losing.contains(&spot(culprit)));
            misnamed += u64::from(!losing.is_empty() && !losing.contains(&spot(culprit)));
            sum += over;
            let quiet: Fate<'_> = &|_, rng| by_chance(chance, rng);
            let (losing, _) = count(quiet, seed, &|losing| losing.contains(&spot(culprit)));
            falsely += u64::from(losing.contains(&spot(culprit)));
        }
        let percent = |count: u64| 100.0 * count as f64 / runs as f64;
        println!(
            "width {width}, honest loss {:.1} %: {runs} links that lose 10 %: {:.1} % found within 125 loops, {:.1} % named \
             wrongly, after {} loops on average; links that lose nothing: {falsely} of {runs} named",
            100.0 * chance,
            percent(found),
            percent(misnamed),
            sum / runs
        );
        assert!(percent(found) > 75.0 && percent(misnamed) < 15.0 && percent(found + misnamed) > 85.0);
        assert!(falsely * 1_000 <= runs, "{falsely}");
    }
}

#[test]
fn an_attack_in_bursts_and_one_that_spares_a_few_are_found() {
    let runs = size("SHOAL_ALARMS", 400) / 4;
    for width in WIDTHS {
        let net = Net::new(width, 2 * width);
        let culprit = net.step(1).start;
        for (what, every) in [("lets one packet in ten through", None), ("flushes for 5 s in 30 s", Some(30_u64))] {
            let (mut late, mut sum) = (0, Duration::ZERO);
            for seed in 0..runs {
                let mut rng = StdRng::seed_from_u64(seed);
                let mut sender = Sender::new(&net, 0, &mut rng);
                let bound = Duration::from_secs(28 * width as u64 * 10);
                while !sender.loops.losing().contains(&spot(culprit)) && sender.now < bound {
                    let second = sender.now.as_secs();
                    let drops = every.is_none_or(|every| second % every < 5);
                    let share = if every.is_none() { 0.9 } else { 1.0 };
                    let fate = move |way: &[usize], rng: &mut StdRng| {
                        by_chance(CALM, rng) || drops && way[1] == culprit && by_chance(share, rng)
                    };
                    sender.pass(&fate, &mut rng);
                }
                late += u64::from(sender.now >= bound);
                sum += sender.now;
            }
            println!(
                "width {width}: a next hop that {what} is found after {:.0} s on average, {late} of {runs} not within {} s",
                sum.as_secs_f64() / runs as f64,
                280 * width
            );
            assert!(late * 20 <= runs);
        }
    }
}

#[test]
fn quiet_days_are_quiet() {
    let days = size("SHOAL_QUIET_DAYS", 1);
    for (width, chance) in WIDTHS.into_iter().flat_map(|width| [(width, 0.0), (width, CALM), (width, BAD)]) {
        let net = Net::new(width, 2 * width);
        let mut rng = StdRng::seed_from_u64(days);
        let mut sender = Sender::new(&net, 0, &mut rng);
        let fate: Fate<'_> = &|_, rng| by_chance(chance, rng);
        let (mut alarms, mut before) = (0, 0);
        for _ in 0..days * 86_400 / 2 {
            sender.at_once(fate, &mut rng);
            let now = sender.loops.losing().len();
            alarms += u64::from(now > before);
            before = now;
        }
        println!("width {width}, honest loss {:.1} %: {days} days, {alarms} alarms", 100.0 * chance);
        // at 1 % one is expected in some weeks of a node: printed, not judged
        assert!(alarms == 0 || chance == BAD);
    }
}
