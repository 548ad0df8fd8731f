//! What a replica would see of decoys, against what it sees of the reader of a real chain: gaps between two reads of
//! one id, by class; how long an id is asked for; restarts; generations.

use std::collections::BTreeMap;

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::consensus::Generation;
use shoal_protocol::poisson::exponential;
use std::time::Duration;

use super::*;
use crate::testing::{START, consensus};

const HOUR_MS: u64 = 3_600_000;
const CLASSES: [Rank; 3] = [Rank::Hot, Rank::Warm, Rank::Idle];

fn production() -> Consensus {
    Consensus { parameters: Parameters::production(), ..consensus(1, 2, 3).0 }
}

/// Runs the decoys of a client that is otherwise silent: one at every tick of λ_P + λ_L. Every read, with the class of
/// its chain.
fn decoys(chains: &mut DecoyChains, from: UnixMillis, hours: u64, rng: &mut StdRng) -> Vec<(BoxId, UnixMillis, Rank)> {
    let consensus = production();
    let parameters = &consensus.parameters;
    let rate = parameters.lambda_p.per_second() + parameters.lambda_l.per_second();
    let (mut now, end) = (from, from.0 + hours * HOUR_MS);
    let mut reads = Vec::new();
    while now.0 < end {
        now = now.plus(exponential(Duration::from_secs_f64(1.0 / rate), rng));
        let read = chains.next(&consensus, now, rng).unwrap();
        let active_at = chains.chains[read.chain].active_at;
        reads.push((read.id, now, class(active_at, now, parameters)));
        chains.asked(read, parameters, now, rng);
    }
    reads
}

/// The reads of one real chain in one class, as `Mail` makes them: a clock that is wound when it is served, served by
/// the next tick of λ_P.
fn real(rank: Rank, reads: usize, rng: &mut StdRng) -> Vec<UnixMillis> {
    let parameters = Parameters::production();
    let mut clock = PollClock::default();
    let (mut now, mut served) = (START, Vec::new());
    clock.wind(mean_gap(rank, &parameters), now, rng);
    while served.len() < reads {
        now = now.plus(exponential(parameters.lambda_p.mean_gap(), rng));
        if clock.due(now) {
            served.push(now);
            clock.wind(mean_gap(rank, &parameters), now, rng);
        }
    }
    served
}

/// Gaps in ms between reads as they reach the replica, four mixing delays later.
fn arriving_gaps(times: &[UnixMillis], rng: &mut StdRng) -> Vec<u64> {
    let mean = Duration::from_millis(Parameters::production().mean_delay_ms);
    let mut arrivals: Vec<u64> =
        times.iter().map(|at| (0..4).fold(*at, |at, _| at.plus(exponential(mean, rng))).0).collect();
    arrivals.sort_unstable();
    arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Largest distance of two empirical distributions (Kolmogorov–Smirnov).
fn distance(a: &[u64], b: &[u64]) -> f64 {
    let below = |sorted: &[u64], value: u64| sorted.partition_point(|x| *x <= value) as f64 / sorted.len() as f64;
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_unstable();
    b.sort_unstable();
    a.iter().chain(&b).map(|value| (below(&a, *value) - below(&b, *value)).abs()).fold(0.0, f64::max)
}

#[test]
fn a_replica_sees_the_gaps_of_real_readers_in_every_class() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut chains = DecoyChains::default();
    let reads = decoys(&mut chains, START, 48, &mut rng);
    for (rank, distance_max) in CLASSES.into_iter().zip([0.06, 0.06, 0.08]) {
        let mut by_id: BTreeMap<BoxId, Vec<UnixMillis>> = BTreeMap::new();
        for (id, at, class) in &reads {
            if *class == rank {
                by_id.entry(*id).or_default().push(*at);
            }
        }
        let pretended: Vec<u64> = by_id.values().flat_map(|times| arriving_gaps(times, &mut rng)).collect();
        let real = arriving_gaps(&real(rank, pretended.len().max(1_000), &mut rng), &mut rng);
        let mean = |gaps: &[u64]| gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
        let found = distance(&pretended, &real);
        println!(
            "{rank:?}: {} gaps, mean {:.0} ms, real {:.0} ms, distance {found:.3}",
            pretended.len(),
            mean(&pretended),
            mean(&real)
        );
        assert!(pretended.len() > 500, "{rank:?}: {}", pretended.len());
        assert!(found < distance_max, "{rank:?}: {found}");
    }
}

#[test]
fn an_id_that_nobody_writes_is_asked_for_on_and_on_and_cools_like_a_real_one() {
    let mut rng = StdRng::seed_from_u64(2);
    let mut chains = DecoyChains::default();
    let reads = decoys(&mut chains, START, 48, &mut rng);
    let mut seen: BTreeMap<BoxId, BTreeMap<Rank, usize>> = BTreeMap::new();
    let mut last: BTreeMap<BoxId, Rank> = BTreeMap::new();
    for (id, _, class) in &reads {
        *seen.entry(*id).or_default().entry(*class).or_default() += 1;
        // never back: only the next id of a chain is hot
        assert!(last.insert(*id, *class).is_none_or(|before| before <= *class));
    }
    let all = |classes: &[Rank]| {
        seen.values().filter(|counts| classes.iter().all(|class| counts.contains_key(class))).count()
    };
    let hot_then_warm = all(&[Rank::Hot, Rank::Warm]);
    println!(
        "{} ids; {hot_then_warm} cooled to warm, {} from warm to idle",
        seen.len(),
        all(&[Rank::Warm, Rank::Idle])
    );
    assert!(hot_then_warm > 50);
    assert!(all(&[Rank::Warm, Rank::Idle]) > 2);
    // ten quiet minutes at one read in two seconds and a half
    let long = seen.values().filter(|counts| counts.get(&Rank::Hot).is_some_and(|hot| *hot > 150)).count();
    assert!(long > 50, "{long}");
    // nothing that is still waiting was given up
    let waiting: Vec<BoxId> = chains.chains.iter_mut().map(DecoyChain::id).collect();
    let late = reads.iter().rev().take(30_000).map(|(id, ..)| *id).collect::<std::collections::BTreeSet<_>>();
    // but for those whose last box was just "written"
    let unread = waiting.iter().filter(|id| !late.contains(*id)).count();
    assert!(unread <= 4, "{unread} of {} chains are not read any more", waiting.len());
}

#[test]
fn all_classes_are_populated_and_the_chains_are_bounded() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut chains = DecoyChains::default();
    let parameters = Parameters::production();
    let mut now = START;
    for _ in 0..6 {
        decoys(&mut chains, now, 12, &mut rng);
        now = UnixMillis(now.0 + 12 * HOUR_MS);
        let count =
            |rank| chains.chains.iter().filter(|chain| class(chain.active_at, now, &parameters) == rank).count();
        let counts = CLASSES.map(count);
        println!("hot, warm, idle: {counts:?}");
        assert!((3..=8).contains(&counts[0]) && counts[1] >= 2 && counts[2] >= 2, "{counts:?}");
        assert!(chains.chains.len() <= CHAINS_MAX);
    }
}

#[test]
fn the_chains_go_on_after_a_restart() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut before = DecoyChains::default();
    decoys(&mut before, START, 1, &mut rng);
    let bytes = before.to_bytes().unwrap();
    assert!(bytes.len() < 24 * 160 && before.to_bytes().is_none(), "nothing changed since");
    let mut after = DecoyChains::from_bytes(&bytes);
    let ids = |chains: &mut DecoyChains| chains.chains.iter_mut().map(DecoyChain::id).collect::<Vec<_>>();
    assert_eq!(ids(&mut after), ids(&mut before));
    assert!(DecoyChains::from_bytes(b"rubbish").chains.is_empty());
    // who comes back after a week asks for what was waited for, and nothing in a burst
    let later = UnixMillis(START.0 + 200 * HOUR_MS);
    let waiting = ids(&mut after);
    let reads = decoys(&mut after, later, 1, &mut rng);
    assert!(waiting.iter().filter(|id| reads.iter().any(|(read, ..)| read == *id)).count() > waiting.len() / 2);
}

#[test]
fn a_chain_stays_in_its_generation_until_it_is_written_or_the_generation_goes() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut document = production();
    let mut chains = DecoyChains::default();
    let parameters = document.parameters;
    let mut now = START;
    let mut run = |document: &Consensus, chains: &mut DecoyChains, reads: usize| {
        (0..reads)
            .map(|_| {
                now = now.plus(Duration::from_millis(400));
                let read = chains.next(document, now, &mut rng).unwrap();
                chains.asked(read, &parameters, now, &mut rng);
                (read.generation, read.id)
            })
            .collect::<Vec<_>>()
    };
    assert!(run(&document, &mut chains, 2_000).iter().all(|(generation, _)| *generation == 2));
    let newer = Generation { number: 3, ..document.generations[0].clone() };
    document.generations.push(newer);
    let both = run(&document, &mut chains, 10_000);
    assert!(both.iter().any(|(generation, _)| *generation == 2), "quiet chains stay");
    assert!(both.iter().any(|(generation, _)| *generation == 3), "new activity is in the new one");
    document.generations.remove(0);
    assert!(run(&document, &mut chains, 2_000).iter().all(|(generation, _)| *generation == 3));
    document.generations.clear();
    assert!(chains.next(&document, now, &mut rng).is_none());
}
